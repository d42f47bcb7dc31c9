package delivery

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/oneline"
)

// replayPause is how long an event that is replayed waits for others of its object. Many are annotated by kubectl one after the other in
// the order of their names, which is not that in which NetBox made them.
const replayPause = 5 * time.Second

const (
	// maxErrorBytes is how much of an error the status keeps.
	maxErrorBytes = 1024
	// maxReplayBytes is how much of the annotation that asks for a replay the status keeps.
	maxReplayBytes = 64
	// maxCutBytes is how much the message of a cut status keeps of the whole one's.
	maxCutBytes = 512
	// maxShownErrors is how many expression errors the status shows.
	maxShownErrors = 8
)

// Pending returns the state of a rule that has just matched: none of its actions was tried.
func Pending(rule *v1alpha1.NetBoxEventRule) v1alpha1.RuleStatus {
	status := v1alpha1.RuleStatus{Name: rule.Name, State: v1alpha1.DeliveryPending}
	for i := range rule.Spec.Actions {
		status.Actions = append(status.Actions, v1alpha1.ActionStatus{Name: rule.Spec.Actions[i].Name, State: v1alpha1.DeliveryPending})
	}
	return status
}

// Begin returns the status of an event that matched some rules just now, sorted by name. The errors are those of the rules whose
// expressions failed, by name. Replay is the value of the annotation that asked for a replay, "" for none.
func Begin(rules []v1alpha1.RuleStatus, errors map[string]error, replay string, now time.Time) *v1alpha1.NetBoxEventStatus {
	// Templates see the start as now: to the second, as it is stored, so that they render the same after a restart.
	started := metav1.NewTime(now.Truncate(time.Second))
	status := &v1alpha1.NetBoxEventStatus{Phase: v1alpha1.PhasePending, Rules: rules, Replay: replay, StartTime: &started}
	if len(errors) > 0 {
		failed := failedExpressions(errors, len(rules) > 0)
		failed.LastTransitionTime = started
		status.Conditions = []metav1.Condition{failed}
	}
	if replay != "" {
		status.Rules = deferred(rules, metav1.NewTime(started.Add(replayPause)))
	}
	return status
}

// deferred returns a copy of rules with no attempt before a time.
func deferred(rules []v1alpha1.RuleStatus, until metav1.Time) []v1alpha1.RuleStatus {
	copied := slices.Clone(rules)
	for i := range copied {
		copied[i].Actions = slices.Clone(copied[i].Actions)
		for j := range copied[i].Actions {
			copied[i].Actions[j].NextAttemptTime = &until
		}
	}
	return copied
}

// IsReplay reports whether the annotation of an event asks for a replay that its status is not of.
func IsReplay(annotation string, status *v1alpha1.NetBoxEventStatus) bool {
	return annotation != "" && annotation != status.Replay
}

// Replay returns the value of the annotation that asks for a replay of an event, "" for none. The status repeats it, so that a long one is
// replaced by its beginning and a hash.
func Replay(event metav1.Object) string {
	value := event.GetAnnotations()[v1alpha1.AnnotationReplay]
	if len(value) <= maxReplayBytes {
		return value
	}
	hash := fmt.Sprintf("…%.10x", sha256.Sum256([]byte(value)))
	return oneline.Of(value[:maxReplayBytes-len(hash)], maxReplayBytes) + hash
}

// Outcome is the result of an attempt at an action.
type Outcome struct {
	// Response is the sink's answer in short, also where the attempt failed.
	Response string
	// Err is nil after a success.
	Err error
	// Final: another attempt would fail as well.
	Final bool
	// Unavailable: attempts for other events would fail as well.
	Unavailable bool
	// Throttled: the sink takes fewer deliveries than it gets.
	Throttled bool
	// RetryAfter is how long the sink asked to be left alone, 0 where it did not ask.
	RetryAfter time.Duration
}

// Deadline is when an action is no longer tried: retry.for after the processing of the event, or of its replay, began.
func Deadline(status *v1alpha1.NetBoxEventStatus, retry *v1alpha1.Retry) time.Time {
	return status.StartTime.Add(retry.For.Duration)
}

