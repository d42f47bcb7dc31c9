// Package ingest receives webhooks: it accepts a request, finds its source, verifies the signature over the raw bytes, decodes them,
// and creates a NetBoxEvent before it answers 200.
//
// It runs on every replica. It may not import the controllers; package netbox decodes bodies.
package ingest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"mime"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/time/rate"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/eventspec"
	"github.com/netbox-events/netbox-event-operator/internal/eventstore"
	"github.com/netbox-events/netbox-event-operator/internal/ingest/apidocs"
	"github.com/netbox-events/netbox-event-operator/internal/netbox"
	"github.com/netbox-events/netbox-event-operator/internal/rule"
	"github.com/netbox-events/netbox-event-operator/internal/source"
	"github.com/netbox-events/netbox-event-operator/internal/tracing"
)

// RBAC of the receiver:
// +kubebuilder:rbac:groups=netbox-events.io,resources=netboxsources,verbs=list;watch
// +kubebuilder:rbac:groups=netbox-events.io,resources=netboxevents,verbs=create;get
// +kubebuilder:rbac:groups="",resources=secrets,verbs=get
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch

// Options are the dependencies and settings of a Receiver.
type Options struct {
	// Sources reads NetBoxSources from a cache that indexes them by source.PathIndex.
	Sources client.Reader
	// Secrets reads Secrets from the API server.
	Secrets client.Reader
	// Events creates NetBoxEvents.
	Events *eventstore.Store
	// Recorder records Kubernetes Events on sources whose deliveries are refused.
	Recorder events.EventRecorder
	// Hold is the longest time for which a delivery that cannot be stored yet is held and retried, from the end of its body.
	Hold time.Duration
	// ForgetSources, if set, is called after sources have changed, to remove the state of deleted sources elsewhere.
	ForgetSources func(isGone func(source string) bool)
	// Registry takes the receiver's metrics.
	Registry prometheus.Registerer
	// Tracer starts a span for each request; nil disables tracing.
	Tracer trace.Tracer
	Clock  clock.PassiveClock
	Log    logr.Logger
}

// Receiver is the HTTP handler of deliveries.
type Receiver struct {
	Options

	docs     http.Handler
	routes   routes
	limits   limits
	holds    *holds
	keys     *keyring
	backlogs *backlogs
	accept   *rule.AcceptCache
	metrics  *metrics
	notices  *notices

	mu    sync.Mutex
	rates map[types.NamespacedName]*rate.Limiter
}

// NewReceiver returns a Receiver that is ready to serve. It registers its metrics.
func NewReceiver(options Options) *Receiver {
	metrics := newMetrics(options.Registry)
	return &Receiver{
		Options:  options,
		docs:     apidocs.Handler(),
		routes:   newRoutes(options.Sources),
		limits:   newLimits(options.Clock),
		holds:    newHolds(options.Hold, metrics.held),
		keys:     newKeyring(options.Secrets, options.Clock),
		backlogs: newBacklogs(options.Sources),
		accept:   rule.NewAcceptCache(),
		metrics:  metrics,
		notices:  newNotices(options),
		rates:    map[types.NamespacedName]*rate.Limiter{},
	}
}

// ServeHTTP answers one request.
func (r *Receiver) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	source, err := r.route(request)
	claim := r.limits.admit(w, request, nameOf(source))
	if claim == nil {
		r.shed(w, request, source)
		return
	}
	defer claim.release()
	if len(request.TransferEncoding) > 0 {
		// Request smuggling needs a chunked body with a Content-Length: this connection carries no further request.
		w.Header().Set("Connection", "close")
	}
	if apidocs.Handles(request.URL.Path) {
		discard(w, request, claim)
		r.docs.ServeHTTP(w, request)
		return
	}
	started := r.Clock.Now()
	r.metrics.inFlight.Inc()
	defer r.metrics.inFlight.Dec()

	request, span := r.trace(request)
	defer span.End()
	answer := r.receive(request, source, claim, err)
	describe(span, source, answer)
	r.metrics.observe(nameOf(source), answer.result, r.Clock.Since(started))
	if statuses[answer.result] != http.StatusOK {
		r.notices.refused(source, request, answer)
		discard(w, request, claim)
	}
	answer.write(w)
	if claim.isEvicted() {
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler) // closes the connection at once: the server would wait for the rest of the body
	}
}

// shed answers a request for which there is no memory.
func (r *Receiver) shed(w http.ResponseWriter, request *http.Request, source *v1alpha1.NetBoxSource) {
	r.metrics.observe(nameOf(source), errTooMany.result, 0)
	r.notices.refused(source, request, errTooMany)
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(shedTime))
	w.Header().Set("Connection", "close")
	errTooMany.write(w)
	request.Header = nil // the server keeps the request for a while
}

