// Command backlog measures events whose sink is unavailable, and fails if a promise is broken:
//
//   - hangs: many events, each of another object, wait for a sink that accepts requests and never answers: the memory of managers with a pod's
//     memory limit, the rate of intake and writes meanwhile, a crash of the leader, and the time to drain the backlog;
//   - few: the same with few objects, so that events wait for each other;
//   - throttled: a sink accepts one event a second, and answers 429 with Retry-After otherwise;
//   - down: a sink refuses connections, then answers 503, then hangs, for some time each.
//
// Each measurement has its own control plane.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/test/fleet"
)

const (
	replicas = 2
	// maxEvents exceeds the number of stored events, so that retention deletes none before it is counted.
	maxEvents = 1_000_000
	// memoryLimit is that of the chart.
	memoryLimit = 512 << 20
	// senders is the number of deliveries in flight.
	senders = 64
	// limit is the time-out of the whole program, with a large margin.
	limit = 3 * time.Hour
	// settle is the minimum time allowed for finishing events that nothing blocks any more.
	settle = time.Minute
	// slowest is the minimum rate per second at which a backlog must drain.
	slowest = 20
)

// flags are the settings of a run.
type flags struct {
	events, more, objects int
	maxBackoff            time.Duration

	throttledEvents int
	throttledRate   float64

	downEvents                int
	down                      time.Duration
	downBackoff, downMaxPause time.Duration
}

func main() {
	var f flags
	only := flag.String("only", "hangs,few,throttled,down", "comma-separated `names` of the measurements to run")
	flag.IntVar(&f.events, "events", 40_000, "hangs, few: number of pending events")
	flag.IntVar(&f.more, "more", 10_000, "hangs, few: number of further pending events, sent after that was measured")
	flag.IntVar(&f.objects, "objects", 20, "few: number of objects of the events")
	flag.DurationVar(&f.maxBackoff, "max-backoff", 30*time.Second, "hangs, few: the rule's retry.maxBackoff")
	flag.IntVar(&f.throttledEvents, "throttled-events", 500, "throttled: number of events")
	flag.Float64Var(&f.throttledRate, "throttled-rate", 1, "throttled: events per second that the sink accepts")
	flag.IntVar(&f.downEvents, "down-events", 10_000, "down: number of events sent during the outage")
	flag.DurationVar(&f.down, "down", 6*time.Minute, "down: total duration of the outage")
	flag.DurationVar(&f.downBackoff, "down-backoff", time.Second, "down: the rule's retry.backoff")
	flag.DurationVar(&f.downMaxPause, "down-max-backoff", 30*time.Second, "down: the rule's retry.maxBackoff")
	flag.Parse()
	fleet.Main("backlog", limit, func(ctx context.Context) error {
		var broken []error
		for name := range strings.SplitSeq(*only, ",") {
			measure, known := map[string]func(context.Context, *flags) error{
				"hangs": hangs, "few": few, "throttled": throttled, "down": down,
			}[name]
			if !known {
				return fmt.Errorf("unknown measurement %q", name)
			}
			broken = append(broken, measure(ctx, &f))
		}
		return errors.Join(broken...)
	})
}

// scene is the setup of each measurement: two replicas of which the first leads, a sender, and a rule that sends every event to a sink.
type scene struct {
	*fleet.Fleet
	sender *fleet.Sender
	sink   *fleet.Sink
	began  time.Time
}

// with sets up a scene, and runs do in it. The leader has received and delivered some events before, so that a warm process is measured.
func with(ctx context.Context, options fleet.Options, retry v1alpha1.Retry, do func(*scene) error) (err error) {
	s := &scene{began: time.Now()}
	if s.Fleet, err = fleet.Start(ctx, options); err != nil {
		return err
	}
	defer func() { err = s.End(err) }()
	for i, replica := range s.Replicas {
		if err := errors.Join(replica.Start(), replica.Ready(ctx)); err != nil {
			return err
		}
		if i == 0 {
			if err := s.Served(ctx); err != nil {
				return err
			}
		}
	}
	if s.sender, err = s.NewSender(); err != nil {
		return err
	}
	if s.sink, err = fleet.NewSink(ctx, s.sender.Began); err != nil {
		return err
	}
	defer s.sink.Close()
	if err := s.CreateRule(ctx, s.sink, retry); err != nil {
		return err
	}
	s.sender.Steady(ctx, 40, 10*time.Second)
	if err := s.Finished(ctx, settle); err != nil {
		return err
	}
	return do(s)
}

// waiting returns the time allowed for delivering some events.
func waiting(events int) time.Duration { return settle + time.Duration(events)*time.Second/slowest }

// retry is that of a rule whose deliveries do not expire meanwhile.
func retry(backoff, maxBackoff, timeout time.Duration) v1alpha1.Retry {
	return v1alpha1.Retry{
		Backoff: metav1.Duration{Duration: backoff}, MaxBackoff: metav1.Duration{Duration: maxBackoff}, Timeout: metav1.Duration{Duration: timeout},
	}
}

// counters are the totals that grow while events are pending.
type counters struct {
	at                             time.Time
	writes, statusWrites, attempts float64
}

// count reads the counters. The attempts are those of the current leader.
func (s *scene) count(ctx context.Context, leader *fleet.Replica) (now counters, err error) {
	metrics, err := leader.Metrics(ctx)
	if err != nil {
		return now, err
	}
	now.at, now.attempts = time.Now(), metrics["netbox_events_deliveries_total"]
	if now.writes, err = s.Writes(ctx); err != nil {
		return now, err
	}
	now.statusWrites, err = s.StatusWrites(ctx)
	return now, err
}

// perSecond returns the rates of the counters.
func (c counters) perSecond(since counters) counters {
	took := c.at.Sub(since.at).Seconds()
	return counters{
		writes: (c.writes - since.writes) / took, statusWrites: (c.statusWrites - since.statusWrites) / took,
		attempts: (c.attempts - since.attempts) / took,
	}
}
