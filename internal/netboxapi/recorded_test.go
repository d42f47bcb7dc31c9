package netboxapi

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/time/rate"
	"k8s.io/utils/clock"
)

const testToken = "a1b2c3d4e5f60718293a4b5c6d7e8f9001122334"

// newClient returns a Client of a test server without a rate limit.
func newClient(t *testing.T, handler http.HandlerFunc) *Client {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return clientOf(t, server.URL, nil)
}

func clientOf(t *testing.T, url string, clock clock.PassiveClock) *Client {
	t.Helper()
	client, err := New(Options{
		URL: url, Token: testToken, Transport: http.DefaultTransport, Limiter: rate.NewLimiter(rate.Inf, 1), Clock: clock,
	})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// answer is a recorded answer of NetBox 4.7.3.
type answer struct {
	Note, Method, Path, ContentType string
	Status                          int
	Body                            json.RawMessage
}

// recorded returns the recorded answers.
func recorded(t testing.TB) []answer {
	t.Helper()
	text, err := os.ReadFile("testdata/netbox-4.7.3.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	var answers []answer
	for line := range bytes.Lines(text) {
		var one answer
		if err := json.Unmarshal(line, &one); err != nil {
			t.Fatal(err)
		}
		answers = append(answers, one)
	}
	return answers
}

func find(t *testing.T, note string) answer {
	t.Helper()
	for _, one := range recorded(t) {
		if one.Note == note {
			return one
		}
	}
	t.Fatalf("no recorded answer has the note %q", note)
	return answer{}
}

func (a answer) write(w http.ResponseWriter) {
	w.Header().Set("Content-Type", a.ContentType)
	w.WriteHeader(a.Status)
	var page string
	if json.Unmarshal(a.Body, &page) == nil {
		_, _ = io.WriteString(w, page)
		return
	}
	_, _ = w.Write(a.Body)
}

func writeJSON(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, text)
}

// replay returns a client to which every request but one for the status gets one recorded answer.
func replay(t *testing.T, note string) *Client {
	t.Helper()
	status, other := find(t, "v1 token"), find(t, note)
	return newClient(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/api/status/" && other.Path != "/api/status/" {
			status.write(w)
			return
		}
		other.write(w)
	})
}

func TestRecordedErrors(t *testing.T) {
	list := func(c *Client) error { _, err := c.Webhook(t.Context(), "a"); return err }
	get := func(c *Client) error { _, err := c.Get(t.Context(), "/api/dcim/sites/"); return err }
	create := func(c *Client) error { _, err := c.CreateWebhook(t.Context(), Webhook{}); return err }
	log := func(c *Client) error { _, _, err := c.Changes(t.Context(), Cursor{}, 1); return err }
	for _, test := range []struct {
		note string
		call func(*Client) error
		kind Kind
		want string
	}{
		{"no token", func(c *Client) error { _, err := c.Status(t.Context()); return err }, KindUnauthorized, "Authorization header"},
		{"wrong v1 token", list, KindUnauthorized, "tokenSecretRef"},
		{"wrong v2 token", list, KindUnauthorized, "tokenSecretRef"},
		{"token from a wrong address", list, KindUnauthorized, "allowed IPs"},
		{"disabled token", list, KindUnauthorized, "token is disabled"},
		{"malformed", list, KindUnauthorized, "malformed"},
		{"read-only token writes", create, KindForbidden, "Write enabled"},
		{"view objectchange", list, KindForbidden, "the permission view on extras.webhook"},
		{"view objectchange", create, KindForbidden, "the permission add on extras.webhook"},
		{"no permission", log, KindForbidden, "the permission view on core.objectchange"},
		{"no permission", func(c *Client) error { _, err := c.Queues(t.Context()); return err }, KindForbidden, "superuser"},
		{"no permission", get, KindForbidden, "/api/dcim/sites/"},
		{"scoped, rename out of scope", func(c *Client) error {
			_, err := c.UpdateEventRule(t.Context(), EventRule{ID: 1}, EventRule{Name: "b"})
			return err
		}, KindForbidden, "the permission change on extras.eventrule"},
		{"name taken", create, KindExists, "webhook with this name already exists"},
		{"bad scheme", create, KindInvalid, "payload_url: Enter a valid URL"},
		{"no name", create, KindInvalid, "name: This field is required."},
		{"unknown event", create, KindInvalid, "event_types: 0: "},
		{"broken JSON", create, KindInvalid, "JSON parse error"},
		{"If-Match with a stale ETag", create, KindInvalid, "412"},
		{"bad cursor", log, KindInvalid, "non-negative integer"},
		{"delete a row", log, KindInvalid, "405"},
		{"absent task", log, KindUnavailable, "No such job"},
		{"old path, HTML", log, KindWrongURL, "spec.netbox.url"},
	} {
		t.Run(test.note, func(t *testing.T) {
			err := test.call(replay(t, test.note))
			if KindOf(err) != test.kind || !strings.Contains(err.Error(), test.want) || len(err.Error()) > maxMessageBytes {
				t.Errorf("got %q: %v; want %q with %q", KindOf(err), err, test.kind, test.want)
			}
		})
	}
}

