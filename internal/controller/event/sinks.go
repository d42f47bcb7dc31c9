package event

import (
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

// SinkAvailable returns the condition of the sinks of a rule: False with the cause where deliveries wait for one.
func (e *Engine) SinkAvailable(rule types.NamespacedName) metav1.Condition {
	condition := metav1.Condition{
		Type: v1alpha1.ConditionSinkAvailable, Status: metav1.ConditionTrue,
		Reason: v1alpha1.ReasonAvailable, Message: "no delivery waits for a sink",
		LastTransitionTime: metav1.NewTime(e.Clock.Now()),
	}
	var messages []string
	for _, sink := range e.circuits.states(rule) {
		if sink.reason == v1alpha1.ReasonAvailable {
			continue
		}
		if since := metav1.NewTime(sink.since); condition.Status == metav1.ConditionTrue || since.Before(&condition.LastTransitionTime) {
			condition.LastTransitionTime = since
		}
		if condition.Status, messages = metav1.ConditionFalse, append(messages, sink.message); condition.Reason != v1alpha1.ReasonUnavailable {
			condition.Reason = sink.reason
		}
		condition.Message = strings.Join(messages, "; ")
	}
	return condition
}
