// Package expiry deletes finished events that have been kept long enough, or of which there are too many.
//
// It runs on the leader. Which events go is decided by package internal/retention, on metadata that is read page by page from the API
// server: finished events are in no cache, and what is known of them is forgotten with each page.
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

// What the controller may do:
// +kubebuilder:rbac:groups=netbox-events.io,resources=netboxsources,verbs=list;watch
// +kubebuilder:rbac:groups=netbox-events.io,resources=netboxsources/status,verbs=patch
// +kubebuilder:rbac:groups=netbox-events.io,resources=netboxevents,verbs=get;list;delete

// fieldOwner is the field manager of what retention says in a source's status.
const fieldOwner = "netbox-event-operator-retention"

const (
	pageSize = 500
	// maxExcess is how many events are remembered during a sweep, because they may be too many.
	maxExcess = 5000
	// workers is how many sources are swept at once.
	workers = 4
	// Deletions a second, of all sources: calm, and once more than behindAfter events of a source were found to go, until a sweep finds
	// fewer. The API server takes several hundred writes a second, of which the intake has the most.
	calmRate, behindRate = 50, 200
	behindAfter          = 1000
	// deletionsAtOnce is how many deletions of a source are under way at one time. One after the other, they would be as slow as the API
	// server's answers, and fall behind an intake that waits for many of those at one time.
	deletionsAtOnce = 4
	// A sweep costs the API server as much as there are events. So the next one waits for sweepPause times as long as reading took, at
	// least minPause, and at most maxPause; for as long as reading took where too many were left, because most of such a sweep is deleting.
	sweepPause         = 20
	minPause, maxPause = 5 * time.Second, 10 * time.Minute
	// newsPause is how long what a source's status says may be old, while events are finished, if the pauses above let it be.
	newsPause = 15 * time.Second
)

// Reconciler deletes the events of sources.
type Reconciler struct {
	// Sources reads NetBoxSources from a cache.
	Sources client.Reader
	// Events reads and deletes NetBoxEvents by their metadata.
	Events metadata.Interface
	// Reader reads whole NetBoxEvents from the API server.
	Reader client.Reader
	// Namespaces are those that are watched; all where it is empty.
	Namespaces []string
	// Status writes the status of sources.
	Status  client.StatusClient
	Metrics *Metrics
	Clock   clock.PassiveClock
	Log     logr.Logger

	calm, behind *rate.Limiter

	mu      sync.Mutex
	sources map[types.NamespacedName]*known
	queue   workqueue.TypedRateLimitingInterface[reconcile.Request]
}

// known is what is known of a source since the last sweep.
type known struct {
	gone      bool  // the source is
	kept      int64 // then
	since     int64 // events finished since
	max       int64
	expired   int64     // ever
	protected bool      // the last sweep found more events younger than spec.maxAge than max, so that one more evicts nothing
	late      bool      // the last sweep found more than behindAfter events to go
	nextSweep time.Time // not before
	asked     bool      // for a sweep because there may be too many
}

