package netboxapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"k8s.io/utils/clock"

	"github.com/netbox-events/netbox-event-operator/internal/oneline"
)

const (
	requestTimeout = 30 * time.Second
	// maxAnswerBytes bounds an answer, maxPageBytes one with many objects, such as a page of the change log.
	maxAnswerBytes, maxPageBytes = 1 << 20, 64 << 20
	// requestsPerSecond and burst are the default rate limit.
	requestsPerSecond, burst = 5, 10
	apiPrefix                = "/api/"
	tokenV2Prefix            = "nbt_"
)

// Options configure a Client.
type Options struct {
	// URL is the base URL of NetBox, for example https://netbox.example.com or https://example.com/netbox.
	URL string
	// Token is a token of NetBox's REST API: version 1 (40 characters) or 2 (nbt_<key>.<token>).
	Token string
	// Transport sends the requests. It must not follow redirects.
	Transport http.RoundTripper
	// Describe turns an error of the transport into one whose text is fit for users and has no secrets. It may be nil.
	Describe func(host string, err error) error
	// Limiter limits the rate of requests. The default allows 5 requests a second and bursts of 10.
	Limiter *rate.Limiter
	// Clock is the real one by default. It decides until when a Retry-After holds.
	Clock clock.PassiveClock
}

// Client calls the REST API of one NetBox with one token. It is safe for concurrent use. All its errors of NetBox are an *Error.
type Client struct {
	base          *url.URL
	authorization string
	secrets       redactor
	transport     http.RoundTripper
	describe      func(host string, err error) error
	limiter       *rate.Limiter
	clock         clock.PassiveClock
	maxPageBytes  int64

	mu sync.Mutex
	// status is what NetBox said last about itself, or nil.
	status *Status
	// pageRows is the number of rows of the change log to ask for at once: less than maxPageRows after a page that was too large or slow.
	pageRows int
	// pause is the error of the last answer with a Retry-After, which holds until pauseEnd.
	pause    *Error
	pauseEnd time.Time
}

// New returns a Client. It fails if the URL is not a base URL of http or https, or if the token cannot be sent in a header. The error does
// not contain the token.
func New(options Options) (*Client, error) {
	base, err := url.Parse(options.URL)
	if err != nil || base.Host == "" || (base.Scheme != "http" && base.Scheme != "https") {
		return nil, errors.New("the URL of NetBox must be like https://netbox.example.com")
	}
	if base.User != nil || base.RawQuery != "" || base.Fragment != "" {
		return nil, errors.New("the URL of NetBox must have no user, query or fragment")
	}
	base.Path, base.RawPath = strings.TrimSuffix(base.Path, "/"), ""
	if base.Path != "" && !isClean(base.Path) {
		return nil, errors.New("the path of the URL of NetBox must be like /netbox, without dots and double slashes")
	}
	token := strings.TrimSpace(options.Token)
	if len(token) < fragmentBytes || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return nil, errors.New("the token must be the text of one token of NetBox's REST API, such as nbt_<key>.<token>, and nothing else")
	}
	client := &Client{
		base:          base,
		authorization: "Token " + token,
		secrets:       newRedactor(token),
		transport:     options.Transport,
		describe:      options.Describe,
		limiter:       options.Limiter,
		clock:         options.Clock,
		maxPageBytes:  maxPageBytes,
		pageRows:      maxPageRows,
	}
	if strings.HasPrefix(token, tokenV2Prefix) {
		client.authorization = "Bearer " + token
	}
	if client.limiter == nil {
		client.limiter = rate.NewLimiter(requestsPerSecond, burst)
	}
	if client.clock == nil {
		client.clock = clock.RealClock{}
	}
	return client, nil
}

// request is a request to send.
type request struct {
	method string
	// path is below the base URL, for example /api/dcim/sites/.
	path  string
	query url.Values
	// body is sent as JSON unless it is nil.
	body any
	// secret is what the body has that no error may contain.
	secret string
	// maxBytes bounds the answer; 0 is maxAnswerBytes.
	maxBytes int64
}

// call sends a request and decodes the answer into a value.
func (c *Client) call(ctx context.Context, r request, into any) error {
	body, err := c.send(ctx, r)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, into); err != nil {
		return c.fail(&Error{
			Kind: KindMalformed, Status: http.StatusOK, err: err,
			Message: "NetBox's answer is not the JSON that its API documents: " + c.quote(r, err.Error()),
		})
	}
	return nil
}

