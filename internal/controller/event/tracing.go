package event

import (
	"context"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"k8s.io/apimachinery/pkg/types"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/rule"
	"github.com/netbox-events/netbox-event-operator/internal/tracing"
)

// trace begins the span of the work on an event, in the trace in which it was received. It lasts until the event is finished, or this
// replica no longer leads; then another replica begins another.
func (e *Engine) trace(ctx context.Context, event *v1alpha1.NetBoxEvent) trace.Span {
	if e.Tracer == nil || event.Spec.Delivery.Traceparent == "" {
		return tracing.None
	}
	_, span := e.Tracer.Start(tracing.Continue(ctx, event.Spec.Delivery.Traceparent), "work",
		trace.WithSpanKind(trace.SpanKindConsumer),
		trace.WithAttributes(tracing.Source.String(sourceOf(event)), tracing.Event.String(event.Namespace+"/"+event.Name)))
	return span
}

// endWork ends that span with the outcome of the event.
func endWork(span trace.Span, status *v1alpha1.NetBoxEventStatus) {
	if span.IsRecording() {
		span.SetAttributes(tracing.Phase.String(string(status.Phase)))
		if status.Phase == v1alpha1.PhaseFailed {
			span.SetStatus(codes.Error, "")
		}
	}
	span.End()
}

// describeMatch says in a span which rules matched.
func describeMatch(span trace.Span, rules []v1alpha1.RuleStatus) {
	if !span.IsRecording() {
		return
	}
	names := make([]string, len(rules))
	for i := range rules {
		names[i] = rules[i].Name
	}
	span.SetAttributes(tracing.Rules.StringSlice(names))
}

// traceAttempt begins the span of an attempt at an action.
func traceAttempt(
	ctx context.Context, within trace.Span, name types.NamespacedName, status *v1alpha1.ActionStatus, action *rule.Action,
) (context.Context, trace.Span) {
	kind := trace.SpanKindClient
	if action.Spec.Log != nil {
		kind = trace.SpanKindInternal
	}
	ctx, span := tracing.Start(ctx, within, "action", kind)
	if span.IsRecording() {
		span.SetAttributes(
			tracing.Rule.String(name.String()), tracing.Action.String(status.Name), tracing.Attempt.Int(int(status.Attempts)+1))
	}
	return ctx, span
}

// endAttempt ends that span with the outcome of the action.
func endAttempt(span trace.Span, status *v1alpha1.ActionStatus) {
	if span.IsRecording() {
		result := resultOf(status)
		span.SetAttributes(tracing.Result.String(result))
		if result == resultRetried || result == resultFailed {
			span.SetStatus(codes.Error, "")
		}
	}
	span.End()
}
