// Package netbox uses the REST APIs of the NetBoxes that sources name: it sets up their webhooks, reads their change logs, and answers the
// questions of rules.
//
// It runs on the leader. It must not import the receiver.
package netbox

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/time/rate"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/netboxapi"
	"github.com/netbox-events/netbox-event-operator/internal/outbound"
)

// requestsPerSecond and requestBurst limit the requests to the NetBox of one source.
const requestsPerSecond, requestBurst = 10, 20

// Clients has a client for the NetBox of each source.
type Clients struct {
	transports *outbound.Transports
	secrets    *outbound.Secrets
	metrics    *Metrics
	clock      clock.PassiveClock

	mu      sync.Mutex
	clients map[types.NamespacedName]*madeClient
}

// madeClient is a client, and what it was made of.
type madeClient struct {
	*netboxapi.Client

	url          string
	token, certs [sha256.Size]byte
}

// NewClients returns Clients that read tokens and certificates from Secrets.
func NewClients(transports *outbound.Transports, secrets *outbound.Secrets, metrics *Metrics, clock clock.PassiveClock) *Clients {
	return &Clients{
		transports: transports, secrets: secrets, metrics: metrics, clock: clock, clients: map[types.NamespacedName]*madeClient{},
	}
}

// tokenError is the error of a token or a certificate that cannot be read.
type tokenError struct{ err error }

// Error names the Secret.
func (e *tokenError) Error() string { return e.err.Error() }

// Unwrap returns the cause.
func (e *tokenError) Unwrap() error { return e.err }

// For returns the client of a source, which must have spec.netbox. It makes another one if the URL, the token or a certificate has changed.
func (c *Clients) For(ctx context.Context, source *v1alpha1.NetBoxSource) (*netboxapi.Client, error) {
	spec := source.Spec.NetBox
	token, err := c.secrets.Entry(ctx, source.Namespace, spec.TokenSecretRef)
	if err != nil {
		return nil, &tokenError{fmt.Errorf("spec.netbox.tokenSecretRef: %w", err)}
	}
	transport, err := c.transports.For(ctx, source.Namespace, spec.TLS)
	if err != nil {
		return nil, &tokenError{fmt.Errorf("spec.netbox.tls: %w", err)}
	}
	wanted := madeClient{url: spec.URL, token: sha256.Sum256(token), certs: transport.ID()}
	name := client.ObjectKeyFromObject(source)
	c.mu.Lock()
	defer c.mu.Unlock()
	if made := c.clients[name]; made != nil && made.url == wanted.url && made.token == wanted.token && made.certs == wanted.certs {
		return made.Client, nil
	}
	wanted.Client, err = netboxapi.New(netboxapi.Options{
		URL: spec.URL, Token: string(token), Transport: counting{transport, c.metrics.requests, name.String()}, Describe: outbound.Describe,
		Limiter: rate.NewLimiter(requestsPerSecond, requestBurst), Clock: c.clock,
	})
	if err != nil {
		return nil, &tokenError{err}
	}
	c.clients[name] = &wanted
	return wanted.Client, nil
}

// Forget removes the client of a source.
func (c *Clients) Forget(source types.NamespacedName) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.clients, source)
}

// reasonOf returns the reason of a condition for an error of a client, or of Clients.For.
func reasonOf(err error) string {
	if _, ok := errors.AsType[*tokenError](err); ok {
		return v1alpha1.ReasonTokenUnreadable
	}
	switch netboxapi.KindOf(err) {
	case netboxapi.KindUnauthorized:
		return v1alpha1.ReasonTokenRefused
	case netboxapi.KindForbidden:
		return v1alpha1.ReasonPermissionMissing
	case netboxapi.KindUnsupported:
		return v1alpha1.ReasonUnsupportedVersion
	case netboxapi.KindInvalid, netboxapi.KindExists, netboxapi.KindNotFound:
		return v1alpha1.ReasonRefused
	default:
		return v1alpha1.ReasonUnreachable
	}
}
