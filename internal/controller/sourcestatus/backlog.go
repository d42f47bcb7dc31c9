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
	"k8s.io/apimachinery/pkg/api/meta"
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

// BacklogFieldOwner is the field manager of what Backlog says in a source's status.
const BacklogFieldOwner = "netbox-event-operator-backlog"

const (
	// soonInterval is the least time between two publications, unless the backlog becomes full or is no longer full.
	soonInterval = 2 * time.Second
	// lateInterval is how long a number that the receivers can do with may be out of date for people.
	lateInterval = time.Minute
	// syncInterval is the pause after the engine did not know yet which events wait.
	syncInterval = time.Second
	// conflictInterval is the pause after the cache had an older source than the API server.
	conflictInterval = 50 * time.Millisecond
	// backlogWorkers is how many sources are looked at at one time: most of it is waiting for the API server.
	backlogWorkers = 4
	// minBackoff and maxBackoff bound the pause after the API server did not take a status.
	minBackoff, maxBackoff = 5 * time.Millisecond, 5 * time.Second
)

// PendingCounter knows how many events of a source wait to be finished, as the event engine does.
type PendingCounter interface {
	Pending(source types.NamespacedName) int
}

// Backlog publishes in the status of each source how many of its events wait to be finished, for the receivers, which refuse deliveries
// from spec.maxPending on.
//
// A receiver adds to the published number what it has stored since. So the number is published again when that sum could come near
// spec.maxPending, or when several receivers could together store more than spec.maxPending without knowing of each other.
type Backlog struct {
	// Sources reads NetBoxSources from a cache.
	Sources client.Reader
	// Status writes the status of sources.
	Status client.StatusClient
	// Events counts the events that wait. Nothing is published before Synced says that it knows those that were there at the start.
	Events  PendingCounter
	Synced  func() bool
	Metrics *BacklogMetrics
	Clock   clock.PassiveClock

	sources sync.Map // types.NamespacedName to *waiting, of the sources that were looked at
	queue   workqueue.TypedRateLimitingInterface[reconcile.Request]
}

// waiting is what is known of the backlog of a source.
type waiting struct {
	changes atomic.Int64 // events that came or were finished, ever
	lookAt  atomic.Int64 // at how many changes to look at the source again; never, while it is in the queue for that
	idle    atomic.Bool  // no look at the source is due, whatever the time

	// Reconcile alone has these.
	uid       types.UID
	looked    int64 // changes at the last look
	published published
}

// never is a number of changes that does not come.
const never = math.MaxInt64

// SetupWithManager adds the controller to a manager.
func (b *Backlog) SetupWithManager(mgr manager.Manager) error {
	if err := mgr.Add(manager.RunnableFunc(func(ctx context.Context) error {
		<-ctx.Done()
		b.Metrics.reset() // another replica leads from now on
		return nil
	})); err != nil {
		return err
	}
	return ctrl.NewControllerManagedBy(mgr).
		Named("backlog").
		For(&v1alpha1.NetBoxSource{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		WatchesRawSource(ctrlsource.Func(func(_ context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
			b.queue = queue // before anything is in sources
			return nil
		})).
		WithOptions(controller.Options{
			MaxConcurrentReconciles: backlogWorkers,
			RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](minBackoff, maxBackoff),
			SkipNameValidation:      new(true), // the manager is made again when leadership was lost
		}).
		Complete(b)
}

// Changed records that an event of a source came or was finished, after Events counts it so. It does not block, and does not call Events.
// It is safe for concurrent use.
func (b *Backlog) Changed(source types.NamespacedName) {
	found, ok := b.sources.Load(source)
	if !ok {
		return // the first look is still to come
	}
	w := found.(*waiting)
	changes := w.changes.Add(1)
	if at := w.lookAt.Load(); changes >= at && w.lookAt.CompareAndSwap(at, never) {
		b.queue.Add(reconcile.Request{NamespacedName: source})
	} else if w.idle.Load() && w.idle.CompareAndSwap(true, false) {
		b.queue.AddAfter(reconcile.Request{NamespacedName: source}, lateInterval)
	}
}

// Reconcile looks at the backlog of one source, and publishes it if that is due.
func (b *Backlog) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	if !b.Synced() {
		return reconcile.Result{RequeueAfter: syncInterval}, nil
	}
	var of v1alpha1.NetBoxSource
	if err := b.Sources.Get(ctx, request.NamespacedName, &of); apierrors.IsNotFound(err) {
		b.forget(request.NamespacedName)
		return reconcile.Result{}, nil
	} else if err != nil {
		return reconcile.Result{}, err
	}
	maxPending := int64(of.Spec.MaxPending)
	if maxPending == 0 {
		return reconcile.Result{}, nil // the cluster's CRD is older than the field, and knows no status of it either
	}
	b.Metrics.maxPending.WithLabelValues(request.String()).Set(float64(maxPending))

	w := b.waiting(&of)
	seen := count{changes: w.changes.Load(), maxPending: maxPending} // before the events are counted: what comes meanwhile is counted again
	seen.pending = int64(b.Events.Pending(request.NamespacedName))
	now := b.Clock.Now()
	if pause, due := w.published.due(seen); due && now.Sub(w.published.at) >= pause {
		err := b.publish(ctx, &of, w.published.after(seen, now))
		if apierrors.IsConflict(err) {
			return reconcile.Result{RequeueAfter: conflictInterval}, nil
		}
		if err != nil {
			return reconcile.Result{}, client.IgnoreNotFound(err)
		}
		w.published = w.published.after(seen, now)
	}
	return reconcile.Result{RequeueAfter: b.rest(request, w, seen, now)}, nil
}

