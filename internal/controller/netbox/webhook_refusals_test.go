package netbox_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/netboxapi"
	"github.com/netbox-events/netbox-event-operator/test/controlplane"
)

// TestTakenNames leaves alone what a person or another operator made.
func TestTakenNames(t *testing.T) {
	forEachNetBox(t, func(t *testing.T, url, token string) {
		t.Helper()
		o := newOperator(t, url, token, nil)
		mine := func(description string) netboxapi.Webhook {
			return netboxapi.Webhook{
				Name: o.objectName(), Description: description, PayloadURL: "http://elsewhere.example.com/", HTTPMethod: "POST",
				HTTPContentType: "text/plain", Secret: "x",
			}
		}
		made, err := o.person.CreateWebhook(t.Context(), mine("of a person"))
		if err != nil {
			t.Fatal(err)
		}
		expectUntouched := func() {
			t.Helper()
			if webhook, rule := o.inNetBox(); webhook == nil || *webhook != *made || rule != nil {
				t.Errorf("webhook %+v, event rule %+v; want %+v", webhook, rule, made)
			}
		}
		o.reconcile(0)
		o.expect(v1alpha1.ConditionWebhookConfigured, "False NameTaken", fmt.Sprintf("webhook %d was not made by this operator", made.ID))
		o.expectEvent("NameTaken", "rename or delete it in NetBox")
		expectUntouched()

		other := mine("NetBoxSource netbox/netbox, uid 1b4e28ba-2fa1-11d2-883f-0016d3cca427; made and kept by netbox-event-operator")
		if made, err = o.person.UpdateWebhook(t.Context(), *made, other); err != nil {
			t.Fatal(err)
		}
		o.check()
		o.expect(v1alpha1.ConditionWebhookConfigured, "False NameTaken",
			"belongs to the NetBoxSource with uid 1b4e28ba-2fa1-11d2-883f-0016d3cca427")
		expectUntouched()

		o.delete()
		o.reconcile(0)
		expectUntouched()
		if o.source() != nil {
			t.Error("the source still exists")
		}
		if err := o.person.DeleteWebhook(t.Context(), made.ID); err != nil {
			t.Fatal(err)
		}
	})
}

// TestRetain keeps the webhook for the next source of the same name.
func TestRetain(t *testing.T) {
	forEachNetBox(t, func(t *testing.T, url, token string) {
		t.Helper()
		retain := func(s *v1alpha1.NetBoxSource) { s.Spec.NetBox.Webhook.DeletionPolicy = v1alpha1.DeletionPolicyRetain }
		o := newOperator(t, url, token, retain)
		o.serve()
		o.reconcile(0)
		before, ruleBefore := o.inNetBox()
		o.delete()
		o.reconcile(0)
		kept, rule := o.inNetBox()
		if o.source() != nil || kept == nil || rule == nil || !slices.Equal(before.Drift(*kept), []string{"description"}) ||
			!slices.Equal(ruleBefore.Drift(*rule), []string{"description"}) ||
			!strings.HasSuffix(kept.Description, "kept when the source was deleted") {
			t.Errorf("source %v, webhook %+v, event rule %+v", o.source(), kept, rule)
		}
		o.reconcile(0)

		o.create(url, nil)
		o.serve()
		o.restart()
		o.reconcile(0)
		o.expectConfigured()
		o.expectAsWanted("first")
		if adopted, rule := o.inNetBox(); adopted.ID != kept.ID || rule.ID != ruleBefore.ID {
			t.Errorf("webhook %+v and event rule %+v instead of %d and %d", adopted, rule, kept.ID, ruleBefore.ID)
		}

		o.change(func(s *v1alpha1.NetBoxSource) { s.Spec.NetBox.Webhook = nil })
		o.reconcile(0)
		o.expectNothing()
		source := o.source()
		if len(source.Finalizers) > 0 || source.Status.NetBox.WebhookID != 0 || source.Status.NetBox.Version == "" ||
			len(source.Status.Conditions) != 1 {
			t.Errorf("after spec.netbox.webhook was removed: finalizers %v, status %+v", source.Finalizers, source.Status)
		}
		o.change(func(s *v1alpha1.NetBoxSource) { s.Spec.NetBox = nil })
		o.reconcile(0)
		if source := o.source(); source.Status.NetBox != nil || len(source.Status.Conditions) != 0 {
			t.Errorf("after spec.netbox was removed: status %+v", source.Status)
		}
	})
}

