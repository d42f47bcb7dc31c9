package expiry

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"
)

// Metrics say what retention found and did. They outlive the controllers, which are made again whenever this replica comes to lead.
type Metrics struct {
	stored, maxEvents, oldest *prometheus.GaugeVec
	deleted                   *prometheus.CounterVec
}

// Why events were deleted, as the metrics say it.
const (
	reasonTTL       = "ttl"
	reasonMaxEvents = "max_events"
	// reasonSourceGone is that of events whose source is gone, and comes without a source.
	reasonSourceGone = "source_gone"
)

// NewMetrics returns metrics that are registered.
func NewMetrics(registry prometheus.Registerer) *Metrics {
	source := []string{"source"}
	m := &Metrics{
		stored: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "netbox_events_stored_events",
			Help: "Finished events that are kept, when retention last looked, by source (namespace/name). Only the leader knows.",
		}, source),
		maxEvents: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "netbox_events_max_stored_events",
			Help: "How many finished events are kept at the most: spec.retention.maxEvents, by source. Only the leader knows.",
		}, source),
		oldest: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "netbox_events_oldest_stored_event_timestamp_seconds",
			Help: "When the oldest finished event that is kept was finished, in seconds since 1970, by source. Only the leader knows.",
		}, source),
		deleted: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "netbox_events_expired_events_total",
			Help: "Events that retention deleted, by source and reason: ttl (kept long enough), max_events (too many), source_gone (without a source).",
		}, []string{"source", "reason"}),
	}
	registry.MustRegister(m.stored, m.maxEvents, m.oldest, m.deleted)
	return m
}

func (m *Metrics) looked(source types.NamespacedName, kept, maxEvents int, oldest time.Time) {
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

// forget forgets a source that is gone.
func (m *Metrics) forget(source types.NamespacedName) {
	for _, gauge := range m.gauges() {
		gauge.DeleteLabelValues(source.String())
	}
	m.deleted.DeletePartialMatch(prometheus.Labels{"source": source.String()})
}

// reset forgets what only the leader knows.
func (m *Metrics) reset() {
	for _, gauge := range m.gauges() {
		gauge.Reset()
	}
}
