package action

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
	maxRedactedBytes = 4 * maxResponseBytes
	redactedText     = "[redacted]"
)

// redactor removes secrets from texts of sinks and of libraries: more users may read events and logs than Secrets.
type redactor struct {
	// whole are redacted as a whole, fragments also in part. Both are in lower case.
	whole, fragments []string
}

// add adds a secret, its words, and the forms that it has in a request.
func (r *redactor) add(secret string) {
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

// redact replaces the secrets in the beginning of a text, and each part of them from fragmentBytes on.
func (r *redactor) redact(text string) string {
	if r.isEmpty() {
		return text
	}
	return r.replace(text[:min(len(text), maxRedactedBytes)], len(text) > maxRedactedBytes)
}

func (r *redactor) isEmpty() bool { return len(r.whole)+len(r.fragments) == 0 }

// value replaces the secrets in the texts and numbers of a decoded JSON value, and in the keys of its objects, except for known ones: a
// word of a pass phrase may be a common key.
func (r *redactor) value(value any, isKnown func(key string) bool) any {
	switch value := value.(type) {
	case string:
		return r.replace(value, false)
	case int64:
		return r.number(value, strconv.FormatInt(value, 10))
	case float64:
		return r.number(value, strconv.FormatFloat(value, 'f', -1, 64))
	case []any:
		for i, element := range value {
			value[i] = r.value(element, isKnown)
		}
		return value
	case map[string]any:
		redacted := make(map[string]any, len(value))
		for key, member := range value {
			if !isKnown(key) {
				key = r.replace(key, false)
			}
			redacted[key] = r.value(member, isKnown)
		}
		return redacted
	default:
		return value
	}
}

func (r *redactor) number(value any, text string) any {
	if r.replace(text, false) != text {
		return redactedText
	}
	return value
}

// replace replaces the secrets in a text, and the end of a text that is cut: what is left of a secret there may be too short to be found.
func (r *redactor) replace(text string, cut bool) string {
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
			redacted.WriteString(redactedText)
		}
	}
	return redacted.String()
}

// redactError replaces the secrets in the text of an error. Where it was cut, which an ellipsis marks, that includes the beginning of one.
func (r *redactor) redactError(err error) error {
	if err == nil || r.isEmpty() {
		return err
	}
	text := err.Error()
	parts := strings.SplitAfter(r.redact(text), ellipsis)
	for i, part := range parts {
		if before, isCut := strings.CutSuffix(part, ellipsis); isCut {
			parts[i] = r.withoutRest(before) + ellipsis
		}
	}
	if redacted := strings.Join(parts, ""); redacted != text {
		return &textError{redacted, err}
	}
	return err
}

// withoutRest replaces a part of a secret at the end of a text that is too short to be redacted elsewhere.
func (r *redactor) withoutRest(text string) string {
	for length := fragmentBytes - 1; length >= minRestBytes; length-- {
		if len(text) < length {
			continue
		}
		before, rest := text[:len(text)-length], lower(text[len(text)-length:])
		if slices.ContainsFunc(slices.Concat(r.fragments, r.whole), func(secret string) bool { return strings.Contains(secret, rest) }) {
			return before + redactedText
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
