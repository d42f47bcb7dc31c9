package tracing_test

import (
	"context"
	"slices"
	"testing"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/netbox-events/netbox-event-operator/internal/tracing"
)

// TestTraceparent propagates a trace through the traceparent of an event.
func TestTraceparent(t *testing.T) {
	for reason, test := range map[string]struct {
		sampler  sdktrace.Sampler
		recorded bool
	}{"recorded": {sdktrace.AlwaysSample(), true}, "not recorded": {sdktrace.NeverSample(), false}} {
		tracer := sdktrace.NewTracerProvider(sdktrace.WithSampler(test.sampler)).Tracer("")
		_, span := tracer.Start(t.Context(), "receive")
		traceparent := tracing.Traceparent(span)
		if (traceparent != "") != test.recorded {
			t.Errorf("%s: traceparent is %q", reason, traceparent)
		}
		var want []any
		if test.recorded {
			want = []any{"traceID", span.SpanContext().TraceID().String()}
		}
		if got := tracing.LogValues(traceparent); !slices.Equal(got, want) {
			t.Errorf("%s: log values are %v, want %v", reason, got, want)
		}
		continued := trace.SpanContextFromContext(tracing.Continue(t.Context(), traceparent))
		if test.recorded && !continued.Equal(span.SpanContext().WithRemote(true)) || !test.recorded && continued.IsValid() {
			t.Errorf("%s: continued trace is %v", reason, continued)
		}
	}
}

// TestUntracedAllocatesNothing checks that requests and events allocate nothing for tracing while it is disabled.
func TestUntracedAllocatesNothing(t *testing.T) {
	ctx := t.Context()
	if allocations := testing.AllocsPerRun(100, func() { untraced(ctx) }); allocations > 0 {
		t.Errorf("%v allocations", allocations)
	}
}

func untraced(ctx context.Context) {
	span := trace.SpanFromContext(ctx)
	_ = tracing.LogValues(tracing.Traceparent(span))
	_, child := tracing.Start(ctx, span, "create", trace.SpanKindClient)
	child.End()
	tracing.ToHeader(ctx, nil)
}

func BenchmarkUntraced(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		untraced(b.Context())
	}
}
