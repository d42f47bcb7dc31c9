package cli_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/netbox-events/netbox-event-operator/internal/cli"
	"github.com/netbox-events/netbox-event-operator/test/controlplane"
)

var plane *controlplane.ControlPlane

func TestMain(m *testing.M) { controlplane.Main(m, &plane) }

// result is what a command did.
type result struct {
	code        int
	out, errOut string
}

// run runs kubectl netbox.
func run(ctx context.Context, args ...string) result {
	var out, errOut bytes.Buffer
	code := cli.Run(ctx, args, genericiooptions.IOStreams{In: strings.NewReader(""), Out: &out, ErrOut: &errOut})
	return result{code, out.String(), errOut.String()}
}

// check compares a result. The outputs need to contain texts; an empty text means that there is no output.
func (r result) check(t *testing.T, code int, out, errOut string) {
	t.Helper()
	if r.code != code || !contains(r.out, out) || !contains(r.errOut, errOut) {
		t.Errorf("exit code %d, want %d\n%s\nwant %q\n%s\nwant %q", r.code, code, r.out, out, r.errOut, errOut)
	}
}

func contains(text, want string) bool {
	if want == "" {
		return text == ""
	}
	return strings.Contains(text, want)
}

// samples is the directory of the sample rules.
func samples(t *testing.T) string {
	t.Helper()
	directory, err := filepath.Abs("../../config/samples")
	if err != nil {
		t.Fatal(err)
	}
	return directory
}

