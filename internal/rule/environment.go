package rule

import (
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/ast"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
	"k8s.io/apimachinery/pkg/util/version"
	apicel "k8s.io/apiserver/pkg/cel"
	celenvironment "k8s.io/apiserver/pkg/cel/environment"
)

// environment is Kubernetes' CEL environment, with its cost limit of a million for each evaluation (some tenths of a second), and what
// expressions of a rule see.
var environment = sync.OnceValues(func() (*cel.Env, error) {
	var bounds bounds
	set, err := celenvironment.MustBaseEnvSet(celenvironment.DefaultCompatibilityVersion()).Extend(celenvironment.VersionedOptions{
		IntroducedVersion: version.MajorMinor(1, 0),
		DeclTypes:         []*apicel.DeclType{eventType},
		EnvOptions: []cel.EnvOption{
			cel.Variable("event", eventType.CelType()),
			cel.Variable("data", cel.DynType),
			cel.Variable("prechange", cel.DynType),
			cel.Variable("postchange", cel.DynType),
			cel.Variable("now", cel.TimestampType),
			cel.Macros(changedMacro("changed", "the name of a field"), changedMacro("changedTo", "the name of a field", "a value")),
			cel.Function(changedFunction("changed"), cel.Overload("changed", append(snapshots, cel.StringType), cel.BoolType,
				cel.FunctionBinding(func(args ...ref.Val) ref.Val { return types.Bool(changed(args)) }))),
			cel.Function(changedFunction("changedTo"), cel.Overload("changedTo", append(snapshots, cel.StringType, cel.DynType), cel.BoolType,
				cel.FunctionBinding(func(args ...ref.Val) ref.Val {
					return types.Bool(changed(args) && args[4].Equal(field(args[1], args[3])) == types.True)
				}))),
		},
		ProgramOptions: []cel.ProgramOption{
			cel.InterruptCheckFrequency(1), // iterations, one of which may take long
			cel.CustomDecoratorV2(bounds.decorate),
		},
	})
	if err != nil {
		return nil, err
	}
	env := set.NewExpressionsEnv()
	return env, bounds.learn(env)
})

// eventType is the type of the variable event: what eventFields makes of a NetBoxEvent.
var eventType = apicel.NewObjectType("NetBoxEvent", fields(map[string]*apicel.DeclType{
	"name":          apicel.StringType,
	"namespace":     apicel.StringType,
	"sourceRef":     apicel.NewObjectType("SourceReference", fields(map[string]*apicel.DeclType{"name": apicel.StringType})),
	"event":         apicel.StringType,
	"objectType":    apicel.StringType,
	"model":         apicel.StringType,
	"objectID":      apicel.StringType,
	"objectURL":     apicel.StringType,
	"objectName":    apicel.StringType,
	"username":      apicel.StringType,
	"requestID":     apicel.StringType,
	"request":       apicel.DynType,
	"timestamp":     apicel.TimestampType,
	"changedFields": apicel.NewListType(apicel.StringType, -1),
	"data":          apicel.DynType,
	"snapshots":     apicel.DynType,
	"context":       apicel.DynType,
	"extra":         apicel.DynType,
	"delivery": apicel.NewObjectType("Delivery", fields(map[string]*apicel.DeclType{
		"receivedAt":  apicel.TimestampType,
		"signature":   apicel.StringType,
		"key":         apicel.StringType,
		"bodySHA256":  apicel.StringType,
		"bodyBytes":   apicel.IntType,
		"stringified": apicel.NewListType(apicel.StringType, -1),
		"redacted":    apicel.NewListType(apicel.StringType, -1),
		"envelope":    apicel.DynType,
		"traceparent": apicel.StringType,
	})),
}))

func fields(types map[string]*apicel.DeclType) map[string]*apicel.DeclField {
	fields := map[string]*apicel.DeclField{}
	for name, declared := range types {
		fields[name] = apicel.NewDeclField(name, declared, true, nil, nil)
	}
	return fields
}

// snapshots are the types of what changedMacro adds to the arguments: prechange, postchange, and the event's changedFields.
var snapshots = []*cel.Type{cel.DynType, cel.DynType, cel.ListType(cel.StringType)}

func changedFunction(name string) string { return "netbox." + name }

// changedMacro turns changed("status") into netbox.changed(.prechange, .postchange, .event.changedFields, "status"): a function sees
// nothing but its arguments. The dots keep it from variables of the same names that the expression makes.
func changedMacro(name string, parameters ...string) cel.Macro {
	return cel.GlobalVarArgMacro(name, func(expr cel.MacroExprFactory, _ ast.Expr, args []ast.Expr) (ast.Expr, *cel.Error) {
		if len(args) != len(parameters) {
			here := expr.NewLiteral(types.NullValue)
			return nil, expr.NewError(here.ID(), fmt.Sprintf("%s takes %s", name, strings.Join(parameters, " and ")))
		}
		return expr.NewCall(changedFunction(name), append([]ast.Expr{
			expr.NewIdent(".prechange"), expr.NewIdent(".postchange"), expr.NewSelect(expr.NewIdent(".event"), "changedFields"),
		}, args...)...), nil
	})
}

// changed tells whether a field differs between the snapshots, one that is missing being null. What was redacted looks the same in both,
// so the list of what changed, which was made before, counts as well.
func changed(args []ref.Val) bool {
	before, after, list, name := args[0], args[1], args[2].(traits.Lister), args[3]
	return list.Contains(name) == types.True || field(before, name).Equal(field(after, name)) != types.True
}

func field(snapshot, name ref.Val) ref.Val {
	if fields, ok := snapshot.(traits.Mapper); ok {
		if value, ok := fields.Find(name); ok {
			return value
		}
	}
	return types.NullValue
}

// expression is a compiled expression.
type expression struct {
	program cel.Program
	text    string
}

// program compiles an expression, whose value must be of the wanted type unless that is nil. Its error says what is wrong at which line and
// column.
func program(text string, want *cel.Type) (cel.Program, error) {
	env, err := environment()
	if err != nil {
		return nil, err
	}
	checked, issues := env.Compile(text)
	if issues.Err() != nil {
		var faults []string
		for _, fault := range issues.Errors() {
			line, column := fault.Location.Line(), max(fault.Location.Column()+1, 1) // an empty expression ends before its beginning
			faults = append(faults, fmt.Sprintf("%d:%d: %s", line, column, fault.Message))
		}
		return nil, errors.New(strings.Join(faults, "; "))
	}
	if got := checked.OutputType(); want != nil && !got.IsExactType(want) && !got.IsExactType(cel.DynType) {
		return nil, fmt.Errorf("1:1: must be %s, is %s", want, got)
	}
	return env.Program(checked)
}
