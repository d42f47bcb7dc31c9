package rule_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/rule"
	"github.com/netbox-events/netbox-event-operator/test/deliveries"
)

var now = time.Date(2027, 7, 28, 9, 30, 0, 0, time.UTC)

type recordings struct {
	events map[string]*v1alpha1.NetBoxEvent
	bodies map[string]map[string]any
	err    error
}

var readRecordings = sync.OnceValue(func() recordings {
	read := recordings{events: map[string]*v1alpha1.NetBoxEvent{}, bodies: map[string]map[string]any{}}
	var all []deliveries.Delivery
	all, read.err = deliveries.All()
	for _, delivery := range all {
		event, err := delivery.Event("netbox", deliveries.Redact)
		if err != nil {
			continue // internal/netbox tests the invalid ones
		}
		decoder := json.NewDecoder(strings.NewReader(delivery.Body))
		decoder.UseNumber()
		var body map[string]any
		if err := decoder.Decode(&body); err != nil {
			read.err = err
		}
		read.events[delivery.String()], read.bodies[delivery.String()] = event, body
	}
	return read
})

// recorded returns the events and bodies of all recorded deliveries, by names such as netbox-4.6.8-live/182. Do not change them.
func recorded(t testing.TB) (map[string]*v1alpha1.NetBoxEvent, map[string]map[string]any) {
	t.Helper()
	read := readRecordings()
	if read.err != nil {
		t.Fatal(read.err)
	}
	return read.events, read.bodies
}

func compile(t testing.TB, spec *v1alpha1.NetBoxEventRuleSpec) *rule.Rule {
	t.Helper()
	compiled, err := rule.Compile(spec)
	if err != nil {
		t.Fatal(err)
	}
	return compiled
}

// eventWith returns an event with data.
func eventWith(t testing.TB, data string) *v1alpha1.NetBoxEvent {
	t.Helper()
	event := &v1alpha1.NetBoxEvent{Spec: v1alpha1.NetBoxEventSpec{Event: "updated", ObjectType: "dcim.device"}}
	if err := json.Unmarshal([]byte(data), &event.Spec.Data); err != nil {
		t.Fatal(err)
	}
	return event
}

