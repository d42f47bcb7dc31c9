package action

import (
	"context"
	"fmt"
	"maps"

	"golang.org/x/sync/singleflight"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"
	"k8s.io/utils/lru"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/oneline"
	"github.com/netbox-events/netbox-event-operator/internal/outbound"
)

// maxClients is the number of cached clients, one per service account.
const maxClients = 256

// applier writes objects as service accounts, never as the operator itself.
type applier struct {
	config    *rest.Config
	mapper    meta.RESTMapper
	discovery singleflight.Group // by kind
	clients   *lru.Cache         // dynamic.Interface by user name
	events    *eventLister
	clock     clock.PassiveClock
}

func newApplier(options Options) *applier {
	return &applier{
		config: options.Config, mapper: options.Mapper, clients: lru.New(maxClients), events: newEventLister(options.Config),
		clock: options.Clock,
	}
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

// do executes an apply action.
func (a *applier) do(ctx context.Context, task Task, spec *v1alpha1.ApplyAction) (Result, error) {
	client, err := a.clientFor(task.Rule.Namespace, task.Rule.Spec.ServiceAccountName)
	if err != nil {
		return Result{}, err
	}
	e := &execution{applier: a, Task: task, spec: spec, client: client}
	result, err := e.do(ctx)
	if task.IsDryRun && (err == nil || result.Response != "") {
		result.Response = "dry run: " + result.Response
	}
	return result, err
}

// execution is one execution of an apply action.
type execution struct {
	*applier
	Task
	spec   *v1alpha1.ApplyAction
	client dynamic.Interface // as the rule's service account
	// existing are the objects that a Mirror action made for the NetBox object earlier.
	existing []target
}

// dryRun is the option of all requests that write.
func (e *execution) dryRun() []string {
	if e.IsDryRun {
		return []string{metav1.DryRunAll}
	}
	return nil
}

// do writes or deletes the objects of the action in order, and stops at the first failure, or looks at those that it waits for. The
// response names the objects.
func (e *execution) do(ctx context.Context) (Result, error) {
	if e.spec.Operation == v1alpha1.OperationMirror {
		return e.mirror(ctx)
	}
	rendering, err := Render(ctx, e.Task)
	if err != nil {
		return Result{}, err
	}
	e.rendered()
	if e.isWaiting() {
		return e.look(ctx, rendering.manifests)
	}
	objects, err := e.writeAll(ctx, rendering.manifests)
	if err != nil {
		return Result{Response: describeAll(objects)}, err
	}
	return e.written(ctx, describeAll(objects), objects)
}

// writeAll writes or deletes objects in order. It returns those that it wrote or deleted before the first failure.
func (e *execution) writeAll(ctx context.Context, manifests []manifest) ([]*unstructured.Unstructured, error) {
	var objects []*unstructured.Unstructured
	for _, manifest := range manifests {
		target, err := e.locate(ctx, manifest)
		if err != nil {
			return objects, err
		}
		object, err := e.write(ctx, target)
		if err != nil {
			return objects, explain(describe(target.object), err)
		}
		objects = append(objects, object)
	}
	return objects, nil
}

// written returns the result of an action that has written its objects.
func (e *execution) written(ctx context.Context, response string, objects []*unstructured.Unstructured) (Result, error) {
	if e.Action.Wait == nil || e.IsDryRun {
		return e.succeeded(response, objects), nil
	}
	return e.await(ctx, objects)
}

// succeeded returns the result of an action that is complete.
func (e *execution) succeeded(response string, objects []*unstructured.Unstructured) Result {
	kept, err := e.Action.Keep(e.output(objects))
	if err != nil { // the action is complete nevertheless
		response = oneline.Of(response, maxTextBytes/2) + "; its result is not kept: " + err.Error()
	}
	return Result{Response: response, Kept: kept}
}

// output returns the result of the action as expressions see it: the object of the template, or the objects of a List.
func (e *execution) output(objects []*unstructured.Unstructured) map[string]any {
	if e.Action.IsList {
		all := make([]any, len(objects))
		for i, object := range objects {
			all[i] = exposed(object)
		}
		return map[string]any{"objects": all}
	}
	if len(objects) == 0 {
		return nil
	}
	return map[string]any{"object": exposed(objects[0])}
}

// exposed returns an object as expressions see it: without its field managers, and without the values of a Secret, which more users may
// read in the status of an event than in the Secret.
func exposed(object *unstructured.Unstructured) map[string]any {
	fields := maps.Clone(object.Object)
	metadata, _ := fields["metadata"].(map[string]any)
	metadata = maps.Clone(metadata)
	delete(metadata, "managedFields")
	fields["metadata"] = metadata
	if object.GetAPIVersion() != "v1" || object.GetKind() != "Secret" {
		return fields
	}
	delete(metadata, "annotations") // kubectl keeps a copy of the object in one
	if data, ok := fields["data"].(map[string]any); ok {
		data = maps.Clone(data)
		for name := range data {
			data[name] = outbound.Redacted
		}
		fields["data"] = data
	}
	return fields
}

// target is an object of an action, and its resource at the API server.
type target struct {
	manifest
	resource dynamic.ResourceInterface
}

// locate finds the resource of an object. It removes the namespace of an object whose kind has none.
func (e *execution) locate(ctx context.Context, manifest manifest) (target, error) {
	object := manifest.object
	mapping, err := e.mapping(ctx, object.GroupVersionKind())
	if err != nil {
		if manifest.isDefaultNamespace {
			object.SetNamespace("") // the kind may be cluster-scoped
		}
		return target{}, explain(describe(object), err)
	}
	if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
		return target{manifest, e.client.Resource(mapping.Resource).Namespace(object.GetNamespace())}, nil
	}
	object.SetNamespace("")
	if manifest.body, err = object.MarshalJSON(); err != nil {
		return target{}, permanent(err)
	}
	return target{manifest, e.client.Resource(mapping.Resource)}, nil
}

// write creates, applies or deletes an object, and returns it as the API server has it.
func (e *execution) write(ctx context.Context, target target) (*unstructured.Unstructured, error) {
	if e.spec.Operation == v1alpha1.OperationDelete {
		return e.remove(ctx, target)
	}
	if e.spec.OwnedByEvent && target.object.GetNamespace() != e.Event.Namespace {
		return nil, permanent(fmt.Errorf("an event can own only objects in its own namespace, %s; remove ownedByEvent", e.Event.Namespace))
	}
	if err := e.deleteFailed(ctx, target); err != nil {
		return nil, err
	}
	switch e.spec.Operation {
	case v1alpha1.OperationCreate:
		return e.create(ctx, target)
	case v1alpha1.OperationMirror:
		return e.applyMirrored(ctx, target)
	default:
		return e.apply(ctx, target)
	}
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
