package event_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/action"
	"github.com/netbox-events/netbox-event-operator/internal/controller/event"
	"github.com/netbox-events/netbox-event-operator/internal/journal"
)

// costly is an expression that takes tenths of a second.
func costly() string {
	var numbers []string
	for n := range 60 {
		numbers = append(numbers, fmt.Sprint(n))
	}
	list := "[" + strings.Join(numbers, ",") + "]"
	return fmt.Sprintf("%s.exists(a, %s.exists(b, %s.exists(c, a + b + c > 1000)))", list, list, list)
}

// TestOrderBesideCostlyMatching has earlier events of an object come, each of which takes long to match, while a later one is delivered.
func TestOrderBesideCostlyMatching(t *testing.T) {
	namespace := plane.Namespace(t)
	patient := func(spec *v1alpha1.NetBoxEventRuleSpec) { spec.Retry.Timeout.Duration = 5 * time.Minute }
	plane.Create(t, newRule(namespace, "rule", patient), newRule(namespace, "costly", func(spec *v1alpha1.NetBoxEventRuleSpec) {
		spec.Match.CEL = costly()
	}))
	running := newEvent(namespace, 1, 50).Name
	goOn := make(chan struct{})
	var busy, most atomic.Int32
	sink := newSink(func(task action.Task, _ int) error {
		most.Store(max(most.Load(), busy.Add(1)))
		defer busy.Add(-1)
		if task.Event.Name == running {
			<-goOn
		}
		return nil
	})
	startWith(t, plane.Config, namespace, 0, sink.do)
	plane.Create(t, newEvent(namespace, 1, 50))
	eventually(t, "not begun", 10*time.Second, func() bool { return sink.attempts("rule/act "+running) == 1 })
	var earlier []string
	for second := 9; second > 0; second-- {
		plane.Create(t, newEvent(namespace, 1, second))
		earlier = append(earlier, newEvent(namespace, 1, second).Name)
	}
	other := newEvent(namespace, 2, 0)
	plane.Create(t, other)
	eventually(t, "another object waits", 60*time.Second, hasPhase(t, namespace, other.Name, v1alpha1.PhaseSucceeded)) // it is matched last
	close(goOn)
	waitDone(t, namespace, len(earlier)+2)
	slices.Reverse(earlier)
	if diff := cmp.Diff(slices.Concat([]string{other.Name, running}, earlier), sink.taken("rule")); diff != "" || most.Load() > 2 {
		t.Errorf("deliveries, of which %d at one time (-want +got):\n%s", most.Load(), diff)
	}
}

// TestDeletedInFlight deletes an event while it is delivered: the next event of its object waits for the end of that.
func TestDeletedInFlight(t *testing.T) {
	namespace := plane.Namespace(t)
	plane.Create(t, newRule(namespace, "rule"))
	first, second := newEvent(namespace, 1, 0), newEvent(namespace, 1, 1)
	goOn := make(chan struct{})
	sink := newSink(func(task action.Task, _ int) error {
		if task.Event.Name == first.Name {
			<-goOn
		}
		return nil
	})
	startWith(t, plane.Config, namespace, 0, sink.do)
	plane.Create(t, first)
	eventually(t, "not begun", 10*time.Second, func() bool { return sink.attempts("rule/act "+first.Name) == 1 })
	if err := plane.Client.Delete(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	plane.Create(t, second, newEvent(namespace, 2, 0))
	eventually(t, "another object waits", 10*time.Second, hasPhase(t, namespace, newEvent(namespace, 2, 0).Name, v1alpha1.PhaseSucceeded))
	if sink.attempts("rule/act "+second.Name) != 0 {
		t.Error("two events of one object are delivered at one time")
	}
	close(goOn)
	eventually(t, "the second waits", 10*time.Second, hasPhase(t, namespace, second.Name, v1alpha1.PhaseSucceeded))
}

// between returns a configuration that leads to the API server by way of a handler.
func between(t *testing.T, handle func(w http.ResponseWriter, request *http.Request, pass http.Handler)) *rest.Config {
	t.Helper()
	transport, err := rest.TransportFor(plane.Config)
	if err != nil {
		t.Fatal(err)
	}
	api, err := url.Parse("https://" + strings.TrimPrefix(plane.Config.Host, "https://"))
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{
		Rewrite:       func(request *httputil.ProxyRequest) { request.SetURL(api) },
		Transport:     transport,
		FlushInterval: -1,
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) { handle(w, request, proxy) }))
	t.Cleanup(server.CloseClientConnections)
	return &rest.Config{Host: server.URL, QPS: -1}
}

