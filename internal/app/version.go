package app

import (
	"cmp"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/prometheus/client_golang/prometheus"
)

// version and commit are set by the Makefile with -ldflags -X. Go's own version stamp depends on the tags of the clone, so the same commit
// could build different binaries; it is the fallback for go install and go run.
var version, commit string

// Build identifies the version of a binary.
type Build struct{ Version, Commit, Go string }

// ThisBuild describes the running binary.
func ThisBuild() Build {
	build := Build{Version: version, Commit: commit, Go: runtime.Version()}
	if info, ok := debug.ReadBuildInfo(); ok {
		build.Version = cmp.Or(build.Version, info.Main.Version)
		for _, setting := range info.Settings {
			if setting.Key == "vcs.revision" {
				build.Commit = cmp.Or(build.Commit, setting.Value)
			}
		}
	}
	return Build{cmp.Or(build.Version, "unknown"), cmp.Or(build.Commit, "unknown"), build.Go}
}

func (b Build) String() string {
	return fmt.Sprintf("netbox-event-operator %s, commit %s, %s", b.Version, b.Commit, b.Go)
}

// Register registers a metric that is always 1, whose labels identify the version.
func (b Build) Register(registry prometheus.Registerer) {
	registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name:        "netbox_events_build_info",
		Help:        "Always 1; the labels are the version, commit and Go version of the operator.",
		ConstLabels: prometheus.Labels{"version": b.Version, "commit": b.Commit, "goversion": b.Go},
	}, func() float64 { return 1 }))
}
