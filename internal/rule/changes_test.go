package rule_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/rule"
	"github.com/netbox-events/netbox-event-operator/test/deliveries"
)

// sent returns the event of a delivery with snapshots of the object 7, as JSON; "" for a delivery without snapshots. The values of password
// are redacted.
func sent(t *testing.T, event, before, after string) *v1alpha1.NetBoxEvent {
	t.Helper()
	snapshots := ""
	if before != "" {
		snapshots = `, "snapshots": {"prechange": ` + before + `, "postchange": ` + after + `}`
	}
	body := fmt.Sprintf(`{"event": %q, "timestamp": "2027-07-28T09:30:00Z", "object_type": "dcim.device", "data": {"id": 7, "name": "leaf7"}%s}`,
		event, snapshots)
	stored, err := deliveries.Delivery{Body: body}.Event("netbox", deliveries.Redact)
	if err != nil {
		t.Fatal(err)
	}
	return stored
}

func TestChanges(t *testing.T) {
	type event struct{ event, before, after string }
	const (
		planned = `{"status": "planned", "name": "leaf7", "last_updated": 1}`
		active  = `{"last_updated": 2, "name": "leaf7", "status": "active"}`
		renamed = `{"status": "active", "name": "leaf8", "last_updated": 3}`
		back    = `{"name": "leaf7", "status": "planned", "last_updated": 4}`
		none    = `null`
		gone    = "" // a delivery without snapshots
		fields  = `{"custom_fields": {"owner": "a", "tier": 1}}`
		fields2 = `{"custom_fields": {"owner": "b", "tier": 2}}`
		fields3 = `{"custom_fields": {"owner": "a", "tier": 3}}`
		secret  = `{"name": "a", "password": "one", "custom_fields": {"password": "x", "owner": "a"}}`
		secret2 = `{"name": "b", "password": "two", "custom_fields": {"password": "x", "owner": "b"}}`
		secret3 = `{"name": "a", "password": "six", "custom_fields": {"password": "x", "owner": "a"}}`
		secret4 = `{"name": "a", "password": "six", "custom_fields": {"password": "y", "owner": "a"}}`
	)
	for _, test := range []struct {
		reason        string
		events        []event
		want          string // event
		before, after string // null where it is not known, or there is none
		changed       []any
	}{
		{"created", []event{{"created", none, planned}}, "created", none, planned, nil},
		{"created and updated", []event{{"created", none, planned}, {"updated", planned, active}}, "created", none, active, nil},
		{"created twice, by two webhooks", []event{{"created", none, planned}, {"created", none, planned}}, "created", none, planned, nil},
		{"created and deleted", []event{{"created", none, planned}, {"updated", planned, active}, {"deleted", active, none}}, "none", none, none, nil},
		{"created, deleted and created", []event{{"created", none, planned}, {"deleted", planned, none}, {"created", none, active}}, "created", none, active, nil},
		{"an update before the creation of its request", []event{{"updated", none, planned}, {"created", none, planned}}, "created", none, planned, nil},
		{"updated", []event{{"updated", planned, active}}, "updated", planned, active, []any{"status"}},
		{"updated twice", []event{{"updated", planned, active}, {"updated", active, renamed}}, "updated", planned, renamed, []any{"name", "status"}},
		{"updated and back", []event{{"updated", planned, active}, {"updated", active, back}}, "none", planned, back, nil},
		{"saved without a change", []event{{"updated", planned, back}}, "none", planned, back, nil},
		{"one field back", []event{{"updated", planned, renamed}, {"updated", renamed, active}}, "updated", planned, active, []any{"status"}},
		{"a side effect in between", []event{{"updated", planned, active}, {"updated", none, active}}, "updated", planned, active, []any{"status"}},
		{"nothing known before", []event{{"updated", none, active}, {"updated", active, renamed}}, "updated", none, renamed, []any{"name"}},
		{"nothing known before, one event", []event{{"updated", none, active}}, "updated", none, active, nil},
		{"no snapshots", []event{{"updated", gone, gone}, {"updated", gone, gone}}, "updated", none, none, nil},
		{"no snapshots, created", []event{{"created", gone, gone}, {"updated", gone, gone}}, "created", none, none, nil},
		{"no snapshots, created and deleted", []event{{"created", gone, gone}, {"deleted", gone, gone}}, "none", none, none, nil},
		{"deleted", []event{{"deleted", active, none}}, "deleted", active, none, nil},
		{"updated and deleted", []event{{"updated", planned, active}, {"deleted", active, none}}, "deleted", planned, none, nil},
		{"a side effect after the deletion", []event{{"deleted", active, none}, {"updated", none, active}}, "deleted", active, none, nil},
		{"deleted and created again", []event{{"deleted", planned, none}, {"created", none, renamed}}, "updated", planned, renamed, []any{"name", "status"}},
		{"deleted and restored", []event{{"deleted", planned, none}, {"created", none, back}}, "none", planned, back, nil},
		{"custom fields", []event{{"updated", fields, fields2}, {"updated", fields2, fields3}}, "updated", fields, fields3, []any{"custom_fields", "custom_fields.tier"}},
		{"a redacted value", []event{{"updated", secret, secret2}, {"updated", secret2, secret3}}, "updated", "", "", []any{"password"}},
		{"a redacted custom field", []event{{"updated", secret3, secret4}, {"updated", secret4, secret4}}, "updated", "", "", []any{"custom_fields", "custom_fields.password"}},
		{"no redacted value changed", []event{{"updated", secret3, strings.ReplaceAll(secret3, `"a"`, `"b"`)}, {"updated", strings.ReplaceAll(secret3, `"a"`, `"b"`), secret3}}, "none", "", "", nil},
		{"a plugin's event among changes", []event{{"updated", planned, active}, {"synced", none, none}}, "updated", planned, active, []any{"status"}},
		{"a plugin's event alone", []event{{"synced", none, none}}, "synced", none, none, nil},
	} {
		var events []*v1alpha1.NetBoxEvent
		for _, event := range test.events {
			events = append(events, sent(t, event.event, event.before, event.after))
		}
		in, _ := rule.NewGroupInput(events, "id", false, now)
		value, err := groupValue(t, in, `changes.map(c, {"event": dyn(c.event), "prechange": c.prechange, "postchange": c.postchange, "changedFields": dyn(c.changedFields), "events": dyn(c.events), "name": dyn(c.data.name)})`)
		if err != nil {
			t.Fatalf("%s: %v", test.reason, err)
		}
		want := map[string]any{"event": test.want, "changedFields": append([]any{}, test.changed...), "events": int64(len(events)), "name": "leaf7"}
		got := value.([]any)[0].(map[string]any)
		if test.before != "" {
			want["prechange"], want["postchange"] = decodedJSON(t, test.before), decodedJSON(t, test.after)
		} else {
			delete(got, "prechange")
			delete(got, "postchange")
		}
		if diff := cmp.Diff([]any{want}, value); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.reason, diff)
		}
		if _, left := rule.NewGroupInput(events, "id", true, now); left != (test.want != "none") {
			t.Errorf("%s: with net, something is left: %v", test.reason, left)
		}
	}
}

