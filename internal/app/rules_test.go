package app_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/test/deliveries"
)

const allowLoopback = "--sink-allow-cidrs=127.0.0.0/8"

// sink is a server that counts the deliveries of each event.
type sink struct {
	*httptest.Server

	mu   sync.Mutex
	got  map[string]int // by namespace/name
	fail func(n int) bool
	n    int
}

func newSink(t *testing.T, namespace string) *sink {
	t.Helper()
	s := &sink{got: map[string]int{}}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var event struct{ ID string }
		err := json.NewDecoder(r.Body).Decode(&event)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.n++
		if err != nil || s.fail != nil && s.fail(s.n) {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		s.got[namespace+"/"+event.ID]++
	}))
	t.Cleanup(s.Close)
	return s
}

// isAsked reports whether any request arrived, accepted or not.
func (s *sink) isAsked() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.n > 0
}

// counts returns how many of the events arrived, and how many arrived again.
func (s *sink) counts(events map[string]bool) (came, again int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range events {
		if n := s.got[name]; n > 0 {
			came++
			again += n - 1
		}
	}
	return came, again
}

func newRule(namespace, name string, actions ...v1alpha1.Action) *v1alpha1.NetBoxEventRule {
	rule := &v1alpha1.NetBoxEventRule{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	rule.Spec.Actions = actions
	return rule
}

func httpAction(url string) v1alpha1.Action {
	return v1alpha1.Action{Name: "send", HTTP: &v1alpha1.HTTPAction{URL: url}}
}

// TestDeliveryFailover kills the leader of two replicas while it delivers, next to a rule with a permanently unavailable sink.
func TestDeliveryFailover(t *testing.T) {
	target := newSource(t)
	to := newSink(t, target.Namespace)
	to.fail = func(n int) bool { return n%3 == 0 }
	good, down := newRule(target.Namespace, "good", httpAction(to.URL)), newRule(target.Namespace, "down", httpAction("http://127.0.0.1:1"))
	good.Spec.Retry.MaxBackoff.Duration = time.Second
	down.Spec.Retry.MaxAttempts = 1000
	plane.Create(t, good, down)
	leader := start(t, plane.Config, "--leader-elect", "--leader-election-namespace="+target.Namespace, allowLoopback)
	served(t, leader.url(target))
	if status, _ := post(t.Context(), leader.url(target), body(-1)); status != http.StatusOK {
		t.Fatalf("answered with %d", status)
	}
	eventually(t, "the first replica does not lead", 20*time.Second, to.isAsked)
	other := start(t, plane.Config, "--leader-elect", "--leader-election-namespace="+target.Namespace, allowLoopback)
	served(t, other.url(target))
	sending := stream(t, other.url(target))
	sending.wait(t, 200)
	leader.signal(t, syscall.SIGKILL)
	_ = leader.waitEnd(t)
	time.Sleep(time.Second)
	stored := sending.stop()
	eventually(t, "not every event was delivered", 120*time.Second, func() bool {
		came, _ := to.counts(stored)
		return came == len(stored)
	})
	_, again := to.counts(stored)
	t.Logf("%d events, of which the sink got %d twice", len(stored), again)
	if again > 100 {
		t.Errorf("%d events were delivered twice", again)
	}
	// The deliveries to the unavailable sink end when the rule is deleted.
	if err := plane.Client.Delete(t.Context(), down); err != nil {
		t.Fatal(err)
	}
	allDone(t, target)
}

// update is an update of a recorded device that came to a sink: its object, and the number that recordedDevice gave it.
type update struct {
	object string
	number int
}

// updateIn reads the CloudEvent of an update.
func updateIn(r *http.Request) (update, error) {
	var event struct {
		Subject string
		Data    struct{ RequestID string }
	}
	if err := json.NewDecoder(r.Body).Decode(&event); err != nil {
		return update{}, err
	}
	number, err := strconv.Atoi(event.Data.RequestID)
	return update{event.Subject, number}, err
}

// TestDeliveryOrder sends 200 updates of one device and 200 of others from 16 senders. The sinks of three rules fail a third of the calls,
// are permanently unavailable, and hang.
func TestDeliveryOrder(t *testing.T) {
	target := newSource(t)
	var hanging sync.WaitGroup
	hanging.Add(1)
	hangs := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { hanging.Wait() }))
	defer hangs.Close()
	defer hanging.Done()
	var mu sync.Mutex
	var calls int
	var arrivals []update
	flaky := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		arrival, err := updateIn(r)
		mu.Lock()
		defer mu.Unlock()
		if calls++; err != nil || calls%3 == 0 {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		arrivals = append(arrivals, arrival)
	}))
	defer flaky.Close()
	rule := newRule(target.Namespace, "flaky", httpAction(flaky.URL))
	rule.Spec.Retry.Backoff.Duration, rule.Spec.Retry.MaxBackoff.Duration = 100*time.Millisecond, 200*time.Millisecond
	plane.Create(t, rule, newRule(target.Namespace, "down", httpAction("http://127.0.0.1:1")), newRule(target.Namespace, "hangs", httpAction(hangs.URL)))
	m := start(t, plane.Config, "--watch-namespaces="+target.Namespace, allowLoopback)
	served(t, m.url(target))

	const updates, senders = 200, 16
	device := recordedDevice(t)
	began := time.Now()
	numbers := make(chan int)
	var all sync.WaitGroup
	for range senders {
		all.Go(func() {
			for n := range numbers {
				for _, object := range []int{1, 2 + n%20} {
					if status, _ := post(t.Context(), m.url(target), device(object, n)); status != http.StatusOK {
						t.Errorf("answered with %d", status)
					}
				}
			}
		})
	}
	for n := range updates {
		numbers <- n
	}
	close(numbers)
	all.Wait()
	sent := time.Since(began)
	arrived := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(arrivals)
	}
	eventually(t, "not every event was delivered", 60*time.Second, func() bool { return arrived() >= 2*updates })
	t.Logf("%d events sent in %s, delivered by %d calls after %s", 2*updates, sent, calls, time.Since(began))

	seen, last, late := map[update]bool{}, map[string]int{}, 0
	for _, one := range arrivals {
		if seen[one] {
			t.Errorf("update %d of %s was delivered twice", one.number, one.object)
		}
		seen[one] = true
		// The senders have up to 16 updates of a device in flight: the events may reach the operator out of order by as many.
		if behind := last[one.object] - one.number; behind > 0 {
			if late++; behind >= 2*senders {
				t.Errorf("update %d of %s was delivered after update %d", one.number, one.object, last[one.object])
			}
		}
		last[one.object] = max(last[one.object], one.number)
	}
	if len(seen) != 2*updates {
		t.Errorf("%d events were delivered, want %d", len(seen), 2*updates)
	}
	t.Logf("%d events were stored after a later one had been delivered", late)
}

