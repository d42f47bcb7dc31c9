package ingest

import (
	"io"
	"net/http"
	"sync"
	"time"

	"k8s.io/utils/clock"
)

// memory is a budget of bytes shared by the sources, with dynamic thresholds as in the buffers of network switches: each source may hold as
// much as is still free. A single source gets a half, each of two a third, and a source that holds little is admitted however much the
// others receive. A quarter of each source's share is reserved for small requests.
//
// If a claim does not fit, requests whose bodies arrive too slowly are evicted, the most overdue first, and only from sources that hold at
// least as much as the source of the claim: a flood on one source evicts no request of another.
type memory struct {
	clock clock.PassiveClock

	mu      sync.Mutex
	free    int64
	held    map[string]int64    // bytes, by source
	waiting map[*claim]struct{} // evictable: they wait for their senders
}

// claim is the memory held by one request.
type claim struct {
	memory *memory
	source string
	abort  func() // aborts the read of the body; it must not block
	first  int64  // the initial claim: all but the body

	// Guarded by memory.mu:

	bytes   int64
	due     time.Time // when the request becomes overdue, given the bytes received so far
	evicted bool
}

func newMemory(bytes int64, clock clock.PassiveClock) *memory {
	return &memory{clock: clock, free: bytes, held: map[string]int64{}, waiting: map[*claim]struct{}{}}
}

// claim claims bytes for a request, or returns nil. The caller must release the claim.
func (m *memory) claim(source string, bytes int64, abort func()) *claim {
	c := &claim{memory: m, source: source, abort: abort, first: bytes}
	if !c.grow(bytes) {
		return nil
	}
	return c
}

// grow claims more bytes, and evicts slow requests if it has to. It returns false if there is no room, or if this request was evicted.
func (c *claim) grow(bytes int64) bool {
	m := c.memory
	m.mu.Lock()
	defer m.mu.Unlock()
	for !c.evicted && !m.fits(c, bytes) {
		slowest := m.slowest(m.held[c.source])
		if slowest == nil || slowest == c {
			return false
		}
		m.adjust(slowest, -slowest.bytes)
		slowest.evicted = true
		delete(m.waiting, slowest)
		slowest.abort()
	}
	if c.evicted {
		return false
	}
	m.adjust(c, bytes)
	return true
}

func (m *memory) fits(c *claim, bytes int64) bool {
	share := m.free - bytes
	if c.bytes+bytes > smallRequest {
		share -= share / 4
	}
	return m.held[c.source]+bytes <= share
}

func (m *memory) adjust(c *claim, bytes int64) {
	c.bytes += bytes
	m.free -= bytes
	m.held[c.source] += bytes
	if m.held[c.source] == 0 {
		delete(m.held, c.source)
	}
}

// slowest returns the most overdue claim among the sources that hold at least that many bytes.
func (m *memory) slowest(bytes int64) (slowest *claim) {
	now := m.clock.Now()
	for c := range m.waiting {
		if c.due.Before(now) && m.held[c.source] >= bytes && (slowest == nil || c.due.Before(slowest.due)) {
			slowest = c
		}
	}
	return slowest
}

// startWaiting makes the request evictable while it waits for its sender, and returns the body to read from. The request is overdue, and
// may be evicted, whenever its average rate is below slowestRate.
func (c *claim) startWaiting(body io.Reader) io.Reader {
	c.memory.mu.Lock()
	defer c.memory.mu.Unlock()
	if c.evicted {
		return http.NoBody
	}
	c.due = c.memory.clock.Now()
	c.memory.waiting[c] = struct{}{}
	return sentBytes{body, c}
}

// sentBytes extends the due time of a claim by the bytes read.
type sentBytes struct {
	body  io.Reader
	claim *claim
}

func (s sentBytes) Read(into []byte) (int, error) {
	n, err := s.body.Read(into)
	m := s.claim.memory
	m.mu.Lock()
	defer m.mu.Unlock()
	due, latest := s.claim.due.Add(time.Duration(n)*time.Second/slowestRate), m.clock.Now().Add(longestPause)
	if due.After(latest) {
		due = latest
	}
	s.claim.due = due
	return n, err
}

// stopWaiting makes the request not evictable. It returns false if the request was evicted.
func (c *claim) stopWaiting() bool {
	c.memory.mu.Lock()
	defer c.memory.mu.Unlock()
	delete(c.memory.waiting, c)
	return !c.evicted
}

// isEvicted reports whether the request was evicted: its body can no longer be read.
func (c *claim) isEvicted() bool {
	c.memory.mu.Lock()
	defer c.memory.mu.Unlock()
	return c.evicted
}

// shrink releases all but the given number of bytes; release releases all of them. The request must not be waiting for its sender.
func (c *claim) shrink(bytes int64) {
	c.memory.mu.Lock()
	defer c.memory.mu.Unlock()
	c.memory.adjust(c, min(bytes-c.bytes, 0))
}

func (c *claim) release() { c.shrink(0) }