func TestMatch(t *testing.T) {
	events, _ := recorded(t)
	const (
		device     = "netbox-4.6.8-live/182" // an update: planned to active
		created    = "netbox-4.6.8/1070"     // of an IP address, 192.168.0.4/24
		deleted    = "netbox-4.6.8/1073"     // of an IP address, 192.168.0.1/24
		prefix     = "netbox-3.7.8-live/310" // created, 10.1.0.0/16
		ipv6       = "netbox-3.7.8-live/324" // created, 2001:db8::1/128
		secret     = "netbox-3.7.8-live/408" // an update: of a secret that was redacted
		noSnapshot = "netbox-2.9.11/182"     // an update
		nautobot   = "nautobot-2.4.44/792"   // an update of an IP address; snapshots in the REST shape
		job        = "netbox-4.6.8-live/265" // job_ended
		emptyJob   = "netbox-3.7.8-live/698" // job_started, without data
	)
	for _, test := range []struct {
		reason  string
		event   string
		match   v1alpha1.Match
		want    bool
		wantErr string // part of the error, "" for none
	}{
		{reason: "no conditions", event: device, want: true},
		{reason: "one entry of each list fits", event: device, want: true, match: v1alpha1.Match{
			Sources: []string{"other", "netbox"}, Filter: v1alpha1.Filter{
				Events: []string{"created", "updated"}, ObjectTypes: []string{"ipam.*", "dcim.device"},
				ChangedFields: []string{"name", "status"},
			},
		}},
		{reason: "upper and lower case make no difference", event: device, want: true, match: v1alpha1.Match{
			Sources: []string{"NetBox"}, Filter: v1alpha1.Filter{
				Events: []string{"Updated"}, ObjectTypes: []string{"DCIM.Device"}, ChangedFields: []string{"Status"},
			},
		}},
		{reason: "an application in upper case", event: device, match: v1alpha1.Match{Filter: v1alpha1.Filter{ObjectTypes: []string{"DCIM.*"}}}, want: true},
		{reason: "names that NetBox does not send", event: device, match: v1alpha1.Match{Filter: v1alpha1.Filter{Events: []string{"update", "object_updated"}}}},
		{reason: "another source", event: device, match: v1alpha1.Match{Sources: []string{"netbox2"}}},
		{reason: "another event", event: device, match: v1alpha1.Match{Filter: v1alpha1.Filter{Events: []string{"created", "deleted"}}}},
		{reason: "another type", event: device, match: v1alpha1.Match{Filter: v1alpha1.Filter{ObjectTypes: []string{"dcim.devicetype", "dcim.devic"}}}},
		{reason: "another application", event: device, match: v1alpha1.Match{Filter: v1alpha1.Filter{ObjectTypes: []string{"dci.*", "dcimm.*"}}}},
		{reason: "an update of other fields", event: device, match: v1alpha1.Match{Filter: v1alpha1.Filter{ChangedFields: []string{"name"}}}},
		{reason: "a creation changes all fields", event: created, match: v1alpha1.Match{Filter: v1alpha1.Filter{ChangedFields: []string{"name"}}}, want: true},
		{reason: "a deletion changes all fields", event: deleted, match: v1alpha1.Match{Filter: v1alpha1.Filter{ChangedFields: []string{"name"}}}, want: true},
		{reason: "a job has no fields", event: job, match: v1alpha1.Match{Filter: v1alpha1.Filter{ChangedFields: []string{"name"}}}, want: true},
		{reason: "an update without snapshots", event: noSnapshot, match: v1alpha1.Match{Filter: v1alpha1.Filter{ChangedFields: []string{"name"}}}},
		{reason: "a redacted field changed", event: secret, match: v1alpha1.Match{Filter: v1alpha1.Filter{ChangedFields: []string{"auth_psk"}}}, want: true},

		{reason: "a transition", event: device, match: v1alpha1.Match{Filter: v1alpha1.Filter{CEL: `changedTo("status", "active") && data.role.slug == "leaf"`}}, want: true},
		{reason: "changed to another value", event: device, match: v1alpha1.Match{Filter: v1alpha1.Filter{CEL: `changedTo("status", "planned")`}}},
		{reason: "an unchanged field", event: device, match: v1alpha1.Match{Filter: v1alpha1.Filter{CEL: `changedTo("name", "leaf1")`}}},
		{reason: "an unknown field", event: device, match: v1alpha1.Match{Filter: v1alpha1.Filter{CEL: `changed("nonsense")`}}},
		{reason: "a computed field name", event: device, match: v1alpha1.Match{Filter: v1alpha1.Filter{CEL: `["name", "status"].exists(f, changed(f))`}}, want: true},
		{reason: "numbers of snapshots", event: device, match: v1alpha1.Match{Filter: v1alpha1.Filter{CEL: `prechange.site == 2 && postchange.site == 2.0 && !changed("site")`}}, want: true},
		{reason: "a creation changes from nothing", event: created, match: v1alpha1.Match{Filter: v1alpha1.Filter{CEL: `prechange == null && changedTo("status", "active")`}}, want: true},
		{reason: "a deletion changes to nothing", event: deleted, match: v1alpha1.Match{Filter: v1alpha1.Filter{CEL: `postchange == null && changedTo("status", null)`}}, want: true},
		{reason: "no snapshots: no known change", event: noSnapshot, match: v1alpha1.Match{Filter: v1alpha1.Filter{CEL: `changed("status") || changedTo("status", null)`}}},
		{reason: "a redacted field that changed looks the same", event: secret, match: v1alpha1.Match{Filter: v1alpha1.Filter{CEL: `prechange.auth_psk == postchange.auth_psk && changed("auth_psk")`}}, want: true},
		{reason: "Nautobot's snapshots are nested", event: nautobot, match: v1alpha1.Match{Filter: v1alpha1.Filter{CEL: `changed("status") && postchange.status.id != prechange.status.id && data.status.id == postchange.status.id`}}, want: true},
		{reason: "a variable of the same name", event: device, match: v1alpha1.Match{Filter: v1alpha1.Filter{CEL: `[1].all(event, [1].all(postchange, [1].all(prechange, changedTo("status", "active"))))`}}, want: true},

		{reason: "an address, which NetBox gives with its mask", event: created, match: v1alpha1.Match{Filter: v1alpha1.Filter{CEL: `cidr("192.168.0.0/16").containsIP(cidr(data.address).ip())`}}, want: true},
		{reason: "an address split by hand", event: created, match: v1alpha1.Match{Filter: v1alpha1.Filter{CEL: `cidr("192.168.0.0/16").containsIP(ip(data.address.split("/")[0]))`}}, want: true},
		{reason: "an address elsewhere", event: created, match: v1alpha1.Match{Filter: v1alpha1.Filter{CEL: `cidr("10.0.0.0/8").containsIP(cidr(data.address).ip())`}}},
		{reason: "an address with a mask is not an IP", event: created, match: v1alpha1.Match{Filter: v1alpha1.Filter{CEL: `cidr("10.0.0.0/8").containsIP(ip(data.address))`}}, wantErr: "parse error"},
		{reason: "a prefix within another", event: prefix, match: v1alpha1.Match{Filter: v1alpha1.Filter{CEL: `cidr("10.0.0.0/8").containsCIDR(data.prefix) && cidr(data.prefix).prefixLength() == 16`}}, want: true},
		{reason: "IPv6", event: ipv6, match: v1alpha1.Match{Filter: v1alpha1.Filter{CEL: `cidr("2001:db8::/32").containsIP(cidr(data.address).ip()) && ip("2001:db8::1").family() == 6`}}, want: true},
		{reason: "the other libraries", event: device, want: true, match: v1alpha1.Match{Filter: v1alpha1.Filter{CEL: `quantity("1Gi").isGreaterThan(quantity("1000Mi")) && semver("1.10.0").isGreaterThan(semver("1.9.0")) &&
			sets.contains(["a", "b"], ["a"]) && data.name.lowerAscii().matches("^leaf[0-9]+$") && data.name.find("[0-9]+") == "1" &&
			url("https://h/p").getHost() == "h" && !format.dns1123Label().validate(data.name).hasValue() && "%s".format([data.id]) == "1" && [1, 2].sum() == 3`}}},

		{reason: "all of event", event: device, want: true, match: v1alpha1.Match{Filter: v1alpha1.Filter{CEL: `event.sourceRef.name == "netbox" && event.namespace == "netbox" && event.event == "updated" && event.objectID == "1" &&
			event.changedFields == ["status"] && event.request.method == "PATCH" && event.delivery.signature == "Verified" &&
			event.timestamp < now && now - event.timestamp < duration("1000000h") && event.data == data && event.snapshots.prechange == prechange`}}},
		{reason: "absent objects are null", event: emptyJob, match: v1alpha1.Match{Filter: v1alpha1.Filter{CEL: `data == null && event.data == null && event.request == null && event.objectID == ""`}}, want: true},
		{reason: "a key of null", event: emptyJob, match: v1alpha1.Match{Filter: v1alpha1.Filter{CEL: `data.name == "x"`}}, wantErr: "data.name: data is null"},
		{reason: "a missing key", event: device, match: v1alpha1.Match{Filter: v1alpha1.Filter{CEL: `data.rolle.slug == "leaf"`}}, wantErr: "data.rolle: no such key; data has "},
		{reason: "a missing key guarded by has", event: device, match: v1alpha1.Match{Filter: v1alpha1.Filter{CEL: `has(data.rolle) && data.rolle.slug == "leaf"`}}},
		{reason: "an optional key", event: device, match: v1alpha1.Match{Filter: v1alpha1.Filter{CEL: `data.?rolle.slug.orValue("leaf") == "leaf"`}}, want: true},
		{reason: "no JSON", event: device, match: v1alpha1.Match{Filter: v1alpha1.Filter{CEL: `json("{a").size() > 0`}}, wantErr: "json: invalid character"},
		{reason: "a number is no JSON", event: device, match: v1alpha1.Match{Filter: v1alpha1.Filter{CEL: `json(data.id) == 1`}}, wantErr: "no such overload"},
		{reason: "a number is not searched", event: device, match: v1alpha1.Match{Filter: v1alpha1.Filter{CEL: `regex.extract(data.id, "1").hasValue()`}}, wantErr: "no such overload"},
		{reason: "a missing key that does not matter", event: device, match: v1alpha1.Match{Filter: v1alpha1.Filter{CEL: `data.rolle.slug == "x" || true`}}, want: true},
		{reason: "a string is not a boolean", event: device, match: v1alpha1.Match{Filter: v1alpha1.Filter{CEL: `data.name`}}, wantErr: "not true or false"},
		{reason: "null is not a boolean", event: device, match: v1alpha1.Match{Filter: v1alpha1.Filter{CEL: `data.tenant`}}, wantErr: "not true or false"},
		{reason: "lists are checked before the expression", event: device, match: v1alpha1.Match{Filter: v1alpha1.Filter{Events: []string{"created"}, CEL: `data.rolle.slug == "x"`}}},
	} {
		t.Run(test.reason, func(t *testing.T) {
			event := events[test.event]
			compiled := compile(t, &v1alpha1.NetBoxEventRuleSpec{Match: test.match})
			got, err := compiled.Match(t.Context(), event, rule.NewInput(event, now))
			if got != test.want || (err != nil) != (test.wantErr != "") || err != nil && !strings.Contains(err.Error(), test.wantErr) {
				t.Errorf("matched: %t, error: %v; want %t, %q", got, err, test.want, test.wantErr)
			}
		})
	}
}

