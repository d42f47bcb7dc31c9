package source_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/netbox"
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

func TestKeys(t *testing.T) {
	secret := &corev1.Secret{Data: map[string][]byte{
		"new": []byte(" k\u00e9y \r\n"), "old": []byte("before"), "blank": []byte(" \n"), "none": nil,
	}}
	for _, test := range []struct {
		key  string
		want []netbox.Key
		err  string
	}{
		{"", []netbox.Key{{Name: "new", Value: []byte(" kéy")}, {Name: "old", Value: []byte("before")}}, ""},
		{"old", []netbox.Key{{Name: "old", Value: []byte("before")}}, ""},
		{"blank", nil, "Secret s has no entry blank, or it is empty"},
		{"missing", nil, "Secret s has no entry missing, or it is empty"},
	} {
		keys, err := source.Keys(secret, &v1alpha1.SecretKeysReference{Name: "s", Key: test.key})
		message := ""
		if err != nil {
			message = err.Error()
		}
		if diff := cmp.Diff(test.want, keys) + cmp.Diff(test.err, message); diff != "" {
			t.Errorf("key %q (-want +got):\n%s", test.key, diff)
		}
	}
	if _, err := source.Keys(&corev1.Secret{}, &v1alpha1.SecretKeysReference{Name: "s"}); err == nil {
		t.Error("an empty Secret has keys")
	}
}
