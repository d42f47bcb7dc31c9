// Package docs_test runs what the documents show.
package docs_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/jsonmergepatch"
	"sigs.k8s.io/yaml"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/rule"
	"github.com/netbox-events/netbox-event-operator/test/controlplane"
	"github.com/netbox-events/netbox-event-operator/test/deliveries"
)

var plane *controlplane.ControlPlane

func TestMain(m *testing.M) { controlplane.Main(m, &plane) }

// block is a fenced block of a document.
type block struct{ language, info, text string }

var fence = regexp.MustCompile("(?ms)^( *)```(\\w+) ?(.*?)\n(.*?)^ *```$")

// blocksOf returns the fenced blocks of a text, without the indentation of those in lists.
func blocksOf(text string) (blocks []block) {
	for _, found := range fence.FindAllStringSubmatch(text, -1) {
		content := strings.ReplaceAll("\n"+found[4], "\n"+found[1], "\n")
		blocks = append(blocks, block{found[2], found[3], strings.TrimPrefix(content, "\n")})
	}
	return blocks
}

func readRules(t *testing.T) (content string, blocks []block) {
	t.Helper()
	return readPage(t, "rules.md")
}

func readPage(t *testing.T, name string) (content string, blocks []block) {
	t.Helper()
	bytes, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(bytes), blocksOf(string(bytes))
}

// events returns the event of each recorded delivery, by names such as netbox-4.6.8/307.
func events(t *testing.T) map[string]*v1alpha1.NetBoxEvent {
	t.Helper()
	all, err := deliveries.All()
	if err != nil {
		t.Fatal(err)
	}
	events := map[string]*v1alpha1.NetBoxEvent{}
	for _, delivery := range all {
		if event, err := delivery.Event("netbox", deliveries.Redact); err == nil {
			events[delivery.String()] = event
		}
	}
	return events
}

// versions are the places on pages that name a version of this project, with what comes before it.
var versions = regexp.MustCompile(`(?:--version |netbox-event-operator(?:/releases/download/|[:/][^ ]*[?@]ref=|:|/\.github/actions/rule-test@)` +
	`|kubectl-netbox_|newTag: |git checkout )v?(\d+\.\d+\.\d+)`)

// TestVersion compares the versions that pages install with that of the chart.
func TestVersion(t *testing.T) {
	var chart struct{ Version, AppVersion string }
	text, err := os.ReadFile("../charts/netbox-event-operator/Chart.yaml")
	if err == nil {
		err = yaml.Unmarshal(text, &chart)
	}
	if err != nil {
		t.Fatal(err)
	}
	if chart.AppVersion != "v"+chart.Version {
		t.Errorf("the appVersion of the chart is %s, want v%s", chart.AppVersion, chart.Version)
	}
	total := 0
	for _, page := range pages(t) {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, found := range versions.FindAllStringSubmatch(string(text), -1) {
			total++
			if found[1] != chart.Version {
				t.Errorf("%s: %q names another version than the chart, %s", page, found[0], chart.Version)
			}
		}
	}
	if total < 10 {
		t.Errorf("found %d versions, want those of all pages", total)
	}
}

