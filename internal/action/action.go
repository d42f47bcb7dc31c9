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

// Do does an action once. It returns in short what was answered or made, also where it failed. Its error is a Failure where trying again
// is of no use, or not before some time.
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
	if _, judged := errors.AsType[*Failure](err); err != nil && !judged && errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
		err = fmt.Errorf("not done within the timeout of %s: %w", task.Rule.Spec.Retry.Timeout.Duration, err)
	}
	return oneline.Of(response, maxTextBytes), brief(err)
}

// Failure is an error with advice on trying again.
type Failure struct {
	Err error
	// Final says that the same would happen again.
	Final bool
	// RetryAfter is the least pause before the next attempt.
	RetryAfter time.Duration
}

// Error returns the text of the error.
func (f *Failure) Error() string { return f.Err.Error() }

// Unwrap returns the error.
func (f *Failure) Unwrap() error { return f.Err }

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

// brief cuts the text of a long error.
func brief(err error) error {
	if err == nil || len(err.Error()) <= maxTextBytes {
		return err
	}
	cut := errors.New(oneline.Of(err.Error(), maxTextBytes))
	if failure, ok := errors.AsType[*Failure](err); ok {
		return &Failure{Err: cut, Final: failure.Final, RetryAfter: failure.RetryAfter}
	}
	return cut
}
