package action

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

// remove deletes an object that rules of this operator created, or any with force, and returns it as it was. Where it has fields of other
// NetBox objects, it removes those of this one alone. An object that does not exist is deleted: then it returns its kind and name.
func (e *execution) remove(ctx context.Context, target target) (*unstructured.Unstructured, error) {
	object, err := target.resource.Get(ctx, target.object.GetName(), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return named(target.object), nil
	}
	if err != nil {
		return nil, err
	}
	if reason := notOurs(object); reason != "" && !e.spec.Force {
		return nil, permanent(fmt.Errorf("it is not deleted, because %s; set apply.force to delete it nevertheless", reason))
	}
	key := objectKeyOf(e.Event)
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
		version := object.GetResourceVersion() // what was checked
		return object, e.delete(ctx, target.resource, object, &version)
	}
	for _, manager := range managers {
		if err := e.release(ctx, target.resource, object, manager); err != nil {
			return nil, err
		}
	}
	return object, nil
}

// delete deletes an object, if it still is the same one, and has the given version, nil for any. An object that is gone is deleted.
func (e *execution) delete(
	ctx context.Context, resource dynamic.ResourceInterface, object *unstructured.Unstructured, version *string,
) error {
	err := resource.Delete(ctx, object.GetName(), metav1.DeleteOptions{
		Preconditions:     &metav1.Preconditions{UID: new(object.GetUID()), ResourceVersion: version},
		PropagationPolicy: new(metav1.DeletePropagationBackground), // a Job's default orphans its pods
		DryRun:            e.dryRun(),
	})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
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
