// Package oneline makes text from other systems fit into a status, a log line or a Kubernetes Event.
package oneline

import (
	"strings"
	"unicode"
)

// NoteBytes is the maximum length of the note of a Kubernetes Event.
const NoteBytes = 1024

// Of returns a text as a single line, truncated to a maximum number of bytes. Control characters become spaces, invalid UTF-8 becomes
// U+FFFD, and an ellipsis marks truncation.
func Of(text string, maxBytes int) string {
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "\uFFFD"))
	text = strings.TrimSpace(text)
	if len(text) <= maxBytes {
		return text
	}
	return strings.ToValidUTF8(text[:maxBytes-len("…")], "") + "…"
}
