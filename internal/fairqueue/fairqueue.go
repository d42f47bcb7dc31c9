// Package fairqueue is a work queue that is fair between flows: one with much to do, or one whose items hang, does not hold up the others.
// It is made for the queue of a controller:
//
//	queue := fairqueue.New(fairqueue.Config[request]{…})
//	controller.TypedOptions[request]{NewQueue: queue.RateLimiting, MaxConcurrentReconciles: 2 * shared, …}
package fairqueue

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/util/workqueue"
)

// Flow identifies a flow of items. Groups are treated alike, and so are the flows within a group.
type Flow struct{ Group, Name string }

// Config configures a Queue. Its functions are called with the queue locked: they must be quick, and must not call the queue.
type Config[T comparable] struct {
	// Flow returns the flow of an item, always the same one.
	Flow func(T) Flow
	// Limit returns how many items of a flow may be in process at one time. It may change; call Wake when it has risen. Nil is no limit.
	Limit func(Flow) int
	// Shared is how many items may be in process in total before a flow is held to its share. Its share is what is free of 2*Shared, divided
	// by the number of active groups and then by the number of active flows in its group, and at least 1. Active are those with items queued
	// or in process; the first item in process of each flow takes nothing of what is free.
	//
	// Flows that always have items queued settle at Shared, divided evenly. Flows that hang hold what they have, but each that joins them
	// takes only a part of what is left, so something is always left for the next. No more than 2*Shared and one for each flow are in
	// process: that many workers never keep an item waiting.
	Shared int
	// Metrics makes the metrics of RateLimiting. Without it there are only retries, because client-go does not tell others the provider
	// that SetProvider was given.
	Metrics workqueue.MetricsProvider
}

// Queue is a workqueue.TypedInterface with the semantics of client-go's own: an item that is added several times before it is processed is
// processed once, and one that is added while it is processed is queued again when it is done. Items of a flow are processed first in,
// first out; groups take turns, and so do the flows within a group.
type Queue[T comparable] struct {
	config  Config[T]
	metrics *metrics

	mu sync.Mutex
	// startable wakes a Get. Whatever may let items start signals one Get, and a Get that starts an item signals the next: as many wake
	// as can go on, and one more. Done lets several start if it ends a flow, because the shares of all others rise.
	startable *sync.Cond
	drained   *sync.Cond

	groups   map[string]*group[T] // those that are active
	rotation rotation[*group[T]]  // those with items queued
	queued   int                  // items in all flows
	dirty    sets.Set[T]          // items to be processed: queued, or to be queued when they are done
	started  map[T]startedItem[T] // items in process
	extra    int                  // items in process beyond the first of each flow
	stopping bool
	draining bool
}

var _ workqueue.TypedInterface[string] = &Queue[string]{}

type group[T comparable] struct {
	flows    map[string]*flow[T] // those that are active
	rotation rotation[*flow[T]]  // those with items queued
}

type flow[T comparable] struct {
	id      Flow
	group   *group[T]
	queue   workqueue.Queue[queuedItem[T]]
	started int // items in process
}

type queuedItem[T comparable] struct {
	item T
	at   time.Duration
}

type startedItem[T comparable] struct {
	flow *flow[T]
	at   time.Duration
}

// New returns a Queue without metrics.
func New[T comparable](config Config[T]) *Queue[T] {
	q := &Queue[T]{config: config, groups: map[string]*group[T]{}, dirty: sets.Set[T]{}, started: map[T]startedItem[T]{}}
	q.startable, q.drained = sync.NewCond(&q.mu), sync.NewCond(&q.mu)
	return q
}

// RateLimiting returns this queue inside client-go's delaying and rate-limiting queues, with metrics under a name. It is the NewQueue of a
// controller, and must be called once, before the queue is used.
func (q *Queue[T]) RateLimiting(name string, limiter workqueue.TypedRateLimiter[T]) workqueue.TypedRateLimitingInterface[T] {
	q.metrics = newMetrics(q.config.Metrics, name)
	return workqueue.NewTypedRateLimitingQueueWithConfig(limiter, workqueue.TypedRateLimitingQueueConfig[T]{
		DelayingQueue: workqueue.NewTypedDelayingQueueWithConfig(workqueue.TypedDelayingQueueConfig[T]{
			Name: name, MetricsProvider: q.config.Metrics, Queue: q,
		}),
	})
}

// Add queues an item, unless it is queued already or the queue shuts down.
func (q *Queue[T]) Add(item T) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.stopping || q.dirty.Has(item) {
		return
	}
	q.dirty.Insert(item)
	q.metrics.added()
	if _, ok := q.started[item]; ok {
		return
	}
	f := q.flow(q.config.Flow(item))
	q.push(f, item)
	if q.mayStart(f) { // otherwise a Get would look at all flows for nothing
		q.startable.Signal()
	}
}