// serve writes the part of the status that another controller owns.
func (o *operator) serve() {
	o.t.Helper()
	source := o.source()
	source.Status.Path = "/webhook/netbox/netbox"
	if err := plane.Client.Status().Update(o.t.Context(), source); err != nil {
		o.t.Fatal(err)
	}
}

// TestRefusals gets each refusal of NetBox, and says what to do about it.
func TestRefusals(t *testing.T) {
	deny := func(request string) func(*fakeNetBox) { return func(n *fakeNetBox) { n.denied[request] = true } }
	for name, test := range map[string]struct {
		refuse          func(*fakeNetBox)
		status, message string
	}{
		"view webhooks":      {deny("GET webhooks"), "False PermissionMissing", "view on extras.webhook"},
		"add webhooks":       {deny("POST webhooks"), "False PermissionMissing", "add on extras.webhook"},
		"view rules":         {deny("GET event-rules"), "False PermissionMissing", "view on extras.eventrule"},
		"add rules":          {deny("POST event-rules"), "False PermissionMissing", "add on extras.eventrule"},
		"hidden webhook":     {hide("webhooks"), "False NameTaken", "another webhook, which the token may not see"},
		"hidden rule":        {hide("event-rules"), "False NameTaken", "another event rule, which the token may not see"},
		"old":                {func(n *fakeNetBox) { n.version = "3.6.9" }, "False UnsupportedVersion", "set up the webhook by hand"},
		"types unknown":      {func(n *fakeNetBox) { n.types = map[string]bool{"a.b": true} }, "False Refused", "correct the list"},
		"502":                {down(http.StatusBadGateway), "Unknown Unreachable", "answered 502"},
		"HTML":               {down(http.StatusOK), "Unknown Unreachable", "instead of JSON"},
		"too many (429)":     {down(http.StatusTooManyRequests), "Unknown Unreachable", "429"},
		"nothing is refused": {func(*fakeNetBox) {}, "True Configured", "2 object types"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("NETBOX_TOKEN", "")
			n := newFakeNetBox(t, "4.7.3")
			o := newOperator(t, n.URL, "right-token", func(s *v1alpha1.NetBoxSource) { s.Spec.NetBox.Webhook.ObjectTypes = []string{"dcim.*"} })
			n.set(func() {
				for _, objects := range n.objects { // for hide
					objects[1] = map[string]any{"id": 1, "name": o.objectName() + " of others", "description": ""}
				}
				test.refuse(n)
			})
			o.reconcile(0)
			o.expect(v1alpha1.ConditionWebhookConfigured, test.status, test.message)
			if test.status == "Unknown Unreachable" {
				o.expect(v1alpha1.ConditionNetBoxReachable, "False Unreachable", test.message)
			} else {
				o.expect(v1alpha1.ConditionNetBoxReachable, "True Reachable", "NetBox ")
			}
			if test.status == "True Configured" {
				return
			}
			n.writes()
			if o.reconcile(time.Second); n.count() != 0 {
				t.Error("NetBox is asked again after a second")
			}
			for range 12 { // an hour of failures
				o.check()
			}
			n.writes()
			o.reconcile(time.Minute)
			if count := n.count(); count != 0 {
				t.Errorf("%d requests in a minute after many failures", count)
			}
		})
	}
}

