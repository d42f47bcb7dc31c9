package rule_test

import (
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/rule"
)

// FuzzTemplate checks that any text compiles or is rejected with its path, and that literals render unchanged.
func FuzzTemplate(f *testing.F) {
	for _, template := range append([]string{
		"${data.name}", "a ${data.id}-${event.name} b", "$${a} $$${b} ${'}'}", `${"{\"}"}${r"\"}${"""}"""}`, "${{'a': 1}.a}", "${1 // }\n}", "${data.list.map(x, x + '}')}",
		"https://example.com/${data.name}?x=${data.id}", "${changed('name')}${changedTo(1, 2)}${changed()}", "${[data, data]}", "${NetBoxEvent{name: 'x'}}", "${ip('::1')}", "${type(1)}",
	}, hostile...) {
		if len(template) < 1000 {
			f.Add(template)
		}
	}
	for _, bomb := range bombs {
		f.Add("${" + bomb.expression + "}")
	}
	event := named(f, "leaf1")
	f.Fuzz(func(t *testing.T, template string) {
		in := rule.NewInput(event, now)
		compileAction := func(action v1alpha1.Action) *rule.Action {
			compiled, err := rule.Compile(&v1alpha1.NetBoxEventRuleSpec{Actions: []v1alpha1.Action{action}})
			if err != nil {
				for line := range strings.Lines(err.Error()) {
					if !strings.HasPrefix(line, "spec.actions[x].") && !strings.HasPrefix(line, "spec: ") && !strings.HasPrefix(line, "and ") && !strings.Contains(template, "\n") {
						t.Fatalf("no path in %q", line)
					}
				}
				return nil
			}
			return &compiled.Actions[0]
		}
		log := func(message string) *rule.Action {
			return compileAction(v1alpha1.Action{Name: "x", Log: &v1alpha1.LogAction{Message: message}})
		}
		if compiled := log(template); compiled != nil {
			value, err := compiled.Message.Value(t.Context(), in)
			text, textErr := compiled.Message.Text(t.Context(), in)
			if err != nil && textErr == nil {
				t.Fatalf("renders as text %q, but not as a value: %v", text, err)
			}
			if !strings.Contains(template, "${") && (value != template || text != template) {
				t.Fatalf("%q renders as %q and %q", template, value, text)
			}
		}
		if compiled := compileAction(v1alpha1.Action{Name: "x", HTTP: &v1alpha1.HTTPAction{URL: template}}); compiled != nil {
			if rendered, err := compiled.URL.Text(t.Context(), in); err == nil {
				if parsed, err := url.Parse(rendered); err != nil || parsed.Scheme != "http" && parsed.Scheme != "https" || parsed.Host == "" {
					t.Fatalf("%q renders as %q", template, rendered)
				}
			}
		}

		escaped := strings.ReplaceAll(template, "${", "$${")
		before := escaped
		if strings.HasSuffix(before, "$") {
			before += " " // $${ would be an escape
		}
		compiled := log(before + "${data.name}" + escaped)
		if compiled == nil {
			t.Fatalf("%q does not compile", escaped)
		}
		want := template + strings.TrimPrefix(before, escaped) + "leaf1" + template
		if value, err := compiled.Message.Value(t.Context(), in); err != nil || template != "" && value != want {
			t.Fatalf("%q renders as %q, error is %v", escaped, value, err)
		}
	})
}

// FuzzURL checks that no value changes the structure of a URL.
func FuzzURL(f *testing.F) {
	addHostile(f)
	checks := urlChecks(f)
	f.Fuzz(func(t *testing.T, name string) {
		if !utf8.ValidString(name) {
			t.Skip("JSON is UTF-8")
		}
		for _, check := range checks {
			check.check(t, name)
		}
	})
}

// FuzzObject checks that no value changes the structure of an object.
func FuzzObject(f *testing.F) {
	addHostile(f)
	object := newObjectCheck(f)
	f.Fuzz(func(t *testing.T, name string) {
		if !utf8.ValidString(name) {
			t.Skip("JSON is UTF-8")
		}
		object.check(t, name)
	})
}

func addHostile(f *testing.F) {
	f.Helper()
	for _, name := range hostile {
		if len(name) < 1000 {
			f.Add(name)
		}
	}
}
