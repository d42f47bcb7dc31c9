// Command backlog measures what becomes of events whose sink does not take them, and holds it against what is promised:
//
//   - hangs: many wait for a sink that accepts and never answers, each of another object: the memory of managers that have as much as in a pod,
//     what goes on meanwhile, a leader that is killed, and how soon all are delivered when the sink answers;
//   - few: the same, of few objects, so that they wait for each other;
//   - throttled: a sink takes one a second, and answers 429 with Retry-After otherwise;
//   - down: a sink refuses connections, then answers 503, then hangs, for some time each.
//
// Each has a control plane of its own.
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
	// maxEvents is more than are stored: nothing is to be deleted before it is counted.
	maxEvents = 1_000_000
	// memoryLimit is that of the chart.
	memoryLimit = 512 << 20
	// senders is how many deliveries are on their way at once.
	senders = 64
	// limit is far more than it takes.
	limit = 3 * time.Hour
	// settle is how long events may take to be finished at the least that are not held up any more.
	settle = time.Minute
	// slowest is the least rate, a second, at which a backlog is delivered.
	slowest = 20
)

// flags are what a run is told.
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
	only := flag.String("only", "hangs,few,throttled,down", "comma-separated `names` of what to measure")
	flag.IntVar(&f.events, "events", 40_000, "hangs, few: how many events wait")
	flag.IntVar(&f.more, "more", 10_000, "hangs, few: how many more wait after that was measured")
	flag.IntVar(&f.objects, "objects", 20, "few: of how many objects they are")
	flag.DurationVar(&f.maxBackoff, "max-backoff", 30*time.Second, "hangs, few: the rule's retry.maxBackoff")
	flag.IntVar(&f.throttledEvents, "throttled-events", 500, "throttled: how many events")
	flag.Float64Var(&f.throttledRate, "throttled-rate", 1, "throttled: how many the sink takes a second")
	flag.IntVar(&f.downEvents, "down-events", 10_000, "down: how many events come meanwhile")
	flag.DurationVar(&f.down, "down", 6*time.Minute, "down: how long in all")
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
				return fmt.Errorf("there is nothing called %q to measure", name)
			}
			broken = append(broken, measure(ctx, &f))
		}
		return errors.Join(broken...)
	})
}

// scene is what each measurement has: two replicas of which the first leads, a sender, and a rule that sends every event to a sink.
type scene struct {
	*fleet.Fleet
	sender *fleet.Sender
	sink   *fleet.Sink
	began  time.Time
}

// with sets a scene while do runs. The leader has taken and delivered some events, so that one is measured that has worked before.
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

// waiting returns how long some events may take to be delivered.
func waiting(events int) time.Duration { return settle + time.Duration(events)*time.Second/slowest }

// retry is that of a rule which gives up nothing meanwhile.
func retry(backoff, maxBackoff, timeout time.Duration) v1alpha1.Retry {
	return v1alpha1.Retry{
		Backoff: metav1.Duration{Duration: backoff}, MaxBackoff: metav1.Duration{Duration: maxBackoff}, Timeout: metav1.Duration{Duration: timeout},
	}
}

// counters are what grows while events wait.
type counters struct {
	at                             time.Time
	writes, statusWrites, attempts float64
}

// count reads them. The attempts are those of the replica that leads, as long as it does.
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

// perSecond returns how fast they grew.
func (c counters) perSecond(since counters) counters {
	took := c.at.Sub(since.at).Seconds()
	return counters{
		writes: (c.writes - since.writes) / took, statusWrites: (c.statusWrites - since.statusWrites) / took,
		attempts: (c.attempts - since.attempts) / took,
	}
}
