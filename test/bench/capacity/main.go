// Command capacity measures what events cost, and holds it against what is promised:
//
//   - memory: a manager's, with more and more finished events stored, and how soon a new one is ready; and how nearly all are deleted;
//   - burst: many events as fast as the API server takes them, none lost and none doubled;
//   - cost: what an event costs the API server and etcd, beside a ConfigMap of the same size;
//   - connections: many that send nothing, or a byte a second, beside deliveries.
//
// Each has a control plane of its own.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/test/fleet"
	"github.com/netbox-events/netbox-event-operator/test/fleet/figures"
)

const (
	replicas = 2
	// maxEvents is more than are stored: nothing is to be deleted while it is measured.
	maxEvents = 1_000_000
	// senders is how many deliveries are on their way at once where all is to go fast.
	senders = 64

	// limit is far more than it takes: storing 50 000 events is most of it.
	limit = 90 * time.Minute

	// What is promised.
	flat       = 1.1     // the memory with the most events over that with the least
	readyTime  = 5       // seconds
	answerTime = 1000    // ms, of 99 in 100 deliveries whatever else goes on
	peakMemory = 400_000 // kB, of a manager, whatever connections are opened
)

// size is how much is done. The small one is for trying.
type size struct {
	levels      []int
	kept        int // of the last level, when the rest is deleted
	burst, cost int
	connections int
}

var (
	full  = size{levels: []int{1000, 10_000, 50_000}, kept: 1000, burst: 20_000, cost: 5000, connections: 10_000}
	small = size{levels: []int{200, 500, 1000}, kept: 100, burst: 1000, cost: 500, connections: 500}
)

