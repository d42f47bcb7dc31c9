package sourcestatus

import (
	"testing"
	"time"
)

// simulation plays a source and its leader: time, what waits, and what is published of it.
type simulation struct {
	published published
	seen      count
	now       time.Time
	writes    int
	lookAt    int64
	looks     int
}

func newSimulation(maxPending int64) *simulation {
	s := &simulation{now: time.Unix(1e9, 0), seen: count{maxPending: maxPending}}
	s.look()
	s.writes, s.looks = 0, 0
	return s
}

// change is one event that comes (1) or is finished (-1).
func (s *simulation) change(by int64) {
	s.seen.pending += by
	s.seen.changes++
	if s.seen.changes >= s.lookAt {
		s.look()
	}
}

func (s *simulation) pass(d time.Duration) {
	s.now = s.now.Add(d)
	s.look()
}

func (s *simulation) look() {
	s.looks++
	if pause, due := s.published.due(s.seen); due && s.now.Sub(s.published.at) >= pause {
		s.published = s.published.after(s.seen, s.now)
		s.writes++
	}
	s.lookAt = s.seen.changes + s.published.distance(s.seen)
}

func TestPublished(t *testing.T) {
	const maxPending = 20000

	t.Run("normal use costs less than a write for a thousand events", func(t *testing.T) {
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
		if s.looks-events/100 > events/1000 {
			t.Errorf("%d looks", s.looks)
		}
		t.Logf("%d writes, %d looks", s.writes, s.looks)
	})

	t.Run("a backlog that grows until it is full, and is worked off", func(t *testing.T) {
		s := newSimulation(maxPending)
		for s.seen.pending < maxPending {
			s.change(1)
			if s.seen.pending%500 == 0 {
				s.pass(time.Second)
			}
			if known := s.seen.pending - s.published.pending; known > maxPending/stepFraction+2*500 {
				t.Fatalf("%d events came since the last publication", known)
			}
		}
		if !s.published.full || s.published.pending != maxPending {
			t.Errorf("%+v is published of a full backlog", s.published)
		}
		for s.seen.pending > 0 {
			s.change(-1)
			switch {
			case s.seen.pending == maxPending*9/10 && (!s.published.full || s.published.pending < maxPending):
				t.Errorf("at 90 %% %+v is published", s.published)
			case s.seen.pending == maxPending*9/10-1 && (s.published.full || s.published.pending != s.seen.pending):
				t.Errorf("below 90 %% %+v is published", s.published)
			}
			if s.seen.pending%500 == 0 {
				s.pass(time.Second)
			}
		}
		s.pass(lateInterval)
		if s.published.pending != 0 || s.published.full {
			t.Errorf("%+v is published of an empty backlog", s.published)
		}
		if s.writes > 40 {
			t.Errorf("%d writes", s.writes)
		}
		t.Logf("%d writes", s.writes)
	})

	t.Run("a receiver never refuses what there is room for", func(t *testing.T) {
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
				t.Fatalf("%d are published, and the receiver counts %d", s.published.pending, counted)
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
		{"a leader begins", published{}, count{maxPending: 10}, 0, true},
		{"nothing is new", at(count{5, 10, 7}, false), count{5, 10, 7}, 0, false},
		{"maxPending was raised", at(count{10, 10, 7}, true), count{10, 11, 7}, 0, true},
		{"it is full", at(count{9, 10, 7}, false), count{10, 10, 8}, 0, true},
		{"one at a time, and it waits", at(count{0, 1, 7}, false), count{1, 1, 8}, 0, true},
		{"one at a time, and it is finished", at(count{1, 1, 8}, true), count{0, 1, 9}, 0, true},
		{"full, and a little is finished", at(count{100, 100, 7}, true), count{90, 100, 17}, 0, false},
		{"full, and somewhat more", at(count{100, 100, 7}, true), count{89, 100, 18}, 0, true},
		{"a few, and they are finished", at(count{5, 20000, 7}, false), count{0, 20000, 12}, lateInterval, true},
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
