package delivery

import (
	"encoding/json"
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

const (
	// maxErrorBytes bounds an error in the status.
	maxErrorBytes = 1024
	// maxCutBytes bounds the original message within the message of a cut status.
	maxCutBytes = 512
	// maxShownErrors bounds the number of expression errors in the status.
	maxShownErrors = 8
)

// NewRuleStatus returns the status of a rule that has just matched: all its actions are pending.
func NewRuleStatus(rule *v1alpha1.NetBoxEventRule) v1alpha1.RuleStatus {
	return newRuleStatus(rule, func(*v1alpha1.Action) bool { return true })
}

// NewRemoval returns the status of a rule that does not match an event whose NetBox object may have matched earlier: its Mirror actions
// are pending.
func NewRemoval(rule *v1alpha1.NetBoxEventRule) v1alpha1.RuleStatus {
	status := newRuleStatus(rule, func(action *v1alpha1.Action) bool {
		return action.Apply != nil && action.Apply.Operation == v1alpha1.OperationMirror
	})
	status.Removal = true
	return status
}

func newRuleStatus(rule *v1alpha1.NetBoxEventRule, has func(*v1alpha1.Action) bool) v1alpha1.RuleStatus {
	status := v1alpha1.RuleStatus{Name: rule.Name, State: v1alpha1.DeliveryPending}
	for i := range rule.Spec.Actions {
		if action := &rule.Spec.Actions[i]; has(action) {
			status.Actions = append(status.Actions, v1alpha1.ActionStatus{Name: action.Name, State: v1alpha1.DeliveryPending})
		}
	}
	return status
}

// NewStatus returns the status of an event that has just been matched, for the first time or for a replay. The rules are sorted by name.
// The errors are those of rules that could not be matched, by rule name.
func NewStatus(rules []v1alpha1.RuleStatus, errors map[string]error, replay Replay, now time.Time) *v1alpha1.NetBoxEventStatus {
	// The variable now of templates is this time, to the second, as it is stored, so that they render the same after a restart.
	started := metav1.NewTime(now.Truncate(time.Second))
	status := &v1alpha1.NetBoxEventStatus{
		Phase: v1alpha1.PhasePending, Rules: rules, Replay: replay.Value, ReplayRule: replay.Rule, StartTime: &started,
	}
	if len(errors) > 0 {
		failed := unmatched(errors, len(rules) > 0)
		failed.LastTransitionTime = started
		status.Conditions = []metav1.Condition{failed}
	}
	if replay != (Replay{}) {
		status.Rules = deferRules(rules, metav1.NewTime(started.Add(replayPause)))
	}
	return status
}

// deferRules returns a copy of rules whose actions have their next attempt at a time.
func deferRules(rules []v1alpha1.RuleStatus, until metav1.Time) []v1alpha1.RuleStatus {
	copied := slices.Clone(rules)
	for i := range copied {
		copied[i].Actions = slices.Clone(copied[i].Actions)
		for j := range copied[i].Actions {
			copied[i].Actions[j].NextAttemptTime = &until
		}
	}
	return copied
}

// Outcome is the result of an attempt at an action.
type Outcome struct {
	// Response is a summary of the sink's response, also if the attempt failed.
	Response string
	// Err is nil after a success.
	Err error
	// Permanent means that a retry would fail too.
	Permanent bool
	// Unavailable means that attempts for other events would fail too.
	Unavailable bool
	// Throttled means that the sink is rate limiting.
	Throttled bool
	// RetryAfter is the pause that the sink requested, 0 for none.
	RetryAfter time.Duration
	// Wait is the time after which an action without an error is to be continued, because it is not complete; 0 for a complete one.
	Wait time.Duration
	// Kept is the part of the result that later actions use, as a JSON object; nil for none.
	Kept []byte
}

// Deadline returns the time after which an action is not retried: retry.for after the start of the event's processing, or of its replay;
// for an action that had to wait for others, after the end of these.
func Deadline(status *v1alpha1.NetBoxEventStatus, action *v1alpha1.ActionStatus, retry *v1alpha1.Retry) time.Time {
	start := status.StartTime
	if action.StartTime != nil {
		start = action.StartTime
	}
	return start.Add(retry.For.Duration)
}

// RecordAttempt records an attempt that ended now. It does not count an attempt that the sink answered with Retry-After, or that began to
// wait, or continues to.
func RecordAttempt(action *v1alpha1.ActionStatus, outcome Outcome, retry *v1alpha1.Retry, deadline, now time.Time) {
	action.Response, action.LastError = outcome.Response, ""
	if outcome.Err == nil && outcome.Wait > 0 {
		action.NextAttemptTime = new(metav1.NewTime(now.Add(outcome.Wait)))
		if action.WaitingSince == nil {
			action.WaitingSince = new(metav1.NewTime(now))
		}
		return
	}
	toldToWait := outcome.Err != nil && outcome.RetryAfter > 0
	if !toldToWait {
		action.Attempts++
	}
	action.LastAttemptTime, action.NextAttemptTime, action.WaitingSince = new(metav1.NewTime(now)), nil, nil
	if outcome.Err == nil {
		action.State = v1alpha1.DeliverySucceeded
		if outcome.Kept != nil {
			_ = json.Unmarshal(outcome.Kept, &action.Result) // an object, made by rule.Action.Keep
		}
		return
	}
	action.LastError = oneline.Of(outcome.Err.Error(), maxErrorBytes)
	switch {
	case outcome.Permanent,
		!now.Before(deadline),
		!toldToWait && retry.MaxAttempts > 0 && action.Attempts >= retry.MaxAttempts:
		action.State = v1alpha1.DeliveryFailed
	case toldToWait:
		action.NextAttemptTime = new(metav1.NewTime(now.Add(outcome.RetryAfter)))
	default: // the last attempt is at the deadline
		next := now.Add(Backoff(retry, int(action.Attempts)))
		if next.After(deadline) {
			next = deadline
		}
		action.NextAttemptTime = new(metav1.NewTime(next))
	}
}

// Fail marks an action as failed permanently without another attempt.
func Fail(action *v1alpha1.ActionStatus, cause string) {
	action.State, action.NextAttemptTime, action.WaitingSince = v1alpha1.DeliveryFailed, nil, nil
	action.LastError = oneline.Of(cause, maxErrorBytes)
}

// Backoff returns the pause after a failed attempt, counted from 1: exponential up to a maximum, less a random jitter of up to half, so
// that retries spread out.
func Backoff(retry *v1alpha1.Retry, attempt int) time.Duration {
	pause := retry.Backoff.Duration
	for ; attempt > 1 && pause < retry.MaxBackoff.Duration; attempt-- {
		pause *= 2
	}
	pause = min(pause, retry.MaxBackoff.Duration)
	return pause - rand.N(pause/2+1) //nolint:gosec // G404: it spreads load; guessing it gains nothing
}

// RuleState aggregates the states of a rule's actions.
func RuleState(actions []v1alpha1.ActionStatus) v1alpha1.DeliveryState {
	for _, state := range []v1alpha1.DeliveryState{v1alpha1.DeliveryPending, v1alpha1.DeliveryFailed, v1alpha1.DeliverySucceeded} {
		if slices.ContainsFunc(actions, func(action v1alpha1.ActionStatus) bool { return action.State == state }) {
			return state
		}
	}
	if len(actions) > 0 {
		return v1alpha1.DeliverySkipped
	}
	return v1alpha1.DeliverySucceeded
}

// IsDone reports whether no rule is pending, and the event keeps no record of a group whose other events are not finished.
func IsDone(status *v1alpha1.NetBoxEventStatus) bool {
	return !slices.ContainsFunc(status.Rules, isPending)
}

func isPending(rule v1alpha1.RuleStatus) bool {
	return rule.State == v1alpha1.DeliveryPending || rule.Group != nil && rule.Group.Members != nil
}

// Summarize sets the phase, the conditions and the completion time from the states of the rules.
func Summarize(status *v1alpha1.NetBoxEventStatus, generation int64, now time.Time) {
	if isSetAside(status) {
		return
	}
	status.Phase, status.Group = phase(status.Rules), firstGroup(status.Rules)
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

// SetAside returns the status of an event during whose processing the operator crashed repeatedly.
func SetAside(status *v1alpha1.NetBoxEventStatus, replay Replay, crashes int, generation int64, now time.Time) *v1alpha1.NetBoxEventStatus {
	if status == nil || replay.IsNew(status) {
		status = NewStatus(nil, nil, replay, now)
	}
	failed := *status
	failed.Rules = nil
	for _, rule := range status.Rules {
		rule.Actions = slices.Clone(rule.Actions)
		for i := range rule.Actions {
			if rule.Actions[i].State == v1alpha1.DeliveryPending {
				Fail(&rule.Actions[i], "set aside")
			}
		}
		rule.State = RuleState(rule.Actions)
		failed.Rules = append(failed.Rules, rule)
	}
	failed.Phase, failed.CompletionTime = v1alpha1.PhaseFailed, new(metav1.NewTime(now))
	setCondition(&failed, metav1.Condition{
		Type: v1alpha1.ConditionSucceeded, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonSetAside,
		Message: fmt.Sprintf("the operator crashed %d times while it evaluated rule expressions on this event, so it does not process the "+
			"event any more; simplify the expressions of the rules that match it, and annotate the event with %s=<any new value>",
			crashes, v1alpha1.AnnotationReplay),
	}, generation, now)
	return &failed
}

// Shorten returns shorter versions of a status that does not fit into the event, the longest first: without the errors and responses of
// actions, and, for a finished event, without the states of its rules.
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
		cut.Message = fmt.Sprintf("the event is too large to store the states of its %d rules: %s", len(status.Rules),
			oneline.Of(found.Message, maxCutBytes))
		withoutRules.Conditions = []metav1.Condition{cut}
	}
	return []*v1alpha1.NetBoxEventStatus{&withoutTexts, &withoutRules}
}

