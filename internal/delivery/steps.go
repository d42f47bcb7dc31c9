package delivery

import (
	"fmt"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

// Advance skips the pending actions that are not to be executed any more: those that the rule no longer has, and those that depend on an
// action that did not succeed. It notes when an action no longer waits for others. For a rule that gives up, because an action failed and
// none is pending, it adds the actions of onFailure. It changes the given states, and reports whether it did. A nil rule was deleted.
func Advance(
	actions []v1alpha1.ActionStatus, rule *v1alpha1.NetBoxEventRule, now time.Time,
) (advanced []v1alpha1.ActionStatus, changed bool) {
	for again := true; again; { // until no skipped action causes another
		again = false
		for i := range actions {
			if action := &actions[i]; action.State == v1alpha1.DeliveryPending && advance(action, actions, rule, now) {
				again, changed = action.State != v1alpha1.DeliveryPending, true
			}
		}
	}
	if rule == nil || RuleState(actions) != v1alpha1.DeliveryFailed || len(rule.Spec.OnFailure) == 0 ||
		Find(actions, rule.Spec.OnFailure[0].Name) != nil {
		return actions, changed
	}
	for i := range rule.Spec.OnFailure {
		actions = append(actions, v1alpha1.ActionStatus{
			Name: rule.Spec.OnFailure[i].Name, State: v1alpha1.DeliveryPending, StartTime: new(metav1.NewTime(now)),
		})
	}
	return actions, true
}

// advance skips an action, or notes that it no longer waits for others. It reports whether it did either.
func advance(action *v1alpha1.ActionStatus, actions []v1alpha1.ActionStatus, rule *v1alpha1.NetBoxEventRule, now time.Time) bool {
	if rule == nil {
		Skip(action, "the rule was deleted")
		return true
	}
	spec := SpecOf(rule, action.Name)
	if spec == nil {
		Skip(action, "the rule no longer has this action")
		return true
	}
	isReady := len(spec.DependsOn) > 0
	for _, name := range spec.DependsOn {
		switch awaited := Find(actions, name); {
		case awaited == nil:
			Skip(action, fmt.Sprintf("the rule did not have action %s when the event matched", name))
			return true
		case awaited.State == v1alpha1.DeliveryFailed:
			Skip(action, fmt.Sprintf("action %s failed", name))
			return true
		case awaited.State == v1alpha1.DeliverySkipped:
			Skip(action, fmt.Sprintf("action %s was skipped", name))
			return true
		case awaited.State == v1alpha1.DeliveryPending:
			isReady = false
		}
	}
	if isReady && action.StartTime == nil {
		action.StartTime = new(metav1.NewTime(now))
		return true
	}
	return false
}

// Skip marks an action as skipped, and says why.
func Skip(action *v1alpha1.ActionStatus, why string) {
	action.State, action.NextAttemptTime, action.WaitingSince, action.Response = v1alpha1.DeliverySkipped, nil, nil, why
}

// SpecOf returns an action of a rule, also of its onFailure; nil for none.
func SpecOf(rule *v1alpha1.NetBoxEventRule, name string) *v1alpha1.Action {
	for _, list := range [][]v1alpha1.Action{rule.Spec.Actions, rule.Spec.OnFailure} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}

// RuleIn returns the state of a rule in the status of an event, nil for none.
func RuleIn(status *v1alpha1.NetBoxEventStatus, name string) *v1alpha1.RuleStatus {
	for i := range status.Rules {
		if status.Rules[i].Name == name {
			return &status.Rules[i]
		}
	}
	return nil
}

// Find returns the state of an action, nil for none.
func Find(actions []v1alpha1.ActionStatus, name string) *v1alpha1.ActionStatus {
	for i := range actions {
		if actions[i].Name == name {
			return &actions[i]
		}
	}
	return nil
}

// isBlocked reports whether a pending action waits for others.
func isBlocked(action *v1alpha1.ActionStatus, actions []v1alpha1.ActionStatus, rule *v1alpha1.NetBoxEventRule) bool {
	spec := SpecOf(rule, action.Name)
	return spec != nil && slices.ContainsFunc(spec.DependsOn, func(name string) bool {
		awaited := Find(actions, name)
		return awaited != nil && awaited.State == v1alpha1.DeliveryPending
	})
}

// IsDue reports whether the next attempt of an action may start now.
func IsDue(action *v1alpha1.ActionStatus, actions []v1alpha1.ActionStatus, rule *v1alpha1.NetBoxEventRule, now time.Time) bool {
	return action.State == v1alpha1.DeliveryPending && (action.NextAttemptTime == nil || !action.NextAttemptTime.After(now)) &&
		!isBlocked(action, actions, rule)
}

// Next returns the time of the earliest attempt of a pending action that does not wait for others, leaving out some by name; the zero time
// for none.
func Next(actions []v1alpha1.ActionStatus, rule *v1alpha1.NetBoxEventRule, except []string) time.Time {
	var next time.Time
	for i := range actions {
		action := &actions[i]
		if action.State != v1alpha1.DeliveryPending || action.NextAttemptTime == nil || slices.Contains(except, action.Name) ||
			isBlocked(action, actions, rule) {
			continue
		}
		if next.IsZero() || action.NextAttemptTime.Time.Before(next) {
			next = action.NextAttemptTime.Time
		}
	}
	return next
}

// IsWaiting reports whether an action of a rule was executed and waits for its result.
func IsWaiting(actions []v1alpha1.ActionStatus) bool {
	return slices.ContainsFunc(actions, func(action v1alpha1.ActionStatus) bool { return action.WaitingSince != nil })
}

// Failed returns the first action of a rule that failed, nil for none.
func Failed(actions []v1alpha1.ActionStatus) *v1alpha1.ActionStatus {
	at := slices.IndexFunc(actions, func(action v1alpha1.ActionStatus) bool { return action.State == v1alpha1.DeliveryFailed })
	if at < 0 {
		return nil
	}
	return &actions[at]
}