// nameOf returns the namespace/name of a source for logs and metrics, "" for nil.
func nameOf(source *v1alpha1.NetBoxSource) string {
	if source == nil {
		return ""
	}
	return source.Namespace + "/" + source.Name
}

// receive processes a request to a source, and returns its answer. err is the error of route.
func (r *Receiver) receive(request *http.Request, source *v1alpha1.NetBoxSource, claim *claim, err error) *answer {
	var name string
	var result result
	if err == nil {
		name, result, err = r.store(request, source, claim)
	}
	switch refusal, ok := errors.AsType[*answer](err); {
	case ok:
		return refusal
	case err != nil:
		return unavailable("internal error; see the operator's log", time.Second, err)
	case result == resultIgnored:
		return &answer{result: result, message: "ignored"}
	case result == resultDuplicate:
		return &answer{result: result, message: "duplicate", event: name}
	default:
		return &answer{result: result, message: "ok", event: name}
	}
}

// store verifies, decodes and stores a request. An error means that nothing was stored, or that the outcome is unknown. The name is empty
// if the event is ignored.
func (r *Receiver) store(request *http.Request, source *v1alpha1.NetBoxSource, claim *claim) (name string, result result, err error) {
	if err := checkHead(request, source); err != nil {
		return "", "", err
	}
	body, err := readBody(request, source.Spec.MaxBodyBytes, claim)
	if err != nil {
		return "", "", err
	}
	r.metrics.read(nameOf(source), len(body))
	receivedAt := r.Clock.Now()
	hold := r.holds.begin(request.Context(), nameOf(source), receivedAt)
	defer hold.end()

	var key string
	err = hold.retry(func(int) (err error) {
		key, err = r.verify(hold.ctx, source, body, request.Header.Values(netbox.SignatureHeader))
		return err
	})
	if err != nil {
		return "", "", err
	}
	if !r.allowRate(source) {
		return "", "", throttled("over the rate limit of this source (spec.rateLimit); try again")
	}
	settle, err := r.backlogs.admit(hold.ctx, source) //nolint:contextcheck // hold.ctx derives from the request's
	if err != nil {
		return "", "", err
	}
	defer func() { settle(result == resultStored) }()
	verified := eventspec.Delivery{
		Source: source, Origin: v1alpha1.OriginWebhook, Key: key, BodyBytes: len(body), ReceivedAt: receivedAt,
		Traceparent: tracing.Traceparent(trace.SpanFromContext(request.Context())),
	}
	err = hold.retry(func(n int) (err error) { //nolint:contextcheck // as above
		name, result, err = r.tryToStore(hold, body, verified, n)
		return err
	})
	return name, result, err
}

// tryToStore is attempt n, counted from 0, to decode and store a verified delivery. It keeps no memory or slots between attempts.
func (r *Receiver) tryToStore(hold *hold, body []byte, delivery eventspec.Delivery, n int) (name string, result result, err error) {
	done, err := r.limits.acquireSlots(hold.ctx, nameOf(delivery.Source), len(body), delivery.ReceivedAt)
	if err != nil {
		return "", "", err
	}
	defer done()
	event, err := decode(body, delivery.Source, delivery.ReceivedAt)
	if err != nil {
		return "", "", err
	}
	resource := eventspec.New(event, delivery)
	accepted, err := r.accepts(hold.ctx, delivery.Source, resource)
	if err != nil {
		hold.permanent = true // compiling again would fail again
		return "", "", err
	}
	if !accepted {
		return "", resultIgnored, nil
	}
	if result, err = r.create(hold, delivery.Source, resource, n); err == nil {
		r.holds.resume(hold.source)
	}
	return resource.Namespace + "/" + resource.Name, result, err
}

// EndHolds answers all held deliveries, and holds no more: the receiver is about to stop.
func (r *Receiver) EndHolds() { r.holds.stop() }

// SourcesChanged invalidates what is cached of sources, and removes the state of deleted ones. It must be called after each change in the
// cache of Options.Sources.
func (r *Receiver) SourcesChanged() {
	r.routes.forget()
	ctx := context.Background()
	if err := r.backlogs.refresh(ctx); err != nil {
		r.Log.Error(err, "cannot read the backlog of sources")
	}
	var sources v1alpha1.NetBoxSourceList
	if err := r.Sources.List(ctx, &sources, client.UnsafeDisableDeepCopy); err != nil { // read only
		r.Log.Error(err, "cannot list NetBoxSources")
		return
	}
	r.forgetGone(sources.Items)
}

