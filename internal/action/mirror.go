package action

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

// Kinds of events that a Mirror action follows.
const (
	eventCreated = "created"
	eventUpdated = "updated"
	eventDeleted = "deleted"
)

// isChange reports whether an event says what the NetBox object is.
func isChange(event string) bool {
	return event == eventCreated || event == eventUpdated || event == eventDeleted
}

// deletesMirrored reports whether the task is of a Mirror action that deletes the objects that it made for the NetBox object.
func (t Task) deletesMirrored() bool {
	return t.Action.Spec.Apply.Operation == v1alpha1.OperationMirror && (t.IsRemoval || t.Event.Spec.Event == eventDeleted)
}

// mirror makes the objects of the action what the newest event of the NetBox object says, and deletes those that the action made for it
// under other names, or in other namespaces. Any other event than the newest is skipped.
func (e *execution) mirror(ctx context.Context) (Result, error) {
	spec := &e.Event.Spec
	if spec.ObjectID == "" {
		return Result{}, permanent(errors.New("the event has no object id, so it cannot be mirrored; match created, updated and deleted alone"))
	}
	if !isChange(spec.Event) {
		return Result{Response: "skipped: Mirror follows created, updated and deleted, not " + spec.Event}, nil
	}
	rendering, err := Render(ctx, e.Task)
	if err != nil {
		return Result{}, err
	}
	e.rendered()
	isGone := rendering.DeletesMirrored
	newest, err := e.events.newest(ctx, e.Event)
	if err != nil {
		return Result{}, explain("the events of "+spec.ObjectType+" "+spec.ObjectID, err)
	}
	if newest != "" {
		return Result{Response: "skipped: event " + newest + " is newer"}, nil
	}
	if !isGone && e.isWaiting() {
		return e.look(ctx, rendering.manifests)
	}
	if e.existing, err = e.mirrored(ctx); err != nil {
		return Result{}, err
	}
	if newer := e.newerObject(); newer != nil {
		return Result{Response: "skipped: " + describe(newer) + " is of a newer event"}, nil
	}
	written, err := e.writeAll(ctx, rendering.manifests)
	if err != nil {
		return Result{Response: describeAll(written)}, err
	}
	removed, err := e.removeOthers(ctx, written)
	response := e.describeChanges(written, removed)
	switch {
	case err != nil:
		return Result{Response: response}, err
	case isGone:
		return e.succeeded(response, removed), nil
	default:
		return e.written(ctx, response, written)
	}
}

// describeChanges names the objects that were written and deleted, or that would be.
func (e *execution) describeChanges(written, removed []*unstructured.Unstructured) string {
	var parts []string
	if len(written) > 0 {
		parts = append(parts, describeAll(written))
	}
	switch {
	case len(removed) > 0 && e.IsDryRun:
		parts = append(parts, "would delete "+describeAll(removed))
	case len(removed) > 0:
		parts = append(parts, "deleted "+describeAll(removed))
	case len(written) == 0:
		parts = append(parts, "nothing to delete")
	}
	return strings.Join(parts, "; ")
}

// mirrored lists the objects that the action made for the NetBox object: of the kinds of the template, in its namespace, or in all if that
// depends on the event. Objects that just have the label are not among them: a rule has to own fields.
func (e *execution) mirrored(ctx context.Context) ([]target, error) {
	type place struct {
		resource  schema.GroupVersionResource
		namespace string
	}
	var found []target
	var searched []place
	for _, template := range e.Action.Objects {
		mapping, err := e.mapping(ctx, schema.FromAPIVersionAndKind(template.APIVersion, template.Kind))
		if err != nil {
			return nil, explain(template.Kind, err)
		}
		at := place{resource: mapping.Resource}
		isFixed := true
		if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
			if at.namespace, isFixed = template.Namespace(); isFixed && at.namespace == "" {
				at.namespace = e.Rule.Namespace
			}
		}
		if slices.Contains(searched, at) {
			continue
		}
		searched = append(searched, at)
		objects, err := e.listMirrored(ctx, e.in(at.resource, at.namespace))
		if err != nil && !isFixed {
			err = fmt.Errorf("all namespaces are searched, because the template's depends on the event: %w", err)
		}
		if err != nil {
			return nil, explain(template.Kind, err)
		}
		for i := range objects {
			found = append(found, target{manifest{object: &objects[i]}, e.in(at.resource, objects[i].GetNamespace())})
		}
	}
	return found, nil
}

