package secretkeys_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/secretkeys"
)

func TestOf(t *testing.T) {
	secret := &corev1.Secret{Data: map[string][]byte{
		"new": []byte(" k\u00e9y \r\n"), "old": []byte("before"), "blank": []byte(" \n"), "none": nil,
	}}
	for _, test := range []struct {
		key  string
		want []secretkeys.Key
		err  string
	}{
		{"", []secretkeys.Key{{Name: "new", Value: []byte(" kéy")}, {Name: "old", Value: []byte("before")}}, ""},
		{"old", []secretkeys.Key{{Name: "old", Value: []byte("before")}}, ""},
		{"blank", nil, "Secret s has no entry blank, or it is empty"},
		{"missing", nil, "Secret s has no entry missing, or it is empty"},
	} {
		keys, err := secretkeys.Of(secret, &v1alpha1.SecretKeysReference{Name: "s", Key: test.key})
		message := ""
		if err != nil {
			message = err.Error()
		}
		if diff := cmp.Diff(test.want, keys) + cmp.Diff(test.err, message); diff != "" {
			t.Errorf("key %q (-want +got):\n%s", test.key, diff)
		}
	}
	if _, err := secretkeys.Of(&corev1.Secret{}, &v1alpha1.SecretKeysReference{Name: "s"}); err == nil {
		t.Error("an empty Secret has keys")
	}
}
