package outbound

import (
	"encoding/json"
	"html"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

const (
	// fragmentBytes is the length from which a part of a secret is redacted wherever it is, minWordBytes that of a whole word, and
	// minRestBytes that of a part before a cut.
	fragmentBytes, minWordBytes, minRestBytes = 8, 4, 3
	// ellipsis marks where a text was cut.
	ellipsis = "…"
	// maxRedactedBytes bounds the text that is searched for secrets: the rest is cut off.
	maxRedactedBytes = 1 << 10
)

// Redacted replaces a secret in a text.
const Redacted = "[redacted]"

// Redactor removes secrets from texts of servers and of libraries: more users may read events and logs than Secrets. The zero value has no
// secrets.
type Redactor struct {
	// whole are redacted as a whole, fragments also in part. Both are in lower case.
	whole, fragments []string
}

// Add adds a secret, its words, and the forms that it has in a request.
func (r *Redactor) Add(secret string) {
	quoted, _ := json.Marshal(secret) //nolint:errchkjson // a string
	path := url.PathEscape(secret)
	for _, form := range []string{
		secret, path, strings.ReplaceAll(path, "%2F", "/"), url.QueryEscape(secret), strings.Trim(string(quoted), `"`), html.EscapeString(secret),
	} {
		form = lower(form)
		if slices.Contains(r.fragments, form) || slices.Contains(r.whole, form) {
			continue
		}
		if len(form) >= fragmentBytes {
			r.fragments = append(r.fragments, form)
		} else if form != "" {
			r.whole = append(r.whole, form)
		}
		for word := range strings.FieldsSeq(form) {
			if len(word) >= minWordBytes {
				r.whole = append(r.whole, word)
			}
		}
	}
}

// Redact replaces the secrets in a text, and each part of them from 8 bytes on. If there are any, it cuts the text after 1 KiB.
func (r *Redactor) Redact(text string) string {
	if r.IsEmpty() {
		return text
	}
	return r.replace(text[:min(len(text), maxRedactedBytes)], len(text) > maxRedactedBytes)
}

// IsEmpty reports whether there are no secrets.
func (r *Redactor) IsEmpty() bool { return len(r.whole)+len(r.fragments) == 0 }

// RedactValue replaces the secrets in the texts and numbers of a decoded JSON value, and in the keys of its objects, except for known ones:
// a word of a pass phrase may be a common key. It changes the lists of the value.
func (r *Redactor) RedactValue(value any, isKnown func(key string) bool) any {
	switch value := value.(type) {
	case string:
		return r.replace(value, false)
	case int64:
		return r.number(value, strconv.FormatInt(value, 10))
	case float64:
		return r.number(value, strconv.FormatFloat(value, 'f', -1, 64))
	case []any:
		for i, element := range value {
			value[i] = r.RedactValue(element, isKnown)
		}
		return value
	case map[string]any:
		redacted := make(map[string]any, len(value))
		for key, member := range value {
			if !isKnown(key) {
				key = r.replace(key, false)
			}
			redacted[key] = r.RedactValue(member, isKnown)
		}
		return redacted
	default:
		return value
	}
}

func (r *Redactor) number(value any, text string) any {
	if r.replace(text, false) != text {
		return Redacted
	}
	return value
}

// replace replaces the secrets in a text, and the end of a text that is cut: what is left of a secret there may be too short to be found.
func (r *Redactor) replace(text string, cut bool) string {
	folded := lower(text)
	secret := make([]bool, len(text))
	for _, whole := range r.whole {
		for at := 0; ; at++ {
			next := strings.Index(folded[at:], whole)
			if next < 0 {
				break
			}
			at += next
			mark(secret[at : at+len(whole)])
		}
	}
	for _, fragments := range r.fragments {
		for at := 0; at+fragmentBytes <= len(folded); at++ {
			if strings.Contains(fragments, folded[at:at+fragmentBytes]) {
				mark(secret[at : at+fragmentBytes])
			}
		}
	}
	if cut {
		mark(secret[len(secret)-fragmentBytes:])
	}
	var redacted strings.Builder
	for at := range len(text) {
		switch {
		case !secret[at]:
			redacted.WriteByte(text[at])
		case at == 0 || !secret[at-1]:
			redacted.WriteString(Redacted)
		}
	}
	return redacted.String()
}

// RedactError replaces the secrets in the text of an error. Where it was cut, which an ellipsis marks, that includes the beginning of one.
func (r *Redactor) RedactError(err error) error {
	if err == nil || r.IsEmpty() {
		return err
	}
	text := err.Error()
	parts := strings.SplitAfter(r.Redact(text), ellipsis)
	for i, part := range parts {
		if before, isCut := strings.CutSuffix(part, ellipsis); isCut {
			parts[i] = r.withoutRest(before) + ellipsis
		}
	}
	if redacted := strings.Join(parts, ""); redacted != text {
		return WithText(err, redacted)
	}
	return err
}

// withoutRest replaces a part of a secret at the end of a text that is too short to be redacted elsewhere.
func (r *Redactor) withoutRest(text string) string {
	for length := fragmentBytes - 1; length >= minRestBytes; length-- {
		if len(text) < length {
			continue
		}
		before, rest := text[:len(text)-length], lower(text[len(text)-length:])
		if slices.ContainsFunc(slices.Concat(r.fragments, r.whole), func(secret string) bool { return strings.Contains(secret, rest) }) {
			return before + Redacted
		}
	}
	return text
}

func mark(bytes []bool) {
	for i := range bytes {
		bytes[i] = true
	}
}

// lower maps the letters of ASCII to lower case, and leaves the length as it is.
func lower(text string) string {
	bytes := []byte(text)
	for i, b := range bytes {
		if b >= 'A' && b <= 'Z' {
			bytes[i] = b + 'a' - 'A'
		}
	}
	return string(bytes)
}
