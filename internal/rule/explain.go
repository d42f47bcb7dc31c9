package rule

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/ast"
	"github.com/google/cel-go/common/operators"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/parser"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/oneline"
)

// matchField is a field of spec.match.
type matchField string

const (
	matchesLists       matchField = ""
	matchSources       matchField = "sources"
	matchBranches      matchField = "branches"
	matchEvents        matchField = "events"
	matchObjectTypes   matchField = "objectTypes"
	matchChangedFields matchField = "changedFields"
	matchCEL           matchField = "cel"
)

// Mismatch is the first part of a rule's spec.match that does not fit an event.
type Mismatch struct {
	// Field is its name: sources, branches, events, objectTypes, changedFields or cel.
	Field string
	// Wanted has the entries of a list, and Got what the event has instead; it is empty for an event without changed fields.
	Wanted, Got []string
	// Parts are the expression and its parts, in the order of the text. Those of an operand of && or || that is true are left out.
	Parts []Part
	// Err is why the expression failed; nil for one that is false.
	Err error
}

// Part is a part of an expression, with its value for an event.
type Part struct {
	// Depth is 0 for the expression itself.
	Depth int
	// Text is the part as CEL writes it.
	Text string
	// Value is its value as JSON, truncated; empty where Err says why it has none.
	Value string
	Err   error
}

// Explain returns why the rule does not match an event, by the functions that Match uses; nil if it does.
func (r *Rule) Explain(ctx context.Context, event *v1alpha1.NetBoxEvent, in *Input) *Mismatch {
	spec := &event.Spec
	switch field := r.mismatch(event, in); field {
	case matchesLists:
	case matchSources:
		return &Mismatch{Field: string(field), Wanted: r.sources, Got: []string{spec.SourceRef.Name}}
	case matchBranches:
		return &Mismatch{Field: string(field), Wanted: r.branches, Got: []string{cmp.Or(spec.Branch, mainBranch)}}
	case matchEvents:
		return &Mismatch{Field: string(field), Wanted: r.filter.spec.Events, Got: []string{spec.Event}}
	case matchObjectTypes:
		return &Mismatch{Field: string(field), Wanted: r.filter.spec.ObjectTypes, Got: []string{spec.ObjectType}}
	default:
		return &Mismatch{Field: string(field), Wanted: r.filter.spec.ChangedFields, Got: spec.ChangedFields}
	}
	matched, err := r.filter.holds(ctx, in)
	if matched {
		return nil
	}
	return &Mismatch{Field: string(matchCEL), Err: err, Parts: explain(ctx, in, r.filter.spec.CEL)}
}

const (
	// maxParts bounds the parts of an expression: each is compiled.
	maxParts = 40
	// maxPartBytes and maxValueBytes bound the text and the value of one.
	maxPartBytes, maxValueBytes = 200, 120
)

// explainer evaluates the parts of an expression.
type explainer struct {
	ctx   context.Context //nolint:containedctx // it lives as long as the call of explain
	in    *Input
	info  *ast.SourceInfo
	parts []Part
	seen  map[string]bool
}

// tracking is the environment with which parts of expressions can be written as text.
var tracking = sync.OnceValues(func() (*cel.Env, error) {
	env, err := environment()
	if err != nil {
		return nil, err
	}
	return env.Extend(cel.EnableMacroCallTracking())
})

// explain returns an expression that compiles, and its parts.
func explain(ctx context.Context, in *Input, text string) []Part {
	env, err := tracking()
	if err != nil {
		return nil
	}
	parsed, issues := env.Parse(text)
	if issues.Err() != nil {
		return nil
	}
	x := &explainer{ctx: ctx, in: in, info: parsed.NativeRep().SourceInfo(), seen: map[string]bool{}}
	root := parsed.NativeRep().Expr()
	x.add(root, 0)
	x.expand(root, 1)
	return x.parts
}

// add adds a part, and reports whether it is true.
func (x *explainer) add(expr ast.Expr, depth int) (isTrue bool) {
	text, err := parser.Unparse(expr, x.info, parser.WrapOnColumn(math.MaxInt32))
	if err != nil || x.seen[text] || len(x.parts) == maxParts {
		return false
	}
	x.seen[text] = true
	part := Part{Depth: depth, Text: oneline.Of(text, maxPartBytes)}
	part.Value, part.Err = x.value(text)
	x.parts = append(x.parts, part)
	return part.Value == "true"
}

