package sourcestatus_test

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/controller/sourcestatus"
	"github.com/netbox-events/netbox-event-operator/test/controlplane"
)

// engine counts pending events.
type engine struct {
	mu      sync.Mutex
	pending map[types.NamespacedName]int
	synced  atomic.Bool
}

func (e *engine) Pending(source types.NamespacedName) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.pending[source]
}

func (e *engine) add(source types.NamespacedName, n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.pending[source] += n
}

func newManager(t *testing.T) manager.Manager {
	t.Helper()
	mgr, err := ctrl.NewManager(plane.Config, ctrl.Options{
		Scheme: plane.Client.Scheme(), Logger: logr.Discard(), Metrics: metricsserver.Options{BindAddress: "0"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return mgr
}

// startBacklog runs the controller with an engine that has not synced yet.
func startBacklog(t *testing.T) (*sourcestatus.Backlog, *engine) {
	t.Helper()
	mgr, engine := newManager(t), &engine{pending: map[types.NamespacedName]int{}}
	backlog := newBacklog(mgr.GetClient(), mgr.GetClient(), engine)
	if err := backlog.SetupWithManager(mgr); err != nil {
		t.Fatal(err)
	}
	controlplane.Run(t, mgr)
	return backlog, engine
}

func newBacklog(sources client.Reader, status client.StatusClient, engine *engine) *sourcestatus.Backlog {
	return &sourcestatus.Backlog{
		Sources: sources, Status: status, Events: engine, Synced: engine.synced.Load,
		Metrics: sourcestatus.NewBacklogMetrics(prometheus.NewRegistry()), Clock: clock.RealClock{},
	}
}

func get(t *testing.T, name types.NamespacedName) *v1alpha1.NetBoxSource {
	t.Helper()
	var current v1alpha1.NetBoxSource
	if err := plane.Client.Get(t.Context(), name, &current); err != nil {
		t.Fatal(err)
	}
	return &current
}

// publication is the published backlog of a source.
type publication struct {
	Pending int64 // -1 for none
	Full    string
}

func publicationOf(source *v1alpha1.NetBoxSource) publication {
	got := publication{Pending: -1}
	if source.Status.Pending != nil && !source.Status.PendingTime.IsZero() {
		got.Pending = *source.Status.Pending
	}
	if full := meta.FindStatusCondition(source.Status.Conditions, v1alpha1.ConditionBacklogFull); full != nil {
		got.Full = string(full.Status) + " " + full.Reason
	}
	return got
}

func waitForPublication(t *testing.T, source types.NamespacedName, want publication, within time.Duration) *v1alpha1.NetBoxSource {
	t.Helper()
	var diff string
	for end := time.Now().Add(within); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		current := get(t, source)
		if diff = cmp.Diff(want, publicationOf(current)); diff == "" {
			return current
		}
	}
	t.Fatalf("backlog of %s (-want +got):\n%s", source, diff)
	return nil
}

const (
	full  = "True MaxPendingReached"
	below = "False BelowMaxPending"
	soon  = 5 * time.Second
)

func newBoundedSource(t *testing.T, namespace string, maxPending int32) types.NamespacedName {
	t.Helper()
	source := newSource(namespace, "netbox", func(s *v1alpha1.NetBoxSourceSpec) {
		s.SecretRef, s.Unsigned, s.MaxPending = nil, v1alpha1.UnsignedAccept, maxPending
	})
	plane.Create(t, source)
	return client.ObjectKeyFromObject(source)
}

func TestBacklog(t *testing.T) {
	start(t) // the controller of the rest of the status
	namespace := plane.Namespace(t)
	backlog, engine := startBacklog(t)
	name := newBoundedSource(t, namespace, 100)
	change := func(n int) {
		engine.add(name, n)
		for range max(n, -n) {
			backlog.Changed(name)
		}
	}

	change(100)
	waitFor(t, get(t, name), state{
		"True Serving: deliveries are stored; any client can send them, because the source has no secretRef", "/webhook/" + namespace + "/netbox", nil,
	})
	if got := publicationOf(get(t, name)); got.Pending != -1 {
		t.Errorf("published %+v before the engine synced", got)
	}
	engine.synced.Store(true)
	current := waitForPublication(t, name, publication{100, full}, soon)
	since := meta.FindStatusCondition(current.Status.Conditions, v1alpha1.ConditionBacklogFull)
	for _, part := range []string{"100 pending events", "429", "SinkAvailable", "90 %"} {
		if !strings.Contains(since.Message, part) {
			t.Errorf("the message %q lacks %q", since.Message, part)
		}
	}

	// The other controller writes the status, and leaves the backlog in place.
	current.Spec.Suspend = true
	if err := plane.Client.Update(t.Context(), current); err != nil {
		t.Fatal(err)
	}
	waitFor(t, current, state{"False Suspended: spec.suspend is true; deliveries are answered with 503", "/webhook/" + namespace + "/netbox", nil})
	waitForPublication(t, name, publication{100, full}, soon)

	change(-10)
	time.Sleep(200 * time.Millisecond)
	waitForPublication(t, name, publication{100, full}, soon) // or a receiver would accept some
	change(-1)
	current = waitForPublication(t, name, publication{89, below}, time.Second)
	if ready := meta.FindStatusCondition(current.Status.Conditions, v1alpha1.ConditionReady); ready == nil || ready.Reason != v1alpha1.ReasonSuspended {
		t.Errorf("the condition Ready is %v", ready)
	}

	change(4)
	time.Sleep(200 * time.Millisecond)
	waitForPublication(t, name, publication{89, below}, soon)
	published := time.Now()
	change(1)
	waitForPublication(t, name, publication{94, below}, soon)
	change(6)
	current = waitForPublication(t, name, publication{100, full}, time.Second) // at once
	change(-11)
	waitForPublication(t, name, publication{89, below}, time.Second)
	if took := time.Since(published); took > 5*time.Second {
		t.Logf("slow: %s", took)
	}

	owners := map[string]bool{}
	for _, entry := range current.ManagedFields {
		var fields map[string]any
		if err := json.Unmarshal(entry.FieldsV1.GetRawBytes(), &fields); err != nil {
			t.Fatal(err)
		}
		status, _ := fields["f:status"].(map[string]any)
		conditions, _ := status["f:conditions"].(map[string]any)
		_, ready := conditions[`k:{"type":"Ready"}`]
		_, backlogFull := conditions[`k:{"type":"BacklogFull"}`]
		if ready && backlogFull {
			t.Errorf("%s owns both conditions", entry.Manager)
		}
		owners[entry.Manager] = ready || backlogFull
	}
	if !owners[sourcestatus.FieldOwner] || !owners[sourcestatus.BacklogFieldOwner] {
		t.Errorf("the status is managed by %v", owners)
	}

	t.Run("maxPending is raised", func(t *testing.T) {
		change(11)
		current := waitForPublication(t, name, publication{100, full}, soon)
		current.Spec.MaxPending = 105
		if err := plane.Client.Update(t.Context(), current); err != nil {
			t.Fatal(err)
		}
		waitForPublication(t, name, publication{100, below}, soon)
	})

	t.Run("the source is recreated", func(t *testing.T) {
		if err := plane.Client.Delete(t.Context(), get(t, name)); err != nil {
			t.Fatal(err)
		}
		change(-50)
		newBoundedSource(t, namespace, 50)
		waitForPublication(t, name, publication{50, full}, soon)
	})
}

// TestBacklogCost adds and finishes many events from many goroutines.
func TestBacklogCost(t *testing.T) {
	namespace := plane.Namespace(t)
	backlog, engine := startBacklog(t)
	engine.synced.Store(true)
	name := newBoundedSource(t, namespace, 20000)
	before := waitForPublication(t, name, publication{0, below}, soon)
	watch, err := plane.Client.Watch(t.Context(), &v1alpha1.NetBoxSourceList{}, client.InNamespace(namespace))
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Stop()
	time.Sleep(2 * time.Second) // soonInterval is over

	const workers, each = 16, 2000
	began := time.Now()
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			for range each {
				engine.add(name, 1)
				backlog.Changed(name)
				engine.add(name, -1)
				backlog.Changed(name)
			}
		})
	}
	all.Wait()
	took := time.Since(began)
	time.Sleep(2500 * time.Millisecond)
	writes := 0
	for done := false; !done; {
		select {
		case change := <-watch.ResultChan():
			source, ok := change.Object.(*v1alpha1.NetBoxSource)
			if ok && !source.Status.PendingTime.Equal(before.Status.PendingTime) {
				writes++
			}
		case <-time.After(100 * time.Millisecond):
			done = true
		}
	}
	if writes == 0 || writes >= workers*each/1000 {
		t.Errorf("%d events cost %d writes of the status", workers*each, writes)
	}
	t.Logf("%d events, %d writes, %s for each call", workers*each, writes, took/(2*workers*each))
}

