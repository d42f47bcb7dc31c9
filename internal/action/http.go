package action

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/netbox"
	"github.com/netbox-events/netbox-event-operator/internal/oneline"
	"github.com/netbox-events/netbox-event-operator/internal/outbound"
)

const (
	// maxResponseBytes bounds the part of a response body in the summary.
	maxResponseBytes = 256
	// maxBodyBytes bounds the part of a response body that is read.
	maxBodyBytes = 64 << 10
	// maxPreviewBytes bounds each header that a dry run shows.
	maxPreviewBytes = 128
	// maxRetryAfter caps Retry-After.
	maxRetryAfter = time.Hour
	// maxSecretBytes bounds the value of a Secret in a template, which the texts of sinks are searched for.
	maxSecretBytes = 64 << 10
)

// httpSender sends events to sinks.
type httpSender struct {
	secrets    *outbound.Secrets
	transports *outbound.Transports
	accounts   client.SubResourceClientConstructor
	tokens     *tokenCache
	clock      clock.PassiveClock
}

func newHTTPSender(options Options) *httpSender {
	return &httpSender{
		secrets:    options.Secrets,
		transports: options.Transports,
		accounts:   options.Accounts,
		tokens:     newTokenCache(options.Clock),
		clock:      options.Clock,
	}
}

// send sends an event once. Neither the response nor the error holds the value of a Secret.
func (s *httpSender) send(ctx context.Context, task Task, spec *v1alpha1.HTTPAction) (Result, error) {
	var secrets outbound.Redactor
	result, err := s.exchange(ctx, task, spec, &secrets)
	result.Response = secrets.Redact(result.Response)
	return result, secrets.RedactError(err)
}

func (s *httpSender) exchange(ctx context.Context, task Task, spec *v1alpha1.HTTPAction, secrets *outbound.Redactor) (Result, error) {
	if err := s.resolve(ctx, &task, secrets); err != nil {
		return Result{}, unavailable(err) // all requests of the action need the Secret
	}
	request, err := s.prepare(ctx, task, spec, secrets)
	if err != nil {
		return Result{}, err
	}
	if task.IsDryRun {
		return Result{Response: request.preview(secrets)}, nil
	}
	s.transports.AddProxySecrets(request.URL, secrets)
	received, err := s.roundTrip(ctx, request, secrets)
	if _, ok := errors.AsType[*Failure](err); ok { // of a token
		return Result{}, err
	} else if err != nil {
		host := request.URL.Host // the rest of the URL may hold a password
		if task.Action.URL.HasSecretHost() {
			host = "the host of the URL from a Secret"
		}
		return Result{}, transportError(host, err)
	}
	defer received.Body.Close()
	response := read(received)
	result := Result{Response: response.summary(secrets)}
	if err := s.check(ctx, task, response); err != nil {
		return result, err
	}
	kept, err := keep(task, response, secrets)
	if err != nil { // the request was accepted, and is not sent again
		result.Response += fmt.Sprintf("; its result is not kept: %v", err)
	}
	if task.Action.HasResult() && response.gap != "" {
		result.Response += "; " + response.gap
	}
	result.Kept = kept
	return result, nil
}

// outgoing is a request that is ready to be sent.
type outgoing struct {
	*http.Request

	body   []byte
	via    *outbound.Transport
	tokens *tokenSource // nil for a request without a token
}

// prepare renders the request of an action, and authorizes it but for its token.
func (s *httpSender) prepare(ctx context.Context, task Task, spec *v1alpha1.HTTPAction, secrets *outbound.Redactor) (*outgoing, error) {
	rendering, err := Render(ctx, task)
	if err != nil {
		return nil, err
	}
	request := rendering.Request
	if err := s.transports.CheckHost(request.URL.Hostname()); err != nil {
		return nil, permanent(err)
	}
	task.rendered()
	if err := s.authorize(ctx, task, spec, rendering, secrets); err != nil {
		return nil, unavailable(err)
	}
	via, err := s.transports.For(ctx, task.Rule.Namespace, spec.TLS)
	if err != nil {
		return nil, unavailable(err)
	}
	tokens, err := s.authenticate(ctx, task, spec.Auth, via, request, secrets)
	if err != nil {
		return nil, unavailable(err)
	}
	return &outgoing{request, rendering.Body, via, tokens}, nil
}

// preview describes the request for a dry run, without secrets, and without its token, which is not fetched.
func (o *outgoing) preview(secrets *outbound.Redactor) string {
	parts := []string{dryRun + o.Method + " " + secrets.Redact(o.URL.Redacted())}
	if o.tokens != nil {
		o.Header.Set("Authorization", "Bearer <token of "+o.tokens.kind+">")
	}
	for _, name := range slices.Sorted(maps.Keys(o.Header)) {
		if name != "User-Agent" && name != "Traceparent" {
			value := secrets.Redact(strings.Join(o.Header[name], ", "))
			parts = append(parts, name+": "+oneline.Of(value, maxPreviewBytes))
		}
	}
	if len(o.body) > 0 {
		parts = append(parts, "body: "+secrets.Redact(string(o.body)))
	}
	return oneline.Of(strings.Join(parts, "; "), maxTextBytes)
}

// resolve adds the Secrets that an action names to the input of its templates. Its errors are retryable: a Secret can be corrected.
func (s *httpSender) resolve(ctx context.Context, task *Task, secrets *outbound.Redactor) error {
	if len(task.Action.Secrets) == 0 {
		return nil
	}
	values := make(map[string]string, len(task.Action.Secrets))
	for _, name := range slices.Sorted(maps.Keys(task.Action.Secrets)) {
		value, err := s.secrets.Entry(ctx, task.Rule.Namespace, task.Action.Secrets[name])
		switch {
		case err != nil:
			return fmt.Errorf("secrets.%s: %w", name, err)
		case !utf8.Valid(value) || len(value) > maxSecretBytes:
			return fmt.Errorf("secrets.%s: the entry must be UTF-8, and at most %d bytes", name, maxSecretBytes)
		}
		values[name] = string(value)
		secrets.Add(values[name])
	}
	task.Input = task.Input.WithSecrets(values, secrets.Add)
	return nil
}

// authorize signs a request. It adds the password of the URL to the secrets. Its errors are retryable: a Secret can be corrected.
func (s *httpSender) authorize(
	ctx context.Context, task Task, spec *v1alpha1.HTTPAction, rendering *Rendering, secrets *outbound.Redactor,
) error {
	if user := rendering.Request.URL.User; user != nil {
		password, _ := user.Password()
		addBasicAuth(secrets, user.Username(), password)
	}
	if spec.SigningSecretRef != nil {
		key, err := s.secrets.Entry(ctx, task.Rule.Namespace, *spec.SigningSecretRef)
		if err != nil {
			return fmt.Errorf("signing: %w", err)
		}
		signature := netbox.Sign(key, rendering.Body)
		secrets.Add(signature) // from which a weak key could be guessed
		rendering.Request.Header.Set(netbox.SignatureHeader, signature)
	}
	return nil
}

// transportError returns the failure of a request to a host that got no response.
func transportError(host string, err error) error {
	described := outbound.Describe(host, err)
	if outbound.IsForbidden(err) {
		return permanent(described)
	}
	return unavailable(described)
}
