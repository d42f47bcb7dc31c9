package rule

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/cel-go/cel"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/oneline"
)

// Rule is a compiled NetBoxEventRule. It is safe for concurrent use.
type Rule struct {
	Actions []Action
	// OnFailure are the actions for an event that the rule gives up.
	OnFailure []Action
	// Lookups are the requests to NetBox that are made before the first action.
	Lookups []Lookup
	// Group says which events are delivered together; nil for each by itself.
	Group *v1alpha1.Group

	sources  []string // empty means all
	branches []string
	filter   *Filter
	groupKey *expression // nil unless Group.By is an expression
	limitKey *expression // nil for none
	mirrors  bool        // it has a Mirror action
}

// Action is a compiled action. The fields of other kinds of actions are empty.
type Action struct {
	// Spec is the source of the action, with defaults.
	Spec *v1alpha1.Action
	// When decides whether the action is executed; nil for always.
	When *Condition
	// Secrets are those that the templates of an http action name, by their names in the rule.
	Secrets map[string]v1alpha1.SecretKeyReference
	// URL and Headers are of an http action. Headers has the indexes of spec.http.headers.
	URL     *URL
	Headers []*Text
	// Body is nil for an action that sends the event, or nothing.
	Body *Body
	// Success decides whether the response to an http action means success; nil for every 2xx.
	Success *Condition
	// Objects are of an apply action. IsList means that its template is a List of them.
	Objects []Object
	IsList  bool
	// Wait is of an apply action that waits for its objects, nil for one that does not.
	Wait *Wait
	// Message is of an event or log action.
	Message *Text

	// UsesResults reports whether its expressions use results of other actions.
	UsesResults bool

	results paths // the members of its result that other actions use
}

// Find returns an action, also of onFailure; nil for none.
func (r *Rule) Find(name string) *Action {
	for _, list := range [][]Action{r.Actions, r.OnFailure} {
		for i := range list {
			if list[i].Spec.Name == name {
				return &list[i]
			}
		}
	}
	return nil
}

// Wait decides about the objects that an action waits for. Its conditions use the variable object.
type Wait struct {
	Success *Condition
	Failure *Condition // nil for never
}

// Compile compiles a rule. Its error has a line for each invalid expression or template: the path in spec, the line and column, and the
// problem. It fits into the message of a condition.
func Compile(spec *v1alpha1.NetBoxEventRuleSpec) (compiled *Rule, err error) {
	defer recoverCompiler(&err)
	var c compiler
	compiled = &Rule{
		sources: spec.Match.Sources, branches: spec.Match.Branches, filter: c.filter("spec.match", &spec.Match.Filter),
		Group: spec.Group,
	}
	if len(compiled.branches) == 0 {
		compiled.branches = []string{mainBranch}
	}
	if spec.Limit.Key != "" {
		compiled.limitKey = c.expression("spec.limit.key", spec.Limit.Key, nil)
	}
	compiled.groupKey = c.group("spec.group", spec.Group)
	compiled.Lookups = c.lookups("spec.lookups", spec.Lookups)
	for _, lookup := range compiled.Lookups {
		c.scope.lookups = append(c.scope.lookups, lookup.Name)
	}
	compiled.Actions = c.actions("spec.actions", spec.Actions, spec.Secrets)
	compiled.mirrors = slices.ContainsFunc(compiled.Actions, func(action Action) bool {
		return action.Spec.Apply != nil && action.Spec.Apply.Operation == v1alpha1.OperationMirror
	})
	c.scope.others = append(slices.Clone(c.scope.others), variableFailure)
	compiled.OnFailure = c.actions("spec.onFailure", spec.OnFailure, spec.Secrets)
	if err := c.err(); err != nil {
		return nil, err
	}
	return compiled, nil
}

// recoverCompiler converts a panic to an error: a panic in CEL on one object must not crash the operator.
func recoverCompiler(err *error) {
	if cause := recover(); cause != nil {
		*err = fmt.Errorf("spec: internal error of the CEL compiler: %v", cause)
	}
}

