// Package app assembles the operator: scheme, caches, indexes, servers and controllers.
package app

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/go-logr/logr"
	"go.opentelemetry.io/otel/trace"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	"sigs.k8s.io/controller-runtime/pkg/metrics/filters"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/action"
	"github.com/netbox-events/netbox-event-operator/internal/controller/event"
	"github.com/netbox-events/netbox-event-operator/internal/controller/expiry"
	"github.com/netbox-events/netbox-event-operator/internal/controller/netbox"
	"github.com/netbox-events/netbox-event-operator/internal/controller/replay"
	"github.com/netbox-events/netbox-event-operator/internal/controller/rulestatus"
	"github.com/netbox-events/netbox-event-operator/internal/controller/sourcestatus"
	"github.com/netbox-events/netbox-event-operator/internal/eventstore"
	"github.com/netbox-events/netbox-event-operator/internal/ingest"
	"github.com/netbox-events/netbox-event-operator/internal/journal"
	"github.com/netbox-events/netbox-event-operator/internal/outbound"
	"github.com/netbox-events/netbox-event-operator/internal/rule"
	"github.com/netbox-events/netbox-event-operator/internal/source"
	"github.com/netbox-events/netbox-event-operator/internal/version"
)

// RBAC for leader election, and for authorizing readers of the metrics:
// +kubebuilder:rbac:groups=coordination.k8s.io,resources=leases,verbs=get;create;update,namespace=system,roleName=leader-election-role
// +kubebuilder:rbac:groups="",resources=events,verbs=create;patch,namespace=system,roleName=leader-election-role
// +kubebuilder:rbac:groups=authentication.k8s.io,resources=tokenreviews,verbs=create,roleName=metrics-auth-role
// +kubebuilder:rbac:groups=authorization.k8s.io,resources=subjectaccessreviews,verbs=create,roleName=metrics-auth-role

// campaignInterval is the pause after the leadership was lost, or the controllers failed to start.
const campaignInterval = 2 * time.Second

// handOverTime bounds the shutdown of the controllers: 3 s of it are for deliveries and their status.
const handOverTime = 5 * time.Second

// Scheme returns the scheme of all types that the operator reads and writes.
func Scheme() (*runtime.Scheme, error) {
	scheme := runtime.NewScheme()
	return scheme, errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme))
}

// Run runs the operator until ctx is done.
//
// It runs two managers. The outer one receives webhooks on every replica for the lifetime of the process. The inner one runs the
// controllers while this replica is the leader: a manager stops when it loses its Lease, as in an outage of the API server, and the
// receiver must not stop with it.
func Run(ctx context.Context, config *rest.Config, options Options, log logr.Logger) error {
	if err := options.Proxy.Validate(); err != nil {
		return err
	}
	build := version.ThisBuild()
	log.Info("starting", "version", build.Version, "commit", build.Commit, "go", build.Go)
	RegisterBuild(metrics.Registry, build)
	limitMemory(ctx, log.WithName("memory"))
	tracer, flush, err := newTracer(ctx, build, log.WithName("tracing"))
	if err != nil {
		return err
	}
	defer flush()
	config = WithoutProxy(config)
	config.QPS = -1 // the API server's priority and fairness throttles
	scheme, err := Scheme()
	if err != nil {
		return err
	}
	outer, err := manager.New(config, manager.Options{
		Scheme:                 scheme,
		Logger:                 log,
		MapperProvider:         receiverMapper,
		Cache:                  cacheOptions(options, map[client.Object]cache.ByObject{&v1alpha1.NetBoxSource{}: {}}),
		Metrics:                metricsOptions(options),
		HealthProbeBindAddress: options.HealthProbeBindAddress,
	})
	if err != nil {
		return err
	}
	if err := IndexSources(ctx, outer.GetFieldIndexer()); err != nil {
		return err
	}
	store, err := eventstore.New(config, scheme)
	if err != nil {
		return err
	}
	crashes, err := openJournal(options.StateDir, log.WithName("journal"))
	if err != nil {
		return err
	}
	defer crashes.Close() //nolint:errcheck // the journal matters only after a crash
	shared := shared{
		events:    store,
		compiled:  rule.NewCache(),
		metrics:   event.NewMetrics(metrics.Registry),
		tracer:    tracer,
		retention: expiry.NewMetrics(metrics.Registry),
		backlog:   sourcestatus.NewBacklogMetrics(metrics.Registry),
		netbox:    netbox.NewMetrics(metrics.Registry),
		journal:   crashes,
	}
	receiver := ingest.NewReceiver(ingest.Options{
		Sources:       outer.GetClient(),
		Secrets:       outer.GetAPIReader(),
		Events:        store,
		Recorder:      outer.GetEventRecorder("netbox-event-operator"),
		Hold:          options.Hold,
		ForgetSources: shared.metrics.ForgetSources,
		Registry:      metrics.Registry,
		Tracer:        tracer,
		Clock:         clock.RealClock{},
		Log:           log.WithName("receiver"),
	})
	if err := OnSourceChange(ctx, outer.GetCache(), receiver.SourcesChanged); err != nil {
		return err
	}
	server := &ingest.Server{
		Address:  options.WebhookBindAddress,
		CertDir:  options.WebhookCertDir,
		Log:      log.WithName("receiver"),
		Receiver: receiver,
	}
	err = errors.Join(
		outer.AddHealthzCheck("ping", healthz.Ping),
		outer.AddReadyzCheck("receiver", server.Ready),
		outer.Add(server),
		outer.Add(everyReplica(func(ctx context.Context) error { return campaign(ctx, config, scheme, options, shared, log) })),
	)
	if err != nil {
		return err
	}
	return outer.Start(ctx)
}

