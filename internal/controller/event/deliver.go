package event

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/otel/trace"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/priorityqueue"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/action"
	"github.com/netbox-events/netbox-event-operator/internal/oneline"
	"github.com/netbox-events/netbox-event-operator/internal/rule"
	"github.com/netbox-events/netbox-event-operator/internal/tracing"
)

// replayPause is how long an event that is replayed waits for others of its object. Many are annotated by kubectl one after the other in
// the order of their names, which is not that in which NetBox made them.
const replayPause = 5 * time.Second

// await has nothing done about an event before a time.
func (w *work) await(at metav1.Time) {
	for i := range w.status.Rules {
		for j := range w.status.Rules[i].Actions {
			w.status.Rules[i].Actions[j].NextAttemptTime = &at
		}
	}
}

// begin starts the work on an event, or goes on with it where another replica left it.
func (r *Reconciler) begin(ctx context.Context, event *v1alpha1.NetBoxEvent) (*work, error) {
	kept := *event // what is in the cache is read only, and the list that it came in is to be let go of
	w := &work{event: &kept, running: map[string]bool{}, span: r.trace(ctx, event)}
	replay := event.Annotations[v1alpha1.AnnotationReplay]
	if event.Status.StartTime != nil && !isReplay(event, &event.Status) {
		event.Status.DeepCopyInto(&w.status)
		return w, nil
	}
	// Templates see it as now: as it is stored, so that they say the same after a restart.
	started := metav1.NewTime(r.Clock.Now().Truncate(time.Second))
	w.status = v1alpha1.NetBoxEventStatus{Phase: v1alpha1.PhasePending, StartTime: &started, Replay: replay}
	if err := r.match(ctx, w); err != nil {
		return nil, err
	}
	if replay != "" {
		w.await(metav1.NewTime(started.Add(replayPause)))
	}
	logEvent(r.Log, event)
	return w, nil
}

// maxShownErrors is how many expression errors an event's status shows.
const maxShownErrors = 8

// match decides which rules and actions an event matches.
func (r *Reconciler) match(ctx context.Context, w *work) error {
	var rules v1alpha1.NetBoxEventRuleList
	if err := r.Rules.List(ctx, &rules, client.InNamespace(w.event.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		return err
	}
	ctx, span := tracing.Start(ctx, w.span, "match", trace.SpanKindInternal)
	defer span.End()
	input := rule.NewInput(w.event, w.status.StartTime.Time)
	failures := map[string]string{}
	for i := range rules.Items {
		candidate := &rules.Items[i]
		compiled, err := r.Compiled.Get(candidate)
		if err != nil {
			continue // its status says so
		}
		name := client.ObjectKeyFromObject(candidate)
		matched, err := compiled.Match(ctx, w.event, input)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			failures[candidate.Name] = err.Error()
			r.Tally.ExpressionFailed(name, w.event.Name+": "+err.Error())
			r.Metrics.expressionFailed(name)
			r.notices.expressionFailed(candidate, w.event, err)
		case matched:
			w.status.Rules = append(w.status.Rules, newRuleStatus(candidate))
			r.Tally.Matched(name, w.status.StartTime.Time)
		}
	}
	slices.SortFunc(w.status.Rules, func(a, b v1alpha1.RuleStatus) int { return strings.Compare(a.Name, b.Name) })
	describeMatch(span, w.status.Rules)
	if condition := matchedCondition(w.status.Rules, failures); condition != nil {
		condition.ObservedGeneration, condition.LastTransitionTime = w.event.Generation, *w.status.StartTime
		w.status.Conditions = append(w.status.Conditions, *condition)
	}
	return nil
}

func newRuleStatus(of *v1alpha1.NetBoxEventRule) v1alpha1.RuleStatus {
	status := v1alpha1.RuleStatus{Name: of.Name, State: v1alpha1.DeliveryPending}
	for i := range of.Spec.Actions {
		status.Actions = append(status.Actions, v1alpha1.ActionStatus{Name: of.Spec.Actions[i].Name, State: v1alpha1.DeliveryPending})
	}
	return status
}

