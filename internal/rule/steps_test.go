package rule_test

import (
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/rule"
)

// TestSteps checks what the steps of a rule may depend on, and which variables their expressions have.
func TestSteps(t *testing.T) {
	for _, test := range []struct {
		reason, spec string
		want         string // the error, or its beginning
	}{
		{"a result", `{actions: [{name: a, log: {message: x}}, {name: b, dependsOn: [a], log: {message: "${results.a.response.status}"}}]}`, ""},
		{
			"the result of an action that another depends on",
			`{actions: [{name: a, log: {message: x}}, {name: b, dependsOn: [a], log: {message: x}}, {name: c, dependsOn: [b], when: results.a.object.a == 1, log: {message: x}}]}`, "",
		},
		{
			"a result on failure",
			`{actions: [{name: a, log: {message: x}}], onFailure: [{name: b, log: {message: x}}, {name: c, dependsOn: [b], log: {message: "${results.b} ${failure.action} ${failure.error} ${failure.attempts}"}}]}`, "",
		},

		{
			"an unknown action", `{actions: [{name: a, log: {message: x}}, {name: b, dependsOn: [c], log: {message: x}}]}`,
			`spec.actions[b].dependsOn: there is no action "c" before it in the list`,
		},
		{
			"a later action", `{actions: [{name: a, dependsOn: [b], log: {message: x}}, {name: b, log: {message: x}}]}`,
			`spec.actions[a].dependsOn: there is no action "b" before it in the list`,
		},
		{"itself", `{actions: [{name: a, dependsOn: [a], log: {message: x}}]}`, `spec.actions[a].dependsOn: there is no action "a" before it in the list`},
		{
			"an action of the other list", `{actions: [{name: a, log: {message: x}}], onFailure: [{name: b, dependsOn: [a], log: {message: x}}]}`,
			`spec.onFailure[b].dependsOn: there is no action "a" before it in the list`,
		},
		{
			"a result without waiting for it", `{actions: [{name: a, log: {message: x}}, {name: b, log: {message: "${results.a.response.body.id}"}}]}`,
			"spec.actions[b].log.message: ${results.a.response.body.id}: results.a: add a to the dependsOn of action b, which has to wait for the result",
		},
		{
			"a result of no action by name", `{actions: [{name: a, log: {message: x}}, {name: b, dependsOn: [a], log: {message: "${results}"}}]}`,
			"spec.actions[b].log.message: ${results}: results must be followed by the name of an action, as in results.create",
		},
		{
			"a result of the other list", `{actions: [{name: a, log: {message: x}}], onFailure: [{name: b, log: {message: "${results.a.response.status}"}}]}`,
			`spec.onFailure[b].log.message: ${results.a.response.status}: results.a: there is no action "a" before it in the list`,
		},
		{"its own result", `{actions: [{name: a, log: {message: "${results.a}"}}]}`, `spec.actions[a].log.message: ${results.a}: results.a: there is no action "a" before it`},
		{
			"the failure before there is one", `{actions: [{name: a, log: {message: "${failure.error}"}}]}`,
			"spec.actions[a].log.message: ${failure.error}: 1:1: undeclared reference to 'failure'",
		},
		{
			"a misspelt field of the failure", `{actions: [{name: a, log: {message: x}}], onFailure: [{name: b, when: failure.reason == "", log: {message: x}}]}`,
			"spec.onFailure[b].when: 1:8: undefined field 'reason'",
		},
		{"a text as a condition", `{actions: [{name: a, when: event.objectID, log: {message: x}}]}`, "spec.actions[a].when: 1:1: must be bool, is string"},
		{
			"a Secret in a condition", `{secrets: [{name: token, secretKeyRef: {name: s, key: k}}], actions: [{name: a, when: secrets.token != "", http: {url: "https://a"}}]}`,
			"spec.actions[a].when: 1:1: undeclared reference to 'secrets'",
		},
		{"a response before there is one", `{actions: [{name: a, when: response.status == 200, http: {url: "https://a"}}]}`, "spec.actions[a].when: 1:1: undeclared reference to 'response'"},
		{
			"lookups", `{lookups: [{name: d, path: "/api/dcim/devices/${data.id}/?a=${event.objectName}"}, {name: q, graphql: {query: "{a}", variables: {id: ["${data.id}"]}}}], ` +
				`actions: [{name: a, when: 'lookups.d.name == lookups["q"].b', log: {message: "${lookups.?d.?x.orValue(1)}"}}]}`, "",
		},
		{
			"a lookup that there is not", `{lookups: [{name: d, path: /api/a/}], actions: [{name: a, log: {message: "${lookups.e.name}"}}]}`,
			"spec.actions[a].log.message: ${lookups.e.name}: lookups.e is not declared; add it to spec.lookups, which has [d]",
		},
		{
			"all lookups", `{lookups: [{name: d, path: /api/a/}], actions: [{name: a, log: {message: "${lookups}"}}]}`,
			"spec.actions[a].log.message: ${lookups}: lookups must be followed by the name of one, as in lookups.device",
		},
		{"no lookups", `{actions: [{name: a, when: lookups.d == 1, log: {message: x}}]}`, "spec.actions[a].when: 1:1: undeclared reference to 'lookups'"},
		{
			"a lookup before the lookups", `{match: {cel: lookups.d == 1}, lookups: [{name: d, path: /api/a/}], actions: [{name: a, log: {message: x}}]}`,
			"spec.match.cel: 1:1: undeclared reference to 'lookups'",
		},
		{
			"a path of another NetBox", `{lookups: [{name: d, path: "//evil/api/"}], actions: [{name: a, log: {message: x}}]}`,
			"spec.lookups[d].path: must begin with /api/",
		},
		{
			"a path that leaves the API", `{lookups: [{name: d, path: "/api/../admin/"}], actions: [{name: a, log: {message: x}}]}`,
			`spec.lookups[d].path: the path "/api/../admin/" has a segment "..", which is not allowed`,
		},
		{
			"a broken variable", `{lookups: [{name: d, graphql: {query: "{a}", variables: {id: "${data.}"}}}], actions: [{name: a, log: {message: x}}]}`,
			"spec.lookups[d].graphql.variables.id: ${data.}: 1:6: Syntax error",
		},
		{"a key of results", `{limit: {concurrency: 1, key: results.a}, actions: [{name: a, log: {message: x}}]}`, "spec.limit.key: 1:1: undeclared reference to 'results'"},
	} {
		t.Run(test.reason, func(t *testing.T) {
			var spec v1alpha1.NetBoxEventRuleSpec
			if err := yaml.UnmarshalStrict([]byte(test.spec), &spec); err != nil {
				t.Fatal(err)
			}
			_, err := rule.Compile(&spec)
			if (err == nil) != (test.want == "") || err != nil && (!strings.HasPrefix(err.Error(), test.want) || strings.Contains(err.Error(), "\n")) {
				t.Errorf("error is\n%v\nwant\n%s", err, test.want)
			}
		})
	}
}
