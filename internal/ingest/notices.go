package ingest

import (
	"net/http"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"go.opentelemetry.io/otel/trace"
	corev1 "k8s.io/api/core/v1"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/notice"
	"github.com/netbox-events/netbox-event-operator/internal/tracing"
)

const (
	// logInterval and eventInterval are the least times between two log lines, and two Kubernetes Events, for one result of one source: any
	// client can cause refusals at any rate.
	logInterval   = time.Second
	eventInterval = time.Minute
)

// eventReasons maps the refusals that need a fix to the reasons of their Kubernetes Events on the source.
var eventReasons = map[result]string{
	resultUnauthorized:         "SignatureMismatch",
	resultMalformed:            "MalformedBody",
	resultInvalid:              "InvalidBody",
	resultTooLarge:             "BodyTooLarge",
	resultUnsupportedMediaType: "UnsupportedMediaType",
	resultUnavailable:          "NotStored",
	resultSuspended:            "NotStored",
	resultThrottled:            "Throttled",
	resultBacklogFull:          "BacklogFull",
}

// notices reports refused requests, rate-limited.
type notices struct {
	log      logr.Logger
	recorder notice.Recorder
	lines    *notice.Limiter[noticeKey]
	events   *notice.Limiter[noticeKey]
}

type noticeKey struct {
	source string
	result result
	isTest bool
}

// testAgent begins the User-Agent of kubectl netbox, whose refused requests are no fault of NetBox: their Kubernetes Events do not warn.
const testAgent = "kubectl-netbox"

// acceptFailed is the noticeKey.result of an expression that failed on a delivery.
const acceptFailed result = "accept_failed"

func newNotices(options Options) *notices {
	return &notices{
		log: options.Log, recorder: notice.Recorder{EventRecorder: options.Recorder},
		lines: notice.NewLimiter[noticeKey](logInterval, options.Clock), events: notice.NewLimiter[noticeKey](eventInterval, options.Clock),
	}
}

// refused reports a refused request; source is nil if none has its path.
func (n *notices) refused(source *v1alpha1.NetBoxSource, request *http.Request, answer *answer) {
	key := noticeKey{source: nameOf(source), result: answer.result}
	if allowed, suppressed := n.lines.Allow(key); allowed {
		log := n.log.WithValues(tracing.LogValues(tracing.Traceparent(trace.SpanFromContext(request.Context())))...)
		log.Info("request refused", "status", statuses[answer.result], "result", answer.message, "cause", causeOf(answer), "source", key.source,
			"method", request.Method, "path", request.URL.Path, "remote", request.RemoteAddr, "suppressed", suppressed)
	}
	reason, ok := eventReasons[answer.result]
	if !ok || source == nil {
		return
	}
	kind, what := corev1.EventTypeWarning, "delivery"
	if key.isTest = strings.HasPrefix(request.UserAgent(), testAgent); key.isTest {
		kind, what = corev1.EventTypeNormal, "test"
	}
	if allowed, _ := n.events.Allow(key); allowed {
		n.recorder.Eventf(source, nil, kind, reason, "Receive", "%s from %s answered with %d: %s",
			what, request.RemoteAddr, statuses[answer.result], answer.message)
	}
}

// acceptFailed reports an event that is stored because its source's spec.accept failed on it.
func (n *notices) acceptFailed(source *v1alpha1.NetBoxSource, event *v1alpha1.NetBoxEvent, err error) {
	key := noticeKey{source: nameOf(source), result: acceptFailed}
	if allowed, suppressed := n.lines.Allow(key); allowed {
		n.log.Info("spec.accept.cel failed on an event, which is stored therefore; fix the expression", "cause", err.Error(),
			"source", key.source, "namespace", event.Namespace, "name", event.Name, "suppressed", suppressed)
	}
	if allowed, _ := n.events.Allow(key); allowed {
		n.recorder.Eventf(source, nil, corev1.EventTypeWarning, "AcceptFailed", "Receive",
			"spec.accept.cel failed on %s, which is stored therefore: %v", event.Name, err)
	}
}

// forget removes the state of deleted sources.
func (n *notices) forget(isGone func(source string) bool) {
	n.lines.Forget(func(key noticeKey) bool { return isGone(key.source) })
	n.events.Forget(func(key noticeKey) bool { return isGone(key.source) })
}

func causeOf(answer *answer) string {
	if answer.cause == nil {
		return ""
	}
	return answer.cause.Error()
}
