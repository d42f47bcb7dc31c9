package delivery_test

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/delivery"
)

func seconds(n int) metav1.Duration { return metav1.Duration{Duration: time.Duration(n) * time.Second} }

func TestFirstGroup(t *testing.T) {
	start := time.Unix(1_800_000_000, 0)
	spec := &v1alpha1.Group{Quiet: seconds(5), MaxWait: seconds(12), MaxEvents: 4}
	for _, test := range []struct {
		reason   string
		received []int // seconds after start
		now      int
		size     int
		until    int // 0 for closed
	}{
		{"one event, just received", []int{0}, 1, 1, 5},
		{"one event, quiet", []int{0}, 5, 1, 0},
		{"another one in time", []int{0, 4}, 5, 2, 9},
		{"both quiet", []int{0, 4}, 9, 2, 0},
		{"another one too late", []int{0, 5}, 6, 1, 0},
		{"long after, as after a restart", []int{0, 4, 30}, 100, 2, 0},
		{"never quiet", []int{0, 4, 8}, 9, 3, 12},
		{"maxWait is over", []int{0, 4, 8}, 12, 3, 0},
		{"one after maxWait", []int{0, 4, 8, 12}, 13, 3, 0},
		{"maxEvents", []int{0, 1, 2, 3, 4}, 4, 4, 0},
		{"maxEvents, exactly", []int{0, 1, 2, 3}, 3, 4, 0},
	} {
		t.Run(test.reason, func(t *testing.T) {
			received := func(i int) time.Time { return start.Add(time.Duration(test.received[i]) * time.Second) }
			size, until := delivery.FirstGroup(received, len(test.received), spec, start.Add(time.Duration(test.now)*time.Second))
			var want time.Time
			if test.until > 0 {
				want = start.Add(time.Duration(test.until) * time.Second)
			}
			if size != test.size || !until.Equal(want) {
				t.Errorf("%d events until %v, want %d until %v", size, until, test.size, want)
			}
		})
	}
}

// TestGroupsAfterRestart checks that events are in the same groups whenever they are looked at: one by one as they come, or all at once.
func TestGroupsAfterRestart(t *testing.T) {
	for seed := range uint64(200) {
		random := rand.New(rand.NewPCG(seed, 1))
		spec := &v1alpha1.Group{Quiet: seconds(1 + random.IntN(5)), MaxWait: seconds(5 + random.IntN(20)), MaxEvents: int32(1 + random.IntN(10))}
		var received []time.Time
		at := time.Unix(1_800_000_000, 0)
		for range 60 {
			at = at.Add(time.Duration(random.IntN(6000)) * time.Millisecond)
			received = append(received, at)
		}
		groups := func(looks func(i int) []time.Time) (sizes []int) {
			var open []time.Time
			next := 0
			for i := range received {
				for _, now := range looks(i) {
					for ; next <= i && !received[next].After(now); next++ {
						open = append(open, received[next])
					}
					for len(open) > 0 {
						size, until := delivery.FirstGroup(func(i int) time.Time { return open[i] }, len(open), spec, now)
						if !until.IsZero() {
							break
						}
						if wait := open[size-1].Sub(open[0]); wait > spec.MaxWait.Duration || size > int(spec.MaxEvents) {
							t.Errorf("seed %d: a group of %d events in %s", seed, size, wait)
						}
						sizes, open = append(sizes, size), slices.Clone(open[size:])
					}
				}
			}
			return sizes
		}
		end := at.Add(time.Hour)
		asTheyCome := groups(func(i int) []time.Time {
			looks := []time.Time{received[i]}
			if i == len(received)-1 {
				return append(looks, end)
			}
			for look := received[i]; look.Before(received[i+1]); look = look.Add(100 * time.Millisecond) {
				looks = append(looks, look)
			}
			return looks
		})
		atOnce := groups(func(i int) []time.Time {
			if i < len(received)-1 {
				return nil
			}
			return []time.Time{end}
		})
		if !slices.Equal(asTheyCome, atOnce) {
			t.Errorf("seed %d: groups of %v as they come, of %v at once", seed, asTheyCome, atOnce)
		}
	}
}

func TestMembers(t *testing.T) {
	set := delivery.NewMemberSet(delivery.EncodeMembers([]string{"site-1-updated-1", "site-2-updated-2"}))
	if !set.Has("site-1-updated-1") || !set.Has("site-2-updated-2") || set.Has("site-3-updated-3") || delivery.MemberSet(nil).Has("site-1-updated-1") {
		t.Errorf("the set is %v", set)
	}
}
