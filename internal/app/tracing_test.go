package app_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/types"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/netbox"
	"github.com/netbox-events/netbox-event-operator/test/controlplane"
)

// collector is an OpenTelemetry collector that keeps all spans.
type collector struct {
	coltracepb.UnimplementedTraceServiceServer

	mu    sync.Mutex
	spans []*tracepb.Span
	raw   strings.Builder
}

// Export receives spans by gRPC.
func (c *collector) Export(_ context.Context, request *coltracepb.ExportTraceServiceRequest) (*coltracepb.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, resource := range request.ResourceSpans {
		for _, scope := range resource.ScopeSpans {
			c.spans = append(c.spans, scope.Spans...)
		}
	}
	c.raw.WriteString(request.String())
	return &coltracepb.ExportTraceServiceResponse{}, nil
}

// ServeHTTP receives spans by HTTP.
func (c *collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var request coltracepb.ExportTraceServiceRequest
	body, err := io.ReadAll(r.Body)
	if err != nil || r.URL.Path != "/v1/traces" || proto.Unmarshal(body, &request) != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	_, _ = c.Export(r.Context(), &request)
}

// named returns the spans of a trace with the given name.
func (c *collector) named(trace, name string) (found []*tracepb.Span) {
	for _, span := range c.spans {
		if fmt.Sprintf("%x", span.TraceId) == trace && span.Name == name {
			found = append(found, span)
		}
	}
	return found
}

// attributes returns the attributes of a span with prefix netbox_events, and its status.
func attributes(span *tracepb.Span) string {
	var all []string
	for _, attribute := range span.Attributes {
		value := attribute.Value.GetStringValue()
		if list := attribute.Value.GetArrayValue(); list != nil {
			value = fmt.Sprint(list.Values)
		} else if number := attribute.Value.GetIntValue(); number != 0 {
			value = fmt.Sprint(number)
		}
		all = append(all, strings.TrimPrefix(attribute.Key, "netbox_events.")+"="+value)
	}
	slices.Sort(all)
	return strings.Join(append(all, span.Status.GetCode().String()), " ")
}

// TestTraces follows a delivery from a tracing Ingress to a sink that fails once.
func TestTraces(t *testing.T) {
	for _, protocol := range []string{"http/protobuf", "grpc"} {
		t.Run(protocol, func(t *testing.T) {
			to := &collector{}
			t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
			t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", to.start(t, protocol))
			testTraces(t, to)
		})
	}
}

