// Package ingest receives webhooks: it accepts a request, finds its source, verifies the signature over the raw bytes, decodes them,
// and creates a NetBoxEvent before it answers 200.
//
// It runs on every replica. It may not know the controllers, and leaves what is inside a body to package netbox.
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
	"github.com/netbox-events/netbox-event-operator/internal/eventstore"
	"github.com/netbox-events/netbox-event-operator/internal/ingest/apidocs"
	"github.com/netbox-events/netbox-event-operator/internal/netbox"
	"github.com/netbox-events/netbox-event-operator/internal/rule"
	"github.com/netbox-events/netbox-event-operator/internal/source"
	"github.com/netbox-events/netbox-event-operator/internal/tracing"
)

// What the receiver may do:
// +kubebuilder:rbac:groups=netbox-events.io,resources=netboxsources,verbs=list;watch
// +kubebuilder:rbac:groups=netbox-events.io,resources=netboxevents,verbs=create
// +kubebuilder:rbac:groups="",resources=secrets,verbs=get
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch

// Options are what a Receiver needs of its surroundings.
type Options struct {
	// Sources reads NetBoxSources from a cache that indexes them by source.PathIndex.
	Sources client.Reader
	// Secrets reads Secrets from the API server.
	Secrets client.Reader
	// Events creates NetBoxEvents.
	Events *eventstore.Store
	// Recorder makes Kubernetes Events on sources whose deliveries are refused.
	Recorder events.EventRecorder
	// Hold is how long a delivery is held that cannot be stored yet, from when its body was read.
	Hold time.Duration
	// ForgetSources, if set, is called after sources have changed, so that others forget those that are gone as well.
	ForgetSources func(isGone func(source string) bool)
	// Registry takes the receiver's metrics.
	Registry prometheus.Registerer
	// Tracer begins a trace for each request; nil for none.
	Tracer trace.Tracer
	Clock  clock.PassiveClock
	Log    logr.Logger
}

// Receiver is the HTTP handler that deliveries come to.
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
	from, err := r.route(request)
	claim := r.limits.admit(w, request, nameOf(from))
	if claim == nil {
		r.turnAway(w, request, from)
		return
	}
	defer claim.release()
	if len(request.TransferEncoding) > 0 {
		// Chunks beside a length are how a second request is hidden from one of two servers: nothing follows chunks on this connection.
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
	answer := r.receive(request, from, claim, err)
	describe(span, from, answer)
	r.metrics.observe(nameOf(from), answer.result, r.Clock.Since(started))
	if statuses[answer.result] != http.StatusOK {
		r.notices.refused(from, request, answer)
		discard(w, request, claim)
	}
	answer.write(w)
	if claim.gaveWay() {
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler) // closes the connection at once; the server would wait for the rest of the body
	}
}

// turnAway answers a request that there is no memory for.
func (r *Receiver) turnAway(w http.ResponseWriter, request *http.Request, from *v1alpha1.NetBoxSource) {
	r.metrics.observe(nameOf(from), errTooMany.result, 0)
	r.notices.refused(from, request, errTooMany)
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(turnedAwayTime))
	w.Header().Set("Connection", "close")
	errTooMany.write(w)
	request.Header = nil // the server holds the request for a while yet
}

// nameOf returns the namespace and name of a source as logs and metrics have them, "" for none.
func nameOf(from *v1alpha1.NetBoxSource) string {
	if from == nil {
		return ""
	}
	return from.Namespace + "/" + from.Name
}

// receive does the work on a request for a source, or for none, by the error.
func (r *Receiver) receive(request *http.Request, from *v1alpha1.NetBoxSource, claim *claim, err error) *answer {
	var name string
	var result result
	if err == nil {
		name, result, err = r.store(request, from, claim)
	}
	switch refusal, ok := errors.AsType[*answer](err); {
	case ok:
		return refusal
	case err != nil:
		return unavailable("an error of the operator; see its log", time.Second, err)
	case result == resultIgnored:
		return &answer{result: result, message: "ignored"}
	case result == resultDuplicate:
		return &answer{result: result, message: "duplicate", event: name}
	default:
		return &answer{result: result, message: "ok", event: name}
	}
}

