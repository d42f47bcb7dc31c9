package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/delivery"
)

// browser is a page that has the token.
type browser struct {
	url, token string
	out        *buffer
}

// openUI runs the command until the end of the test.
func (s *session) openUI(t *testing.T) *browser {
	t.Helper()
	b := &browser{out: &buffer{}}
	p := newPlugin(genericiooptions.IOStreams{In: strings.NewReader(""), Out: b.out, ErrOut: io.Discard})
	p.clock = s.clock
	args := []string{"ui", "--kubeconfig=" + s.kubeconfig, "--namespace=" + s.namespace}
	if s.user != "" {
		args = append(args, "--as="+s.user)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan int, 1)
	go func() { ended <- p.run(ctx, args) }()
	t.Cleanup(func() {
		cancel()
		if code := <-ended; code != exitWell {
			t.Errorf("exit code %d", code)
		}
	})
	eventually(t, "no URL is printed", func() bool { return strings.Contains(b.out.String(), "\n") })
	printed, err := url.Parse(strings.TrimSpace(b.out.String()))
	if err != nil {
		t.Fatal(err)
	}
	if printed.Hostname() != "127.0.0.1" {
		t.Errorf("serves %s", printed)
	}
	b.url, b.token = "http://"+printed.Host, strings.TrimPrefix(printed.Fragment, "token=")
	return b
}

// request sends a request with the token.
func (b *browser) request(t *testing.T, method, path string) *http.Response {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	request, err := http.NewRequestWithContext(ctx, method, b.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+b.token)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = response.Body.Close() })
	return response
}

// answer is the answer to a request, with its status and error.
type answer[T any] struct {
	status int
	Error  string `json:"error"`
	value  T
}

// ask sends a request, and decodes its answer.
func ask[T any](t *testing.T, b *browser, method, path string) (got answer[T]) {
	t.Helper()
	response := b.request(t, method, path)
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	got.status = response.StatusCode
	var into any = &got.value
	if got.status != http.StatusOK {
		into = &got
	}
	if err := json.Unmarshal(body, into); err != nil {
		t.Fatalf("%s %s: %s: %v in %s", method, path, response.Status, err, body)
	}
	return got
}

func TestUIToken(t *testing.T) {
	b := newSession(t, plane().Namespace(t)).openUI(t)
	if len(b.token) < 26 {
		t.Errorf("token %q", b.token)
	}
	if got := ask[map[string]string](t, b, http.MethodGet, "/api/context"); got.status != http.StatusOK || got.value["context"] == "" {
		t.Errorf("got %+v", got)
	}
	other := &browser{url: b.url, token: b.token[1:]}
	if got := ask[any](t, other, http.MethodGet, "/api/context"); got.status != http.StatusUnauthorized {
		t.Errorf("with a wrong token, got %+v", got)
	}
}

func TestUIEvent(t *testing.T) {
	space := plane().Namespace(t)
	newSource(t, space, "netbox", v1alpha1.NetBoxSourceSpec{}, serving)
	announce := newRule(t, space, "announce", announceSpec)
	newRule(t, space, "other", `{match: {events: [deleted]}, actions: [{name: say, log: {message: x}}]}`)
	event := receive(t, space, "netbox-4.7.3-live/391", 0)
	deliver(t, event, []*v1alpha1.NetBoxEventRule{announce}, func(status *v1alpha1.NetBoxEventStatus) {
		attempt(status, 0, 0, delivery.Outcome{Response: "404 Not Found", Err: errNotFound, Permanent: true}, time.Second)
	})
	b := newSession(t, space).openUI(t)
	got := ask[uiEvent](t, b, http.MethodGet, "/api/events/"+event.Name).value
	want := []change{{"description", `""`, `"d13"`}, {"latitude", "null", `"1.500000"`}}
	if diff := cmp.Diff(want, got.Changes); diff != "" || got.Summary != "dcim.site p1-x0 updated by admin" || got.UID != string(event.UID) {
		t.Errorf("got %+v, changes (-want +got):\n%s", got, diff)
	}
	if got.Phase != (uiCell{"Failed", "bad"}) || len(got.Deliveries) != 1 || got.Deliveries[0][2] != (uiCell{"Failed", "bad"}) {
		t.Errorf("phase %+v, deliveries %+v", got.Phase, got.Deliveries)
	}
	contains(t, got.Data, "latitude: 1.5")
	contains(t, fmt.Sprint(got.Facts), "3075e2e9-df47-474c-9f36-e9a4d19b8726 PATCH /api/dcim/sites/13/")

	trace := ask[uiNode](t, b, http.MethodGet, "/api/events/"+event.Name+"/trace").value
	rules := trace.Children[0].Children
	if trace.Kind != "source" || len(rules) != 2 || rules[0].State != "matched, Failed" || rules[0].Tone != "bad" {
		t.Fatalf("trace %+v, rules %+v", trace, rules)
	}
	contains(t, rules[1].Text, "match.events has deleted; the event is updated")

	other := plane().Namespace(t)
	elsewhere := receive(t, other, "netbox-4.6.8-live/51", 0)
	if got := ask[any](t, b, http.MethodGet, "/api/events/"+other+"%2F"+elsewhere.Name); got.status == http.StatusOK {
		t.Errorf("answers with an event of another namespace: %+v", got)
	}
	for _, path := range []string{"/api/events/absent", "/api/events/absent/trace"} {
		if got := ask[any](t, b, http.MethodGet, path); got.status != http.StatusNotFound || !strings.Contains(got.Error, `"absent" not found`) {
			t.Errorf("%s: %+v", path, got)
		}
	}
}

