package manifest_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/cli/manifest"
)

const rule = "apiVersion: netbox-events.io/v1alpha1\nkind: NetBoxEventRule\nmetadata: {name: a}\n"

// TestErrors reads files that the API server would refuse.
func TestErrors(t *testing.T) {
	for reason, test := range map[string]struct{ content, want string }{
		"a valid rule":           {rule + "spec: {actions: [{name: a, log: {message: a}}]}\n", ""},
		"an unknown field":       {rule + "spec:\n  actions:\n  - name: a\n    lgo: {message: a}\n", `f.yaml:7: unknown field "spec.actions[0].lgo"`},
		"after a separator":      {"---\n# a comment\n---\n" + rule + "spec:\n  x: 1\n", `f.yaml:8: unknown field "spec.x"`},
		"in the second document": {rule + "spec: {actions: [{name: a, log: {message: a}}]}\n---\n\n" + rule + "spec:\n  x: 1\n", `f.yaml:11: unknown field "spec.x"`},
		"a duplicate field":      {rule + "spec:\n  dryRun: true\n  dryRun: false\n", `f.yaml:6: is not valid YAML: key "dryRun" already set in map`},
		"a missing field":        {rule + "spec:\n  actions:\n  - name: a\n    log: {}\n", "f.yaml:7: spec.actions[0].log.message: Required value"},
		"a wrong value": {
			rule + "spec:\n  actions: [{name: a, log: {message: a}}]\n  order: Any\n",
			`f.yaml:6: spec.order: Unsupported value: "Any": supported values: "PerObject", "None"`,
		},
		"a wrong type": {rule + "spec: 1\n", "f.yaml:1: json: cannot unmarshal number into Go struct field NetBoxEventRule.spec of type v1alpha1.NetBoxEventRuleSpec"},
		"an expression of the schema": {
			rule + "spec:\n  actions:\n  - {name: a, log: {message: a}}\n  - name: b\n    apply: {template: {apiVersion: v1, kind: ConfigMap}}\n",
			"f.yaml:4: spec: Invalid value: a rule with an apply action must set serviceAccountName",
		},
		"a list map": {
			rule + "spec:\n  actions:\n  - {name: a, log: {message: a}}\n  - {name: a, log: {message: a}}\n",
			`f.yaml:7: spec.actions[1]: Duplicate value: {"name":"a"}`,
		},
		"no YAML":   {"a: [\n", "f.yaml:1: is not valid YAML: did not find expected node content"},
		"no object": {"text\n", "f.yaml:1: is not a Kubernetes object: json: cannot unmarshal string into Go value of type v1.TypeMeta"},
		"an item of a list": {
			"apiVersion: v1\nkind: List\nitems:\n- apiVersion: netbox-events.io/v1alpha1\n  kind: NetBoxEventRule\n  spec: {x: 1}\n",
			`f.yaml:4: unknown field "spec.x"`,
		},
	} {
		t.Run(reason, func(t *testing.T) {
			got := ""
			if err := decode(t, test.content); err != nil {
				got = err.Error()
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// decode decodes all rules of a file.
func decode(t *testing.T, content string) error {
	t.Helper()
	documents, err := manifest.Documents("f.yaml", []byte(content))
	if err != nil {
		return err
	}
	for i := range documents {
		if err := manifest.Rules().Decode(t.Context(), &documents[i], &v1alpha1.NetBoxEventRule{}); err != nil {
			return err
		}
	}
	return nil
}

// TestSamples reads all samples.
func TestSamples(t *testing.T) {
	files, err := fs.Glob(os.DirFS("../../../config/samples"), "*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	read := 0
	for _, name := range files {
		content, err := os.ReadFile(filepath.Join("../../../config/samples", name))
		if err != nil {
			t.Fatal(err)
		}
		documents, err := manifest.Documents(name, content)
		if err != nil {
			t.Fatal(err)
		}
		for i := range documents {
			switch documents[i].Kind {
			case "NetBoxEventRule":
				var sample v1alpha1.NetBoxEventRule
				if err := manifest.Rules().Decode(t.Context(), &documents[i], &sample); err != nil {
					t.Error(err)
				}
				if sample.Spec.Order == "" || sample.Spec.Retry.For.Duration == 0 || !strings.HasPrefix(sample.APIVersion, "netbox-events.io/") {
					t.Errorf("%s: has no defaults: %v", name, sample.Spec)
				}
			case "NetBoxSource":
				if err := manifest.Sources().Decode(t.Context(), &documents[i], &v1alpha1.NetBoxSource{}); err != nil {
					t.Error(err)
				}
			default:
				continue
			}
			read++
		}
	}
	if read < 9 {
		t.Errorf("read %d samples, want all", read)
	}
}
