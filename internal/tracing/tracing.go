// Package tracing is what the receiver and the controllers agree on about traces: how one gets from a request into its event, and from
// there into what is done about it. Whether there are any, and where they go, is for package app.
//
// Spans say what happened to an event, and never what is in it: no keys, no payload, and no errors, which may repeat either.
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

// Scope names who makes the spans.
const Scope = "github.com/netbox-events/netbox-event-operator"

// Attributes of spans. Their values are those that the labels of metrics have.
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

// None is the span of what is not traced.
var None trace.Span = noop.Span{}

// w3c reads and writes the header traceparent.
var w3c propagation.TraceContext

// FromHeader returns a context that belongs to the trace of a request, if that has one.
func FromHeader(ctx context.Context, header http.Header) context.Context {
	return w3c.Extract(ctx, propagation.HeaderCarrier(header))
}

// ToHeader has a request belong to the trace of a context, if that has one.
func ToHeader(ctx context.Context, header http.Header) {
	w3c.Inject(ctx, propagation.HeaderCarrier(header))
}

// Traceparent writes a span down, so that others can continue its trace. It is empty where nobody records that trace.
func Traceparent(span trace.Span) string {
	at := span.SpanContext()
	if !at.IsSampled() {
		return ""
	}
	return fmt.Sprintf("00-%s-%s-%s", at.TraceID(), at.SpanID(), trace.FlagsSampled)
}

// Continue returns a context that belongs to a trace that Traceparent wrote down.
func Continue(ctx context.Context, written string) context.Context {
	return w3c.Extract(ctx, propagation.MapCarrier{"traceparent": written})
}

// Start begins a span within another. Where that is not recorded it begins none, at no cost.
func Start(ctx context.Context, within trace.Span, name string, kind trace.SpanKind) (context.Context, trace.Span) {
	if !within.IsRecording() {
		return ctx, None
	}
	return within.TracerProvider().Tracer(Scope).Start(trace.ContextWithSpan(ctx, within), name, trace.WithSpanKind(kind))
}

// LogValues name a trace that Traceparent wrote down in a line of the log. There are none where nobody records it.
func LogValues(written string) []any {
	if written == "" {
		return nil
	}
	_, behindVersion, _ := strings.Cut(written, "-")
	id, _, _ := strings.Cut(behindVersion, "-")
	return []any{"traceID", id}
}
