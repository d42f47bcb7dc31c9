package event

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

// Metrics count what becomes of events. They outlive the controllers, which are made again whenever this replica comes to lead.
type Metrics struct {
	deliveries       *prometheus.CounterVec
	expressionErrors *prometheus.CounterVec
	sinceChange      *prometheus.HistogramVec
	sinceReceipt     *prometheus.HistogramVec

	mu     sync.Mutex
	events client.Reader // nil where this replica does not lead
	clock  clock.PassiveClock
}

// Results of a delivery, as the metrics count them.
const (
	resultSucceeded = "succeeded"
	resultRetried   = "retried"
	resultFailed    = "failed"
	resultSkipped   = "skipped"
)

var (
	pendingEvents = prometheus.NewDesc("netbox_events_pending_events",
		"Events that are not finished, by source (namespace/name). Only the leader knows.", []string{"source"}, nil)
	oldestPending = prometheus.NewDesc("netbox_events_oldest_pending_event_seconds",
		"Seconds since the oldest event that is not finished was received, by source. Only the leader knows.", []string{"source"}, nil)
)

// NewMetrics returns metrics that are registered.
func NewMetrics(registry prometheus.Registerer) *Metrics {
	finished := []float64{.05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600}
	m := &Metrics{
		deliveries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "netbox_events_deliveries_total",
			Help: "Attempts at actions, by rule (namespace/name), action and result: succeeded, retried, failed (given up), skipped.",
		}, []string{"rule", "action", "result"}),
		expressionErrors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "netbox_events_rule_expression_errors_total",
			Help: "Events on which a rule's match.cel failed, by rule (namespace/name).",
		}, []string{"rule"}),
		sinceChange: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "netbox_events_finished_since_change_seconds",
			Help: "Seconds from NetBox's timestamp to all work on the event finished, by source and phase.", Buckets: finished,
		}, []string{"source", "phase"}),
		sinceReceipt: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "netbox_events_finished_since_receipt_seconds",
			Help: "Seconds from the receipt of an event to all work on it finished, by source and phase.", Buckets: finished,
		}, []string{"source", "phase"}),
	}
	registry.MustRegister(m.deliveries, m.expressionErrors, m.sinceChange, m.sinceReceipt, m)
	return m
}

func (m *Metrics) attempted(rule types.NamespacedName, status *v1alpha1.ActionStatus) {
	m.deliveries.WithLabelValues(rule.String(), status.Name, resultOf(status)).Inc()
}

// resultOf is what became of the last attempt at an action.
func resultOf(status *v1alpha1.ActionStatus) string {
	switch status.State {
	case v1alpha1.DeliverySucceeded:
		return resultSucceeded
	case v1alpha1.DeliveryFailed:
		return resultFailed
	default:
		return resultRetried
	}
}

func (m *Metrics) expressionFailed(rule types.NamespacedName) {
	m.expressionErrors.WithLabelValues(rule.String()).Inc()
}

// forget forgets a rule that is gone.
func (m *Metrics) forget(rule types.NamespacedName) {
	labels := prometheus.Labels{"rule": rule.String()}
	m.deliveries.DeletePartialMatch(labels)
	m.expressionErrors.DeletePartialMatch(labels)
}

// finished counts an event on which all is done.
func (m *Metrics) finished(event *v1alpha1.NetBoxEvent, status *v1alpha1.NetBoxEventStatus, now time.Time) {
	source, phase := sourceOf(event), string(status.Phase)
	m.sinceChange.WithLabelValues(source, phase).Observe(now.Sub(event.Spec.Timestamp.Time).Seconds())
	m.sinceReceipt.WithLabelValues(source, phase).Observe(now.Sub(event.Spec.Delivery.ReceivedAt.Time).Seconds())
	for _, rule := range status.Rules {
		for _, action := range rule.Actions {
			if action.State == v1alpha1.DeliverySkipped {
				m.deliveries.WithLabelValues(event.Namespace+"/"+rule.Name, action.Name, resultSkipped).Inc()
			}
		}
	}
}

// follow has the metrics look at a cache of pending events, until the function that it returns is called.
func (m *Metrics) follow(events client.Reader, clock clock.PassiveClock) (stop func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.events, m.clock = events, clock
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.events == events { // not that of another term of leadership, which may have begun
			m.events = nil
		}
	}
}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(descriptions chan<- *prometheus.Desc) {
	descriptions <- pendingEvents
	descriptions <- oldestPending
}

// Collect implements prometheus.Collector: it counts what is in the cache.
func (m *Metrics) Collect(metrics chan<- prometheus.Metric) {
	m.mu.Lock()
	reader, clock := m.events, m.clock
	m.mu.Unlock()
	if reader == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	var events v1alpha1.NetBoxEventList
	if err := reader.List(ctx, &events, client.UnsafeDisableDeepCopy); err != nil {
		return // the cache is not filled yet
	}
	count, oldest := map[string]int{}, map[string]time.Time{}
	for i := range events.Items {
		event := &events.Items[i]
		source, received := sourceOf(event), event.Spec.Delivery.ReceivedAt.Time
		if count[source]++; count[source] == 1 || received.Before(oldest[source]) {
			oldest[source] = received
		}
	}
	for source := range count {
		metrics <- prometheus.MustNewConstMetric(pendingEvents, prometheus.GaugeValue, float64(count[source]), source)
		metrics <- prometheus.MustNewConstMetric(oldestPending, prometheus.GaugeValue, clock.Since(oldest[source]).Seconds(), source)
	}
}

func sourceOf(event *v1alpha1.NetBoxEvent) string {
	return event.Namespace + "/" + event.Spec.SourceRef.Name
}
