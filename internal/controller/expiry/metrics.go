package expiry

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"
)

// Metrics are the metrics of retention. They outlive the controllers, which are created again each time this replica becomes the leader.
type Metrics struct {
	stored, maxEvents, oldest *prometheus.GaugeVec
	deleted                   *prometheus.CounterVec
}

// Values of the label reason.
const (
	reasonTTL       = "ttl"
	reasonMaxEvents = "max_events"
	// reasonSourceGone is the reason of events whose source was deleted; its label source is empty.
	reasonSourceGone = "source_gone"
)

// NewMetrics returns registered metrics.
func NewMetrics(registry prometheus.Registerer) *Metrics {
	source := []string{"source"}
	m := &Metrics{
		stored: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "netbox_events_stored_events",
			Help: "Finished events that are kept, as of the last sweep, by source (namespace/name). Reported by the leader alone.",
		}, source),
		maxEvents: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "netbox_events_max_stored_events",
			Help: "Limit of finished events: spec.retention.maxEvents, by source. Reported by the leader alone.",
		}, source),
		oldest: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "netbox_events_oldest_stored_event_timestamp_seconds",
			Help: "Unix time at which the oldest kept event was finished, by source. Reported by the leader alone.",
		}, source),
		deleted: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "netbox_events_expired_events_total",
			Help: "Events deleted by retention, by source and reason: ttl (expired), max_events (over the limit), source_gone (source deleted).",
		}, []string{"source", "reason"}),
	}
	registry.MustRegister(m.stored, m.maxEvents, m.oldest, m.deleted)
	return m
}

func (m *Metrics) swept(source types.NamespacedName, kept, maxEvents int, oldest time.Time) {
	m.stored.WithLabelValues(source.String()).Set(float64(kept))
	m.maxEvents.WithLabelValues(source.String()).Set(float64(maxEvents))
	if oldest.IsZero() {
		m.oldest.DeleteLabelValues(source.String())
		return
	}
	m.oldest.WithLabelValues(source.String()).Set(float64(oldest.Unix()))
}

func (m *Metrics) expired(source, reason string) {
	m.deleted.WithLabelValues(source, reason).Inc()
}

func (m *Metrics) gauges() []*prometheus.GaugeVec {
	return []*prometheus.GaugeVec{m.stored, m.maxEvents, m.oldest}
}

// remove deletes the series of a deleted source.
func (m *Metrics) remove(source types.NamespacedName) {
	for _, gauge := range m.gauges() {
		gauge.DeleteLabelValues(source.String())
	}
	m.deleted.DeletePartialMatch(prometheus.Labels{"source": source.String()})
}

// reset deletes the series that only the leader has.
func (m *Metrics) reset() {
	for _, gauge := range m.gauges() {
		gauge.Reset()
	}
}