// TestNetBox looks for the reasons of conditions that the page about NetBox's API has to explain.
func TestNetBox(t *testing.T) {
	content, _ := readPage(t, "netbox.md")
	for _, name := range []string{
		v1alpha1.ConditionNetBoxReachable, v1alpha1.ConditionWebhookConfigured, v1alpha1.ConditionChangeLogRead, v1alpha1.ConditionReceiving,
		v1alpha1.ReasonReachable, v1alpha1.ReasonTokenUnreadable, v1alpha1.ReasonTokenRefused, v1alpha1.ReasonPermissionMissing,
		v1alpha1.ReasonUnreachable, v1alpha1.ReasonRefused, v1alpha1.ReasonUnsupportedVersion, v1alpha1.ReasonConfigured,
		v1alpha1.ReasonNameTaken, v1alpha1.ReasonKeyUnusable, v1alpha1.ReasonRemovalFailed, v1alpha1.ReasonUpToDate, v1alpha1.ReasonCatchingUp,
		v1alpha1.ReasonChangesArrive, v1alpha1.ReasonNothingLogged, v1alpha1.ReasonNothingArrives, v1alpha1.ReasonChangeLogUnread,
	} {
		if !strings.Contains(content, name) {
			t.Errorf("the page does not explain %s", name)
		}
	}
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	span    = regexp.MustCompile("`[^`\n]*`")
	heading = regexp.MustCompile(`(?m)^#+ (.*)$`)
	noSlug  = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// TestLinks follows the links between the pages, to headings as GitHub names them.
func TestLinks(t *testing.T) {
	reference, err := filepath.Glob("reference/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range append(append(pages(t), "../SECURITY.md", "../CHANGELOG.md"), reference...) {
		content, _ := readPage(t, page)
		for _, found := range link.FindAllStringSubmatch(span.ReplaceAllString(fence.ReplaceAllString(content, ""), ""), -1) {
			if strings.Contains(found[1], "://") {
				continue
			}
			path, anchor, _ := strings.Cut(found[1], "#")
			target := page
			if path != "" {
				target = filepath.Join(filepath.Dir(page), path)
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: %v", page, err)
				continue
			}
			if anchor != "" && !slices.Contains(anchorsOf(t, target), anchor) {
				t.Errorf("%s: %s has no heading for #%s", page, target, anchor)
			}
		}
	}
}

func anchorsOf(t *testing.T, page string) (anchors []string) {
	t.Helper()
	content, _ := readPage(t, page)
	for _, found := range heading.FindAllStringSubmatch(fence.ReplaceAllString(content, ""), -1) {
		slug := strings.ToLower(noSlug.ReplaceAllString(found[1], ""))
		anchors = append(anchors, strings.ReplaceAll(slug, " ", "-"))
	}
	return anchors
}

// sparse are rules that leave out all that has a default.
var sparse = []string{`
apiVersion: netbox-events.io/v1alpha1
kind: NetBoxEventRule
metadata: {name: group}
spec:
  group: {by: Request}
  actions:
  - {name: send, http: {url: "https://hooks.example.com/${group.id}"}}
`, `
apiVersion: netbox-events.io/v1alpha1
kind: NetBoxEventRule
metadata: {name: sparse}
spec:
  match: {branches: ["*"]}
  retry: {for: 72h}
  limit: {concurrency: 1, key: data.site.slug}
  serviceAccountName: provisioner
  secrets: [{name: token, secretKeyRef: {name: sink, key: token}}]
  actions:
  - name: send
    http: {url: "https://hooks.example.com/", success: response.status == 200, auth: {serviceAccountToken: {audience: hooks}}, body: {text: a}}
  - name: job
    when: data.id > 1
    dependsOn: [send]
    apply: {wait: {success: "true"}, template: {apiVersion: v1, kind: ConfigMap}}
  - {name: gone, apply: {operation: Delete, template: {apiVersion: v1, kind: ConfigMap, metadata: {name: a}}}}
  - {name: note, event: {reason: X, message: x}}
  onFailure:
  - name: alarm
    http:
      url: https://alerts.example.com/
      body: {form: {token: "${secrets.token}"}}
      auth: {oauth2: {tokenURL: "https://login.example.com/", clientID: a, clientSecretRef: {name: sink, key: token}}}
      tls: {caConfigMapRef: {name: ca, key: ca.crt}}
  - {name: note2, event: {reason: X, message: x}}
`}

// TestThreeWayDiff compares the samples, and the rules of the pages, with what the API server stores of them, as GitOps tools do: a merge patch
// of the last applied manifest, the manifest and the stored object has to be empty.
func TestThreeWayDiff(t *testing.T) {
	files, err := filepath.Glob("../config/samples/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var manifests []string
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		manifests = append(manifests, strings.Split(string(content), "\n---\n")...)
	}
	for _, page := range pages(t) {
		_, blocks := readPage(t, page)
		for _, block := range blocks {
			if block.language == "yaml" {
				manifests = append(manifests, strings.Split(block.text, "\n---\n")...)
			}
		}
	}
	manifests = append(manifests, sparse...)
	compared := 0
	for _, manifest := range manifests {
		var object unstructured.Unstructured
		if err := yaml.Unmarshal([]byte(manifest), &object.Object); err != nil {
			t.Fatal(err)
		}
		if object.GroupVersionKind().Group != v1alpha1.SchemeGroupVersion.Group {
			continue
		}
		compared++
		object.SetNamespace(plane.Namespace(t))
		git, err := json.Marshal(object.Object)
		if err != nil {
			t.Fatal(err)
		}
		plane.Create(t, &object)
		live, err := json.Marshal(object.Object)
		if err != nil {
			t.Fatal(err)
		}
		patch, err := jsonmergepatch.CreateThreeWayJSONMergePatch(git, git, live)
		if err != nil || string(patch) != "{}" {
			t.Errorf("%s: %s, %v", object.GetName(), patch, err)
		}
	}
	if compared < 20 {
		t.Errorf("compared %d objects, want all samples and those of the pages", compared)
	}
}

// TestCookbook evaluates each expression on the deliveries that its block names.
func TestCookbook(t *testing.T) {
	_, blocks := readRules(t)
	events := events(t)
	expressions := 0
	for _, block := range blocks {
		if block.language != "cel" {
			continue
		}
		expressions++
		compiled, err := rule.Compile(&v1alpha1.NetBoxEventRuleSpec{Match: v1alpha1.Match{Filter: v1alpha1.Filter{CEL: block.text}}})
		if err != nil {
			t.Errorf("%v in\n%s", err, block.text)
			continue
		}
		words := strings.Fields(block.info)
		if len(words) < 2 || len(words)%2 != 0 {
			t.Errorf("the block must name deliveries that match or do not:\n%s", block.text)
		}
		for ; len(words) >= 2; words = words[2:] {
			event := events[words[1]]
			if event == nil {
				t.Errorf("there is no delivery %q", words[1])
				continue
			}
			matched, err := compiled.Match(t.Context(), event, rule.NewInput(event, event.Spec.Timestamp.Add(time.Second)))
			if want := words[0] == "matches:"; err != nil || matched != want {
				t.Errorf("matches %s: %t, %v, want %t, by\n%s", words[1], matched, err, want, block.text)
			}
		}
	}
	if expressions == 0 {
		t.Error("the page has no expression")
	}
}

// TestSelections evaluates the expressions on selection custom fields in the shape of NetBox 4.7.
func TestSelections(t *testing.T) {
	_, blocks := readRules(t)
	tested := 0
	for _, block := range blocks {
		if block.language != "cel" || !strings.Contains(block.text, "select") {
			continue
		}
		tested++
		compiled, err := rule.Compile(&v1alpha1.NetBoxEventRuleSpec{Match: v1alpha1.Match{Filter: v1alpha1.Filter{CEL: block.text}}})
		if err != nil {
			t.Fatal(err)
		}
		for custom, want := range map[string]bool{
			`{"cf_select": {"value": "red", "label": "Red"}, "cf_multiselect": [{"value": "red", "label": "Red"}, {"value": "blue", "label": "Blue"}]}`: true,
			`{"cf_select": {"value": "blue", "label": "red"}, "cf_multiselect": [{"value": "red", "label": "blue"}]}`:                                   false,
			`{"cf_select": "red", "cf_multiselect": ["blue"]}`:                                                                                          true,
			`{"cf_select": "blue", "cf_multiselect": ["red"]}`:                                                                                          false,
			`{"cf_select": null, "cf_multiselect": null}`:                                                                                               false,
		} {
			event := &v1alpha1.NetBoxEvent{Spec: v1alpha1.NetBoxEventSpec{Data: v1alpha1.JSONObject{"custom_fields": {Raw: []byte(custom)}}}}
			if matched, err := compiled.Match(t.Context(), event, rule.NewInput(event, time.Now())); err != nil || matched != want {
				t.Errorf("matches %s: %t, %v, want %t, by\n%s", custom, matched, err, want, block.text)
			}
		}
	}
	if tested != 2 {
		t.Errorf("%d expressions on selections, want 2", tested)
	}
}

// TestTemplates evaluates the table of templates, as values of an object.
func TestTemplates(t *testing.T) {
	content, _ := readRules(t)
	_, table, found := strings.Cut(content, "| template | value |\n| --- | --- |\n")
	table, _, _ = strings.Cut(table, "\n\n")
	if !found {
		t.Fatal("the page has no table of templates")
	}
	event := events(t)["netbox-4.6.8/307"]
	row := regexp.MustCompile("^\\| `(.*)` \\| `(.*)` \\|$")
	for line := range strings.SplitSeq(table, "\n") {
		cells := row.FindStringSubmatch(line)
		if cells == nil {
			t.Fatalf("no row of the table: %s", line)
		}
		template, err := json.Marshal(cells[1])
		if err != nil {
			t.Fatal(err)
		}
		compiled, err := rule.Compile(&v1alpha1.NetBoxEventRuleSpec{Actions: []v1alpha1.Action{{Name: "a", Apply: &v1alpha1.ApplyAction{
			Template: v1alpha1.JSONObject{"apiVersion": {Raw: []byte(`"v1"`)}, "kind": {Raw: []byte(`"X"`)}, "x": {Raw: template}},
		}}}})
		if err != nil {
			t.Error(err)
			continue
		}
		object, _, err := compiled.Actions[0].Objects[0].Render(t.Context(), rule.NewInput(event, time.Now()))
		if err != nil {
			t.Error(err)
			continue
		}
		got, err := json.Marshal(object["x"])
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(cells[2], string(got)); diff != "" {
			t.Errorf("%s (-page +value):\n%s", cells[1], diff)
		}
	}
}