// waiting returns what is known of a source. One that was made again under the same name is another.
func (b *Backlog) waiting(of *v1alpha1.NetBoxSource) *waiting {
	name := client.ObjectKeyFromObject(of)
	if found, ok := b.sources.Load(name); ok && found.(*waiting).uid == of.UID {
		return found.(*waiting)
	}
	w := &waiting{uid: of.UID}
	w.lookAt.Store(never)
	b.sources.Store(name, w)
	return w
}

func (b *Backlog) forget(name types.NamespacedName) {
	b.sources.Delete(name)
	b.Metrics.maxPending.DeleteLabelValues(name.String())
}

// rest makes sure that the source is looked at again: after so many changes that something may be due then, and after a time if anything
// has changed.
func (b *Backlog) rest(request reconcile.Request, w *waiting, seen count, now time.Time) (pause time.Duration) {
	at := seen.changes + w.published.distance(seen)
	w.lookAt.Store(at)
	if w.changes.Load() >= at && w.lookAt.CompareAndSwap(at, never) {
		b.queue.Add(request)
	}
	idle := w.looked == seen.changes
	w.looked = seen.changes
	if pause, due := w.published.due(seen); due {
		return max(pause-now.Sub(w.published.at), time.Millisecond)
	}
	if !idle {
		return lateInterval
	}
	w.idle.Store(true)
	if w.changes.Load() != seen.changes && w.idle.CompareAndSwap(true, false) {
		return lateInterval
	}
	return 0
}

// publish writes the status of a source. The API server refuses it if the source has changed since it was read: a former leader that goes
// on for a moment cannot write over what its successor has published.
func (b *Backlog) publish(ctx context.Context, of *v1alpha1.NetBoxSource, news published) error {
	full := metav1.Condition{
		Type: v1alpha1.ConditionBacklogFull, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonBelowMaxPending,
		Message: fmt.Sprintf("%d events wait to be finished, of %d that may (spec.maxPending)", news.pending, news.maxPending),
	}
	if news.full {
		full.Status, full.Reason = metav1.ConditionTrue, v1alpha1.ReasonMaxPendingReached
		full.Message = fmt.Sprintf("%d events wait to be finished, and %d may (spec.maxPending): deliveries are answered with 429 until fewer "+
			"than %d %% of that wait; the condition SinkAvailable of the NetBoxEventRules in this namespace says which sink does not take them",
			news.pending, news.maxPending, lowPercent)
	}
	full.ObservedGeneration = of.Generation
	full.LastTransitionTime = metav1.NewTime(news.at)
	if before := meta.FindStatusCondition(of.Status.Conditions, full.Type); before != nil && before.Status == full.Status {
		full.LastTransitionTime = before.LastTransitionTime
	}
	status := apply.NetBoxSourceStatus().
		WithPending(news.pending).
		WithPendingTime(metav1.NewMicroTime(news.at)).
		WithConditions(conditions.Apply([]metav1.Condition{full})...)
	return b.Status.Status().Apply(ctx,
		apply.NetBoxSource(of.Name, of.Namespace).WithUID(of.UID).WithResourceVersion(of.ResourceVersion).WithStatus(status),
		client.FieldOwner(BacklogFieldOwner), client.ForceOwnership)
}

// BacklogMetrics outlive the controllers, which are made again whenever this replica comes to lead.
type BacklogMetrics struct {
	maxPending *prometheus.GaugeVec
}

// NewBacklogMetrics returns metrics that are registered.
func NewBacklogMetrics(registry prometheus.Registerer) *BacklogMetrics {
	m := &BacklogMetrics{
		maxPending: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "netbox_events_max_pending_events",
			Help: "How many events may wait to be finished at the most: spec.maxPending, by source (namespace/name). Only the leader knows.",
		}, []string{"source"}),
	}
	registry.MustRegister(m.maxPending)
	return m
}

// reset forgets what only the leader knows.
func (m *BacklogMetrics) reset() { m.maxPending.Reset() }
