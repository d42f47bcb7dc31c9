package fairqueue

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"k8s.io/client-go/util/workqueue"
)

const (
	unlimited = 1 << 30
	hangs     = time.Hour
)

type item struct {
	Flow
	ID string
}

func newQueue(shared int, limit func(Flow) int) *Queue[item] {
	return New(Config[item]{Flow: func(i item) Flow { return i.Flow }, Limit: limit, Shared: shared})
}

func constant(limit int) func(Flow) int { return func(Flow) int { return limit } }

func add(q interface{ Add(item) }, group, name string, n int) {
	for i := range n {
		q.Add(item{Flow{group, name}, fmt.Sprint(i)})
	}
}

// get dequeues n items. It blocks if there are fewer.
func get(t *testing.T, q *Queue[item], n int) (items []item) {
	t.Helper()
	for range n {
		next, shutdown := q.Get()
		if shutdown {
			t.Fatal("shut down")
		}
		items = append(items, next)
	}
	return items
}

// names joins the names of the flows of items.
func names(items []item) (names string) {
	for _, i := range items {
		names += i.Name
	}
	return names
}

func isEmpty(q *Queue[item]) bool {
	return len(q.groups) == 0 && len(q.rotation.members) == 0 && q.queued == 0 && len(q.dirty) == 0 && len(q.started) == 0 && q.extra == 0
}

// Without limits, every flow behaves like client-go's queue.
func TestSemantics(t *testing.T) {
	for seed := range uint64(200) {
		random := rand.New(rand.NewPCG(seed, 0))
		q, reference, started := newQueue(unlimited, nil), map[Flow]*workqueue.Typed[item]{}, []item{}
		flows := 1 + random.IntN(5)
		for i := range flows {
			reference[Flow{fmt.Sprint(i % 2), fmt.Sprint(i)}] = workqueue.NewTyped[item]()
		}
		depth := func() (n int) {
			for _, r := range reference {
				n += r.Len()
			}
			return n
		}
		step := func(kind int) {
			switch {
			case kind == 0:
				n := random.IntN(flows)
				next := item{Flow{fmt.Sprint(n % 2), fmt.Sprint(n)}, fmt.Sprint(random.IntN(6))}
				q.Add(next)
				reference[next.Flow].Add(next)
			case kind == 1 && depth() > 0:
				next := get(t, q, 1)[0]
				if want, _ := reference[next.Flow].Get(); next != want {
					t.Fatalf("seed %d: Get returns %v, want %v", seed, next, want)
				}
				started = append(started, next)
			case kind == 2 && len(started) > 0:
				n := random.IntN(len(started))
				q.Done(started[n])
				reference[started[n].Flow].Done(started[n])
				started = slices.Delete(started, n, n+1)
			}
			if q.Len() != depth() {
				t.Fatalf("seed %d: %d queued, want %d", seed, q.Len(), depth())
			}
		}
		for range 500 {
			step(random.IntN(3))
		}
		q.ShutDown()
		for _, r := range reference {
			r.ShutDown()
		}
		for range 100 {
			step(random.IntN(3))
		}
		for depth() > 0 || len(started) > 0 {
			step(1 + random.IntN(2))
		}
		if _, shutdown := q.Get(); !shutdown || !q.ShuttingDown() || !isEmpty(q) {
			t.Fatalf("seed %d: not empty and shut down at the end: %+v", seed, q)
		}
	}
}

func TestRoundRobin(t *testing.T) {
	q := newQueue(unlimited, nil)
	add(q, "x", "a", 3)
	add(q, "x", "b", 2)
	add(q, "x", "c", 1)
	if order := names(get(t, q, 2)); order != "ab" {
		t.Errorf("order is %s, want ab", order)
	}
	add(q, "y", "d", 4)
	add(q, "x", "e", 1) // after c, which is next, and after a and b, which were served
	if order := names(get(t, q, 9)); order != "cdadbdeda" {
		t.Errorf("order is %s, want cdadbdeda", order)
	}
}

// An item that is added again while in process is requeued behind the other items of its flow, and waits for the turn of the flow.
func TestRetryUnderLoad(t *testing.T) {
	q := newQueue(1, nil)
	add(q, "x", "a", 2)
	add(q, "x", "b", 1000)
	retried := 0
	for range 100 {
		next := get(t, q, 1)[0]
		if next.Name == "a" {
			q.Add(next)
			retried++
		}
		q.Done(next)
	}
	if retried != 50 {
		t.Errorf("retries had %d of 100 turns, want 50", retried)
	}
}

func TestLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var limit atomic.Int32
		var got []item
		q := newQueue(100, func(Flow) int { return int(limit.Load()) })
		add(q, "x", "a", 10)
		for range 20 {
			go func() {
				if next, shutdown := q.Get(); !shutdown {
					q.mu.Lock()
					defer q.mu.Unlock()
					got = append(got, next)
				}
			}()
		}
		expect := func(reason string, want int) {
			t.Helper()
			if synctest.Wait(); len(got) != want {
				t.Errorf("%s: %d started, want %d", reason, len(got), want)
			}
		}
		expect("limit 0", 0)
		limit.Store(3)
		expect("no Get starts an item before Wake", 0)
		q.Wake()
		expect("one Wake starts all allowed items", 3)
		q.Done(got[0])
		expect("Done lets the next item start", 4)
		limit.Store(1)
		q.Done(got[1])
		q.Done(got[2])
		expect("a decreased limit", 4)
		q.Done(got[3])
		expect("fewer in process than the decreased limit", 5)
		q.ShutDown()
		expect("shutdown waits for the item in process", 5)
		q.Done(got[4])
		expect("shutdown drains the queue", 6)
		limit.Store(0)
		q.Done(got[5]) // synctest checks that the workers end
		expect("shutdown leaves items that never start", 6)
	})
}

// load runs workers, and counts the items in process and done of each flow.
type load struct {
	mu                  sync.Mutex
	running, most, done map[string]int
}

func start(workers int, q *Queue[item], took func(item) time.Duration) *load {
	l := &load{running: map[string]int{}, most: map[string]int{}, done: map[string]int{}}
	for range workers {
		go func() {
			for {
				next, shutdown := q.Get()
				if shutdown {
					return
				}
				l.mu.Lock()
				l.running[next.Name]++
				l.most[next.Name] = max(l.most[next.Name], l.running[next.Name])
				l.mu.Unlock()
				time.Sleep(took(next))
				l.mu.Lock()
				l.running[next.Name]--
				l.done[next.Name]++
				l.mu.Unlock()
				q.Done(next)
			}
		}()
	}
	return l
}

// counts returns the items of a flow that are in process, their maximum, and the items that are done.
func (l *load) counts(flow string) (running, most, done int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.running[flow], l.most[flow], l.done[flow]
}

// A healthy flow gets its full share at once, regardless of the number of flows that hang.
func TestFairness(t *testing.T) {
	const shared, limit, work, items = 512, 32, 20 * time.Millisecond, 300
	took := func(i item) time.Duration {
		if i.Group == "hangs" && i.Name != "healthy" {
			return hangs
		}
		return work
	}
	for _, test := range []struct {
		reason   string
		hang     int // flows that hang, all in one group
		queued   int // items of each of them
		oneByOne bool
		group    string // of the healthy flow
		share    int    // of items in process
	}{
		{reason: "alone", group: "hangs", share: limit},
		{reason: "flows that hang use all of Shared", hang: 16, queued: limit + 1, group: "hangs", share: 29},
		{reason: "flows that hang use all of Shared", hang: 16, queued: limit + 1, group: "other", share: limit},
		{reason: "many flows hang simultaneously", hang: 200, queued: limit + 1, group: "hangs", share: 3},
		{reason: "many flows hang simultaneously", hang: 200, queued: limit + 1, group: "other", share: limit},
		{reason: "many flows hang one after another", hang: 200, queued: limit + 1, oneByOne: true, group: "hangs", share: 1},
		{reason: "many flows hang one after another", hang: 200, queued: limit + 1, oneByOne: true, group: "other", share: limit},
		{reason: "more flows hang than Shared", hang: 700, queued: 3, group: "hangs", share: 1},
		{reason: "more flows hang than Shared", hang: 700, queued: 3, group: "other", share: limit},
	} {
		t.Run(fmt.Sprintf("%s/%d/%s", test.reason, test.hang, test.group), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := newQueue(shared, constant(limit))
				addHanging := func() {
					for i := range test.hang {
						add(q, "hangs", fmt.Sprint(i), test.queued)
						if test.oneByOne {
							synctest.Wait()
						}
					}
				}
				if !test.oneByOne {
					addHanging()
				}
				l := start(2*shared+test.hang+1, q, took)
				if test.oneByOne {
					addHanging()
				}
				synctest.Wait()
				start := time.Now()
				add(q, test.group, "healthy", items)
				turns := (items + test.share - 1) / test.share
				time.Sleep(time.Duration(turns)*work + 1)
				_, most, done := l.counts("healthy")
				if most != test.share || done != items {
					t.Errorf("%d in process and %d done after %s, want %d and %d", most, done, time.Since(start), test.share, items)
				}
				synctest.Wait()
				if q.extra > 2*shared {
					t.Errorf("%d in process beyond one for each flow, want at most %d", q.extra, 2*shared)
				}
				q.ShutDown()
				time.Sleep(80 * hangs)
				synctest.Wait()
				if !isEmpty(q) {
					t.Error("the queue is not empty at the end")
				}
			})
		})
	}
}