// Attempted records an attempt that ended now. An attempt that the sink answered by asking to wait is not counted.
func Attempted(action *v1alpha1.ActionStatus, outcome Outcome, retry *v1alpha1.Retry, deadline, now time.Time) {
	asked := outcome.Err != nil && outcome.RetryAfter > 0
	if !asked {
		action.Attempts++
	}
	action.LastAttemptTime, action.NextAttemptTime = new(metav1.NewTime(now)), nil
	action.Response, action.LastError = outcome.Response, ""
	if outcome.Err == nil {
		action.State = v1alpha1.DeliverySucceeded
		return
	}
	action.LastError = oneline.Of(outcome.Err.Error(), maxErrorBytes)
	switch {
	case outcome.Final,
		!now.Before(deadline),
		!asked && retry.MaxAttempts > 0 && action.Attempts >= retry.MaxAttempts:
		action.State = v1alpha1.DeliveryFailed
	case asked:
		action.NextAttemptTime = new(metav1.NewTime(now.Add(outcome.RetryAfter)))
	default: // the last attempt is at the deadline
		next := now.Add(Backoff(retry, int(action.Attempts)))
		if next.After(deadline) {
			next = deadline
		}
		action.NextAttemptTime = new(metav1.NewTime(next))
	}
}

// GiveUp fails an action that waited for its sink until the deadline.
func GiveUp(action *v1alpha1.ActionStatus, cause string) {
	action.State, action.NextAttemptTime = v1alpha1.DeliveryFailed, nil
	action.LastError = oneline.Of(cause, maxErrorBytes)
}

// Backoff is the pause after a failed attempt, the first being 1: it doubles, up to a limit, and up to half of it is left off at random, so
// that retries spread out.
func Backoff(retry *v1alpha1.Retry, attempt int) time.Duration {
	pause := retry.Backoff.Duration
	for ; attempt > 1 && pause < retry.MaxBackoff.Duration; attempt-- {
		pause *= 2
	}
	pause = min(pause, retry.MaxBackoff.Duration)
	return pause - rand.N(pause/2+1) //nolint:gosec // G404: it spreads load; guessing it gains nothing
}

// SkipMissing ends the pending actions that a rule no longer has; all of them where the rule is nil, because it is gone. It reports whether
// there were any.
func SkipMissing(actions []v1alpha1.ActionStatus, rule *v1alpha1.NetBoxEventRule) (skipped bool) {
	for i := range actions {
		action := &actions[i]
		if action.State == v1alpha1.DeliveryPending && (rule == nil || !hasAction(rule, action.Name)) {
			action.State, action.NextAttemptTime, skipped = v1alpha1.DeliverySkipped, nil, true
		}
	}
	return skipped
}

func hasAction(rule *v1alpha1.NetBoxEventRule, name string) bool {
	return slices.ContainsFunc(rule.Spec.Actions, func(action v1alpha1.Action) bool { return action.Name == name })
}

// IsDue reports whether an action may be tried now.
func IsDue(action *v1alpha1.ActionStatus, now time.Time) bool {
	return action.State == v1alpha1.DeliveryPending && (action.NextAttemptTime == nil || !action.NextAttemptTime.After(now))
}

// Next is when the next pending action is due, the zero time for at once.
func Next(actions []v1alpha1.ActionStatus) time.Time {
	var next time.Time
	for i := range actions {
		switch action := &actions[i]; {
		case action.State != v1alpha1.DeliveryPending:
		case action.NextAttemptTime == nil:
			return time.Time{}
		case next.IsZero() || action.NextAttemptTime.Time.Before(next):
			next = action.NextAttemptTime.Time
		}
	}
	return next
}

// RuleState sums up the states of a rule's actions.
func RuleState(actions []v1alpha1.ActionStatus) v1alpha1.DeliveryState {
	for _, state := range []v1alpha1.DeliveryState{v1alpha1.DeliveryPending, v1alpha1.DeliveryFailed, v1alpha1.DeliverySkipped} {
		if slices.ContainsFunc(actions, func(action v1alpha1.ActionStatus) bool { return action.State == state }) {
			return state
		}
	}
	return v1alpha1.DeliverySucceeded
}

// IsDone reports whether no rule is pending.
func IsDone(status *v1alpha1.NetBoxEventStatus) bool {
	return !slices.ContainsFunc(status.Rules, func(rule v1alpha1.RuleStatus) bool { return rule.State == v1alpha1.DeliveryPending })
}

