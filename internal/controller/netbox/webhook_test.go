package netbox_test

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/controller/netbox"
	"github.com/netbox-events/netbox-event-operator/internal/netboxapi"
	"github.com/netbox-events/netbox-event-operator/internal/outbound"
)

const receiverURL = "https://netbox-events.example.com/webhook/netbox/netbox"

// operator runs the reconciler by hand for one source, with a clock of its own.
type operator struct {
	t          *testing.T
	name       types.NamespacedName
	clock      *clocktesting.FakePassiveClock
	metrics    *netbox.Metrics
	registry   *prometheus.Registry
	recorder   *events.FakeRecorder
	reconciler *netbox.WebhookReconciler
	// person changes NetBox.
	person *netboxapi.Client
}

// newOperator creates a source, in a namespace of its own, with a webhook that the operator is to make.
func newOperator(t *testing.T, url, token string, change func(*v1alpha1.NetBoxSource)) *operator {
	t.Helper()
	o := &operator{
		t: t, clock: clocktesting.NewFakePassiveClock(time.Now()), registry: prometheus.NewRegistry(), recorder: events.NewFakeRecorder(1000),
		name: types.NamespacedName{Namespace: plane.Namespace(t), Name: "netbox"},
	}
	o.metrics = netbox.NewMetrics(o.registry)
	secret := func(name string, entries map[string]string) *corev1.Secret {
		return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: o.name.Namespace, Name: name}, StringData: entries}
	}
	plane.Create(t, secret("webhook", map[string]string{"secret": "first"}), secret("token", map[string]string{"token": token}))
	o.create(url, change)
	var err error
	if o.person, err = netboxapi.New(netboxapi.Options{
		URL: url, Token: cmp.Or(os.Getenv("NETBOX_TOKEN"), token), Transport: http.DefaultTransport, Limiter: rate.NewLimiter(rate.Inf, 1),
	}); err != nil {
		t.Fatal(err)
	}
	o.restart()
	return o
}

// create creates the source.
func (o *operator) create(url string, change func(*v1alpha1.NetBoxSource)) {
	o.t.Helper()
	source := &v1alpha1.NetBoxSource{ObjectMeta: metav1.ObjectMeta{Namespace: o.name.Namespace, Name: o.name.Name}}
	source.Spec.SecretRef = &v1alpha1.SecretKeysReference{Name: "webhook"}
	source.Spec.NetBox = &v1alpha1.NetBoxAPI{
		URL: url, TokenSecretRef: v1alpha1.SecretKeyReference{Name: "token", Key: "token"},
		Webhook: &v1alpha1.ManagedWebhook{URL: receiverURL, ObjectTypes: []string{"dcim.*", "ipam.prefix"}},
	}
	if change != nil {
		change(source)
	}
	plane.Create(o.t, source)
}

// restart replaces the reconciler by one that knows nothing.
func (o *operator) restart() {
	secrets := outbound.NewSecrets(plane.Client, o.clock)
	transports := outbound.NewTransports(outbound.Options{
		Secrets: secrets, AllowCIDRs: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Clock: clock.RealClock{},
	})
	o.reconciler = &netbox.WebhookReconciler{
		Cached: plane.Client, Sources: plane.Client, Clients: netbox.NewClients(transports, secrets, o.metrics, o.clock), Secrets: secrets,
		Recorder: o.recorder, Metrics: o.metrics, Clock: o.clock,
	}
}

// reconcile reconciles the source after a time.
func (o *operator) reconcile(after time.Duration) reconcile.Result {
	o.t.Helper()
	o.clock.SetTime(o.clock.Now().Add(after))
	result, err := o.reconciler.Reconcile(o.t.Context(), reconcile.Request{NamespacedName: o.name})
	if err != nil {
		o.t.Fatal(err)
	}
	return result
}

// check reconciles the source after the time between two checks.
func (o *operator) check() { o.t.Helper(); o.reconcile(5 * time.Minute) }

