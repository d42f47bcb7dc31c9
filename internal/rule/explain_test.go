package rule_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/rule"
)

// lines writes a Mismatch as a text.
func lines(mismatch *rule.Mismatch) string {
	if mismatch == nil {
		return "matches"
	}
	text := mismatch.Field
	if mismatch.Wanted != nil {
		text += fmt.Sprintf(": wants %s, got %s", mismatch.Wanted, mismatch.Got)
	}
	if mismatch.Err != nil {
		text += ": " + mismatch.Err.Error()
	}
	for _, part := range mismatch.Parts {
		value := part.Value
		if part.Err != nil {
			value = "failed"
		}
		text += fmt.Sprintf("\n%s%s = %s", strings.Repeat("  ", part.Depth), part.Text, value)
	}
	return text
}

func TestExplain(t *testing.T) {
	events, _ := recorded(t)
	event := events["netbox-4.6.8-live/182"] // a device: planned to active
	cel := func(text string) v1alpha1.Match { return v1alpha1.Match{Filter: v1alpha1.Filter{CEL: text}} }
	for _, test := range []struct {
		reason string
		match  v1alpha1.Match
		want   string
	}{
		{"nothing asked for", v1alpha1.Match{}, "matches"},
		{"source", v1alpha1.Match{Sources: []string{"other"}, Branches: []string{"x"}}, "sources: wants [other], got [netbox]"},
		{"branch", v1alpha1.Match{Branches: []string{"Rack move"}}, "branches: wants [Rack move], got [main]"},
		{"event", v1alpha1.Match{Filter: v1alpha1.Filter{Events: []string{"created"}}}, "events: wants [created], got [updated]"},
		{
			"object type",
			v1alpha1.Match{Filter: v1alpha1.Filter{ObjectTypes: []string{"ipam.*", "dcim.site"}}},
			"objectTypes: wants [ipam.* dcim.site], got [dcim.device]",
		},
		{
			"changed field",
			v1alpha1.Match{Filter: v1alpha1.Filter{ChangedFields: []string{"name"}, CEL: "false"}},
			"changedFields: wants [name], got [status]",
		},
		{"false in two parts", cel(`changedTo("status", "planned") && data.role.slug == "spine" && event.username != ""`), `cel
changedTo("status", "planned") && data.role.slug == "spine" && event.username != "" = false
  changedTo("status", "planned") = false
    prechange.status = "planned"
    postchange.status = "active"
  data.role.slug == "spine" = false
    data.role.slug = "leaf"
  event.username != "" = true`},
		{"neither of two", cel(`data.status.value in ["planned", "offline"] || size(data.tags) > 1 && !has(data.id)`), `cel
data.status.value in ["planned", "offline"] || size(data.tags) > 1 && !has(data.id) = false
  data.status.value in ["planned", "offline"] = false
    data.status.value = "active"
  size(data.tags) > 1 && !has(data.id) = false
    size(data.tags) > 1 = false
      size(data.tags) = 0
        data.tags = []
    !has(data.id) = false
      has(data.id) = true`},
		{"a function", cel(`data.name.startsWith("edge-") && data.tags.exists(t, t.slug == "x")`), `cel
data.name.startsWith("edge-") && data.tags.exists(t, t.slug == "x") = false
  data.name.startsWith("edge-") = false
    data.name = "leaf1"
  data.tags.exists(t, t.slug == "x") = false`},
		{"missing key", cel(`data.nosuch == "x"`), "cel: data.nosuch: no such key"},
		{"optional", cel(`data.?nosuch.?slug.orValue("none") == data.site["slug"]`), `cel
data.?nosuch.?slug.orValue("none") == data.site["slug"] = false
  data.?nosuch.?slug.orValue("none") = "none"
    data.?nosuch.?slug = null
  data.site["slug"] = "tokyo-hq"`},
	} {
		compiled := compile(t, &v1alpha1.NetBoxEventRuleSpec{Match: test.match})
		got := lines(compiled.Explain(t.Context(), event, rule.NewInput(event, now)))
		if test.reason == "missing key" {
			got = strings.SplitAfter(got, "no such key")[0]
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.reason, diff)
		}
	}
}

// TestExplainAgrees compares Explain with Match on all recorded events.
func TestExplainAgrees(t *testing.T) {
	events, _ := recorded(t)
	var rules []*rule.Rule
	for _, match := range []v1alpha1.Match{
		{Filter: v1alpha1.Filter{ChangedFields: []string{"status", "custom_fields.cf_text"}}},
		{Filter: v1alpha1.Filter{Events: []string{"updated"}, ObjectTypes: []string{"dcim.*"}, CEL: `changed("status") || data.tags.size() > 0`}},
		{Filter: v1alpha1.Filter{CEL: `data.role.slug == "leaf" || prechange.status == "planned"`}},
	} {
		rules = append(rules, compile(t, &v1alpha1.NetBoxEventRuleSpec{Match: match}))
	}
	for name, event := range events {
		for i, compiled := range rules {
			matched, err := compiled.Match(t.Context(), event, rule.NewInput(event, now))
			mismatch := compiled.Explain(t.Context(), event, rule.NewInput(event, now))
			if matched != (mismatch == nil) || err != nil && mismatch.Err == nil {
				t.Errorf("%s: rule %d: Match is %t, %v, and Explain %s", name, i, matched, err, lines(mismatch))
			}
			if mismatch != nil && mismatch.Field == "cel" && err == nil && mismatch.Parts[0].Value != "false" {
				t.Errorf("%s: rule %d: %s", name, i, lines(mismatch))
			}
		}
	}
}

// FuzzExplain explains any expression that compiles, whose parts must not fail where the expression does not.
func FuzzExplain(f *testing.F) {
	for _, seed := range []string{
		`data.a[0].b["c d"] == 1 && !(event.username in ["a"])`, `has(data.x) ? data.x : now > timestamp("2020-01-01T00:00:00Z")`,
		`data.l.map(x, x.y).all(z, z > 0) || cel.bind(a, data.b, a == a)`, `changed("a.b") && changedTo(string(data.f), 1.0)`, `-1 - -data.x == 2u`,
	} {
		f.Add(seed)
	}
	event := &v1alpha1.NetBoxEvent{Spec: v1alpha1.NetBoxEventSpec{
		Event: "updated", Data: v1alpha1.JSONObject{"a": {Raw: []byte(`[{"b":{"c d":1}}]`)}, "x": {Raw: []byte("1")}},
	}}
	f.Fuzz(func(t *testing.T, text string) {
		compiled, err := rule.Compile(&v1alpha1.NetBoxEventRuleSpec{Match: v1alpha1.Match{Filter: v1alpha1.Filter{CEL: text}}})
		if err != nil {
			return
		}
		matched, err := compiled.Match(t.Context(), event, rule.NewInput(event, now))
		mismatch := compiled.Explain(t.Context(), event, rule.NewInput(event, now))
		if matched != (mismatch == nil) || mismatch != nil && (err == nil) != (mismatch.Err == nil) {
			t.Errorf("Match is %t, %v, and Explain %s", matched, err, lines(mismatch))
		}
	})
}
