// Package conditions turns conditions into what a server-side apply takes.
package conditions

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1apply "k8s.io/client-go/applyconfigurations/meta/v1"
)

// Apply returns the configurations of conditions.
func Apply(conditions []metav1.Condition) []*metav1apply.ConditionApplyConfiguration {
	var applied []*metav1apply.ConditionApplyConfiguration
	for _, condition := range conditions {
		applied = append(applied, metav1apply.Condition().
			WithType(condition.Type).
			WithStatus(condition.Status).
			WithReason(condition.Reason).
			WithMessage(condition.Message).
			WithObservedGeneration(condition.ObservedGeneration).
			WithLastTransitionTime(condition.LastTransitionTime))
	}
	return applied
}
