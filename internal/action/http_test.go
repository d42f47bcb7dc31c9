package action_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	testingclock "k8s.io/utils/clock/testing"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/action"
	"github.com/netbox-events/netbox-event-operator/test/controlplane"
)

// TestResponses sends to servers with all kinds of responses.
func TestResponses(t *testing.T) {
	now := time.Date(2027, 7, 28, 9, 30, 0, 0, time.UTC)
	status := func(code int, headers ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			for i := 0; i < len(headers); i += 2 {
				w.Header().Set(headers[i], headers[i+1])
			}
			w.WriteHeader(code)
		}
	}
	body := func(code int, text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code); _, _ = io.WriteString(w, text) }
	}
	drip := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, request *http.Request) {
			w.WriteHeader(code)
			for request.Context().Err() == nil {
				_, _ = io.WriteString(w, "drip ")
				_ = http.NewResponseController(w).Flush()
				time.Sleep(20 * time.Millisecond)
			}
		}
	}
	for _, test := range []struct {
		reason   string
		answer   http.HandlerFunc
		timeout  time.Duration
		want     outcome
		response string
		wantErr  string
		pause    time.Duration
	}{
		{reason: "good", answer: body(200, "queued\n"), want: done, response: "200 OK: queued"},
		{reason: "no body", answer: status(204), want: done, response: "204 No Content"},
		{reason: "a status without a name", answer: status(299), want: done, response: "299"},
		{reason: "control characters and no UTF-8", answer: body(202, "\x1b[31mno\xff\xfe\r\nX: \x00\u0085é"), want: done, response: "202 Accepted: [31mno\uFFFD  X:   é"},
		{reason: "a long body", answer: body(200, strings.Repeat("é", 1<<20)), want: done, response: "200 OK: " + strings.Repeat("é", 126) + "…"},
		{reason: "an endless body", want: done, response: "200 OK: " + strings.Repeat("x", 253) + "…", answer: func(w http.ResponseWriter, _ *http.Request) {
			for err := error(nil); err == nil; {
				_, err = io.WriteString(w, strings.Repeat("x", 1000))
			}
		}},
		{reason: "an endless and slow body", answer: drip(200), timeout: 300 * time.Millisecond, want: done, response: "200 OK: drip"},

		{reason: "request timeout", answer: status(408), want: retry, response: "408 Request Timeout"},
		{reason: "too early", answer: status(425), want: retry, response: "425 Too Early"},
		{reason: "too many", answer: status(429), want: retry, response: "429 Too Many Requests"},
		{reason: "an internal error", answer: body(500, "oh no"), want: retry, response: "500 Internal Server Error: oh no", wantErr: "answered with 500 Internal Server Error"},
		{reason: "unavailable", answer: status(503), want: retry, response: "503 Service Unavailable"},
		{reason: "an error without a name", answer: status(599), want: retry, response: "599"},
		{reason: "a pause in seconds", answer: status(429, "Retry-After", "120"), want: retry, response: "429 Too Many Requests", pause: 2 * time.Minute},
		{reason: "a pause until a date", answer: status(503, "Retry-After", now.Add(90*time.Second).Format(http.TimeFormat)), want: retry, response: "503 Service Unavailable", pause: 90 * time.Second},
		{reason: "a pause until a past date", answer: status(503, "Retry-After", now.Add(-time.Hour).Format(http.TimeFormat)), want: retry, response: "503 Service Unavailable"},
		{reason: "a pause of two hours", answer: status(503, "Retry-After", "7200"), want: retry, response: "503 Service Unavailable", pause: time.Hour},
		{reason: "a pause out of range", answer: status(503, "Retry-After", "99999999999999999999"), want: retry, response: "503 Service Unavailable", pause: time.Hour},
		{reason: "a pause until the year 9999", answer: status(503, "Retry-After", "Fri, 31 Dec 9999 23:59:59 GMT"), want: retry, response: "503 Service Unavailable", pause: time.Hour},
		{reason: "an invalid pause", answer: status(503, "Retry-After", "-5"), want: retry, response: "503 Service Unavailable"},

		{reason: "bad request", answer: body(400, "what?"), want: permanent, response: "400 Bad Request: what?", wantErr: "answered with 400 Bad Request"},
		{reason: "unauthorized", answer: status(401), want: permanent, response: "401 Unauthorized"},
		{reason: "not found", answer: status(404), want: permanent, response: "404 Not Found"},
		{reason: "a pause after a permanent failure", answer: status(400, "Retry-After", "1"), want: permanent, response: "400 Bad Request"},
		{reason: "a slow body after a permanent failure", answer: drip(400), timeout: 300 * time.Millisecond, want: permanent, response: "400 Bad Request: drip", wantErr: "answered with 400 Bad Request"},
		{reason: "moved", answer: status(301, "Location", "/elsewhere"), want: permanent, response: "301 Moved Permanently", wantErr: "redirects are not followed"},
		{reason: "moved temporarily", answer: status(307, "Location", "/elsewhere"), want: permanent, response: "307 Temporary Redirect", wantErr: "redirects are not followed"},
		{reason: "moved to an invalid URL", answer: status(302, "Location", "http://[::1"), want: permanent, response: "302 Found", wantErr: "redirects are not followed"},
		{reason: "another protocol", answer: func(w http.ResponseWriter, _ *http.Request) {
			conn, _, _ := http.NewResponseController(w).Hijack()
			_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
			_ = conn.Close()
		}, want: permanent, response: "101 Switching Protocols", wantErr: "did not ask for"},

		{reason: "a timeout", answer: func(_ http.ResponseWriter, request *http.Request) {
			_, _ = io.Copy(io.Discard, request.Body)
			<-request.Context().Done()
		}, timeout: 200 * time.Millisecond, want: retry, wantErr: "timed out after 200ms: 127.0.0.1:"},
		{reason: "a closed connection", answer: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, want: retry, wantErr: "closed the connection"},
		{reason: "headers without end", answer: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Long", strings.Repeat("x", 100_000))
		}, want: retry, wantErr: "exceeded"},
		{reason: "not HTTP", answer: func(w http.ResponseWriter, _ *http.Request) {
			conn, _, _ := http.NewResponseController(w).Hijack()
			_, _ = io.WriteString(conn, "SSH-2.0-"+strings.Repeat("\x1b", 2000)+"\r\n")
			_ = conn.Close()
		}, want: retry, wantErr: "malformed"},
	} {
		t.Run(test.reason, func(t *testing.T) {
			var elsewhere atomic.Bool
			mux := http.NewServeMux()
			mux.HandleFunc("/", test.answer)
			mux.HandleFunc("/elsewhere", func(http.ResponseWriter, *http.Request) { elsewhere.Store(true) })
			server := httptest.NewServer(mux)
			defer server.Close()
			defer server.CloseClientConnections()
			task := newTask(t, device(t, plane.Namespace(t), "leaf1"), newRequest(server.URL))
			if test.timeout > 0 {
				task.Rule.Spec.Retry.Timeout = metav1.Duration{Duration: test.timeout}
			}
			runner := newRunner(t, func(options *settings) { options.Clock = testingclock.NewFakePassiveClock(now) })
			begin := time.Now()
			response, err := do(t, runner, task)
			expect(t, err, test.want, test.wantErr)
			if test.timeout > 0 && test.want != retry { // the rest of it depends on the time
				response = response[:min(len(response), len(test.response))]
			}
			if response != test.response {
				t.Errorf("response is %q, want %q", response, test.response)
			}
			failure, _ := err.(*action.Failure) //nolint:errorlint // nil where it is none
			if failure == nil {
				failure = &action.Failure{}
			}
			if failure.RetryAfter != test.pause {
				t.Errorf("RetryAfter is %v, want %v", failure.RetryAfter, test.pause)
			}
			if failure.Throttled != strings.HasPrefix(test.response, "429") {
				t.Errorf("throttled is %v", failure.Throttled)
			}
			if failure.Unavailable != (test.want == retry) {
				t.Errorf("unavailable is %v", failure.Unavailable)
			}
			if test.want == permanent && !strings.HasPrefix(err.Error(), "answered with ") {
				t.Errorf("error is %q, without the status of the response", err)
			}
			if took := time.Since(begin); took > 5*time.Second {
				t.Errorf("took %v", took)
			}
			if elsewhere.Load() {
				t.Error("the redirect was followed")
			}
		})
	}
	t.Run("connection refused", func(t *testing.T) {
		address := controlplane.NewAddress(t)
		_, err := do(t, newRunner(t), newTask(t, device(t, plane.Namespace(t), "leaf1"), newRequest("http://user:pa55@"+address+"/pa55")))
		expect(t, err, retry, address, "refused")
		if strings.Contains(err.Error(), "pa55") {
			t.Errorf("error shows the password: %v", err)
		}
	})
}

