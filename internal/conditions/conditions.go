// Package conditions converts conditions for server-side apply.
package conditions

import (
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
