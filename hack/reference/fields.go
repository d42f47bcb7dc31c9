package main

import (
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"
)

// fields returns the page of a kind, from its CRD: the API server's defaults and rules, and the descriptions of kubectl explain.
func fields(plural string) (string, error) {
	content, err := os.ReadFile("config/crd/bases/netbox-events.io_" + plural + ".yaml") //nolint:gosec // one of this repository
	if err != nil {
		return "", err
	}
	var crd apiextensions.CustomResourceDefinition
	if err := yaml.UnmarshalStrict(content, &crd); err != nil {
		return "", err
	}
	version := crd.Spec.Versions[0]
	schema := version.Schema.OpenAPIV3Schema
	names := crd.Spec.Names
	var page strings.Builder
	fmt.Fprintf(&page, "# %s\n\n%s\n\n", names.Kind, prose(schema.Description))
	fmt.Fprintf(&page, "`apiVersion: %s/%s`, `kind: %s`. `kubectl get %s`, or `%s`.\n", crd.Spec.Group, version.Name, names.Kind, names.Plural,
		names.ShortNames[0])
	sections := &sections{page: &page}
	for _, part := range []string{"spec", "status"} {
		sections.add(part, new(schema.Properties[part]))
	}
	page.WriteString("\n## Columns\n\n")
	var columns [][]string
	for _, column := range version.AdditionalPrinterColumns {
		wide := ""
		if column.Priority > 0 {
			wide = "only with `-o wide`"
		}
		columns = append(columns, []string{column.Name, code(column.JSONPath), joined(prose(column.Description), wide)})
	}
	page.WriteString(table([]string{"column", "value", "about"}, columns))
	if len(version.SelectableFields) > 0 {
		page.WriteString("\n## Field selectors\n\n")
		for _, field := range version.SelectableFields {
			fmt.Fprintf(&page, "- `--field-selector %s=…`\n", strings.TrimPrefix(field.JSONPath, "."))
		}
	}
	return page.String(), nil
}

// sections are the sections of a page, one for each object of a schema. Objects with the same fields share one.
type sections struct {
	page  *strings.Builder
	known []knownObject
}

type knownObject struct {
	path   string
	schema *apiextensions.JSONSchemaProps
}

// pathOf returns the path whose section describes an object.
func (s *sections) pathOf(path string, object *apiextensions.JSONSchemaProps) string {
	for _, known := range s.known {
		if reflect.DeepEqual(known.schema.Properties, object.Properties) && slices.Equal(known.schema.Required, object.Required) &&
			reflect.DeepEqual(known.schema.XValidations, object.XValidations) {
			return known.path
		}
	}
	s.known = append(s.known, knownObject{path, object})
	return path
}

// add writes the fields of an object, and after them those of the objects in it.
func (s *sections) add(path string, object *apiextensions.JSONSchemaProps) {
	level := "##"
	if strings.Contains(path, ".") {
		level = "###"
	}
	fmt.Fprintf(s.page, "\n%s %s\n\n", level, path)
	if rules := rules(object); len(rules) > 0 {
		fmt.Fprintf(s.page, "%s\n\n", strings.Join(rules, " "))
	}
	var rows [][]string
	var inside []knownObject // that have sections of their own
	for _, name := range slices.Sorted(maps.Keys(object.Properties)) {
		field := object.Properties[name]
		shown := code(name)
		if slices.Contains(object.Required, name) {
			shown += " *required*"
		}
		about := []string{prose(field.Description)}
		if field.Default != nil {
			about = append(about, "Default: "+code(string(field.Default.Raw))+".")
		}
		if len(field.Properties) == 0 {
			about = append(about, rules(&field)...)
		}
		kind := typeOf(&field)
		if inner, suffix := innermost(&field); len(inner.Properties) > 0 && !isCondition(inner) {
			own := path + "." + name + suffix
			described := s.pathOf(own, inner)
			if described == own {
				inside = append(inside, knownObject{own, inner})
			}
			kind = strings.Replace(kind, "object", "[object](#"+anchor(described)+")", 1)
		}
		rows = append(rows, []string{shown, kind, joined(about...)})
	}
	s.page.WriteString(table([]string{"field", "type", "description"}, rows))
	for _, inner := range inside {
		s.add(inner.path, inner.schema)
	}
}

