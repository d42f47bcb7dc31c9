package netbox

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// MaxDepth is how deeply objects and arrays of a body may be nested. NetBox's own bodies stay below 20.
const MaxDepth = 200

// MaxValues is how many values a body may have, objects and arrays included. The largest body that was recorded from a NetBox has 27,100,
// in 785 kB. An API server takes up to half a second of a processor to store 100,000.
const MaxValues = 100_000

// Redacted stands in place of a value that is not stored.
const Redacted = "[redacted]"

// lenient reads a lone surrogate (`\ud800`), which Python writes and Kubernetes cannot keep, as U+FFFD instead of refusing it.
// Raw bytes that are not UTF-8 are refused before any decoding.
var lenient = jsontext.AllowInvalidUTF8(true)

// edit replaces the bytes [start,end) of a body.
type edit struct {
	start, end  int64
	replacement string
}

// edits is what has to change in a body before it can be stored.
type edits struct {
	redacted, stringified []edit
	// redactedAt and stringifiedAt are the JSON pointers, from the event, of the values changed.
	redactedAt, stringifiedAt []string
	pointerBytes              int // of both
}

// maxPointerBytes is the API server's limit for a request. A pointer repeats all names above a value, so that a body of 1 MB may have 2 GB.
const maxPointerBytes = 3 << 20

// scan checks that the body is one JSON object of a bounded size and finds what cannot be stored in it as it is.
func scan(body []byte, redact []string) (edits, error) {
	var found edits
	if err := checkEncoding(body); err != nil {
		return found, err
	}
	var member string // of the body, in which the decoder is
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
					return found, syntaxError(body, int64(len(body)-len(rest)), "something follows the JSON object")
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

// redact reads the value of the name that was just read, and drops it unless it is empty.
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

// list adds the pointer to the value that was just read to one of the lists, or fails with ErrTooLarge.
func (e *edits) list(pointers []string, dec *jsontext.Decoder) ([]string, error) {
	pointer := eventPointer(dec.StackPointer())
	if e.pointerBytes += len(pointer); e.pointerBytes > maxPointerBytes {
		return nil, ErrTooLarge
	}
	return append(pointers, pointer), nil
}

// isEmpty tells whether a value holds nothing that could be secret.
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

// atName tells whether the string that was just read names a member of an object.
func atName(dec *jsontext.Decoder) bool {
	kind, length := dec.StackIndex(dec.StackDepth())
	return kind == '{' && length%2 == 1
}

// apply returns the body with all edits made, which must not overlap. Without edits it is the body itself.
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

// typedMembers are the members of a body that become text of their own, and are no free-form JSON.
var typedMembers = []string{"event", "timestamp", "object_type", "model", "username", "request_id"}

// objectMembers are the members of a body that hold free-form JSON and that NetBox itself defines.
var objectMembers = []string{"data", "snapshots", "context", "request"}

// isDefined tells whether NetBox itself defines a member of a body, which is no field of an object then.
func isDefined(name string) bool {
	return slices.Contains(typedMembers, name) || slices.Contains(objectMembers, name)
}

// eventPointer turns a pointer into the body into one into the event, where members that NetBox does not define lie in extra.
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

// explain turns an error of the decoder into one that shows the place.
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
			return syntaxError(body, syntactic.ByteOffset, "not valid JSON: %s is no JSON number", word)
		}
	}
	return syntaxError(body, syntactic.ByteOffset, "not valid JSON: %v", syntactic.Err)
}
