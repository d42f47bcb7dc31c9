package action

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/json"

	"github.com/netbox-events/netbox-event-operator/internal/oneline"
	"github.com/netbox-events/netbox-event-operator/internal/outbound"
)

// response is the response of a sink.
type response struct {
	*http.Response

	// text is the body as far as it was read.
	text string
	// gap says why the rest of the body is missing, "" if nothing is.
	gap string
}

// read reads the beginning of the body of a response, so that its connection can be reused.
func read(received *http.Response) response {
	if received.StatusCode == http.StatusSwitchingProtocols {
		return response{Response: received} // the body is the raw connection, whose reads do not respect the context
	}
	text, err := io.ReadAll(io.LimitReader(received.Body, maxBodyBytes+1))
	switch {
	case len(text) > maxBodyBytes:
		return response{received, string(text[:maxBodyBytes]), fmt.Sprintf("the body is larger than %d KiB, and was cut", maxBodyBytes>>10)}
	case err != nil:
		return response{received, string(text), "the body broke off"}
	default:
		return response{received, string(text), ""}
	}
}

// status returns the code of the response and its name.
func (r response) status() string { return outbound.Status(r.StatusCode) }

// summary returns the status and the beginning of the body, without secrets.
func (r response) summary(secrets *outbound.Redactor) string {
	text := secrets.Redact(r.text)
	if text = oneline.Of(text[:min(len(text), 2*maxResponseBytes)], maxResponseBytes); text != "" {
		return r.status() + ": " + text
	}
	return r.status()
}

func (r response) is2xx() bool { return r.StatusCode >= 200 && r.StatusCode < 300 }

// headers returns the headers by their names in lower case, with several values of one joined by ", ".
func (r response) headers() map[string]string {
	headers := make(map[string]string, len(r.Header))
	for name, values := range r.Header {
		headers[strings.ToLower(name)] = strings.ToValidUTF8(strings.Join(values, ", "), "\uFFFD")
	}
	return headers
}

// body returns the body, decoded if it is JSON: by its Content-Type, or because it is an object or a list, which servers also send as
// text. It returns any other body as a text.
func (r response) body() any {
	begin := strings.TrimLeft(r.text, " \t\r\n")
	if !isJSON(r.Header.Get("Content-Type")) && !strings.HasPrefix(begin, "{") && !strings.HasPrefix(begin, "[") {
		return strings.ToValidUTF8(r.text, "\uFFFD")
	}
	var decoded any
	if err := json.Unmarshal([]byte(r.text), &decoded); err != nil {
		return strings.ToValidUTF8(r.text, "\uFFFD")
	}
	return decoded
}

func isJSON(contentType string) bool {
	mediaType, _, _ := mime.ParseMediaType(contentType)
	return mediaType == "application/json" || mediaType == "text/json" || strings.HasSuffix(mediaType, "+json")
}

// check returns the error that a response means.
func (s *httpSender) check(ctx context.Context, task Task, r response) error {
	message := "answered with " + r.status()
	if r.StatusCode == http.StatusSwitchingProtocols {
		return permanent(errors.New(message + ", which the request did not ask for; use the URL of a server that accepts webhooks"))
	}
	succeeded := r.is2xx()
	if condition := task.Action.Success; condition != nil {
		var err error
		// The response is there, also if the time for it is over.
		succeeded, err = condition.Holds(context.WithoutCancel(ctx), task.Input.WithResponse(r.StatusCode, r.headers(), r.body()))
		switch {
		case err != nil:
			message += fmt.Sprintf(", and success cannot be evaluated: %v", err)
		case r.is2xx():
			message += ", but success is false"
		}
		if r.gap != "" {
			message += "; " + r.gap
		}
	}
	if succeeded {
		return nil
	}
	pause := s.retryAfter(r.Header.Get("Retry-After"))
	switch code := r.StatusCode; {
	case r.is2xx(): // it is about this event
		return &Failure{Err: responseError{errors.New(message)}, RetryAfter: pause}
	case code >= 300 && code < 400:
		return permanent(errors.New(message + ", and redirects are not followed; use the URL of the redirect's target"))
	case code == http.StatusRequestTimeout, code == http.StatusTooEarly, code == http.StatusTooManyRequests, code >= 500:
		return &Failure{
			Err: responseError{errors.New(message)}, Unavailable: true, Throttled: code == http.StatusTooManyRequests, RetryAfter: pause,
		}
	default:
		return permanent(errors.New(message))
	}
}

// keep returns the members of a response that later actions use, without secrets.
func keep(task Task, r response, secrets *outbound.Redactor) ([]byte, error) {
	if !task.Action.HasResult() {
		return nil, nil
	}
	headers := map[string]any{}
	for name, value := range r.headers() {
		headers[name] = value
	}
	kept, err := task.Action.Keep(map[string]any{
		variableResponse: map[string]any{"status": r.StatusCode, "headers": headers, "body": r.body()},
	})
	if err != nil || secrets.IsEmpty() {
		return kept, err
	}
	var decoded map[string]any
	if err := json.Unmarshal(kept, &decoded); err != nil {
		return nil, err
	}
	members, _ := decoded[variableResponse].(map[string]any)
	for name, member := range members {
		members[name] = secrets.RedactValue(member, task.Action.NamesMember)
	}
	return task.Action.Keep(decoded)
}

// variableResponse is the member of a result with the response.
const variableResponse = "response"

// retryAfter parses Retry-After: a number of seconds, or a date.
func (s *httpSender) retryAfter(header string) time.Duration {
	var pause time.Duration
	if seconds, err := strconv.ParseUint(header, 10, 31); err == nil || errors.Is(err, strconv.ErrRange) { // then it is the maximum
		pause = time.Duration(seconds) * time.Second
	} else if date, err := http.ParseTime(header); err == nil {
		pause = date.Sub(s.clock.Now())
	}
	return max(0, min(pause, maxRetryAfter))
}
