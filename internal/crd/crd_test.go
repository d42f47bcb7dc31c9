package crd_test

import (
	"os"
	"strings"
	"testing"
	"testing/fstest"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/crd"
	"github.com/netbox-events/netbox-event-operator/test/controlplane"
)

var plane *controlplane.ControlPlane

func TestMain(m *testing.M) { controlplane.Main(m, &plane) }

const definitions = "../../config/crd/bases"

func run(t *testing.T, verb string, files fstest.MapFS) string {
	t.Helper()
	var out strings.Builder
	if err := crd.Run(t.Context(), plane.Config, verb, files, &out); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func sources(t *testing.T) *unstructured.Unstructured {
	t.Helper()
	definition := new(unstructured.Unstructured)
	definition.SetGroupVersionKind(schema.GroupVersionKind{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"})
	if err := plane.Client.Get(t.Context(), client.ObjectKey{Name: "netboxsources.netbox-events.io"}, definition); err != nil {
		t.Fatal(err)
	}
	return definition
}

// Applying a release replaces the CRD of an older release, and keeps the objects.
func TestApplyAndDelete(t *testing.T) {
	text, err := os.ReadFile(definitions + "/netbox-events.io_netboxsources.yaml")
	if err != nil {
		t.Fatal(err)
	}
	released := fstest.MapFS{"sources.yaml": {Data: text}}
	older := strings.Replace(string(text), "shortNames:\n    - nbsrc", "shortNames:\n    - older", 1)
	older = strings.ReplaceAll(older, "suspend:", "halt:")
	if older == string(text) {
		t.Fatal("the older release does not differ")
	}

	namespace := plane.Namespace(t)
	source := &v1alpha1.NetBoxSource{
		ObjectMeta: metav1.ObjectMeta{Name: "netbox", Namespace: namespace},
		Spec:       v1alpha1.NetBoxSourceSpec{Unsigned: v1alpha1.UnsignedAccept},
	}
	plane.Create(t, source)

	if out := run(t, "apply", fstest.MapFS{"sources.yaml": {Data: []byte(older)}}); !strings.Contains(out, " configured") {
		t.Errorf("applying the older release: %s", out)
	}
	theirs := client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"annotations":{"example.com/theirs":"stays"}}}`))
	if err := plane.Client.Patch(t.Context(), sources(t), theirs); err != nil {
		t.Fatal(err)
	}
	if out := run(t, "apply", released); !strings.Contains(out, " configured") {
		t.Errorf("applying the release: %s", out)
	}
	if out := run(t, "apply", released); !strings.Contains(out, " unchanged") {
		t.Errorf("applying the release again: %s", out)
	}
	definition := sources(t)
	if definition.GetAnnotations()["example.com/theirs"] != "stays" {
		t.Error("an annotation of another owner was removed")
	}
	spec, err := definition.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(spec), `"older"`) || strings.Contains(string(spec), `"halt"`) || !strings.Contains(string(spec), `"suspend"`) {
		t.Error("the CRD differs from the release")
	}
	if err := plane.Client.Get(t.Context(), client.ObjectKeyFromObject(source), source); err != nil {
		t.Errorf("the source was deleted: %v", err)
	}

	if out := run(t, "delete", released); !strings.Contains(out, " deleted") {
		t.Errorf("deleting: %s", out)
	}
	for { // the API server deletes the objects first
		err := plane.Client.Get(t.Context(), client.ObjectKeyFromObject(definition), definition)
		if apierrors.IsNotFound(err) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if out := run(t, "delete", released); !strings.Contains(out, " not found") {
		t.Errorf("deleting again: %s", out)
	}
	if out := run(t, "apply", released); !strings.Contains(out, " created") {
		t.Errorf("applying to a cluster without the CRD: %s", out)
	}
}

func TestInvalidArguments(t *testing.T) {
	for reason, test := range map[string]struct {
		verb  string
		files fstest.MapFS
		want  string
	}{
		"a misspelt verb":              {"aply", nil, "use apply or delete"},
		"a directory without a CRD":    {"apply", fstest.MapFS{"README": {}}, "no *.yaml file"},
		"a file of another kind":       {"delete", fstest.MapFS{"a.yaml": {Data: []byte("kind: Secret")}}, "want CustomResourceDefinition"},
		"a file that is not an object": {"apply", fstest.MapFS{"a.yaml": {Data: []byte("a: b: c")}}, "a.yaml"},
	} {
		if err := crd.Run(t.Context(), plane.Config, test.verb, test.files, t.Output()); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", reason, err)
		}
	}
}
