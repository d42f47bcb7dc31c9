package action

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/clock"
	"k8s.io/utils/lru"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/netbox"
	"github.com/netbox-events/netbox-event-operator/internal/oneline"
	"github.com/netbox-events/netbox-event-operator/internal/tracing"
)

const (
	// maxResponseBytes bounds the part of a response body in the summary.
	maxResponseBytes = 256
	// maxDrainBytes bounds the part of a response body that is read, for reuse of the connection.
	maxDrainBytes = 64 << 10
	// maxRetryAfter caps Retry-After.
	maxRetryAfter = time.Hour
	// maxTransports is the number of cached transports, one per combination of certificates.
	maxTransports = 64
	// maxSecretBytes bounds the value of a Secret in a template, which the texts of sinks are searched for.
	maxSecretBytes = 64 << 10
)

// httpSender sends events to sinks.
type httpSender struct {
	secrets *secretReader
	allowed []netip.Prefix
	clock   clock.PassiveClock
	plain   *http.Transport
	tls     *lru.Cache // *http.Transport by digest of the certificates
}

func newHTTPSender(options Options) *httpSender {
	s := &httpSender{
		secrets: newSecretReader(options.Secrets, options.Clock),
		allowed: options.SinkAllowCIDRs,
		clock:   options.Clock,
		tls:     lru.NewWithEvictionFunc(maxTransports, func(_ lru.Key, evicted any) { evicted.(*http.Transport).CloseIdleConnections() }),
	}
	s.plain = s.newTransport(nil)
	return s
}

// newTransport returns a transport. Unlike a http.Client, it neither follows redirects nor keeps cookies.
func (s *httpSender) newTransport(config *tls.Config) *http.Transport {
	return &http.Transport{
		// No proxy: it would connect to forbidden addresses.
		DialContext:            newDialer(s.allowed).DialContext,
		TLSClientConfig:        config,
		TLSHandshakeTimeout:    10 * time.Second,
		ForceAttemptHTTP2:      true,
		MaxIdleConns:           256,
		MaxIdleConnsPerHost:    32,
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
		DisableCompression:     true,
	}
}

// send sends an event once. Neither the response nor the error holds the value of a Secret.
func (s *httpSender) send(ctx context.Context, task Task, spec *v1alpha1.HTTPAction) (Result, error) {
	var secrets redactor
	result, err := s.exchange(ctx, task, spec, &secrets)
	result.Response = secrets.redact(result.Response)
	return result, secrets.redactError(err)
}

