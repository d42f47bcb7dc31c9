package uninstall_test

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/uninstall"
	"github.com/netbox-events/netbox-event-operator/test/controlplane"
)

var plane *controlplane.ControlPlane

func TestMain(m *testing.M) { controlplane.Main(m, &plane) }

// TestSources: it returns when the operator has removed the finalizer, and leaves other sources alone.
func TestSources(t *testing.T) {
	namespace := plane.Namespace(t)
	source := func(name string, finalizers ...string) *v1alpha1.NetBoxSource {
		return &v1alpha1.NetBoxSource{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Finalizers: finalizers},
			Spec:       v1alpha1.NetBoxSourceSpec{Unsigned: v1alpha1.UnsignedAccept},
		}
	}
	kept := source("kept", v1alpha1.FinalizerNetBox)
	plane.Create(t, kept, source("plain"), source("other"))
	released := make(chan error, 1)
	go func() {
		for plane.Client.Get(t.Context(), client.ObjectKeyFromObject(kept), kept) == nil && kept.DeletionTimestamp.IsZero() {
			time.Sleep(20 * time.Millisecond)
		}
		released <- plane.Client.Patch(t.Context(), kept, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`)))
	}()
	var out strings.Builder
	names := []string{namespace + "/kept", namespace + "/plain", namespace + "/absent"}
	if err := uninstall.Sources(t.Context(), plane.Config, names, &out); err != nil {
		t.Fatal(err)
	}
	if err := <-released; err != nil {
		t.Errorf("it did not wait for the finalizer: %v", err)
	}
	var left v1alpha1.NetBoxSourceList
	if err := plane.Client.List(t.Context(), &left, client.InNamespace(namespace)); err != nil || len(left.Items) != 1 || left.Items[0].Name != "other" {
		t.Errorf("%d sources are left (%v): %s", len(left.Items), err, out.String())
	}
	if err := uninstall.Sources(t.Context(), plane.Config, []string{"netbox"}, &out); err == nil || !strings.Contains(err.Error(), "namespace/name") {
		t.Errorf("a name without a namespace: %v", err)
	}
}