// TestSlowWrite has the API server take very long for the status of one event: others are delivered and finished meanwhile.
func TestSlowWrite(t *testing.T) {
	namespace := plane.Namespace(t)
	path := newEvent(namespace, 1, 0).Name + "/status"
	began, goOn := make(chan struct{}), make(chan struct{})
	config := between(t, func(w http.ResponseWriter, request *http.Request, pass http.Handler) {
		if request.Method == http.MethodPut && strings.HasSuffix(request.URL.Path, path) {
			close(began)
			<-goOn
		}
		pass.ServeHTTP(w, request)
	})
	plane.Create(t, newRule(namespace, "rule"))
	sink := newSink(func(action.Task, int) error { return nil })
	startWith(t, config, namespace, 0, sink.do)
	plane.Create(t, newEvent(namespace, 1, 0))
	<-began
	for object := range 5 {
		plane.Create(t, newEvent(namespace, 2+object, 0))
	}
	waitDone(t, namespace, 5)
	close(goOn)
	waitDone(t, namespace, 6)
}

// TestHangingSinks has the sinks of 40 rules hang, and then delivers events of a rule of another namespace, and of one of the same.
func TestHangingSinks(t *testing.T) {
	namespace := plane.Namespace(t)
	for n := range 40 {
		plane.Create(t, newRule(namespace, fmt.Sprintf("hangs-%d", n), func(spec *v1alpha1.NetBoxEventRuleSpec) {
			spec.Match.ObjectTypes = []string{"dcim.site"}
			spec.Retry.Timeout.Duration = time.Minute
		}))
	}
	plane.Create(t, newRule(namespace, "healthy", func(spec *v1alpha1.NetBoxEventRuleSpec) { spec.Match.ObjectTypes = []string{"dcim.device"} }))
	var hanging, busy, most atomic.Int32
	startWith(t, plane.Config, namespace, 0, func(ctx context.Context, task action.Task) (string, error) {
		if task.Rule.Name != "healthy" {
			hanging.Add(1)
			<-ctx.Done()
			return "", ctx.Err()
		}
		most.Store(max(most.Load(), busy.Add(1)))
		time.Sleep(300 * time.Millisecond)
		busy.Add(-1)
		return "", nil
	})
	for object := range 32 {
		plane.Create(t, newEvent(namespace, object, 0))
	}
	eventually(t, "the sinks do not hang", 30*time.Second, func() bool { return hanging.Load() > 512 })
	const events = 64
	var senders sync.WaitGroup
	for object := range events {
		senders.Go(func() {
			event := newEvent(namespace, 1000+object, 0)
			event.Spec.ObjectType = "dcim.device"
			plane.Create(t, event)
		})
	}
	senders.Wait()
	waitDone(t, namespace, events)
	if most.Load() < 5 {
		t.Errorf("the healthy rule made %d deliveries at one time, beside %d that hang", most.Load(), hanging.Load())
	}
}

// TestThrottled has a sink take one delivery in 50 ms and refuse the others, asking to wait for a second, as chat services do.
func TestThrottled(t *testing.T) {
	namespace := plane.Namespace(t)
	plane.Create(t, newRule(namespace, "rule", maxAttempts(1)))
	var mu sync.Mutex
	var last time.Time
	taken, requests := 0, 0
	startWith(t, plane.Config, namespace, 0, func(context.Context, action.Task) (string, error) {
		mu.Lock()
		defer mu.Unlock()
		requests++
		if now := time.Now(); now.Sub(last) >= 50*time.Millisecond {
			last = now
			taken++
			return "", nil
		}
		return "", &action.Failure{
			Err: errors.New("answered with 429 Too Many Requests"), Unavailable: true, Throttled: true, RetryAfter: time.Second,
		}
	})
	const events = 100
	for object := range events {
		plane.Create(t, newEvent(namespace, object, 0))
	}
	waitDone(t, namespace, events)
	mu.Lock()
	defer mu.Unlock()
	if taken != events || requests > 2*events {
		t.Errorf("%d requests for %d deliveries of %d events", requests, taken, events)
	}
}

