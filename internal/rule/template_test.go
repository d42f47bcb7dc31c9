package rule_test

import (
	"encoding/json"
	"math"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/rule"
)

// hostile are names of objects in NetBox that try to break out of a template.
var hostile = []string{
	"", " ", "..", ".", "/", "//", "../../admin", "a/../..", "%2e%2e", "%2F..%2F", "..;", `..\..\x`, `\\host\share`, "a;b=c", "?x=y", "#x", "a&b=c&d", "a+b c",
	"@evil.example", "user:pass@evil.example", ":443", "evil.example:443/", "[::1]", "a\r\nX-Injected: 1\r\n\r\n", "\x00", "\u2028\u202e", "zürich 東京 🚀",
	"$", "${", "$${", "}", "${data.secret}", "$${data.name}", "${\"a\" + \"b\"}", "}} {{ .Values.x }} {% x %}", `"`, `'`, `\`, `\u0022`, "`", "\" || true || \"",
	"a: b\n- c\n---\nkind: Secret\n", "\"}, {\"kind\": \"Secret\", \"x\": \"", "&anchor *alias !!binary", "null", "true", "14", "1e3", "{}", "[]", "<script>&amp;",
	strings.Repeat("x", 200_000), strings.Repeat("${data.name}/", 20_000), strings.Repeat("{", 200_000),
}

func message(t testing.TB, template string) *rule.Text {
	t.Helper()
	return compile(t, &v1alpha1.NetBoxEventRuleSpec{Actions: []v1alpha1.Action{{Name: "line", Log: &v1alpha1.LogAction{Message: template}}}}).Actions[0].Message
}

func named(t testing.TB, name string) *v1alpha1.NetBoxEvent {
	t.Helper()
	encoded, err := json.Marshal(map[string]any{"name": name, "id": 14, "list": []string{name}, "map": map[string]any{"key": name}})
	if err != nil {
		t.Fatal(err)
	}
	return eventWith(t, string(encoded))
}

