package ingest

import (
	"net/http"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/tracing"
)

// trace starts the span of a request, as a child of the sender's span if there is one: an Ingress may send it.
func (r *Receiver) trace(request *http.Request) (*http.Request, trace.Span) {
	if r.Tracer == nil {
		return request, tracing.None
	}
	ctx := tracing.FromHeader(request.Context(), request.Header)
	ctx, span := r.Tracer.Start(ctx, "receive", trace.WithSpanKind(trace.SpanKindServer))
	return request.WithContext(ctx), span
}

// describe records the outcome of a request in its span.
func describe(span trace.Span, source *v1alpha1.NetBoxSource, answer *answer) {
	if !span.IsRecording() {
		return
	}
	status := statuses[answer.result]
	span.SetAttributes(
		tracing.Source.String(nameOf(source)),
		tracing.Result.String(string(answer.result)),
		tracing.Event.String(answer.event),
		tracing.Status.Int(status),
	)
	if status >= http.StatusInternalServerError {
		span.SetStatus(codes.Error, "")
	}
}
