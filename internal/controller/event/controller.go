// Package event processes pending NetBoxEvents: it logs and matches each, delivers it as the rules that match ask for, and stores its
// status.
//
// Three reconcilers share one ledger of pending events. Each has a work queue, and the queues serialize the work: one worker at a time has
// a key, and all deliveries of a rule for one NetBox object share a key: see unit. Later work is RequeueAfter.
//
//	watch ─▶ ledger ─▶ matcher ─▶ deliverer ─▶ writer ─▶ API server
//	                  an event   (rule, object)  an event
//
// It runs on the leader. It must not import the receiver.
package event

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/semaphore"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
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
	"github.com/netbox-events/netbox-event-operator/internal/action"
	"github.com/netbox-events/netbox-event-operator/internal/eventstore"
	"github.com/netbox-events/netbox-event-operator/internal/fairqueue"
	"github.com/netbox-events/netbox-event-operator/internal/journal"
	"github.com/netbox-events/netbox-event-operator/internal/rule"
)

// RBAC of the controllers:
// +kubebuilder:rbac:groups=netbox-events.io,resources=netboxevents,verbs=get;list;watch
// +kubebuilder:rbac:groups=netbox-events.io,resources=netboxevents/status,verbs=update
// +kubebuilder:rbac:groups=netbox-events.io,resources=netboxeventrules,verbs=get;list;watch

const (
	// deliveriesPerRule is how many deliveries of one rule are in flight at one time.
	deliveriesPerRule = 32
	// unsavedPerRule bounds the deliveries of a rule that are in flight or not in a stored status yet. They are made again after a crash.
	// While the API server takes no status, deliveries stop here.
	unsavedPerRule = 2 * deliveriesPerRule
	// deliveriesShared is how many deliveries are in flight in total before each rule is held to its share. See fairqueue.Config.Shared.
	deliveriesShared = 512
	// matchesPerNamespace is how many events of one namespace are matched at one time. Expressions cost CPU: more would let one namespace
	// starve the others.
	matchesPerNamespace = 2
	matchesShared       = 16
	// writesShared is half the number of concurrent status writes. The queue is fair between final writes and writes of failures, and between
	// namespaces.
	writesShared = 16
)

// minBackoff and maxBackoff bound the pause after an error of the API server.
const (
	minBackoff = 5 * time.Millisecond
	maxBackoff = 5 * time.Second
)

const (
	// drainTime is how long deliveries in flight may go on when this replica no longer leads, and saveTime how long their status may take to
	// be stored after that. Together they are as long as the lease is not another's after we gave up to renew it: controller-runtime's
	// LeaseDuration (15 s) less RenewDeadline (10 s) and RetryPeriod (2 s).
	drainTime = 2 * time.Second
	saveTime  = time.Second
)

// Doer does an action once, as action.Runner does.
type Doer interface {
	Do(ctx context.Context, task action.Task) (action.Result, error)
}

// StatusWriter stores the status of an event and returns its new resource version, as eventstore.Store does.
type StatusWriter interface {
	UpdateStatus(ctx context.Context, of eventstore.Version, status *v1alpha1.NetBoxEventStatus) (version string, err error)
}

// Tally counts the events of a rule.
type Tally interface {
	Matched(rule types.NamespacedName, at time.Time)
	Failed(rule types.NamespacedName)
	ExpressionFailed(rule types.NamespacedName, message string)
	// SinkChanged says that SinkOf has another answer for a rule.
	SinkChanged(rule types.NamespacedName)
}

// Options are the dependencies and settings of an Engine.
type Options struct {
	// Events lists, watches and reads NetBoxEvents at the API server, without a cache.
	Events client.WithWatch
	// Namespaces are the namespaces whose events are processed; empty means all.
	Namespaces []string
	// Rules reads a cache of all NetBoxEventRules.
	Rules client.Reader
	// Compiled compiles them.
	Compiled *rule.Cache
	// Actions executes their actions.
	Actions Doer
	// NetBox answers rules with confirm or lookups.
	NetBox NetBox
	// Tally counts events for their status.
	Tally Tally
	// Status stores the status of events.
	Status StatusWriter
	// Journal detects events whose processing crashes the process; nil for none.
	Journal *journal.Journal
	Metrics *Metrics
	// Received is called for each pending event once it is known. It must not block, and may be nil.
	Received func(event *v1alpha1.NetBoxEvent)
	// Changed is called for the source of each event that comes, is finished or is deleted. It may be nil.
	Changed func(source types.NamespacedName)
	// Finished is called for the source of each event that is finished. It may be nil.
	Finished func(source types.NamespacedName)
	// Recorder writes Kubernetes Events on rules.
	Recorder events.EventRecorder
	// Tracer continues the traces that events were received in; nil for none.
	Tracer trace.Tracer
	Clock  clock.PassiveClock
	Log    logr.Logger
}

