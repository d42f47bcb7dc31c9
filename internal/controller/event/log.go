package event

import (
	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/tracing"
)

// naming are the values that name an event, and the trace of it, in a line of the log.
func naming(event *v1alpha1.NetBoxEvent) []any {
	return append([]any{"namespace", event.Namespace, "name", event.Name}, tracing.LogValues(event.Spec.Delivery.Traceparent)...)
}

// logEvent writes the one line that an event gets. The data is part of it at verbosity 1.
func logEvent(log logr.Logger, event *v1alpha1.NetBoxEvent) {
	values := []any{
		"requestID", event.Spec.RequestID,
		"username", event.Spec.Username,
		"event", event.Spec.Event,
		"timestamp", event.Spec.Timestamp.UTC().Format(metav1.RFC3339Micro),
		"objectType", event.Spec.ObjectType,
		"objectID", event.Spec.ObjectID,
		"objectURL", event.Spec.ObjectURL,
		"objectName", event.Spec.ObjectName,
		"namespace", event.Namespace,
		"name", event.Name,
		"source", event.Spec.SourceRef.Name,
	}
	values = append(values, tracing.LogValues(event.Spec.Delivery.Traceparent)...)
	if log.V(1).Enabled() {
		values = append(values, "data", event.Spec.Data)
	}
	log.Info("NetBox event", values...)
}
