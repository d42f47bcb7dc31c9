package docs_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/cel-go/cel"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/cli"
	"github.com/netbox-events/netbox-event-operator/internal/cli/ruletest"
	"github.com/netbox-events/netbox-event-operator/internal/rule"
)

const chart = "../charts/netbox-event-operator"

// pages returns the names of all pages.
func pages(t *testing.T) []string {
	t.Helper()
	names, err := filepath.Glob("*.md")
	if err != nil || len(names) < 20 {
		t.Fatalf("found %d pages: %v", len(names), err)
	}
	return append(names, "../README.md", "../CONTRIBUTING.md", chart+"/README.md", "../test/deliveries/README.md")
}

// foreign are the kinds of other projects, which the API server of the tests does not have.
var foreign = map[string]bool{
	"argoproj.io/v1alpha1 Application":              true,
	"external-secrets.io/v1 ExternalSecret":         true,
	"helm.toolkit.fluxcd.io/v2 HelmRelease":         true,
	"kustomize.config.k8s.io/v1beta1 Kustomization": true,
	"kustomize.toolkit.fluxcd.io/v1 Kustomization":  true,
	"source.toolkit.fluxcd.io/v1 OCIRepository":     true,
	"traefik.io/v1alpha1 ServersTransport":          true,
}

// valuesSchema is that of the chart's values.
var valuesSchema = sync.OnceValues(func() (*jsonschema.Schema, error) {
	return jsonschema.NewCompiler().Compile(chart + "/values.schema.json")
})

// TestYAML has the API server take each object of every page, compiles the expressions of rules and sources, and validates values of the
// chart.
func TestYAML(t *testing.T) {
	schema, err := valuesSchema()
	if err != nil {
		t.Fatal(err)
	}
	objects, values := 0, 0
	for _, page := range pages(t) {
		_, blocks := readPage(t, page)
		for _, block := range blocks {
			if block.language != "yaml" {
				continue
			}
			for _, document := range documentsOf(t, page, block.text) {
				if document["apiVersion"] == nil {
					values++
					if err := schema.Validate(document); err != nil {
						t.Errorf("%s: %v in\n%s", page, err, block.text)
					}
					for name, compile := range map[string]func(*testing.T, string, map[string]any){"sources": compileSource, "rules": compileRule} {
						items, _ := document[name].([]any)
						for _, item := range items {
							compile(t, page, item.(map[string]any))
						}
					}
					continue
				}
				objects++
				checkObject(t, page, &unstructured.Unstructured{Object: document})
			}
		}
	}
	if objects < 45 || values < 20 {
		t.Errorf("checked %d objects and %d values files, want those of all pages", objects, values)
	}
}

// documentsOf decodes a block, with JSON's types.
func documentsOf(t *testing.T, page, text string) (documents []map[string]any) {
	t.Helper()
	decoder := yaml.NewYAMLOrJSONDecoder(strings.NewReader(text), 4096)
	for {
		var raw runtime.RawExtension
		if err := decoder.Decode(&raw); errors.Is(err, io.EOF) {
			return documents
		} else if err != nil {
			t.Fatalf("%s: %v in\n%s", page, err, text)
		}
		value, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw.Raw))
		document, isObject := value.(map[string]any)
		if err != nil || !isObject {
			t.Fatalf("%s: %v, no object in\n%s", page, err, text)
		}
		documents = append(documents, document)
	}
}

func checkObject(t *testing.T, page string, object *unstructured.Unstructured) {
	t.Helper()
	text, err := json.Marshal(object.Object)
	if err != nil {
		t.Fatal(err)
	}
	switch kind := object.GetAPIVersion() + " " + object.GetKind(); {
	case object.GetKind() == ruletest.Kind:
		if _, warnings, err := ruletest.Decode(page, text); err != nil || len(warnings) > 0 {
			t.Errorf("%s: %v, %v in\n%s", page, err, warnings, text)
		}
		return
	case foreign[kind]:
		checkForeign(t, page, object)
		return
	}
	decoded := &unstructured.Unstructured{}
	if err := decoded.UnmarshalJSON(text); err != nil {
		t.Fatal(err)
	}
	spec, _ := object.Object["spec"].(map[string]any)
	switch object.GetKind() {
	case "NetBoxEventRule":
		compileRule(t, page, spec)
	case "NetBoxSource":
		compileSource(t, page, spec)
	}
	decoded.SetNamespace(plane.Namespace(t))
	if err := plane.Client.Create(t.Context(), decoded, client.FieldValidation("Strict"), client.DryRunAll); err != nil {
		t.Errorf("%s: %v in\n%s", page, err, text)
	}
}