// TestRefusedChanges says which permissions are missing for changes and deletions, and goes on when they are there.
func TestRefusedChanges(t *testing.T) {
	t.Setenv("NETBOX_TOKEN", "")
	for kind, model := range map[string]string{"webhooks": "extras.webhook", "event-rules": "extras.eventrule"} {
		n := newFakeNetBox(t, "4.7.3")
		o := newOperator(t, n.URL, "right-token", nil)
		o.reconcile(0)
		n.set(func() {
			for _, object := range n.objects[kind] {
				object["description"] = "changed"
			}
			n.denied["PATCH "+kind], n.denied["DELETE "+kind] = true, true
		})
		o.restart() // it checks at once
		o.reconcile(0)
		o.expect(v1alpha1.ConditionWebhookConfigured, "False PermissionMissing", "change on "+model)
		n.set(func() { delete(n.denied, "PATCH "+kind) })
		o.reconcile(5 * time.Second)
		o.expectConfigured()
		o.expectAsWanted("first")
		o.delete()
		o.reconcile(time.Second)
		o.expect(v1alpha1.ConditionWebhookConfigured, "False RemovalFailed", "delete on "+model)
		n.set(func() { delete(n.denied, "DELETE "+kind) })
		o.reconcile(5 * time.Second)
		o.expectNothing()
		if o.source() != nil {
			t.Error("the source still exists")
		}
	}
}

// hide takes the names of all objects, invisibly.
func hide(kind string) func(*fakeNetBox) {
	return func(n *fakeNetBox) {
		object := n.objects[kind][1]
		object["name"] = strings.TrimSuffix(object["name"].(string), " of others")
		n.hidden[kind+object["name"].(string)] = true
	}
}

// down answers everything with a page of HTML.
func down(status int) func(*fakeNetBox) {
	return func(n *fakeNetBox) {
		n.down = func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			w.Header().Set("Retry-After", "120")
			w.WriteHeader(status)
			_, _ = w.Write([]byte("<html>"))
		}
	}
}

// TestTypesWithoutEventRules leaves out what an old NetBox refuses: its list does not say which types have event rules.
func TestTypesWithoutEventRules(t *testing.T) {
	t.Setenv("NETBOX_TOKEN", "")
	n := newFakeNetBox(t, "4.1.11")
	for i := range 25 {
		n.types[fmt.Sprintf("auth.model%d", i)] = false
	}
	o := newOperator(t, n.URL, "right-token", func(s *v1alpha1.NetBoxSource) { s.Spec.NetBox.Webhook.ObjectTypes = []string{"*"} })
	o.reconcile(0)
	o.reconcile(5 * time.Second) // the number of refusals in one check is limited
	o.expect(v1alpha1.ConditionWebhookConfigured, "True Configured", "4 object types")
	o.expect(v1alpha1.ConditionWebhookConfigured, "True Configured", "extras.webhook is left out")
	_, rule := o.inNetBox()
	if want := []string{"dcim.device", "dcim.site", "extras.script", "ipam.prefix"}; !slices.Equal(rule.ObjectTypes, want) {
		t.Errorf("object types %v, want %v", rule.ObjectTypes, want)
	}
}

// TestRequestsAtRest counts what NetBox has to answer while nothing changes, and that changes are carried at once.
func TestRequestsAtRest(t *testing.T) {
	t.Setenv("NETBOX_TOKEN", "")
	n := newFakeNetBox(t, "4.7.3")
	o := newOperator(t, n.URL, "right-token", nil)
	result := o.reconcile(0)
	if result.RequeueAfter != 15*time.Second {
		t.Errorf("the Secrets are read again after %s", result.RequeueAfter)
	}
	n.writes()
	version := o.source().ResourceVersion
	for range 240 { // an hour
		o.reconcile(15 * time.Second)
	}
	if writes, count := n.writes(); len(writes) > 0 || count > 40 || o.source().ResourceVersion != version {
		t.Errorf("an hour at rest: %d requests, writes %v; status written: %t", count, writes, o.source().ResourceVersion != version)
	}
	o.change(func(s *v1alpha1.NetBoxSource) { s.Spec.NetBox.Webhook.Events = []string{"deleted", "job_ended"} })
	o.reconcile(0)
	if writes, _ := n.writes(); len(writes) != 1 || !strings.HasPrefix(writes[0], "PATCH /api/extras/event-rules/") {
		t.Errorf("writes %v", writes)
	}
	if events := o.events(); strings.Contains(events, "Drift") {
		t.Errorf("a change of the source is reported as drift: %s", events)
	}
}

