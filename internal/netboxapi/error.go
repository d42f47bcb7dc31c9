package netboxapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"mime"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/netbox-events/netbox-event-operator/internal/oneline"
)

// Kind is the class of an Error: it decides what a user has to change. Its texts are fit for the reason of a condition.
type Kind string

// Kinds of errors.
const (
	// KindUnreachable: there was no answer, or it ended early.
	KindUnreachable Kind = "Unreachable"
	// KindTimeout: there was no complete answer in time.
	KindTimeout Kind = "Timeout"
	// KindUnauthorized: NetBox does not accept the token, whoever owns it.
	KindUnauthorized Kind = "Unauthorized"
	// KindForbidden: the token lacks a permission.
	KindForbidden Kind = "Forbidden"
	// KindNotFound: the object does not exist, or the token may not see it.
	KindNotFound Kind = "NotFound"
	// KindWrongURL: there is no API of NetBox at the URL.
	KindWrongURL Kind = "WrongURL"
	// KindRedirect: the answer is a redirect, which is never followed.
	KindRedirect Kind = "Redirect"
	// KindInvalid: NetBox refuses the values of a request.
	KindInvalid Kind = "Invalid"
	// KindExists: another object has the same name.
	KindExists Kind = "AlreadyExists"
	// KindRateLimited: NetBox, or a proxy before it, answered 429.
	KindRateLimited Kind = "RateLimited"
	// KindUnavailable: NetBox, or a proxy before it, answered 5xx.
	KindUnavailable Kind = "Unavailable"
	// KindTooLarge: the answer is longer than what is read.
	KindTooLarge Kind = "TooLarge"
	// KindMalformed: the answer is not the JSON of NetBox's API.
	KindMalformed Kind = "Malformed"
	// KindUnsupported: this version of NetBox, or Nautobot, lacks what was asked for.
	KindUnsupported Kind = "Unsupported"
)

const (
	maxMessageBytes = 300
	// maxQuoteBytes bounds a text of a server in a message.
	maxQuoteBytes = 120
	// maxRetryAfter caps a Retry-After.
	maxRetryAfter = time.Hour
)

// Error is a request that failed.
type Error struct {
	// Kind is the class of the error.
	Kind Kind
	// Status is the status code of the answer; 0 if there was none.
	Status int
	// Message says in one line of at most 300 bytes what failed and what to change. Texts of servers are quoted. It has no secrets.
	Message string
	// RetryAfter is the time, at most an hour, for which the server asked for no requests. The client sends none before it is over.
	RetryAfter time.Duration
	err        error
}

// Error returns the message.
func (e *Error) Error() string { return e.Message }

// Unwrap returns the error of the transport or the context. Its text may have secrets.
func (e *Error) Unwrap() error { return e.err }

// KindOf returns the kind of an error of a Client; "" for others.
func KindOf(err error) Kind {
	if failure, ok := errors.AsType[*Error](err); ok {
		return failure.Kind
	}
	return ""
}

// quote returns the beginning of a text of a server, quoted and without secrets.
func (c *Client) quote(r request, text string) string {
	return strconv.Quote(oneline.Of(append(newRedactor(r.secret), c.secrets...).redact(text), maxQuoteBytes))
}

// transportError returns the error of a request that got no complete answer.
func (c *Client) transportError(r request, err error) *Error {
	failure := &Error{Kind: KindUnreachable, err: err}
	described := err
	if c.describe != nil {
		described = c.describe(c.base.Host, err)
	}
	timeout, isNet := errors.AsType[net.Error](err)
	switch {
	case errors.Is(err, context.Canceled):
		failure.Message = "the request to NetBox was cancelled"
	case errors.Is(err, context.DeadlineExceeded), isNet && timeout.Timeout():
		failure.Kind = KindTimeout
		failure.Message = fmt.Sprintf("%s %s: NetBox at %s gave no complete answer within %s: %s", r.method, shortPath(r.path), c.base.Host,
			requestTimeout, c.quote(r, described.Error()))
	default:
		failure.Message = fmt.Sprintf("NetBox at %s cannot be reached, check spec.netbox.url and the network: %s", c.base.Host,
			c.quote(r, described.Error()))
	}
	return failure
}

