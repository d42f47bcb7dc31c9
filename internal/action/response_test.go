package action_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/action"
	"github.com/netbox-events/netbox-event-operator/internal/rule"
)

// answering starts a server with one answer, and counts its requests.
func answering(t *testing.T, code int, header, body string) (url string, requests *int) {
	t.Helper()
	requests = new(int)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		*requests++
		if name, value, ok := strings.Cut(header, ": "); ok {
			w.Header().Add(name, value)
		}
		w.WriteHeader(code)
		_, _ = io.WriteString(w, body)
	}))
	t.Cleanup(server.Close)
	return server.URL, requests
}

// TestSuccess decides by expressions whether answers mean success.
func TestSuccess(t *testing.T) {
	const asJSON = "Content-Type: application/json"
	namespace, runner := plane.Namespace(t), newRunner(t)
	for _, test := range []struct {
		reason       string
		code         int
		header, body string
		success      string
		want         outcome
		unavailable  bool
		pause        time.Duration
		wantErr      string
	}{
		{reason: "it exists already", code: 409, success: "response.status in [200, 409]", want: done},
		{reason: "unavailable, as wanted", code: 503, success: "response.status == 503", want: done},
		{reason: "a redirect, as after a login", code: 302, header: "Location: /home", success: `response.headers.location == "/home"`, want: done},
		{reason: "an error with status 200", code: 200, header: asJSON, body: `{"ok": false}`, success: "response.body.ok", want: retry, wantErr: "answered with 200 OK, but success is false"},
		{reason: "not ready yet", code: 202, header: "Retry-After: 30", success: "response.status == 200", want: retry, pause: 30 * time.Second},
		{reason: "JSON", code: 200, header: asJSON, body: `{"status": "ok", "id": 7, "items": [{"n": 1.5}]}`, success: `response.body.status == "ok" && response.body.id == 7 && response.body.items[0].n > 1.0`, want: done},
		{reason: "JSON of a type", code: 200, header: "Content-Type: application/problem+json; charset=utf-8", body: `"ok"`, success: `response.body == "ok"`, want: done},
		{reason: "JSON that is said to be text", code: 200, header: "Content-Type: text/plain", body: "\n{\"ok\": true}", success: "response.body.ok", want: done},
		{reason: "a number that is text", code: 200, header: "Content-Type: text/plain", body: "7", success: `response.body == "7"`, want: done},
		{reason: "text", code: 200, body: "queued as [7]", success: `response.body.startsWith("queued")`, want: done},
		{reason: "text that is said to be JSON", code: 200, header: asJSON, body: "ok", success: `response.body == "ok"`, want: done},
		{reason: "no UTF-8", code: 200, body: "\xffok", success: `response.body.endsWith("ok")`, want: done},
		{reason: "the event", code: 200, header: asJSON, body: `{"name": "leaf1"}`, success: "response.body.name == data.name && event.event == 'updated'", want: done},
		{reason: "a missing key", code: 200, header: asJSON, body: `{}`, success: "response.body.ok", want: retry, wantErr: "success cannot be evaluated: response.body.ok: no such key"},
		{reason: "a missing key of a refusal", code: 400, header: asJSON, body: `{}`, success: "response.body.ok", want: permanent, wantErr: "answered with 400 Bad Request, and success cannot be evaluated: response.body.ok: no such key"},
		{reason: "no Boolean", code: 200, header: asJSON, body: `{"ok": "yes"}`, success: "response.body.ok", want: retry, wantErr: "not true or false"},
		{reason: "refused", code: 422, success: "response.status == 409", want: permanent, wantErr: "answered with 422"},
		{reason: "redirected", code: 301, success: "response.status == 409", want: permanent, wantErr: "redirects are not followed"},
		{reason: "an internal error", code: 500, success: "response.status == 409", want: retry, unavailable: true, wantErr: "answered with 500"},
		{reason: "a large body", code: 200, header: asJSON, body: `{"a": "` + strings.Repeat("a", 70_000) + `"}`, success: "response.body.a.size() > 1", want: retry, wantErr: "larger than 64 KiB, and was cut"},
	} {
		t.Run(test.reason, func(t *testing.T) {
			url, requests := answering(t, test.code, test.header, test.body)
			spec := newRequest(url)
			spec.HTTP.Success = test.success
			_, err := do(t, runner, newTask(t, device(t, namespace, "leaf1"), spec))
			expect(t, err, test.want, test.wantErr)
			expectUnavailable(t, err, test.unavailable)
			if failure, ok := err.(*action.Failure); ok && failure.RetryAfter != test.pause { //nolint:errorlint // each error is one itself
				t.Errorf("RetryAfter is %s, want %s", failure.RetryAfter, test.pause)
			}
			if *requests != 1 {
				t.Errorf("%d requests", *requests)
			}
		})
	}
	t.Run("a body that never ends", func(t *testing.T) {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
			_, _ = io.WriteString(w, `{"ok": true`)
			_ = http.NewResponseController(w).Flush()
			<-request.Context().Done()
		}))
		defer server.Close()
		for success, want := range map[string]outcome{"response.status == 200": done, "response.body.ok": retry} {
			spec := newRequest(server.URL)
			spec.HTTP.Success = success
			task := newTask(t, device(t, namespace, "leaf1"), spec)
			task.Rule.Spec.Retry.Timeout = metav1.Duration{Duration: 300 * time.Millisecond}
			_, err := do(t, runner, task)
			expect(t, err, want, "the body broke off")
		}
	})
	for expression, want := range map[string]string{
		"response.code == 200":           "undefined field 'code'",
		"response.status":                "must be bool",
		`response.body == secrets.token`: "undeclared reference to 'secrets'",
	} {
		spec := newRequest("https://example.com")
		spec.HTTP.Success = expression
		_, err := rule.Compile(&v1alpha1.NetBoxEventRuleSpec{Actions: []v1alpha1.Action{spec}, Secrets: []v1alpha1.RuleSecret{secretOf("token", "token")}})
		if err == nil || !strings.Contains(err.Error(), "http.success: 1:") || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", expression, err)
		}
	}
}

