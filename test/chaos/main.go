// Command chaos runs two replicas of the operator under fault injection into all their dependencies, and then compares the events in the
// cluster, and those at the sink, with the answers to the senders.
//
// Replicas are killed; the leader is suspended, partly for longer than its Lease, so that another replica leads when it resumes; the API server
// is suspended, or killed and restarted; etcd is suspended; the sink fails one request in ten, is down, or hangs. The kinds of faults are random
// and independent, so that they overlap. The senders retry, as NetBox does if configured to. No outage is longer than the hold, so no delivery may
// be answered with 503.
//
// With -calm there are no faults: under a steady stream the memory of the replicas must not grow.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"syscall"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/test/fleet"
	"github.com/netbox-events/netbox-event-operator/test/fleet/figures"
)

const (
	replicas = 2
	// maxEvents exceeds the number of sent events, so that retention deletes none before it is counted.
	maxEvents = 1_000_000
	// failing is the ratio of requests that the sink fails although it is up.
	failing = 0.1
	// objects is the number of objects of the deliveries: few, so that each has several pending events, which can be delivered out of order.
	objects = 100
	// answerTime is the sender's time-out for an answer: longer than the hold of 25 s.
	answerTime = 30 * time.Second
	// settle is the time allowed for finishing all events after the last answer.
	settle = 4 * time.Minute
	// rest is the time allowed for everything but sending: setup, the last retries, checks.
	rest = 15 * time.Minute
)

func main() {
	duration := flag.Duration("duration", 10*time.Minute, "duration of sending and of fault injection; finishing takes some minutes more")
	rate := flag.Float64("rate", 20, "deliveries a second")
	seed := flag.Uint64("seed", uint64(time.Now().UnixNano()), "seed of the faults' kinds, durations and intervals; timing still varies between runs")
	calm := flag.Bool("calm", false, "inject no faults, and check the memory of the replicas instead")
	flag.Parse()
	name := "chaos"
	if *calm {
		name = "soak"
	}
	fleet.Main(name, *duration+rest, func(ctx context.Context) error { return run(ctx, name, *calm, *duration, *rate, *seed) })
}

func run(ctx context.Context, name string, calm bool, duration time.Duration, rate float64, seed uint64) (err error) {
	began := time.Now()
	f, err := fleet.Start(ctx, fleet.Options{Replicas: replicas, MaxEvents: maxEvents})
	if err != nil {
		return err
	}
	defer func() { err = f.End(err) }()
	var kept sync.WaitGroup
	keeping, stopKeeping := context.WithCancel(ctx)
	defer kept.Wait()
	defer stopKeeping()
	failures := make([]error, replicas)
	for i, replica := range f.Replicas {
		kept.Go(func() { failures[i] = replica.Keep(keeping) })
	}
	if err := f.Served(ctx); err != nil {
		return errors.Join(append(failures, err)...)
	}
	sender, err := f.NewSender()
	if err != nil {
		return err
	}
	sender.Objects, sender.Timeout = objects, answerTime
	sink, err := fleet.NewSink(ctx, sender.Began)
	if err != nil {
		return err
	}
	defer sink.Close()
	// Deliveries never expire: an outage of the sink must not look like a fault of the operator.
	retry := v1alpha1.Retry{
		MaxAttempts: 1000, Backoff: metav1.Duration{Duration: time.Second}, MaxBackoff: metav1.Duration{Duration: 10 * time.Second},
		Timeout: metav1.Duration{Duration: 3 * time.Second},
	}
	if err := f.CreateRule(ctx, sink, retry); err != nil {
		return err
	}
	groups, err := fleet.NewGroupSink(ctx)
	if err != nil {
		return err
	}
	defer groups.Close()
	if err := f.CreateGroupRule(ctx, groups, retry); err != nil {
		return err
	}

	watching, stopWatching := context.WithCancel(ctx)
	defer stopWatching()
	watcher := f.Watch(watching)
	harm := &harm{fleet: f, sink: sink, began: sender.Began}
	var samples []figures.Sample
	meanwhile := func() (err error) {
		if calm {
			fleet.Say("sending %g deliveries a second for %s", rate, duration)
			samples, err = watchMemory(ctx, f, sender, duration)
			return err
		}
		fleet.Say("sending %g deliveries a second for %s, and injecting faults; seed %d", rate, duration, seed)
		sink.Set(fleet.SinkUp, failing)
		defer sink.Set(fleet.SinkUp, 0)
		return harm.all(ctx, duration, seed)
	}
	var failed error
	var both sync.WaitGroup
	both.Go(func() { failed = meanwhile() })
	sender.Steady(ctx, rate, duration)
	both.Wait()
	if err := errors.Join(failed, ctx.Err()); err != nil {
		return err
	}
	fleet.Say("waiting until every event is finished")
	finished := f.Finished(ctx, settle)
	healed := time.Since(sender.Began).Seconds() - harm.last()
	verdict, err := f.Judge(ctx, sender)
	if err != nil {
		return err
	}

	disorder, err := f.Disorder(ctx, sink, watcher)
	if err != nil {
		return err
	}
	unfinished := watcher.Unfinished()

	answers := sender.Answers(0)
	result := figures.Chaos{
		Verdict: verdict, Rate: rate, Seed: seed, Faults: harm.faults, Healed: healed,
		Answers: fleet.Quantiles(answers, true), Refusals: fleet.Quantiles(answers, false), Seconds: seconds(answers, sink.First()),
		Samples: samples,
	}
	for _, replica := range f.Replicas {
		starts, kills := replica.Lives()
		result.Starts, result.Kills = result.Starts+starts, result.Kills+kills
	}
	result.Delivered, result.Doubles, _ = sink.Delivered()
	result.Undone, result.Overtaken, result.Late = len(unfinished), len(disorder.Overtaken), len(disorder.Late)
	undelivered, twice := sink.Compare(sender.Names())
	calls, ungrouped, regrouped, unordered := groups.Compare(sender.Names())
	fleet.Say("the groups came in %d requests", calls)
	unseen := verdict.Answered - len(watcher.Finished())
	for _, seen := range slices.Concat(unfinished, disorder.Overtaken, disorder.Late) {
		fleet.Say("%s", seen)
	}

	var promises fleet.Promises
	promises.HoldsVerdict(verdict)
	promises.Holds(finished == nil, "%v", finished)
	promises.None(unavailable(answers, harm.faults), "deliveries were answered with 503")
	promises.None(undelivered, "events were never delivered")
	promises.None(twice, "deliveries arrived at the sink as more than one event")
	promises.None(ungrouped, "events were delivered in no group")
	promises.None(regrouped, "events were delivered in several groups")
	promises.None(unordered, "groups had their events in the wrong order")
	promises.None(result.Undone, "events were finished, and then pending or finished again")
	promises.None(result.Overtaken, "events arrived at the sink after a later one of their object")
	promises.None(result.Late, "events arrived at the sink again after a later one of their object was finished")
	promises.Holds(unseen <= 0, "the watch missed the completion of %d events", unseen)
	if calm {
		for i := range replicas {
			grown := grown(samples, i)
			result.Growth = append(result.Growth, grown)
			promises.Holds(grown <= growth, "the memory of replica %d has grown: the last third of the run has %.2f times that of the second", i, grown)
		}
	}
	if err := fleet.Table(rows(result)...); err != nil {
		return err
	}
	return fleet.Publish(name, began, f.Machine, promises, result)
}

