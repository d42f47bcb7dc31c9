// Package notice rate-limits log lines and Kubernetes Events.
package notice

import (
	"maps"
	"sync"
	"time"

	"k8s.io/utils/clock"
)

// Limiter allows one notice per key and interval, and counts the suppressed ones. It is safe for concurrent use.
type Limiter[K comparable] struct {
	interval time.Duration
	clock    clock.PassiveClock

	mu   sync.Mutex
	last map[K]*state
}

type state struct {
	at         time.Time
	suppressed int
}

// NewLimiter returns a Limiter with an interval.
func NewLimiter[K comparable](interval time.Duration, clock clock.PassiveClock) *Limiter[K] {
	return &Limiter[K]{interval: interval, clock: clock, last: map[K]*state{}}
}

// Forget removes the keys that a function selects, so that the Limiter does not grow with deleted objects.
func (l *Limiter[K]) Forget(isGone func(K) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	maps.DeleteFunc(l.last, func(key K, _ *state) bool { return isGone(key) })
}

// Allow reports whether a notice of a key is allowed now, and how many were suppressed since the last allowed one.
func (l *Limiter[K]) Allow(key K) (allowed bool, suppressed int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	last, now := l.last[key], l.clock.Now()
	if last == nil {
		last = &state{}
		l.last[key] = last
	}
	if now.Sub(last.at) < l.interval {
		last.suppressed++
		return false, 0
	}
	suppressed, last.suppressed, last.at = last.suppressed, 0, now
	return true, suppressed
}
