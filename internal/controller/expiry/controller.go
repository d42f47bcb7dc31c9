// Package expiry deletes finished events that have expired, or that exceed spec.retention.maxEvents.
//
// It runs on the leader. Package internal/retention selects the events to delete from metadata that is listed page by page from the API
// server: finished events are in no cache, and each page is discarded after its evaluation.
package expiry

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	apply "github.com/netbox-events/netbox-event-operator/api/v1alpha1/applyconfiguration/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/conditions"
	"github.com/netbox-events/netbox-event-operator/internal/eventstore"
	"github.com/netbox-events/netbox-event-operator/internal/retention"
)

// RBAC of the controller:
// +kubebuilder:rbac:groups=netbox-events.io,resources=netboxsources,verbs=list;watch
// +kubebuilder:rbac:groups=netbox-events.io,resources=netboxsources/status,verbs=patch
// +kubebuilder:rbac:groups=netbox-events.io,resources=netboxevents,verbs=get;list;delete

// fieldOwner is the field manager of retention in a source's status.
const fieldOwner = "netbox-event-operator-retention"

const (
	pageSize = 500
	// maxExcess bounds the candidates for deletion over maxEvents that a sweep keeps in memory.
	maxExcess = 5000
	// workers is the number of sources that are swept concurrently.
	workers = 4
	// Deletions per second over all sources: normally, and after a sweep of a source has found more than behindAfter events to delete, until
	// one finds fewer. The API server's capacity is several hundred writes a second, most of which intake needs.
	calmRate, behindRate = 50, 200
	behindAfter          = 1000
	// concurrentDeletions is the number of a source's deletions in flight. Sequential deletions would be limited by the API server's latency,
	// and fall behind an intake with many requests in flight.
	concurrentDeletions = 4
	// The cost of a sweep for the API server grows with the number of events. So the next sweep waits for sweepPause times the duration of the
	// lists, at least minPause and at most maxPause; or only for the duration of the lists while too many events are left, because such a
	// sweep mostly deletes.
	sweepPause         = 20
	minPause, maxPause = 5 * time.Second, 10 * time.Minute
	// statusPause bounds the age of a source's status while events are finished, if the pauses above allow it.
	statusPause = 15 * time.Second
)

// Reconciler deletes the expired and excess events of sources.
type Reconciler struct {
	// Sources reads NetBoxSources from a cache.
	Sources client.Reader
	// Events reads and deletes NetBoxEvents by their metadata.
	Events metadata.Interface
	// Reader reads whole NetBoxEvents from the API server.
	Reader client.Reader
	// Namespaces are the watched namespaces; empty means all.
	Namespaces []string
	// Status writes the status of sources.
	Status  client.StatusClient
	Metrics *Metrics
	Clock   clock.PassiveClock
	Log     logr.Logger

	calmLimiter, behindLimiter *rate.Limiter

	mu      sync.Mutex
	sources map[types.NamespacedName]*sourceState
	queue   workqueue.TypedRateLimitingInterface[reconcile.Request]
}

// sourceState is the state of a source since its last sweep.
type sourceState struct {
	gone       bool  // the source was deleted
	kept       int64 // events kept by the last sweep
	since      int64 // events finished since then
	max        int64
	expired    int64     // events deleted, ever
	protected  bool      // more than max events are younger than spec.maxAge, so that one more evicts nothing
	behind     bool      // the last sweep found more than behindAfter events to delete
	sweepAfter time.Time // the earliest time
	queued     bool      // queued for a sweep because of a possible excess
}