func compileRule(t *testing.T, page string, spec map[string]any) {
	t.Helper()
	var compiled v1alpha1.NetBoxEventRuleSpec
	convert(t, page, spec, &compiled)
	if _, err := rule.Compile(&compiled); err != nil {
		t.Errorf("%s: %v", page, err)
	}
}

func compileSource(t *testing.T, page string, spec map[string]any) {
	t.Helper()
	var source v1alpha1.NetBoxSourceSpec
	convert(t, page, spec, &source)
	if source.Accept != nil {
		if _, err := rule.CompileAccept(source.Accept); err != nil {
			t.Errorf("%s: %v", page, err)
		}
	}
}

func convert(t *testing.T, page string, from map[string]any, to any) {
	t.Helper()
	text, err := json.Marshal(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, to); err != nil {
		t.Errorf("%s: %v in\n%s", page, err, text)
	}
}

// checkForeign validates the chart's values in objects of GitOps tools, and runs the health checks of Flux on the statuses of a source.
func checkForeign(t *testing.T, page string, object *unstructured.Unstructured) {
	t.Helper()
	for _, path := range [][]string{{"spec", "values"}, {"spec", "source", "helm", "valuesObject"}} {
		if values, found, _ := unstructured.NestedFieldNoCopy(object.Object, path...); found {
			schema, err := valuesSchema()
			if err != nil {
				t.Fatal(err)
			}
			if err := schema.Validate(values); err != nil {
				t.Errorf("%s: %v", page, err)
			}
		}
	}
	checks, _, _ := unstructured.NestedFieldNoCopy(object.Object, "spec", "healthCheckExprs")
	list, _ := checks.([]any)
	for _, check := range list {
		texts := check.(map[string]any)
		for reason, want := range map[string]string{
			v1alpha1.ReasonServing: "current", v1alpha1.ReasonPathConflict: "failed", v1alpha1.ReasonInvalidAccept: "failed",
			v1alpha1.ReasonSecretNotFound: "",
		} {
			for _, field := range []string{"current", "failed"} {
				if got := evaluate(t, texts[field].(string), sourceWith(reason)); got != (field == want) {
					t.Errorf("%s: %s of a source with %s is %t", page, field, reason, got)
				}
			}
		}
	}
}

// sourceWith returns a source with a condition Ready.
func sourceWith(reason string) map[string]any {
	ready := map[string]any{"type": v1alpha1.ConditionReady, "status": "False", "reason": reason}
	if reason == v1alpha1.ReasonServing {
		ready["status"] = "True"
	}
	return map[string]any{
		"apiVersion": v1alpha1.SchemeGroupVersion.String(), "kind": "NetBoxSource",
		"metadata": map[string]any{"name": "a", "namespace": "a", "generation": int64(1)},
		"status":   map[string]any{"observedGeneration": int64(1), "conditions": []any{ready}},
	}
}

func evaluate(t *testing.T, expression string, object map[string]any) bool {
	t.Helper()
	environment, err := cel.NewEnv(cel.Variable("status", cel.DynType))
	if err != nil {
		t.Fatal(err)
	}
	ast, issues := environment.Compile(expression)
	if issues.Err() != nil {
		t.Fatal(issues.Err())
	}
	program, err := environment.Program(ast)
	if err != nil {
		t.Fatal(err)
	}
	value, _, err := program.Eval(object)
	if err != nil {
		t.Fatal(err)
	}
	return value.Value() == true
}