// failure returns the error that an answer means, or nil. The body may be cut.
func (c *Client) failure(r request, response *http.Response, body []byte) *Error {
	status := response.StatusCode
	failure := &Error{Status: status}
	if status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable {
		failure.RetryAfter = retryAfter(response.Header.Get("Retry-After"), c.clock.Now())
	}
	isJSON := isJSON(response.Header)
	switch {
	case status == http.StatusNoContent, status/100 == 2 && isJSON:
		return nil
	case status/100 == 2:
		failure.Kind = KindMalformed
		failure.Message = fmt.Sprintf("%s answered with %s instead of JSON: check that spec.netbox.url is NetBox and no login page or proxy",
			c.base.Host, c.quote(r, response.Header.Get("Content-Type")))
	case status/100 == 3:
		c.redirect(r, failure, response.Header.Get("Location"))
	case status == http.StatusTooManyRequests:
		failure.Kind = KindRateLimited
		failure.Message = "NetBox answered 429: too many requests" + wait(failure.RetryAfter)
	case status >= 500:
		failure.Kind = KindUnavailable
		failure.Message = fmt.Sprintf("%s %s: NetBox, or a proxy before it, answered %d%s%s", r.method, shortPath(r.path), status,
			wait(failure.RetryAfter), c.detail(r, response.Header, body))
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		c.refusal(r, failure, response.Header, body)
	case status == http.StatusNotFound && isJSON:
		failure.Kind = KindNotFound
		failure.Message = fmt.Sprintf("%s %s: not there, or the token may not see it%s", r.method, shortPath(r.path),
			c.detail(r, response.Header, body))
	case status == http.StatusNotFound:
		failure.Kind = KindWrongURL
		failure.Message = fmt.Sprintf("%s %s: answered 404 without JSON: no API of NetBox is there, check spec.netbox.url and the path",
			r.method, shortPath(r.path))
	default:
		c.invalid(r, failure, response.Header, body)
	}
	return failure
}

func wait(d time.Duration) string {
	if d <= 0 {
		return ""
	}
	return fmt.Sprintf(", asking for no request in the next %s", d.Round(time.Second))
}

func isJSON(header http.Header) bool {
	mediaType, _, _ := mime.ParseMediaType(header.Get("Content-Type"))
	return mediaType == "application/json" || strings.HasSuffix(mediaType, "+json")
}

// retryAfter reads a Retry-After: seconds or a date. It returns 0 for what it does not understand.
func retryAfter(value string, now time.Time) time.Duration {
	value = strings.TrimSpace(value)
	if date, err := http.ParseTime(value); err == nil {
		return min(max(date.Sub(now), 0), maxRetryAfter)
	}
	seconds, err := strconv.ParseUint(value, 10, 64)
	switch {
	case errors.Is(err, strconv.ErrRange):
		return maxRetryAfter
	case err != nil:
		return 0
	}
	return time.Duration(min(seconds, uint64(maxRetryAfter/time.Second))) * time.Second
}

func (c *Client) redirect(r request, failure *Error, location string) {
	failure.Kind = KindRedirect
	target, err := c.base.Parse(location)
	if location == "" || err != nil {
		failure.Message = fmt.Sprintf("NetBox answered with a redirect (%d), which is not followed: correct spec.netbox.url", failure.Status)
		return
	}
	if target.Host == c.base.Host && strings.Contains(target.Path, "/login") {
		failure.Kind = KindUnauthorized
		failure.Message = fmt.Sprintf("%s %s: NetBox asks for a login: the token did not arrive, a proxy may have removed it", r.method,
			shortPath(r.path))
		return
	}
	where := (&url.URL{Scheme: target.Scheme, Host: target.Host, Path: target.Path}).String()
	failure.Message = fmt.Sprintf("NetBox answered with a redirect (%d) to host %s, which is not followed because it would get the token: "+
		"correct spec.netbox.url (Location %s)", failure.Status, c.quote(r, target.Host), c.quote(r, where))
}

// refusals are the texts with which NetBox 2.11 to 4.7 and Nautobot refuse a token, and what to do about them.
var refusals = []struct {
	text, remedy string
}{
	{"invalid v1 token", "NetBox does not know the token: put one that exists into the Secret of spec.netbox.tokenSecretRef"},
	{"invalid v2 token", "NetBox does not know the token: put one that exists into the Secret of spec.netbox.tokenSecretRef"},
	{"invalid token", "NetBox does not know the token: put one that exists into the Secret of spec.netbox.tokenSecretRef"},
	{"token disabled", "the token is disabled: enable it in NetBox"},
	{"token expired", "the token has expired: change its expiry in NetBox, or make another"},
	{"user inactive", "the user of the token is not active: activate the user in NetBox"},
	{"is not permitted to authenticate using this token", "the token's allowed IPs do not include this operator: add its address in NetBox"},
	{"client ip address could not be determined", "NetBox cannot tell this operator's address, which the allowed IPs need: fix its proxy"},
	{"invalid authorization header", "the token is malformed: copy it again into the Secret of spec.netbox.tokenSecretRef"},
	{"invalid token header", "the token is malformed: copy it again into the Secret of spec.netbox.tokenSecretRef"},
	{"credentials were not provided", "the token did not arrive: a proxy may have removed the Authorization header"},
}

