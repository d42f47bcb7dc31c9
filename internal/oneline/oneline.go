// Package oneline makes of texts that others wrote what a status, a log or a Kubernetes Event can show.
package oneline

import (
	"strings"
	"unicode"
)

// NoteBytes is how long the API server lets the note of a Kubernetes Event be.
const NoteBytes = 1024

// Of makes one line of at most some bytes of a text: control characters are spaces, bytes that are not UTF-8 U+FFFD, and what is cut off is
// an ellipsis.
func Of(text string, bytes int) string {
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "\uFFFD"))
	text = strings.TrimSpace(text)
	if len(text) <= bytes {
		return text
	}
	return strings.ToValidUTF8(text[:bytes-len("…")], "") + "…"
}