// unavailable counts answers of 503. Those of a replica that was suspended meanwhile do not count: the hold may have ended before it resumed.
func unavailable(answers []fleet.Answer, faults []figures.Fault) (count int) {
	for _, answer := range answers {
		from, to := (answer.At - answer.Took).Seconds(), answer.At.Seconds()
		if answer.Status == http.StatusServiceUnavailable && !slices.ContainsFunc(faults, func(fault figures.Fault) bool {
			return fault.Kind == leaderStopped && fault.From <= to && fault.To >= from
		}) {
			count++
		}
	}
	return count
}

func rows(result figures.Chaos) []string {
	counts, lengths := map[string]int{}, map[string]float64{}
	for _, fault := range result.Faults {
		counts[fault.Kind]++
		lengths[fault.Kind] += fault.To - fault.From
	}
	rows := fleet.VerdictRows(result.Verdict)
	rows = append(rows,
		fmt.Sprintf("accepted by the sink\t%d, %d of them repeatedly", result.Delivered, result.Doubles),
		fmt.Sprintf("unfinished again\t%d", result.Undone),
		fmt.Sprintf("out of order\t%d; %d again after a later one was finished", result.Overtaken, result.Late),
		fmt.Sprintf("managers\t%d started, %d killed, %d exited by themselves", result.Starts, result.Kills, result.Ended()),
		fleet.AnswerRow("answers with 200", result.Answers), fleet.AnswerRow("other answers, or none", result.Refusals),
	)
	for i, grown := range result.Growth {
		rows = append(rows, fmt.Sprintf("memory of replica %d\t%.2f times, the last third over the second", i, grown))
	}
	if len(result.Faults) == 0 {
		return rows
	}
	rows = append(rows, fmt.Sprintf("all finished\t%.1f s after the last fault", result.Healed))
	for _, kind := range kinds {
		rows = append(rows, fmt.Sprintf("%s\t%d times, %.0f s in all", kind, counts[kind], lengths[kind]))
	}
	return rows
}

// seconds counts what happened in each second.
func seconds(answers []fleet.Answer, delivered []time.Duration) (all []figures.Second) {
	at := func(when time.Duration) *figures.Second {
		for len(all) <= int(when.Seconds()) {
			all = append(all, figures.Second{})
		}
		return &all[int(when.Seconds())]
	}
	for _, answer := range answers {
		if answer.Status == 200 {
			at(answer.At).Stored++
		} else {
			at(answer.At).Refused++
		}
	}
	for _, when := range delivered {
		at(when).Delivered++
	}
	return all
}

// The kinds of faults, as the report names them.
const (
	replicaKilled    = "replica killed"
	leaderStopped    = "leader stopped"
	apiServerStopped = "API server stopped"
	apiServerKilled  = "API server killed"
	etcdStopped      = "etcd stopped"
	sinkDown         = "sink down"
	sinkHangs        = "sink hangs"
)