// TestHealth compares the table of gitops.md with kstatus.
func TestHealth(t *testing.T) {
	with := func(status map[string]any, conditions ...map[string]any) *unstructured.Unstructured {
		object := sourceWith(v1alpha1.ReasonServing)
		list := make([]any, len(conditions))
		for i, condition := range conditions {
			list[i] = condition
		}
		status["conditions"] = list
		object["status"] = status
		return &unstructured.Unstructured{Object: object}
	}
	condition := func(name, status, reason string) map[string]any {
		return map[string]any{"type": name, "status": status, "reason": reason, "message": "a"}
	}
	seen, unseen := map[string]any{"observedGeneration": int64(1)}, map[string]any{"observedGeneration": int64(0)}
	for name, test := range map[string]struct {
		object *unstructured.Unstructured
		want   status.Status
	}{
		"valid":     {with(maps.Clone(seen), condition("Ready", "True", v1alpha1.ReasonCompiled)), status.CurrentStatus},
		"suspended": {with(maps.Clone(seen), condition("Ready", "True", v1alpha1.ReasonSuspended)), status.CurrentStatus},
		"invalid": {
			with(maps.Clone(seen), condition("Ready", "False", v1alpha1.ReasonInvalid), condition("Stalled", "True", v1alpha1.ReasonInvalid)),
			status.FailedStatus,
		},
		"no Secret": {with(maps.Clone(seen), condition("Ready", "False", v1alpha1.ReasonSecretNotFound)), status.InProgressStatus},
		"unseen":    {with(maps.Clone(unseen), condition("Ready", "True", v1alpha1.ReasonCompiled)), status.InProgressStatus},
	} {
		result, err := status.Compute(test.object)
		if err != nil || result.Status != test.want {
			t.Errorf("%s: %v, %v, want %s", name, result, err, test.want)
		}
	}
}

var (
	// command is a command of the plugin, make or helm, in a block of the shell or between backquotes.
	command = regexp.MustCompile(
		`(?m)(?:^|\$ |&& |\| |` + "`" + `|eval "\$\()(kubectl netbox|make|helm)(( +(?:'[^']*'|[^\s` + "`" + `'#)]+))*)`)
	inline     = regexp.MustCompile("`[^`\n]+`")
	targets    = regexp.MustCompile(`(?m)^([a-z][a-z0-9-]*):`)
	valuePath  = regexp.MustCompile(`--set(?:-json|-string)?[ =]'?([a-zA-Z0-9.\[\]]+)=`)
	testName   = regexp.MustCompile("`(Test[A-Z][A-Za-z]*)`")
	testFunc   = regexp.MustCompile(`(?m)^func (Test[A-Z][A-Za-z]*)\([tm] \*testing\.[TM]\)`)
	flagOfLine = regexp.MustCompile(`(?:^| )(--?[a-zA-Z-]+)`)
)

