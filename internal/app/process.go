package app

import (
	"context"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"github.com/go-logr/logr"
)

// limitMemory sets GOMEMLIMIT to 90 % of the pod's memory limit, and follows in-place changes of that limit; the rest is for memory that Go
// does not count. Close to the limit, Go collects garbage more often instead of being OOM-killed. GOMEMLIMIT in the environment takes
// precedence. Go sets GOMAXPROCS to the pod's CPU limit by itself.
func limitMemory(ctx context.Context, log logr.Logger) {
	const ratio = 0.9
	limit, err := memlimit.Set(memlimit.WithRatio(ratio), memlimit.WithRefreshInterval(ctx, time.Minute))
	if err != nil {
		log.V(1).Info("cannot read the memory limit of this process; set GOMEMLIMIT if it has one", "cause", err.Error())
		return
	}
	log.V(1).Info("memory limit", "bytes", limit)
}

// profiles returns the handlers of Go's profiler. The metrics server has no timeout that would end a CPU profile of 30 s.
func profiles() map[string]http.Handler {
	return map[string]http.Handler{
		"/debug/pprof/":        http.HandlerFunc(pprof.Index),
		"/debug/pprof/cmdline": http.HandlerFunc(pprof.Cmdline),
		"/debug/pprof/profile": http.HandlerFunc(pprof.Profile),
		"/debug/pprof/symbol":  http.HandlerFunc(pprof.Symbol),
		"/debug/pprof/trace":   http.HandlerFunc(pprof.Trace),
	}
}