// TestKeys carries unusual keys, or says why it cannot.
func TestKeys(t *testing.T) {
	t.Setenv("NETBOX_TOKEN", "")
	n := newFakeNetBox(t, "4.7.3")
	o := newOperator(t, n.URL, "right-token", nil)
	o.reconcile(0)
	o.setSecret("webhook", map[string][]byte{"secret": []byte("first"), "z": []byte(" padded")})
	o.reconcile(15 * time.Second)
	o.expect(v1alpha1.ConditionWebhookConfigured, "False KeyUnusable", "entry z of Secret webhook cannot be the webhook's secret in NetBox")
	if webhook, _ := o.inNetBox(); webhook.Secret != "first" {
		t.Errorf("the secret in NetBox is %q", webhook.Secret)
	}
	o.setSecret("webhook", map[string][]byte{"z": []byte("padded\n")})
	o.reconcile(15 * time.Second)
	o.expectAsWanted("padded")

	o.change(func(s *v1alpha1.NetBoxSource) { s.Spec.SecretRef, s.Spec.Unsigned = nil, v1alpha1.UnsignedAccept })
	o.reconcile(0)
	o.expect(v1alpha1.ConditionWebhookConfigured, "True Configured", ", unsigned")
	if webhook, _ := o.inNetBox(); webhook.Secret != "" {
		t.Errorf("the secret in NetBox is %q", webhook.Secret)
	}

	o.setSecret("token", map[string][]byte{"token": []byte("wrong-token")})
	o.reconcile(15 * time.Second)
	o.expect(v1alpha1.ConditionNetBoxReachable, "False TokenRefused", "NetBox does not know the token")
	o.setSecret("token", map[string][]byte{})
	o.reconcile(15 * time.Second)
	o.expect(v1alpha1.ConditionNetBoxReachable, "False TokenUnreadable", "spec.netbox.tokenSecretRef: Secret token has no entry token")
	o.setSecret("token", map[string][]byte{"token": []byte("right-token")})
	o.reconcile(15 * time.Second)
	o.expectConfigured()
}

