package event

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/otel/trace"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/delivery"
	"github.com/netbox-events/netbox-event-operator/internal/journal"
	"github.com/netbox-events/netbox-event-operator/internal/rule"
	"github.com/netbox-events/netbox-event-operator/internal/tracing"
)

// matchTimeout bounds the matching of one event with all rules of its namespace. A rule takes some microseconds, and some tenths of a
// second where its expression uses up CEL's cost limit.
const matchTimeout = 10 * time.Second

// match decides which rules an event that is new, or is replayed, matches, and starts its deliveries. An event that was matched before, by
// even by another replica, keeps its matches.
func (e *Engine) match(_ context.Context, event *entry) (reconcile.Result, error) {
	if replay, ok := e.ledger.toMatch(event); ok {
		if err := e.begin(event, replay); err != nil { //nolint:contextcheck // e.work is the context of all work
			return reconcile.Result{}, err
		}
	}
	return reconcile.Result{}, e.startDeliveries(event)
}

// begin matches an event, and sets its first status.
func (e *Engine) begin(entry *entry, replay delivery.Replay) error {
	event, err := e.body(entry)
	if event == nil || err != nil {
		return err
	}
	work := entry.work(replay)
	end, err := e.Journal.Begin(e.work, work)
	if poison, ok := errors.AsType[*journal.PoisonError](err); ok {
		e.setAside(entry, work, poison.Crashes)
		return nil
	} else if err != nil {
		return err
	}
	defer end()
	span := e.trace(e.work, event)
	now := e.Clock.Now()
	result, err := e.evaluate(event, replay, span, now.Truncate(time.Second))
	if err != nil {
		span.End()
		return err
	}
	status := e.firstStatuses.intern(delivery.NewStatus(result.rules, result.errors, replay, now))
	if !e.ledger.start(entry, status, span) {
		span.End()
		return nil
	}
	if replay != (delivery.Replay{}) { // this status takes the place of that of earlier deliveries, and of their groups
		e.freePlaces(replay.Rule, entry)
		e.settleGroups(entry, nil)
	}
	e.report(event, result, now)
	logEvent(e.Log, event)
	return nil
}

// evaluation is the result of matching an event with the rules of its namespace.
type evaluation struct {
	rules  []v1alpha1.RuleStatus
	errors map[string]error // of rules that could not be matched
	failed []*v1alpha1.NetBoxEventRule
}