// SetupWithManager adds the controller to a manager.
func (r *Reconciler) SetupWithManager(mgr manager.Manager) error {
	r.calmLimiter, r.behindLimiter = rate.NewLimiter(calmRate, 1), rate.NewLimiter(behindRate, 1)
	r.sources = map[types.NamespacedName]*sourceState{}
	if err := mgr.Add(manager.RunnableFunc(func(ctx context.Context) error {
		<-ctx.Done()
		r.Metrics.reset() // another replica leads now
		return nil
	})); err != nil {
		return err
	}
	return ctrl.NewControllerManagedBy(mgr).
		Named("retention").
		For(&v1alpha1.NetBoxSource{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		WatchesRawSource(source.Func(func(ctx context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.queue = queue
			go r.findGone(ctx, queue)
			return nil
		})).
		WithOptions(controller.Options{
			MaxConcurrentReconciles: workers,
			SkipNameValidation:      new(true), // the manager is created again after leadership was lost
		}).
		Complete(r)
}

// Finished counts a finished event of a source, so that an excess is noticed without a sweep, and the status stays up to date.
func (r *Reconciler) Finished(name types.NamespacedName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.queue == nil {
		return // the first sweep is still to come
	}
	state := r.sources[name]
	if state == nil { // it was deleted, or its first sweep is still to come
		r.queue.AddAfter(reconcile.Request{NamespacedName: name}, statusPause)
		return
	}
	state.since++
	pause := state.sweepAfter.Sub(r.Clock.Now())
	switch {
	case state.kept+state.since > state.max && !state.queued && !state.protected:
		state.queued = true
	case state.since == 1:
		pause = max(pause, statusPause)
	default:
		return
	}
	r.queue.AddAfter(reconcile.Request{NamespacedName: name}, pause)
}

// Reconcile sweeps one source: it lists its finished events, and deletes the expired and excess ones.
func (r *Reconciler) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	var source v1alpha1.NetBoxSource
	err := r.Sources.Get(ctx, request.NamespacedName, &source)
	gone := apierrors.IsNotFound(err)
	if gone {
		source = goneSource(request.NamespacedName)
	} else if err != nil {
		return reconcile.Result{}, err
	}
	wait, behind := r.begin(&source, gone)
	if wait > 0 {
		return reconcile.Result{RequeueAfter: wait}, nil
	}
	sweep := sweep{
		Reconciler: r, source: &source, gone: gone, behind: behind,
		plan: retention.New(policyOf(&source), r.Clock.Now(), maxExcess),
	}
	more, err := sweep.run(ctx)
	if err != nil {
		r.interrupted(&sweep)
		if apierrors.IsResourceExpired(err) { // the continue token expired during the deletions: the next sweep handles the rest
			return reconcile.Result{RequeueAfter: minPause}, nil
		}
		return reconcile.Result{}, err
	}
	next := r.end(&sweep, more)
	if deleted := sweep.deleted.Load(); deleted > 0 {
		r.Log.Info("deleted expired and excess events", "namespace", source.Namespace, "source", source.Name,
			"deleted", deleted, "kept", sweep.plan.Kept(), "sourceDeleted", gone)
	}
	if gone && sweep.plan.Kept() == 0 {
		r.remove(request.NamespacedName)
		return reconcile.Result{}, nil
	}
	if gone {
		return reconcile.Result{RequeueAfter: next}, nil
	}
	return reconcile.Result{RequeueAfter: next}, client.IgnoreNotFound(r.report(ctx, &sweep))
}

func policyOf(source *v1alpha1.NetBoxSource) retention.Policy {
	spec := &source.Spec
	policy := retention.Policy{
		SucceededTTL: spec.Retention.SucceededTTL.Duration,
		FailedTTL:    spec.Retention.FailedTTL.Duration,
		MaxEvents:    int(spec.Retention.MaxEvents),
	}
	if spec.MaxAge != nil {
		policy.MaxAge = spec.MaxAge.Duration
	}
	if readsChangeLog(source) && source.Status.NetBox != nil && source.Status.NetBox.CursorTime != nil {
		policy.UnreadSince, policy.UnreadAge = source.Status.NetBox.CursorTime.Time, spec.NetBox.Backfill.MaxAge.Duration
	}
	return policy
}

func readsChangeLog(source *v1alpha1.NetBoxSource) bool {
	return source.Spec.NetBox != nil && source.Spec.NetBox.Backfill != nil
}

// begin returns the time until a source may be swept. If that is 0, it resets the counts; behind is the result of the last sweep.
func (r *Reconciler) begin(source *v1alpha1.NetBoxSource, gone bool) (wait time.Duration, behind bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	name := client.ObjectKeyFromObject(source)
	state := r.sources[name]
	if state == nil || state.gone != gone {
		state = &sourceState{expired: source.Status.Expired, gone: gone}
		r.sources[name] = state
		if gone {
			state.sweepAfter = r.Clock.Now().Add(gracePeriod)
			r.Log.Info("the source was deleted; its finished events expire after the default TTLs, but not before notBefore",
				"namespace", name.Namespace, "source", name.Name, "notBefore", state.sweepAfter)
			r.Metrics.remove(name)
		}
	}
	state.max = int64(source.Spec.Retention.MaxEvents)
	if wait := state.sweepAfter.Sub(r.Clock.Now()); wait > 0 {
		return wait, false
	}
	state.since, state.queued = 0, false
	return 0, state.behind
}

// end records the result of a sweep, and returns the time until the next one.
func (r *Reconciler) end(sweep *sweep, more bool) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	state, now := r.sources[client.ObjectKeyFromObject(sweep.source)], r.Clock.Now()
	state.add(sweep)
	sweep.expired = state.expired
	state.kept = int64(sweep.plan.Kept())
	state.protected = int64(sweep.plan.Protected()) > state.max
	pause := sweepPause * sweep.reading
	if more {
		pause = sweep.reading
	}
	pause = min(max(pause, minPause), maxPause)
	state.sweepAfter = now.Add(pause)
	keep := sweep.source.Spec.Retention
	next := min(maxPause, keep.SucceededTTL.Duration, keep.FailedTTL.Duration) // when the next finished event may expire
	if due := sweep.plan.Next(); !due.IsZero() {
		next = min(next, due.Sub(now))
	}
	if more || state.kept+state.since > state.max && !state.protected {
		next = 0
	}
	return max(next, pause)
}

