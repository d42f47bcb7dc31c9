package source_test

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/source"
)

func TestPath(t *testing.T) {
	for path, want := range map[string]string{"": "/webhook/ns/nb", "/": "/", "/a/b": "/a/b", "/a/b//": "/a/b"} {
		s := &v1alpha1.NetBoxSource{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "nb"}}
		s.Spec.Path = path
		if got := source.Path(s); got != want {
			t.Errorf("path %q is served at %q, want %q", path, got, want)
		}
	}
}
