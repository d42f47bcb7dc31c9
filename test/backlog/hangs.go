package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/netbox-events/netbox-event-operator/test/fleet"
	"github.com/netbox-events/netbox-event-operator/test/fleet/figures"
)

const (
	// rest is for how many seconds an idle manager is measured.
	rest = 20
	// mostMemory bounds the memory of the leader with all pending events, over that of the idle leader.
	mostMemory = 128 << 20
	// goesOn is the ratio of the last to the first rate that the intake must keep.
	goesOn = 0.5
	// mostWrites bounds the status writes per second while events are pending.
	mostWrites = 1
	// hangTime is the time-out of a delivery.
	hangTime = 10 * time.Second
)

// hangs measures pending events, each of another object.
func hangs(ctx context.Context, flags *flags) error {
	return hang(ctx, flags, "backlog", flags.events+flags.more)
}

// few measures pending events of few objects.
func few(ctx context.Context, flags *flags) error {
	return hang(ctx, flags, "backlog-few", flags.objects)
}

func hang(ctx context.Context, flags *flags, name string, objects int) error {
	options := fleet.Options{Replicas: replicas, MaxEvents: maxEvents, MemoryLimit: memoryLimit}
	return with(ctx, options, retry(time.Second, flags.maxBackoff, hangTime), func(s *scene) error {
		b := &backlog{scene: s, result: figures.Backlog{
			Events: flags.events, More: flags.more, Objects: objects, MaxBackoff: flags.maxBackoff.Seconds(), MemoryLimit: memoryLimit, HardLimit: s.HardLimit(),
		}}
		s.sender.Objects = objects
		b.leader = s.Replicas[0]
		sampling, stop := context.WithCancel(ctx)
		var sampler sync.WaitGroup
		sampler.Go(func() { b.sample(sampling) })
		err := b.measure(ctx)
		stop()
		sampler.Wait()
		return errors.Join(err, b.publish(ctx, name, err == nil))
	})
}

// backlog is one run.
type backlog struct {
	*scene
	mu       sync.Mutex
	leader   *fleet.Replica
	result   figures.Backlog
	promises fleet.Promises
}

