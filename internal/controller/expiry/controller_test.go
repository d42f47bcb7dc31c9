package expiry_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/testr"
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/metadata"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/controller/expiry"
	"github.com/netbox-events/netbox-event-operator/internal/eventstore"
	"github.com/netbox-events/netbox-event-operator/test/controlplane"
	"github.com/netbox-events/netbox-event-operator/test/deliveries"
)

var plane *controlplane.ControlPlane

func TestMain(m *testing.M) { controlplane.Main(m, &plane) }

// controllers runs the retention controller alone, in its own namespace.
type controllers struct {
	namespace string
	watched   []string // empty for all namespaces
	clock     clock.PassiveClock
	log       logr.Logger
	store     *eventstore.Store
	*expiry.Reconciler
}

func newControllers(t *testing.T) *controllers {
	t.Helper()
	store, err := eventstore.New(plane.Config, plane.Client.Scheme())
	if err != nil {
		t.Fatal(err)
	}
	namespace := plane.Namespace(t)
	return &controllers{namespace: namespace, watched: []string{namespace}, clock: clock.RealClock{}, log: testr.New(t), store: store}
}

// start runs the controller.
func (c *controllers) start(t *testing.T, hooks hooks) (stop func()) {
	t.Helper()
	namespaces := map[string]cache.Config{}
	for _, namespace := range c.watched {
		namespaces[namespace] = cache.Config{}
	}
	mgr, err := ctrl.NewManager(plane.Config, ctrl.Options{
		Scheme: plane.Client.Scheme(), Logger: testr.New(t), Metrics: metricsserver.Options{BindAddress: "0"},
		Cache: cache.Options{DefaultNamespaces: namespaces},
	})
	if err != nil {
		t.Fatal(err)
	}
	events, err := metadata.NewForConfig(plane.Config)
	if err != nil {
		t.Fatal(err)
	}
	c.Reconciler = &expiry.Reconciler{
		Sources: mgr.GetClient(), Events: &hooked{events, hooks}, Reader: mgr.GetAPIReader(), Namespaces: c.watched,
		Status: mgr.GetClient(), Metrics: expiry.NewMetrics(prometheus.NewRegistry()), Clock: c.clock, Log: c.log,
	}
	if err := c.SetupWithManager(mgr); err != nil {
		t.Fatal(err)
	}
	return controlplane.Run(t, mgr)
}

func (c *controllers) source(t *testing.T, keep v1alpha1.Retention) {
	t.Helper()
	plane.Create(t, &v1alpha1.NetBoxSource{
		ObjectMeta: metav1.ObjectMeta{Namespace: c.namespace, Name: "netbox"},
		Spec:       v1alpha1.NetBoxSourceSpec{Unsigned: v1alpha1.UnsignedAccept, Redact: []string{}, Retention: keep},
	})
}

// events creates events in a phase.
func (c *controllers) events(t *testing.T, name string, count int, phase v1alpha1.Phase) {
	t.Helper()
	all, err := deliveries.All()
	if err != nil {
		t.Fatal(err)
	}
	for i := range count {
		event, err := all[0].Event(c.namespace, nil)
		if err != nil {
			t.Fatal(err)
		}
		event.Name = fmt.Sprintf("%s-%d", name, i)
		if strings.HasPrefix(name, "other") {
			event.Spec.SourceRef.Name = "other"
		}
		plane.Create(t, event)
		c.setPhase(t, event.Name, phase)
	}
}

func (c *controllers) setPhase(t *testing.T, name string, phase v1alpha1.Phase) {
	t.Helper()
	var event v1alpha1.NetBoxEvent
	if err := plane.Client.Get(t.Context(), client.ObjectKey{Namespace: c.namespace, Name: name}, &event); err != nil {
		t.Fatal(err)
	}
	if _, err := c.store.UpdateStatus(t.Context(), eventstore.Version{
		Namespace: c.namespace, Name: name, UID: event.UID, ResourceVersion: event.ResourceVersion,
	}, &v1alpha1.NetBoxEventStatus{Phase: phase}); err != nil {
		t.Fatal(err)
	}
}