// WithoutProxy returns a configuration that ignores HTTPS_PROXY in the environment: that is for http actions. A proxy in a kubeconfig
// stays.
func WithoutProxy(config *rest.Config) *rest.Config {
	config = rest.CopyConfig(config)
	if config.Proxy == nil {
		config.Proxy = func(*http.Request) (*url.URL, error) { return nil, nil }
	}
	return config
}

// openJournal opens the journal in a directory; it returns nil if dir is empty.
func openJournal(dir string, log logr.Logger) (*journal.Journal, error) {
	if dir == "" {
		return nil, nil
	}
	opened, err := journal.Open(dir)
	if err != nil {
		return nil, err
	}
	if damage := opened.Damage(); damage != nil {
		log.Info("the journal was damaged; earlier crashes are unknown", "cause", damage.Error())
	}
	if suspects := opened.Suspects(); suspects > 0 {
		log.Info("the process crashed while it processed events; they are now processed one at a time", "events", suspects)
	}
	return opened, nil
}

// receiverMapper maps the kinds that the outer manager reads. Discovery would fail at startup without the API server and end the process,
// and because of the kubelet's restart backoff the receiver would be down long after the API server is back.
func receiverMapper(*rest.Config, *http.Client) (meta.RESTMapper, error) {
	mapper := meta.NewDefaultRESTMapper(nil)
	mapper.Add(v1alpha1.SchemeGroupVersion.WithKind("NetBoxSource"), meta.RESTScopeNamespace)
	mapper.Add(v1alpha1.SchemeGroupVersion.WithKind("NetBoxSourceList"), meta.RESTScopeNamespace) // needed by a cache with namespaces
	mapper.Add(corev1.SchemeGroupVersion.WithKind("Secret"), meta.RESTScopeNamespace)
	return mapper, nil
}

// everyReplica is a Runnable without leader election.
type everyReplica manager.RunnableFunc

func (r everyReplica) Start(ctx context.Context) error { return r(ctx) }

func (r everyReplica) NeedLeaderElection() bool { return false }

// shared holds the dependencies of the controllers that outlive them.
type shared struct {
	events    *eventstore.Store
	compiled  *rule.Cache
	metrics   *event.Metrics
	tracer    trace.Tracer // may be nil
	retention *expiry.Metrics
	backlog   *sourcestatus.BacklogMetrics
	netbox    *netbox.Metrics
	journal   *journal.Journal // may be nil
}

// campaign runs the controllers each time this replica becomes the leader, until ctx is done.
func campaign(ctx context.Context, config *rest.Config, scheme *runtime.Scheme, options Options, shared shared, log logr.Logger) error {
	for {
		err := lead(ctx, config, scheme, options, shared, log)
		if ctx.Err() != nil {
			return err
		}
		log.Info("the controllers stopped and will be restarted; the receiver keeps running", "cause", fmt.Sprint(err))
		select {
		case <-ctx.Done():
		case <-time.After(campaignInterval):
		}
	}
}

