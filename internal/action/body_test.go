package action_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/netbox"
	"github.com/netbox-events/netbox-event-operator/test/deliveries"
)

// sink accepts all requests, and keeps the last one.
type sink struct {
	*httptest.Server
	request *http.Request
	body    []byte
}

func newSink(t *testing.T) *sink {
	t.Helper()
	s := &sink{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, request *http.Request) {
		s.request = request.WithContext(request.Context()) // a copy
		s.body, _ = io.ReadAll(request.Body)
	}))
	t.Cleanup(s.Close)
	return s
}

// recorded returns the events and bodies of all recorded deliveries.
func recorded(t *testing.T, namespace string) (events map[string]*v1alpha1.NetBoxEvent, bodies map[string]string) {
	t.Helper()
	all, err := deliveries.All()
	if err != nil {
		t.Fatal(err)
	}
	events, bodies = map[string]*v1alpha1.NetBoxEvent{}, map[string]string{}
	for _, delivery := range all {
		if event, err := delivery.Event(namespace, nil); err == nil { // internal/netbox tests the invalid ones
			events[delivery.String()], bodies[delivery.String()] = event, delivery.Body
		}
	}
	if len(events) < 3000 {
		t.Fatalf("%d events, want more than 3000: the recordings are not complete", len(events))
	}
	return events, bodies
}

// hostile returns an event whose values try to break out of templates and headers.
func hostile(t *testing.T, namespace string) *v1alpha1.NetBoxEvent {
	t.Helper()
	event := device(t, namespace, "x\"}\r\n---\nkind: Secret\n# ${event.name} $${ {{ . }} 'é\u2028\U0001F600 "+strings.Repeat("long ", 40_000))
	event.Spec.Event = "upd\"ated\u00fc"
	event.Spec.ObjectType = "dcim.de vice%41"
	event.Spec.ObjectID = "14\r\nX-Injected: 1"
	event.Spec.RequestID = "ü\u0000\x7f€"
	return event
}

// TestCloudEvents parses requests with the SDK and by hand, and compares them with the event.
func TestCloudEvents(t *testing.T) {
	namespace := plane.Namespace(t)
	events, _ := recorded(t, namespace)
	for i, name := range slices.Sorted(maps.Keys(events)) {
		if i%5 > 0 { // one in five of each recording is enough
			delete(events, name)
		}
	}
	events["hostile"] = hostile(t, namespace)
	to, runner := newSink(t), newRunner(t)
	for _, format := range []v1alpha1.HTTPFormat{v1alpha1.FormatCloudEvent, v1alpha1.FormatCloudEventBinary} {
		spec := newRequest(to.URL)
		spec.HTTP.Format = format
		task := newTask(t, device(t, namespace, "leaf1"), spec)
		for name, event := range events {
			if _, err := do(t, runner, withEvent(task, event)); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			want := map[string]string{
				"specversion": "1.0", "id": event.Name, "source": "/apis/netbox-events.io/v1alpha1/namespaces/" + namespace + "/netboxsources/netbox",
				"type": "io.netbox-events." + event.Spec.ObjectType + "." + event.Spec.Event, "subject": event.Spec.ObjectType + "/" + event.Spec.ObjectID,
				"time": event.Spec.Timestamp.UTC().Format(time.RFC3339Nano), "datacontenttype": "application/json",
				"objecttype": event.Spec.ObjectType, "objectid": event.Spec.ObjectID, "requestid": event.Spec.RequestID,
			}
			for _, name := range []string{"objecttype", "objectid", "requestid"} {
				if want[name] == "" {
					delete(want, name)
				}
			}
			if event.Spec.ObjectType == "" { // NetBox sent the model alone
				want["type"], want["objecttype"] = "io.netbox-events."+event.Spec.Model+"."+event.Spec.Event, event.Spec.Model
				want["subject"] = event.Spec.Model + "/" + event.Spec.ObjectID
			}
			want["subject"] = strings.TrimSuffix(want["subject"], "/")
			got, data := attributes(t, format, to)
			if !maps.Equal(want, got) {
				t.Errorf("%s, %s: attributes (-want +got):\n%s", name, format, cmp.Diff(want, got))
			}
			sent := event.Spec.DeepCopy()
			sent.Delivery.Envelope = nil
			text, err := json.Marshal(sent)
			if err != nil {
				t.Fatal(err)
			}
			if want, got := parse(t, text), parse(t, data); !reflect.DeepEqual(want, got) { // cmp.Diff takes ten times as long
				t.Errorf("%s, %s: data (-want +got):\n%s", name, format, cmp.Diff(want, got))
			}
			if event.Spec.Delivery.Envelope == nil {
				t.Fatalf("%s: the event was changed", name)
			}

			to.request.Body = io.NopCloser(bytes.NewReader(to.body))
			parsed, err := cehttp.NewEventFromHTTPRequest(to.request)
			if err != nil {
				t.Fatalf("%s, %s: the SDK cannot read it: %v", name, format, err)
			}
			if err := parsed.Validate(); err != nil {
				t.Errorf("%s, %s: invalid according to the SDK: %v", name, format, err)
			}
		}
	}
}