// decodedJSON decodes JSON as templates render it: integers as int64.
func decodedJSON(t *testing.T, text string) (decoded any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &decoded); err != nil {
		t.Fatal(err)
	}
	var convert func(any) any
	convert = func(value any) any {
		switch value := value.(type) {
		case float64:
			return int64(value)
		case map[string]any:
			for name, member := range value {
				value[name] = convert(member)
			}
		}
		return value
	}
	return convert(decoded)
}

// TestChangesOfALife follows a recorded device from its creation to its deletion, and others.
func TestChangesOfALife(t *testing.T) {
	device := func(numbers ...int) (names []string) {
		for _, n := range numbers {
			names = append(names, fmt.Sprintf("netbox-4.6.8-live/%d", n))
		}
		return names
	}
	for _, test := range []struct {
		reason string
		names  []string
		want   string // event, name and changed fields of each change
		net    string // the same with net, "" if nothing is left
	}{
		{"created and made active", device(169, 182), "created leaf1", "created leaf1"},
		{"active, and an address", device(182, 187), "updated leaf1 primary_ip4 status", "updated leaf1 primary_ip4 status"},
		{"a tag added and removed", device(194, 195), "none leaf1", ""},
		{"all updates", device(182, 187, 194, 195), "updated leaf1 primary_ip4 status", "updated leaf1 primary_ip4 status"},
		{"updates and the deletion", device(182, 187, 210), "deleted leaf1", "deleted leaf1"},
		{"its life", device(169, 182, 187, 194, 195, 210), "none leaf1", ""},
		{"two devices and an address", device(194, 196, 185, 195, 197), "none leaf1, updated leaf2 comments, created 10.0.0.1/24", "updated leaf2 comments, created 10.0.0.1/24"},
		{"NetBox 2.9, its life", []string{"netbox-2.9.11-live/75", "netbox-2.9.11-live/76", "netbox-2.9.11-live/77", "netbox-2.9.11-live/420"}, "none sw-zürich-1 🚀", ""},
		{"NetBox 2.9, updates", []string{"netbox-2.9.11-live/76", "netbox-2.9.11-live/77"}, "updated sw-zürich-1 🚀", "updated sw-zürich-1 🚀"},
		{"NetBox 3.3, a side effect first", []string{"netbox-3.3.10-live/175", "netbox-3.3.10-live/176"}, `updated sw-zürich-1 🚀 (A-"1") face location position`, `updated sw-zürich-1 🚀 (A-"1") face location position`},
		{"two jobs", device(265, 266), "job_ended , job_ended ", "job_ended , job_ended "},
	} {
		const summary = `changes.map(c, c.event + " " + ([c.objectName] + c.changedFields).join(" ")).join(", ")`
		in, _ := groupOf(t, false, test.names...)
		if got, err := groupValue(t, in, summary); err != nil || got != test.want {
			t.Errorf("%s: %v, want %s: %v", test.reason, got, test.want, err)
		}
		in, left := groupOf(t, true, test.names...)
		if left != (test.net != "") {
			t.Errorf("%s: with net, something is left: %v", test.reason, left)
		}
		if !left {
			continue
		}
		if got, err := groupValue(t, in, summary); err != nil || got != test.net {
			t.Errorf("%s: with net: %v, want %s: %v", test.reason, got, test.net, err)
		}
		consistent := fmt.Sprintf(`events.size() == %d && events[events.size() - 1].name == event.name && events.all(e, changes.exists(c, c.objectID == e.objectID))`, len(in.Events()))
		if value, err := groupValue(t, in, consistent); err != nil || value != true {
			t.Errorf("%s: %s is %v: %v", test.reason, consistent, value, err)
		}
	}
	in, _ := groupOf(t, true, device(194, 196, 185, 195, 197)...)
	var names []string
	for _, event := range in.Events() {
		names = append(names, event.Name)
	}
	if diff := cmp.Diff([]string{"netbox-4.6.8-live-196", "netbox-4.6.8-live-185", "netbox-4.6.8-live-197"}, names); diff != "" {
		t.Errorf("events that net leaves (-want +got):\n%s", diff)
	}
}

// TestChangesOfBranches checks that an object of a branch, and one of another source, is another one.
func TestChangesOfBranches(t *testing.T) {
	events, _ := recorded(t)
	main := events["netbox-4.6.8-live/194"]
	branch, source := main.DeepCopy(), main.DeepCopy()
	branch.Spec.Branch, source.Spec.SourceRef.Name = "Rack move", "netbox2"
	in, _ := rule.NewGroupInput([]*v1alpha1.NetBoxEvent{main, branch, source}, "id", false, now)
	got, err := groupValue(t, in, `changes.map(c, c.branch)`)
	if diff := cmp.Diff([]any{"", "Rack move", ""}, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}