// source returns the source; nil if it is deleted.
func (o *operator) source() *v1alpha1.NetBoxSource {
	o.t.Helper()
	source := &v1alpha1.NetBoxSource{}
	err := plane.Client.Get(context.Background(), o.name, source)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		o.t.Fatal(err)
	}
	return source
}

func (o *operator) change(change func(*v1alpha1.NetBoxSource)) {
	o.t.Helper()
	source := o.source()
	change(source)
	if err := plane.Client.Update(o.t.Context(), source); err != nil {
		o.t.Fatal(err)
	}
}

func (o *operator) delete() {
	o.t.Helper()
	if err := plane.Client.Delete(o.t.Context(), o.source()); err != nil {
		o.t.Fatal(err)
	}
}

func (o *operator) setSecret(name string, entries map[string][]byte) {
	o.t.Helper()
	secret := &corev1.Secret{}
	if err := plane.Client.Get(o.t.Context(), types.NamespacedName{Namespace: o.name.Namespace, Name: name}, secret); err != nil {
		o.t.Fatal(err)
	}
	secret.Data = entries
	if err := plane.Client.Update(o.t.Context(), secret); err != nil {
		o.t.Fatal(err)
	}
}

// expect checks a condition: the text is its status and reason, and a part of its message.
func (o *operator) expect(condition, status, message string) {
	o.t.Helper()
	found := meta.FindStatusCondition(o.source().Status.Conditions, condition)
	if found == nil || string(found.Status)+" "+found.Reason != status || !strings.Contains(found.Message, message) {
		o.t.Errorf("condition %s is %+v, want %s: …%s…", condition, found, status, message)
	}
	if found != nil && (strings.Contains(found.Message, "\n") || strings.Contains(found.Message, "first")) {
		o.t.Errorf("the message of condition %s has several lines or a secret: %q", condition, found.Message)
	}
}

func (o *operator) expectConfigured() {
	o.t.Helper()
	o.expect(v1alpha1.ConditionNetBoxReachable, "True Reachable", " answers at 127.0.0.1")
	o.expect(v1alpha1.ConditionWebhookConfigured, "True Configured", receiverURL)
}

// events returns the Kubernetes Events since the last call.
func (o *operator) events() string {
	var all []string
	for len(o.recorder.Events) > 0 {
		all = append(all, <-o.recorder.Events)
	}
	return strings.Join(all, "\n")
}

func (o *operator) expectEvent(reason, text string) {
	o.t.Helper()
	all := o.events()
	if !strings.Contains(all, " "+reason+" ") || !strings.Contains(all, text) || strings.Contains(all, "first") {
		o.t.Errorf("Events are %q, want %s … %s", all, reason, text)
	}
}

// objectName is the name of the webhook and the event rule.
func (o *operator) objectName() string { return "netbox-event-operator/" + o.name.String() }

// inNetBox returns the webhook and the event rule; nil for none.
func (o *operator) inNetBox() (*netboxapi.Webhook, *netboxapi.EventRule) {
	o.t.Helper()
	webhook, err := o.person.Webhook(o.t.Context(), o.objectName())
	if err != nil {
		o.t.Fatal(err)
	}
	rule, err := o.person.EventRule(o.t.Context(), o.objectName())
	if err != nil {
		o.t.Fatal(err)
	}
	return webhook, rule
}

func (o *operator) expectNothing() {
	o.t.Helper()
	if webhook, rule := o.inNetBox(); webhook != nil || rule != nil {
		o.t.Errorf("webhook %+v and event rule %+v are left in NetBox", webhook, rule)
	}
}

