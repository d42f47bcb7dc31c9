package rule

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

// Object is the template of a Kubernetes object.
type Object struct {
	// APIVersion and Kind are literal.
	APIVersion, Kind string

	root map[string]node
}

// node is a node of a template: map[string]node, []node, *Text, expandedText, or a constant.
type node any

// objects compiles the template of an object, or of the items of a List.
func (c *compiler) objects(path string, spec *v1alpha1.ApplyAction) (objects []Object, isList bool) {
	decoded, _ := object(spec.Template).(map[string]any)
	if decoded["apiVersion"] != "v1" || decoded["kind"] != "List" {
		return []Object{c.object(path, decoded, spec.Operation)}, false
	}
	items, ok := decoded["items"].([]any)
	if !ok || len(items) == 0 {
		c.addError(path+".items", errors.New("must be the objects of the List"))
	}
	for i, item := range items {
		path := fmt.Sprintf("%s.items[%d]", path, i)
		fields, ok := item.(map[string]any)
		if !ok {
			c.addError(path, errors.New("must be an object"))
			continue
		}
		objects = append(objects, c.object(path, fields, spec.Operation))
	}
	return objects, true
}

func (c *compiler) object(path string, fields map[string]any, operation v1alpha1.ApplyOperation) Object {
	for _, name := range []string{"apiVersion", "kind"} {
		if text, ok := fields[name].(string); !ok || text == "" || strings.Contains(text, "${") {
			c.addError(path+"."+name, errors.New("must be a string without expressions"))
		}
	}
	if _, ok := fields["metadata"].(map[string]any); !ok && fields["metadata"] != nil {
		c.addError(path+".metadata", errors.New("must be an object"))
	}
	if metadata, _ := fields["metadata"].(map[string]any); operation == v1alpha1.OperationDelete && metadata["name"] == nil {
		c.addError(path+".metadata.name", errors.New("must name the object to delete"))
	}
	apiVersion, _ := fields["apiVersion"].(string)
	kind, _ := fields["kind"].(string)
	root, _ := c.node(path, fields, expandedFields(apiVersion, kind)).(map[string]node)
	return Object{APIVersion: apiVersion, Kind: kind, root: root}
}

// Namespace returns the namespace of the objects of all events, empty if the template has none. It is not fixed if it depends on the event.
func (o Object) Namespace() (namespace string, isFixed bool) {
	metadata, _ := o.root["metadata"].(map[string]node)
	text, ok := metadata["namespace"].(*Text)
	if !ok {
		return "", true
	}
	if text.isVariable() {
		return "", false
	}
	for _, part := range text.parts {
		namespace += part.literal
	}
	return namespace, true
}

// node compiles a value. The fields say where Kubernetes expands variables in it, nil for nowhere.
func (c *compiler) node(path string, value any, fields *expandable) node {
	switch value := value.(type) {
	case string:
		if fields != nil {
			return expandedText{c.text(path, value), fields}
		}
		return c.text(path, value)
	case []any:
		compiled := make([]node, len(value))
		for i, element := range value {
			compiled[i] = c.node(fmt.Sprintf("%s[%d]", path, i), element, fields.element())
		}
		return compiled
	case map[string]any:
		compiled := make(map[string]node, len(value))
		for _, name := range slices.Sorted(maps.Keys(value)) {
			if strings.Contains(name, "${") {
				c.addError(path, fmt.Errorf("the key %.40q must not contain an expression", name))
			}
			compiled[name] = c.node(path+"."+name, value[name], fields.field(name))
		}
		return compiled
	default:
		return value
	}
}

// Render returns the object with the values of its expressions. A value replaces its expression, and cannot change anything else.
//
// It also reports whether values decide which fields the object has: a map or a list is a value, or a value can be the key of an element
// of a list. Then the objects of two events can have different fields.
func (o Object) Render(ctx context.Context, in *Input) (object map[string]any, hasOwnFields bool, err error) {
	r := renderer{in: in, remaining: maxRendered}
	rendered, err := r.render(ctx, o.root)
	if err != nil {
		return nil, false, fmt.Errorf("template%w", err)
	}
	return rendered.(map[string]any), r.hasOwnFields, nil
}

// renderer renders one object.
type renderer struct {
	in           *Input
	remaining    budget
	hasOwnFields bool
}

// render returns the value of a node. Its error begins with the path to the failed node.
func (r *renderer) render(ctx context.Context, at node) (any, error) {
	switch at := at.(type) {
	case *Text:
		return r.text(at.value(ctx, r.in, &r.remaining))
	case expandedText:
		return r.text(at.value(ctx, r.in, &r.remaining))
	case []node:
		list := make([]any, len(at))
		for i, element := range at {
			rendered, err := r.render(ctx, element)
			if err != nil {
				return nil, fmt.Errorf("[%d]%w", i, err)
			}
			list[i] = rendered
			r.hasOwnFields = r.hasOwnFields || hasVariableKey(element)
		}
		return list, nil
	case map[string]node:
		object := make(map[string]any, len(at))
		for _, name := range slices.Sorted(maps.Keys(at)) {
			rendered, err := r.render(ctx, at[name])
			if err != nil {
				return nil, fmt.Errorf(".%s%w", name, err)
			}
			object[name] = rendered
		}
		return object, nil
	default:
		return at, nil
	}
}

// text returns the value of a text, and notes whether it decides about fields.
func (r *renderer) text(value any, err error) (any, error) {
	if err != nil {
		return nil, fmt.Errorf(": %w", err)
	}
	switch value.(type) {
	case []any, map[string]any:
		r.hasOwnFields = true
	}
	return value, nil
}

// hasVariableKey reports whether an expression can be the key of an element of a list: it is the element, or one of its fields. Which
// fields are keys is in the schema of the kind; a field value, as of an environment variable, is not.
func hasVariableKey(element node) bool {
	if fields, ok := element.(map[string]node); ok {
		for name, field := range fields {
			if name != "value" && isVariable(field) {
				return true
			}
		}
	}
	return isVariable(element)
}

// isVariable reports whether a node is a text with an expression.
func isVariable(at node) bool {
	switch at := at.(type) {
	case *Text:
		return at.isVariable()
	case expandedText:
		return at.isVariable()
	default:
		return false
	}
}