func (b *backlog) measure(ctx context.Context) error {
	idle, err := b.rest(ctx, rest)
	if err != nil {
		return err
	}
	metrics, err := b.leader.Metrics(ctx)
	if err != nil {
		return err
	}
	b.result.Idle, b.result.GoLimit = idle, int64(metrics["go_gc_gomemlimit_bytes"])
	b.sink.Set(fleet.SinkHangs, 0)
	for _, step := range []func(context.Context) error{b.store, b.storeMore, b.killLeader, b.drain} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// store sends the events, and measures memory, attempts and writes while they are pending.
func (b *backlog) store(ctx context.Context) (err error) {
	result := &b.result
	if result.StoreSeconds, err = b.send(ctx, result.Events, result.Events); err != nil {
		return err
	}
	before, err := b.count(ctx, b.leader)
	if err != nil {
		return err
	}
	if result.Waiting, err = b.rest(ctx, 2*rest); err != nil {
		return err
	}
	after, err := b.count(ctx, b.leader)
	if err != nil {
		return err
	}
	each := after.perSecond(before)
	result.AttemptsPerSec, result.WritesPerSec, result.StatusWritesPerSec = each.attempts, each.writes, each.statusWrites
	result.BytesEachRSS = float64(result.Waiting.RSS-result.Idle.RSS) / float64(result.Events)
	result.BytesEachHeap = float64(result.Waiting.Heap-result.Idle.Heap) / float64(result.Events)
	return nil
}

// storeMore sends the rest.
func (b *backlog) storeMore(ctx context.Context) (err error) {
	if b.result.More == 0 {
		b.result.All = b.result.Waiting
		return nil
	}
	if _, err = b.send(ctx, b.result.More, b.result.Events+b.result.More); err != nil {
		return err
	}
	b.result.All, err = b.rest(ctx, rest)
	return err
}

// send sends some events, and waits until the leader has listed all pending ones.
func (b *backlog) send(ctx context.Context, events, all int) (seconds float64, err error) {
	fleet.Say("the sink hangs; storing %d events of %d objects", events, b.result.Objects)
	answered := len(b.sender.Answers(0))
	before := time.Now()
	b.sender.Burst(ctx, events, senders)
	seconds = time.Since(before).Seconds()
	if first, last := rates(b.sender.Answers(answered)); b.result.FirstRate == 0 {
		b.result.FirstRate, b.result.LastRate = first, last
	} else {
		b.result.LastRate = last
	}
	err = fleet.Wait(ctx, 5*time.Minute, "the leader counts every event", func(ctx context.Context) (bool, error) {
		metrics, err := b.leader.Metrics(ctx)
		if pending := metrics.Pending(); err == nil && pending != all {
			err = fmt.Errorf("it knows %d", pending)
		}
		return err == nil, err
	})
	fleet.Say("all are pending; measuring")
	return seconds, err
}

// rates returns the rates per second of the first and the last tenth of some answers.
func rates(answers []fleet.Answer) (first, last float64) {
	var stored []time.Duration
	for _, answer := range answers {
		if answer.Status == http.StatusOK {
			stored = append(stored, answer.At)
		}
	}
	tenth := len(stored) / 10
	if tenth < 2 {
		return 0, 0
	}
	rate := func(part []time.Duration) float64 {
		return float64(len(part)-1) / (part[len(part)-1] - part[0]).Seconds()
	}
	return rate(stored[:tenth]), rate(stored[len(stored)-tenth:])
}

// killLeader kills the leader, restarts it as a kubelet would, and waits until a replica leads and counts all pending events.
func (b *backlog) killLeader(ctx context.Context) error {
	memory, err := b.leader.Process().Memory()
	if err != nil {
		return err
	}
	b.result.PeakRSS = memory.Peak
	fleet.Say("killing the leader")
	before := time.Now()
	if err := errors.Join(b.leader.Kill(), b.leader.Start()); err != nil {
		return err
	}
	all := b.result.Events + b.result.More
	err = fleet.Wait(ctx, 5*time.Minute, "the next leader counts every event", func(ctx context.Context) (bool, error) {
		leader := b.Leader(ctx)
		if leader == nil {
			return false, nil
		}
		if b.result.LeadSeconds == 0 {
			b.result.LeadSeconds = time.Since(before).Seconds()
		}
		metrics, err := leader.Metrics(ctx)
		if pending := metrics.Pending(); err == nil && pending != all {
			err = fmt.Errorf("it knows %d", pending)
		}
		b.setLeader(leader)
		return err == nil, err
	})
	if err == nil {
		err = b.leader.Ready(ctx)
	}
	if err != nil {
		return err
	}
	b.result.KnowSeconds = time.Since(before).Seconds()
	fleet.Say("another replica leads after %.1f s, and counts all events after %.1f s", b.result.LeadSeconds, b.result.KnowSeconds)
	b.result.Next, err = b.rest(ctx, rest)
	return err
}

// rest measures the leader for some seconds, and its heap after a forced garbage collection, because the time of the next one is random.
func (b *backlog) rest(ctx context.Context, seconds int) (figures.Process, error) {
	least, err := b.leader.Rest(ctx, seconds)
	if err != nil {
		return least, err
	}
	if err := b.leader.CollectGarbage(ctx); err != nil {
		return least, err
	}
	clean, _, err := b.leader.Sample(ctx)
	least.Heap = clean.Heap
	return least, err
}

func (b *backlog) setLeader(leader *fleet.Replica) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.leader = leader
}

// drain lets the sink answer, and waits until all events are delivered.
func (b *backlog) drain(ctx context.Context) error {
	all := b.result.Events + b.result.More
	taken, _, _ := b.sink.Delivered()
	delivered := taken // before
	fleet.Say("the sink answers")
	b.sink.Set(fleet.SinkUp, 0)
	before := time.Now()
	for {
		process, metrics, err := b.leader.Sample(ctx)
		if err != nil {
			return err
		}
		taken, _, _ = b.sink.Delivered()
		now := figures.DrainSample{
			At: time.Since(before).Seconds(), Pending: metrics.Pending(), Waiting: all - (taken - delivered), RSS: process.RSS,
		}
		b.result.Drain = append(b.result.Drain, now)
		if now.Pending == 0 || time.Since(before) > waiting(all) {
			break
		}
		fleet.Pause(ctx, time.Second/2)
	}
	if err := b.Finished(ctx, settle); err != nil {
		b.promises.Holds(false, "%v", err)
	}
	b.result.DrainSeconds = time.Since(before).Seconds()
	taken, b.result.Doubles, _ = b.sink.Delivered()
	b.promises.Holds(taken-delivered == all, "%d of %d events were delivered", taken-delivered, all)
	fleet.Say("all are delivered after %.1f s", b.result.DrainSeconds)
	after, err := b.rest(ctx, rest)
	b.result.After = after
	memory, memoryErr := b.leader.Process().Memory()
	b.result.PeakRSS = max(b.result.PeakRSS, memory.Peak)
	return errors.Join(err, memoryErr)
}

