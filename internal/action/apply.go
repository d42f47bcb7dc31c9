package action

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/singleflight"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/validate/content"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/utils/lru"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/oneline"
	"github.com/netbox-events/netbox-event-operator/internal/rule"
)

// maxClients is the number of cached clients, one per service account.
const maxClients = 256

// applier writes objects as service accounts, never as the operator itself.
type applier struct {
	config    *rest.Config
	mapper    meta.RESTMapper
	discovery singleflight.Group // by kind
	clients   *lru.Cache         // dynamic.Interface by user name
}

func newApplier(options Options) *applier {
	return &applier{config: options.Config, mapper: options.Mapper, clients: lru.New(maxClients)}
}

// clientFor returns a client that impersonates a service account: it has the permissions of the account and no others.
func (a *applier) clientFor(namespace, serviceAccount string) (dynamic.Interface, error) {
	user := "system:serviceaccount:" + namespace + ":" + serviceAccount
	if client, ok := a.clients.Get(user); ok {
		return client.(dynamic.Interface), nil
	}
	config := rest.CopyConfig(a.config)
	config.Impersonate = rest.ImpersonationConfig{UserName: user}
	config.WarningHandlerWithContext = rest.NoWarnings{} // one log line for each event would be too many
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	a.clients.Add(user, client)
	return client, nil
}

// manifest is a rendered and encoded object.
type manifest struct {
	object *unstructured.Unstructured
	body   []byte
	// isDefaultNamespace means that the template has no namespace.
	isDefaultNamespace bool
	// manager is the field manager.
	manager string
}

// do writes or deletes the objects of an apply action in order, and stops at the first failure. The response names these objects.
func (a *applier) do(ctx context.Context, task Task, spec *v1alpha1.ApplyAction) (Result, error) {
	manifests := make([]manifest, len(task.Action.Objects))
	for i, template := range task.Action.Objects {
		var err error
		if manifests[i], err = newManifest(ctx, task, spec, i, template); err != nil {
			return Result{}, err
		}
	}
	task.rendered()
	client, err := a.clientFor(task.Rule.Namespace, task.Rule.Spec.ServiceAccountName)
	if err != nil {
		return Result{}, err
	}
	var written []string
	for _, manifest := range manifests {
		object, err := a.write(ctx, client, task, spec, manifest)
		if err != nil {
			return Result{Response: strings.Join(written, ", ")}, err
		}
		written = append(written, object)
	}
	return Result{Response: strings.Join(written, ", ")}, nil
}

// write creates, applies or deletes one object, and returns its description.
func (a *applier) write(
	ctx context.Context, client dynamic.Interface, task Task, spec *v1alpha1.ApplyAction, manifest manifest,
) (string, error) {
	object := manifest.object
	mapping, err := a.mapping(ctx, object.GroupVersionKind())
	if err != nil {
		if manifest.isDefaultNamespace {
			object.SetNamespace("") // the kind may be cluster-scoped
		}
		return "", explain(describe(object), err)
	}
	var resource dynamic.ResourceInterface
	if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
		resource = client.Resource(mapping.Resource).Namespace(object.GetNamespace())
	} else {
		object.SetNamespace("")
		if manifest.body, err = object.MarshalJSON(); err != nil {
			return "", permanent(err)
		}
		resource = client.Resource(mapping.Resource)
	}
	if spec.Operation == v1alpha1.OperationDelete {
		return describe(object), explain(describe(object), remove(ctx, resource, task, object.GetName(), spec.Force))
	}
	if spec.OwnedByEvent && object.GetNamespace() != task.Event.Namespace {
		return "", permanent(fmt.Errorf("%s: an event can own only objects in its own namespace, %s; remove ownedByEvent",
			describe(object), task.Event.Namespace))
	}
	if spec.Operation == v1alpha1.OperationCreate {
		err = create(ctx, resource, manifest)
	} else {
		err = apply(ctx, resource, spec.Force, manifest)
	}
	if err != nil {
		return "", explain(describe(object), err)
	}
	return describe(object), nil
}

