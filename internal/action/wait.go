package action

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/netbox-events/netbox-event-operator/internal/oneline"
	"github.com/netbox-events/netbox-event-operator/internal/rule"
)

const (
	// minPause and maxPause bound the pause between two looks at the objects of a waiting action.
	minPause, maxPause = time.Second, 30 * time.Second
	// pauseFraction is the part of the time waited so far by which the end of the wait may be noticed late.
	pauseFraction = 10
)

// pauseAfter returns the pause before the next look after a time of waiting.
func pauseAfter(waited time.Duration) time.Duration {
	return min(max(waited/pauseFraction, minPause), maxPause)
}

// isWaiting reports whether the action has written its objects, and waits for them.
func (e *execution) isWaiting() bool {
	return e.Action.Wait != nil && !e.IsDryRun && !e.WaitingSince.IsZero()
}

// look reads the objects that the action waits for. It writes nothing.
func (e *execution) look(ctx context.Context, manifests []manifest) (Result, error) {
	objects := make([]*unstructured.Unstructured, len(manifests))
	for i, manifest := range manifests {
		target, err := e.locate(ctx, manifest)
		if err == nil {
			objects[i], err = target.resource.Get(ctx, manifest.object.GetName(), metav1.GetOptions{})
		}
		if err != nil {
			return e.unseen(ctx, manifest.object, err)
		}
	}
	return e.await(ctx, objects)
}

// unseen handles the error of a request for an object that the action waits for. While the API server is not available, the wait continues:
// a failure would have the object written again.
func (e *execution) unseen(ctx context.Context, object *unstructured.Unstructured, err error) (Result, error) {
	if apierrors.IsNotFound(err) {
		return Result{}, failed("%s was deleted while the action waited for it; if it sets ttlSecondsAfterFinished, use at least %d",
			describe(object), 2*int(maxPause.Seconds()))
	}
	failure, ok := errors.AsType[*Failure](err)
	if !ok {
		err = explain(describe(object), err)
		failure, _ = errors.AsType[*Failure](err)
	}
	if failure.Unavailable && !errors.Is(ctx.Err(), context.Canceled) {
		name := describe(object)
		return e.continueWaiting(name, errors.New(strings.TrimPrefix(err.Error(), name+": ")))
	}
	return Result{}, err
}

// await decides about the action by its objects: it is complete, failed, or continues to wait.
func (e *execution) await(ctx context.Context, objects []*unstructured.Unstructured) (Result, error) {
	var pending []*unstructured.Unstructured
	var problem error // of an expression
	for _, object := range objects {
		succeeded, err := e.holds(ctx, e.Action.Wait.Success, object)
		if !succeeded {
			pending = append(pending, object)
		}
		if problem == nil {
			problem = err
		}
	}
	if len(pending) == 0 {
		return e.succeeded(describeAll(objects), objects), nil
	}
	for _, object := range objects {
		hasFailed, err := e.holds(ctx, e.Action.Wait.Failure, object)
		if hasFailed {
			return Result{}, failed("%s failed: %s", describe(object), e.reason(object))
		}
		if problem == nil {
			problem = err
		}
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return Result{}, ctx.Err()
	}
	return e.continueWaiting(describeAll(pending), problem)
}

// holds returns the value of a condition on an object, false for no condition.
func (e *execution) holds(ctx context.Context, condition *rule.Condition, object *unstructured.Unstructured) (bool, error) {
	if condition == nil {
		return false, nil
	}
	return condition.Holds(ctx, e.Input.WithObject(exposed(object)))
}

// reason returns why an object failed: the message of its condition Failed, or the expression that is true.
func (e *execution) reason(object *unstructured.Unstructured) string {
	conditions, _, _ := unstructured.NestedSlice(object.Object, "status", "conditions")
	for _, condition := range conditions {
		fields, _ := condition.(map[string]any)
		if message, _ := fields["message"].(string); message != "" && fields["type"] == "Failed" && fields["status"] == "True" {
			return oneline.Of(message, maxTextBytes/2)
		}
	}
	return oneline.Of(e.spec.Wait.Failure, maxTextBytes/2)
}

// continueWaiting returns when to look again, or the failure of an action that has waited for too long. The problem is why the objects are
// not known to be ready, nil if their expression is just not true.
func (e *execution) continueWaiting(pending string, problem error) (Result, error) {
	pending = oneline.Of(pending, maxTextBytes/2)
	because := ""
	if problem != nil {
		because = ": " + problem.Error()
	}
	var waited time.Duration
	if !e.WaitingSince.IsZero() {
		waited = max(0, e.clock.Since(e.WaitingSince))
	}
	timeout := e.spec.Wait.Timeout.Duration
	if waited >= timeout {
		return Result{}, failed("%s: wait.success was not true within %s%s", pending, short(timeout), because)
	}
	return Result{Response: "waits for " + pending + because, Wait: min(pauseAfter(waited), timeout-waited)}, nil
}

// failed returns a failure of an object, not of the API server, which is tried again.
func failed(format string, args ...any) error {
	return &Failure{Err: responseError{fmt.Errorf(format, args...)}}
}

// short formats a duration as people write it: 30m, not 30m0s.
func short(duration time.Duration) string {
	text := duration.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// deleteFailed deletes an object that an earlier attempt created, and that has failed: the next attempt starts with a new one. An object
// that another event created, or that existed before, remains.
func (e *execution) deleteFailed(ctx context.Context, target target) error {
	if e.Action.Wait == nil || e.Action.Wait.Failure == nil || e.IsDryRun {
		return nil
	}
	found, err := target.resource.Get(ctx, target.object.GetName(), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("wait.failure needs to know whether an earlier attempt failed: %w", err)
	}
	const clockSkew = time.Second // of two API servers; also, their times are in seconds
	if !isOfSameEvent(found, target.object) || found.GetCreationTimestamp().Time.Before(e.Event.CreationTimestamp.Add(-clockSkew)) {
		return nil
	}
	if found.GetDeletionTimestamp() == nil {
		if hasFailed, _ := e.holds(ctx, e.Action.Wait.Failure, found); !hasFailed { // after an error it is written, and the wait reports it
			return nil
		}
		if err := e.delete(ctx, target.resource, found, nil); err != nil {
			return fmt.Errorf("it failed, and has to be deleted before it is created again: %w", err)
		}
		uid := found.GetUID()
		found, err = target.resource.Get(ctx, target.object.GetName(), metav1.GetOptions{})
		if apierrors.IsNotFound(err) || err == nil && found.GetUID() != uid {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return e.terminating(found)
}

// terminating returns the failure of an action that must wait until an object is gone. It does not count as an attempt.
func (e *execution) terminating(object *unstructured.Unstructured) error {
	return &Failure{
		Err:        responseError{errors.New("it is still being deleted, and will be created again when it is gone")},
		RetryAfter: pauseAfter(e.clock.Since(object.GetDeletionTimestamp().Time)),
	}
}
