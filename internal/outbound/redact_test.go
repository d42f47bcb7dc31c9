package outbound_test

import (
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/netbox-events/netbox-event-operator/internal/outbound"
)

func TestRedactor(t *testing.T) {
	const token = "0123456789abcdef"
	var secrets outbound.Redactor
	if long := strings.Repeat("x", 2<<10); !secrets.IsEmpty() || secrets.Redact(long) != long {
		t.Error("a Redactor without secrets changes a text")
	}
	secrets.Add(token)
	for text, want := range map[string]string{
		"no secret":                       "no secret",
		"Token " + token + " is bad":      "Token [redacted] is bad",
		"TOKEN " + strings.ToUpper(token): "TOKEN [redacted]",
		"a part, 456789ab":                "a part, [redacted]",
		"too short, 456789a":              "too short, 456789a",
	} {
		if got := secrets.Redact(text); got != want {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
	}
	err := errors.Join(errors.New("sent "+token[:7]+"…"), io.EOF)
	if got := secrets.RedactError(err); got.Error() != "sent [redacted]…\nEOF" || !errors.Is(got, io.EOF) {
		t.Errorf("the error becomes %q", got)
	}
}