// Engine processes events while this replica leads.
type Engine struct {
	Options

	ledger   *ledger
	circuits *circuits
	limits   *limits
	notices  *notices
	guard    stallGuard

	matches    workqueue.TypedRateLimitingInterface[*entry]
	deliveries workqueue.TypedRateLimitingInterface[*unit]
	writes     workqueue.TypedRateLimitingInterface[writeKey]
	fair       *fairqueue.Queue[*unit] // inside deliveries
	queueReady chan struct{}           // gets one for each queue

	firstStatuses interner
	groupEvents   *semaphore.Weighted // events of groups in memory for deliveries

	// work is the context of all work, deliveryContext that of deliveries. They outlive the leadership; see drain.
	work, deliveryContext     context.Context
	endWork, cancelDeliveries context.CancelFunc

	mu       sync.Mutex
	stopping bool
	inFlight sync.WaitGroup // deliveries
}

// queues is how many queues there are.
const queues = 3

// NewEngine returns an Engine for one leadership.
func NewEngine(options Options) *Engine {
	e := &Engine{Options: options, ledger: newLedger(), circuits: newCircuits(), limits: newLimits(), queueReady: make(chan struct{}, queues)}
	e.fair = fairqueue.New(fairqueue.Config[*unit]{Flow: (*unit).flow, Limit: e.deliveryLimit, Shared: deliveriesShared})
	e.groupEvents = semaphore.NewWeighted(maxGroupEvents)
	e.notices = newNotices(options)
	e.work, e.endWork = context.WithCancel(context.Background())
	e.deliveryContext, e.cancelDeliveries = context.WithCancel(e.work)
	return e
}

// Pending is how many events of a source are not finished.
func (e *Engine) Pending(source types.NamespacedName) int { return e.ledger.Pending(source) }

// Synced reports whether all events that were pending when this replica began to lead are known.
func (e *Engine) Synced() bool { return e.ledger.isListed(e.namespaces()) }

// SetupWithManager adds the controllers to a manager. The cache must hold all rules.
func (e *Engine) SetupWithManager(ctx context.Context, mgr manager.Manager, rules cache.Cache) error {
	// All rules must be cached before the first event is matched: an event would not match a rule that is still missing.
	if _, err := rules.GetInformer(ctx, &v1alpha1.NetBoxEventRule{}); err != nil {
		return err
	}
	matches := fairqueue.New(fairqueue.Config[*entry]{
		Flow:   func(event *entry) fairqueue.Flow { return fairqueue.Flow{Group: event.name.Namespace} },
		Limit:  func(fairqueue.Flow) int { return matchesPerNamespace },
		Shared: matchesShared,
	})
	writes := fairqueue.New(fairqueue.Config[writeKey]{Flow: writeKey.flow, Shared: writesShared})
	ruleChanges := handler.TypedFuncs[*v1alpha1.NetBoxEventRule, *unit]{UpdateFunc: e.ruleUpdated, DeleteFunc: e.ruleDeleted}
	return errors.Join(
		control(e, mgr, controls[*entry]{
			name: "event-match", reconcile: e.match, queue: &e.matches, newQueue: matches.RateLimiting, workers: 2 * matchesShared,
			logValues: (*entry).logValues,
		}),
		control(e, mgr, controls[*unit]{
			name: "event-delivery", reconcile: e.deliver, queue: &e.deliveries, newQueue: e.fair.RateLimiting, workers: 2 * deliveriesShared,
			logValues: (*unit).logValues, watch: source.TypedKind(rules, &v1alpha1.NetBoxEventRule{}, ruleChanges),
		}),
		control(e, mgr, controls[writeKey]{
			name: "event-status", reconcile: e.write, queue: &e.writes, newQueue: writes.RateLimiting, workers: 2 * writesShared,
			logValues: writeKey.logValues,
		}),
		mgr.Add(manager.RunnableFunc(e.feed)),
		mgr.Add(manager.RunnableFunc(e.drain)),
		mgr.Add(manager.RunnableFunc(e.guard.run)),
	)
}

