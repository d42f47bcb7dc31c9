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
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/action"
	"github.com/netbox-events/netbox-event-operator/internal/delivery"
	"github.com/netbox-events/netbox-event-operator/internal/eventstore"
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
	defer func() {
		for _, next := range e.limits.settle(u) {
			e.deliveries.Add(next)
		}
	}()
	if u.groups != nil {
		wait, err := e.deliverGroup(u) //nolint:contextcheck // see above
		return reconcile.Result{RequeueAfter: wait}, err
	}
	entry := e.ledger.next(u)
	if entry == nil {
		e.limits.drop(u)
		return reconcile.Result{}, nil
	}
	wait, err := e.deliverEvent(u, entry, nil) //nolint:contextcheck // see above
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

// deliverGroup delivers the next group of a unit, or waits for it to close.
func (e *Engine) deliverGroup(u *unit) (wait time.Duration, err error) {
	current, err := e.rule(u.rule)
	if err != nil {
		return 0, err
	}
	if current == nil || current.Spec.Group == nil {
		for _, single := range e.ledger.ungroup(u, current != nil && current.Spec.Order == v1alpha1.OrderPerObject) {
			e.deliveries.Add(single)
		}
		return 0, nil
	}
	defer func() {
		noted, again := e.ledger.noteGrouping(u, current.Spec.Group, e.Clock.Now())
		for _, entry := range noted {
			e.queueWrite(entry)
		}
		if again > 0 && (wait == 0 || again < wait) {
			wait = again
		}
	}()
	next, first, wait := e.ledger.nextGroup(u, current.Spec.Group, current.Spec.Order == v1alpha1.OrderPerObject, e.Clock.Now())
	if next == nil {
		e.limits.drop(u)
		return wait, nil
	}
	if toStore := e.ledger.recordGroup(u, next, current, e.Clock.Now()); toStore != nil {
		e.queueWrite(toStore) // stored queues the unit
		return 0, nil
	}
	if e.ledger.lost(next) > 0 {
		if err := e.adoptOutcome(u, next); err != nil {
			return 0, err
		}
	}
	if !e.ledger.isDelivered(u, next) {
		if wait, err = e.deliverEvent(u, first, next); err != nil {
			return 0, err
		}
	}
	if e.ledger.isDelivered(u, next) {
		e.finishGroup(u, next)
	}
	return wait, nil
}

// finishGroup stores the statuses of the events of a delivered group.
func (e *Engine) finishGroup(u *unit, g *group) {
	toStore, units := e.ledger.finishGroup(u, g, e.Clock.Now())
	for _, entry := range toStore {
		e.queueWrite(entry)
	}
	for _, waiting := range units {
		e.deliveries.Add(waiting)
	}
	if len(toStore) > 0 {
		e.matches.Add(toStore[len(toStore)-1]) // a replay may have waited for the first event
	}
}

// adoptOutcome looks for the outcome of a group that another replica closed, and of which events are finished: if the replica delivered it,
// their stored statuses say so.
func (e *Engine) adoptOutcome(u *unit, g *group) error {
	var finished v1alpha1.NetBoxEventList
	err := e.Events.List(e.work, &finished, client.InNamespace(u.rule.Namespace), client.Limit(1),
		client.MatchingFieldsSelector{Selector: eventstore.FinishedInGroup(g.id)})
	if err != nil {
		return err
	}
	var status v1alpha1.NetBoxEventStatus
	if len(finished.Items) > 0 {
		status = finished.Items[0].Status
	}
	e.ledger.adoptOutcome(g, u.rule.Name, &status)
	return nil
}

