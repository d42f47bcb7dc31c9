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
	const namespace, relayKey = "netbox", "a key of the relay"
	var got requests
	sink := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/netbox/default":
			got.add("broker: " + r.Header.Get("ce-type"))
		case "/hooks/secret":
			body, _ := io.ReadAll(r.Body)
			got.add("chat: " + string(body))
		default:
			got.add("dns: " + r.Method + " " + r.URL.String() + " " + r.Header.Get("Authorization"))
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

	all, err := deliveries.All()
	if err != nil {
		t.Fatal(err)
	}
	keys, sent := map[string]string{"test": key}, []deliveries.Delivery(nil)
	for _, delivery := range all {
		switch delivery.String() {
		case "netbox-4.6.8/307", // a device created, active
			"netbox-4.6.8/310",      // a device deleted
			"netbox-3.7.8-live/310", // a prefix 10.1.0.0/16 created
			"netbox-3.7.8-live/316": // a prefix of IPv6 created
			sent = append(sent, delivery)
			keys[delivery.File] = *delivery.Key
		}
	}
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
		secret("chat", map[string]string{"path": "secret"}),
		secret("relay", map[string]string{"secret": relayKey}),
		secret("listener-ca", map[string]string{"ca.crt": string(certificate)}))
	createSamples(t, strings.NewReplacer(
		"https://ipam-to-dns.example.com", sink.URL,
		"http://broker-ingress.knative-eventing.svc.cluster.local", sink.URL,
		"https://chat.example.com", sink.URL,
		"https://listener.example.com", relay.URL,
		"maxAge: 24h", "", // the deliveries are older
	))
	m := start(t, plane.Config, "--watch-namespaces="+namespace, allowLoopback)
	target := &v1alpha1.NetBoxSource{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "netbox"}}
	served(t, m.url(target))
	for _, delivery := range sent {
		request, err := delivery.Request(t.Context(), m.url(target))
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
	allDone(t, target)
	var names []string
	for i := range 20 {
		names = append(names, fmt.Sprintf("Device %d updated", i+1))
	}
	want := []string{
		"broker: io.netbox-events.dcim.device.created",
		"broker: io.netbox-events.dcim.device.deleted",
		"broker: io.netbox-events.ipam.prefix.created",
		"broker: io.netbox-events.ipam.prefix.created",
		"dns: POST /prefixes/1?change=created Bearer token",
		"relay: dcim.device created",
		"relay: dcim.device deleted",
		"relay: ipam.prefix created",
		"relay: ipam.prefix created",
		`chat: {"text":"Changes by testuser, 1 in all: Test Device 4 created"}`,
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
	if len(jobs.Items) != 1 || jobs.Items[0].Labels["site"] != "site-2" || jobs.Items[0].Spec.Template.Spec.Containers[0].Env[0].Value != "16" {
		t.Errorf("the Jobs are not as expected: %+v", jobs.Items)
	}
	var events eventsv1.EventList
	eventually(t, "the deletion is not announced", 5*time.Second, func() bool {
		err := plane.Client.List(t.Context(), &events, client.InNamespace(namespace))
		return err == nil && slices.ContainsFunc(events.Items, func(e eventsv1.Event) bool {
			return e.Note == "device Device 1 was deleted by testuser" && e.Reason == "Deleted" && e.Regarding.Kind == "NetBoxEvent"
		})
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
