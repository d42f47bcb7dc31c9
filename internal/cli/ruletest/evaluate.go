package ruletest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/action"
	"github.com/netbox-events/netbox-event-operator/internal/delivery"
	"github.com/netbox-events/netbox-event-operator/internal/rule"
)

// Given is what an evaluation gets instead of the cluster, of NetBox and of sinks.
type Given struct {
	// Now is the variable now of expressions; the zero time for the time of the event.
	Now time.Time
	// Secrets are values of a rule's secrets, by their names. Those that are absent have placeholders.
	Secrets map[string]string
	// Lookups are answers of NetBox in JSON, by the names of a rule's lookups.
	Lookups map[string][]byte
	// Results are results of actions, by their names.
	Results map[string]v1alpha1.JSONObject
	// Failures are errors of actions that fail, by their names.
	Failures map[string]string
}

// Evaluate matches events with a rule, and renders its actions for each that it matches, or, where the rule groups, for each group. It
// returns an outcome for each group, and for each other event. The events are in NetBox's order.
//
// It does not regard spec.suspend, spec.dryRun and spec.confirm, nor the times of group: all matching events with one key make a group.
func Evaluate(ctx context.Context, r *Rule, events []*v1alpha1.NetBoxEvent, given Given) []*Outcome {
	var outcomes []*Outcome
	groups := map[string]*Outcome{} // open ones by key
	for _, event := range events {
		event = inNamespace(event, r.Namespace)
		input := rule.NewInput(event, given.now(event))
		outcome := &Outcome{Rule: r.Name, events: []*v1alpha1.NetBoxEvent{event}}
		matched, err := r.Compiled.Match(ctx, event, input)
		switch {
		case err != nil:
			outcome.Error = err.Error()
		case matched && r.Compiled.Group != nil:
			key := delivery.Key(r.Compiled.GroupKey(ctx, event, input))
			if open := groups[key]; open != nil && len(open.events) < int(r.Compiled.Group.MaxEvents) {
				open.events = append(open.events, event)
				continue
			}
			outcome.Matched, outcome.groupKey = true, key
			groups[key] = outcome
		default:
			outcome.Matched, outcome.Removes = matched, !matched && r.Compiled.Removes(event, input)
		}
		outcomes = append(outcomes, outcome)
	}
	for _, outcome := range outcomes {
		outcome.Event = outcome.events[len(outcome.events)-1].Name
		if outcome.Matched || outcome.Removes {
			newAttempt(r, outcome, given).run(ctx)
		}
	}
	return outcomes
}

// inNamespace returns an event as it would be in a namespace: that of a rule that sees it.
func inNamespace(event *v1alpha1.NetBoxEvent, namespace string) *v1alpha1.NetBoxEvent {
	moved := *event
	moved.Namespace = cmp.Or(namespace, "default")
	return &moved
}

func (g *Given) now(event *v1alpha1.NetBoxEvent) time.Time {
	now := g.Now
	if now.IsZero() {
		now = event.Spec.Timestamp.Time
	}
	return now.Truncate(time.Second) // as in the status
}

// attempt executes the actions of a rule once, without effects.
type attempt struct {
	rule    *v1alpha1.NetBoxEventRule
	actions *rule.Rule
	given   Given
	outcome *Outcome

	states  []v1alpha1.ActionStatus
	event   *v1alpha1.NetBoxEvent // the last one of a group
	group   *action.Group         // nil for a single event
	input   *rule.Input           // nil for a group that comes to nothing
	lookups error                 // why the lookups have no answers
}

// missingError is the error of an evaluation that lacks something that is not given.
type missingError struct{ error }

// Unwrap returns the error.
func (e *missingError) Unwrap() error { return e.error }

func newAttempt(r *Rule, outcome *Outcome, given Given) *attempt {
	eventRule := r.DeepCopy()
	eventRule.Namespace = outcome.events[0].Namespace
	a := &attempt{rule: eventRule, actions: r.Compiled, given: given, outcome: outcome}
	a.states = delivery.NewRuleStatus(eventRule).Actions
	if outcome.Removes {
		a.states = delivery.NewRemoval(eventRule).Actions
	}
	a.event = outcome.events[len(outcome.events)-1]
	now := given.now(a.event)
	if r.Compiled.Group == nil {
		a.input = rule.NewInput(a.event, now)
		return a
	}
	id := delivery.GroupID(eventRule.Namespace, eventRule.Name, outcome.groupKey, string(outcome.events[0].UID), delivery.Replay{})
	input, isLeft := rule.NewGroupInput(outcome.events, id, r.Compiled.Group.Net, now)
	if isLeft {
		a.input, a.group = input, &action.Group{ID: id, Events: input.Events()}
		a.event = a.group.Events[len(a.group.Events)-1]
	}
	return a
}

