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

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

// secretsVariable is the variable that holds the values of a rule's Secrets, in the templates of http actions only.
const secretsVariable = "secrets"

// secretsEnvironment is the environment with that variable.
var secretsEnvironment = sync.OnceValues(func() (*cel.Env, error) {
	env, err := environment()
	if err != nil {
		return nil, err
	}
	return env.Extend(cel.Variable(secretsVariable, cel.MapType(cel.StringType, cel.StringType)))
})

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

// use records the Secrets that an expression names, and reports whether it names any, and whether it is nothing but one.
func (s *secretScope) use(checked *cel.Ast) (secret, alone bool, err error) {
	var names []string
	mentions := 0
	root := checked.NativeRep().Expr()
	ast.PreOrderVisit(root, ast.NewExprVisitor(func(expr ast.Expr) {
		if isSecretsVariable(expr) {
			mentions++
		}
		if expr.Kind() == ast.SelectKind && isSecretsVariable(expr.AsSelect().Operand()) {
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
	alone = root.Kind() == ast.SelectKind && !root.AsSelect().IsTestOnly() && isSecretsVariable(root.AsSelect().Operand())
	return len(names) > 0, alone, nil
}

func isSecretsVariable(expr ast.Expr) bool {
	return expr.Kind() == ast.IdentKind && strings.TrimPrefix(expr.AsIdent(), ".") == secretsVariable
}

// WithSecrets returns the Input with the values of Secrets. It calls confidential with each text that an expression makes of them.
func (in *Input) WithSecrets(values map[string]string, confidential func(text string)) *Input {
	secrets, err := cel.NewActivation(map[string]any{secretsVariable: values})
	if err != nil {
		panic(err) // it accepts any such map
	}
	return &Input{evaluation: evaluation{Activation: activations{secrets, in.evaluation.Activation}}, confidential: confidential}
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
