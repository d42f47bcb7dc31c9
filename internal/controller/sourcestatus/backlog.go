package sourcestatus

import (
	"context"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	ctrlsource "sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	apply "github.com/netbox-events/netbox-event-operator/api/v1alpha1/applyconfiguration/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/conditions"
)

// BacklogFieldOwner is Backlog's field manager in a source's status.
const BacklogFieldOwner = "netbox-event-operator-backlog"

const (
	// soonInterval is the least time between two publications, except for changes of the condition BacklogFull.
	soonInterval = 2 * time.Second
	// lateInterval is how long the published number may be outdated when only people need a newer one, and not the receivers.
	lateInterval = time.Minute
	// syncInterval is the pause while the engine has not listed the pending events yet.
	syncInterval = time.Second
	// conflictInterval is the pause after a conflict: the cache had an older source than the API server.
	conflictInterval = 50 * time.Millisecond
	// backlogWorkers is the number of concurrent reconciles: they mostly wait for the API server.
	backlogWorkers = 4
	// minBackoff and maxBackoff bound the backoff after a failed status write.
	minBackoff, maxBackoff = 5 * time.Millisecond, 5 * time.Second
)

// PendingCounter counts the pending events of a source. The event engine implements it.
type PendingCounter interface {
	Pending(source types.NamespacedName) int
}

// Backlog publishes the number of pending events in the status of each source, for the receivers, which refuse deliveries from
// spec.maxPending on.
//
// A receiver adds the events that it has stored since to the published number. So Backlog publishes again when that sum could approach
// spec.maxPending, or when several receivers together could exceed spec.maxPending, as they do not count each other's events.
type Backlog struct {
	// Sources reads NetBoxSources from a cache.
	Sources client.Reader
	// Status writes the status of sources.
	Status client.StatusClient
	// Events counts pending events. Nothing is published until Synced returns true: Events has listed the existing events.
	Events  PendingCounter
	Synced  func() bool
	Metrics *BacklogMetrics
	Clock   clock.PassiveClock

	sources sync.Map // from types.NamespacedName to *backlogState, of reconciled sources
	queue   workqueue.TypedRateLimitingInterface[reconcile.Request]
}

// backlogState is the state of a source's backlog.
type backlogState struct {
	changes   atomic.Int64 // events that became pending or were finished, ever
	requeueAt atomic.Int64 // number of changes at which to requeue the source; never while it is queued for that
	idle      atomic.Bool  // no reconcile is scheduled by time

	// Used by Reconcile alone:
	uid        types.UID
	reconciled int64 // changes at the last reconcile
	published  published
}

// never is a number of changes that is never reached.
const never = math.MaxInt64

// SetupWithManager adds the controller to a manager.
func (b *Backlog) SetupWithManager(mgr manager.Manager) error {
	if err := mgr.Add(manager.RunnableFunc(func(ctx context.Context) error {
		<-ctx.Done()
		b.Metrics.reset() // another replica leads now
		return nil
	})); err != nil {
		return err
	}
	return ctrl.NewControllerManagedBy(mgr).
		Named("backlog").
		For(&v1alpha1.NetBoxSource{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		WatchesRawSource(ctrlsource.Func(func(_ context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
			b.queue = queue // before sources is filled
			return nil
		})).
		WithOptions(controller.Options{
			MaxConcurrentReconciles: backlogWorkers,
			RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](minBackoff, maxBackoff),
			SkipNameValidation:      new(true), // the manager is created again after leadership was lost
		}).
		Complete(b)
}

// Changed records that an event of a source became pending or was finished. The caller updates Events first. Changed does not block, and
// does not call Events. It is safe for concurrent use.
func (b *Backlog) Changed(source types.NamespacedName) {
	found, ok := b.sources.Load(source)
	if !ok {
		return // the first reconcile is still to come
	}
	state := found.(*backlogState)
	changes := state.changes.Add(1)
	if at := state.requeueAt.Load(); changes >= at && state.requeueAt.CompareAndSwap(at, never) {
		b.queue.Add(reconcile.Request{NamespacedName: source})
	} else if state.idle.Load() && state.idle.CompareAndSwap(true, false) {
		b.queue.AddAfter(reconcile.Request{NamespacedName: source}, lateInterval)
	}
}

// Reconcile publishes the backlog of one source if that is due.
func (b *Backlog) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	if !b.Synced() {
		return reconcile.Result{RequeueAfter: syncInterval}, nil
	}
	var source v1alpha1.NetBoxSource
	if err := b.Sources.Get(ctx, request.NamespacedName, &source); apierrors.IsNotFound(err) {
		b.remove(request.NamespacedName)
		return reconcile.Result{}, nil
	} else if err != nil {
		return reconcile.Result{}, err
	}
	maxPending := int64(source.Spec.MaxPending)
	if maxPending == 0 {
		return reconcile.Result{}, nil // the cluster's CRD is older than the field, and lacks the status too
	}
	b.Metrics.maxPending.WithLabelValues(request.String()).Set(float64(maxPending))

	state := b.state(&source)
	seen := count{changes: state.changes.Load(), maxPending: maxPending} // before Pending: a change in between is counted twice, never missed
	seen.pending = int64(b.Events.Pending(request.NamespacedName))
	now := b.Clock.Now()
	if pause, due := state.published.due(seen); due && now.Sub(state.published.at) >= pause {
		err := b.publish(ctx, &source, state.published.next(seen, now))
		if apierrors.IsConflict(err) {
			return reconcile.Result{RequeueAfter: conflictInterval}, nil
		}
		if err != nil {
			return reconcile.Result{}, client.IgnoreNotFound(err)
		}
		state.published = state.published.next(seen, now)
	}
	return reconcile.Result{RequeueAfter: b.schedule(request, state, seen, now)}, nil
}

