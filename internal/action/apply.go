package action

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
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

// accountsKept is for how many service accounts a client is kept.
const accountsKept = 256

// applier makes objects as service accounts. It never does so as the operator itself.
type applier struct {
	config    *rest.Config
	mapper    meta.RESTMapper
	discovery singleflight.Group // by kind
	clients   *lru.Cache         // of user names: dynamic.Interface
}

func newApplier(options Options) *applier {
	return &applier{config: options.Config, mapper: options.Mapper, clients: lru.New(accountsKept)}
}

// as returns a client that is a service account: the API server gives it the rights of that account and no others.
func (a *applier) as(namespace, serviceAccount string) (dynamic.Interface, error) {
	user := "system:serviceaccount:" + namespace + ":" + serviceAccount
	if client, ok := a.clients.Get(user); ok {
		return client.(dynamic.Interface), nil
	}
	config := rest.CopyConfig(a.config)
	config.Impersonate = rest.ImpersonationConfig{UserName: user}
	config.WarningHandlerWithContext = rest.NoWarnings{} // there would be a line for each event
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	a.clients.Add(user, client)
	return client, nil
}

// manifest is an object that is rendered, and encoded.
type manifest struct {
	object *unstructured.Unstructured
	body   []byte
	// isDefault says that the template names no namespace.
	isDefault bool
}

// do makes the objects of an apply action, one after the other, up to the first that fails.
func (a *applier) do(ctx context.Context, task Task, spec *v1alpha1.ApplyAction) (string, error) {
	manifests := make([]manifest, len(task.Action.Objects))
	for i, template := range task.Action.Objects {
		var err error
		if manifests[i], err = finish(ctx, task, spec, i, template); err != nil {
			return "", err
		}
	}
	task.rendered()
	client, err := a.as(task.Rule.Namespace, task.Rule.Spec.ServiceAccountName)
	if err != nil {
		return "", err
	}
	var made []string
	for _, manifest := range manifests {
		one, err := a.makeOne(ctx, client, task, spec, manifest)
		if err != nil {
			return strings.Join(made, ", "), err
		}
		made = append(made, one)
	}
	return strings.Join(made, ", "), nil
}

// makeOne makes one object and returns what it is, for people.
func (a *applier) makeOne(
	ctx context.Context, client dynamic.Interface, task Task, spec *v1alpha1.ApplyAction, manifest manifest,
) (string, error) {
	object := manifest.object
	mapping, err := a.mapping(ctx, object.GroupVersionKind())
	if err != nil {
		if manifest.isDefault {
			object.SetNamespace("") // which the kind may not have
		}
		return "", explain(describe(object), err)
	}
	var resource dynamic.ResourceInterface
	if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
		resource = client.Resource(mapping.Resource).Namespace(object.GetNamespace())
	} else {
		object.SetNamespace("")
		if manifest.body, err = object.MarshalJSON(); err != nil {
			return "", final(err)
		}
		resource = client.Resource(mapping.Resource)
	}
	if spec.OwnedByEvent && object.GetNamespace() != task.Event.Namespace {
		return "", final(fmt.Errorf("%s: an event can only own objects of its own namespace, %s; leave ownedByEvent off",
			describe(object), task.Event.Namespace))
	}
	if spec.Operation == v1alpha1.OperationCreate {
		err = create(ctx, resource, task, object)
	} else {
		err = apply(ctx, resource, task, object.GetName(), manifest.body)
	}
	if err != nil {
		return "", explain(describe(object), err)
	}
	return describe(object), nil
}

// mapping finds out how a kind is served. Discovery knows no context, and waits for a connection that hangs: it goes on without us, once
// for each kind.
func (a *applier) mapping(ctx context.Context, kind schema.GroupVersionKind) (*meta.RESTMapping, error) {
	found := a.discovery.DoChan(kind.String(), func() (any, error) { return a.mapper.RESTMapping(kind.GroupKind(), kind.Version) })
	select {
	case result := <-found:
		mapping, _ := result.Val.(*meta.RESTMapping)
		return mapping, result.Err
	case <-ctx.Done():
		return nil, fmt.Errorf("finding out how its kind is served: %w", ctx.Err())
	}
}

