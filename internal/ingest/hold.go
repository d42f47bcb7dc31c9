package ingest

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// firstTryTime bounds the first try to store a delivery; each further try may take twice as long. So a connection to a server that is gone
	// without a word costs little of the hold, and a server that needs many seconds for one event has them in the end.
	firstTryTime = 2 * time.Second
	// firstPause and maxPause are the longest pauses after the first failed try and after many. A random part of up to a half is taken off, so
	// that deliveries that failed together do not come again together.
	firstPause = 100 * time.Millisecond
	maxPause   = 2 * time.Second
	// resumed is how many held deliveries of a source are tried again when one of it was stored. Each of these resumes as many, so the
	// number of tries grows from one, by doubling, to what the API server takes: its return is not met by all at once.
	resumed = 2
)

// holds are the deliveries that could not be stored yet, and are tried again until their hold is over. Each keeps its body, within the
// memory of requests in flight, and nothing else: it is decoded anew for each try.
type holds struct {
	length   time.Duration
	count    prometheus.Gauge
	stopping context.Context
	stop     context.CancelFunc // ends all holds, and lets none begin

	mu      sync.Mutex
	waiting map[string][]*heldDelivery // between two tries, by source, the longest held first
}

type heldDelivery struct {
	since  time.Time
	resume chan struct{}
}

func newHolds(length time.Duration, count prometheus.Gauge) *holds {
	stopping, stop := context.WithCancel(context.Background())
	return &holds{length: length, count: count, stopping: stopping, stop: stop, waiting: map[string][]*heldDelivery{}}
}

// hold is how long one delivery may take to be stored.
type hold struct {
	holds  *holds
	source string
	since  time.Time
	failed bool // at least one try
	over   bool
	// mayBeStored says that the result of a try is unknown: the API server did not answer, or could not tell.
	mayBeStored bool

	// ctx ends with the hold. It does not end with the request: a proxy on the way may wait less long than the hold, and then the event is
	// stored all the same. If it is sent again, it is a duplicate.
	ctx    context.Context
	cancel context.CancelFunc
	unbind func() bool // from holds.stopping
}

// begin begins the hold of a delivery to a source. It must be ended.
func (h *holds) begin(request context.Context, source string, since time.Time) *hold {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(request), h.length)
	return &hold{holds: h, source: source, since: since, ctx: ctx, cancel: cancel}
}

func (h *hold) end() {
	h.cancel()
	if h.failed {
		h.unbind()
		h.holds.count.Dec()
	}
}

// fail notes that a try has failed. A delivery whose first try is under way when the receiver stops may end it.
func (h *hold) fail() {
	if !h.failed {
		h.failed = true
		h.unbind = context.AfterFunc(h.holds.stopping, h.cancel)
		h.holds.count.Inc()
	}
}

// until calls try, with the number of tries before, until it returns anything but an unavailable answer, or the hold is over.
func (h *hold) until(try func(n int) error) error {
	for n := 0; ; n++ {
		err := try(n)
		if refusal, ok := errors.AsType[*answer](err); !ok || refusal.result != resultUnavailable {
			return err
		}
		h.fail()
		if !h.wait(pauseAfter(n)) {
			return err
		}
	}
}

// tryTime is how long the n-th try may take.
func tryTime(n int) time.Duration { return firstTryTime << min(n, 10) }

// pauseAfter is the pause after the n-th try.
func pauseAfter(n int) time.Duration {
	longest := min(firstPause<<min(n, 10), maxPause)
	return longest - rand.N(longest/2) //nolint:gosec // G404: it spreads load; guessing it gains nothing
}

// wait waits for the next try: for a pause, or until others of the source are stored again. It returns false if the hold is over.
func (h *hold) wait(pause time.Duration) bool {
	if h.over {
		return false
	}
	mine := &heldDelivery{since: h.since, resume: make(chan struct{})}
	h.holds.add(h.source, mine)
	defer h.holds.remove(h.source, mine)
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-h.ctx.Done():
		return false
	case <-mine.resume:
		return true
	case <-timer.C:
		return true
	}
}

// obey waits for as long as the API server asks. It returns false if the hold is over before.
func (h *hold) obey(asked time.Duration) bool {
	h.fail()
	if deadline, _ := h.ctx.Deadline(); time.Until(deadline) < asked {
		h.over = true
		return false
	}
	timer := time.NewTimer(asked)
	defer timer.Stop()
	select {
	case <-h.ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

func (h *holds) add(source string, delivery *heldDelivery) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.waiting[source] = insertBySince(h.waiting[source], delivery, func(d *heldDelivery) time.Time { return d.since })
}

func (h *holds) remove(source string, delivery *heldDelivery) {
	h.mu.Lock()
	defer h.mu.Unlock()
	left := slices.DeleteFunc(h.waiting[source], func(other *heldDelivery) bool { return other == delivery })
	if len(left) == 0 {
		delete(h.waiting, source)
	} else {
		h.waiting[source] = left
	}
}

// stored resumes the longest held deliveries of a source, of which the API server has just stored one.
func (h *holds) stored(source string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	waiting := h.waiting[source]
	count := min(resumed, len(waiting))
	for _, delivery := range waiting[:count] {
		close(delivery.resume)
	}
	if left := waiting[count:]; len(left) > 0 {
		h.waiting[source] = left
	} else {
		delete(h.waiting, source)
	}
}

// insertBySince inserts an item into a list in the order of time, behind those of the same time.
func insertBySince[T any](items []T, item T, since func(T) time.Time) []T {
	at, _ := slices.BinarySearchFunc(items, since(item), func(other T, mine time.Time) int {
		if since(other).After(mine) {
			return 1
		}
		return -1
	})
	return slices.Insert(items, at, item)
}
