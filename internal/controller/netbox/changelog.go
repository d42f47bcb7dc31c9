package netbox

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	apply "github.com/netbox-events/netbox-event-operator/api/v1alpha1/applyconfiguration/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/conditions"
	"github.com/netbox-events/netbox-event-operator/internal/netboxapi"
	"github.com/netbox-events/netbox-event-operator/internal/notice"
	"github.com/netbox-events/netbox-event-operator/internal/oneline"
	"github.com/netbox-events/netbox-event-operator/internal/rule"
)

// RBAC of the controller:
// +kubebuilder:rbac:groups=netbox-events.io,resources=netboxsources,verbs=list;watch
// +kubebuilder:rbac:groups=netbox-events.io,resources=netboxsources/status,verbs=patch
// +kubebuilder:rbac:groups=netbox-events.io,resources=netboxeventrules,verbs=list;watch
// +kubebuilder:rbac:groups=netbox-events.io,resources=netboxevents,verbs=get;list;create;patch
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch

// ChangeLogFieldOwner is ChangeLog's field manager in a source's status.
const ChangeLogFieldOwner = "netbox-event-operator-changelog"

const (
	// overlap is how late a row may appear in the change log: ids and times are given before commit, and NetBox's jobs may run for 300 s in
	// one transaction.
	overlap = 10 * time.Minute
	// sliceTime bounds one reconcile, so that progress is written and other sources have their turn.
	sliceTime = 10 * time.Second
	// congestionPause is the pause while live deliveries wait.
	congestionPause = 5 * time.Second
	// minEventBackoff and maxEventBackoff bound the exponential backoff after an error of the API server; checkBackoff is that after one of
	// NetBox.
	minEventBackoff, maxEventBackoff = 100 * time.Millisecond, 30 * time.Second
	// writeConflictPause is the pause after a conflict: the cache had an older source than the API server.
	writeConflictPause = 50 * time.Millisecond
	// diagnosisInterval is the least time between two looks at NetBox's set-up while nothing arrives.
	diagnosisInterval = 5 * time.Minute
	// creationsPerSecond limits the events that are created for one source: live deliveries go first.
	creationsPerSecond, creationBurst = 50, 10
	// changeLogWorkers is the number of concurrent reconciles: they mostly wait for NetBox and the API server.
	changeLogWorkers = 4
	// maxReadMessageBytes bounds the message of a condition.
	maxReadMessageBytes = 1024
)

// EventStore reads and creates NetBoxEvents. *eventstore.Store implements it.
type EventStore interface {
	Get(ctx context.Context, namespace, name string) (*v1alpha1.NetBoxEvent, error)
	Create(ctx context.Context, event *v1alpha1.NetBoxEvent) error
}

// ChangeLog reads the change log of the NetBox of each source with spec.netbox.backfill, and creates the events of changes of which no
// webhook came. It labels events whose change is not in the log, and says whether changes arrive by webhook.
//
// The position up to which everything is settled is in the status. Each reading begins there, and it follows by spec.netbox.backfill.lag
// and overlap, so that rows that appear late are seen. The names of events are those that the receiver gives, so that a change becomes one
// event.
type ChangeLog struct {
	// Cached reads NetBoxSources and NetBoxEventRules from a cache.
	Cached client.Reader
	// Status writes the status of sources.
	Status client.StatusClient
	// Clients calls the NetBoxes.
	Clients *Clients
	Events  EventStore
	// Metadata reads and labels NetBoxEvents by their metadata.
	Metadata metadata.Interface
	// Accept compiles the spec.accept of sources.
	Accept *rule.AcceptCache
	// Pending returns the number of pending events of a source.
	Pending  func(source types.NamespacedName) int
	Recorder events.EventRecorder
	Metrics  *Metrics
	Clock    clock.PassiveClock
	Log      logr.Logger

	states sync.Map // from types.NamespacedName to *logState
}