// TestSinkDown has a sink fail for some time: what waits makes no attempts and writes no status, and is delivered in order after that.
func TestSinkDown(t *testing.T) {
	namespace := plane.Namespace(t)
	plane.Create(t, newRule(namespace, "rule", func(spec *v1alpha1.NetBoxEventRuleSpec) {
		spec.Retry.Backoff.Duration, spec.Retry.MaxBackoff.Duration = 100*time.Millisecond, 500*time.Millisecond
	}))
	var down atomic.Bool
	var attempts, writes atomic.Int32
	down.Store(true)
	sink := newSink(func(action.Task, int) error {
		attempts.Add(1)
		if down.Load() {
			return &action.Failure{Err: errors.New("connection refused"), Unavailable: true}
		}
		return nil
	})
	config := between(t, func(w http.ResponseWriter, request *http.Request, pass http.Handler) {
		if request.Method == http.MethodPut && strings.Contains(request.URL.Path, "/netboxevents/") {
			writes.Add(1)
		}
		pass.ServeHTTP(w, request)
	})
	startWith(t, config, namespace, 0, sink.do)
	const objects, seconds = 50, 4
	for second := range seconds {
		for object := range objects {
			plane.Create(t, newEvent(namespace, object, second))
		}
	}
	var rule v1alpha1.NetBoxEventRule
	eventually(t, "the rule does not say that its sink is unavailable", 20*time.Second, func() bool {
		if err := plane.Client.Get(t.Context(), types.NamespacedName{Namespace: namespace, Name: "rule"}, &rule); err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(rule.Status.Conditions, func(condition metav1.Condition) bool {
			return condition.Type == v1alpha1.ConditionSinkAvailable && condition.Reason == v1alpha1.ReasonUnavailable &&
				strings.Contains(condition.Message, "action act") && strings.Contains(condition.Message, "connection refused")
		})
	})
	before, began := attempts.Load(), time.Now()
	time.Sleep(3 * time.Second)
	// A probe is made after at most 0.5 s; some pauses are half as long, by chance.
	most := int32(time.Since(began)/(250*time.Millisecond)) + 2
	if made := attempts.Load() - before; made > most {
		t.Errorf("%d attempts in %s, want at most %d", made, time.Since(began), most)
	}
	if stored, made := writes.Load(), attempts.Load(); stored > made {
		t.Errorf("%d writes for %d attempts", stored, made)
	}
	down.Store(false)
	waitDone(t, namespace, objects*seconds)
	got, want := map[string][]string{}, map[string][]string{}
	for _, name := range sink.taken("rule") {
		object := strings.SplitAfterN(name, "-", 3)[1]
		got[object] = append(got[object], name)
	}
	for object := range objects {
		for second := range seconds {
			key := fmt.Sprintf("%d-", object)
			want[key] = append(want[key], newEvent(namespace, object, second).Name)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("deliveries of each object (-want +got):\n%s", diff)
	}
}

// TestGiveUp has a sink be down for longer than the rule's retries last: what waits for it fails, and says why.
func TestGiveUp(t *testing.T) {
	namespace := plane.Namespace(t)
	plane.Create(t, newRule(namespace, "rule", func(spec *v1alpha1.NetBoxEventRuleSpec) {
		spec.Retry.For.Duration, spec.Retry.MaxBackoff.Duration = 3*time.Second, time.Second
	}))
	startWith(t, plane.Config, namespace, 0, func(context.Context, action.Task) (string, error) {
		return "", &action.Failure{Err: errors.New("connection refused"), Unavailable: true}
	})
	const objects = 20
	for object := range objects {
		plane.Create(t, newEvent(namespace, object, 0), newEvent(namespace, object, 1))
	}
	for object := range objects {
		for second := range 2 {
			name := newEvent(namespace, object, second).Name
			eventually(t, name+" is not given up", 30*time.Second, hasPhase(t, namespace, name, v1alpha1.PhaseFailed))
			if state := get(t, namespace, name).Status.Rules[0].Actions[0]; !strings.Contains(state.LastError, "connection refused") {
				t.Errorf("%s: %+v", name, state)
			}
		}
	}
}

// TestFormerLeader lets a former leader go on with a delivery that another has made, and with those behind it, since: it unfinishes
// nothing.
func TestFormerLeader(t *testing.T) {
	namespace := plane.Namespace(t)
	plane.Create(t, newRule(namespace, "rule"))
	first := newEvent(namespace, 1, 0)
	began, goOn := make(chan struct{}), make(chan struct{})
	startWith(t, plane.Config, namespace, 0, func(context.Context, action.Task) (string, error) {
		close(began)
		<-goOn
		return "", errors.New("answered with 500")
	})
	plane.Create(t, first)
	<-began
	sink := newSink(func(action.Task, int) error { return nil })
	startWith(t, plane.Config, namespace, 0, sink.do)
	eventually(t, "the new leader does not finish it", 10*time.Second, hasPhase(t, namespace, first.Name, v1alpha1.PhaseSucceeded))
	version := get(t, namespace, first.Name).ResourceVersion
	close(goOn)
	time.Sleep(3 * time.Second) // the former leader writes after one
	if got := get(t, namespace, first.Name); got.ResourceVersion != version {
		t.Errorf("the former leader changed it to %+v", got.Status)
	}
}

// TestSetAside has processes die while an event is matched: it is set aside, and those beside it are not.
func TestSetAside(t *testing.T) {
	namespace := plane.Namespace(t)
	plane.Create(t, newRule(namespace, "rule"))
	poison, other := newEvent(namespace, 1, 0), newEvent(namespace, 1, 1)
	plane.Create(t, poison, other)
	dir := t.TempDir()
	for range journal.MaxCrashes {
		crashing, err := journal.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := crashing.Begin(t.Context(), event.MatchWork(get(t, namespace, poison.Name))); err != nil {
			t.Fatal(err)
		}
		if err := crashing.Close(); err != nil {
			t.Fatal(err)
		}
	}
	next, err := journal.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	sink := newSink(func(action.Task, int) error { return nil })
	startWith(t, plane.Config, namespace, 0, sink.do, func(options *event.Options) { options.Journal = next })
	eventually(t, "not set aside", 10*time.Second, hasPhase(t, namespace, poison.Name, v1alpha1.PhaseFailed))
	eventually(t, "the other waits", 10*time.Second, hasPhase(t, namespace, other.Name, v1alpha1.PhaseSucceeded))
	condition := get(t, namespace, poison.Name).Status.Conditions[0]
	if condition.Reason != v1alpha1.ReasonSetAside || !strings.Contains(condition.Message, "crashed 3 times") {
		t.Errorf("condition %+v", condition)
	}
	annotate(t, namespace, poison.Name, "1")
	eventually(t, "not replayed", 20*time.Second, hasPhase(t, namespace, poison.Name, v1alpha1.PhaseSucceeded))
}

// TestBodies has more waiting than there is room for bodies in memory: what is not held is read when it is delivered.
func TestBodies(t *testing.T) {
	namespace := plane.Namespace(t)
	plane.Create(t, newRule(namespace, "rule"))
	const objects = 40
	body := strings.Repeat("x", 1000_000)
	for object := range objects {
		made := newEvent(namespace, object, 0)
		made.Spec.Data["pad"] = v1alpha1.JSON{Raw: fmt.Appendf(nil, "%q", body)}
		made.Spec.Delivery.BodyBytes = int64(len(body))
		plane.Create(t, made)
	}
	goOn := make(chan struct{})
	var good atomic.Int32
	startWith(t, plane.Config, namespace, 0, func(_ context.Context, task action.Task) (string, error) {
		<-goOn
		if len(task.Event.Spec.Data["pad"].Raw) == len(body)+2 {
			good.Add(1)
		}
		return "", nil
	})
	time.Sleep(time.Second)
	close(goOn)
	waitDone(t, namespace, objects)
	if good.Load() != objects {
		t.Errorf("%d of %d deliveries had their body", good.Load(), objects)
	}
}
