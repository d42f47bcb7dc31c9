package sourcestatus

import "time"

// stepFraction is the part of spec.maxPending, a twentieth, by which a backlog may grow before it is published again: receivers, which do
// not count each other's events, may together exceed spec.maxPending by as much.
const stepFraction = 20

// lowPercent is the percentage of spec.maxPending below which a full backlog is no longer full. Without this hysteresis the receivers would
// alternate between accepting and refusing, with a status write for each change.
const lowPercent = 90

// count is the backlog of a source at some time.
type count struct {
	pending    int64
	maxPending int64
	changes    int64 // events that became pending or were finished until then
}

// published is the last publication of a source's backlog by this leader; at is zero if there is none.
type published struct {
	count
	full bool
	at   time.Time
}

// next returns the publication of a newer count.
func (p published) next(seen count, now time.Time) published {
	return published{count: seen, full: p.isFull(seen), at: now}
}

// isFull reports whether a backlog is full, with hysteresis: see lowPercent.
func (p published) isFull(seen count) bool {
	if p.full && p.maxPending == seen.maxPending {
		return seen.pending > seen.low()
	}
	return seen.pending >= seen.maxPending
}

// low returns the number of pending events from which a full backlog is no longer full.
func (c count) low() int64 { return (c.maxPending*lowPercent - 1) / 100 }

// due reports whether a publication is needed, and the least time since the last one.
func (p published) due(seen count) (pause time.Duration, due bool) {
	switch {
	case p.at.IsZero(), p.maxPending != seen.maxPending, p.full != p.isFull(seen):
		return 0, true
	case p.untilSoon(seen) <= 0:
		return soonInterval, true
	case p.isOutdated(seen):
		return lateInterval, true
	default:
		return 0, false
	}
}

// untilSoon returns the least number of changes until the receivers need a new number; less than 1 if they need one now.
func (p published) untilSoon(seen count) int64 {
	untilGrown := p.pending + max(p.maxPending/stepFraction, 1) - seen.pending
	if p.full { // the receivers refuse deliveries, and a lower number would let them accept some
		return untilGrown
	}
	// A receiver counts all events that it stores, even if they are finished at once: at most one for each two changes.
	untilCounted := p.changes + max((p.maxPending-p.pending)/2, 1) - seen.changes
	return min(untilGrown, untilCounted)
}

// isOutdated reports whether the published number would mislead people. A small difference is not worth a write: some events are always
// pending while events arrive and are finished.
func (p published) isOutdated(seen count) bool {
	if p.full {
		return false // the condition BacklogFull says so
	}
	off := max(seen.pending-p.pending, p.pending-seen.pending)
	return off >= max(p.maxPending/stepFraction/10, 1) || seen.pending == 0 && p.pending != 0
}

// distance returns the least number of changes, at least 1, until a publication becomes due that is not due now.
func (p published) distance(seen count) int64 {
	distance := seen.maxPending - seen.pending
	if p.full {
		distance = seen.pending - seen.low()
	}
	if soon := p.untilSoon(seen); soon > 0 {
		distance = min(distance, soon)
	}
	return max(distance, 1)
}