// value returns the value of an expression as JSON.
func (x *explainer) value(source string) (string, error) {
	compiled := &expression{text: source}
	if err := compiled.compile(nil, scope{}); err != nil {
		return "", err
	}
	remaining := budget(maxRendered)
	value, err := compiled.native(x.ctx, x.in, &remaining)
	if err != nil {
		return "", errors.New(strings.TrimSuffix(err.Error(), fmt.Sprintf(" in %.60q", source))) // the part says what it is in
	}
	if value, ok := value.(string); ok {
		return quoted(value), nil
	}
	if value == nil {
		return "null", nil
	}
	written, err := text(value)
	return oneline.Of(written, maxValueBytes), err
}

// quoted returns a text as JSON.
func quoted(value string) string {
	written, _ := text([]any{value})
	return oneline.Of(strings.TrimSuffix(strings.TrimPrefix(written, "["), "]"), maxValueBytes)
}

// expand adds the parts of an expression that was added.
func (x *explainer) expand(expr ast.Expr, depth int) {
	if macro, ok := x.info.GetMacroCall(expr.ID()); ok {
		x.expandMacro(macro, depth)
		return
	}
	if expr.Kind() != ast.CallKind {
		return
	}
	call := expr.AsCall()
	switch call.FunctionName() {
	case operators.LogicalAnd, operators.LogicalOr:
		for _, operand := range operands(expr, call.FunctionName()) {
			if !x.add(operand, depth) {
				x.expand(operand, depth+1)
			}
		}
	case operators.Index, operators.OptIndex, operators.OptSelect: // a member, which was added as a whole
	default:
		if call.IsMemberFunction() {
			x.operand(call.Target(), depth)
		}
		for _, argument := range call.Args() {
			x.operand(argument, depth)
		}
	}
}

// operands returns the operands of a chain of one operator.
func operands(expr ast.Expr, operator string) []ast.Expr {
	if expr.Kind() != ast.CallKind || expr.AsCall().FunctionName() != operator {
		return []ast.Expr{expr}
	}
	var all []ast.Expr
	for _, argument := range expr.AsCall().Args() {
		all = append(all, operands(argument, operator)...)
	}
	return all
}

// operand adds an operand of an operator or a function, unless its value is its text.
func (x *explainer) operand(expr ast.Expr, depth int) {
	_, isMacro := x.info.GetMacroCall(expr.ID())
	switch {
	case isMacro, expr.Kind() == ast.SelectKind, expr.Kind() == ast.IdentKind:
		x.add(expr, depth)
		x.expand(expr, depth+1)
	case expr.Kind() == ast.ListKind:
		for _, element := range expr.AsList().Elements() {
			x.operand(element, depth)
		}
	case expr.Kind() == ast.CallKind && isOperator(expr.AsCall().FunctionName()):
		x.expand(expr, depth)
	case expr.Kind() == ast.CallKind:
		x.add(expr, depth)
		x.expand(expr, depth+1)
	}
}

// isOperator reports whether a function is written between or before its operands.
func isOperator(function string) bool {
	switch function {
	case operators.Index, operators.OptIndex, operators.OptSelect:
		return false
	default:
		_, ok := operators.FindReverse(function)
		return ok
	}
}

// expandMacro adds, for changed and changedTo, the field before and after.
func (x *explainer) expandMacro(macro ast.Expr, depth int) {
	call := macro.AsCall()
	if name := call.FunctionName(); name != "changed" && name != "changedTo" || len(call.Args()) == 0 {
		return
	}
	field, ok := call.Args()[0].AsLiteral().(types.String)
	if !ok {
		return
	}
	for _, snapshot := range []string{"prechange", "postchange"} {
		part := Part{Depth: depth, Text: oneline.Of(snapshot+"."+string(field), maxPartBytes)}
		part.Value, part.Err = x.value(snapshot + ".?" + strings.ReplaceAll(string(field), ".", ".?"))
		if part.Err != nil { // there is no snapshot
			part.Text = snapshot
			part.Value, part.Err = x.value(snapshot)
		}
		if !x.seen[part.Text] && len(x.parts) < maxParts {
			x.seen[part.Text] = true
			x.parts = append(x.parts, part)
		}
	}
}
