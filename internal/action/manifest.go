package action

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/api/validate/content"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/oneline"
	"github.com/netbox-events/netbox-event-operator/internal/rule"
)

// manifest is a rendered and encoded object.
type manifest struct {
	object *unstructured.Unstructured
	body   []byte
	// isDefaultNamespace means that the template has no namespace.
	isDefaultNamespace bool
	// manager is the field manager.
	manager string
}

// newManifests renders the objects of an apply action.
func newManifests(ctx context.Context, task Task, spec *v1alpha1.ApplyAction) ([]manifest, error) {
	manifests := make([]manifest, len(task.Action.Objects))
	for i, template := range task.Action.Objects {
		var err error
		if manifests[i], err = newManifest(ctx, task, spec, i, template); err != nil {
			return nil, err
		}
	}
	return manifests, nil
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
	labels, err := texts(metadata, "labels")
	if err != nil {
		return manifest{}, permanent(err)
	}
	labels[v1alpha1.LabelEvent] = labelValue(task.Event.Name)
	labels[v1alpha1.LabelRule] = labelValue(task.Rule.Name)
	object := &unstructured.Unstructured{Object: rendered}
	key, identity := "", task.identity()
	if hasOwnFields && isOfOneObject(task) {
		key = objectKeyOf(task.Event)
	}
	if spec.Operation == v1alpha1.OperationMirror {
		key = mirrorKey(task.Event)
		identity = key
		annotations, err := texts(metadata, "annotations")
		if err != nil {
			return manifest{}, permanent(err)
		}
		annotations[v1alpha1.AnnotationTimestamp] = task.Event.Spec.Timestamp.UTC().Format(metav1.RFC3339Micro)
		object.SetAnnotations(annotations)
		labels[v1alpha1.LabelObject] = mirrorLabel(task)
	}
	object.SetLabels(labels)
	if object.GetName() == "" {
		object.SetName(generatedName(task, identity, index, object.GetGenerateName()))
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
	return manifest{object, body, isDefaultNamespace, fieldManager(task, key)}, nil
}

// texts returns a copy of a map of texts in the metadata of a rendered object.
func texts(metadata map[string]any, field string) (map[string]string, error) {
	texts, _, err := unstructured.NestedStringMap(metadata, field)
	if err != nil {
		return nil, fmt.Errorf("template.metadata.%s must be strings, such as ${string(data.id)}: %w", field, err)
	}
	if texts == nil {
		texts = map[string]string{}
	}
	return texts, nil
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

// generatedName returns a deterministic name for an object that an action makes for an event or a group, or for a NetBox object.
func generatedName(task Task, identity string, index int, prefix string) string {
	if prefix == "" {
		prefix = task.Rule.Name + "-"
	}
	hash := digest(task, identity, strconv.Itoa(index))
	return prefix[:min(len(prefix), maxLabelBytes-len(hash))] + hash
}

// digest returns 16 hex digits that identify what an action makes for an event or a group, or for a NetBox object.
func digest(task Task, identity, more string) string {
	return hashOf(fmt.Sprintf("%q %q %q %q", identity, task.Rule.Name, task.Action.Spec.Name, more))
}

// managerPrefix begins the field managers of all rules.
const managerPrefix = "netbox-events.io/"

// fieldManager returns the field manager of an action: each action has its own, so that two can apply different fields of one object. An
// apply removes the fields that its manager applied before. So where the fields depend on the event, each NetBox object has a manager of
// its own, which ends with a colon and the object's key. The key is empty for no NetBox object in particular.
func fieldManager(task Task, key string) string {
	const maxBytes = 128 - 1 - 2*hashBytes // at the API server, less the key
	name := managerPrefix + task.Rule.Namespace + "/" + task.Rule.Name + "/" + task.Action.Spec.Name
	if len(name) > maxBytes {
		hash := hashOf(name)
		name = name[:maxBytes-len(hash)] + hash
	}
	if key != "" {
		name += ":" + key
	}
	return name
}

// isOfOneObject reports whether all events of a task are of one NetBox object.
func isOfOneObject(task Task) bool {
	return task.Group == nil || task.Rule.Spec.Group != nil && task.Rule.Spec.Group.By == v1alpha1.GroupByObject
}

// objectKeyOf returns the key of the NetBox object of an event.
func objectKeyOf(event *v1alpha1.NetBoxEvent) string {
	spec := &event.Spec
	return hashOf(fmt.Sprintf("%q %q %q %q", event.Namespace, spec.SourceRef.Name, spec.ObjectType, spec.ObjectID))
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

// describeAll names objects.
func describeAll(objects []*unstructured.Unstructured) string {
	names := make([]string, len(objects))
	for i, object := range objects {
		names[i] = describe(object)
	}
	return strings.Join(names, ", ")
}