// Summarize sets the phase, the conditions and the completion time by the states of the rules.
func Summarize(status *v1alpha1.NetBoxEventStatus, generation int64, now time.Time) {
	if isSetAside(status) {
		return
	}
	status.Phase = phase(status.Rules)
	if status.Phase.IsFinished() {
		status.CompletionTime = new(metav1.NewTime(now))
	}
	if found := meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionMatched); found != nil {
		found.ObservedGeneration = generation
	} else if len(status.Rules) > 0 {
		setCondition(status, matched(len(status.Rules)), generation, status.StartTime.Time)
	}
	setCondition(status, succeeded(status.Rules), generation, now)
}

func isSetAside(status *v1alpha1.NetBoxEventStatus) bool {
	condition := meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionSucceeded)
	return condition != nil && condition.Reason == v1alpha1.ReasonSetAside
}

func setCondition(status *v1alpha1.NetBoxEventStatus, condition metav1.Condition, generation int64, at time.Time) {
	condition.ObservedGeneration, condition.LastTransitionTime = generation, metav1.NewTime(at)
	meta.SetStatusCondition(&status.Conditions, condition)
}

// SetAside returns the status of an event at which the operator's process ended several times.
func SetAside(status *v1alpha1.NetBoxEventStatus, replay string, deaths int, generation int64, now time.Time) *v1alpha1.NetBoxEventStatus {
	if status == nil || IsReplay(replay, status) {
		status = Begin(nil, nil, replay, now)
	}
	failed := *status
	failed.Rules = nil
	for _, rule := range status.Rules {
		rule.Actions = slices.Clone(rule.Actions)
		for i := range rule.Actions {
			if rule.Actions[i].State == v1alpha1.DeliveryPending {
				GiveUp(&rule.Actions[i], "set aside")
			}
		}
		rule.State = RuleState(rule.Actions)
		failed.Rules = append(failed.Rules, rule)
	}
	failed.Phase, failed.CompletionTime = v1alpha1.PhaseFailed, new(metav1.NewTime(now))
	setCondition(&failed, metav1.Condition{
		Type: v1alpha1.ConditionSucceeded, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonSetAside,
		Message: fmt.Sprintf("the operator's process ended %d times while it evaluated the expressions of rules on this event, which is "+
			"therefore set aside; simplify the expressions of the rules that match it, and annotate the event with %s=<any new value>",
			deaths, v1alpha1.AnnotationReplay),
	}, generation, now)
	return &failed
}

// Shorten returns statuses that say less than one that does not fit into the event, the longest first: without the errors and responses of
// actions, and, where the event is finished, without the states of its rules.
func Shorten(status *v1alpha1.NetBoxEventStatus) []*v1alpha1.NetBoxEventStatus {
	withoutTexts := *status
	withoutTexts.Rules = slices.Clone(status.Rules)
	for i := range withoutTexts.Rules {
		rule := &withoutTexts.Rules[i]
		rule.Actions = slices.Clone(rule.Actions)
		for j := range rule.Actions {
			rule.Actions[j].LastError, rule.Actions[j].Response = "", ""
		}
	}
	if status.Phase == v1alpha1.PhasePending {
		return []*v1alpha1.NetBoxEventStatus{&withoutTexts}
	}
	withoutRules := *status
	withoutRules.Rules, withoutRules.Conditions = nil, nil
	if found := meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionSucceeded); found != nil {
		cut := *found
		cut.Reason = v1alpha1.ReasonStatusCut
		cut.Message = fmt.Sprintf("the event leaves no room for the states of its %d rules: %s", len(status.Rules),
			oneline.Of(found.Message, maxCutBytes))
		withoutRules.Conditions = []metav1.Condition{cut}
	}
	return []*v1alpha1.NetBoxEventStatus{&withoutTexts, &withoutRules}
}

// phase is the phase of an event whose rules have some states.
func phase(rules []v1alpha1.RuleStatus) v1alpha1.Phase {
	phase := v1alpha1.PhaseSucceeded
	for i := range rules {
		switch rules[i].State {
		case v1alpha1.DeliveryPending:
			return v1alpha1.PhasePending
		case v1alpha1.DeliveryFailed:
			phase = v1alpha1.PhaseFailed
		default:
		}
	}
	return phase
}

