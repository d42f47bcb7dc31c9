package rule

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/cel-go/common/ast"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

// variableLookups holds the answers of NetBox to the rule's lookups, in when and in templates.
const variableLookups = "lookups"

// Query is a request to NetBox: a path, or a query in GraphQL.
type Query struct {
	// Path begins with /api/ and may have a query, for example /api/dcim/devices/7/. It is empty for GraphQL.
	Path string
	// GraphQL is the text of the query, and Variables are its variables, or nil.
	GraphQL   string
	Variables map[string]any
}

// Lookup is a compiled lookup. It is safe for concurrent use.
type Lookup struct {
	Name string

	path      *URL // nil for GraphQL
	graphql   string
	variables node // nil for none
}

// anyHost is the beginning of the URL that the template of a path is compiled with.
const anyHost = "http://netbox"

// lookups compiles the lookups of a rule.
func (c *compiler) lookups(path string, specs []v1alpha1.Lookup) []Lookup {
	var lookups []Lookup
	for i := range specs {
		spec := &specs[i]
		path := fmt.Sprintf("%s[%s]", path, spec.Name)
		lookup := Lookup{Name: spec.Name}
		switch {
		case spec.GraphQL != nil:
			lookup.graphql = spec.GraphQL.Query
			if spec.GraphQL.Variables != nil {
				lookup.variables = c.node(path+".graphql.variables", object(spec.GraphQL.Variables), nil)
			}
		case !strings.HasPrefix(spec.Path, "/api/"):
			c.addError(path+".path", errors.New("must begin with /api/"))
		default:
			lookup.path = c.url(path+".path", anyHost+spec.Path)
		}
		lookups = append(lookups, lookup)
	}
	return lookups
}

// Query renders the lookup. Values cannot change the structure of a path.
func (l *Lookup) Query(ctx context.Context, in *Input) (Query, error) {
	if l.path != nil {
		url, err := l.path.Text(ctx, in)
		return Query{Path: strings.TrimPrefix(url, anyHost)}, err
	}
	query := Query{GraphQL: l.graphql}
	if l.variables == nil {
		return query, nil
	}
	r := renderer{in: in, remaining: budget(maxRendered)}
	rendered, err := r.render(ctx, l.variables)
	if err != nil {
		return Query{}, fmt.Errorf("graphql.variables%w", err)
	}
	query.Variables, _ = rendered.(map[string]any) // as in the template
	return query, nil
}

// WithLookups returns the Input with the answers to lookups, by their names, in JSON; nil is null.
func (in *Input) WithLookups(answers map[string][]byte) *Input {
	decoded := make(map[string]any, len(answers))
	for name, answer := range answers {
		decoded[name] = value(answer)
	}
	return in.with(map[string]any{variableLookups: decoded})
}

// lookupScope has the names of a rule's lookups.
type lookupScope []string

// use refuses an expression that names a lookup that there is not.
func (s lookupScope) use(root ast.Expr) (err error) {
	named := map[int64]bool{} // mentions of the variable that a name follows
	ast.PreOrderVisit(root, ast.NewExprVisitor(func(expr ast.Expr) {
		if operand, name, selects := selection(expr); selects && isNamed(operand, variableLookups) {
			named[operand.ID()] = true
			if !slices.Contains(s, name) {
				err = fmt.Errorf("lookups.%s is not declared; add it to spec.lookups, which has [%s]", name, strings.Join(s, ", "))
			}
		}
		if isNamed(expr, variableLookups) && !named[expr.ID()] {
			err = errors.New("lookups must be followed by the name of one, as in lookups.device")
		}
	}))
	return err
}