// TestRequest checks the URL, headers and method of a request, also with hostile values.
func TestRequest(t *testing.T) {
	to, namespace := newSink(t), plane.Namespace(t)
	runner := newRunner(t)
	spec := newRequest(strings.Replace(to.URL, "//", "//user:pa55@", 1) + "/hook/${data.name}?name=${data.name}&id=${data.id}")
	spec.HTTP.Method = http.MethodPut
	spec.HTTP.Headers = []v1alpha1.HTTPHeader{{Name: "x-id", Value: "device ${data.id}"}, {Name: "Content-Type", Value: "application/json"}}
	name := "a/b?c#d%2f..\r\n${data.id} é\x00" + strings.Repeat("x", 10_000)
	task := newTask(t, device(t, namespace, name), spec)
	if _, err := do(t, runner, task); err != nil {
		t.Fatal(err)
	}
	path, query, _ := strings.Cut(to.request.RequestURI, "?")
	if want := "/hook/" + url.PathEscape(name); path != want {
		t.Errorf("path is %s, want %s", path, want)
	}
	if values, err := url.ParseQuery(query); err != nil || values.Get("name") != name || values.Get("id") != "14" || len(values) != 2 {
		t.Errorf("query is %s: %v", query, err)
	}
	user, password, _ := to.request.BasicAuth()
	got := []string{to.request.Method, to.request.Header.Get("X-Id"), to.request.Header.Get("Content-Type"), to.request.UserAgent(), user, password}
	if want := "[PUT device 14 application/json netbox-event-operator user pa55]"; fmt.Sprint(got) != want {
		t.Errorf("request has %v, want %v", got, want)
	}

	for _, test := range []struct {
		reason  string
		change  func(*v1alpha1.HTTPAction)
		want    outcome
		wantErr string
	}{
		{"an Authorization header", func(spec *v1alpha1.HTTPAction) {
			spec.Headers = []v1alpha1.HTTPHeader{{Name: "authorization", Value: "Bearer x"}}
		}, done, ""},
		{"a newline in a header", func(spec *v1alpha1.HTTPAction) {
			spec.Headers = []v1alpha1.HTTPHeader{{Name: "X-Name", Value: "${data.name}"}}
		}, permanent, "header X-Name: the value contains"},
		{"null in a header", func(spec *v1alpha1.HTTPAction) {
			spec.Headers = []v1alpha1.HTTPHeader{{Name: "X-Name", Value: "${data.tenant}"}}
		}, permanent, "header X-Name: ${data.tenant} is null"},
		{"a missing key in the URL", func(spec *v1alpha1.HTTPAction) { spec.URL = to.URL + "/${data.site.slug}" }, permanent, "url: data.site: no such key"},
		{"an invalid host name", func(spec *v1alpha1.HTTPAction) { spec.URL = "http://${data.name}.example.com/" }, permanent, "url: "},
	} {
		t.Run(test.reason, func(t *testing.T) {
			to.request = nil
			changed := *spec.HTTP
			test.change(&changed)
			_, err := do(t, runner, newTask(t, task.Event, v1alpha1.Action{HTTP: &changed}))
			expect(t, err, test.want, test.wantErr)
			if (to.request != nil) != (test.want == done) {
				t.Errorf("sent: %v", to.request)
			}
			if to.request != nil && to.request.Header.Get("Authorization") != "Bearer x" {
				t.Errorf("Authorization is %s", to.request.Header.Get("Authorization"))
			}
		})
	}
}

