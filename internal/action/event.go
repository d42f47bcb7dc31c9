package action

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/oneline"
)

// RBAC of event actions:
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create

const (
	reportingController = "netbox-events.io/netbox-event-operator"
	reportingInstance   = "netbox-event-operator"
)

// createEvent creates the Kubernetes Event of an event action. Its name is deterministic, so that retries do not duplicate it; a replay
// creates another.
func (r *Runner) createEvent(ctx context.Context, task Task, spec *v1alpha1.EventAction) (Result, error) {
	rendering, err := Render(ctx, task)
	if err != nil {
		return Result{}, err
	}
	message := rendering.Message
	task.rendered()
	if task.IsDryRun {
		return Result{Response: fmt.Sprintf(dryRun+"would write a Kubernetes Event, %s %s: %s", spec.Type, spec.Reason, message)}, nil
	}
	event := task.Event
	hash := digest(task, task.identity(), task.replays())
	err = r.events.Create(ctx, &eventsv1.Event{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: event.Namespace,
			Name:      strings.TrimRight(event.Name[:min(len(event.Name), maxNameBytes-len(".")-len(hash))], "-.") + "." + hash,
		},
		EventTime:           metav1.NewMicroTime(r.clock.Now()),
		ReportingController: reportingController,
		ReportingInstance:   reportingInstance,
		Action:              "Rule",
		Reason:              spec.Reason,
		Type:                spec.Type,
		Note:                oneline.Of(message, oneline.NoteBytes),
		Regarding: corev1.ObjectReference{
			APIVersion: v1alpha1.SchemeGroupVersion.String(), Kind: "NetBoxEvent",
			Namespace: event.Namespace, Name: event.Name, UID: event.UID,
		},
		Related: &corev1.ObjectReference{
			APIVersion: v1alpha1.SchemeGroupVersion.String(), Kind: "NetBoxEventRule",
			Namespace: task.Rule.Namespace, Name: task.Rule.Name, UID: task.Rule.UID,
		},
	})
	if apierrors.IsAlreadyExists(err) {
		return Result{}, nil
	}
	return Result{}, explain("Event of "+event.Name, err)
}