// sample measures the managers until ctx is done, and prints the figures every 10 seconds.
func (b *backlog) sample(ctx context.Context) {
	const interval, talk = 2 * time.Second, 5
	for n := 0; ctx.Err() == nil; n++ {
		b.mu.Lock()
		leader := b.leader
		b.mu.Unlock()
		now := figures.BacklogSample{At: time.Since(b.sender.Began).Seconds(), Stored: b.sender.Answered()}
		process, metrics, err := leader.Sample(ctx) // it fails while none leads
		if err == nil {
			now.RSS, now.Heap, now.Pending = process.RSS, process.Heap, metrics.Pending()
			b.result.Samples = append(b.result.Samples, now)
		}
		if err == nil && n%talk == 0 {
			fleet.Say("%4.0f s: leader %s, Go heap %s, %d goroutines, %d stored, %d pending", now.At, fleet.MiB(now.RSS), fleet.MiB(now.Heap),
				process.Goroutines, now.Stored, now.Pending)
		}
		fleet.Pause(ctx, interval)
	}
}

// publish checks the figures against the promises, and publishes them.
func (b *backlog) publish(ctx context.Context, name string, complete bool) error {
	result, promises := &b.result, &b.promises
	for i, replica := range b.Replicas {
		promises.Holds(!replica.HasEnded(), "replica %d has exited unexpectedly", i)
	}
	if !complete {
		return fleet.Publish(name, b.began, b.Machine, *promises, *result)
	}
	verdict, err := b.Judge(ctx, b.sender)
	if err != nil {
		return err
	}
	disorder, err := b.Disorder(ctx, b.sink, nil)
	if err != nil {
		return err
	}
	for _, seen := range disorder.Overtaken[:min(len(disorder.Overtaken), 20)] {
		fleet.Say("%s", seen)
	}
	result.Overtaken = len(disorder.Overtaken)
	all, above := result.Events+result.More, max(result.All.RSS, result.Next.RSS)-result.Idle.RSS
	promises.HoldsVerdict(verdict)
	promises.None(result.Doubles, "events were delivered twice")
	promises.None(result.Overtaken, "events arrived at the sink after a later one of their object")
	promises.Holds(above <= mostMemory, "%d pending events take %s more than the idle leader, limit %s", all, fleet.MiB(above), fleet.MiB(mostMemory))
	promises.Holds(result.GoLimit < memoryLimit, "GOMEMLIMIT is %s", fleet.MiB(result.GoLimit))
	promises.Holds(result.PeakRSS <= memoryLimit, "a leader took %s", fleet.MiB(result.PeakRSS))
	promises.Holds(result.LastRate >= goesOn*result.FirstRate, "the last deliveries were answered at %.0f a second, the first at %.0f",
		result.LastRate, result.FirstRate)
	promises.Holds(result.StatusWritesPerSec < mostWrites, "%.1f status writes a second while events are pending", result.StatusWritesPerSec)
	return errors.Join(fleet.Table(b.rows(above)...), fleet.Publish(name, b.began, b.Machine, *promises, *result))
}

func (b *backlog) rows(above int64) []string {
	result, enforced := &b.result, "watched"
	if result.HardLimit {
		enforced = "enforced by the kernel"
	}
	return []string{
		fmt.Sprintf("pending events\t%d of %d objects, stored in %.0f s; then %d more", result.Events, result.Objects, result.StoreSeconds, result.More),
		fmt.Sprintf("memory limit\t%s, %s; GOMEMLIMIT %s", fleet.MiB(result.MemoryLimit), enforced, fleet.MiB(result.GoLimit)),
		fmt.Sprintf("memory of the leader\t%s idle, %s with %d, %s with %d, %s after they drained; peak %s",
			fleet.MiB(result.Idle.RSS), fleet.MiB(result.Waiting.RSS), result.Events, fleet.MiB(result.All.RSS), result.Events+result.More,
			fleet.MiB(result.After.RSS), fleet.MiB(result.PeakRSS)),
		fmt.Sprintf("memory of the next leader\t%s with all", fleet.MiB(result.Next.RSS)),
		fmt.Sprintf("each takes\t%.2f kB of memory, %.2f kB of Go's heap", result.BytesEachRSS/1000, result.BytesEachHeap/1000),
		fmt.Sprintf("all take\t%s more than the idle leader, of %s", fleet.MiB(above), fleet.MiB(mostMemory)),
		fmt.Sprintf("answers\t%.0f a second at the beginning, %.0f at the end", result.FirstRate, result.LastRate),
		fmt.Sprintf("while pending\t%.2f attempts, %.2f status writes, %.2f writes of all kinds a second",
			result.AttemptsPerSec, result.StatusWritesPerSec, result.WritesPerSec),
		fmt.Sprintf("after a kill\tanother replica leads after %.1f s, and counts all events after %.1f s", result.LeadSeconds, result.KnowSeconds),
		fmt.Sprintf("all delivered\t%.1f s after the sink recovers; maximum backoff %.0f s", result.DrainSeconds, result.MaxBackoff),
		fmt.Sprintf("delivered twice\t%d", result.Doubles),
		fmt.Sprintf("out of order\t%d", result.Overtaken),
	}
}
