// Package event works off NetBoxEvents: one lane for each NetBox object, in which events are logged, matched with the rules and delivered
// in the order of their timestamps.
//
// It runs on the leader. It may not know the receiver.
package event

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"go.opentelemetry.io/otel/trace"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/controller/priorityqueue"
	ctrlevent "sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/action"
	"github.com/netbox-events/netbox-event-operator/internal/eventstore"
	"github.com/netbox-events/netbox-event-operator/internal/rule"
)

// What the controller may do:
// +kubebuilder:rbac:groups=netbox-events.io,resources=netboxevents,verbs=get;list;watch
// +kubebuilder:rbac:groups=netbox-events.io,resources=netboxevents/status,verbs=patch
// +kubebuilder:rbac:groups=netbox-events.io,resources=netboxeventrules,verbs=get;list;watch

// lanesAtOnce is how many lanes move at one time. A lane waits for the API server most of its time, and never for a sink.
const lanesAtOnce = 32

// minBackoff and maxBackoff bound the pause after the API server did not take a status. It grows with each failure; after an outage
// nobody waits longer than maxBackoff.
const (
	minBackoff = 5 * time.Millisecond
	maxBackoff = 5 * time.Second
)

// blockedTime is how long nothing is delivered after the API server did not take a status, unless it takes another meanwhile. It is less
// than maxBackoff: where the API server fails at one event alone, the others get their turns. An API server that does not answer within
// slowWrite is waited for, for hungTime: then the lease is lost.
const (
	blockedTime = maxBackoff / 2
	slowWrite   = time.Second
	hungTime    = 10 * time.Second
)

// beginTime is how long a lane begins new events before it moves those that it has begun: rules can take long to evaluate.
const beginTime = 100 * time.Millisecond

// retryPriority is that of a lane in which an attempt failed: what was never tried goes first, also what was there when we started.
const retryPriority = handler.LowPriority - 10

// laneIndex is the name of the cache's index of events by Lane.
const laneIndex = "lane"

// Lane names a NetBox object. Within a lane each rule does the events in their order.
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

// Doer does an action once, as action.Runner does.
type Doer interface {
	Do(ctx context.Context, task action.Task) (response string, err error)
}

// Tally counts what becomes of a rule.
type Tally interface {
	Matched(rule types.NamespacedName, at time.Time)
	Failed(rule types.NamespacedName)
	ExpressionFailed(rule types.NamespacedName, message string)
}

// Reconciler does the work on events.
type Reconciler struct {
	// Events reads a cache of the events that Pending selects.
	Events client.Reader
	// Rules reads a cache of all NetBoxEventRules.
	Rules client.Reader
	// Compiled compiles them.
	Compiled *rule.Cache
	// Actions does what they ask for.
	Actions Doer
	// Tally counts for their status.
	Tally Tally
	// Status writes the status of events.
	Status  *eventstore.Store
	Metrics *Metrics
	// Finished is told of the source of each event that is finished. It may be nil.
	Finished func(source types.NamespacedName)
	// Recorder writes Kubernetes Events on rules.
	Recorder events.EventRecorder
	// Tracer continues the traces that events were received in; nil for none.
	Tracer trace.Tracer
	Clock  clock.PassiveClock
	Log    logr.Logger

	notices      *notices
	known        known
	blockedUntil atomic.Int64 // in ns of Unix; see blockedTime
	delivery     *dispatcher
	queue        priorityqueue.PriorityQueue[Lane]
}

