package netboxapi

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// fakeNetBox serves the change log as a version of NetBox does, as its source history has it: filters, order and pages.
type fakeNetBox struct {
	version  string
	ids      []int64
	maxPage  int
	requests int
}

var epoch = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

// timeOf is in the order of the ids but for one: rows of requests at the same time.
func timeOf(id int64) time.Time { return epoch.Add(time.Duration(id^1) * time.Second) }

func (f *fakeNetBox) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	status := Status{}
	status.major, status.minor, _ = parseVersion(f.version)
	path := "/netbox/api/extras/object-changes/"
	if status.AtLeast(4, 1) {
		path = "/netbox/api/core/object-changes/"
	}
	switch r.URL.Path {
	case "/netbox/api/status/":
		writeJSON(w, fmt.Sprintf(`{"netbox-version": %q}`, f.version))
	case path:
		f.requests++
		writeJSON(w, f.page(status, r.URL.Query()))
	default:
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(http.StatusNotFound)
	}
}

func (f *fakeNetBox) page(status Status, query url.Values) string {
	number := func(name string) (int64, bool) {
		value, err := strconv.ParseInt(query.Get(name), 10, 64)
		return value, err == nil
	}
	moment := func(name string) (time.Time, bool) {
		value, err := time.Parse(time.RFC3339Nano, query.Get(name))
		return value, err == nil
	}
	rows := slices.DeleteFunc(slices.Clone(f.ids), func(id int64) bool {
		above, hasAbove := number("id__gt")
		upTo, hasUpTo := number("id__lte")
		after, hasAfter := moment("time_after")
		before, hasBefore := moment("time_before")
		return (hasAbove && id <= above) || (hasUpTo && id > upTo) ||
			(hasAfter && timeOf(id).Before(after)) || (hasBefore && timeOf(id).After(before))
	})
	newestFirst := func(a, b int64) int { return timeOf(b).Compare(timeOf(a)) }
	slices.SortFunc(rows, newestFirst)
	start, isCursor := number("start")
	isCursor = isCursor && status.AtLeast(4, 6)
	if order := query.Get("ordering"); isCursor || (order == "id" && status.AtLeast(3, 3)) {
		slices.Sort(rows)
	} else if order == "-id" && status.AtLeast(3, 3) {
		slices.Sort(rows)
		slices.Reverse(rows)
	}
	count := strconv.Itoa(len(rows))
	if isCursor {
		rows, count = slices.DeleteFunc(rows, func(id int64) bool { return id < start }), "null"
	}
	if offset, ok := number("offset"); ok {
		rows = rows[min(int(offset), len(rows)):]
	}
	limit, _ := number("limit")
	size := min(int(limit), f.maxPage)
	next := "null"
	if len(rows) > size || (isCursor && len(rows) == size) {
		rows, next = rows[:size], `"http://elsewhere.example/api/?next"`
	}
	texts := make([]string, 0, len(rows))
	for _, id := range rows {
		texts = append(texts, rowOf(status, id))
	}
	return fmt.Sprintf(`{"count": %s, "next": %s, "previous": null, "results": [%s]}`, count, next, strings.Join(texts, ","))
}

// rowOf returns a row as the serializer of a version writes it.
func rowOf(status Status, id int64) string {
	row := map[string]any{
		"id": id, "time": timeOf(id), "user": nil, "user_name": "admin", "request_id": "b37da276-3507-4c89-931a-b94c4c970096",
		"action": map[string]any{"value": "update", "label": "Updated"}, "changed_object_type": "dcim.site", "changed_object_id": 14,
		"prechange_data": map[string]any{"name": "a"}, "postchange_data": map[string]any{"name": "b"},
		"changed_object": map[string]any{"id": 14, "url": "http://netbox/netbox/api/dcim/sites/14/", "display": "b", "name": "b"},
	}
	if !status.AtLeast(2, 11) {
		row["object_data"] = row["postchange_data"]
		delete(row, "prechange_data")
		delete(row, "postchange_data")
	}
	if status.AtLeast(4, 1) {
		row["object_repr"], row["message"] = "b", ""
	}
	text, _ := json.Marshal(row)
	return string(text)
}

