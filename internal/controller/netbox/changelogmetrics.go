package netbox

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ChangeLogMetrics outlive the controllers, which are created again each time this replica becomes the leader.
type ChangeLogMetrics struct {
	missed, phantoms    *prometheus.CounterVec
	receiving, upToDate *prometheus.GaugeVec
}

// NewChangeLogMetrics returns registered metrics.
func NewChangeLogMetrics(registry prometheus.Registerer) *ChangeLogMetrics {
	source := []string{"source"}
	m := &ChangeLogMetrics{
		missed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "netbox_events_netbox_missed_total",
			Help: "Changes of which no webhook came, and that became events from NetBox's change log, by source (namespace/name).",
		}, source),
		phantoms: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "netbox_events_netbox_phantoms_total",
			Help: "Events whose change is not in NetBox's change log, by source.",
		}, source),
		receiving: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "netbox_events_netbox_receiving",
			Help: "1 while the changes that NetBox logs arrive by webhook, 0 while none of them does, by source. Reported by the leader alone.",
		}, source),
		upToDate: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "netbox_events_netbox_changelog_up_to_date_timestamp_seconds",
			Help: "Unix time at which NetBox's change log was last read to its end, or at which this replica began to read it, by source. " +
				"Reported by the leader alone.",
		}, source),
	}
	registry.MustRegister(m.missed, m.phantoms, m.receiving, m.upToDate)
	return m
}

// observe reports the condition Receiving, and when the change log was read to its end, or the reading began.
func (m *ChangeLogMetrics) observe(source string, receiving *metav1.Condition, upToDate time.Time) {
	m.missed.WithLabelValues(source)
	m.phantoms.WithLabelValues(source)
	switch receiving.Status {
	case metav1.ConditionTrue:
		m.receiving.WithLabelValues(source).Set(1)
	case metav1.ConditionFalse:
		m.receiving.WithLabelValues(source).Set(0)
	default:
		m.receiving.DeleteLabelValues(source)
	}
	m.upToDate.WithLabelValues(source).Set(float64(upToDate.Unix()))
}

// forget deletes the series of a source.
func (m *ChangeLogMetrics) forget(source string) {
	labels := prometheus.Labels{"source": source}
	m.missed.DeletePartialMatch(labels)
	m.phantoms.DeletePartialMatch(labels)
	m.receiving.DeletePartialMatch(labels)
	m.upToDate.DeletePartialMatch(labels)
}

// reset deletes the series that only the leader has.
func (m *ChangeLogMetrics) reset() {
	m.receiving.Reset()
	m.upToDate.Reset()
}
