package expiry_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr/funcr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	testclock "k8s.io/utils/clock/testing"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

// reconcile reconciles a source, and returns the time until it is requeued.
func (c *controllers) reconcile(t *testing.T, source string) time.Duration {
	t.Helper()
	result, err := c.Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKey{Namespace: c.namespace, Name: source}})
	if err != nil {
		t.Fatal(err)
	}
	return result.RequeueAfter
}

func (c *controllers) expect(t *testing.T, reason string, want ...string) {
	t.Helper()
	var list v1alpha1.NetBoxEventList
	if err := plane.Client.List(t.Context(), &list, client.InNamespace(c.namespace)); err != nil {
		t.Fatal(err)
	}
	names := []string{}
	for _, event := range list.Items {
		names = append(names, event.Name)
	}
	slices.Sort(names)
	if !slices.Equal(names, want) {
		t.Fatalf("%s: left are %v, want %v", reason, names, want)
	}
}

// The events of a deleted source are kept for the default TTLs, and for gracePeriod after the deletion, in case it is recreated.
func TestSourceGone(t *testing.T) {
	c := newControllers(t)
	now := testclock.NewFakePassiveClock(time.Now().Add(100 * time.Hour)) // between the TTLs
	c.clock = now
	c.events(t, "failed", 1, v1alpha1.PhaseFailed)
	c.events(t, "pending", 1, v1alpha1.PhasePending)
	c.events(t, "succeeded", 2, v1alpha1.PhaseSucceeded)
	all := []string{"failed-0", "pending-0", "succeeded-0", "succeeded-1"}
	year := metav1.Duration{Duration: 365 * 24 * time.Hour}
	c.start(t, hooks{})
	// until waits until the controller's cache has the source, or its deletion: it sweeps a source at once, and a deleted one hours later.
	until := func(gone bool) {
		t.Helper()
		for end := time.Now().Add(10 * time.Second); c.reconcile(t, "netbox") > time.Hour != gone; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("the controller does not see the source as deleted: %t", gone)
			}
		}
	}
	remove := func() {
		t.Helper()
		source := &v1alpha1.NetBoxSource{ObjectMeta: metav1.ObjectMeta{Namespace: c.namespace, Name: "netbox"}}
		if err := plane.Client.Delete(t.Context(), source); err != nil {
			t.Fatal(err)
		}
	}
	c.source(t, v1alpha1.Retention{SucceededTTL: year, FailedTTL: year, MaxEvents: 100})
	until(false)
	remove()
	until(true)
	now.SetTime(now.Now().Add(4 * time.Hour))
	c.source(t, v1alpha1.Retention{SucceededTTL: year, FailedTTL: year, MaxEvents: 100})
	until(false)
	now.SetTime(now.Now().Add(4 * time.Hour))
	c.reconcile(t, "netbox")
	c.expect(t, "the source was recreated", all...)

	remove()
	until(true)
	now.SetTime(now.Now().Add(6*time.Hour - time.Second))
	c.reconcile(t, "netbox")
	c.expect(t, "within the grace period", all...)
	now.SetTime(now.Now().Add(time.Second))
	c.reconcile(t, "netbox")
	c.expect(t, "after the grace period", "failed-0", "pending-0")

	c.setPhase(t, "pending-0", v1alpha1.PhaseSucceeded)
	now.SetTime(now.Now().Add(100 * time.Hour))
	if again := c.reconcile(t, "netbox"); again != 0 {
		t.Errorf("a deleted source without events is requeued after %s", again)
	}
	c.expect(t, "all events expired")
}

// A leader that watches all namespaces finds the events of sources that were deleted before it became the leader.
func TestSourceGoneBefore(t *testing.T) {
	c := newControllers(t)
	now := testclock.NewFakePassiveClock(time.Now().Add(100 * time.Hour))
	c.clock = now
	c.watched = nil
	noticed := make(chan struct{})
	notice := sync.OnceFunc(func() { close(noticed) })
	c.log = funcr.New(func(_, line string) {
		if strings.Contains(line, fmt.Sprintf(`"namespace"=%q "source"="other"`, c.namespace)) {
			notice()
		}
	}, funcr.Options{})
	c.events(t, "succeeded", 1, v1alpha1.PhaseSucceeded)
	c.events(t, "other", 1, v1alpha1.PhaseSucceeded) // of source other
	year := metav1.Duration{Duration: 365 * 24 * time.Hour}
	c.source(t, v1alpha1.Retention{SucceededTTL: year, FailedTTL: year, MaxEvents: 100})
	c.start(t, hooks{})
	select {
	case <-noticed:
	case <-time.After(10 * time.Second):
		t.Fatal("the leader does not find the deleted source")
	}
	now.SetTime(now.Now().Add(6 * time.Hour))
	c.reconcile(t, "other")
	c.expect(t, "the other source was deleted", "succeeded-0")
}