// When a flow ends, the shares of the others rise, and one Done lets several items start.
func TestShareRises(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(100, nil)
		add(q, "x", "a", 99)
		add(q, "y", "b", 1)
		ends := get(t, q, 100)[1]
		l := start(100, q, func(item) time.Duration { return hangs })
		add(q, "z", "c", 100)
		synctest.Wait()
		before, _, _ := l.counts("c")
		q.Done(ends)
		synctest.Wait()
		if after, _, _ := l.counts("c"); before != 26 || after != 34 {
			t.Errorf("%d in process, then %d, want 26 and 34", before, after)
		}
		q.ShutDown()
		time.Sleep(10 * hangs)
	})
}

func TestShutDownWithDrain(t *testing.T) {
	for _, test := range []struct {
		reason string
		force  time.Duration // until ShutDown is called too
		want   time.Duration
	}{
		{reason: "until the last item in process is done", force: time.Minute, want: 5 * time.Second},
		{reason: "until ShutDown is called", force: time.Millisecond, want: time.Millisecond},
	} {
		synctest.Test(t, func(t *testing.T) {
			q := newQueue(2, nil)
			add(q, "x", "a", 2)
			l := start(3, q, func(i item) time.Duration {
				if i.ID == "1" {
					return 5 * time.Second
				}
				return time.Second
			})
			synctest.Wait()
			q.Add(item{Flow{"x", "a"}, "0"}) // in process
			start := time.Now()
			time.AfterFunc(test.force, q.ShutDown)
			q.ShutDownWithDrain()
			if took := time.Since(start); took != test.want {
				t.Errorf("%s: took %s, want %s", test.reason, took, test.want)
			}
			q.Add(item{Flow{"x", "a"}, "too late"})
			time.Sleep(time.Hour)
			if _, _, done := l.counts("a"); done != 3 {
				t.Errorf("%s: %d done, want 3", test.reason, done)
			}
		})
	}
}

// With many workers, many flows, and changing limits, every item is processed by one worker at a time, and none is stuck.
func TestConcurrent(t *testing.T) {
	const flows, items, rounds = 20, 50, 10
	var limit atomic.Int32
	var done atomic.Int64
	var busy sync.Map
	q := newQueue(8, func(Flow) int { return int(limit.Load()) })
	var workers, senders sync.WaitGroup
	for range 32 {
		workers.Go(func() {
			for {
				next, shutdown := q.Get()
				if shutdown {
					return
				}
				if _, ok := busy.LoadOrStore(next, true); ok {
					t.Errorf("two workers process %v", next)
				}
				runtime.Gosched()
				busy.Delete(next)
				done.Add(1)
				q.Done(next)
			}
		})
	}
	for f := range flows {
		senders.Go(func() {
			for range rounds {
				add(q, fmt.Sprint(f%3), fmt.Sprint(f), items)
				limit.Store(int32(rand.IntN(4)))
				q.Wake()
			}
		})
	}
	senders.Wait()
	limit.Store(2)
	q.Wake()
	for q.Len() > 0 {
		runtime.Gosched()
	}
	q.ShutDownWithDrain()
	workers.Wait()
	if !isEmpty(q) || done.Load() < flows*items {
		t.Errorf("%d done of at least %d; empty: %t", done.Load(), flows*items, isEmpty(q))
	}
}

// metered records metrics.
type metered struct {
	workqueue.MetricsProvider
	depth, adds, retries count
	latency, work        observed
}

