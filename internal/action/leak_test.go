package action_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

const passPhrase = "Correct horse battery staple/+&é\"<"

// leaks returns the parts of the pass phrase, and of other secrets, that a text holds.
func leaks(text string, others ...string) (found []string) {
	forms := append(slices.Clone(others), passPhrase, base64.StdEncoding.EncodeToString([]byte("user:"+passPhrase)), url.PathEscape(passPhrase), url.QueryEscape(passPhrase))
	for _, form := range forms {
		for _, part := range append(strings.FieldsFunc(form, func(r rune) bool { return strings.ContainsRune(` +%/&"<=`, r) }), form) {
			if len(part) > 2 && strings.Contains(strings.ToLower(text), strings.ToLower(part)) {
				found = append(found, part)
			}
		}
	}
	return found
}

// raw starts a TCP server that answers the head of a request with a text.
func raw(t *testing.T, answer func(head string) string) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			request, err := http.ReadRequest(bufio.NewReader(conn))
			if err == nil {
				head, _ := httputil.DumpRequest(request, false)
				_, _ = io.WriteString(conn, answer(string(head)))
			}
			_ = conn.Close()
		}
	}()
	return "http://" + listener.Addr().String()
}

// TestNothingLeaks sends secrets to sinks that repeat them in all ways, and looks for them in responses and errors, which are what status, log and
// Kubernetes Events show.
func TestNothingLeaks(t *testing.T) {
	echo := func(code int) string {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
			text := request.Header.Get("X-Secret")
			w.Header().Set("Location", "/?"+url.QueryEscape(text))
			w.WriteHeader(code)
			fmt.Fprintf(w, "%s; %q; %s; %.12s; %s; ", text, text, strings.ToUpper(text), text, strings.Fields(text))
			fmt.Fprint(w, request.Header.Get("X-Encoded"), request.RequestURI)
			_, _ = io.Copy(w, request.Body)
		}))
		t.Cleanup(server.Close)
		return server.URL
	}
	untrusted := httptest.NewUnstartedServer(http.NotFoundHandler())
	untrusted.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	untrusted.Config.ErrorLog = quiet
	untrusted.StartTLS()
	defer untrusted.Close()

	line := func(head, name string) string {
		_, rest, _ := strings.Cut(head, name+": ")
		value, _, _ := strings.Cut(rest, "\r\n")
		return value
	}
	for _, test := range []struct {
		reason, url string
		want        outcome
		text        string // of the response, or of the error
	}{
		{"success", echo(200), done, "200 OK: [redacted]"},
		{"refused", echo(401), permanent, "answered with 401 Unauthorized"},
		{"a redirect", echo(302), permanent, "redirects are not followed"},
		{"unavailable", echo(503), retry, "answered with 503"},
		{"a malformed header", raw(t, func(head string) string { return "HTTP/1.1 200 OK\r\nyou sent " + line(head, "X-Secret") + "\r\n\r\n" }), retry, "malformed"},
		{"a malformed status", raw(t, func(head string) string { return "HTTP/1.1 " + line(head, "X-Secret") + "\r\n\r\n" }), retry, "malformed"},
		{"a reason", raw(t, func(head string) string { return "HTTP/1.1 500 " + line(head, "X-Secret") + "\r\n\r\n" }), retry, "answered with 500"},
		{"a malformed length", raw(t, func(head string) string {
			return "HTTP/1.1 200 OK\r\nContent-Length: " + line(head, "X-Secret") + "\r\n\r\n"
		}), retry, "malformed"},
		{"a transfer encoding", raw(t, func(head string) string {
			return "HTTP/1.1 200 OK\r\nTransfer-Encoding: " + line(head, "X-Secret") + "\r\n\r\n"
		}), retry, "malformed"},
		{"an echo", raw(t, func(head string) string { return head }), retry, "malformed"},
		{"TLS of an unknown authority", untrusted.URL, retry, "unknown authority; set tls.caConfigMapRef"},
		{"no TLS", strings.Replace(echo(200), "http:", "https:", 1), retry, "no TLS handshake"},
		{"not TLS at all", strings.Replace(raw(t, func(head string) string { return head }), "http:", "https:", 1), retry, ": "},
		{"no host", "http://sink.invalid", retry, "sink.invalid: "},
	} {
		t.Run(test.reason, func(t *testing.T) {
			namespace, spec := plane.Namespace(t), newRequest(test.url+"/${secrets.phrase}?q=${secrets.phrase}")
			newSecret(t, namespace, "sink", map[string]string{"phrase": passPhrase})
			spec.HTTP.Headers = []v1alpha1.HTTPHeader{
				{Name: "X-Secret", Value: "${secrets.phrase}"},
				{Name: "X-Encoded", Value: "Basic ${bytes('user:' + secrets.phrase)}"},
			}
			spec.HTTP.Body = &v1alpha1.HTTPBody{Text: "${secrets.phrase}"}
			response, err := do(t, newRunner(t), newTask(t, device(t, namespace, "leaf1"), spec, secretOf("phrase", "phrase")))
			expect(t, err, test.want, test.text)
			if err == nil && !strings.Contains(response, test.text) {
				t.Errorf("response is %q", response)
			}
			for _, text := range []string{response, fmt.Sprint(err)} {
				if found := leaks(text); len(found) > 0 {
					t.Errorf("%q holds %q", text, found)
				}
			}
		})
	}
}

