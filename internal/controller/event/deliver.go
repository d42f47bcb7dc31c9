package event

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/action"
	"github.com/netbox-events/netbox-event-operator/internal/delivery"
	"github.com/netbox-events/netbox-event-operator/internal/fairqueue"
	"github.com/netbox-events/netbox-event-operator/internal/journal"
	"github.com/netbox-events/netbox-event-operator/internal/rule"
	"github.com/netbox-events/netbox-event-operator/internal/tracing"
)

// deliver delivers the next event of a unit. Its context ends with the leadership, and deliveries go on for a while: they have their own.
func (e *Engine) deliver(_ context.Context, u *unit) (reconcile.Result, error) {
	if u.action != "" {
		return reconcile.Result{RequeueAfter: e.releaseSink(sink{u.rule, u.action})}, nil
	}
	if !e.beginWork() {
		return reconcile.Result{}, nil
	}
	defer e.inFlight.Done()
	entry := e.ledger.next(u)
	if entry == nil {
		return reconcile.Result{}, nil
	}
	wait, err := e.deliverEvent(u, entry) //nolint:contextcheck // see above
	if err != nil {
		return reconcile.Result{}, err
	}
	if wait == 0 && u.line != nil && e.ledger.hasMore(u) && e.ledger.next(u) != entry {
		e.deliveries.Add(u) // behind the waiting deliveries of other objects
	}
	return reconcile.Result{RequeueAfter: wait}, nil
}

// stallInterval is the pause where nothing may start because this process was stopped for some time.
const stallInterval = time.Second

// deliverEvent attempts the due actions of a rule. It returns the time until the next action is due, 0 if none is left or all that are left
// wait for their sinks.
func (e *Engine) deliverEvent(u *unit, entry *entry) (wait time.Duration, err error) {
	states, ok := e.ledger.acquire(entry, u)
	if !ok {
		return 0, nil
	}
	defer func() {
		if e.ledger.release(entry, u) {
			e.matches.Add(entry)
		}
	}()
	current, err := e.rule(u.rule)
	if err != nil {
		return 0, err
	}
	d := &attempts{Engine: e, unit: u, entry: entry, rule: current, states: states, status: e.ledger.statusOf(entry)}
	if delivery.SkipMissing(states, current) {
		d.record(false)
	}
	for i := range states {
		if !delivery.IsDue(&states[i], e.Clock.Now()) {
			continue
		}
		if e.guard.isStalled() {
			return stallInterval, nil
		}
		if e.isStopping() || !e.ledger.isWanted(entry) {
			return 0, nil
		}
		if goOn, err := d.act(&states[i]); !goOn || err != nil {
			return 0, err
		}
	}
	return d.wait(), nil
}

// attempts executes the due actions of a rule for one event.
type attempts struct {
	*Engine
	unit   *unit
	entry  *entry
	rule   *v1alpha1.NetBoxEventRule
	states []v1alpha1.ActionStatus
	status *v1alpha1.NetBoxEventStatus

	event  *v1alpha1.NetBoxEvent // read when it is needed
	input  *rule.Input
	parked []string // actions that wait for their sinks
}

// act attempts an action if its sink is available. It returns false if the work on the event must stop.
func (d *attempts) act(state *v1alpha1.ActionStatus) (goOn bool, err error) {
	sink, now := sink{d.unit.rule, state.Name}, d.Clock.Now()
	deadline := delivery.Deadline(d.status, &d.rule.Spec.Retry)
	ticket, ok := d.circuits.start(sink, d.unit, now)
	switch {
	case !ok && now.Before(deadline):
		d.parked = append(d.parked, state.Name)
		d.deliveries.Add(d.circuits.unit(sink))
		return true, nil
	case !ok:
		delivery.Fail(state, d.circuits.cause(sink))
		d.ended(state, errors.New(state.LastError), false)
		return true, nil
	}
	outcome, span, err := d.attempt(state)
	if err != nil || outcome == nil {
		d.circuits.cancel(sink, ticket)
		return false, err
	}
	now = d.Clock.Now()
	changed, release := d.circuits.end(sink, ticket, *outcome, &d.rule.Spec.Retry, now)
	if changed {
		d.Tally.SinkChanged(sink.rule)
	}
	if release {
		d.deliveries.Add(d.circuits.unit(sink))
	}
	delivery.RecordAttempt(state, *outcome, &d.rule.Spec.Retry, deadline, now)
	endAttempt(span, state)
	d.ended(state, outcome.Err, outcome.Err == nil)
	return true, nil
}

