package eventstore

import (
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

// TestConnectionsAreKept makes as many writes at one time as a receiver and a controller may, twice, and counts the connections.
func TestConnectionsAreKept(t *testing.T) {
	const atOnce = 64 + 32
	var opened atomic.Int64
	var together sync.WaitGroup // until all writes of a round have come
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		together.Done()
		together.Wait()
		w.WriteHeader(http.StatusCreated)
	}))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			opened.Add(1)
		}
	}
	server.StartTLS()
	t.Cleanup(server.Close)

	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	store, err := New(&rest.Config{Host: server.URL, QPS: -1, TLSClientConfig: rest.TLSClientConfig{Insecure: true}}, scheme)
	if err != nil {
		t.Fatal(err)
	}
	event := &v1alpha1.NetBoxEvent{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "event"}}
	for range 2 {
		together.Add(atOnce)
		var writers sync.WaitGroup
		for range atOnce {
			writers.Go(func() {
				if err := store.Create(t.Context(), event.DeepCopy()); err != nil {
					t.Error(err)
				}
			})
		}
		writers.Wait()
	}
	if opened.Load() != atOnce {
		t.Errorf("%d connections were opened for %d writes at one time, twice", opened.Load(), atOnce)
	}
}