var kinds = []string{replicaKilled, leaderStopped, apiServerStopped, apiServerKilled, etcdStopped, sinkDown, sinkHangs}

// harm injects faults, and records them.
type harm struct {
	fleet *fleet.Fleet
	sink  *fleet.Sink
	began time.Time

	mu     sync.Mutex
	faults []figures.Fault
}

// between is a range of random durations.
type between struct{ least, most time.Duration }

func (b between) pick(random *rand.Rand) time.Duration {
	return b.least + time.Duration(random.Int64N(int64(b.most-b.least)+1))
}

// fault is a kind of fault, with its duration.
type fault struct {
	kind   string
	length between
	do     func(ctx context.Context, length time.Duration, random *rand.Rand) error
}

// all injects the faults of each group sequentially, and those of all groups concurrently, for a time.
func (h *harm) all(ctx context.Context, duration time.Duration, seed uint64) error {
	ctx, cancel := context.WithTimeout(ctx, duration)
	defer cancel()
	var all sync.WaitGroup
	errs := make([]error, 3)
	for i, group := range []struct {
		pauses between
		faults []fault
	}{
		{between{5 * time.Second, 35 * time.Second}, []fault{
			{replicaKilled, between{}, h.killReplica},
			{leaderStopped, between{12 * time.Second, 25 * time.Second}, h.stopLeader}, // the lease is 15 s
		}},
		{between{4 * time.Second, 20 * time.Second}, []fault{
			{apiServerStopped, between{time.Second, 20 * time.Second}, h.stopAPIServer},
			{etcdStopped, between{time.Second, 10 * time.Second}, h.stopEtcd},
			{apiServerKilled, between{time.Second, 5 * time.Second}, h.killAPIServer},
		}},
		{between{3 * time.Second, 15 * time.Second}, []fault{
			{sinkDown, between{2 * time.Second, 20 * time.Second}, h.breakSink(fleet.SinkDown)},
			{sinkHangs, between{2 * time.Second, 20 * time.Second}, h.breakSink(fleet.SinkHangs)},
		}},
	} {
		random := rand.New(rand.NewPCG(seed, uint64(i)))
		all.Go(func() { errs[i] = h.some(ctx, group.pauses, group.faults, random) })
	}
	all.Wait()
	return errors.Join(errs...)
}

// some injects faults, each kind once before any is repeated.
func (h *harm) some(ctx context.Context, pauses between, faults []fault, random *rand.Rand) error {
	for {
		for _, i := range random.Perm(len(faults)) {
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(pauses.pick(random)):
			}
			length := faults[i].length.pick(random)
			fleet.Say("%s for %s", faults[i].kind, length.Round(time.Second/10))
			from := time.Since(h.began).Seconds()
			if err := faults[i].do(ctx, length, random); err != nil {
				return fmt.Errorf("%s: %w", faults[i].kind, err)
			}
			h.mu.Lock()
			h.faults = append(h.faults, figures.Fault{Kind: faults[i].kind, From: from, To: time.Since(h.began).Seconds()})
			h.mu.Unlock()
		}
	}
}

// last returns the end of the last fault.
func (h *harm) last() (end float64) {
	for _, fault := range h.faults {
		end = max(end, fault.To)
	}
	return end
}

func (h *harm) killReplica(_ context.Context, _ time.Duration, random *rand.Rand) error {
	return h.fleet.Replicas[random.IntN(replicas)].Kill()
}

// stopLeader suspends the leader for a time. If no replica reports to lead, as during an outage of the API server, it waits until one does.
func (h *harm) stopLeader(ctx context.Context, length time.Duration, _ *rand.Rand) error {
	for ctx.Err() == nil {
		if leader := h.fleet.Leader(ctx); leader != nil {
			return leader.Hang(ctx, length)
		}
		fleet.Pause(ctx, time.Second)
	}
	return nil
}

func (h *harm) stopAPIServer(ctx context.Context, length time.Duration, _ *rand.Rand) error {
	return stop(ctx, h.fleet.APIServer(), length)
}

func (h *harm) stopEtcd(ctx context.Context, length time.Duration, _ *rand.Rand) error {
	etcd, err := h.fleet.Etcd()
	if err != nil {
		return err
	}
	return stop(ctx, etcd, length)
}

func (h *harm) killAPIServer(ctx context.Context, length time.Duration, _ *rand.Rand) error {
	return h.fleet.KillAPIServer(ctx, length)
}

func (h *harm) breakSink(state fleet.SinkState) func(context.Context, time.Duration, *rand.Rand) error {
	return func(ctx context.Context, length time.Duration, _ *rand.Rand) error {
		h.sink.Set(state, failing)
		fleet.Pause(ctx, length)
		h.sink.Set(fleet.SinkUp, failing)
		return nil
	}
}

// stop suspends a process for a time.
func stop(ctx context.Context, process fleet.Process, length time.Duration) error {
	if err := process.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	fleet.Pause(ctx, length)
	return process.Signal(syscall.SIGCONT)
}