type count struct{ n int }

func (c *count) Inc() { c.n++ }
func (c *count) Dec() { c.n-- }

type observed []float64

func (o *observed) Observe(v float64) { *o = append(*o, v) }

func (m *metered) NewDepthMetric(string) workqueue.GaugeMetric            { return &m.depth }
func (m *metered) NewAddsMetric(string) workqueue.CounterMetric           { return &m.adds }
func (m *metered) NewRetriesMetric(string) workqueue.CounterMetric        { return &m.retries }
func (m *metered) NewLatencyMetric(string) workqueue.HistogramMetric      { return &m.latency }
func (m *metered) NewWorkDurationMetric(string) workqueue.HistogramMetric { return &m.work }

func TestRateLimiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &metered{}
		queue := New(Config[item]{Flow: func(i item) Flow { return i.Flow }, Shared: 1, Metrics: m})
		q := queue.RateLimiting("test", workqueue.NewTypedItemExponentialFailureRateLimiter[item](time.Second, time.Minute))
		add(q, "x", "a", 2)
		add(q, "x", "a", 2)
		time.Sleep(time.Second)
		first, _ := q.Get()
		q.AddRateLimited(first)
		time.Sleep(500 * time.Millisecond)
		q.Done(first)
		second, _ := q.Get()
		q.Done(second)
		again, _ := q.Get()
		if second == first || again != first || q.NumRequeues(first) != 1 {
			t.Errorf("got %v, %v, %v, with %d retries", first, second, again, q.NumRequeues(first))
		}
		add(q, "x", "b", 1)
		q.ShutDown()
		if m.depth.n != 1 || m.adds.n != 4 || m.retries.n != 1 ||
			!slices.Equal(m.latency, []float64{1, 1.5, 0}) || !slices.Equal(m.work, []float64{0.5, 0}) {
			t.Errorf("measured %+v", m)
		}
	})
}

// The overhead of an item depends on the load of the map's tables: between 95 and 150 bytes, the maximum at 60 000 items.
func TestMemory(t *testing.T) {
	const n, most = 50_000, 150
	items := make([]item, n)
	for i := range items {
		items[i] = item{Flow{"x", fmt.Sprint(i % 16)}, fmt.Sprint(i)}
	}
	q := newQueue(unlimited, nil)
	before := heap()
	for _, next := range items {
		q.Add(next)
	}
	each := (heap()-before)/n - uint64(unsafe.Sizeof(item{}))
	if t.Logf("%d bytes of overhead per item", each); each > most {
		t.Errorf("an item has %d bytes of overhead, want at most %d", each, most)
	}
	runtime.KeepAlive(q)
	runtime.KeepAlive(items)
}

func heap() uint64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}

func BenchmarkQueue(b *testing.B) {
	for _, bench := range []struct {
		name          string
		flows, queued int
	}{{"flows=1/queued=0", 1, 0}, {"flows=1000/queued=0", 1000, 0}, {"flows=1000/queued=50000", 1000, 50_000}} {
		items := make([]item, bench.queued+1000)
		for i := range items {
			items[i] = item{Flow{fmt.Sprint(i % bench.flows % 10), fmt.Sprint(i % bench.flows)}, fmt.Sprint(i)}
		}
		for _, kind := range []struct {
			name string
			q    workqueue.TypedInterface[item]
		}{{"client-go", workqueue.NewTyped[item]()}, {"fair", newQueue(512, constant(32))}} {
			b.Run(bench.name+"/"+kind.name, func(b *testing.B) {
				b.ReportAllocs()
				for _, i := range items[:bench.queued] {
					kind.q.Add(i)
				}
				next := bench.queued
				for b.Loop() {
					kind.q.Add(items[next%len(items)])
					got, _ := kind.q.Get()
					kind.q.Done(got)
					next++
				}
			})
		}
	}
	// Each Get scans all blocked flows.
	b.Run("blocked=1000/fair", func(b *testing.B) {
		q := newQueue(512, constant(1))
		for i := range 1000 {
			add(q, "x", fmt.Sprint(i), 2)
		}
		for range 1000 {
			q.Get()
		}
		next := item{Flow{"x", "healthy"}, "0"}
		for b.Loop() {
			q.Add(next)
			got, _ := q.Get()
			q.Done(got)
		}
	})
}