// evaluate matches an event with all rules of its namespace, or with the one that a replay is of.
func (e *Engine) evaluate(event *v1alpha1.NetBoxEvent, replay delivery.Replay, span trace.Span, now time.Time) (*evaluation, error) {
	var rules v1alpha1.NetBoxEventRuleList
	if err := e.Rules.List(e.work, &rules, client.InNamespace(event.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(e.work, matchTimeout)
	defer cancel()
	ctx, span = tracing.Start(ctx, span, "match", trace.SpanKindInternal)
	defer span.End()
	input, result := rule.NewInput(event, now), &evaluation{errors: map[string]error{}}
	if replay.Rule != "" {
		result.errors[replay.Rule] = errNotReplayed
	}
	for i := range rules.Items {
		candidate := &rules.Items[i]
		if candidate.Spec.Suspend || replay.Rule != "" && replay.Rule != candidate.Name {
			continue
		}
		compiled, err := e.Compiled.Get(candidate)
		if err != nil {
			continue // its status says so
		}
		delete(result.errors, candidate.Name)
		status, err := matchOne(ctx, candidate, compiled, event, input)
		switch {
		case e.work.Err() != nil:
			return nil, e.work.Err()
		case err != nil && ctx.Err() != nil:
			err = fmt.Errorf("not evaluated: matching this event with all rules of the namespace takes longer than %s", matchTimeout)
			fallthrough
		case err != nil:
			result.errors[candidate.Name] = err
			result.failed = append(result.failed, candidate)
		case status != nil:
			result.rules = append(result.rules, *status)
		}
	}
	slices.SortFunc(result.rules, func(a, b v1alpha1.RuleStatus) int { return strings.Compare(a.Name, b.Name) })
	describeMatch(span, result.rules)
	return result, nil
}

// errNotReplayed is why a rule that a replay names was not matched.
var errNotReplayed = errors.New(
	"there is no such rule that is ready and not suspended; correct the annotation " + v1alpha1.AnnotationReplayRule)

// matchOne matches an event with one rule. It returns the first status of the rule, nil if the event does not concern it.
func matchOne(
	ctx context.Context, candidate *v1alpha1.NetBoxEventRule, compiled *rule.Rule, event *v1alpha1.NetBoxEvent, input *rule.Input,
) (*v1alpha1.RuleStatus, error) {
	matched, err := compiled.Match(ctx, event, input)
	if err != nil {
		return nil, err
	}
	var status v1alpha1.RuleStatus
	switch {
	case matched:
		status = delivery.NewRuleStatus(candidate)
	case compiled.Removes(event, input):
		status = delivery.NewRemoval(candidate)
	default:
		return nil, nil
	}
	if compiled.Group != nil {
		status.Group = &v1alpha1.GroupStatus{Key: delivery.Key(compiled.GroupKey(ctx, event, input))}
	}
	status.LimitKey = delivery.Key(compiled.LimitKey(ctx, input))
	return &status, nil
}

// report counts an evaluation, and reports failed expressions.
func (e *Engine) report(event *v1alpha1.NetBoxEvent, result *evaluation, now time.Time) {
	for i := range result.rules {
		if result.rules[i].Removal {
			continue
		}
		e.Tally.Matched(types.NamespacedName{Namespace: event.Namespace, Name: result.rules[i].Name}, now)
	}
	for _, failed := range result.failed {
		name, err := client.ObjectKeyFromObject(failed), result.errors[failed.Name]
		e.Tally.ExpressionFailed(name, event.Name+": "+err.Error())
		e.Metrics.expressionFailed(name)
		e.notices.expressionFailed(failed, event, err)
	}
}

// startDeliveries queues the deliveries of an event, and later ones of its lane that waited for it to be matched.
func (e *Engine) startDeliveries(entry *entry) error {
	status := e.ledger.statusOf(entry)
	if status == nil {
		return nil
	}
	unordered := map[string]bool{}
	for i := range status.Rules {
		found, err := e.rule(types.NamespacedName{Namespace: entry.name.Namespace, Name: status.Rules[i].Name})
		if err != nil {
			return err
		}
		unordered[status.Rules[i].Name] = found != nil && found.Spec.Order == v1alpha1.OrderNone
	}
	for _, u := range e.ledger.enterLane(entry, func(rule string) bool { return !unordered[rule] }) {
		e.deliveries.Add(u)
	}
	e.queueWrite(entry) // where no rule matches, it is finished
	return nil
}

// setAside fails an event whose processing crashed the operator repeatedly, in a piece of work that the journal identifies.
func (e *Engine) setAside(entry *entry, work string, crashes int) {
	e.Log.Error(nil, "the operator crashed repeatedly while it processed this event; it is set aside, see its status",
		append(entry.logValues(), "crashes", crashes)...)
	e.ledger.setAside(entry, work, crashes, e.Clock.Now())
	e.freePlaces("", entry)
	e.wakeLane(entry)
	e.queueWrite(entry)
}

// rule returns a cached rule, nil for none. It must not be changed.
func (e *Engine) rule(name types.NamespacedName) (*v1alpha1.NetBoxEventRule, error) {
	var found v1alpha1.NetBoxEventRule
	if err := e.Rules.Get(e.work, name, &found, client.UnsafeDisableDeepCopy); err != nil {
		return nil, client.IgnoreNotFound(err)
	}
	return &found, nil
}

// body returns an event, from the API server unless the ledger holds it; nil if it was deleted.
func (e *Engine) body(entry *entry) (*v1alpha1.NetBoxEvent, error) {
	if held := e.ledger.bodyOf(entry); held != nil {
		return held, nil
	}
	var event v1alpha1.NetBoxEvent
	if err := e.Events.Get(e.work, entry.name, &event); err != nil {
		return nil, client.IgnoreNotFound(err)
	}
	if event.UID != entry.uid {
		return nil, nil
	}
	return &event, nil
}
