package event

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"
)

const (
	// guardInterval is the time between two signs of life.
	guardInterval = time.Second
	// stallLimit is how long this process may have been stopped, as by SIGSTOP or a frozen cgroup, and still lead for sure:
	// controller-runtime's LeaseDuration (15 s) less RetryPeriod (2 s) and some. The clock stands still while a machine is suspended.
	stallLimit = 10 * time.Second
)

// stallGuard detects that this process was stopped for so long that another replica may lead. client-go's elector detects it too, but only
// after deliveries have continued for a moment.
type stallGuard struct{ alive atomic.Int64 } // since start, in ns

// start is a reading of the monotonic clock, which time.Since compares with.
var start = time.Now()

// run gives up the leadership after this process was stopped for too long.
func (g *stallGuard) run(ctx context.Context) error {
	g.alive.Store(int64(time.Since(start)))
	ticker := time.NewTicker(guardInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			if stalled := g.stalled(); stalled >= stallLimit {
				return fmt.Errorf("this process did not run for %s, and another may lead", stalled.Round(time.Second))
			}
			g.alive.Store(int64(time.Since(start)))
		}
	}
}

func (g *stallGuard) stalled() time.Duration {
	return time.Since(start) - time.Duration(g.alive.Load())
}

func (g *stallGuard) isStalled() bool { return g.stalled() >= stallLimit }
