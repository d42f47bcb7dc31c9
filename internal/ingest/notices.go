package ingest

import (
	"net/http"
	"time"

	"github.com/go-logr/logr"
	"go.opentelemetry.io/otel/trace"
	corev1 "k8s.io/api/core/v1"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/notice"
	"github.com/netbox-events/netbox-event-operator/internal/tracing"
)

const (
	// logInterval and eventInterval are the least times between two log lines, and two Kubernetes Events, on one result of one source:
	// whoever can reach the receiver can be refused as often as he likes.
	logInterval   = time.Second
	eventInterval = time.Minute
)

// eventReasons are the refusals that somebody has to mend, by the reason that kubectl describe shows on the source.
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

// notices tells people about refused requests, now and then.
type notices struct {
	log      logr.Logger
	recorder notice.Recorder
	lines    *notice.Limiter[noticeKey]
	events   *notice.Limiter[noticeKey]
}

type noticeKey struct {
	source string
	result result
}

// acceptFailed stands in a noticeKey for an expression that failed on a delivery, whatever becomes of that.
const acceptFailed result = "accept_failed"

func newNotices(options Options) *notices {
	return &notices{
		log: options.Log, recorder: notice.Recorder{EventRecorder: options.Recorder},
		lines: notice.NewLimiter[noticeKey](logInterval, options.Clock), events: notice.NewLimiter[noticeKey](eventInterval, options.Clock),
	}
}

// refused tells of a request that was refused, of a source if its path has one.
func (n *notices) refused(from *v1alpha1.NetBoxSource, request *http.Request, answer *answer) {
	key := noticeKey{nameOf(from), answer.result}
	if allowed, withheld := n.lines.Allow(key); allowed {
		log := n.log.WithValues(tracing.LogValues(tracing.Traceparent(trace.SpanFromContext(request.Context())))...)
		log.Info("request refused", "status", statuses[answer.result], "result", answer.message, "cause", causeOf(answer), "source", key.source,
			"method", request.Method, "path", request.URL.Path, "remote", request.RemoteAddr, "moreSinceLastLine", withheld)
	}
	reason, ok := eventReasons[answer.result]
	if !ok || from == nil {
		return
	}
	if allowed, _ := n.events.Allow(key); allowed {
		n.recorder.Eventf(from, nil, corev1.EventTypeWarning, reason, "Receive", "a delivery from %s was answered with %d: %s",
			request.RemoteAddr, statuses[answer.result], answer.message)
	}
}

// acceptFailed tells of an event that is stored because its source's spec.accept failed on it.
func (n *notices) acceptFailed(source *v1alpha1.NetBoxSource, event *v1alpha1.NetBoxEvent, err error) {
	key := noticeKey{nameOf(source), acceptFailed}
	if allowed, withheld := n.lines.Allow(key); allowed {
		n.log.Info("spec.accept.cel failed on an event, which is therefore stored; correct the expression", "cause", err.Error(),
			"source", key.source, "namespace", event.Namespace, "name", event.Name, "moreSinceLastLine", withheld)
	}
	if allowed, _ := n.events.Allow(key); allowed {
		n.recorder.Eventf(source, nil, corev1.EventTypeWarning, "AcceptFailed", "Receive",
			"spec.accept.cel failed on %s, which is therefore stored: %v", event.Name, err)
	}
}

// forget forgets the sources that are gone.
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
