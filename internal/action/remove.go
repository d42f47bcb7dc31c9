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
