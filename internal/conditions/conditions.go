// Package conditions prepares conditions for server-side apply.
package conditions

import (
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1apply "k8s.io/client-go/applyconfigurations/meta/v1"
)

// Apply returns the apply configurations of conditions.
func Apply(conditions []metav1.Condition) []*metav1apply.ConditionApplyConfiguration {
	var configurations []*metav1apply.ConditionApplyConfiguration
	for _, condition := range conditions {
		configurations = append(configurations, metav1apply.Condition().
			WithType(condition.Type).
			WithStatus(condition.Status).
			WithReason(condition.Reason).
			WithMessage(condition.Message).
			WithObservedGeneration(condition.ObservedGeneration).
			WithLastTransitionTime(condition.LastTransitionTime))
	}
	return configurations
}

// Stamp sets the generation and the transition time of a condition: now, or the time of the condition that was before, if that had the same
// status.
func Stamp(condition *metav1.Condition, before []metav1.Condition, generation int64, now time.Time) {
	condition.ObservedGeneration, condition.LastTransitionTime = generation, metav1.NewTime(now)
	if was := meta.FindStatusCondition(before, condition.Type); was != nil && was.Status == condition.Status {
		condition.LastTransitionTime = was.LastTransitionTime
	}
}
