package action

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/tracing"
)

// Rendering is what an action sends or writes.
type Rendering struct {
	// Request is that of an http action, before it is signed, and authenticated by http.auth; Body is its body.
	Request *http.Request
	Body    []byte
	// Message is that of an event or log action.
	Message string
	// DeletesMirrored means that a Mirror action deletes the objects that it made for the NetBox object, and writes none.
	DeletesMirrored bool

	manifests []manifest
}

// Objects returns the objects that an apply action writes, or deletes.
func (r *Rendering) Objects() []*unstructured.Unstructured {
	objects := make([]*unstructured.Unstructured, len(r.manifests))
	for i := range r.manifests {
		objects[i] = r.manifests[i].object
	}
	return objects
}

// Render renders an action, without the API server and without a sink. The input of the task has all variables, also the values of Secrets.
// Objects are as they are written, except that the namespace of a cluster-scoped one is removed then.
func Render(ctx context.Context, task Task) (*Rendering, error) {
	var rendering Rendering
	var err error
	switch spec := task.Action.Spec; {
	case spec.HTTP != nil:
		rendering.Request, rendering.Body, err = renderRequest(ctx, task, spec.HTTP)
	case spec.Apply != nil:
		if rendering.DeletesMirrored = task.deletesMirrored(); !rendering.DeletesMirrored {
			rendering.manifests, err = newManifests(ctx, task, spec.Apply)
		}
	case spec.Event != nil, spec.Log != nil:
		if rendering.Message, err = task.Action.Message.Message(ctx, task.Input); err != nil {
			err = renderError(ctx, fmt.Errorf("message: %w", err))
		}
	default:
		err = permanent(errors.New("unknown kind of action in this version of the operator"))
	}
	if err != nil {
		return nil, err
	}
	return &rendering, nil
}

// renderRequest renders the request of an http action, and its body.
func renderRequest(ctx context.Context, task Task, spec *v1alpha1.HTTPAction) (*http.Request, []byte, error) {
	target, err := task.Action.URL.Text(ctx, task.Input)
	if err != nil {
		return nil, nil, templateError(ctx, fmt.Errorf("url: %w", err), task.Action.URL.UsesSecrets())
	}
	body, header, err := renderBody(ctx, task, spec)
	if err != nil {
		return nil, nil, err
	}
	request, err := http.NewRequestWithContext(ctx, spec.Method, target, bytes.NewReader(body))
	if err != nil {
		return nil, nil, permanent(errors.New("url: is not a valid URL")) // without the URL, which may hold a password
	}
	request.Header = header
	request.Header.Set("User-Agent", userAgent)
	tracing.ToHeader(ctx, request.Header)
	if user := request.URL.User; user != nil {
		password, _ := user.Password()
		request.SetBasicAuth(user.Username(), password)
	}
	for i, wanted := range spec.Headers {
		value, err := task.Action.Headers[i].Text(ctx, task.Input)
		if err == nil && !isHeaderValue(value) {
			err = errHeaderValue
		}
		if err != nil {
			return nil, nil, templateError(ctx, fmt.Errorf("header %s: %w", wanted.Name, err), task.Action.Headers[i].UsesSecrets())
		}
		request.Header.Set(wanted.Name, value)
	}
	return request, body, nil
}

// userAgent identifies the operator to sinks.
const userAgent = "netbox-event-operator"

// templateError returns the error of a template, which is retryable if a Secret may be the cause.
func templateError(ctx context.Context, err error, usesSecrets bool) error {
	if usesSecrets {
		return err
	}
	return renderError(ctx, err)
}

// errHeaderValue omits the value, which may be secret.
var errHeaderValue = errors.New("the value contains a character that is invalid in a header, such as a newline")

// isHeaderValue reports whether a text is a valid header value: no control characters except tabs (RFC 9110, 5.5).
func isHeaderValue(text string) bool {
	for _, b := range []byte(text) {
		if b < ' ' && b != '\t' || b == 0x7f {
			return false
		}
	}
	return true
}
