// Package retention decides which finished events of a source go. It is pure: it sees what is known of events page by page, keeps no more
// of them than it was allowed to, and knows neither Kubernetes nor a clock.
package retention

import (
	"container/heap"
	"time"
)

// Policy says how long a source's finished events are kept.
type Policy struct {
	// SucceededTTL and FailedTTL count from when all work on an event was done.
	SucceededTTL, FailedTTL time.Duration
	// MaxEvents is how many are kept; the oldest go first.
	MaxEvents int
	// MaxAge is how old a delivery may be to be stored, 0 where there is no limit. An event that is younger stays, whatever the rest says:
	// a request that is sent again is known by its event alone, and would be stored and acted on again.
	MaxAge time.Duration
}

// clockSkew is how far NetBox's clock, by which deliveries grow too old, may be ahead of the API server's.
const clockSkew = 5 * time.Minute

// Event is what a plan needs to know of a finished event.
type Event struct {
	Name string
	// UID and Version tell the event from another of its name, and from what it has become since.
	UID, Version string
	Failed       bool
	// Created is when it was stored.
	Created time.Time
	// Finished is when all work on it was done.
	Finished time.Time
}

// expiry is when an event has been kept long enough.
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

// protectedUntil is when the delivery of an event has become too old to be stored again.
func (p Policy) protectedUntil(event Event) time.Time {
	if p.MaxAge == 0 {
		return time.Time{}
	}
	return event.Created.Add(p.MaxAge + clockSkew)
}

// Plan is one look at all finished events of a source. The zero Plan is not one: see New.
type Plan struct {
	policy Policy
	now    time.Time
	limit  int

	kept   int
	oldest oldestEvents // of those kept that are not protected, at most limit and one more
	first  time.Time    // when the oldest of those kept was finished
	next   time.Time    // when the next of those kept has been kept long enough

	protected      int       // of those kept: younger than MaxAge
	protectedFirst time.Time // when the oldest of those was finished
	release        time.Time // when the next of those is no longer protected
}

// New begins a plan. It keeps at most limit events in memory, and so lets at most as many go because there are too many.
func New(policy Policy, now time.Time, limit int) *Plan {
	return &Plan{policy: policy, now: now, limit: limit}
}

// Look takes a page of events, in any order, and returns those that have been kept long enough.
func (p *Plan) Look(page []Event) (expired []Event) {
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

// Excess returns the oldest of the events that are too many and not protected, when all pages were looked at, oldest first; limit at most.
// More tells whether there are still too many of them.
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

// Kept is how many events stay: those that expired do not, nor does the excess once it was asked for.
func (p *Plan) Kept() int { return p.kept }

// Oldest is when the oldest of those that stay was finished, zero where there is none.
func (p *Plan) Oldest() time.Time { return p.first }

// Next is when the first of all that had not expired may go, zero where there was none.
func (p *Plan) Next() time.Time {
	if p.Protected() > p.policy.MaxEvents {
		return earlier(p.next, p.release)
	}
	return p.next
}

// Protected is how many of those that stay are younger than Policy.MaxAge. These may be more than Policy.MaxEvents.
func (p *Plan) Protected() int { return p.protected }

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}

// oldestEvents is a heap with the youngest at its root, which is the first to make room.
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