// firstOf creates a rule, and returns a task of its first action.
func firstOf(t *testing.T, event *v1alpha1.NetBoxEvent, text string) action.Task {
	t.Helper()
	created := &v1alpha1.NetBoxEventRule{ObjectMeta: metav1.ObjectMeta{Namespace: event.Namespace, GenerateName: "rule-"}}
	if err := yaml.UnmarshalStrict([]byte(text), &created.Spec); err != nil {
		t.Fatal(err)
	}
	plane.Create(t, created)
	compiled, err := rule.Compile(&created.Spec)
	if err != nil {
		t.Fatal(err)
	}
	return withEvent(action.Task{Rule: created, Action: &compiled.Actions[0]}, event)
}

// TestResults checks what is kept of an answer for later actions.
func TestResults(t *testing.T) {
	namespace := plane.Namespace(t)
	newSecret(t, namespace, "sink", map[string]string{"token": "t0ken-of-a-sink", "pin": "271828"})
	for _, test := range []struct {
		reason, uses string // expressions of the second action
		header, body string
		kept         string
		response     string
	}{
		{"an id", "${results.create.response.body.id}", "", `{"id": 7, "name": "x"}`, `{"response":{"body":{"id":7}}}`, `200 OK: {"id": 7, "name": "x"}`},
		{"status and headers", "${results.create.response.status} ${results.create.response.headers['x-id']}", "X-ID: a", "", `{"response":{"headers":{"x-id":"a"},"status":200}}`, "200 OK"},
		{"a text", "${results.create.response.body}", "", "queued as 7", `{"response":{"body":"queued as 7"}}`, "200 OK: queued as 7"},
		{"nothing", "${data.name}", "", `{"id": 7}`, "", `200 OK: {"id": 7}`},
		{"no such member", "${results.create.response.body.id}", "", `{}`, `{"response":{"body":{}}}`, "200 OK: {}"},
		{
			"a member beyond what is read", "${results.create.response.body.id}", "", `{"a": "` + strings.Repeat("x", 70_000) + `", "id": 7}`,
			"", `x…; its result is not kept: later actions use`,
		},
		{
			"too large", "${results.create.response.body.a}", "", `{"a": "` + strings.Repeat("x", 5_000) + `"}`,
			"", "x…; its result is not kept: later actions use 5030 bytes of its result",
		},
		{
			"a Secret in texts, keys and numbers", "${results.create.response.body}", "",
			`{"a": "\"T0KEN-of-a-sink\"", "t0ken-of-a-sink": [271828, 271829, 2.5, "t0ken-of"], "pin": {"271828": true}}`,
			`{"response":{"body":{"[redacted]":["[redacted]",271829,2.5,"[redacted]"],"a":"\"[redacted]\"","pin":{"[redacted]":true}}}}`, "200 OK: {",
		},
		{"a key that is also a Secret", "${results.create.response.body['271828']}", "", `{"271828": "271828"}`, `{"response":{"body":{"271828":"[redacted]"}}}`, "200 OK"},
		{"a Secret late in a text", "${results.create.response.body}", "", strings.Repeat("x", 2000) + "t0ken-of-a-sink", `{"response":{"body":"` + strings.Repeat("x", 2000) + `[redacted]"}}`, "200 OK: xxx"},
		{"a Secret in a header", "${results.create.response.headers['x-id']}", "X-Id: a t0ken-of-a-sink", "", `{"response":{"headers":{"x-id":"a [redacted]"}}}`, "200 OK"},
	} {
		t.Run(test.reason, func(t *testing.T) {
			url, requests := answering(t, 200, test.header, test.body)
			task := firstOf(t, device(t, namespace, "leaf1"), fmt.Sprintf(`
secrets:
- {name: token, secretKeyRef: {name: sink, key: token}}
- {name: pin, secretKeyRef: {name: sink, key: pin}}
actions:
- name: create
  http: {url: %q, headers: [{name: X-Secret, value: "${secrets.token} ${secrets.pin}"}]}
- name: use
  dependsOn: [create]
  log: {message: %q}
`, url, test.uses))
			result, err := newRunner(t).Do(t.Context(), task)
			expect(t, err, done)
			if string(result.Kept) != test.kept {
				t.Errorf("kept %s, want %s", result.Kept, test.kept)
			}
			if !strings.Contains(result.Response, test.response) || strings.Contains(strings.ToLower(result.Response), "t0ken-of") {
				t.Errorf("response is %s, want %s", result.Response, test.response)
			}
			if *requests != 1 {
				t.Errorf("%d requests", *requests)
			}
		})
	}
}

