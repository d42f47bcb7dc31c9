// Package outbound connects to systems whose addresses users of the cluster choose: it refuses forbidden addresses, obeys the proxy,
// verifies certificates, and removes secrets from what these systems send. It is the only package that connects to other systems than the
// API server, and must not know what the connections are for.
package outbound

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/clock"
	"k8s.io/utils/lru"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

// Options are the dependencies and settings of Transports.
type Options struct {
	// Secrets reads the certificates.
	Secrets *Secrets
	// Proxy is the proxy of the connections; nil for none.
	Proxy *Proxy
	// AllowCIDRs are the exceptions to the addresses that must not be connected to: loopback, link-local, metadata services.
	AllowCIDRs []netip.Prefix
	Clock      clock.PassiveClock
}

// Transports makes and caches Transports, one per combination of certificates. It is safe for concurrent use.
type Transports struct {
	secrets *Secrets
	proxies *proxies
	plain   *Transport
	tls     *lru.Cache // *Transport by its id
}

// maxTransports is the number of cached transports.
const maxTransports = 64

// NewTransports returns Transports.
func NewTransports(options Options) *Transports {
	t := &Transports{
		secrets: options.Secrets,
		proxies: newProxies(options.Proxy, options.AllowCIDRs, options.Clock),
		tls:     lru.NewWithEvictionFunc(maxTransports, func(_ lru.Key, evicted any) { evicted.(*Transport).CloseIdleConnections() }),
	}
	t.plain = t.newTransport(nil, [sha256.Size]byte{})
	return t
}

// CheckHost returns an error for which IsForbidden is true if the host of a URL is a forbidden address, or a number that may be one. A
// Transport checks it as well, and the addresses that a name resolves to.
func (t *Transports) CheckHost(host string) error { return checkHost(host, t.proxies.allowed) }

// Transport sends requests with certain certificates. Unlike a http.Client, it neither follows redirects nor keeps cookies. It is safe for
// concurrent use.
type Transport struct {
	proxies         *proxies
	direct, proxied *http.Transport
	id              [sha256.Size]byte
}

// ID identifies the certificates: Transports with the same are the same.
func (t *Transport) ID() [sha256.Size]byte { return t.id }

func (t *Transports) newTransport(config *tls.Config, id [sha256.Size]byte) *Transport {
	made := &Transport{proxies: t.proxies, id: id}
	made.direct = &http.Transport{
		DialContext:            newDialer(t.proxies.allowed).DialContext,
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
	made.proxied.Proxy = func(request *http.Request) (*url.URL, error) { return t.proxies.of(request.URL) }
	made.proxied.DialContext = dialer.DialContext
	made.proxied.DialTLSContext = (&tls.Dialer{NetDialer: dialer, Config: &tls.Config{MinVersion: tls.VersionTLS12}}).DialContext
	made.proxied.OnProxyConnectResponse = checkConnect
	return made
}

const dialTimeout, handshakeTimeout = 10 * time.Second, 10 * time.Second

// RoundTrip sends a request, directly or through its proxy, unless its host is forbidden. Describe returns a text without secrets for its
// errors.
func (t *Transport) RoundTrip(request *http.Request) (*http.Response, error) {
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
func (t *Transport) CloseIdleConnections() {
	t.direct.CloseIdleConnections()
	t.proxied.CloseIdleConnections()
}

// For returns the Transport with the certificates of a specification, from Secrets and a ConfigMap in the namespace; nil means the CAs of
// the system and no client certificate. Its errors name the field, and can be retried: the Secrets can be corrected.
func (t *Transports) For(ctx context.Context, namespace string, spec *v1alpha1.HTTPTLS) (*Transport, error) {
	if spec == nil {
		return t.plain, nil
	}
	authorities, source, err := t.authorities(ctx, namespace, spec)
	if err != nil {
		return nil, err
	}
	var certificate, key []byte
	if ref := spec.ClientCertSecretRef; ref != nil {
		secret, err := t.secrets.Get(ctx, namespace, ref.Name)
		if err != nil {
			return nil, fmt.Errorf("tls.clientCertSecretRef: %w", err)
		}
		certificate, key = secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey]
	}
	id := sha256.Sum256(fmt.Appendf(nil, "%t %q %t %q %q", source != "", authorities, spec.ClientCertSecretRef != nil, certificate, key))
	if cached, ok := t.tls.Get(id); ok {
		return cached.(*Transport), nil
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
	made := t.newTransport(config, id)
	t.tls.Add(id, made)
	return made, nil
}

// authorities returns the PEM certificates of the trusted CAs, and where they are from: "" for those of the system.
func (t *Transports) authorities(ctx context.Context, namespace string, spec *v1alpha1.HTTPTLS) (pem []byte, source string, err error) {
	switch {
	case spec.CASecretRef != nil:
		ref := *spec.CASecretRef
		if pem, err = t.secrets.Entry(ctx, namespace, ref); err != nil {
			return nil, "", fmt.Errorf("tls.caSecretRef: %w", err)
		}
		return pem, fmt.Sprintf("tls.caSecretRef: entry %s of Secret %s", ref.Key, ref.Name), nil
	case spec.CAConfigMapRef != nil:
		ref := *spec.CAConfigMapRef
		if pem, err = t.secrets.ConfigMapEntry(ctx, namespace, ref); err != nil {
			return nil, "", fmt.Errorf("tls.caConfigMapRef: %w", err)
		}
		return pem, fmt.Sprintf("tls.caConfigMapRef: entry %s of ConfigMap %s", ref.Key, ref.Name), nil
	default:
		return nil, "", nil
	}
}
