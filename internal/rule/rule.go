package rule

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/cel-go/cel"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/oneline"
)

// Rule is a compiled NetBoxEventRule. It is safe for concurrent use.
type Rule struct {
	Actions []Action

	sources []string // none: any
	filter  *Filter
}

// Action is one compiled action. What belongs to another kind of action is empty.
type Action struct {
	// Spec is what it was compiled from.
	Spec *v1alpha1.Action
	// URL and Headers are of an http action; Headers has the place of spec.http.headers, and nil where the value is in a Secret.
	URL     *URL
	Headers []*Text
	// Objects are those of an apply action.
	Objects []Object
	// Message is of an event or log action.
	Message *Text
}

// Compile compiles a rule. Its error names every expression and template that is wrong, a line each: where it is in spec, what is wrong
// with it, and at which line and column. It fits into the message of a condition.
func Compile(spec *v1alpha1.NetBoxEventRuleSpec) (compiled *Rule, err error) {
	defer recoverCompiler(&err)
	var c compiler
	compiled = &Rule{sources: spec.Match.Sources, filter: c.filter("spec.match", &spec.Match.Filter)}
	for i := range spec.Actions {
		compiled.Actions = append(compiled.Actions, c.action(&spec.Actions[i]))
	}
	if err := c.err(); err != nil {
		return nil, err
	}
	return compiled, nil
}

// recoverCompiler makes an error of a panic: one object must not end the operator, whatever CEL makes of it.
func recoverCompiler(err *error) {
	if cause := recover(); cause != nil {
		*err = fmt.Errorf("spec: a fault of the compiler: %v", cause)
	}
}

const (
	// maxExpressions bounds the expressions of one rule: each takes 17 kB of memory.
	maxExpressions = 1000
	// maxFaults bounds how many faults are named, and maxFaultBytes how long one may be: the message of a condition takes 32 KiB.
	maxFaults, maxFaultBytes = 50, 500
)

// compiler collects the faults of a rule.
type compiler struct {
	faults      []error
	expressions int
}

func (c *compiler) fault(path string, err error) {
	c.faults = append(c.faults, bounded(fmt.Errorf("%s: %w", path, err)))
}

// err returns the faults, nil for none.
func (c *compiler) err() error {
	if c.expressions > maxExpressions {
		c.fault("spec", fmt.Errorf("has %d expressions, more than %d", c.expressions, maxExpressions))
	}
	if more := len(c.faults) - maxFaults; more > 0 {
		c.faults = append(c.faults[:maxFaults], fmt.Errorf("and %d more", more))
	}
	return errors.Join(c.faults...)
}

// expression compiles an expression, whose value must be of the wanted type unless that is nil.
func (c *compiler) expression(path, text string, want *cel.Type) *expression {
	compiled := &expression{text: text}
	if c.expressions++; c.expressions > maxExpressions {
		return compiled
	}
	var err error
	if compiled.program, err = program(text, want); err != nil {
		c.fault(path, err)
	}
	return compiled
}

func (c *compiler) action(spec *v1alpha1.Action) Action {
	action, path := Action{Spec: spec}, fmt.Sprintf("spec.actions[%s]", spec.Name)
	switch {
	case spec.HTTP != nil:
		action.URL = c.url(path+".http.url", spec.HTTP.URL)
		action.Headers = make([]*Text, len(spec.HTTP.Headers))
		for i, header := range spec.HTTP.Headers {
			if header.ValueFrom == nil {
				action.Headers[i] = c.text(fmt.Sprintf("%s.http.headers[%s].value", path, header.Name), header.Value)
			}
		}
	case spec.Apply != nil:
		action.Objects = c.objects(path+".apply.template", spec.Apply.Template)
	case spec.Event != nil:
		action.Message = c.text(path+".event.message", spec.Event.Message)
	case spec.Log != nil:
		action.Message = c.text(path+".log.message", spec.Log.Message)
	}
	return action
}

// bounded makes one line of an error, and not too long a one: it may hold what the event holds.
func bounded(err error) error {
	if line := oneline.Of(err.Error(), maxFaultBytes); line != err.Error() {
		return errors.New(line)
	}
	return err
}

// Match tells whether an event matters to the rule. An error says why the rule's expression failed on it: it does not match then.
func (r *Rule) Match(ctx context.Context, event *v1alpha1.NetBoxEvent, in *Input) (bool, error) {
	if !oneOf(r.sources, event.Spec.SourceRef.Name) {
		return false, nil
	}
	return r.filter.Match(ctx, event, in)
}

func oneOf(list []string, text string) bool { return len(list) == 0 || slices.Contains(list, text) }