// logState is what is known of the change log of a source. Only the reconcile of the source uses it, but for sightings.
type logState struct {
	uid        types.UID
	generation int64
	startedAt  time.Time
	sightings  sightings
	creations  *rate.Limiter

	// cursor and cursorTime are the position up to which everything is settled; cursorTime is zero before it is known.
	cursor     netboxapi.Cursor
	cursorTime time.Time
	// settled are the changes after the cursor that are settled.
	settled map[changeKey]bool
	// window is the reading in progress, or nil.
	window *window
	found  findings
	types  knownTypes
	// unreadable says why objects cannot be read, by object type.
	unreadable map[string]string
	// since is the last value of the annotation that was processed, and sinceNote what there is to say about it.
	since, sinceNote string
	// missed and phantoms are not in the status yet.
	missed, phantoms int64
	// storedTotal is the number of events created since the log was last up to date, at upToDate.
	storedTotal int64
	upToDate    time.Time

	// read is the condition ChangeLogRead, without its time, after the last reading; next is the time of the next one.
	read         metav1.Condition
	next         time.Time
	failures     int
	wasSuspended bool

	// hints are what was found in NetBox at diagnosedAt, while the set-up of the webhook was diagnosedSetUp.
	hints          []string
	diagnosedAt    time.Time
	diagnosedSetUp string
}

// SetupWithManager adds the controller to a manager.
func (c *ChangeLog) SetupWithManager(mgr manager.Manager) error {
	if err := mgr.Add(manager.RunnableFunc(func(ctx context.Context) error {
		<-ctx.Done()
		c.Metrics.reset() // another replica leads now
		return nil
	})); err != nil {
		return err
	}
	asked := predicate.NewPredicateFuncs(func(client.Object) bool { return false })
	asked.UpdateFunc = func(update event.UpdateEvent) bool { return sinceOf(update.ObjectOld) != sinceOf(update.ObjectNew) }
	return ctrl.NewControllerManagedBy(mgr).
		Named("netbox-changelog").
		For(&v1alpha1.NetBoxSource{}, builder.WithPredicates(predicate.Or(predicate.GenerationChangedPredicate{}, asked))).
		WithOptions(controller.Options{
			MaxConcurrentReconciles: changeLogWorkers,
			RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](minEventBackoff, maxEventBackoff),
			SkipNameValidation:      new(true), // the manager is created again after leadership was lost
		}).
		Complete(c)
}

// Received records a new event, so that its change is known when the change log is read. It does not block. It is safe for concurrent use.
func (c *ChangeLog) Received(event *v1alpha1.NetBoxEvent) {
	if event.Spec.Delivery.Origin != v1alpha1.OriginChangeLog {
		c.state(types.NamespacedName{Namespace: event.Namespace, Name: event.Spec.SourceRef.Name}).sightings.received(event)
	}
}

func (c *ChangeLog) state(name types.NamespacedName) *logState {
	found, ok := c.states.Load(name)
	if !ok {
		found, _ = c.states.LoadOrStore(name, &logState{
			startedAt: c.Clock.Now(), creations: rate.NewLimiter(creationsPerSecond, creationBurst),
			settled: map[changeKey]bool{}, unreadable: map[string]string{},
		})
	}
	return found.(*logState)
}

// Reconcile reads the change log of one source if that is due, and writes the status.
func (c *ChangeLog) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	var source v1alpha1.NetBoxSource
	if err := c.Cached.Get(ctx, request.NamespacedName, &source); apierrors.IsNotFound(err) {
		c.states.Delete(request.NamespacedName)
		c.Metrics.forgetChangeLog(request.String())
		return reconcile.Result{}, nil
	} else if err != nil {
		return reconcile.Result{}, err
	}
	state := c.state(request.NamespacedName)
	if state.uid != "" && state.uid != source.UID {
		c.states.Delete(request.NamespacedName)
		state = c.state(request.NamespacedName)
	}
	state.uid = source.UID
	if source.Spec.NetBox == nil || source.Spec.NetBox.Backfill == nil {
		return reconcile.Result{}, c.release(ctx, &source, state)
	}
	if !source.DeletionTimestamp.IsZero() {
		return reconcile.Result{}, nil
	}
	state.sightings.turn(true)
	if isDue(&source, state, c.Clock.Now()) {
		if err := c.read(ctx, &source, state); err != nil {
			return reconcile.Result{}, err
		}
		state.generation = source.Generation
	}
	receiving := c.receiving(ctx, &source, state)
	c.Metrics.observe(request.String(), &receiving, later(state.upToDate, state.startedAt))
	err := c.write(ctx, &source, state, []metav1.Condition{state.read, receiving})
	if apierrors.IsConflict(err) {
		return reconcile.Result{RequeueAfter: writeConflictPause}, nil
	}
	if err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	return reconcile.Result{RequeueAfter: max(state.next.Sub(c.Clock.Now()), time.Millisecond)}, nil
}