// writeFile writes a file into a directory.
func writeFile(t *testing.T, directory, name, content string) string {
	t.Helper()
	path := filepath.Join(directory, name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const (
	testHead = "apiVersion: cli.netbox-events.io/v1alpha1\nkind: RuleTest\n"
	body     = `{event: created, timestamp: "2026-11-23T19:05:00+00:00", object_type: dcim.site, data: {id: 1, name: "a"}}`
	lineRule = `---
apiVersion: netbox-events.io/v1alpha1
kind: NetBoxEventRule
metadata: {name: line, namespace: netbox}
spec: {match: {events: [created]}, actions: [{name: line, log: {message: "${data.name} at ${now}"}}]}
`
)

// TestWrongFiles expects that a wrong file is an error that says what to do, and that its tests are not run.
func TestWrongFiles(t *testing.T) {
	for reason, test := range map[string]struct{ content, errOut string }{
		"a typing error": {
			testHead + "tests:\n- name: a\n  events: [a.json]\n  expect:\n  - rule: line\n    macthed: true\n" + lineRule,
			`tests.yaml:8: unknown field "tests[0].expect[0].macthed"`,
		},
		"no test":            {testHead + lineRule, "tests.yaml:1: tests: there is no test; add one"},
		"no expectation":     {testHead + "tests: [{name: a, events: [a]}]\n" + lineRule, "tests.yaml:3: tests[0]: expects nothing; add expect: [{rule: NAME}]"},
		"no match of a glob": {testHead + "rules: [rules/*.yaml]\ntests: [{name: a, events: [a], expect: [{rule: a}]}]\n", "no file matches rules/*.yaml; patterns are relative"},
		"no rules":           {testHead + "tests: [{name: a, events: [a], expect: [{rule: a}]}]\n", "names no rules; add rules: [PATTERN]"},
		"an unknown rule": {
			testHead + "tests: [{name: a, events: [" + body + "], expect: [{rule: lime}]}]\n" + lineRule,
			`test "a": expect[0]: there is no rule "lime"; there are line`,
		},
		"an unknown action": {
			testHead + "tests: [{name: a, events: [" + body + "], expect: [{rule: line, actions: [{name: lime}]}]}]\n" + lineRule,
			`rule line has no action "lime"; it has line`,
		},
		"an unknown event": {
			testHead + "tests: [{name: a, events: [" + body + "], expect: [{rule: line, event: b.json}]}]\n" + lineRule,
			"event: b.json is not one of the test's events",
		},
		"a missing event":        {testHead + "tests: [{name: a, events: [b.json], expect: [{rule: line}]}]\n" + lineRule, "b.json: no such file or directory"},
		"an event that is none":  {testHead + "tests: [{name: a, events: [{a: b}], expect: [{rule: line}]}]\n" + lineRule, "events[0]: is no event: data: is missing"},
		"an object of this kind": {testHead + "tests: [{name: a, events: [tests.yaml], expect: [{rule: line}]}]\n" + lineRule, "tests.yaml: is no event; it must be"},
		"an invalid rule": {
			testHead + "tests: [{name: a, events: [" + body + "], expect: [{rule: line}]}]\n" + strings.Replace(lineRule, "data.name", "dat.name", 1),
			"rule line: spec.actions[line].log.message: ${dat.name}: 1:1: undeclared reference to 'dat'",
		},
		"a rule that the API server refuses": {
			testHead + "tests: [{name: a, events: [" + body + "], expect: [{rule: line}]}]\n" + lineRule + "  \n---\n" +
				strings.Replace(lineRule[4:], "events: [created]", "events: []", 1),
			"spec.match.events: Invalid value: 0: spec.match.events in body should have at least 1 items",
		},
		"an invalid accept": {
			testHead + "source: {accept: {cel: a}}\ntests: [{name: a, events: [" + body + "], expect: [{rule: line}]}]\n" + lineRule,
			"source: spec.accept.cel: 1:1: undeclared reference to 'a'",
		},
		"another version": {strings.Replace(testHead, "v1alpha1", "v9", 1) + "tests: []\n", `apiVersion is "cli.netbox-events.io/v9"; this version of kubectl netbox knows`},
		"another kind":    {lineRule, "has no RuleTest; name a file with one"},
		"two kinds":       {testHead + "---\n" + testHead, "has several documents of the kind RuleTest; put all tests into one"},
	} {
		t.Run(reason, func(t *testing.T) {
			got := run(t.Context(), "test", writeFile(t, t.TempDir(), "tests.yaml", test.content))
			got.check(t, 2, "0 passed, 0 failed", test.errOut)
			if !strings.HasPrefix(got.errOut, "error: ") {
				t.Errorf("does not begin with error: %s", got.errOut)
			}
		})
	}
}

// TestMissingEvent has two tests of an event that is not there: both say so.
func TestMissingEvent(t *testing.T) {
	const missing = "{name: a, events: [b.json], expect: [{rule: line}]}"
	content := testHead + "tests: [" + missing + ", " + missing + "]\n" + lineRule
	got := run(t.Context(), "test", writeFile(t, t.TempDir(), "tests.yaml", content))
	if count := strings.Count(got.errOut, "b.json: no such file or directory"); count != 2 {
		t.Errorf("found %d times in %s", count, got.errOut)
	}
}

// TestExpectations runs tests that pass, and some that fail.
func TestExpectations(t *testing.T) {
	const rules = lineRule + `---
apiVersion: netbox-events.io/v1alpha1
kind: NetBoxEventRule
metadata: {name: ask}
spec:
  lookups: [{name: site, path: "/api/dcim/sites/${data.id}/"}]
  secrets: [{name: url, secretKeyRef: {name: sink, key: url}}, {name: token, secretKeyRef: {name: sink, key: token}}]
  actions:
  - {name: first, when: lookups.site.status == "active", http: {url: "${secrets.url}/a", headers: [{name: X-Token, value: "${secrets.token}"}], body: {form: {a: "${lookups.site.id}"}}}}
  - {name: second, dependsOn: [first], log: {message: "${results.first.response.body.id}"}}
---
apiVersion: netbox-events.io/v1alpha1
kind: NetBoxEventRule
metadata: {name: sites}
spec:
  group: {by: data.name, net: true}
  actions: [{name: send, http: {url: "https://sink.example.com/${group.id}", format: CloudEventBatch}}]
---
apiVersion: netbox-events.io/v1alpha1
kind: NetBoxEventRule
metadata: {name: failing}
spec: {match: {cel: data.none == 1}, actions: [{name: line, log: {message: a}}]}
`
	const other = `{event: deleted, timestamp: "2026-11-23T19:06:00+00:00", object_type: dcim.site, data: {id: 1, name: "a", password: secret1}, snapshots: {prechange: {a: 1}}}`
	for reason, test := range map[string]struct {
		settings, test string
		code           int
		out            string
	}{
		"now":                  {"now: 2026-11-23T20:00:00Z", `expect: [{rule: line, actions: [{name: line, message: "a at 2026-11-23T20:00:00Z"}]}]`, 0, "1 passed"},
		"the time of events":   {"", `expect: [{rule: line, actions: [{name: line, message: "a at 2026-11-23T19:05:00Z"}]}]`, 0, "1 passed"},
		"a wrong message":      {"", `expect: [{rule: line, actions: [{name: line, message: b}]}]`, 1, "-- message: b"},
		"a match":              {"", `expect: [{rule: line, matched: false}]`, 1, "-matched: false\n        +matched: true"},
		"accept":               {"source: {accept: {events: [deleted]}}", `expect: [{rule: line, matched: false}]`, 0, "1 passed"},
		"what accept ignores":  {"source: {accept: {events: [deleted]}}", `expect: [{rule: line}]`, 1, "source.accept leaves out the event"},
		"another source":       {"source: {name: other}", `expect: [{rule: line}]`, 0, "1 passed"},
		"an error":             {"", `expect: [{rule: failing, error: "data.none: no such key"}]`, 0, "1 passed"},
		"an unexpected error":  {"", `expect: [{rule: failing, matched: false}]`, 1, "+error: 'data.none: no such key"},
		"lookups":              {"", `lookups: {site: {id: 7, status: active}}, expect: [{rule: ask, lookups: [{name: site, path: /api/dcim/sites/1/}], actions: [{name: first, request: {url: "https://secret-url/a", headers: {X-Token: secret-token, X-Other: null}, body: {a: "7"}}}]}]`, 0, "1 passed"},
		"secrets":              {"", `secrets: {url: "http://a/b"}, lookups: {site: {id: 7, status: active}}, expect: [{rule: ask, actions: [{name: first, request: {url: "http://a/b/a", body: {b: null}}}]}]`, 0, "1 passed"},
		"a skipped action":     {"", `lookups: {site: {id: 7, status: planned}}, expect: [{rule: ask, actions: [{name: first, skipped: when is false}, {name: second, skipped: first was skipped}]}]`, 0, "1 passed"},
		"an unexpected skip":   {"", `lookups: {site: {id: 7, status: planned}}, expect: [{rule: ask, actions: [{name: first}]}]`, 1, "+  skipped: when is false"},
		"no answer":            {"", `expect: [{rule: ask, actions: [{name: first}]}]`, 1, "the answer of NetBox is not given; add it to lookups of the"},
		"results":              {"", `lookups: {site: {id: 7, status: active}}, results: {first: {response: {body: {id: 9}}}}, expect: [{rule: ask, actions: [{name: second, message: "9"}]}]`, 0, "1 passed"},
		"no results":           {"", `lookups: {site: {id: 7, status: active}}, expect: [{rule: ask, actions: [{name: second, error: no result of first is given}]}]`, 0, "1 passed"},
		"a group":              {"", `events: [` + body + `, ` + strings.Replace(body, "created", "updated", 1) + `], expect: [{rule: sites, actions: [{name: send, request: {headers: {Content-Type: application/cloudevents-batch+json}, body: [{subject: dcim.site/1}, {}]}}]}]`, 0, "1 passed"},
		"a group of too many":  {"", `events: [` + body + `, ` + body + `], expect: [{rule: sites, actions: [{name: send, request: {body: [{}]}}]}]`, 1, "+    - data:"},
		"a group for nothing":  {"", `events: [` + body + `, ` + other + `], expect: [{rule: sites, actions: [{name: send, skipped: come to nothing}]}]`, 0, "1 passed"},
		"two deliveries":       {"", `events: [` + body + `, ` + body + `], expect: [{rule: line}]`, 1, "the rule acts 2 times on the events; add event: FILE"},
		"redacted":             {"", `events: [` + other + `], expect: [{rule: sites, actions: [{name: send, request: {body: [{data: {data: {password: "[redacted]"}}}]}}]}]`, 0, "1 passed"},
		"redacted by settings": {"source: {redact: [name]}", `events: [` + other + `], expect: [{rule: sites, actions: [{name: send, request: {body: [{data: {data: {name: "[redacted]", password: secret1}}}]}}]}]`, 0, "1 passed"},
	} {
		t.Run(reason, func(t *testing.T) {
			if !strings.HasPrefix(test.test, "events: ") {
				test.test = "events: [" + body + "], " + test.test
			}
			content := testHead + test.settings + "\ntests: [{name: a, " + test.test + "}]\n" + rules
			run(t.Context(), "test", writeFile(t, t.TempDir(), "tests.yaml", content)).check(t, test.code, test.out, "")
		})
	}
}

// TestFormats checks the outputs for programs, and the exit codes.
func TestFormats(t *testing.T) {
	directory := t.TempDir()
	writeFile(t, directory, "good.yaml", testHead+"tests: [{name: one, events: ["+body+"], expect: [{rule: line}]}]\n"+lineRule)
	run(t.Context(), "test", directory).check(t, 0, "good.yaml\n  pass  one\n1 passed, 0 failed\n", "")
	writeFile(t, directory, "other.yaml", testHead+"tests: [{name: two, events: ["+body+"], expect: [{rule: line, matched: false}]}]\n"+lineRule)
	run(t.Context(), "test", directory, "-o", "json").check(t, 1, `"diff": "--- expected\n+++ rendered\n@@ -1 +1 @@\n-matched: false\n+matched: true\n"`, "")
	run(t.Context(), "test", directory, "-o", "junit").check(t, 1, `<testsuites tests="2" failures="1" errors="0">`, "")
	writeFile(t, directory, "wrong.yaml", testHead+"tests: []\n")
	run(t.Context(), "test", directory, "-o", "junit").check(t, 2, `<testsuites tests="3" failures="1" errors="1">`, "wrong.yaml:3: tests: there is no test; add one\n")
	run(t.Context(), "test", directory, "-o", "xml").check(t, 2, "", `error: invalid argument "xml" for "-o, --output" flag: use json or junit; see kubectl netbox test --help`)
	run(t.Context(), "test", t.TempDir()).check(t, 2, "", "has no file of the kind RuleTest; name one\n")
	run(t.Context(), "unknown").check(t, 2, "", `error: unknown command "unknown" for "kubectl netbox"; see kubectl netbox --help`)
	run(t.Context(), "version", "--client").check(t, 0, "kubectl-netbox ", "")
	run(t.Context(), "completion").check(t, 0, `exec kubectl netbox __complete "$@"`, "")
}

// TestWarnings expects a warning about a rule that fits no event.
func TestWarnings(t *testing.T) {
	content := testHead + "tests: [{name: a, events: [" + body + "], expect: [{rule: line, matched: false}]}]\n" +
		strings.Replace(lineRule, "[created]", "[create]", 1)
	run(t.Context(), "test", writeFile(t, t.TempDir(), "tests.yaml", content)).check(t, 0, "1 passed",
		`rule line: spec.match.events: no webhook of NetBox has the event "create"; write "created"`)
}

// TestRenderFiles renders rules of files on events of files.
func TestRenderFiles(t *testing.T) {
	directory := samples(t)
	event := filepath.Join(directory, "tests/events/device-deleted.json")
	steps := filepath.Join(directory, "rule_steps.yaml")
	result := writeFile(t, t.TempDir(), "result.yaml", "response: {body: {id: 7}}\n")
	run(t.Context(), "render", filepath.Join(directory, "rule_deletions.yaml"), event).check(t, 0, "message: device leaf1 was deleted by admin\n", "")
	run(t.Context(), "render", filepath.Join(directory, "rule_provision.yaml"), event, "-o", "json").check(t, 0, `"matched": false`, "")
	run(t.Context(), "render", steps, event).check(t, 1, "no result of ticket", "")
	run(t.Context(), "render", steps, event, "--result", "ticket="+result).check(t, 1, "name: TICKET\n              value: \"7\"\n", "")
	run(t.Context(), "render", steps, event, "--result", "ticket="+event+"x").check(t, 2, "", "--result ticket: open ")
	run(t.Context(), "render", steps, event, "--now", "today").check(t, 2, "", `--now must be a time such as 2026-11-23T19:05:00Z, is "today"`)
	run(t.Context(), "render", steps).check(t, 2, "", "accepts 2 arg(s), received 1; see kubectl netbox render --help")
	run(t.Context(), "render", steps, steps).check(t, 2, "", "is no event; it must be the body of a webhook")
	run(t.Context(), "render", "nothing.yaml", event).check(t, 2, "", "nothing.yaml: no such file")
}
