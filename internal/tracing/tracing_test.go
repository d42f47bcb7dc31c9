package tracing_test

import (
	"context"
	"slices"
	"testing"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/netbox-events/netbox-event-operator/internal/tracing"
)

// TestWrittenDown takes a trace into an event and out of it again.
func TestWrittenDown(t *testing.T) {
	for reason, test := range map[string]struct {
		sampler  sdktrace.Sampler
		recorded bool
	}{"recorded": {sdktrace.AlwaysSample(), true}, "not recorded": {sdktrace.NeverSample(), false}} {
		tracer := sdktrace.NewTracerProvider(sdktrace.WithSampler(test.sampler)).Tracer("")
		_, span := tracer.Start(t.Context(), "receive")
		written := tracing.Traceparent(span)
		if (written != "") != test.recorded {
			t.Errorf("%s: written as %q", reason, written)
		}
		var want []any
		if test.recorded {
			want = []any{"traceID", span.SpanContext().TraceID().String()}
		}
		if got := tracing.LogValues(written); !slices.Equal(got, want) {
			t.Errorf("%s: logged as %v, want %v", reason, got, want)
		}
		continued := trace.SpanContextFromContext(tracing.Continue(t.Context(), written))
		if test.recorded && !continued.Equal(span.SpanContext().WithRemote(true)) || !test.recorded && continued.IsValid() {
			t.Errorf("%s: continued as %v", reason, continued)
		}
	}
}

// TestNoneCostsNothing does what a request and an event do where there are no traces.
func TestNoneCostsNothing(t *testing.T) {
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

func BenchmarkNone(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		untraced(b.Context())
	}
}
