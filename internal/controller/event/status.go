package event

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1apply "k8s.io/client-go/applyconfigurations/meta/v1"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	apply "github.com/netbox-events/netbox-event-operator/api/v1alpha1/applyconfiguration/api/v1alpha1"
)

// succeeded is the status of an event on which all work is done.
func succeeded(event *v1alpha1.NetBoxEvent, started, completed time.Time) *apply.NetBoxEventApplyConfiguration {
	return apply.NetBoxEvent(event.Name, event.Namespace).
		WithUID(event.UID).
		WithStatus(apply.NetBoxEventStatus().
			WithPhase(v1alpha1.PhaseSucceeded).
			WithStartTime(metav1.NewTime(started)).
			WithCompletionTime(metav1.NewTime(completed)).
			WithConditions(metav1apply.Condition().
				WithType(v1alpha1.ConditionSucceeded).
				WithStatus(metav1.ConditionTrue).
				WithReason(v1alpha1.ReasonLogged).
				WithMessage("the event was logged").
				WithObservedGeneration(event.Generation).
				WithLastTransitionTime(metav1.NewTime(completed))))
}