func isDue(source *v1alpha1.NetBoxSource, state *logState, now time.Time) bool {
	isAsked := sinceOf(source) != "" && sinceOf(source) != state.since
	return !now.Before(state.next) || state.generation != source.Generation || isAsked && state.failures == 0 && state.window == nil
}

// read works on the change log for a time, and sets the condition and the time of the next reading. It returns the errors of the API
// server.
func (c *ChangeLog) read(ctx context.Context, source *v1alpha1.NetBoxSource, state *logState) error {
	interval := source.Spec.NetBox.Backfill.Interval.Duration
	if source.Spec.Suspend {
		state.window, state.wasSuspended = nil, true
		state.conclude(c.Clock.Now().Add(interval), metav1.ConditionFalse, v1alpha1.ReasonSuspended,
			"spec.suspend is true; the reading will go on where it stopped")
		return nil
	}
	if state.wasSuspended {
		state.wasSuspended = false
		state.sightings.excuse(c.Clock.Now()) // deliveries were answered with 503
	}
	reading, err := c.newReading(ctx, source, state)
	result := resultFailed
	if err == nil {
		result, err = reading.run(ctx)
	}
	now := c.Clock.Now()
	switch {
	case err != nil:
		return c.failed(ctx, state, now, err)
	case result == resultUpToDate:
		state.upToDate, state.storedTotal = now, 0
		state.conclude(now.Add(interval), metav1.ConditionTrue, v1alpha1.ReasonUpToDate,
			fmt.Sprintf("all changes older than %s have events", source.Spec.NetBox.Backfill.Lag.Duration)+state.notes())
	case result == resultCongested:
		state.conclude(now.Add(congestionPause), metav1.ConditionTrue, v1alpha1.ReasonCatchingUp,
			fmt.Sprintf("%s; pausing, because more than half of spec.maxPending events are pending", state.progress())+state.notes())
	default:
		state.conclude(now, metav1.ConditionTrue, v1alpha1.ReasonCatchingUp, state.progress()+state.notes())
	}
	state.failures = 0
	return nil
}

// failed handles an error of a reading: it returns that of the API server, and makes any other one the condition.
func (c *ChangeLog) failed(ctx context.Context, state *logState, now time.Time, err error) error {
	_, isToken := errors.AsType[*tokenError](err)
	_, isAccept := errors.AsType[*acceptError](err)
	if ctx.Err() != nil || netboxapi.KindOf(err) == "" && !isToken && !isAccept {
		return err
	}
	reason := reasonOf(err)
	if isAccept {
		reason = v1alpha1.ReasonInvalidAccept
	}
	pause := max(checkBackoff(state.failures), retryAfterOf(err))
	state.failures++
	state.conclude(now.Add(pause), metav1.ConditionFalse, reason, "the change log cannot be read: "+err.Error())
	return nil
}

func (s *logState) conclude(next time.Time, status metav1.ConditionStatus, reason, message string) {
	s.next = next
	s.read = metav1.Condition{
		Type: v1alpha1.ConditionChangeLogRead, Status: status, Reason: reason, Message: oneline.Of(message, maxReadMessageBytes),
	}
}

func (s *logState) progress() string {
	return fmt.Sprintf("read up to %s, %d changes stored so far", s.cursorTime.UTC().Format(time.RFC3339), s.storedTotal)
}

// notes returns what else there is to say.
func (s *logState) notes() string {
	var notes strings.Builder
	for _, objectType := range slices.Sorted(maps.Keys(s.unreadable)) {
		fmt.Fprintf(&notes, "; the data of %s are taken from the change log, because they cannot be read: %s", objectType,
			s.unreadable[objectType])
	}
	if s.sinceNote != "" {
		notes.WriteString("; " + s.sinceNote)
	}
	return notes.String()
}