func TestText(t *testing.T) {
	event := eventWith(t, `{"name": "leaf1", "id": 14, "float": 14.0, "half": 14.5, "e21": 1e21, "minus": -0.0, "tenth": 0.1, "tiny": 1e-7, "exact": 9007199254740993,
		"max": 9223372036854775807, "min": -9223372036854775808, "yes": true, "nothing": null, "list": [1, 2.0, "a<b>&c", null], "map": {"b": 1, "a": {"c": []}},
		"when": "2020-10-26T18:14:18.764443Z", "address": "192.168.0.1/24", "quotes": "\"'\n\\", "dollar": "${data.name} $${ }"}`)
	for _, test := range []struct {
		reason, template string
		value            any // nil means text
		text             string
		wantErr          string // part of the error, "" for none
	}{
		{reason: "no expression", template: "a } b { c $ d {e}", text: "a } b { c $ d {e}"},
		{reason: "nothing", template: "", text: ""},
		{reason: "escapes", template: "$${data.name} $$${x} a$${", text: "${data.name} $${x} a${"},
		{reason: "a dollar before an expression", template: `${"$"}${data.id} $ ${data.id}$`, text: "$14 $ 14$"},
		{reason: "adjacent expressions", template: "${data.name}${data.id}", text: "leaf114"},
		{reason: "surrounding space", template: "${ data.name\n}", value: "leaf1", text: "leaf1"},
		{reason: "an integer", template: "${data.id}", value: int64(14), text: "14"},
		{reason: "part of a text", template: "id-${data.id}", text: "id-14"},
		{reason: "a whole number with a point", template: "${data.float}", value: 14.0, text: "14"},
		{reason: "a number with a fraction", template: "${data.half}", value: 14.5, text: "14.5"},
		{reason: "a large number", template: "${data.e21}", value: 1e21, text: "1000000000000000000000"},
		{reason: "minus zero", template: "${data.minus}", value: math.Copysign(0, -1), text: "0"},
		{reason: "a tenth", template: "${data.tenth}", value: 0.1, text: "0.1"},
		{reason: "a tiny number", template: "${data.tiny}", value: 1e-7, text: "0.0000001"},
		{reason: "more digits than a float has", template: "${data.exact}", value: int64(9007199254740993), text: "9007199254740993"},
		{reason: "the largest integer", template: "${data.max}", value: int64(math.MaxInt64), text: "9223372036854775807"},
		{reason: "the smallest", template: "${data.min}", value: int64(math.MinInt64), text: "-9223372036854775808"},
		{reason: "arithmetic", template: "${data.id * 2 + 1}", value: int64(29), text: "29"},
		{reason: "unsigned", template: "${14u}", value: int64(14), text: "14"},
		{reason: "too large for JSON in Kubernetes", template: "${18446744073709551615u}", wantErr: "exceeds the largest integer of Kubernetes"},
		{reason: "not a number", template: "${0.0 / 0.0}", wantErr: "NaN"},
		{reason: "infinite", template: "${-1.0 / 0.0}", wantErr: "-Inf"},
		{reason: "a boolean", template: "${data.yes}", value: true, text: "true"},
		{reason: "a comparison", template: "${data.id > 15}", value: false, text: "false"},
		{reason: "a list", template: "${data.list}", value: []any{int64(1), 2.0, "a<b>&c", nil}, text: `[1,2,"a<b>&c",null]`},
		{reason: "a map", template: "${data.map}", value: map[string]any{"b": int64(1), "a": map[string]any{"c": []any{}}}, text: `{"a":{"c":[]},"b":1}`},
		{reason: "a computed list", template: "${data.list.filter(x, x != null).map(x, string(x))}", value: []any{"1", "2", "a<b>&c"}, text: `["1","2","a<b>&c"]`},
		{reason: "a computed map", template: `${{"a": dyn(1), "b": dyn([data.name])}}`, value: map[string]any{"a": int64(1), "b": []any{"leaf1"}}, text: `{"a":1,"b":["leaf1"]}`},
		{reason: "a map with other keys", template: "${{1: 2}}", wantErr: "has the key 1, which is not a string"},
		{reason: "a time", template: "${timestamp(data.when)}", value: "2020-10-26T18:14:18.764443Z", text: "2020-10-26T18:14:18.764443Z"},
		{reason: "the time", template: "${now}", value: "2027-07-28T09:30:00Z", text: "2027-07-28T09:30:00Z"},
		{reason: "a duration", template: `${duration("3690.5s")}`, value: "1h1m30.5s", text: "1h1m30.5s"},
		{reason: "a quantity", template: `${quantity("512Mi").add(quantity("512Mi"))}`, value: "1Gi", text: "1Gi"},
		{reason: "an address", template: "${cidr(data.address).ip()}", value: "192.168.0.1", text: "192.168.0.1"},
		{reason: "a network", template: "${cidr(data.address).masked()}", value: "192.168.0.0/24", text: "192.168.0.0/24"},
		{reason: "a version", template: `${semver("1.2.3-rc.1")}`, value: "1.2.3-rc.1", text: "1.2.3-rc.1"},
		{reason: "a URL", template: `${url("https://h/p?q=1")}`, value: "https://h/p?q=1", text: "https://h/p?q=1"},
		{reason: "bytes", template: `${b"\xff\x00"}`, value: "/wA=", text: "/wA="},
		{reason: "an optional value", template: "${data.?name}", value: "leaf1", text: "leaf1"},
		{reason: "a type", template: "${type(1)}", wantErr: "has no JSON value"},
		{reason: "a default for null", template: `${data.nothing == null ? "none" : data.nothing.slug}`, value: "none", text: "none"},
		{reason: "a missing key", template: "a ${data.nam}", wantErr: "data.nam: no such key; data has "},
		{reason: "special characters", template: "a ${data.quotes}", text: "a \"'\n\\"},
		{reason: "a value is not a template", template: "a ${data.dollar}", text: "a ${data.name} $${ }"},
		{reason: "a brace in a comment", template: "${1 // }\n + 1}", value: int64(2), text: "2"},
		{reason: "quotes and braces in an expression", template: `${"{\"}" + '}' + r"\" + """}"}""" + {"}": "{"}["}"]}!`, text: `{"}}\}"}{!`},
	} {
		t.Run(test.reason, func(t *testing.T) {
			compiled, in := message(t, test.template), rule.NewInput(event, now)
			check := func(got, want any, err error) {
				t.Helper()
				if (err != nil) != (test.wantErr != "") || err != nil && !strings.Contains(err.Error(), test.wantErr) {
					t.Errorf("error is %v, want %q", err, test.wantErr)
				}
				if diff := cmp.Diff(want, got); diff != "" && err == nil {
					t.Errorf("(-want +got):\n%s", diff)
				}
			}
			if test.value == nil {
				test.value = test.text
			}
			value, err := compiled.Value(t.Context(), in)
			check(value, test.value, err)
			text, err := compiled.Text(t.Context(), in)
			check(text, test.text, err)
			message, err := compiled.Message(t.Context(), in)
			check(message, test.text, err)
		})
	}
}