// TestUnknownBefore checks that an update of which NetBox does not tell the state before does not match as a change.
func TestUnknownBefore(t *testing.T) {
	const snapshots = `{"prechange": %s, "postchange": {"name": "edge-1", "status": "active", "primary_ip4": 5, "custom_fields": {"owner": "a"}}}`
	for _, test := range []struct {
		reason, event, before string
		want                  bool
	}{
		{"an update with an unknown before", "updated", `null`, false},
		{"an update with a known before", "updated", `{"status": "planned"}`, true},
		{"a creation has nothing before", "created", `null`, true},
	} {
		for _, filter := range []v1alpha1.Filter{
			{CEL: `changedTo("status", "active")`},
			{CEL: `changed("status")`},
			{CEL: `changed("custom_fields.owner")`},
			{ChangedFields: []string{"status"}},
			{ChangedFields: []string{"custom_fields.owner"}},
		} {
			body := fmt.Sprintf(`{"event": %q, "timestamp": "2026-11-26T11:30:00Z", "object_type": "dcim.device", "data": {"id": 901}, "snapshots": %s}`,
				test.event, fmt.Sprintf(snapshots, test.before))
			event := deliver(t, body)
			compiled := compile(t, &v1alpha1.NetBoxEventRuleSpec{Match: v1alpha1.Match{Filter: filter}})
			if got, err := compiled.Match(t.Context(), event, rule.NewInput(event, now)); got != test.want || err != nil {
				t.Errorf("%s: %q, %q matched: %t, error: %v; want %t", test.reason, filter.CEL, filter.ChangedFields, got, err, test.want)
			}
		}
	}
}

// TestChangedPath checks fields within fields.
func TestChangedPath(t *testing.T) {
	event := deliver(t, `{"event": "updated", "timestamp": "2026-11-26T11:31:00Z", "object_type": "dcim.device", "data": {"id": 902},
		"snapshots": {
			"prechange": {"custom_fields": {"monitored": false, "owner": "a", "auth_psk": "old", "spec": {"ports": [1], "name": "x"}}, "local_context_data": {"ntp": ["a"]}},
			"postchange": {"custom_fields": {"monitored": true, "owner": "a", "auth_psk": "new", "spec": {"ports": [1, 2], "name": "x"}, "added": null}, "local_context_data": {"ntp": ["b"]}}}}`)
	for path, want := range map[string]bool{
		"custom_fields":              true,
		"custom_fields.monitored":    true,
		"custom_fields.owner":        false,
		"custom_fields.auth_psk":     true, // redacted
		"custom_fields.added":        false,
		"custom_fields.nothing":      false,
		"custom_fields.spec.ports":   true,
		"custom_fields.spec.name":    false,
		"custom_fields.spec.name.no": false,
		"local_context_data.ntp":     true,
		"monitored":                  false,
	} {
		for _, filter := range []v1alpha1.Filter{{ChangedFields: []string{path}}, {CEL: fmt.Sprintf("changed(%q)", path)}} {
			compiled := compile(t, &v1alpha1.NetBoxEventRuleSpec{Match: v1alpha1.Match{Filter: filter}})
			if got, err := compiled.Match(t.Context(), event, rule.NewInput(event, now)); got != want || err != nil {
				t.Errorf("%q, %q matched: %t, error: %v; want %t", filter.CEL, filter.ChangedFields, got, err, want)
			}
		}
	}
	for expression, want := range map[string]bool{
		`changedTo("custom_fields.monitored", true)`:  true,
		`changedTo("custom_fields.monitored", false)`: false,
		`changedTo("custom_fields.owner", "a")`:       false,
		`event.changedFields.exists(f, f == "custom_fields.monitored") && event.changedFields.exists(f, f == "custom_fields")`: true,
	} {
		compiled := compile(t, &v1alpha1.NetBoxEventRuleSpec{Match: v1alpha1.Match{Filter: v1alpha1.Filter{CEL: expression}}})
		if got, err := compiled.Match(t.Context(), event, rule.NewInput(event, now)); got != want || err != nil {
			t.Errorf("%s is %t, error: %v; want %t", expression, got, err, want)
		}
	}
}

