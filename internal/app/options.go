package app

import (
	"errors"
	"flag"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/net/http/httpproxy"

	"github.com/netbox-events/netbox-event-operator/internal/outbound"
)

// Options are the command-line options.
type Options struct {
	// WebhookBindAddress, MetricsBindAddress and HealthProbeBindAddress are host:port; "0" disables the last two.
	WebhookBindAddress     string
	MetricsBindAddress     string
	HealthProbeBindAddress string
	// WebhookCertDir is the directory of tls.crt and tls.key; empty means plain HTTP.
	WebhookCertDir string
	// Hold is the longest time for which a delivery that cannot be stored yet is held and retried; at least a second.
	Hold                    time.Duration
	LeaderElect             bool
	LeaderElectionID        string
	LeaderElectionNamespace string
	// WatchNamespaces are the namespaces whose sources, rules and events are watched; empty means all.
	WatchNamespaces []string
	// StateDir is the directory of the journal of events in progress, which the next process reads after a crash; empty means no journal.
	StateDir string
	// Proxy is the proxy of http actions, from the environment of the process. The connection to the API server uses none.
	Proxy outbound.Proxy
	// SinkAllowCIDRs are the loopback, link-local and cloud metadata addresses that http actions may connect to.
	SinkAllowCIDRs []netip.Prefix
}

// defaultHold is less than the response timeouts of common load balancers and Ingress controllers, 30 to 60 seconds.
const defaultHold = 25 * time.Second

// Bind defines the flags of the options, with their defaults.
func (o *Options) Bind(flags *flag.FlagSet) {
	flags.StringVar(&o.WebhookBindAddress, "webhook-bind-address", ":8080",
		"`address` (host:port) of the webhook receiver")
	flags.StringVar(&o.WebhookCertDir, "webhook-cert-dir", "",
		"`directory` with tls.crt and tls.key: enables HTTPS for the receiver; the files are reloaded when they change; "+
			"empty for plain HTTP, when TLS terminates at the Ingress")
	o.Hold = defaultHold
	flags.Func("hold",
		"`duration` for which a delivery that cannot be stored yet is held and retried before it is answered with 503, 1s to 5m; "+
			"proxies in front of the receiver need longer response timeouts (default 25s)", func(value string) (err error) {
			hold, err := time.ParseDuration(value)
			if err == nil && (hold < time.Second || hold > 5*time.Minute) {
				err = errors.New("must be between 1s and 5m")
			}
			o.Hold = hold
			return err
		})
	flags.StringVar(&o.MetricsBindAddress, "metrics-bind-address", ":8443",
		"`address` (host:port) of the HTTPS server for Prometheus metrics and profiles; clients need RBAC permission to get the "+
			"non-resource URLs /metrics and /debug/pprof/*; 0 disables it")
	flags.StringVar(&o.HealthProbeBindAddress, "health-probe-bind-address", ":8081",
		"`address` (host:port) of the HTTP server for /healthz and /readyz; 0 disables it")
	flags.BoolVar(&o.LeaderElect, "leader-elect", false,
		"enable leader election: one of several replicas processes events, and all of them receive webhooks")
	flags.StringVar(&o.LeaderElectionID, "leader-election-id", "netbox-event-operator",
		"`name` of the leader election Lease; operators that share its namespace but watch different ones need different names")
	flags.StringVar(&o.LeaderElectionNamespace, "leader-election-namespace", podNamespace(),
		"`namespace` of the leader election Lease")
	flags.StringVar(&o.StateDir, "state-dir", "",
		"`directory` that outlives the process, such as an emptyDir, for a journal that detects events whose processing crashes the process "+
			"repeatedly, and sets them aside; empty for no journal")
	flags.Func("watch-namespaces",
		"comma-separated `namespaces` to watch for NetBoxSources, NetBoxEventRules and NetBoxEvents; default: all namespaces",
		func(value string) error {
			for name := range strings.SplitSeq(value, ",") {
				if name = strings.TrimSpace(name); name != "" {
					o.WatchNamespaces = append(o.WatchNamespaces, name)
				}
			}
			return nil
		})
	o.Proxy.Config = *httpproxy.FromEnvironment()
	flags.BoolVar(&o.Proxy.AllowsUnresolvedHosts, "proxy-unresolved-hosts", false,
		"let the proxy of HTTPS_PROXY and HTTP_PROXY connect to hosts whose names the operator cannot resolve; then the proxy alone can refuse "+
			"loopback, link-local and cloud metadata addresses")
	flags.Func("sink-allow-cidrs",
		"comma-separated `CIDRs` of loopback, link-local and cloud metadata addresses that http actions of rules, and requests to NetBox's API, "+
			"may connect to, for example 127.0.0.0/8; default: none", func(value string) error {
			for text := range strings.SplitSeq(value, ",") {
				prefix, err := netip.ParsePrefix(strings.TrimSpace(text))
				if err != nil {
					return err
				}
				o.SinkAllowCIDRs = append(o.SinkAllowCIDRs, prefix)
			}
			return nil
		})
}

// podNamespace returns the namespace of this pod, or default outside a cluster.
func podNamespace() string {
	namespace, err := os.ReadFile("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
	if err != nil {
		return "default"
	}
	return strings.TrimSpace(string(namespace))
}
