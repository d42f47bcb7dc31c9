package main

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/utils/clock"

	"github.com/netbox-events/netbox-event-operator/internal/app"
	"github.com/netbox-events/netbox-event-operator/internal/controller/event"
	"github.com/netbox-events/netbox-event-operator/internal/controller/expiry"
	"github.com/netbox-events/netbox-event-operator/internal/controller/netbox"
	"github.com/netbox-events/netbox-event-operator/internal/controller/sourcestatus"
	"github.com/netbox-events/netbox-event-operator/internal/ingest"
	"github.com/netbox-events/netbox-event-operator/internal/version"
)

// recorder records the collectors that are registered with it.
type recorder struct {
	prometheus.Registerer

	collectors []prometheus.Collector
}

func (r *recorder) MustRegister(collectors ...prometheus.Collector) {
	r.collectors = append(r.collectors, collectors...)
}

// description matches the text of a prometheus.Desc, which has no other way to its parts.
var description = regexp.MustCompile(
	`^Desc\{fqName: "(.*?)", help: "(.*)", unit: ".*?", constLabels: \{(.*?)\}, variableLabels: \{(.*?)\}\}$`)

// metrics returns the page of the metrics, as internal/app registers them.
func metrics() (string, error) {
	registered := &recorder{}
	ingest.NewReceiver(ingest.Options{Registry: registered, Clock: clock.RealClock{}})
	event.NewMetrics(registered)
	expiry.NewMetrics(registered)
	sourcestatus.NewBacklogMetrics(registered)
	netbox.NewMetrics(registered)
	app.RegisterBuild(registered, version.Build{})

	sections := map[string]string{}
	for _, collector := range registered.collectors {
		kind := "gauge"
		switch collector.(type) {
		case *prometheus.CounterVec:
			kind = "counter"
		case *prometheus.HistogramVec:
			kind = "histogram"
		}
		for _, each := range descriptions(collector) {
			parts := description.FindStringSubmatch(each.String())
			if parts == nil {
				return "", fmt.Errorf("cannot read %s", each)
			}
			var labels []string
			for label := range strings.SplitSeq(parts[3]+","+parts[4], ",") {
				if name, _, _ := strings.Cut(label, "="); name != "" {
					labels = append(labels, code(name))
				}
			}
			with := ""
			if len(labels) > 0 {
				with = " with the labels " + strings.Join(labels, ", ")
			}
			sections[parts[1]] = fmt.Sprintf("\n## %s\n\nA %s%s. %s\n", parts[1], kind, with, prose(strings.ReplaceAll(parts[2], `\"`, `"`)))
		}
	}
	var page strings.Builder
	page.WriteString("# Metrics\n\n" +
		"The metrics of the operator, at `/metrics` of each pod. [Monitoring](../monitoring.md#metrics) is about queries, alerts and the " +
		"dashboard.\n")
	for _, name := range slices.Sorted(maps.Keys(sections)) {
		page.WriteString(sections[name])
	}
	return page.String(), nil
}

func descriptions(collector prometheus.Collector) (all []*prometheus.Desc) {
	channel := make(chan *prometheus.Desc)
	go func() {
		collector.Describe(channel)
		close(channel)
	}()
	for each := range channel {
		all = append(all, each)
	}
	return all
}