// store takes a request the rest of the way. An error means that nothing was stored, or that nobody knows. There is no name where the event
// is ignored.
func (r *Receiver) store(request *http.Request, from *v1alpha1.NetBoxSource, claim *claim) (name string, result result, err error) {
	if err := checkHead(request, from); err != nil {
		return "", "", err
	}
	body, err := readBody(request, from.Spec.MaxBodyBytes, claim)
	if err != nil {
		return "", "", err
	}
	r.metrics.read(nameOf(from), len(body))
	receivedAt := r.Clock.Now()
	hold := r.holds.begin(request.Context(), nameOf(from), receivedAt)
	defer hold.end()

	var key string
	err = hold.until(func(int) (err error) {
		key, err = r.verify(hold.ctx, from, body, request.Header.Values(netbox.SignatureHeader))
		return err
	})
	if err != nil {
		return "", "", err
	}
	if !r.withinRate(from) {
		return "", "", throttled("over the rate limit of this source; try again")
	}
	settle, err := r.backlogs.admit(hold.ctx, from) //nolint:contextcheck // hold.ctx is made of the request's
	if err != nil {
		return "", "", err
	}
	defer func() { settle(result == resultStored) }()
	verified := delivered{
		source: from, body: body, key: key, receivedAt: receivedAt,
		traceparent: tracing.Traceparent(trace.SpanFromContext(request.Context())),
	}
	err = hold.until(func(n int) (err error) { //nolint:contextcheck // as above
		name, result, err = r.tryToStore(hold, verified, n)
		return err
	})
	return name, result, err
}

// tryToStore decodes and stores a verified delivery, for the n-th time. What it holds beside the body it gives back when the try is over.
func (r *Receiver) tryToStore(hold *hold, delivery delivered, n int) (name string, result result, err error) {
	done, err := r.limits.startWork(hold.ctx, nameOf(delivery.source), len(delivery.body), delivery.receivedAt)
	if err != nil {
		return "", "", err
	}
	defer done()
	event, err := decode(delivery.body, delivery.source, delivery.receivedAt)
	if err != nil {
		return "", "", err
	}
	resource := newEvent(event, delivery)
	accepted, err := r.accepts(hold.ctx, delivery.source, resource)
	if err != nil {
		hold.over = true // it compiles no better at another try
		return "", "", err
	}
	if !accepted {
		return "", resultIgnored, nil
	}
	if result, err = r.create(hold, resource, n); err == nil {
		r.holds.stored(hold.source)
	}
	return resource.Namespace + "/" + resource.Name, result, err
}

// EndHolds answers all deliveries that are held, and lets none be held from now on: the receiver is about to stop.
func (r *Receiver) EndHolds() { r.holds.stop() }

// SourcesChanged makes the receiver look its sources up again, and forget those that are gone. It is to be called after each change of what
// Options.Sources reads.
func (r *Receiver) SourcesChanged() {
	r.routes.forget()
	ctx := context.Background()
	if err := r.backlogs.refresh(ctx); err != nil {
		r.Log.Error(err, "cannot read how many events of each source wait")
	}
	var sources v1alpha1.NetBoxSourceList
	if err := r.Sources.List(ctx, &sources, client.UnsafeDisableDeepCopy); err != nil { // they are only read
		r.Log.Error(err, "cannot list the sources")
		return
	}
	r.forgetGone(sources.Items)
}

// forgetGone forgets all that is kept of sources beside some, their metrics included. A request that was received before its source was
// deleted may bring back some of it, until the next change of a source.
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

// route returns the source that a delivery is for, by its path.
func (r *Receiver) route(request *http.Request) (*v1alpha1.NetBoxSource, error) {
	if request.Method != http.MethodPost {
		return nil, refuse(resultMethodNotAllowed, methodHint(request.Method))
	}
	owner, err := r.routes.owner(request.Context(), source.CleanPath(request.URL.Path))
	if err != nil {
		return nil, unavailable("sources cannot be looked up; try again", time.Second, err)
	}
	if owner == nil {
		return nil, refuse(resultNotFound, "no NetBoxSource is served at this path; kubectl get netboxsources -A lists their paths")
	}
	return owner, nil
}

// methodHint says what to do about a method. NetBox follows a redirect of 301 or 302 with a GET.
func methodHint(method string) string {
	if method == http.MethodGet {
		return "only POST is taken here; if NetBox sent a POST, a redirect on the way has turned it into a GET: " +
			"check the URL in NetBox for http instead of https, and for its host"
	}
	return "only POST is taken here; set the webhook's HTTP method to POST in NetBox"
}

// checkHead refuses what needs no look at the body.
func checkHead(request *http.Request, from *v1alpha1.NetBoxSource) error {
	if from.Spec.Suspend {
		return &answer{result: resultSuspended, message: "this source is suspended", retryAfter: time.Minute}
	}
	// NetBox's content type is free text; what follows the media type does not matter.
	mediaType, _, _ := mime.ParseMediaType(request.Header.Get("Content-Type"))
	if mediaType != "application/json" && !(strings.HasPrefix(mediaType, "application/") && strings.HasSuffix(mediaType, "+json")) {
		return refuse(resultUnsupportedMediaType, "the Content-Type must be application/json; set the webhook's HTTP content type in NetBox")
	}
	if request.ContentLength > from.Spec.MaxBodyBytes {
		return tooLarge(from.Spec.MaxBodyBytes)
	}
	return nil
}

