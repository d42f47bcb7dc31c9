// Package event works off NetBoxEvents: one lane for each NetBox object, in which one event at a time is done, in the order of their
// timestamps.
//
// It runs on the leader. It may not know the receiver.
package event

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	ctrlevent "sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/eventstore"
)

// What the controller may do:
// +kubebuilder:rbac:groups=netbox-events.io,resources=netboxevents,verbs=get;list;watch
// +kubebuilder:rbac:groups=netbox-events.io,resources=netboxevents/status,verbs=patch

// lanesAtOnce is how many lanes move at one time. A lane waits for the API server most of its time.
const lanesAtOnce = 32

// minBackoff and maxBackoff bound the pause after the API server did not take a status. It grows with each failure; after an outage
// nobody waits longer than maxBackoff.
const (
	minBackoff = 5 * time.Millisecond
	maxBackoff = 5 * time.Second
)

// laneIndex is the name of the cache's index of events by Lane.
const laneIndex = "lane"

// Lane names a NetBox object. Events of one lane are done one at a time.
type Lane struct {
	Namespace, Source, ObjectType, ObjectID string
}

func laneOf(event *v1alpha1.NetBoxEvent) Lane {
	return Lane{event.Namespace, event.Spec.SourceRef.Name, event.Spec.ObjectType, event.Spec.ObjectID}
}

// key is the lane within its namespace, as the cache's index wants it.
func (l Lane) key() string { return fmt.Sprintf("%q %q %q", l.Source, l.ObjectType, l.ObjectID) }

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
	Status *eventstore.Store
	Clock  clock.PassiveClock
	Log    logr.Logger

	progress progress
}

// SetupWithManager adds the controller to a manager. The cache must hold what Pending selects and is started by the caller.
func (r *Reconciler) SetupWithManager(ctx context.Context, mgr manager.Manager, events cache.Cache) error {
	byLane := func(object client.Object) []string {
		return []string{laneOf(object.(*v1alpha1.NetBoxEvent)).key()}
	}
	if err := events.IndexField(ctx, &v1alpha1.NetBoxEvent{}, laneIndex, byLane); err != nil {
		return err
	}
	return builder.TypedControllerManagedBy[Lane](mgr).
		Named("event").
		WatchesRawSource(source.TypedKind(events, &v1alpha1.NetBoxEvent{}, newLanes(&r.progress))).
		WithOptions(controller.TypedOptions[Lane]{
			MaxConcurrentReconciles: lanesAtOnce,
			RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[Lane](minBackoff, maxBackoff),
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
	}
	return reconcile.Result{}, nil
}

// do logs an event and says so in its status.
func (r *Reconciler) do(ctx context.Context, event *v1alpha1.NetBoxEvent) error {
	started := r.Clock.Now()
	if !r.progress.reached(event.UID, logged) {
		logEvent(r.Log, event)
	}
	r.progress.set(event.UID, finished) // before the cache can learn of it
	err := r.Status.ApplyStatus(ctx, succeeded(event, started, r.Clock.Now()))
	switch {
	case err == nil, apierrors.IsNotFound(err): // it may have been deleted meanwhile
		return nil
	case eventstore.IsTooLarge(err):
		r.Log.Error(err, "the event leaves no room for its status and stays Pending; delete it", "namespace", event.Namespace, "name", event.Name)
		return nil
	default:
		r.progress.set(event.UID, logged)
		return err
	}
}

// pending returns the events of a lane that are still to be done, in the order in which NetBox made them.
func (r *Reconciler) pending(ctx context.Context, lane Lane) ([]v1alpha1.NetBoxEvent, error) {
	var events v1alpha1.NetBoxEventList
	err := r.Events.List(ctx, &events, client.InNamespace(lane.Namespace), client.MatchingFields{laneIndex: lane.key()},
		client.UnsafeDisableDeepCopy) // they are only read
	if err != nil {
		return nil, err
	}
	pending := slices.DeleteFunc(events.Items, func(event v1alpha1.NetBoxEvent) bool { return r.progress.reached(event.UID, finished) })
	slices.SortFunc(pending, func(a, b v1alpha1.NetBoxEvent) int {
		return cmp.Or(
			a.Spec.Timestamp.Compare(b.Spec.Timestamp.Time),
			a.Spec.Delivery.ReceivedAt.Compare(b.Spec.Delivery.ReceivedAt.Time),
			strings.Compare(a.Name, b.Name),
		)
	})
	return pending, nil
}

// lanes wakes the lane of each event that comes or changes, and forgets each that goes.
type lanes struct {
	handler.TypedEventHandler[*v1alpha1.NetBoxEvent, Lane]
	progress *progress
}

func newLanes(progress *progress) lanes {
	wake := func(_ context.Context, event *v1alpha1.NetBoxEvent) []Lane { return []Lane{laneOf(event)} }
	return lanes{handler.TypedEnqueueRequestsFromMapFunc(wake), progress}
}

// Delete is called when an event leaves the cache: it is finished, or was deleted.
func (l lanes) Delete(
	_ context.Context, gone ctrlevent.TypedDeleteEvent[*v1alpha1.NetBoxEvent], _ workqueue.TypedRateLimitingInterface[Lane],
) {
	l.progress.forget(gone.Object.UID)
}

// stage is how far the work on an event is.
type stage int

const (
	logged   stage = iota + 1
	finished       // its status is written, or being written
)

// progress remembers the stages of events until the cache, which lags behind our own writes, lets go of them.
type progress struct {
	mu     sync.Mutex
	stages map[types.UID]stage
}

func (p *progress) set(uid types.UID, to stage) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stages == nil {
		p.stages = map[types.UID]stage{}
	}
	p.stages[uid] = to
}

func (p *progress) reached(uid types.UID, at stage) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stages[uid] >= at
}

func (p *progress) forget(uid types.UID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.stages, uid)
}
