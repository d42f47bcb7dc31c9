package ingest

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"k8s.io/utils/clock"
)

// BenchmarkRefused measures the request that takes least, so that what traces add to it shows most.
func BenchmarkRefused(b *testing.B) {
	sampled := func(sampler sdktrace.Sampler) trace.Tracer {
		return sdktrace.NewTracerProvider(sdktrace.WithSampler(sampler), sdktrace.WithBatcher(nowhere{})).Tracer("")
	}
	for name, tracer := range map[string]trace.Tracer{
		"off": nil, "not sampled": sampled(sdktrace.NeverSample()), "sampled": sampled(sdktrace.AlwaysSample()),
	} {
		b.Run(name, func(b *testing.B) {
			receiver := NewReceiver(Options{Registry: prometheus.NewRegistry(), Tracer: tracer, Clock: clock.RealClock{}, Log: logr.Discard()})
			request := httptest.NewRequestWithContext(b.Context(), http.MethodGet, "/webhook/netbox/netbox", http.NoBody)
			b.ReportAllocs()
			for b.Loop() {
				receiver.ServeHTTP(httptest.NewRecorder(), request)
			}
		})
	}
}

// nowhere is where spans go.
type nowhere struct{}

func (nowhere) ExportSpans(context.Context, []sdktrace.ReadOnlySpan) error { return nil }

func (nowhere) Shutdown(context.Context) error { return nil }
