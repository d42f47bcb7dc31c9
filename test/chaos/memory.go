package main

import (
	"context"
	"slices"
	"time"

	"github.com/netbox-events/netbox-event-operator/test/fleet"
	"github.com/netbox-events/netbox-event-operator/test/fleet/figures"
)

const (
	// growth is how much more memory the last third of the time may take than the second; the first warms up.
	growth = 1.1
	// interval is how often the replicas are looked at.
	interval = 5 * time.Second
)

// watchMemory looks at the replicas until a time is over.
func watchMemory(ctx context.Context, f *fleet.Fleet, sender *fleet.Sender, duration time.Duration) (samples []figures.Sample, err error) {
	for fleet.Pause(ctx, interval); time.Since(sender.Began) < duration && ctx.Err() == nil; fleet.Pause(ctx, interval) {
		now := figures.Sample{At: time.Since(sender.Began).Seconds()}
		for i, replica := range f.Replicas {
			process, metrics, err := replica.Sample(ctx)
			if err != nil {
				return samples, err
			}
			now.Replicas = append(now.Replicas, process)
			if metrics.Leads() {
				now.Leader = i
			}
		}
		samples = append(samples, now)
		leader := now.Replicas[now.Leader]
		fleet.Say("%4.0f s: leader %s, other %s, %d goroutines, %d files", now.At, fleet.MiB(leader.RSS), fleet.MiB(now.Replicas[1-now.Leader].RSS),
			leader.Goroutines, leader.Files)
	}
	return samples, nil
}

// grown is the memory of a replica in the last third of the time over that in the second: of each the median.
func grown(samples []figures.Sample, replica int) float64 {
	median := func(samples []figures.Sample) float64 {
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
