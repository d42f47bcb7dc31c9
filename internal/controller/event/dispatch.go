package event

import (
	"context"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

const (
	// deliveriesAtOnce is how many deliveries of one rule run at one time: one slow sink must not hold the others.
	deliveriesAtOnce = 32
	// deliveriesInAll bounds the memory of all that run. A rule that has none running may always start one.
	deliveriesInAll = 512
	// drainTime is how long those that run may go on when this replica no longer leads. With saveTime it is as long as the lease is not
	// another's after we gave up to renew it: controller-runtime's LeaseDuration (15 s) less RenewDeadline (10 s) and RetryPeriod (2 s).
	drainTime = 2 * time.Second
)

// dispatcher runs deliveries, some of each rule at one time and the others in their turn.
type dispatcher struct {
	ctx    context.Context // of all deliveries
	cancel context.CancelFunc
	all    sync.WaitGroup
	// stopping is done before ctx is: nothing more is started, and what runs may go on for a while, and waits for nothing.
	stopping context.Context
	stopSoon context.CancelFunc

	mu      sync.Mutex
	running int
	rules   map[types.NamespacedName]*ruleDeliveries
}

// ruleDeliveries are those of one rule.
type ruleDeliveries struct {
	running int
	// waiting are those that run next. What was never tried goes before what failed, so that a sink that takes some events and refuses
	// others gets the new ones soon.
	waiting, waitingAgain []func(context.Context)
}

func newDispatcher() *dispatcher {
	ctx, cancel := context.WithCancel(context.Background())
	stopping, stopSoon := context.WithCancel(ctx)
	return &dispatcher{ctx: ctx, cancel: cancel, stopping: stopping, stopSoon: stopSoon, rules: map[types.NamespacedName]*ruleDeliveries{}}
}

// submit runs a delivery of a rule as soon as it is its turn.
func (d *dispatcher) submit(rule types.NamespacedName, again bool, deliver func(context.Context)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	of := d.rules[rule]
	if of == nil {
		of = &ruleDeliveries{}
		d.rules[rule] = of
	}
	if again {
		of.waitingAgain = append(of.waitingAgain, deliver)
	} else {
		of.waiting = append(of.waiting, deliver)
	}
	d.run(rule, of)
}

// run starts what may run of a rule.
func (d *dispatcher) run(rule types.NamespacedName, of *ruleDeliveries) {
	for !d.isStopped() && of.running < deliveriesAtOnce && (of.running == 0 || d.running < deliveriesInAll) {
		deliver := of.next()
		if deliver == nil {
			break
		}
		of.running++
		d.running++
		d.all.Go(func() {
			deliver(d.ctx)
			d.ended(rule, of)
		})
	}
	if of.running == 0 {
		delete(d.rules, rule)
	}
}

func (r *ruleDeliveries) next() (next func(context.Context)) {
	for _, queue := range []*[]func(context.Context){&r.waiting, &r.waitingAgain} {
		if len(*queue) > 0 {
			next, (*queue)[0] = (*queue)[0], nil
			*queue = (*queue)[1:]
			return next
		}
	}
	return nil
}

func (d *dispatcher) ended(rule types.NamespacedName, of *ruleDeliveries) {
	d.mu.Lock()
	defer d.mu.Unlock()
	of.running--
	d.running--
	d.run(rule, of)
	if d.running == deliveriesInAll-1 { // others waited for a place
		for rule, of := range d.rules {
			d.run(rule, of)
		}
	}
}

func (d *dispatcher) isStopped() bool { return d.stopping.Err() != nil }

// stop starts nothing more and waits for what runs, which it cancels after some time.
func (d *dispatcher) stop() {
	d.mu.Lock() // whatever run is starting is waited for below
	d.stopSoon()
	d.mu.Unlock()
	late := time.AfterFunc(drainTime, d.cancel)
	d.all.Wait()
	late.Stop()
	d.cancel()
}

// drain ends the deliveries when this replica no longer leads, and writes down what became of them.
type drain struct{ *Reconciler }

// saveTime bounds the writing.
const saveTime = time.Second

// Start implements manager.Runnable.
func (d drain) Start(ctx context.Context) error {
	defer d.Metrics.follow(d.Events, d.Clock)()
	<-ctx.Done()
	d.delivery.stop()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), saveTime)
	defer cancel()
	all := d.known.all()
	for _, w := range all {
		if err := d.save(ctx, w, &turn{now: d.Clock.Now().Add(saveDelay)}); err != nil {
			d.Log.WithValues(naming(w.event)...).Info("what was delivered last cannot be written down, and will be delivered again",
				"cause", err.Error())
			if isUnavailable(err) {
				break
			}
		}
	}
	for _, w := range all {
		w.span.End()
	}
	return nil
}
