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
	"github.com/google/cel-go/ext"
	"github.com/google/cel-go/interpreter"
	"k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/version"
	apicel "k8s.io/apiserver/pkg/cel"
	celenvironment "k8s.io/apiserver/pkg/cel/environment"
)

// environment is Kubernetes' CEL environment, with its cost limit of a million per evaluation (some tenths of a second), and the variables
// and functions of rules.
var environment = sync.OnceValues(func() (*cel.Env, error) {
	var bounds bounds
	set, err := celenvironment.MustBaseEnvSet(celenvironment.DefaultCompatibilityVersion()).Extend(celenvironment.VersionedOptions{
		IntroducedVersion: version.MajorMinor(1, 0),
		DeclTypes:         []*apicel.DeclType{eventType, responseType, failureType, changeType, groupType},
		EnvOptions: append(mixedArithmetic(),
			cel.Variable("event", eventType.CelType()),
			cel.Variable("data", cel.DynType),
			cel.Variable("prechange", cel.DynType),
			cel.Variable("postchange", cel.DynType),
			cel.Variable("now", cel.TimestampType),
			ext.Bindings(ext.BindingsVersion(0)), // cel.bind alone
			ext.Encoders(ext.EncodersVersion(0)), // base64 alone
			ext.Regex(),
			cel.Function("json", cel.Overload("json_string", []*cel.Type{cel.StringType}, cel.DynType, cel.UnaryBinding(parseJSON))),
			cel.Macros(changedMacro("changed", "the name of a field"), changedMacro("changedTo", "the name of a field", "a value")),
			cel.Function(changedFunction("changed"), cel.Overload("changed", append(snapshots, cel.StringType), cel.BoolType,
				cel.FunctionBinding(func(args ...ref.Val) ref.Val { return types.Bool(changed(args)) }))),
			cel.Function(changedFunction("changedTo"), cel.Overload("changedTo", append(snapshots, cel.StringType, cel.DynType), cel.BoolType,
				cel.FunctionBinding(func(args ...ref.Val) ref.Val {
					return types.Bool(changed(args) && args[5].Equal(field(args[1], args[4])) == types.True)
				}))),
		),
		ProgramOptions: []cel.ProgramOption{
			cel.InterruptCheckFrequency(1), // after each iteration: one can be slow
			cel.CustomDecoratorV2(bounds.decorate),
			cel.CostTrackerOptions(interpreter.OverloadCostTracker("list_distinct", distinctCost)),
		},
	})
	if err != nil {
		return nil, err
	}
	env := set.NewExpressionsEnv()
	return env, bounds.loadImplementations(env)
})

// eventType is the type of the variable event. eventFields returns its value.
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
	"branch":        apicel.StringType,
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
		"origin":      apicel.StringType,
		"dataReadAt":  apicel.DynType, // a timestamp or null
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

// snapshots are the types of the arguments that changedMacro adds: prechange, postchange, and the event's event and changedFields.
var snapshots = []*cel.Type{cel.DynType, cel.DynType, cel.StringType, cel.ListType(cel.StringType)}

func changedFunction(name string) string { return "netbox." + name }

// changedMacro turns changed("status") into netbox.changed(.prechange, .postchange, .event.event, .event.changedFields, "status"): a
// function sees its arguments alone. The leading dots avoid local variables of the same names in the expression.
func changedMacro(name string, parameters ...string) cel.Macro {
	return cel.GlobalVarArgMacro(name, func(expr cel.MacroExprFactory, _ ast.Expr, args []ast.Expr) (ast.Expr, *cel.Error) {
		if len(args) != len(parameters) {
			here := expr.NewLiteral(types.NullValue)
			return nil, expr.NewError(here.ID(), fmt.Sprintf("%s takes %s", name, strings.Join(parameters, " and ")))
		}
		return expr.NewCall(changedFunction(name), append([]ast.Expr{
			expr.NewIdent(".prechange"), expr.NewIdent(".postchange"),
			expr.NewSelect(expr.NewIdent(".event"), "event"), expr.NewSelect(expr.NewIdent(".event"), "changedFields"),
		}, args...)...), nil
	})
}

// changed reports whether a field differs between the snapshots; a missing field is null. Redacted values are equal in both, so changed
// also consults the list of changed fields, which was computed before the redaction. An update without a prechange, which NetBox
// and Nautobot send for side effects of another object's change among others, changes nothing that is known.
func changed(args []ref.Val) bool {
	before, after, event, list, name := args[0], args[1], args[2], args[3].(traits.Lister), args[4]
	if _, known := before.(traits.Mapper); !known && event == types.String(eventUpdated) {
		return false
	}
	return list.Contains(name) == types.True || field(before, name).Equal(field(after, name)) != types.True
}

// field returns the value of a field, or of a member of it, such as custom_fields.owner.
func field(snapshot, path ref.Val) ref.Val {
	text, _ := path.(types.String)
	for name := range strings.SplitSeq(string(text), ".") {
		fields, ok := snapshot.(traits.Mapper)
		if !ok {
			return types.NullValue
		}
		if snapshot, ok = fields.Find(types.String(name)); !ok {
			return types.NullValue
		}
	}
	return snapshot
}

// parseJSON returns the value of a JSON text.
func parseJSON(text ref.Val) ref.Val {
	var decoded any
	if err := json.Unmarshal([]byte(text.(types.String)), &decoded); err != nil {
		return types.NewErr("json: %v", err)
	}
	return types.DefaultTypeAdapter.NativeToValue(decoded)
}

// expression is a compiled expression.
type expression struct {
	program cel.Program
	text    string
	// isSecret says that the value is made of values of Secrets, and isSecretAlone that it is the value of one.
	isSecret, isSecretAlone bool
}

// compile compiles the text of an expression. Its value must have the wanted type, unless that is nil. The error has the line and column of
// each problem.
func (e *expression) compile(want *cel.Type, scope scope) error {
	env, err := scope.environment()
	if err != nil {
		return err
	}
	checked, issues := env.Compile(e.text)
	if issues.Err() != nil {
		var problems []string
		for _, issue := range issues.Errors() {
			line, column := issue.Location.Line(), max(issue.Location.Column()+1, 1) // the column of an empty expression is -1
			problems = append(problems, fmt.Sprintf("%d:%d: %s", line, column, issue.Message))
		}
		return errors.New(strings.Join(problems, "; "))
	}
	if got := checked.OutputType(); want != nil && !got.IsExactType(want) && !got.IsExactType(cel.DynType) {
		return fmt.Errorf("1:1: must be %s, is %s", want, got)
	}
	if e.isSecret, e.isSecretAlone, err = scope.use(checked); err != nil {
		return err
	}
	var options []cel.ProgramOption
	if scope.costLimit > 0 {
		options = append(options, cel.CostLimit(scope.costLimit))
	}
	e.program, err = env.Program(checked, options...)
	return err
}
