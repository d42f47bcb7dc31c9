package action_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/action"
)

// newRawSink listens, reads the head of each request, and passes the connection to serve, until that returns or the test ends. The channel
// is closed after the client closed a served connection.
func newRawSink(t *testing.T, serve func(conn net.Conn, head string)) (address string, closed <-chan struct{}) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var connections sync.WaitGroup
	t.Cleanup(connections.Wait)
	t.Cleanup(func() { _ = listener.Close() })
	left := make(chan struct{})
	var once sync.Once
	connections.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			stop := context.AfterFunc(t.Context(), func() { _ = conn.Close() })
			connections.Go(func() {
				defer stop()
				defer conn.Close() //nolint:errcheck // the test is over
				head := make([]byte, 0, 64<<10)
				for !strings.Contains(string(head), "\r\n\r\n") && len(head) < cap(head) {
					n, err := conn.Read(head[len(head):cap(head)])
					if err != nil {
						return
					}
					head = head[:len(head)+n]
				}
				serve(conn, string(head))
				_, _ = io.Copy(io.Discard, conn) // until the client closes it
				once.Do(func() { close(left) })
			})
		}
	})
	return listener.Addr().String(), left
}

// TestHostileSinks sends to broken HTTP servers: each delivery ends within its timeout, and its connection is closed.
func TestHostileSinks(t *testing.T) {
	say := func(text string) func(net.Conn, string) {
		return func(conn net.Conn, _ string) { _, _ = io.WriteString(conn, text) }
	}
	repeat := func(head, text string, pause time.Duration) func(net.Conn, string) {
		return func(conn net.Conn, _ string) {
			_, err := io.WriteString(conn, head)
			for err == nil {
				_, err = io.WriteString(conn, text)
				time.Sleep(pause)
			}
		}
	}
	for _, test := range []struct {
		reason   string
		serve    func(net.Conn, string)
		want     outcome
		response string // prefix
		wantErr  string
	}{
		{"101 without a body", say("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"), permanent, "101 Switching Protocols", "which the request did not ask for"},
		{"101 without an upgrade", say("HTTP/1.1 101 Switching Protocols\r\n\r\n"), permanent, "101 Switching Protocols", "which the request did not ask for"},
		{"101 with an endless body", repeat("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n", "x", time.Millisecond), permanent, "101 Switching Protocols", "which the request did not ask for"},
		{"an echo", func(conn net.Conn, head string) { _, _ = io.WriteString(conn, head) }, retry, "", "malformed"},
		{"a valid response with an echo", func(conn net.Conn, head string) {
			fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(head), head)
		}, done, "200 OK: POST / HTTP/1.1", ""},
		{"a body that trickles", repeat("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", "x", 20*time.Millisecond), done, "200 OK", ""},
		{"a body that never comes", say("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"), done, "200 OK", ""},
		{"a body that breaks off", func(conn net.Conn, _ string) {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nhalf")
			_ = conn.Close()
		}, done, "200 OK: half", ""},
		{"400 with a body that never comes", say("HTTP/1.1 400 Bad Request\r\nContent-Length: 100000\r\n\r\n"), permanent, "400 Bad Request", "answered with 400"},
		{"503 with a body that never comes", say("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 9\r\n\r\n"), retry, "503 Service Unavailable", "answered with 503"},
		{"endless headers", repeat("HTTP/1.1 200 OK\r\n", "X-A: "+strings.Repeat("a", 60_000)+"\r\n", 0), retry, "", "exceeded"},
		{"headers that trickle", repeat("HTTP/1.1 200 OK\r\n", "X-A: a\r\n", 20*time.Millisecond), retry, "", "timed out after 300ms"},
		{"an endless body", repeat("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "10000\r\n"+strings.Repeat("a", 65_536)+"\r\n", 0), done, "200 OK: aaa", ""},
		{"endless early hints", repeat("", "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", time.Millisecond), retry, "", "timed out after 300ms"},
		{"endless early hints, fast", repeat("", strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", 100), 0), retry, "", "exceeded"},
		{"no response", func(net.Conn, string) {}, retry, "", "timed out after 300ms"},
	} {
		t.Run(test.reason, func(t *testing.T) {
			address, closed := newRawSink(t, test.serve)
			task := newTask(t, device(t, plane.Namespace(t), "leaf1"), newRequest("http://"+address))
			task.Rule.Spec.Retry.Timeout = metav1.Duration{Duration: 300 * time.Millisecond}
			expectInTime(t, task, test.want, test.response, test.wantErr)
			if test.reason == "a valid response with an echo" {
				return // its connection is reused
			}
			select {
			case <-closed:
			case <-time.After(5 * time.Second):
				t.Error("the connection is still open")
			}
		})
	}
	t.Run("no handshake", func(t *testing.T) {
		listener, err := net.Listen("tcp", "127.0.0.1:0") // without accept
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close() //nolint:errcheck // the test is over
		task := newTask(t, device(t, plane.Namespace(t), "leaf1"), newRequest("https://"+listener.Addr().String()))
		task.Rule.Spec.Retry.Timeout = metav1.Duration{Duration: 300 * time.Millisecond}
		expectInTime(t, task, retry, "", "timed out after 300ms")
	})
	t.Run("an invalid handshake", func(t *testing.T) {
		server := httptest.NewServer(http.NotFoundHandler())
		defer server.Close()
		task := newTask(t, device(t, plane.Namespace(t), "leaf1"), newRequest(strings.Replace(server.URL, "http:", "https:", 1)))
		expectInTime(t, task, retry, "", "TLS handshake")
	})
	t.Run("a name that does not exist", func(t *testing.T) {
		task := newTask(t, device(t, plane.Namespace(t), "leaf1"), newRequest("http://does-not-exist.invalid/"))
		task.Rule.Spec.Retry.Timeout = metav1.Duration{Duration: time.Second}
		expectInTime(t, task, retry, "", "does-not-exist.invalid")
	})
}

// expectInTime executes a task, and checks that it ends within its timeout, with a margin for slow machines.
func expectInTime(t *testing.T, task action.Task, want outcome, response, fault string) {
	t.Helper()
	runner := newRunner(t)
	type result struct {
		response string
		err      error
	}
	results := make(chan result, 1)
	go func() {
		response, err := do(t, runner, task)
		results <- result{response, err}
	}()
	select {
	case got := <-results:
		expect(t, got.err, want, fault)
		if !strings.HasPrefix(got.response, response) {
			t.Errorf("response is %q, want it to begin with %q", got.response, response)
		}
		expectUnavailable(t, got.err, want == retry)
	case <-time.After(5 * time.Second):
		t.Fatal("the task did not end")
	}
}

func expectUnavailable(t *testing.T, err error, want bool) {
	t.Helper()
	failure, ok := err.(*action.Failure) //nolint:errorlint // each error is one itself
	if err != nil && !ok {
		t.Errorf("error is a %T: %v", err, err)
	} else if err != nil && failure.Unavailable != want {
		t.Errorf("unavailable is %v, want %v: %v", failure.Unavailable, want, err)
	}
}

// TestUnreadableSecret checks that an unreadable Secret makes the sink unavailable: it affects all events of the action.
func TestUnreadableSecret(t *testing.T) {
	to, namespace := newSink(t), plane.Namespace(t)
	ref := v1alpha1.SecretKeyReference{Name: "sink", Key: "key"}
	for reason, change := range map[string]func(*v1alpha1.HTTPAction){
		"a header": func(spec *v1alpha1.HTTPAction) {
			spec.Headers = []v1alpha1.HTTPHeader{{Name: "X-A", Value: "${secrets.key}"}}
		},
		"signing":   func(spec *v1alpha1.HTTPAction) { spec.SigningSecretRef = &ref },
		"authority": func(spec *v1alpha1.HTTPAction) { spec.TLS = &v1alpha1.HTTPTLS{CASecretRef: &ref} },
	} {
		t.Run(reason, func(t *testing.T) {
			spec := newRequest(to.URL)
			change(spec.HTTP)
			_, err := do(t, newRunner(t), newTask(t, device(t, namespace, "leaf1"), spec, secretOf("key", "key")))
			expect(t, err, retry, "does not exist")
			expectUnavailable(t, err, true)
		})
	}
	t.Run("a failed template", func(t *testing.T) {
		_, err := do(t, newRunner(t), newTask(t, device(t, namespace, "leaf1"), newRequest(to.URL+"/${data.site.slug}")))
		expect(t, err, permanent)
		expectUnavailable(t, err, false)
	})
}

// respondingWith connects to an API server with one response to all requests except discovery.
func respondingWith(t *testing.T, status int, body string) func(*settings) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}))
	t.Cleanup(server.Close)
	return connectingTo(t, server.URL)
}

