package app

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/time/rate"

	"github.com/netbox-events/netbox-event-operator/internal/tracing"
)

const (
	// flushTime bounds the sending of the last traces when the operator ends.
	flushTime = 2 * time.Second
	// exportNoticeInterval is the least time between two lines on a collector that does not take traces.
	exportNoticeInterval = time.Minute
)

// newTracer returns what begins traces, nil where there are to be none, and a function that sends the last of them. All that can be set is
// set by OpenTelemetry's own environment variables; the SDK reads those that are not named here.
func newTracer(ctx context.Context, build Build, log logr.Logger) (tracer trace.Tracer, flush func(), err error) {
	otel.SetLogger(log)
	otel.SetErrorHandler(exportErrors(log))
	exporter, err := newExporter(ctx)
	if exporter == nil || err != nil {
		return nil, func() {}, err
	}
	from, err := resource.New(ctx,
		resource.WithTelemetrySDK(),
		resource.WithHost(),
		resource.WithAttributes(
			attribute.String("service.name", "netbox-event-operator"),
			attribute.String("service.version", build.Version),
		),
		resource.WithFromEnv(), // the last word: OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES
	)
	if err != nil {
		return nil, func() {}, fmt.Errorf("tracing: %w; mend OTEL_RESOURCE_ATTRIBUTES, as key=value,key=value", err)
	}
	// Spans wait in a queue that drops what does not fit: nothing else ever waits for the collector.
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(from))
	return provider.Tracer(tracing.Scope), func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTime)
		defer cancel()
		if err := provider.Shutdown(ctx); err != nil {
			log.Info("the last traces could not be sent", "cause", err.Error())
		}
	}, nil
}

// newExporter returns what sends traces to the collector that the environment names, nil if it names none. It does not connect yet.
func newExporter(ctx context.Context) (*otlptrace.Exporter, error) {
	const endpoint, protocol, exporter = "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_TRACES_EXPORTER"
	wanted := os.Getenv(exporter)
	switch {
	case cmp.Or(os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"), os.Getenv(endpoint)) == "":
		return nil, nil
	case strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true"), wanted == "none":
		return nil, nil
	case wanted != "" && wanted != "otlp":
		return nil, fmt.Errorf("%s is %q, which this operator does not have; set it to otlp or none", exporter, wanted)
	}
	switch spoken := cmp.Or(os.Getenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"), os.Getenv(protocol), "http/protobuf"); spoken {
	case "http/protobuf":
		return otlptracehttp.New(ctx)
	case "grpc":
		return otlptracegrpc.New(ctx)
	default:
		return nil, fmt.Errorf("%s is %q, which this operator does not speak; set it to http/protobuf or grpc", protocol, spoken)
	}
}

// exportErrors logs what goes wrong with traces, now and then: a collector that is down fails every batch.
func exportErrors(log logr.Logger) otel.ErrorHandler {
	lines := rate.Sometimes{Interval: exportNoticeInterval}
	var failures atomic.Int64 // since the last line
	return otel.ErrorHandlerFunc(func(err error) {
		failures.Add(1)
		lines.Do(func() {
			log.Info("traces are lost; check the collector that OTEL_EXPORTER_OTLP_ENDPOINT names", "cause", err.Error(),
				"suppressed", failures.Swap(0)-1)
		})
	})
}