// recordedDevice returns a function that makes the body of the nth update of any device from a recorded one.
func recordedDevice(t *testing.T) func(object, n int) string {
	t.Helper()
	all, err := deliveries.All()
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(all, func(d deliveries.Delivery) bool { return d.String() == "netbox-4.6.8/313" })
	var body map[string]any
	if err := json.Unmarshal([]byte(all[i].Body), &body); err != nil {
		t.Fatal(err)
	}
	return func(object, n int) string {
		changed, data := maps.Clone(body), maps.Clone(body["data"].(map[string]any))
		data["id"] = object
		changed["data"], changed["request_id"] = data, strconv.Itoa(n)
		changed["timestamp"] = time.Date(2026, 11, 23, 10, 0, 0, n*1000, time.UTC).Format("2006-01-02T15:04:05.000000+00:00")
		encoded, err := json.Marshal(changed)
		if err != nil {
			panic(err)
		}
		return string(encoded)
	}
}

// TestDrainDeliveries stops the manager while deliveries are in flight: they complete, and no event is delivered twice.
func TestDrainDeliveries(t *testing.T) {
	target := newSource(t)
	to := newSink(t, target.Namespace)
	to.Config.Handler = slowly(to.Config.Handler, 300*time.Millisecond)
	plane.Create(t, newRule(target.Namespace, "rule", httpAction(to.URL)))
	first := start(t, plane.Config, "--leader-elect", "--leader-election-namespace="+target.Namespace, allowLoopback)
	served(t, first.url(target))
	sending := stream(t, first.url(target))
	eventually(t, "nothing is delivered", 20*time.Second, to.isAsked)
	time.Sleep(time.Second)
	stored := sending.stop()
	first.signal(t, syscall.SIGTERM)
	if err := first.waitEnd(t); err != nil {
		t.Error(err)
	}
	before, _ := to.counts(stored)
	start(t, plane.Config, "--leader-elect", "--leader-election-namespace="+target.Namespace, allowLoopback)
	allDone(t, target)
	came, again := to.counts(stored)
	t.Logf("%d of %d events were delivered before the manager exited", before, len(stored))
	if came != len(stored) || again != 0 || before == 0 {
		t.Errorf("%d of %d events arrived, %d before the manager exited, %d arrived twice", came, len(stored), before, again)
	}
}

