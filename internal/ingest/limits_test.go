package ingest

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	clocktesting "k8s.io/utils/clock/testing"
)

func TestMemory(t *testing.T) {
	clock := clocktesting.NewFakePassiveClock(time.Now())
	memory := newMemory(1200, clock)
	var cut []string
	begin := func(source string, bytes int64) *claim {
		return memory.claim(source, bytes, func() { cut = append(cut, source) })
	}
	// send starts a body whose first bytes arrive at once.
	send := func(c *claim, sent string) {
		if _, err := c.startWaiting(strings.NewReader(sent)).Read(make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
	}

	whole := begin("a", 300)
	if whole == nil || begin("a", 301) != nil {
		t.Error("a single source may hold a half, and no more")
	}
	dribbling := begin("a", 300)
	send(dribbling, "1")
	if begin("a", 1) != nil {
		t.Error("a request that is not overdue was evicted")
	}
	other := begin("b", 100)
	if other == nil || len(cut) > 0 {
		t.Error("another source finds no room")
	}
	send(other, "1")
	clock.SetTime(clock.Now().Add(longestPause))
	steady := begin("a", 200)
	if steady == nil || !dribbling.isEvicted() || len(cut) != 1 || cut[0] != "a" || other.isEvicted() {
		t.Errorf("evicted %v, want only the slow request of the same source", cut)
	}
	if dribbling.stopWaiting() || dribbling.grow(1) {
		t.Error("an evicted request still holds memory")
	}
	send(steady, strings.Repeat("x", slowestRate/2))
	clock.SetTime(clock.Now().Add(time.Second / 4))
	if begin("a", 300) != nil || steady.isEvicted() {
		t.Error("a request that is fast enough was evicted")
	}
	clock.SetTime(clock.Now().Add(time.Second))
	if begin("a", 200) == nil || !steady.isEvicted() {
		t.Error("a request that stalled was not evicted")
	}

	for _, c := range []*claim{whole, dribbling, other, steady} {
		c.stopWaiting()
		c.release()
	}
	if len(memory.waiting) > 0 {
		t.Errorf("%d requests still wait", len(memory.waiting))
	}
}

func TestSemaphore(t *testing.T) {
	semaphore := newSemaphore(10)
	begin := func(source string, units int64) (done func(), err error) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		return semaphore.acquire(ctx, flow{source: source}, units, time.Now())
	}
	first, err := begin("a", 10)
	if err != nil {
		t.Fatalf("the largest body is not admitted alone: %v", err)
	}
	if _, err := begin("b", 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("admitted without free units: %v", err)
	}

	// Three requests of one source wait, then one of another.
	order := make(chan string, 4)
	for n, source := range []string{"a", "a", "a", "b"} {
		go func() {
			if _, err := semaphore.acquire(t.Context(), flow{source: source}, 4, time.Now()); err == nil {
				order <- source
			}
		}()
		for count(semaphore) <= n {
			time.Sleep(time.Millisecond)
		}
	}
	first()
	if got := <-order + <-order; got != "ab" && got != "ba" {
		t.Errorf("admitted %s, want one of each source", got)
	}
}

// waiters returns the number of waiting requests.
func count(semaphore *semaphore) (waiting int) {
	semaphore.mu.Lock()
	defer semaphore.mu.Unlock()
	for _, queue := range semaphore.waiting {
		waiting += len(queue)
	}
	return waiting
}
