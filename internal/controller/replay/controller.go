// Package replay has finished events done again when somebody annotates them with netbox-events.io/replay: it makes them Pending, and their
// own controller does the rest.
//
// It runs on the leader. Finished events are in no cache: their metadata is read page by page once, and watched from then on.
package replay

import (
	"context"
	"errors"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	apply "github.com/netbox-events/netbox-event-operator/api/v1alpha1/applyconfiguration/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/eventstore"
)

// What the controller may do:
// +kubebuilder:rbac:groups=netbox-events.io,resources=netboxevents,verbs=get;list;watch
// +kubebuilder:rbac:groups=netbox-events.io,resources=netboxevents/status,verbs=patch

const (
	pageSize = 500
	// watchInterval is the least time between two attempts to watch.
	watchInterval = 5 * time.Second
)

// finished selects the events on which nothing is left to do.
var finished = fields.OneTermNotEqualSelector("status.phase", string(v1alpha1.PhasePending)).String()

// Reconciler makes annotated events Pending again.
type Reconciler struct {
	// Events reads NetBoxEvents from the API server.
	Events client.Reader
	// Metadata reads and watches the metadata of NetBoxEvents.
	Metadata metadata.Interface
	// Status writes the status of events.
	Status *eventstore.Store
	// Namespaces are those that are watched; all where it is empty.
	Namespaces []string
	Log        logr.Logger
}

// SetupWithManager adds the controller to a manager.
func (r *Reconciler) SetupWithManager(mgr manager.Manager) error {
	namespaces := r.Namespaces
	if len(namespaces) == 0 {
		namespaces = []string{metav1.NamespaceAll}
	}
	controlled := builder.ControllerManagedBy(mgr).
		Named("replay").
		WithOptions(controller.Options{
			SkipNameValidation: new(true), // the manager is made again when leadership was lost
		})
	for _, namespace := range namespaces {
		controlled = controlled.WatchesRawSource(source.Func(
			func(ctx context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
				go r.follow(ctx, namespace, queue)
				return nil
			}))
	}
	return controlled.Complete(r)
}

// follow queues every finished event of a namespace that has the annotation, now and whenever it changes, until ctx is done.
func (r *Reconciler) follow(ctx context.Context, namespace string, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) {
	for ctx.Err() == nil {
		if err := r.followOnce(ctx, namespace, queue); err != nil && ctx.Err() == nil {
			r.Log.Info("watching for replays failed and is tried again", "cause", err.Error(), "namespace", namespace)
		}
		select {
		case <-ctx.Done():
		case <-time.After(watchInterval):
		}
	}
}

func (r *Reconciler) followOnce(
	ctx context.Context, namespace string, queue workqueue.TypedRateLimitingInterface[reconcile.Request],
) error {
	events := r.Metadata.Resource(v1alpha1.SchemeGroupVersion.WithResource("netboxevents")).Namespace(namespace)
	look := func(object metav1.Object) {
		if object.GetAnnotations()[v1alpha1.AnnotationReplay] != "" {
			queue.Add(reconcile.Request{NamespacedName: client.ObjectKey{Namespace: object.GetNamespace(), Name: object.GetName()}})
		}
	}
	page := metav1.ListOptions{FieldSelector: finished, Limit: pageSize}
	for {
		list, err := events.List(ctx, page)
		if err != nil {
			return err
		}
		for i := range list.Items {
			look(&list.Items[i])
		}
		if page.Continue = list.Continue; page.Continue == "" {
			page.ResourceVersion = list.ResourceVersion
			break
		}
	}
	watcher, err := watchtools.NewRetryWatcherWithContext(ctx, page.ResourceVersion, &cache.ListWatch{
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			options.FieldSelector = finished
			return events.Watch(ctx, options)
		},
	})
	if err != nil {
		return err
	}
	defer watcher.Stop()
	for event := range watcher.ResultChan() {
		switch object := event.Object.(type) {
		case metav1.Object:
			if event.Type == watch.Added || event.Type == watch.Modified {
				look(object)
			}
		default:
			return apierrors.FromObject(event.Object) // the watch is too far behind: what was missed is listed
		}
	}
	return errors.New("the watch ended")
}

// Reconcile makes an event Pending that is asked for again.
func (r *Reconciler) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	var event v1alpha1.NetBoxEvent
	if err := r.Events.Get(ctx, request.NamespacedName, &event); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	wanted := event.Annotations[v1alpha1.AnnotationReplay]
	if event.Status.Phase == v1alpha1.PhasePending || wanted == "" || wanted == event.Status.Replay {
		return reconcile.Result{}, nil
	}
	r.Log.Info("replaying an event", "replay", wanted, "namespace", event.Namespace, "name", event.Name)
	err := r.Status.ApplyStatus(ctx, apply.NetBoxEvent(event.Name, event.Namespace).WithUID(event.UID).
		WithStatus(apply.NetBoxEventStatus().WithPhase(v1alpha1.PhasePending)))
	return reconcile.Result{}, client.IgnoreNotFound(err)
}