// mapping maps a kind to its resource. Discovery takes no context, and may block on a hung connection: it then continues in the background,
// once per kind.
func (a *applier) mapping(ctx context.Context, kind schema.GroupVersionKind) (*meta.RESTMapping, error) {
	found := a.discovery.DoChan(kind.String(), func() (any, error) { return a.mapper.RESTMapping(kind.GroupKind(), kind.Version) })
	select {
	case result := <-found:
		mapping, _ := result.Val.(*meta.RESTMapping)
		return mapping, result.Err
	case <-ctx.Done():
		return nil, fmt.Errorf("discovery of its kind: %w", ctx.Err())
	}
}

// newManifest renders an object, and sets its name, labels and owner. An object without a namespace gets the rule's: whether its kind is
// namespaced is not known yet.
func newManifest(
	ctx context.Context, task Task, spec *v1alpha1.ApplyAction, index int, template rule.Object,
) (manifest, error) {
	rendered, hasOwnFields, err := template.Render(ctx, task.Input)
	if err != nil {
		return manifest{}, renderError(ctx, err)
	}
	if rendered["metadata"] == nil {
		rendered["metadata"] = map[string]any{}
	}
	metadata := rendered["metadata"].(map[string]any) // checked by rule.Compile
	for _, field := range []string{"name", "generateName", "namespace"} {
		if err := checkName(metadata, field); err != nil {
			return manifest{}, permanent(err)
		}
	}
	labels, _, err := unstructured.NestedStringMap(metadata, "labels")
	if err != nil {
		return manifest{}, permanent(fmt.Errorf("template.metadata.labels must be strings, such as ${string(data.id)}: %w", err))
	}
	if labels == nil {
		labels = map[string]string{}
	}
	labels[v1alpha1.LabelEvent] = labelValue(task.Event.Name)
	labels[v1alpha1.LabelRule] = labelValue(task.Rule.Name)
	object := &unstructured.Unstructured{Object: rendered}
	object.SetLabels(labels)
	if object.GetName() == "" {
		object.SetName(generatedName(task, index, object.GetGenerateName()))
	}
	object.SetGenerateName("")
	if spec.OwnedByEvent {
		object.SetOwnerReferences(append(object.GetOwnerReferences(), metav1.OwnerReference{
			APIVersion: v1alpha1.SchemeGroupVersion.String(), Kind: "NetBoxEvent", Name: task.Event.Name, UID: task.Event.UID,
		}))
	}
	isDefaultNamespace := object.GetNamespace() == ""
	if isDefaultNamespace {
		object.SetNamespace(task.Rule.Namespace)
	}
	body, err := object.MarshalJSON()
	if err != nil {
		return manifest{}, permanent(err)
	}
	return manifest{object, body, isDefaultNamespace, fieldManager(task, hasOwnFields)}, nil
}

// checkName validates a field that becomes part of a URL path at the API server. An absent field is valid.
func checkName(metadata map[string]any, field string) error {
	value, found := metadata[field]
	if !found {
		return nil
	}
	name, ok := value.(string)
	if !ok || name == "" {
		return fmt.Errorf("template.metadata.%s must be a non-empty string, such as ${string(data.id)}, not %.60s",
			field, fmt.Sprintf("%#v", value))
	}
	if len(content.IsPathSegmentName(name)) > 0 || len(name) > maxNameBytes {
		return fmt.Errorf("template.metadata.%s is %.60q, which is not a valid name; use one such as ${string(data.id)}", field, name)
	}
	return nil
}

// maxNameBytes bounds the name of an object.
const maxNameBytes = 253

// apply applies an object server-side. It takes over fields from other rules and actions of this operator, also from those that were
// renamed or deleted since, and with force from any field manager.
func apply(ctx context.Context, resource dynamic.ResourceInterface, isForced bool, manifest manifest) error {
	applied, err := patch(ctx, resource, manifest.object.GetName(), manifest.manager, manifest.body, isForced)
	if own, foreign := conflicts(err); len(own) > 0 && len(foreign) == 0 {
		applied, err = patch(ctx, resource, manifest.object.GetName(), manifest.manager, manifest.body, true)
	}
	if err != nil || objectKey(manifest.manager) == "" || countObjects(applied) <= maxObjects {
		return err
	}
	if err := release(ctx, resource, applied, manifest.manager); err != nil {
		return err
	}
	return permanent(fmt.Errorf(
		"it has fields of %d NetBox objects, and can have no more; include ${event.objectID} in metadata.name", maxObjects))
}

