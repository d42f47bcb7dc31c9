package netbox

import (
	"errors"
	"fmt"
	"strings"
)

// ErrTooLarge means that the JSON pointers to redacted values and stringified numbers are together longer than the limit of Kubernetes for
// a whole event.
var ErrTooLarge = errors.New("the list of redacted values and stringified numbers is longer than 3 MiB, and cannot be stored")

// ErrTooManyValues means that a body has more than MaxValues values.
var ErrTooManyValues = fmt.Errorf("the body has more than %d values (objects, arrays, texts, numbers); "+
	"omit some with a body template in NetBox", MaxValues)

// SyntaxError means that a body is not a JSON object, or not one that can be stored.
type SyntaxError struct {
	// Reason is the error, for people: "invalid character 'N' at start of value".
	Reason string
	// Offset is the position of the error in the body, in bytes counted from 0.
	Offset int64
	// Line and Column are the same position as in an editor, both counted from 1, the column in bytes.
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
	// Message is the error and the expected value, for people.
	Message string
}

// InvalidError means that a body is a JSON object, but not an event. It holds every fault of the body.
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
