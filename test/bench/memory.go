package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/netbox-events/netbox-event-operator/test/fleet"
	"github.com/netbox-events/netbox-event-operator/test/fleet/figures"
)

const (
	replicas = 2
	// maxEvents exceeds the number of stored events, so that retention deletes none while they are measured.
	maxEvents = 1_000_000
	// senders is the number of deliveries in flight when sending at full speed.
	senders = 64

	// Promises.
	flat       = 1.1     // ratio of the memory with the most events to that with the fewest
	readyTime  = 5       // seconds
	answerTime = 1000    // ms, p99 of deliveries under any other load
	peakMemory = 400_000 // kB, of a manager, with any open connections
)

// size is the amount of work. The small one is for trying.
type size struct {
	levels      []int
	kept        int // events of the last level that are not deleted
	connections int
}

var (
	full  = size{levels: []int{1000, 10_000, 50_000}, kept: 1000, connections: 10_000}
	small = size{levels: []int{200, 500, 1000}, kept: 100, connections: 500}
)

// with runs two replicas while do runs.
func with(ctx context.Context, do func(*fleet.Fleet) error) (err error) {
	f, err := fleet.Start(ctx, fleet.Options{Replicas: replicas, MaxEvents: maxEvents})
	if err != nil {
		return err
	}
	defer func() { err = f.End(err) }()
	if err := start(ctx, f); err != nil {
		return err
	}
	return do(f)
}

// start starts the replicas; the first leads.
func start(ctx context.Context, f *fleet.Fleet) error {
	for _, replica := range f.Replicas {
		if err := errors.Join(replica.Start(), replica.Ready(ctx)); err != nil {
			return err
		}
		if replica == f.Replicas[0] {
			if err := f.Served(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// memory measures managers at each number of stored events.
func memory(ctx context.Context, size size) error {
	began := time.Now()
	return with(ctx, func(f *fleet.Fleet) error {
		var result figures.Memory
		var promises fleet.Promises
		for _, stored := range size.levels {
			level, err := measureLevel(ctx, f, stored, &promises)
			if err != nil {
				return err
			}
			result.Levels = append(result.Levels, level)
		}
		if err := deletion(ctx, f, size.kept, &result.Deletion, &promises); err != nil {
			return err
		}
		rows := []string{"stored, finished\trefilled\tready after\tprocesses after\tleader idle\tafter a load\tits peak\tanonymous\tits Go heap\tother\tAPI server\tetcd's file"}
		for _, level := range result.Levels {
			rows = append(rows, fmt.Sprintf("%d\t%.0f/s\t%.2f s\t%.2f s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s", level.Stored, level.RefillPerSec, level.ReadySeconds, level.WorkSeconds,
				fleet.MiB(level.LeaderIdle.RSS), fleet.MiB(level.Leader.RSS), fleet.MiB(level.LeaderPeakRSS), fleet.MiB(level.Leader.Anonymous),
				fleet.MiB(level.Leader.Heap), fleet.MiB(level.Follower.RSS), fleet.MiB(level.APIServerRSS), fleet.MiB(level.EtcdBytes)))
			promises.Holds(level.ReadySeconds < readyTime, "with %d events a manager is ready after %.1f s, limit %d", level.Stored, level.ReadySeconds, readyTime)
		}
		first, last := result.Levels[0], result.Levels[len(result.Levels)-1]
		for _, of := range []struct {
			what        string
			first, last int64
		}{
			{"leader", first.Leader.RSS, last.Leader.RSS},
			{"leader that is idle", first.LeaderIdle.RSS, last.LeaderIdle.RSS},
			{"other replica", first.Follower.RSS, last.Follower.RSS},
		} {
			promises.Holds(float64(of.last) <= flat*float64(of.first), "the memory of the %s is not flat: %s with %d events, %s with %d",
				of.what, fleet.MiB(of.first), first.Stored, fleet.MiB(of.last), last.Stored)
		}
		return errors.Join(fleet.Table(rows...), fleet.Publish("memory", began, f.Machine, promises, result))
	})
}

// measureLevel stores events up to the level at full speed, and checks that none is lost or duplicated. Then it restarts the replicas, and
// measures them idle and after a short load that is the same at every level.
func measureLevel(ctx context.Context, f *fleet.Fleet, stored int, promises *fleet.Promises) (level figures.Level, err error) {
	const loadRate, loadTime, rest = 40, 10 * time.Second, 10
	sender, err := f.NewSender()
	if err != nil {
		return level, err
	}
	level.Stored = stored
	have, err := f.Stored(ctx)
	if err != nil {
		return level, err
	}
	if missing := stored - have; missing > 0 {
		fleet.Say("storing %d events more", missing)
		before := time.Now()
		sender.Burst(ctx, missing, senders)
		level.AnswersPerSec = float64(missing) / time.Since(before).Seconds()
		if err := f.Finished(ctx, 10*time.Minute); err != nil {
			return level, err
		}
		level.RefillPerSec = float64(missing) / time.Since(before).Seconds()
		verdict, err := f.Judge(ctx, sender)
		if err != nil {
			return level, err
		}
		promises.HoldsVerdict(verdict)
		promises.None(verdict.GivenUp, "deliveries were abandoned by the sender")
		level.Verdict, level.Answers = verdict, fleet.Quantiles(sender.Answers(0), true)
	}
	fleet.Say("measuring with %d events", stored)
	leader, follower := f.Replicas[0], f.Replicas[1]
	if err := errors.Join(follower.Terminate(), leader.Terminate()); err != nil {
		return level, err
	}
	before := time.Now()
	if err := errors.Join(leader.Start(), leader.Ready(ctx)); err != nil {
		return level, err
	}
	level.ReadySeconds = time.Since(before).Seconds()
	if err := f.Served(ctx); err != nil {
		return level, err
	}
	level.WorkSeconds = time.Since(before).Seconds()
	if err := errors.Join(follower.Start(), follower.Ready(ctx)); err != nil {
		return level, err
	}
	if level.LeaderIdle, err = leader.Rest(ctx, rest); err != nil {
		return level, err
	}
	sender.Steady(ctx, loadRate, loadTime)
	if err := f.Finished(ctx, time.Minute); err != nil {
		return level, err
	}
	var leaderErr, followerErr error
	var both sync.WaitGroup
	both.Go(func() { level.Leader, leaderErr = leader.Rest(ctx, rest) })
	both.Go(func() { level.Follower, followerErr = follower.Rest(ctx, rest) })
	both.Wait()
	leaderMemory, err := leader.Process().Memory()
	apiServerMemory, apiServerErr := f.APIServer().Memory()
	level.LeaderPeakRSS, level.APIServerRSS = leaderMemory.Peak, apiServerMemory.RSS
	size, _, etcdErr := f.EtcdBytes(ctx)
	level.EtcdBytes = size
	return level, errors.Join(leaderErr, followerErr, err, apiServerErr, etcdErr)
}