func TestSecrets(t *testing.T) {
	for _, test := range []struct {
		reason  string
		secret  map[string]string // nil for none
		want    outcome
		value   string
		wantErr string
	}{
		{reason: "good", secret: map[string]string{"authorization": "Bearer t0ken"}, want: done, value: "Bearer t0ken"},
		{reason: "with a trailing newline", secret: map[string]string{"authorization": "Bearer t0ken \r\n"}, want: done, value: "Bearer t0ken"},
		{reason: "a value is not a template", secret: map[string]string{"authorization": "${data.id}"}, want: done, value: "${data.id}"},
		{reason: "no Secret", want: retry, wantErr: "Secret sink does not exist"},
		{reason: "no entry", secret: map[string]string{"other": "t0ken"}, want: retry, wantErr: "no entry authorization"},
		{reason: "an empty entry", secret: map[string]string{"authorization": "\n"}, want: retry, wantErr: "no entry authorization, or it is empty"},
		{reason: "a newline", secret: map[string]string{"authorization": "Bearer t0ken\r\nX-Injected: t0ken"}, want: retry, wantErr: "a newline"},
	} {
		t.Run(test.reason, func(t *testing.T) {
			to, namespace := newSink(t), plane.Namespace(t)
			if test.secret != nil {
				newSecret(t, namespace, "sink", test.secret)
			}
			spec := newRequest(to.URL)
			spec.HTTP.Headers = []v1alpha1.HTTPHeader{{Name: "Authorization", Value: "${secrets.auth}"}}
			_, err := do(t, newRunner(t), newTask(t, device(t, namespace, "leaf1"), spec, secretOf("auth", "authorization")))
			expect(t, err, test.want, test.wantErr)
			if err != nil && strings.Contains(err.Error(), "t0ken") {
				t.Errorf("error shows the secret: %v", err)
			}
			if test.want != done {
				if to.request != nil {
					t.Error("the request was sent")
				}
			} else if got := to.request.Header.Get("Authorization"); got != test.value {
				t.Errorf("header is %q, want %q", got, test.value)
			}

			spec.HTTP.Headers, spec.HTTP.SigningSecretRef = nil, &v1alpha1.SecretKeyReference{Name: "sink", Key: "authorization"}
			_, err = do(t, newRunner(t), newTask(t, device(t, namespace, "leaf1"), spec, secretOf("auth", "authorization")))
			if strings.TrimSpace(test.secret["authorization"]) == "" {
				expect(t, err, retry, "signing: ", test.wantErr)
			} else {
				expect(t, err, done) // any text can be a key
			}
		})
	}

	t.Run("rotated", func(t *testing.T) {
		to, namespace := newSink(t), plane.Namespace(t)
		secret := newSecret(t, namespace, "sink", map[string]string{"authorization": "old"})
		spec := newRequest(to.URL)
		spec.HTTP.Headers = []v1alpha1.HTTPHeader{{Name: "Authorization", Value: "${secrets.auth}"}}
		task := newTask(t, device(t, namespace, "leaf1"), spec, secretOf("auth", "authorization"))
		now := testingclock.NewFakePassiveClock(time.Now())
		runner := newRunner(t, func(options *settings) { options.Clock = now })
		got := func() string {
			if _, err := do(t, runner, task); err != nil {
				t.Error(err)
			}
			return to.request.Header.Get("Authorization")
		}
		if value := got(); value != "old" {
			t.Errorf("header is %s at first", value)
		}
		secret.StringData = map[string]string{"authorization": "new"}
		if err := plane.Client.Update(t.Context(), secret); err != nil {
			t.Fatal(err)
		}
		now.SetTime(now.Now().Add(time.Second))
		if value := got(); value != "old" {
			t.Errorf("header is %s after a second, want the cached one", value)
		}
		now.SetTime(now.Now().Add(2 * time.Second))
		if value := got(); value != "new" {
			t.Errorf("header is %s after the cache expired", value)
		}
	})
	t.Run("a response that echoes it", func(t *testing.T) {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprintf(w, "%s is wrong", request.Header.Get("Authorization"))
		}))
		defer server.Close()
		namespace, spec := plane.Namespace(t), newRequest(server.URL)
		newSecret(t, namespace, "sink", map[string]string{"authorization": "Bearer t0ken"})
		spec.HTTP.Headers = []v1alpha1.HTTPHeader{{Name: "Authorization", Value: "${secrets.auth}"}}
		response, err := do(t, newRunner(t), newTask(t, device(t, namespace, "leaf1"), spec, secretOf("auth", "authorization")))
		expect(t, err, permanent)
		if want := "401 Unauthorized: [redacted] is wrong"; response != want {
			t.Errorf("response is %q, want %q", response, want)
		}
	})
	t.Run("of another namespace", func(t *testing.T) {
		to, runner := newSink(t), newRunner(t)
		spec := newRequest(to.URL)
		spec.HTTP.Headers = []v1alpha1.HTTPHeader{{Name: "Authorization", Value: "${secrets.auth}"}}
		theirs := plane.Namespace(t)
		newSecret(t, theirs, "sink", map[string]string{"authorization": "theirs"})
		_, err := do(t, runner, newTask(t, device(t, theirs, "leaf1"), spec, secretOf("auth", "authorization")))
		expect(t, err, done)
		_, err = do(t, runner, newTask(t, device(t, plane.Namespace(t), "leaf1"), spec, secretOf("auth", "authorization")))
		expect(t, err, retry, "does not exist")
	})
}