func TestChangesByVersion(t *testing.T) {
	ids := []int64{3, 4, 5, 6, 7, 900, 901, 5_000_000, 5_000_001, 5_000_002, 5_000_003}
	for _, version := range []string{
		"2.10.4", "2.11.0", "3.2.9", "3.3.0", "3.7.8", "4.0.0", "v4.1.11", "4.4.10", "4.6.0-beta1", "4.7.3-Docker-5.0.1",
	} {
		for _, maxPage := range []int{1000, 3} {
			t.Run(fmt.Sprintf("%s in pages of %d", version, maxPage), func(t *testing.T) {
				netbox := &fakeNetBox{version: version, ids: ids, maxPage: maxPage}
				server := newClient(t, netbox.ServeHTTP).base.String()
				client := clientOf(t, server+"/netbox/", nil)
				var got []int64
				after := Cursor{ID: 4}
				for more := true; more; {
					var rows []Row
					var err error
					if rows, more, err = client.Changes(t.Context(), after, 4); err != nil {
						t.Fatal(err)
					}
					for _, row := range rows {
						after = row.Cursor()
						got = append(got, after.ID)
						if row.ObjectRepr != "b" || string(row.Postchange) != `{"name":"b"}` || row.ObjectURL != "/netbox/api/dcim/sites/14/" {
							t.Fatalf("row %+v", row)
						}
					}
				}
				if !slices.Equal(got, ids[2:]) {
					t.Errorf("got %v, want %v", got, ids[2:])
				}
				if netbox.requests > 100 {
					t.Errorf("%d requests for %d rows", netbox.requests, len(got))
				}
				cursors(t, client)
			})
		}
	}
}

func cursors(t *testing.T, client *Client) {
	t.Helper()
	for _, test := range []struct {
		since time.Time
		// A log that cannot be ordered may give an earlier row of about the same time.
		want int64
	}{
		{timeOf(3), 2}, {timeOf(7), 5}, {timeOf(900), 899}, {timeOf(1000), 4_999_999}, {timeOf(6_000_000), 5_000_003},
	} {
		got, err := client.FirstAfter(t.Context(), test.since)
		if err != nil || got.ID > test.want || got.ID < test.want-3 {
			t.Errorf("FirstAfter(%v): %v, %v, want %d", test.since, got, err, test.want)
		}
	}
	if last, err := client.Last(t.Context()); err != nil || last.ID < 5_000_002 {
		t.Errorf("Last: %v, %v", last, err)
	}
}

func TestLogIsEmpty(t *testing.T) {
	for _, version := range []string{"2.11.0", "3.7.8", "4.7.3"} {
		netbox := &fakeNetBox{version: version, maxPage: 1000}
		client := clientOf(t, newClient(t, netbox.ServeHTTP).base.String()+"/netbox", nil)
		rows, more, err := client.Changes(t.Context(), Cursor{}, 10)
		first, firstErr := client.FirstAfter(t.Context(), epoch)
		if len(rows) > 0 || more || err != nil || first != (Cursor{}) || firstErr != nil {
			t.Errorf("%s: %v, %v, %v, %v, %v", version, rows, more, err, first, firstErr)
		}
	}
}