func TestNull(t *testing.T) {
	in := rule.NewInput(eventWith(t, `{"nothing": null}`), now)
	for _, expression := range []string{"data.nothing", "data.?missing", "prechange"} {
		whole, part := message(t, "${"+expression+"}"), message(t, "a ${"+expression+"}")
		if value, err := whole.Value(t.Context(), in); value != nil || err != nil {
			t.Errorf("%s: value is %v, error is %v", expression, value, err)
		}
		if text, err := part.Message(t.Context(), in); text != "a null" || err != nil {
			t.Errorf("%s: message is %q, error is %v", expression, text, err)
		}
		_, valueErr := part.Value(t.Context(), in)
		_, textErr := whole.Text(t.Context(), in)
		for _, err := range []error{valueErr, textErr} {
			if err == nil || !strings.HasPrefix(err.Error(), "${"+expression+"} is null; provide a default, as in ${") {
				t.Errorf("%s: error is %v", expression, err)
			}
		}
	}
}

func TestURL(t *testing.T) {
	event := eventWith(t, `{"name": "leaf 1", "id": 14, "none": null, "empty": "", "dots": "..", "dot": ".", "path": "a/../b", "backslash": "a\\..\\b", "odd": "a/b?c#d&e=f;g@h:i\\j%2Fk", "host": "sink-1.example", "evil": "evil.example/x",
		"port": 8080, "address": "10.0.0.0/8", "list": ["a"]}`)
	for _, test := range []struct {
		reason, template string
		want, wantErr    string
	}{
		{reason: "no expression", template: "https://example.com/a?b=c#d", want: "https://example.com/a?b=c#d"},
		{reason: "values in the path and the query", template: "https://example.com/${data.name}/x-${data.id}?n=${data.name}&i=${data.id}", want: "https://example.com/leaf%201/x-14?n=leaf+1&i=14"},
		{reason: "special characters", template: "https://example.com/${data.odd}?n=${data.odd}", want: "https://example.com/a%2Fb%3Fc%23d&e=f%3Bg@h:i%5Cj%252Fk?n=a%2Fb%3Fc%23d%26e%3Df%3Bg%40h%3Ai%5Cj%252Fk"},
		{reason: "a prefix", template: "https://example.com/${data.address}/", want: "https://example.com/10.0.0.0%2F8/"},
		{reason: "a list", template: "https://example.com/?l=${data.list}", want: "https://example.com/?l=%5B%22a%22%5D"},
		{reason: "a query without a path", template: "https://example.com?n=${data.name}", want: "https://example.com?n=leaf+1"},
		{reason: "a fragment", template: "https://example.com/#${data.name}", want: "https://example.com/#leaf+1"},
		{reason: "an empty value in the query", template: "https://example.com/?n=${data.empty}", want: "https://example.com/?n="},
		{reason: "an empty value in the path", template: "https://example.com/${data.empty}/x", wantErr: "is empty"},
		{reason: "a missing key", template: "https://example.com/${data.non}", wantErr: "no such key"},
		{reason: "a dot segment", template: "https://example.com/${data.dots}/x", wantErr: `has a segment ".."`},
		{reason: "a composed dot segment", template: "https://example.com/a/.${data.dot}/x", wantErr: `has a segment ".."`},
		{reason: "a dot segment for servers that unescape first", template: "https://example.com/%2e${data.dot}/${data.path}", wantErr: `has a segment ".."`},
		{reason: "a dot segment within a value", template: "https://example.com/${data.path}", wantErr: `has a segment ".."`},
		{reason: "a dot segment for servers that treat a backslash as a slash", template: "https://example.com/${data.backslash}", wantErr: `has a segment ".."`},
		{reason: "dots in the query", template: "https://example.com/?p=${data.path}", want: "https://example.com/?p=a%2F..%2Fb"},
		{reason: "a host and a port", template: "http://${data.host}:${data.port}/", want: "http://sink-1.example:8080/"},
		{reason: "a value within a host", template: "https://${data.host}.internal/${data.id}", want: "https://sink-1.example.internal/14"},
		{reason: "a host with a path", template: "https://${data.evil}/", wantErr: "not valid in a host name"},
		{reason: "an empty host", template: "https://${data.empty}.internal/", wantErr: "not valid in a host name"},
		{reason: "an invalid port", template: "https://example.com:${data.host}/", wantErr: "invalid port"},
	} {
		t.Run(test.reason, func(t *testing.T) {
			got, err := target(t, test.template).Text(t.Context(), rule.NewInput(event, now))
			if err == nil && got != test.want || (err != nil) != (test.wantErr != "") || err != nil && !strings.Contains(err.Error(), test.wantErr) {
				t.Errorf("URL is %s, error is %v; want %s, %q", got, err, test.want, test.wantErr)
			}
		})
	}
}

