package rule_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/rule"
	"github.com/netbox-events/netbox-event-operator/test/deliveries"
)

// groupRule returns a rule with groups that writes a line.
func groupRule(message string) *v1alpha1.NetBoxEventRuleSpec {
	return &v1alpha1.NetBoxEventRuleSpec{
		Group:   &v1alpha1.Group{By: v1alpha1.GroupByRequest, MaxEvents: 5000},
		Actions: []v1alpha1.Action{{Name: "line", Log: &v1alpha1.LogAction{Message: message}}},
	}
}

// groupValue returns the value of an expression on a group.
func groupValue(t testing.TB, in *rule.Input, expression string) (any, error) {
	t.Helper()
	return compile(t, groupRule("${"+expression+"}")).Actions[0].Message.Value(t.Context(), in)
}

// groupOf returns the Input of a group of recorded deliveries.
func groupOf(t testing.TB, net bool, names ...string) (*rule.Input, bool) {
	t.Helper()
	events, _ := recorded(t)
	var group []*v1alpha1.NetBoxEvent
	for _, name := range names {
		if events[name] == nil {
			t.Fatalf("there is no delivery %s", name)
		}
		group = append(group, events[name])
	}
	return rule.NewGroupInput(group, "3f9c2a7be1d04c55a1b2", net, now)
}

func TestGroupKey(t *testing.T) {
	events, _ := recorded(t)
	const (
		device      = "netbox-4.6.8/313"
		sameRequest = "netbox-4.6.8/314"
		sameObject  = "netbox-4.6.8-live/182"
		alsoObject  = "netbox-4.6.8-live/187"
		job         = "netbox-4.6.8-live/265"
		otherJob    = "netbox-4.6.8-live/266"
	)
	for _, test := range []struct {
		reason, by, a, b string
		want             bool // the two events have the same key
	}{
		{"two objects of one request", "Request", device, sameRequest, true},
		{"two requests", "Request", sameObject, alsoObject, false},
		{"jobs belong to no request", "Request", job, otherJob, false},
		{"two changes of one object", "Object", sameObject, alsoObject, true},
		{"two objects", "Object", device, sameRequest, false},
		{"jobs have no object", "Object", job, otherJob, false},
		{"all events", "Rule", device, job, true},
		{"the same value", "data.site.slug", device, sameRequest, true},
		{"another value", "data.site.slug", device, sameObject, false},
		{"a number and a text", "event.name == '" + events[device].Name + "' ? dyn(7) : dyn('7')", device, job, true},
		{"an expression that is null, and one that fails", "has(data.tenant) ? data.tenant : data.nothing", device, job, true},
		{"no value is not a value", "data.?name.orValue(null)", device, job, false},
	} {
		compiled := compile(t, &v1alpha1.NetBoxEventRuleSpec{Group: &v1alpha1.Group{By: test.by}})
		key := func(name string) string {
			return compiled.GroupKey(t.Context(), events[name], rule.NewInput(events[name], now))
		}
		if same := key(test.a) == key(test.b); same != test.want {
			t.Errorf("%s: the keys are %q and %q", test.reason, key(test.a), key(test.b))
		}
	}
	other := events[device].DeepCopy()
	other.Spec.SourceRef.Name = "netbox2"
	for _, by := range []string{"Request", "Object"} {
		compiled := compile(t, &v1alpha1.NetBoxEventRuleSpec{Group: &v1alpha1.Group{By: by}})
		if key := compiled.GroupKey(t.Context(), other, nil); key == compiled.GroupKey(t.Context(), events[device], nil) {
			t.Errorf("%s: events of two sources have the key %s", by, key)
		}
	}
	if ungrouped := compile(t, jobRule(t)); ungrouped.Group != nil || ungrouped.GroupKey(t.Context(), other, nil) != "" {
		t.Error("a rule without groups has one")
	}
}

