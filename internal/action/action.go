// Package action does what rules ask for: one file for each kind of action. It is the only part of the operator that connects to anything
// but the API server.
package action

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/oneline"
	"github.com/netbox-events/netbox-event-operator/internal/rule"
)

// Task is one action that is to be done about one event.
type Task struct {
	Rule   *v1alpha1.NetBoxEventRule
	Action *rule.Action
	Event  *v1alpha1.NetBoxEvent
	Input  *rule.Input
	// Rendered, if it is not nil, is called once when everything that needs the processor is done: templates, body and objects are rendered,
	// and nothing outside was waited for. It is not called where that fails.
	Rendered func()
}

func (t Task) rendered() {
	if t.Rendered != nil {
		t.Rendered()
	}
}

// Options are what actions need.
type Options struct {
	// Config connects to the API server; apply actions impersonate service accounts over it.
	Config *rest.Config
	// Mapper knows the resources of the API server.
	Mapper meta.RESTMapper
	// Secrets reads Secrets from the API server.
	Secrets client.Reader
	// Events creates Kubernetes Events.
	Events client.Writer
	// SinkAllowCIDRs are addresses that http actions may connect to although they are loopback, link-local or a cloud's metadata service.
	SinkAllowCIDRs []netip.Prefix
	Clock          clock.PassiveClock
	Log            logr.Logger
}

// Runner does actions. It is safe for concurrent use.
type Runner struct {
	http   *httpSender
	apply  *applier
	events client.Writer
	clock  clock.PassiveClock
	log    logr.Logger
}

// NewRunner returns a Runner.
func NewRunner(options Options) *Runner {
	return &Runner{
		http:   newHTTPSender(options),
		apply:  newApplier(options),
		events: options.Events,
		clock:  options.Clock,
		log:    options.Log,
	}
}

// Do does an action once. It returns in short what was answered or made, also where it failed. Each error of it is a *Failure; when the
// context was canceled, it is also context.Canceled.
func (r *Runner) Do(ctx context.Context, task Task) (response string, err error) {
	switch spec := task.Action.Spec; {
	case spec.HTTP != nil:
		response, err = r.http.send(ctx, task, spec.HTTP)
	case spec.Apply != nil:
		response, err = r.apply.do(ctx, task, spec.Apply)
	case spec.Event != nil:
		err = r.record(ctx, task, spec.Event)
	case spec.Log != nil:
		err = r.write(ctx, task)
	default:
		err = final(errors.New("this version of the operator does not know this kind of action"))
	}
	return oneline.Of(response, maxTextBytes), failed(ctx, task, err)
}

// Failure is an error with advice on trying again.
type Failure struct {
	Err error
	// Final says that the same would happen again.
	Final bool
	// Unavailable says that the sink, not this one event, is at fault: it could not be reached, did not answer in time, or answered with 408,
	// 425, 429 or 5xx. Deliveries of other events to it would fail as well.
	Unavailable bool
	// Throttled says that the sink answered with 429: it is there, and takes fewer requests than it gets.
	Throttled bool
	// RetryAfter is the least pause before the next attempt. It is 0 where the sink did not ask for one.
	RetryAfter time.Duration
}

// Error returns the text of the error.
func (f *Failure) Error() string { return f.Err.Error() }

// Unwrap returns the error.
func (f *Failure) Unwrap() error { return f.Err }

// failed makes a Failure of any error. It says which errors come from the end of the context: an error that is no Failure yet, or one of a
// sink that did not answer.
func failed(ctx context.Context, task Task, err error) error {
	if err == nil {
		return nil
	}
	failure := &Failure{Err: err}
	if judged, ok := errors.AsType[*Failure](err); ok {
		*failure = *judged
		if err != error(judged) { //nolint:errorlint // whether it is wrapped
			failure.Err = err // with what was written around it
		}
	}
	_, answered := errors.AsType[answer](err)
	switch {
	case failure.Final || answered:
	case errors.Is(context.Cause(ctx), context.DeadlineExceeded):
		failure.Err = fmt.Errorf("not done within the timeout of %s: %w", task.Rule.Spec.Retry.Timeout.Duration, failure.Err)
	case ctx.Err() != nil:
		failure.Unavailable = false
		if !errors.Is(err, ctx.Err()) {
			failure.Err = fmt.Errorf("%w: %w", ctx.Err(), failure.Err)
		}
	}
	if text := failure.Err.Error(); len(text) > maxTextBytes {
		failure.Err = &worded{oneline.Of(text, maxTextBytes), failure.Err}
	}
	return failure
}

// answer is an error that a sink answered with.
type answer struct{ error }

// Unwrap returns the error.
func (a answer) Unwrap() error { return a.error }

// worded is an error with another text.
type worded struct {
	text string
	err  error
}

// Error returns the other text.
func (w *worded) Error() string { return w.text }

// Unwrap returns the error.
func (w *worded) Unwrap() error { return w.err }

// unavailable marks an error as that of the sink, or of what each request to it needs.
func unavailable(err error) error { return &Failure{Err: err, Unavailable: true} }

func final(err error) error { return &Failure{Err: err, Final: true} }

// rendering marks the error of a template as final, unless there was just no time.
func rendering(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return err
	}
	return final(err)
}

// maxTextBytes bounds errors and responses, which may repeat what an event holds.
const maxTextBytes = 1024
