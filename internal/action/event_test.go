package action_test

import (
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr/funcr"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	testingclock "k8s.io/utils/clock/testing"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

func TestEvent(t *testing.T) {
	namespace := plane.Namespace(t)
	now := time.Date(2027, 7, 28, 9, 30, 0, 123456000, time.UTC)
	runner := newRunner(t, func(options *settings) { options.Clock = testingclock.NewFakePassiveClock(now) })
	event := device(t, namespace, "leaf1")
	spec := v1alpha1.Action{Event: &v1alpha1.EventAction{Type: "Warning", Reason: "DeviceActive", Message: "${data.name} of ${data.tenant} is active"}}
	task := newTask(t, event, spec)
	expectEvents := func(reason string, want int) []eventsv1.Event {
		t.Helper()
		got := list[eventsv1.EventList](t, namespace).Items
		if len(got) != want {
			t.Errorf("%s: %d events, want %d", reason, len(got), want)
		}
		return got
	}
	for range 2 {
		_, err := do(t, runner, task)
		expect(t, err, done)
	}
	got := expectEvents("done twice", 1)[0]
	want := eventsv1.Event{
		EventTime: got.EventTime, ReportingController: "netbox-events.io/netbox-event-operator", ReportingInstance: "netbox-event-operator",
		Action: "Rule", Type: "Warning", Reason: "DeviceActive", Note: "leaf1 of null is active",
		Regarding: corev1.ObjectReference{APIVersion: "netbox-events.io/v1alpha1", Kind: "NetBoxEvent", Namespace: namespace, Name: event.Name, UID: event.UID},
		Related:   &corev1.ObjectReference{APIVersion: "netbox-events.io/v1alpha1", Kind: "NetBoxEventRule", Namespace: namespace, Name: task.Rule.Name, UID: task.Rule.UID},
	}
	if !got.EventTime.Time.Equal(now) {
		t.Errorf("event time is %v, want %v", got.EventTime, now)
	}
	got.ObjectMeta, got.TypeMeta = want.ObjectMeta, want.TypeMeta
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("event (-want +got):\n%s", diff)
	}

	replayed := event.DeepCopy()
	replayed.Annotations = map[string]string{v1alpha1.AnnotationReplay: "2"}
	for range 2 {
		_, err := do(t, runner, withEvent(task, replayed))
		expect(t, err, done)
	}
	expectEvents("a replay", 2)
	replayed.Annotations[v1alpha1.AnnotationReplayRule] = task.Rule.Name
	_, err := do(t, runner, withEvent(task, replayed))
	expect(t, err, done)
	expectEvents("a replay of its rule alone", 3)
	_, err = do(t, runner, newTask(t, event, spec))
	expect(t, err, done)
	expectEvents("another rule", 4)

	for _, test := range []struct {
		reason string
		event  *v1alpha1.NetBoxEvent
	}{
		{"hostile values", hostile(t, namespace)},
		{"a name of the maximum length", func() *v1alpha1.NetBoxEvent {
			event := device(t, namespace, "leaf1")
			event.Name = strings.Repeat("x", 235) + "." + strings.Repeat("y", 17)
			return event
		}()},
	} {
		t.Run(test.reason, func(t *testing.T) {
			before := len(list[eventsv1.EventList](t, namespace).Items)
			_, err := do(t, runner, withEvent(task, test.event))
			expect(t, err, done)
			expectEvents("another event", before+1)
		})
	}
	for _, event := range list[eventsv1.EventList](t, namespace).Items {
		if strings.Contains(event.Note, "long") && (len(event.Note) > 1024 || len(event.Note) < 1000 || strings.ContainsAny(event.Note, "\r\n")) {
			t.Errorf("note of %d bytes: %q", len(event.Note), event.Note)
		}
	}
	t.Run("a missing key", func(t *testing.T) {
		spec.Event.Message = "${data.site.slug}"
		_, err := do(t, runner, newTask(t, event, spec))
		expect(t, err, permanent, "message: data.site: no such key")
	})
}

func TestLog(t *testing.T) {
	var lines []string
	runner := newRunner(t, func(options *settings) {
		options.Log = funcr.NewJSON(func(line string) { lines = append(lines, line) }, funcr.Options{})
	})
	event := device(t, plane.Namespace(t), "leaf1\n{}")
	spec := v1alpha1.Action{Log: &v1alpha1.LogAction{Message: "${data.name} of ${data.tenant}"}}
	task := newTask(t, event, spec)
	_, err := do(t, runner, task)
	expect(t, err, done)
	want := `{"logger":"","level":0,"msg":"NetBox event rule","message":"leaf1\n{} of null","rule":"` + task.Rule.Name + `","action":"do","namespace":"` +
		event.Namespace + `","name":"` + event.Name + `","requestID":"b3dc3247-883f-4810-ad01-0f50ee6b722d"}`
	if diff := cmp.Diff([]string{want}, lines); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
	spec.Log.Message = "${data.site.slug}"
	_, err = do(t, runner, newTask(t, event, spec))
	expect(t, err, permanent, "message: data.site: no such key")
	if len(lines) != 1 {
		t.Errorf("lines are %q", lines)
	}
}