func TestRecordedAnswers(t *testing.T) {
	ctx := t.Context()
	rule, err := replay(t, "get rule").EventRuleByID(ctx, 14)
	wantRule := EventRule{Name: "api-rule", Enabled: true, ObjectTypes: []string{"dcim.site"}, Events: []string{ObjectCreated}, WebhookID: 14}
	if err != nil || len(rule.Drift(wantRule)) > 0 {
		t.Errorf("event rule: %+v, %v", rule, err)
	}
	webhook, err := replay(t, "secret on GET").WebhookByID(ctx, 14)
	if err != nil || webhook.Name != "api-1" || webhook.HTTPMethod != http.MethodPost || !webhook.SSLVerification {
		t.Errorf("webhook: %+v, %v", webhook, err)
	}
	if webhook, err := replay(t, "absent").WebhookByID(ctx, 99999); webhook != nil || err != nil {
		t.Errorf("absent webhook: %v, %v", webhook, err)
	}
	if err := replay(t, "absent").DeleteWebhook(ctx, 99999); err != nil {
		t.Errorf("deletion of an absent webhook: %v", err)
	}
	if err := replay(t, "old path, HTML").DeleteWebhook(ctx, 1); KindOf(err) != KindWrongURL {
		t.Errorf("a deletion at a wrong URL: %v", err)
	}
	queues, err := replay(t, "queues with failed counts").Queues(ctx)
	if err != nil || len(queues) != 3 || queues[0] != (Queue{Name: "default", Waiting: 2, Failed: 5, Workers: 1}) {
		t.Errorf("queues: %+v, %v", queues, err)
	}
	rows, more, err := replay(t, "id__gt ordering=id").Changes(ctx, Cursor{ID: 322}, 1000)
	if err != nil || more || len(rows) != 3 {
		t.Fatalf("rows: %v, %v, %v", rows, more, err)
	}
	first := rows[0]
	first.Prechange, first.Postchange = nil, rows[0].Postchange
	want := Row{
		ID: "323", Time: time.Date(2026, 11, 26, 11, 51, 5, 631421000, time.UTC), UserName: "admin",
		RequestID: "b37da276-3507-4c89-931a-b94c4c970096", Action: Delete, ObjectType: "extras.eventrule", ObjectID: "14", ObjectRepr: "api-rule",
	}
	if got, expected := asText(t, first), asText(t, want); got != expected || rows[0].Prechange == nil {
		t.Errorf("got %s, want %s", got, expected)
	}
	if _, _, err := replay(t, "changed_object_type").Changes(ctx, Cursor{ID: 197}, 1); KindOf(err) != KindMalformed {
		t.Errorf("a row before the cursor: %v", err)
	}
	rows, more, err = replay(t, "changed_object_type").Changes(ctx, Cursor{ID: 1}, 1)
	if err != nil || !more || rows[0].ObjectURL != "/api/dcim/sites/2/" {
		t.Errorf("rows: %+v, %v, %v", rows, more, err)
	}
}

func asText(t *testing.T, value any) string {
	t.Helper()
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