func (c *collector) start(t *testing.T, protocol string) (url string) {
	t.Helper()
	if protocol != "grpc" {
		server := httptest.NewServer(c)
		t.Cleanup(server.Close)
		return server.URL
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	coltracepb.RegisterTraceServiceServer(server, c)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return "http://" + listener.Addr().String()
}

func testTraces(t *testing.T, to *collector) { //nolint:thelper // a test, whose own lines are to be reported
	const trace, other = "0af7651916cd43dd8448eb211c80319c", "1af7651916cd43dd8448eb211c80319c"
	target := newSource(t)
	var mu sync.Mutex
	var got []string // traceparents at the sink
	sink := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if got = append(got, r.Header.Get("traceparent")); len(got) == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer sink.Close()
	plane.Create(t, newRule(target.Namespace, "r", httpAction(sink.URL),
		v1alpha1.Action{Name: "line", Log: &v1alpha1.LogAction{Message: "in ${event.delivery.traceparent}"}}))
	m := start(t, plane.Config, "--watch-namespaces="+target.Namespace, allowLoopback)
	served(t, m.url(target))

	const payload = "not for the collector"
	body := strings.Replace(body(1), `"id":1`, `"id":1,"name":"`+payload+`"`, 1)
	send := func(traceparent, body, signature string) (status int, event string) {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, m.url(target), strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		request.Header = http.Header{
			"Content-Type": {"application/json"}, "Traceparent": {traceparent}, netbox.SignatureHeader: {signature},
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		var answer struct{ Event string }
		if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
			t.Fatal(err)
		}
		return response.StatusCode, answer.Event
	}
	signature := netbox.Sign([]byte(key), []byte(body))
	_, name := send("00-"+trace+"-b7ad6b7169203331-01", body, signature)
	allDone(t, target)
	if status, again := send("00-"+other+"-b7ad6b7169203331-01", body, signature); status != http.StatusOK || again != name || name == "" {
		t.Errorf("in another trace it is %d %q, want %q", status, again, name)
	}
	send("00-"+trace+"-b7ad6b7169203331-01", body, "wrong")
	const unsampled = "2af7651916cd43dd8448eb211c80319c"
	quiet := strings.Replace(body, "updated", "deleted", 1)
	_, unrecorded := send("00-"+unsampled+"-b7ad6b7169203331-00", quiet, netbox.Sign([]byte(key), []byte(quiet)))
	allDone(t, target)
	m.signal(t, syscall.SIGTERM)
	if err := m.waitEnd(t); err != nil {
		t.Error(err)
	}

	traceparent := func(name string) string {
		var event v1alpha1.NetBoxEvent
		if err := plane.Client.Get(t.Context(), types.NamespacedName{Namespace: target.Namespace, Name: strings.SplitN(name, "/", 2)[1]}, &event); err != nil {
			t.Fatal(err)
		}
		return event.Spec.Delivery.Traceparent
	}
	to.mu.Lock()
	defer to.mu.Unlock()
	one := func(name string) *tracepb.Span {
		spans := to.named(trace, name)
		if len(spans) == 0 {
			t.Fatalf("no span %s of %d", name, len(to.spans))
		}
		return spans[0]
	}
	receive, work := one("receive"), one("work")
	if got, want := traceparent(name), fmt.Sprintf("00-%s-%x-01", trace, receive.SpanId); got != want {
		t.Errorf("the event has traceparent %q, want %q", got, want)
	}
	if got := traceparent(unrecorded); got != "" {
		t.Errorf("an event that is not traced has traceparent %q", got)
	}
	actions := to.named(trace, "action")
	if len(actions) != 3 {
		t.Fatalf("%d spans of actions", len(actions))
	}
	source, rule := target.Namespace+"/netbox", target.Namespace+"/r"
	for _, test := range []struct {
		span, parent *tracepb.Span
		want         string
	}{
		{receive, nil, "event=" + name + " http.response.status_code=200 result=stored source=" + source + " STATUS_CODE_UNSET"},
		{one("create"), receive, "STATUS_CODE_UNSET"},
		{work, receive, "event=" + name + " phase=Succeeded source=" + source + " STATUS_CODE_UNSET"},
		{one("match"), work, `rules=[string_value:"r"] STATUS_CODE_UNSET`},
		{actions[0], work, "action=send attempt=1 result=retried rule=" + rule + " STATUS_CODE_ERROR"},
		{actions[1], work, "action=line attempt=1 result=succeeded rule=" + rule + " STATUS_CODE_UNSET"},
		{actions[2], work, "action=send attempt=2 result=succeeded rule=" + rule + " STATUS_CODE_UNSET"},
		{to.named(trace, "receive")[1], nil, "event= http.response.status_code=401 result=unauthorized source=" + source + " STATUS_CODE_UNSET"},
		{to.named(other, "receive")[0], nil, "event=" + name + " http.response.status_code=200 result=duplicate source=" + source + " STATUS_CODE_UNSET"},
		{to.named(other, "create")[0], to.named(other, "receive")[0], "STATUS_CODE_UNSET"},
	} {
		parent := "b7ad6b7169203331"
		if test.parent != nil {
			parent = fmt.Sprintf("%x", test.parent.SpanId)
		}
		if got := attributes(test.span); got != test.want || fmt.Sprintf("%x", test.span.ParentSpanId) != parent {
			t.Errorf("%s in %x: %s\nwant in %s: %s", test.span.Name, test.span.ParentSpanId, got, parent, test.want)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	want := []string{fmt.Sprintf("00-%s-%x-01", trace, actions[0].SpanId), fmt.Sprintf("00-%s-%x-01", trace, actions[2].SpanId), ""}
	if !slices.Equal(got, want) {
		t.Errorf("the sink got traceparents %q, want %q", got, want)
	}
	for _, secret := range []string{payload, key, unsampled} {
		if strings.Contains(to.raw.String(), `"`+secret) {
			t.Errorf("the collector got %q", secret)
		}
	}
	for _, message := range []string{"NetBox event", "NetBox event rule", "request refused", "action failed; retrying"} {
		if !slices.ContainsFunc(strings.Split(m.log.String(), "\n"), func(line string) bool {
			return strings.Contains(line, `"msg":"`+message+`"`) && strings.Contains(line, `"traceID":"`+trace+`"`)
		}) {
			t.Errorf("no line %q with the trace", message)
		}
	}
	if !strings.Contains(m.log.String(), `"message":"in `+traceparent(name)+`"`) {
		t.Error("a template does not see the trace")
	}
}

// TestExportErrors uses a collector that is unavailable, and one that never answers.
func TestExportErrors(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0") // takes connections, and nothing else
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	for reason, url := range map[string]string{"down": "http://127.0.0.1:1", "silent": "http://" + listener.Addr().String()} {
		t.Run(reason, func(t *testing.T) {
			t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
			t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
			t.Setenv("OTEL_BSP_MAX_QUEUE_SIZE", "16")
			target := newSource(t)
			to := newSink(t, target.Namespace)
			plane.Create(t, newRule(target.Namespace, "r", httpAction(to.URL)))
			m := start(t, plane.Config, "--watch-namespaces="+target.Namespace, allowLoopback)
			served(t, m.url(target))
			stored := map[string]bool{}
			for n := range 100 {
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
				status, event := post(ctx, m.url(target), body(n))
				cancel()
				if status != http.StatusOK {
					t.Fatalf("answered with %d", status)
				}
				stored[event] = true
			}
			allDone(t, target)
			if came, again := to.counts(stored); came != len(stored) || again > 0 {
				t.Errorf("%d events arrived, %d twice, of %d", came, again, len(stored))
			}
			asked := time.Now()
			m.signal(t, syscall.SIGTERM)
			if err := m.waitEnd(t); err != nil {
				t.Error(err)
			}
			if took := time.Since(asked); took > 8*time.Second { // 3 of them for late requests, 2 for the last traces
				t.Errorf("shutdown took %s", took)
			}
			if lines := strings.Count(m.log.String(), `"cannot export traces`); lines > 1 {
				t.Errorf("%d log lines about the collector", lines)
			}
			if !strings.Contains(m.log.String(), `"logger":"tracing"`) {
				t.Error("no log line about failed exports")
			}
		})
	}
}

// TestTracingOptions checks the errors of invalid environment variables.
func TestTracingOptions(t *testing.T) {
	binary, err := plane.Manager()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
	for name, test := range map[string]struct{ value, message string }{
		"OTEL_EXPORTER_OTLP_PROTOCOL": {"http/json", "set it to http/protobuf or grpc"},
		"OTEL_TRACES_EXPORTER":        {"zipkin", "set it to otlp or none"},
		"OTEL_RESOURCE_ATTRIBUTES":    {"team", "set OTEL_RESOURCE_ATTRIBUTES"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(name, test.value)
			output, err := exec.CommandContext(t.Context(), binary, "--kubeconfig="+controlplane.WriteKubeconfig(t, plane.Config)).CombinedOutput()
			if err == nil || !strings.Contains(string(output), test.message) {
				t.Errorf("%v: %s", err, output)
			}
		})
	}
}
