package netbox_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"math/big"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	kjson "sigs.k8s.io/json"

	"github.com/netbox-events/netbox-event-operator/internal/netbox"
)

// FuzzDecode checks that a body is either refused with one of the documented errors, or decoded to an event whose free-form JSON survives
// the API server's decoder, and whose restored body decodes to the same event.
func FuzzDecode(f *testing.F) {
	for i, delivery := range recorded(f) {
		if i%40 == 0 && len(delivery.Body) < 10_000 {
			f.Add([]byte(delivery.Body))
		}
	}
	for _, body := range []string{
		`{"a":"\ud800","password":"x","b":123456789012345678901234567890,"c":1e400,"d":[0.1e-7,NaN]}`,
		valid + `"password":{"a":1e999},"snapshots":{"prechange":{"a":1e999,"password":1},"postchange":{"a":1.0,"last_updated":""}}}`,
		valid + `"":{"":{"~":1e999}}}`,
		valid + `"a":` + strings.Repeat("[", 198) + strings.Repeat("]", 198) + `}`,
		valid + `"a":[` + strings.Repeat("9", 400) + `,-1e-400,0e9,-0.0,1e20,1E999999999999]}`,
		valid + `"a":{"a":1,"\u0061":2}}`,
		valid + `"a":{"\ud800":1,"\ud801":2}}`,
		valid + `"a":{"a":1,"A":2,"__proto__":{},"~1/":0,"a.b":"\u0000\u2028<>&"}}`,
		valid + "\"a\":\"\xff\xc0\xaf\xed\xa0\x80\"}",
		"\ufeff" + valid + `"a":1}`,
		valid + `"apiVersion":"v1","kind":"Secret","metadata":{"name":"x"},"status":{"phase":"Succeeded"}}`,
		valid + `"password":` + strings.Repeat("[", 190) + strings.Repeat("]", 190) + `}`,
		valid + `"model":null,"snapshots":null,"context":{},"extra":1e999,"\ud800":{"\udbff":1e999,"a":"\u0031e999"}}`,
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		event, err := netbox.Decode(body, redact)
		if err != nil {
			_, isSyntax := errors.AsType[*netbox.SyntaxError](err)
			_, isInvalid := errors.AsType[*netbox.InvalidError](err)
			if !isSyntax && !isInvalid && !errors.Is(err, netbox.ErrTooLarge) && !errors.Is(err, netbox.ErrTooManyValues) {
				t.Fatalf("error of type %T: %v", err, err)
			}
			return
		}
		if !json.Valid(body) {
			t.Fatal("decoded a body that is not JSON")
		}
		if event.Event == "" || event.Model == "" || event.Timestamp.IsZero() {
			t.Fatalf("an event without event, model or timestamp: %+v", event)
		}
		if event.Timestamp.Nanosecond()%1000 != 0 {
			t.Fatalf("more than microseconds: %v", event.Timestamp)
		}
		if !slices.IsSorted(event.ChangedFields) || slices.Contains(event.ChangedFields, "last_updated") {
			t.Fatalf("changed fields %q", event.ChangedFields)
		}
		for _, object := range []netbox.Object{event.Data, event.Snapshots, event.Context, event.Request, event.Extra, event.Envelope} {
			kept := generic(t, object)
			var served any
			if err := kjson.UnmarshalCaseSensitivePreserveInts(encode(t, kept), &served); err != nil {
				t.Fatalf("the API server refuses %s: %v", encode(t, kept), err)
			}
			if again := decode(t, encode(t, served)); !same(kept, again) {
				t.Fatalf("%s comes back as %s", encode(t, kept), encode(t, again))
			}
			if holds(kept, func(name string, value any) bool {
				return slices.Contains(redact, name) && value != nil && value != "" && value != netbox.Redacted &&
					!reflect.DeepEqual(value, map[string]any{}) && !reflect.DeepEqual(value, []any{})
			}) {
				t.Fatalf("a secret is left in %s", encode(t, kept))
			}
		}

		again, err := event.Body()
		if err != nil {
			t.Fatalf("no body: %v", err)
		}
		other, err := netbox.Decode(again, redact)
		if err != nil {
			t.Fatalf("the body %s is refused: %v", again, err)
		}
		if len(event.Redacted) > 0 { // that a redacted value changed is not seen again
			other.ChangedFields = event.ChangedFields
		}
		if diff := cmp.Diff(event, other, cmpopts.IgnoreFields(netbox.Event{}, "Digest"), cmpopts.SortSlices(strings.Compare),
			cmp.Comparer(func(a, b netbox.Object) bool {
				return (a == nil) == (b == nil) && reflect.DeepEqual(generic(t, a), generic(t, b))
			})); diff != "" {
			t.Fatalf("the body %s is of another event (-sent +restored):\n%s", again, diff)
		}
	})
}

func FuzzVerify(f *testing.F) {
	f.Add([]byte("key"), []byte("{}"), netbox.Sign([]byte("key"), []byte("{}")))
	f.Add([]byte("key"), []byte("{}"), "")
	f.Fuzz(func(t *testing.T, key, body []byte, signature string) {
		_, ok := netbox.Verify([]netbox.Key{{Name: "secret", Value: key}}, body, signature)
		if right := netbox.Sign(key, body) == signature; ok != right {
			t.Fatalf("accepted: %t, right: %t", ok, right)
		}
	})
}

func encode(t *testing.T, value any) []byte {
	t.Helper()
	encoded, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return encoded
}

func decode(t *testing.T, encoded []byte) (value any) {
	t.Helper()
	decoder := json.NewDecoder(bytes.NewReader(encoded))
	decoder.UseNumber()
	if err := decoder.Decode(&value); err != nil {
		t.Fatal(err)
	}
	return value
}

// same compares two values, numbers by their exact value.
func same(a, b any) bool {
	switch a := a.(type) {
	case json.Number:
		b, ok := b.(json.Number)
		if !ok || len(a) > 1000 || len(b) > 1000 {
			return ok && a == b
		}
		x, okX := new(big.Rat).SetString(a.String())
		y, okY := new(big.Rat).SetString(b.String())
		if !okX || !okY { // an exponent that big.Rat does not take; such numbers are text unless they are zero
			return strings.Trim(strings.Split(strings.ToLower(a.String()), "e")[0], "-0.") == "" && b == "0"
		}
		return x.Cmp(y) == 0
	case map[string]any:
		b, ok := b.(map[string]any)
		return ok && maps.EqualFunc(a, b, same)
	case []any:
		b, ok := b.([]any)
		return ok && slices.EqualFunc(a, b, same)
	default:
		return reflect.DeepEqual(a, b)
	}
}

// holds reports whether match returns true for a member of a value, at any depth.
func holds(value any, match func(name string, value any) bool) bool {
	switch value := value.(type) {
	case map[string]any:
		for name, child := range value {
			if match(name, child) || holds(child, match) {
				return true
			}
		}
	case []any:
		return slices.ContainsFunc(value, func(child any) bool { return holds(child, match) })
	}
	return false
}
