package main

import (
	"bytes"
	"strings"
	"testing"

	"go.uber.org/zap/zapcore"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
)

// TestNewLogger holds what is asked for against the level at which client-go logs Secrets, 8.
func TestNewLogger(t *testing.T) {
	for asked, want := range map[int]string{0: "0", 1: "01", 7: "01234567", 10: "01234567"} {
		var written bytes.Buffer
		log := newLogger(&zap.Options{DestWriter: &written, Level: zapcore.Level(-asked)})
		for level := range 12 {
			log.V(level).Info("a line", "at", level)
		}
		var got strings.Builder
		for line := range strings.Lines(written.String()) {
			_, at, _ := strings.Cut(line, `"at":`)
			got.WriteByte(at[0])
		}
		if got.String() != want {
			t.Errorf("at level %d: lines of %s, want %s", asked, got.String(), want)
		}
	}
}
