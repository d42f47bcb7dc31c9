package action

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/outbound"
	"github.com/netbox-events/netbox-event-operator/internal/secretkeys"
)

// authenticate authenticates a request by a user name and a password, or returns where its token comes from. Its errors are retryable: a
// Secret can be corrected.
func (s *httpSender) authenticate(
	ctx context.Context, task Task, auth *v1alpha1.HTTPAuth, via *outbound.Transport, request *http.Request, secrets *outbound.Redactor,
) (*tokenSource, error) {
	switch {
	case auth == nil:
		return nil, nil
	case auth.Basic != nil:
		user, password, err := s.userOf(ctx, task.Rule.Namespace, auth.Basic.SecretRef)
		if err != nil {
			return nil, fmt.Errorf("auth.basic: %w", err)
		}
		secrets.Add(user)
		request.SetBasicAuth(user, password)
		addBasicAuth(secrets, user, password)
		return nil, nil
	case auth.OAuth2 != nil:
		return s.clientCredentials(ctx, task.Rule.Namespace, auth.OAuth2, via, secrets)
	case auth.ServiceAccountToken != nil:
		return s.serviceAccountTokens(task.Rule.Namespace, task.Rule.Spec.ServiceAccountName, auth.ServiceAccountToken.Audience), nil
	default:
		return nil, errors.New("auth: unknown kind of authentication in this version of the operator")
	}
}

// userOf returns the entries username and password of a Secret.
func (s *httpSender) userOf(ctx context.Context, namespace string, ref v1alpha1.SecretReference) (user, password string, err error) {
	secret, err := s.secrets.Get(ctx, namespace, ref.Name)
	if err != nil {
		return "", "", err
	}
	user, password = secretkeys.Trim(secret.Data["username"]), secretkeys.Trim(secret.Data["password"])
	switch {
	case user == "" && password == "":
		return "", "", fmt.Errorf("Secret %s has neither an entry username nor an entry password", ref.Name)
	case strings.Contains(user, ":"):
		return "", "", fmt.Errorf("entry username of Secret %s contains a colon, which basic authentication does not allow", ref.Name)
	}
	return user, password, nil
}

// addBasicAuth adds the password of basic authentication to the secrets, and the value of the header.
func addBasicAuth(secrets *outbound.Redactor, user, password string) {
	secrets.Add(password)
	secrets.Add(base64.StdEncoding.EncodeToString([]byte(user + ":" + password)))
}

// roundTrip sends a request, with a token if it needs one. It sends it once more with a new token if the sink refuses the first one.
func (s *httpSender) roundTrip(ctx context.Context, out *outgoing, secrets *outbound.Redactor) (*http.Response, error) {
	if out.tokens == nil {
		return out.via.RoundTrip(out.Request)
	}
	request, refused := out.Request, ""
	for {
		token, err := s.tokens.get(ctx, out.tokens, refused)
		if err != nil {
			return nil, err
		}
		secrets.Add(token)
		request.Header.Set("Authorization", "Bearer "+token)
		response, err := out.via.RoundTrip(request)
		if err != nil || response.StatusCode != http.StatusUnauthorized || refused != "" {
			return response, err
		}
		read(response)
		_ = response.Body.Close()
		refused, request = token, request.Clone(ctx)
		if request.Body, err = request.GetBody(); err != nil {
			return nil, err
		}
	}
}
