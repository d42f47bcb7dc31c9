package app_test

import (
	"bytes"
	"flag"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/cli"
	"github.com/netbox-events/netbox-event-operator/test/controlplane"
)

var replayed = flag.Int("replayed", 300, "events of TestReplayFailed that fail and are replayed")

// TestReplayFailed has a sink that refuses all events for good, and then takes them: kubectl netbox replays those that failed, while new events of
// the same objects come. Each is delivered once, and those of an object in their order.
func TestReplayFailed(t *testing.T) {
	const objects = 20
	var mu sync.Mutex
	var isRepaired bool
	var refused int
	var arrivals []update
	sink := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		arrival, err := updateIn(r)
		mu.Lock()
		defer mu.Unlock()
		if err != nil || !isRepaired {
			refused++
			w.WriteHeader(http.StatusNotFound)
			return
		}
		arrivals = append(arrivals, arrival)
	}))
	defer sink.Close()
	arrived := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(arrivals)
	}

	target := newSource(t)
	target.Spec.Retention.MaxEvents = 1_000_000
	if err := plane.Client.Update(t.Context(), target); err != nil {
		t.Fatal(err)
	}
	rule := newRule(target.Namespace, "announce", httpAction(sink.URL))
	plane.Create(t, rule)
	m := start(t, plane.Config, "--watch-namespaces="+target.Namespace, allowLoopback)
	served(t, m.url(target))
	device := recordedDevice(t)
	// Each sender has objects of its own, and so sends the updates of an object in their order.
	send := func(from int, isDone func(sent int) bool) (sent int) {
		var all sync.WaitGroup
		var counted sync.Mutex
		for object := range objects {
			all.Go(func() {
				for n := 0; !isDone(n * objects); n++ {
					if status, _ := post(t.Context(), m.url(target), device(object+1, from+n)); status != http.StatusOK {
						t.Errorf("answered with %d", status)
						return
					}
					counted.Lock()
					sent++
					counted.Unlock()
				}
			})
		}
		all.Wait()
		return sent
	}
	began := time.Now()
	failed := send(0, func(sent int) bool { return sent >= *replayed })
	within := 2*time.Minute + time.Duration(failed)*20*time.Millisecond
	eventually(t, "not all events failed", within, func() bool {
		found := phases(t, target)
		for _, phase := range found {
			if phase != v1alpha1.PhaseFailed {
				return false
			}
		}
		return len(found) == failed
	})
	t.Logf("%d events failed within %s", failed, time.Since(began).Round(time.Second))
	mu.Lock()
	isRepaired = true
	mu.Unlock()

	began = time.Now()
	finished, added := make(chan struct{}), make(chan int)
	go func() {
		added <- send(failed, func(sent int) bool {
			time.Sleep(time.Second) // 20 new events a second
			select {
			case <-finished:
				return sent > 0
			default:
				return false
			}
		})
	}()
	var out, problems bytes.Buffer
	code := cli.Run(t.Context(), []string{
		"replay", "--failed", "--rule=announce", "--since=1h", "--yes", "--per-second=100",
		"--kubeconfig=" + controlplane.WriteKubeconfig(t, plane.Config), "--namespace=" + target.Namespace,
	}, genericiooptions.IOStreams{In: strings.NewReader(""), Out: &out, ErrOut: &problems})
	close(finished)
	fresh := <-added
	if code != 0 {
		t.Fatalf("exit code %d: %s%s", code, out.String(), problems.String())
	}
	took := time.Since(began)
	eventually(t, "not every event was delivered", within, func() bool { return arrived() >= failed+fresh })
	t.Logf("%d were replayed in %s while %d new ones came; all were delivered after %s", failed, took.Round(time.Second), fresh,
		time.Since(began).Round(time.Second))
	allDone(t, target)

	if refused != failed {
		t.Errorf("the sink refused %d events, want %d", refused, failed)
	}
	seen, last := map[update]bool{}, map[string]int{}
	for _, one := range arrivals {
		if seen[one] {
			t.Errorf("update %d of %s was delivered twice", one.number, one.object)
		}
		seen[one] = true
		of := one.object + " failed"
		if one.number >= failed {
			of = one.object + " new"
		}
		if before, ok := last[of]; ok && one.number < before {
			t.Errorf("update %d of %s was delivered after update %d", one.number, one.object, before)
		}
		last[of] = one.number
	}
	if len(seen) != failed+fresh {
		t.Errorf("%d events were delivered, want %d and %d", len(seen), failed, fresh)
	}
}