// TestCommands looks up the commands and flags of kubectl netbox, the targets of make, and the values of the chart that the pages name.
func TestCommands(t *testing.T) {
	makefile, err := os.ReadFile("../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	var known []string
	for _, found := range targets.FindAllStringSubmatch(string(makefile), -1) {
		known = append(known, found[1])
	}
	plugin := cli.New(genericiooptions.NewTestIOStreamsDiscard())
	counts := map[string]int{}
	for _, page := range pages(t) {
		content, blocks := readPage(t, page)
		var texts []string
		for _, block := range blocks {
			if block.language == "sh" || block.language == "console" || block.language == "text" {
				texts = append(texts, strings.ReplaceAll(block.text, "\\\n", " "))
			}
		}
		texts = append(texts, inline.FindAllString(fence.ReplaceAllString(content, ""), -1)...)
		for _, text := range texts {
			for _, found := range command.FindAllStringSubmatch(text, -1) {
				words := strings.Fields(found[2])
				counts[found[1]]++
				switch found[1] {
				case "kubectl netbox":
					checkPlugin(t, page, plugin, words)
				case "make":
					for _, word := range words {
						if word == "-s" || strings.Contains(word, "=") || strings.HasPrefix(word, "-") {
							continue
						}
						if !slices.Contains(known, strings.Trim(word, `,;"`)) {
							t.Errorf("%s: make has no target %s in %q", page, word, found[0])
						}
						break
					}
				}
			}
			for _, found := range valuePath.FindAllStringSubmatch(text, -1) {
				counts["--set"]++
				if !hasValue(t, found[1]) {
					t.Errorf("%s: the chart has no value %s", page, found[1])
				}
			}
		}
	}
	for name, least := range map[string]int{"kubectl netbox": 20, "make": 40, "helm": 8, "--set": 10} {
		if counts[name] < least {
			t.Errorf("found %d of %s, want %d", counts[name], name, least)
		}
	}
}

// checkPlugin looks up a command of the plugin and its flags.
func checkPlugin(t *testing.T, page string, plugin *cobra.Command, words []string) {
	t.Helper()
	if len(words) == 0 {
		return // its name alone
	}
	found, _, err := plugin.Find(words[:1])
	if err != nil || found == plugin {
		t.Errorf("%s: kubectl netbox has no command %s", page, words[0])
		return
	}
	for _, match := range flagOfLine.FindAllStringSubmatch(strings.Join(words[1:], " "), -1) {
		name, isLong := strings.CutPrefix(match[1], "--")
		lookup := func(flags *pflag.FlagSet) bool {
			if isLong {
				return flags.Lookup(name) != nil
			}
			return flags.ShorthandLookup(strings.TrimPrefix(name, "-")) != nil
		}
		if !lookup(found.Flags()) && !lookup(found.InheritedFlags()) {
			t.Errorf("%s: kubectl netbox %s has no flag %s", page, words[0], match[1])
		}
	}
}

// hasValue reports whether the schema of the chart's values has a path such as sources[0].name.
func hasValue(t *testing.T, path string) bool {
	t.Helper()
	text, err := os.ReadFile(chart + "/values.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	var schema map[string]any
	if err := json.Unmarshal(text, &schema); err != nil {
		t.Fatal(err)
	}
	definitions := schema["$defs"].(map[string]any)
	for name := range strings.SplitSeq(path, ".") {
		name, _, isItem := strings.Cut(name, "[")
		properties, _ := schema["properties"].(map[string]any)
		if schema, _ = properties[name].(map[string]any); isItem {
			schema, _ = schema["items"].(map[string]any)
		}
		if reference, isReference := schema["$ref"].(string); isReference {
			schema, _ = definitions[strings.TrimPrefix(reference, "#/$defs/")].(map[string]any)
		}
	}
	return schema != nil
}

// TestNames looks for the tests that the pages name as evidence, and for the recorded versions on the page about compatibility.
func TestNames(t *testing.T) {
	existing := map[string]bool{}
	err := filepath.WalkDir("..", func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		content, err := os.ReadFile(path)
		for _, found := range testFunc.FindAllStringSubmatch(string(content), -1) {
			existing[found[1]] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	named := 0
	for _, page := range pages(t) {
		content, _ := readPage(t, page)
		for _, found := range testName.FindAllStringSubmatch(content, -1) {
			if named++; !existing[found[1]] {
				t.Errorf("%s: there is no test %s", page, found[1])
			}
		}
	}
	if named < 20 {
		t.Errorf("the pages name %d tests", named)
	}
	compatibility, _ := readPage(t, "compatibility.md")
	recordings, err := filepath.Glob("../test/deliveries/*.jsonl")
	if err != nil || len(recordings) == 0 {
		t.Fatalf("%d recordings: %v", len(recordings), err)
	}
	for _, recording := range recordings {
		_, version, _ := strings.Cut(strings.TrimSuffix(strings.TrimSuffix(filepath.Base(recording), ".jsonl"), "-live"), "-")
		if !strings.Contains(compatibility, version) {
			t.Errorf("compatibility.md does not have %s", recording)
		}
	}
}