// maxObjects bounds the number of NetBox objects with fields in one Kubernetes object. Each takes about 350 bytes in managedFields, and an
// object of more than 1.5 MB cannot be stored.
const maxObjects = 500

// countObjects returns the number of NetBox objects with fields in an object.
func countObjects(object *unstructured.Unstructured) int {
	keys := map[string]bool{}
	for _, entry := range object.GetManagedFields() {
		if key := objectKey(entry.Manager); key != "" {
			keys[key] = true
		}
	}
	return len(keys)
}

// release removes the fields that only one field manager owns.
func release(ctx context.Context, resource dynamic.ResourceInterface, object *unstructured.Unstructured, manager string) error {
	empty := &unstructured.Unstructured{}
	empty.SetGroupVersionKind(object.GroupVersionKind())
	empty.SetName(object.GetName())
	empty.SetNamespace(object.GetNamespace())
	empty.SetUID(object.GetUID()) // never creates another
	body, err := empty.MarshalJSON()
	if err != nil {
		return permanent(err)
	}
	_, err = patch(ctx, resource, object.GetName(), manager, body, true)
	return err
}

func patch(
	ctx context.Context, resource dynamic.ResourceInterface, name, manager string, body []byte, isForced bool,
) (*unstructured.Unstructured, error) {
	return resource.Patch(ctx, name, types.ApplyPatchType, body, metav1.PatchOptions{
		FieldManager: manager, FieldValidation: metav1.FieldValidationStrict, Force: &isForced,
	})
}

// managerPrefix begins the field managers of all rules.
const managerPrefix = "netbox-events.io/"

// remove deletes an object that rules of this operator created, or any with force. Where it has fields of other NetBox objects, it removes
// those of this one alone. An object that does not exist is deleted.
func remove(ctx context.Context, resource dynamic.ResourceInterface, task Task, name string, isForced bool) error {
	object, err := resource.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if reason := notOurs(object); reason != "" && !isForced {
		return permanent(fmt.Errorf("it is not deleted, because %s; set apply.force to delete it nevertheless", reason))
	}
	key := objectKey(fieldManager(task, true))
	var managers []string // of this NetBox object
	hasOthers := false
	for _, entry := range object.GetManagedFields() {
		switch objectKey(entry.Manager) {
		case "":
		case key:
			managers = append(managers, entry.Manager)
		default:
			hasOthers = true
		}
	}
	if !hasOthers {
		version := object.GetResourceVersion()
		err := resource.Delete(ctx, name, metav1.DeleteOptions{
			Preconditions:     &metav1.Preconditions{UID: new(object.GetUID()), ResourceVersion: &version}, // what was checked
			PropagationPolicy: new(metav1.DeletePropagationBackground),                                     // a Job's default orphans its pods
		})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	}
	for _, manager := range managers {
		if err := release(ctx, resource, object, manager); err != nil {
			return err
		}
	}
	return nil
}

// notOurs returns why an object does not count as created by rules of this operator, empty if it does: they own fields of it, and no other
// field manager does, except for the status and the control plane.
func notOurs(object *unstructured.Unstructured) string {
	isOurs := false
	for _, entry := range object.GetManagedFields() {
		switch {
		case strings.HasPrefix(entry.Manager, managerPrefix):
			isOurs = true
		case entry.Subresource == "" && entry.Manager != "kube-controller-manager" && !isOfStatus(entry.FieldsV1):
			return fmt.Sprintf("the field manager %q owns fields of it", entry.Manager)
		}
	}
	if !isOurs || object.GetLabels()[v1alpha1.LabelRule] == "" {
		return "no rule of this operator created it"
	}
	return ""
}

// isOfStatus reports whether fields are of the status alone.
func isOfStatus(fields *metav1.FieldsV1) bool {
	var names map[string]json.RawMessage
	if fields == nil || json.Unmarshal(fields.GetRawBytes(), &names) != nil {
		return false
	}
	delete(names, "f:status")
	return len(names) == 0
}