// TestDeletionWhileNetBoxIsAway waits ten minutes for NetBox, and no longer.
func TestDeletionWhileNetBoxIsAway(t *testing.T) {
	t.Setenv("NETBOX_TOKEN", "")
	for name, test := range map[string]struct {
		fail    func(*operator, *fakeNetBox)
		message string
	}{
		"away": {func(_ *operator, n *fakeNetBox) { n.set(func() { down(http.StatusBadGateway)(n) }) }, "answered 502"},
		"no permission": {
			func(_ *operator, n *fakeNetBox) { n.set(func() { n.denied["DELETE webhooks"] = true }) }, "delete on extras.webhook",
		},
		"no token": {func(o *operator, _ *fakeNetBox) {
			o.restart() // a process that never had the token
			secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: o.name.Namespace, Name: "token"}}
			if err := plane.Client.Delete(context.Background(), secret); err != nil {
				o.t.Fatal(err)
			}
		}, "Secret token does not exist"},
	} {
		t.Run(name, func(t *testing.T) {
			n := newFakeNetBox(t, "4.7.3")
			o := newOperator(t, n.URL, "right-token", nil)
			o.reconcile(0)
			test.fail(o, n)
			o.events()
			o.delete()
			o.reconcile(5 * time.Second)
			o.expect(v1alpha1.ConditionWebhookConfigured, "False RemovalFailed", test.message)
			o.expectEvent("RemovalFailed", test.message)
			o.reconcile(9 * time.Minute)
			if events := o.events(); o.source() == nil || events != "" {
				t.Fatalf("gave up after 9 minutes, or reported it again: %s", events)
			}
			result := o.reconcile(0)
			if result.RequeueAfter > time.Minute {
				t.Errorf("the next try is after %s, when it is time to give up", result.RequeueAfter)
			}
			o.reconcile(time.Minute)
			if o.source() != nil {
				t.Error("the source still exists after 10 minutes")
			}
			o.expectEvent("WebhookLeft", "webhook 14 and event rule 15, named "+o.objectName()+", remain in NetBox at 127.0.0.1")
		})
	}
	t.Run("nothing was made", func(t *testing.T) {
		n := newFakeNetBox(t, "4.7.3")
		down(http.StatusBadGateway)(n)
		o := newOperator(t, n.URL, "right-token", nil)
		o.reconcile(0)
		o.delete()
		o.reconcile(0)
		o.reconcile(time.Minute)
		if o.source() != nil {
			t.Error("the source still exists")
		}
		o.expectEvent("WebhookLeft", "may remain")
	})
	t.Run("the token is deleted with the namespace", func(t *testing.T) {
		n := newFakeNetBox(t, "4.7.3")
		o := newOperator(t, n.URL, "right-token", nil)
		o.reconcile(0)
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: o.name.Namespace, Name: "token"}}
		if err := plane.Client.Delete(t.Context(), secret); err != nil {
			t.Fatal(err)
		}
		o.delete()
		o.reconcile(15 * time.Second)
		o.expectNothing()
		if o.source() != nil {
			t.Error("the source still exists")
		}
	})
}

// TestStatusIsLost finds what was made before a crash.
func TestStatusIsLost(t *testing.T) {
	t.Setenv("NETBOX_TOKEN", "")
	n := newFakeNetBox(t, "4.7.3")
	o := newOperator(t, n.URL, "right-token", nil)
	o.reconcile(0)
	source := o.source()
	source.Status = v1alpha1.NetBoxSourceStatus{}
	if err := plane.Client.Status().Update(t.Context(), source); err != nil {
		t.Fatal(err)
	}
	n.writes()
	o.restart()
	o.reconcile(0)
	o.expectAsWanted("first")
	if writes, _ := n.writes(); len(writes) > 0 {
		t.Errorf("writes %v", writes)
	}
}

// TestWatches runs the controller: it follows the rules of the namespace.
func TestWatches(t *testing.T) {
	t.Setenv("NETBOX_TOKEN", "")
	n := newFakeNetBox(t, "4.7.3")
	o := newOperator(t, n.URL, "right-token", func(s *v1alpha1.NetBoxSource) {
		s.Spec.NetBox.Webhook.ObjectTypes = []string{v1alpha1.ObjectTypesFromRules}
	})
	mgr, err := ctrl.NewManager(plane.Config, ctrl.Options{
		Scheme: plane.Client.Scheme(), Logger: logr.Discard(), Metrics: metricsserver.Options{BindAddress: "0"},
	})
	if err != nil {
		t.Fatal(err)
	}
	o.reconciler.Cached, o.reconciler.Sources, o.reconciler.Clock = mgr.GetClient(), mgr.GetClient(), clock.RealClock{}
	if err := o.reconciler.SetupWithManager(mgr); err != nil {
		t.Fatal(err)
	}
	controlplane.Run(t, mgr)
	waitFor := func(want ...string) {
		t.Helper()
		var types []string
		for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
			if _, rule := o.inNetBox(); rule != nil {
				if types = rule.ObjectTypes; slices.Equal(types, want) {
					return
				}
			}
		}
		t.Fatalf("object types %q, want %q", types, want)
	}
	waitFor()
	rule := &v1alpha1.NetBoxEventRule{ObjectMeta: metav1.ObjectMeta{Namespace: o.name.Namespace, Name: "rule"}}
	rule.Spec.Match.ObjectTypes = []string{"dcim.Site", "nosuch.type"}
	rule.Spec.Actions = []v1alpha1.Action{{Name: "log", Log: &v1alpha1.LogAction{Message: "x"}}}
	plane.Create(t, rule)
	waitFor("dcim.site")
	suspend := client.RawPatch(types.MergePatchType, []byte(`{"spec":{"suspend":true}}`))
	if err := plane.Client.Patch(t.Context(), rule, suspend); err != nil {
		t.Fatal(err)
	}
	waitFor()
	o.delete()
	for end := time.Now().Add(10 * time.Second); o.source() != nil; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the source still exists")
		}
	}
	o.expectNothing()
}

