// Package replay sets finished events with a new value of the annotation netbox-events.io/replay to Pending, so that the event controller
// processes them again.
//
// It runs on the leader. Finished events are not cached: it lists their metadata page by page, and then watches it.
package replay

import (
	"context"

	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/delivery"
	"github.com/netbox-events/netbox-event-operator/internal/eventstore"
	"github.com/netbox-events/netbox-event-operator/internal/follow"
)

// RBAC of the controller:
// +kubebuilder:rbac:groups=netbox-events.io,resources=netboxevents,verbs=get;list;watch
// +kubebuilder:rbac:groups=netbox-events.io,resources=netboxevents/status,verbs=update

const pageSize = 500

// Reconciler sets annotated events to Pending.
type Reconciler struct {
	// Events reads NetBoxEvents from the API server, and lists and watches their metadata, without a cache.
	Events client.WithWatch
	// Rules reads a cache of NetBoxEventRules.
	Rules client.Reader
	// Status writes the status of events.
	Status *eventstore.Store
	// Namespaces are the watched namespaces; empty means all.
	Namespaces []string
	Clock      clock.PassiveClock
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
			SkipNameValidation: new(true), // a new manager starts after leadership is lost
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

// follow enqueues all annotated finished events of a namespace, and each that changes, until ctx is done.
func (r *Reconciler) follow(ctx context.Context, namespace string, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) {
	events := &metav1.PartialObjectMetadataList{}
	events.SetGroupVersionKind(v1alpha1.SchemeGroupVersion.WithKind("NetBoxEventList"))
	follower := follow.Follower{
		Client: r.Events, List: events, Namespace: namespace, Selector: eventstore.Finished, PageSize: pageSize, Log: r.Log,
	}
	follower.Run(ctx, follow.SeenFunc(func(object client.Object) {
		if delivery.ReplayOf(object) != (delivery.Replay{}) {
			queue.Add(reconcile.Request{NamespacedName: client.ObjectKeyFromObject(object)})
		}
	}))
}

// Reconcile sets an event to Pending if its annotation requests a new replay.
func (r *Reconciler) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	var event v1alpha1.NetBoxEvent
	if err := r.Events.Get(ctx, request.NamespacedName, &event); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	requested := delivery.ReplayOf(&event)
	if !event.Status.Phase.IsFinished() || !requested.IsNew(&event.Status) {
		return reconcile.Result{}, nil
	}
	r.Log.Info("replaying an event", "replay", requested.String(), "namespace", event.Namespace, "name", event.Name)
	if err := r.reopenGroups(ctx, &event, requested); err != nil {
		return reconcile.Result{}, err
	}
	_, err := r.Status.UpdateStatus(ctx, versionOf(&event), delivery.Reopen(&event.Status, requested))
	return reconcile.Result{}, client.IgnoreNotFound(err)
}
