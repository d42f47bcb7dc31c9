// Package netboxstub imitates the part of the REST API of NetBox 4.7 that the operator uses, for tests of other things than that API.
// test/netbox runs a real NetBox.
package netboxstub

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Change is a row of the change log.
type Change struct {
	// Action is create, update or delete.
	Action string
	// ObjectType is, for example, dcim.site.
	ObjectType string
	ObjectID   int
	RequestID  string
	Time       time.Time
}

// Stub is a NetBox with one token, object types of which all have event rules, a change log, and whatever else is set.
type Stub struct {
	*httptest.Server

	token string
	types []string

	mu      sync.Mutex
	rows    []map[string]any
	stored  map[string][]map[string]any // by the path of a list
	answers map[string]any              // by path and query
}

// New starts a NetBox that takes a token, of version 1, and has object types such as dcim.site. Close must be called.
func New(token string, types ...string) *Stub {
	s := &Stub{token: token, types: types, answers: map[string]any{}, stored: map[string][]map[string]any{
		"/api/extras/webhooks/": {}, "/api/extras/event-rules/": {},
	}}
	s.Server = httptest.NewServer(s)
	return s
}

// Log adds a row to the change log, and returns its id.
func (s *Stub) Log(change Change) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := len(s.rows) + 1
	s.rows = append(s.rows, map[string]any{
		"id": id, "time": change.Time.UTC().Format(time.RFC3339Nano), "user_name": "admin", "request_id": change.RequestID,
		"action": map[string]any{"value": change.Action}, "changed_object_type": change.ObjectType, "changed_object_id": change.ObjectID,
		"object_repr": fmt.Sprintf("%s %d", change.ObjectType, change.ObjectID), "prechange_data": nil, "postchange_data": map[string]any{},
	})
	return id
}

// Answer sets the answer to requests of a path and query, for example /api/dcim/sites/?name=a. Other ones are answered with 404.
func (s *Stub) Answer(pathAndQuery string, answer any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers[pathAndQuery] = answer
}

// Stored returns what clients created in a list, for example /api/extras/webhooks/.
func (s *Stub) Stored(path string) []map[string]any {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.stored[path])
}

// ServeHTTP answers a request.
func (s *Stub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	status, answer := s.answer(r)
	if status == http.StatusNoContent {
		w.WriteHeader(status)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(answer)
}

func (s *Stub) answer(r *http.Request) (status int, answer any) {
	if r.Header.Get("Authorization") != "Token "+s.token {
		return http.StatusForbidden, map[string]any{"detail": "Invalid v1 token"}
	}
	if answer, ok := s.answers[r.URL.String()]; ok {
		return http.StatusOK, answer
	}
	switch r.URL.Path {
	case "/api/status/":
		return http.StatusOK, map[string]any{"netbox-version": "4.7.3"}
	case "/api/core/object-types/":
		return http.StatusOK, page(s.objectTypes(), nil)
	case "/api/core/object-changes/":
		return http.StatusOK, s.changes(r)
	}
	for list := range s.stored {
		if id, ok := strings.CutPrefix(r.URL.Path, list); ok {
			return s.store(r, list, strings.TrimSuffix(id, "/"))
		}
	}
	return notFound()
}

func notFound() (status int, answer any) {
	return http.StatusNotFound, map[string]any{"detail": "No object matches the given query."}
}

func page(results []map[string]any, next any) map[string]any {
	return map[string]any{"count": len(results), "next": next, "results": results}
}

func (s *Stub) objectTypes() []map[string]any {
	types := []map[string]any{}
	for _, name := range s.types {
		app, model, _ := strings.Cut(name, ".")
		types = append(types, map[string]any{
			"app_label": app, "model": model, "features": []string{"event_rules"}, "rest_api_endpoint": "/api/" + app + "/" + model + "s/",
		})
	}
	return types
}

func (s *Stub) changes(r *http.Request) map[string]any {
	query := r.URL.Query()
	start, _ := strconv.Atoi(query.Get("start"))
	limit, _ := strconv.Atoi(query.Get("limit"))
	rows := slices.DeleteFunc(slices.Clone(s.rows), func(row map[string]any) bool {
		after, before := query.Get("time_after"), query.Get("time_before")
		return row["id"].(int) < start || query.Has("request_id") && query.Get("request_id") != row["request_id"] ||
			after != "" && row["time"].(string) < after || before != "" && row["time"].(string) > before
	})
	if query.Get("ordering") == "-id" {
		slices.Reverse(rows)
	}
	if len(rows) <= limit {
		return page(rows, nil)
	}
	return page(rows[:limit], "/api/core/object-changes/?more")
}

// store creates, reads, changes or deletes what clients store.
func (s *Stub) store(r *http.Request, list, id string) (status int, answer any) {
	objects := s.stored[list]
	at := slices.IndexFunc(objects, func(object map[string]any) bool { return fmt.Sprint(object["id"]) == id })
	if id != "" && at < 0 {
		return notFound()
	}
	body := map[string]any{}
	_ = json.NewDecoder(r.Body).Decode(&body)
	if action, ok := body["action_type"]; ok {
		body["action_type"] = map[string]any{"value": action}
	}
	switch r.Method {
	case http.MethodPost:
		body["id"] = len(objects) + 1
		s.stored[list] = append(objects, body)
		return http.StatusCreated, body
	case http.MethodPatch:
		maps.Copy(objects[at], body)
		return http.StatusOK, objects[at]
	case http.MethodDelete:
		s.stored[list] = slices.Delete(objects, at, at+1)
		return http.StatusNoContent, nil
	}
	if id != "" {
		return http.StatusOK, objects[at]
	}
	named := slices.DeleteFunc(slices.Clone(objects), func(object map[string]any) bool {
		return object["name"] != cmp.Or(r.URL.Query().Get("name"), fmt.Sprint(object["name"]))
	})
	return http.StatusOK, page(named, nil)
}