func target(t testing.TB, template string) *rule.URL {
	t.Helper()
	action := v1alpha1.Action{Name: "announce", HTTP: &v1alpha1.HTTPAction{URL: template}}
	return compile(t, &v1alpha1.NetBoxEventRuleSpec{Actions: []v1alpha1.Action{action}}).Actions[0].URL
}

// shape is the structure of a URL, which values must not change.
type shape struct {
	scheme, user, host string
	segments           int
	keys               []string
}

// shapeOf parses a URL strictly.
func shapeOf(t testing.TB, text string) shape {
	t.Helper()
	parsed, err := url.Parse(text)
	if err != nil {
		t.Fatalf("%.200q: %v", text, err)
	}
	query, err := url.ParseQuery(parsed.RawQuery)
	if err != nil {
		t.Fatalf("%.200q: %v", text, err)
	}
	keys := []string{}
	for key, values := range query {
		for range values {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	segments := strings.Split(parsed.EscapedPath(), "/")
	for i, segment := range segments {
		unescaped, err := url.PathUnescape(segment)
		if err != nil || segment == "" && i > 0 || unescaped == "." || unescaped == ".." || strings.ContainsAny(segment, `\;`) {
			t.Fatalf("%.200q has a segment %.200q", text, segment)
		}
	}
	return shape{parsed.Scheme, parsed.User.String(), parsed.Host, len(segments), keys}
}

// urls are templates with expressions in every component.
var urls = []string{
	"https://hooks.example.com:8443/a/${data.name}/b?x=1",
	"https://hooks.example.com/pre-${data.name}",
	"http://hooks.example.com/x/${data.name}-post/${data.id}?x=${data.name}&y=${data.id}&z=a${data.name}b#${data.name}",
	"https://${data.name}.example.com/a",
	"https://a${data.name}/a?x=${data.name}",
}

// urlCheck compares the URL for a name with the URL for a harmless name.
type urlCheck struct {
	template string
	compiled *rule.URL
	harmless shape
}

func urlChecks(t testing.TB) []urlCheck {
	t.Helper()
	var checks []urlCheck
	for _, template := range urls {
		check := urlCheck{template: template, compiled: target(t, template)}
		rendered, err := check.compiled.Text(t.Context(), rule.NewInput(named(t, "harmless"), now))
		if err != nil {
			t.Fatal(err)
		}
		check.harmless = shapeOf(t, rendered)
		checks = append(checks, check)
	}
	return checks
}

// check reports whether the URL renders for a name. It fails if its structure differs from that for a harmless name.
func (c urlCheck) check(t testing.TB, name string) bool {
	t.Helper()
	rendered, err := c.compiled.Text(t.Context(), rule.NewInput(named(t, name), now))
	if err != nil {
		if len(err.Error()) > 1000 {
			t.Errorf("%s with %.50q: an error of %d bytes", c.template, name, len(err.Error()))
		}
		return false
	}
	want := c.harmless
	want.host = strings.Replace(want.host, "harmless", name, 1) // in templates with an expression in the host
	if got := shapeOf(t, rendered); !reflect.DeepEqual(got, want) {
		t.Errorf("%s with %.200q: %+v, want %+v", c.template, name, got, want)
	}
	if strings.Contains(c.template, "?x=${data.name}") {
		if parsed, err := url.Parse(rendered); err != nil || parsed.Query().Get("x") != name {
			t.Errorf("%s with %.200q: x is %.200q", c.template, name, parsed.Query().Get("x"))
		}
	}
	return true
}

// objectCheck compares the Job for a name with the Job for a harmless name.
type objectCheck struct {
	compiled rule.Object
	harmless map[string]any
}

func newObjectCheck(t testing.TB) objectCheck {
	t.Helper()
	action := v1alpha1.Action{Name: "job", Apply: &v1alpha1.ApplyAction{}}
	if err := json.Unmarshal([]byte(`{"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "provision-${data.name}", "labels": {"name": "${data.name}"}},
		"spec": {"parallelism": "${data.id}", "args": ["--name=${data.name}", "${data.name}", "$${data.name}", "${data.list}", "${data.map}"]}, "json": "${data.list} "}`),
		&action.Apply.Template); err != nil {
		t.Fatal(err)
	}
	check := objectCheck{compiled: compile(t, &v1alpha1.NetBoxEventRuleSpec{Actions: []v1alpha1.Action{action}}).Actions[0].Objects[0]}
	check.harmless = check.render(t, "harmless")
	return check
}

func (c objectCheck) render(t testing.TB, name string) map[string]any {
	t.Helper()
	object, _, err := c.compiled.Render(t.Context(), rule.NewInput(named(t, name), now))
	if err != nil {
		t.Fatal(err)
	}
	return object
}

func (c objectCheck) check(t testing.TB, name string) {
	t.Helper()
	var want func(value any) any // replaces the harmless name in an object
	want = func(value any) any {
		switch value := value.(type) {
		case string:
			return strings.Replace(value, "harmless", name, 1)
		case []any:
			replaced := make([]any, len(value))
			for i := range value {
				replaced[i] = want(value[i])
			}
			return replaced
		case map[string]any:
			replaced := map[string]any{}
			for key := range value {
				replaced[key] = want(value[key])
			}
			return replaced
		default:
			return value
		}
	}
	got := c.render(t, name)
	if diff := cmp.Diff(want(c.harmless), any(got), cmp.FilterPath(func(path cmp.Path) bool {
		return path.Last().String() == `["json"]`
	}, cmp.Ignore())); diff != "" {
		t.Errorf("with %.200q (-want +got):\n%.2000s", name, diff)
	}
	var names []string
	if err := json.Unmarshal([]byte(got["json"].(string)), &names); err != nil || !slices.Equal(names, []string{name}) {
		t.Errorf("with %.200q: the list in a text is %.200v, error is %v", name, names, err)
	}
}

func TestHostile(t *testing.T) {
	object, targets, text := newObjectCheck(t), urlChecks(t), message(t, "<${data.name}>")
	for _, name := range hostile {
		object.check(t, name)
		for _, target := range targets {
			if rendered := target.check(t, name); !rendered && target.template == urls[2] && name != "" && !strings.Contains(name, ".") {
				t.Errorf("%s: an error with %.200q", target.template, name)
			}
		}
		if got, err := text.Text(t.Context(), rule.NewInput(named(t, name), now)); err != nil || got != "<"+name+">" {
			t.Errorf("with %.200q: %.200q, error is %v", name, got, err)
		}
	}
}

func TestObject(t *testing.T) {
	action := v1alpha1.Action{Name: "many", Apply: &v1alpha1.ApplyAction{}}
	if err := json.Unmarshal([]byte(`{"apiVersion": "v1", "kind": "List", "items": [
		{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a-${data.name}"}, "data": {"id": "${string(data.id)}", "text": "$${HOME} ${data.id}"}, "immutable": true},
		{"apiVersion": "example.com/v1", "kind": "Site", "spec": {"id": "${data.id}", "height": "${data.height}", "tenant": "${data.tenant}", "tags": "${data.tags}", "custom": "${data.custom}",
			"fixed": [1, 1.5, null, true, {"a": []}], "first": "${data.tags[0].slug}", "now": "${now}"}}]}`), &action.Apply.Template); err != nil {
		t.Fatal(err)
	}
	compiled := compile(t, &v1alpha1.NetBoxEventRuleSpec{Actions: []v1alpha1.Action{action}}).Actions[0].Objects
	in := rule.NewInput(eventWith(t, `{"name": "leaf1", "id": 14, "height": 1.0, "tenant": null, "tags": [{"slug": "a", "id": 1}], "custom": {"mtu": 9000}}`), now)
	want := []map[string]any{
		{
			"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "a-leaf1"}, "immutable": true,
			"data": map[string]any{"id": "14", "text": "${HOME} 14"},
		},
		{"apiVersion": "example.com/v1", "kind": "Site", "spec": map[string]any{
			"id": int64(14), "height": 1.0, "tenant": nil, "tags": []any{map[string]any{"slug": "a", "id": int64(1)}}, "custom": map[string]any{"mtu": int64(9000)},
			"fixed": []any{int64(1), 1.5, nil, true, map[string]any{"a": []any{}}}, "first": "a", "now": "2027-07-28T09:30:00Z",
		}},
	}
	if len(compiled) != len(want) {
		t.Fatalf("%d objects", len(compiled))
	}
	for i := range want {
		for range 2 { // changes of a rendered object do not affect the template
			got, _, err := compiled[i].Render(t.Context(), in)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want[i], got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			spec, ok := got["spec"].(map[string]any)
			if ok {
				spec["fixed"].([]any)[4].(map[string]any)["a"] = "changed"
				spec["custom"].(map[string]any)["mtu"] = "changed"
			}
		}
	}

	_, _, err := compiled[1].Render(t.Context(), rule.NewInput(eventWith(t, `{"id": 1, "height": 1, "tenant": 1, "tags": [{}], "custom": 1}`), now))
	if err == nil || err.Error() != `template.spec.first: data.tags[0].slug: no such key; data.tags[0] has no keys in "data.tags[0].slug"` {
		t.Errorf("error is %v", err)
	}
}