// conflicts returns the conflicts in an error of a server-side apply: with the field managers of this operator's rules, and with others.
func conflicts(err error) (own, foreign []metav1.StatusCause) {
	refusal, ok := errors.AsType[*apierrors.StatusError](err)
	if !ok || refusal.ErrStatus.Reason != metav1.StatusReasonConflict || refusal.ErrStatus.Details == nil {
		return nil, nil
	}
	for _, cause := range refusal.ErrStatus.Details.Causes {
		if strings.HasPrefix(cause.Message, conflictPrefix+`"`+managerPrefix) && cause.Type == metav1.CauseTypeFieldManagerConflict {
			own = append(own, cause)
		} else {
			foreign = append(foreign, cause)
		}
	}
	return own, foreign
}

// conflictPrefix begins the message of a conflict at the API server. The quoted name of the field manager follows.
const conflictPrefix = "conflict with "

// conflictText names the fields that other field managers own, and these managers. It is empty for another error.
func conflictText(err error) string {
	if !apierrors.HasStatusCause(err, metav1.CauseTypeFieldManagerConflict) {
		return ""
	}
	_, foreign := conflicts(err)
	fields := make([]string, len(foreign))
	for i, cause := range foreign {
		fields[i] = cause.Field + " (" + strings.TrimPrefix(cause.Message, conflictPrefix) + ")"
	}
	return "other field managers own fields of the template: " + strings.Join(fields, ", ")
}

// create creates an object. It succeeds if the same event and rule already created it.
func create(ctx context.Context, resource dynamic.ResourceInterface, manifest manifest) error {
	object := manifest.object
	_, err := resource.Create(ctx, object, metav1.CreateOptions{
		FieldManager: manifest.manager, FieldValidation: metav1.FieldValidationStrict,
	})
	if !apierrors.IsAlreadyExists(err) {
		return err
	}
	existing, getErr := resource.Get(ctx, object.GetName(), metav1.GetOptions{})
	if getErr != nil {
		return fmt.Errorf("it already exists, and the operator cannot check whether this event created it: %w", getErr)
	}
	got, want := existing.GetLabels(), object.GetLabels()
	if got[v1alpha1.LabelEvent] == want[v1alpha1.LabelEvent] && got[v1alpha1.LabelRule] == want[v1alpha1.LabelRule] {
		return nil
	}
	return err
}

// explain classifies an error of the API server, and adds the object and advice to it.
func explain(object string, err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*Failure](err); ok {
		return fmt.Errorf("%s: %w", object, err)
	}
	isPermanent, advice := classify(err)
	text := object + ": " + oneline.Of(cmp.Or(conflictText(err), err.Error()), maxTextBytes/2) // leaves room for the advice
	if advice != "" {
		text += "; " + advice
	}
	failure := &Failure{Err: &textError{text, err}, Permanent: isPermanent, Unavailable: !isPermanent && isUnavailable(err)}
	if _, ok := errors.AsType[*apierrors.StatusError](err); ok {
		failure.Err = responseError{failure.Err}
	}
	failure.Throttled = failure.Unavailable && apierrors.IsTooManyRequests(err)
	if seconds, ok := apierrors.SuggestsClientDelay(err); ok {
		failure.RetryAfter = min(maxRetryAfter, time.Duration(seconds)*time.Second)
	}
	return failure
}

// isUnavailable reports whether the API server caused an error, not the object: it did not respond, or responded with 429 or 5xx without a
// cause in a field.
func isUnavailable(err error) bool {
	if meta.IsNoMatchError(err) {
		return false // the kind does not exist
	}
	status, ok := errors.AsType[*apierrors.StatusError](err)
	if !ok {
		return true
	}
	if details := status.ErrStatus.Details; details != nil &&
		slices.ContainsFunc(details.Causes, func(cause metav1.StatusCause) bool { return cause.Field != "" }) {
		return false
	}
	return status.ErrStatus.Code == http.StatusTooManyRequests || status.ErrStatus.Code >= 500
}