// controls configures one controller.
type controls[T comparable] struct {
	name      string
	reconcile func(context.Context, T) (reconcile.Result, error)
	queue     *workqueue.TypedRateLimitingInterface[T] // set when the controller starts
	newQueue  func(name string, limiter workqueue.TypedRateLimiter[T]) workqueue.TypedRateLimitingInterface[T]
	workers   int
	logValues func(T) []any
	watch     source.TypedSource[T] // nil for none
}

// control adds a controller to a manager.
func control[T comparable](e *Engine, mgr manager.Manager, c controls[T]) error {
	controlled := builder.TypedControllerManagedBy[T](mgr).
		Named(c.name).
		WatchesRawSource(source.TypedFunc[T](func(_ context.Context, queue workqueue.TypedRateLimitingInterface[T]) error {
			*c.queue = queue
			e.queueReady <- struct{}{}
			return nil
		})).
		WithOptions(controller.TypedOptions[T]{
			MaxConcurrentReconciles: c.workers,
			RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[T](minBackoff, maxBackoff),
			NewQueue:                c.newQueue,
			SkipNameValidation:      new(true), // the manager is made again when leadership was lost
		}).
		WithLogConstructor(func(item *T) logr.Logger {
			if item == nil {
				return e.Log
			}
			return e.Log.WithValues(c.logValues(*item)...)
		})
	if c.watch != nil {
		controlled = controlled.WatchesRawSource(c.watch)
	}
	return controlled.Complete(reconcile.TypedFunc[T](c.reconcile))
}

// ruleUpdated retries the parked deliveries of a changed rule at once: it may name other sinks.
func (e *Engine) ruleUpdated(
	_ context.Context, change ctrlevent.TypedUpdateEvent[*v1alpha1.NetBoxEventRule], queue workqueue.TypedRateLimitingInterface[*unit],
) {
	if change.ObjectOld.Generation == change.ObjectNew.Generation {
		return
	}
	for _, parked := range e.circuits.reset(change.ObjectNew) {
		queue.Add(parked)
	}
	name := client.ObjectKeyFromObject(change.ObjectNew)
	for _, waiting := range append(e.limits.reset(name), e.ledger.groupUnitsOf(name)...) { // its limit and its groups may be others
		queue.Add(waiting)
	}
	e.Tally.SinkChanged(name)
}

// ruleDeleted ends the deliveries of a deleted rule, and removes its metrics.
func (e *Engine) ruleDeleted(
	_ context.Context, gone ctrlevent.TypedDeleteEvent[*v1alpha1.NetBoxEventRule], queue workqueue.TypedRateLimitingInterface[*unit],
) {
	name := client.ObjectKeyFromObject(gone.Object)
	e.Metrics.forget(name)
	e.Compiled.Forget(gone.Object)
	e.circuits.forget(name)
	e.limits.forget(name)
	for _, waiting := range e.ledger.unitsOf(name) {
		queue.Add(waiting)
	}
}

// beginWork registers a delivery in flight. It returns false once this replica drains.
func (e *Engine) beginWork() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.stopping {
		e.inFlight.Add(1)
	}
	return !e.stopping
}

func (e *Engine) isStopping() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.stopping
}

// drain ends the deliveries when this replica loses the leadership, and stores their results.
func (e *Engine) drain(ctx context.Context) error {
	<-ctx.Done()
	e.mu.Lock()
	e.stopping = true
	e.mu.Unlock()
	late := time.AfterFunc(drainTime, e.cancelDeliveries)
	e.inFlight.Wait()
	late.Stop()
	saving := time.AfterFunc(saveTime, e.endWork)
	e.writeAll()
	saving.Stop()
	e.endWork()
	return nil
}
