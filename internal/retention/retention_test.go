package retention

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

var now = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func names(events []Event) []string {
	names := []string{}
	for _, event := range events {
		names = append(names, event.Name)
	}
	return names
}

func finished(ago time.Duration, failed bool) Event {
	return Event{Name: fmt.Sprintf("%s-%t", ago, failed), Failed: failed, Finished: now.Add(-ago)}
}

func TestExpired(t *testing.T) {
	plan := New(Policy{SucceededTTL: time.Hour, FailedTTL: 3 * time.Hour, MaxEvents: 100}, now, 10)
	expired := plan.Evaluate([]Event{
		finished(time.Hour, false),             // at expiry
		finished(time.Hour-time.Second, false), // a second later
		finished(time.Hour, true),
		finished(3*time.Hour, true),
		finished(-time.Minute, false), // in the future, by clock skew
	})
	if want := []string{"1h0m0s-false", "3h0m0s-true"}; !slices.Equal(names(expired), want) {
		t.Errorf("expired are %v, want %v", names(expired), want)
	}
	if excess, more := plan.Excess(); len(excess) != 0 || more {
		t.Errorf("excess are %v, more: %t", excess, more)
	}
	if plan.Kept() != 3 || !plan.Oldest().Equal(now.Add(-time.Hour)) || !plan.Next().Equal(now.Add(time.Second)) {
		t.Errorf("%d are kept, the oldest finished at %s, the next expires at %s", plan.Kept(), plan.Oldest(), plan.Next())
	}
}

// For any order and paging, the excess is the oldest events, and exactly as many as exceed MaxEvents.
func TestExcess(t *testing.T) {
	for _, test := range []struct{ events, maxEvents, limit, excess, kept int }{
		{events: 100, maxEvents: 100, limit: 10, excess: 0, kept: 100},
		{events: 100, maxEvents: 97, limit: 10, excess: 3, kept: 97},
		{events: 100, maxEvents: 90, limit: 10, excess: 10, kept: 90},
		{events: 100, maxEvents: 50, limit: 10, excess: 10, kept: 90},
		{events: 5, maxEvents: 1, limit: 10, excess: 4, kept: 1},
		{events: 0, maxEvents: 1, limit: 10, excess: 0, kept: 0},
	} {
		events := []Event{}
		for i := range test.events {
			events = append(events, finished(time.Duration(test.events-i)*time.Second, i%2 == 0))
		}
		oldest := slices.Clone(events[:test.excess])
		stays := time.Time{}
		if test.excess < len(events) {
			stays = events[test.excess].Finished
		}
		rand.Shuffle(len(events), func(i, j int) { events[i], events[j] = events[j], events[i] })

		plan := New(Policy{SucceededTTL: time.Hour, FailedTTL: time.Hour, MaxEvents: test.maxEvents}, now, test.limit)
		for page := range slices.Chunk(events, 7) {
			if expired := plan.Evaluate(page); len(expired) != 0 {
				t.Errorf("%+v: expired are %v", test, names(expired))
			}
		}
		excess, more := plan.Excess()
		if !slices.Equal(names(excess), names(oldest)) || more != (test.kept > test.maxEvents) {
			t.Errorf("%+v: excess are %v, more: %t; want %v", test, names(excess), more, names(oldest))
		}
		if plan.Kept() != test.kept || !plan.Oldest().Equal(stays) {
			t.Errorf("%+v: %d are kept, the oldest finished at %s, want %s", test, plan.Kept(), plan.Oldest(), stays)
		}
	}
}

// Events whose delivery could be accepted again are kept: beyond MaxEvents, and beyond their TTL by clockSkew.
func TestMaxAge(t *testing.T) {
	const maxAge, protected = time.Hour, time.Hour + clockSkew
	event := func(name string, failed bool, created, finished time.Duration) Event {
		return Event{Name: name, Failed: failed, Created: now.Add(-created), Finished: now.Add(-finished)}
	}
	expired := event("expired", false, protected, protected-time.Second)
	skewed := event("skewed", false, protected-time.Second, protected-time.Second)
	old := event("old", true, 3*time.Hour, 2*time.Hour)
	young := event("young", true, 30*time.Minute, 20*time.Minute)
	for _, test := range []struct {
		maxEvents       int
		events          []Event
		expired, excess []string
		protected       int
		oldest, next    time.Duration // from now
	}{
		{1, []Event{expired, skewed, old, young}, []string{"expired"}, []string{"old"}, 2, time.Second - protected, time.Second},
		{2, []Event{expired, skewed, old, young}, []string{"expired"}, []string{"old"}, 2, time.Second - protected, time.Second},
		{3, []Event{expired, skewed, old, young}, []string{"expired"}, []string{}, 2, -2 * time.Hour, time.Second},
		{1, []Event{young, young}, []string{}, []string{}, 2, -20 * time.Minute, protected - 30*time.Minute}, // may be deleted as excess
		{2, []Event{young, young}, []string{}, []string{}, 2, -20 * time.Minute, 10*time.Hour - 20*time.Minute},
	} {
		plan := New(Policy{SucceededTTL: maxAge, FailedTTL: 10 * time.Hour, MaxEvents: test.maxEvents, MaxAge: maxAge}, now, 10)
		gone := names(plan.Evaluate(test.events))
		excess, more := plan.Excess()
		if !slices.Equal(gone, test.expired) || !slices.Equal(names(excess), test.excess) || more {
			t.Errorf("of %v, at most %d: expired are %v, excess are %v, more: %t", names(test.events), test.maxEvents, gone, names(excess), more)
		}
		oldest, next := plan.Oldest().Sub(now), plan.Next().Sub(now)
		if plan.Protected() != test.protected || oldest != test.oldest || next != test.next {
			t.Errorf("of %v, at most %d: %d are protected, the oldest finished %s from now, and the next may be deleted %s from now",
				names(test.events), test.maxEvents, plan.Protected(), oldest, next)
		}
	}
}

// TestUnread: the events of changes that may be read again from the change log are kept beyond MaxEvents.
func TestUnread(t *testing.T) {
	event := func(name string, age time.Duration) Event {
		return Event{Name: name, Created: now.Add(-age), Finished: now.Add(-age)}
	}
	read, skewed, unread, tooOld := event("read", 3*time.Hour), event("skewed", 2*time.Hour+clockSkew/2), event("unread", time.Hour), event("old", 30*time.Hour)
	for _, test := range []struct {
		unreadSince time.Time
		excess      []string
	}{
		{now.Add(-2 * time.Hour), []string{"old", "read"}},
		{now.Add(-48 * time.Hour), []string{"old"}},
		{time.Time{}, []string{"old", "read", "skewed"}},
	} {
		plan := New(Policy{
			SucceededTTL: 72 * time.Hour, FailedTTL: 72 * time.Hour, MaxEvents: 1, UnreadSince: test.unreadSince, UnreadAge: 24 * time.Hour,
		}, now, 10)
		plan.Evaluate([]Event{read, skewed, unread, tooOld})
		if excess, _ := plan.Excess(); !slices.Equal(names(excess), test.excess) {
			t.Errorf("read until %s: the excess is %v, want %v", test.unreadSince, names(excess), test.excess)
		}
	}
}
