package ui_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/netbox-events/netbox-event-operator/internal/cli/ui"
)

func TestHandler(t *testing.T) {
	server := httptest.NewServer(ui.Handler("secret", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "answer to "+r.URL.Path)
	})))
	defer server.Close()
	const token = "Bearer secret"
	for name, test := range map[string]struct {
		path, host, token, origin string

		status int
		text   string
	}{
		"page":                     {path: "/", status: http.StatusOK, text: "<!doctype html>"},
		"script":                   {path: "/app.js", status: http.StatusOK, text: "import"},
		"no such file":             {path: "/none.js", status: http.StatusNotFound},
		"API":                      {path: "/api/x", token: token, status: http.StatusOK, text: "answer to /api/x"},
		"API of the page":          {path: "/api/x", token: token, origin: "self", status: http.StatusOK},
		"API without token":        {path: "/api/x", status: http.StatusUnauthorized, text: "open the URL that kubectl netbox ui printed"},
		"API with a wrong token":   {path: "/api/x", token: token + "s", status: http.StatusUnauthorized},
		"API with another scheme":  {path: "/api/x", token: "Basic secret", status: http.StatusUnauthorized},
		"API with an empty token":  {path: "/api/x", token: "Bearer ", status: http.StatusUnauthorized},
		"token in the query":       {path: "/api/x?token=secret", status: http.StatusUnauthorized},
		"localhost":                {path: "/api/x", host: "localhost:1", token: token, status: http.StatusOK},
		"loopback, IPv6":           {path: "/api/x", host: "[::1]:1", token: token, status: http.StatusOK},
		"DNS rebinding":            {path: "/api/x", host: "evil.example.com", token: token, status: http.StatusForbidden, text: "localhost alone"},
		"DNS rebinding, the page":  {path: "/", host: "evil.example.com:80", status: http.StatusForbidden},
		"DNS rebinding, alike":     {path: "/", host: "localhost.example.com", status: http.StatusForbidden},
		"DNS rebinding, address":   {path: "/", host: "192.0.2.1", status: http.StatusForbidden},
		"another origin":           {path: "/api/x", token: token, origin: "https://evil.example.com", status: http.StatusForbidden},
		"another port":             {path: "/api/x", token: token, origin: "http://127.0.0.1:1", status: http.StatusForbidden},
		"opaque origin":            {path: "/api/x", token: token, origin: "null", status: http.StatusForbidden},
		"path that leaves the API": {path: "/api/../app.js", status: http.StatusOK, text: "import"},
	} {
		t.Run(name, func(t *testing.T) {
			request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+test.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			if test.host != "" {
				request.Host = test.host
			}
			if test.origin == "self" {
				test.origin = server.URL
			}
			for header, value := range map[string]string{"Authorization": test.token, "Origin": test.origin} {
				if value != "" {
					request.Header.Set(header, value)
				}
			}
			response, err := http.DefaultClient.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			body, err := io.ReadAll(response.Body)
			if err != nil {
				t.Fatal(err)
			}
			if response.StatusCode != test.status || !strings.Contains(string(body), test.text) {
				t.Errorf("%s: %s", response.Status, body)
			}
			if policy := response.Header.Get("Content-Security-Policy"); !strings.Contains(policy, "default-src 'none'") || strings.Contains(policy, "unsafe") {
				t.Errorf("policy %q", policy)
			}
		})
	}
}