// classify reports whether an error is permanent: the request is invalid or forbidden. A missing namespace or kind may be created, and an
// exceeded quota raised.
func classify(err error) (isPermanent bool, advice string) {
	text := err.Error()
	contains := func(part string) bool { return strings.Contains(text, part) }
	switch apierrors.ReasonForError(err) {
	case metav1.StatusReasonForbidden:
		switch {
		case contains("cannot impersonate"): // and more from Kubernetes 1.36 on: cannot impersonate-on:serviceaccount:patch
			return true, "allow the operator to impersonate the rule's service account, and replay the event"
		case contains(`" cannot `): // RBAC's text
			return true, "grant this permission to the service account with a Role and a RoleBinding, and replay the event"
		case contains("exceeded quota"), contains("status unknown for quota"), apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
			return false, ""
		default: // by admission
			return true, ""
		}
	case metav1.StatusReasonConflict:
		if apierrors.HasStatusCause(err, metav1.CauseTypeFieldManagerConflict) {
			return true, "remove these fields from the template, use the name of another object, or set apply.force to take them over"
		}
		return false, "" // a concurrent change of the object
	case metav1.StatusReasonAlreadyExists:
		return true, "this event did not create it: include ${event.name} in the name, or use operation Apply"
	case metav1.StatusReasonInvalid, metav1.StatusReasonBadRequest, metav1.StatusReasonMethodNotAllowed,
		metav1.StatusReasonRequestEntityTooLarge, metav1.StatusReasonUnsupportedMediaType:
		return true, ""
	case metav1.StatusReasonUnknown: // with status 500
		if contains("failed to create typed patch object") {
			return true, "correct the template, which does not match the schema of its kind; for a string field, use ${string(data.id)}"
		}
		return false, ""
	default:
		return false, ""
	}
}

// generatedName returns a deterministic name for an object of a task.
func generatedName(task Task, index int, prefix string) string {
	if prefix == "" {
		prefix = task.Rule.Name + "-"
	}
	hash := digest(task, fmt.Sprint(index))
	return prefix[:min(len(prefix), maxLabelBytes-len(hash))] + hash
}

// digest returns 16 hex digits that identify a task.
func digest(task Task, more string) string {
	return hashOf(fmt.Sprintf("%q %q %q %q", task.Event.UID, task.Rule.Name, task.Action.Spec.Name, more))
}

// fieldManager returns the field manager of an action: each action has its own, so that two can apply different fields of one object. An
// apply removes the fields that its manager applied before. So where the fields depend on the event, each NetBox object has a manager of
// its own, which ends with a colon and the object's key.
func fieldManager(task Task, hasOwnFields bool) string {
	const maxBytes = 128 - 1 - 2*hashBytes // at the API server, less the key
	name := managerPrefix + task.Rule.Namespace + "/" + task.Rule.Name + "/" + task.Action.Spec.Name
	if len(name) > maxBytes {
		hash := hashOf(name)
		name = name[:maxBytes-len(hash)] + hash
	}
	if hasOwnFields {
		spec := task.Event.Spec
		name += ":" + hashOf(fmt.Sprintf("%q %q %q %q", task.Event.Namespace, spec.SourceRef.Name, spec.ObjectType, spec.ObjectID))
	}
	return name
}

// objectKey returns the key of the NetBox object in a field manager of this operator, empty without one.
func objectKey(manager string) string {
	if !strings.HasPrefix(manager, managerPrefix) {
		return ""
	}
	_, key, _ := strings.Cut(manager, ":")
	return key
}

// hashBytes bounds the probability that two names have the same hash.
const hashBytes = 8

// hashOf returns 16 hex digits that identify a text.
func hashOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:hashBytes])
}

const maxLabelBytes = 63

// labelValue returns a name as a label value. It truncates the start of a long name, because the end identifies the event.
func labelValue(name string) string {
	return strings.TrimLeft(name[max(0, len(name)-maxLabelBytes):], "-.")
}

// describe returns the kind, namespace and name of an object, for messages.
func describe(object *unstructured.Unstructured) string {
	name := object.GetName()
	if object.GetNamespace() != "" {
		name = object.GetNamespace() + "/" + name
	}
	return oneline.Of(object.GetKind()+" "+name, maxNameBytes)
}