// attributes returns the attributes and the data of the last CloudEvent.
func attributes(t *testing.T, format v1alpha1.HTTPFormat, to *sink) (map[string]string, []byte) {
	t.Helper()
	got := map[string]string{}
	if format == v1alpha1.FormatCloudEvent {
		if contentType := to.request.Header.Get("Content-Type"); contentType != "application/cloudevents+json" {
			t.Errorf("Content-Type is %q", contentType)
		}
		var members map[string]json.RawMessage
		if err := json.Unmarshal(to.body, &members); err != nil {
			t.Fatal(err)
		}
		data := members["data"]
		delete(members, "data")
		for name, member := range members {
			var text string
			if err := json.Unmarshal(member, &text); err != nil {
				t.Errorf("attribute %s: %v", name, err)
			}
			got[name] = text
		}
		return got, data
	}
	for name, values := range to.request.Header {
		if attribute, ok := strings.CutPrefix(strings.ToLower(name), "ce-"); ok {
			text, err := url.PathUnescape(values[0])
			if err != nil || len(values) != 1 {
				t.Errorf("%s is %q: %v", name, values, err)
			}
			got[attribute] = text
		}
	}
	got["datacontenttype"] = to.request.Header.Get("Content-Type")
	return got, to.body
}

func TestPercentEncoding(t *testing.T) {
	to, event := newSink(t), device(t, plane.Namespace(t), "leaf1")
	event.Spec.RequestID = "é \"%~!\u20ac"
	spec := newRequest(to.URL)
	spec.HTTP.Format = v1alpha1.FormatCloudEventBinary
	if _, err := do(t, newRunner(t), newTask(t, event, spec)); err != nil {
		t.Fatal(err)
	}
	if got, want := to.request.Header.Get("Ce-Requestid"), "%C3%A9%20%22%25~!%E2%82%AC"; got != want { // CloudEvents HTTP binding, 3.1.3.2
		t.Errorf("header is %q, want %q", got, want)
	}
}

// TestNetBoxFormat compares request bodies with the bodies of NetBox, numbers digit by digit.
func TestNetBoxFormat(t *testing.T) {
	namespace := plane.Namespace(t)
	events, bodies := recorded(t, namespace)
	newSecret(t, namespace, "relay", map[string]string{"secret": "k3y of mine\n"})
	to, runner := newSink(t), newRunner(t)
	spec := newRequest(to.URL)
	spec.HTTP.Format = v1alpha1.FormatNetBox
	spec.HTTP.SigningSecretRef = &v1alpha1.SecretKeyReference{Name: "relay", Key: "secret"}
	task := newTask(t, device(t, namespace, "leaf1"), spec)
	for name, event := range events {
		if _, err := do(t, runner, withEvent(task, event)); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if want, got := parse(t, []byte(bodies[name])), parse(t, to.body); !reflect.DeepEqual(want, got) {
			t.Errorf("%s: body (-from NetBox +forwarded):\n%s", name, cmp.Diff(want, got))
		}
		key := netbox.Key{Name: "mine", Value: []byte("k3y of mine")}
		if _, ok := netbox.Verify([]netbox.Key{key}, to.body, to.request.Header.Get(netbox.SignatureHeader)); !ok {
			t.Errorf("%s: the signature is wrong", name)
		}
		if contentType := to.request.Header.Get("Content-Type"); contentType != "application/json" {
			t.Errorf("%s: Content-Type is %q", name, contentType)
		}
	}

	t.Run("stored by the API server", func(t *testing.T) {
		stored := 0
		for name, event := range events {
			if len(event.Spec.Delivery.Stringified) == 0 && !strings.HasPrefix(name, "netbox-4.6.8-live/") {
				continue
			}
			stored++
			plane.Create(t, event)
			var kept v1alpha1.NetBoxEvent
			if err := plane.Client.Get(t.Context(), client.ObjectKeyFromObject(event), &kept); err != nil {
				t.Fatal(err)
			}
			if _, err := do(t, runner, withEvent(task, &kept)); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			// The API server writes 1.0 as 1.
			sameNumber := cmp.Comparer(func(a, b json.Number) bool { return rational(t, a).Cmp(rational(t, b)) == 0 })
			if diff := cmp.Diff(parse(t, []byte(bodies[name])), parse(t, to.body), sameNumber); diff != "" {
				t.Errorf("%s: body (-from NetBox +forwarded):\n%s", name, diff)
			}
		}
		if stored < 100 {
			t.Errorf("stored %d events, want at least 100", stored)
		}
	})
	t.Run("an event without its envelope", func(t *testing.T) {
		event := device(t, namespace, "leaf1")
		event.Spec.Delivery.Envelope = nil
		_, err := do(t, runner, withEvent(task, event))
		expect(t, err, permanent, "envelope")
	})
	t.Run("without a key", func(t *testing.T) {
		if _, err := do(t, runner, newTask(t, device(t, namespace, "leaf1"), newRequest(to.URL))); err != nil {
			t.Fatal(err)
		}
		if _, ok := to.request.Header[netbox.SignatureHeader]; ok {
			t.Error("the request has a signature")
		}
	})
}

// parse decodes JSON, numbers as their digits.
func parse(t *testing.T, text []byte) (decoded any) {
	t.Helper()
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	if err := decoder.Decode(&decoded); err != nil {
		t.Fatal(err)
	}
	return decoded
}

func rational(t *testing.T, number json.Number) *big.Rat {
	t.Helper()
	value, ok := new(big.Rat).SetString(fmt.Sprint(number))
	if !ok {
		t.Fatalf("%s is not a number", number)
	}
	return value
}
