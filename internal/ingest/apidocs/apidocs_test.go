package apidocs_test

import (
	"compress/gzip"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/netbox-events/netbox-event-operator/internal/ingest/apidocs"
)

func get(t *testing.T, method, path string, header ...string) *http.Response {
	t.Helper()
	request := httptest.NewRequestWithContext(t.Context(), method, path, nil)
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	recorder := httptest.NewRecorder()
	apidocs.Handler().ServeHTTP(recorder, request)
	return recorder.Result()
}

func read(t *testing.T, body io.Reader) string {
	t.Helper()
	content, err := io.ReadAll(body)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func TestHandler(t *testing.T) {
	for _, test := range []struct {
		path        string
		status      int
		contentType string
	}{
		{"/openapi.json", 200, "application/json"},
		{"/docs", 200, "text/html; charset=utf-8"},
		{"/docs?x=1", 200, "text/html; charset=utf-8"},
		{"/docs/", 200, "text/html; charset=utf-8"},
		{"/docs/docs.js", 200, "text/javascript; charset=utf-8"},
		{"/docs/docs.css", 200, "text/css; charset=utf-8"},
		{"/docs/swagger-ui-bundle.js", 200, "text/javascript; charset=utf-8"},
		{"/docs/swagger-ui.css", 200, "text/css; charset=utf-8"},
		{"/docs/favicon-32x32.png", 200, "image/png"},
		{"/docs/index.html", 404, "application/json"},
		{"/docs//", 404, "application/json"},
		{"/docs/../openapi.json", 404, "application/json"},
		{"/docs/%2e%2e/openapi.json", 404, "application/json"},
		{"/docs/swagger-ui.css.gz", 404, "application/json"},
		{"/docs/oauth2-redirect.html", 404, "application/json"},
	} {
		t.Run(test.path, func(t *testing.T) {
			for _, method := range []string{http.MethodGet, http.MethodHead} {
				response := get(t, method, test.path)
				if response.StatusCode != test.status || response.Header.Get("Content-Type") != test.contentType {
					t.Errorf("%s: %s, %s", method, response.Status, response.Header.Get("Content-Type"))
				}
				checkHeaders(t, response)
			}
			body := read(t, get(t, http.MethodGet, test.path).Body)
			if test.status == http.StatusOK {
				if body == "" {
					t.Error("nothing is served")
				}
			} else {
				checkRefusal(t, body)
			}
		})
	}
}

func TestOtherMethods(t *testing.T) {
	for _, path := range []string{"/openapi.json", "/docs", "/docs/", "/docs/docs.js", "/docs/nothing"} {
		for _, method := range []string{"POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"} {
			response := get(t, method, path)
			if response.StatusCode != http.StatusMethodNotAllowed || response.Header.Get("Allow") != "GET, HEAD" {
				t.Errorf("%s %s: %s, Allow %q", method, path, response.Status, response.Header.Get("Allow"))
			}
			checkHeaders(t, response)
			checkRefusal(t, read(t, response.Body))
		}
	}
}

func checkHeaders(t *testing.T, response *http.Response) {
	t.Helper()
	if policy := response.Header.Get("Content-Security-Policy"); !strings.HasPrefix(policy, "default-src 'none';") ||
		strings.Contains(policy, "unsafe") || strings.Contains(policy, "http") || strings.Contains(policy, "*") {
		t.Errorf("Content-Security-Policy is %q", policy)
	}
	if response.Header.Get("X-Content-Type-Options") != "nosniff" {
		t.Error("X-Content-Type-Options is missing")
	}
	if response.Header.Get("Cache-Control") == "" {
		t.Error("Cache-Control is missing")
	}
	if response.Header.Get("Location") != "" {
		t.Error("a redirect")
	}
}

func checkRefusal(t *testing.T, body string) {
	t.Helper()
	var refusal struct{ Result string }
	if err := json.Unmarshal([]byte(body), &refusal); err != nil || refusal.Result == "" {
		t.Errorf("no JSON with a result: %q", body)
	}
}

func TestNothingIsSentTwice(t *testing.T) {
	first := get(t, http.MethodGet, "/docs/swagger-ui.css", "Accept-Encoding", "gzip")
	again := get(t, http.MethodGet, "/docs/swagger-ui.css", "Accept-Encoding", "gzip", "If-None-Match", first.Header.Get("Etag"))
	if again.StatusCode != http.StatusNotModified {
		t.Errorf("answered with %s", again.Status)
	}
	if first.Header.Get("Etag") == get(t, http.MethodGet, "/docs/docs.css").Header.Get("Etag") {
		t.Error("two files have one ETag")
	}
}

func TestCompression(t *testing.T) {
	plain := read(t, get(t, http.MethodGet, "/docs/swagger-ui.css").Body)
	if !strings.HasPrefix(plain, ".swagger-ui") {
		t.Fatalf("this is no style sheet: %.40q", plain)
	}
	for accept, compressed := range map[string]bool{
		"gzip":               true,
		"br, gzip":           true,
		"gzip, deflate, br":  true,
		"deflate,gzip;q=0.5": true,
		"gzip; q=1.0":        true,
		"gzip;q=0":           false,
		"gzip; q=0.000":      false,
		"identity":           false,
		"br":                 false,
		"":                   false,
	} {
		response := get(t, http.MethodGet, "/docs/swagger-ui.css", "Accept-Encoding", accept)
		if response.Header.Get("Vary") != "Accept-Encoding" {
			t.Errorf("%q: Vary is %q", accept, response.Header.Get("Vary"))
		}
		if got := response.Header.Get("Content-Encoding") == "gzip"; got != compressed {
			t.Errorf("%q: compressed is %v", accept, got)
			continue
		}
		body := io.Reader(response.Body)
		if compressed {
			var err error
			if body, err = gzip.NewReader(body); err != nil {
				t.Fatal(err)
			}
		}
		if read(t, body) != plain {
			t.Errorf("%q: not the same content", accept)
		}
	}
}

// The page loads what the handler serves, and nothing that the policy would stop.
func TestPage(t *testing.T) {
	page := read(t, get(t, http.MethodGet, "/docs").Body) + read(t, get(t, http.MethodGet, "/docs/docs.js").Body)
	urls := regexp.MustCompile(`(?:href=|src=|url: )"([^"]*)"`).FindAllStringSubmatch(page, -1)
	if len(urls) < 6 {
		t.Errorf("only %d URLs were found", len(urls))
	}
	for _, url := range urls {
		if response := get(t, http.MethodGet, url[1]); !apidocs.Handles(url[1]) || response.StatusCode != http.StatusOK {
			t.Errorf("%s: %s", url[1], response.Status)
		}
	}
	for _, unwanted := range []string{"://", "<style", "style=", "onload", "<script>"} {
		if strings.Contains(page, unwanted) {
			t.Errorf("the page has %s", unwanted)
		}
	}
}

func TestHandles(t *testing.T) {
	for path, want := range map[string]bool{
		"/openapi.json":   true,
		"/docs":           true,
		"/docs/":          true,
		"/docs/x/y":       true,
		"/":               false,
		"":                false,
		"/docsy":          false,
		"/openapi.json/":  false,
		"/openapi.yaml":   false,
		"/webhook/a/docs": false,
	} {
		if apidocs.Handles(path) != want {
			t.Errorf("%q: %v", path, !want)
		}
	}
}
