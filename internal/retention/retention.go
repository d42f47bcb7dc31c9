// Package retention selects the finished events of a source to delete. It is pure: it evaluates the metadata of events page by page, within
// a bounded memory, and imports neither Kubernetes nor a clock.
package retention

import (
	"container/heap"
	"time"
)

// Policy limits the age and number of a source's finished events.
type Policy struct {
	// SucceededTTL and FailedTTL start when an event was finished.
	SucceededTTL, FailedTTL time.Duration
	// MaxEvents is the maximum number of events; the oldest are deleted first.
	MaxEvents int
	// MaxAge is the maximum age of a delivery that is accepted, 0 for no limit. Younger events are protected from all other limits: a request
	// that is sent again is deduplicated by its event alone, and would otherwise be stored and processed again.
	MaxAge time.Duration
	// UnreadSince is the time up to which NetBox's change log was read, zero if it is not read. Events of later changes are protected for
	// UnreadAge: a change is known to be stored by its event alone, and would otherwise be stored and processed again.
	UnreadSince time.Time
	UnreadAge   time.Duration
}

// clockSkew is the tolerated difference by which NetBox's clock, which determines the age of deliveries, is ahead of the API server's.
const clockSkew = 5 * time.Minute

// Event is the metadata of a finished event.
type Event struct {
	Name string
	// UID and Version are preconditions of the deletion: the event was neither recreated nor changed.
	UID, Version string
	Failed       bool
	// Created is the time of its creation.
	Created time.Time
	// Finished is the time at which it was finished.
	Finished time.Time
}

// expiry returns the time at which an event expires.
func (p Policy) expiry(event Event) time.Time {
	ttl := p.SucceededTTL
	if event.Failed {
		ttl = p.FailedTTL
	}
	expiry := event.Finished.Add(ttl)
	if end := p.protectedUntil(event); end.After(expiry) {
		return end
	}
	return expiry
}

// protectedUntil returns the time from which the change of an event is too old to be accepted or read again, zero for no protection.
func (p Policy) protectedUntil(event Event) time.Time {
	longest := p.MaxAge
	if !p.UnreadSince.IsZero() && event.Created.After(p.UnreadSince.Add(-clockSkew)) {
		longest = max(longest, p.UnreadAge)
	}
	if longest == 0 {
		return time.Time{}
	}
	return event.Created.Add(longest + clockSkew)
}

// Plan is one evaluation of all finished events of a source. See New.
type Plan struct {
	policy Policy
	now    time.Time
	limit  int

	kept   int
	oldest oldestEvents // kept and unprotected, at most limit+1
	first  time.Time    // Finished of the oldest kept event
	next   time.Time    // next expiry of a kept event

	protected      int       // kept events that policy protects
	protectedFirst time.Time // Finished of the oldest of them
	release        time.Time // next end of their protection
}

// New returns a plan that keeps at most limit events in memory, and therefore selects at most as many as excess.
func New(policy Policy, now time.Time, limit int) *Plan {
	return &Plan{policy: policy, now: now, limit: limit}
}

// Evaluate adds a page of events, in any order, and returns the expired ones.
func (p *Plan) Evaluate(page []Event) (expired []Event) {
	for _, event := range page {
		due := p.policy.expiry(event)
		if !due.After(p.now) {
			expired = append(expired, event)
			continue
		}
		p.kept++
		p.next = earlier(p.next, due)
		p.first = earlier(p.first, event.Finished)
		switch end := p.policy.protectedUntil(event); {
		case end.After(p.now):
			p.protected++
			p.protectedFirst = earlier(p.protectedFirst, event.Finished)
			p.release = earlier(p.release, end)
		case p.oldest.Len() <= p.limit:
			heap.Push(&p.oldest, event)
		case event.Finished.Before(p.oldest[0].Finished):
			p.oldest[0] = event
			heap.Fix(&p.oldest, 0)
		}
	}
	return expired
}

// Excess returns the unprotected events over MaxEvents, oldest first and at most limit, after all pages were evaluated. More reports
// whether an excess is left.
func (p *Plan) Excess() (excess []Event, more bool) {
	tooMany := min(p.kept-p.policy.MaxEvents, p.kept-p.protected)
	if tooMany <= 0 {
		return nil, false
	}
	more, tooMany = tooMany > p.limit, min(tooMany, p.limit)
	p.first = p.protectedFirst
	for p.oldest.Len() > tooMany {
		p.first = earlier(p.protectedFirst, heap.Pop(&p.oldest).(Event).Finished)
	}
	excess = make([]Event, p.oldest.Len())
	for i := len(excess) - 1; i >= 0; i-- {
		excess[i] = heap.Pop(&p.oldest).(Event)
	}
	p.kept -= len(excess)
	return excess, more
}

// Kept returns the number of kept events: without the expired ones, and without the excess after a call of Excess.
func (p *Plan) Kept() int { return p.kept }

// Oldest returns the time at which the oldest kept event was finished, zero for none.
func (p *Plan) Oldest() time.Time { return p.first }

// Next returns the earliest time at which an event that had not expired may be deleted, zero for none.
func (p *Plan) Next() time.Time {
	if p.Protected() > p.policy.MaxEvents {
		return earlier(p.next, p.release)
	}
	return p.next
}

// Protected returns the number of kept events that are protected, which may exceed Policy.MaxEvents.
func (p *Plan) Protected() int { return p.protected }

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}

// oldestEvents is a heap with the youngest event at its root, which is replaced first.
type oldestEvents []Event

func (o oldestEvents) Len() int           { return len(o) }
func (o oldestEvents) Less(i, j int) bool { return o[i].Finished.After(o[j].Finished) }
func (o oldestEvents) Swap(i, j int)      { o[i], o[j] = o[j], o[i] }
func (o *oldestEvents) Push(event any)    { *o = append(*o, event.(Event)) }
func (o *oldestEvents) Pop() any {
	last := len(*o) - 1
	event := (*o)[last]
	(*o)[last] = Event{}
	*o = (*o)[:last]
	return event
}
