package rule_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/rule"
)

// TestMissing checks the errors of members that are not there. Each expression that they advise is evaluated.
func TestMissing(t *testing.T) {
	long := strings.Repeat("k", 100)
	event := eventWith(t, `{"name": "leaf1", "position": 1, "tenant": null, "comments": "{\"team\": 1}", "empty": {}, "my key": null, "list": [null],
		"tags": [{"slug": "a"}, {"id": 2}], "custom_fields": {"d": 1, "b": 1, "a": 1, "c": 1, "e": 1, "f": 1, "g": 1, "h": 1, "i": 1, "j": 1, "k": 1},
		"long": {"`+long+`1": 1, "`+long+`2": 1, "`+long+`3": 1, "`+long+`4": 1, "line\nbreak": 1}}`)
	const data = "comments, custom_fields, empty, list, long, my key, name, position, tags, tenant"
	advice := regexp.MustCompile(`write (.*) or test (.*) first`)
	for _, test := range []struct{ reason, expression, want string }{
		{"a missing key", `data.role`, "data.role: no such key; data has " + data},
		{"the first of several", `data.role.slug.x`, "data.role: no such key; data has " + data},
		{"a key in quotes", `data.empty["a key"]`, `data.empty["a key"]: no such key; data.empty has no keys`},
		{"more keys than are listed", `data.custom_fields.owner`, "data.custom_fields.owner: no such key; data.custom_fields has a, b, c, d, e, f, g, h, i, j, … (1 more)"},
		{"long keys", `data.long.a`, "data.long.a: no such key; data.long has " + long[:57] + "…, " + long[:57] + "…, " + long[:57] + "…, … (2 more)"},
		{"a computed key", `data.empty[data.name]`, "data.empty[…]: no such key: leaf1; data.empty has no keys"},
		{"a key of a missing key", `data.empty[data.nam]`, "data.nam: no such key; data has " + data},
		{"a test of a member", `has(data.role.slug)`, "data.role: no such key; data has " + data},
		{"a variable of a macro", `data.tags.exists(tag, tag.slug == "b")`, "tag.slug: no such key; tag has id"},
		{"a variable of bind", `cel.bind(t, data.tags[1], t.slug)`, "t.slug: no such key; t has id"},
		{"the result of a call", `json(data.comments).owner`, "(…).owner: no such key; (…) has team"},
		{"a choice", `(data.name == "" ? data.tags : data.empty).a`, "(…).a: no such key; (…) has no keys"},
		{"a member of null", `data.tenant.slug`, `data.tenant.slug: data.tenant is null; write data.?tenant.?slug.orValue("") or test data.tenant != null first`},
		{"a long path", `data.tenant.group.slug`, `data.tenant.group: data.tenant is null; write data.?tenant.?group.?slug.orValue("") or test data.tenant != null first`},
		{"an element that is null", `data.list[0].slug`, `data.list[0].slug: data.list[0] is null; write data.list[?0].?slug.orValue("") or test data.list[0] != null first`},
		{"null in quotes", `data["my key"].a`, `data["my key"].a: data["my key"] is null; write data[?"my key"].?a.orValue("") or test data["my key"] != null first`},
		{"a variable that is null", `prechange.status`, `prechange.status: prechange is null; write prechange.?status.orValue("") or test prechange != null first`},
		{"a part of event", `event.request.method`, `event.request.method: event.request is null; write event.?request.?method.orValue("") or test event.request != null first`},
		{"a computed key of null", `data.tenant[data.name]`, "data.tenant[…]: data.tenant is null; test it first"},
		{"a member of a text", `data.name.slug`, "data.name.slug: data.name has the type string, which has no keys"},
		{"a member of a number", `data.position.slug`, "data.position.slug: data.position has the type int, which has no keys"},
		{"a member of a list", `data.tags.slug`, "data.tags.slug: data.tags is a list; select an element first, as in data.tags[0]"},
		{"an index that is too large", `data.tags[2].slug`, "data.tags[2]: index out of bounds: 2; data.tags has 2 elements"},
		{"a computed index", `data.tags[data.position + 1]`, "data.tags[…]: index out of bounds: 2; data.tags has 2 elements"},
		{"an index that fails by itself", `data.tags[1 / (data.position - 1)]`, "division by zero"},
	} {
		t.Run(test.reason, func(t *testing.T) {
			message := func(template string) (string, error) {
				compiled := compile(t, &v1alpha1.NetBoxEventRuleSpec{Actions: []v1alpha1.Action{{Name: "line", Log: &v1alpha1.LogAction{Message: template}}}})
				return compiled.Actions[0].Message.Message(t.Context(), rule.NewInput(event, now))
			}
			_, err := message("${" + test.expression + "}")
			if err == nil || !strings.HasPrefix(err.Error(), test.want+" in ") || len(err.Error()) > 600 || strings.Contains(err.Error(), "\n") {
				t.Errorf("got  %v\nwant %s", err, test.want)
			}
			if advised := advice.FindStringSubmatch(test.want); advised != nil {
				for _, expression := range []string{advised[1] + ` == ""`, "!(" + advised[2] + ")"} {
					if value, err := message("${" + expression + "}"); err != nil || value != "true" {
						t.Errorf("%s is %q, %v", expression, value, err)
					}
				}
			}
		})
	}
}
