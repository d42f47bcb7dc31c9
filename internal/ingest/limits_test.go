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
	// send begins a body of which some bytes come at once.
	send := func(c *claim, sent string) {
		if _, err := c.wait(strings.NewReader(sent)).Read(make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
	}

	whole := begin("a", 300)
	if whole == nil || begin("a", 301) != nil {
		t.Error("a source alone takes a half, and no more")
	}
	dribbling := begin("a", 300)
	send(dribbling, "1")
	if begin("a", 1) != nil {
		t.Error("nobody gives way who is not overdue")
	}
	other := begin("b", 100)
	if other == nil || len(cut) > 0 {
		t.Error("another source has room")
	}
	send(other, "1")
	clock.SetTime(clock.Now().Add(longestPause))
	steady := begin("a", 200)
	if steady == nil || !dribbling.gaveWay() || len(cut) != 1 || cut[0] != "a" || other.gaveWay() {
		t.Errorf("the slow one of the same source gives way, and of no other: %v", cut)
	}
	if dribbling.waited() || dribbling.grow(1) {
		t.Error("who gave way holds nothing more")
	}
	send(steady, strings.Repeat("x", slowestRate/2))
	clock.SetTime(clock.Now().Add(time.Second / 4))
	if begin("a", 300) != nil || steady.gaveWay() {
		t.Error("who is fast enough does not give way")
	}
	clock.SetTime(clock.Now().Add(time.Second))
	if begin("a", 200) == nil || !steady.gaveWay() {
		t.Error("who was fast and stops gives way")
	}

	for _, c := range []*claim{whole, dribbling, other, steady} {
		c.waited()
		c.release()
	}
	if len(memory.waiting) > 0 {
		t.Errorf("%d still wait", len(memory.waiting))
	}
}

func TestWork(t *testing.T) {
	work := newWork(10)
	begin := func(source string, units int64) (done func(), err error) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		return work.start(ctx, flow{source: source}, units, time.Now())
	}
	first, err := begin("a", 10)
	if err != nil {
		t.Fatalf("the largest body goes alone: %v", err)
	}
	if _, err := begin("b", 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("began beside all there is: %v", err)
	}

	// Three of one source wait, and then one of another.
	order := make(chan string, 4)
	for n, source := range []string{"a", "a", "a", "b"} {
		go func() {
			if _, err := work.start(t.Context(), flow{source: source}, 4, time.Now()); err == nil {
				order <- source
			}
		}()
		for count(work) <= n {
			time.Sleep(time.Millisecond)
		}
	}
	first()
	if got := <-order + <-order; got != "ab" && got != "ba" {
		t.Errorf("%s began", got)
	}
}

// count is how many wait.
func count(work *work) (waiting int) {
	work.mu.Lock()
	defer work.mu.Unlock()
	for _, turns := range work.waiting {
		waiting += len(turns)
	}
	return waiting
}
