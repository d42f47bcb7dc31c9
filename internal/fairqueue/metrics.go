package fairqueue

import (
	"time"

	"k8s.io/client-go/util/workqueue"
)

// metrics are the metrics of client-go's queue, which does not export its own, without the two that need a goroutine. The latency starts
// when an item is queued; client-go's starts at Add, even while the item is in process. A nil *metrics does nothing.
type metrics struct {
	depth         workqueue.GaugeMetric
	adds          workqueue.CounterMetric
	latency, work workqueue.HistogramMetric
	epoch         time.Time
}

func newMetrics(provider workqueue.MetricsProvider, name string) *metrics {
	if provider == nil || name == "" {
		return nil
	}
	return &metrics{
		depth:   provider.NewDepthMetric(name),
		adds:    provider.NewAddsMetric(name),
		latency: provider.NewLatencyMetric(name),
		work:    provider.NewWorkDurationMetric(name),
		epoch:   time.Now(),
	}
}

// now returns the time since the epoch. It is a third of the size of a time.Time, and each item holds one.
func (m *metrics) now() time.Duration {
	if m == nil {
		return 0
	}
	return time.Since(m.epoch)
}

func (m *metrics) added() {
	if m != nil {
		m.depth.Inc()
		m.adds.Inc()
	}
}

func (m *metrics) started(queuedAt, now time.Duration) {
	if m != nil {
		m.depth.Dec()
		m.latency.Observe((now - queuedAt).Seconds())
	}
}

func (m *metrics) done(startedAt time.Duration) {
	if m != nil {
		m.work.Observe((m.now() - startedAt).Seconds())
	}
}
