// Package redact replaces secrets, and values of NetBox, in the parts of the operator's objects that a bug report shows. It opens no
// connection.
//
// Objects keep their structure: names of fields, types, lengths, and which values are equal, because equal values have the same number.
// Free text, such as messages and lines of logs, cannot be taken apart: values that the Redactor has learned from objects are replaced in
// it, and so are URLs, IP addresses, and texts in double quotes.
package redact

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/netbox-events/netbox-event-operator/internal/rule"
)

const (
	// minLearned is the length of the shortest value that is replaced in free text: shorter ones would make it unreadable.
	minLearned = 3
	// minAnywhere is the length from which on a value is also replaced within a word.
	minAnywhere = 8
)

// Redactor replaces values. The zero value is not usable; call New. Call Learn and LearnObject for all objects before the other methods,
// because the messages of one object may have values of another.
type Redactor struct {
	numbers map[string]int
	// known are names that are no secrets: of fields, and of objects in Kubernetes.
	known map[string]bool
	// short are learned values that are replaced as whole words, and long those that are replaced anywhere.
	short map[string]bool
	long  map[string]bool

	// replacer replaces long values by their index in replaced.
	replacer *strings.Replacer
	replaced []string
}

// New returns a Redactor.
func New() *Redactor {
	r := &Redactor{numbers: map[string]int{}, known: map[string]bool{}, short: map[string]bool{}, long: map[string]bool{}}
	r.Know("string", "number", "bytes", "boolean") // of what stands for values
	return r
}

// Know takes names that are shown.
func (r *Redactor) Know(names ...string) {
	for _, name := range names {
		r.known[name] = true
	}
}

// Learn takes all values of a payload, and knows the names of its fields.
func (r *Redactor) Learn(value any) {
	switch value := value.(type) {
	case map[string]any:
		for key, item := range value {
			r.Know(key)
			r.Learn(item)
		}
	case []any:
		for _, item := range value {
			r.Learn(item)
		}
	case string:
		r.LearnText(value)
	case float64, int64, json.Number:
		r.learn(fmt.Sprint(value))
	}
}

// LearnText takes a value: as it is, each of its lines, and if it is a URL, its host.
func (r *Redactor) LearnText(value string) {
	for line := range strings.Lines(value) {
		r.learn(strings.TrimSpace(line))
	}
	r.learn(value)
	if parsed, err := url.Parse(value); err == nil && parsed.Host != "" {
		r.learn(parsed.Host)
		r.learn(parsed.Hostname())
	}
}

// LearnTemplate takes what a template of a rule has beside expressions, and the string literals within these.
func (r *Redactor) LearnTemplate(template string) {
	rule.Mask(template, func(literal string) string {
		r.LearnText(literal)
		return literal
	})
}

func (r *Redactor) learn(value string) {
	switch {
	case len(value) >= minAnywhere:
		r.long[value], r.replacer = true, nil
	case len(value) >= minLearned:
		r.short[value] = true
	}
}

// mark returns what stands for a value: its kind, its number, and its length.
func (r *Redactor) mark(kind, value string, length int) string {
	number, ok := r.numbers[value]
	if !ok {
		number = len(r.numbers) + 1
		r.numbers[value] = number
	}
	if length < 0 {
		return fmt.Sprintf("<%s %d>", kind, number)
	}
	return fmt.Sprintf("<%s %d, %d bytes>", kind, number, length)
}

// String returns what stands for a string. The empty one is shown.
func (r *Redactor) String(value string) string {
	if value == "" {
		return ""
	}
	return r.mark("string", value, len(value))
}

// Value returns a payload with what stands for its values. Fields, empty values and nulls are shown.
func (r *Redactor) Value(value any) any {
	switch value := value.(type) {
	case map[string]any:
		masked := make(map[string]any, len(value))
		for _, key := range slices.Sorted(maps.Keys(value)) { // in an order, because of the numbers
			masked[key] = r.Value(value[key])
		}
		return masked
	case []any:
		masked := make([]any, len(value))
		for i, item := range value {
			masked[i] = r.Value(item)
		}
		return masked
	case string:
		return r.String(value)
	case bool:
		return "<boolean>"
	case nil:
		return nil
	default:
		return r.mark("number", fmt.Sprint(value), -1)
	}
}

