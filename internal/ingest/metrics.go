package ingest

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	requests  *prometheus.CounterVec
	stored    *prometheus.HistogramVec
	bodyBytes *prometheus.HistogramVec
	inFlight  prometheus.Gauge
	held      prometheus.Gauge

	acceptErrors *prometheus.CounterVec

	sources sync.Map // names of sources with series
}

func newMetrics(registry prometheus.Registerer) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "netbox_events_receiver_requests_total",
			Help: "Requests to the receiver, by source (namespace/name, empty if no source has the path or it was not read) and result: " +
				"stored, duplicate, ignored, malformed, unauthorized, not_found, method_not_allowed, timeout, too_large, " +
				"unsupported_media_type, invalid, throttled, backlog_full, unavailable, suspended.",
		}, []string{"source", "result"}),
		stored: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "netbox_events_receiver_stored_seconds",
			Help:    "Seconds from the request head to the stored event, by source.",
			Buckets: []float64{.0025, .005, .01, .025, .05, .1, .25, .5, 1, 2, 5, 10, 25},
		}, []string{"source"}),
		bodyBytes: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "netbox_events_receiver_body_bytes",
			Help:    "Length of request bodies in bytes, by source.",
			Buckets: prometheus.ExponentialBuckets(512, 4, 7), // to 2 MiB
		}, []string{"source"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "netbox_events_receiver_in_flight_requests",
			Help: "Requests that are not answered yet.",
		}),
		held: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "netbox_events_receiver_held_requests",
			Help: "Deliveries that are held and retried, because the API server is unavailable, slow or throttling, or their Secret cannot be read.",
		}),
		acceptErrors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "netbox_events_receiver_accept_errors_total",
			Help: "Deliveries that were stored because the source's spec.accept.cel failed on them, by source.",
		}, []string{"source"}),
	}
	registry.MustRegister(m.requests, m.stored, m.bodyBytes, m.inFlight, m.held, m.acceptErrors)
	return m
}

// read records the length of a body.
func (m *metrics) read(source string, bytes int) {
	m.sources.Store(source, nil)
	m.bodyBytes.WithLabelValues(source).Observe(float64(bytes))
}

// observe counts a request and its result.
func (m *metrics) observe(source string, result result, took time.Duration) {
	m.sources.Store(source, nil)
	m.requests.WithLabelValues(source, string(result)).Inc()
	if result == resultStored {
		m.stored.WithLabelValues(source).Observe(took.Seconds())
	}
}

// forget deletes the series of deleted sources.
func (m *metrics) forget(isGone func(source string) bool) {
	for name := range m.sources.Range {
		if source := name.(string); isGone(source) {
			m.sources.Delete(source)
			labels := prometheus.Labels{"source": source}
			m.requests.DeletePartialMatch(labels)
			m.stored.DeletePartialMatch(labels)
			m.bodyBytes.DeletePartialMatch(labels)
			m.acceptErrors.DeletePartialMatch(labels)
		}
	}
}