const (
	// maxExpressions bounds the number of expressions in a rule: each takes 17 kB of memory.
	maxExpressions = 1000
	// maxErrors bounds the number of reported errors, and maxErrorBytes each of them: the message of a condition is limited to 32 KiB.
	maxErrors, maxErrorBytes = 50, 500
)

// compiler collects the errors of a rule.
type compiler struct {
	errors      []error
	expressions int
	scope       scope
	isGrouped   bool // the rule has groups
}

func (c *compiler) addError(path string, err error) {
	c.errors = append(c.errors, bounded(fmt.Errorf("%s: %w", path, err)))
}

// err returns the collected errors, nil for none.
func (c *compiler) err() error {
	if c.expressions > maxExpressions {
		c.addError("spec", fmt.Errorf("has %d expressions, more than %d", c.expressions, maxExpressions))
	}
	if more := len(c.errors) - maxErrors; more > 0 {
		c.errors = append(c.errors[:maxErrors], fmt.Errorf("and %d more", more))
	}
	return errors.Join(c.errors...)
}

// expression compiles an expression. Its value must have the wanted type, unless that is nil.
func (c *compiler) expression(path, text string, want *cel.Type) *expression {
	compiled := &expression{text: text}
	if c.expressions++; c.expressions > maxExpressions {
		return compiled
	}
	if err := compiled.compile(want, c.scope); err != nil {
		c.addError(path, err)
	}
	return compiled
}

// actions compiles a list of actions. An action may depend on those before it in the list.
func (c *compiler) actions(path string, specs []v1alpha1.Action, secrets []v1alpha1.RuleSecret) []Action {
	var actions []Action
	used := map[string]paths{}
	awaited := map[string]map[string]bool{} // by earlier action, those that it depends on, directly or not
	for i := range specs {
		spec := &specs[i]
		path := fmt.Sprintf("%s[%s]", path, spec.Name)
		all := map[string]bool{}
		for _, name := range spec.DependsOn {
			if awaited[name] == nil {
				c.addError(path+".dependsOn", fmt.Errorf("there is no action %q before it in the list", name))
			}
			all[name] = true
			maps.Copy(all, awaited[name])
		}
		c.scope.results = &resultScope{action: spec.Name, earlier: awaited, known: all, used: used}
		compiled := c.action(path, spec, secrets)
		awaited[spec.Name] = all
		compiled.UsesResults = c.scope.results.isUsed
		actions = append(actions, compiled)
	}
	c.scope.results = nil
	for i := range actions {
		actions[i].results = used[actions[i].Spec.Name]
	}
	return actions
}

func (c *compiler) action(path string, spec *v1alpha1.Action, secrets []v1alpha1.RuleSecret) Action {
	spec = withDefaults(spec)
	action := Action{Spec: spec}
	c.checkGrouping(path, spec)
	if spec.When != "" {
		action.When = c.condition(path+".when", spec.When)
	}
	switch {
	case spec.HTTP != nil:
		c.scope.secrets = newSecretScope(secrets)
		defer func() { c.scope.secrets = nil }()
		action.Secrets = c.scope.secrets.used
		action.URL = c.url(path+".http.url", spec.HTTP.URL)
		c.contentType(path+".http", spec.HTTP)
		if spec.HTTP.Body != nil {
			action.Body = c.body(path+".http.body", spec.HTTP.Body)
		}
		action.Headers = make([]*Text, len(spec.HTTP.Headers))
		for i, header := range spec.HTTP.Headers {
			action.Headers[i] = c.text(fmt.Sprintf("%s.http.headers[%s].value", path, header.Name), header.Value)
		}
		if auth := spec.HTTP.Auth; auth != nil && auth.OAuth2 != nil {
			if err := checkURL(auth.OAuth2.TokenURL); err != nil {
				c.addError(path+".http.auth.oauth2.tokenURL", err)
			}
		}
		if spec.HTTP.Success != "" {
			action.Success = c.success(path+".http.success", spec.HTTP.Success)
		}
	case spec.Apply != nil:
		action.Objects, action.IsList = c.objects(path+".apply.template", spec.Apply)
		if spec.Apply.Wait != nil {
			action.Wait = c.wait(path+".apply.wait", spec.Apply.Wait)
		}
	case spec.Event != nil:
		action.Message = c.text(path+".event.message", spec.Event.Message)
	case spec.Log != nil:
		action.Message = c.text(path+".log.message", spec.Log.Message)
	}
	return action
}