// attempt executes an action once. The outcome is nil if the attempt could not be made, or was canceled because this replica lost the
// leadership.
func (d *attempts) attempt(state *v1alpha1.ActionStatus) (*delivery.Outcome, trace.Span, error) {
	if d.event == nil {
		event, err := d.body(d.entry)
		if event == nil || err != nil {
			return nil, nil, err
		}
		d.event, d.input = event, rule.NewInput(event, d.status.StartTime.Time)
	}
	compiled, invalid := d.Compiled.Get(d.rule)
	if invalid != nil { // it may be corrected
		return &delivery.Outcome{Err: fmt.Errorf("the rule is not accepted: %w", invalid)}, tracing.None, nil
	}
	work := d.entry.work(d.status.Replay, d.unit.rule.Name, state.Name)
	end, err := d.Journal.Begin(d.deliveryContext, work)
	if poison, ok := errors.AsType[*journal.PoisonError](err); ok {
		d.setAside(d.entry, work, poison.Crashes)
		return nil, nil, nil
	} else if err != nil {
		return nil, nil, nil // this replica no longer leads
	}
	end = sync.OnceFunc(end)
	defer end()
	at := slices.IndexFunc(compiled.Actions, func(action rule.Action) bool { return action.Spec.Name == state.Name })
	found := &compiled.Actions[at] // SkipMissing left no other
	ctx, span := traceAttempt(d.deliveryContext, d.ledger.spanOf(d.entry), d.unit.rule, state, found)
	result, err := d.do(ctx, action.Task{Rule: d.rule, Action: found, Event: d.event, Input: d.input, Rendered: end})
	if err != nil && d.deliveryContext.Err() != nil {
		span.End()
		return nil, nil, nil
	}
	outcome := &delivery.Outcome{Response: result.Response, Err: err}
	if failure, ok := errors.AsType[*action.Failure](err); ok {
		outcome.Permanent, outcome.Unavailable = failure.Permanent, failure.Unavailable
		outcome.Throttled, outcome.RetryAfter = failure.Throttled, failure.RetryAfter
	}
	return outcome, span, nil
}

// do does an action once, within the rule's timeout.
func (d *attempts) do(ctx context.Context, task action.Task) (result action.Result, err error) {
	ctx, cancel := context.WithTimeout(ctx, task.Rule.Spec.Retry.Timeout.Duration)
	defer cancel()
	defer func() {
		if cause := recover(); cause != nil {
			err = &action.Failure{Err: fmt.Errorf("panic in the operator: %v", cause), Permanent: true}
			d.Log.WithValues(naming(task.Event)...).Error(err, "panic in an action", "rule", task.Rule.Name, "stack", string(debug.Stack()))
		}
	}()
	return d.Actions.Do(ctx, task)
}

// record stores the states of the actions in the ledger.
func (d *attempts) record(delivered bool) {
	d.ledger.record(d.entry, d.unit.rule.Name, d.states, delivered, d.Clock.Now())
	d.queueWrite(d.entry)
}

// ended records the end of an attempt, and reports a failure.
func (d *attempts) ended(state *v1alpha1.ActionStatus, err error, delivered bool) {
	d.record(delivered)
	d.Metrics.attempted(d.unit.rule, state)
	if err != nil {
		d.notices.failed(d.rule, d.entry, d.event, state, err)
	}
}

// wait returns the time until the next action is due that does not wait for its sink, 0 for none.
func (d *attempts) wait() time.Duration {
	if delivery.RuleState(d.states) == v1alpha1.DeliveryPending {
		d.ledger.hibernate(d.entry)
	}
	others := slices.DeleteFunc(slices.Clone(d.states), func(state v1alpha1.ActionStatus) bool {
		return slices.Contains(d.parked, state.Name)
	})
	if next := delivery.Next(others); !next.IsZero() {
		return max(next.Sub(d.Clock.Now()), time.Millisecond)
	}
	return 0
}

// releaseSink queues the parked deliveries that may go to a sink now, and the expired ones. It returns the time until the next call.
func (e *Engine) releaseSink(s sink) time.Duration {
	now := e.Clock.Now()
	current, err := e.rule(s.rule)
	switch {
	case err != nil:
		return windowInterval
	case current == nil: // ruleDeleted queues its parked deliveries
		return 0
	}
	overdue := func(parked *unit) bool {
		entry := e.ledger.next(parked)
		if entry == nil {
			return true
		}
		status := e.ledger.statusOf(entry)
		return status != nil && !now.Before(delivery.Deadline(status, &current.Spec.Retry))
	}
	units, again, changed := e.circuits.release(s, overdue, now)
	for _, released := range units {
		e.deliveries.Add(released)
	}
	if changed {
		e.Tally.SinkChanged(s.rule)
	}
	return again
}

// deliveryLimit is how many deliveries of a rule may be in flight.
func (e *Engine) deliveryLimit(flow fairqueue.Flow) int {
	return min(deliveriesPerRule, unsavedPerRule-e.ledger.unsavedOf(types.NamespacedName{Namespace: flow.Group, Name: flow.Name}))
}
