package main

import (
	"errors"

	"github.com/go-logr/logr"
	"github.com/go-logr/zapr"
	uberzap "go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"

	"github.com/netbox-events/netbox-event-operator/internal/oneline"
)

// mostVerbose is the highest verbosity. At the next level, client-go logs response bodies of the API server, including Secrets.
const mostVerbose = zapcore.Level(-7)

// newLogger returns a logger without sampling, up to mostVerbose. Controller-runtime's logger writes only every hundredth line beyond 100 a
// second with the same message, and all events have the same message. The values of each line are bounded.
func newLogger(options *zap.Options) logr.Logger {
	var unsampled zapcore.Core
	keep := uberzap.WrapCore(func(core zapcore.Core) zapcore.Core {
		unsampled = core
		if core.Enabled(mostVerbose) {
			unsampled, _ = zapcore.NewIncreaseLevelCore(core, mostVerbose) // it fails if the core is less verbose
		}
		return core
	})
	restore := uberzap.WrapCore(func(zapcore.Core) zapcore.Core { return unsampled })
	written := zapr.NewLogger(zap.NewRaw(zap.UseFlagOptions(options), zap.RawZapOpts(keep)).WithOptions(restore))
	return logr.New(boundedSink{written.GetSink()})
}

// maxValueBytes bounds each text in a log line: it may come from a sender, a sink or the API server.
const maxValueBytes = 4096

// boundedSink truncates the texts and errors of each line. It does not bound other values, such as the data of an event at verbosity 1.
type boundedSink struct{ logr.LogSink }

func (s boundedSink) Info(level int, message string, values ...any) {
	s.LogSink.Info(level, message, bounded(values)...)
}

func (s boundedSink) Error(err error, message string, values ...any) {
	s.LogSink.Error(boundedError(err), message, bounded(values)...)
}

func (s boundedSink) WithValues(values ...any) logr.LogSink {
	return boundedSink{s.LogSink.WithValues(bounded(values)...)}
}

func (s boundedSink) WithName(name string) logr.LogSink { return boundedSink{s.LogSink.WithName(name)} }

// bounded returns values with long texts and errors truncated. It copies the values only if it truncates one.
func bounded(values []any) []any {
	copied := false
	for i, value := range values {
		var cut any
		switch value := value.(type) {
		case string:
			if len(value) > maxValueBytes {
				cut = oneline.Of(value, maxValueBytes)
			}
		case error:
			if shorter := boundedError(value); shorter != value { //nolint:errorlint // whether it was replaced
				cut = shorter
			}
		}
		if cut == nil {
			continue
		}
		if !copied {
			values, copied = append([]any(nil), values...), true
		}
		values[i] = cut
	}
	return values
}

func boundedError(err error) error {
	if err == nil {
		return nil
	}
	if text := err.Error(); len(text) > maxValueBytes {
		return errors.New(oneline.Of(text, maxValueBytes))
	}
	return err
}
