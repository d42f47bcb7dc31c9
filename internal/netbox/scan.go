package netbox

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// MaxDepth limits the nesting of objects and arrays in a body. NetBox's own bodies stay below 20.
const MaxDepth = 200

// MaxValues limits the values of a body, objects and arrays included. The largest recorded body of a NetBox has 27,100 in 785 kB. An API
// server needs up to half a second of CPU time to store 100,000.
const MaxValues = 100_000

// Redacted replaces a value that is not stored.
const Redacted = "[redacted]"

// lenient reads a lone surrogate (`\ud800`), which Python writes and Kubernetes cannot keep, as U+FFFD instead of refusing it.
// Raw bytes that are not UTF-8 are refused before any decoding.
var lenient = jsontext.AllowInvalidUTF8(true)

// edit replaces the bytes [start,end) of a body.
type edit struct {
	start, end  int64
	replacement string
}

// edits are the changes to a body before it can be stored.
type edits struct {
	redacted, stringified []edit
	// redactedAt and stringifiedAt are the JSON pointers, from the event, to the changed values.
	redactedAt, stringifiedAt []string
	pointerBytes              int // of both
}

// maxPointerBytes is the API server's limit for a request. A pointer repeats all names above a value, so that a body of 1 MB may have 2 GB
// of pointers.
const maxPointerBytes = 3 << 20

// scan checks that the body is one JSON object within the limits, and finds the values that must be redacted or stringified.
func scan(body []byte, redact []string) (edits, error) {
	var found edits
	if err := checkEncoding(body); err != nil {
		return found, err
	}
	var member string // current top-level member
	var values int
	dec := jsontext.NewDecoder(bytes.NewBuffer(body), lenient)
	if kind := dec.PeekKind(); kind != '{' && kind != jsontext.KindInvalid {
		return found, syntaxError(body, dec.InputOffset(), "the body must be a JSON object, is %s", describe(kind))
	}
	for {
		token, err := dec.ReadToken()
		if errors.Is(err, io.EOF) {
			return found, nil
		}
		if err != nil {
			return found, explain(body, dec, err)
		}
		if kind := token.Kind(); kind != '}' && kind != ']' && !(kind == '"' && atName(dec)) {
			if values++; values > MaxValues {
				return found, ErrTooManyValues
			}
		}
		switch token.Kind() {
		case '{', '[':
			if dec.StackDepth() > MaxDepth {
				return found, syntaxError(body, dec.InputOffset()-1, "nested deeper than %d levels", MaxDepth)
			}
		case '}':
			if dec.StackDepth() == 0 {
				if rest := bytes.TrimLeft(body[dec.InputOffset():], " \t\r\n"); len(rest) > 0 {
					return found, syntaxError(body, int64(len(body)-len(rest)), "unexpected data after the JSON object")
				}
				return found, nil
			}
		case '"':
			if !atName(dec) {
				continue
			}
			name := token.String()
			if dec.StackDepth() == 1 {
				member = name
			}
			if !slices.Contains(redact, name) || dec.StackDepth() == 1 && isDefined(name) {
				continue
			}
			if err := found.redact(dec); err != nil {
				return found, explain(body, dec, err)
			}
		case '0':
			if literal := token.String(); !survives(literal) && !slices.Contains(typedMembers, member) {
				end := dec.InputOffset()
				found.stringified = append(found.stringified, edit{end - int64(len(literal)), end, `"` + literal + `"`})
				if found.stringifiedAt, err = found.list(found.stringifiedAt, dec); err != nil {
					return found, err
				}
			}
		}
	}
}

// redact reads the value of the name that was just read, and redacts it unless it is empty.
func (e *edits) redact(dec *jsontext.Decoder) error {
	value, err := dec.ReadValue()
	if err != nil {
		return err
	}
	end := dec.InputOffset()
	start := end - int64(len(value))
	if isEmpty(value) {
		return nil
	}
	e.redacted = append(e.redacted, edit{start, end, `"` + Redacted + `"`})
	e.redactedAt, err = e.list(e.redactedAt, dec)
	return err
}