// TestBranches checks changes that netbox-branching reports from a branch.
func TestBranches(t *testing.T) {
	const branch = `{"id": 2, "name": "Rack move", "schema_id": "td5smq0f"}`
	for _, test := range []struct{ reason, members, branch string }{
		{"a branch in the context", `"data": {"id": 1}, "context": {"active_branch": ` + branch + `}`, "Rack move"},
		{"a branch in the data", `"data": {"id": 1, "active_branch": ` + branch + `}`, "Rack move"},
		{"main", `"data": {"id": 1}, "context": {"active_branch": null}`, ""},
		{"no netbox-branching", `"data": {"id": 1}`, ""},
		{"a field of another plugin", `"data": {"id": 1, "active_branch": "x"}`, ""},
	} {
		event := deliver(t, `{"event": "updated", "timestamp": "2026-11-26T11:31:00Z", "object_type": "dcim.rack", `+test.members+`}`)
		inBranch := test.branch != ""
		for _, match := range []struct {
			v1alpha1.Match
			want bool
		}{
			{v1alpha1.Match{}, !inBranch},
			{v1alpha1.Match{Branches: []string{"*"}}, true},
			{v1alpha1.Match{Branches: []string{"rack move"}}, inBranch},
			{v1alpha1.Match{Branches: []string{"other"}}, false},
			{v1alpha1.Match{Branches: []string{"Main"}}, !inBranch},
			{v1alpha1.Match{Branches: []string{"main", "Rack move"}}, true},
			{v1alpha1.Match{Branches: []string{"*"}, Filter: v1alpha1.Filter{CEL: fmt.Sprintf("event.branch == %q", test.branch)}}, true},
		} {
			compiled := compile(t, &v1alpha1.NetBoxEventRuleSpec{Match: match.Match})
			if got, err := compiled.Match(t.Context(), event, rule.NewInput(event, now)); got != match.want || err != nil {
				t.Errorf("%s: %v matched: %t, error: %v; want %t", test.reason, match.Match, got, err, match.want)
			}
		}
	}
}

// deliver returns the event of a body.
func deliver(t testing.TB, body string) *v1alpha1.NetBoxEvent {
	t.Helper()
	event, err := (deliveries.Delivery{Body: body}).Event("netbox", deliveries.Redact)
	if err != nil {
		t.Fatal(err)
	}
	return event
}

// TestMatchRecorded compares the matches of rules on all recorded deliveries with an independent evaluation of the bodies.
func TestMatchRecorded(t *testing.T) {
	events, bodies := recorded(t)
	names := []string{"status", "name", "description", "tags", "custom_fields", "site", "auth_psk", "primary_ip4"}
	dcim := compile(t, &v1alpha1.NetBoxEventRuleSpec{Match: v1alpha1.Match{Filter: v1alpha1.Filter{ObjectTypes: []string{"dcim.*"}}}})
	changed, narrowed := map[string]*rule.Rule{}, map[string]*rule.Rule{}
	for _, name := range names {
		changed[name] = compile(t, &v1alpha1.NetBoxEventRuleSpec{Match: v1alpha1.Match{Filter: v1alpha1.Filter{CEL: fmt.Sprintf("changed(%q)", name)}}})
		narrowed[name] = compile(t, &v1alpha1.NetBoxEventRuleSpec{Match: v1alpha1.Match{Filter: v1alpha1.Filter{ChangedFields: []string{name}}}})
	}
	toActive := compile(t, &v1alpha1.NetBoxEventRuleSpec{Match: v1alpha1.Match{Filter: v1alpha1.Filter{CEL: `changedTo("status", "active")`}}})

	counts := map[string]int{}
	for delivery, event := range events {
		in := rule.NewInput(event, now)
		check := func(name string, compiled *rule.Rule, want bool) {
			t.Helper()
			got, err := compiled.Match(t.Context(), event, in)
			if err != nil || got != want {
				t.Errorf("%s: %s: matched: %t, error: %v; want %t", delivery, name, got, err, want)
			}
			if got {
				counts[name]++
			}
		}
		if warnings := rule.Warnings("", &v1alpha1.Filter{Events: []string{event.Spec.Event}, ObjectTypes: []string{event.Spec.ObjectType}}); warnings != nil {
			t.Errorf("%s: %q", delivery, warnings)
		}
		body := bodies[delivery]
		data, _ := body["data"].(map[string]any)
		url, _ := data["url"].(string)
		objectType, _ := body["object_type"].(string)
		check("dcim.*", dcim, strings.HasPrefix(objectType, "dcim.") || strings.Contains(url, "/api/dcim/"))

		snapshots, _ := body["snapshots"].(map[string]any)
		before, _ := snapshots["prechange"].(map[string]any)
		after, _ := snapshots["postchange"].(map[string]any)
		for _, name := range names {
			differs := !reflect.DeepEqual(before[name], after[name])
			check("changed "+name, changed[name], differs && (body["event"] != "updated" || before != nil))
			check("narrowed to "+name, narrowed[name], body["event"] != "updated" || before != nil && after != nil && differs)
		}
		check("to active", toActive,
			before["status"] != "active" && after["status"] == "active" && (body["event"] != "updated" || before != nil))
	}
	for _, name := range []string{"dcim.*", "to active", "changed status", "changed auth_psk", "changed custom_fields"} {
		if counts[name] < 10 || counts[name] > len(events)-10 {
			t.Errorf("%s: %d of %d events match, want at least 10 that do and 10 that do not", name, counts[name], len(events))
		}
	}
}