// send sends a request and returns the body of an answer 2xx.
func (c *Client) send(ctx context.Context, r request) ([]byte, error) {
	if err := c.limiter.Wait(ctx); err != nil {
		return nil, c.fail(&Error{Kind: KindTimeout, err: err, Message: "not sent: no time was left to wait for the rate limit of requests"})
	}
	if err := c.paused(); err != nil {
		return nil, c.fail(err)
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	httpRequest, err := c.newRequest(ctx, r)
	if err != nil {
		return nil, err
	}
	response, err := c.transport.RoundTrip(httpRequest)
	if err != nil {
		return nil, c.fail(c.transportError(r, err))
	}
	defer func() { _ = response.Body.Close() }()
	limit := r.maxBytes
	if limit == 0 {
		limit = maxAnswerBytes
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, limit+1))
	failure := c.failure(r, response, body)
	switch {
	case failure != nil:
		return nil, c.fail(failure)
	case err != nil:
		return nil, c.fail(c.transportError(r, err))
	case int64(len(body)) > limit:
		return nil, c.fail(&Error{
			Kind: KindTooLarge, Status: response.StatusCode,
			Message: fmt.Sprintf("NetBox's answer is longer than %d bytes, the most that is read", limit),
		})
	}
	return body, nil
}

func (c *Client) newRequest(ctx context.Context, r request) (*http.Request, error) {
	target, invalid := c.target(r)
	if invalid != nil {
		return nil, c.fail(invalid)
	}
	var body io.Reader
	if r.body != nil {
		text, err := json.Marshal(r.body)
		if err != nil {
			return nil, c.fail(&Error{Kind: KindInvalid, Message: "the request is not valid JSON: " + c.quote(r, err.Error())})
		}
		body = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(ctx, r.method, target.String(), body)
	if err != nil {
		return nil, c.fail(&Error{Kind: KindInvalid, Message: "the request cannot be sent: " + c.quote(r, err.Error())})
	}
	request.Header.Set("Authorization", c.authorization)
	request.Header.Set("Accept", "application/json")
	// NetBox translates the texts of its errors.
	request.Header.Set("Accept-Language", "en")
	request.Header.Set("User-Agent", "netbox-event-operator")
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	return request, nil
}

// target returns the URL of a request: always of the scheme and host of the base URL. A path may begin with the base path, as the paths in
// NetBox's answers do.
func (c *Client) target(r request) (*url.URL, *Error) {
	relative, err := url.PathUnescape(r.path)
	if err == nil {
		relative = strings.TrimPrefix(relative, c.base.Path)
	}
	isGraphQL := relative == graphQLPath
	if err != nil || !isClean(r.path) || !isClean(relative) || (!strings.HasPrefix(relative, apiPrefix) && !isGraphQL) {
		return nil, &Error{
			Kind: KindInvalid, Message: fmt.Sprintf("the path %s is not in NetBox's API: it must be like /api/dcim/devices/14/", c.quote(r, r.path)),
		}
	}
	target := *c.base
	target.Path = c.base.Path + relative
	target.RawQuery = r.query.Encode()
	return &target, nil
}

// isClean reports whether a path begins with a slash and has no dot segments, double slashes, backslashes or control characters.
func isClean(text string) bool {
	if !strings.HasPrefix(text, "/") || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\\' }) {
		return false
	}
	return path.Clean(text) == strings.TrimSuffix(text, "/") || text == "/"
}

// paused returns an error while a Retry-After of NetBox holds.
func (c *Client) paused() *Error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pause == nil {
		return nil
	}
	left := c.pauseEnd.Sub(c.clock.Now())
	if left <= 0 {
		c.pause = nil
		return nil
	}
	return &Error{
		Kind: c.pause.Kind, Status: c.pause.Status, RetryAfter: left,
		Message: fmt.Sprintf("not sent: NetBox answered %d and asked for no request in the next %s", c.pause.Status, left.Round(time.Second)),
	}
}

// fail completes an error, and draws the consequences for later requests.
func (c *Client) fail(err *Error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if until := c.clock.Now().Add(err.RetryAfter); err.RetryAfter > 0 && until.After(c.pauseEnd) {
		c.pause, c.pauseEnd = err, until
	}
	if err.Kind == KindWrongURL || err.Kind == KindInvalid {
		// The paths and bodies depend on the version, which may have changed.
		c.status = nil
	}
	err.Message = oneline.Of(c.secrets.redact(err.Message), maxMessageBytes)
	return err
}