// SetupWithManager adds the controller to a manager.
func (r *Reconciler) SetupWithManager(mgr manager.Manager) error {
	r.calm, r.behind = rate.NewLimiter(calmRate, 1), rate.NewLimiter(behindRate, 1)
	r.sources = map[types.NamespacedName]*known{}
	if err := mgr.Add(manager.RunnableFunc(func(ctx context.Context) error {
		<-ctx.Done()
		r.Metrics.reset() // another replica leads from now on
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
			SkipNameValidation:      new(true), // the manager is made again when leadership was lost
		}).
		Complete(r)
}

// Finished counts an event of a source that has been finished, so that too many are noticed without a sweep, and the status is not old.
func (r *Reconciler) Finished(of types.NamespacedName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.queue == nil {
		return // there will be a first sweep
	}
	source := r.sources[of]
	if source == nil { // it is gone, unless its first sweep is still to come
		r.queue.AddAfter(reconcile.Request{NamespacedName: of}, newsPause)
		return
	}
	source.since++
	pause := source.nextSweep.Sub(r.Clock.Now())
	switch {
	case source.kept+source.since > source.max && !source.asked && !source.protected:
		source.asked = true
	case source.since == 1:
		pause = max(pause, newsPause)
	default:
		return
	}
	r.queue.AddAfter(reconcile.Request{NamespacedName: of}, pause)
}

// Reconcile sweeps one source: it looks at its finished events, and deletes those that go.
func (r *Reconciler) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	var of v1alpha1.NetBoxSource
	err := r.Sources.Get(ctx, request.NamespacedName, &of)
	gone := apierrors.IsNotFound(err)
	if gone {
		of = goneSource(request.NamespacedName)
	} else if err != nil {
		return reconcile.Result{}, err
	}
	wait, late := r.begin(&of, gone)
	if wait > 0 {
		return reconcile.Result{RequeueAfter: wait}, nil
	}
	sweep := sweep{
		Reconciler: r, source: &of, gone: gone, late: late,
		plan: retention.New(policyOf(&of.Spec), r.Clock.Now(), maxExcess),
	}
	more, err := sweep.run(ctx)
	if err != nil {
		r.interrupted(&sweep)
		if apierrors.IsResourceExpired(err) { // deleting took longer than the API server keeps a list: the rest is in the next one
			return reconcile.Result{RequeueAfter: minPause}, nil
		}
		return reconcile.Result{}, err
	}
	next := r.end(&sweep, more)
	if deleted := sweep.deleted.Load(); deleted > 0 {
		r.Log.Info("deleted events that were kept long enough, or were too many", "namespace", of.Namespace, "source", of.Name,
			"deleted", deleted, "kept", sweep.plan.Kept(), "sourceGone", gone)
	}
	if gone && sweep.plan.Kept() == 0 {
		r.forget(request.NamespacedName)
		return reconcile.Result{}, nil
	}
	if gone {
		return reconcile.Result{RequeueAfter: next}, nil
	}
	return reconcile.Result{RequeueAfter: next}, client.IgnoreNotFound(r.report(ctx, &sweep))
}

func policyOf(spec *v1alpha1.NetBoxSourceSpec) retention.Policy {
	policy := retention.Policy{
		SucceededTTL: spec.Retention.SucceededTTL.Duration,
		FailedTTL:    spec.Retention.FailedTTL.Duration,
		MaxEvents:    int(spec.Retention.MaxEvents),
	}
	if spec.MaxAge != nil {
		policy.MaxAge = spec.MaxAge.Duration
	}
	return policy
}

// begin returns how long to wait until a source may be swept, and otherwise begins to count anew; late as the last sweep found it.
func (r *Reconciler) begin(of *v1alpha1.NetBoxSource, gone bool) (wait time.Duration, late bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	name := client.ObjectKeyFromObject(of)
	source := r.sources[name]
	if source == nil || source.gone != gone {
		source = &known{expired: of.Status.Expired, gone: gone}
		r.sources[name] = source
		if gone {
			source.nextSweep = r.Clock.Now().Add(gracePeriod)
			r.Log.Info("the source is gone; its finished events are kept for the default TTLs, and until notBefore at least",
				"namespace", name.Namespace, "source", name.Name, "notBefore", source.nextSweep)
			r.Metrics.forget(name)
		}
	}
	source.max = int64(of.Spec.Retention.MaxEvents)
	if wait := source.nextSweep.Sub(r.Clock.Now()); wait > 0 {
		return wait, false
	}
	source.since, source.asked = 0, false
	return 0, source.late
}

// end remembers what a sweep has found, and returns when the next one is due.
func (r *Reconciler) end(sweep *sweep, more bool) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	source, now := r.sources[client.ObjectKeyFromObject(sweep.source)], r.Clock.Now()
	source.add(sweep)
	sweep.expired = source.expired
	source.kept = int64(sweep.plan.Kept())
	source.protected = int64(sweep.plan.Protected()) > source.max
	pause := sweepPause * sweep.reading
	if more {
		pause = sweep.reading
	}
	pause = min(max(pause, minPause), maxPause)
	source.nextSweep = now.Add(pause)
	keep := sweep.source.Spec.Retention
	next := min(maxPause, keep.SucceededTTL.Duration, keep.FailedTTL.Duration) // when what finishes from now on may go
	if due := sweep.plan.Next(); !due.IsZero() {
		next = min(next, due.Sub(now))
	}
	if more || source.kept+source.since > source.max && !source.protected {
		next = 0
	}
	return max(next, pause)
}

