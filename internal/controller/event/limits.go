package event

import (
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"k8s.io/apimachinery/pkg/types"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

// limits bounds the deliveries of the rules that have spec.limit. It is safe for concurrent use.
type limits struct {
	mu     sync.Mutex
	byRule map[types.NamespacedName]*limit
}

// limit is that of one rule. A delivery first waits for its time, which perSecond gives it, and then for a place among those of its key.
type limit struct {
	spec   v1alpha1.Limit
	rate   *rate.Limiter       // nil for no rate
	starts map[*unit]time.Time // of units that wait for their time, or for a place after it
	places map[string]*places  // by key
	woken  map[*unit]string    // units that free or settle returned, with the key; each takes a place or lets another go first
}

// places are those of one key.
type places struct {
	taken   map[*entry]bool // by events whose delivery is in flight, or waits for its result
	waiting []*unit         // in the order in which they came
}

func newLimits() *limits { return &limits{byRule: map[types.NamespacedName]*limit{}} }

// of returns the limit of a rule. After a change of the rule, deliveries wait anew; see reset.
func (l *limits) of(rule types.NamespacedName) *limit {
	if l.byRule[rule] == nil {
		l.byRule[rule] = &limit{starts: map[*unit]time.Time{}, places: map[string]*places{}, woken: map[*unit]string{}}
	}
	return l.byRule[rule]
}

func (l *limit) at(key string) *places {
	if l.places[key] == nil {
		l.places[key] = &places{taken: map[*entry]bool{}}
	}
	return l.places[key]
}

// start asks whether a delivery may start. If not, wait is the time until it asks again, 0 if free or settle returns its unit.
func (l *limits) start(u *unit, e *entry, key string, spec v1alpha1.Limit, now time.Time) (wait time.Duration, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	limit := l.of(u.rule)
	if limit.spec != spec {
		limit.spec, limit.rate = spec, nil
		clear(limit.starts)
		if spec.PerSecond > 0 {
			limit.rate = rate.NewLimiter(rate.Limit(spec.PerSecond), 1)
		}
	}
	if at := limit.at(key); !at.taken[e] { // else it goes on with what it began
		if limit.rate != nil {
			start, waits := limit.starts[u]
			if !waits {
				start = now.Add(limit.rate.ReserveN(now, 1).DelayFrom(now))
				limit.starts[u] = start
			}
			if start.After(now) {
				return start.Sub(now), false
			}
		}
		if spec.Concurrency > 0 && len(at.taken) >= int(spec.Concurrency) {
			if !slices.Contains(at.waiting, u) {
				at.waiting = append(at.waiting, u)
			}
			return 0, false
		}
	}
	delete(limit.starts, u)
	delete(limit.woken, u)
	limit.at(key).taken[e] = true
	return 0, true
}

// occupy takes a place for an event whose delivery began before this replica led, and waits for its result.
func (l *limits) occupy(rule types.NamespacedName, e *entry, key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.of(rule).at(key).taken[e] = true
}

// free gives back the places of an event, of one rule or, where the name is empty, of all. It returns the units that may start now.
func (l *limits) free(rule string, e *entry) (units []*unit) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, limit := range l.byRule {
		if name.Namespace != e.name.Namespace || rule != "" && name.Name != rule {
			continue
		}
		for key, at := range limit.places {
			if at.taken[e] {
				delete(at.taken, e)
				units = append(units, limit.wake(key)...)
			}
		}
	}
	return units
}

// settle is called after each use of a unit. A unit that was woken, and has nothing to deliver after all, lets the next go first.
func (l *limits) settle(u *unit) (units []*unit) {
	l.mu.Lock()
	defer l.mu.Unlock()
	limit := l.byRule[u.rule]
	if limit == nil {
		return nil
	}
	key, wasWoken := limit.woken[u]
	if !wasWoken {
		return nil
	}
	delete(limit.woken, u)
	return limit.wake(key)
}

// drop forgets that a unit waits, because it has nothing to deliver.
func (l *limits) drop(u *unit) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if limit := l.byRule[u.rule]; limit != nil {
		delete(limit.starts, u)
	}
}

// wake returns the units that wait for a place of a key and may have one now.
func (l *limit) wake(key string) []*unit {
	at := l.places[key]
	if at == nil {
		return nil
	}
	count := len(at.waiting)
	if concurrency := int(l.spec.Concurrency); concurrency > 0 {
		count = min(count, max(0, concurrency-len(at.taken)))
	}
	woken := slices.Clone(at.waiting[:count])
	at.waiting = slices.Delete(at.waiting, 0, count)
	for _, u := range woken {
		l.woken[u] = key
	}
	if len(at.taken)+len(at.waiting) == 0 {
		delete(l.places, key)
	}
	return woken
}

// reset returns the units that wait for a changed rule: its limit may be another.
func (l *limits) reset(rule types.NamespacedName) (units []*unit) {
	l.mu.Lock()
	defer l.mu.Unlock()
	limit := l.byRule[rule]
	if limit == nil {
		return nil
	}
	for u := range limit.starts {
		units = append(units, u)
	}
	for _, at := range limit.places {
		units = append(units, at.waiting...)
		at.waiting = nil
	}
	clear(limit.woken)
	return units
}

// forget drops the limit of a deleted rule.
func (l *limits) forget(rule types.NamespacedName) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.byRule, rule)
}
