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

// mostVerbose is as much as is logged. At one level more, client-go logs what the API server answers, Secrets too.
const mostVerbose = zapcore.Level(-7)

// newLogger makes a logger that writes every line, up to mostVerbose. Controller-runtime's drops all but each hundredth of those over 100 a
// second that have one message, and every event has the same. The values of each line are bounded.
func newLogger(options *zap.Options) logr.Logger {
	var unsampled zapcore.Core
	keep := uberzap.WrapCore(func(core zapcore.Core) zapcore.Core {
		unsampled = core
		if core.Enabled(mostVerbose) {
			unsampled, _ = zapcore.NewIncreaseLevelCore(core, mostVerbose) // it fails where the core logs less than that
		}
		return core
	})
	restore := uberzap.WrapCore(func(zapcore.Core) zapcore.Core { return unsampled })
	written := zapr.NewLogger(zap.NewRaw(zap.UseFlagOptions(options), zap.RawZapOpts(keep)).WithOptions(restore))
	return logr.New(boundedSink{written.GetSink()})
}

// maxValueBytes bounds each text in a line of the log. It may come from a sender, a sink or the API server.
const maxValueBytes = 4096

// boundedSink cuts the texts and errors of each line. Other values are as long as the code that logs them wants: the data of an event, at
// verbosity 1.
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

// bounded returns values of which none is too long; the values themselves where that is so already.
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