func connectingTo(t *testing.T, url string) func(*settings) {
	t.Helper()
	return func(options *settings) {
		config := &rest.Config{Host: url}
		direct, err := client.New(config, client.Options{Scheme: plane.Client.Scheme(), Mapper: options.Mapper})
		if err != nil {
			t.Fatal(err)
		}
		options.Config, options.API, options.Events = config, direct, direct
	}
}

// TestUnavailableAPI checks the classification of errors of the API server.
func TestUnavailableAPI(t *testing.T) {
	status := func(code int, reason metav1.StatusReason, more string) string {
		return fmt.Sprintf(`{"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": %d, "reason": %q, "message": "no"%s}`, code, reason, more)
	}
	silent, _ := newRawSink(t, func(net.Conn, string) {})
	for _, test := range []struct {
		reason string
		api    func(*settings)
		want   bool // is it unavailable
		result outcome
	}{
		{"overloaded", respondingWith(t, 429, status(429, metav1.StatusReasonTooManyRequests, "")), true, retry},
		{"an internal error", respondingWith(t, 500, status(500, metav1.StatusReasonInternalError, "")), true, retry},
		{"an internal error about a field", respondingWith(t, 500, status(500, metav1.StatusReasonInternalError, `, "details": {"causes": [{"field": "spec.x", "message": "no"}]}`)), false, retry},
		{"a gateway", respondingWith(t, 502, "<html>"), true, retry},
		{"unavailable", respondingWith(t, 503, status(503, metav1.StatusReasonServiceUnavailable, "")), true, retry},
		{"a timeout in the API server", respondingWith(t, 504, status(504, metav1.StatusReasonTimeout, "")), true, retry},
		{"no namespace", respondingWith(t, 404, status(404, metav1.StatusReasonNotFound, "")), false, retry},
		{"a conflict", respondingWith(t, 409, status(409, metav1.StatusReasonConflict, "")), false, retry},
		{"a quota", respondingWith(t, 403, strings.Replace(status(403, metav1.StatusReasonForbidden, ""), `"no"`, `"exceeded quota: x"`, 1)), false, retry},
		{"invalid", respondingWith(t, 422, status(422, metav1.StatusReasonInvalid, "")), false, permanent},
		{"connection refused", connectingTo(t, "http://127.0.0.1:1"), true, retry},
		{"no response", connectingTo(t, "http://"+silent), true, retry},
	} {
		t.Run(test.reason, func(t *testing.T) {
			runner, event := newRunner(t, test.api), device(t, plane.Namespace(t), "leaf1")
			for _, spec := range []v1alpha1.Action{
				newApply(t, configMap(`"data": {"a": "${data.name}"}`)),
				{Event: &v1alpha1.EventAction{Type: "Normal", Reason: "Active", Message: "x"}},
			} {
				task := newTask(t, event, spec)
				task.Rule.Spec.Retry.Timeout = metav1.Duration{Duration: time.Second}
				_, err := do(t, runner, task)
				expect(t, err, test.result)
				expectUnavailable(t, err, test.want)
				if test.reason == "no response" {
					expect(t, err, retry, "timed out after 1s")
				}
			}
		})
	}
	t.Run("no such kind", func(t *testing.T) {
		_, err := do(t, newRunner(t), newTask(t, device(t, plane.Namespace(t), "leaf1"), newApply(t, `{"apiVersion": "example.com/v1", "kind": "Missing"}`)))
		expect(t, err, retry, "Missing")
		expectUnavailable(t, err, false)
	})
	t.Run("a Secret that cannot be read", func(t *testing.T) {
		spec := newRequest("http://127.0.0.1:1")
		spec.HTTP.SigningSecretRef = &v1alpha1.SecretKeyReference{Name: "sink", Key: "key"}
		task := newTask(t, device(t, plane.Namespace(t), "leaf1"), spec)
		task.Rule.Spec.Retry.Timeout = metav1.Duration{Duration: 300 * time.Millisecond}
		_, err := do(t, newRunner(t, connectingTo(t, "http://"+silent)), task)
		expect(t, err, retry, "timed out after 300ms", "Secret sink")
		expectUnavailable(t, err, true)
	})
}

