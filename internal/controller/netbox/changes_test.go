package netbox

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/eventspec"
	"github.com/netbox-events/netbox-event-operator/internal/netbox"
	"github.com/netbox-events/netbox-event-operator/internal/netboxapi"
)

// recording is what NetBox 4.7.3 logged, sent and showed for some changes: of sites, devices and their interfaces, a cable, and others.
type recording struct {
	Rows     []json.RawMessage
	Webhooks []json.RawMessage
	Objects  map[string]json.RawMessage
}

func readRecording(t testing.TB) (recording, []netboxapi.Row) {
	t.Helper()
	text, err := os.ReadFile("testdata/netbox-4.7.3.json")
	if err != nil {
		t.Fatal(err)
	}
	var recorded recording
	if err := json.Unmarshal(text, &recorded); err != nil {
		t.Fatal(err)
	}
	rows := make([]netboxapi.Row, len(recorded.Rows))
	for i, row := range recorded.Rows {
		if err := json.Unmarshal(row, &rows[i]); err != nil {
			t.Fatal(err)
		}
	}
	return recorded, rows
}

var recordedSource = &v1alpha1.NetBoxSource{
	ObjectMeta: metav1.ObjectMeta{Namespace: "netbox", Name: "netbox", UID: "1"}, Spec: v1alpha1.NetBoxSourceSpec{Redact: []string{"auth_psk"}},
}

func build(t testing.TB, body []byte, origin v1alpha1.Origin) *v1alpha1.NetBoxEvent {
	t.Helper()
	decoded, err := netbox.Decode(body, recordedSource.Spec.Redact)
	if err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	return eventspec.New(decoded, eventspec.Delivery{Source: recordedSource, Origin: origin})
}

// loggedPart removes what the change log does not have from snapshots.
func loggedPart(snapshots v1alpha1.JSONObject) map[string]map[string]any {
	parts := map[string]map[string]any{}
	for name, snapshot := range snapshots {
		var fields map[string]any
		_ = json.Unmarshal(snapshot.Raw, &fields)
		for name := range fields {
			if slices.Contains([]string{"created", "last_updated", "path", "sort_path"}, name) || strings.HasPrefix(name, "_") {
				delete(fields, name)
			}
		}
		parts[name] = fields
	}
	return parts
}

func isLoggedField(name string) bool {
	return !strings.HasPrefix(name, "_") && !strings.Contains(name, "path")
}

// TestRecorded compares the events that are made of recorded rows with those of the webhooks that NetBox sent.
func TestRecorded(t *testing.T) {
	recorded, rows := readRecording(t)
	sent := map[string]*v1alpha1.NetBoxEvent{}
	for _, body := range recorded.Webhooks {
		event := build(t, body, v1alpha1.OriginWebhook)
		if isLogged(event) || len(event.Spec.ChangedFields) > 0 {
			sent[event.Name] = event
		}
	}
	made := map[string]bool{}
	for _, change := range fold(rows) {
		data, err := change.data("/api/x/")
		if err != nil {
			t.Fatal(err)
		}
		body, err := change.body(data)
		if err != nil {
			t.Fatal(err)
		}
		event := build(t, body, v1alpha1.OriginChangeLog)
		made[event.Name] = true
		if name := change.eventName(recordedSource.UID); name != event.Name {
			t.Errorf("eventName is %s, want %s", name, event.Name)
		}
		webhook := sent[event.Name]
		if webhook == nil {
			t.Errorf("no webhook has the name %s", event.Name)
			continue
		}
		got, want := event.Spec, webhook.Spec
		if diff := cmp.Diff(loggedPart(want.Snapshots), loggedPart(got.Snapshots)); diff != "" {
			t.Errorf("%s: snapshots (-webhook +log):\n%s", event.Name, diff)
		}
		fields := slices.DeleteFunc(slices.Clone(want.ChangedFields), func(name string) bool { return !isLoggedField(name) })
		if !slices.Equal(fields, got.ChangedFields) {
			t.Errorf("%s: changedFields %v, want %v", event.Name, got.ChangedFields, fields)
		}
		identity := func(s v1alpha1.NetBoxEventSpec) []string {
			return []string{s.Event, s.ObjectType, s.Model, s.ObjectID, s.ObjectName, s.Username, s.RequestID}
		}
		if diff := cmp.Diff(identity(want), identity(got)); diff != "" {
			t.Errorf("%s (-webhook +log):\n%s", event.Name, diff)
		}
		if late := want.Timestamp.Sub(got.Timestamp.Time); late < 0 || late > 5*time.Second {
			t.Errorf("%s: the webhook is %s later than the row", event.Name, late)
		}
		isRedacted := func(pointer string) bool { return strings.HasPrefix(pointer, "/snapshots") }
		if slices.ContainsFunc(want.Delivery.Redacted, isRedacted) && !slices.ContainsFunc(got.Delivery.Redacted, isRedacted) {
			t.Errorf("%s: nothing is redacted", event.Name)
		}
	}
	for name := range sent {
		if !made[name] {
			t.Errorf("the change of the webhook %s is not in the log", name)
		}
	}
}

