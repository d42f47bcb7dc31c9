package ingest

import (
	"net/http"
	"sync"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
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
	resultThrottled:            "Throttled",
}

// notices tells people about refused requests, now and then.
type notices struct {
	log      logr.Logger
	recorder events.EventRecorder
	clock    clock.PassiveClock

	mu   sync.Mutex
	last map[noticeKey]*notice
}

func newNotices(options Options) *notices {
	return &notices{log: options.Log, recorder: options.Recorder, clock: options.Clock, last: map[noticeKey]*notice{}}
}

type noticeKey struct {
	source string
	result result
}

type notice struct {
	loggedAt, recordedAt time.Time
	unlogged             int
}

// refused tells of a request that was refused, of a source if its path has one.
func (n *notices) refused(from *v1alpha1.NetBoxSource, request *http.Request, answer *answer) {
	name := nameOf(from)
	unlogged, toLog, toRecord := n.due(noticeKey{name, answer.result}, n.clock.Now())
	if toLog {
		n.log.Info("request refused", "status", statuses[answer.result], "result", answer.message, "cause", causeOf(answer), "source", name,
			"method", request.Method, "path", request.URL.Path, "remote", request.RemoteAddr, "moreSinceLastLine", unlogged)
	}
	if reason, ok := eventReasons[answer.result]; ok && toRecord && from != nil {
		n.recorder.Eventf(from, nil, corev1.EventTypeWarning, reason, "Receive", "a delivery from %s was answered with %d: %s",
			request.RemoteAddr, statuses[answer.result], answer.message)
	}
}

// due tells whether a refusal is to be logged and recorded, and how many were not logged since the last that was.
func (n *notices) due(key noticeKey, now time.Time) (unlogged int, toLog, toRecord bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	last := n.last[key]
	if last == nil {
		last = &notice{}
		n.last[key] = last
	}
	if toRecord = now.Sub(last.recordedAt) >= eventInterval; toRecord {
		last.recordedAt = now
	}
	if toLog = now.Sub(last.loggedAt) >= logInterval; !toLog {
		last.unlogged++
		return 0, false, toRecord
	}
	unlogged, last.unlogged, last.loggedAt = last.unlogged, 0, now
	return unlogged, true, toRecord
}

func causeOf(answer *answer) string {
	if answer.cause == nil {
		return ""
	}
	return answer.cause.Error()
}
