// Command soak sends a steady stream of deliveries to two replicas of the operator, with a rule that sends each event on, and watches what they
// take. It fails if memory grows, or an event is lost or doubled.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/test/fleet"
	"github.com/netbox-events/netbox-event-operator/test/fleet/figures"
)

const (
	replicas = 2
	// growth is how much more memory the last third of the time may take than the second; the first warms up.
	growth = 1.1
	// settle is how long the last events may take to be finished.
	settle = time.Minute
	// rest is how long all may take that is not sending.
	rest = 10 * time.Minute
)

func main() {
	duration := flag.Duration("duration", 10*time.Minute, "how long to send")
	rate := flag.Float64("rate", 20, "deliveries a second")
	maxEvents := flag.Int("max-events", 5000, "how many finished events the source keeps")
	interval := flag.Duration("interval", 5*time.Second, "how often to look")
	flag.Parse()
	fleet.Main("soak", *duration+rest, func(ctx context.Context) error { return run(ctx, *duration, *interval, *rate, *maxEvents) })
}

func run(ctx context.Context, duration, interval time.Duration, rate float64, maxEvents int) (err error) {
	began := time.Now()
	f, err := fleet.Start(ctx, fleet.Options{Replicas: replicas, MaxEvents: maxEvents})
	if err != nil {
		return err
	}
	defer func() { err = f.End(err) }()
	for _, replica := range f.Replicas {
		if err := errors.Join(replica.Start(), replica.Ready(ctx)); err != nil {
			return err
		}
	}
	if err := f.Served(ctx); err != nil {
		return err
	}
	sender, err := f.NewSender()
	if err != nil {
		return err
	}
	sink, err := fleet.NewSink(ctx, sender.Began)
	if err != nil {
		return err
	}
	defer sink.Close()
	if err := f.CreateRule(ctx, sink, v1alpha1.Retry{}); err != nil {
		return err
	}

	fleet.Say("sending %g deliveries a second for %s", rate, duration)
	result := figures.Soak{Rate: rate, MaxEvents: maxEvents}
	sampling, stopSampling := context.WithCancel(ctx)
	var sampler sync.WaitGroup
	var sampled error
	sampler.Go(func() { result.Samples, sampled = sample(sampling, f, sender, interval) })
	sender.Steady(ctx, rate, duration)
	stopSampling()
	sampler.Wait()
	if errors.Is(sampled, context.Canceled) { // the end cut a sample off
		sampled = nil
	}
	if err := errors.Join(sampled, ctx.Err()); err != nil {
		return err
	}
	finished := f.Finished(ctx, settle)
	if result.Verdict, err = f.Judge(ctx, sender); err != nil {
		return err
	}
	if result.Kept, err = f.Stored(ctx); err != nil {
		return err
	}
	// What retention has deleted was delivered before: the sink says whether an event was lost or doubled. What is kept must be there.
	missing, doubled := sink.Compare(sender.Names())
	result.Lost, result.Doubled = missing, result.Doubled+doubled
	_, result.Doubles, _ = sink.Delivered()
	result.Answers = fleet.Quantiles(sender.Answers(0), true)
	for i := range replicas {
		result.Growth = append(result.Growth, grown(result.Samples, i))
	}

	var promises fleet.Promises
	promises.HoldsVerdict(result.Verdict)
	promises.Holds(finished == nil, "%v", finished)
	promises.Holds(result.Kept >= min(result.Answered, maxEvents), "%d events are in the cluster: fewer than are to be kept", result.Kept)
	for i, grown := range result.Growth {
		promises.Holds(grown <= growth, "the memory of replica %d has grown: the last third of the time has %.2f times that of the second", i, grown)
	}
	if err := fleet.Table(rows(result)...); err != nil {
		return err
	}
	return fleet.Publish("soak", began, f.Machine, promises, result)
}

// sample looks at the replicas until ctx is done.
func sample(ctx context.Context, f *fleet.Fleet, sender *fleet.Sender, interval time.Duration) (samples []figures.SoakSample, err error) {
	seen := 0
	for {
		select {
		case <-ctx.Done():
			return samples, nil
		case <-time.After(interval):
		}
		answers := sender.Answers(seen)
		seen += len(answers)
		quantiles := fleet.Quantiles(answers, true)
		now := figures.SoakSample{At: time.Since(sender.Began).Seconds(), P50: fleet.At(quantiles, 0.5), P99: fleet.At(quantiles, 0.99)}
		for i, replica := range f.Replicas {
			process, metrics, err := replica.Sample(ctx)
			if err != nil {
				return samples, err
			}
			now.Replicas = append(now.Replicas, process)
			if metrics.Leads() {
				now.Leader, now.Pending = i, metrics.Pending()
			}
		}
		if now.Stored, err = f.Stored(ctx); err != nil {
			return samples, err
		}
		samples = append(samples, now)
		fleet.Say("%4.0f s: leader %s, other %s, %d goroutines, %d files, %d pending, %d in the cluster, answers p50 %.1f ms, p99 %.1f ms", now.At,
			fleet.MiB(now.Replicas[now.Leader].RSS), fleet.MiB(now.Replicas[1-now.Leader].RSS),
			now.Replicas[now.Leader].Goroutines, now.Replicas[now.Leader].Files, now.Pending, now.Stored, now.P50, now.P99)
	}
}

// grown is the memory of a replica in the last third of the time over that in the second: of each the median.
func grown(samples []figures.SoakSample, replica int) float64 {
	median := func(samples []figures.SoakSample) float64 {
		var values []int64
		for _, sample := range samples {
			values = append(values, sample.Replicas[replica].RSS)
		}
		slices.Sort(values)
		return float64(values[len(values)/2])
	}
	third := len(samples) / 3
	if third == 0 {
		return 1
	}
	return median(samples[2*third:]) / median(samples[third:2*third])
}

func rows(result figures.Soak) []string {
	rows := append(fleet.VerdictRows(result.Verdict),
		fmt.Sprintf("in the cluster\t%d; the source keeps %d", result.Kept, result.MaxEvents),
		fmt.Sprintf("given to the sink once more\t%d", result.Doubles),
		fleet.AnswerRow("answers with 200", result.Answers))
	for i, grown := range result.Growth {
		rows = append(rows, fmt.Sprintf("memory of replica %d\t%.2f times, the last third over the second", i, grown))
	}
	return rows
}