// TestRelativeLinks compares the objects of the API with the data of the last webhook about each.
func TestRelativeLinks(t *testing.T) {
	recorded, _ := readRecording(t)
	for path, object := range recorded.Objects {
		relative := relativeLinks(object)
		if !json.Valid(relative) || strings.Contains(string(relative), `"url": "http`) || strings.Contains(string(relative), `"display_url": "http`) {
			t.Errorf("%s: %s", path, relative)
		}
		if strings.Contains(path, "/sites/") && !strings.Contains(string(relative), `"cl_url": "http://127.0.0.1:58000/x/"`) {
			t.Errorf("a custom field was changed: %s", relative)
		}
	}
	for object, want := range map[string]string{
		`{"url":"https://n/api/x/1/","a":[{"url":"https://n/b"},{"name":"https://n/b"}],"n":12345678901234567890.10}`: `{"url":"/api/x/1/",` +
			`"a":[{"url":"/b"},{"name":"https://n/b"}],"n":12345678901234567890.10}`,
		`{"url":"https://n/api/x/1/","image":"https://other/b"}`: `{"url":"/api/x/1/","image":"https://other/b"}`,
		`{"url":"/api/x/1/"}`: `{"url":"/api/x/1/"}`,
		`[]`:                  `[]`,
	} {
		if got := relativeLinks(json.RawMessage(object)); string(got) != want {
			t.Errorf("%s became %s, want %s", object, got, want)
		}
	}
}

func TestFold(t *testing.T) {
	row := func(id int, action netboxapi.Action) netboxapi.Row {
		row := netboxapi.Row{ID: fmt.Sprint(id), Action: action, RequestID: "r", ObjectType: "dcim.site", ObjectID: "1", Time: time.Unix(int64(id), 0)}
		if action != netboxapi.Create {
			row.Prechange = json.RawMessage(fmt.Sprint(id - 1))
		}
		if action != netboxapi.Delete {
			row.Postchange = json.RawMessage(fmt.Sprint(id))
		}
		return row
	}
	const create, update, remove = netboxapi.Create, netboxapi.Update, netboxapi.Delete
	for _, test := range []struct {
		actions                      []netboxapi.Action
		event, before, after, latest string
	}{
		{[]netboxapi.Action{create}, "created", "", "1", "1"},
		{[]netboxapi.Action{update}, "updated", "0", "1", "1"},
		{[]netboxapi.Action{remove}, "deleted", "0", "", "0"},
		{[]netboxapi.Action{create, update}, "created", "", "2", "2"},
		{[]netboxapi.Action{update, update}, "updated", "0", "2", "2"},
		{[]netboxapi.Action{update, remove}, "deleted", "0", "", "1"},
		{[]netboxapi.Action{create, update, remove}, "deleted", "", "", "2"},
	} {
		var rows []netboxapi.Row
		for i, action := range test.actions {
			rows = append(rows, row(i+1, action))
		}
		changes := fold(rows)
		if len(changes) != 1 {
			t.Fatalf("%v: %d changes", test.actions, len(changes))
		}
		c := changes[0]
		if got := []string{c.event, string(c.before), string(c.after), string(c.latest)}; !slices.Equal(got, []string{test.event, test.before, test.after, test.latest}) {
			t.Errorf("%v: %q", test.actions, got)
		}
		if !c.time.Equal(rows[len(rows)-1].Time) {
			t.Errorf("%v: the time is not that of the newest row", test.actions)
		}
	}
}

