package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"go.uber.org/zap/zapcore"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
)

// TestNewLogger checks that the verbosity never reaches 8, at which client-go logs Secrets.
func TestNewLogger(t *testing.T) {
	for verbosity, want := range map[int]string{0: "0", 1: "01", 7: "01234567", 10: "01234567"} {
		var written bytes.Buffer
		log := newLogger(&zap.Options{DestWriter: &written, Level: zapcore.Level(-verbosity)})
		for level := range 12 {
			log.V(level).Info("a line", "at", level)
		}
		var got strings.Builder
		for line := range strings.Lines(written.String()) {
			_, at, _ := strings.Cut(line, `"at":`)
			got.WriteByte(at[0])
		}
		if got.String() != want {
			t.Errorf("verbosity %d: lines of levels %s, want %s", verbosity, got.String(), want)
		}
	}
}

// TestBoundedLines logs long texts in each way that there is.
func TestBoundedLines(t *testing.T) {
	long := strings.Repeat("é", 300_000)
	var written bytes.Buffer
	log := newLogger(&zap.Options{DestWriter: &written}).WithName("name").WithValues("with", long)
	log.Info("a line", "short", "a\nb", "long", long, "error", errors.New(long), "number", 5)
	log.Error(errors.New(long), "an error", "other", long)
	for line := range strings.Lines(written.String()) {
		var decoded map[string]any
		if err := json.Unmarshal([]byte(line), &decoded); err != nil {
			t.Fatal(err)
		}
		for name, value := range decoded {
			if text, ok := value.(string); ok && (len(text) > 4096 || len(text) > 4000 != strings.HasSuffix(text, "é…")) {
				t.Errorf("%s takes %d bytes and ends with %q", name, len(text), text[len(text)-5:])
			}
		}
		if decoded["msg"] == "a line" && (decoded["short"] != "a\nb" || decoded["number"] != 5.) {
			t.Errorf("a line is %.200s", line)
		}
	}
	if lines := strings.Count(written.String(), "\n"); lines != 2 {
		t.Errorf("%d lines were written", lines)
	}
}