// TestGroupScope checks where the variables of groups may be used.
func TestGroupScope(t *testing.T) {
	const uses = `events.size() > 0 && changes.size() > 0 && group.id != ""`
	group := &v1alpha1.Group{By: "Rule"}
	action := func(change func(*v1alpha1.Action)) []v1alpha1.Action {
		http := v1alpha1.Action{Name: "send", HTTP: &v1alpha1.HTTPAction{URL: "https://sink.example.com/"}}
		change(&http)
		return []v1alpha1.Action{http}
	}
	line := action(func(a *v1alpha1.Action) { a.HTTP, a.Log = nil, &v1alpha1.LogAction{Message: "${" + uses + "}"} })
	format := func(format v1alpha1.HTTPFormat) []v1alpha1.Action {
		return action(func(a *v1alpha1.Action) { a.HTTP.Format = format })
	}
	mirror := action(func(a *v1alpha1.Action) {
		a.HTTP, a.Apply = nil, &v1alpha1.ApplyAction{Operation: v1alpha1.OperationMirror, Template: template(t, `{"apiVersion": "v1", "kind": "ConfigMap"}`)}
	})
	wait := action(func(a *v1alpha1.Action) {
		a.HTTP, a.Apply = nil, &v1alpha1.ApplyAction{
			Template: template(t, `{"apiVersion": "v1", "kind": "ConfigMap"}`), Wait: &v1alpha1.ApplyWait{Success: uses + " && object != null"},
		}
	})
	for _, test := range []struct {
		reason string
		spec   v1alpha1.NetBoxEventRuleSpec
		want   string // part of the error, "" for none
	}{
		{"a message", v1alpha1.NetBoxEventRuleSpec{Group: group, Actions: line}, ""},
		{"when", v1alpha1.NetBoxEventRuleSpec{Group: group, Actions: action(func(a *v1alpha1.Action) { a.When = uses })}, ""},
		{"success", v1alpha1.NetBoxEventRuleSpec{Group: group, Actions: action(func(a *v1alpha1.Action) { a.HTTP.Success = uses + " && response.status == 200" })}, ""},
		{"wait", v1alpha1.NetBoxEventRuleSpec{Group: group, Actions: wait}, ""},
		{"a URL", v1alpha1.NetBoxEventRuleSpec{Group: group, Actions: action(func(a *v1alpha1.Action) { a.HTTP.URL += "${group.id}" })}, ""},
		{"onFailure", v1alpha1.NetBoxEventRuleSpec{Group: group, OnFailure: line}, ""},
		{"the last event", v1alpha1.NetBoxEventRuleSpec{Group: group, Actions: action(func(a *v1alpha1.Action) { a.When = `changedTo("status", "active")` })}, ""},
		{"match", v1alpha1.NetBoxEventRuleSpec{Group: group, Match: v1alpha1.Match{Filter: v1alpha1.Filter{CEL: "events.size() > 0"}}}, "spec.match.cel: 1:1: undeclared reference to 'events'"},
		{"limit", v1alpha1.NetBoxEventRuleSpec{Group: group, Limit: v1alpha1.Limit{Key: "group.id"}}, "spec.limit.key: 1:1: undeclared reference to 'group'"},
		{"the key of groups", v1alpha1.NetBoxEventRuleSpec{Group: &v1alpha1.Group{By: "changes[0].event"}}, "spec.group.by: 1:1: undeclared reference to 'changes'"},
		{"a rule without groups", v1alpha1.NetBoxEventRuleSpec{Actions: line}, "undeclared reference to 'events'"},
		{"onFailure of a rule without groups", v1alpha1.NetBoxEventRuleSpec{OnFailure: line}, "undeclared reference to 'changes'"},
		{"a misspelt field of a change", v1alpha1.NetBoxEventRuleSpec{Group: group, Actions: action(func(a *v1alpha1.Action) { a.When = `changes.exists(c, c.kind == "")` })}, "undefined field 'kind'"},
		{"a misspelt field of an event", v1alpha1.NetBoxEventRuleSpec{Group: group, Actions: action(func(a *v1alpha1.Action) { a.When = `events.exists(e, e.type == "")` })}, "undefined field 'type'"},
		{"lower case", v1alpha1.NetBoxEventRuleSpec{Group: &v1alpha1.Group{By: "request"}}, "spec.group.by: write Request"},
		{"an expression that does not compile", v1alpha1.NetBoxEventRuleSpec{Group: &v1alpha1.Group{By: "data."}}, "spec.group.by: 1:6"},
		{"CloudEvent", v1alpha1.NetBoxEventRuleSpec{Group: group, Actions: format(v1alpha1.FormatCloudEvent)}, ""},
		{"CloudEventBatch", v1alpha1.NetBoxEventRuleSpec{Group: group, Actions: format(v1alpha1.FormatCloudEventBatch)}, ""},
		{"CloudEventBinary", v1alpha1.NetBoxEventRuleSpec{Group: group, Actions: format(v1alpha1.FormatCloudEventBinary)}, "spec.actions[send].http.format: CloudEventBinary is for single events; use CloudEvent, CloudEventBatch"},
		{"NetBox", v1alpha1.NetBoxEventRuleSpec{Group: group, OnFailure: format(v1alpha1.FormatNetBox)}, "spec.onFailure[send].http.format: NetBox is for single events"},
		{"CloudEventBatch without groups", v1alpha1.NetBoxEventRuleSpec{Actions: format(v1alpha1.FormatCloudEventBatch)}, "set spec.group, or use CloudEvent"},
		{"Mirror", v1alpha1.NetBoxEventRuleSpec{Group: group, Actions: mirror}, "spec.actions[send].apply.operation: Mirror"},
		{"Mirror without groups", v1alpha1.NetBoxEventRuleSpec{Actions: mirror}, ""},
	} {
		_, err := rule.Compile(&test.spec)
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: error is %v, want %q", test.reason, err, test.want)
		}
	}
}

