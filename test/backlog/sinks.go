package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/netbox-events/netbox-event-operator/test/fleet"
	"github.com/netbox-events/netbox-event-operator/test/fleet/figures"
)

// mostRequests bounds the requests to a throttling sink per event that it accepts.
const mostRequests = 1.2

// throttled measures a sink that accepts few events per second and throttles the rest.
func throttled(ctx context.Context, flags *flags) error {
	options := fleet.Options{Replicas: replicas, MaxEvents: maxEvents}
	return with(ctx, options, retry(time.Second, time.Minute, 10*time.Second), func(s *scene) error {
		result := figures.Throttled{Events: flags.throttledEvents, Rate: flags.throttledRate}
		s.sink.Throttle(result.Rate)
		taken, _, refused := s.sink.Delivered()
		fleet.Say("the sink accepts %g events a second; sending %d", result.Rate, result.Events)
		before := time.Now()
		s.sender.Burst(ctx, result.Events, senders)
		least := time.Duration(float64(result.Events) / result.Rate * float64(time.Second))
		finished := s.finish(ctx, 2*least+settle, taken, result.Events)
		result.Seconds = time.Since(before).Seconds()
		takenAfter, again, refusedAfter := s.sink.Delivered()
		result.Delivered, result.Doubles = takenAfter-taken, again
		result.Requests = result.Delivered + again + refusedAfter - refused
		verdict, err := s.Judge(ctx, s.sender)
		if err != nil {
			return err
		}
		result.Failed = verdict.Failed
		var promises fleet.Promises
		promises.HoldsVerdict(verdict)
		promises.Holds(finished == nil, "%v", finished)
		promises.Holds(result.Delivered == result.Events, "%d of %d events were delivered", result.Delivered, result.Events)
		promises.Holds(float64(result.Requests) <= mostRequests*float64(result.Events), "%d requests for %d events", result.Requests, result.Events)
		return errors.Join(
			fleet.Table(
				fmt.Sprintf("sink\taccepts %g a second", result.Rate),
				fmt.Sprintf("delivered\t%d of %d, %d twice", result.Delivered, result.Events, result.Doubles),
				fmt.Sprintf("requests\t%d", result.Requests),
				fmt.Sprintf("time\t%.0f s, minimum %.0f s", result.Seconds, least.Seconds()),
				fmt.Sprintf("failed\t%d", result.Failed),
			),
			fleet.Publish("throttled", s.began, s.Machine, promises, result))
	})
}

// finish waits until the sink has accepted some more events, and none is pending, and prints the progress.
func (s *scene) finish(ctx context.Context, limit time.Duration, had, events int) error {
	const talk = 10 * time.Second
	said := time.Now()
	err := fleet.Wait(ctx, limit, "all events are delivered", func(context.Context) (bool, error) {
		taken, _, refused := s.sink.Delivered()
		if time.Since(said) > talk {
			fleet.Say("%d of %d are delivered; the sink refused %d requests", taken-had, events, refused)
			said = time.Now()
		}
		return taken-had >= events, nil
	})
	return errors.Join(err, s.Finished(ctx, settle))
}

const (
	// downTimeout is the time-out of a delivery to a sink that is down.
	downTimeout = 3 * time.Second
	// downObjects is the number of objects of the events: each has several pending events, which can be delivered out of order.
	downObjects = 100
)