// matchedCondition says what the rules had to do with an event. It is nil where they had nothing.
func matchedCondition(matched []v1alpha1.RuleStatus, failures map[string]string) *metav1.Condition {
	condition := &metav1.Condition{Type: v1alpha1.ConditionMatched, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonExpressionError}
	if len(matched) > 0 {
		condition.Status = metav1.ConditionTrue
	}
	switch {
	case len(failures) > 0:
		var lines []string
		for _, name := range slices.Sorted(maps.Keys(failures)) {
			lines = append(lines, fmt.Sprintf("the expression of rule %s failed, so that it does not match: %.200s", name, failures[name]))
		}
		if more := len(lines) - maxShownErrors; more > 0 {
			lines = append(lines[:maxShownErrors], fmt.Sprintf("and of %d more rules", more))
		}
		condition.Message = strings.Join(lines, "; ")
	case len(matched) > 0:
		condition.Reason = v1alpha1.ReasonRulesMatched
		condition.Message = fmt.Sprintf("%d rules match", len(matched))
		if len(matched) == 1 {
			condition.Message = "1 rule matches"
		}
	default:
		return nil
	}
	return condition
}

// start has a rule do its events as soon as it is its turn, and wakes the lane after each. The turn ends when what became of them is
// written down: a sink that is faster than the API server does not get far ahead of it, to get all of that again after a kill.
func (r *Reconciler) start(lane Lane, due *delivery) {
	rule := types.NamespacedName{Namespace: lane.Namespace, Name: due.rule}
	r.delivery.submit(rule, due.works[0].wasTried(due.rule), func(ctx context.Context) {
		var last *work
		defer func() { last.awaitSave(r.delivery.stopping) }()
		for i, w := range due.works {
			done, failed := r.deliverOne(ctx, w, rule)
			last = w
			if !done {
				for _, held := range due.works[i+1:] {
					held.release(due.rule)
				}
			}
			var priority int
			if failed {
				priority = retryPriority
			}
			r.queue.AddWithOpts(priorityqueue.AddOpts{Priority: &priority}, lane)
			if !done {
				return
			}
		}
	})
}

func (w *work) wasTried(name string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(w.status.Rules, func(status v1alpha1.RuleStatus) bool {
		return status.Name == name && slices.ContainsFunc(status.Actions, func(action v1alpha1.ActionStatus) bool { return action.Attempts > 0 })
	})
}

// deliverOne has a rule do one event. It tells whether nothing is left to do, and whether an action failed.
func (r *Reconciler) deliverOne(ctx context.Context, w *work, name types.NamespacedName) (done, failed bool) {
	actions, input := w.actions(name.Name)
	failed = r.act(ctx, w, name, actions, input)
	return w.ended(name.Name), failed
}

// mayDeliver tells whether something may be begun about an event now: that it was done can be written down, and matters.
func (r *Reconciler) mayDeliver(w *work) bool {
	return !r.delivery.isStopped() && !r.blocked().After(r.Clock.Now()) && !w.isEnding()
}

// act does the actions of a rule that are due, as the rule is now, one after the other, and takes note of each. It tells whether one
// failed.
func (r *Reconciler) act(
	ctx context.Context, w *work, name types.NamespacedName, actions []v1alpha1.ActionStatus, input *rule.Input,
) (failed bool) {
	var current v1alpha1.NetBoxEventRule
	if err := r.Rules.Get(ctx, name, &current, client.UnsafeDisableDeepCopy); err != nil {
		return false // it is gone: the lane will skip it
	}
	compiled, invalid := r.Compiled.Get(&current)
	for i := range actions {
		status := &actions[i]
		if !isDue(status, r.Clock.Now()) {
			continue
		}
		if !r.mayDeliver(w) {
			return failed
		}
		var response string
		var err error
		span := tracing.None
		if invalid != nil {
			err = fmt.Errorf("the rule is not accepted: %w", invalid) // and may be mended
		} else if found := find(compiled.Actions, status.Name); found != nil {
			var traced context.Context
			traced, span = traceAttempt(ctx, w.span, name, status, found)
			response, err = r.attempt(traced, action.Task{Rule: &current, Action: found, Event: w.event, Input: input})
		} else {
			continue // the lane will skip it
		}
		if err != nil && ctx.Err() != nil {
			span.End()
			return failed // cut off, which is nobody's failure
		}
		now := r.Clock.Now()
		attempted(status, &current.Spec.Retry, response, err, now)
		endAttempt(span, status)
		w.note(name.Name, actions, now)
		if i+1 < len(actions) { // the next can take long
			r.queue.AddWithOpts(priorityqueue.AddOpts{After: saveDelay, Priority: new(retryPriority)}, laneOf(w.event))
		}
		r.Metrics.attempted(name, status)
		if err != nil {
			failed = true
			r.notices.failed(&current, w.event, status, err)
		}
	}
	return failed
}

