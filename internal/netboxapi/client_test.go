package netboxapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	clocktesting "k8s.io/utils/clock/testing"
)

func TestNew(t *testing.T) {
	for _, test := range []struct{ url, token, want string }{
		{"https://netbox.example.com", testToken, "Token " + testToken},
		{"https://netbox.example.com/", testToken, "Token " + testToken},
		{"http://example.com:8000/netbox/", " " + testToken + "\n", "Token " + testToken},
		{"https://netbox.example.com", "nbt_key.secret", "Bearer nbt_key.secret"},
		{"netbox.example.com", testToken, ""},
		{"ftp://netbox.example.com", testToken, ""},
		{"https://user:pass@netbox.example.com", testToken, ""},
		{"https://netbox.example.com/?a=b", testToken, ""},
		{"https://netbox.example.com/a/../b", testToken, ""},
		{"https://netbox.example.com", "", ""},
		{"https://netbox.example.com", "short", ""},
		{"https://netbox.example.com", "two tokens", ""},
		{"https://netbox.example.com", "a\nb: c", ""},
	} {
		client, err := New(Options{URL: test.url, Token: test.token})
		switch {
		case (err == nil) != (test.want != ""):
			t.Errorf("%s, %q: %v", test.url, test.token, err)
		case err == nil && client.authorization != test.want:
			t.Errorf("%s, %q: %q", test.url, test.token, client.authorization)
		}
	}
}

func TestTarget(t *testing.T) {
	for _, test := range []struct{ base, path, want string }{
		{"https://nb", "/api/dcim/sites/14/", "https://nb/api/dcim/sites/14/"},
		{"https://nb/netbox", "/api/dcim/sites/14/", "https://nb/netbox/api/dcim/sites/14/"},
		{"https://nb/netbox", "/netbox/api/dcim/sites/14/", "https://nb/netbox/api/dcim/sites/14/"},
		{"https://nb/api", "/api/api/dcim/sites/", "https://nb/api/api/dcim/sites/"},
		{"https://nb", "/api/extras/scripts/a%20b/", "https://nb/api/extras/scripts/a%20b/"},
		{"https://nb", "/graphql/", "https://nb/graphql/"},
		{"https://nb", "//evil.example/api/", ""},
		{"https://nb", "https://evil.example/api/", ""},
		{"https://nb", "@evil.example/api/", ""},
		{"https://nb", "/api/../admin/", ""},
		{"https://nb", "/api/%2e%2e/admin/", ""},
		{"https://nb", "/api/a/%2e%2e%2fb/", ""},
		{"https://nb", "/api/a//b/", ""},
		{"https://nb", `/api/a\b/`, ""},
		{"https://nb", "/admin/", ""},
		{"https://nb", "/api", ""},
		{"https://nb", "/api/%zz/", ""},
		{"https://nb", "/api/a%00/", ""},
		{"https://nb", "", ""},
	} {
		client := clientOf(t, test.base, nil)
		target, err := client.target(request{path: test.path})
		switch {
		case (err == nil) != (test.want != ""):
			t.Errorf("%s, %s: %v, %v", test.base, test.path, target, err)
		case err == nil && target.String() != test.want:
			t.Errorf("%s, %s: got %s, want %s", test.base, test.path, target, test.want)
		}
	}
}

