package rule

import (
	"bytes"
	"reflect"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

// deferred is a CEL map that is decoded where an expression reads it, and not kept. A group may have 5000 events of 6 kB: decoding all of
// them allocates 180 MB, and an expression reads a few members of each.
type deferred struct{ source }

// source has the members of a deferred map. Sources are pointers, so that they can be compared.
type source interface {
	// find returns a member.
	find(name string) (value any, ok bool)
	// all returns all members.
	all() map[string]any
	// weight returns an upper bound of what native counts.
	weight() int
}

// resolve returns the map with all members.
func (d deferred) resolve() traits.Mapper {
	return types.NewStringInterfaceMap(types.DefaultTypeAdapter, d.all())
}

// Find returns a member.
func (d deferred) Find(key ref.Val) (ref.Val, bool) {
	name, ok := key.(types.String)
	if !ok {
		return nil, false
	}
	value, ok := d.find(string(name))
	if !ok {
		return nil, false
	}
	return types.DefaultTypeAdapter.NativeToValue(value), true
}

// Get returns a member, or an error.
func (d deferred) Get(key ref.Val) ref.Val {
	value, ok := d.Find(key)
	if !ok {
		return types.ValOrErr(key, "no such key: %v", key)
	}
	return value
}

// Contains reports whether there is a member.
func (d deferred) Contains(key ref.Val) ref.Val {
	_, ok := d.Find(key)
	return types.Bool(ok)
}

// Equal compares the map with another value.
func (d deferred) Equal(other ref.Val) ref.Val {
	if same, ok := other.(deferred); ok && same.source == d.source {
		return types.True
	}
	return d.resolve().Equal(resolved(other))
}

// resolved returns the value of a deferred map, and any other value as it is.
func resolved(value ref.Val) ref.Val {
	if deferred, ok := value.(deferred); ok {
		return deferred.resolve()
	}
	return value
}

// Iterator iterates over the keys.
func (d deferred) Iterator() traits.Iterator { return d.resolve().Iterator() }

// Fold calls a folder with each member.
func (d deferred) Fold(folder traits.Folder) { types.ToFoldableMap(d.resolve()).Fold(folder) }

// Size returns the number of members.
func (d deferred) Size() ref.Val { return d.resolve().Size() }

// IsZeroValue reports whether the map is empty.
func (d deferred) IsZeroValue() bool { return d.Size() == types.IntZero }

// ConvertToNative converts the map to a type of Go.
func (d deferred) ConvertToNative(to reflect.Type) (any, error) {
	return d.resolve().ConvertToNative(to)
}

// ConvertToType converts the map to a type of CEL.
func (d deferred) ConvertToType(to ref.Type) ref.Val { return d.resolve().ConvertToType(to) }

// Type returns the type of maps.
func (d deferred) Type() ref.Type { return types.MapType }

// Value returns all members.
func (d deferred) Value() any { return d.all() }

// decoder makes the deferred values of a group. It keeps the members of one object: an expression that reads many of them, one after the
// other, has the object decoded once.
type decoder struct {
	latest  *textSource    // that was read
	finds   int            // of members of latest, without another object between them
	members map[string]any // of latest; nil until it is decoded
}

// object is like the function object, with a deferred result.
func (d *decoder) object(encoded v1alpha1.JSONObject) any {
	if encoded == nil {
		return nil
	}
	return deferred{&objectSource{d, encoded}}
}

// value is like the function value, with a deferred result if it is an object.
func (d *decoder) value(text []byte) any {
	if !isObject(text) {
		return value(text)
	}
	return deferred{&textSource{decoder: d, text: text}}
}

// isObject reports whether a JSON text is an object.
func isObject(text []byte) bool {
	text = bytes.TrimLeft(text, " \t\r\n")
	return len(text) > 0 && text[0] == '{'
}

// objectSource is an object whose members are not decoded.
type objectSource struct {
	decoder *decoder
	members v1alpha1.JSONObject
}

func (s *objectSource) find(name string) (any, bool) {
	member, ok := s.members[name]
	if !ok {
		return nil, false
	}
	return s.decoder.value(member.Raw), true
}

func (s *objectSource) all() map[string]any {
	decoded := make(map[string]any, len(s.members))
	for name, member := range s.members {
		decoded[name] = s.decoder.value(member.Raw)
	}
	return decoded
}

func (s *objectSource) weight() int { return weightOf(s.members) }

// weightOf returns an upper bound of the weight of an object.
func weightOf(members v1alpha1.JSONObject) int {
	weight := valueBytes
	for name, member := range members {
		weight += valueBytes + len(name) + weightOfText(member.Raw)
	}
	return weight
}

// weightOfText returns an upper bound of the weight of a JSON text: each value in it has two bytes at least, with the comma or bracket that
// follows.
func weightOfText(text []byte) int { return valueBytes + valueBytes/2*len(text) }

// textSource is the text of a JSON object.
type textSource struct {
	decoder *decoder
	text    []byte
}

// maxFinds is the number of members for each of which the text of an object is scanned. For more it is decoded.
const maxFinds = 8

func (s *textSource) find(name string) (any, bool) {
	decoder := s.decoder
	if decoder.latest != s {
		decoder.latest, decoder.finds, decoder.members = s, 0, nil
	}
	if decoder.finds++; decoder.finds <= maxFinds {
		return s.scan(name)
	}
	if decoder.members == nil {
		decoder.members = s.all()
	}
	member, ok := decoder.members[name]
	return member, ok
}

// scan finds a member without decoding the others.
func (s *textSource) scan(name string) (any, bool) {
	// The API server, or package netbox, has parsed the text before, so errors are not possible.
	scanner := jsontext.NewDecoder(bytes.NewBuffer(s.text), jsontext.AllowInvalidUTF8(true), jsontext.AllowDuplicateNames(true))
	if _, err := scanner.ReadToken(); err != nil {
		return nil, false
	}
	for scanner.PeekKind() == '"' {
		token, err := scanner.ReadToken()
		if err != nil {
			return nil, false
		}
		if token.String() == name {
			text, err := scanner.ReadValue() // a part of s.text
			return s.decoder.value(text), err == nil
		}
		if err := scanner.SkipValue(); err != nil {
			return nil, false
		}
	}
	return nil, false
}

func (s *textSource) all() map[string]any {
	members, _ := value(s.text).(map[string]any)
	return members
}

func (s *textSource) weight() int { return weightOfText(s.text) }