// interrupted records the deletions of a sweep that failed.
func (r *Reconciler) interrupted(sweep *sweep) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sources[client.ObjectKeyFromObject(sweep.source)].add(sweep)
}

// add records the deletions of a sweep.
func (s *sourceState) add(sweep *sweep) {
	s.expired += sweep.deleted.Load()
	s.behind = sweep.found > behindAfter
}

// remove removes a deleted source without finished events.
func (r *Reconciler) remove(name types.NamespacedName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.sources, name)
}

// report writes the result of a sweep to the status of a source if that has changed.
func (r *Reconciler) report(ctx context.Context, sweep *sweep) error {
	name := client.ObjectKeyFromObject(sweep.source)
	r.Metrics.swept(name, sweep.plan.Kept(), int(sweep.source.Spec.Retention.MaxEvents), sweep.plan.Oldest())
	status := apply.NetBoxSourceStatus().WithEvents(int64(sweep.plan.Kept())).WithExpired(sweep.expired)
	var oldest *metav1.Time
	if at := sweep.plan.Oldest(); !at.IsZero() {
		oldest = &metav1.Time{Time: at}
		status.WithOldest(*oldest)
	}
	was := sweep.source.Status
	exceeded, before := sweep.exceeded(), meta.FindStatusCondition(was.Conditions, v1alpha1.ConditionMaxEventsExceeded)
	if exceeded != nil {
		status.WithConditions(conditions.Apply([]metav1.Condition{*exceeded})...)
	}
	if was.Events != nil && *was.Events == *status.Events && was.Expired == *status.Expired && was.Oldest.Equal(oldest) &&
		equality.Semantic.DeepEqual(before, exceeded) {
		return nil
	}
	return r.Status.Status().Apply(ctx, apply.NetBoxSource(name.Name, name.Namespace).WithUID(sweep.source.UID).WithStatus(status),
		client.FieldOwner(fieldOwner), client.ForceOwnership)
}

// exceeded returns the condition MaxEventsExceeded; nil for a source whose events are not protected.
func (s *sweep) exceeded() *metav1.Condition {
	spec := &s.source.Spec
	if spec.MaxAge == nil && !readsChangeLog(s.source) {
		return nil
	}
	exceeded := &metav1.Condition{
		Type: v1alpha1.ConditionMaxEventsExceeded, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonWithinMaxEvents,
		Message: "the finished events that have to be kept are within spec.retention.maxEvents",
	}
	switch {
	case s.plan.Protected() <= int(spec.Retention.MaxEvents):
	case spec.MaxAge == nil:
		exceeded.Status, exceeded.Reason = metav1.ConditionTrue, v1alpha1.ReasonChangeLogUnread
		exceeded.Message = fmt.Sprintf("more finished events than %d (spec.retention.maxEvents) are kept because NetBox's change log was not "+
			"yet read beyond their changes, which would be stored again; raise maxEvents, or see the condition ChangeLogRead",
			spec.Retention.MaxEvents)
	default:
		exceeded.Status, exceeded.Reason = metav1.ConditionTrue, v1alpha1.ReasonYoungerThanMaxAge
		exceeded.Message = fmt.Sprintf("more finished events than %d (spec.retention.maxEvents) are younger than %s (spec.maxAge) and are kept "+
			"to deduplicate deliveries that are sent again; raise maxEvents, lower maxAge, or set spec.rateLimit",
			spec.Retention.MaxEvents, spec.MaxAge.Duration)
	}
	conditions.Stamp(exceeded, s.source.Status.Conditions, s.source.Generation, s.Clock.Now())
	return exceeded
}