// phase returns the phase of an event with these rules.
func phase(rules []v1alpha1.RuleStatus) v1alpha1.Phase {
	phase := v1alpha1.PhaseSucceeded
	for i := range rules {
		switch {
		case isPending(rules[i]):
			return v1alpha1.PhasePending
		case rules[i].State == v1alpha1.DeliveryFailed:
			phase = v1alpha1.PhaseFailed
		}
	}
	return phase
}

// firstGroup returns the id of the group of the first rule that has one, "" for none.
func firstGroup(rules []v1alpha1.RuleStatus) string {
	for i := range rules {
		if group := rules[i].Group; group != nil && group.ID != "" {
			return group.ID
		}
	}
	return ""
}

// succeeded returns the condition Succeeded, which describes the action that needs most attention.
func succeeded(rules []v1alpha1.RuleStatus) metav1.Condition {
	condition := metav1.Condition{
		Type: v1alpha1.ConditionSucceeded, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonDelivered, Message: "all actions are complete",
	}
	if len(rules) == 0 {
		condition.Reason, condition.Message = v1alpha1.ReasonLogged, "the event was logged; no rule matches it"
	}
	setFalse := func(reason, format string, args ...any) {
		condition.Status, condition.Reason, condition.Message = metav1.ConditionFalse, reason, fmt.Sprintf(format, args...)
	}
	for i := range rules {
		for _, action := range rules[i].Actions {
			switch {
			case action.State == v1alpha1.DeliveryFailed:
				setFalse(v1alpha1.ReasonDeliveryFailed,
					"rule %s, action %s failed permanently after attempt %d: %s; fix the cause, and annotate the event with %s=<any new value>",
					rules[i].Name, action.Name, action.Attempts, action.LastError, v1alpha1.AnnotationReplay)
				return condition
			case action.State == v1alpha1.DeliveryPending && action.NextAttemptTime != nil && action.LastError != "":
				setFalse(v1alpha1.ReasonRetrying, "rule %s, action %s failed at attempt %d; the next attempt is at %s: %s",
					rules[i].Name, action.Name, action.Attempts, action.NextAttemptTime.UTC().Format(time.RFC3339), action.LastError)
			case action.State == v1alpha1.DeliveryPending && action.WaitingSince != nil && condition.Reason != v1alpha1.ReasonRetrying:
				setFalse(v1alpha1.ReasonWaiting, "rule %s, action %s has waited since %s: %s",
					rules[i].Name, action.Name, action.WaitingSince.UTC().Format(time.RFC3339), action.Response)
			case action.State == v1alpha1.DeliveryPending && condition.Status == metav1.ConditionTrue && rules[i].Group != nil:
				setFalse(v1alpha1.ReasonGrouping, "%s", describeGroup(&rules[i]))
			case action.State == v1alpha1.DeliveryPending && condition.Status == metav1.ConditionTrue:
				setFalse(v1alpha1.ReasonDelivering, "rule %s, action %s is pending", rules[i].Name, action.Name)
			}
		}
	}
	return condition
}