// TestEvent checks, on all recorded deliveries, that the variable event has every field of the API object.
func TestEvent(t *testing.T) {
	events, _ := recorded(t)
	see := compile(t, &v1alpha1.NetBoxEventRuleSpec{Actions: []v1alpha1.Action{{Name: "line", Log: &v1alpha1.LogAction{Message: "${event}"}}}})
	for delivery, event := range events {
		seen, err := see.Actions[0].Message.Value(t.Context(), rule.NewInput(event, now))
		if err != nil {
			t.Fatal(err)
		}
		got := generic(t, seen).(map[string]any)
		if got["name"] != event.Name || got["namespace"] != event.Namespace {
			t.Errorf("%s: the event is %v/%v", delivery, got["namespace"], got["name"])
		}
		delete(got, "name")
		delete(got, "namespace")
		want := generic(t, event.Spec).(map[string]any)
		for _, object := range []map[string]any{got, want, got["delivery"].(map[string]any), want["delivery"].(map[string]any)} {
			for name, value := range object {
				if list, ok := value.([]any); value == nil || value == "" || ok && len(list) == 0 {
					delete(object, name) // absent in the API
				}
				if text, ok := value.(string); ok && (name == "timestamp" || name == "receivedAt") {
					if object[name], err = time.Parse(time.RFC3339, text); err != nil {
						t.Error(err)
					}
				}
			}
		}
		if !reflect.DeepEqual(want, got) {
			t.Errorf("%s (-want +got):\n%s", delivery, cmp.Diff(want, got))
		}
	}

	var declare func(path string, structType reflect.Type)
	declare = func(path string, structType reflect.Type) {
		for field := range structType.Fields() {
			name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			match := v1alpha1.Match{Filter: v1alpha1.Filter{CEL: fmt.Sprintf("has(%s.%s)", path, name)}}
			if _, err := rule.Compile(&v1alpha1.NetBoxEventRuleSpec{Match: match}); err != nil {
				t.Error(err)
			}
			if field.Type.Kind() == reflect.Struct && field.Type.PkgPath() == structType.PkgPath() {
				declare(path+"."+name, field.Type)
			}
		}
	}
	declare("event", reflect.TypeFor[v1alpha1.NetBoxEventSpec]())
}

// generic converts a value to generic JSON: maps, lists, strings and numbers.
func generic(t testing.TB, value any) (decoded any) {
	t.Helper()
	encoded, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(encoded, &decoded); err != nil {
		t.Fatal(err)
	}
	return decoded
}