// sweep evaluates all finished events of a source once.
type sweep struct {
	*Reconciler
	source  *v1alpha1.NetBoxSource
	gone    bool // the source was deleted; source has its name and the default retention
	plan    *retention.Plan
	behind  bool          // as the last sweep found
	reading time.Duration // duration of the lists
	found   int64         // events to delete
	deleted atomic.Int64  // deleted events
	expired int64         // events deleted, ever
}

// run lists the finished events, deletes the expired ones after each page, and the excess ones at the end. It returns whether an excess is
// left.
func (s *sweep) run(ctx context.Context) (more bool, err error) {
	for _, phase := range eventstore.FinishedPhases {
		page := metav1.ListOptions{
			Limit:         pageSize,
			FieldSelector: fields.AndSelectors(eventstore.OfSource(s.source.Name), eventstore.InPhase(phase)).String(),
		}
		for more := true; more; more = page.Continue != "" {
			began := s.Clock.Now()
			list, err := s.events(s.source.Namespace).List(ctx, page)
			s.reading += s.Clock.Since(began)
			if err != nil {
				return false, fmt.Errorf("listing events: %w", err)
			}
			page.Continue = list.Continue
			if err := s.delete(ctx, reasonTTL, s.plan.Evaluate(eventsOf(list, phase))); err != nil {
				return false, err
			}
		}
	}
	excess, more := s.plan.Excess()
	return more, s.delete(ctx, reasonMaxEvents, excess)
}

func (r *Reconciler) events(namespace string) metadata.ResourceInterface {
	return r.Events.Resource(v1alpha1.SchemeGroupVersion.WithResource("netboxevents")).Namespace(namespace)
}

func eventsOf(list *metav1.PartialObjectMetadataList, phase v1alpha1.Phase) []retention.Event {
	events := make([]retention.Event, len(list.Items))
	for i := range list.Items {
		item := &list.Items[i]
		events[i] = retention.Event{
			Name: item.Name, UID: string(item.UID), Version: item.ResourceVersion,
			Failed: phase == v1alpha1.PhaseFailed, Created: item.CreationTimestamp.Time, Finished: eventstore.FinishedAt(item),
		}
	}
	return events
}

// delete deletes events at the current rate.
func (s *sweep) delete(ctx context.Context, reason string, events []retention.Event) error {
	deletions, ctx := errgroup.WithContext(ctx)
	deletions.SetLimit(concurrentDeletions)
	for _, event := range events {
		s.found++
		limiter := s.calmLimiter
		if s.behind || s.found > behindAfter {
			limiter = s.behindLimiter
		}
		deletions.Go(func() error {
			if err := limiter.Wait(ctx); err != nil {
				return err
			}
			return s.deleteOne(ctx, reason, event)
		})
	}
	return deletions.Wait()
}

// deleteOne deletes an event unless it has changed since it was listed, for example was replayed and is Pending again.
func (s *sweep) deleteOne(ctx context.Context, reason string, event retention.Event) error {
	uid := types.UID(event.UID)
	err := s.events(s.source.Namespace).Delete(ctx, event.Name, metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &uid, ResourceVersion: &event.Version},
	})
	switch {
	case err == nil:
		s.deleted.Add(1)
		if s.gone { // its series are deleted too
			s.Metrics.expired("", reasonSourceGone)
		} else {
			s.Metrics.expired(client.ObjectKeyFromObject(s.source).String(), reason)
		}
	case apierrors.IsNotFound(err), apierrors.IsConflict(err): // deleted or changed concurrently
	default:
		return fmt.Errorf("deleting event %s: %w", event.Name, err)
	}
	return nil
}
