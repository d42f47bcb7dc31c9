// Package tracing propagates traces: from a request into its event, and from there into the deliveries of the event. Package app configures
// the exporter.
//
// Spans describe the processing of an event, never its contents: they have no keys, no payload, and no errors, which may repeat either.
package tracing

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// Scope is the instrumentation scope of the spans.
const Scope = "github.com/netbox-events/netbox-event-operator"

// Attributes of spans. They have the same values as the labels of metrics.
const (
	Source  = attribute.Key("netbox_events.source")
	Event   = attribute.Key("netbox_events.event")
	Result  = attribute.Key("netbox_events.result")
	Phase   = attribute.Key("netbox_events.phase")
	Rules   = attribute.Key("netbox_events.rules")
	Rule    = attribute.Key("netbox_events.rule")
	Action  = attribute.Key("netbox_events.action")
	Attempt = attribute.Key("netbox_events.attempt")
	Status  = attribute.Key("http.response.status_code")
)

// None is the span of untraced work.
var None trace.Span = noop.Span{}

// w3c propagates the header traceparent.
var w3c propagation.TraceContext

// FromHeader returns a context with the trace of a request, if it has one.
func FromHeader(ctx context.Context, header http.Header) context.Context {
	return w3c.Extract(ctx, propagation.HeaderCarrier(header))
}

// ToHeader adds the trace of a context, if it has one, to the header of a request.
func ToHeader(ctx context.Context, header http.Header) {
	w3c.Inject(ctx, propagation.HeaderCarrier(header))
}

// Traceparent returns a span as a traceparent, for Continue. It is empty if the trace is not sampled.
func Traceparent(span trace.Span) string {
	parent := span.SpanContext()
	if !parent.IsSampled() {
		return ""
	}
	return fmt.Sprintf("00-%s-%s-%s", parent.TraceID(), parent.SpanID(), trace.FlagsSampled)
}

// Continue returns a context with the trace of a traceparent.
func Continue(ctx context.Context, traceparent string) context.Context {
	return w3c.Extract(ctx, propagation.MapCarrier{"traceparent": traceparent})
}

// Start starts a child span of a parent. It starts none, at no cost, if the parent is not recorded.
func Start(ctx context.Context, parent trace.Span, name string, kind trace.SpanKind) (context.Context, trace.Span) {
	if !parent.IsRecording() {
		return ctx, None
	}
	return parent.TracerProvider().Tracer(Scope).Start(trace.ContextWithSpan(ctx, parent), name, trace.WithSpanKind(kind))
}

// LogValues returns the trace ID of a traceparent as key and value of a log line, nil for an empty traceparent.
func LogValues(traceparent string) []any {
	if traceparent == "" {
		return nil
	}
	_, rest, _ := strings.Cut(traceparent, "-") // after the version
	id, _, _ := strings.Cut(rest, "-")
	return []any{"traceID", id}
}