// TestNautobot reads a log of Nautobot 2 and 3: UUIDs, time__gte, sort, and one state of the object.
func TestNautobot(t *testing.T) {
	type entry struct {
		moment time.Time
		id     string
	}
	var log []entry
	for i := range 7 {
		log = append(log, entry{epoch.Add(time.Duration(i/3) * time.Second), fmt.Sprintf("%d0000000-0000-0000-0000-000000000000", 7-i%3)})
	}
	slices.SortFunc(log, func(a, b entry) int {
		return Row{ID: a.id, Time: a.moment}.Cursor().Compare(Row{ID: b.id, Time: b.moment}.Cursor())
	})
	client := newClient(t, func(w http.ResponseWriter, r *http.Request) {
		query := r.URL.Query()
		switch {
		case r.URL.Path == "/api/status/":
			writeJSON(w, `{"nautobot-version": "3.2.7"}`)
			return
		case r.URL.Path != "/api/extras/object-changes/" || (query.Get("sort") != "time,id" && query.Get("sort") != "-time,-id"):
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		since, _ := time.Parse(time.RFC3339Nano, query.Get("time__gte"))
		rows := slices.DeleteFunc(slices.Clone(log), func(e entry) bool { return e.moment.Before(since) })
		if query.Get("sort") == "-time,-id" {
			slices.Reverse(rows)
		}
		offset, _ := strconv.Atoi(query.Get("offset"))
		limit, _ := strconv.Atoi(query.Get("limit"))
		rows = rows[min(offset, len(rows)):]
		next := "null"
		if len(rows) > limit {
			rows, next = rows[:limit], `"https://nautobot.example/next"`
		}
		var texts []string
		for _, row := range rows {
			texts = append(texts, fmt.Sprintf(`{"id": %q, "time": %q, "user_name": "admin", "object_repr": "x",
				"request_id": "b37da276-3507-4c89-931a-b94c4c970096", "action": {"value": "delete", "label": "Deleted"},
				"changed_object_type": "dcim.location", "changed_object_id": "c37da276-3507-4c89-931a-b94c4c970096", "changed_object": null,
				"object_data": {"old": 1}, "object_data_v2": {"a": 1}}`, row.id, row.moment.Format(time.RFC3339Nano)))
		}
		writeJSON(w, fmt.Sprintf(`{"count": 7, "next": %s, "previous": null, "results": [%s]}`, next, strings.Join(texts, ",")))
	})
	for limit := 1; limit <= 8; limit++ {
		after, err := client.FirstAfter(t.Context(), epoch)
		var got []string
		for more := true; more && err == nil; {
			var rows []Row
			rows, more, err = client.Changes(t.Context(), after, limit)
			for _, row := range rows {
				got = append(got, row.ID)
				after, _ = ParseCursor(row.Cursor().String())
				if string(row.Prechange) != `{"a": 1}` || row.Postchange != nil || row.ObjectID != "c37da276-3507-4c89-931a-b94c4c970096" {
					t.Fatalf("row %+v", row)
				}
			}
		}
		var want []string
		for _, e := range log {
			want = append(want, e.id)
		}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("limit %d: got %v, %v, want %v", limit, got, err, want)
		}
	}
	last, err := client.Last(t.Context())
	if want := log[len(log)-1]; err != nil || last.UUID != want.id || !last.Time.Equal(want.moment) {
		t.Errorf("Last: %v, %v", last, err)
	}
	if _, err := client.Webhook(t.Context(), "a"); KindOf(err) != KindUnsupported {
		t.Errorf("Webhook: %v", err)
	}
}

// TestEventRuleByVersion checks the bodies of event rules against the fields of extras/api/serializers of the versions.
func TestEventRuleByVersion(t *testing.T) {
	rule := EventRule{
		Name: "a", Enabled: true, ObjectTypes: []string{"dcim.site", "dcim.device"}, Events: []string{ObjectUpdated, ObjectCreated}, WebhookID: 7,
	}
	common := `"action_object_id":7,"action_object_type":"extras.webhook","action_type":"webhook","conditions":null`
	old := `"description":"","enabled":true,"name":"a","object_types":["dcim.device","dcim.site"],` +
		`"type_create":true,"type_delete":false,"type_job_end":false,"type_job_start":false,"type_update":true}`
	for version, want := range map[string]string{
		"3.7.0": `{` + common + `,"content_types":["dcim.device","dcim.site"],` +
			strings.Replace(old, `,"object_types":["dcim.device","dcim.site"]`, "", 1),
		"4.0.0": `{` + common + `,` + old,
		"4.1.0": `{` + common + `,"description":"","enabled":true,"event_types":["object_created","object_updated"],"name":"a",` +
			`"object_types":["dcim.device","dcim.site"]}`,
	} {
		t.Run(version, func(t *testing.T) {
			var sent []string
			stored := map[string]any{}
			client := newClient(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/api/status/" {
					writeJSON(w, fmt.Sprintf(`{"netbox-version": %q}`, version))
					return
				}
				var body map[string]any
				_ = json.NewDecoder(r.Body).Decode(&body)
				sent = append(sent, asText(t, body))
				maps.Copy(stored, body)
				stored["id"], stored["action_type"] = 9, map[string]any{"value": "webhook", "label": "Webhook"}
				writeJSON(w, asText(t, stored))
			})
			created, err := client.CreateEventRule(t.Context(), rule)
			if err != nil || sent[0] != want || len(created.Drift(rule)) > 0 || created.ID != 9 {
				t.Fatalf("%+v, %v, sent %v, want %s", created, err, sent, want)
			}
			changed := *created
			changed.Enabled = false
			if _, err := client.UpdateEventRule(t.Context(), *created, changed); err != nil || sent[1] != `{"enabled":false}` {
				t.Errorf("update: %v, sent %v", err, sent)
			}
			if _, err := client.UpdateEventRule(t.Context(), *created, *created); err != nil || len(sent) != 2 {
				t.Errorf("update of nothing: %v, sent %v", err, sent)
			}
		})
	}
}