// Template returns a template of a rule with its expressions, and what stands for all else.
func (r *Redactor) Template(template string) string { return rule.Mask(template, r.literal) }

// Expression returns a CEL expression with what stands for its string literals, unless these are names.
func (r *Redactor) Expression(expression string) string {
	return rule.MaskExpression(expression, r.literal)
}

func (r *Redactor) literal(text string) string {
	if r.known[text] {
		return text
	}
	return r.String(text)
}

// unsafe is what a free text has of values that may not have been learned: URLs, and what is in quotes, also if it was cut off.
var unsafe = regexp.MustCompile(`(?:https?|wss?)://[^\s"'<>]+|"(?:[^"\\]|\\.)*(?:"|\\?$)`)

// Text returns a free text without learned values, URLs, IP addresses, and what is in double quotes.
func (r *Redactor) Text(text string) string {
	text = unsafe.ReplaceAllStringFunc(text, func(found string) string {
		if !strings.HasPrefix(found, `"`) {
			return r.mark("URL", found, len(found))
		}
		content := strings.Trim(found, `"`)
		if content == "" || r.known[content] {
			return found
		}
		return r.String(content)
	})
	return r.words(r.addresses(r.longValues(text)))
}

// address is what may be an IP address.
var address = regexp.MustCompile(`\b\d{1,3}(?:\.\d{1,3}){3}\b|(?:\b[0-9A-Fa-f]{1,4}:|:)[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*[0-9A-Fa-f]\b`)

// addresses replaces the IP addresses in a text, except for those that are the same on all machines.
func (r *Redactor) addresses(text string) string {
	return address.ReplaceAllStringFunc(text, func(found string) string {
		if parsed, err := netip.ParseAddr(found); err != nil || parsed.IsLoopback() || parsed.IsUnspecified() {
			return found
		}
		return r.String(found)
	})
}

// index stands for a long value while a text is searched.
var index = regexp.MustCompile("\x00(\\d+)\x00")

// longValues replaces long values in a text, the longest first.
func (r *Redactor) longValues(text string) string {
	if r.replacer == nil {
		r.replaced = slices.SortedFunc(maps.Keys(r.long), func(a, b string) int { return cmp.Compare(len(b), len(a)) })
		var pairs []string
		for i, value := range r.replaced {
			if !r.known[value] {
				pairs = append(pairs, value, fmt.Sprintf("\x00%d\x00", i))
			}
		}
		r.replacer = strings.NewReplacer(pairs...)
	}
	text = r.replacer.Replace(strings.ReplaceAll(text, "\x00", " "))
	return index.ReplaceAllStringFunc(text, func(found string) string {
		at, err := strconv.Atoi(strings.Trim(found, "\x00"))
		if err != nil {
			return ""
		}
		return r.String(r.replaced[at])
	})
}

// marked is what stands for a value, at the start of a text.
var marked = regexp.MustCompile(`^<(?:string|number|URL) \d+(?:, \d+ bytes)?>`)

// words replaces the short values in a text where they are whole words, but not in what stands for other values.
func (r *Redactor) words(text string) string {
	var masked strings.Builder
	before := ' '
	for at := 0; at < len(text); {
		if text[at] == '<' {
			mark := marked.FindString(text[at:])
			masked.WriteString(mark)
			if at += len(mark); mark != "" {
				before = '>'
				continue
			}
		}
		if !isWord(before) {
			if value := r.wordAt(text[at:]); value != "" {
				masked.WriteString(r.String(value))
				at += len(value)
				before, _ = utf8.DecodeLastRuneInString(value)
				continue
			}
		}
		char, size := utf8.DecodeRuneInString(text[at:])
		masked.WriteString(text[at : at+size])
		at += size
		before = char
	}
	return masked.String()
}

// wordAt returns the longest short value at the start of a text that no word goes on behind.
func (r *Redactor) wordAt(text string) string {
	for length := min(minAnywhere-1, len(text)); length >= minLearned; length-- {
		after, _ := utf8.DecodeRuneInString(text[length:])
		if value := text[:length]; r.short[value] && !r.known[value] && (length == len(text) || !isWord(after)) {
			return value
		}
	}
	return ""
}

func isWord(char rune) bool { return unicode.IsLetter(char) || unicode.IsDigit(char) || char == '_' }