// expectAsWanted checks the webhook and the event rule in NetBox.
func (o *operator) expectAsWanted(secret string) {
	o.t.Helper()
	webhook, rule := o.inNetBox()
	if webhook == nil || rule == nil {
		o.t.Fatalf("webhook %+v, event rule %+v", webhook, rule)
	}
	source := o.source()
	mark := fmt.Sprintf("NetBoxSource %s, uid %s; made and kept by netbox-event-operator", o.name, source.UID)
	want := *webhook
	want.Description, want.PayloadURL, want.HTTPMethod, want.HTTPContentType = mark, receiverURL, "POST", "application/json"
	want.AdditionalHeaders, want.BodyTemplate, want.Secret = "", "", secret
	if drift := webhook.Drift(want); drift != nil {
		o.t.Errorf("webhook %+v differs in %v", webhook, drift)
	}
	wantRule := netboxapi.EventRule{
		Name: o.objectName(), Description: mark, Enabled: true, WebhookID: webhook.ID,
		Events: []string{netboxapi.ObjectCreated, netboxapi.ObjectUpdated, netboxapi.ObjectDeleted}, ObjectTypes: rule.ObjectTypes,
	}
	if drift := rule.Drift(wantRule); drift != nil {
		o.t.Errorf("event rule %+v differs in %v", rule, drift)
	}
	if !slices.Contains(rule.ObjectTypes, "dcim.site") || !slices.Contains(rule.ObjectTypes, "ipam.prefix") ||
		slices.Contains(rule.ObjectTypes, "extras.webhook") {
		o.t.Errorf("object types %v", rule.ObjectTypes)
	}
	status := source.Status.NetBox
	if status.WebhookID != webhook.ID || status.EventRuleID != rule.ID || int(status.ObjectTypes) != len(rule.ObjectTypes) ||
		status.Key == "" || status.Version == "" {
		o.t.Errorf("status %+v", status)
	}
}

// forEachNetBox runs a test with rebuilt NetBoxes, and with a real one at NETBOX_URL, whose token is NETBOX_TOKEN.
func forEachNetBox(t *testing.T, test func(t *testing.T, url, token string)) {
	t.Helper()
	for _, version := range []string{"3.7.8", "4.0.11", "4.1.11", "4.7.3"} {
		t.Run(version, func(t *testing.T) {
			t.Setenv("NETBOX_TOKEN", "")
			test(t, newFakeNetBox(t, version).URL, "right-token")
		})
	}
	t.Run("live", func(t *testing.T) {
		if os.Getenv("NETBOX_URL") == "" {
			t.Skip("NETBOX_URL and NETBOX_TOKEN are not set")
		}
		test(t, os.Getenv("NETBOX_URL"), os.Getenv("NETBOX_TOKEN"))
	})
}

// TestWebhookIsMadeKeptAndRemoved goes from an empty NetBox through drift in each field, a rotation and deletions to the removal.
func TestWebhookIsMadeKeptAndRemoved(t *testing.T) {
	forEachNetBox(t, func(t *testing.T, url, token string) {
		t.Helper()
		o := newOperator(t, url, token, nil)
		o.reconcile(0)
		o.expectConfigured()
		o.expectAsWanted("first")
		o.expectEvent("WebhookChanged", "event rule")

		o.keepsFields(t)
		if drift := o.drift(); drift != 13 {
			t.Errorf("counted %v fields, want 13", drift)
		}
		o.keepsAfterDeletion(t)

		o.setSecret("webhook", map[string][]byte{"secret": []byte("first"), "secret-2": []byte("second")})
		o.reconcile(15 * time.Second)
		o.expectAsWanted("second")
		if events, status := o.events(), o.source().Status.NetBox; strings.Contains(events, "Drift") || status.Key != "secret-2" {
			t.Errorf("after a rotation: status %+v, Events %q", status, events)
		}
		o.change(func(s *v1alpha1.NetBoxSource) { s.Spec.SecretRef.Key = "secret" })
		o.reconcile(0)
		o.expectAsWanted("first")

		o.delete()
		o.reconcile(0)
		o.expectNothing()
		if o.source() != nil {
			t.Error("the source still exists")
		}
		o.expectEvent("WebhookRemoved", "deleted from NetBox")
		o.reconcile(0)
	})
}

