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
func (e *execution) apply(ctx context.Context, target target) (*unstructured.Unstructured, error) {
	name, manager := target.object.GetName(), target.manager
	applied, err := e.patch(ctx, target.resource, name, manager, target.body, e.spec.Force)
	if own, foreign := conflicts(err); len(own) > 0 && len(foreign) == 0 {
		applied, err = e.patch(ctx, target.resource, name, manager, target.body, true)
	}
	if err != nil || objectKey(manager) == "" || countObjects(applied) <= maxObjects {
		return applied, err
	}
	if err := e.release(ctx, target.resource, applied, manager); err != nil {
		return nil, err
	}
	return nil, permanent(fmt.Errorf(
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
func (e *execution) release(
	ctx context.Context, resource dynamic.ResourceInterface, object *unstructured.Unstructured, manager string,
) error {
	empty := named(object)
	empty.SetUID(object.GetUID()) // never creates another
	body, err := empty.MarshalJSON()
	if err != nil {
		return permanent(err)
	}
	_, err = e.patch(ctx, resource, object.GetName(), manager, body, true)
	return err
}

// named returns an object of the same kind, namespace and name, without other fields.
func named(object *unstructured.Unstructured) *unstructured.Unstructured {
	named := &unstructured.Unstructured{}
	named.SetGroupVersionKind(object.GroupVersionKind())
	named.SetName(object.GetName())
	named.SetNamespace(object.GetNamespace())
	return named
}

func (e *execution) patch(
	ctx context.Context, resource dynamic.ResourceInterface, name, manager string, body []byte, isForced bool,
) (*unstructured.Unstructured, error) {
	return resource.Patch(ctx, name, types.ApplyPatchType, body, metav1.PatchOptions{
		FieldManager: manager, FieldValidation: metav1.FieldValidationStrict, Force: &isForced, DryRun: e.dryRun(),
	})
}

// create creates an object. It succeeds if the same event and rule already created it, and returns that one.
func (e *execution) create(ctx context.Context, target target) (*unstructured.Unstructured, error) {
	created, err := target.resource.Create(ctx, target.object, metav1.CreateOptions{
		FieldManager: target.manager, FieldValidation: metav1.FieldValidationStrict, DryRun: e.dryRun(),
	})
	if !apierrors.IsAlreadyExists(err) {
		return created, err
	}
	existing, getErr := target.resource.Get(ctx, target.object.GetName(), metav1.GetOptions{})
	if getErr != nil {
		return nil, fmt.Errorf("it already exists, and the operator cannot check whether this event created it: %w", getErr)
	}
	if isOfSameEvent(existing, target.object) {
		return existing, nil
	}
	return nil, err
}

// isOfSameEvent reports whether two objects have the labels of the same event and rule.
func isOfSameEvent(a, b *unstructured.Unstructured) bool {
	one, other := a.GetLabels(), b.GetLabels()
	return one[v1alpha1.LabelEvent] == other[v1alpha1.LabelEvent] && one[v1alpha1.LabelRule] == other[v1alpha1.LabelRule]
}
