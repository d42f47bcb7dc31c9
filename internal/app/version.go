package app

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/netbox-events/netbox-event-operator/internal/version"
)

// RegisterBuild registers a metric that is always 1, whose labels identify the version.
func RegisterBuild(registry prometheus.Registerer, build version.Build) {
	registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name:        "netbox_events_build_info",
		Help:        "Always 1; the labels are the version, commit and Go version of the operator.",
		ConstLabels: prometheus.Labels{"version": build.Version, "commit": build.Commit, "goversion": build.Go},
	}, func() float64 { return 1 }))
}
