package app_test

import (
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	authorizationv1 "k8s.io/api/authorization/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/netbox"
	"github.com/netbox-events/netbox-event-operator/test/deliveries"
	"github.com/netbox-events/netbox-event-operator/test/netboxstub"
)

// requests records the requests to a server.
type requests struct {
	mu  sync.Mutex
	got []string
}

func (r *requests) add(what string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.got = append(r.got, what)
}

func (r *requests) sorted() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Sorted(slices.Values(r.got))
}

// TestSamples runs the rules of config/samples on recorded deliveries, with local servers as their sinks.
func TestSamples(t *testing.T) {
	const namespace, relayKey, token = "netbox", "a key of the relay", "0123456789abcdef0123456789abcdef01234567"
	var got requests
	sink := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		switch path, authorization := r.Method+" "+r.URL.String(), r.Header.Get("Authorization"); {
		case r.URL.Path == "/netbox/default":
			got.add("broker: " + r.Header.Get("ce-type"))
		case path == "POST /api/tickets":
			got.add("tickets: " + path + " " + authorization + " " + string(body))
			w.WriteHeader(http.StatusCreated)
			_, _ = io.WriteString(w, `{"id": 7}`)
		case strings.HasPrefix(path, "PATCH /api/tickets"):
			got.add("tickets: " + path + " " + authorization + " " + regexp.MustCompile("[0-9a-f]{16}").ReplaceAllString(string(body), "HASH"))
		case r.URL.Path == "/hooks/secret":
			got.add("chat: " + string(body))
		case path == "POST /networks":
			got.add("firewall: " + string(body))
		case r.Method == http.MethodDelete:
			got.add("records: " + path)
		case r.URL.Path == "/hook":
			got.add("alerts: " + string(body))
		case path == "POST /trigger/pipeline":
			got.add("pipeline: " + string(body))
		case path == "POST /oauth2/token":
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"access_token": "of the inventory", "token_type": "Bearer", "expires_in": 3600}`)
		case r.Method == http.MethodPut:
			got.add("inventory: " + path + " " + authorization + " " + string(body))
		case path == "POST /machines":
			got.add(fmt.Sprintf("listener: %s, with a token: %t", body, strings.HasPrefix(authorization, "Bearer eyJ")))
		default:
			got.add("dns: " + path + " " + authorization)
		}
	}))
	defer sink.Close()
	relay := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		_, ok := netbox.Verify([]netbox.Key{{Name: "relay", Value: []byte(relayKey)}}, body, r.Header.Get(netbox.SignatureHeader))
		event, err := netbox.Decode(body, nil)
		if !ok || err != nil {
			t.Errorf("relayed: signature %t, %v", ok, err)
			return
		}
		got.add("relay: " + event.ObjectType + " " + event.Event)
	}))
	defer relay.Close()

	api := netboxstub.New(token, "dcim.device", "ipam.ipaddress", "ipam.prefix")
	defer api.Close()
	api.Answer("/api/ipam/prefixes/?contains=10.1.0.0%2F16", map[string]any{"results": []any{map[string]any{"prefix": "10.0.0.0/8"}}})

	all, err := deliveries.All()
	if err != nil {
		t.Fatal(err)
	}
	keys, sent, toAPI := map[string]string{"test": key}, []deliveries.Delivery(nil), []deliveries.Delivery(nil)
	for _, delivery := range all {
		switch delivery.String() {
		case "netbox-4.6.8/307", // a device created, active
			"netbox-4.6.8/310",      // a device deleted
			"netbox-4.6.8/1450",     // a machine updated
			"netbox-4.6.8-live/51",  // a site created, planned
			"netbox-4.6.8-live/72",  // the site is active
			"netbox-3.7.8-live/310", // a prefix 10.1.0.0/16 created
			"netbox-3.7.8-live/316": // a prefix of IPv6 created
			sent = append(sent, delivery)
			keys[delivery.File] = *delivery.Key
		}
		switch delivery.String() {
		case "netbox-3.7.8-live/310", // as above
			"netbox-4.6.8/1073", "netbox-4.6.8/1074": // two addresses deleted, of which the second was rolled back
			toAPI = append(toAPI, delivery)
		}
	}
	api.Log(netboxstub.Change{
		Action: "delete", ObjectType: "ipam.ipaddress", ObjectID: 10, RequestID: "fc5ed0a2-9b85-4da8-9de0-4a13d7f2bf2d", Time: time.Now(),
	})
	edit, err := deliveries.BulkEdit(25)
	if err != nil {
		t.Fatal(err)
	}
	sent = append(sent, edit...)
	keys[edit[0].File] = *edit[0].Key
	secret := func(name string, data map[string]string) client.Object {
		return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, StringData: data}
	}
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: relay.Certificate().Raw})
	plane.Create(t,
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}},
		secret("netbox-webhook", keys),
		secret("ipam-to-dns", map[string]string{"token": "token\n"}),
		secret("tickets", map[string]string{"token": "of tickets"}),
		secret("chat", map[string]string{"path": "secret"}),
		secret("pipeline", map[string]string{"token": "of the pipeline"}),
		secret("inventory", map[string]string{"client-secret": "of the client"}),
		secret("relay", map[string]string{"secret": relayKey}),
		secret("netbox-token", map[string]string{"token": token}),
		secret("listener-ca", map[string]string{"ca.crt": string(certificate)}))
	createSamples(t, strings.NewReplacer(
		"https://ipam-to-dns.example.com", sink.URL,
		"https://tickets.example.com", sink.URL,
		"https://alerts.example.com", sink.URL,
		"http://broker-ingress.knative-eventing.svc.cluster.local", sink.URL,
		"https://chat.example.com", sink.URL,
		"https://listener.example.com", relay.URL,
		"https://firewall.example.com", sink.URL,
		"https://dns.example.com", sink.URL,
		"https://ci.example.com", sink.URL,
		"https://login.example.com", sink.URL,
		"https://inventory.example.com", sink.URL,
		"http://listener.apps.svc", sink.URL,
		"https://netbox.example.com", api.URL,
		"lag: 2m", "lag: 2s", // of the change that was rolled back
		"maxAge: 24h", "", // the deliveries are older
	))
	m := start(t, plane.Config, "--watch-namespaces="+namespace, allowLoopback)
	target := &v1alpha1.NetBoxSource{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "netbox"}}
	served(t, m.url(target))
	targetAPI := &v1alpha1.NetBoxSource{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "netbox-api"}}
	for url, all := range map[string][]deliveries.Delivery{m.url(target): sent, m.url(targetAPI): toAPI} {
		for _, delivery := range all {
			request, err := delivery.Request(t.Context(), url)
			if err != nil {
				t.Fatal(err)
			}
			response, err := http.DefaultClient.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			_ = response.Body.Close()
			if response.StatusCode != http.StatusOK {
				t.Errorf("%s was answered with %d", delivery, response.StatusCode)
			}
		}
	}
	endJob(t, namespace, "clean-up-")
	allDone(t, target)
	allDone(t, targetAPI)
	var names []string
	for i := range 20 {
		names = append(names, fmt.Sprintf("Device %d updated", i+1))
	}
	want := []string{
		"broker: io.netbox-events.dcim.device.created",
		"broker: io.netbox-events.dcim.device.deleted",
		"broker: io.netbox-events.dcim.site.created",
		"broker: io.netbox-events.dcim.site.updated",
		"broker: io.netbox-events.virtualization.virtualmachine.updated",
		"broker: io.netbox-events.ipam.prefix.created",
		"broker: io.netbox-events.ipam.prefix.created",
		"dns: POST /prefixes/1?change=created Bearer token",
		"relay: dcim.device created",
		"relay: dcim.device deleted",
		"relay: dcim.site created",
		"relay: dcim.site updated",
		"relay: ipam.prefix created",
		"relay: ipam.prefix created",
		"relay: virtualization.virtualmachine updated",
		"pipeline: ref=main&token=of+the+pipeline&variables%5BCHANGED%5D=status&variables%5BMACHINE%5D=Virtual+Machine+1",
		`inventory: PUT /machines/3 Bearer of the inventory {"name":"Virtual Machine 1","status":"staged"}`,
		"listener: Virtual Machine 1 was updated, with a token: true",
		"broker: io.netbox-events.ipam.prefix.created",
		"broker: io.netbox-events.ipam.ipaddress.deleted",
		"broker: io.netbox-events.ipam.ipaddress.deleted",
		"dns: POST /prefixes/1?change=created Bearer token",
		`firewall: {"network":"10.1.0.0/16","parents":["10.0.0.0/8"]}`,
		"records: DELETE /addresses/10",
		`tickets: PATCH /api/tickets/7 Bearer of tickets {"comment":"Job clean-up-13-HASH succeeded","state":"closed"}`,
		`tickets: POST /api/tickets Bearer of tickets {"site":"site-1","title":"Clean up Device 1"}`,
		`chat: {"text":"Changes by testuser, 1 in all: Test Device 4 created"}`,
		`chat: {"text":"Changes by admin, 1 in all: 東京 🚀 created"}`,
		`chat: {"text":"Changes by admin, 1 in all: 東京 🚀 updated"}`,
		`chat: {"text":"Changes by testuser, 1 in all: Device 1 deleted"}`,
		`chat: {"text":"Changes by testuser, 25 in all: ` + strings.Join(names, ", ") + `"}`,
	}
	want = append(want, slices.Repeat([]string{"broker: io.netbox-events.dcim.device.updated", "relay: dcim.device updated"}, len(edit))...)
	slices.Sort(want)
	if diff := cmp.Diff(want, got.sorted()); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
	var jobs batchv1.JobList
	if err := plane.Client.List(t.Context(), &jobs, client.InNamespace(namespace)); err != nil {
		t.Fatal(err)
	}
	jobs.Items = slices.DeleteFunc(jobs.Items, func(job batchv1.Job) bool { return strings.HasPrefix(job.Name, "clean-up-") })
	if len(jobs.Items) != 1 || jobs.Items[0].Labels["site"] != "site-2" || jobs.Items[0].Spec.Template.Spec.Containers[0].Env[0].Value != "16" {
		t.Errorf("the Jobs are not as expected: %+v", jobs.Items)
	}
	var site corev1.ConfigMap
	if err := plane.Client.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: "site-2"}, &site); err != nil || site.Data["slug"] != "tokyo" {
		t.Errorf("the ConfigMap of the site is %v, %v", site.Data, err)
	}
	var events eventsv1.EventList
	eventually(t, "the deletion is not announced", 5*time.Second, func() bool {
		err := plane.Client.List(t.Context(), &events, client.InNamespace(namespace))
		return err == nil && slices.ContainsFunc(events.Items, func(e eventsv1.Event) bool {
			return e.Note == "device Device 1 was deleted by testuser" && e.Reason == "Deleted" && e.Regarding.Kind == "NetBoxEvent"
		})
	})
	eventually(t, "the webhook is not in NetBox", 10*time.Second, func() bool {
		webhooks, rules := api.Stored("/api/extras/webhooks/"), api.Stored("/api/extras/event-rules/")
		return len(webhooks) == 1 && webhooks[0]["payload_url"] == "https://netbox-events.example.com/webhook/netbox/netbox-api" && len(rules) == 1
	})
	review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: "system:serviceaccount:netbox-event-operator:netbox-event-operator-manager", // as config/default names it
		ResourceAttributes: &authorizationv1.ResourceAttributes{
			Namespace: namespace, Verb: "impersonate", Resource: "serviceaccounts", Name: "provisioner",
		},
	}}
	plane.Create(t, review)
	if !review.Status.Allowed {
		t.Errorf("the operator may not impersonate the sample's service account: %s", review.Status.Reason)
	}
}

// endJob waits for a Job, and lets it succeed as the Job controller does.
func endJob(t *testing.T, namespace, prefix string) {
	t.Helper()
	var job *batchv1.Job
	eventually(t, "there is no Job "+prefix, 30*time.Second, func() bool {
		var jobs batchv1.JobList
		if err := plane.Client.List(t.Context(), &jobs, client.InNamespace(namespace)); err != nil {
			t.Fatal(err)
		}
		at := slices.IndexFunc(jobs.Items, func(job batchv1.Job) bool { return strings.HasPrefix(job.Name, prefix) })
		if at >= 0 {
			job = &jobs.Items[at]
		}
		return at >= 0
	})
	now := metav1.Now()
	job.Status.StartTime, job.Status.CompletionTime, job.Status.Succeeded = &now, &now, 1
	for _, condition := range []batchv1.JobConditionType{batchv1.JobSuccessCriteriaMet, batchv1.JobComplete} {
		job.Status.Conditions = append(job.Status.Conditions, batchv1.JobCondition{
			Type: condition, Status: corev1.ConditionTrue, LastProbeTime: now, LastTransitionTime: now,
		})
	}
	if err := plane.Client.Status().Update(t.Context(), job); err != nil {
		t.Fatal(err)
	}
}

func createSamples(t *testing.T, change *strings.Replacer) {
	t.Helper()
	files, err := filepath.Glob("../../config/samples/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if filepath.Base(file) == "kustomization.yaml" {
			continue
		}
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		documents := yaml.NewYAMLOrJSONDecoder(strings.NewReader(change.Replace(string(content))), 4096)
		for {
			var object unstructured.Unstructured
			if err := documents.Decode(&object); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			plane.Create(t, &object)
		}
	}
}