// down measures a sink that is down in several ways, one after the other, while events arrive.
func down(ctx context.Context, flags *flags) error {
	options := fleet.Options{Replicas: replicas, MaxEvents: maxEvents}
	return with(ctx, options, retry(flags.downBackoff, flags.downMaxPause, downTimeout), func(s *scene) error {
		ways := []struct {
			name string
			set  func() error
		}{
			{"refuses connections", func() error { s.sink.Refuse(); return nil }},
			{"answers 503", func() error { s.sink.Set(fleet.SinkDown, 0); return s.sink.Listen(ctx) }},
			{"hangs", func() error { s.sink.Set(fleet.SinkHangs, 0); return nil }},
		}
		result := figures.Down{
			Events: flags.downEvents, Seconds: flags.down.Seconds(), Backoff: flags.downBackoff.Seconds(), MaxBackoff: flags.downMaxPause.Seconds(),
		}
		s.sender.Objects = downObjects
		leader := s.Replicas[0]
		taken, _, _ := s.sink.Delivered()
		var opened counters // when the circuit was open, and some of the events were stored
		for i, way := range ways {
			events := result.Events*(i+1)/len(ways) - result.Events*i/len(ways)
			fleet.Say("the sink %s; sending %d events", way.name, events)
			end := time.Now().Add(flags.down / time.Duration(len(ways)))
			if err := way.set(); err != nil {
				return err
			}
			before, err := s.count(ctx, leader)
			if err != nil {
				return err
			}
			s.sender.Burst(ctx, events, senders)
			if i == 0 {
				fleet.Pause(ctx, 2*time.Second) // the first failures are stored a moment later
				if opened, err = s.count(ctx, leader); err != nil {
					return err
				}
			}
			fleet.Pause(ctx, time.Until(end))
			after, err := s.count(ctx, leader)
			if err != nil {
				return err
			}
			each := after.perSecond(before)
			result.Ways = append(result.Ways, figures.DownWay{
				Name: way.name, AttemptsPerSec: each.attempts, StatusWritesPerSec: each.statusWrites, WritesPerSec: each.writes,
			})
			result.StatusWritesPerSec = after.perSecond(opened).statusWrites
		}
		fleet.Say("the sink is up")
		s.sink.Set(fleet.SinkUp, 0)
		before := time.Now()
		finished := s.finish(ctx, waiting(result.Events)+flags.downMaxPause, taken, result.Events)
		result.DrainSeconds = time.Since(before).Seconds()
		return s.publishDown(ctx, &result, taken, finished)
	})
}

// publishDown checks the figures against the promises, and publishes them.
func (s *scene) publishDown(ctx context.Context, result *figures.Down, taken int, finished error) error {
	verdict, err := s.Judge(ctx, s.sender)
	if err != nil {
		return err
	}
	disorder, err := s.Disorder(ctx, s.sink, nil)
	if err != nil {
		return err
	}
	for _, seen := range disorder.Overtaken {
		fleet.Say("%s", seen)
	}
	all, again, _ := s.sink.Delivered()
	result.Delivered, result.Doubles, result.Failed, result.Overtaken = all-taken, again, verdict.Failed, len(disorder.Overtaken)
	var promises fleet.Promises
	promises.HoldsVerdict(verdict)
	promises.Holds(finished == nil, "%v", finished)
	promises.Holds(result.Delivered == result.Events, "%d of %d events were delivered", result.Delivered, result.Events)
	promises.None(result.Overtaken, "events arrived at the sink after a later one of their object")
	promises.Holds(result.StatusWritesPerSec < mostWrites, "%.1f status writes a second while the sink is down", result.StatusWritesPerSec)
	rows := []string{fmt.Sprintf("sink\tdown for %.0f s; backoff %g s to %g s", result.Seconds, result.Backoff, result.MaxBackoff)}
	for _, way := range result.Ways {
		rows = append(rows, fmt.Sprintf("it %s\t%.2f attempts, %.2f status writes, %.0f writes of all kinds a second",
			way.Name, way.AttemptsPerSec, way.StatusWritesPerSec, way.WritesPerSec))
	}
	rows = append(rows,
		fmt.Sprintf("status writes\t%.2f a second after the first events have failed", result.StatusWritesPerSec),
		fmt.Sprintf("delivered\t%d of %d, %d twice, %.1f s after the sink is up", result.Delivered, result.Events, result.Doubles, result.DrainSeconds),
		fmt.Sprintf("out of order\t%d, of %d objects with several events", result.Overtaken, disorder.Objects),
		fmt.Sprintf("failed\t%d", result.Failed),
	)
	return errors.Join(fleet.Table(rows...), fleet.Publish("down", s.began, s.Machine, promises, *result))
}
