package ingest

import (
	"context"
	"math"
	"slices"
	"sync"
	"time"
)

// work is a number of units that requests take while they are worked on. Within a flow, the request that was received first gets them
// first; of the flows, the one that has the fewest is next.
type work struct {
	mu      sync.Mutex
	free    int64
	taken   map[flow]int64   // units, by flow
	waiting map[flow][]*turn // by flow, none empty
}

// flow is what comes to one source. Small bodies are one of their own, so that they do not wait until large ones are stored.
type flow struct {
	source string
	small  bool
}

type turn struct {
	units int64
	since time.Time
	begun chan struct{}
}

func newWork(units int64) *work {
	return &work{free: units, taken: map[flow]int64{}, waiting: map[flow][]*turn{}}
}

// start waits for units for a request that was received at a time, until ctx is done; done gives them back.
func (w *work) start(ctx context.Context, from flow, units int64, since time.Time) (done func(), err error) {
	mine := &turn{units: units, since: since, begun: make(chan struct{})}
	w.mu.Lock()
	w.waiting[from] = insertBySince(w.waiting[from], mine, func(t *turn) time.Time { return t.since })
	w.next()
	w.mu.Unlock()

	done = func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.give(from, -units)
		w.next()
	}
	select {
	case <-mine.begun:
		return done, nil
	case <-ctx.Done():
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case <-mine.begun: // just now
		return done, nil
	default:
	}
	w.remove(from, mine)
	w.next() // what was behind may fit
	return nil, ctx.Err()
}

// next begins all turns that may.
func (w *work) next() {
	for len(w.waiting) > 0 {
		var from flow
		fewest := int64(math.MaxInt64)
		for candidate := range w.waiting {
			if w.taken[candidate] < fewest {
				from, fewest = candidate, w.taken[candidate]
			}
		}
		first := w.waiting[from][0]
		// As of the memory, a flow takes as much as is still free; the largest body goes alone.
		if first.units > w.free || w.taken[from] > 0 && w.taken[from]+first.units > w.free-first.units {
			return // nobody overtakes: a large body would wait for ever
		}
		w.remove(from, first)
		w.give(from, first.units)
		close(first.begun)
	}
}

func (w *work) give(from flow, units int64) {
	w.free -= units
	w.taken[from] += units
	if w.taken[from] == 0 {
		delete(w.taken, from)
	}
}

func (w *work) remove(from flow, waiting *turn) {
	left := slices.DeleteFunc(w.waiting[from], func(other *turn) bool { return other == waiting })
	if len(left) == 0 {
		delete(w.waiting, from)
	} else {
		w.waiting[from] = left
	}
}
