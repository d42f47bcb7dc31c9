package netbox

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// fields reads the members of an object of a body and collects their faults.
type fields struct {
	path   string // of the object: "", or "snapshots."
	object Object
	faults *[]Fault
}

func (f fields) fault(name, format string, args ...any) {
	*f.faults = append(*f.faults, Fault{Field: f.path + name, Message: fmt.Sprintf(format, args...)})
}

// require reports a fault if a member is missing. It may be null.
func (f fields) require(name string) {
	if _, ok := f.object[name]; !ok {
		f.fault(name, "is missing")
	}
}

// child returns the fields of a member that is an object; no fields if it is null, missing or not an object.
func (f fields) child(name string) fields {
	child := fields{path: f.path + name + ".", faults: f.faults}
	switch value := f.object[name]; kindOf(value) {
	case '{':
		// The value was decoded already, so this cannot fail.
		child.object, _ = members(value)
	case 'n':
	default:
		f.fault(name, "must be an object or null, is %s", describe(value.Kind()))
	}
	return child
}

// text returns a string member, or "" if it is null, missing or not a string.
func (f fields) text(name string) string {
	switch value := f.object[name]; kindOf(value) {
	case '"':
		return unquote(value)
	case 'n':
	default:
		f.fault(name, "must be a string or null, is %s", describe(value.Kind()))
	}
	return ""
}

// requiredText returns a string that must not be empty.
func (f fields) requiredText(name string) string {
	value, ok := f.object[name]
	switch {
	case !ok:
		f.fault(name, "is missing")
	case value.Kind() != '"':
		f.fault(name, "must be a string, is %s", describe(value.Kind()))
	case unquote(value) == "":
		f.fault(name, "must not be empty")
	default:
		return unquote(value)
	}
	return ""
}

// scalar returns a string or a number as text, and "" for any other value: free-form data has no faults.
func (f fields) scalar(name string) string {
	switch value := f.object[name]; kindOf(value) {
	case '"':
		return unquote(value)
	case '0':
		return string(value)
	default:
		return ""
	}
}

// timestamp reads "2020-10-26T18:14:18.764443+00:00", and the same with a space, which NetBox sent before 3.6.6 and Nautobot sends.
func (f fields) timestamp(name string) time.Time {
	text := f.requiredText(name)
	if text == "" {
		return time.Time{}
	}
	timestamp, err := time.Parse(time.RFC3339Nano, strings.Replace(text, " ", "T", 1))
	if err != nil {
		f.fault(name, "must be an ISO 8601 date and time with an offset from UTC, such as 2020-10-26T18:14:18.764443+00:00, is %.40q", text)
		return time.Time{}
	}
	return timestamp.UTC().Truncate(time.Microsecond)
}

// kindOf returns the kind of a value; a missing one is null.
func kindOf(value jsontext.Value) jsontext.Kind {
	if value == nil {
		return 'n'
	}
	return value.Kind()
}

func unquote(value jsontext.Value) string {
	// The value was decoded already; a lone surrogate is an error here and U+FFFD in the text, as it should be.
	text, _ := jsontext.AppendUnquote(nil, value)
	return string(text)
}

func describe(kind jsontext.Kind) string {
	switch kind {
	case 'n':
		return "null"
	case 't', 'f':
		return "a boolean"
	case '"':
		return "a string"
	case '0':
		return "a number"
	case '[':
		return "an array"
	default:
		return "an object"
	}
}

// invalid returns an error of sorted faults without duplicates.
func invalid(faults []Fault) *InvalidError {
	slices.SortFunc(faults, func(a, b Fault) int { return strings.Compare(a.Field+"\x00"+a.Message, b.Field+"\x00"+b.Message) })
	return &InvalidError{Faults: slices.Compact(faults)}
}