// keepsFields changes each field in NetBox, as a person would.
func (o *operator) keepsFields(t *testing.T) {
	t.Helper()
	webhooks := map[string]func(*netboxapi.Webhook){
		"name":               func(w *netboxapi.Webhook) { w.Name = "renamed/" + o.name.Namespace },
		"description":        func(w *netboxapi.Webhook) { w.Description = "changed" },
		"payload_url":        func(w *netboxapi.Webhook) { w.PayloadURL = "https://elsewhere.example.com/" },
		"http_method":        func(w *netboxapi.Webhook) { w.HTTPMethod = "PUT" },
		"http_content_type":  func(w *netboxapi.Webhook) { w.HTTPContentType = "text/plain" },
		"additional_headers": func(w *netboxapi.Webhook) { w.AdditionalHeaders = "X-A: b" },
		"body_template":      func(w *netboxapi.Webhook) { w.BodyTemplate = "{{ data.name }}" },
		"secret":             func(w *netboxapi.Webhook) { w.Secret = "changed" },
	}
	for field, change := range webhooks {
		webhook, _ := o.inNetBox()
		changed := *webhook
		changed.SSLVerification = false // a person's choice, which is left alone
		change(&changed)
		if _, err := o.person.UpdateWebhook(t.Context(), *webhook, changed); err != nil {
			t.Fatalf("changing %s: %v", field, err)
		}
		o.keepsField(field+" of webhook", webhook.ID)
		if kept, _ := o.inNetBox(); kept.SSLVerification || kept.ID != webhook.ID {
			t.Errorf("after %s was changed, the webhook is %+v", field, kept)
		}
	}
	rules := map[string]func(*netboxapi.EventRule){
		"name":         func(r *netboxapi.EventRule) { r.Name = "renamed/" + o.name.Namespace },
		"enabled":      func(r *netboxapi.EventRule) { r.Enabled = false },
		"object_types": func(r *netboxapi.EventRule) { r.ObjectTypes = []string{"dcim.site"} },
		"event_types":  func(r *netboxapi.EventRule) { r.Events = []string{netboxapi.ObjectDeleted} },
		"conditions":   func(r *netboxapi.EventRule) { r.Conditions = json.RawMessage(`{"and": [{"attr": "id", "value": 1}]}`) },
	}
	for field, change := range rules {
		_, rule := o.inNetBox()
		changed := *rule
		change(&changed)
		if _, err := o.person.UpdateEventRule(t.Context(), *rule, changed); err != nil {
			t.Fatalf("changing %s: %v", field, err)
		}
		o.keepsField(field+" of event rule", rule.ID)
	}
}

func (o *operator) keepsField(field string, id int64) {
	o.t.Helper()
	o.events()
	o.check()
	o.expectAsWanted("first")
	o.expectEvent("DriftCorrected", fmt.Sprintf("%s %d", field, id))
	o.expect(v1alpha1.ConditionWebhookConfigured, "True Configured", "put right at ")
}

// keepsAfterDeletion deletes the event rule, and then the webhook.
func (o *operator) keepsAfterDeletion(t *testing.T) {
	t.Helper()
	webhook, rule := o.inNetBox()
	if err := o.person.DeleteEventRule(t.Context(), rule.ID); err != nil {
		t.Fatal(err)
	}
	o.check()
	o.expectAsWanted("first")
	o.expectEvent("DriftCorrected", fmt.Sprintf("event rule %d was deleted, and made again as", rule.ID))

	if err := o.person.DeleteWebhook(t.Context(), webhook.ID); err != nil {
		t.Fatal(err)
	}
	o.restart()
	o.reconcile(0)
	o.expectAsWanted("first")
	o.expectEvent("DriftCorrected", fmt.Sprintf("webhook %d was deleted, and made again as", webhook.ID))
}

// drift returns the number of fields that the metrics have.
func (o *operator) drift() float64 {
	o.t.Helper()
	families, err := o.registry.Gather()
	if err != nil {
		o.t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() == "netbox_events_netbox_drift_total" && len(family.GetMetric()) == 1 {
			return family.GetMetric()[0].GetCounter().GetValue()
		}
	}
	return 0
}
