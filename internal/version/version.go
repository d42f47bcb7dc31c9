// Package version identifies the build of a binary.
package version

import (
	"cmp"
	"fmt"
	"runtime"
	"runtime/debug"
)

// version and commit are set by the Makefile with -ldflags -X. Go's own version stamp depends on the tags of the clone, so the same commit
// could build different binaries; it is the fallback for go install and go run.
var version, commit string

// Build identifies the version of a binary.
type Build struct {
	Version string `json:"version"`
	Commit  string `json:"commit"`
	Go      string `json:"go"`
}

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

// Of returns a line with the name of a program and the version of this binary.
func (b Build) Of(program string) string {
	return fmt.Sprintf("%s %s, commit %s, %s", program, b.Version, b.Commit, b.Go)
}