// TestTrim: the cursor stays before the rows of a change that has later ones behind a change that is not settled.
func TestTrim(t *testing.T) {
	row := func(id int, request string) netboxapi.Row {
		return netboxapi.Row{
			ID: fmt.Sprint(id), Action: netboxapi.Update, RequestID: request, ObjectType: "dcim.site", ObjectID: "1", Time: time.Unix(int64(id), 0),
		}
	}
	w := newWindow(netboxapi.Cursor{})
	w.add([]netboxapi.Row{row(1, "a"), row(2, "b"), row(3, "c"), row(4, "b"), row(5, "d")})
	settle := func(requests ...string) {
		for key, c := range w.changes {
			c.isSettled = c.isSettled || slices.Contains(requests, key.requestID)
		}
	}
	expect := func(reason string, horizon int64, want ...int64) {
		t.Helper()
		var got []int64
		for _, entry := range w.trim(time.Unix(horizon, 0)) {
			got = append(got, entry.cursor.ID)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: trimmed %v, want %v", reason, got, want)
		}
	}
	expect("nothing is settled", 10)
	settle("a", "b")
	expect("b has a row behind c, which is not settled", 10, 1)
	settle("c", "d")
	expect("the newest row of b is too young", 3)
	expect("d is too young", 4, 2, 3, 4)
	expect("all are old enough", 5, 5)
	if len(w.changes) != 0 || len(w.requests) != 0 || len(w.entries) != 0 {
		t.Errorf("the window still holds %v", w)
	}
}

// TestDue: a change is due once all its rows are known, and the newest is as old as lag.
func TestDue(t *testing.T) {
	const lag = 2 * time.Minute
	now := time.Unix(10_000, 0)
	row := func(id int, age time.Duration) netboxapi.Row {
		return netboxapi.Row{
			ID: fmt.Sprint(id), Action: netboxapi.Update, RequestID: fmt.Sprint(id), ObjectType: "dcim.site", ObjectID: "1", Time: now.Add(-age),
		}
	}
	w := newWindow(netboxapi.Cursor{})
	w.add([]netboxapi.Row{row(1, time.Hour), row(2, 15*time.Minute), row(3, 9*time.Minute), row(4, lag), row(5, time.Minute)})
	due := func() (ids []int64) {
		for _, c := range w.due(now, lag, 10) {
			ids = append(ids, c.last.ID)
		}
		return ids
	}
	if got := due(); !slices.Equal(got, []int64{1, 2}) {
		t.Errorf("before the end of the log: %v, want those with overlap behind them", got)
	}
	w.end = now
	if got := due(); !slices.Equal(got, []int64{1, 2, 3, 4}) {
		t.Errorf("at the end of the log: %v", got)
	}
}

func FuzzChange(f *testing.F) {
	_, rows := readRecording(f)
	for _, row := range rows[:5] {
		f.Add(string(row.Action), row.ObjectType, row.ObjectID, row.ObjectRepr, []byte(row.Prechange), []byte(row.Postchange))
	}
	f.Add("delete", "a.b", "c9\x00", "\xff", []byte(`{"id":7,"url":"u"}`), []byte(`{"x":1e999,"x":"\ud800"}`))
	f.Add("delete", "a.b", "c", "c", []byte(`{"id":7}`), []byte(`null`))
	f.Fuzz(func(t *testing.T, action, objectType, id, repr string, before, after []byte) {
		text, err := json.Marshal(map[string]any{
			"id": 1, "time": "2026-11-27T09:16:17.782353Z", "action": map[string]string{"value": action}, "request_id": "r", "user_name": repr,
			"changed_object_type": objectType, "changed_object_id": id, "object_repr": repr,
			"prechange_data": json.RawMessage(before), "postchange_data": json.RawMessage(after),
		})
		var row netboxapi.Row
		if err != nil || json.Unmarshal(text, &row) != nil {
			return
		}
		second := row
		second.ID = "2"
		changes := fold([]netboxapi.Row{row, second})
		if len(changes) != 1 {
			t.Fatalf("%d changes", len(changes))
		}
		data, err := changes[0].data("/api/x/")
		if err != nil {
			return // the state is no object
		}
		body, err := changes[0].body(data)
		if err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		decoded, err := netbox.Decode(body, nil)
		if err != nil || objectType == "" {
			return // too deep, or not UTF-8
		}
		event := eventspec.New(decoded, eventspec.Delivery{Source: recordedSource, Origin: v1alpha1.OriginChangeLog})
		if eventspec.HasChange(&event.Spec) && len(id) < 1000 && len(objectType) < 1000 && event.Name != changes[0].eventName(recordedSource.UID) {
			t.Errorf("the name is %s, want %s", event.Name, changes[0].eventName(recordedSource.UID))
		}
	})
}
