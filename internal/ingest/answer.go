package ingest

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"github.com/netbox-events/netbox-event-operator/internal/netbox"
	"github.com/netbox-events/netbox-event-operator/internal/oneline"
)

// result is the outcome of a request, and the value of the metrics' label.
type result string

const (
	resultStored               result = "stored"
	resultDuplicate            result = "duplicate"
	resultIgnored              result = "ignored"
	resultMalformed            result = "malformed"
	resultUnauthorized         result = "unauthorized"
	resultNotFound             result = "not_found"
	resultMethodNotAllowed     result = "method_not_allowed"
	resultTimeout              result = "timeout"
	resultTooLarge             result = "too_large"
	resultUnsupportedMediaType result = "unsupported_media_type"
	resultInvalid              result = "invalid"
	resultThrottled            result = "throttled"
	resultBacklogFull          result = "backlog_full"
	resultUnavailable          result = "unavailable"
	resultSuspended            result = "suspended"
)

var statuses = map[result]int{
	resultStored:               http.StatusOK,
	resultDuplicate:            http.StatusOK,
	resultIgnored:              http.StatusOK,
	resultMalformed:            http.StatusBadRequest,
	resultUnauthorized:         http.StatusUnauthorized,
	resultNotFound:             http.StatusNotFound,
	resultMethodNotAllowed:     http.StatusMethodNotAllowed,
	resultTimeout:              http.StatusRequestTimeout,
	resultTooLarge:             http.StatusRequestEntityTooLarge,
	resultUnsupportedMediaType: http.StatusUnsupportedMediaType,
	resultInvalid:              http.StatusUnprocessableEntity,
	resultThrottled:            http.StatusTooManyRequests,
	resultBacklogFull:          http.StatusTooManyRequests,
	resultUnavailable:          http.StatusServiceUnavailable,
	resultSuspended:            http.StatusServiceUnavailable,
}

// answer is the response to the sender. A refusal is also the error of the step that refused.
type answer struct {
	result  result
	message string
	// event is the namespace and name of the stored event.
	event string
	// faults are the faults of an invalid body.
	faults []netbox.Fault
	// retryAfter is the Retry-After header, 0 for none.
	retryAfter time.Duration
	// cause is logged, and not sent.
	cause error
}

func (a *answer) Error() string { return a.message }

func (a *answer) Unwrap() error { return a.cause }

func refuse(result result, message string) *answer {
	return &answer{result: result, message: message}
}

func throttled(message string) *answer {
	return &answer{result: resultThrottled, message: message, retryAfter: time.Second}
}

func unavailable(message string, retryAfter time.Duration, cause error) *answer {
	return &answer{result: resultUnavailable, message: message, retryAfter: retryAfter, cause: cause}
}

// maxMessageBytes bounds each text of an answer: NetBox stores the answer with the failed job, and errors of the API server quote the
// request.
const maxMessageBytes = 4096

// challenge is the WWW-Authenticate header that HTTP requires with 401. No registered scheme describes NetBox's signature.
const challenge = `HMAC-SHA512 header="` + netbox.SignatureHeader + `"`

func (a *answer) write(w http.ResponseWriter) {
	type fault struct {
		Field   string `json:"field"`
		Message string `json:"message"`
	}
	body := struct {
		Result string  `json:"result"`
		Event  string  `json:"event,omitempty"`
		Errors []fault `json:"errors,omitempty"`
	}{Result: oneline.Of(a.message, maxMessageBytes), Event: a.event}
	for _, f := range a.faults {
		body.Errors = append(body.Errors, fault{f.Field, oneline.Of(f.Message, maxMessageBytes)})
	}

	header := w.Header()
	header.Set("Content-Type", "application/json")
	header.Set("X-Content-Type-Options", "nosniff")
	if a.result == resultMethodNotAllowed {
		header.Set("Allow", http.MethodPost)
	}
	if a.result == resultUnauthorized {
		header.Set("WWW-Authenticate", challenge)
	}
	if a.retryAfter > 0 {
		header.Set("Retry-After", strconv.Itoa(int(a.retryAfter.Round(time.Second)/time.Second)))
	}
	w.WriteHeader(statuses[a.result])
	// An error means that the sender has disconnected.
	_ = json.NewEncoder(w).Encode(body)
}
