package ingest

import (
	"io"
	"net/http"
	"sync"
	"time"

	"k8s.io/utils/clock"
)

// memory is a number of bytes that the sources share: each may hold as much as is still free. So one alone gets a half, each of two a
// third, and for a source that holds little there is room, whatever comes to the others. Network switches share their buffers like this.
// A quarter of what a source may hold is for small requests, which find room while large ones do not.
//
// Where a claim does not fit, requests whose bodies come too slowly give way to it, those that are most overdue first. Only those of
// sources that hold as much as the claim's or more do: a flood on one source pushes out no request of another.
type memory struct {
	clock clock.PassiveClock

	mu      sync.Mutex
	free    int64
	held    map[string]int64    // bytes, by source
	waiting map[*claim]struct{} // those of requests that wait for their senders
}

// claim is what one request holds of the memory.
type claim struct {
	memory *memory
	source string
	cutOff func() // ends the wait for the sender; it must not wait itself
	first  int64  // what was claimed at first: all but the body

	// Guarded by memory.mu:

	bytes int64
	due   time.Time // when the sender will have been too slow, by what has come so far
	gone  bool      // it gave way
}

func newMemory(bytes int64, clock clock.PassiveClock) *memory {
	return &memory{clock: clock, free: bytes, held: map[string]int64{}, waiting: map[*claim]struct{}{}}
}

// claim claims bytes for a request, or returns nil. It is to be released.
func (m *memory) claim(source string, bytes int64, cutOff func()) *claim {
	c := &claim{memory: m, source: source, cutOff: cutOff, first: bytes}
	if !c.grow(bytes) {
		return nil
	}
	return c
}

// grow claims more.
func (c *claim) grow(bytes int64) bool {
	m := c.memory
	m.mu.Lock()
	defer m.mu.Unlock()
	for !c.gone && !m.fits(c, bytes) {
		slowest := m.slowest(m.held[c.source])
		if slowest == nil || slowest == c {
			return false
		}
		m.give(slowest, -slowest.bytes)
		slowest.gone = true
		delete(m.waiting, slowest)
		slowest.cutOff()
	}
	if c.gone {
		return false
	}
	m.give(c, bytes)
	return true
}

func (m *memory) fits(c *claim, bytes int64) bool {
	share := m.free - bytes
	if c.bytes+bytes > smallRequest {
		share -= share / 4
	}
	return m.held[c.source]+bytes <= share
}

func (m *memory) give(c *claim, bytes int64) {
	c.bytes += bytes
	m.free -= bytes
	m.held[c.source] += bytes
	if m.held[c.source] == 0 {
		delete(m.held, c.source)
	}
}

// slowest returns the most overdue of the claims of sources that hold so many bytes or more.
func (m *memory) slowest(bytes int64) (slowest *claim) {
	now := m.clock.Now()
	for c := range m.waiting {
		if c.due.Before(now) && m.held[c.source] >= bytes && (slowest == nil || c.due.Before(slowest.due)) {
			slowest = c
		}
	}
	return slowest
}

// wait returns a body through which the request waits for its sender from now on. Whenever the bytes that came do not make up for the time
// since, the request is overdue, and gives way to others.
func (c *claim) wait(body io.Reader) io.Reader {
	c.memory.mu.Lock()
	defer c.memory.mu.Unlock()
	if c.gone {
		return http.NoBody
	}
	c.due = c.memory.clock.Now()
	c.memory.waiting[c] = struct{}{}
	return sentBytes{body, c}
}

// sentBytes counts for a claim what comes.
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

// waited says that the request waits no longer. It returns false if it gave way to others.
func (c *claim) waited() bool {
	c.memory.mu.Lock()
	defer c.memory.mu.Unlock()
	delete(c.memory.waiting, c)
	return !c.gone
}

// gaveWay tells whether the request gave way to others. It has nothing to wait for any more.
func (c *claim) gaveWay() bool {
	c.memory.mu.Lock()
	defer c.memory.mu.Unlock()
	return c.gone
}

// shrink gives back what is held beyond some bytes, and release all of it, once the request waits no longer.
func (c *claim) shrink(bytes int64) {
	c.memory.mu.Lock()
	defer c.memory.mu.Unlock()
	c.memory.give(c, min(bytes-c.bytes, 0))
}

func (c *claim) release() { c.shrink(0) }