func TestUIOverview(t *testing.T) {
	space := plane().Namespace(t)
	newSource(t, space, "new", v1alpha1.NetBoxSourceSpec{})
	newRule(t, space, "announce", announceSpec)
	got := ask[overview](t, newSession(t, space).openUI(t), http.MethodGet, "/api/overview").value
	if len(got.Sources) != 1 || got.Sources[0].Name != "new" || len(got.Rules) != 1 || got.Rules[0].Name != "announce" {
		t.Errorf("got %+v", got)
	}
	contains(t, fmt.Sprint(got.Wrong), "the operator has not looked at it", "check that the operator runs")
}

// tail reads messages about the list.
type tail struct{ lines *bufio.Scanner }

// tail begins to read the list.
func (b *browser) tail(t *testing.T, query string) *tail {
	t.Helper()
	response := b.request(t, http.MethodGet, "/api/events?"+query)
	if response.StatusCode != http.StatusOK {
		t.Fatal(response.Status)
	}
	return &tail{bufio.NewScanner(response.Body)}
}

// until returns the messages since the last call, up to one for which a function is true.
func (l *tail) until(t *testing.T, isLast func(uiMessage) bool) (messages []uiMessage) {
	t.Helper()
	for l.lines.Scan() {
		var message uiMessage
		if err := json.Unmarshal(l.lines.Bytes(), &message); err != nil {
			t.Fatal(err)
		}
		messages = append(messages, message)
		if isLast(message) {
			return messages
		}
	}
	t.Fatalf("the answer ends with %v after %+v", l.lines.Err(), messages)
	return nil
}

func isListed(message uiMessage) bool { return message.Listed }

func TestUIList(t *testing.T) {
	space := plane().Namespace(t)
	events := sites(t, space) // of which the second failed, and the last is pending
	b := newSession(t, space).openUI(t)
	for query, want := range map[string][]int{
		"":                                    {0, 1, 2, 3},
		"source=other":                        nil,
		"type=dcim.site":                      {0, 1, 3},
		"type=dcim.*&object=P1-X1":            {3},
		"branch=other":                        nil,
		"failed=true":                         {1},
		"pending=true":                        {3},
		"rule=announce":                       {0, 1},
		"since=4m":                            {3},
		"request=" + events[2].Spec.RequestID: {2},
		"user=" + events[2].Spec.Username + "&since=12h": {2},
	} {
		var got []int
		for _, message := range b.tail(t, query).until(t, isListed) {
			if message.Row != nil {
				got = append(got, slices.IndexFunc(events, func(event *v1alpha1.NetBoxEvent) bool { return string(event.UID) == message.Row.UID }))
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", query, got, want)
		}
	}
	for query, want := range map[string]string{"since=yesterday": `write a time such as 2h`, "since=-2h": "write a time", "failed=true&pending=true": "choose one"} {
		if got := ask[any](t, b, http.MethodGet, "/api/events?"+query); got.status != http.StatusBadRequest || !strings.Contains(got.Error, want) {
			t.Errorf("%s: %+v", query, got)
		}
	}
}

// TestUITail follows pending events: one comes, and is no longer pending.
func TestUITail(t *testing.T) {
	space := plane().Namespace(t)
	b := newSession(t, space).openUI(t)
	tail := b.tail(t, "pending=true")
	tail.until(t, isListed)
	event := receive(t, space, "netbox-4.7.3-live/538", time.Minute)
	row := tail.until(t, func(message uiMessage) bool { return message.Row != nil })[0].Row
	want := &uiRow{
		UID: string(event.UID), Name: event.Name, Source: "netbox", Event: "updated", Type: "dcim.site", Object: "p1-x1", User: "admin",
		Changed: "custom_fields.p1cf", Phase: uiCell{"Pending", "busy"}, Received: received.Add(time.Minute),
		Sent: received.Add(time.Minute - 200*time.Millisecond).UnixMicro(),
	}
	if diff := cmp.Diff(want, row); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	deliver(t, event, nil, nil)
	tail.until(t, func(message uiMessage) bool { return message.Gone == string(event.UID) })
}

func TestUIReplay(t *testing.T) {
	space := plane().Namespace(t)
	events := sites(t, space)
	newRule(t, space, "suspended", `{suspend: true, actions: [{name: say, log: {message: x}}]}`)
	b := newSession(t, space).openUI(t)
	replay := func(event *v1alpha1.NetBoxEvent, query string) answer[map[string]string] {
		t.Helper()
		return ask[map[string]string](t, b, http.MethodPost, "/api/events/"+event.Name+"/replay?"+query)
	}
	contains(t, replay(events[1], "dryRun=true").value["text"], "all actions of the rules that match now")
	if got := requested(t, events[1]); got != (delivery.Replay{}) {
		t.Errorf("a dry run requests %+v", got)
	}
	contains(t, replay(events[1], "rule=announce").value["text"], "all actions of rule announce")
	if got, want := requested(t, events[1]), (delivery.Replay{Value: "2026-11-23T19:12:00.000000Z", Rule: "announce"}); got != want {
		t.Errorf("requested %+v, want %+v", got, want)
	}
	contains(t, replay(events[1], "rule=suspended").Error, "rule suspended is suspended")
	contains(t, replay(events[1], "rule=absent").Error, `"absent" not found`)
	contains(t, replay(events[3], "").Error, "the event is pending")
	if got := requested(t, events[3]); got != (delivery.Replay{}) {
		t.Errorf("requested %+v", got)
	}
	if response := b.request(t, http.MethodGet, "/api/events/"+events[1].Name+"/replay"); response.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("GET: %s", response.Status)
	}
}