// innermost returns the schema of the items of a list or the values of a map, and the suffix of its path.
func innermost(field *apiextensions.JSONSchemaProps) (inner *apiextensions.JSONSchemaProps, suffix string) {
	switch {
	case field.Items != nil:
		return field.Items.Schema, "[]"
	case field.AdditionalProperties != nil && field.AdditionalProperties.Schema != nil:
		return field.AdditionalProperties.Schema, ".*"
	}
	return field, ""
}

// isCondition reports whether a schema is that of Kubernetes' conditions, which the page of conditions describes.
func isCondition(schema *apiextensions.JSONSchemaProps) bool {
	_, hasGeneration := schema.Properties["observedGeneration"]
	_, hasTransition := schema.Properties["lastTransitionTime"]
	return hasGeneration && hasTransition
}

// anchor returns the anchor of the heading of a path.
func anchor(path string) string {
	return strings.NewReplacer(".", "", "[", "", "]", "", "*", "").Replace(strings.ToLower(path))
}

func typeOf(field *apiextensions.JSONSchemaProps) string {
	inner, suffix := innermost(field)
	name := inner.Type
	switch {
	case isCondition(inner):
		name = "[condition](conditions.md)"
	case inner.Format == "date-time":
		name = "time"
	case inner.Format == "byte":
		name = "bytes in Base64"
	case inner.XIntOrString:
		name = "integer or string"
	case name == "object" && inner.XPreserveUnknownFields != nil:
		name = "any object"
	case name == "":
		name = "any"
	}
	switch suffix {
	case "[]":
		return "list of " + name
	case ".*":
		return "map of " + name
	}
	return name
}

// rules are sentences about the values that the API server takes, without those of objects that have a section of their own.
func rules(field *apiextensions.JSONSchemaProps) []string {
	rules := rulesOf(field, "")
	if inner, _ := innermost(field); inner != field && len(inner.Properties) == 0 {
		rules = append(rules, rulesOf(inner, "each ")...)
	}
	return rules
}

func rulesOf(field *apiextensions.JSONSchemaProps, each string) (rules []string) {
	if len(field.Enum) > 0 {
		var values []string
		for _, value := range field.Enum {
			values = append(values, code(strings.Trim(string(value.Raw), `"`)))
		}
		rules = append(rules, "One of "+strings.Join(values, ", ")+".")
	}
	rules = appendRange(rules, each, field.MinItems, field.MaxItems, "item", "items")
	rules = appendRange(rules, each, field.MinProperties, field.MaxProperties, "entry", "entries")
	rules = appendRange(rules, each, field.MinLength, field.MaxLength, "character", "characters")
	rules = appendRange(rules, each, whole(field.Minimum), whole(field.Maximum), "", "")
	if len(field.XListMapKeys) > 0 {
		rules = append(rules, "No two items have the same "+code(strings.Join(field.XListMapKeys, ", "))+".")
	}
	if field.XListType != nil && *field.XListType == "set" {
		rules = append(rules, "No two items are the same.")
	}
	if field.Pattern != "" {
		rules = append(rules, "Pattern: "+code(field.Pattern)+".")
	}
	for _, rule := range field.XValidations {
		rules = append(rules, validation(field, rule.Message))
	}
	return rules
}

// validation returns the message of a rule as a sentence. It may begin with the name of a field.
func validation(field *apiextensions.JSONSchemaProps, message string) string {
	first, rest, _ := strings.Cut(message, " ")
	name, _, _ := strings.Cut(first, ".")
	if _, isField := field.Properties[name]; isField {
		return code(first) + " " + prose(rest) + "."
	}
	return strings.ToUpper(message[:1]) + prose(message)[1:] + "."
}

func appendRange(rules []string, each string, low, high *int64, unit, units string) []string {
	var text string
	switch {
	case low != nil && *low == 0 && unit != "": // which says nothing of a number of things
		return appendRange(rules, each, nil, high, unit, units)
	case low == nil && high == nil:
		return rules
	case low == nil:
		text = fmt.Sprintf("at most %d", *high)
	case high == nil:
		text = fmt.Sprintf("at least %d", *low)
	default:
		text = fmt.Sprintf("%d to %d", *low, *high)
	}
	if strings.HasSuffix(text, " 1") {
		units = unit
	}
	text = strings.TrimSpace(each + text + " " + units)
	return append(rules, strings.ToUpper(text[:1])+text[1:]+".")
}

func whole(number *float64) *int64 {
	if number == nil {
		return nil
	}
	return new(int64(*number))
}

// joined joins the sentences that are not empty.
func joined(sentences ...string) string {
	return strings.Join(slices.DeleteFunc(sentences, func(sentence string) bool { return sentence == "" }), " ")
}