func template(t testing.TB, text string) (decoded v1alpha1.JSONObject) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &decoded); err != nil {
		t.Fatal(err)
	}
	return decoded
}

// TestGroupVariables checks the variables of a group of recorded deliveries.
func TestGroupVariables(t *testing.T) {
	in, ok := groupOf(t, false, "netbox-4.6.8/313", "netbox-4.6.8/314", "netbox-4.6.8-live/265")
	if !ok || len(in.Events()) != 3 {
		t.Fatal(in, ok)
	}
	for _, expression := range []string{
		`events.size() == 3 && events.map(e, e.objectName) == ["Device 1", "Device 2", ""] && events[1].data.status.value == "failed"`,
		`event.event == "job_ended" && event.name == events[2].name && data.log.size() > 0 && prechange == null && events[2].data == data`,
		`group.id == "3f9c2a7be1d04c55a1b2" && now == timestamp("2027-07-28T09:30:00Z")`,
		`events[0].timestamp < events[1].timestamp && events[0].delivery.receivedAt == events[0].timestamp && events[0].sourceRef.name == "netbox"`,
		`events.filter(e, e.event == "updated").map(e, e.snapshots.postchange.status).distinct() == ["failed"]`,
		`events.map(e, e.data.?site.?slug.orValue("none")) == ["site-1", "site-1", "none"] && events.map(e, has(e.data.site)) == [true, true, false]`,
		`changes.map(c, c.event) == ["updated", "updated", "job_ended"] && changes[0].changedFields == ["status"] && changes.all(c, c.events == 1)`,
		`changes[0].prechange.status == "active" && changes[0].postchange.status == "failed" && changes[2].prechange == null && changes[2].data == data`,
		`changes.map(c, c.objectName + ": " + c.changedFields.map(f, f + " " + string(c.prechange[f]) + " to " + string(c.postchange[f])).join(", "))[0] == "Device 1: status active to failed"`,
		`changes[0].objectType == "dcim.device" && changes[0].model == "device" && changes[0].objectID == "13" && changes[0].objectURL == "/api/dcim/devices/13/" && changes[0].branch == ""`,
	} {
		if value, err := groupValue(t, in, expression); err != nil || value != true {
			t.Errorf("%s is %v: %v", expression, value, err)
		}
	}
	value, err := groupValue(t, in, `events[0].data.missing`)
	if err == nil || !strings.Contains(err.Error(), "events[0].data.missing: no such key; events[0].data has airflow, asset_tag, cluster") {
		t.Errorf("%v: error is %v", value, err)
	}
}