// succeeded describes the progress of an event, by the action that needs most attention.
func succeeded(rules []v1alpha1.RuleStatus) metav1.Condition {
	condition := metav1.Condition{
		Type: v1alpha1.ConditionSucceeded, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonDelivered, Message: "all actions are done",
	}
	if len(rules) == 0 {
		condition.Reason, condition.Message = v1alpha1.ReasonLogged, "the event was logged; no rule matches it"
	}
	not := func(reason, format string, args ...any) {
		condition.Status, condition.Reason, condition.Message = metav1.ConditionFalse, reason, fmt.Sprintf(format, args...)
	}
	for i := range rules {
		for _, action := range rules[i].Actions {
			switch {
			case action.State == v1alpha1.DeliveryFailed:
				not(v1alpha1.ReasonDeliveryFailed,
					"rule %s, action %s failed permanently after attempt %d: %s; fix the cause, and annotate the event with %s=<any new value>",
					rules[i].Name, action.Name, action.Attempts, action.LastError, v1alpha1.AnnotationReplay)
				return condition
			case action.State == v1alpha1.DeliveryPending && action.NextAttemptTime != nil && action.LastError != "":
				not(v1alpha1.ReasonRetrying, "rule %s, action %s failed at attempt %d and is retried at %s: %s",
					rules[i].Name, action.Name, action.Attempts, action.NextAttemptTime.UTC().Format(time.RFC3339), action.LastError)
			case action.State == v1alpha1.DeliveryPending && condition.Status == metav1.ConditionTrue:
				not(v1alpha1.ReasonDelivering, "rule %s, action %s is not done yet", rules[i].Name, action.Name)
			}
		}
	}
	return condition
}

func matched(rules int) metav1.Condition {
	condition := metav1.Condition{
		Type: v1alpha1.ConditionMatched, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonRulesMatched, Message: "1 rule matches",
	}
	if rules != 1 {
		condition.Message = fmt.Sprintf("%d rules match", rules)
	}
	return condition
}

// failedExpressions says which rules do not match because their expressions failed.
func failedExpressions(errors map[string]error, matched bool) metav1.Condition {
	condition := metav1.Condition{Type: v1alpha1.ConditionMatched, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonExpressionError}
	if matched {
		condition.Status = metav1.ConditionTrue
	}
	var lines []string
	for _, name := range slices.Sorted(maps.Keys(errors)) {
		lines = append(lines, fmt.Sprintf("the expression of rule %s failed, so that it does not match: %.200s", name, errors[name]))
	}
	if more := len(lines) - maxShownErrors; more > 0 {
		lines = append(lines[:maxShownErrors], fmt.Sprintf("and of %d more rules", more))
	}
	condition.Message = strings.Join(lines, "; ")
	return condition
}

// Merge returns a status with the progress of both ours and the stored one, which another replica wrote meanwhile. An action that ended in
// either has ended: a late write must not make an event do again what it has done. They must be of the same replay.
func Merge(ours, stored *v1alpha1.NetBoxEventStatus) *v1alpha1.NetBoxEventStatus {
	merged := ours.DeepCopy()
	for i := range merged.Rules {
		rule := &merged.Rules[i]
		at := slices.IndexFunc(stored.Rules, func(other v1alpha1.RuleStatus) bool { return other.Name == rule.Name })
		if at >= 0 {
			rule.Actions = MergeActions(rule.Actions, stored.Rules[at].Actions)
			rule.State = RuleState(rule.Actions)
		}
	}
	return merged
}

// MergeActions returns a copy of the states of a rule's actions in which each is as far as in one of two lists.
func MergeActions(ours, others []v1alpha1.ActionStatus) []v1alpha1.ActionStatus {
	merged := slices.Clone(ours)
	for i := range merged {
		for j := range others {
			if others[j].Name == merged[i].Name && isFurther(&others[j], &merged[i]) {
				merged[i] = others[j]
			}
		}
	}
	return merged
}

func isFurther(a, b *v1alpha1.ActionStatus) bool {
	aEnded, bEnded := a.State != v1alpha1.DeliveryPending, b.State != v1alpha1.DeliveryPending
	if aEnded != bEnded {
		return aEnded
	}
	return a.Attempts > b.Attempts
}
