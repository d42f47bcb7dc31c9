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

// Body makes the body of a delivery again, to be sent on: JSON-equal to what Decode read, but for redacted values and lone surrogates.
// An event has the same bytes each time, whatever order its members were kept in: {"data":{"id":14},"event":"created",…}.
//
// It needs Envelope, Data, Snapshots, Context, Request, Extra and Stringified alone. It fails if one of them is not as Decode
// makes it: without an Envelope, or if a pointer in Stringified does not lead to the text of a number.
func (e *Event) Body() ([]byte, error) {
	if len(e.Envelope) == 0 {
		return nil, errors.New("envelope is empty, so no body can be made again: send on only events that were received from NetBox")
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

// unstringify makes numbers again of the texts that the pointers lead to, which are pointers from the event. The body must be written
// without needless escapes, as json.Marshal does: then the text of a number is its digits between two quotes.
func unstringify(body []byte, pointers []string) ([]byte, error) {
	left := map[string]bool{}
	for _, pointer := range pointers {
		left[pointer] = true
	}
	var numbers []edit
	dec := jsontext.NewDecoder(bytes.NewBuffer(body))
	// The body was just written, so the only error is its end.
	for token, err := dec.ReadToken(); err == nil; token, err = dec.ReadToken() {
		if token.Kind() != '"' || atName(dec) || !isNumber(token.String()) {
			continue
		}
		if pointer := eventPointer(dec.StackPointer()); left[pointer] {
			literal, end := token.String(), dec.InputOffset()
			numbers = append(numbers, edit{end - int64(len(`""`)+len(literal)), end, literal})
			delete(left, pointer)
		}
	}
	if len(left) > 0 {
		return nil, fmt.Errorf("stringified must be pointers to the text of a number, has %q", slices.Sorted(maps.Keys(left)))
	}
	return apply(body, numbers), nil
}

// isNumber tells whether a text is a JSON number and nothing else.
func isNumber(text string) bool {
	value := jsontext.Value(text)
	return value.Kind() == '0' && value.IsValid() && !strings.ContainsAny(text, " \t\r\n")
}
