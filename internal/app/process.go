package app

import (
	"context"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"github.com/go-logr/logr"
)

// limitMemory has Go keep to nine tenths of the pod's memory limit, also when that is changed in place; the rest is for what Go does not
// count. It then collects garbage more often instead of being killed. GOMEMLIMIT in the environment has the last word. GOMAXPROCS needs
// no such thing: Go follows the pod's CPU limit by itself.
func limitMemory(ctx context.Context, log logr.Logger) {
	const ratio = 0.9
	limit, err := memlimit.Set(memlimit.WithRatio(ratio), memlimit.WithRefreshInterval(ctx, time.Minute))
	if err != nil {
		log.V(1).Info("the memory limit of this process cannot be seen; set GOMEMLIMIT if it has one", "cause", err.Error())
		return
	}
	log.V(1).Info("memory limit", "bytes", limit)
}

// profiles are the handlers of Go's profiler. A CPU profile takes half a minute, for which the metrics server sets no limit.
func profiles() map[string]http.Handler {
	return map[string]http.Handler{
		"/debug/pprof/":        http.HandlerFunc(pprof.Index),
		"/debug/pprof/cmdline": http.HandlerFunc(pprof.Cmdline),
		"/debug/pprof/profile": http.HandlerFunc(pprof.Profile),
		"/debug/pprof/symbol":  http.HandlerFunc(pprof.Symbol),
		"/debug/pprof/trace":   http.HandlerFunc(pprof.Trace),
	}
}