// Len returns how many items are queued.
func (q *Queue[T]) Len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.queued
}

// Get waits for an item that may be processed, and must be followed by Done. While the queue shuts down, it returns what is queued, except
// for what no limit lets start when nothing else is in process: that stays in the queue.
func (q *Queue[T]) Get() (item T, shutdown bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		item, ok := q.start()
		shutdown := !ok && q.stopping && (q.queued == 0 || len(q.started) == 0)
		if !ok && !shutdown {
			q.startable.Wait()
			continue
		}
		if q.queued > 0 || q.stopping {
			q.startable.Signal()
		}
		return item, shutdown
	}
}

// Done ends the processing of an item, and queues it again if it was added since Get.
func (q *Queue[T]) Done(item T) {
	q.mu.Lock()
	defer q.mu.Unlock()
	work, ok := q.started[item]
	if !ok {
		return
	}
	f := work.flow
	delete(q.started, item)
	if f.started--; f.started > 0 {
		q.extra--
	}
	q.metrics.done(work.at)
	switch {
	case q.dirty.Has(item):
		q.push(f, item)
	case len(q.started) == 0:
		q.drained.Broadcast()
	}
	if f.started == 0 && f.queue.Len() == 0 {
		q.forget(f)
	}
	if q.queued > 0 {
		q.startable.Signal()
	}
}

// Wake looks again at what may start. It is to be called when a limit has risen.
func (q *Queue[T]) Wake() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.startable.Signal()
}

// ShutDown lets Add ignore items, and Get return those that are queued and then that the queue is shut down.
func (q *Queue[T]) ShutDown() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.shutDown(false)
}

// ShutDownWithDrain shuts down, and waits until Done was called for all items that Get returned, or until ShutDown is called.
func (q *Queue[T]) ShutDownWithDrain() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.shutDown(true)
	for q.draining && len(q.started) > 0 {
		q.drained.Wait()
	}
}

func (q *Queue[T]) shutDown(drain bool) {
	q.stopping, q.draining = true, drain
	q.startable.Broadcast()
	q.drained.Broadcast()
}

// ShuttingDown tells whether ShutDown or ShutDownWithDrain was called.
func (q *Queue[T]) ShuttingDown() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.stopping
}

// flow returns a flow, which becomes active if it is not.
func (q *Queue[T]) flow(id Flow) *flow[T] {
	g := q.groups[id.Group]
	if g == nil {
		g = &group[T]{flows: map[string]*flow[T]{}}
		q.groups[id.Group] = g
	}
	f := g.flows[id.Name]
	if f == nil {
		f = &flow[T]{id: id, group: g, queue: workqueue.DefaultQueue[queuedItem[T]]()}
		g.flows[id.Name] = f
	}
	return f
}

// forget makes a flow inactive.
func (q *Queue[T]) forget(f *flow[T]) {
	delete(f.group.flows, f.id.Name)
	if len(f.group.flows) == 0 {
		delete(q.groups, f.id.Group)
	}
}

func (q *Queue[T]) push(f *flow[T], item T) {
	if len(f.group.rotation.members) == 0 {
		q.rotation.join(f.group)
	}
	if f.queue.Len() == 0 {
		f.group.rotation.join(f)
	}
	f.queue.Push(queuedItem[T]{item, q.metrics.now()})
	q.queued++
}

// start takes the next item that may be in process.
func (q *Queue[T]) start() (item T, ok bool) {
	for i := range q.rotation.members {
		g := q.rotation.at(i)
		for j := range g.rotation.members {
			f := g.rotation.at(j)
			if !q.mayStart(f) {
				continue
			}
			next, now := f.queue.Pop(), q.metrics.now()
			g.rotation.served(j, f.queue.Len() > 0)
			q.rotation.served(i, len(g.rotation.members) > 0)
			q.queued--
			q.dirty.Delete(next.item)
			q.started[next.item] = startedItem[T]{f, now}
			if f.started++; f.started > 1 {
				q.extra++
			}
			q.metrics.started(next.at, now)
			return next.item, true
		}
	}
	return item, false
}

// mayStart tells whether one more item of a flow may be in process.
func (q *Queue[T]) mayStart(f *flow[T]) bool {
	free := q.config.Shared - q.extra + q.config.Shared
	isFair := f.started == 0 || len(q.started) < q.config.Shared || f.started < free/len(q.groups)/len(f.group.flows)
	return isFair && (q.config.Limit == nil || f.started < q.config.Limit(f.id))
}
