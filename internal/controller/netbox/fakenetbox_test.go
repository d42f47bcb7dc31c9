package netbox_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// fakeNetBox answers as a NetBox of some version does, as far as the set-up of a webhook needs it. The answers are those that were recorded
// from 4.7.3, with the fields of older versions after their source code (extras/api/serializers.py).
type fakeNetBox struct {
	*httptest.Server

	mu      sync.Mutex
	version string
	// objects are webhooks and event-rules, by their ids.
	objects map[string]map[int64]map[string]any
	lastID  int64
	// types are the object types, and whether they have event rules.
	types map[string]bool
	// denied are the requests, such as "POST webhooks", that the token lacks the permission for, and hidden the names that it may not see.
	denied map[string]bool
	hidden map[string]bool
	// down, if it is not nil, answers all requests.
	down     http.HandlerFunc
	requests []string
}

func newFakeNetBox(t *testing.T, version string) *fakeNetBox {
	t.Helper()
	n := &fakeNetBox{
		version: version, lastID: 13, denied: map[string]bool{}, hidden: map[string]bool{},
		objects: map[string]map[int64]map[string]any{"webhooks": {}, "event-rules": {}},
		types: map[string]bool{
			"dcim.device": true, "dcim.site": true, "extras.script": true, "extras.webhook": true, "ipam.prefix": true, "auth.permission": false,
		},
	}
	n.Server = httptest.NewServer(n)
	t.Cleanup(n.Close)
	return n
}

// set changes the fake under its lock.
func (n *fakeNetBox) set(change func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	change()
}

// writes returns the requests since the last call that were not GET, and count the number of all requests.
func (n *fakeNetBox) writes() (writes []string, count int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, request := range n.requests {
		if !strings.HasPrefix(request, "GET ") {
			writes = append(writes, request)
		}
	}
	count, n.requests = len(n.requests), nil
	return writes, count
}

// count returns the number of requests since the last call of writes.
func (n *fakeNetBox) count() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.requests)
}

func (n *fakeNetBox) isBefore(version string) bool {
	parse := func(version string) (major, minor int) {
		_, _ = fmt.Sscanf(version, "%d.%d", &major, &minor)
		return major, minor
	}
	major, minor := parse(n.version)
	otherMajor, otherMinor := parse(version)
	return major < otherMajor || major == otherMajor && minor < otherMinor
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if body != nil {
		_ = json.NewEncoder(w).Encode(body)
	}
}