// hangingMapper is a RESTMapper whose discovery hangs.
type hangingMapper struct {
	meta.RESTMapper
	calls atomic.Int32
	until chan struct{}
}

func (m *hangingMapper) RESTMapping(kind schema.GroupKind, versions ...string) (*meta.RESTMapping, error) {
	m.calls.Add(1)
	<-m.until
	return m.RESTMapper.RESTMapping(kind, versions...)
}

func TestDiscoveryHangs(t *testing.T) {
	namespace := newNamespace(t)
	mapper := &hangingMapper{until: make(chan struct{})}
	runner := newRunner(t, func(options *settings) { mapper.RESTMapper, options.Mapper = options.Mapper, mapper })
	task := newTask(t, device(t, namespace, "leaf1"), newApply(t, configMap(`"data": {"a": "${data.name}"}`)))
	task.Rule.Spec.Retry.Timeout = metav1.Duration{Duration: 20 * time.Millisecond}
	before := runtime.NumGoroutine()
	for range 20 {
		_, err := do(t, runner, task)
		expect(t, err, retry, "timed out after 20ms", "discovery of its kind")
		expectUnavailable(t, err, true)
	}
	if calls, more := mapper.calls.Load(), runtime.NumGoroutine()-before; calls != 1 || more > 5 {
		t.Errorf("%d calls of discovery hang, with %d additional goroutines", calls, more)
	}
	close(mapper.until)
	task.Rule.Spec.Retry.Timeout = metav1.Duration{Duration: 10 * time.Second}
	_, err := do(t, runner, task)
	expect(t, err, done)
}