// in returns a resource in a namespace, or, if that is empty, in all or none.
func (e *execution) in(resource schema.GroupVersionResource, namespace string) dynamic.ResourceInterface {
	if namespace == "" {
		return e.client.Resource(resource)
	}
	return e.client.Resource(resource).Namespace(namespace)
}

func (e *execution) listMirrored(ctx context.Context, resource dynamic.ResourceInterface) ([]unstructured.Unstructured, error) {
	list, err := resource.List(ctx, metav1.ListOptions{LabelSelector: v1alpha1.LabelObject + "=" + mirrorLabel(e.Task)})
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(list.Items, func(object unstructured.Unstructured) bool {
		return !slices.ContainsFunc(object.GetManagedFields(), func(entry metav1.ManagedFieldsEntry) bool {
			return strings.HasPrefix(entry.Manager, managerPrefix)
		})
	}), nil
}

// newerObject returns an object that a newer event wrote, which is not stored any more, nil for none. A time in the future does not count:
// the clock of NetBox was wrong.
func (e *execution) newerObject() *unstructured.Unstructured {
	for _, found := range e.existing {
		at, err := time.Parse(time.RFC3339Nano, found.object.GetAnnotations()[v1alpha1.AnnotationTimestamp])
		if err == nil && at.After(e.Event.Spec.Timestamp.Time) && at.Before(e.clock.Now()) {
			return found.object
		}
	}
	return nil
}

// applyMirrored applies an object server-side. It takes over fields as apply does, but no object that follows another NetBox object, and,
// without force, none that others made: it would be deleted with the NetBox object.
func (e *execution) applyMirrored(ctx context.Context, wanted target) (*unstructured.Unstructured, error) {
	name, manager := wanted.object.GetName(), wanted.manager
	applied, err := e.patch(ctx, wanted.resource, name, manager, wanted.body, false)
	own, foreign := conflicts(err)
	if isOfAnother(own, manager) {
		return nil, failed("it follows another NetBox object; include ${event.objectID} in metadata.name, or delete it")
	}
	if len(own)+len(foreign) > 0 && (len(foreign) == 0 || e.spec.Force) {
		applied, err = e.patch(ctx, wanted.resource, name, manager, wanted.body, true)
	}
	if err != nil {
		return nil, err
	}
	if applied.GetDeletionTimestamp() != nil {
		return nil, e.terminating(applied)
	}
	isKnown := slices.ContainsFunc(e.existing, func(found target) bool { return isSame(found.object, applied) })
	reason := notOurs(applied)
	if isKnown || e.spec.Force || reason == "" {
		return applied, nil
	}
	if err := e.release(ctx, wanted.resource, applied, manager); err != nil {
		return nil, err
	}
	return nil, permanent(fmt.Errorf("it is not taken over, because %s; delete it, use another name, or set apply.force", reason))
}

// removeOthers deletes those of the existing objects that are not among the written ones. It returns those that it deleted before the first
// failure.
func (e *execution) removeOthers(
	ctx context.Context, written []*unstructured.Unstructured,
) (removed []*unstructured.Unstructured, err error) {
	for _, found := range e.existing {
		if slices.ContainsFunc(written, func(object *unstructured.Unstructured) bool { return isSame(found.object, object) }) {
			continue
		}
		if err := e.delete(ctx, found.resource, found.object, nil); err != nil {
			return removed, explain(describe(found.object), err)
		}
		removed = append(removed, found.object)
	}
	return removed, nil
}

// isSame reports whether two objects have the same kind, namespace and name.
func isSame(a, b *unstructured.Unstructured) bool {
	return a.GroupVersionKind() == b.GroupVersionKind() && a.GetNamespace() == b.GetNamespace() && a.GetName() == b.GetName()
}

// mirrorKey returns the key of the NetBox object of an event, in its branch: the object of a branch is not that of another.
func mirrorKey(event *v1alpha1.NetBoxEvent) string {
	if event.Spec.Branch == "" {
		return objectKeyOf(event)
	}
	return hashOf(fmt.Sprintf("%s %q", objectKeyOf(event), event.Spec.Branch))
}

// mirrorLabel returns the value of LabelObject: what an action of a rule made for a NetBox object.
func mirrorLabel(task Task) string {
	return mirrorKey(task.Event) + "-" + hashOf(fmt.Sprintf("%q %q", task.Rule.Name, task.Action.Spec.Name))
}