func TestCompile(t *testing.T) {
	log := func(message string) v1alpha1.Action {
		return v1alpha1.Action{Name: "line", Log: &v1alpha1.LogAction{Message: message}}
	}
	http := func(url string) v1alpha1.Action {
		return v1alpha1.Action{Name: "announce", HTTP: &v1alpha1.HTTPAction{URL: url}}
	}
	apply := func(template string) v1alpha1.Action {
		action := v1alpha1.Action{Name: "job", Apply: &v1alpha1.ApplyAction{}}
		if err := json.Unmarshal([]byte(template), &action.Apply.Template); err != nil {
			t.Fatal(err)
		}
		return action
	}
	for _, test := range []struct {
		reason  string
		cel     string
		actions []v1alpha1.Action
		want    []string // the prefix of each line of the error
	}{
		{reason: "an empty rule"},
		{reason: "a misspelt field of event", cel: `event.objectTyp == "dcim.device"`, want: []string{"spec.match.cel: 1:6: undefined field 'objectTyp'"}},
		{reason: "a misspelt nested field", cel: `event.delivery.keys == ""`, want: []string{"spec.match.cel: 1:15: undefined field 'keys'"}},
		{reason: "a misspelt variable", cel: `dat.name == "x"`, want: []string{"spec.match.cel: 1:1: undeclared reference to 'dat'"}},
		{reason: "a syntax error in the second line", cel: "data.name == \"x\"\n  && && true", want: []string{"spec.match.cel: 2:6: Syntax error"}},
		{reason: "two errors", cel: `dat.name == "x" && even.name == "y"`, want: []string{"spec.match.cel: 1:1: undeclared reference to 'dat' (in container ''); 1:20: undeclared"}},
		{reason: "a type mismatch", cel: `event.objectID == 14`, want: []string{"spec.match.cel: 1:16: found no matching overload"}},
		{reason: "a string is not a boolean", cel: `event.objectID`, want: []string{"spec.match.cel: 1:1: must be bool, is string"}},
		{reason: "a function without its argument", cel: `changed()`, want: []string{"spec.match.cel: 1:8: changed takes the name of a field"}},
		{reason: "a function with too many arguments", cel: `changedTo("status", "planned", "active")`, want: []string{"spec.match.cel: 1:10: changedTo takes the name of a field and a value"}},
		{reason: "a function on a number", cel: `changed(1)`, want: []string{"spec.match.cel: 1:8: found no matching overload"}},
		{reason: "nested too deeply", cel: strings.Repeat("(", 2000) + "true" + strings.Repeat(")", 2000), want: []string{"spec.match.cel: "}},

		{reason: "braces in a string, a map and a comment", actions: []v1alpha1.Action{log("${'}'}${\"}\\\"}\"}${r'\\'}${'''}'}'''}${{'a': {'b': 1}}.a}${1 // }\n}")}},
		{reason: "no closing brace", actions: []v1alpha1.Action{log(`a ${data.name`)}, want: []string{"spec.actions[line].log.message: ${data.name…: missing closing }"}},
		{reason: "an unterminated string", actions: []v1alpha1.Action{log(`a ${"data.name} b`)}, want: []string{"spec.actions[line].log.message: ${\"data.name} b…: missing closing }"}},
		{reason: "too long", actions: []v1alpha1.Action{log("${" + strings.Repeat(" ", 4096) + "1}")}, want: []string{"spec.actions[line].log.message: "}},
		{reason: "an empty expression", actions: []v1alpha1.Action{log(`a ${} b`)}, want: []string{"spec.actions[line].log.message: ${}: 1:1: Syntax error"}},
		{reason: "all errors of a template", actions: []v1alpha1.Action{log(`${dat.name}, ${data.name}, ${data.+} and ${`)}, want: []string{
			"spec.actions[line].log.message: ${dat.name}: 1:1: undeclared", "spec.actions[line].log.message: ${data.+}: 1:6: Syntax", "spec.actions[line].log.message: ${…: missing closing }",
		}},

		{reason: "URLs", actions: []v1alpha1.Action{
			http("https://hooks.example.com/netbox/${event.objectType}?id=${data.id}"), http("http://${data.host}:8080"), http("HTTPS://[::1]/${data.id}"),
		}},
		{reason: "a URL from the event", actions: []v1alpha1.Action{http(`${data.url}`)}, want: []string{"spec.actions[announce].http.url: must begin"}},
		{reason: "a scheme from the event", actions: []v1alpha1.Action{http(`http${data.s}://example.com`)}, want: []string{"spec.actions[announce].http.url: "}},
		{reason: "no scheme", actions: []v1alpha1.Action{http(`example.com/${data.id}`)}, want: []string{"spec.actions[announce].http.url: "}},
		{reason: "another scheme", actions: []v1alpha1.Action{http(`ftp://example.com/${data.id}`)}, want: []string{"spec.actions[announce].http.url: "}},
		{reason: "a scheme in the query", actions: []v1alpha1.Action{http(`x?y=http://${data.id}`)}, want: []string{"spec.actions[announce].http.url: "}},
		{reason: "no host", actions: []v1alpha1.Action{http(`https:///${data.id}`)}, want: []string{"spec.actions[announce].http.url: "}},
		{reason: "dots", actions: []v1alpha1.Action{http(`https://example.com/../${data.id}`)}, want: []string{"spec.actions[announce].http.url: "}},
		{reason: "invalid expressions do not invalidate the URL", actions: []v1alpha1.Action{http(`https://${dat.host}/${dat.id}`)}, want: []string{
			"spec.actions[announce].http.url: ${dat.host}: 1:1: ", "spec.actions[announce].http.url: ${dat.id}: 1:1: ",
		}},

		{reason: "several objects", actions: []v1alpha1.Action{apply(`{"apiVersion": "v1", "kind": "List", "items": [{"apiVersion": "v1", "kind": "ConfigMap"}, {"apiVersion": "v1", "kind": "Secret"}]}`)}},
		{reason: "required members of an object", actions: []v1alpha1.Action{apply(`{"metadata": "${data.meta}", "kind": "${data.kind}", "${data.key}": 1, "a": {"b": ["${dat}"]}}`)}, want: []string{
			"spec.actions[job].apply.template.apiVersion: must be", "spec.actions[job].apply.template.kind: must be",
			"spec.actions[job].apply.template.metadata: must be an object", "spec.actions[job].apply.template: the key \"${data.key}\"",
			"spec.actions[job].apply.template.a.b[0]: ${dat}: 1:1: undeclared",
		}},
		{reason: "an empty object", actions: []v1alpha1.Action{{Name: "job", Apply: &v1alpha1.ApplyAction{}}}, want: []string{
			"spec.actions[job].apply.template.apiVersion: ", "spec.actions[job].apply.template.kind: ",
		}},
		{reason: "a deletion without a name", actions: []v1alpha1.Action{{Name: "job", Apply: &v1alpha1.ApplyAction{
			Operation: v1alpha1.OperationDelete, Template: apply(`{"apiVersion": "v1", "kind": "Secret", "metadata": {"generateName": "a"}}`).Apply.Template,
		}}}, want: []string{"spec.actions[job].apply.template.metadata.name: must name the object"}},
		{reason: "an empty List", actions: []v1alpha1.Action{apply(`{"apiVersion": "v1", "kind": "List", "items": []}`)}, want: []string{"spec.actions[job].apply.template.items: must be"}},
		{reason: "a List of invalid items", actions: []v1alpha1.Action{apply(`{"apiVersion": "v1", "kind": "List", "items": ["${data}", {"kind": "Secret"}]}`)}, want: []string{
			"spec.actions[job].apply.template.items[0]: must be an object", "spec.actions[job].apply.template.items[1].apiVersion: must be",
		}},

		{reason: "a wait", actions: []v1alpha1.Action{{Name: "job", Apply: &v1alpha1.ApplyAction{
			Template: apply(`{"apiVersion": "v1", "kind": "Secret", "metadata": {"labels": {"a": "${object.metadata.name}"}}}`).Apply.Template,
			Wait:     &v1alpha1.ApplyWait{Success: `object.status.phase == data.name && event.event != ""`, Failure: `object.status.phase + 'x' == "x" || obj.a`},
		}}, log("${object}")}, want: []string{
			"spec.actions[job].apply.template.metadata.labels.a: ${object.metadata.name}: 1:1: undeclared reference to 'object'",
			"spec.actions[job].apply.wait.failure: 1:37: undeclared reference to 'obj'", "spec.actions[line].log.message: ${object}: 1:1: undeclared",
		}},

		{reason: "errors in all templates, each with its path", cel: `dat`, actions: []v1alpha1.Action{
			{Name: "announce", HTTP: &v1alpha1.HTTPAction{URL: "https://example.com/${dat}", Headers: []v1alpha1.HTTPHeader{
				{Name: "X-A", Value: "${data.name}"}, {Name: "X-C", Value: "${dat}"},
			}}},
			apply(`{"apiVersion": "v1", "kind": "ConfigMap", "data": {"b": "${dat}", "a": "${dat}"}}`),
			{Name: "note", Event: &v1alpha1.EventAction{Message: "${dat}"}},
			log("${dat}"),
		}, want: []string{
			"spec.match.cel: 1:1: ", "spec.actions[announce].http.url: ${dat}: 1:1: ", "spec.actions[announce].http.headers[X-C].value: ${dat}: 1:1: ",
			"spec.actions[job].apply.template.data.a: ${dat}: 1:1: ", "spec.actions[job].apply.template.data.b: ${dat}: 1:1: ",
			"spec.actions[note].event.message: ${dat}: 1:1: ", "spec.actions[line].log.message: ${dat}: 1:1: ",
		}},
	} {
		t.Run(test.reason, func(t *testing.T) {
			compiled, err := rule.Compile(&v1alpha1.NetBoxEventRuleSpec{Match: v1alpha1.Match{Filter: v1alpha1.Filter{CEL: test.cel}}, Actions: test.actions})
			var lines []string
			if err != nil {
				lines = strings.Split(err.Error(), "\n")
			}
			if (err == nil) != (compiled != nil) || len(lines) != len(test.want) {
				t.Fatalf("error:\n%v\nwant:\n%s", err, strings.Join(test.want, "\n"))
			}
			for i, line := range lines {
				if !strings.HasPrefix(line, test.want[i]) {
					t.Errorf("error is\n%s\nwant\n%s", line, test.want[i])
				}
			}
		})
	}
}