// list appends the pointer to the value that was just read to a list, or fails with ErrTooLarge.
func (e *edits) list(pointers []string, dec *jsontext.Decoder) ([]string, error) {
	pointer := eventPointer(dec.StackPointer())
	if e.pointerBytes += len(pointer); e.pointerBytes > maxPointerBytes {
		return nil, ErrTooLarge
	}
	return append(pointers, pointer), nil
}

// isEmpty reports whether a value is null or empty, and so cannot be secret.
func isEmpty(value jsontext.Value) bool {
	switch value.Kind() {
	case 'n':
		return true
	case '"':
		return len(value) == len(`""`)
	case '{', '[':
		return len(bytes.TrimSpace(value[1:len(value)-1])) == 0
	default:
		return false
	}
}

// atName reports whether the string that was just read is the name of a member.
func atName(dec *jsontext.Decoder) bool {
	kind, length := dec.StackIndex(dec.StackDepth())
	return kind == '{' && length%2 == 1
}

// apply returns the body with all edits applied, which must not overlap. Without edits it returns the body itself.
func apply(body []byte, all []edit) []byte {
	if len(all) == 0 {
		return body
	}
	slices.SortFunc(all, func(a, b edit) int { return int(a.start - b.start) })
	edited := make([]byte, 0, len(body)+len(all)*len(Redacted))
	var at int64
	for _, edit := range all {
		edited = append(append(edited, body[at:edit.start]...), edit.replacement...)
		at = edit.end
	}
	return append(edited, body[at:]...)
}

// typedMembers are the members of a body that become text fields of the event, and are not free-form JSON.
var typedMembers = []string{"event", "timestamp", "object_type", "model", "username", "request_id"}

// objectMembers are the members of a body that NetBox defines and that hold free-form JSON.
var objectMembers = []string{"data", "snapshots", "context", "request"}

// isDefined reports whether NetBox defines a top-level member of a body.
func isDefined(name string) bool {
	return slices.Contains(typedMembers, name) || slices.Contains(objectMembers, name)
}

// eventPointer converts a pointer into the body to one into the event, whose extra holds the members that NetBox does not define.
func eventPointer(pointer jsontext.Pointer) string {
	if slices.Contains(objectMembers, firstToken(pointer)) {
		return string(pointer)
	}
	return "/extra" + string(pointer)
}

func firstToken(pointer jsontext.Pointer) string {
	for token := range pointer.Tokens() {
		return token
	}
	return ""
}

func checkEncoding(body []byte) error {
	if len(bytes.TrimSpace(body)) == 0 {
		return syntaxError(body, 0, "the body is empty")
	}
	if utf8.Valid(body) {
		return nil
	}
	for at := 0; ; {
		r, size := utf8.DecodeRune(body[at:])
		if r == utf8.RuneError && size == 1 {
			return syntaxError(body, int64(at), "not UTF-8")
		}
		at += size
	}
}

// explain converts an error of the decoder to one with its position.
func explain(body []byte, dec *jsontext.Decoder, err error) error {
	if errors.Is(err, ErrTooLarge) {
		return err
	}
	syntactic, ok := errors.AsType[*jsontext.SyntacticError](err)
	if !ok {
		return syntaxError(body, dec.InputOffset(), "not valid JSON: %v", err)
	}
	for _, word := range []string{"NaN", "Infinity"} {
		if bytes.HasPrefix(body[min(syntactic.ByteOffset, int64(len(body))):], []byte(word)) {
			return syntaxError(body, syntactic.ByteOffset, "not valid JSON: %s is not a JSON number", word)
		}
	}
	return syntaxError(body, syntactic.ByteOffset, "not valid JSON: %v", syntactic.Err)
}