// TestCutErrorsDoNotLeak has errors repeat a secret, and cuts them within it.
func TestCutErrorsDoNotLeak(t *testing.T) {
	namespace, runner := plane.Namespace(t), newRunner(t)
	newSecret(t, namespace, "sink", map[string]string{"phrase": passPhrase})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]string{"a": strings.Repeat("-", int(request.ContentLength)) + request.Header.Get("X-Secret")})
	}))
	defer server.Close()
	cut := 0
	for length := 460; length < 500; length++ {
		spec := newRequest(server.URL)
		spec.HTTP.Body = &v1alpha1.HTTPBody{Text: strings.Repeat("x", length)}
		spec.HTTP.Headers = []v1alpha1.HTTPHeader{{Name: "X-Secret", Value: "${secrets.phrase}"}}
		spec.HTTP.Success = "ip(response.body.a).family() == 4"
		_, err := do(t, runner, newTask(t, device(t, namespace, "leaf1"), spec, secretOf("phrase", "phrase")))
		expect(t, err, retry, "success cannot be evaluated: IP Address")
		shown, _, isCut := strings.Cut(err.Error(), "…")
		if isCut {
			cut++
		}
		if found := leaks(shown, "corr", "orre", "orse", "batt"); len(found) > 0 {
			t.Errorf("%q holds %q", err, found)
		}
	}
	if cut < 20 {
		t.Errorf("%d errors were cut", cut)
	}
}

// TestAuthNeverLeaks authenticates in all ways at sinks and proxies that repeat what they get, and looks for it in responses, errors and results.
func TestAuthNeverLeaks(t *testing.T) {
	namespace := plane.Namespace(t)
	newSecret(t, namespace, "sink", map[string]string{"username": "svc-netbox", "password": passPhrase, "key": passPhrase})
	plane.Create(t, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: serviceAccount}})
	const token = "0penSesame.And_Close-It"
	var sent []string // the credentials that the sink got, which must not be shown
	mux := http.NewServeMux()
	mux.HandleFunc("/token", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"access_token": %q, "expires_in": 300}`, token)
	})
	mux.HandleFunc("/refused", func(w http.ResponseWriter, request *http.Request) {
		_, secret, _ := request.BasicAuth()
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprintf(w, `{"error": "invalid_client", "error_description": %q, "error_uri": %q}`, secret, request.Header.Get("Authorization"))
	})
	mux.HandleFunc("/{code}/", func(w http.ResponseWriter, request *http.Request) {
		got := request.Header.Get("Authorization")
		if _, credentials, ok := strings.Cut(got, " "); ok {
			sent = append(sent, credentials)
		}
		user, password, _ := request.BasicAuth()
		w.Header().Set("Location", "/?"+url.QueryEscape(got+password))
		w.Header().Set("X-Echo", got)
		code, _ := strconv.Atoi(request.PathValue("code"))
		if code == 0 { // malformed
			conn, _, _ := http.NewResponseController(w).Hijack()
			fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\n%s\r\n\r\n", got)
			_ = conn.Close()
			return
		}
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(map[string]any{
			"id": 7, "you sent": got, got: user, "password": password, "list": []string{password, strings.ToUpper(password), got[len(got)/2:]},
		})
	})
	server := httptest.NewServer(mux)
	defer server.Close()
	relay := newProxy(t, map[string]string{"sink.example": hostOf(t, server.URL)})
	encoded := base64.StdEncoding.EncodeToString([]byte("operator:" + proxyPassword))

	for auth, spec := range map[string]string{
		"basic":                         `{basic: {secretRef: {name: sink}}}`,
		"oauth2":                        `{oauth2: {tokenURL: "` + server.URL + `/token", clientID: a, clientSecretRef: {name: sink, key: key}}}`,
		"an endpoint that refuses":      `{oauth2: {tokenURL: "` + server.URL + `/refused", clientID: a, clientSecretRef: {name: sink, key: key}}}`,
		"a token of a service account":  `{serviceAccountToken: {audience: relay}}`,
		"oauth2 with an echo of tokens": `{oauth2: {tokenURL: "` + server.URL + `/200/token", clientID: a, clientSecretRef: {name: sink, key: key}}}`,
	} {
		for _, code := range []string{"200", "302", "401", "500", "malformed"} {
			for place, host := range map[string]string{"directly": hostOf(t, server.URL), "through a proxy": "sink.example"} {
				t.Run(auth+" "+code+" "+place, func(t *testing.T) {
					task := firstOf(t, device(t, namespace, "leaf1"), `