// TestDeferredValues checks that an event of a group has the same value as the variable event, however an expression reads it.
func TestDeferredValues(t *testing.T) {
	events, _ := recorded(t)
	expressions := []string{
		`events[0] == event && event == events[0] && [event] == events && events[0] in [event] && event in events`,
		`events[0].data == data && data == events[0].data && events[0].snapshots == event.snapshots && events[0].request == event.request`,
		`events[0].delivery == event.delivery && events[0].extra == event.extra && events[0].context == event.context`,
		`data == null || data.all(k, events[0].data[k] == data[k]) && events[0].data.all(k, data[k] == events[0].data[k])`,
		`data == null || data.all(k, v, v == events[0].data[k]) && events[0].data.all(k, v, v == data[k]) && events[0].data.size() == data.size()`,
		`data == null || events[0].data.all(k, k in events[0].data) && !("no such key" in events[0].data) && !has(events[0].data.nothing)`,
		`event.snapshots == null || events[0].snapshots.postchange == postchange && prechange == events[0].snapshots.prechange`,
		`postchange == null || postchange.all(k, events[0].snapshots.postchange[k] == postchange[k])`,
		`postchange == null || cel.bind(p, events[0].snapshots.postchange, postchange.all(k, p[k] == postchange[k] && k in p && type(p[k]) == type(postchange[k])))`,
		`changes.size() == 1 && changes[0].data == data && changes[0].events == 1 && changes[0] == changes[0] && dyn(events[0]) != dyn(changes[0])`,
		`type(events[0]) == map && type(events[0].data) == type(data) && dyn(events[0]) != dyn(1) && dyn(events[0].data) != dyn([data])`,
		`[events[0]].map(e, e.data)[0] == data && events.map(e, {"d": e.data})[0].d == data && events.transformMap(i, e, e.data)[0] == data`,
	}
	compiled := map[string]*rule.Rule{}
	for _, expression := range expressions {
		compiled[expression] = compile(t, groupRule("${"+expression+"}"))
	}
	whole := compile(t, groupRule("${events[0]}"))
	single := compile(t, &v1alpha1.NetBoxEventRuleSpec{Actions: groupRule("${event}").Actions})
	for i, name := range slices.Sorted(maps.Keys(events)) {
		if i%7 != 0 { // all of them take 20 s
			continue
		}
		event := events[name]
		in, _ := rule.NewGroupInput([]*v1alpha1.NetBoxEvent{event}, "id", false, now)
		for _, expression := range expressions {
			value, err := compiled[expression].Actions[0].Message.Value(t.Context(), in)
			isTooLarge := err != nil && event.Spec.Delivery.BodyBytes > 50_000 // beyond the limits of comparisons
			if !isTooLarge && (err != nil || value != true) {
				t.Errorf("%s: %s is %v: %v", name, expression, value, err)
			}
		}
		want, wantErr := single.Actions[0].Message.Value(t.Context(), rule.NewInput(event, now))
		got, err := whole.Actions[0].Message.Value(t.Context(), in)
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("%s: %v and %v", name, err, wantErr)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-event +events[0]):\n%s", name, diff)
		}
	}
}

