package action_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/action"
	"github.com/netbox-events/netbox-event-operator/test/controlplane"
)

// waiter executes an action that waits for Jobs, in a namespace of its own.
type waiter struct {
	t         *testing.T
	namespace string
	clock     *clocktesting.FakePassiveClock
	runner    *action.Runner
	task      action.Task
}

// newWaiter returns a waiter for the Jobs of a template, whose service account has some permissions on Jobs.
func newWaiter(t *testing.T, template string, wait v1alpha1.ApplyWait, verbs ...string) *waiter {
	t.Helper()
	w := &waiter{t: t, namespace: plane.Namespace(t), clock: clocktesting.NewFakePassiveClock(time.Now().Truncate(time.Second))}
	grant(t, w.namespace, serviceAccount, w.namespace, "batch", "jobs", verbs...)
	w.runner = newRunner(t, func(options *settings) { options.Clock = w.clock })
	event := device(t, w.namespace, "leaf1")
	plane.Create(t, event)
	spec := newApply(t, template)
	spec.Apply.Wait = &wait
	w.task = newTask(t, event, spec)
	return w
}

// start executes the action. A wait begins now.
func (w *waiter) start() (action.Result, error) {
	w.t.Helper()
	w.task.WaitingSince = time.Time{}
	result, err := attempt(w.t, w.runner, w.task)
	if result.Wait > 0 {
		w.task.WaitingSince = w.clock.Now()
	}
	return result, err
}

// after executes the waiting action at a time after the start.
func (w *waiter) after(waited time.Duration) (action.Result, error) {
	w.t.Helper()
	w.clock.SetTime(w.task.WaitingSince.Add(waited))
	return attempt(w.t, w.runner, w.task)
}

// expectWait checks that the action waits.
func (w *waiter) expectWait(result action.Result, err error, pause time.Duration, response string) {
	w.t.Helper()
	expect(w.t, err, done)
	if response = strings.ReplaceAll(response, "NAMESPACE", w.namespace); result.Wait != pause || !strings.HasPrefix(result.Response, response) {
		w.t.Errorf("waits %s, response %q, want %s, %q", result.Wait, result.Response, pause, response)
	}
}

// expectFailure checks that the attempt failed, that it is tried again, and that the cause is not the API server.
func (w *waiter) expectFailure(err error, texts ...string) {
	w.t.Helper()
	for i := range texts {
		texts[i] = strings.ReplaceAll(texts[i], "NAMESPACE", w.namespace)
	}
	expect(w.t, err, retry, texts...)
	if failure, ok := errors.AsType[*action.Failure](err); ok && failure.Unavailable {
		w.t.Errorf("%v makes the API server unavailable", err)
	}
}

func (w *waiter) job(name string) *batchv1.Job {
	w.t.Helper()
	var found batchv1.Job
	if err := plane.Client.Get(w.t.Context(), client.ObjectKey{Namespace: w.namespace, Name: name}, &found); err != nil {
		w.t.Fatal(err)
	}
	return &found
}

// end sets the status of a Job as the Job controller does. An empty message is success.
func (w *waiter) end(name, failure string) {
	w.t.Helper()
	ended, now := w.job(name), metav1.Now()
	ended.Status.StartTime = &now
	types := []batchv1.JobConditionType{batchv1.JobFailureTarget, batchv1.JobFailed}
	if failure == "" {
		types = []batchv1.JobConditionType{batchv1.JobSuccessCriteriaMet, batchv1.JobComplete}
		ended.Status.Succeeded, ended.Status.CompletionTime = 1, &now
	} else {
		ended.Status.Failed = 4
	}
	for _, each := range types {
		ended.Status.Conditions = append(ended.Status.Conditions, batchv1.JobCondition{
			Type: each, Status: corev1.ConditionTrue, Message: failure, LastProbeTime: now, LastTransitionTime: now,
		})
	}
	if err := plane.Client.Status().Update(w.t.Context(), ended); err != nil {
		w.t.Fatal(err)
	}
}

var jobWait = v1alpha1.ApplyWait{Success: "object.status.?succeeded.orValue(0) > 0", Failure: "object.status.?failed.orValue(0) > 3"}