// TestLimits checks the bounds of a rule's resources.
func TestLimits(t *testing.T) {
	list := "[" + strings.Repeat("1, ", 999) + "1]"
	event := eventWith(t, `{"list": `+list+`, "text": "`+strings.Repeat("x", 200_000)+`"}`)
	for _, test := range []struct {
		reason, message string
		wantErr         string
	}{
		{reason: "a billion steps", message: "${data.list.all(a, data.list.all(b, data.list.all(c, a + b + c > 0)))}", wantErr: "operation "}, // cancelled, or interrupted
		{reason: "a value with many references", message: "${[" + strings.Repeat("data, ", 20) + "data]}", wantErr: "the value would exceed"},
		{reason: "a list that doubles", message: "${[[1]]" + strings.Repeat(".map(x, x + x)", 60) + "}", wantErr: "larger than"},
		{reason: "a value rendered many times", message: strings.Repeat("${data.text}", 20), wantErr: "is larger than"},
		{reason: "an error with a long key", message: "${data[data.text]}", wantErr: "no such key"},
		{reason: "an error with a long value", message: "${ip(data.text)}", wantErr: "IP Address"},
	} {
		t.Run(test.reason, func(t *testing.T) {
			compiled := compile(t, &v1alpha1.NetBoxEventRuleSpec{Actions: []v1alpha1.Action{{Name: "line", Log: &v1alpha1.LogAction{Message: test.message}}}})
			begin := time.Now()
			text, err := compiled.Actions[0].Message.Message(t.Context(), rule.NewInput(event, now))
			if err == nil || !strings.Contains(err.Error(), test.wantErr) || len(err.Error()) > 1000 {
				t.Errorf("error is %.2000v, text of %d bytes", err, len(text))
			}
			if took := time.Since(begin); took > 10*time.Second { // 0.5 s without the race detector
				t.Errorf("took %v", took)
			}
		})
	}

	t.Run("a deadline", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		compiled := compile(t, &v1alpha1.NetBoxEventRuleSpec{Match: v1alpha1.Match{Filter: v1alpha1.Filter{CEL: "data.list.all(a, data.list.all(b, a + b > 0))"}}})
		if _, err := compiled.Match(ctx, event, rule.NewInput(event, now)); !errors.Is(err, context.Canceled) {
			t.Errorf("error is %v", err)
		}
	})
	t.Run("many expressions", func(t *testing.T) {
		message := strings.Repeat("${1}", 1001)
		_, err := rule.Compile(&v1alpha1.NetBoxEventRuleSpec{Actions: []v1alpha1.Action{{Name: "line", Log: &v1alpha1.LogAction{Message: message}}}})
		if err == nil || !strings.Contains(err.Error(), "1001 expressions") {
			t.Errorf("error is %v", err)
		}
	})
	t.Run("errors fit into a condition", func(t *testing.T) {
		spec := &v1alpha1.NetBoxEventRuleSpec{Match: v1alpha1.Match{Filter: v1alpha1.Filter{CEL: strings.Repeat("ü)", 2000)}}}
		for range 16 {
			spec.Actions = append(spec.Actions, v1alpha1.Action{Name: "line", Log: &v1alpha1.LogAction{Message: strings.Repeat("${"+strings.Repeat("(", 400)+"}", 10)}})
		}
		_, err := rule.Compile(spec)
		if err == nil || len(err.Error()) > 32<<10 || !strings.Contains(err.Error(), "and 111 more") {
			t.Errorf("error of %d bytes: %v", len(err.Error()), err)
		}
	})
}

