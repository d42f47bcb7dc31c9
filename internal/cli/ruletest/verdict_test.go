package ruletest_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/cli/ruletest"
	"github.com/netbox-events/netbox-event-operator/internal/rule"
	"github.com/netbox-events/netbox-event-operator/test/deliveries"
)

var yamlBlock = regexp.MustCompile("(?ms)^```yaml\n(.*?)^```$")

// failingRule has an expression that fails on many events.
const failingRule = `
apiVersion: netbox-events.io/v1alpha1
kind: NetBoxEventRule
metadata: {name: failing}
spec:
  match: {cel: data.site.slug != ""}
  actions: [{name: line, log: {message: "${data.site.slug}"}}]
`

// sampleRules returns the rules of the samples, and one that fails.
func sampleRules(t *testing.T) []*ruletest.Rule {
	t.Helper()
	files, err := filepath.Glob("../../../config/samples/rule_*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	failing := filepath.Join(t.TempDir(), "failing.yaml")
	if err := os.WriteFile(failing, []byte(failingRule), 0o600); err != nil {
		t.Fatal(err)
	}
	return readRules(t, append(files, failing))
}

// pageRules returns the rules of the pages.
func pageRules(t *testing.T) []*ruletest.Rule {
	t.Helper()
	var files []string
	for _, page := range []string{"../../../docs/recipes.md", "../../../docs/rules.md", "../../../README.md"} {
		content, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for i, found := range yamlBlock.FindAllStringSubmatch(string(content), -1) {
			if strings.Contains(found[1], "kind: NetBoxEventRule") {
				file := filepath.Join(t.TempDir(), fmt.Sprintf("%s-%d.yaml", filepath.Base(page), i))
				if err := os.WriteFile(file, []byte(found[1]), 0o600); err != nil {
					t.Fatal(err)
				}
				files = append(files, file)
			}
		}
	}
	return readRules(t, files)
}

func readRules(t *testing.T, files []string) (rules []*ruletest.Rule) {
	t.Helper()
	for _, file := range files {
		read, err := ruletest.ReadRules(t.Context(), file)
		if err != nil {
			t.Fatal(err)
		}
		rules = append(rules, read...)
	}
	return rules
}

// TestVerdicts evaluates the sample rules on all recorded deliveries: as the operator does, and from files.
func TestVerdicts(t *testing.T) {
	recorded, err := deliveries.All()
	if err != nil {
		t.Fatal(err)
	}
	rules := sampleRules(t)
	source := &v1alpha1.NetBoxSource{Spec: v1alpha1.NetBoxSourceSpec{Redact: deliveries.Redact}}
	source.Name = "netbox"
	matches, failures, refused := 0, 0, 0
	for _, delivery := range recorded {
		stored, err := delivery.Event("netbox", deliveries.Redact)
		read, readErr := ruletest.ReadEvent("body.json", []byte(delivery.Body), source, time.Time{})
		if (err == nil) != (readErr == nil) {
			t.Fatalf("%s: the receiver says %v, the plugin %v", delivery, err, readErr)
		}
		if err != nil {
			refused++
			continue
		}
		for _, tested := range rules {
			matched, err := tested.Compiled.Match(t.Context(), stored, rule.NewInput(stored, stored.Spec.Timestamp.Time))
			outcome := ruletest.Evaluate(t.Context(), tested, []*v1alpha1.NetBoxEvent{read}, ruletest.Given{})[0]
			if outcome.Matched != matched || (outcome.Error != "") != (err != nil) {
				t.Errorf("%s, rule %s: the operator says %t, %v, the plugin %t, %s", delivery, tested.Name, matched, err, outcome.Matched, outcome.Error)
			}
			if matched {
				matches++
			}
			if err != nil {
				failures++
			}
		}
	}
	t.Logf("%d deliveries, %d refused, %d rules: %d matches, %d failures", len(recorded), refused, len(rules), matches, failures)
	if len(rules) < 9 || matches < 1000 || failures == 0 || refused == 0 {
		t.Error("too few to compare")
	}
}

// recordedTypes are the object types of recorded tests: those of rules, and one with secrets.
var recordedTypes = []string{
	"dcim.device", "dcim.site", "dcim.interface", "dcim.rack", "ipam.prefix", "ipam.ipaddress", "virtualization.virtualmachine", "wireless.wirelesslan",
}

// TestRecordings records what the rules of the samples and of the pages do, and expects that tests of that pass.
func TestRecordings(t *testing.T) {
	recorded, err := deliveries.All()
	if err != nil {
		t.Fatal(err)
	}
	directory := t.TempDir()
	rules := append(sampleRules(t), pageRules(t)...)
	files := map[string]bool{}
	var patterns []string
	names := map[string]int{}
	for _, tested := range rules {
		names[tested.Name]++
	}
	for _, tested := range rules {
		if !files[tested.File] && names[tested.Name] == 1 {
			files[tested.File] = true
			absolute, err := filepath.Abs(tested.File)
			if err != nil {
				t.Fatal(err)
			}
			patterns = append(patterns, absolute)
		}
	}
	suite := ruletest.RuleTest{Rules: patterns}
	suite.APIVersion, suite.Kind = ruletest.APIVersion, ruletest.Kind
	source := &v1alpha1.NetBoxSource{Spec: v1alpha1.NetBoxSourceSpec{Redact: deliveries.Redact}}
	source.Name = "netbox"
	seen := map[string]bool{}
	for _, delivery := range recorded {
		event, err := ruletest.ReadEvent("body.json", []byte(delivery.Body), source, time.Time{})
		kind := ""
		if err == nil {
			kind = delivery.Source + event.Spec.ObjectType + event.Spec.Event
		}
		if err != nil || seen[kind] || !slices.Contains(recordedTypes, event.Spec.ObjectType) {
			continue
		}
		seen[kind] = true
		test := ruletest.Test{Name: delivery.String(), Events: []ruletest.FileOrValue{{File: strings.ReplaceAll(delivery.String(), "/", "-") + ".json"}}}
		if err := os.WriteFile(filepath.Join(directory, test.Events[0].File), []byte(delivery.Body), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, tested := range rules {
			if !files[tested.File] {
				continue
			}
			outcome := ruletest.Evaluate(t.Context(), tested, []*v1alpha1.NetBoxEvent{event}, ruletest.Given{})[0]
			expectation, _, err := outcome.Expectation(tested)
			if err != nil {
				t.Fatal(err)
			}
			test.Expect = append(test.Expect, *expectation)
		}
		suite.Tests = append(suite.Tests, test)
	}
	content, err := json.Marshal(&suite)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(directory, "tests.yaml")
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	report := ruletest.NewLoader().Run(t.Context(), []string{file})
	if report.Failed > 0 || len(report.Errors) > 0 || report.Passed < 20 {
		var text strings.Builder
		_ = report.WriteText(&text, false)
		_, failed, _ := strings.Cut(text.String(), "FAIL")
		t.Errorf("%d passed\n%.3000s\n%q", report.Passed, failed, report.Errors)
	}
}

// TestSamples runs the tests of the sample rules, and expects that they cover each.
func TestSamples(t *testing.T) {
	files, err := ruletest.Find([]string{"../../../config/samples"})
	if err != nil {
		t.Fatal(err)
	}
	report := ruletest.NewLoader().Run(t.Context(), files)
	if report.Failed > 0 || len(report.Errors)+len(report.Warnings) > 0 {
		var text strings.Builder
		_ = report.WriteText(&text, false)
		t.Errorf("%s\n%q %q", text.String(), report.Errors, report.Warnings)
	}
	var content []byte
	for _, file := range files {
		read, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		content = append(content, read...)
	}
	for _, sample := range sampleRules(t) {
		if sample.Name != "failing" && !strings.Contains(string(content), "rule: "+sample.Name) {
			t.Errorf("%s has no test", sample.Name)
		}
	}
}

// FuzzDecode decodes files with tests. One that is valid is the same after it was encoded.
func FuzzDecode(f *testing.F) {
	content, err := os.ReadFile("../../../config/samples/tests/rules.yaml")
	if err != nil {
		f.Fatal(err)
	}
	const head = "apiVersion: cli.netbox-events.io/v1alpha1\nkind: RuleTest\n"
	for _, seed := range []string{
		string(content), head, head + "tests: [{name: a, events: [{event: created}, x], expect: [{rule: a, matched: null}]}]",
		head + "now: 2026-11-23T19:05:00Z\nsource: {redact: []}\ntests:\n- name: a\n  events: [a]\n  lookups: {a: 1, b: {c: d}}\n  expect: [{rule: b, error: c}]",
		"---\n---\n" + head + "---\n" + head, "kind: List\nitems: [1]", "{", "a: &a [*a]", "? {a: b}\n: c",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		decoded, _, err := ruletest.Decode("tests.yaml", content)
		if err != nil {
			return
		}
		encoded, err := json.Marshal(decoded)
		if err != nil {
			t.Fatal(err)
		}
		again, _, err := ruletest.Decode("tests.yaml", encoded)
		if err != nil {
			t.Fatalf("%v in %s", err, encoded)
		}
		twice, err := json.Marshal(again)
		if diff := cmp.Diff(string(encoded), string(twice)); err != nil || diff != "" {
			t.Errorf("%v\n%s", err, diff)
		}
	})
}

// BenchmarkTests runs 200 tests, with the reading and compiling of all files.
func BenchmarkTests(b *testing.B) {
	content, err := os.ReadFile("../../../config/samples/tests/rules.yaml")
	if err != nil {
		b.Fatal(err)
	}
	samples, err := filepath.Abs("../../../config/samples")
	if err != nil {
		b.Fatal(err)
	}
	text := strings.NewReplacer("../", samples+"/", "events/", samples+"/tests/events/").Replace(string(content))
	head, tests, _ := strings.Cut(text, "tests:\n")
	const count = 12 // in the file
	text = head + "tests:\n" + strings.Repeat(tests, 200/count+1)
	file := filepath.Join(b.TempDir(), "tests.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if report := ruletest.NewLoader().Run(b.Context(), []string{file}); report.Passed < 200 || report.Failed > 0 || len(report.Errors) > 0 {
			b.Fatalf("%d passed, %d failed, %q", report.Passed, report.Failed, report.Errors)
		}
	}
}
