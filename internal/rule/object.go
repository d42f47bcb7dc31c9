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
	root node
}

// node is a node of a template: map[string]node, []node, *Text, or a constant.
type node any

// objects compiles the template of an object, or of the items of a List.
func (c *compiler) objects(path string, template v1alpha1.JSONObject) []Object {
	decoded, _ := object(template).(map[string]any)
	if decoded["apiVersion"] != "v1" || decoded["kind"] != "List" {
		return []Object{c.object(path, decoded)}
	}
	items, ok := decoded["items"].([]any)
	if !ok || len(items) == 0 {
		c.addError(path+".items", errors.New("must be the objects of the List"))
	}
	var objects []Object
	for i, item := range items {
		path := fmt.Sprintf("%s.items[%d]", path, i)
		fields, ok := item.(map[string]any)
		if !ok {
			c.addError(path, errors.New("must be an object"))
			continue
		}
		objects = append(objects, c.object(path, fields))
	}
	return objects
}

func (c *compiler) object(path string, fields map[string]any) Object {
	for _, name := range []string{"apiVersion", "kind"} {
		if text, ok := fields[name].(string); !ok || text == "" || strings.Contains(text, "${") {
			c.addError(path+"."+name, errors.New("must be a string without expressions"))
		}
	}
	if _, ok := fields["metadata"].(map[string]any); !ok && fields["metadata"] != nil {
		c.addError(path+".metadata", errors.New("must be an object"))
	}
	return Object{c.node(path, fields)}
}

func (c *compiler) node(path string, value any) node {
	switch value := value.(type) {
	case string:
		return c.text(path, value)
	case []any:
		compiled := make([]node, len(value))
		for i, element := range value {
			compiled[i] = c.node(fmt.Sprintf("%s[%d]", path, i), element)
		}
		return compiled
	case map[string]any:
		compiled := make(map[string]node, len(value))
		for _, name := range slices.Sorted(maps.Keys(value)) {
			if strings.Contains(name, "${") {
				c.addError(path, fmt.Errorf("the key %.40q must not contain an expression", name))
			}
			compiled[name] = c.node(path+"."+name, value[name])
		}
		return compiled
	default:
		return value
	}
}

// Render returns the object with the values of its expressions. A value replaces its expression, and cannot change anything else.
func (o Object) Render(ctx context.Context, in *Input) (map[string]any, error) {
	remaining := budget(maxRendered)
	rendered, err := render(ctx, in, &remaining, o.root)
	if err != nil {
		return nil, fmt.Errorf("template%w", err)
	}
	return rendered.(map[string]any), nil
}

// render returns the value of a node. Its error begins with the path to the failed node.
func render(ctx context.Context, in *Input, remaining *budget, at node) (any, error) {
	switch at := at.(type) {
	case *Text:
		value, err := at.value(ctx, in, remaining)
		if err != nil {
			return nil, fmt.Errorf(": %w", err)
		}
		return value, nil
	case []node:
		list := make([]any, len(at))
		for i, element := range at {
			rendered, err := render(ctx, in, remaining, element)
			if err != nil {
				return nil, fmt.Errorf("[%d]%w", i, err)
			}
			list[i] = rendered
		}
		return list, nil
	case map[string]node:
		object := make(map[string]any, len(at))
		for _, name := range slices.Sorted(maps.Keys(at)) {
			rendered, err := render(ctx, in, remaining, at[name])
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
