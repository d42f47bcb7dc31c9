package rule

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

// Filter is a compiled filter of events, of a rule's match or a source's accept. It is safe for concurrent use.
type Filter struct {
	spec      v1alpha1.Filter
	condition *Condition // nil for none
}

// CompileAccept compiles the spec.accept of a source. Its error is like that of Compile.
func CompileAccept(spec *v1alpha1.Filter) (compiled *Filter, err error) {
	defer recoverCompiler(&err)
	var c compiler
	compiled = c.filter("spec.accept", spec)
	return compiled, c.err()
}

func (c *compiler) filter(path string, spec *v1alpha1.Filter) *Filter {
	compiled := &Filter{spec: *spec}
	if spec.CEL != "" {
		compiled.condition = c.condition(path+".cel", spec.CEL)
	}
	return compiled
}

// Match reports whether an event passes the filter. An event on which the expression fails does not, and Match returns the error.
func (f *Filter) Match(ctx context.Context, event *v1alpha1.NetBoxEvent, in *Input) (bool, error) {
	if f.mismatch(event, in) != matchesLists {
		return false, nil
	}
	return f.holds(ctx, in)
}

// acceptTimeout bounds the evaluation of a source's spec.accept. CEL's cost limit ends it sooner, after some tenths of a second, unless the
// CPUs are busy.
const acceptTimeout = time.Second

// Accepts reports whether an event passes the spec.accept of its source. If the expression fails, the event is accepted, and Accepts
// returns the error: an event that is stored needlessly can be deleted, and one that is not stored is lost.
func (f *Filter) Accepts(ctx context.Context, event *v1alpha1.NetBoxEvent) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, acceptTimeout)
	defer cancel()
	accepted, err := f.Match(ctx, event, NewInput(event, event.Spec.Delivery.ReceivedAt.Time))
	return accepted || err != nil, err
}

// mismatch returns the first list that an event does not fit.
func (f *Filter) mismatch(event *v1alpha1.NetBoxEvent, in *Input) matchField {
	switch {
	case !oneOf(f.spec.Events, event.Spec.Event):
		return matchEvents
	case !f.matchObjectType(event.Spec.ObjectType):
		return matchObjectTypes
	case !f.matchChangedFields(&event.Spec, in):
		return matchChangedFields
	default:
		return matchesLists
	}
}

// holds evaluates the expression.
func (f *Filter) holds(ctx context.Context, in *Input) (bool, error) {
	if f.condition == nil {
		return true, nil
	}
	return f.condition.Holds(ctx, in)
}

func (f *Filter) matchObjectType(objectType string) bool {
	return len(f.spec.ObjectTypes) == 0 || slices.ContainsFunc(f.spec.ObjectTypes, func(wanted string) bool {
		prefix, isPrefix := strings.CutSuffix(wanted, "*") // ends in a dot
		return strings.EqualFold(wanted, objectType) ||
			isPrefix && len(objectType) >= len(prefix) && strings.EqualFold(objectType[:len(prefix)], prefix)
	})
}

func (f *Filter) matchChangedFields(spec *v1alpha1.NetBoxEventSpec, in *Input) bool {
	return len(f.spec.ChangedFields) == 0 || spec.Event != eventUpdated || slices.ContainsFunc(f.spec.ChangedFields, func(field string) bool {
		return contains(spec.ChangedFields, field) || strings.Contains(field, ".") && in.changed(spec, field)
	})
}