// success compiles the condition of a successful response. It has no Secrets.
func (c *compiler) success(path, text string) *Condition {
	outer := c.scope
	defer func() { c.scope = outer }()
	c.scope.secrets = nil
	c.scope.others = append(slices.Clone(outer.others), variableResponse)
	return c.condition(path, text)
}

func (c *compiler) wait(path string, spec *v1alpha1.ApplyWait) *Wait {
	others := c.scope.others
	c.scope.others = append(slices.Clone(others), variableObject)
	defer func() { c.scope.others = others }()
	wait := &Wait{Success: c.condition(path+".success", spec.Success)}
	if spec.Failure != "" {
		wait.Failure = c.condition(path+".failure", spec.Failure)
	}
	return wait
}

// bounded returns an error as a single truncated line: CEL's errors may hold values of the event.
func bounded(err error) error {
	if line := oneline.Of(err.Error(), maxErrorBytes); line != err.Error() {
		return errors.New(line)
	}
	return err
}

// Match reports whether the rule matches an event. An event on which the expression fails does not match, and Match returns the error.
func (r *Rule) Match(ctx context.Context, event *v1alpha1.NetBoxEvent, in *Input) (bool, error) {
	if r.mismatch(event, in) != matchesLists {
		return false, nil
	}
	return r.filter.holds(ctx, in)
}

// mismatch returns the first list of spec.match that an event does not fit.
func (r *Rule) mismatch(event *v1alpha1.NetBoxEvent, in *Input) matchField {
	switch {
	case !oneOf(r.sources, event.Spec.SourceRef.Name):
		return matchSources
	case !r.matchBranch(event.Spec.Branch):
		return matchBranches
	default:
		return r.filter.mismatch(event, in)
	}
}

// Removes reports whether an event that does not match the rule ends a match of its NetBox object: the rule has a Mirror action, and the
// object was deleted, or spec.match.cel is false now. It must not be called for an event on which the expression fails.
func (r *Rule) Removes(event *v1alpha1.NetBoxEvent, in *Input) bool {
	if !r.mirrors || !oneOf(r.sources, event.Spec.SourceRef.Name) || !r.matchBranch(event.Spec.Branch) ||
		!r.filter.matchObjectType(event.Spec.ObjectType) {
		return false
	}
	return event.Spec.Event == eventDeleted || r.filter.mismatch(event, in) == matchesLists
}

// LimitKey returns the value of spec.limit.key as text; "" where there is no such expression, it fails, or its value is null.
func (r *Rule) LimitKey(ctx context.Context, in *Input) string {
	if r.limitKey == nil {
		return ""
	}
	return r.limitKey.key(ctx, in)
}

// key returns the value of the expression as text; "" if it fails, or its value is null.
func (e *expression) key(ctx context.Context, in *Input) string {
	remaining := budget(maxRendered)
	value, err := e.native(ctx, in, &remaining)
	if err != nil {
		return ""
	}
	written, err := text(value) // fails for null
	if err != nil {
		return ""
	}
	return written
}

// mainBranch is the name of NetBox's main branch, which events do not name.
const mainBranch = "main"

func (r *Rule) matchBranch(branch string) bool {
	if branch == "" {
		branch = mainBranch
	}
	return contains(r.branches, branch) || contains(r.branches, "*")
}

// oneOf reports whether a list has a text, in upper or lower case, or is empty.
func oneOf(list []string, text string) bool { return len(list) == 0 || contains(list, text) }

func contains(list []string, text string) bool {
	return slices.ContainsFunc(list, func(entry string) bool { return strings.EqualFold(entry, text) })
}
