package ruletest

import (
	"fmt"
	"reflect"
	"strings"

	"github.com/pmezard/go-difflib/difflib"
	"k8s.io/apimachinery/pkg/util/json"
	sigsyaml "sigs.k8s.io/yaml"
)

// compare returns the difference between an expectation and an outcome as a unified diff, empty for none.
func compare(expectation *Expectation, outcome *Outcome) (string, error) {
	expected, err := expectedFields(expectation)
	if err != nil {
		return "", err
	}
	actual, err := fieldsOf(outcome)
	if err != nil {
		return "", err
	}
	if actual["actions"] != nil {
		actual["actions"] = orderActions(expected, actual)
	}
	got := project(expected, actual).(map[string]any)
	if reflect.DeepEqual(expected, got) {
		return "", nil
	}
	return unified(expected, got)
}

// fieldsOf converts a value to JSON's types.
func fieldsOf(value any) (fields map[string]any, err error) {
	encoded, err := json.Marshal(value)
	if err != nil {
		return nil, err
	}
	return fields, json.Unmarshal(encoded, &fields)
}

// expectedFields returns the fields of an expectation, with its defaults: null for what must be absent.
func expectedFields(expectation *Expectation) (map[string]any, error) {
	fields, err := fieldsOf(expectation)
	if err != nil {
		return nil, err
	}
	delete(fields, "rule")
	delete(fields, "event")
	if expectation.Matched == nil {
		fields["matched"] = expectation.Error == "" && !expectation.Removes
	}
	if expectation.Error == "" {
		fields["error"] = nil
	}
	actions, _ := fields["actions"].([]any)
	for _, action := range actions {
		action := action.(map[string]any)
		for _, name := range []string{"error", "skipped"} {
			if action[name] == nil {
				action[name] = nil
			}
		}
	}
	return fields, nil
}

// orderActions returns the actions of an outcome that are expected, in their order there.
func orderActions(expected, actual map[string]any) []any {
	wanted, _ := expected["actions"].([]any)
	all, _ := actual["actions"].([]any)
	var ordered []any
	for _, want := range wanted {
		for _, got := range all {
			if got.(map[string]any)["name"] == want.(map[string]any)["name"] {
				ordered = append(ordered, got)
			}
		}
	}
	return ordered
}

// project returns the part of the actual value that an expected one is about. It is equal to that if they fit.
func project(expected, actual any) any {
	switch expected := expected.(type) {
	case map[string]any:
		actual, ok := actual.(map[string]any)
		if !ok {
			break
		}
		return projectFields(expected, actual)
	case []any:
		actual, ok := actual.([]any)
		if !ok {
			break
		}
		projected := make([]any, len(actual))
		for i := range actual {
			projected[i] = actual[i]
			if i < len(expected) {
				projected[i] = project(expected[i], actual[i])
			}
		}
		return projected
	case int64, float64:
		if fmt.Sprint(expected) == fmt.Sprint(actual) {
			return expected
		}
	}
	return actual
}

// containedFields are those of which an expectation has a part.
var containedFields = map[string]bool{"error": true, "skipped": true}

func projectFields(expected, actual map[string]any) map[string]any {
	projected := map[string]any{}
	for name, want := range expected {
		got, isThere := actual[name]
		part, isText := want.(string)
		text, _ := got.(string)
		switch {
		case !isThere && want != nil:
		case containedFields[name] && isText && strings.Contains(text, part):
			projected[name] = want
		default:
			projected[name] = project(want, got)
		}
	}
	if _, hasOne := expected["object"]; hasOne && actual["object"] == nil && actual["objects"] != nil {
		projected["objects"] = actual["objects"] // there are several
	}
	return projected
}

// unified returns a unified diff of two values in YAML.
func unified(expected, actual map[string]any) (string, error) {
	want, err := sigsyaml.Marshal(withoutNulls(expected))
	if err != nil {
		return "", err
	}
	got, err := sigsyaml.Marshal(withoutNulls(actual))
	if err != nil {
		return "", err
	}
	return difflib.GetUnifiedDiffString(difflib.UnifiedDiff{
		A: difflib.SplitLines(strings.TrimSuffix(string(want), "\n")), B: difflib.SplitLines(strings.TrimSuffix(string(got), "\n")),
		FromFile: "expected", ToFile: "rendered", Context: 3,
	})
}

// withoutNulls leaves out the fields that expectedFields added.
func withoutNulls(fields map[string]any) map[string]any {
	left := map[string]any{}
	for name, value := range fields {
		if value == nil && containedFields[name] {
			continue
		}
		if name == "actions" {
			list, _ := value.([]any)
			actions := make([]any, len(list))
			for i := range list {
				actions[i] = withoutNulls(list[i].(map[string]any))
			}
			value = actions
		}
		left[name] = value
	}
	return left
}
