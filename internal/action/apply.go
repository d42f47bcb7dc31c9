package action

import (
	"context"
	"fmt"
	"strings"

	"golang.org/x/sync/singleflight"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/utils/lru"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
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