// TestBadAnswers checks that what is no answer of NetBox becomes a clear error.
func TestBadAnswers(t *testing.T) {
	write := func(status int, contentType, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", contentType)
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}
	}
	for _, test := range []struct {
		name    string
		handler http.HandlerFunc
		kind    Kind
		want    string
	}{
		{"HTML", write(200, "text/html; charset=utf-8", "<html>Log in</html>"), KindMalformed, "text/html"},
		{"HTML 403", write(403, "text/html", "<html>Forbidden</html>"), KindForbidden, "proxy"},
		{"HTML 404", write(404, "text/html", "<html>Not found</html>"), KindWrongURL, "spec.netbox.url"},
		{"502", write(502, "text/html", "<html>Bad Gateway</html>"), KindUnavailable, "502"},
		{"401", write(401, "application/json", `{"detail": "Unauthorized"}`), KindUnauthorized, "tokenSecretRef"},
		{"truncated JSON", write(200, "application/json", `{"netbox-version": "4.7`), KindMalformed, "unexpected end of JSON input"},
		{"an array", write(200, "application/json", `[]`), KindMalformed, "cannot unmarshal array"},
		{"a version of the wrong type", write(200, "application/json", `{"netbox-version": 4.7}`), KindMalformed, "netbox-version"},
		{"no version", write(200, "application/json", `{}`), KindMalformed, "version"},
		{"nothing", write(200, "application/json", ""), KindMalformed, "unexpected end"},
		{"an early end", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, `{"netbox-version"`)
		}, KindUnreachable, "unexpected EOF"},
		{"deep JSON", write(200, "application/json", strings.Repeat("[", 500_000)), KindMalformed, "max depth"},
		{"a redirect to HTTPS", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://"+r.Host+r.URL.Path, http.StatusMovedPermanently)
		}, KindRedirect, "spec.netbox.url"},
		{"a redirect to a login", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/login/?next=/api/status/", http.StatusFound)
		}, KindUnauthorized, "login"},
		{"a redirect without Location", write(302, "text/html", ""), KindRedirect, "302"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := newClient(t, test.handler).Status(t.Context())
			if KindOf(err) != test.kind || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %q: %v; want %q with %q", KindOf(err), err, test.kind, test.want)
			}
		})
	}
}

func TestEndlessAnswer(t *testing.T) {
	var sent atomic.Int64
	client := newClient(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		chunk := bytes.Repeat([]byte(" "), 1<<16)
		for sent.Load() < 100<<20 {
			n, err := w.Write(chunk)
			if err != nil {
				return
			}
			sent.Add(int64(n))
		}
	})
	_, err := client.Status(t.Context())
	if KindOf(err) != KindTooLarge || !strings.Contains(err.Error(), "1048576 bytes") {
		t.Errorf("got %v", err)
	}
	if sent.Load() > 50<<20 {
		t.Errorf("%d bytes were read", sent.Load())
	}
}

func TestRedirectKeepsTheToken(t *testing.T) {
	var elsewhere atomic.Int64
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	t.Cleanup(other.Close)
	for _, status := range []int{301, 302, 303, 307, 308} {
		client := newClient(t, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, other.URL+"/api/status/?token="+testToken, status)
		})
		_, err := client.Status(t.Context())
		if KindOf(err) != KindRedirect || !strings.Contains(err.Error(), strings.TrimPrefix(other.URL, "http://")) {
			t.Errorf("%d: %v", status, err)
		}
		assertNoToken(t, err)
	}
	if elsewhere.Load() > 0 {
		t.Errorf("%d requests followed the redirect", elsewhere.Load())
	}
}

func TestSlowAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := roundTripper(func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		})
		client, _ := New(Options{URL: "https://nb", Token: testToken, Transport: slow})
		began := time.Now()
		_, err := client.Status(t.Context())
		if KindOf(err) != KindTimeout || !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != requestTimeout {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := client.Status(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		transport := roundTripper(func(*http.Request) (*http.Response, error) {
			return &http.Response{
				StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"application/json"}},
				Body: io.NopCloser(strings.NewReader(`{"netbox-version": "4.7.3"}`)),
			}, nil
		})
		client, _ := New(Options{URL: "https://nb", Token: testToken, Transport: transport})
		began := time.Now()
		for range burst + 5 {
			if _, err := client.Status(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(began); took < 900*time.Millisecond || took > 1100*time.Millisecond {
			t.Errorf("%d requests took %v", burst+5, took)
		}
	})
}

func TestUnreachable(t *testing.T) {
	failing := roundTripper(func(*http.Request) (*http.Response, error) {
		return nil, fmt.Errorf("proxy says %s", strings.ToUpper(testToken))
	})
	client, _ := New(Options{URL: "https://nb", Token: testToken, Transport: failing})
	_, err := client.Status(t.Context())
	if KindOf(err) != KindUnreachable || !strings.Contains(err.Error(), "nb cannot be reached") {
		t.Error(err)
	}
	assertNoToken(t, err)
}