func TestDrift(t *testing.T) {
	have := EventRule{
		Name: "a", Enabled: true, ObjectTypes: []string{"dcim.site", "dcim.device"}, Conditions: json.RawMessage(`{"a": 1}`), WebhookID: 7,
	}
	want := EventRule{Name: "a", ObjectTypes: []string{"dcim.device", "dcim.site"}, Events: []string{ObjectCreated}}
	got := have.Drift(want)
	if expected := []string{"action_object_id", "conditions", "enabled", "event_types"}; !slices.Equal(got, expected) {
		t.Errorf("got %v, want %v", got, expected)
	}
}

func TestObjectTypesByVersion(t *testing.T) {
	list := `{"count": 2, "next": null, "results": [
		{"id": 1, "app_label": "dcim", "model": "site"}, {"id": 2, "app_label": "auth", "model": "group"}]}`
	choices := `{"actions": {"POST": {"action_object_type": {"choices": [{"value": "dcim.site"}]}}}}`
	unrestricted := `{"actions": {"POST": {"action_object_type": {"choices": [{"value": "dcim.site"}, {"value": "auth.permission"}]}}}}`
	latest := strings.Replace(string(find(t, "event rules").Body), `"next": "`, `"next": null, "was": "`, 1)
	unknown := []ObjectType{{Name: "auth.group"}, {Name: "dcim.site"}}
	known := []ObjectType{{Name: "auth.group", HasEventRules: SupportNo}, {Name: "dcim.site", HasEventRules: SupportYes}}
	for _, test := range []struct {
		status, path, list, options string
		want                        []ObjectType
	}{
		{`"netbox-version": "3.6.9"`, "/api/extras/content-types/", list, "", unknown},
		{`"netbox-version": "3.7.0"`, "/api/extras/content-types/", list, choices, known},
		{`"netbox-version": "4.0.0"`, "/api/extras/object-types/", list, choices, known},
		{`"netbox-version": "4.3.7"`, "/api/extras/object-types/", list, unrestricted, unknown},
		{`"netbox-version": "4.1.0"`, "/api/extras/object-types/", list, `{}`, unknown},
		{`"nautobot-version": "2.4.44"`, "/api/extras/content-types/", list, "", unknown},
		{`"netbox-version": "4.4.0"`, "/api/core/object-types/", latest, "", []ObjectType{
			{"circuits.circuit", "/api/circuits/circuits/", SupportYes}, {"circuits.circuitgroup", "/api/circuits/circuit-groups/", SupportYes},
		}},
	} {
		client := newClient(t, func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.URL.Path == "/api/status/":
				writeJSON(w, "{"+test.status+"}")
			case r.Method == http.MethodOptions && r.URL.Path == eventRulesPath && test.options != "":
				writeJSON(w, test.options)
			case r.Method == http.MethodGet && r.URL.Path == test.path:
				writeJSON(w, test.list)
			default:
				http.NotFound(w, r)
			}
		})
		got, err := client.ObjectTypes(t.Context())
		if err != nil || !slices.Equal(got, test.want) {
			t.Errorf("%s: got %+v, %v, want %+v", test.status, got, err, test.want)
		}
	}
}

func TestVersion(t *testing.T) {
	for text, want := range map[string]string{
		"4.7.3": "4.7", "4.8.0-beta1": "4.8", "v4.7": "4.7", "4.6.4-Docker-5.0.1": "4.6", "4.10": "4.10",
		"": "", "4": "", "four.seven": "", "4.99999": "",
	} {
		got := ""
		if major, minor, ok := parseVersion(text); ok {
			got = fmt.Sprintf("%d.%d", major, minor)
		}
		if got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

// TestUpgrade checks that a client notices that NetBox is another version now.
func TestUpgrade(t *testing.T) {
	netbox := &fakeNetBox{version: "4.0.11", ids: []int64{1}, maxPage: 1000}
	client := clientOf(t, newClient(t, netbox.ServeHTTP).base.String()+"/netbox", nil)
	if _, _, err := client.Changes(t.Context(), Cursor{}, 1); err != nil {
		t.Fatal(err)
	}
	netbox.version = "4.1.0"
	if _, _, err := client.Changes(t.Context(), Cursor{}, 1); KindOf(err) != KindWrongURL {
		t.Errorf("the old path: %v", err)
	}
	if rows, _, err := client.Changes(t.Context(), Cursor{}, 1); err != nil || len(rows) != 1 {
		t.Errorf("the new path: %v, %v", rows, err)
	}
}
