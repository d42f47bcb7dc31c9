package action

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

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
