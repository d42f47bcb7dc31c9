package app

import (
	"cmp"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/prometheus/client_golang/prometheus"
)

// version and commit are set by the Makefile with -ldflags -X. What Go stamps by itself depends on which tags a clone has, so that one
// commit would make different binaries; it serves where the Makefile did not build: go install, go run.
var version, commit string

// Build says what a binary was built from.
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

// Register adds a metric that is always 1, by whose labels other metrics can be told apart by version.
func (b Build) Register(registry prometheus.Registerer) {
	registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name:        "netbox_events_build_info",
		Help:        "1, with the version, commit and Go version that the operator was built from as labels.",
		ConstLabels: prometheus.Labels{"version": b.Version, "commit": b.Commit, "goversion": b.Go},
	}, func() float64 { return 1 }))
}
