package eventstore

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/client-go/rest"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

// server is a TLS server for events, with a Store that writes to it.
type server struct {
	store  *Store
	opened atomic.Int64 // connections

	hangs    atomic.Bool
	together sync.WaitGroup // until all writes of a burst have come
}

func newServer(t *testing.T) *server {
	t.Helper()
	s := &server{}
	listening := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		_, _ = io.Copy(io.Discard, request.Body)
		if s.hangs.Load() {
			<-request.Context().Done()
			return
		}
		s.together.Done()
		s.together.Wait()
		w.WriteHeader(http.StatusCreated)
	}))
	listening.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			s.opened.Add(1)
		}
	}
	listening.StartTLS()
	t.Cleanup(listening.Close)

	scheme := runtime.NewScheme()
	err := v1alpha1.AddToScheme(scheme)
	if err == nil {
		s.store, err = New(&rest.Config{Host: listening.URL, QPS: -1, TLSClientConfig: rest.TLSClientConfig{Insecure: true}}, scheme)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *server) create(ctx context.Context) error {
	return s.store.Create(ctx, &v1alpha1.NetBoxEvent{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "event"}})
}

// burst performs concurrent writes.
func (s *server) burst(t *testing.T, writes int) {
	t.Helper()
	s.together.Add(writes)
	var writers sync.WaitGroup
	for range writes {
		writers.Go(func() {
			if err := s.create(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	writers.Wait()
}

// unanswered performs a write that the server does not answer before its deadline.
func (s *server) unanswered(t *testing.T, limit time.Duration) {
	t.Helper()
	s.hangs.Store(true)
	defer s.hangs.Store(false)
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	if err := s.create(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("unanswered write: %v", err)
	}
}

// TestConnectionsAreKept counts the connections of as many concurrent writes as a receiver and a controller may have in flight. Between two
// bursts a write fails by a short deadline, which must not close the others' connections.
func TestConnectionsAreKept(t *testing.T) {
	const atOnce, rounds = 64 + 32, 10
	s := newServer(t)
	for range rounds {
		s.burst(t, atOnce)
		s.unanswered(t, 20*time.Millisecond)
	}
	// The connection of an unanswered write cannot be reused.
	if opened := s.opened.Load(); opened > atOnce+rounds {
		t.Errorf("%d connections were opened for %d concurrent writes, %d times, want at most %d", opened, atOnce, rounds, atOnce+rounds)
	}
}

// TestUnanswered uses a server that accepts writes without answering them.
func TestUnanswered(t *testing.T) {
	const atOnce = 8
	s := newServer(t)
	s.burst(t, atOnce)
	s.unanswered(t, unansweredTime+50*time.Millisecond)
	s.burst(t, atOnce)
	if opened := s.opened.Load(); opened != 2*atOnce {
		t.Errorf("%d connections were opened, want %d: connections to a dead server are not reused", opened, 2*atOnce)
	}
	s.unanswered(t, unansweredTime+50*time.Millisecond)
	s.burst(t, atOnce)
	if opened := s.opened.Load(); opened != 2*atOnce+1 {
		t.Errorf("%d connections were opened, want %d: a slow server gets no connection storm", opened, 2*atOnce+1)
	}
}

// longNumber matches numbers that events store as text, because a float64 cannot hold them.
var longNumber = regexp.MustCompile(`\d{16}|\d\.\d{15}`)

// FuzzStoredSize compares storedSize with the length of the JSON that the API server would produce.
func FuzzStoredSize(f *testing.F) {
	for _, seed := range []string{
		`[1e+20,1E20,-1e-7,1e21,1.5e300,0.1,14.0,-0,0e9,1e999]`, `{"a":"<é\"1e20","\\":[true,null,{}]}`, `"\u00e9\u2028\ud800"`, `1.7976931348623157e308`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, sent []byte) {
		written, err := json.Marshal(json.RawMessage(sent))
		if err != nil || !utf8.Valid(sent) || longNumber.Match(sent) {
			return
		}
		var value any
		if err := utiljson.Unmarshal(written, &value); err != nil {
			return // not accepted by the API server
		}
		stored, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		if size := storedSize(written); size < len(stored) {
			t.Errorf("%s: storedSize is %d, want %d: %s", sent, size, len(stored), stored)
		}
	})
}

func TestStoredSize(t *testing.T) {
	for written, stored := range map[string]int{
		`{"x":[1e+20,1E20]}`:    len(`{"x":[100000000000000000000,100000000000000000000]}`),
		`{"x":["1e+20",1e300]}`: len(`{"x":["1e+20",1e+300]}`),
		`["\"",1e5,true]`:       len(`["\"",100000,true]`),
	} {
		if got := storedSize([]byte(written)); got != stored {
			t.Errorf("%s takes %d bytes, want %d", written, got, stored)
		}
	}
}