func main() {
	only := flag.String("only", "memory,burst,cost,connections", "comma-separated `names` of what to measure")
	short := flag.Bool("short", false, "do little of each, to try it")
	flag.Parse()
	much := full
	if *short {
		much = small
	}
	fleet.Main("capacity", limit, func(ctx context.Context) error {
		var broken []error
		for name := range strings.SplitSeq(*only, ",") {
			measure, known := map[string]func(context.Context, size) error{
				"memory": memory, "burst": burst, "cost": cost, "connections": connections,
			}[name]
			if !known {
				return fmt.Errorf("there is nothing called %q to measure", name)
			}
			broken = append(broken, measure(ctx, much))
		}
		return errors.Join(broken...)
	})
}

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
		for _, stored := range size.levels {
			level, err := measureLevel(ctx, f, stored)
			if err != nil {
				return err
			}
			result.Levels = append(result.Levels, level)
		}
		var promises fleet.Promises
		if err := deletion(ctx, f, size.kept, &result.Deletion, &promises); err != nil {
			return err
		}
		rows := []string{"stored, finished\tready after\tworks after\tleader idle\tafter a load\tits peak\tanonymous\tits Go heap\tother\tAPI server\tetcd's file"}
		for _, level := range result.Levels {
			rows = append(rows, fmt.Sprintf("%d\t%.2f s\t%.2f s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s", level.Stored, level.ReadySeconds, level.WorkSeconds,
				fleet.MiB(level.LeaderIdle.RSS), fleet.MiB(level.Leader.RSS), fleet.MiB(level.LeaderPeakRSS), fleet.MiB(level.Leader.Anonymous),
				fleet.MiB(level.Leader.Heap), fleet.MiB(level.Follower.RSS), fleet.MiB(level.APIServerRSS), fleet.MiB(level.EtcdBytes)))
			promises.Holds(level.ReadySeconds < readyTime, "with %d events a manager is ready after %.1f s, not %d", level.Stored, level.ReadySeconds, readyTime)
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

// measureLevel stores events until there are so many, starts the replicas again, and measures them idle and after a short load that is the same
// at every level.
func measureLevel(ctx context.Context, f *fleet.Fleet, stored int) (level figures.Level, err error) {
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
		if err := f.Finished(ctx, 10*time.Minute); err != nil {
			return level, err
		}
		level.RefillPerSec = float64(missing) / time.Since(before).Seconds()
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

// burst sends many events at once.
func burst(ctx context.Context, size size) error {
	began := time.Now()
	return with(ctx, func(f *fleet.Fleet) error {
		sender, err := f.NewSender()
		if err != nil {
			return err
		}
		sender.Pause = time.Second
		fleet.Say("sending %d deliveries, %d at once", size.burst, senders)
		before := time.Now()
		sender.Burst(ctx, size.burst, senders)
		answered := time.Since(before)
		finished := f.Finished(ctx, 10*time.Minute)
		all := time.Since(before)
		verdict, err := f.Judge(ctx, sender)
		if err != nil {
			return err
		}
		result := figures.Burst{
			Verdict: verdict, Senders: senders, Answers: fleet.Quantiles(sender.Answers(0), true),
			AnsweredRate: float64(size.burst) / answered.Seconds(), FinishedRate: float64(size.burst) / all.Seconds(),
		}
		var promises fleet.Promises
		promises.HoldsVerdict(verdict)
		promises.Holds(finished == nil, "%v", finished)
		promises.None(verdict.GivenUp, "deliveries were given up by the sender")
		rows := append(fleet.VerdictRows(verdict),
			fmt.Sprintf("rate\t%.0f answers a second; %.0f a second to the end of the last", result.AnsweredRate, result.FinishedRate),
			fleet.AnswerRow("answers with 200", result.Answers))
		return errors.Join(fleet.Table(rows...), fleet.Publish("burst", began, f.Machine, promises, result))
	})
}

// bareNamespace is for objects that are made without the operator. It has no source, and what has none is left alone.
const bareNamespace = "bare"

// cost measures objects of some kinds, one kind after the other, each kind with control plane and operator as the kind before has left them.
func cost(ctx context.Context, size size) error {
	began := time.Now()
	return with(ctx, func(f *fleet.Fleet) error {
		sender, err := f.NewSender()
		if err != nil {
			return err
		}
		const sample = 500
		sender.Burst(ctx, sample, 16)
		if err := f.Finished(ctx, time.Minute); err != nil {
			return err
		}
		length, err := averageLength(ctx, f)
		if err != nil {
			return err
		}
		result := figures.Cost{Objects: size.cost, Bytes: length, Body: sender.AverageBody()}
		if err := f.Plane.Client.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: bareNamespace}}); err != nil {
			return err
		}
		for _, kind := range []struct {
			what string
			make func(ctx context.Context, count int) error
		}{
			{"ConfigMap, created", configMaps(f, "created", length, false)},
			{"ConfigMap, created and changed once", configMaps(f, "changed", length, true)},
			{"NetBoxEvent, received and finished", func(ctx context.Context, count int) error {
				sender.Burst(ctx, count, 16)
				return f.Finished(ctx, 10*time.Minute)
			}},
		} {
			fleet.Say("%s: %d", kind.what, size.cost)
			one, err := measureCost(ctx, f, size.cost, kind.make)
			if err != nil {
				return err
			}
			one.What = kind.what
			result.Kinds = append(result.Kinds, one)
		}
		rows := []string{
			fmt.Sprintf("%d of each, %d bytes of JSON; NetBox sent %d", result.Objects, result.Bytes, result.Body),
			"each\tetcd\tbefore compaction\tAPI server heap\tRSS\tAPI server CPU\tetcd CPU\toperator CPU\twrites\ta second",
		}
		for _, one := range result.Kinds {
			rows = append(rows, fmt.Sprintf("%s\t%.1f kB\t%.1f kB\t%.1f kB\t%.1f kB\t%.2f ms\t%.2f ms\t%.2f ms\t%.2f\t%.0f", one.What, one.EtcdBytes/1000,
				one.EtcdBefore/1000, one.APIHeap/1000, one.APIRSS/1000, one.APICPU, one.EtcdCPU, one.OperatorCPU, one.WritesEach, one.ObjectPerSec))
		}
		return errors.Join(fleet.Table(rows...), fleet.Publish("cost", began, f.Machine, fleet.Promises{}, result))
	})
}

// averageLength is that of the JSON of the events that are stored.
func averageLength(ctx context.Context, f *fleet.Fleet) (int, error) {
	var events v1alpha1.NetBoxEventList
	if err := f.Plane.Client.List(ctx, &events, client.InNamespace(fleet.Namespace)); err != nil {
		return 0, err
	}
	length := 0
	for i := range events.Items {
		text, err := json.Marshal(&events.Items[i])
		if err != nil {
			return 0, err
		}
		length += len(text)
	}
	return length / len(events.Items), nil
}

