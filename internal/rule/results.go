package rule

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/cel-go/common/ast"
	"github.com/google/cel-go/common/types"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

// resultScope has the actions whose results an expression may use, and records which members of these the expressions of a rule use.
type resultScope struct {
	action  string                     // that the expression is of
	earlier map[string]map[string]bool // the actions before it in the list
	known   map[string]bool            // actions that it depends on, directly or not
	used    map[string]paths
	isUsed  bool // by the action
}

// paths are the used members of a result, by their texts, such as response.body.id.
type paths map[string][]string

// use records the members of results that an expression uses.
func (s *resultScope) use(root ast.Expr) error {
	var problem error
	covered := map[int64]bool{} // inner nodes of a longer path
	ast.PreOrderVisit(root, ast.NewExprVisitor(func(expr ast.Expr) {
		path, isResult := resultPath(expr, covered)
		switch {
		case !isResult || covered[expr.ID()]:
		case len(path) == 0:
			problem = errors.New("results must be followed by the name of an action, as in results.create")
		case s.earlier[path[0]] == nil:
			problem = fmt.Errorf("results.%s: there is no action %q before it in the list", path[0], path[0])
		case !s.known[path[0]]:
			problem = fmt.Errorf("results.%s: add %s to the dependsOn of action %s, which has to wait for the result", path[0], path[0], s.action)
		default:
			s.isUsed = true
			if s.used[path[0]] == nil {
				s.used[path[0]] = paths{}
			}
			s.used[path[0]][strings.Join(path[1:], ".")] = path[1:]
		}
	}))
	return problem
}

// resultPath returns the path of fields that an expression selects from the variable results. It marks the operands as covered.
func resultPath(expr ast.Expr, covered map[int64]bool) (path []string, ok bool) {
	for at := expr; ; {
		operand, field, selects := selection(at)
		if !selects {
			slices.Reverse(path)
			return path, isNamed(at, variableResults)
		}
		path = append(path, field)
		if at = operand; startsWith(at, variableResults) {
			covered[at.ID()] = true
		}
	}
}

// startsWith reports whether an expression is a variable, or selects from it.
func startsWith(expr ast.Expr, variable string) bool {
	for {
		operand, _, selects := selection(expr)
		if !selects {
			return isNamed(expr, variable)
		}
		expr = operand
	}
}

// selection returns the operand and the field of a selection such as a.b, a["b"], a.?b and a[?"b"].
func selection(expr ast.Expr) (operand ast.Expr, field string, ok bool) {
	switch expr.Kind() {
	case ast.SelectKind:
		return expr.AsSelect().Operand(), expr.AsSelect().FieldName(), true
	case ast.CallKind:
		call := expr.AsCall()
		if !slices.Contains([]string{"_[_]", "_?._", "_[?_]"}, call.FunctionName()) || call.Args()[1].Kind() != ast.LiteralKind {
			return nil, "", false
		}
		name, isText := call.Args()[1].AsLiteral().(types.String)
		return call.Args()[0], string(name), isText
	default:
		return nil, "", false
	}
}

// maxResultBytes bounds the members of a result that are kept for later actions.
const maxResultBytes = 4096

// HasResult reports whether other actions use the action's result.
func (a *Action) HasResult() bool { return len(a.results) > 0 }

// NamesMember reports whether other actions select a member of the action's result by a name.
func (a *Action) NamesMember(name string) bool {
	for _, path := range a.results {
		if slices.Contains(path, name) {
			return true
		}
	}
	return false
}

// Keep returns the members of an action's result that other actions use, as JSON; nil if there are none. It fails if these are too large
// for the status of an event.
func (a *Action) Keep(result map[string]any) ([]byte, error) {
	if len(a.results) == 0 {
		return nil, nil
	}
	kept := map[string]any{}
	for _, text := range slices.Sorted(maps.Keys(a.results)) {
		keep(kept, result, a.results[text])
	}
	encoded, err := json.Marshal(kept)
	if err != nil {
		return nil, err
	}
	if len(encoded) > maxResultBytes {
		return nil, fmt.Errorf("later actions use %d bytes of its result, more than %d: name smaller parts of it, such as "+
			"results.%s.response.body.id", len(encoded), maxResultBytes, a.Spec.Name)
	}
	return encoded, nil
}

// keep copies the value at a path from one object to another.
func keep(to, from map[string]any, path []string) {
	if len(path) == 0 {
		maps.Copy(to, from)
		return
	}
	value, ok := from[path[0]]
	if !ok {
		return
	}
	object, isObject := value.(map[string]any)
	if len(path) == 1 || !isObject {
		to[path[0]] = value
		return
	}
	inner, ok := to[path[0]].(map[string]any)
	if !ok {
		inner = map[string]any{}
		to[path[0]] = inner
	}
	keep(inner, object, path[1:])
}

// WithResults returns the Input with the kept results of actions, by their names.
func (in *Input) WithResults(results map[string]v1alpha1.JSONObject) *Input {
	decoded := make(map[string]any, len(results))
	for name, result := range results {
		decoded[name] = object(result)
	}
	return in.with(map[string]any{variableResults: decoded})
}

// Failure describes why a rule gave up an event.
type Failure struct {
	Action, Error string
	Attempts      int32
}

// WithFailure returns the Input with the variable failure.
func (in *Input) WithFailure(failure Failure) *Input {
	return in.with(map[string]any{
		variableFailure: map[string]any{"action": failure.Action, "error": failure.Error, "attempts": failure.Attempts},
	})
}
