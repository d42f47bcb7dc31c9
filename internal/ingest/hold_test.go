package ingest

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// TestHolds holds deliveries of two sources during an outage of 20 s.
func TestHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const outage, each = 20 * time.Second, 15
		holds := newHolds(25*time.Second, prometheus.NewGauge(prometheus.GaugeOpts{}))
		back := time.Now().Add(outage)
		var mu sync.Mutex
		var order []string
		tries := 0
		for n := range each {
			for _, source := range []string{"a", "b"} {
				go func() {
					hold := holds.begin(t.Context(), source, time.Now())
					defer hold.end()
					err := hold.retry(func(int) error {
						mu.Lock()
						defer mu.Unlock()
						tries++
						if time.Now().Before(back) {
							return unavailable("away", time.Second, nil)
						}
						order = append(order, source+fmt.Sprintf("%02d", n))
						return nil
					})
					if err != nil {
						t.Errorf("delivery %d of %s: %v after %s", n, source, err, time.Since(hold.since))
					}
					time.Sleep(time.Millisecond) // latency of the API server
					holds.resume(source)
				}()
			}
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(outage - each*10*time.Millisecond - 1)
		synctest.Wait()
		mu.Lock()
		if most := each * 2 * 20; tries > most {
			t.Errorf("%d attempts during the outage, want at most %d", tries, most)
		}
		mu.Unlock()
		time.Sleep(maxPause + time.Second)
		synctest.Wait()
		for _, source := range []string{"a", "b"} {
			mine := slices.DeleteFunc(slices.Clone(order), func(name string) bool { return name[:1] != source })
			// The first one happened to be retried then. After it, deliveries resume longest held first, except those whose backoff ended meanwhile.
			if len(mine) != each || !slices.Contains(mine[1:4], source+"00") && mine[0] != source+"00" {
				t.Errorf("source %s: stored in the order %v", source, mine)
			}
		}
		if len(holds.waiting) > 0 {
			t.Errorf("%v are still held", holds.waiting)
		}
	})
}

func TestHoldEnds(t *testing.T) {
	for _, test := range []struct {
		reason string
		stopAt time.Duration
		asked  time.Duration // by the API server
		want   time.Duration
		tries  int // 0: any number
	}{
		{reason: "the hold ends", want: 25 * time.Second},
		{reason: "the receiver stops", stopAt: 3 * time.Second, want: 3 * time.Second},
		{reason: "the receiver is stopping already", stopAt: time.Nanosecond, want: 500 * time.Millisecond, tries: 1},
		{reason: "the API server asks to wait longer than the hold", asked: time.Minute, want: 500 * time.Millisecond, tries: 1},
		{reason: "the API server asks to wait, and the receiver stops", asked: 10 * time.Second, stopAt: 7 * time.Second, want: 7 * time.Second, tries: 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			holds := newHolds(25*time.Second, prometheus.NewGauge(prometheus.GaugeOpts{}))
			if test.stopAt > 0 {
				time.AfterFunc(test.stopAt, holds.stop)
			}
			began, tries := time.Now(), 0
			hold := holds.begin(t.Context(), "a", began)
			err := hold.retry(func(int) error {
				tries++
				select { // an attempt takes 500 ms, and ends with the hold
				case <-hold.ctx.Done():
				case <-time.After(500 * time.Millisecond):
				}
				if test.asked > 0 {
					hold.waitRetryAfter(test.asked)
				}
				return unavailable("away", time.Second, nil)
			})
			hold.end()
			if refusal, ok := errors.AsType[*answer](err); !ok || refusal.result != resultUnavailable {
				t.Errorf("%s: %v", test.reason, err)
			}
			if took := time.Since(began); took != test.want || test.tries > 0 && tries != test.tries {
				t.Errorf("%s: answered after %s and %d attempts, want %s and %d", test.reason, took, tries, test.want, test.tries)
			}
		})
	}
}
