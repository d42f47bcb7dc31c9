package event

import (
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

// TestRate checks the times at which deliveries of a rule with limit.perSecond start, however often they ask.
func TestRate(t *testing.T) {
	l, rule, begin := newLimits(), types.NamespacedName{Namespace: "n", Name: "rule"}, time.Unix(1_800_000_000, 0)
	spec := v1alpha1.Limit{PerSecond: 4}
	var units []*unit
	entries := map[*unit]*entry{}
	for range 6 {
		u := &unit{rule: rule}
		units, entries[u] = append(units, u), &entry{}
	}
	start := func(u *unit, at time.Duration) (time.Duration, bool) {
		return l.start(u, entries[u], "", spec, begin.Add(at))
	}
	for at := time.Duration(0); at <= time.Second; at += 50 * time.Millisecond {
		for i, u := range units {
			due := time.Duration(i) * 250 * time.Millisecond
			if wait, ok := start(u, at); ok != (at >= due) || !ok && wait != due-at {
				t.Errorf("delivery %d after %s: may start %t, waits %s, want it at %s", i, at, ok, wait, due)
			}
		}
	}
	spec.PerSecond = 1 // the limit starts anew
	if wait, ok := start(&unit{rule: rule}, time.Second); !ok {
		t.Errorf("the first delivery after a change waits %s", wait)
	}
	if wait, ok := start(units[5], time.Second); ok || wait != time.Second {
		t.Errorf("the second delivery after a change may start %t, waits %s", ok, wait)
	}
}
