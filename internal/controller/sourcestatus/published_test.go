package sourcestatus

import (
	"testing"
	"time"
)

// simulation simulates a source and its leader: the time, the backlog and its publications.
type simulation struct {
	published   published
	seen        count
	now         time.Time
	writes      int
	reconcileAt int64
	reconciles  int
}

func newSimulation(maxPending int64) *simulation {
	s := &simulation{now: time.Unix(1e9, 0), seen: count{maxPending: maxPending}}
	s.reconcile()
	s.writes, s.reconciles = 0, 0
	return s
}

// change adds (1) or finishes (-1) one event.
func (s *simulation) change(by int64) {
	s.seen.pending += by
	s.seen.changes++
	if s.seen.changes >= s.reconcileAt {
		s.reconcile()
	}
}

func (s *simulation) pass(d time.Duration) {
	s.now = s.now.Add(d)
	s.reconcile()
}

func (s *simulation) reconcile() {
	s.reconciles++
	if pause, due := s.published.due(s.seen); due && s.now.Sub(s.published.at) >= pause {
		s.published = s.published.next(s.seen, s.now)
		s.writes++
	}
	s.reconcileAt = s.seen.changes + s.published.distance(s.seen)
}

func TestPublished(t *testing.T) {
	const maxPending = 20000

	t.Run("normal load costs less than one write per thousand events", func(t *testing.T) {
		s := newSimulation(maxPending)
		const events = 100_000
		for n := range events {
			s.change(1)
			if n%3 == 0 {
				s.change(1)
				s.change(-1)
			}
			s.change(-1)
			if n%100 == 0 {
				s.pass(time.Second) // 100 events a second
			}
		}
		if s.writes >= events/1000 || s.writes == 0 {
			t.Errorf("%d writes", s.writes)
		}
		if s.reconciles-events/100 > events/1000 {
			t.Errorf("%d reconciles", s.reconciles)
		}
		t.Logf("%d writes, %d reconciles", s.writes, s.reconciles)
	})

	t.Run("a backlog grows until it is full, then shrinks", func(t *testing.T) {
		s := newSimulation(maxPending)
		for s.seen.pending < maxPending {
			s.change(1)
			if s.seen.pending%500 == 0 {
				s.pass(time.Second)
			}
			if known := s.seen.pending - s.published.pending; known > maxPending/stepFraction+2*500 {
				t.Fatalf("%d events arrived since the last publication", known)
			}
		}
		if !s.published.full || s.published.pending != maxPending {
			t.Errorf("published %+v for a full backlog", s.published)
		}
		for s.seen.pending > 0 {
			s.change(-1)
			switch {
			case s.seen.pending == maxPending*9/10 && (!s.published.full || s.published.pending < maxPending):
				t.Errorf("at 90 %%: published %+v", s.published)
			case s.seen.pending == maxPending*9/10-1 && (s.published.full || s.published.pending != s.seen.pending):
				t.Errorf("below 90 %%: published %+v", s.published)
			}
			if s.seen.pending%500 == 0 {
				s.pass(time.Second)
			}
		}
		s.pass(lateInterval)
		if s.published.pending != 0 || s.published.full {
			t.Errorf("published %+v for an empty backlog", s.published)
		}
		if s.writes > 40 {
			t.Errorf("%d writes", s.writes)
		}
		t.Logf("%d writes", s.writes)
	})

	t.Run("a receiver never refuses below maxPending", func(t *testing.T) {
		s := newSimulation(maxPending)
		for range maxPending - 500 {
			s.change(1)
		}
		s.pass(soonInterval) // nearly full
		for s.seen.pending > 0 {
			s.change(-1)
		}
		since, counted := s.published, int64(0)
		for range 10 * maxPending {
			s.change(1)
			s.change(-1)
			if counted++; s.published != since {
				since, counted = s.published, 0
			}
			if s.published.pending+counted >= maxPending {
				t.Fatalf("published %d pending events, and the receiver counts %d more", s.published.pending, counted)
			}
			if s.seen.changes%100 == 0 {
				s.pass(time.Second)
			}
		}
	})

	for _, test := range []struct {
		reason    string
		published published
		seen      count
		pause     time.Duration
		due       bool
	}{
		{"a new leader", published{}, count{maxPending: 10}, 0, true},
		{"no change", at(count{5, 10, 7}, false), count{5, 10, 7}, 0, false},
		{"maxPending was raised", at(count{10, 10, 7}, true), count{10, 11, 7}, 0, true},
		{"full", at(count{9, 10, 7}, false), count{10, 10, 8}, 0, true},
		{"maxPending 1, one pending event", at(count{0, 1, 7}, false), count{1, 1, 8}, 0, true},
		{"maxPending 1, finished", at(count{1, 1, 8}, true), count{0, 1, 9}, 0, true},
		{"full, a few finished", at(count{100, 100, 7}, true), count{90, 100, 17}, 0, false},
		{"full, more finished", at(count{100, 100, 7}, true), count{89, 100, 18}, 0, true},
		{"a few, all finished", at(count{5, 20000, 7}, false), count{0, 20000, 12}, lateInterval, true},
		{"a few more", at(count{5, 20000, 7}, false), count{90, 20000, 92}, 0, false},
		{"many more", at(count{5, 20000, 7}, false), count{105, 20000, 107}, lateInterval, true},
		{"very many more", at(count{5, 20000, 7}, false), count{1005, 20000, 1007}, soonInterval, true},
	} {
		if pause, due := test.published.due(test.seen); pause != test.pause || due != test.due {
			t.Errorf("%s: due %t after %s, want %t after %s", test.reason, due, pause, test.due, test.pause)
		}
	}
}

func at(seen count, full bool) published {
	return published{count: seen, full: full, at: time.Unix(1, 0)}
}