func TestWait(t *testing.T) {
	template := job(`"name": "a"`)

	t.Run("success", func(t *testing.T) {
		w := newWaiter(t, template, jobWait, "create", "patch", "get")
		w.task = usedBy(t, w.task, "${results.do.object.status.succeeded}")
		result, err := w.start()
		w.expectWait(result, err, time.Second, "waits for Job NAMESPACE/a")
		version := w.job("a").ResourceVersion
		for _, look := range []struct{ waited, pause time.Duration }{
			{time.Second, time.Second},
			{50 * time.Second, 5 * time.Second},
			{20 * time.Minute, 30 * time.Second},
			{30*time.Minute - 7*time.Second, 7 * time.Second},
		} {
			result, err = w.after(look.waited)
			w.expectWait(result, err, look.pause, "waits for Job NAMESPACE/a")
		}
		if got := w.job("a").ResourceVersion; got != version {
			t.Error("the Job was written while the action waited")
		}
		w.end("a", "")
		result, err = w.after(30 * time.Minute)
		w.expectWait(result, err, 0, "Job NAMESPACE/a")
		if string(result.Kept) != `{"object":{"status":{"succeeded":1}}}` {
			t.Errorf("kept %s", result.Kept)
		}
	})
	t.Run("timeout", func(t *testing.T) {
		wait := jobWait
		wait.Timeout.Duration = 90 * time.Second
		w := newWaiter(t, template, wait, "create", "patch", "get")
		_, err := w.start()
		expect(t, err, done)
		_, err = w.after(90 * time.Second)
		w.expectFailure(err, "Job NAMESPACE/a: wait.success was not true within 1m30s")
		result, err := w.start() // the Job goes on
		w.expectWait(result, err, time.Second, "waits for Job NAMESPACE/a")
	})
	t.Run("failure", func(t *testing.T) {
		w := newWaiter(t, template, jobWait, "create", "patch", "get", "delete")
		_, err := w.start()
		expect(t, err, done)
		first := w.job("a")
		w.end("a", "Job has reached the specified backoff limit")
		_, err = w.after(time.Minute)
		w.expectFailure(err, "Job NAMESPACE/a failed: Job has reached the specified backoff limit")

		result, err := w.start()
		w.expectWait(result, err, time.Second, "waits for Job NAMESPACE/a")
		if w.job("a").UID == first.UID {
			t.Error("the failed Job was not deleted before the next attempt")
		}
		w.end("a", "")
		result, err = w.start() // as after a failed write of the status
		w.expectWait(result, err, 0, "Job NAMESPACE/a")
	})
	t.Run("failure without a condition", func(t *testing.T) {
		wait := jobWait
		wait.Failure = "object.status.?succeeded.orValue(0) == 1"
		wait.Success = "false"
		w := newWaiter(t, template, wait, "create", "patch", "get")
		_, err := w.start()
		expect(t, err, done)
		w.end("a", "")
		_, err = w.after(time.Second)
		w.expectFailure(err, "Job NAMESPACE/a failed: object.status.?succeeded.orValue(0) == 1")
	})
	t.Run("failure of an object of another event", func(t *testing.T) {
		w := newWaiter(t, template, jobWait, "create", "patch", "get", "delete")
		_, err := w.start()
		expect(t, err, done)
		w.end("a", "broken")
		uid := w.job("a").UID
		w.task = withEvent(w.task, device(t, w.namespace, "leaf1"))
		_, err = w.start()
		w.expectFailure(err, "failed: broken")
		later := metav1.NewTime(time.Now().Add(time.Hour))
		w.task.Event.CreationTimestamp = later // although it has written its labels
		_, err = w.start()
		w.expectFailure(err, "failed: broken")
		if w.job("a").UID != uid {
			t.Error("the Job of another event was deleted")
		}
	})
	t.Run("without permission to delete", func(t *testing.T) {
		w := newWaiter(t, template, jobWait, "create", "patch", "get")
		_, err := w.start()
		expect(t, err, done)
		w.end("a", "broken")
		_, err = w.start()
		expect(t, err, permanent, "it failed, and has to be deleted", `cannot delete resource "jobs"`, "grant this permission to the service account")
	})
	t.Run("without permission to get", func(t *testing.T) {
		w := newWaiter(t, template, v1alpha1.ApplyWait{Success: "false"}, "create", "patch")
		_, err := w.start()
		expect(t, err, done)
		_, err = w.after(time.Second)
		expect(t, err, permanent, `cannot get resource "jobs"`, "grant this permission to the service account")
	})
	t.Run("terminating", func(t *testing.T) {
		w := newWaiter(t, job(`"name": "a", "finalizers": ["example.com/wait"]`), jobWait, "create", "patch", "get", "delete")
		_, err := w.start()
		expect(t, err, done)
		w.end("a", "broken")
		for range 2 {
			_, err = w.start()
			w.expectFailure(err, "Job NAMESPACE/a: it is still being deleted")
			if failure, ok := errors.AsType[*action.Failure](err); !ok || failure.RetryAfter != time.Second {
				t.Errorf("%v does not ask to wait", err)
			}
		}
		first := w.job("a")
		patched := first.DeepCopy()
		patched.Finalizers = nil
		if err := plane.Client.Patch(t.Context(), patched, client.MergeFrom(first)); err != nil {
			t.Fatal(err)
		}
		result, err := w.start()
		w.expectWait(result, err, time.Second, "waits for Job NAMESPACE/a")
		if w.job("a").UID == first.UID {
			t.Error("it is the same Job")
		}
	})
	t.Run("deleted meanwhile", func(t *testing.T) {
		w := newWaiter(t, template, jobWait, "create", "patch", "get")
		_, err := w.start()
		expect(t, err, done)
		if err := plane.Client.Delete(t.Context(), w.job("a"), client.PropagationPolicy(metav1.DeletePropagationBackground)); err != nil {
			t.Fatal(err)
		}
		_, err = w.after(time.Second)
		w.expectFailure(err, "Job NAMESPACE/a was deleted while the action waited for it", "ttlSecondsAfterFinished")
	})
	t.Run("expressions that fail", func(t *testing.T) {
		for expression, text := range map[string]string{
			"object.status.succeeded > 0": "object.status.succeeded: no such key",
			"object.metadata.name > 3":    "no such overload",
			"object.metadata.name":        "returned a string, not true or false",
		} {
			w := newWaiter(t, template, v1alpha1.ApplyWait{Success: expression}, "create", "patch", "get")
			result, err := w.start()
			w.expectWait(result, err, time.Second, "waits for Job NAMESPACE/a: "+text)
			_, err = w.after(30 * time.Minute)
			w.expectFailure(err, "Job NAMESPACE/a: wait.success was not true within 30m: "+text)
		}
	})
	t.Run("a List", func(t *testing.T) {
		w := newWaiter(t, `{"apiVersion": "v1", "kind": "List", "items": [`+job(`"name": "a"`)+`, `+job(`"name": "b"`)+`]}`,
			jobWait, "create", "patch", "get", "delete")
		result, err := w.start()
		w.expectWait(result, err, time.Second, "waits for Job NAMESPACE/a, Job NAMESPACE/b")
		w.end("a", "")
		result, err = w.after(10 * time.Second)
		w.expectWait(result, err, time.Second, "waits for Job NAMESPACE/b")
		w.end("b", "broken")
		_, err = w.after(11 * time.Second)
		w.expectFailure(err, "Job NAMESPACE/b failed: broken")
		uids := []string{string(w.job("a").UID), string(w.job("b").UID)}
		result, err = w.start()
		w.expectWait(result, err, time.Second, "waits for Job NAMESPACE/b")
		if again := []string{string(w.job("a").UID), string(w.job("b").UID)}; again[0] != uids[0] || again[1] == uids[1] {
			t.Error("want the failed Job deleted alone")
		}
		w.end("b", "")
		result, err = w.after(12 * time.Second)
		w.expectWait(result, err, 0, "Job NAMESPACE/a, Job NAMESPACE/b")
	})
	t.Run("a dry run", func(t *testing.T) {
		w := newWaiter(t, template, jobWait, "create", "patch")
		w.task.IsDryRun = true
		result, err := w.start()
		w.expectWait(result, err, 0, "dry run: Job NAMESPACE/a")
	})
	t.Run("a Secret", func(t *testing.T) { // its values are not in errors
		w := newWaiter(t, template, v1alpha1.ApplyWait{Success: "int(object.data.key) > 0"}, "get")
		grant(t, w.namespace, serviceAccount, w.namespace, "", "secrets", "create", "patch")
		spec := newApply(t, `{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}, "data": {"key": "c2VjcmV0"}}`)
		spec.Apply.Wait = w.task.Action.Spec.Apply.Wait
		w.task = newTask(t, w.task.Event, spec)
		result, err := w.start()
		w.expectWait(result, err, time.Second, "waits for Secret NAMESPACE/a: ")
		if strings.Contains(result.Response, "c2VjcmV0") {
			t.Errorf("response is %q", result.Response)
		}
	})
}

// TestWaitInOutage waits during an outage of the API server: the wait continues, and ends at its timeout.
func TestWaitInOutage(t *testing.T) {
	w := newWaiter(t, job(`"name": "a"`), jobWait, "create", "patch", "get")
	outage, config := plane.NewOutage(t)
	w.runner = newRunner(t, func(options *settings) { options.Config, options.Clock = config, w.clock })
	w.task.Rule.Spec.Retry.Timeout.Duration = 500 * time.Millisecond
	_, err := w.start()
	expect(t, err, done)
	for _, state := range []controlplane.OutageState{controlplane.Refused, controlplane.Hung} {
		outage.Set(state)
		result, err := w.after(100 * time.Second)
		w.expectWait(result, err, 10*time.Second, "waits for Job NAMESPACE/a: Get ")
		outage.Set(controlplane.Refused)
	}
	_, err = w.after(30 * time.Minute)
	w.expectFailure(err, "Job NAMESPACE/a: wait.success was not true within 30m: ")
	outage.Set(controlplane.Up)
	w.end("a", "")
	result, err := w.after(40 * time.Minute)
	w.expectWait(result, err, 0, "Job NAMESPACE/a")
}
