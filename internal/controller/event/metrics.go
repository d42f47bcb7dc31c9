package event

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

// Metrics counts the outcomes of events. It outlives the controllers, which are created for each leadership.
type Metrics struct {
	deliveries       *prometheus.CounterVec
	expressionErrors *prometheus.CounterVec
	sinceChange      *prometheus.HistogramVec
	sinceReceipt     *prometheus.HistogramVec
	sources          sync.Map // names of those that have series in the last two

	mu     sync.Mutex
	engine *Engine // nil where this replica does not lead
}

// Results of a delivery, as the metrics count them.
const (
	resultSucceeded = "succeeded"
	resultRetried   = "retried"
	resultFailed    = "failed"
	resultSkipped   = "skipped"
	resultWaiting   = "waiting"
)

var (
	pendingEvents = prometheus.NewDesc("netbox_events_pending_events",
		"Pending events, without those that only wait for a group, by source (namespace/name). Reported by the leader alone, for sources with "+
			"pending events.",
		[]string{"source"}, nil)
	oldestPending = prometheus.NewDesc("netbox_events_oldest_pending_event_seconds",
		"Seconds since the oldest event of netbox_events_pending_events was received, by source. Reported by the leader alone.",
		[]string{"source"}, nil)
	groupingEvents = prometheus.NewDesc("netbox_events_grouping_events",
		"Pending events that only wait for a group to close, or for an earlier group with the same key, by source. Reported by the "+
			"leader alone.", []string{"source"}, nil)
	sinkAvailable = prometheus.NewDesc("netbox_events_sink_available",
		"0 while deliveries of an action wait for its sink, which failed several times in a row or throttles, otherwise 1, by rule "+
			"(namespace/name) and action. Reported by the leader alone, for actions with a delivery since it became the leader.",
		[]string{"rule", "action"}, nil)
)

// NewMetrics returns metrics that are registered.
func NewMetrics(registry prometheus.Registerer) *Metrics {
	finished := []float64{.05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600}
	m := &Metrics{
		deliveries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "netbox_events_deliveries_total",
			Help: "Attempts at actions, one for a whole group, by rule (namespace/name), action and result: succeeded, retried (failed, will be " +
				"retried), failed (permanently), waiting (for the objects of apply.wait), and for each event skipped (not executed).",
		}, []string{"rule", "action", "result"}),
		expressionErrors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "netbox_events_rule_expression_errors_total",
			Help: "Events on which a rule's match.cel failed, by rule (namespace/name).",
		}, []string{"rule"}),
		sinceChange: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "netbox_events_finished_since_change_seconds",
			Help: "Seconds from NetBox's timestamp to the finished event, including the wait for its group, by source and phase.", Buckets: finished,
		}, []string{"source", "phase"}),
		sinceReceipt: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "netbox_events_finished_since_receipt_seconds",
			Help: "Seconds from the receipt to the finished event, including the wait for its group, by source and phase.", Buckets: finished,
		}, []string{"source", "phase"}),
	}
	registry.MustRegister(m.deliveries, m.expressionErrors, m.sinceChange, m.sinceReceipt, m)
	return m
}

func (m *Metrics) attempted(rule types.NamespacedName, status *v1alpha1.ActionStatus) {
	if status.State == v1alpha1.DeliverySkipped { // finished counts it
		return
	}
	m.deliveries.WithLabelValues(rule.String(), status.Name, resultOf(status)).Inc()
}

// resultOf names the outcome of the last attempt at an action.
func resultOf(status *v1alpha1.ActionStatus) string {
	switch status.State {
	case v1alpha1.DeliverySucceeded:
		return resultSucceeded
	case v1alpha1.DeliveryFailed:
		return resultFailed
	case v1alpha1.DeliverySkipped:
		return resultSkipped
	default:
		if status.WaitingSince != nil {
			return resultWaiting
		}
		return resultRetried
	}
}

func (m *Metrics) expressionFailed(rule types.NamespacedName) {
	m.expressionErrors.WithLabelValues(rule.String()).Inc()
}

// forget removes the series of a deleted rule.
func (m *Metrics) forget(rule types.NamespacedName) {
	labels := prometheus.Labels{"rule": rule.String()}
	m.deliveries.DeletePartialMatch(labels)
	m.expressionErrors.DeletePartialMatch(labels)
}

// ForgetSources deletes the series of sources that are gone.
func (m *Metrics) ForgetSources(isGone func(source string) bool) {
	for name := range m.sources.Range {
		if source := name.(string); isGone(source) {
			m.sources.Delete(source)
			labels := prometheus.Labels{"source": source}
			m.sinceChange.DeletePartialMatch(labels)
			m.sinceReceipt.DeletePartialMatch(labels)
		}
	}
}

// finished counts an event on which all is done.
func (m *Metrics) finished(entry *entry, status *v1alpha1.NetBoxEventStatus, now time.Time) {
	source, phase := entry.source().String(), string(status.Phase)
	m.sources.Store(source, nil)
	m.sinceChange.WithLabelValues(source, phase).Observe(now.Sub(time.Unix(0, entry.timestamp)).Seconds())
	m.sinceReceipt.WithLabelValues(source, phase).Observe(now.Sub(time.Unix(0, entry.received)).Seconds())
	for _, rule := range status.Rules {
		for _, action := range rule.Actions {
			if action.State == v1alpha1.DeliverySkipped {
				m.deliveries.WithLabelValues(entry.name.Namespace+"/"+rule.Name, action.Name, resultSkipped).Inc()
			}
		}
	}
}

// follow exports the gauges of an engine until the returned function is called.
func (m *Metrics) follow(engine *Engine) (stop func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.engine = engine
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.engine == engine { // not that of another term of leadership, which may have begun
			m.engine = nil
		}
	}
}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(descriptions chan<- *prometheus.Desc) {
	descriptions <- pendingEvents
	descriptions <- oldestPending
	descriptions <- groupingEvents
	descriptions <- sinkAvailable
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(metrics chan<- prometheus.Metric) {
	m.mu.Lock()
	engine := m.engine
	m.mu.Unlock()
	if engine == nil || !engine.Synced() {
		return
	}
	gauge := func(of *prometheus.Desc, value float64, labels ...string) {
		metrics <- prometheus.MustNewConstMetric(of, prometheus.GaugeValue, value, labels...)
	}
	for source, backlog := range engine.ledger.backlog() {
		gauge(pendingEvents, float64(backlog.events), source.String())
		gauge(groupingEvents, float64(backlog.grouping), source.String())
		if backlog.events > 0 {
			gauge(oldestPending, engine.Clock.Since(backlog.oldest).Seconds(), source.String())
		}
	}
	for _, sink := range engine.circuits.states(types.NamespacedName{}) {
		available := 1.
		if sink.reason != v1alpha1.ReasonAvailable {
			available = 0
		}
		gauge(sinkAvailable, available, sink.rule.String(), sink.action)
	}
}

func sourceOf(event *v1alpha1.NetBoxEvent) string {
	return event.Namespace + "/" + event.Spec.SourceRef.Name
}