// deliverEvent attempts the due actions of a rule for an event, or for a group by its first event. It returns the time until the next
// action is due, 0 if none is left or all that are left wait for their sinks.
func (e *Engine) deliverEvent(u *unit, entry *entry, g *group) (wait time.Duration, err error) {
	states, ok := e.ledger.acquire(entry, u)
	if !ok {
		e.limits.drop(u)
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
	d := &attempts{Engine: e, unit: u, entry: entry, group: g, rule: current, states: states, status: e.ledger.statusOf(entry)}
	if d.advance() {
		d.record(false)
	}
	if current == nil {
		e.limits.forget(u.rule)
		return 0, nil
	}
	next := d.next()
	if next == nil {
		return d.wait(), nil
	}
	if wait, ok := d.limit(); !ok {
		return wait, nil
	}
	defer d.unlimit()
	if g != nil {
		events := min(g.size, maxGroupEvents)
		if err := e.groupEvents.Acquire(e.deliveryContext, int64(events)); err != nil {
			return 0, nil // this replica no longer leads
		}
		defer e.groupEvents.Release(int64(events))
	}
	for ; next != nil; next = d.next() {
		if e.guard.isStalled() {
			return stallInterval, nil
		}
		if e.isStopping() || !e.ledger.isWanted(entry) {
			return 0, nil
		}
		if goOn, err := d.act(next); !goOn || err != nil {
			return d.later, err
		}
	}
	return d.wait(), nil
}

// maxGroupEvents bounds the events of groups that are in memory for deliveries at one time. It is the maximum of group.maxEvents.
const maxGroupEvents = 5000

// attempts executes the due actions of a rule for one event, or for one group of events.
type attempts struct {
	*Engine
	unit   *unit
	entry  *entry
	group  *group                    // nil for a single event
	rule   *v1alpha1.NetBoxEventRule // nil for a deleted one
	states []v1alpha1.ActionStatus
	status *v1alpha1.NetBoxEventStatus

	event  *v1alpha1.NetBoxEvent   // read when it is needed; the last of a group
	events []*v1alpha1.NetBoxEvent // all of them
	input  *rule.Input
	parked []string // actions that wait for their sinks
	asked  answers
	later  time.Duration // until NetBox is to be asked again

	comesToNothing bool // the group, which has group.net
}

// advance skips the actions that are not to be executed, and adds those of onFailure when the rule gives up. It reports whether it did.
func (d *attempts) advance() (changed bool) {
	d.states, changed = delivery.Advance(d.states, d.rule, d.Clock.Now())
	return changed
}

// next returns the next action that is due and does not wait for its sink, nil for none.
func (d *attempts) next() *v1alpha1.ActionStatus {
	for i := range d.states {
		if state := &d.states[i]; !slices.Contains(d.parked, state.Name) && delivery.IsDue(state, d.states, d.rule, d.Clock.Now()) {
			return state
		}
	}
	return nil
}

// ruleStatus returns the state of the rule when the delivery began.
func (d *attempts) ruleStatus() *v1alpha1.RuleStatus {
	return delivery.RuleIn(d.status, d.unit.rule.Name)
}

// limit asks whether the rule's limit allows the delivery now. If not, wait is the time until it is to be asked again, 0 if the unit is
// queued by then.
func (d *attempts) limit() (wait time.Duration, ok bool) {
	spec := d.rule.Spec.Limit
	if spec == (v1alpha1.Limit{}) {
		return 0, true
	}
	if spec.Concurrency > 0 && !d.Synced() { // deliveries that wait for their results may not be known yet
		return unlistedInterval, false
	}
	return d.limits.start(d.unit, d.entry, d.ruleStatus().LimitKey, spec, d.Clock.Now())
}

// unlistedInterval is the pause of a delivery that has to wait until all events are listed.
const unlistedInterval = time.Second

// unlimit ends a delivery that limit allowed, unless it waits for its result.
func (d *attempts) unlimit() {
	if !d.ledger.isWaiting(d.entry, d.unit.rule.Name) {
		d.freePlaces(d.unit.rule.Name, d.entry)
	}
}

// act attempts an action if its sink is available. It returns false if the work on the event must stop.
func (d *attempts) act(state *v1alpha1.ActionStatus) (goOn bool, err error) {
	if ready, goOn, err := d.ask(state); !ready {
		return goOn, err
	}
	if execute, goOn, err := d.applyWhen(state); !execute {
		return goOn, err
	}
	sink, now := sink{d.unit.rule, state.Name}, d.Clock.Now()
	deadline := delivery.Deadline(d.status, state, &d.rule.Spec.Retry)
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
	if state.WaitingSince != nil && outcome.Err == nil && outcome.Wait > 0 {
		d.keepWaiting(state, *outcome)
		return true, nil
	}
	delivery.RecordAttempt(state, *outcome, &d.rule.Spec.Retry, deadline, now)
	endAttempt(span, state)
	d.ended(state, outcome.Err, outcome.Err == nil)
	return true, nil
}

// keepWaiting records that an action still waits for its result. No status is written for that, and it counts as no attempt.
func (d *attempts) keepWaiting(state *v1alpha1.ActionStatus, outcome delivery.Outcome) {
	delivery.RecordAttempt(state, outcome, &d.rule.Spec.Retry, time.Time{}, d.Clock.Now())
	d.ledger.waits(d.entry, d.unit.rule.Name, d.states)
}

// prepare reads what an evaluation for an action needs, and registers it with the journal until end is called. It returns no action if
// the evaluation must not be made.
func (d *attempts) prepare(state *v1alpha1.ActionStatus) (found *rule.Action, end func(), err error) {
	compiled, err := d.Compiled.Get(d.rule)
	if err != nil {
		return nil, nil, &invalidError{err}
	}
	if d.event == nil {
		if ok, err := d.read(); !ok || err != nil {
			return nil, nil, err
		}
	}
	work := d.entry.work(delivery.RecordedReplay(d.status), d.unit.rule.Name, state.Name)
	end, err = d.Journal.Begin(d.deliveryContext, work)
	if poison, ok := errors.AsType[*journal.PoisonError](err); ok {
		d.setAsideAll(work, poison.Crashes)
		return nil, nil, nil
	} else if err != nil {
		return nil, nil, nil //nolint:nilerr // this replica no longer leads
	}
	if d.input == nil {
		d.setInput(compiled)
	}
	return compiled.Find(state.Name), sync.OnceFunc(end), nil // advance left no action that it does not have
}

// setAsideAll sets aside the event, or all events of the group.
func (d *attempts) setAsideAll(work string, crashes int) {
	for _, entry := range d.entries() {
		d.setAside(entry, work, crashes)
	}
}

// entries returns the event, or those of the group in NetBox's order.
func (d *attempts) entries() []*entry {
	if d.group == nil {
		return []*entry{d.entry}
	}
	return d.ledger.entriesOf(d.group)
}

// read reads the event, or all events of the group. It returns false if they were deleted.
func (d *attempts) read() (ok bool, err error) {
	if d.events, err = d.bodies(d.entries()); len(d.events) == 0 || err != nil {
		return false, err
	}
	d.event = d.events[len(d.events)-1]
	return true, nil
}

// setInput sets the variables of expressions.
func (d *attempts) setInput(compiled *rule.Rule) {
	now := d.status.StartTime.Time
	switch {
	case compiled.Group == nil:
		d.input = rule.NewInput(d.event, now)
	case d.group == nil: // it matched before the rule had groups
		d.input, _ = rule.NewGroupInput(d.events, d.event.Name, false, now)
	default:
		input, isLeft := rule.NewGroupInput(d.events, d.group.id, compiled.Group.Net, now)
		if !isLeft {
			d.comesToNothing = true
			return
		}
		d.input, d.events = input, input.Events()
		d.event = d.events[len(d.events)-1]
	}
}

// bodiesAtOnce is how many events of a group are read at one time.
const bodiesAtOnce = 8

// bodies returns the events that were not deleted.
func (e *Engine) bodies(entries []*entry) ([]*v1alpha1.NetBoxEvent, error) {
	events := make([]*v1alpha1.NetBoxEvent, len(entries))
	var reads errgroup.Group
	reads.SetLimit(bodiesAtOnce)
	for i, entry := range entries {
		reads.Go(func() (err error) {
			events[i], err = e.body(entry)
			return err
		})
	}
	err := reads.Wait()
	return slices.DeleteFunc(events, func(event *v1alpha1.NetBoxEvent) bool { return event == nil }), err
}

// invalidError is the error of a rule that is not accepted, and may be corrected.
type invalidError struct{ error }

// Error names the cause.
func (e *invalidError) Error() string { return "the rule is not accepted: " + e.error.Error() }

// applyWhen skips an action whose when is false, or whose group comes to nothing, and fails one whose when fails. It returns whether to
// execute the action, and false for goOn if the work on the event must stop.
func (d *attempts) applyWhen(state *v1alpha1.ActionStatus) (execute, goOn bool, err error) {
	isNet := d.group != nil && d.rule.Spec.Group.Net
	wasTrue := state.Attempts > 0 && !d.asks() // NetBox may have failed to answer before when was evaluated
	if wasTrue || state.WaitingSince != nil || !isNet && delivery.SpecOf(d.rule, state.Name).When == "" {
		return true, true, nil
	}
	found, end, err := d.prepare(state)
	if _, invalid := errors.AsType[*invalidError](err); invalid {
		return true, true, nil // attempt says so
	}
	if found == nil || err != nil {
		return false, false, err
	}
	defer end()
	switch {
	case d.comesToNothing:
		delivery.Skip(state, "the changes of the group come to nothing")
		d.ended(state, nil, false)
		return false, true, nil
	case found.When == nil:
		return true, true, nil
	}
	holds, err := found.When.Holds(d.deliveryContext, d.inputFor(found))
	switch {
	case d.deliveryContext.Err() != nil:
		return false, false, nil
	case holds:
		return true, true, nil
	case err != nil && !d.cannotBeTried(found):
		delivery.Fail(state, "when: "+err.Error())
		d.ended(state, errors.New(state.LastError), false)
	case err != nil:
		delivery.Skip(state, "dry run: when needs the result of another action: "+err.Error())
		d.ended(state, nil, false)
	default:
		delivery.Skip(state, "when is false")
		d.ended(state, nil, false)
	}
	return false, true, nil
}

// cannotBeTried reports whether an action needs the results of others, of which a dry run has none.
func (d *attempts) cannotBeTried(found *rule.Action) bool {
	return d.rule.Spec.DryRun && found.UsesResults
}

// attempt executes an action once. The outcome is nil if the attempt could not be made, or was canceled because this replica lost the
// leadership.
func (d *attempts) attempt(state *v1alpha1.ActionStatus) (*delivery.Outcome, trace.Span, error) {
	found, end, err := d.prepare(state)
	if _, invalid := errors.AsType[*invalidError](err); invalid {
		return &delivery.Outcome{Err: err}, tracing.None, nil
	}
	if found == nil || err != nil {
		return nil, nil, err
	}
	defer end()
	ctx, span := traceAttempt(d.deliveryContext, d.ledger.spanOf(d.entry), d.unit.rule, state, found)
	result, err := d.do(ctx, d.task(state, found, end))
	if err != nil && d.deliveryContext.Err() != nil {
		span.End()
		return nil, nil, nil
	}
	outcome := &delivery.Outcome{Response: result.Response, Kept: result.Kept, Wait: result.Wait, Err: err}
	if failure, ok := errors.AsType[*action.Failure](err); ok {
		outcome.Permanent, outcome.Unavailable = failure.Permanent, failure.Unavailable
		outcome.Throttled, outcome.RetryAfter = failure.Throttled, failure.RetryAfter
	}
	if outcome.Permanent && d.cannotBeTried(found) {
		*outcome = delivery.Outcome{Response: "dry run: it needs the result of another action: " + err.Error()}
	}
	return outcome, span, nil
}

// inputFor returns the variables of an action's expressions.
func (d *attempts) inputFor(found *rule.Action) *rule.Input {
	input := d.input
	if found.UsesResults {
		results := map[string]v1alpha1.JSONObject{}
		for i := range d.states {
			if d.states[i].State == v1alpha1.DeliverySucceeded {
				results[d.states[i].Name] = d.states[i].Result
			}
		}
		input = input.WithResults(results)
	}
	if failed := delivery.Failed(d.states); failed != nil {
		input = input.WithFailure(rule.Failure{Action: failed.Name, Error: failed.LastError, Attempts: failed.Attempts})
	}
	return input
}

// task returns the task of an attempt at an action.
func (d *attempts) task(state *v1alpha1.ActionStatus, found *rule.Action, rendered func()) action.Task {
	task := action.Task{
		Rule: d.rule, Action: found, Event: d.event, Input: d.inputFor(found), Rendered: rendered,
		IsDryRun: d.rule.Spec.DryRun, IsRemoval: d.ruleStatus().Removal,
	}
	if state.WaitingSince != nil {
		task.WaitingSince = state.WaitingSince.Time
	}
	if d.group != nil {
		task.Group = &action.Group{ID: d.group.id, Events: d.events}
	}
	return task
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
	attempted := *state
	d.advance()
	d.record(delivered)
	d.Metrics.attempted(d.unit.rule, &attempted)
	if err != nil {
		d.notices.failed(d.rule, d.entry, d.event, &attempted, err)
	}
}

// wait returns the time until the next action is due that does not wait for its sink, 0 for none.
func (d *attempts) wait() time.Duration {
	if delivery.RuleState(d.states) == v1alpha1.DeliveryPending {
		d.ledger.hibernate(d.entry)
	}
	if next := delivery.Next(d.states, d.rule, d.parked); !next.IsZero() {
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
		deadline, ok := e.ledger.deadline(entry, s, &current.Spec.Retry)
		return ok && !now.Before(deadline)
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