// TestFormerLeader is a leader that continues for a moment after another took over: its source is outdated.
func TestFormerLeader(t *testing.T) {
	namespace := plane.Namespace(t)
	name := newBoundedSource(t, namespace, 100)
	request := ctrl.Request{NamespacedName: name}
	leader := func(sees client.Reader, pending int) *sourcestatus.Backlog {
		engine := &engine{pending: map[types.NamespacedName]int{name: pending}}
		engine.synced.Store(true)
		return newBacklog(sees, plane.Client, engine)
	}
	outdated := &snapshot{Reader: plane.Client, source: get(t, name)}
	former, successor := leader(outdated, 3), leader(plane.Client, 100)

	if _, err := successor.Reconcile(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	waitForPublication(t, name, publication{100, full}, soon)
	if result, err := former.Reconcile(t.Context(), request); err != nil || result.RequeueAfter == 0 {
		t.Errorf("the former leader wrote: %+v, %v", result, err)
	}
	first := waitForPublication(t, name, publication{100, full}, soon)

	// A third leader publishes the number once, so that the receivers reset their counts.
	if _, err := leader(plane.Client, 0).Reconcile(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	second := waitForPublication(t, name, publication{0, below}, soon)
	if second.Status.PendingTime.Equal(first.Status.PendingTime) {
		t.Error("pendingTime is the same")
	}
	transition := func(source *v1alpha1.NetBoxSource) *metav1.Time {
		return &meta.FindStatusCondition(source.Status.Conditions, v1alpha1.ConditionBacklogFull).LastTransitionTime
	}
	if _, err := leader(plane.Client, 1).Reconcile(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	third := waitForPublication(t, name, publication{1, below}, soon)
	if !transition(third).Equal(transition(second)) {
		t.Error("the condition changed when its status did not")
	}
}

// snapshot is an outdated cache.
type snapshot struct {
	client.Reader
	source *v1alpha1.NetBoxSource
}

func (s *snapshot) Get(_ context.Context, _ client.ObjectKey, into client.Object, _ ...client.GetOption) error {
	s.source.DeepCopyInto(into.(*v1alpha1.NetBoxSource))
	return nil
}
