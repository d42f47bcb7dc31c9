package rule

import (
	"context"
	"slices"
	"strings"
)

// expandable says in which strings of a value Kubernetes expands $(NAME) to the value of an environment variable. A nil one says in none.
type expandable struct {
	isString bool                   // in the value itself, if it is a string
	elements *expandable            // in the elements of a list
	fields   map[string]*expandable // in the fields of an object
}

func (e *expandable) element() *expandable {
	if e == nil {
		return nil
	}
	return e.elements
}

func (e *expandable) field(name string) *expandable {
	if e == nil {
		return nil
	}
	return e.fields[name]
}

// in returns an expandable with this one at a path of fields.
func (e *expandable) in(path ...string) *expandable {
	for _, name := range slices.Backward(path) {
		e = &expandable{fields: map[string]*expandable{name: e}}
	}
	return e
}

// podSpec has the fields of a PodSpec that the kubelet expands.
var podSpec = func() *expandable {
	text := &expandable{isString: true}
	texts := &expandable{elements: text}
	containers := &expandable{elements: &expandable{fields: map[string]*expandable{
		"command":      texts,
		"args":         texts,
		"env":          {elements: text.in("value")},
		"volumeMounts": {elements: text.in("subPathExpr")},
	}}}
	return &expandable{fields: map[string]*expandable{
		"containers": containers, "initContainers": containers, "ephemeralContainers": containers,
	}}
}()

// podSpecs are the kinds of Kubernetes that have a PodSpec, by API group.
var podSpecs = map[string]map[string]*expandable{
	"": {
		"Pod":                   podSpec.in("spec"),
		"PodTemplate":           podSpec.in("template", "spec"),
		"ReplicationController": podSpec.in("spec", "template", "spec"),
	},
	"apps": {
		"DaemonSet":   podSpec.in("spec", "template", "spec"),
		"Deployment":  podSpec.in("spec", "template", "spec"),
		"ReplicaSet":  podSpec.in("spec", "template", "spec"),
		"StatefulSet": podSpec.in("spec", "template", "spec"),
	},
	"batch": {
		"CronJob": podSpec.in("spec", "jobTemplate", "spec", "template", "spec"),
		"Job":     podSpec.in("spec", "template", "spec"),
	},
}

// expandedFields returns where Kubernetes expands variables in an object of a kind.
func expandedFields(apiVersion, kind string) *expandable {
	group, _, hasGroup := strings.Cut(apiVersion, "/")
	if !hasGroup {
		group = ""
	}
	return podSpecs[group][kind]
}

// expandedText is a template of a value with strings that Kubernetes expands. It escapes the values of expressions, not the literal parts.
type expandedText struct {
	*Text
	fields *expandable
}

func (t expandedText) value(ctx context.Context, in *Input, remaining *budget) (any, error) {
	whole, ok := t.whole()
	if !ok {
		return t.join(ctx, in, remaining, func(_ int, value any) (string, error) {
			written, err := text(value)
			if err != nil || !t.fields.isString {
				return written, err
			}
			return escape(written, remaining)
		})
	}
	value, err := whole.native(ctx, in, remaining)
	if err != nil {
		return nil, err
	}
	if value, err = escapeIn(value, t.fields, remaining); err != nil {
		return nil, whole.wrap(err)
	}
	return value, nil
}

// escapeIn escapes the strings of a value that Kubernetes expands.
func escapeIn(value any, fields *expandable, remaining *budget) (escaped any, err error) {
	if fields == nil {
		return value, nil
	}
	switch value := value.(type) {
	case string:
		if fields.isString {
			return escape(value, remaining)
		}
	case []any:
		for i, element := range value {
			if value[i], err = escapeIn(element, fields.elements, remaining); err != nil {
				return nil, err
			}
		}
	case map[string]any:
		for name, field := range value {
			if value[name], err = escapeIn(field, fields.fields[name], remaining); err != nil {
				return nil, err
			}
		}
	}
	return value, nil
}

// escape escapes a string for Kubernetes, which replaces $$ with $ and $(NAME) with the value of a variable.
func escape(text string, remaining *budget) (string, error) {
	escaped := strings.ReplaceAll(text, "$", "$$")
	return escaped, remaining.take(len(escaped) - len(text))
}
