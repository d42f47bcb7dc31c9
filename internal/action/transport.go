package action

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

// transport sends requests with the certificates of actions. Only actions with the same certificates share one. Unlike a http.Client, it
// neither follows redirects nor keeps cookies.
type transport struct {
	*http.Transport

	// id identifies the certificates.
	id [sha256.Size]byte
}

func (s *httpSender) newTransport(config *tls.Config, id [sha256.Size]byte) *transport {
	return &transport{&http.Transport{
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
	}, id}
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
	if address, forbidden := errors.AsType[*addressError](err); forbidden {
		return permanent(fmt.Errorf("%s: %w", host, address))
	}
	return unavailable(&textError{host + ": " + describeTransportError(err), err})
}