// TestUIRights shows which right is missing to a user with none, with that to list, and with the role view.
func TestUIRights(t *testing.T) {
	space := plane().Namespace(t)
	events := sites(t, space)
	newSource(t, space, "netbox", v1alpha1.NetBoxSourceSpec{}, serving)
	user := newSession(t, space)
	denied := func(b *browser, method, path, right string) {
		t.Helper()
		if got := ask[any](t, b, method, path); got.status != http.StatusForbidden || !strings.Contains(got.Error, "you may not "+right+" in namespace "+space) {
			t.Errorf("%s %s: %+v", method, path, got)
		}
	}
	user.user = "ui-without-rights"
	powerless := user.openUI(t)
	denied(powerless, http.MethodGet, "/api/events", "list netboxevents")
	denied(powerless, http.MethodGet, "/api/overview", "list netboxsources")
	denied(powerless, http.MethodGet, "/api/events/"+events[0].Name, "get netboxevents")

	user.user = "ui-lister"
	allow(t, space, user.user, rbacv1.PolicyRule{
		APIGroups: []string{v1alpha1.SchemeGroupVersion.Group}, Resources: []string{"netboxevents", "netboxsources"}, Verbs: []string{"list"},
	})
	messages := user.openUI(t).tail(t, "").until(t, func(message uiMessage) bool { return message.Error != "" })
	contains(t, messages[len(messages)-1].Error, "you may not watch netboxevents in namespace "+space)
	if rows := slices.DeleteFunc(messages, func(message uiMessage) bool { return message.Row == nil }); len(rows) != len(events) {
		t.Errorf("%d events, want %d", len(rows), len(events))
	}

	user.user = "ui-viewer"
	allowView(t, space, user.user)
	viewer := user.openUI(t)
	denied(viewer, http.MethodPost, "/api/events/"+events[1].Name+"/replay?dryRun=true", "patch netboxevents")
	denied(viewer, http.MethodPost, "/api/events/"+events[1].Name+"/replay", "patch netboxevents")
	contains(t, ask[any](t, viewer, http.MethodPost, "/api/events/"+events[1].Name+"/replay").Error, "ask for a role with that right, such as edit")
	for _, path := range []string{"/api/overview", "/api/events/" + events[0].Name, "/api/events/" + events[0].Name + "/trace"} {
		if got := ask[any](t, viewer, http.MethodGet, path); got.status != http.StatusOK {
			t.Errorf("%s: %+v", path, got)
		}
	}
}

// TestUIPort says what to do about a port that is taken.
func TestUIPort(t *testing.T) {
	taken := httptest.NewServer(http.NotFoundHandler())
	defer taken.Close()
	_, port, _ := strings.Cut(strings.TrimPrefix(taken.URL, "http://"), ":")
	got := newSession(t, plane().Namespace(t)).run(t, "ui", "--port", port)
	contains(t, got.err, "address already in use; choose another --port")
	if got.code != exitFailed {
		t.Errorf("exit code %d", got.code)
	}
}
