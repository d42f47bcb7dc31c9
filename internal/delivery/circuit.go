package delivery

import (
	"time"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/oneline"
)

const (
	// openAfter is how many failures in a row open a circuit.
	openAfter = 5
	// fullWindow is how many deliveries in flight a circuit allows before it stops counting them.
	fullWindow = 32
	// steadyDeliveries is how many deliveries without complaint show that a sink takes that many.
	steadyDeliveries = 5
	// gapPrecision is how close to each other, as a part, the gap that a sink takes and the one that it does not take are in the end.
	gapPrecision = 0.05
	// triesInterval is after how many steady gaps a throttled circuit tries a smaller one again: the limit of the sink may have changed.
	triesInterval = 40
	// noGap is a gap that limits nothing.
	noGap = 10 * time.Millisecond
	// maxGap is the largest gap: as long as a sink may ask to wait.
	maxGap = time.Hour
	// idleTime is how long nothing is delivered before the measurement of a sink's rate begins anew.
	idleTime = time.Second
)

// Circuit decides when deliveries to one sink may start.
//
// Closed, it lets all pass. After openAfter failures in a row it is open: after a pause that grows with each failure one delivery probes
// whether the sink is back, and where it is, the deliveries that may be in flight double with each success. A sink that asks to wait gets
// its pause at once. A sink that throttles gets deliveries with a gap between them: Retry-After says when a place is free, not how many,
// and 32 deliveries for each place would be 31 refusals. The gap is at first what the sink took before it complained, and then found by
// bisection between the smallest that it took and the largest that it refused.
//
// The zero value is a closed circuit. It is not safe for concurrent use.
type Circuit struct {
	failures int       // in a row
	openings int       // in a row, without a success between them
	until    time.Time // nothing starts before
	window   int       // how many may be in flight; 0 for no limit
	inFlight int
	epoch    int // counts the pauses: what started before one says nothing about what came after

	gap       time.Duration // between two starts, 0 for none
	good, bad time.Duration // the last gap that the sink took, and the one that it refused; 0 for none
	nextStart time.Time
	steady    int       // deliveries at this gap
	settled   int       // steady gaps since the last change
	measured  time.Time // since when delivered is counted
	delivered int
	lastEnd   time.Time

	since time.Time // since when it is not closed
	cause string
}

// Ticket is the permission to start one delivery, to be given back by End.
type Ticket struct{ epoch int }

// Start asks for the permission to start a delivery now. Where it is refused, until is when to ask again; the zero time means after the
// next End.
func (c *Circuit) Start(now time.Time) (ticket Ticket, until time.Time, ok bool) {
	switch {
	case now.Before(c.until):
		return Ticket{}, c.until, false
	case c.window > 0 && c.inFlight >= c.window:
		return Ticket{}, time.Time{}, false
	case now.Before(c.nextStart):
		return Ticket{}, c.nextStart, false
	}
	if c.measured.IsZero() || c.inFlight == 0 && now.Sub(c.lastEnd) > max(idleTime, 2*c.gap) {
		c.measured, c.delivered = now, 0
	}
	c.inFlight++
	c.nextStart = now
	if c.gap > 0 {
		c.nextStart = now.Add(c.gap)
	}
	return Ticket{c.epoch}, time.Time{}, true
}

// Places is how many deliveries may start now, at most some. Where it is 0, until is as for Start.
func (c *Circuit) Places(now time.Time, atMost int) (places int, until time.Time) {
	switch {
	case now.Before(c.until):
		return 0, c.until
	case now.Before(c.nextStart):
		return 0, c.nextStart
	}
	if c.window > 0 {
		atMost = min(atMost, max(0, c.window-c.inFlight))
	}
	if c.gap > 0 {
		atMost = min(atMost, 1)
	}
	return atMost, time.Time{}
}

// Cancel gives a ticket back whose delivery was cut off, which says nothing about the sink.
func (c *Circuit) Cancel(Ticket) { c.inFlight-- }

