package notice

import (
	"testing"
	"time"

	clocktesting "k8s.io/utils/clock/testing"
)

func TestLimiter(t *testing.T) {
	clock := clocktesting.NewFakePassiveClock(time.Now())
	limiter := NewLimiter[string](time.Minute, clock)
	expect := func(reason, key string, allowed bool, suppressed int) {
		t.Helper()
		if a, w := limiter.Allow(key); a != allowed || w != suppressed {
			t.Errorf("%s: allowed %t, %d suppressed, want %t and %d", reason, a, w, allowed, suppressed)
		}
	}
	expect("the first", "a", true, 0)
	expect("the second", "a", false, 0)
	expect("another key", "b", true, 0)
	clock.SetTime(clock.Now().Add(time.Minute))
	expect("after the interval", "a", true, 1)
	limiter.Forget(func(key string) bool { return key == "a" })
	expect("a forgotten key", "a", true, 0)
	if len(limiter.last) != 2 {
		t.Errorf("%d keys, want 2", len(limiter.last))
	}
}
