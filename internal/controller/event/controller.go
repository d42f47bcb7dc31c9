// Package event works off NetBoxEvents: one lane for each NetBox object, in which one event at a time is done, in the order of their
// timestamps.
//
// It runs on the leader. It may not know the receiver.
package event

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

// What the controller may do:
// +kubebuilder:rbac:groups=netbox-events.io,resources=netboxevents,verbs=get;list;watch
// +kubebuilder:rbac:groups=netbox-events.io,resources=netboxevents/status,verbs=patch

// FieldOwner is the field manager of an event's status.
const FieldOwner = "netbox-event-operator"

// lanesAtOnce is how many lanes move at one time. A lane waits for the API server most of its time.
const lanesAtOnce = 32

// laneIndex is the name of the cache's index of events by Lane.
const laneIndex = "lane"

// Lane names a NetBox object. Events of one lane are done one at a time.
type Lane struct {
	Namespace, Source, ObjectType, ObjectID string
}

func laneOf(event *v1alpha1.NetBoxEvent) Lane {
	return Lane{event.Namespace, event.Spec.SourceRef.Name, event.Spec.ObjectType, event.Spec.ObjectID}
}

// key is the lane within its namespace, as the cache's index wants it. Names of sources and object types hold no white space.
func (l Lane) key() string { return l.Source + "\n" + l.ObjectType + "\n" + l.ObjectID }

// Pending selects the events that are not finished. The controller's cache holds no others: its memory follows the backlog.
var Pending = cache.ByObject{
	Field:     fields.OneTermEqualSelector("status.phase", string(v1alpha1.PhasePending)),
	Transform: cache.TransformStripManagedFields(),
}

// Reconciler does the work on events.
type Reconciler struct {
	// Events reads a cache of the events that Pending selects.
	Events client.Reader
	// Status writes the status of events.
	Status client.StatusClient
	Clock  clock.PassiveClock
	Log    logr.Logger

	finished finished
}

// SetupWithManager adds the controller to a manager. The cache must hold what Pending selects and is started by the caller.
func (r *Reconciler) SetupWithManager(ctx context.Context, mgr manager.Manager, events cache.Cache) error {
	byLane := func(object client.Object) []string {
		return []string{laneOf(object.(*v1alpha1.NetBoxEvent)).key()}
	}
	if err := events.IndexField(ctx, &v1alpha1.NetBoxEvent{}, laneIndex, byLane); err != nil {
		return err
	}
	toLane := handler.TypedEnqueueRequestsFromMapFunc(func(_ context.Context, event *v1alpha1.NetBoxEvent) []Lane {
		return []Lane{laneOf(event)}
	})
	return builder.TypedControllerManagedBy[Lane](mgr).
		Named("event").
		WatchesRawSource(source.TypedKind(events, &v1alpha1.NetBoxEvent{}, toLane)).
		WithOptions(controller.TypedOptions[Lane]{
			MaxConcurrentReconciles: lanesAtOnce,
			SkipNameValidation:      new(true), // the manager is made again when leadership was lost
		}).
		WithLogConstructor(func(lane *Lane) logr.Logger {
			if lane == nil {
				return r.Log
			}
			return r.Log.WithValues("namespace", lane.Namespace, "source", lane.Source, "objectType", lane.ObjectType, "objectID", lane.ObjectID)
		}).
		Complete(r)
}

// Reconcile does all pending events of a lane, in order. An event whose status cannot be written holds back those behind it.
func (r *Reconciler) Reconcile(ctx context.Context, lane Lane) (reconcile.Result, error) {
	pending, err := r.pending(ctx, lane)
	if err != nil {
		return reconcile.Result{}, err
	}
	for i := range pending {
		if err := r.do(ctx, &pending[i]); err != nil {
			return reconcile.Result{}, err
		}
		r.finished.add(lane, pending[i].UID)
	}
	return reconcile.Result{}, nil
}

// do logs an event and says so in its status.
func (r *Reconciler) do(ctx context.Context, event *v1alpha1.NetBoxEvent) error {
	started := r.Clock.Now()
	logEvent(r.Log, event)
	status := succeeded(event, started, r.Clock.Now())
	err := r.Status.Status().Apply(ctx, status, client.FieldOwner(FieldOwner), client.ForceOwnership)
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil // deleted meanwhile, or another of the same name since
	}
	return err
}

// pending returns the events of a lane that are still to be done, in the order in which NetBox made them.
func (r *Reconciler) pending(ctx context.Context, lane Lane) ([]v1alpha1.NetBoxEvent, error) {
	var events v1alpha1.NetBoxEventList
	err := r.Events.List(ctx, &events, client.InNamespace(lane.Namespace), client.MatchingFields{laneIndex: lane.key()},
		client.UnsafeDisableDeepCopy) // they are only read
	if err != nil {
		return nil, err
	}
	pending := r.finished.drop(lane, events.Items)
	slices.SortFunc(pending, func(a, b v1alpha1.NetBoxEvent) int {
		return cmp.Or(
			a.Spec.Timestamp.Compare(b.Spec.Timestamp.Time),
			a.Spec.Delivery.ReceivedAt.Compare(b.Spec.Delivery.ReceivedAt.Time),
			strings.Compare(a.Name, b.Name),
		)
	})
	return pending, nil
}

// finished remembers the events whose status was written, until the cache, which lags behind our own writes, no longer holds them.
type finished struct {
	mu    sync.Mutex
	lanes map[Lane]sets.Set[types.UID]
}

func (f *finished) add(lane Lane, uid types.UID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.lanes == nil {
		f.lanes = map[Lane]sets.Set[types.UID]{}
	}
	if f.lanes[lane] == nil {
		f.lanes[lane] = sets.Set[types.UID]{}
	}
	f.lanes[lane].Insert(uid)
}

// drop returns the cached events of a lane without those that are finished, and forgets what the cache has forgotten. That an event
// leaves the cache wakes its lane, so nothing is remembered for long.
func (f *finished) drop(lane Lane, cached []v1alpha1.NetBoxEvent) []v1alpha1.NetBoxEvent {
	f.mu.Lock()
	defer f.mu.Unlock()
	still := sets.Set[types.UID]{}
	pending := slices.DeleteFunc(cached, func(event v1alpha1.NetBoxEvent) bool {
		if !f.lanes[lane].Has(event.UID) {
			return false
		}
		still.Insert(event.UID)
		return true
	})
	if len(still) == 0 {
		delete(f.lanes, lane)
	} else {
		f.lanes[lane] = still
	}
	return pending
}
