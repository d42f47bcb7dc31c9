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
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/clock"
	"k8s.io/utils/lru"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/netbox"
	"github.com/netbox-events/netbox-event-operator/internal/oneline"
	"github.com/netbox-events/netbox-event-operator/internal/tracing"
)

const (
	// maxResponseBytes is how much of an answer's body is kept.
	maxResponseBytes = 256
	// maxDrainBytes is how much of it is read, so that the connection can be used again.
	maxDrainBytes = 64 << 10
	// maxRetryAfter is the longest pause that a sink may ask for.
	maxRetryAfter = time.Hour
	// transportsKept is for how many combinations of certificates the connections are kept.
	transportsKept = 64
)

// httpSender sends events to sinks.
type httpSender struct {
	secrets *secretReader
	allowed []netip.Prefix
	clock   clock.PassiveClock
	plain   *http.Transport
	tls     *lru.Cache // of certificates' digest: *http.Transport
}

func newHTTPSender(options Options) *httpSender {
	s := &httpSender{
		secrets: newSecretReader(options.Secrets, options.Clock),
		allowed: options.SinkAllowCIDRs,
		clock:   options.Clock,
		tls:     lru.NewWithEvictionFunc(transportsKept, func(_ lru.Key, evicted any) { evicted.(*http.Transport).CloseIdleConnections() }),
	}
	s.plain = s.newTransport(nil)
	return s
}

