package netbox_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

// TestLiveChangeLog makes changes in the NetBox at NETBOX_URL, such as http://127.0.0.1:8000, with the token NETBOX_TOKEN.
func TestLiveChangeLog(t *testing.T) {
	url, token := os.Getenv("NETBOX_URL"), os.Getenv("NETBOX_TOKEN")
	if url == "" || token == "" {
		t.Skip("NETBOX_URL or NETBOX_TOKEN is not set")
	}
	w := newWorld(t, func(s *v1alpha1.NetBoxSource) {
		s.Spec.NetBox.URL = url
		s.Spec.Accept = &v1alpha1.Filter{ObjectTypes: []string{"dcim.site", "extras.tag", "dcim.region"}, CEL: `event.objectName.startsWith("changelog ")`}
	})
	w.setToken(token)
	call := caller(t, url, token)
	w.reconcile()
	w.expectCondition("ChangeLogRead", "True UpToDate", "")

	mark := fmt.Sprint(time.Now().UnixNano())
	tag := call("POST", "/api/extras/tags/", map[string]any{"name": "changelog " + mark, "slug": "changelog-" + mark})
	site := call("POST", "/api/dcim/sites/", map[string]any{
		"name": "changelog " + mark, "slug": "changelog-" + mark, "tags": []any{tag["id"]}, "latitude": 12.5,
	})
	sitePath := fmt.Sprintf("/api/dcim/sites/%v/", site["id"])
	call("PATCH", sitePath, map[string]any{"status": "planned"})
	w.jump(lag + interval)
	w.reconcile()
	call("DELETE", sitePath, nil)
	call("DELETE", fmt.Sprintf("/api/extras/tags/%v/", tag["id"]), nil)
	w.jump(lag + interval)
	w.reconcile()
	var got []string
	for _, event := range w.stored() {
		got = append(got, event.Spec.Event+" "+event.Spec.ObjectType)
		var link string
		if err := json.Unmarshal(event.Spec.Data["url"].Raw, &link); err != nil || !strings.HasPrefix(link, "/api/") {
			t.Errorf("%s: url is %s", event.Name, event.Spec.Data["url"].Raw)
		}
		if isNow := event.Spec.Delivery.DataReadAt != nil; isNow != (event.Spec.Event != "deleted") {
			t.Errorf("%s: dataReadAt is %v", event.Name, event.Spec.Delivery.DataReadAt)
		}
		if event.Spec.Event == "updated" && !slices.Equal(event.Spec.ChangedFields, []string{"status"}) {
			t.Errorf("%s: changedFields are %v", event.Name, event.Spec.ChangedFields)
		}
	}
	want := []string{"created extras.tag", "created dcim.site", "updated dcim.site", "deleted dcim.site", "deleted extras.tag"}
	if !slices.Equal(got, want) {
		t.Errorf("events %q, want %q", got, want)
	}
	w.expectCondition("Receiving", "False NothingArrives", "NetBox logged 5 changes")
	t.Log(w.source().Status.Conditions)
}

// setToken replaces the token of the source.
func (w *world) setToken(token string) {
	w.Helper()
	secret := &corev1.Secret{}
	secret.Namespace, secret.Name = w.name.Namespace, "token"
	if err := plane.Client.Patch(w.Context(), secret, client.RawPatch("application/merge-patch+json",
		fmt.Appendf(nil, `{"stringData":{"token":%q}}`, token))); err != nil {
		w.Fatal(err)
	}
}

// caller returns a function that calls the API of a NetBox or Nautobot.
func caller(t *testing.T, url, token string) func(method, path string, body any) map[string]any {
	t.Helper()
	return func(method, path string, body any) map[string]any {
		t.Helper()
		var text []byte
		if body != nil {
			text, _ = json.Marshal(body)
		}
		request, err := http.NewRequestWithContext(t.Context(), method, url+path, bytes.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", "Token "+token)
		request.Header.Set("Content-Type", "application/json")
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = response.Body.Close() }()
		answer := map[string]any{}
		_ = json.NewDecoder(response.Body).Decode(&answer)
		if response.StatusCode/100 != 2 {
			t.Fatalf("%s %s: %s: %v", method, path, response.Status, answer)
		}
		return answer
	}
}

// TestLiveNautobot makes changes in the Nautobot at NAUTOBOT_URL with the token NAUTOBOT_TOKEN. Its log has no state from before a change.
func TestLiveNautobot(t *testing.T) {
	url, token := os.Getenv("NAUTOBOT_URL"), os.Getenv("NAUTOBOT_TOKEN")
	if url == "" || token == "" {
		t.Skip("NAUTOBOT_URL or NAUTOBOT_TOKEN is not set")
	}
	w := newWorld(t, func(s *v1alpha1.NetBoxSource) {
		s.Spec.NetBox.URL = url
		s.Spec.Accept = &v1alpha1.Filter{ObjectTypes: []string{"extras.tag"}}
	})
	w.setToken(token)
	call := caller(t, url, token)
	w.reconcile()
	w.expectCondition("ChangeLogRead", "True UpToDate", "")

	name := "changelog " + fmt.Sprint(time.Now().UnixNano())
	tag := call("POST", "/api/extras/tags/", map[string]any{"name": name, "content_types": []string{"dcim.device"}})
	path := fmt.Sprintf("/api/extras/tags/%v/", tag["id"])
	call("PATCH", path, map[string]any{"description": "x"})
	w.jump(lag + interval)
	w.reconcile()
	call("DELETE", path, nil)
	w.jump(lag + interval)
	w.reconcile()
	var got []string
	for _, event := range w.stored() {
		got = append(got, event.Spec.Event+" "+event.Spec.ObjectType+" "+event.Spec.ObjectName)
		if event.Spec.ObjectID != tag["id"] || len(event.Spec.ChangedFields) > 0 {
			t.Errorf("%s is of object %s, and changed %v", event.Name, event.Spec.ObjectID, event.Spec.ChangedFields)
		}
	}
	want := []string{"created extras.tag " + name, "updated extras.tag " + name, "deleted extras.tag " + name}
	if !slices.Equal(got, want) {
		t.Errorf("events %q, want %q", got, want)
	}
	w.restart()
	w.jump(interval)
	w.reconcile()
	if again := len(w.stored()); again != len(want) {
		t.Errorf("%d events after a restart, want %d", again, len(want))
	}
}