// run executes the actions in their order, as the operator does.
func (a *attempt) run(ctx context.Context) {
	a.look(ctx)
	now := a.given.now(a.event)
	for {
		a.states, _ = delivery.Advance(a.states, a.rule, now)
		next := slices.IndexFunc(a.states, func(state v1alpha1.ActionStatus) bool { return delivery.IsDue(&state, a.states, a.rule, now) })
		if next < 0 {
			break
		}
		a.act(ctx, &a.states[next])
	}
	for i := range a.states {
		state := &a.states[i]
		result := a.outcome.action(state.Name)
		switch state.State {
		case v1alpha1.DeliveryFailed:
			result.Error = state.LastError
		case v1alpha1.DeliverySkipped:
			result.Skipped = state.Response
		default:
		}
	}
}

// look renders the requests to NetBox, and takes the answers.
func (a *attempt) look(ctx context.Context) {
	if a.input == nil {
		return
	}
	for i := range a.actions.Lookups {
		lookup := &a.actions.Lookups[i]
		query, err := lookup.Query(ctx, a.input)
		if err != nil {
			a.lookups = fmt.Errorf("lookups[%s]: %w", lookup.Name, err)
			return
		}
		a.outcome.Lookups = append(a.outcome.Lookups, Lookup{lookup.Name, query.Path, query.GraphQL, query.Variables})
	}
	for _, lookup := range a.outcome.Lookups {
		if _, ok := a.given.Lookups[lookup.Name]; !ok {
			a.lookups = &missingError{fmt.Errorf(
				"lookups[%s]: the answer of NetBox is not given; add it to lookups of the test, or by --lookup", lookup.Name)}
			return
		}
	}
	a.input = a.input.WithLookups(a.given.Lookups)
}

// act executes one action, and sets its state.
func (a *attempt) act(ctx context.Context, state *v1alpha1.ActionStatus) {
	found := a.actions.Find(state.Name)
	if a.input == nil {
		delivery.Skip(state, "the changes of the group come to nothing")
		return
	}
	if a.lookups != nil {
		a.fail(state, a.lookups)
		return
	}
	input := a.inputFor(found)
	if found.When != nil {
		switch holds, err := found.When.Holds(ctx, input); {
		case err != nil:
			a.fail(state, a.explain(found, fmt.Errorf("when: %w", err)))
			return
		case !holds:
			delivery.Skip(state, "when is false")
			return
		}
	}
	if found.Spec.HTTP != nil {
		input = input.WithSecrets(secretsFor(found, a.given.Secrets), nil)
	}
	rendering, err := action.Render(ctx, action.Task{
		Rule: a.rule, Action: found, Event: a.event, Group: a.group, Input: input, IsRemoval: a.outcome.Removes,
	})
	if err != nil {
		a.fail(state, a.explain(found, err))
		return
	}
	a.outcome.action(state.Name).render(found, rendering)
	if text, fails := a.given.Failures[state.Name]; fails {
		delivery.Fail(state, text)
		return
	}
	state.State, state.Result = v1alpha1.DeliverySucceeded, a.given.Results[state.Name]
}

func (a *attempt) fail(state *v1alpha1.ActionStatus, err error) {
	_, lacks := errors.AsType[*missingError](err)
	a.outcome.action(state.Name).lacks = lacks
	delivery.Fail(state, err.Error())
}

// inputFor returns the variables of an action's expressions.
func (a *attempt) inputFor(found *rule.Action) *rule.Input {
	input := a.input
	if found.UsesResults {
		results := map[string]v1alpha1.JSONObject{}
		for i := range a.states {
			if a.states[i].State == v1alpha1.DeliverySucceeded {
				results[a.states[i].Name] = a.states[i].Result
			}
		}
		input = input.WithResults(results)
	}
	if failed := delivery.Failed(a.states); failed != nil {
		input = input.WithFailure(rule.Failure{Action: failed.Name, Error: failed.LastError, Attempts: 1})
	}
	return input
}

// explain adds to the error of an action that uses results which of them are not given.
func (a *attempt) explain(found *rule.Action, err error) error {
	if !found.UsesResults {
		return err
	}
	var missing []string
	for i := range a.actions.Actions {
		other := &a.actions.Actions[i]
		if other == found {
			break // it may use results of those before it alone
		}
		if other.HasResult() && a.given.Results[other.Spec.Name] == nil {
			missing = append(missing, other.Spec.Name)
		}
	}
	if len(missing) == 0 {
		return err
	}
	return &missingError{fmt.Errorf(
		"%w; no result of %s is given; add it to results of the test, or by --result", err, strings.Join(missing, ", "))}
}
