// Package action executes the actions of rules, one file per kind of action. Its requests to other systems than the API server go through
// internal/outbound.
package action

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/oneline"
	"github.com/netbox-events/netbox-event-operator/internal/outbound"
	"github.com/netbox-events/netbox-event-operator/internal/rule"
)

// Task is an action to execute for an event, or for a group of events.
type Task struct {
	Rule   *v1alpha1.NetBoxEventRule
	Action *rule.Action
	// Event is the event, or the last one of the group.
	Event *v1alpha1.NetBoxEvent
	// Group is nil for a single event.
	Group *Group
	Input *rule.Input
	// IsDryRun means that nothing is sent or written, and that the response says what would be.
	IsDryRun bool
	// WaitingSince is when the action was executed that now waits for its result; the zero time before that.
	WaitingSince time.Time
	// IsRemoval means that the event does not match the rule any more, and that the objects of a Mirror action are to be deleted.
	IsRemoval bool
	// Rendered, if it is not nil, is called once after all CPU-bound work: templates, body and objects are rendered, and nothing has been
	// sent. It is not called if rendering fails.
	Rendered func()
}

func (t Task) rendered() {
	if t.Rendered != nil {
		t.Rendered()
	}
}

// Result is the result of an action.
type Result struct {
	// Response is a summary of the sink's response or of the written objects, also of an action that failed.
	Response string
	// Kept is the part of the result that later actions use, as JSON; nil for none.
	Kept []byte
	// Wait is set for an action that is not complete: Do is to be called again after this time, with the start of the wait.
	Wait time.Duration
}

// Options are the dependencies and settings of a Runner.
type Options struct {
	// Config connects to the API server. Apply actions impersonate service accounts.
	Config *rest.Config
	// Mapper maps kinds to resources of the API server.
	Mapper meta.RESTMapper
	// Secrets reads the Secrets of http actions, and Transports sends their requests.
	Secrets    *outbound.Secrets
	Transports *outbound.Transports
	// Accounts requests tokens of service accounts.
	Accounts client.SubResourceClientConstructor
	// Events creates Kubernetes Events.
	Events client.Writer
	Clock  clock.PassiveClock
	Log    logr.Logger
}

// Runner executes actions. It is safe for concurrent use.
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

// Do executes an action once. Each error is a *Failure, which wraps context.Canceled if the context was canceled.
func (r *Runner) Do(ctx context.Context, task Task) (result Result, err error) {
	switch spec := task.Action.Spec; {
	case spec.HTTP != nil:
		result, err = r.http.send(ctx, task, spec.HTTP)
	case spec.Apply != nil:
		result, err = r.apply.do(ctx, task, spec.Apply)
	case spec.Event != nil:
		result, err = r.createEvent(ctx, task, spec.Event)
	case spec.Log != nil:
		result, err = r.writeLog(ctx, task)
	default:
		err = permanent(errors.New("unknown kind of action in this version of the operator"))
	}
	result.Response = oneline.Of(result.Response, maxTextBytes)
	return result, asFailure(ctx, task, err)
}

// Failure is an error of an action, classified for retries.
type Failure struct {
	Err error
	// Permanent means that a retry would fail too.
	Permanent bool
	// Unavailable means that the sink caused the failure, not this event: it was unreachable, timed out, or answered with 408, 425, 429 or
	// 5xx. Deliveries of other events to it would fail too.
	Unavailable bool
	// Throttled means that the sink answered with 429: it is available, and limits the rate.
	Throttled bool
	// RetryAfter is the minimum pause before the next attempt, as requested by the sink, 0 for none.
	RetryAfter time.Duration
}

// Error returns the text of the error.
func (f *Failure) Error() string { return f.Err.Error() }

// Unwrap returns the error.
func (f *Failure) Unwrap() error { return f.Err }

// asFailure converts any error to a Failure. It adds the timeout or cancellation to errors that the end of the context caused: those of a
// sink that did not respond, and unclassified ones.
func asFailure(ctx context.Context, task Task, err error) error {
	if err == nil {
		return nil
	}
	failure := &Failure{Err: err}
	if classified, ok := errors.AsType[*Failure](err); ok {
		*failure = *classified
		if err != error(classified) { //nolint:errorlint // identity: is it wrapped?
			failure.Err = err // with the text of the wrapper
		}
	}
	_, responded := errors.AsType[responseError](err)
	switch {
	case failure.Permanent || responded:
	case errors.Is(context.Cause(ctx), context.DeadlineExceeded):
		failure.Err = fmt.Errorf("timed out after %s: %w", task.Rule.Spec.Retry.Timeout.Duration, failure.Err)
	case ctx.Err() != nil:
		failure.Unavailable = false
		if !errors.Is(err, ctx.Err()) {
			failure.Err = fmt.Errorf("%w: %w", ctx.Err(), failure.Err)
		}
	}
	if text := failure.Err.Error(); len(text) > maxTextBytes {
		failure.Err = outbound.WithText(failure.Err, oneline.Of(text, maxTextBytes))
	}
	return failure
}

// responseError is an error in the response of a sink.
type responseError struct{ error }

// Unwrap returns the error.
func (e responseError) Unwrap() error { return e.error }

// unavailable returns a failure of the sink, or of a dependency of all requests to it.
func unavailable(err error) error { return &Failure{Err: err, Unavailable: true} }

// permanent returns a permanent failure.
func permanent(err error) error { return &Failure{Err: err, Permanent: true} }

// renderError returns the error of a template as a permanent failure, unless the context is done.
func renderError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return err
	}
	return permanent(err)
}

// dryRun begins the response of an action that was not executed.
const dryRun = "dry run: "

// maxTextBytes bounds errors and responses, which may repeat values of an event.
const maxTextBytes = 1024