// attempt does an action once.
func (r *Reconciler) attempt(ctx context.Context, task action.Task) (response string, err error) {
	ctx, cancel := context.WithTimeout(ctx, task.Rule.Spec.Retry.Timeout.Duration)
	defer cancel()
	defer func() {
		if cause := recover(); cause != nil {
			err = &action.Failure{Err: fmt.Errorf("a fault of the operator: %v", cause), Final: true}
			r.Log.WithValues(naming(task.Event)...).Error(err, "panic in an action", "rule", task.Rule.Name, "stack", string(debug.Stack()))
		}
	}()
	return r.Actions.Do(ctx, task)
}

func find(actions []rule.Action, name string) *rule.Action {
	for i := range actions {
		if actions[i].Spec.Name == name {
			return &actions[i]
		}
	}
	return nil
}

// actions returns a copy of the states of a rule's actions, and what their templates see.
func (w *work) actions(name string) (actions []v1alpha1.ActionStatus, input *rule.Input) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range w.status.Rules {
		if w.status.Rules[i].Name == name {
			actions = w.status.Rules[i].DeepCopy().Actions
		}
	}
	return actions, rule.NewInput(w.event, w.status.StartTime.Time)
}

// note takes note of what became of a rule's actions.
func (w *work) note(name string, actions []v1alpha1.ActionStatus, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.isAhead(now)
	for i := range w.status.Rules {
		if status := &w.status.Rules[i]; status.Name == name {
			status.Actions, status.State = slices.Clone(actions), ruleState(actions)
		}
	}
}

// ended takes note that a rule no longer does an event. It tells whether nothing is left to do.
func (w *work) ended(name string) (done bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.running, name)
	return !w.ending && !slices.ContainsFunc(w.status.Rules, func(status v1alpha1.RuleStatus) bool {
		return status.Name == name && status.State == v1alpha1.DeliveryPending
	})
}

// release takes note that a rule was not begun after all.
func (w *work) release(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.running, name)
}

func isDue(status *v1alpha1.ActionStatus, now time.Time) bool {
	return status.State == v1alpha1.DeliveryPending && (status.NextAttemptTime == nil || !status.NextAttemptTime.After(now))
}

// maxErrorBytes is how much of an error the status keeps.
const maxErrorBytes = 1024

// attempted takes note of an attempt that ended now.
func attempted(status *v1alpha1.ActionStatus, retry *v1alpha1.Retry, response string, err error, now time.Time) {
	status.Attempts++
	status.LastAttemptTime, status.NextAttemptTime = new(metav1.NewTime(now)), nil
	status.Response, status.LastError = response, ""
	if err == nil {
		status.State = v1alpha1.DeliverySucceeded
		return
	}
	status.LastError = oneline.Of(err.Error(), maxErrorBytes)
	failure, ok := errors.AsType[*action.Failure](err)
	switch {
	case ok && failure.Final, status.Attempts >= retry.MaxAttempts:
		status.State = v1alpha1.DeliveryFailed
	default:
		pause := backoff(retry, status.Attempts)
		if ok {
			pause = max(pause, failure.RetryAfter)
		}
		status.NextAttemptTime = new(metav1.NewTime(now.Add(pause)))
	}
}

// backoff is the pause after an attempt that failed, the first being 1: it doubles, up to a limit, and up to half of it is left off by
// chance, so that not all come back at once.
func backoff(retry *v1alpha1.Retry, attempt int32) time.Duration {
	pause := retry.Backoff.Duration
	for ; attempt > 1 && pause < retry.MaxBackoff.Duration; attempt-- {
		pause *= 2
	}
	pause = min(pause, retry.MaxBackoff.Duration)
	return pause - rand.N(pause/2+1) //nolint:gosec // to spread load
}