// interrupted remembers what a sweep has done that did not get to its end.
func (r *Reconciler) interrupted(sweep *sweep) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sources[client.ObjectKeyFromObject(sweep.source)].add(sweep)
}

// add counts what a sweep has done.
func (k *known) add(sweep *sweep) {
	k.expired += sweep.deleted.Load()
	k.late = sweep.found > behindAfter
}

// forget forgets a source that is gone and has no finished events.
func (r *Reconciler) forget(name types.NamespacedName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.sources, name)
}

// report says in the status of a source what was found and done, if that is news.
func (r *Reconciler) report(ctx context.Context, sweep *sweep) error {
	name := client.ObjectKeyFromObject(sweep.source)
	r.Metrics.looked(name, sweep.plan.Kept(), int(sweep.source.Spec.Retention.MaxEvents), sweep.plan.Oldest())
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

// exceeded says whether more events are kept than spec.retention.maxEvents, because they are younger than spec.maxAge; nil where the source
// has no maxAge.
func (s *sweep) exceeded() *metav1.Condition {
	spec := &s.source.Spec
	if spec.MaxAge == nil {
		return nil
	}
	exceeded := &metav1.Condition{
		Type: v1alpha1.ConditionMaxEventsExceeded, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonWithinMaxEvents,
		Message:            "no more finished events than spec.retention.maxEvents are younger than spec.maxAge",
		ObservedGeneration: s.source.Generation, LastTransitionTime: metav1.NewTime(s.Clock.Now()),
	}
	if s.plan.Protected() > int(spec.Retention.MaxEvents) {
		exceeded.Status, exceeded.Reason = metav1.ConditionTrue, v1alpha1.ReasonYoungerThanMaxAge
		exceeded.Message = fmt.Sprintf("more finished events than %d (spec.retention.maxEvents) are younger than %s (spec.maxAge) and are kept, "+
			"because a delivery that is sent again would otherwise be stored again; raise maxEvents, lower maxAge, or set spec.rateLimit",
			spec.Retention.MaxEvents, spec.MaxAge.Duration)
	}
	before := meta.FindStatusCondition(s.source.Status.Conditions, exceeded.Type)
	if before != nil && before.Status == exceeded.Status {
		exceeded.LastTransitionTime = before.LastTransitionTime
	}
	return exceeded
}

// sweep is one look at all finished events of a source.
type sweep struct {
	*Reconciler
	source  *v1alpha1.NetBoxSource
	gone    bool // the source is; it stands for what was
	plan    *retention.Plan
	late    bool          // the last sweep was
	reading time.Duration // spent on lists
	found   int64         // events that go
	deleted atomic.Int64  // that went
	expired int64         // ever
}

// run lists the finished events and deletes those that have been kept long enough page by page, and those that are too many at the end.
// More tells whether there are too many still.
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
			if err := s.delete(ctx, reasonTTL, s.plan.Look(eventsOf(list, phase))); err != nil {
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

// delete deletes events.
func (s *sweep) delete(ctx context.Context, reason string, events []retention.Event) error {
	deletions, ctx := errgroup.WithContext(ctx)
	deletions.SetLimit(deletionsAtOnce)
	for _, event := range events {
		s.found++
		limiter := s.calm
		if s.late || s.found > behindAfter {
			limiter = s.behind
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

// deleteOne deletes an event that is still what it was in the list: one that was made Pending again in the meantime stays.
func (s *sweep) deleteOne(ctx context.Context, reason string, event retention.Event) error {
	uid := types.UID(event.UID)
	err := s.events(s.source.Namespace).Delete(ctx, event.Name, metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &uid, ResourceVersion: &event.Version},
	})
	switch {
	case err == nil:
		s.deleted.Add(1)
		if s.gone { // and so are its series
			s.Metrics.expired("", reasonSourceGone)
		} else {
			s.Metrics.expired(client.ObjectKeyFromObject(s.source).String(), reason)
		}
	case apierrors.IsNotFound(err), apierrors.IsConflict(err): // somebody was faster
	default:
		return fmt.Errorf("deleting event %s: %w", event.Name, err)
	}
	return nil
}