// configMaps makes ConfigMaps whose JSON has a length, and changes each once, if it should, as the operator does with an event.
func configMaps(f *fleet.Fleet, name string, length int, change bool) func(context.Context, int) error {
	const metadata = 350 // of the length, more or less
	return func(ctx context.Context, count int) error {
		errs := make([]error, 16)
		var all sync.WaitGroup
		var next atomic.Int64
		for i := range errs {
			all.Go(func() {
				for n := next.Add(1); n <= int64(count) && errs[i] == nil; n = next.Add(1) {
					object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: bareNamespace, Name: fmt.Sprintf("%s-%d", name, n)}}
					object.Data = map[string]string{"n": fmt.Sprint(n), "text": strings.Repeat("x", length-metadata)}
					if errs[i] = f.Plane.Client.Create(ctx, object); errs[i] == nil && change {
						object.Data["n"] += " changed"
						errs[i] = f.Plane.Client.Update(ctx, object)
					}
				}
			})
		}
		all.Wait()
		return errors.Join(errs...)
	}
}

// counters are what grows while objects are made.
type counters struct {
	at                                   time.Time
	apiCPU, etcdCPU, operatorCPU, writes float64
	etcd                                 int64 // bytes in use
}

func count(ctx context.Context, f *fleet.Fleet) (now counters, err error) {
	etcd, err := f.Etcd()
	if err != nil {
		return now, err
	}
	now.at = time.Now()
	var errs [4]error
	now.apiCPU, errs[0] = f.APIServer().CPU()
	now.etcdCPU, errs[1] = etcd.CPU()
	now.writes, errs[2] = f.Writes(ctx)
	_, now.etcd, errs[3] = f.EtcdBytes(ctx)
	for _, replica := range f.Replicas {
		cpu, cpuErr := replica.Process().CPU()
		now.operatorCPU, err = now.operatorCPU+cpu, errors.Join(err, cpuErr)
	}
	return now, errors.Join(append(errs[:], err)...)
}

// remains are the bytes that stay after what is no longer needed was thrown away.
type remains struct{ etcd, heap, rss int64 }

func tidy(ctx context.Context, f *fleet.Fleet) (left remains, err error) {
	if err := f.CompactEtcd(ctx); err != nil {
		return left, err
	}
	time.Sleep(2 * time.Second) // what etcd says of its size lags behind
	var etcdErr, heapErr error
	_, left.etcd, etcdErr = f.EtcdBytes(ctx)
	left.heap, heapErr = f.CollectGarbage(ctx)
	memory, err := f.APIServer().Memory()
	left.rss = memory.RSS
	return left, errors.Join(etcdErr, heapErr, err)
}

func measureCost(ctx context.Context, f *fleet.Fleet, objects int, do func(context.Context, int) error) (one figures.OneCost, err error) {
	had, err := tidy(ctx, f)
	if err != nil {
		return one, err
	}
	before, err := count(ctx, f)
	if err != nil {
		return one, err
	}
	if err := do(ctx, objects); err != nil {
		return one, err
	}
	after, err := count(ctx, f)
	if err != nil {
		return one, err
	}
	has, err := tidy(ctx, f)
	if err != nil {
		return one, err
	}
	n := float64(objects)
	return figures.OneCost{
		EtcdBytes: float64(has.etcd-had.etcd) / n, EtcdBefore: float64(after.etcd-before.etcd) / n,
		APIHeap: float64(has.heap-had.heap) / n, APIRSS: float64(has.rss-had.rss) / n,
		APICPU: 1000 * (after.apiCPU - before.apiCPU) / n, EtcdCPU: 1000 * (after.etcdCPU - before.etcdCPU) / n,
		OperatorCPU: 1000 * (after.operatorCPU - before.operatorCPU) / n,
		WritesEach:  (after.writes - before.writes) / n, ObjectPerSec: n / after.at.Sub(before.at).Seconds(),
	}, nil
}
