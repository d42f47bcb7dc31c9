package netbox

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Metrics outlive the controllers, which are created again each time this replica becomes the leader.
type Metrics struct {
	requests, drift, missed, phantoms *prometheus.CounterVec
	receiving, upToDate               *prometheus.GaugeVec
}

// NewMetrics returns registered metrics.
func NewMetrics(registry prometheus.Registerer) *Metrics {
	source := []string{"source"}
	m := &Metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "netbox_events_netbox_requests_total",
			Help: "Requests to the API of NetBox, by source (namespace/name) and status code; the code is error if there was no answer.",
		}, []string{"source", "code"}),
		drift: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "netbox_events_netbox_drift_total",
			Help: "Fields of webhooks and event rules in NetBox that others changed, and webhooks and event rules that others deleted, and that " +
				"were put right, by source.",
		}, source),
		missed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "netbox_events_netbox_missed_total",
			Help: "Changes of which no webhook came, and that became events from NetBox's change log, by source.",
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
	registry.MustRegister(m.requests, m.drift, m.missed, m.phantoms, m.receiving, m.upToDate)
	return m
}

// observe reports the condition Receiving, and when the change log was read to its end, or the reading began.
func (m *Metrics) observe(source string, receiving *metav1.Condition, upToDate time.Time) {
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

// forgetChangeLog deletes the series of a source whose change log is not read any more.
func (m *Metrics) forgetChangeLog(source string) {
	m.missed.DeleteLabelValues(source)
	m.phantoms.DeleteLabelValues(source)
	m.receiving.DeleteLabelValues(source)
	m.upToDate.DeleteLabelValues(source)
}

// forget deletes the series of a source whose NetBox is not called any more.
func (m *Metrics) forget(source string) {
	m.forgetChangeLog(source)
	m.drift.DeleteLabelValues(source)
	m.requests.DeletePartialMatch(prometheus.Labels{"source": source})
}

// reset deletes the series that only the leader has.
func (m *Metrics) reset() {
	m.receiving.Reset()
	m.upToDate.Reset()
}

// counting counts the requests of a source.
type counting struct {
	http.RoundTripper
	requests *prometheus.CounterVec
	source   string
}

// RoundTrip sends a request.
func (c counting) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := c.RoundTripper.RoundTrip(request)
	code := "error"
	if err == nil {
		code = strconv.Itoa(response.StatusCode)
	}
	c.requests.WithLabelValues(c.source, code).Inc()
	return response, err
}