// lead waits for the leadership, and runs the controllers until it is lost.
func lead(ctx context.Context, config *rest.Config, scheme *runtime.Scheme, options Options, shared shared, log logr.Logger) error {
	inner, err := manager.New(config, manager.Options{
		Scheme: scheme,
		Logger: log,
		Cache: cacheOptions(options, map[client.Object]cache.ByObject{
			&v1alpha1.NetBoxSource{}:    {},
			&v1alpha1.NetBoxEventRule{}: {Transform: cache.TransformStripManagedFields()},
		}),
		Metrics:                       metricsserver.Options{BindAddress: "0"},
		HealthProbeBindAddress:        "0",
		LeaderElection:                options.LeaderElect,
		LeaderElectionID:              options.LeaderElectionID,
		LeaderElectionNamespace:       options.LeaderElectionNamespace,
		LeaderElectionReleaseOnCancel: true,
		GracefulShutdownTimeout:       new(handOverTime),
	})
	if err != nil {
		return err
	}
	if err := IndexSources(ctx, inner.GetFieldIndexer()); err != nil {
		return err
	}
	sourceReconciler := &sourcestatus.Reconciler{
		Sources: inner.GetClient(),
		Secrets: inner.GetAPIReader(),
		Status:  inner.GetClient(),
		Clock:   clock.RealClock{},
	}
	connections := newConnections(inner, options, shared.netbox)
	webhookReconciler := &netbox.WebhookReconciler{
		Cached:   inner.GetClient(),
		Sources:  inner.GetClient(),
		Clients:  connections.netboxes,
		Secrets:  connections.secrets,
		Recorder: inner.GetEventRecorder("netbox-event-operator"),
		Metrics:  shared.netbox,
		Clock:    clock.RealClock{},
	}
	err = errors.Join(
		sourceReconciler.SetupWithManager(inner),
		webhookReconciler.SetupWithManager(inner),
		setUpEvents(ctx, inner, options, connections, shared, log),
	)
	if err != nil {
		return err
	}
	return inner.Start(ctx)
}

// connections connect to sinks and to NetBoxes.
type connections struct {
	secrets    *outbound.Secrets
	transports *outbound.Transports
	netboxes   *netbox.Clients
}

func newConnections(inner manager.Manager, options Options, metrics *netbox.Metrics) connections {
	secrets := outbound.NewSecrets(inner.GetAPIReader(), clock.RealClock{})
	transports := outbound.NewTransports(outbound.Options{
		Secrets:    secrets,
		Proxy:      &options.Proxy,
		AllowCIDRs: options.SinkAllowCIDRs,
		Clock:      clock.RealClock{},
	})
	netboxes := netbox.NewClients(transports, secrets, metrics, clock.RealClock{})
	return connections{secrets: secrets, transports: transports, netboxes: netboxes}
}