func TestRetryAfter(t *testing.T) {
	fake := clocktesting.NewFakePassiveClock(epoch)
	for _, test := range []struct {
		status int
		header string
		want   time.Duration
	}{
		{429, "42", 42 * time.Second},
		{503, epoch.Add(time.Minute).Format(http.TimeFormat), time.Minute},
		{503, "99999999999999999999999", time.Hour},
		{429, "86400", time.Hour},
		{429, epoch.Add(-time.Minute).Format(http.TimeFormat), 0},
		{429, "soon", 0},
		{429, "-5", 0},
		{502, "42", 0},
	} {
		fake.SetTime(epoch)
		requests := 0
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			requests++
			w.Header().Set("Retry-After", test.header)
			w.WriteHeader(test.status)
		}))
		client := clientOf(t, server.URL, fake)
		_, err := client.Status(t.Context())
		failure, ok := errors.AsType[*Error](err)
		if !ok || failure.RetryAfter != test.want || failure.Status != test.status {
			t.Errorf("%d, %q: %+v", test.status, test.header, err)
		}
		if test.want > 0 {
			fake.SetTime(epoch.Add(test.want - time.Second))
			_, err = client.Status(t.Context())
			if failure, _ := errors.AsType[*Error](err); requests != 1 || failure.RetryAfter != time.Second || failure.Status != test.status {
				t.Errorf("%d, %q: %d requests before the time is over: %+v", test.status, test.header, requests, err)
			}
		}
		fake.SetTime(epoch.Add(test.want))
		if _, _ = client.Status(t.Context()); requests != 2 {
			t.Errorf("%d, %q: %d requests after the time is over", test.status, test.header, requests)
		}
		server.Close()
	}
}

