package netbox_test

import (
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"

	"github.com/netbox-events/netbox-event-operator/internal/netbox"
)

// TestBodyRecorded restores the body of every recorded delivery, and compares it with the original, numbers digit by digit.
func TestBodyRecorded(t *testing.T) {
	restored := 0
	for _, delivery := range recorded(t) {
		event, err := netbox.Decode([]byte(delivery.Body), redact)
		if err != nil {
			continue // TestDecodeRecorded says which may fail
		}
		restored++
		body, err := event.Body()
		if err != nil {
			t.Errorf("%s: %v", delivery, err)
			continue
		}
		sent, again := decode(t, []byte(delivery.Body)), decode(t, body)
		if diff := cmp.Diff(blank(sent, "", event.Redacted), blank(again, "", event.Redacted)); diff != "" {
			t.Errorf("%s: body (-sent +restored):\n%s", delivery, diff)
		}
		if other, err := event.Body(); err != nil || string(other) != string(body) {
			t.Errorf("%s: the body differs the second time: %v", delivery, err)
		}
	}
	if restored < 3000 {
		t.Errorf("restored %d bodies, want more than 3000: the recordings are incomplete", restored)
	}
}

func TestBody(t *testing.T) {
	for _, test := range []struct{ reason, body, want string }{
		{
			"text as it was sent, members sorted at any depth",
			`{"timestamp": "2020-10-26 18:14:18+02:00", "model": "site", "event": "\u0063reated", "data": {"b": {"z":1,"y":1.0}, "a": "<\u00fc>"}}`,
			`{"data":{"a":"<ü>","b":{"y":1.0,"z":1}},"event":"created","model":"site","timestamp":"2020-10-26 18:14:18+02:00"}`,
		},
		{
			"null, empty and missing are three things",
			`{"event":"x","timestamp":"2020-10-26T18:14:18Z","object_type":"","model":"script","username":null,"data":null,"context":{},"extra":null}`,
			`{"context":{},"data":null,"event":"x","extra":null,"model":"script","object_type":"","timestamp":"2020-10-26T18:14:18Z","username":null}`,
		},
		{
			"numbers that became text, beside text of the same digits",
			`{"event":"x","timestamp":"2020-10-26T18:14:18Z","model":"script","data":{"a":1e400,"b":["1e400",1e400]},"":1e400,"extra":{"/~":1e400},"c":"1e400"}`,
			`{"":1e400,"c":"1e400","data":{"a":1e400,"b":["1e400",1e400]},"event":"x","extra":{"/~":1e400},"model":"script","timestamp":"2020-10-26T18:14:18Z"}`,
		},
		{
			"redacted values stay so",
			`{"event":"x","timestamp":"2020-10-26T18:14:18Z","model":"script","data":{"password":1e400},"auth_psk":"s3cret","username":"password"}`,
			`{"auth_psk":"[redacted]","data":{"password":"[redacted]"},"event":"x","model":"script","timestamp":"2020-10-26T18:14:18Z","username":"password"}`,
		},
	} {
		event, err := netbox.Decode([]byte(test.body), redact)
		if err != nil {
			t.Fatalf("%s: %v", test.reason, err)
		}
		body, err := event.Body()
		if err != nil {
			t.Errorf("%s: %v", test.reason, err)
		}
		if diff := cmp.Diff(test.want, string(body)); diff != "" {
			t.Errorf("%s: body (-want +got):\n%s", test.reason, diff)
		}
	}
}

// TestBodyFaults restores the bodies of events that Decode cannot have produced.
func TestBodyFaults(t *testing.T) {
	for _, test := range []struct {
		reason string
		change func(*netbox.Event)
		want   string
	}{
		{"not decoded", func(e *netbox.Event) { e.Envelope = nil }, "envelope is empty"},
		{"no JSON", func(e *netbox.Event) { e.Data["id"] = jsontext.Value("{") }, "must be JSON"},
		{"a pointer to nothing", func(e *netbox.Event) { e.Stringified = append(e.Stringified, "/data/b") }, `"/data/b"`},
		{"a pointer to a name", func(e *netbox.Event) { e.Data["1"] = jsontext.Value("null"); e.Stringified = []string{"/data/1"} }, `"/data/1"`},
		{"a pointer to no text", func(e *netbox.Event) { e.Stringified = []string{"/data/id"} }, `"/data/id"`},
		{"a pointer to other text", func(e *netbox.Event) { e.Stringified = []string{"/event"} }, `"/event"`},
		{"spaces around digits", func(e *netbox.Event) { e.Data["a"] = jsontext.Value(`"1 "`) }, `"/data/a"`},
		{"more than a number", func(e *netbox.Event) { e.Data["a"] = jsontext.Value(`"1,2"`) }, `"/data/a"`},
	} {
		event, err := netbox.Decode([]byte(strings.Replace(valid, `"id":14`, `"id":14,"a":1e400`, 1)+`"x":1}`), nil)
		if err != nil {
			t.Fatal(err)
		}
		test.change(event)
		if body, err := event.Body(); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: body %s, error %v, want an error with %s", test.reason, body, err, test.want)
		}
	}
}
