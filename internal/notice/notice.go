// Package notice keeps notices that could come in floods to one now and then, and within what a Kubernetes Event takes.
package notice

import (
	"maps"
	"sync"
	"time"

	"k8s.io/utils/clock"
)

// Limiter lets one notice of each key through in an interval, and counts the others. It is safe for concurrent use.
type Limiter[K comparable] struct {
	interval time.Duration
	clock    clock.PassiveClock

	mu   sync.Mutex
	last map[K]*state
}

type state struct {
	at       time.Time
	withheld int
}

// NewLimiter returns a Limiter that has let nothing through yet.
func NewLimiter[K comparable](interval time.Duration, clock clock.PassiveClock) *Limiter[K] {
	return &Limiter[K]{interval: interval, clock: clock, last: map[K]*state{}}
}

// Forget forgets the keys that are gone, so that the Limiter does not grow with the keys that ever were.
func (l *Limiter[K]) Forget(isGone func(K) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	maps.DeleteFunc(l.last, func(key K, _ *state) bool { return isGone(key) })
}

// Allow tells whether a notice of a key may be given now, and how many were not since the last that was.
func (l *Limiter[K]) Allow(key K) (allowed bool, withheld int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	last, now := l.last[key], l.clock.Now()
	if last == nil {
		last = &state{}
		l.last[key] = last
	}
	if now.Sub(last.at) < l.interval {
		last.withheld++
		return false, 0
	}
	withheld, last.withheld, last.at = last.withheld, 0, now
	return true, withheld
}
