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
	// firstTryTime is the timeout of the first attempt to store a delivery; it doubles with each further attempt. A dead connection thereby
	// costs little of the hold, and a server that needs many seconds for an event gets them in the end.
	firstTryTime = 2 * time.Second
	// firstPause and maxPause bound the exponential backoff between attempts. Jitter shortens each pause by up to a half, so that deliveries
	// that failed together are not retried together.
	firstPause = 100 * time.Millisecond
	maxPause   = 2 * time.Second
	// resumePerStored is how many held deliveries of a source are retried at once when one was stored. Each of these resumes as many in turn,
	// so the concurrency doubles up to the API server's capacity: a slow start instead of a thundering herd.
	resumePerStored = 2
)

// holds retries the deliveries that could not be stored yet until their hold ends. A held delivery keeps only its body, within
// requestMemory: each attempt decodes it again.
type holds struct {
	length   time.Duration
	count    prometheus.Gauge
	stopping context.Context
	stop     context.CancelFunc // ends all holds, and prevents new ones

	mu      sync.Mutex
	waiting map[string][]*heldDelivery // in backoff, by source, the longest held first
}

type heldDelivery struct {
	since  time.Time
	resume chan struct{}
}

func newHolds(length time.Duration, count prometheus.Gauge) *holds {
	stopping, stop := context.WithCancel(context.Background())
	return &holds{length: length, count: count, stopping: stopping, stop: stop, waiting: map[string][]*heldDelivery{}}
}

// hold is the time budget of one delivery, and its state.
type hold struct {
	holds     *holds
	source    string
	since     time.Time
	held      bool // at least one attempt failed
	permanent bool // retrying is pointless
	// mayBeStored means that the outcome of an attempt is unknown: the API server may have stored the event without answering so.
	mayBeStored bool

	// ctx ends with the hold, not with the request: a proxy may time out before the hold ends, and the event is stored all the same. If the
	// sender retries, it is a duplicate.
	ctx    context.Context
	cancel context.CancelFunc
	unbind func() bool // from holds.stopping
}

// begin starts the hold of a delivery to a source. The caller must end it.
func (h *holds) begin(request context.Context, source string, since time.Time) *hold {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(request), h.length)
	return &hold{holds: h, source: source, since: since, ctx: ctx, cancel: cancel}
}

func (h *hold) end() {
	h.cancel()
	if h.held {
		h.unbind()
		h.holds.count.Dec()
	}
}

// markHeld records that an attempt failed: the delivery counts as held, and ends when the receiver stops. The first attempt may complete
// even then.
func (h *hold) markHeld() {
	if !h.held {
		h.held = true
		h.unbind = context.AfterFunc(h.holds.stopping, h.cancel)
		h.holds.count.Inc()
	}
}

// retry calls try, with the number of earlier attempts, until its result is not resultUnavailable, or the hold ends.
func (h *hold) retry(try func(n int) error) error {
	for n := 0; ; n++ {
		err := try(n)
		if refusal, ok := errors.AsType[*answer](err); !ok || refusal.result != resultUnavailable {
			return err
		}
		h.markHeld()
		if !h.wait(pauseAfter(n)) {
			return err
		}
	}
}

// tryTime returns the timeout of attempt n, counted from 0.
func tryTime(n int) time.Duration { return firstTryTime << min(n, 10) }

// pauseAfter returns the backoff after attempt n, counted from 0.
func pauseAfter(n int) time.Duration {
	longest := min(firstPause<<min(n, 10), maxPause)
	return longest - rand.N(longest/2) //nolint:gosec // G404: jitter needs no cryptographic randomness
}

// wait waits for the next attempt: for the pause, or until resume is called. It returns false if the hold has ended.
func (h *hold) wait(pause time.Duration) bool {
	if h.permanent {
		return false
	}
	delivery := &heldDelivery{since: h.since, resume: make(chan struct{})}
	h.holds.add(h.source, delivery)
	defer h.holds.remove(h.source, delivery)
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-h.ctx.Done():
		return false
	case <-delivery.resume:
		return true
	case <-timer.C:
		return true
	}
}

// waitRetryAfter waits for the delay that the API server asked for. It returns false if the hold ends first.
func (h *hold) waitRetryAfter(asked time.Duration) bool {
	h.markHeld()
	if deadline, _ := h.ctx.Deadline(); time.Until(deadline) < asked {
		h.permanent = true
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

// resume retries the longest held deliveries of a source at once, after the API server has stored one.
func (h *holds) resume(source string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	waiting := h.waiting[source]
	count := min(resumePerStored, len(waiting))
	for _, delivery := range waiting[:count] {
		close(delivery.resume)
	}
	if left := waiting[count:]; len(left) > 0 {
		h.waiting[source] = left
	} else {
		delete(h.waiting, source)
	}
}

// insertBySince inserts an item into a list sorted by time, behind items of the same time.
func insertBySince[T any](items []T, item T, since func(T) time.Time) []T {
	at, _ := slices.BinarySearchFunc(items, since(item), func(other T, wanted time.Time) int {
		if since(other).After(wanted) {
			return 1
		}
		return -1
	})
	return slices.Insert(items, at, item)
}