// finish renders an object, and gives it its name, its labels and its owner. It gets the namespace of the rule if it names none; whether
// its kind has a namespace is not known yet.
func finish(
	ctx context.Context, task Task, spec *v1alpha1.ApplyAction, index int, template rule.Object,
) (manifest, error) {
	rendered, err := template.Render(ctx, task.Input)
	if err != nil {
		return manifest{}, rendering(ctx, err)
	}
	if rendered["metadata"] == nil {
		rendered["metadata"] = map[string]any{}
	}
	metadata := rendered["metadata"].(map[string]any) // no other template compiles
	for _, field := range []string{"name", "generateName", "namespace"} {
		if err := checkName(metadata, field); err != nil {
			return manifest{}, final(err)
		}
	}
	labels, _, err := unstructured.NestedStringMap(metadata, "labels")
	if err != nil {
		return manifest{}, final(fmt.Errorf("template.metadata.labels must be texts, as ${string(data.id)} is: %w", err))
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
	isDefault := object.GetNamespace() == ""
	if isDefault {
		object.SetNamespace(task.Rule.Namespace)
	}
	body, err := object.MarshalJSON()
	if err != nil {
		return manifest{}, final(err)
	}
	return manifest{object, body, isDefault}, nil
}

// checkName looks at what becomes part of a path at the API server. What is not there is good.
func checkName(metadata map[string]any, field string) error {
	value, found := metadata[field]
	if !found {
		return nil
	}
	name, ok := value.(string)
	if !ok || name == "" {
		return fmt.Errorf("template.metadata.%s must be a text that is not empty, as ${string(data.id)} is, and is %.60s",
			field, fmt.Sprintf("%#v", value))
	}
	if len(content.IsPathSegmentName(name)) > 0 || len(name) > maxNameBytes {
		return fmt.Errorf("template.metadata.%s is %.60q, which is no name; make one of it, as of ${string(data.id)}", field, name)
	}
	return nil
}

// maxNameBytes bounds the name of an object.
const maxNameBytes = 253

// apply makes an object what it should be. Fields that somebody else manages are not taken from him, but for our labels, which say who
// applied it last: without that, an object could never have fields of two actions.
func apply(ctx context.Context, resource dynamic.ResourceInterface, task Task, name string, body []byte) error {
	patch := func(force bool) error {
		_, err := resource.Patch(ctx, name, types.ApplyPatchType, body, metav1.PatchOptions{
			FieldManager: fieldManager(task), FieldValidation: metav1.FieldValidationStrict, Force: &force,
		})
		return err
	}
	err := patch(false)
	if isConflictOfLabels(err) {
		err = patch(true)
	}
	return err
}

// isConflictOfLabels tells whether our labels alone are managed by somebody else.
func isConflictOfLabels(err error) bool {
	refusal, ok := errors.AsType[*apierrors.StatusError](err)
	if !ok || refusal.ErrStatus.Reason != metav1.StatusReasonConflict || refusal.ErrStatus.Details == nil {
		return false
	}
	causes := refusal.ErrStatus.Details.Causes
	return len(causes) > 0 && !slices.ContainsFunc(causes, func(cause metav1.StatusCause) bool {
		label := strings.TrimPrefix(cause.Field, ".metadata.labels.")
		return cause.Type != metav1.CauseTypeFieldManagerConflict || label != v1alpha1.LabelEvent && label != v1alpha1.LabelRule
	})
}

// create makes an object that is not there. One that the event made before is as good.
func create(ctx context.Context, resource dynamic.ResourceInterface, task Task, object *unstructured.Unstructured) error {
	_, err := resource.Create(ctx, object, metav1.CreateOptions{
		FieldManager: fieldManager(task), FieldValidation: metav1.FieldValidationStrict,
	})
	if !apierrors.IsAlreadyExists(err) {
		return err
	}
	existing, getErr := resource.Get(ctx, object.GetName(), metav1.GetOptions{})
	if getErr != nil {
		return fmt.Errorf("it exists already, and whether this event made it cannot be seen: %w", getErr)
	}
	made, wanted := existing.GetLabels(), object.GetLabels()
	if made[v1alpha1.LabelEvent] == wanted[v1alpha1.LabelEvent] && made[v1alpha1.LabelRule] == wanted[v1alpha1.LabelRule] {
		return nil
	}
	return err
}

// explain says of an error of the API server what to do, and whether trying again is of use.
func explain(what string, err error) error {
	if err == nil {
		return nil
	}
	hopeless, advice := judge(err)
	text := what + ": " + oneline.Of(err.Error(), maxTextBytes/2) // the advice must not be cut off
	if advice != "" {
		text += "; " + advice
	}
	failure := &Failure{Err: &worded{text, err}, Final: hopeless, Unavailable: !hopeless && isUnavailable(err)}
	if _, ok := errors.AsType[*apierrors.StatusError](err); ok {
		failure.Err = answer{failure.Err}
	}
	failure.Throttled = failure.Unavailable && apierrors.IsTooManyRequests(err)
	if seconds, ok := apierrors.SuggestsClientDelay(err); ok {
		failure.RetryAfter = min(maxRetryAfter, time.Duration(seconds)*time.Second)
	}
	return failure
}

// isUnavailable tells whether the API server is at fault, and not the object: nothing was answered, or 429 or 5xx without a
// cause in a field.
func isUnavailable(err error) bool {
	if meta.IsNoMatchError(err) {
		return false // the kind is not there
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

// judge tells whether a request is hopeless: it is where it is wrong itself, or not allowed. A namespace or a kind that is not there may
// come, and a quota be raised.
func judge(err error) (hopeless bool, advice string) {
	text := err.Error()
	contains := func(part string) bool { return strings.Contains(text, part) }
	switch apierrors.ReasonForError(err) {
	case metav1.StatusReasonForbidden:
		switch {
		case contains("cannot impersonate"): // and more from Kubernetes 1.36 on: cannot impersonate-on:serviceaccount:patch
			return true, "give the operator the right to impersonate the rule's service account, and replay the event"
		case contains(`" cannot `): // RBAC's text
			return true, "give that account the right, by a Role and a RoleBinding, and replay the event"
		case contains("exceeded quota"), contains("status unknown for quota"), apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
			return false, ""
		default: // by admission
			return true, ""
		}
	case metav1.StatusReasonConflict:
		if apierrors.HasStatusCause(err, metav1.CauseTypeFieldManagerConflict) {
			return true, "leave these fields out of the template, or name another object"
		}
		return false, "" // somebody changed the object at the same time
	case metav1.StatusReasonAlreadyExists:
		return true, "this event did not make it: put ${event.name} into the name, or use operation Apply"
	case metav1.StatusReasonInvalid, metav1.StatusReasonBadRequest, metav1.StatusReasonMethodNotAllowed,
		metav1.StatusReasonRequestEntityTooLarge, metav1.StatusReasonUnsupportedMediaType:
		return true, ""
	case metav1.StatusReasonUnknown: // with status 500
		if contains("failed to create typed patch object") {
			return true, "correct the template, which does not fit the schema of its kind; where a text is wanted, write ${string(data.id)}"
		}
		return false, ""
	default:
		return false, ""
	}
}

// generatedName makes a name that is the same whenever the same is done.
func generatedName(task Task, index int, prefix string) string {
	if prefix == "" {
		prefix = task.Rule.Name + "-"
	}
	hash := digest(task, fmt.Sprint(index))
	return prefix[:min(len(prefix), maxLabelBytes-len(hash))] + hash
}

// digest is a text of 16 hex digits that tells tasks apart.
func digest(task Task, more string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q %q %q", task.Event.UID, task.Rule.Name, task.Action.Spec.Name, more))
	return hex.EncodeToString(sum[:8])
}

// fieldManager is who manages the fields of what an action made. Each has its own, so that two do not take fields from each other.
func fieldManager(task Task) string {
	const longest = 128 // for the API server
	name := "netbox-events.io/" + task.Rule.Name + "/" + task.Action.Spec.Name
	if len(name) <= longest {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	hash := hex.EncodeToString(sum[:8])
	return name[:longest-len(hash)] + hash
}

const maxLabelBytes = 63

// labelValue is a name as the value of a label. Of one that is too long it keeps the end, which tells events apart.
func labelValue(name string) string {
	return strings.TrimLeft(name[max(0, len(name)-maxLabelBytes):], "-.")
}

// describe says what an object is, for people.
func describe(object *unstructured.Unstructured) string {
	name := object.GetName()
	if object.GetNamespace() != "" {
		name = object.GetNamespace() + "/" + name
	}
	return oneline.Of(object.GetKind()+" "+name, maxNameBytes)
}