// ServeHTTP answers one request.
func (n *fakeNetBox) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.requests = append(n.requests, r.Method+" "+r.URL.Path)
	if n.down != nil {
		n.down(w, r)
		return
	}
	if r.Header.Get("Authorization") == "Token wrong-token" {
		answer(w, http.StatusForbidden, map[string]string{"detail": "Invalid v1 token"})
		return
	}
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	isTypes := slices.Contains([]string{"/api/core/object-types/", "/api/extras/object-types/", "/api/extras/content-types/"}, r.URL.Path)
	switch {
	case r.URL.Path == "/api/status/":
		answer(w, http.StatusOK, map[string]string{"netbox-version": n.version})
	case isTypes && r.URL.Path == n.typesPath():
		n.serveTypes(w)
	case r.Method == http.MethodOptions && r.URL.Path == "/api/extras/event-rules/":
		answer(w, http.StatusOK, map[string]any{"actions": map[string]any{}}) // as for a token without the permission to add
	case len(parts) >= 3 && n.objects[parts[2]] != nil:
		n.serveObjects(w, r, parts[2], parts[3:])
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

func (n *fakeNetBox) typesPath() string {
	switch {
	case n.isBefore("4.0"):
		return "/api/extras/content-types/"
	case n.isBefore("4.4"):
		return "/api/extras/object-types/"
	default:
		return "/api/core/object-types/"
	}
}

func (n *fakeNetBox) serveTypes(w http.ResponseWriter) {
	var results []map[string]any
	for _, name := range slices.Sorted(maps.Keys(n.types)) {
		app, model, _ := strings.Cut(name, ".")
		result := map[string]any{"app_label": app, "model": model}
		if !n.isBefore("4.4") {
			result["features"] = []string{"change_logging"}
			if n.types[name] {
				result["features"] = []string{"change_logging", "event_rules"}
			}
		}
		results = append(results, result)
	}
	answer(w, http.StatusOK, map[string]any{"count": len(results), "next": nil, "results": results})
}

func (n *fakeNetBox) serveObjects(w http.ResponseWriter, r *http.Request, kind string, rest []string) {
	objects := n.objects[kind]
	if n.denied[r.Method+" "+kind] {
		answer(w, http.StatusForbidden, map[string]string{"detail": "You do not have permission to perform this action."})
		return
	}
	var sent map[string]any
	if r.Method == http.MethodPost || r.Method == http.MethodPatch {
		_ = json.NewDecoder(r.Body).Decode(&sent)
		if invalid := n.invalid(kind, rest, sent); invalid != nil {
			answer(w, http.StatusBadRequest, invalid)
			return
		}
	}
	if len(rest) == 0 {
		if r.Method == http.MethodPost {
			n.lastID++
			object := n.defaults(kind)
			object["id"] = n.lastID
			objects[n.lastID] = n.with(object, sent)
			answer(w, http.StatusCreated, objects[n.lastID])
			return
		}
		results := []any{}
		for _, object := range objects {
			if object["name"] == r.URL.Query().Get("name") && !n.hidden[kind+fmt.Sprint(object["name"])] {
				results = append(results, object)
			}
		}
		answer(w, http.StatusOK, map[string]any{"count": len(results), "next": nil, "previous": nil, "results": results})
		return
	}
	id, _ := strconv.ParseInt(rest[0], 10, 64)
	object := objects[id]
	switch {
	case object == nil || n.hidden[kind+fmt.Sprint(object["name"])]:
		answer(w, http.StatusNotFound, map[string]string{"detail": "No " + kind + " matches the given query."})
	case r.Method == http.MethodDelete:
		delete(objects, id)
		if kind == "webhooks" {
			maps.DeleteFunc(n.objects["event-rules"], func(_ int64, rule map[string]any) bool {
				return fmt.Sprint(rule["action_object_id"]) == rest[0]
			})
		}
		w.WriteHeader(http.StatusNoContent)
	default:
		answer(w, http.StatusOK, n.with(object, sent))
	}
}

func (n *fakeNetBox) defaults(kind string) map[string]any {
	if kind == "webhooks" {
		return map[string]any{
			"description": "", "http_method": "POST", "http_content_type": "application/json", "additional_headers": "", "body_template": "",
			"secret": "", "ssl_verification": true, "ca_file_path": nil,
		}
	}
	rule := map[string]any{"description": "", "enabled": true, "conditions": nil}
	if n.isBefore("4.1") {
		for _, event := range []string{"create", "update", "delete", "job_start", "job_end"} {
			rule["type_"+event] = false
		}
	}
	return rule
}

// with changes an object as NetBox does: it ignores fields that it does not know.
func (n *fakeNetBox) with(object, sent map[string]any) map[string]any {
	for name, value := range sent {
		text, isText := value.(string)
		switch {
		case !n.knows(name):
		case name == "action_type":
			object[name] = map[string]any{"value": value, "label": "Webhook"}
		case isText:
			object[name] = strings.TrimSpace(text)
		default:
			object[name] = value
		}
	}
	return object
}

func (n *fakeNetBox) knows(field string) bool {
	switch {
	case field == "content_types":
		return n.isBefore("4.0")
	case field == "object_types":
		return !n.isBefore("4.0")
	case field == "event_types":
		return !n.isBefore("4.1")
	case strings.HasPrefix(field, "type_"):
		return n.isBefore("4.1")
	default:
		return true
	}
}

// invalid returns the errors of a request to create or change an object.
func (n *fakeNetBox) invalid(kind string, rest []string, sent map[string]any) any {
	for id, object := range n.objects[kind] {
		if object["name"] == sent["name"] && !slices.Contains(rest, strconv.FormatInt(id, 10)) {
			return map[string][]string{"name": {strings.ReplaceAll(strings.TrimSuffix(kind, "s"), "-", " ") + " with this name already exists."}}
		}
	}
	field := "object_types"
	if n.isBefore("4.0") {
		field = "content_types"
	}
	types, _ := sent[field].([]any)
	for _, name := range types {
		if !n.types[name.(string)] {
			return map[string][]string{field: {"Invalid content type: " + name.(string)}}
		}
	}
	return nil
}
