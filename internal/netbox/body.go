package netbox

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Body restores the body of a delivery, for forwarding: JSON-equal to the input of Decode, except for redacted values and lone surrogates.
// The bytes are deterministic for an event: {"data":{"id":14},"event":"created",…}.
//
// It reads only Envelope, Data, Snapshots, Context, Request, Extra and Stringified. It fails if Decode cannot have produced them: without
// an Envelope, or if a pointer in Stringified does not refer to the text of a number.
func (e *Event) Body() ([]byte, error) {
	if len(e.Envelope) == 0 {
		return nil, errors.New("envelope is empty, so the body cannot be restored: forward only events that were received from NetBox")
	}
	sent := map[string]any{}
	for _, members := range []Object{e.Envelope, e.Extra} {
		for name, value := range members {
			sent[name] = value
		}
	}
	objects := map[string]Object{"data": e.Data, "snapshots": e.Snapshots, "context": e.Context, "request": e.Request}
	for name, object := range objects {
		if object != nil {
			sent[name] = object
		}
	}
	body, err := json.Marshal(sent, lenient, json.Deterministic(true), jsontext.ReorderRawObjects(true))
	if err != nil {
		return nil, fmt.Errorf("members of an event must be JSON: %w", err)
	}
	if len(e.Stringified) == 0 {
		return body, nil
	}
	return unstringify(body, e.Stringified)
}

// unstringify converts the texts at the pointers, which start at the event, back to numbers. The body must have no needless escapes, as
// json.Marshal's output: then the text of a number is its digits between two quotes.
func unstringify(body []byte, pointers []string) ([]byte, error) {
	missing := map[string]bool{}
	for _, pointer := range pointers {
		missing[pointer] = true
	}
	var numbers []edit
	dec := jsontext.NewDecoder(bytes.NewBuffer(body))
	// The body was just marshaled, so the only error is io.EOF.
	for token, err := dec.ReadToken(); err == nil; token, err = dec.ReadToken() {
		if token.Kind() != '"' || atName(dec) || !isNumber(token.String()) {
			continue
		}
		if pointer := eventPointer(dec.StackPointer()); missing[pointer] {
			literal, end := token.String(), dec.InputOffset()
			numbers = append(numbers, edit{end - int64(len(`""`)+len(literal)), end, literal})
			delete(missing, pointer)
		}
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("stringified must be pointers to the text of a number, has %q", slices.Sorted(maps.Keys(missing)))
	}
	return apply(body, numbers), nil
}

// isNumber reports whether a text is exactly a JSON number.
func isNumber(text string) bool {
	value := jsontext.Value(text)
	return value.Kind() == '0' && value.IsValid() && !strings.ContainsAny(text, " \t\r\n")
}
