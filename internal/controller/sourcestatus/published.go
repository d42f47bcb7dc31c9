package sourcestatus

import "time"

// stepFraction says by which part of spec.maxPending, a twentieth, a backlog may have grown since it was published: receivers that do not
// know of each other may together store that much too much.
const stepFraction = 20

// lowPercent is the part of spec.maxPending below which a backlog that was full no longer is: the receivers would otherwise take and refuse
// by turns, with a write of the status for each turn.
const lowPercent = 90

// count is how many events of a source wait at some time.
type count struct {
	pending    int64
	maxPending int64
	changes    int64 // events that came or were finished, until then
}

// published is what a leader has published of a source; at is zero where it has published nothing.
type published struct {
	count
	full bool
	at   time.Time
}

// after returns what is published next.
func (p published) after(seen count, now time.Time) published {
	return published{count: seen, full: p.isFull(seen), at: now}
}

// isFull tells whether a backlog is full, in view of whether it was.
func (p published) isFull(seen count) bool {
	if p.full && p.maxPending == seen.maxPending {
		return seen.pending > seen.low()
	}
	return seen.pending >= seen.maxPending
}

// low is how many events of a full backlog may wait for it to be no longer full.
func (c count) low() int64 { return (c.maxPending*lowPercent - 1) / 100 }

// due returns whether something is to be published, and how long after the last publication.
func (p published) due(seen count) (pause time.Duration, due bool) {
	switch {
	case p.at.IsZero(), p.maxPending != seen.maxPending, p.full != p.isFull(seen):
		return 0, true
	case p.untilSoon(seen) <= 0:
		return soonInterval, true
	case p.isOutOfDate(seen):
		return lateInterval, true
	default:
		return 0, false
	}
}

// untilSoon returns how many changes it takes at least until the receivers need a new number; less than 1 if they need one now.
func (p published) untilSoon(seen count) int64 {
	untilGrown := p.pending + max(p.maxPending/stepFraction, 1) - seen.pending
	if p.full { // nothing comes, and a lower number would let something come
		return untilGrown
	}
	// A receiver counts what it stores, however soon that is finished. Half of what it may store is half of the changes at the most.
	untilCounted := p.changes + max((p.maxPending-p.pending)/2, 1) - seen.changes
	return min(untilGrown, untilCounted)
}

// isOutOfDate tells whether people who read the status are misled. What is off by little is not worth a write: while events come and are
// finished, some always wait.
func (p published) isOutOfDate(seen count) bool {
	if p.full {
		return false // the condition says it
	}
	off := max(seen.pending-p.pending, p.pending-seen.pending)
	return off >= max(p.maxPending/stepFraction/10, 1) || seen.pending == 0 && p.pending != 0
}

// distance returns how many changes it takes at least, and one at least, until something is due that is not due now.
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