// TestCanceled checks that a shutdown of the operator does not count as a failure of a sink.
func TestCanceled(t *testing.T) {
	silent, _ := newRawSink(t, func(net.Conn, string) {})
	signed := newRequest("http://" + silent)
	signed.HTTP.SigningSecretRef = &v1alpha1.SecretKeyReference{Name: "sink", Key: "key"}
	api := connectingTo(t, "http://"+silent)
	for reason, spec := range map[string]v1alpha1.Action{
		"a sink": newRequest("http://" + silent), "a handshake": newRequest("https://" + silent), "a Secret": signed,
		"an object": newApply(t, configMap(`"data": {"a": "${data.name}"}`)), "an event": {Event: &v1alpha1.EventAction{Type: "Normal", Reason: "Active", Message: "x"}},
	} {
		t.Run(reason, func(t *testing.T) {
			task := newTask(t, device(t, plane.Namespace(t), "leaf1"), spec)
			runner := newRunner(t, api)
			for _, wait := range []time.Duration{0, 100 * time.Millisecond} {
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(wait, cancel)
				if wait == 0 {
					cancel()
				}
				_, err := runner.Do(ctx, task)
				if !errors.Is(err, context.Canceled) {
					t.Errorf("error is %v", err)
				}
				expect(t, err, retry)
				expectUnavailable(t, err, false)
			}
		})
	}
}

// TestRendered checks that the hook is called once, after rendering and before I/O.
func TestRendered(t *testing.T) {
	namespace := newNamespace(t)
	var steps []string
	step := func(name string) { steps = append(steps, name) }
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, _ *http.Request) { step("request") }))
	defer server.Close()
	newSecret(t, namespace, "sink", map[string]string{"key": "k"})
	signed := newRequest(server.URL + "/${data.name}")
	signed.HTTP.SigningSecretRef = &v1alpha1.SecretKeyReference{Name: "sink", Key: "key"}
	unreadable := newRequest(server.URL)
	unreadable.HTTP.SigningSecretRef = &v1alpha1.SecretKeyReference{Name: "missing", Key: "key"}
	several := func(second string) v1alpha1.Action {
		return newApply(t, `{"apiVersion": "v1", "kind": "List", "items": [`+configMap(`"metadata": {"name": "first"}`)+`, `+configMap(`"metadata": {"name": "second"}, "data": {"a": "`+second+`"}`)+`]}`)
	}
	for _, test := range []struct {
		reason string
		spec   v1alpha1.Action
		want   outcome
		steps  []string
	}{
		{"http", signed, done, []string{"rendered", "request"}},
		{"http without its Secret", unreadable, retry, []string{"rendered"}},
		{"http of a template that fails", newRequest(server.URL + "/${data.site.slug}"), permanent, nil},
		{"the second of two objects fails", several("${data.site.slug}"), permanent, nil},
		{"two objects", several("${data.name}"), done, []string{"rendered"}},
		{"an event", v1alpha1.Action{Event: &v1alpha1.EventAction{Type: "Normal", Reason: "Active", Message: "${data.name}"}}, done, []string{"rendered"}},
		{"an event that fails", v1alpha1.Action{Event: &v1alpha1.EventAction{Type: "Normal", Reason: "Active", Message: "${data.site.slug}"}}, permanent, nil},
		{"a log line", v1alpha1.Action{Log: &v1alpha1.LogAction{Message: "${data.name}"}}, done, []string{"rendered"}},
	} {
		t.Run(test.reason, func(t *testing.T) {
			steps = nil
			task := newTask(t, device(t, namespace, "leaf1"), test.spec)
			task.Rendered = func() {
				step("rendered")
				if found := list[corev1.ConfigMapList](t, namespace).Items; slices.ContainsFunc(found, func(found corev1.ConfigMap) bool { return found.Name == "first" }) {
					t.Error("an object was written before all were rendered")
				}
			}
			_, err := do(t, newRunner(t), task)
			expect(t, err, test.want)
			if !slices.Equal(steps, test.steps) {
				t.Errorf("steps are %v, want %v", steps, test.steps)
			}
			_ = plane.Client.Delete(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "first"}})
			if test.want == permanent {
				if err := plane.Client.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: "first"}, &corev1.ConfigMap{}); !apierrors.IsNotFound(err) {
					t.Errorf("the first object was written: %v", err)
				}
			}
		})
	}
}