func TestCache(t *testing.T) {
	cache := rule.NewCache()
	newRule := func(uid string, generation int64, cel string) *v1alpha1.NetBoxEventRule {
		return &v1alpha1.NetBoxEventRule{
			ObjectMeta: metav1.ObjectMeta{UID: types.UID(uid), Generation: generation},
			Spec:       v1alpha1.NetBoxEventRuleSpec{Match: v1alpha1.Match{Filter: v1alpha1.Filter{CEL: cel}}},
		}
	}
	get := func(eventRule *v1alpha1.NetBoxEventRule) *rule.Rule {
		t.Helper()
		compiled, err := cache.Get(eventRule)
		if err != nil {
			t.Fatal(err)
		}
		return compiled
	}
	first := get(newRule("a", 1, "true"))
	if get(newRule("a", 1, "true")) != first {
		t.Error("a rule was compiled twice")
	}
	if get(newRule("a", 2, "false")) == first || get(newRule("b", 1, "false")) == first {
		t.Error("the cache returned another rule")
	}
	if _, err := cache.Get(newRule("c", 1, "dat")); err == nil {
		t.Error("an invalid rule compiled")
	}
	if _, err := cache.Get(newRule("c", 1, "dat")); err == nil {
		t.Error("an invalid rule compiled the second time")
	}

	var all sync.WaitGroup // with the race detector
	for i := range 8 {
		all.Go(func() {
			compiled, err := cache.Get(newRule("d", int64(i%2), "data.name == 'x'"))
			if err != nil {
				t.Error(err)
				return
			}
			event := eventWith(t, `{"name": "x"}`)
			if matched, err := compiled.Match(t.Context(), event, rule.NewInput(event, now)); !matched || err != nil {
				t.Error(matched, err)
			}
		})
	}
	all.Wait()
}

// TestSecretNames checks that only the templates of http actions take Secrets, and only those that the rule declares.
func TestSecretNames(t *testing.T) {
	declared := []v1alpha1.RuleSecret{{Name: "token"}, {Name: "other"}}
	header := func(value string) v1alpha1.Action {
		return v1alpha1.Action{Name: "send", HTTP: &v1alpha1.HTTPAction{URL: "https://example.com", Headers: []v1alpha1.HTTPHeader{{Name: "A", Value: value}}}}
	}
	log := func(message string) v1alpha1.Action {
		return v1alpha1.Action{Name: "line", Log: &v1alpha1.LogAction{Message: message}}
	}
	made := &v1alpha1.ApplyAction{Template: v1alpha1.JSONObject{
		"apiVersion": {Raw: []byte(`"v1"`)}, "kind": {Raw: []byte(`"ConfigMap"`)}, "data": {Raw: []byte(`{"a": "${secrets.token}"}`)},
	}}
	url := func(url string) v1alpha1.Action {
		return v1alpha1.Action{Name: "send", HTTP: &v1alpha1.HTTPAction{URL: url}}
	}
	const undeclared = "undeclared reference to 'secrets'"
	for _, test := range []struct {
		cel    string
		action v1alpha1.Action
		want   string
	}{
		{action: header("Bearer ${secrets.token}")},
		{action: header("${has(secrets.token) ? 'a' : .secrets.token}")},
		{action: url("${secrets.token}?id=${data.id}")},
		{action: url("https://example.com/${secrets.token}")},
		{action: header("${secrets.tokn}"), want: "secrets.tokn is not declared; add it to spec.secrets, which has [other, token]"},
		{action: header("${secrets}"), want: "secrets must be followed by the name"},
		{action: header("${secrets['token']}"), want: "secrets must be followed by the name"},
		{action: header("${secrets.?token.orValue('')}"), want: "secrets must be followed by the name"},
		{action: header("${secrets.map(name, secrets.token)[0]}"), want: "secrets must be followed by the name"},
		{action: url("${secrets.token}${data.name}"), want: "must go on with / or ?"},
		{action: url("${secrets.token}.example.com/"), want: "must go on with / or ?"},
		{action: url("${secrets.token + data.name}/"), want: "must begin with http:// or https://"},
		{action: log("${secrets.token}"), want: undeclared},
		{action: v1alpha1.Action{Name: "note", Event: &v1alpha1.EventAction{Message: "${secrets.token}"}}, want: undeclared},
		{action: v1alpha1.Action{Name: "make", Apply: made}, want: undeclared},
		{cel: "secrets.token == ''", action: log("a"), want: undeclared},
	} {
		// The log action comes after one of the kind http, whose Secrets it must not see.
		_, err := rule.Compile(&v1alpha1.NetBoxEventRuleSpec{
			Match: v1alpha1.Match{Filter: v1alpha1.Filter{CEL: test.cel}}, Secrets: declared, Actions: []v1alpha1.Action{header("${secrets.token}"), test.action},
		})
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%+v: error is %v, want %q", test.action, err, test.want)
		}
	}
}
