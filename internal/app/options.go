package app

import (
	"errors"
	"flag"
	"net/netip"
	"os"
	"strings"
	"time"
)

// Options are what a user sets on the command line.
type Options struct {
	// WebhookBindAddress, MetricsBindAddress and HealthProbeBindAddress are host:port; "0" turns the last two off.
	WebhookBindAddress     string
	MetricsBindAddress     string
	HealthProbeBindAddress string
	// WebhookCertDir holds tls.crt and tls.key; webhooks are received by plain HTTP where it is empty.
	WebhookCertDir string
	// Hold is how long a delivery that cannot be stored yet is held before it is refused; at least a second.
	Hold                    time.Duration
	LeaderElect             bool
	LeaderElectionID        string
	LeaderElectionNamespace string
	// WatchNamespaces are those whose sources, rules and events are seen; all where it is empty.
	WatchNamespaces []string
	// StateDir keeps a journal of what is being worked on, for the next process where this one dies; none where it is empty.
	StateDir string
	// SinkAllowCIDRs are addresses that http actions may connect to although they are loopback, link-local or a cloud's metadata service.
	SinkAllowCIDRs []netip.Prefix
}

// defaultHold is less than the 30 to 60 seconds for which common load balancers and Ingress controllers wait for an answer.
const defaultHold = 25 * time.Second

// Bind defines the flags of the options, with their defaults.
func (o *Options) Bind(flags *flag.FlagSet) {
	flags.StringVar(&o.WebhookBindAddress, "webhook-bind-address", ":8080",
		"`address` (host:port) to receive NetBox's webhooks at")
	flags.StringVar(&o.WebhookCertDir, "webhook-cert-dir", "",
		"`directory` that holds tls.crt and tls.key: webhooks are then received by HTTPS, and the files read again when they change; "+
			"empty for plain HTTP, where TLS ends at the Ingress")
	o.Hold = defaultHold
	flags.Func("hold",
		"`duration` for which a delivery that cannot be stored yet is held and tried again before it is answered with 503, from when its body "+
			"was read, 1s to 5m; proxies on the way must wait longer for an answer (default 25s)", func(value string) (err error) {
			hold, err := time.ParseDuration(value)
			if err == nil && (hold < time.Second || hold > 5*time.Minute) {
				err = errors.New("must be between 1s and 5m")
			}
			o.Hold = hold
			return err
		})
	flags.StringVar(&o.MetricsBindAddress, "metrics-bind-address", ":8443",
		"`address` (host:port) to serve Prometheus metrics at, by HTTPS, to clients that may get the non-resource URL /metrics, and profiles to "+
			"clients that may get /debug/pprof/*; 0 turns it off")
	flags.StringVar(&o.HealthProbeBindAddress, "health-probe-bind-address", ":8081",
		"`address` (host:port) to serve /healthz and /readyz at; 0 turns it off")
	flags.BoolVar(&o.LeaderElect, "leader-elect", false,
		"let one of several replicas do the work on events; all of them receive webhooks")
	flags.StringVar(&o.LeaderElectionID, "leader-election-id", "netbox-event-operator",
		"`name` of the Lease that the leader holds; operators in one namespace that watch different ones need different names")
	flags.StringVar(&o.LeaderElectionNamespace, "leader-election-namespace", podNamespace(),
		"`namespace` of the Lease that the leader holds")
	flags.StringVar(&o.StateDir, "state-dir", "",
		"`directory` that outlives the process, as an emptyDir does, for a journal by which an event that kills the process again and again is "+
			"recognised and set aside; no journal where it is empty")
	flags.Func("watch-namespaces",
		"comma-separated `namespaces` whose NetBoxSources, NetBoxEventRules and NetBoxEvents are seen; all where it is not given",
		func(value string) error {
			for name := range strings.SplitSeq(value, ",") {
				if name = strings.TrimSpace(name); name != "" {
					o.WatchNamespaces = append(o.WatchNamespaces, name)
				}
			}
			return nil
		})
	flags.Func("sink-allow-cidrs",
		"comma-separated `CIDRs` that http actions of rules may connect to although they are loopback, link-local or a cloud's metadata "+
			"service, for example 127.0.0.0/8; none where it is not given", func(value string) error {
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

// podNamespace is the namespace of the pod that this runs in, and default outside a cluster.
func podNamespace() string {
	namespace, err := os.ReadFile("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
	if err != nil {
		return "default"
	}
	return strings.TrimSpace(string(namespace))
}
