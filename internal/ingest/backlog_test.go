package ingest_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/ingest/apidocs/apidocstest"
	"github.com/netbox-events/netbox-event-operator/internal/source"
	"github.com/netbox-events/netbox-event-operator/test/controlplane"
)

func maxPending(n int32) func(*v1alpha1.NetBoxSource) {
	return func(s *v1alpha1.NetBoxSource) { s.Spec.MaxPending = n }
}

// publish writes status.pending of a source, as the leader does.
func publish(t *testing.T, source *v1alpha1.NetBoxSource, pending int64, at time.Time) {
	t.Helper()
	published := source.DeepCopy()
	published.Status.Pending, published.Status.PendingTime = &pending, new(metav1.NewMicroTime(at))
	if err := plane.Client.Status().Patch(t.Context(), published, client.MergeFrom(source)); err != nil {
		t.Fatal(err)
	}
}

// TestBacklogWithoutLeader counts only the events that the replica itself stored.
func TestBacklogWithoutLeader(t *testing.T) {
	outage, config := plane.NewOutage(t)
	at := startHolding(t, config, time.Second)
	described := apidocstest.Validator(t)
	target, other := newSource(t, at, "key", maxPending(3)), newSource(t, at, "key", maxPending(3))
	send := func(to *v1alpha1.NetBoxSource, body, key string) response {
		t.Helper()
		answer := post(t, at.URL+source.Path(to), body, signed(key, body))
		described(answer.status, answer.header, answer.body)
		return answer
	}
	if answer := send(other, event(0), "key"); answer.status != http.StatusOK { // and caches the keys
		t.Fatalf("%d %s", answer.status, answer.Result)
	}
	outage.Set(controlplane.Refused)
	for n := range 5 {
		if answer := send(other, event(10+n), "key"); answer.status != http.StatusServiceUnavailable {
			t.Fatalf("during an outage: %d %s, want 503: a delivery that is not stored takes no place", answer.status, answer.Result)
		}
	}
	outage.Set(controlplane.Up)
	eventually(t, "the API server does not recover", func() bool { return send(target, event(1), "key").status == http.StatusOK })
	for _, step := range []struct {
		reason string
		to     *v1alpha1.NetBoxSource
		body   string
		key    string
		want   int
	}{
		{"a duplicate takes no place", target, event(1), "key", 200},
		{"an invalid body takes no place", target, "{}", "key", 422},
		{"the second", target, event(2), "key", 200},
		{"the last", target, event(3), "key", 200},
		{"one more", target, event(4), "key", 429},
		{"a duplicate over maxPending", target, event(1), "key", 429},
		{"an invalid body over maxPending is not decoded", target, "{}", "key", 429},
		{"a wrong signature over maxPending", target, event(5), "wrong", 401},
		{"another source is not affected", other, event(1), "key", 200},
	} {
		answer := send(step.to, step.body, step.key)
		if answer.status != step.want {
			t.Errorf("%s: %d %s, want %d", step.reason, answer.status, answer.Result, step.want)
		}
		if answer.status == 429 && (answer.header.Get("Retry-After") != "30" || !strings.Contains(answer.Result, ": 3 pending events")) {
			t.Errorf("%s: %q, Retry-After %q", step.reason, answer.Result, answer.header.Get("Retry-After"))
		}
	}
	noticed := false
	for done := false; !done; {
		select {
		case recorded := <-at.recorded:
			noticed = noticed || strings.HasPrefix(recorded, "Warning BacklogFull ")
		default:
			done = true
		}
	}
	if !noticed {
		t.Error("no Kubernetes Event BacklogFull")
	}
	count := 0
	for _, line := range at.counted(t) {
		if line == fmt.Sprintf("%s/netbox backlog_full 3", target.Namespace) {
			count++
		}
	}
	if count != 1 {
		t.Errorf("the counters are %q", at.counted(t))
	}

	t.Run("many at once", func(t *testing.T) {
		target := newSource(t, at, "", maxPending(10))
		var senders sync.WaitGroup
		results := make(chan int, 50)
		for n := range cap(results) {
			senders.Go(func() { results <- post(t, at.URL+source.Path(target), event(n), nil).status })
		}
		senders.Wait()
		close(results)
		count := map[int]int{}
		for status := range results {
			count[status]++
		}
		if diff := cmp.Diff(map[int]int{200: 10, 429: 40}, count); diff != "" {
			t.Errorf("answers (-want +got):\n%s", diff)
		}
	})

	t.Run("the source is recreated", func(t *testing.T) {
		if err := plane.Client.Delete(t.Context(), target); err != nil {
			t.Fatal(err)
		}
		again := &v1alpha1.NetBoxSource{ObjectMeta: metav1.ObjectMeta{Namespace: target.Namespace, Name: target.Name}, Spec: target.Spec}
		plane.Create(t, again)
		eventually(t, "the new source inherits the count of the old one", func() bool { return send(again, event(4), "key").status == 200 })
	})
}

// TestBacklogPublished runs two replicas while leaders publish the backlog.
func TestBacklogPublished(t *testing.T) {
	replicas := []receiver{start(t, plane.Config), start(t, plane.Config)}
	target := newSource(t, replicas[0], "", maxPending(10))
	served(t, replicas[1], source.Path(target))
	n := 0
	send := func(replica int) int {
		t.Helper()
		n++
		return post(t, replicas[replica].URL+source.Path(target), event(n), nil).status
	}
	// accepted returns how many deliveries a replica accepts until it refuses one.
	accepted := func(replica int) (count int) {
		t.Helper()
		for send(replica) == http.StatusOK {
			count++
		}
		return count
	}
	now := time.Now()

	publish(t, target, 10, now)
	eventually(t, "a full backlog is not noticed", func() bool { return send(0) == 429 && send(1) == 429 })

	publish(t, target, 7, now.Add(time.Second))
	eventually(t, "a backlog that is no longer full is not noticed", func() bool { return send(0) == 200 })
	if count := accepted(0); count != 2 {
		t.Errorf("the first replica accepts %d after one, of 7 to 10", count)
	}
	eventually(t, "the second replica does not notice it", func() bool { return send(1) == 200 })
	if count := accepted(1); count != 2 {
		t.Errorf("the second replica accepts %d after one, of 7 to 10", count)
	}

	// An unrelated change of the source does not reset the count.
	current := &v1alpha1.NetBoxSource{}
	if err := plane.Client.Get(t.Context(), client.ObjectKeyFromObject(target), current); err != nil {
		t.Fatal(err)
	}
	current.Spec.RateLimit = &v1alpha1.RateLimit{RequestsPerSecond: 1000, Burst: 1000}
	if err := plane.Client.Update(t.Context(), current); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(300 * time.Millisecond); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if status := send(0); status != 429 {
			t.Fatalf("after another change of the source: %d", status)
		}
	}

	// The next leader's clock is behind.
	publish(t, current, 8, now.Add(-time.Hour))
	eventually(t, "the publication of a new leader is not noticed", func() bool { return send(0) == 200 })
	if count := accepted(0); count != 1 {
		t.Errorf("the replica accepts %d after one, of 8 to 10", count)
	}
	// It publishes the same number again.
	publish(t, current, 8, now.Add(-time.Hour+time.Second))
	eventually(t, "a new publication of the same number is not noticed", func() bool { return send(0) == 200 })

	current.Spec.MaxPending = 12
	if err := plane.Client.Patch(t.Context(), current, client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"maxPending":12}}`))); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a higher maxPending is not noticed", func() bool { return accepted(0) > 0 })
	if count := accepted(0); count != 0 {
		t.Errorf("the replica accepts %d more", count)
	}
}