// TestForbiddenAddresses sends to a local server under all names of loopback.
func TestForbiddenAddresses(t *testing.T) {
	var connections atomic.Int32
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	server.Start()
	defer server.Close()
	_, port, err := net.SplitHostPort(server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	runner := newRunner(t, func(options *settings) { options.AllowCIDRs = nil })
	for _, host := range []string{
		"127.0.0.1", "localhost", "LOCALHOST", "0.0.0.0", "[::1]", "[::]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]",
		"[::127.0.0.1]", "169.254.169.254", "[64:ff9b::a9fe:a9fe]", "[fe80::1%25lo]", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1",
		"017700000001", "127.1", "127.0.0.1.", "１２７.0.0.1", "１２７。０。０。１",
	} {
		t.Run(host, func(t *testing.T) {
			_, err := do(t, runner, newTask(t, device(t, plane.Namespace(t), "leaf1"), newRequest("http://"+host+":"+port+"/")))
			expect(t, err, permanent)
		})
	}
	t.Run("a host name from the event", func(t *testing.T) {
		_, err := do(t, runner, newTask(t, device(t, plane.Namespace(t), "localhost"), newRequest("http://${data.name}:"+port+"/")))
		expect(t, err, permanent, "loopback", "--sink-allow-cidrs=")
	})
	if n := connections.Load(); n > 0 {
		t.Errorf("%d connections to forbidden addresses", n)
	}
	t.Run("allowed", func(t *testing.T) {
		_, err := do(t, newRunner(t), newTask(t, device(t, plane.Namespace(t), "leaf1"), newRequest("http://localhost:"+port+"/")))
		expect(t, err, permanent, "404")
	})
}

// TestConnectionsAreKept checks that connections are reused after all kinds of responses.
func TestConnectionsAreKept(t *testing.T) {
	var connections, requests atomic.Int32
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader([]int{200, 204, 400, 301, 503}[requests.Add(1)%5])
		_, _ = io.WriteString(w, strings.Repeat("x", 10_000))
	}))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	server.Start()
	defer server.Close()
	runner, task := newRunner(t), newTask(t, device(t, plane.Namespace(t), "leaf1"), newRequest(server.URL))
	for range 20 {
		_, _ = do(t, runner, task)
	}
	if requests.Load() != 20 || connections.Load() != 1 {
		t.Errorf("%d requests took %d connections", requests.Load(), connections.Load())
	}
}

// TestConcurrent executes many tasks with one Runner, for the race detector.
func TestConcurrent(t *testing.T) {
	var got sync.Map
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, request *http.Request) {
		body, _ := io.ReadAll(request.Body)
		got.Store(request.URL.Path, strings.Contains(string(body), `"name":"`+request.URL.Path[1:]+`"`))
	}))
	defer server.Close()
	namespace, runner := plane.Namespace(t), newRunner(t)
	task := newTask(t, device(t, namespace, "leaf1"), newRequest(server.URL+"/${data.name}"))
	var all sync.WaitGroup
	for i := range 64 {
		event := device(t, namespace, fmt.Sprint("leaf", i))
		all.Go(func() {
			if _, err := do(t, runner, withEvent(task, event)); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	for i := range 64 {
		if ok, _ := got.Load(fmt.Sprint("/leaf", i)); ok != true {
			t.Errorf("leaf%d: %v", i, ok)
		}
	}
}