// End records how a delivery ended.
func (c *Circuit) End(ticket Ticket, outcome Outcome, retry *v1alpha1.Retry, now time.Time) {
	c.inFlight--
	c.lastEnd = now
	current := ticket.epoch == c.epoch
	switch {
	case outcome.Err == nil || !outcome.Unavailable:
		c.succeeded(now, current)
	case !current: // it is one more of those that the pause is for
	case outcome.Throttled || outcome.RetryAfter > 0:
		c.asked(outcome, retry, now)
	default:
		c.failed(outcome, retry, now)
	}
}

func (c *Circuit) succeeded(now time.Time, current bool) {
	c.delivered++
	if !current {
		return
	}
	c.failures, c.openings = 0, 0
	if c.window > 0 {
		if c.window *= 2; c.window >= fullWindow {
			c.window = 0
		}
	}
	if c.gap > 0 {
		c.narrow(now)
	}
	if reason, _, _ := c.State(); reason == v1alpha1.ReasonAvailable {
		c.since, c.cause = time.Time{}, ""
	}
}

// narrow makes the gap smaller after a delivery without complaint.
func (c *Circuit) narrow(now time.Time) {
	if c.steady++; c.steady < steadyDeliveries {
		return
	}
	c.steady, c.good = 0, c.gap
	if float64(c.gap-c.bad) < gapPrecision*float64(c.gap) {
		if c.settled++; c.settled < triesInterval {
			return
		}
		c.bad /= 2
	}
	c.settled, c.gap = 0, (c.gap+c.bad)/2
	if c.gap < noGap {
		c.gap, c.good, c.bad, c.nextStart = 0, 0, 0, now
	}
}

// widen makes the gap larger after a complaint.
func (c *Circuit) widen(until time.Time) {
	switch {
	case c.gap == 0 && c.delivered > 0:
		c.gap = until.Sub(c.measured) / time.Duration(c.delivered)
	case c.gap == 0: // the first one after the pause says more
	case c.good > c.gap:
		c.gap, c.bad = c.good, c.gap
	default:
		c.gap, c.bad, c.good = 2*c.gap, c.gap, 0
	}
	c.gap = min(c.gap, maxGap)
	c.steady, c.settled = 0, 0
}

// asked pauses for as long as the sink asked, and measures what it takes.
func (c *Circuit) asked(outcome Outcome, retry *v1alpha1.Retry, now time.Time) {
	pause := outcome.RetryAfter
	if pause <= 0 {
		pause = Backoff(retry, 1)
	}
	if outcome.Throttled {
		c.widen(now.Add(pause))
	}
	c.pause(now.Add(pause), outcome, now)
	c.measured, c.delivered = c.until, 0
}

func (c *Circuit) failed(outcome Outcome, retry *v1alpha1.Retry, now time.Time) {
	c.failures++
	if c.failures < openAfter && c.window == 0 {
		return
	}
	c.openings++
	c.pause(now.Add(Backoff(retry, c.openings)), outcome, now)
}

func (c *Circuit) pause(until time.Time, outcome Outcome, now time.Time) {
	c.until, c.window = until, 1
	c.epoch++
	if c.since.IsZero() {
		c.since = now
	}
	c.cause = oneline.Of(outcome.Err.Error(), maxErrorBytes)
}

// State is Available, Unavailable or AskedToWait, and for the last two since when and why.
func (c *Circuit) State() (reason string, since time.Time, cause string) {
	switch {
	case c.openings > 0:
		return v1alpha1.ReasonUnavailable, c.since, c.cause
	case c.gap > 0 || c.window == 1 && !c.since.IsZero():
		return v1alpha1.ReasonAskedToWait, c.since, c.cause
	default:
		return v1alpha1.ReasonAvailable, time.Time{}, ""
	}
}

// Gap is the least time between two starts, 0 for none.
func (c *Circuit) Gap() time.Duration { return c.gap }

// Reset closes the circuit: nothing waits for the sink any more, or the rule was changed. Deliveries in flight are still counted.
func (c *Circuit) Reset() {
	*c = Circuit{inFlight: c.inFlight, epoch: c.epoch + 1, lastEnd: c.lastEnd}
}

// IsIdle reports whether nothing was delivered, nor waited for a pause to end, for some time.
func (c *Circuit) IsIdle(now time.Time, interval time.Duration) bool {
	return c.inFlight == 0 && !now.Before(c.until) && now.Sub(c.lastEnd) >= max(interval, 2*c.gap)
}