// refusal reads a 401 or 403. NetBox answers failures of authentication with 403, too.
func (c *Client) refusal(r request, failure *Error, header http.Header, body []byte) {
	detail := c.detail(r, header, body)
	for _, known := range refusals {
		if strings.Contains(strings.ToLower(detail), known.text) {
			failure.Kind = KindUnauthorized
			failure.Message = known.remedy + detail
			return
		}
	}
	if failure.Status == http.StatusUnauthorized {
		failure.Kind = KindUnauthorized
		failure.Message = "the token is not accepted: check the Secret of spec.netbox.tokenSecretRef, and a proxy before NetBox" + detail
		return
	}
	failure.Kind = KindForbidden
	if !isJSON(header) {
		failure.Message = fmt.Sprintf("%s %s: answered 403 without JSON: a proxy before NetBox may refuse this operator", r.method,
			shortPath(r.path))
		return
	}
	failure.Message = fmt.Sprintf("%s %s: the token lacks %s%s", r.method, shortPath(r.path), permission(r.method, r.path), detail)
}

// permission names the right in NetBox that a request needs.
func permission(method, path string) string {
	action, ok := map[string]string{
		http.MethodPost: "add", http.MethodPatch: "change", http.MethodPut: "change", http.MethodDelete: "delete",
	}[method]
	write := ", and Write enabled in the token itself"
	if !ok {
		action, write = "view", ""
	}
	_, path, _ = strings.Cut(path, apiPrefix)
	parts := strings.Split(path, "/")
	if len(parts) < 2 {
		return "a right in NetBox"
	}
	app, model := parts[0], parts[1]
	switch {
	case strings.HasPrefix(model, "background-"):
		return "the rights of a superuser"
	case model == "webhooks" || model == "event-rules" || model == "object-changes":
		model = strings.ReplaceAll(strings.TrimSuffix(model, "s"), "-", "")
		return fmt.Sprintf("the permission %s on %s.%s in NetBox%s", action, app, model, write)
	default:
		return fmt.Sprintf("the permission %s on the objects of /api/%s/%s/ in NetBox%s", action, shortPath(app), shortPath(model), write)
	}
}

// invalid reads a 400 and other answers 4xx.
func (c *Client) invalid(r request, failure *Error, header http.Header, body []byte) {
	failure.Kind = KindInvalid
	if names := nameErrors(body); failure.Status == http.StatusBadRequest && strings.Contains(names, "already exists") {
		failure.Kind = KindExists
	}
	failure.Message = fmt.Sprintf("%s %s: NetBox refused the request (%d)%s", r.method, shortPath(r.path), failure.Status,
		c.detail(r, header, body))
}

func nameErrors(body []byte) string {
	var fields struct {
		Name []string `json:"name"`
	}
	_ = json.Unmarshal(body, &fields)
	return strings.Join(fields.Name, " ")
}

// detail returns what the body of an error says, quoted, after a colon; "" for what is neither JSON nor a short text, such as HTML.
func (c *Client) detail(r request, header http.Header, body []byte) string {
	var value any
	if !isJSON(header) || json.Unmarshal(body, &value) != nil {
		if text := string(body); len(text) <= maxQuoteBytes && text != "" && !strings.Contains(text, "<") {
			return ": " + c.quote(r, text)
		}
		return ""
	}
	if object, ok := value.(map[string]any); ok {
		for _, name := range []string{"detail", "error"} {
			if text, ok := object[name].(string); ok {
				return ": " + c.quote(r, text)
			}
		}
	}
	if text := flatten(value, 0); text != "" {
		return ": " + c.quote(r, text)
	}
	return ""
}

// flatten writes the errors of fields in one line: "name: This field is required.; timeout: …".
func flatten(value any, depth int) string {
	const maxDepth, maxItems = 4, 10
	if depth > maxDepth {
		return ""
	}
	var parts []string
	switch value := value.(type) {
	case string:
		return value
	case []any:
		for _, item := range value[:min(len(value), maxItems)] {
			if text := flatten(item, depth+1); text != "" {
				parts = append(parts, text)
			}
		}
		return strings.Join(parts, " ")
	case map[string]any:
		names := slices.Sorted(maps.Keys(value))
		for _, name := range names[:min(len(names), maxItems)] {
			if text := flatten(value[name], depth+1); text != "" {
				parts = append(parts, name+": "+text)
			}
		}
		return strings.Join(parts, "; ")
	default:
		return ""
	}
}

// shortPath returns a path that is short enough for a message.
func shortPath(path string) string {
	const maxBytes = 60
	return oneline.Of(path, maxBytes)
}

// isNull reports whether a JSON value is missing or null.
func isNull(value json.RawMessage) bool {
	return len(value) == 0 || bytes.Equal(bytes.TrimSpace(value), []byte("null"))
}