// TestLeastRights sets up the webhook of a real NetBox with a token that may do nothing else.
func TestLeastRights(t *testing.T) {
	url, token := os.Getenv("NETBOX_URL"), os.Getenv("NETBOX_TOKEN")
	if url == "" {
		t.Skip("NETBOX_URL and NETBOX_TOKEN are not set")
	}
	admin := func(method, path string, body any) map[string]any {
		t.Helper()
		var text []byte
		if body != nil {
			text, _ = json.Marshal(body) //nolint:errchkjson // texts and ids
		}
		request, err := http.NewRequestWithContext(context.Background(), method, url+path, bytes.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		request.Header = http.Header{"Authorization": {"Token " + token}, "Content-Type": {"application/json"}}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		var answer map[string]any
		_ = json.NewDecoder(response.Body).Decode(&answer)
		if response.StatusCode/100 != 2 {
			t.Fatalf("%s %s: %s %v", method, path, response.Status, answer)
		}
		return answer
	}
	create := func(path string, body map[string]any) map[string]any {
		t.Helper()
		made := admin(http.MethodPost, path, body)
		t.Cleanup(func() { admin(http.MethodDelete, fmt.Sprintf("%s%v/", path, made["id"]), nil) })
		return made
	}
	name := fmt.Sprintf("least-rights-%d", time.Now().UnixNano())
	user := create("/api/users/users/", map[string]any{"username": name, "password": "Some-password-12"})
	permission := map[string]any{
		"name": name, "object_types": []string{"extras.webhook", "extras.eventrule"}, "actions": []string{"view", "add", "change", "delete"},
		"constraints": map[string]any{"name__startswith": "netbox-event-operator/"}, "users": []any{user["id"]},
	}
	create("/api/users/permissions/", permission)
	least := create("/api/users/tokens/", map[string]any{"user": user["id"], "version": 1})

	o := newOperator(t, url, least["token"].(string), nil)
	o.reconcile(0)
	o.expectConfigured()
	o.expectAsWanted("first")
	webhook, rule := o.inNetBox()
	changed := *webhook
	changed.PayloadURL = "https://elsewhere.example.com/"
	if _, err := o.person.UpdateWebhook(t.Context(), *webhook, changed); err != nil {
		t.Fatal(err)
	}
	disabled := *rule
	disabled.Enabled = false
	if _, err := o.person.UpdateEventRule(t.Context(), *rule, disabled); err != nil {
		t.Fatal(err)
	}
	o.check()
	o.expectAsWanted("first")
	o.setSecret("webhook", map[string][]byte{"secret": []byte("first"), "secret-2": []byte("second")})
	o.reconcile(15 * time.Second)
	o.expectAsWanted("second")
	o.delete()
	o.reconcile(0)
	o.expectNothing()
	if o.source() != nil {
		t.Error("the source still exists")
	}
}
