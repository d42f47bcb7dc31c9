package action_test

import (
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/rule"
)

// httpAction decodes an http action.
func httpAction(t *testing.T, text string) v1alpha1.Action {
	t.Helper()
	var spec v1alpha1.HTTPAction
	if err := yaml.UnmarshalStrict([]byte(text), &spec); err != nil {
		t.Fatal(err)
	}
	return v1alpha1.Action{Name: "do", HTTP: &spec}
}

// TestBodies checks the requests that a server gets.
func TestBodies(t *testing.T) {
	to, runner, namespace := newSink(t), newRunner(t), plane.Namespace(t)
	const hostileName = `"}&a=b` + "\r\n" + `<é> ${data.id}`
	for _, test := range []struct {
		reason, action, name string
		method, contentType  string
		body                 string
	}{
		{
			"Slack", `{body: {json: {text: "${data.name} is updated, says ${event.username}"}}}`, "leaf1",
			"POST", "application/json", `{"text":"leaf1 is updated, says admin"}`,
		},
		{
			"types of JSON", `{body: {json: [{id: "${data.id}", text: "device ${data.id}", none: "${data.tenant}", data: "${[data.id]}", a: 1.5, b: true}]}}`, "leaf1",
			"POST", "application/json", `[{"a":1.5,"b":true,"data":[14],"id":14,"none":null,"text":"device 14"}]`,
		},
		{"JSON that is text", `{body: {json: "${data.name}"}}`, "leaf1", "POST", "application/json", `"leaf1"`},
		{"a hostile name in JSON", `{body: {json: {a: "${data.name}"}}}`, hostileName, "POST", "application/json", `{"a":"\"}&a=b\r\n<é> ${data.id}"}`},
		{
			"JSON of another type", `{body: {json: {}}, method: PATCH, headers: [{name: content-type, value: application/merge-patch+json}]}`, "leaf1",
			"PATCH", "application/merge-patch+json", `{}`,
		},
		{
			"a form", `{body: {form: {"ref": main, "variables[SITE]": "${data.name}", id: "${data.id}"}}}`, "a b&c",
			"POST", "application/x-www-form-urlencoded", "id=14&ref=main&variables%5BSITE%5D=a+b%26c",
		},
		{
			"a hostile name in a form", `{body: {form: {a: "${data.name}"}}}`, hostileName,
			"POST", "application/x-www-form-urlencoded", "a=%22%7D%26a%3Db%0D%0A%3C%C3%A9%3E+%24%7Bdata.id%7D",
		},
		{"a text", `{body: {text: "${data.name} is active"}}`, "leaf1", "POST", "text/plain; charset=utf-8", "leaf1 is active"},
		{"a text of a type", `{body: {text: "id,name\n${data.id},${data.name}\n", contentType: text/csv}, method: PUT}`, "leaf1", "PUT", "text/csv", "id,name\n14,leaf1\n"},
		{"no body", `{method: GET}`, "leaf1", "GET", "", ""},
	} {
		t.Run(test.reason, func(t *testing.T) {
			spec := httpAction(t, test.action)
			spec.HTTP.URL = to.URL
			if _, err := do(t, runner, newTask(t, device(t, namespace, test.name), spec)); err != nil {
				t.Fatal(err)
			}
			if to.request.Method != test.method || to.request.Header.Get("Content-Type") != test.contentType || string(to.body) != test.body {
				t.Errorf("got %s of %q: %s", to.request.Method, to.request.Header.Get("Content-Type"), to.body)
			}
		})
	}
	for template, text := range map[string]string{
		`{json: {a: [{b: "${data.site.slug}"}]}}`: "body.json.a[0].b: data.site: no such key",
		`{text: "${data.tenant}"}`:                "body.text: ${data.tenant} is null",
		`{form: {a: "${data.tenant}"}}`:           "body.form[a]: ${data.tenant} is null",
	} {
		to.request = nil
		spec := httpAction(t, `{body: `+template+`}`)
		spec.HTTP.URL = to.URL
		_, err := do(t, runner, newTask(t, device(t, namespace, "leaf1"), spec))
		expect(t, err, permanent, text)
		if to.request != nil {
			t.Errorf("%s: sent", template)
		}
	}
}

// TestContentType checks that a Content-Type which contradicts the body is refused.
func TestContentType(t *testing.T) {
	const path = "spec.actions[do].http."
	header := func(value string) string { return `headers: [{name: Content-Type, value: "` + value + `"}]` }
	for text, want := range map[string]string{
		`{format: NetBox, ` + header("application/x-www-form-urlencoded") + `}`:                      path + "headers[Content-Type]: is application/x-www-form-urlencoded, but the body is JSON",
		`{` + header("text/plain") + `}`:                                                             path + "headers[Content-Type]: is text/plain, but the body is JSON",
		`{format: CloudEventBinary, ` + header("application/xml") + `}`:                              path + "headers[Content-Type]: is application/xml, but the body is JSON",
		`{body: {json: {}}, ` + header("text/plain") + `}`:                                           path + "headers[Content-Type]: is text/plain, but the body is JSON",
		`{body: {form: {a: b}}, ` + header("application/json") + `}`:                                 path + "headers[Content-Type]: is application/json, but the body is a form",
		`{body: {text: a}, ` + header("text/csv") + `}`:                                              path + "headers[Content-Type]: remove the header, and set body.contentType",
		`{method: GET, ` + header("application/json") + `}`:                                          path + "headers[Content-Type]: a GET request has no body",
		`{body: {json: {}}, ` + header("${data.type}") + `}`:                                         path + "headers[Content-Type]: must be a media type",
		`{body: {text: a, contentType: "${data.type}"}}`:                                             path + "body.contentType: must be a media type",
		`{body: {text: a, json: {}}}`:                                                                path + "body: must have exactly one",
		`{body: {json: {}}, ` + header("Application/JSON; charset=utf-8") + `}`:                      "",
		`{` + header("application/json") + `}`:                                                       "",
		`{body: {form: {a: b}}, ` + header("application/x-www-form-urlencoded; charset=utf-8") + `}`: "",
	} {
		spec := httpAction(t, text)
		spec.HTTP.URL = "https://example.com"
		_, err := rule.Compile(&v1alpha1.NetBoxEventRuleSpec{Actions: []v1alpha1.Action{spec}})
		if (err == nil) != (want == "") || err != nil && !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