// newTransport returns what requests are sent by. It knows neither redirects nor cookies, which a http.Client would follow and keep.
func (s *httpSender) newTransport(config *tls.Config) *http.Transport {
	return &http.Transport{
		// No proxy: it would connect to addresses that we refuse.
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

// send sends an event once.
func (s *httpSender) send(ctx context.Context, task Task, spec *v1alpha1.HTTPAction) (string, error) {
	request, err := s.request(ctx, task, spec)
	if err != nil {
		return "", err
	}
	if err := checkHost(request.URL.Hostname(), s.allowed); err != nil {
		return "", final(err)
	}
	transport, err := s.transport(ctx, task.Rule.Namespace, spec.TLS)
	if err != nil {
		return "", err
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		err = fmt.Errorf("%s: %w", request.URL.Host, err) // without the rest of the URL, which may hold a password
		if _, refused := errors.AsType[*addressError](err); refused {
			return "", final(err)
		}
		return "", err
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusSwitchingProtocols {
		// The body is the connection, whose reads end with no context. It is closed, not read.
		return s.judge(response, nil)
	}
	// What comes after the status is for people; where it cannot be read there is less to see.
	body, _ := io.ReadAll(io.LimitReader(response.Body, maxDrainBytes))
	return s.judge(response, redact(body, request, spec))
}

// redact takes the secrets out of an answer that repeats the headers of the request: more people may see an event than a Secret.
func redact(body []byte, request *http.Request, spec *v1alpha1.HTTPAction) []byte {
	for _, header := range spec.Headers {
		value := request.Header.Get(header.Name)
		token := value[strings.LastIndexByte(value, ' ')+1:] // without the scheme of Authorization
		if header.ValueFrom != nil && token != "" {
			body = bytes.ReplaceAll(body, []byte(token), []byte("[redacted]"))
		}
	}
	return body
}

// judge makes a result of an answer.
func (s *httpSender) judge(response *http.Response, body []byte) (string, error) {
	status := strconv.Itoa(response.StatusCode)
	if text := http.StatusText(response.StatusCode); text != "" {
		status += " " + text
	}
	answer := status
	if text := oneline.Of(string(body[:min(len(body), 2*maxResponseBytes)]), maxResponseBytes); text != "" {
		answer += ": " + text
	}
	failure := &Failure{Err: fmt.Errorf("answered with %s", status)}
	switch code := response.StatusCode; {
	case code >= 200 && code < 300:
		return answer, nil
	case code == http.StatusSwitchingProtocols:
		failure.Err = fmt.Errorf("answered with %s, which the request did not ask for; name the URL of a server that takes webhooks", status)
		failure.Final = true
	case code >= 300 && code < 400:
		failure.Err = fmt.Errorf("answered with %s, and redirects are not followed; name the URL that it leads to", status)
		failure.Final = true
	case code == http.StatusRequestTimeout, code == http.StatusTooEarly, code == http.StatusTooManyRequests, code >= 500:
		failure.RetryAfter = s.retryAfter(response.Header.Get("Retry-After"))
	default:
		failure.Final = true
	}
	return answer, failure
}

// retryAfter reads a number of seconds, or a date.
func (s *httpSender) retryAfter(header string) time.Duration {
	var pause time.Duration
	if seconds, err := strconv.ParseUint(header, 10, 31); err == nil || errors.Is(err, strconv.ErrRange) { // of which it is the largest
		pause = time.Duration(seconds) * time.Second
	} else if date, err := http.ParseTime(header); err == nil {
		pause = date.Sub(s.clock.Now())
	}
	return max(0, min(pause, maxRetryAfter))
}

// request makes the request of an action.
func (s *httpSender) request(ctx context.Context, task Task, spec *v1alpha1.HTTPAction) (*http.Request, error) {
	to, err := task.Action.URL.Text(ctx, task.Input)
	if err != nil {
		return nil, rendering(ctx, fmt.Errorf("url: %w", err))
	}
	body, header, err := encode(ctx, task.Event, spec.Format)
	if err != nil {
		return nil, final(err)
	}
	request, err := http.NewRequestWithContext(ctx, spec.Method, to, bytes.NewReader(body))
	if err != nil {
		return nil, final(err)
	}
	request.Header = header
	request.Header.Set("User-Agent", "netbox-event-operator")
	tracing.ToHeader(ctx, request.Header)
	if user := request.URL.User; user != nil {
		password, _ := user.Password()
		request.SetBasicAuth(user.Username(), password)
	}
	for i, wanted := range spec.Headers {
		value, err := s.headerValue(ctx, task, i, wanted)
		if err != nil {
			return nil, fmt.Errorf("header %s: %w", wanted.Name, err)
		}
		request.Header.Set(wanted.Name, value)
	}
	if spec.SigningSecretRef != nil {
		key, err := s.secrets.entry(ctx, task.Rule.Namespace, *spec.SigningSecretRef)
		if err != nil {
			return nil, fmt.Errorf("signing: %w", err)
		}
		request.Header.Set(netbox.SignatureHeader, netbox.Sign(key, body))
	}
	return request, nil
}

// errHeaderValue does not show the value, which may be secret.
var errHeaderValue = errors.New("the value holds a character that no header may hold, such as a newline")

// headerValue returns the value of a header. A Secret that holds a wrong one may be mended.
func (s *httpSender) headerValue(ctx context.Context, task Task, index int, header v1alpha1.HTTPHeader) (string, error) {
	if header.ValueFrom != nil {
		value, err := s.secrets.entry(ctx, task.Rule.Namespace, header.ValueFrom.SecretKeyRef)
		if err == nil && !isHeaderValue(string(value)) {
			err = errHeaderValue
		}
		return string(value), err
	}
	value, err := task.Action.Headers[index].Text(ctx, task.Input)
	if err != nil {
		return "", rendering(ctx, err)
	}
	if !isHeaderValue(value) {
		return "", final(errHeaderValue)
	}
	return value, nil
}

// transport returns the transport for the certificates of an action. Those with the same certificates share it, and no others.
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
			return nil, fmt.Errorf("tls.caSecretRef: entry %s of Secret %s holds no certificate in PEM", ref.Key, ref.Name)
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
	held := [sha256.Size]byte(digest.Sum(nil))
	if kept, ok := s.tls.Get(held); ok {
		return kept.(*http.Transport), nil
	}
	transport := s.newTransport(config)
	s.tls.Add(held, transport)
	return transport, nil
}

// isHeaderValue tells whether a text can be the value of a header: no control characters but tabs (RFC 9110, 5.5).
func isHeaderValue(text string) bool {
	for _, b := range []byte(text) {
		if b < ' ' && b != '\t' || b == 0x7f {
			return false
		}
	}
	return true
}
