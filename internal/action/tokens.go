package action

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"
	"k8s.io/utils/lru"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/outbound"
)

const (
	// maxTokens is the number of cached tokens.
	maxTokens = 256
	// tokenLifetime is the time for which tokens of service accounts are valid, and those whose lifetime is unknown are used.
	tokenLifetime = time.Hour
	// renewalPause is the pause after a failed renewal of a token that is still valid.
	renewalPause = 10 * time.Second
)

// tokenSource is where the tokens of an action come from.
type tokenSource struct {
	// kind of authentication, for messages.
	kind string
	// id identifies the tokens: sources with the same id are the same.
	id [sha256.Size]byte
	// fetch returns a new token, and the time for which it is valid.
	fetch func(ctx context.Context) (token string, lifetime time.Duration, err error)
}

func newTokenSource(kind string, fetch func(context.Context) (string, time.Duration, error), identity ...any) *tokenSource {
	return &tokenSource{kind: kind, id: sha256.Sum256(fmt.Appendf(nil, "%q %q", kind, identity)), fetch: fetch}
}

// tokenCache keeps the tokens of actions. It is safe for concurrent use.
type tokenCache struct {
	clock clock.PassiveClock

	mu     sync.Mutex
	cached *lru.Cache // *cachedToken by id of the source
}

// cachedToken is the token of a source. It is locked while it is fetched, so that all deliveries that need it wait for one request.
type cachedToken struct {
	lock             chan struct{} // holds one value while it is locked
	source           *tokenSource
	token            string
	renewAt, expires time.Time
}

func newTokenCache(clock clock.PassiveClock) *tokenCache {
	return &tokenCache{clock: clock, cached: lru.New(maxTokens)}
}

// get returns a token of a source other than the refused one. It fetches a new one after four fifths of the lifetime of the last, which it
// uses up if that fails.
func (c *tokenCache) get(ctx context.Context, source *tokenSource, refused string) (string, error) {
	entry := c.entry(source)
	select {
	case entry.lock <- struct{}{}:
		defer func() { <-entry.lock }()
	case <-ctx.Done():
		return "", unavailable(fmt.Errorf("auth.%s: waiting for a token: %w", source.kind, ctx.Err()))
	}
	isUsable := entry.token != "" && entry.token != refused
	if isUsable && c.clock.Now().Before(entry.renewAt) {
		return entry.token, nil
	}
	token, lifetime, err := entry.source.fetch(ctx)
	now := c.clock.Now()
	switch {
	case err == nil && isHeaderValue(token):
		entry.token, entry.renewAt, entry.expires = token, now.Add(lifetime/5*4), now.Add(lifetime)
		return token, nil
	case isUsable && now.Before(entry.expires):
		entry.renewAt = now.Add(renewalPause)
		return entry.token, nil
	case err == nil:
		err = unavailable(errors.New("the token contains a character that is invalid in a header"))
	}
	return "", fmt.Errorf("auth.%s: %w", source.kind, err)
}

// entry returns the entry of a source. The first source with an id stays, because it remembers how the token endpoint wants its secret.
func (c *tokenCache) entry(source *tokenSource) *cachedToken {
	c.mu.Lock()
	defer c.mu.Unlock()
	if cached, ok := c.cached.Get(source.id); ok {
		return cached.(*cachedToken)
	}
	added := &cachedToken{lock: make(chan struct{}, 1), source: source}
	c.cached.Add(source.id, added)
	return added
}

// serviceAccountTokens returns the source of the tokens of a service account for an audience. The operator requests them as itself.
func (s *httpSender) serviceAccountTokens(namespace, name, audience string) *tokenSource {
	fetch := func(ctx context.Context) (string, time.Duration, error) {
		account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
		request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
			Audiences: []string{audience}, ExpirationSeconds: new(int64(tokenLifetime / time.Second)),
		}}
		err := s.accounts.SubResource("token").Create(ctx, account, request)
		switch {
		case apierrors.IsNotFound(err):
			return "", 0, unavailable(fmt.Errorf("service account %s does not exist in namespace %s; create it", name, namespace))
		case apierrors.IsForbidden(err):
			return "", 0, unavailable(fmt.Errorf("the operator may not create tokens of service account %s; grant it create on "+
				"serviceaccounts/token, in the chart by serviceAccountTokens.serviceAccounts", name))
		case err != nil:
			return "", 0, unavailable(fmt.Errorf("requesting a token of service account %s: %w", name, err))
		}
		return request.Status.Token, request.Status.ExpirationTimestamp.Sub(s.clock.Now()), nil
	}
	return newTokenSource("serviceAccountToken", fetch, namespace, name, audience)
}