// SetupWithManager adds the controller to a manager. The caches must hold what Pending selects, and all rules; the first is started by the
// caller.
func (r *Reconciler) SetupWithManager(ctx context.Context, mgr manager.Manager, pending, rules cache.Cache) error {
	byLane := func(object client.Object) []string {
		return []string{laneOf(object.(*v1alpha1.NetBoxEvent)).key()}
	}
	if err := pending.IndexField(ctx, &v1alpha1.NetBoxEvent{}, laneIndex, byLane); err != nil {
		return err
	}
	// A rule that is not there yet would be one that an event does not match: rules are complete before the first event is looked at.
	if _, err := rules.GetInformer(ctx, &v1alpha1.NetBoxEventRule{}); err != nil {
		return err
	}
	r.delivery, r.notices = newDispatcher(), newNotices(r)
	if err := mgr.Add(drain{r}); err != nil {
		return err
	}
	return builder.TypedControllerManagedBy[Lane](mgr).
		Named("event").
		WatchesRawSource(source.TypedFunc[Lane](r.keepQueue)).
		WatchesRawSource(source.TypedKind(pending, &v1alpha1.NetBoxEvent{}, newLanes(&r.known))).
		WatchesRawSource(source.TypedKind(rules, &v1alpha1.NetBoxEventRule{}, handler.TypedFuncs[*v1alpha1.NetBoxEventRule, Lane]{
			DeleteFunc: r.ruleDeleted,
		})).
		WithOptions(controller.TypedOptions[Lane]{
			MaxConcurrentReconciles: lanesAtOnce,
			RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[Lane](minBackoff, maxBackoff),
			UsePriorityQueue:        new(true),
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

// keepQueue keeps the controller's queue, so that deliveries can wake lanes.
func (r *Reconciler) keepQueue(_ context.Context, queue workqueue.TypedRateLimitingInterface[Lane]) error {
	r.queue = queue.(priorityqueue.PriorityQueue[Lane])
	return nil
}

// ruleDeleted wakes the lanes in which something may wait for a rule, and forgets what was counted of it.
func (r *Reconciler) ruleDeleted(
	_ context.Context, gone ctrlevent.TypedDeleteEvent[*v1alpha1.NetBoxEventRule], queue workqueue.TypedRateLimitingInterface[Lane],
) {
	r.Metrics.forget(client.ObjectKeyFromObject(gone.Object))
	r.Compiled.Forget(gone.Object)
	for _, lane := range r.known.lanes(gone.Object.Namespace) {
		queue.Add(lane)
	}
}

// Reconcile moves all pending events of a lane as far as they can go now, in order, without waiting for a sink.
func (r *Reconciler) Reconcile(ctx context.Context, lane Lane) (reconcile.Result, error) {
	works, more, err := r.works(ctx, lane)
	if err != nil {
		return reconcile.Result{}, err
	}
	turn := turn{now: r.Clock.Now(), rules: r.ruleGetter(ctx, lane.Namespace), held: map[string]*delivery{}, busy: map[string]bool{}}
	if more {
		turn.wakeAt(turn.now)
	}
	if until := r.blocked(); until.After(turn.now) {
		turn.wakeAt(until)
	} else if err := r.deliver(lane, works, &turn); err != nil {
		return reconcile.Result{}, err
	}
	var failed error
	for _, w := range works {
		if err := r.save(ctx, w, &turn); isUnavailable(err) {
			return reconcile.Result{}, err
		} else if err != nil {
			failed = err
		}
	}
	return reconcile.Result{RequeueAfter: turn.pause()}, failed
}

// block has nothing delivered for some time.
func (r *Reconciler) block(pause time.Duration) {
	r.blockedUntil.Store(r.Clock.Now().Add(pause).UnixNano())
}

// blocked is until when nothing is to be delivered, because it could not be written down and would be delivered again.
func (r *Reconciler) blocked() time.Time { return time.Unix(0, r.blockedUntil.Load()) }

// works returns the work on the pending events of a lane, in the order in which NetBox made them. It begins what is new, or asked for
// again; if that takes long, it leaves more for the next turn.
func (r *Reconciler) works(ctx context.Context, lane Lane) (works []*work, more bool, err error) {
	known := r.known.of(lane) // before the cache is read: see known
	events, err := r.pending(ctx, lane)
	if err != nil {
		return nil, false, err
	}
	since, begun := r.Clock.Now(), false
	for _, event := range events {
		w := known[event.UID]
		delete(known, event.UID)
		if w == nil || w.isReplaced(event) {
			if begun && r.Clock.Since(since) > beginTime {
				return works, true, nil
			}
			if w, err = r.begin(ctx, event); err != nil {
				return nil, false, err
			}
			r.known.put(lane, w)
			begun = true
		}
		works = append(works, w)
	}
	for uid := range known { // these have left the cache
		r.known.forget(lane, uid)
	}
	return works, false, nil
}

// deliver has everything delivered that is due.
func (r *Reconciler) deliver(lane Lane, works []*work, turn *turn) (err error) {
	for _, w := range works {
		w.addBusy(turn.busy)
	}
	for _, w := range works {
		if err = w.advance(turn); err != nil {
			break
		}
	}
	for _, due := range turn.due { // it is marked as running already
		r.start(lane, due)
	}
	return err
}

// pending returns the events of a lane in the cache, in the order in which NetBox made them.
func (r *Reconciler) pending(ctx context.Context, lane Lane) ([]*v1alpha1.NetBoxEvent, error) {
	var events v1alpha1.NetBoxEventList
	err := r.Events.List(ctx, &events, client.InNamespace(lane.Namespace), client.MatchingFields{laneIndex: lane.key()},
		client.UnsafeDisableDeepCopy) // they are only read
	if err != nil {
		return nil, err
	}
	pending := make([]*v1alpha1.NetBoxEvent, len(events.Items))
	for i := range events.Items {
		pending[i] = &events.Items[i]
	}
	slices.SortFunc(pending, func(a, b *v1alpha1.NetBoxEvent) int {
		return cmp.Or(
			a.Spec.Timestamp.Compare(b.Spec.Timestamp.Time),
			a.Spec.Delivery.ReceivedAt.Compare(b.Spec.Delivery.ReceivedAt.Time),
			strings.Compare(a.Name, b.Name),
		)
	})
	return pending, nil
}

// ruleGetter returns a function that gets a rule of a namespace, nil if there is none, and asks the cache once for each.
func (r *Reconciler) ruleGetter(ctx context.Context, namespace string) func(name string) (*v1alpha1.NetBoxEventRule, error) {
	got := map[string]*v1alpha1.NetBoxEventRule{}
	return func(name string) (*v1alpha1.NetBoxEventRule, error) {
		if found, ok := got[name]; ok {
			return found, nil
		}
		var found v1alpha1.NetBoxEventRule
		err := r.Rules.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, &found, client.UnsafeDisableDeepCopy)
		switch {
		case err == nil:
			got[name] = &found
		case client.IgnoreNotFound(err) == nil:
			got[name] = nil
		default:
			return nil, err
		}
		return got[name], nil
	}
}

// lanes wakes the lane of each event that comes, is asked for again or is deleted, and forgets each that is finished.
type lanes struct {
	handler.TypedEventHandler[*v1alpha1.NetBoxEvent, Lane]
	known *known
}

func newLanes(known *known) lanes {
	wake := func(_ context.Context, event *v1alpha1.NetBoxEvent) []Lane { return []Lane{laneOf(event)} }
	return lanes{handler.TypedEnqueueRequestsFromMapFunc(wake), known}
}

// Update is called when an event in the cache changes, which is by our own status most times.
func (l lanes) Update(
	ctx context.Context, change ctrlevent.TypedUpdateEvent[*v1alpha1.NetBoxEvent], queue workqueue.TypedRateLimitingInterface[Lane],
) {
	before, after := change.ObjectOld, change.ObjectNew
	// Another event may have its name: where the watch was interrupted, that looks like a change.
	if before.UID != after.UID || before.Annotations[v1alpha1.AnnotationReplay] != after.Annotations[v1alpha1.AnnotationReplay] {
		l.TypedEventHandler.Update(ctx, change, queue)
	}
}

// Delete is called when an event has left the cache: it is finished, or was deleted. The latter may have held others back, and may be in
// the cache again to be done again: that is for its lane to see.
func (l lanes) Delete(
	_ context.Context, gone ctrlevent.TypedDeleteEvent[*v1alpha1.NetBoxEvent], queue workqueue.TypedRateLimitingInterface[Lane],
) {
	lane := laneOf(gone.Object)
	if l.known.isUnfinished(lane, gone.Object.UID) {
		queue.Add(lane)
	} else {
		l.known.forget(lane, gone.Object.UID)
	}
}
