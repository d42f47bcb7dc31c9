package delivery

import (
	"time"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/oneline"
)

const (
	// openAfter is the number of consecutive failures that opens a circuit.
	openAfter = 5
	// fullWindow is the number of deliveries in flight above which a circuit no longer limits them.
	fullWindow = 32
	// steadyDeliveries is the number of consecutive unthrottled deliveries that confirms a gap.
	steadyDeliveries = 5
	// gapPrecision ends the bisection: the largest throttled gap is within this fraction of the smallest accepted one.
	gapPrecision = 0.05
	// settledGaps is the number of confirmations after which a settled circuit probes a smaller gap again: the limit of the sink may have
	// changed.
	settledGaps = 40
	// minGap is the smallest gap. A circuit that would use a smaller one uses none.
	minGap = 10 * time.Millisecond
	// maxGap is the largest gap, equal to the longest Retry-After that is honored.
	maxGap = time.Hour
	// idleTime is the time without deliveries after which the measurement of a sink's rate restarts.
	idleTime = time.Second
)

// Circuit decides when deliveries to one sink may start.
//
// A closed circuit allows all deliveries. After openAfter consecutive failures it opens: after a backoff that grows with each failure, one
// delivery probes the sink (half-open), and each success doubles the number of deliveries that may be in flight. A response with
// Retry-After pauses the circuit at once. A sink that throttles gets rate-limited deliveries, with a gap between them: Retry-After says
// when a request is allowed again, not how many, so 32 deliveries at that time would be 31 more throttled responses. The first gap is the
// rate that the sink accepted before it throttled; after that, bisection finds the gap between the smallest accepted and the largest
// throttled one.
//
// The zero value is a closed circuit. It is not safe for concurrent use.
type Circuit struct {
	failures int       // consecutive
	openings int       // consecutive, without a success between them
	until    time.Time // no delivery starts before
	window   int       // maximum in flight; 0 for no limit
	inFlight int
	epoch    int // counts the pauses: the outcome of a delivery that started before a pause is stale after it

	gap       time.Duration // between two starts, 0 for none
	good, bad time.Duration // the last gap that the sink accepted, and the one that it throttled; 0 for none
	nextStart time.Time
	steady    int       // consecutive unthrottled deliveries at this gap
	settled   int       // confirmations since the last change of the gap
	measured  time.Time // start of the count in delivered
	delivered int
	lastEnd   time.Time

	since time.Time // when it stopped being closed
	cause string
}

// Ticket allows one delivery. Pass it to End or Cancel.
type Ticket struct{ epoch int }

// Start requests a ticket for a delivery that starts now. If it refuses, until is the time of the next request; the zero time means after
// the next End.
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

// Places returns the number of deliveries that may start now, up to a maximum. If it is 0, until is as for Start.
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

// Cancel returns the ticket of a canceled delivery, whose outcome is unknown.
func (c *Circuit) Cancel(Ticket) { c.inFlight-- }

// End records the outcome of a delivery.
func (c *Circuit) End(ticket Ticket, outcome Outcome, retry *v1alpha1.Retry, now time.Time) {
	c.inFlight--
	c.lastEnd = now
	current := ticket.epoch == c.epoch
	switch {
	case outcome.Err == nil || !outcome.Unavailable:
		c.recordSuccess(now, current)
	case !current: // the pause already accounts for it
	case outcome.Throttled || outcome.RetryAfter > 0:
		c.recordThrottled(outcome, retry, now)
	default:
		c.recordFailure(outcome, retry, now)
	}
}

func (c *Circuit) recordSuccess(now time.Time, current bool) {
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
		c.narrowGap(now)
	}
	if reason, _, _ := c.State(); reason == v1alpha1.ReasonAvailable {
		c.since, c.cause = time.Time{}, ""
	}
}

// narrowGap makes the gap smaller after enough unthrottled deliveries.
func (c *Circuit) narrowGap(now time.Time) {
	if c.steady++; c.steady < steadyDeliveries {
		return
	}
	c.steady, c.good = 0, c.gap
	if float64(c.gap-c.bad) < gapPrecision*float64(c.gap) {
		if c.settled++; c.settled < settledGaps {
			return
		}
		c.bad /= 2
	}
	c.settled, c.gap = 0, (c.gap+c.bad)/2
	if c.gap < minGap {
		c.gap, c.good, c.bad, c.nextStart = 0, 0, 0, now
	}
}

// widenGap makes the gap larger after a throttled delivery.
func (c *Circuit) widenGap(until time.Time) {
	switch {
	case c.gap == 0 && c.delivered > 0:
		c.gap = until.Sub(c.measured) / time.Duration(c.delivered)
	case c.gap == 0: // no rate was measured yet: the first delivery after the pause gives one
	case c.good > c.gap:
		c.gap, c.bad = c.good, c.gap
	default:
		c.gap, c.bad, c.good = 2*c.gap, c.gap, 0
	}
	c.gap = min(c.gap, maxGap)
	c.steady, c.settled = 0, 0
}

// recordThrottled pauses for Retry-After, and restarts the measurement of the rate.
func (c *Circuit) recordThrottled(outcome Outcome, retry *v1alpha1.Retry, now time.Time) {
	pause := outcome.RetryAfter
	if pause <= 0 {
		pause = Backoff(retry, 1)
	}
	if outcome.Throttled {
		c.widenGap(now.Add(pause))
	}
	c.pause(now.Add(pause), outcome, now)
	c.measured, c.delivered = c.until, 0
}

func (c *Circuit) recordFailure(outcome Outcome, retry *v1alpha1.Retry, now time.Time) {
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

// State returns Available, Unavailable or AskedToWait, and for the last two since when and why.
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

// Gap returns the minimum time between two starts, 0 for none.
func (c *Circuit) Gap() time.Duration { return c.gap }

// Reset closes the circuit: no delivery waits for the sink, or the rule changed. It keeps the count of deliveries in flight.
func (c *Circuit) Reset() {
	*c = Circuit{inFlight: c.inFlight, epoch: c.epoch + 1, lastEnd: c.lastEnd}
}

// IsIdle reports whether the sink had neither deliveries nor a pause for at least an interval.
func (c *Circuit) IsIdle(now time.Time, interval time.Duration) bool {
	return c.inFlight == 0 && !now.Before(c.until) && now.Sub(c.lastEnd) >= max(interval, 2*c.gap)
}
