// Package fairqueue is a work queue that is fair between flows: a flow with a large backlog, or whose items hang, does not block the
// others. It is meant as the queue of a controller:
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

// Flow identifies a flow of items. Groups have equal shares, and so do the flows within a group.
type Flow struct{ Group, Name string }

// Config configures a Queue. The queue calls its functions under its lock: they must be fast, and must not call the queue.
type Config[T comparable] struct {
	// Flow returns the flow of an item, always the same one.
	Flow func(T) Flow
	// Limit returns the maximum number of items of a flow in process. It may change; call Wake after an increase. Nil is no limit.
	Limit func(Flow) int
	// Shared is the total number of items in process up to which flows are not limited to their share. The share of a flow is the free part of
	// 2*Shared, divided by the number of active groups and then by the number of active flows in its group, and at least 1. Groups and flows
	// are active while they have items queued or in process; the first item in process of each flow does not count against 2*Shared.
	//
	// Flows that always have items queued converge to equal parts of Shared. Flows that hang keep their items in process, but each further
	// one takes only a fraction of the free part, so it is never exhausted. At most 2*Shared items, and one for each flow, are in process:
	// with that many workers, no item waits for a worker.
	Shared int
	// Metrics provides the metrics of RateLimiting. If it is nil, the queue reports retries alone, because client-go does not export the
	// provider that SetProvider sets.
	Metrics workqueue.MetricsProvider
}

// Queue is a workqueue.TypedInterface with the semantics of client-go's own: it deduplicates queued items, and requeues an item that is
// added while in process when it is done. Items of a flow are FIFO; groups are served round-robin, and so are the flows within a group.
type Queue[T comparable] struct {
	config  Config[T]
	metrics *metrics

	mu sync.Mutex
	// startable wakes a Get. Each change that may let items start signals one Get, and a Get that starts an item signals the next, so at most
	// one Get wakes in vain. A Done that ends a flow lets several items start, because the shares of all other flows rise.
	startable *sync.Cond
	drained   *sync.Cond

	groups   map[string]*group[T] // the active ones
	rotation rotation[*group[T]]  // the ones with queued items
	queued   int                  // items in all flows
	dirty    sets.Set[T]          // items that need processing: queued, or requeued when they are done
	started  map[T]startedItem[T] // items in process
	extra    int                  // items in process beyond the first of each flow
	stopping bool
	draining bool
}

var _ workqueue.TypedInterface[string] = &Queue[string]{}

type group[T comparable] struct {
	flows    map[string]*flow[T] // the active ones
	rotation rotation[*flow[T]]  // the ones with queued items
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

// RateLimiting wraps this queue in client-go's delaying and rate-limiting queues, with metrics under a name. It is the NewQueue of a
// controller. Call it once, before the first use of the queue.
func (q *Queue[T]) RateLimiting(name string, limiter workqueue.TypedRateLimiter[T]) workqueue.TypedRateLimitingInterface[T] {
	q.metrics = newMetrics(q.config.Metrics, name)
	return workqueue.NewTypedRateLimitingQueueWithConfig(limiter, workqueue.TypedRateLimitingQueueConfig[T]{
		DelayingQueue: workqueue.NewTypedDelayingQueueWithConfig(workqueue.TypedDelayingQueueConfig[T]{
			Name: name, MetricsProvider: q.config.Metrics, Queue: q,
		}),
	})
}

// Add queues an item, unless it is already queued or the queue is shutting down.
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
	if q.mayStart(f) { // otherwise a Get would scan all flows in vain
		q.startable.Signal()
	}
}

// Len returns the number of queued items.
func (q *Queue[T]) Len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.queued
}

// Get blocks until an item may start, and returns it. Call Done when its processing ends. During a shutdown Get drains the queue, except
// for items that a limit of 0 never lets start: these stay in the queue.
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

// Done ends the processing of an item, and requeues it if it was added since Get.
func (q *Queue[T]) Done(item T) {
	q.mu.Lock()
	defer q.mu.Unlock()
	started, ok := q.started[item]
	if !ok {
		return
	}
	f := started.flow
	delete(q.started, item)
	if f.started--; f.started > 0 {
		q.extra--
	}
	q.metrics.done(started.at)
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

// Wake wakes a blocked Get. Call it after a limit has increased.
func (q *Queue[T]) Wake() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.startable.Signal()
}

// ShutDown makes Add ignore items, and Get return the queued items and then report the shutdown.
func (q *Queue[T]) ShutDown() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.shutDown(false)
}

// ShutDownWithDrain shuts down, and blocks until no item is in process or ShutDown is called.
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

// ShuttingDown reports whether ShutDown or ShutDownWithDrain was called.
func (q *Queue[T]) ShuttingDown() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.stopping
}

// flow returns a flow, and activates it if needed.
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

// forget deactivates a flow.
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

// start dequeues the next item that may start.
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

// mayStart reports whether another item of a flow may start.
func (q *Queue[T]) mayStart(f *flow[T]) bool {
	free := q.config.Shared - q.extra + q.config.Shared
	isFair := f.started == 0 || len(q.started) < q.config.Shared || f.started < free/len(q.groups)/len(f.group.flows)
	return isFair && (q.config.Limit == nil || f.started < q.config.Limit(f.id))
}
