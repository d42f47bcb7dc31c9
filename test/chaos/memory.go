package main

import (
	"context"
	"slices"
	"time"

	"github.com/netbox-events/netbox-event-operator/test/fleet"
	"github.com/netbox-events/netbox-event-operator/test/fleet/figures"
)

const (
	// growth bounds the ratio of the memory in the last third of the run to that in the second; the first is warm-up.
	growth = 1.1
	// interval is the time between samples of the replicas.
	interval = 5 * time.Second
)

// watchMemory samples the replicas for a time.
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

// grown is the ratio of the median memory of a replica in the last third of the run to that in the second.
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