// forgetGone removes the state of all sources that are not listed, metrics included. A request that was received before its source was
// deleted may create some of it again, until the next change of a source.
func (r *Receiver) forgetGone(sources []v1alpha1.NetBoxSource) {
	present := map[string]bool{"": true} // requests without a source have metrics too
	for i := range sources {
		present[nameOf(&sources[i])] = true
	}
	isGone := func(source string) bool { return !present[source] }
	isNameGone := func(name types.NamespacedName) bool { return isGone(name.String()) }
	r.metrics.forget(isGone)
	r.notices.forget(isGone)
	r.keys.forget(isNameGone)
	if r.ForgetSources != nil {
		r.ForgetSources(isGone)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	maps.DeleteFunc(r.rates, func(name types.NamespacedName, _ *rate.Limiter) bool { return isNameGone(name) })
}

// route returns the source that owns the path of a request.
func (r *Receiver) route(request *http.Request) (*v1alpha1.NetBoxSource, error) {
	if request.Method != http.MethodPost {
		return nil, refuse(resultMethodNotAllowed, methodHint(request.Method))
	}
	owner, err := r.routes.owner(request.Context(), source.CleanPath(request.URL.Path))
	if err != nil {
		return nil, unavailable("cannot look up NetBoxSources; try again", time.Second, err)
	}
	if owner == nil {
		return nil, refuse(resultNotFound, "no NetBoxSource has this path; kubectl get netboxsources -A lists their paths")
	}
	return owner, nil
}

// methodHint returns advice for a method that is not POST. NetBox follows a redirect of 301 or 302 with a GET.
func methodHint(method string) string {
	if method == http.MethodGet {
		return "only POST is accepted here; if NetBox sent a POST, a redirect turned it into a GET: " +
			"check the URL in NetBox for http instead of https, and for its host"
	}
	return "only POST is accepted here; set the webhook's HTTP method to POST in NetBox"
}

// checkHead refuses requests by their head alone.
func checkHead(request *http.Request, source *v1alpha1.NetBoxSource) error {
	if source.Spec.Suspend {
		return &answer{result: resultSuspended, message: "this source is suspended", retryAfter: time.Minute}
	}
	// NetBox's content type is free text; parameters after the media type are ignored.
	mediaType, _, _ := mime.ParseMediaType(request.Header.Get("Content-Type"))
	if mediaType != "application/json" && !(strings.HasPrefix(mediaType, "application/") && strings.HasSuffix(mediaType, "+json")) {
		return refuse(resultUnsupportedMediaType, "the Content-Type must be application/json; set the webhook's HTTP content type in NetBox")
	}
	if request.ContentLength > source.Spec.MaxBodyBytes {
		return tooLarge(source.Spec.MaxBodyBytes)
	}
	return nil
}

func tooLarge(limit int64) *answer {
	return refuse(resultTooLarge, fmt.Sprintf("the body is longer than the source's maxBodyBytes, %d", limit))
}

// verify returns the name of the key that signed a body, or "" if the source accepts it unsigned.
func (r *Receiver) verify(ctx context.Context, source *v1alpha1.NetBoxSource, body []byte, signatures []string) (string, error) {
	accepts := source.Spec.Unsigned == v1alpha1.UnsignedAccept
	if accepts && (source.Spec.SecretRef == nil || len(signatures) == 0) {
		return "", nil
	}
	if len(signatures) == 1 {
		name, err := r.keys.verify(ctx, source, body, signatures[0])
		if err != nil {
			return "", unavailable("cannot load signing keys; see the source's status", time.Second, err)
		}
		if name != "" {
			return name, nil
		}
	}
	return "", refuse(resultUnauthorized, "the signature in "+netbox.SignatureHeader+" is missing or does not match the body; "+
		"the secret of NetBox's webhook and the source's Secret must be the same")
}

// allowRate takes a token from the source's rate limiter. It returns false if there is none.
func (r *Receiver) allowRate(source *v1alpha1.NetBoxSource) bool {
	if source.Spec.RateLimit == nil {
		return true
	}
	limit, burst := rate.Limit(source.Spec.RateLimit.RequestsPerSecond), int(source.Spec.RateLimit.Burst)
	name := types.NamespacedName{Namespace: source.Namespace, Name: source.Name}

	r.mu.Lock()
	defer r.mu.Unlock()
	limiter := r.rates[name]
	if limiter == nil || limiter.Limit() != limit || limiter.Burst() != burst {
		limiter = rate.NewLimiter(limit, burst)
		r.rates[name] = limiter
	}
	return limiter.AllowN(r.Clock.Now(), 1)
}

func decode(body []byte, source *v1alpha1.NetBoxSource, now time.Time) (*netbox.Event, error) {
	event, err := netbox.Decode(body, source.Spec.Redact)
	if malformed, ok := errors.AsType[*netbox.SyntaxError](err); ok {
		return nil, refuse(resultMalformed, malformed.Error())
	}
	if invalid, ok := errors.AsType[*netbox.InvalidError](err); ok {
		return nil, &answer{
			result: resultInvalid, faults: invalid.Faults,
			message: "the body is not an event: " + invalid.Error() + "; clear the webhook's body template in NetBox",
		}
	}
	if errors.Is(err, netbox.ErrTooLarge) || errors.Is(err, netbox.ErrTooManyValues) {
		return nil, refuse(resultTooLarge, err.Error())
	}
	if err != nil {
		return nil, err
	}
	if maxAge := source.Spec.MaxAge; maxAge != nil && now.Sub(event.Timestamp) > maxAge.Duration {
		fault := netbox.Fault{Field: "timestamp", Message: fmt.Sprintf("is older than the source's maxAge, %s", maxAge.Duration)}
		return nil, &answer{result: resultInvalid, message: "the event is too old: timestamp " + fault.Message, faults: []netbox.Fault{fault}}
	}
	return event, nil
}

// create stores an event. An event that exists already is a success: its name identifies the change. It does not count as a duplicate if
// an earlier attempt of this delivery may have stored it.
func (r *Receiver) create(hold *hold, source *v1alpha1.NetBoxSource, event *v1alpha1.NetBoxEvent, n int) (result, error) {
	_, span := tracing.Start(hold.ctx, trace.SpanFromContext(hold.ctx), "create", trace.SpanKindClient)
	defer span.End()
	err := r.createWithRetryAfter(hold, event, n)
	if apierrors.IsAlreadyExists(err) && eventspec.HasChange(&event.Spec) {
		err = r.createBeside(hold, source, event, n, err)
	}
	if err != nil && !apierrors.IsAlreadyExists(err) {
		span.SetStatus(codes.Error, "")
	}
	switch {
	case err == nil, apierrors.IsAlreadyExists(err) && hold.mayBeStored:
		return resultStored, nil
	case apierrors.IsAlreadyExists(err):
		return resultDuplicate, nil
	case eventstore.IsTooLarge(err):
		return "", &answer{result: resultTooLarge, message: err.Error()}
	case apierrors.IsInvalid(err):
		return "", &answer{
			result: resultInvalid, message: "the API server rejected the event: " + err.Error(), faults: causes(err), cause: err,
		}
	default:
		return "", unavailable("cannot store the event in Kubernetes; try again", retryAfter(err), err)
	}
}

// createBeside stores an event whose name is taken by another body of the same change, under a name of its own. It returns taken, the
// error of the API server for the taken name, if the body or its change is stored.
func (r *Receiver) createBeside(hold *hold, source *v1alpha1.NetBoxSource, event *v1alpha1.NetBoxEvent, n int, taken error) error {
	ctx, cancel := context.WithTimeout(hold.ctx, tryTime(n))
	stored, err := r.Events.Get(ctx, event.Namespace, event.Name)
	cancel()
	switch {
	case apierrors.IsNotFound(err): // it was deleted meanwhile
		return r.createWithRetryAfter(hold, event, n)
	case err != nil:
		return err
	case eventspec.IsSame(stored, event, source):
		return taken
	}
	event.Name = eventspec.BodyName(&event.Spec, source.UID)
	return r.createWithRetryAfter(hold, event, n)
}

// createWithRetryAfter retries within the hold when an overloaded API server asks for it by Retry-After. Meanwhile the event keeps its
// slots, which reduces the load on the API server.
func (r *Receiver) createWithRetryAfter(hold *hold, event *v1alpha1.NetBoxEvent, n int) error {
	for {
		ctx, cancel := context.WithTimeout(hold.ctx, tryTime(n))
		err := r.Events.Create(ctx, event)
		cancel()
		_, asked := apierrors.SuggestsClientDelay(err)
		if err != nil && !asked && !apierrors.IsAlreadyExists(err) && !utilnet.IsConnectionRefused(err) {
			hold.mayBeStored = true
		}
		if !asked || !hold.waitRetryAfter(retryAfter(err)) {
			return err
		}
	}
}

// causes returns the invalid fields in an error of the API server.
func causes(err error) []netbox.Fault {
	faults := []netbox.Fault{}
	if status, ok := errors.AsType[*apierrors.StatusError](err); ok && status.ErrStatus.Details != nil {
		for _, cause := range status.ErrStatus.Details.Causes {
			faults = append(faults, netbox.Fault{Field: cause.Field, Message: cause.Message})
		}
	}
	return faults
}

// retryAfter returns the delay that the API server asked for, or a second.
func retryAfter(err error) time.Duration {
	if seconds, ok := apierrors.SuggestsClientDelay(err); ok && seconds > 0 {
		return time.Duration(seconds) * time.Second
	}
	return time.Second
}