// bulkEdit returns the events of a bulk edit of n devices.
func bulkEdit(t testing.TB, n int) []*v1alpha1.NetBoxEvent {
	t.Helper()
	edit, err := deliveries.BulkEdit(n)
	if err != nil {
		t.Fatal(err)
	}
	events := make([]*v1alpha1.NetBoxEvent, n)
	for i, delivery := range edit {
		if events[i], err = delivery.Event("netbox", deliveries.Redact); err != nil {
			t.Fatal(err)
		}
		comments := strings.Repeat("x", 1500) // a device of the usual size, 6 kB
		events[i].Spec.Data["comments"] = v1alpha1.JSON{Raw: []byte(`"` + comments + `"`)}
	}
	return events
}

// largeGroup are expressions on 5000 events, and the lengths of their values as text.
var largeGroup = []struct {
	expression string
	want       int
}{
	{`events.map(e, e.data.name).join(", ")`, 5000*13 - 2 - 1107}, // Device 1 to Device 5000
	{`events.filter(e, e.data.status.value == "failed" && e.data.site.slug == "site-1").map(e, e.objectID).join()`, 18893},
	{`events.map(e, e.snapshots.prechange.status).distinct()`, len(`["active"]`)},
	{`events.map(e, e.data.site.slug).distinct().map(s, s + ": " + string(events.filter(e, e.data.site.slug == s).size())).join()`, len("site-1: 5000")},
	{`changes.filter(c, c.event == "updated").map(c, c.objectName + " is " + c.postchange.status).join("\n")`, 5000*22 - 1 - 1107},
	{`changes.map(c, {"name": dyn(c.objectName), "fields": dyn(c.changedFields.map(f, {"field": dyn(f), "from": c.prechange[f], "to": c.postchange[f]}))})`, 5000*83 + 1 - 1107},
	{`events.all(e, e.snapshots.prechange != e.snapshots.postchange)`, len("true")},
}

// TestLargeGroup checks that expressions on a group of 5000 events stay within their limits, and decode what they use alone.
func TestLargeGroup(t *testing.T) {
	if raceDetector {
		t.Skip("measures memory, and takes time, which the race detector multiplies")
	}
	events := bulkEdit(t, 5000)
	for _, test := range largeGroup {
		message := compile(t, groupRule("${"+test.expression+"}")).Actions[0].Message
		in, _ := rule.NewGroupInput(events, "id", false, now)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		text, err := message.Message(t.Context(), in)
		runtime.ReadMemStats(&after)
		if err != nil || len(text) != test.want {
			t.Errorf("%s: %.60s of %d bytes, want %d: %v", test.expression, text, len(text), test.want, err)
		}
		bytes := (after.TotalAlloc - before.TotalAlloc) >> 20
		t.Logf("%d MiB: %s", bytes, test.expression)
		if bytes > 60 && !strings.Contains(test.expression, "!=") { // decoding all of them allocates 170 MiB
			t.Errorf("%s: allocates %d MiB", test.expression, bytes)
		}
	}
	in, _ := rule.NewGroupInput(events, "id", false, now)
	for _, test := range []struct{ reason, expression, want string }{
		{"all of it is too large for a template", `events`, "is larger than 2097152 bytes"},
		{"a comparison of all", `events == events.map(e, e)`, "exceed 4194304 bytes"},
		{"all pairs", `events.all(a, events.exists(b, a.objectID == b.objectID))`, "operation "},
		{"a list of it", `[events, events].size()`, "the value would exceed 4194304 bytes"},
	} {
		if value, err := groupValue(t, in, test.expression); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %.60v: error is %v", test.reason, value, err)
		}
	}
}

// BenchmarkGroup evaluates expressions on a group of 5000 events of 6 kB.
func BenchmarkGroup(b *testing.B) {
	events := bulkEdit(b, 5000)
	for i, test := range largeGroup {
		message := compile(b, groupRule("${"+test.expression+"}")).Actions[0].Message
		b.Run(fmt.Sprint(i), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				in, _ := rule.NewGroupInput(events, "id", false, now)
				if _, err := message.Message(b.Context(), in); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
