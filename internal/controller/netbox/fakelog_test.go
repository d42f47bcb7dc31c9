package netbox_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// fakeLog answers as NetBox 4.7.3 does to what ChangeLog asks. Its change log and objects are in memory.
type fakeLog struct {
	*httptest.Server

	mu      sync.Mutex
	rows    []row
	objects map[string]map[string]any // by path
	// pageRows is the most rows of a page; 0 for as many as asked for.
	pageRows int
	// fail makes the answer to a request, or returns false.
	fail     func(w http.ResponseWriter, r *http.Request) bool
	requests []string
}

// row is a row of the change log.
type row struct {
	id                    int
	at                    time.Time
	request, action       string
	objectType            string
	objectID              int
	prechange, postchange map[string]any
	user                  string
}

func newFakeLog(t *testing.T) *fakeLog {
	t.Helper()
	n := &fakeLog{objects: map[string]map[string]any{}}
	n.Server = httptest.NewServer(n)
	t.Cleanup(n.Close)
	return n
}

// log appends rows, which get the next ids unless they have one.
func (n *fakeLog) log(rows ...row) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, r := range rows {
		if r.id == 0 {
			r.id = 1
			if len(n.rows) > 0 {
				r.id = n.rows[len(n.rows)-1].id + 1
			}
		}
		n.rows = append(n.rows, r)
	}
	slices.SortFunc(n.rows, func(a, b row) int { return a.id - b.id })
}

// set makes, changes or, with nil, removes an object.
func (n *fakeLog) set(path string, object map[string]any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if object == nil {
		delete(n.objects, path)
		return
	}
	object["url"] = n.URL + path
	n.objects[path] = object
}

// failing sets what fails; nil for nothing.
func (n *fakeLog) failing(fail func(w http.ResponseWriter, r *http.Request) bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.fail = fail
}

// asked returns the requests since the last call.
func (n *fakeLog) asked() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	asked := n.requests
	n.requests = nil
	return asked
}

// answers returns a fail for paths with a text.
func answers(path string, status int, contentType, body string) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, path) {
			return false
		}
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
		return true
	}
}

func (n *fakeLog) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.requests = append(n.requests, r.URL.RequestURI())
	if n.fail != nil && n.fail(w, r) {
		return
	}
	w.Header().Set("Content-Type", "application/json")
	var answer any
	switch path := r.URL.Path; {
	case path == "/api/status/":
		answer = map[string]any{"netbox-version": "4.7.3"}
	case path == "/api/core/object-types/":
		answer = listOf(objectTypes(), nil)
	case path == "/api/core/object-changes/":
		answer = n.changes(r.URL.Query())
	case path == "/api/core/background-queues/":
		answer = listOf([]any{map[string]any{"name": "default", "jobs": 0, "failed_jobs": 2, "workers": 1}}, nil)
	case r.URL.Query().Has("id"):
		found := []any{}
		for _, id := range r.URL.Query()["id"] {
			if object, ok := n.objects[path+id+"/"]; ok {
				found = append(found, object)
			}
		}
		answer = listOf(found, nil)
	case n.objects[path] != nil:
		answer = n.objects[path]
	default:
		w.WriteHeader(http.StatusNotFound)
		answer = map[string]any{"detail": "No such object matches the given query."}
	}
	_ = json.NewEncoder(w).Encode(answer)
}

func listOf(results, next any) map[string]any {
	return map[string]any{"count": nil, "next": next, "previous": nil, "results": results}
}

func objectTypes() []any {
	var types []any
	for name, endpoint := range map[string]string{
		"dcim.site": "/api/dcim/sites/", "wireless.wirelesslan": "/api/wireless/wireless-lans/", "dcim.portmapping": "",
	} {
		app, model, _ := strings.Cut(name, ".")
		objectType := map[string]any{"app_label": app, "model": model, "features": []string{"change_logging"}, "rest_api_endpoint": nil}
		if endpoint != "" {
			objectType["features"], objectType["rest_api_endpoint"] = []string{"change_logging", "event_rules"}, endpoint
		}
		types = append(types, objectType)
	}
	return types
}

// changes answers with a page of the change log.
func (n *fakeLog) changes(query url.Values) any {
	number := func(name string) int { value, _ := strconv.Atoi(query.Get(name)); return value }
	moment := func(name string) time.Time { value, _ := time.Parse(time.RFC3339Nano, query.Get(name)); return value }
	var rows []row
	for _, row := range n.rows {
		if row.id >= number("start") && (!query.Has("request_id") || row.request == query.Get("request_id")) &&
			(!query.Has("time_after") || !row.at.Before(moment("time_after"))) &&
			(!query.Has("time_before") || !row.at.After(moment("time_before"))) {
			rows = append(rows, row)
		}
	}
	if query.Get("ordering") == "-id" || query.Get("ordering") == "" && !query.Has("start") {
		slices.Reverse(rows)
	}
	var next any
	limit := number("limit")
	if n.pageRows > 0 {
		limit = min(limit, n.pageRows)
	}
	if len(rows) > limit {
		rows, next = rows[:limit], fmt.Sprintf("%s/api/core/object-changes/?start=%d", n.URL, rows[limit].id)
	}
	results := []any{}
	for _, row := range rows {
		orEmpty := func(object map[string]any) any {
			if object == nil {
				return map[string]any{}
			}
			return object
		}
		user := row.user
		if user == "" {
			user = "admin"
		}
		results = append(results, map[string]any{
			"id": row.id, "time": row.at.UTC().Format("2006-01-02T15:04:05.000000Z"), "user_name": user, "request_id": row.request,
			"action": map[string]string{"value": row.action}, "changed_object_type": row.objectType, "changed_object_id": row.objectID,
			"object_repr": fmt.Sprintf("Object %d", row.objectID), "message": "",
			"prechange_data": orEmpty(row.prechange), "postchange_data": orEmpty(row.postchange),
		})
	}
	return listOf(results, next)
}