// echoes are ways in which a server may send a secret back.
func echoes(secret string) map[string]string {
	var percent, code strings.Builder
	for _, b := range []byte(secret) {
		fmt.Fprintf(&percent, "%%%02x", b)
		fmt.Fprintf(&code, `\u%04x`, b)
	}
	return map[string]string{
		"plain": secret, "upper case": strings.ToUpper(secret), "a part": secret[4:24], "twice": secret + secret,
		"percent": percent.String(), "percent twice": strings.ReplaceAll(percent.String(), "%", "%25"),
		"JSON": code.String(), "JSON twice": strings.ReplaceAll(code.String(), `\`, `\\`),
		"HTML":            "&#" + strings.Trim(strings.Join(strings.Fields(fmt.Sprintf("%v", []byte(secret))), ";&#"), "[]") + ";",
		"in an HTML page": "<p>" + html.EscapeString(secret) + "</p>",
	}
}

func TestTokenIsRedacted(t *testing.T) {
	for _, token := range []string{testToken, "nbt_liveliveKEY1.0123456789abcdefghij0123456789ABCDEFGHIJ"} {
		for name, echo := range echoes(token) {
			for _, status := range []int{200, 302, 400, 401, 403, 404, 429, 500, 503} {
				server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("Location", "https://other.example/"+echo)
					w.Header().Set("Content-Type", "application/json")
					w.WriteHeader(status)
					_ = json.NewEncoder(w).Encode(map[string]any{
						"detail": "Invalid token " + echo, "netbox-version": echo, echo: []string{echo},
					})
				}))
				client, _ := New(Options{URL: server.URL, Token: token, Transport: http.DefaultTransport})
				_, err := client.Status(t.Context())
				text := strings.ToLower(fmt.Sprintf("%v %+v", err, err))
				for at := 0; at+10 <= len(token); at++ {
					if strings.Contains(unescape(unescape(text)), strings.ToLower(token[at:at+10])) {
						t.Errorf("%s, %d: %v", name, status, err)
						break
					}
				}
				server.Close()
			}
		}
	}
}

func assertNoToken(t *testing.T, err error) {
	t.Helper()
	if strings.Contains(strings.ToLower(err.Error()), testToken[:10]) {
		t.Errorf("the error has the token: %v", err)
	}
}

func TestSecretOfWebhookIsRedacted(t *testing.T) {
	client := newClient(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/api/status/" {
			writeJSON(w, `{"netbox-version": "4.7.3"}`)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusBadRequest)
		body, _ := io.ReadAll(r.Body)
		_, _ = w.Write(body)
	})
	_, err := client.CreateWebhook(t.Context(), Webhook{Name: "a", Secret: "correct horse"})
	if KindOf(err) != KindInvalid || strings.Contains(err.Error(), "horse") {
		t.Error(err)
	}
}

// TestLargePage checks that a page of the change log that is too large is asked for in smaller ones.
func TestLargePage(t *testing.T) {
	netbox := &fakeNetBox{version: "4.7.3", maxPage: 1000}
	for id := range int64(100) {
		netbox.ids = append(netbox.ids, id+1)
	}
	client := clientOf(t, newClient(t, netbox.ServeHTTP).base.String()+"/netbox", nil)
	client.maxPageBytes = 8000
	var got []string
	for after, more := (Cursor{}), true; more; {
		rows, hasMore, err := client.Changes(t.Context(), after, 1000)
		if err != nil {
			t.Fatal(err)
		}
		for _, row := range rows {
			got, after = append(got, row.ID), row.Cursor()
		}
		more = hasMore
	}
	if len(got) != 100 || got[99] != "100" {
		t.Errorf("got %v", got)
	}
	client.maxPageBytes = 100
	if _, _, err := client.Changes(t.Context(), Cursor{}, 1000); KindOf(err) != KindTooLarge {
		t.Errorf("a row that is too large: %v", err)
	}
}

func TestObjects(t *testing.T) {
	var asked []int
	client := newClient(t, func(w http.ResponseWriter, r *http.Request) {
		object := func(id string) string {
			size := 10
			if id == "7" {
				size = maxAnswerBytes - 100
			}
			return fmt.Sprintf(`{"id": %s, "name": %q}`, id, strings.Repeat("x", size))
		}
		if r.URL.Path != "/netbox/api/dcim/sites/" {
			writeJSON(w, object(strings.Trim(strings.TrimPrefix(r.URL.Path, "/netbox/api/dcim/sites/"), "/")))
			return
		}
		ids := r.URL.Query()["id"]
		asked = append(asked, len(ids))
		var found []string
		for _, id := range ids {
			if id != "60" {
				found = append(found, object(id))
			}
		}
		writeJSON(w, fmt.Sprintf(`{"next": null, "results": [%s]}`, strings.Join(found, ",")))
	})
	client = clientOf(t, client.base.String()+"/netbox", nil)
	var ids []string
	for id := range 120 {
		ids = append(ids, fmt.Sprint(id))
	}
	objects, err := client.Objects(t.Context(), "/netbox/api/dcim/sites/", ids)
	if err != nil || len(objects) != 119 || objects["60"] != nil || len(objects["7"]) < maxAnswerBytes-200 {
		t.Errorf("%d objects, %v", len(objects), err)
	}
	if slices.Max(asked) > maxObjects {
		t.Errorf("asked for %v", asked)
	}
}

func TestGraphQL(t *testing.T) {
	for _, test := range []struct {
		body string
		want string
		kind Kind
	}{
		{`{"data": {"site_list": []}}`, `{"site_list": []}`, ""},
		{`{"data": null, "errors": [{"message": "Cannot query field 'a'"}]}`, "", KindInvalid},
		{`{"data": {}, "errors": "no"}`, "", KindMalformed},
	} {
		client := newClient(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/api/status/" {
				writeJSON(w, `{"netbox-version": "4.7.3"}`)
				return
			}
			if body, _ := io.ReadAll(r.Body); r.URL.Path != "/graphql/" || string(body) != `{"query":"{a}","variables":{"b":1}}` {
				t.Errorf("%s: %s", r.URL, body)
			}
			writeJSON(w, test.body)
		})
		data, err := client.GraphQL(t.Context(), "{a}", map[string]any{"b": 1})
		if string(data) != test.want || KindOf(err) != test.kind {
			t.Errorf("%s: %s, %v", test.body, data, err)
		}
	}
}
