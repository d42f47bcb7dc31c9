package ingest

import (
	"context"
	"math"
	"slices"
	"sync"
	"time"
)

// semaphore is a weighted semaphore for requests that are decoded and stored: first received, first served within a flow, and fair between
// flows, of which the one with the fewest units is next.
type semaphore struct {
	mu      sync.Mutex
	free    int64
	taken   map[flow]int64     // units, by flow
	waiting map[flow][]*waiter // by flow, no empty queues
}

// flow identifies a queue: each source has one for small bodies and one for large ones, so that small bodies do not wait until large ones
// are stored.
type flow struct {
	source string
	small  bool
}

type waiter struct {
	units   int64
	since   time.Time
	granted chan struct{}
}

func newSemaphore(units int64) *semaphore {
	return &semaphore{free: units, taken: map[flow]int64{}, waiting: map[flow][]*waiter{}}
}

// acquire waits for units for a request received at since, until ctx is done. The caller releases them with done.
func (s *semaphore) acquire(ctx context.Context, f flow, units int64, since time.Time) (done func(), err error) {
	w := &waiter{units: units, since: since, granted: make(chan struct{})}
	s.mu.Lock()
	s.waiting[f] = insertBySince(s.waiting[f], w, func(t *waiter) time.Time { return t.since })
	s.grant()
	s.mu.Unlock()

	done = func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.adjust(f, -units)
		s.grant()
	}
	select {
	case <-w.granted:
		return done, nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-w.granted: // granted in the meantime
		return done, nil
	default:
	}
	s.remove(f, w)
	s.grant() // smaller waiters behind it may fit
	return nil, ctx.Err()
}

// grant gives units to the next waiters while there are enough.
func (s *semaphore) grant() {
	for len(s.waiting) > 0 {
		var f flow
		fewest := int64(math.MaxInt64)
		for candidate := range s.waiting {
			if s.taken[candidate] < fewest {
				f, fewest = candidate, s.taken[candidate]
			}
		}
		first := s.waiting[f][0]
		// A flow may hold as much as is still free, as in memory; the largest body is processed alone.
		if first.units > s.free || s.taken[f] > 0 && s.taken[f]+first.units > s.free-first.units {
			return // no overtaking: a large body would starve
		}
		s.remove(f, first)
		s.adjust(f, first.units)
		close(first.granted)
	}
}

func (s *semaphore) adjust(f flow, units int64) {
	s.free -= units
	s.taken[f] += units
	if s.taken[f] == 0 {
		delete(s.taken, f)
	}
}

func (s *semaphore) remove(f flow, waiting *waiter) {
	left := slices.DeleteFunc(s.waiting[f], func(other *waiter) bool { return other == waiting })
	if len(left) == 0 {
		delete(s.waiting, f)
	} else {
		s.waiting[f] = left
	}
}
