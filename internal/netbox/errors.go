package netbox

import (
	"errors"
	"fmt"
	"strings"
)

// ErrTooLarge says that a body has so many values to be redacted, or numbers to be kept as text, under such long names, that the list of
// them is longer than what Kubernetes takes of a whole event.
var ErrTooLarge = errors.New("the list of what is redacted, or too long for a number, is larger than can be stored with the event, 3 MiB")

// ErrTooManyValues says that a body has more than MaxValues.
var ErrTooManyValues = fmt.Errorf("the body has more than %d values (objects, arrays, texts, numbers), which is more than is stored; "+
	"let a body template in NetBox leave some out", MaxValues)

// SyntaxError says that a body is not a JSON object that can be kept.
type SyntaxError struct {
	// Reason is what is wrong, for a person: "invalid character 'N' at start of value".
	Reason string
	// Offset is the byte of the body at which it is wrong, counted from 0.
	Offset int64
	// Line and Column are the same place as an editor shows it, both counted from 1, the column in bytes.
	Line, Column int
}

func (e *SyntaxError) Error() string {
	return fmt.Sprintf("%s (line %d, column %d, byte %d)", e.Reason, e.Line, e.Column, e.Offset)
}

func syntaxError(body []byte, offset int64, format string, args ...any) *SyntaxError {
	offset = min(offset, int64(len(body)))
	before := string(body[:offset])
	return &SyntaxError{
		Reason: fmt.Sprintf(format, args...),
		Offset: offset,
		Line:   1 + strings.Count(before, "\n"),
		Column: len(before) - strings.LastIndex(before, "\n"),
	}
}

// Fault is one field of a body that is missing or wrong.
type Fault struct {
	// Field is the path of the field in the body: "timestamp", "snapshots.prechange".
	Field string
	// Message says what is wrong and what is expected, for a person.
	Message string
}

// InvalidError says that a body is a JSON object, but not an event. It holds every fault of the body.
type InvalidError struct {
	Faults []Fault
}

func (e *InvalidError) Error() string {
	faults := make([]string, len(e.Faults))
	for i, fault := range e.Faults {
		faults[i] = fault.Field + ": " + fault.Message
	}
	return strings.Join(faults, "; ")
}
