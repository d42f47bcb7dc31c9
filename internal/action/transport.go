package action

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

// transport sends requests with the certificates of actions. Only actions with the same certificates share one. Unlike a http.Client, it
// neither follows redirects nor keeps cookies.
type transport struct {
	proxies         *proxies
	direct, proxied *http.Transport
	// id identifies the certificates.
	id [sha256.Size]byte
}

func (s *httpSender) newTransport(config *tls.Config, id [sha256.Size]byte) *transport {
	made := &transport{proxies: s.proxies, id: id}
	made.direct = &http.Transport{
		DialContext:            newDialer(s.proxies.allowed).DialContext,
		TLSClientConfig:        config,
		TLSHandshakeTimeout:    handshakeTimeout,
		ForceAttemptHTTP2:      true,
		MaxIdleConns:           256,
		MaxIdleConnsPerHost:    32,
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
		DisableCompression:     true,
	}
	// It connects to the proxy alone, which may have any address, and presents no client certificate to it.
	dialer := &net.Dialer{Timeout: dialTimeout}
	made.proxied = made.direct.Clone()
	made.proxied.Proxy = func(request *http.Request) (*url.URL, error) { return s.proxies.of(request.URL) }
	made.proxied.DialContext = dialer.DialContext
	made.proxied.DialTLSContext = (&tls.Dialer{NetDialer: dialer, Config: &tls.Config{MinVersion: tls.VersionTLS12}}).DialContext
	made.proxied.OnProxyConnectResponse = checkConnect
	return made
}

const dialTimeout, handshakeTimeout = 10 * time.Second, 10 * time.Second

// RoundTrip sends a request, directly or through its proxy, unless its host is forbidden.
func (t *transport) RoundTrip(request *http.Request) (*http.Response, error) {
	host := request.URL.Hostname()
	if err := checkHost(host, t.proxies.allowed); err != nil {
		return nil, err
	}
	proxy, err := t.proxies.of(request.URL)
	if err != nil {
		return nil, err
	}
	if proxy == nil {
		return t.direct.RoundTrip(request)
	}
	if err := t.proxies.check(request.Context(), host); err != nil {
		return nil, &proxyError{proxy.Host, err}
	}
	response, err := t.proxied.RoundTrip(request)
	if err != nil {
		return nil, &proxyError{proxy.Host, err}
	}
	if response.StatusCode == http.StatusProxyAuthRequired && request.URL.Scheme == "http" {
		_ = response.Body.Close()
		return nil, &proxyError{proxy.Host, &connectError{response.StatusCode}}
	}
	return response, nil
}

// CloseIdleConnections closes the connections that are not in use.
func (t *transport) CloseIdleConnections() {
	t.direct.CloseIdleConnections()
	t.proxied.CloseIdleConnections()
}

// transport returns the transport for the certificates of an action.
func (s *httpSender) transport(ctx context.Context, namespace string, spec *v1alpha1.HTTPTLS) (*transport, error) {
	if spec == nil {
		return s.plain, nil
	}
	authorities, source, err := s.authorities(ctx, namespace, spec)
	if err != nil {
		return nil, err
	}
	var certificate, key []byte
	if ref := spec.ClientCertSecretRef; ref != nil {
		secret, err := s.secrets.get(ctx, namespace, ref.Name)
		if err != nil {
			return nil, fmt.Errorf("tls.clientCertSecretRef: %w", err)
		}
		certificate, key = secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey]
	}
	id := sha256.Sum256(fmt.Appendf(nil, "%t %q %t %q %q", source != "", authorities, spec.ClientCertSecretRef != nil, certificate, key))
	if cached, ok := s.tls.Get(id); ok {
		return cached.(*transport), nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if source != "" {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(authorities) {
			return nil, fmt.Errorf("%s has no PEM certificate", source)
		}
	}
	if ref := spec.ClientCertSecretRef; ref != nil {
		pair, err := tls.X509KeyPair(certificate, key)
		if err != nil {
			return nil, fmt.Errorf("tls.clientCertSecretRef: tls.crt and tls.key of Secret %s: %w", ref.Name, err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	made := s.newTransport(config, id)
	s.tls.Add(id, made)
	return made, nil
}

// authorities returns the PEM certificates of the trusted CAs, and where they are from: "" for those of the system.
func (s *httpSender) authorities(ctx context.Context, namespace string, spec *v1alpha1.HTTPTLS) (pem []byte, source string, err error) {
	switch {
	case spec.CASecretRef != nil:
		ref := *spec.CASecretRef
		if pem, err = s.secrets.entry(ctx, namespace, ref); err != nil {
			return nil, "", fmt.Errorf("tls.caSecretRef: %w", err)
		}
		return pem, fmt.Sprintf("tls.caSecretRef: entry %s of Secret %s", ref.Key, ref.Name), nil
	case spec.CAConfigMapRef != nil:
		ref := *spec.CAConfigMapRef
		if pem, err = s.secrets.configMapEntry(ctx, namespace, ref); err != nil {
			return nil, "", fmt.Errorf("tls.caConfigMapRef: %w", err)
		}
		return pem, fmt.Sprintf("tls.caConfigMapRef: entry %s of ConfigMap %s", ref.Key, ref.Name), nil
	default:
		return nil, "", nil
	}
}

// transportError returns the failure of a request to a host that got no response.
func transportError(host string, err error) error {
	if forbidden, ok := errors.AsType[*forbiddenError](err); ok {
		return permanent(fmt.Errorf("%s: %w", host, forbidden))
	}
	if through, ok := errors.AsType[*proxyError](err); ok {
		return unavailable(&textError{host + ": " + through.describe(), err})
	}
	return unavailable(&textError{host + ": " + describeTransportError(err), err})
}