// left waits until only these events are left, and the status of the source has their number.
func (c *controllers) left(t *testing.T, events, expired int64, want ...string) {
	t.Helper()
	var names []string
	var source v1alpha1.NetBoxSource
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		var list v1alpha1.NetBoxEventList
		if err := plane.Client.List(t.Context(), &list, client.InNamespace(c.namespace)); err != nil {
			t.Fatal(err)
		}
		names = nil
		for _, event := range list.Items {
			names = append(names, event.Name)
		}
		if err := plane.Client.Get(t.Context(), client.ObjectKey{Namespace: c.namespace, Name: "netbox"}, &source); err != nil {
			t.Fatal(err)
		}
		slices.Sort(names)
		slices.Sort(want)
		if slices.Equal(names, want) && source.Status.Events != nil && *source.Status.Events == events && source.Status.Expired == expired {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("left are %v, want %v; the status says %+v, want %d events, %d expired", names, want, source.Status, events, expired)
		}
	}
	if (source.Status.Oldest != nil) != (events > 0) {
		t.Errorf("status.oldest of %d events is %v", events, source.Status.Oldest)
	}
}

// The oldest finished events are deleted, succeeded or failed, but no pending ones and none of other sources; also for a later excess, and
// after a restart.
func TestMaxEvents(t *testing.T) {
	c := newControllers(t)
	day := metav1.Duration{Duration: 24 * time.Hour}
	c.events(t, "pending", 2, v1alpha1.PhasePending)
	c.events(t, "other", 2, v1alpha1.PhaseSucceeded)
	c.events(t, "old", 2, v1alpha1.PhaseSucceeded)
	c.events(t, "failed", 1, v1alpha1.PhaseFailed)
	time.Sleep(1100 * time.Millisecond) // the API server keeps times to the second
	c.events(t, "new", 2, v1alpha1.PhaseSucceeded)
	c.source(t, v1alpha1.Retention{SucceededTTL: day, FailedTTL: day, MaxEvents: 2})
	stop := c.start(t, hooks{})
	others := []string{"other-0", "other-1", "pending-0", "pending-1"}
	c.left(t, 2, 3, append(others, "new-0", "new-1")...)

	time.Sleep(1100 * time.Millisecond)
	c.events(t, "newer", 1, v1alpha1.PhaseSucceeded)
	c.Finished(client.ObjectKey{Namespace: c.namespace, Name: "netbox"})
	time.Sleep(1100 * time.Millisecond)
	c.setPhase(t, "pending-0", v1alpha1.PhaseFailed)
	c.Finished(client.ObjectKey{Namespace: c.namespace, Name: "netbox"})
	c.left(t, 2, 5, "other-0", "other-1", "pending-1", "newer-0", "pending-0")

	stop()
	time.Sleep(1100 * time.Millisecond)
	c.events(t, "newest", 1, v1alpha1.PhaseSucceeded)
	c.start(t, hooks{})
	c.left(t, 2, 6, "other-0", "other-1", "pending-1", "newest-0", "pending-0")
}

// An event expires by the time it was finished, not created, and the controller wakes up for it.
func TestTTL(t *testing.T) {
	c := newControllers(t)
	c.source(t, v1alpha1.Retention{
		SucceededTTL: metav1.Duration{Duration: 3 * time.Second}, FailedTTL: metav1.Duration{Duration: time.Hour}, MaxEvents: 100,
	})
	c.events(t, "pending", 1, v1alpha1.PhasePending)
	c.events(t, "succeeded", 3, v1alpha1.PhaseSucceeded)
	c.events(t, "failed", 1, v1alpha1.PhaseFailed)
	c.start(t, hooks{})
	c.left(t, 1, 3, "pending-0", "failed-0")
	began := time.Now()
	c.setPhase(t, "pending-0", v1alpha1.PhaseSucceeded)
	c.Finished(client.ObjectKey{Namespace: c.namespace, Name: "netbox"})
	c.left(t, 1, 4, "failed-0")
	if took := time.Since(began); took < 2*time.Second {
		t.Errorf("an event whose TTL is 3 s was deleted after %s", took)
	}
}