// setUpEvents adds the controllers of events, rules and retention to the inner manager.
func setUpEvents(
	ctx context.Context, inner manager.Manager, options Options, connections connections, shared shared, log logr.Logger,
) error {
	config, scheme := inner.GetConfig(), inner.GetScheme()
	events, err := client.NewWithWatch(config, client.Options{
		Scheme: scheme, Mapper: inner.GetRESTMapper(), HTTPClient: inner.GetHTTPClient(),
	})
	if err != nil {
		return err
	}
	eventMetadata, err := metadata.NewForConfigAndClient(config, inner.GetHTTPClient())
	if err != nil {
		return err
	}
	tally := rulestatus.NewTally(clock.RealClock{})
	retentionReconciler := &expiry.Reconciler{
		Sources:    inner.GetClient(),
		Events:     eventMetadata,
		Reader:     inner.GetAPIReader(),
		Namespaces: options.WatchNamespaces,
		Status:     inner.GetClient(),
		Metrics:    shared.retention,
		Clock:      clock.RealClock{},
		Log:        log.WithName("retention"),
	}
	backlog := &sourcestatus.Backlog{
		Sources: inner.GetClient(),
		Status:  inner.GetClient(),
		Metrics: shared.backlog,
		Clock:   clock.RealClock{},
	}
	changeLog := &netbox.ChangeLog{
		Cached:   inner.GetClient(),
		Status:   inner.GetClient(),
		Clients:  connections.netboxes,
		Events:   shared.events,
		Metadata: eventMetadata,
		Accept:   rule.NewAcceptCache(),
		Recorder: inner.GetEventRecorder("netbox-event-operator"),
		Metrics:  shared.netbox,
		Clock:    clock.RealClock{},
		Log:      log.WithName("changelog"),
	}
	engine := event.NewEngine(event.Options{
		Events:     events,
		Namespaces: options.WatchNamespaces,
		Rules:      inner.GetClient(),
		Compiled:   shared.compiled,
		Actions: action.NewRunner(action.Options{
			Config:     config,
			Mapper:     inner.GetRESTMapper(),
			Secrets:    connections.secrets,
			Transports: connections.transports,
			Accounts:   inner.GetClient(),
			Events:     inner.GetClient(),
			Clock:      clock.RealClock{},
			Log:        log.WithName("rule"),
		}),
		NetBox:   netbox.NewOracle(inner.GetClient(), connections.netboxes, clock.RealClock{}),
		Tally:    tally,
		Status:   shared.events,
		Journal:  shared.journal,
		Metrics:  shared.metrics,
		Tracer:   shared.tracer,
		Received: changeLog.Received,
		Changed:  backlog.Changed,
		Finished: retentionReconciler.Finished,
		Recorder: inner.GetEventRecorder("netbox-event-operator"),
		Clock:    clock.RealClock{},
		Log:      log.WithName("event"),
	})
	backlog.Events, backlog.Synced = engine, engine.Synced
	changeLog.Pending = engine.Pending
	ruleReconciler := &rulestatus.Reconciler{
		Rules:    inner.GetAPIReader(),
		Cached:   inner.GetClient(),
		Compiled: shared.compiled,
		Tally:    tally,
		Sinks:    engine,
		Status:   inner.GetClient(),
		Clock:    clock.RealClock{},
	}
	replayReconciler := &replay.Reconciler{
		Events:     events,
		Rules:      inner.GetClient(),
		Status:     shared.events,
		Namespaces: options.WatchNamespaces,
		Clock:      clock.RealClock{},
		Log:        log.WithName("replay"),
	}
	return errors.Join(
		backlog.SetupWithManager(inner),
		changeLog.SetupWithManager(inner),
		ruleReconciler.SetupWithManager(inner),
		engine.SetupWithManager(ctx, inner, inner.GetCache()),
		replayReconciler.SetupWithManager(inner),
		retentionReconciler.SetupWithManager(inner),
	)
}

// cacheOptions declares the kinds that a cache may hold: reading another kind fails, instead of starting a watch.
func cacheOptions(options Options, objects map[client.Object]cache.ByObject) cache.Options {
	var namespaces map[string]cache.Config
	for _, namespace := range options.WatchNamespaces {
		if namespaces == nil {
			namespaces = map[string]cache.Config{}
		}
		namespaces[namespace] = cache.Config{}
	}
	return cache.Options{ByObject: objects, DefaultNamespaces: namespaces, ReaderFailOnMissingInformer: true}
}

func metricsOptions(options Options) metricsserver.Options {
	return metricsserver.Options{
		BindAddress:    options.MetricsBindAddress,
		SecureServing:  true,
		ExtraHandlers:  profiles(),
		FilterProvider: filters.WithAuthenticationAndAuthorization,
	}
}

// IndexSources adds source.PathIndex to a cache.
func IndexSources(ctx context.Context, indexer client.FieldIndexer) error {
	return indexer.IndexField(ctx, &v1alpha1.NetBoxSource{}, source.PathIndex, func(object client.Object) []string {
		return []string{source.Path(object.(*v1alpha1.NetBoxSource))}
	})
}

// OnSourceChange calls changed after each change of a source in a cache.
func OnSourceChange(ctx context.Context, sources cache.Informers, changed func()) error {
	informer, err := sources.GetInformer(ctx, &v1alpha1.NetBoxSource{})
	if err != nil {
		return err
	}
	_, err = informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { changed() },
		UpdateFunc: func(any, any) { changed() },
		DeleteFunc: func(any) { changed() },
	})
	return err
}
