package fleet

import (
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"sync"
	"time"
)

// Sink takes CloudEvents, and fails as it is told.
type Sink struct {
	server *httptest.Server
	began  time.Time

	mu      sync.Mutex
	state   SinkState
	failing float64
	wake    chan struct{}              // closed when the state changes
	taken   map[string]map[string]bool // names of events, by request id
	first   []time.Duration            // when each event was first taken
	again   int                        // how often one was given that was taken before
	refused int
}

// SinkState is how a sink behaves.
type SinkState int

const (
	// SinkUp takes what comes, but for the part that fails.
	SinkUp SinkState = iota
	// SinkDown answers 503.
	SinkDown
	// SinkHangs answers when it is up again.
	SinkHangs
)

// NewSink returns a sink that is up, and counts times from began.
func NewSink(began time.Time) *Sink {
	s := &Sink{began: began, taken: map[string]map[string]bool{}, wake: make(chan struct{})}
	s.server = httptest.NewServer(s)
	return s
}

// URL is where it listens.
func (s *Sink) URL() string { return s.server.URL }

// Close ends it.
func (s *Sink) Close() {
	s.Set(SinkUp, 0)
	s.server.Close()
}

// Set changes how it behaves; failing is the part of requests that fails although it is up.
func (s *Sink) Set(state SinkState, failing float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state, s.failing = state, failing
	close(s.wake)
	s.wake = make(chan struct{})
}

func (s *Sink) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var event struct{ ID, RequestID string }
	if err := json.NewDecoder(r.Body).Decode(&event); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.state == SinkHangs {
		wake := s.wake
		s.mu.Unlock()
		select {
		case <-wake:
		case <-r.Context().Done():
		}
		s.mu.Lock()
		if r.Context().Err() != nil {
			s.refused++
			return
		}
	}
	if s.state == SinkDown || rand.Float64() < s.failing {
		s.refused++
		http.Error(w, "out of order", http.StatusServiceUnavailable)
		return
	}
	if s.taken[event.RequestID] == nil {
		s.taken[event.RequestID] = map[string]bool{}
	}
	if s.taken[event.RequestID][event.ID] {
		s.again++
		return
	}
	s.taken[event.RequestID][event.ID] = true
	s.first = append(s.first, time.Since(s.began))
}

// Delivered is how many events it has taken, how often it was given one again, and how many attempts it has refused.
func (s *Sink) Delivered() (events, again, refused int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.first), s.again, s.refused
}

// First is when each event was first taken.
func (s *Sink) First() []time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]time.Duration(nil), s.first...)
}

// Compare returns how many of some deliveries the sink has not taken, and how many it has taken as more than one event.
func (s *Sink) Compare(names map[string]string) (missing, doubled int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for requestID := range names {
		switch taken := len(s.taken[requestID]); {
		case taken == 0:
			missing++
		case taken > 1:
			doubled++
		}
	}
	return missing, doubled
}
