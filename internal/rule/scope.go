package rule

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/ast"
	apicel "k8s.io/apiserver/pkg/cel"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

// Variables that only some expressions have.
const (
	// variableSecrets holds the values of a rule's Secrets, in templates of http actions.
	variableSecrets = "secrets"
	// variableResults holds the results of earlier actions, by the names of these, in when and in templates.
	variableResults = "results"
	// variableFailure describes the failed action, in the actions of onFailure.
	variableFailure = "failure"
	// variableResponse is the answer of a sink, in http.success.
	variableResponse = "response"
	// variableObject is a Kubernetes object, in apply.wait.
	variableObject = "object"
	// variableEvents, variableChanges and variableGroup are of a rule with groups, in all expressions of its actions.
	variableEvents  = "events"
	variableChanges = "changes"
	variableGroup   = "group"
)

// responseType is the type of the variable response. The names of headers are in lower case; a body of JSON is decoded, any other is a
// text.
var responseType = apicel.NewObjectType("Response", fields(map[string]*apicel.DeclType{
	"status":  apicel.IntType,
	"headers": apicel.NewMapType(apicel.StringType, apicel.StringType, -1),
	"body":    apicel.DynType,
}))

// failureType is the type of the variable failure.
var failureType = apicel.NewObjectType("Failure", fields(map[string]*apicel.DeclType{
	"action":   apicel.StringType,
	"error":    apicel.StringType,
	"attempts": apicel.IntType,
}))

var scopedTypes = map[string]*cel.Type{
	variableSecrets:  cel.MapType(cel.StringType, cel.StringType),
	variableResults:  cel.MapType(cel.StringType, cel.DynType),
	variableFailure:  failureType.CelType(),
	variableResponse: responseType.CelType(),
	variableObject:   cel.DynType,
	variableEvents:   apicel.NewListType(eventType, -1).CelType(),
	variableChanges:  apicel.NewListType(changeType, -1).CelType(),
	variableGroup:    groupType.CelType(),
	variableLookups:  cel.MapType(cel.StringType, cel.DynType),
}

// environments has the environment of each set of scoped variables in use.
var environments sync.Map // of the sorted names, joined: func() (*cel.Env, error)

func environmentWith(names []string) (*cel.Env, error) {
	if len(names) == 0 {
		return environment()
	}
	found, _ := environments.LoadOrStore(strings.Join(names, " "), sync.OnceValues(func() (*cel.Env, error) {
		env, err := environment()
		if err != nil {
			return nil, err
		}
		var variables []cel.EnvOption
		for _, name := range names {
			variables = append(variables, cel.Variable(name, scopedTypes[name]))
		}
		return env.Extend(variables...)
	}))
	return found.(func() (*cel.Env, error))()
}

// scope has the variables that an expression may use besides those of the event. The zero value has none.
type scope struct {
	secrets *secretScope // nil for none
	results *resultScope // nil for none
	lookups lookupScope  // nil for none
	others  []string
	// costLimit bounds the cost of an evaluation; 0 for Kubernetes' limit.
	costLimit uint64
}

func (s scope) environment() (*cel.Env, error) {
	names := slices.Clone(s.others)
	if s.secrets != nil {
		names = append(names, variableSecrets)
	}
	if s.results != nil {
		names = append(names, variableResults)
	}
	if s.lookups != nil {
		names = append(names, variableLookups)
	}
	slices.Sort(names)
	return environmentWith(names)
}

// use records the Secrets and results that an expression names. It reports whether it names a Secret, and whether it is nothing but one.
func (s scope) use(checked *cel.Ast) (secret, alone bool, err error) {
	root := checked.NativeRep().Expr()
	if s.results != nil {
		if err := s.results.use(root); err != nil {
			return false, false, err
		}
	}
	if err := s.lookups.use(root); err != nil {
		return false, false, err
	}
	if s.secrets == nil {
		return false, false, nil
	}
	return s.secrets.use(root)
}

// secretScope holds the Secrets of a rule while an http action is compiled.
type secretScope struct {
	declared map[string]v1alpha1.SecretKeyReference
	used     map[string]v1alpha1.SecretKeyReference
}

func newSecretScope(secrets []v1alpha1.RuleSecret) *secretScope {
	scope := &secretScope{declared: map[string]v1alpha1.SecretKeyReference{}, used: map[string]v1alpha1.SecretKeyReference{}}
	for _, secret := range secrets {
		scope.declared[secret.Name] = secret.SecretKeyRef
	}
	return scope
}

func (s *secretScope) use(root ast.Expr) (secret, alone bool, err error) {
	var names []string
	mentions := 0
	ast.PreOrderVisit(root, ast.NewExprVisitor(func(expr ast.Expr) {
		if isNamed(expr, variableSecrets) {
			mentions++
		}
		if expr.Kind() == ast.SelectKind && isNamed(expr.AsSelect().Operand(), variableSecrets) {
			names = append(names, expr.AsSelect().FieldName())
		}
	}))
	if mentions > len(names) {
		return false, false, errors.New("secrets must be followed by the name of one, as in secrets.token")
	}
	for _, name := range names {
		ref, ok := s.declared[name]
		if !ok {
			return false, false, fmt.Errorf("secrets.%s is not declared; add it to spec.secrets, which has [%s]",
				name, strings.Join(slices.Sorted(maps.Keys(s.declared)), ", "))
		}
		s.used[name] = ref
	}
	alone = root.Kind() == ast.SelectKind && !root.AsSelect().IsTestOnly() && isNamed(root.AsSelect().Operand(), variableSecrets)
	return len(names) > 0, alone, nil
}

func isNamed(expr ast.Expr, name string) bool {
	return expr.Kind() == ast.IdentKind && strings.TrimPrefix(expr.AsIdent(), ".") == name
}

// with returns the Input with other variables. The value of one may be a function, which is called when the variable is used.
func (in *Input) with(values map[string]any) *Input {
	variables, err := cel.NewActivation(values)
	if err != nil {
		panic(err) // it accepts any such map
	}
	return &Input{
		evaluation:   evaluation{Activation: activations{variables, in.evaluation.Activation}},
		events:       in.events,
		confidential: in.confidential,
	}
}

// WithSecrets returns the Input with the values of Secrets. It calls confidential with each text that an expression makes of them.
func (in *Input) WithSecrets(values map[string]string, confidential func(text string)) *Input {
	with := in.with(map[string]any{variableSecrets: values})
	with.confidential = confidential
	return with
}

// WithResponse returns the Input with the answer of a sink. The body is decoded JSON, or a string.
func (in *Input) WithResponse(status int, headers map[string]string, body any) *Input {
	return in.with(map[string]any{variableResponse: map[string]any{"status": status, "headers": headers, "body": body}})
}

// WithObject returns the Input with a Kubernetes object.
func (in *Input) WithObject(object map[string]any) *Input {
	return in.with(map[string]any{variableObject: object})
}

// activations resolves names in the first activation that has them.
type activations [2]cel.Activation

// ResolveName returns a variable.
func (a activations) ResolveName(name string) (any, bool) {
	if value, ok := a[0].ResolveName(name); ok {
		return value, true
	}
	return a[1].ResolveName(name)
}

// Parent returns nil: ResolveName asks both.
func (a activations) Parent() cel.Activation { return nil }

// reportTexts calls a function with each text in a JSON value.
func reportTexts(value any, report func(string)) {
	switch value := value.(type) {
	case string:
		report(value)
	case []any:
		for _, element := range value {
			reportTexts(element, report)
		}
	case map[string]any:
		for _, element := range value {
			reportTexts(element, report)
		}
	}
}
