package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"regexp"
	"strconv"
	"strings"
)

// constant is a name of the API that is not in the CRDs, such as a condition or a label.
type constant struct{ kind, name, value, doc string }

// group is a declaration of constants with its comment.
type group struct {
	doc       string
	constants []constant
}

var kindOfConstant = regexp.MustCompile(`^(Condition|Reason|Event|Label|Annotation|Finalizer)[A-Z]`)

// constants returns the declarations of the API, in the order of the files that must be in order.
func constants() (groups []group, err error) {
	files := token.NewFileSet()
	for _, name := range []string{"netboxsource_types", "netboxapi_types", "netboxevent_types", "netboxeventrule_types", "kubernetesevents"} {
		file, err := parser.ParseFile(files, "api/v1alpha1/"+name+".go", nil, parser.ParseComments)
		if err != nil {
			return nil, err
		}
		for _, declaration := range file.Decls {
			declared, ok := declaration.(*ast.GenDecl)
			if !ok || declared.Tok != token.CONST {
				continue
			}
			found := group{doc: declared.Doc.Text()}
			for _, spec := range declared.Specs {
				value := spec.(*ast.ValueSpec)
				kind := kindOfConstant.FindStringSubmatch(value.Names[0].Name)
				literal, isLiteral := value.Values[0].(*ast.BasicLit)
				if kind == nil || !isLiteral || value.Type != nil {
					continue
				}
				text, err := strconv.Unquote(literal.Value)
				if err != nil {
					return nil, err
				}
				doc := value.Doc.Text()
				if doc == "" { // of a declaration without parentheses
					doc = found.doc
				}
				found.constants = append(found.constants, constant{kind[1], value.Names[0].Name, text, doc})
			}
			if len(found.constants) > 0 {
				groups = append(groups, found)
			}
		}
	}
	return groups, nil
}

// conditions returns the page of the names that are in the objects, but not in their schemas.
func conditions() (string, error) {
	groups, err := constants()
	if err != nil {
		return "", err
	}
	values := map[string]string{}
	for _, group := range groups {
		for _, constant := range group.constants {
			values[constant.name] = constant.value
		}
	}
	identifier := regexp.MustCompile(`\b[A-Z]\w+`)
	sentence := func(doc string) string { // with values in place of Go's names
		return prose(identifier.ReplaceAllStringFunc(doc, func(name string) string {
			if value, ok := values[name]; ok {
				return "`" + value + "`"
			}
			return name
		}))
	}

	var page strings.Builder
	page.WriteString("# Conditions, Events and labels\n\n" +
		"The names that tools and people go by, beside the fields of the API. `kubectl describe` shows the conditions and the Kubernetes " +
		"Events of an object.\n")
	for _, group := range groups {
		if group.constants[0].kind != "Condition" {
			continue
		}
		heading, more, _ := strings.Cut(strings.Join(strings.Fields(group.doc), " "), ". ")
		fmt.Fprintf(&page, "\n## %s\n", strings.TrimSuffix(heading, "."))
		if more != "" {
			fmt.Fprintf(&page, "\n%s\n", sentence(more))
		}
		for _, constant := range group.constants {
			if constant.kind == "Condition" {
				fmt.Fprintf(&page, "\n### %s\n\n%s\n\n", constant.value, sentence(constant.doc))
			} else {
				fmt.Fprintf(&page, "- %s\n", sentence(constant.doc))
			}
		}
	}
	for _, part := range []struct{ kind, heading, about string }{
		{"Event", "Kubernetes Events", "The reasons of the Events of a NetBoxSource are listed here. It also has an Event when " +
			"`NetBoxReachable` or `WebhookConfigured` changes, with the reason of the condition. The Events of a NetBoxEventRule have the " +
			"reasons `Retrying`, `DeliveryFailed` and `ExpressionError`. Those of a NetBoxEvent are written by [event " +
			"actions](../rules.md#event), with reasons that rules define."},
		{"Label", "Labels", ""},
		{"Annotation", "Annotations", ""},
		{"Finalizer", "Finalizers", ""},
	} {
		fmt.Fprintf(&page, "\n## %s\n\n", part.heading)
		if part.about != "" {
			fmt.Fprintf(&page, "%s\n\n", part.about)
		}
		for _, group := range groups {
			for _, constant := range group.constants {
				if constant.kind == part.kind {
					fmt.Fprintf(&page, "- %s\n", sentence(constant.doc))
				}
			}
		}
	}
	return page.String(), nil
}