func slowly(handler http.Handler, pause time.Duration) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(pause)
		handler.ServeHTTP(w, r)
	})
}

// provisioner creates a service account that may create Jobs, and allows a user to impersonate it.
func provisioner(t *testing.T, namespace, user string) {
	t.Helper()
	meta := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: namespace, Name: name} }
	role := func(name string) rbacv1.RoleRef {
		return rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name}
	}
	plane.Create(t,
		&corev1.ServiceAccount{ObjectMeta: meta("provisioner")},
		&rbacv1.Role{ObjectMeta: meta("jobs"), Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{"batch"}, Resources: []string{"jobs"}, Verbs: []string{"create", "patch"}},
		}},
		&rbacv1.RoleBinding{ObjectMeta: meta("jobs"), RoleRef: role("jobs"), Subjects: []rbacv1.Subject{
			{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: "provisioner"},
		}},
		&rbacv1.Role{ObjectMeta: meta("impersonate"), Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{""}, Resources: []string{"serviceaccounts"}, Verbs: []string{"impersonate"}, ResourceNames: []string{"provisioner"}},
		}},
		&rbacv1.RoleBinding{ObjectMeta: meta("impersonate"), RoleRef: role("impersonate"), Subjects: []rbacv1.Subject{
			{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user},
		}},
	)
}

// everyAction is a rule with one action of each kind.
func everyAction(namespace, url string) *v1alpha1.NetBoxEventRule {
	template := v1alpha1.JSONObject{}
	if err := json.Unmarshal([]byte(`{
		"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "provision-${event.objectID}"},
		"spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i", "args": ["id ${data.id}"]}]}}}
	}`), &template); err != nil {
		panic(err)
	}
	rule := newRule(namespace, "every",
		httpAction(url),
		v1alpha1.Action{Name: "job", Apply: &v1alpha1.ApplyAction{Template: template, OwnedByEvent: true}},
		v1alpha1.Action{Name: "note", Event: &v1alpha1.EventAction{Reason: "Changed", Message: "${event.objectType} ${event.event}"}},
		v1alpha1.Action{Name: "line", Log: &v1alpha1.LogAction{Message: "site ${data.id}"}},
	)
	rule.Spec.ServiceAccountName = "provisioner"
	return rule
}

func hasJob(t *testing.T, namespace string, n int) {
	t.Helper()
	var job batchv1.Job
	name := types.NamespacedName{Namespace: namespace, Name: fmt.Sprintf("provision-%d", n)}
	if err := plane.Client.Get(t.Context(), name, &job); err != nil {
		t.Fatal(err)
	}
	if got := job.Spec.Template.Spec.Containers[0].Args[0]; got != fmt.Sprintf("id %d", n) {
		t.Errorf("the Job was made with %q", got)
	}
}