serviceAccountName: provisioner
actions:
- {name: do, http: {url: "http://`+host+`/`+code+`/", success: "response.status == 200 && response.body.id == 7", auth: `+spec+`}}
- {name: use, dependsOn: [do], log: {message: "${results.do}"}}
`)
					sent = nil
					runner := newRunner(t, relay.through(proxyPassword), func(options *settings) {
						options.AllowCIDRs = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
					})
					ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
					defer cancel()
					result, err := runner.Do(ctx, task)
					if code == "200" && !strings.Contains(auth, "refuses") && !strings.Contains(auth, "echo") {
						expect(t, err, done)
						if !strings.Contains(string(result.Kept), `"id":7`) || !strings.Contains(string(result.Kept), `"x-echo":"`) {
							t.Errorf("kept %s", result.Kept)
						}
					} else if err == nil {
						t.Error("no error")
					}
					for _, text := range []string{result.Response, fmt.Sprint(err), string(result.Kept)} {
						if found := leaks(text, append(sent, token, "svc-netbox", "operator:"+proxyPassword, encoded)...); len(found) > 0 {
							t.Errorf("%q holds %q", text, found)
						}
					}
				})
			}
		}
	}
}

// TestSecretInURL sends to URLs that are in part, or as a whole, from Secrets.
func TestSecretInURL(t *testing.T) {
	to, runner, namespace := newSink(t), newRunner(t), plane.Namespace(t)
	newSecret(t, namespace, "sink", map[string]string{
		"url": to.URL + "/services/T0/B0/x\n", "path": "T0/B 0?/x", "token": "a+b&c", "dots": "../x", "bad": "ftp://hidden.example", "refused": "http://127.0.0.1:1/hidden",
	})
	var secrets []v1alpha1.RuleSecret
	for _, name := range []string{"url", "path", "token", "dots", "bad", "refused"} {
		secrets = append(secrets, secretOf(name, name))
	}
	for _, test := range []struct{ url, uri, wantErr string }{
		{url: "${secrets.url}", uri: "/services/T0/B0/x"},
		{url: "${secrets.url}/${data.name}?id=${data.id}", uri: "/services/T0/B0/x/a%2Fb?id=14"},
		{url: to.URL + "/services/${secrets.path}", uri: "/services/T0/B%200%3F/x"},
		{url: to.URL + "/${secrets.path + ''}", uri: "/T0%2FB%200%3F%2Fx"},
		{url: to.URL + "/x?token=${secrets.token}", uri: "/x?token=a%2Bb%26c"},
		{url: to.URL + "/${secrets.dots}", wantErr: "url: is not a valid URL"},
		{url: "${secrets.bad}", wantErr: "url: is not a valid URL"},
		{url: "${secrets.refused}", wantErr: "the host of the URL from a Secret: connection refused"},
		{url: "http://${secrets.token}/", wantErr: "is not valid in its place of the URL; correct the Secret"},
	} {
		t.Run(test.url, func(t *testing.T) {
			to.request = nil
			_, err := do(t, runner, newTask(t, device(t, namespace, "a/b"), newRequest(test.url), secrets...))
			if test.wantErr != "" {
				expect(t, err, retry, test.wantErr)
				for _, hidden := range []string{"hidden", "127.0.0.1", "a+b", ".."} {
					if strings.Contains(err.Error(), hidden) {
						t.Errorf("error shows the secret: %v", err)
					}
				}
				return
			}
			expect(t, err, done)
			if to.request == nil || to.request.RequestURI != test.uri {
				t.Errorf("request: %v", to.request)
			}
		})
	}
}