// clientCredentials returns the source of the tokens that a client gets at a token endpoint.
func (s *httpSender) clientCredentials(
	ctx context.Context, namespace string, spec *v1alpha1.OAuth2, via *outbound.Transport, secrets *outbound.Redactor,
) (*tokenSource, error) {
	entry, err := s.secrets.Entry(ctx, namespace, spec.ClientSecretRef)
	if err != nil {
		return nil, fmt.Errorf("auth.oauth2.clientSecretRef: %w", err)
	}
	secret := string(entry)
	secrets.Add(secret)
	secrets.Add(base64.StdEncoding.EncodeToString([]byte(url.QueryEscape(spec.ClientID) + ":" + url.QueryEscape(secret))))
	config := &clientcredentials.Config{ClientID: spec.ClientID, ClientSecret: secret, TokenURL: spec.TokenURL, Scopes: spec.Scopes}
	client := &http.Client{
		Transport:     bounded{via},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // the secret goes nowhere else
	}
	fetch := func(ctx context.Context) (string, time.Duration, error) {
		token, err := config.Token(context.WithValue(ctx, oauth2.HTTPClient, client))
		if err != nil {
			return "", 0, s.oauth2Error(spec.TokenURL, err)
		}
		lifetime := tokenLifetime
		if !token.Expiry.IsZero() {
			lifetime = time.Until(token.Expiry)
		}
		return token.AccessToken, lifetime, nil
	}
	return newTokenSource("oauth2", fetch, namespace, spec.TokenURL, spec.ClientID, secret, strings.Join(spec.Scopes, " "), via.ID()), nil
}

// bounded is a transport that reads no more of a body than maxBodyBytes.
type bounded struct{ via *outbound.Transport }

// RoundTrip sends a request.
func (b bounded) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := b.via.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	response.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(response.Body, maxBodyBytes), response.Body}
	return response, nil
}

// oauth2Codes are the errors of token endpoints (RFC 6749, 5.2 and 4.1.2.1). Others may repeat a secret.
var oauth2Codes = []string{
	"invalid_request", "invalid_client", "invalid_grant", "unauthorized_client", "unsupported_grant_type", "invalid_scope", "access_denied",
	"server_error", "temporarily_unavailable",
}

// oauth2Error returns the failure of a token request. Its text is fixed: the error's own holds the answer. It is retryable, because what is
// wrong can be corrected in the Secret or at the endpoint.
func (s *httpSender) oauth2Error(tokenURL string, err error) error {
	if refused, ok := errors.AsType[*oauth2.RetrieveError](err); ok {
		text := "tokenURL answered with " + response{Response: refused.Response}.status()
		if slices.Contains(oauth2Codes, refused.ErrorCode) {
			text += " " + refused.ErrorCode
		}
		switch code := refused.Response.StatusCode; {
		case code >= 300 && code < 400:
			text += ", and redirects are not followed; use the URL of the redirect's target"
		case code == http.StatusUnauthorized || refused.ErrorCode == "invalid_client" || refused.ErrorCode == "unauthorized_client":
			text += "; check clientID and clientSecretRef"
		case refused.ErrorCode == "invalid_scope":
			text += "; check scopes"
		case code >= 400 && code < 500:
			text += "; check tokenURL, clientID, clientSecretRef and scopes"
		}
		wait := s.retryAfter(refused.Response.Header.Get("Retry-After"))
		return &Failure{Err: outbound.WithText(err, text), Unavailable: true, RetryAfter: wait}
	}
	if _, ok := errors.AsType[*url.Error](err); ok {
		host := tokenURL
		if parsed, err := url.Parse(tokenURL); err == nil {
			host = parsed.Host
		}
		return transportError("tokenURL: "+host, err)
	}
	return unavailable(outbound.WithText(err, "tokenURL answered without an access token; check that it is a token endpoint"))
}
