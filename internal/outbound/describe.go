package outbound

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
)

// Describe returns an error for an error of a Transport, with the host and a fixed text that says what to do. The error's own text may hold
// what the server sent, such as headers of the request that it repeats, or the names in its certificate.
func Describe(host string, err error) error {
	if forbidden, ok := errors.AsType[*forbiddenError](err); ok {
		return fmt.Errorf("%s: %w", host, forbidden)
	}
	if through, ok := errors.AsType[*proxyError](err); ok {
		return WithText(err, host+": "+through.describe())
	}
	return WithText(err, host+": "+describe(err))
}

// IsForbidden reports whether the error of a request is that the operator must not connect to its host. A retry would fail too.
func IsForbidden(err error) bool {
	_, ok := errors.AsType[*forbiddenError](err)
	return ok
}

// Status returns a code of HTTP and its standard name. A server may have sent any other name.
func Status(code int) string {
	return strings.TrimSpace(strconv.Itoa(code) + " " + http.StatusText(code))
}

// WithText returns an error with another text, which unwraps to err.
func WithText(err error, text string) error { return &textError{text, err} }

// textError replaces the text of an error.
type textError struct {
	text string
	err  error
}

// Error returns the replacement.
func (e *textError) Error() string { return e.text }

// Unwrap returns the error.
func (e *textError) Unwrap() error { return e.err }

// describe returns a fixed text for an error of a connection.
func describe(err error) string {
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return "certificate signed by unknown authority; set tls.caConfigMapRef or tls.caSecretRef to the certificate of that authority"
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return "its certificate is for other host names; use one of these in the URL, or correct the certificate"
	}
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok {
		if invalid.Reason == x509.Expired {
			return "its certificate has expired or is not yet valid; renew it"
		}
		return "its certificate is invalid; replace it"
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return "its certificate cannot be verified; replace it, or set tls.caConfigMapRef or tls.caSecretRef"
	}
	if _, ok := errors.AsType[tls.AlertError](err); ok {
		return "it refused the TLS connection; check whether it requires another tls.clientCertSecretRef"
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return "no TLS handshake; use http:// in the URL, or the port for https"
	}
	if name, ok := errors.AsType[*net.DNSError](err); ok {
		switch {
		case name.IsNotFound:
			return "no such host; correct the name in the URL, or add it to DNS"
		case name.IsTimeout:
			return "DNS did not answer in time; check the cluster's DNS"
		}
		return "DNS failed to resolve the host; check the cluster's DNS"
	}
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		return "no answer in time; check that it is up, and that network policies allow the connection"
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno.Error() + "; check that it is up, and that network policies allow the connection"
	}
	switch {
	case errors.Is(err, context.Canceled):
		return "canceled"
	case errors.Is(err, http.ErrSchemeMismatch):
		return "no TLS handshake; use http:// in the URL, or the port for https"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "it closed the connection before it answered; check its log"
	case strings.Contains(err.Error(), "response headers exceeded"):
		return "the headers of its answer exceeded 64 KiB; check that the URL is that of the intended server"
	default:
		return "its answer is malformed, or not HTTP; check that the URL is that of the intended server"
	}
}