// receiving returns the condition Receiving.
func (c *ChangeLog) receiving(ctx context.Context, source *v1alpha1.NetBoxSource, state *logState) metav1.Condition {
	counts, now := state.sightings.receiving(), c.Clock.Now()
	setUp := ""
	if configured := meta.FindStatusCondition(source.Status.Conditions, v1alpha1.ConditionWebhookConfigured); configured != nil {
		setUp = configured.Message // says what was put right, and when
	}
	if counts.missed == 0 {
		state.diagnosedAt = time.Time{}
	} else if now.Sub(state.diagnosedAt) >= diagnosisInterval || setUp != state.diagnosedSetUp {
		if netbox, err := c.Clients.For(ctx, source); err == nil {
			state.hints, state.diagnosedAt, state.diagnosedSetUp = diagnose(ctx, netbox, source), now, setUp
		}
	}
	previous := meta.FindStatusCondition(source.Status.Conditions, v1alpha1.ConditionReceiving)
	condition := receivingCondition(previous, counts, source.Spec.NetBox.Backfill.Lag.Duration, state.hints)
	condition.Message = oneline.Of(condition.Message, maxReadMessageBytes)
	return condition
}

// write writes the status of a source unless it is that already. The API server refuses it with a conflict if the source has changed since
// it was read: the counts are added to those in the status.
func (c *ChangeLog) write(ctx context.Context, source *v1alpha1.NetBoxSource, state *logState, list []metav1.Condition) error {
	current := v1alpha1.NetBoxAPIStatus{}
	if source.Status.NetBox != nil {
		current = *source.Status.NetBox
	}
	next := current
	next.Missed, next.Phantoms, next.BackfillSince = current.Missed+state.missed, current.Phantoms+state.phantoms, state.since
	if !state.cursorTime.IsZero() {
		next.Cursor, next.CursorTime = state.cursor.ID, new(metav1.NewMicroTime(state.cursorTime.Truncate(time.Microsecond)))
	} else {
		next.BackfillSince = current.BackfillSince
	}
	isSame := equality.Semantic.DeepEqual(current, next)
	for i := range list {
		conditions.Stamp(&list[i], source.Status.Conditions, source.Generation, c.Clock.Now())
		before := meta.FindStatusCondition(source.Status.Conditions, list[i].Type)
		isSame = isSame && before != nil && equality.Semantic.DeepEqual(*before, list[i])
	}
	if isSame {
		return nil
	}
	status := apply.NetBoxAPIStatus().WithMissed(next.Missed).WithPhantoms(next.Phantoms)
	if next.CursorTime != nil {
		status.WithCursor(next.Cursor).WithCursorTime(*next.CursorTime)
	}
	if next.BackfillSince != "" {
		status.WithBackfillSince(next.BackfillSince)
	}
	desired := apply.NetBoxSourceStatus().WithNetBox(status).WithConditions(conditions.Apply(list)...)
	err := c.Status.Status().Apply(ctx,
		apply.NetBoxSource(source.Name, source.Namespace).WithUID(source.UID).WithResourceVersion(source.ResourceVersion).WithStatus(desired),
		client.FieldOwner(ChangeLogFieldOwner), client.ForceOwnership)
	if err == nil {
		state.missed, state.phantoms = 0, 0
	}
	return err
}

// release removes what ChangeLog wrote about a source whose change log is not read any more, except for the counts.
func (c *ChangeLog) release(ctx context.Context, source *v1alpha1.NetBoxSource, state *logState) error {
	state.sightings.turn(false)
	state.cursorTime, state.window, state.settled, state.next = time.Time{}, nil, map[changeKey]bool{}, time.Time{}
	c.Metrics.forgetChangeLog(client.ObjectKeyFromObject(source).String())
	if meta.FindStatusCondition(source.Status.Conditions, v1alpha1.ConditionChangeLogRead) == nil {
		return nil
	}
	counts := apply.NetBoxAPIStatus().WithMissed(0).WithPhantoms(0) // without any field, status.netbox would be null, which is invalid
	if current := source.Status.NetBox; current != nil {
		counts.WithMissed(current.Missed).WithPhantoms(current.Phantoms)
	}
	status := apply.NetBoxSourceStatus().WithNetBox(counts)
	err := c.Status.Status().Apply(ctx, apply.NetBoxSource(source.Name, source.Namespace).WithUID(source.UID).WithStatus(status),
		client.FieldOwner(ChangeLogFieldOwner), client.ForceOwnership)
	return client.IgnoreNotFound(err)
}

// warn makes a Kubernetes Event of a source.
func (c *ChangeLog) warn(source *v1alpha1.NetBoxSource, reason, format string, args ...any) {
	notice.Recorder{EventRecorder: c.Recorder}.Eventf(source, nil, corev1.EventTypeWarning, reason, "ReadChangeLog", format, args...)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func sinceOf(object client.Object) string {
	return object.GetAnnotations()[v1alpha1.AnnotationBackfillSince]
}