func (s *httpSender) exchange(ctx context.Context, task Task, spec *v1alpha1.HTTPAction, secrets *redactor) (Result, error) {
	if err := s.resolve(ctx, &task, secrets); err != nil {
		return Result{}, unavailable(err) // all requests of the action need the Secret
	}
	request, body, headers, err := s.render(ctx, task, spec)
	if err != nil {
		return Result{}, err
	}
	task.rendered()
	if err := s.authorize(ctx, task, spec, request, body, headers, secrets); err != nil {
		return Result{}, unavailable(err)
	}
	transport, err := s.transport(ctx, task.Rule.Namespace, spec.TLS)
	if err != nil {
		return Result{}, unavailable(err)
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		host := request.URL.Host // the rest of the URL may hold a password
		if task.Action.URL.HasSecretHost() {
			host = "the host of the URL from a Secret"
		}
		if address, forbidden := errors.AsType[*addressError](err); forbidden {
			return Result{}, permanent(fmt.Errorf("%s: %w", host, address))
		}
		return Result{}, unavailable(&textError{host + ": " + describeTransportError(err), err})
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusSwitchingProtocols {
		// The body is the raw connection, whose reads do not respect the context. It is closed, not read.
		return s.result(response, "")
	}
	// The body is for people only: the result shows as much as was read before the context ended.
	text, _ := io.ReadAll(io.LimitReader(response.Body, maxDrainBytes))
	return s.result(response, secrets.redact(string(text)))
}

// result returns the summary of a response, and the error that its status means.
func (s *httpSender) result(response *http.Response, body string) (Result, error) {
	status := strconv.Itoa(response.StatusCode)
	if text := http.StatusText(response.StatusCode); text != "" {
		status += " " + text
	}
	summary := status
	if text := oneline.Of(body[:min(len(body), 2*maxResponseBytes)], maxResponseBytes); text != "" {
		summary += ": " + text
	}
	result := Result{Response: summary}
	message := "answered with " + status
	switch code := response.StatusCode; {
	case code >= 200 && code < 300:
		return result, nil
	case code == http.StatusSwitchingProtocols:
		return result, permanent(errors.New(message + ", which the request did not ask for; use the URL of a server that accepts webhooks"))
	case code >= 300 && code < 400:
		return result, permanent(errors.New(message + ", and redirects are not followed; use the URL of the redirect's target"))
	case code == http.StatusRequestTimeout, code == http.StatusTooEarly, code == http.StatusTooManyRequests, code >= 500:
		return result, &Failure{
			Err: responseError{errors.New(message)}, Unavailable: true, Throttled: code == http.StatusTooManyRequests,
			RetryAfter: s.retryAfter(response.Header.Get("Retry-After")),
		}
	default:
		return result, permanent(errors.New(message))
	}
}

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

// resolve adds the Secrets that an action names to the input of its templates. Its errors are retryable: a Secret can be corrected.
func (s *httpSender) resolve(ctx context.Context, task *Task, secrets *redactor) error {
	if len(task.Action.Secrets) == 0 {
		return nil
	}
	values := make(map[string]string, len(task.Action.Secrets))
	for _, name := range slices.Sorted(maps.Keys(task.Action.Secrets)) {
		value, err := s.secrets.entry(ctx, task.Rule.Namespace, task.Action.Secrets[name])
		switch {
		case err != nil:
			return fmt.Errorf("secrets.%s: %w", name, err)
		case !utf8.Valid(value) || len(value) > maxSecretBytes:
			return fmt.Errorf("secrets.%s: the entry must be UTF-8, and at most %d bytes", name, maxSecretBytes)
		}
		values[name] = string(value)
		secrets.add(values[name])
	}
	task.Input = task.Input.WithSecrets(values, secrets.add)
	return nil
}

// templateError returns the error of a template, which is retryable if a Secret may be the cause.
func templateError(ctx context.Context, err error, usesSecrets bool) error {
	if usesSecrets {
		return err
	}
	return renderError(ctx, err)
}

// render renders the request of an action, its body, and the values of its headers.
func (s *httpSender) render(ctx context.Context, task Task, spec *v1alpha1.HTTPAction) (
	request *http.Request, body []byte, headers []string, err error,
) {
	target, err := task.Action.URL.Text(ctx, task.Input)
	if err != nil {
		return nil, nil, nil, templateError(ctx, fmt.Errorf("url: %w", err), task.Action.URL.UsesSecrets())
	}
	body, header, err := s.body(ctx, task, spec)
	if err != nil {
		return nil, nil, nil, err
	}
	if request, err = http.NewRequestWithContext(ctx, spec.Method, target, bytes.NewReader(body)); err != nil {
		return nil, nil, nil, permanent(errors.New("url: is not a valid URL")) // without the URL, which may hold a password
	}
	if err := checkHost(request.URL.Hostname(), s.allowed); err != nil {
		return nil, nil, nil, permanent(err)
	}
	request.Header = header
	headers = make([]string, len(spec.Headers))
	for i, wanted := range spec.Headers {
		headers[i], err = task.Action.Headers[i].Text(ctx, task.Input)
		if err == nil && !isHeaderValue(headers[i]) {
			err = errHeaderValue
		}
		if err != nil {
			return nil, nil, nil, templateError(ctx, fmt.Errorf("header %s: %w", wanted.Name, err), task.Action.Headers[i].UsesSecrets())
		}
	}
	return request, body, headers, nil
}

// errHeaderValue omits the value, which may be secret.
var errHeaderValue = errors.New("the value contains a character that is invalid in a header, such as a newline")

// authorize sets the headers of a request, and signs it. Its errors are retryable: a Secret can be corrected.
func (s *httpSender) authorize(
	ctx context.Context, task Task, spec *v1alpha1.HTTPAction, request *http.Request, body []byte, headers []string, secrets *redactor,
) error {
	request.Header.Set("User-Agent", "netbox-event-operator")
	tracing.ToHeader(ctx, request.Header)
	if user := request.URL.User; user != nil {
		password, _ := user.Password()
		request.SetBasicAuth(user.Username(), password)
		secrets.add(password)
		secrets.add(request.Header.Get("Authorization"))
	}
	for i, wanted := range spec.Headers {
		request.Header.Set(wanted.Name, headers[i])
	}
	if spec.SigningSecretRef != nil {
		key, err := s.secrets.entry(ctx, task.Rule.Namespace, *spec.SigningSecretRef)
		if err != nil {
			return fmt.Errorf("signing: %w", err)
		}
		request.Header.Set(netbox.SignatureHeader, netbox.Sign(key, body))
	}
	return nil
}

// transport returns the transport for the certificates of an action. Only actions with the same certificates share one.
func (s *httpSender) transport(ctx context.Context, namespace string, spec *v1alpha1.HTTPTLS) (*http.Transport, error) {
	if spec == nil {
		return s.plain, nil
	}
	digest := sha256.New()
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if ref := spec.CASecretRef; ref != nil {
		pem, err := s.secrets.entry(ctx, namespace, *ref)
		if err != nil {
			return nil, fmt.Errorf("tls.caSecretRef: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("tls.caSecretRef: entry %s of Secret %s has no PEM certificate", ref.Key, ref.Name)
		}
		fmt.Fprintf(digest, "ca %q", pem)
	}
	if ref := spec.ClientCertSecretRef; ref != nil {
		secret, err := s.secrets.get(ctx, namespace, ref.Name)
		if err != nil {
			return nil, fmt.Errorf("tls.clientCertSecretRef: %w", err)
		}
		certificate, key := secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey]
		pair, err := tls.X509KeyPair(certificate, key)
		if err != nil {
			return nil, fmt.Errorf("tls.clientCertSecretRef: tls.crt and tls.key of Secret %s: %w", ref.Name, err)
		}
		config.Certificates = []tls.Certificate{pair}
		fmt.Fprintf(digest, "cert %q %q", certificate, key)
	}
	id := [sha256.Size]byte(digest.Sum(nil))
	if cached, ok := s.tls.Get(id); ok {
		return cached.(*http.Transport), nil
	}
	transport := s.newTransport(config)
	s.tls.Add(id, transport)
	return transport, nil
}

// isHeaderValue reports whether a text is a valid header value: no control characters except tabs (RFC 9110, 5.5).
func isHeaderValue(text string) bool {
	for _, b := range []byte(text) {
		if b < ' ' && b != '\t' || b == 0x7f {
			return false
		}
	}
	return true
}
