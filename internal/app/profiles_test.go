package app_test

import (
	"crypto/tls"
	"io"
	"net/http"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/netbox-events/netbox-event-operator/test/controlplane"
)

// TestProfiles requests profiles with the permission for them, with Prometheus' permissions, and with none.
func TestProfiles(t *testing.T) {
	namespace, metrics := plane.Namespace(t), controlplane.NewAddress(t)
	start(t, plane.Config, "--watch-namespaces="+namespace, "--metrics-bind-address="+metrics)
	account := func(urls ...string) (token string) {
		name := metav1.ObjectMeta{GenerateName: "reader-"}
		reader := &corev1.ServiceAccount{ObjectMeta: name}
		reader.Namespace = namespace
		role := &rbacv1.ClusterRole{ObjectMeta: name, Rules: []rbacv1.PolicyRule{{NonResourceURLs: urls, Verbs: []string{"get"}}}}
		plane.Create(t, reader, role)
		plane.Create(t, &rbacv1.ClusterRoleBinding{
			ObjectMeta: name, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role.Name},
			Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: namespace, Name: reader.Name}},
		})
		var request authenticationv1.TokenRequest
		if err := plane.Client.SubResource("token").Create(t.Context(), reader, &request); err != nil {
			t.Fatal(err)
		}
		return request.Status.Token
	}
	prometheus, developer := account("/metrics"), account("/debug/pprof/*")
	reader := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	get := func(path, token string) int {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+metrics+path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		if token != "" {
			request.Header.Set("Authorization", "Bearer "+token)
		}
		response, err := reader.Do(request)
		if err != nil {
			return 0
		}
		defer response.Body.Close()
		if _, err := io.Copy(io.Discard, response.Body); err != nil {
			t.Error(err)
		}
		return response.StatusCode
	}
	eventually(t, "no metrics", 30*time.Second, func() bool { return get("/metrics", prometheus) == http.StatusOK })
	for _, test := range []struct {
		path, token string
		want        int
	}{
		{"/metrics", developer, http.StatusForbidden},
		{"/debug/pprof/", developer, http.StatusOK},
		{"/debug/pprof/heap", developer, http.StatusOK},
		{"/debug/pprof/profile?seconds=1", developer, http.StatusOK},
		{"/debug/pprof/heap", prometheus, http.StatusForbidden},
		{"/debug/pprof/profile?seconds=1", prometheus, http.StatusForbidden},
		{"/debug/pprof/heap", "", http.StatusUnauthorized},
	} {
		if got := get(test.path, test.token); got != test.want {
			t.Errorf("%s is answered with %d, want %d", test.path, got, test.want)
		}
	}
}
