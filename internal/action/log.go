package action

import (
	"context"

	"github.com/netbox-events/netbox-event-operator/internal/tracing"
)

// writeLog writes the line of a log action.
func (r *Runner) writeLog(ctx context.Context, task Task) (Result, error) {
	rendering, err := Render(ctx, task)
	if err != nil {
		return Result{}, err
	}
	message := rendering.Message
	task.rendered()
	if task.IsDryRun {
		return Result{Response: dryRun + "would write to the log: " + message}, nil
	}
	log := r.log.WithValues(tracing.LogValues(task.Event.Spec.Delivery.Traceparent)...)
	if task.Group != nil {
		log = log.WithValues("group", task.Group.ID, "events", len(task.Group.Events))
	}
	log.Info("NetBox event rule", "message", message, "rule", task.Rule.Name, "action", task.Action.Spec.Name,
		"namespace", task.Event.Namespace, "name", task.Event.Name, "requestID", task.Event.Spec.RequestID)
	return Result{}, nil
}