// state returns the state of a source. A recreated source of the same name gets a new one.
func (b *Backlog) state(source *v1alpha1.NetBoxSource) *backlogState {
	name := client.ObjectKeyFromObject(source)
	if found, ok := b.sources.Load(name); ok && found.(*backlogState).uid == source.UID {
		return found.(*backlogState)
	}
	state := &backlogState{uid: source.UID}
	state.requeueAt.Store(never)
	b.sources.Store(name, state)
	return state
}

func (b *Backlog) remove(name types.NamespacedName) {
	b.sources.Delete(name)
	b.Metrics.maxPending.DeleteLabelValues(name.String())
}

// schedule requeues the source: after as many changes as may make a publication due, and after a time if anything has changed.
func (b *Backlog) schedule(request reconcile.Request, state *backlogState, seen count, now time.Time) (pause time.Duration) {
	at := seen.changes + state.published.distance(seen)
	state.requeueAt.Store(at)
	if state.changes.Load() >= at && state.requeueAt.CompareAndSwap(at, never) {
		b.queue.Add(request)
	}
	idle := state.reconciled == seen.changes
	state.reconciled = seen.changes
	if pause, due := state.published.due(seen); due {
		return max(pause-now.Sub(state.published.at), time.Millisecond)
	}
	if !idle {
		return lateInterval
	}
	state.idle.Store(true)
	if state.changes.Load() != seen.changes && state.idle.CompareAndSwap(true, false) {
		return lateInterval
	}
	return 0
}

// publish writes the status of a source. The API server refuses it with a conflict if the source has changed since it was read: a former
// leader that continues for a moment cannot overwrite its successor's publication.
func (b *Backlog) publish(ctx context.Context, source *v1alpha1.NetBoxSource, next published) error {
	full := metav1.Condition{
		Type: v1alpha1.ConditionBacklogFull, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonBelowMaxPending,
		Message: fmt.Sprintf("%d pending events, of at most %d (spec.maxPending)", next.pending, next.maxPending),
	}
	if next.full {
		full.Status, full.Reason = metav1.ConditionTrue, v1alpha1.ReasonMaxPendingReached
		full.Message = fmt.Sprintf("%d pending events, of at most %d (spec.maxPending): deliveries are answered with 429 until fewer than %d %% "+
			"of that are pending; the condition SinkAvailable of the NetBoxEventRules in this namespace names the unavailable sink",
			next.pending, next.maxPending, lowPercent)
	}
	conditions.Stamp(&full, source.Status.Conditions, source.Generation, next.at)
	status := apply.NetBoxSourceStatus().
		WithPending(next.pending).
		WithPendingTime(metav1.NewMicroTime(next.at)).
		WithConditions(conditions.Apply([]metav1.Condition{full})...)
	return b.Status.Status().Apply(ctx,
		apply.NetBoxSource(source.Name, source.Namespace).WithUID(source.UID).WithResourceVersion(source.ResourceVersion).WithStatus(status),
		client.FieldOwner(BacklogFieldOwner), client.ForceOwnership)
}

// BacklogMetrics outlive the controllers, which are created again each time this replica becomes the leader.
type BacklogMetrics struct {
	maxPending *prometheus.GaugeVec
}

// NewBacklogMetrics returns registered metrics.
func NewBacklogMetrics(registry prometheus.Registerer) *BacklogMetrics {
	m := &BacklogMetrics{
		maxPending: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "netbox_events_max_pending_events",
			Help: "spec.maxPending, the number of pending events, with those that wait for groups, at which deliveries are answered with 429, by " +
				"source (namespace/name). Reported by the leader alone.",
		}, []string{"source"}),
	}
	registry.MustRegister(m.maxPending)
	return m
}

// reset deletes the series, which only the leader has.
func (m *BacklogMetrics) reset() { m.maxPending.Reset() }
