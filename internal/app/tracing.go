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
	"github.com/netbox-events/netbox-event-operator/internal/version"
)

const (
	// flushTime bounds the export of the last traces at shutdown.
	flushTime = 2 * time.Second
	// exportNoticeInterval is the least time between two log lines about failed exports.
	exportNoticeInterval = time.Minute
)

// newTracer returns a tracer, nil if tracing is disabled, and a function that exports the last traces. OpenTelemetry's environment
// variables configure it; the SDK reads the ones that are not named here.
func newTracer(ctx context.Context, build version.Build, log logr.Logger) (tracer trace.Tracer, flush func(), err error) {
	otel.SetLogger(log)
	otel.SetErrorHandler(exportErrors(log))
	exporter, err := newExporter(ctx)
	if exporter == nil || err != nil {
		return nil, func() {}, err
	}
	attributes, err := resource.New(ctx,
		resource.WithTelemetrySDK(),
		resource.WithHost(),
		resource.WithAttributes(
			attribute.String("service.name", "netbox-event-operator"),
			attribute.String("service.version", build.Version),
		),
		resource.WithFromEnv(), // takes precedence: OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES
	)
	if err != nil {
		return nil, func() {}, fmt.Errorf("tracing: %w; set OTEL_RESOURCE_ATTRIBUTES to key=value,key=value", err)
	}
	// A full queue drops spans: the operator never waits for the collector.
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(attributes))
	return provider.Tracer(tracing.Scope), func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTime)
		defer cancel()
		if err := provider.Shutdown(ctx); err != nil {
			log.Info("cannot export the last traces", "cause", err.Error())
		}
	}, nil
}

// newExporter returns an exporter to the collector that the environment names, nil for none. It does not connect yet.
func newExporter(ctx context.Context) (*otlptrace.Exporter, error) {
	const endpoint, protocol, exporter = "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_TRACES_EXPORTER"
	kind := os.Getenv(exporter)
	switch {
	case cmp.Or(os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"), os.Getenv(endpoint)) == "":
		return nil, nil
	case strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true"), kind == "none":
		return nil, nil
	case kind != "" && kind != "otlp":
		return nil, fmt.Errorf("%s is %q, which is not supported; set it to otlp or none", exporter, kind)
	}
	switch value := cmp.Or(os.Getenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"), os.Getenv(protocol), "http/protobuf"); value {
	case "http/protobuf":
		return otlptracehttp.New(ctx)
	case "grpc":
		return otlptracegrpc.New(ctx)
	default:
		return nil, fmt.Errorf("%s is %q, which is not supported; set it to http/protobuf or grpc", protocol, value)
	}
}

// exportErrors logs failed exports, rate-limited: every batch fails while the collector is unavailable.
func exportErrors(log logr.Logger) otel.ErrorHandler {
	lines := rate.Sometimes{Interval: exportNoticeInterval}
	var failures atomic.Int64 // since the last line
	return otel.ErrorHandlerFunc(func(err error) {
		failures.Add(1)
		lines.Do(func() {
			log.Info("cannot export traces; check the collector at OTEL_EXPORTER_OTLP_ENDPOINT", "cause", err.Error(),
				"suppressed", failures.Swap(0)-1)
		})
	})
}