// describeGroup says what an event waits for whose rule delivers it in a group.
func describeGroup(rule *v1alpha1.RuleStatus) string {
	switch group := rule.Group; {
	case group.Until != nil:
		return fmt.Sprintf("rule %s collects group %s, which closes at %s unless another event comes",
			rule.Name, group.ID, group.Until.UTC().Format(time.RFC3339))
	case group.ID != "":
		return fmt.Sprintf("rule %s delivers group %s of %d events; kubectl get netboxevents --field-selector status.group=%s shows the one "+
			"with the attempts", rule.Name, group.ID, group.Events, group.ID)
	default:
		return fmt.Sprintf("rule %s collects a group of events", rule.Name)
	}
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

// unmatched returns the condition Matched with the errors of rules that could not be matched.
func unmatched(errors map[string]error, matched bool) metav1.Condition {
	condition := metav1.Condition{Type: v1alpha1.ConditionMatched, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonExpressionError}
	if matched {
		condition.Status = metav1.ConditionTrue
	}
	var lines []string
	for _, name := range slices.Sorted(maps.Keys(errors)) {
		lines = append(lines, fmt.Sprintf("rule %s does not match: %.200s", name, errors[name]))
	}
	if more := len(lines) - maxShownErrors; more > 0 {
		lines = append(lines[:maxShownErrors], fmt.Sprintf("and %d more rules", more))
	}
	condition.Message = strings.Join(lines, "; ")
	return condition
}

// Merge returns a status with the progress of both ours and the stored one, which another replica wrote in the meantime. An action that is
// complete in either is complete: a late write must not repeat completed actions. Both must belong to the same replay.
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

// MergeActions returns the states of a rule's actions, each taken from the list in which it has progressed further.
func MergeActions(ours, others []v1alpha1.ActionStatus) []v1alpha1.ActionStatus {
	merged := slices.Clone(ours)
	for i := range others {
		at := slices.IndexFunc(merged, func(action v1alpha1.ActionStatus) bool { return action.Name == others[i].Name })
		switch {
		case at < 0: // added when the rule gave up
			merged = append(merged, others[i])
		case isFurther(&others[i], &merged[at]):
			merged[at] = others[i]
		}
	}
	return merged
}

func isFurther(a, b *v1alpha1.ActionStatus) bool {
	aComplete, bComplete := a.State != v1alpha1.DeliveryPending, b.State != v1alpha1.DeliveryPending
	if aComplete != bComplete {
		return aComplete
	}
	if a.Attempts == b.Attempts {
		return a.WaitingSince != nil && b.WaitingSince == nil
	}
	return a.Attempts > b.Attempts
}