// TestDryRun checks what a dry run says, and that it sends and writes nothing.
func TestDryRun(t *testing.T) {
	namespace := plane.Namespace(t)
	newSecret(t, namespace, "sink", map[string]string{"token": "T0/B 0?/x of a sink", "pin": "2718"})
	url, requests := answering(t, 200, "", "")
	for _, test := range []struct {
		reason, action string
		want           outcome
		response       string
		wantErr        string
	}{
		{
			"a request", `{http: {url: "` + strings.Replace(url, "//", "//user:pa55word@", 1) + `/${data.name}/${secrets.token}?pin=${secrets.pin}", method: PUT,
				body: {json: {name: "${data.name}", token: "${secrets.token}"}}, headers: [{name: X-Name, value: "${data.name}"}, {name: X-Pin, value: "${secrets.pin}"}],
				signingSecretRef: {name: sink, key: token}}}`,
			done, "dry run: PUT " + strings.Replace(url, "//", "//user:xxxxx@", 1) + "/leaf1/[redacted]?pin=[redacted]; Authorization: Basic [redacted]; " +
				"Content-Type: application/json; X-Hook-Signature: [redacted]; X-Name: leaf1; X-Pin: [redacted]; " + `body: {"name":"leaf1","token":"[redacted]"}`, "",
		},
		{"no body", `{http: {url: "` + url + `", method: GET}}`, done, "dry run: GET " + url, ""},
		{"no Secret", `{http: {url: "` + url + `", signingSecretRef: {name: missing, key: k}}}`, retry, "", "Secret missing does not exist"},
		{"no CA", `{http: {url: "` + url + `", tls: {caSecretRef: {name: missing, key: k}}}}`, retry, "", "Secret missing does not exist"},
		{"a missing key", `{http: {url: "` + url + `/${data.site.slug}"}}`, permanent, "", "data.site: no such key"},
		{"a forbidden address", `{http: {url: "http://169.254.169.254/"}}`, permanent, "", "forbidden address"},
		{"a Kubernetes Event", `{event: {reason: DeviceActive, message: "${data.name} is active"}}`, done, "dry run: would write a Kubernetes Event, Normal DeviceActive: leaf1 is active", ""},
		{"a line", `{log: {message: "${data.name} is active"}}`, done, "dry run: would write to the log: leaf1 is active", ""},
	} {
		t.Run(test.reason, func(t *testing.T) {
			task := firstOf(t, device(t, namespace, "leaf1"), `{secrets: [{name: token, secretKeyRef: {name: sink, key: token}}, {name: pin, secretKeyRef: {name: sink, key: pin}}],
				actions: [{name: do, `+strings.TrimPrefix(test.action, "{")+`]}`)
			task.IsDryRun = true
			response, err := do(t, newRunner(t), task)
			expect(t, err, test.want, test.wantErr)
			if response != test.response {
				t.Errorf("response is %s, want %s", response, test.response)
			}
		})
	}
	if *requests > 0 {
		t.Errorf("%d requests", *requests)
	}
	var events eventsv1.EventList
	if err := plane.Client.List(t.Context(), &events, client.InNamespace(namespace)); err != nil || len(events.Items) > 0 {
		t.Errorf("wrote %d Kubernetes Events, %v", len(events.Items), err)
	}
}