// Events younger than maxAge are kept beyond maxEvents: they deduplicate deliveries that are sent again.
func TestMaxAge(t *testing.T) {
	c := newControllers(t)
	c.events(t, "event", 3, v1alpha1.PhaseSucceeded)
	day := metav1.Duration{Duration: 24 * time.Hour}
	source := &v1alpha1.NetBoxSource{
		ObjectMeta: metav1.ObjectMeta{Namespace: c.namespace, Name: "netbox"},
		Spec: v1alpha1.NetBoxSourceSpec{
			Unsigned: v1alpha1.UnsignedAccept, Redact: []string{}, MaxAge: &metav1.Duration{Duration: time.Hour},
			Retention: v1alpha1.Retention{SucceededTTL: day, FailedTTL: day, MaxEvents: 2},
		},
	}
	plane.Create(t, source)
	c.start(t, hooks{})
	exceeded := func() string {
		if err := plane.Client.Get(t.Context(), client.ObjectKeyFromObject(source), source); err != nil {
			t.Fatal(err)
		}
		condition := meta.FindStatusCondition(source.Status.Conditions, v1alpha1.ConditionMaxEventsExceeded)
		if condition == nil {
			return ""
		}
		return string(condition.Status) + " " + condition.Reason
	}
	c.left(t, 3, 0, "event-0", "event-1", "event-2")
	if got := exceeded(); got != "True YoungerThanMaxAge" {
		t.Errorf("the condition is %q", got)
	}
	change := func(patch string) {
		if err := plane.Client.Patch(t.Context(), source, client.RawPatch(types.MergePatchType, []byte(patch))); err != nil {
			t.Fatal(err)
		}
	}
	change(`{"spec":{"retention":{"maxEvents":3}}}`)
	for end := time.Now().Add(time.Minute); exceeded() != "False WithinMaxEvents"; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the condition is %q", exceeded())
		}
	}
	change(`{"spec":{"maxAge":null,"retention":{"maxEvents":1}}}`)
	for end := time.Now().Add(time.Minute); exceeded() != ""; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the condition is %q", exceeded())
		}
	}
	if *source.Status.Events != 1 {
		t.Errorf("%d events are kept", *source.Status.Events)
	}
}

// hooks are called after a list that found events, and before a deletion; nil for none.
type hooks struct{ listed, deleting func() }

// hooked is a client that calls hooks.
type hooked struct {
	metadata.Interface
	hooks hooks
}

func (h *hooked) Resource(resource schema.GroupVersionResource) metadata.Getter {
	return &hookedGetter{h.Interface.Resource(resource), h.hooks}
}

type hookedGetter struct {
	metadata.Getter
	hooks hooks
}

func (g *hookedGetter) Namespace(namespace string) metadata.ResourceInterface {
	return &hookedResource{g.Getter.Namespace(namespace), g.hooks}
}

type hookedResource struct {
	metadata.ResourceInterface
	hooks hooks
}

func (r *hookedResource) List(ctx context.Context, options metav1.ListOptions) (*metav1.PartialObjectMetadataList, error) {
	list, err := r.ResourceInterface.List(ctx, options)
	if r.hooks.listed != nil && err == nil && len(list.Items) > 0 {
		r.hooks.listed()
	}
	return list, err
}

func (r *hookedResource) Delete(ctx context.Context, name string, options metav1.DeleteOptions, subresources ...string) error {
	if r.hooks.deleting != nil {
		r.hooks.deleting()
	}
	return r.ResourceInterface.Delete(ctx, name, options, subresources...)
}

// An event that is replayed just before its deletion is kept.
func TestReplayedBeforeDeletion(t *testing.T) {
	c := newControllers(t)
	day := metav1.Duration{Duration: 24 * time.Hour}
	c.events(t, "event", 3, v1alpha1.PhaseSucceeded)
	c.source(t, v1alpha1.Retention{SucceededTTL: day, FailedTTL: day, MaxEvents: 1})
	c.start(t, hooks{listed: sync.OnceFunc(func() {
		for i := range 3 {
			c.setPhase(t, fmt.Sprintf("event-%d", i), v1alpha1.PhasePending)
		}
	})})
	c.left(t, 1, 0, "event-0", "event-1", "event-2")
}

// Deletions are concurrent: a slow API server does not serialize them.
func TestConcurrentDeletions(t *testing.T) {
	c := newControllers(t)
	day := metav1.Duration{Duration: 24 * time.Hour}
	c.events(t, "old", 4, v1alpha1.PhaseSucceeded)
	time.Sleep(1100 * time.Millisecond) // the API server keeps times to the second
	c.events(t, "new", 1, v1alpha1.PhaseSucceeded)
	c.source(t, v1alpha1.Retention{SucceededTTL: day, FailedTTL: day, MaxEvents: 1})
	var together sync.WaitGroup
	together.Add(4)
	c.start(t, hooks{deleting: func() {
		together.Done()
		together.Wait()
	}})
	c.left(t, 1, 4, "new-0")
}
