package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// Sink receives CloudEvents, with configurable faults.
type Sink struct {
	began   time.Time
	address string

	serving sync.Mutex
	server  *http.Server // nil while connections are refused

	mu       sync.Mutex
	state    SinkState
	failing  float64
	interval time.Duration              // the minimum time between two accepted events, 0 for none
	next     time.Time                  // when the next one may be accepted
	wake     chan struct{}              // closed when the state changes
	taken    map[string]map[string]bool // names of events, by request id
	arrivals []Arrival
	first    []time.Duration // when each event was first taken
	again    int             // number of repeated events
	refused  int
}

// Arrival is an event that a sink accepted, in the order of Sink.Arrivals.
type Arrival struct {
	RequestID string
	At        time.Time // when the request came: it may have hung since
}

// SinkState is how a sink behaves.
type SinkState int

const (
	// SinkUp accepts requests, except for the failing part.
	SinkUp SinkState = iota
	// SinkDown answers 503.
	SinkDown
	// SinkHangs delays responses until the sink is up again.
	SinkHangs
)

// NewSink returns a sink that is up, and counts times from began.
func NewSink(ctx context.Context, began time.Time) (*Sink, error) {
	s := &Sink{began: began, taken: map[string]map[string]bool{}, wake: make(chan struct{})}
	// No client connects from this address, so that the port stays free while connections are refused.
	s.address = "127.0.0.2:0"
	return s, s.Listen(ctx)
}

// URL is where it listens.
func (s *Sink) URL() string { return "http://" + s.address }

// Close ends it.
func (s *Sink) Close() {
	s.Set(SinkUp, 0)
	s.Refuse()
}

// Listen accepts connections, after Refuse.
func (s *Sink) Listen(ctx context.Context) error {
	s.serving.Lock()
	defer s.serving.Unlock()
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.address)
	if err != nil {
		return err
	}
	s.address = listener.Addr().String()
	s.server = &http.Server{Handler: s, ReadHeaderTimeout: time.Minute}
	go func(server *http.Server) {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			Say("the sink has ended: %v", err)
		}
	}(s.server)
	return nil
}

// Refuse refuses connections, and closes those that are open.
func (s *Sink) Refuse() {
	s.serving.Lock()
	defer s.serving.Unlock()
	if s.server != nil {
		_ = s.server.Close()
		s.server = nil
	}
}

// Set changes how it behaves; failing is the part of requests that fails although it is up.
func (s *Sink) Set(state SinkState, failing float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state, s.failing = state, failing
	close(s.wake)
	s.wake = make(chan struct{})
}

// Throttle limits the sink to a rate per second, evenly spaced; it answers 429 with Retry-After otherwise.
func (s *Sink) Throttle(perSecond float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.interval = time.Duration(float64(time.Second) / perSecond)
}

func (s *Sink) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var event struct{ ID, RequestID string }
	if err := json.NewDecoder(r.Body).Decode(&event); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	came := time.Now()
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
	if s.interval > 0 {
		now := time.Now()
		if wait := s.next.Sub(now); wait > 0 {
			s.refused++
			w.Header().Set("Retry-After", strconv.Itoa(int((wait+time.Second-1)/time.Second)))
			http.Error(w, "too many requests", http.StatusTooManyRequests)
			return
		}
		s.next = now.Add(s.interval)
	}
	s.arrivals = append(s.arrivals, Arrival{event.RequestID, came})
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

// Delivered is the number of accepted events, of repeated ones, and of refused attempts.
func (s *Sink) Delivered() (events, again, refused int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.first), s.again, s.refused
}

// First is when each event was first accepted.
func (s *Sink) First() []time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]time.Duration(nil), s.first...)
}

// Arrivals are the accepted events in order, repeated ones included.
func (s *Sink) Arrivals() []Arrival {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Arrival(nil), s.arrivals...)
}

// Compare returns how many of some deliveries the sink has not accepted, and how many it has accepted as more than one event.
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