func tooLarge(limit int64) *answer {
	return refuse(resultTooLarge, fmt.Sprintf("the body is longer than the source's maxBodyBytes, %d", limit))
}

// verify returns the name of the key that signed a body, or "" where the source takes it unsigned.
func (r *Receiver) verify(ctx context.Context, from *v1alpha1.NetBoxSource, body []byte, signatures []string) (string, error) {
	accepts := from.Spec.Unsigned == v1alpha1.UnsignedAccept
	if accepts && (from.Spec.SecretRef == nil || len(signatures) == 0) {
		return "", nil
	}
	if len(signatures) == 1 {
		name, err := r.keys.verify(ctx, from, body, signatures[0])
		if err != nil {
			return "", unavailable("the keys of this source cannot be had; see the source's status", time.Second, err)
		}
		if name != "" {
			return name, nil
		}
	}
	return "", refuse(resultUnauthorized, "the signature in "+netbox.SignatureHeader+" is missing or does not fit the body; "+
		"the secret of NetBox's webhook and the source's Secret must be the same")
}

// withinRate takes a token of the source's rate limit.
func (r *Receiver) withinRate(from *v1alpha1.NetBoxSource) bool {
	if from.Spec.RateLimit == nil {
		return true
	}
	limit, burst := rate.Limit(from.Spec.RateLimit.RequestsPerSecond), int(from.Spec.RateLimit.Burst)
	name := types.NamespacedName{Namespace: from.Namespace, Name: from.Name}

	r.mu.Lock()
	defer r.mu.Unlock()
	limiter := r.rates[name]
	if limiter == nil || limiter.Limit() != limit || limiter.Burst() != burst {
		limiter = rate.NewLimiter(limit, burst)
		r.rates[name] = limiter
	}
	return limiter.AllowN(r.Clock.Now(), 1)
}

func decode(body []byte, from *v1alpha1.NetBoxSource, now time.Time) (*netbox.Event, error) {
	event, err := netbox.Decode(body, from.Spec.Redact)
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
	if maxAge := from.Spec.MaxAge; maxAge != nil && now.Sub(event.Timestamp) > maxAge.Duration {
		fault := netbox.Fault{Field: "timestamp", Message: fmt.Sprintf("is older than the source's maxAge, %s", maxAge.Duration)}
		return nil, &answer{result: resultInvalid, message: "the event is too old: timestamp " + fault.Message, faults: []netbox.Fault{fault}}
	}
	return event, nil
}

// create stores an event. That it exists already is success: its name says that it is the same. It is no duplicate if an earlier try of
// this delivery may have stored it.
func (r *Receiver) create(hold *hold, event *v1alpha1.NetBoxEvent, n int) (result, error) {
	_, span := tracing.Start(hold.ctx, trace.SpanFromContext(hold.ctx), "create", trace.SpanKindClient)
	defer span.End()
	err := r.createWhenAsked(hold, event, n)
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
			result: resultInvalid, message: "the API server does not accept the event: " + err.Error(), faults: causes(err), cause: err,
		}
	default:
		return "", unavailable("the event could not be stored in Kubernetes; try again", retryAfter(err), err)
	}
}

// createWhenAsked tries again when an API server that has too much to do asks for it, within the hold. Meanwhile the event keeps its place
// among those that are worked on, so that the API server gets less to do.
func (r *Receiver) createWhenAsked(hold *hold, event *v1alpha1.NetBoxEvent, n int) error {
	for {
		ctx, cancel := context.WithTimeout(hold.ctx, tryTime(n))
		err := r.Events.Create(ctx, event)
		cancel()
		_, asked := apierrors.SuggestsClientDelay(err)
		if err != nil && !asked && !apierrors.IsAlreadyExists(err) && !utilnet.IsConnectionRefused(err) {
			hold.mayBeStored = true
		}
		if !asked || !hold.obey(retryAfter(err)) {
			return err
		}
	}
}

// causes are the fields that the API server complains of.
func causes(err error) []netbox.Fault {
	faults := []netbox.Fault{}
	if status, ok := errors.AsType[*apierrors.StatusError](err); ok && status.ErrStatus.Details != nil {
		for _, cause := range status.ErrStatus.Details.Causes {
			faults = append(faults, netbox.Fault{Field: cause.Field, Message: cause.Message})
		}
	}
	return faults
}

// retryAfter is when the API server wants to be asked again, or a second.
func retryAfter(err error) time.Duration {
	if seconds, ok := apierrors.SuggestsClientDelay(err); ok && seconds > 0 {
		return time.Duration(seconds) * time.Second
	}
	return time.Second
}
