package action_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"

	cloudevents "github.com/cloudevents/sdk-go/v2/event"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/action"
	"github.com/netbox-events/netbox-event-operator/internal/rule"
	"github.com/netbox-events/netbox-event-operator/test/deliveries"
)

// bulkEdit returns the events of a bulk edit of n devices.
func bulkEdit(t *testing.T, namespace string, n int) []*v1alpha1.NetBoxEvent {
	t.Helper()
	edit, err := deliveries.BulkEdit(n)
	if err != nil {
		t.Fatal(err)
	}
	events := make([]*v1alpha1.NetBoxEvent, n)
	for i, delivery := range edit {
		if events[i], err = delivery.Event(namespace, nil); err != nil {
			t.Fatal(err)
		}
		events[i].UID = types.UID(events[i].Name)
	}
	return events
}

// newGroupTask creates a rule with groups at the API server, and returns a task of it for a group.
func newGroupTask(t *testing.T, by, id string, events []*v1alpha1.NetBoxEvent, spec v1alpha1.Action) action.Task {
	t.Helper()
	spec.Name = "do"
	eventRule := &v1alpha1.NetBoxEventRule{
		ObjectMeta: metav1.ObjectMeta{Namespace: events[0].Namespace, GenerateName: "rule-"},
		Spec: v1alpha1.NetBoxEventRuleSpec{
			ServiceAccountName: serviceAccount, Group: &v1alpha1.Group{By: by}, Actions: []v1alpha1.Action{spec},
		},
	}
	plane.Create(t, eventRule)
	compiled, err := rule.Compile(&eventRule.Spec)
	if err != nil {
		t.Fatal(err)
	}
	return withGroup(action.Task{Rule: eventRule, Action: &compiled.Actions[0]}, id, events)
}

// withGroup returns the same task for another group.
func withGroup(task action.Task, id string, events []*v1alpha1.NetBoxEvent) action.Task {
	last := events[len(events)-1]
	task.Event, task.Group = last, &action.Group{ID: id, Events: events}
	task.Input, _ = rule.NewGroupInput(events, id, false, last.Spec.Timestamp.Time)
	return task
}

// TestGroupCloudEvent sends the events of a group as the data of one CloudEvent, which the SDK reads.
func TestGroupCloudEvent(t *testing.T) {
	namespace := plane.Namespace(t)
	events := append(bulkEdit(t, namespace, 3), hostile(t, namespace))
	to := newSink(t)
	task := newGroupTask(t, "Rule", "3f9c2a7be1d04c55a1b2", events, newRequest(to.URL))
	if _, err := do(t, newRunner(t), task); err != nil {
		t.Fatal(err)
	}
	if contentType := to.request.Header.Get("Content-Type"); contentType != "application/cloudevents+json" {
		t.Errorf("Content-Type is %q", contentType)
	}
	to.request.Body = io.NopCloser(bytes.NewReader(to.body))
	got, err := cehttp.NewEventFromHTTPRequest(to.request)
	if err != nil {
		t.Fatal(err)
	}
	if err := got.Validate(); err != nil {
		t.Error(err)
	}
	last := events[len(events)-1]
	attributes := []string{got.ID(), got.Type(), got.Source(), got.Subject(), got.DataContentType(), got.Time().UTC().String()}
	want := []string{
		"3f9c2a7be1d04c55a1b2", "io.netbox-events.group", "/apis/netbox-events.io/v1alpha1/namespaces/" + namespace + "/netboxsources/netbox",
		task.Rule.Name, "application/json", last.Spec.Timestamp.UTC().String(),
	}
	if diff := cmp.Diff(want, attributes); diff != "" {
		t.Errorf("attributes (-want +got):\n%s", diff)
	}
	var data struct {
		Group  string              `json:"group"`
		Events []cloudevents.Event `json:"events"`
	}
	if err := got.DataAs(&data); err != nil {
		t.Fatal(err)
	}
	if data.Group != task.Group.ID {
		t.Errorf("the data is of the group %q", data.Group)
	}
	expectEvents(t, events, data.Events)
}

// TestCloudEventBatch sends the events of a group in batched content mode, which the SDK reads.
func TestCloudEventBatch(t *testing.T) {
	namespace := plane.Namespace(t)
	to := newSink(t)
	spec := newRequest(to.URL)
	spec.HTTP.Format = v1alpha1.FormatCloudEventBatch
	events := append(bulkEdit(t, namespace, 500), hostile(t, namespace))
	task := newGroupTask(t, "Request", "id", events, spec)
	runner := newRunner(t)
	for _, events := range [][]*v1alpha1.NetBoxEvent{events, events[:1]} {
		if _, err := do(t, runner, withGroup(task, "id", events)); err != nil {
			t.Fatal(err)
		}
		if contentType := to.request.Header.Get("Content-Type"); contentType != "application/cloudevents-batch+json" {
			t.Errorf("Content-Type is %q", contentType)
		}
		to.request.Body = io.NopCloser(bytes.NewReader(to.body))
		got, err := cehttp.NewEventsFromHTTPRequest(to.request)
		if err != nil {
			t.Fatal(err)
		}
		expectEvents(t, events, got)
	}
}

// expectEvents compares CloudEvents with events.
func expectEvents(t *testing.T, want []*v1alpha1.NetBoxEvent, got []cloudevents.Event) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d events, want %d", len(got), len(want))
	}
	for i, event := range want {
		if err := got[i].Validate(); err != nil {
			t.Errorf("%s: %v", event.Name, err)
		}
		if got[i].ID() != event.Name || got[i].Type() != "io.netbox-events."+event.Spec.ObjectType+"."+event.Spec.Event {
			t.Errorf("%s: event is %s, %s", event.Name, got[i].ID(), got[i].Type())
		}
		sent := event.Spec.DeepCopy()
		sent.Delivery.Envelope = nil
		text, err := json.Marshal(sent)
		if err != nil {
			t.Fatal(err)
		}
		if want, got := parse(t, text), parse(t, got[i].Data()); !reflect.DeepEqual(want, got) {
			t.Errorf("%s: data (-want +got):\n%s", event.Name, cmp.Diff(want, got))
		}
	}
}

// TestGroupTooLarge checks that a body of more than 32 MiB is not built.
func TestGroupTooLarge(t *testing.T) {
	namespace := plane.Namespace(t)
	large := device(t, namespace, strings.Repeat("x", 1<<20))
	var events []*v1alpha1.NetBoxEvent
	for range 40 {
		events = append(events, large)
	}
	for _, format := range []v1alpha1.HTTPFormat{v1alpha1.FormatCloudEvent, v1alpha1.FormatCloudEventBatch} {
		to := newSink(t)
		spec := newRequest(to.URL)
		spec.HTTP.Format = format
		_, err := do(t, newRunner(t), newGroupTask(t, "Rule", "id", events, spec))
		expect(t, err, permanent, "the 40 events of the group take more than 32 MiB; lower spec.group.maxEvents")
		if to.request != nil {
			t.Error("a request was sent")
		}
	}
}

// TestGroupTemplates sends what templates make of a group.
func TestGroupTemplates(t *testing.T) {
	namespace := plane.Namespace(t)
	to := newSink(t)
	spec := newRequest(to.URL + "/${group.id}")
	spec.HTTP.Body = &v1alpha1.HTTPBody{JSON: &v1alpha1.JSON{Raw: []byte(
		`{"text": "${event.username} edited ${changes.size()} devices: ${changes.map(c, c.objectName).join(', ')}", "last": "${data.name}"}`)}}
	spec.HTTP.Headers = []v1alpha1.HTTPHeader{{Name: "Idempotency-Key", Value: "${group.id}"}}
	if _, err := do(t, newRunner(t), newGroupTask(t, "Request", "3f9c", bulkEdit(t, namespace, 3), spec)); err != nil {
		t.Fatal(err)
	}
	const want = `{"last":"Device 3","text":"testuser edited 3 devices: Device 1, Device 2, Device 3"}`
	if got := string(to.body); got != want || to.request.URL.Path != "/3f9c" || to.request.Header.Get("Idempotency-Key") != "3f9c" {
		t.Errorf("%s %v: %s", to.request.URL, to.request.Header, got)
	}
}

// TestGroupNames checks that each group makes its own objects, whatever its events are, and repeated attempts none.
func TestGroupNames(t *testing.T) {
	namespace := newNamespace(t)
	events := bulkEdit(t, namespace, 4)
	runner := newRunner(t)
	do := func(task action.Task) {
		t.Helper()
		_, err := do(t, runner, task)
		expect(t, err, done)
	}
	object := newGroupTask(t, "Rule", "a", events[:2], newApply(t, configMap(`"data": {"names": "${events.map(e, e.objectName).join(' ')}"}`)))
	note := newGroupTask(t, "Rule", "a", events[:2], v1alpha1.Action{Event: &v1alpha1.EventAction{Reason: "Edited", Message: "${events.size()} devices"}})
	for _, step := range []struct {
		reason string
		id     string
		events []*v1alpha1.NetBoxEvent
		want   int // objects and Kubernetes Events
	}{
		{"a group", "a", events[:2], 1},
		{"a repeated attempt", "a", events[:2], 1},
		{"another group with the same last event", "b", events[1:2], 2},
		{"another group", "c", events[2:], 3},
	} {
		do(withGroup(object, step.id, step.events))
		do(withGroup(note, step.id, step.events))
		if got := names(t, namespace); len(got) != step.want {
			t.Errorf("%s: objects are %q", step.reason, got)
		}
		if got := list[eventsv1.EventList](t, namespace).Items; len(got) != step.want {
			t.Errorf("%s: %d Kubernetes Events, want %d", step.reason, len(got), step.want)
		}
	}
	replayed := events[0].DeepCopy()
	replayed.Annotations = map[string]string{v1alpha1.AnnotationReplay: "2"}
	do(withGroup(note, "a", []*v1alpha1.NetBoxEvent{replayed, events[1]}))
	if got := list[eventsv1.EventList](t, namespace).Items; len(got) != 4 {
		t.Errorf("replay of the first event of a group: %d Kubernetes Events, want 4", len(got))
	}
}

// TestGroupOwnedFields applies fields that values decide about to one object: groups of one NetBox object keep theirs, all others replace
// those of the group before.
func TestGroupOwnedFields(t *testing.T) {
	for _, test := range []struct {
		by   string
		want map[string]string
	}{
		{"Object", map[string]string{"device-1": "Device 1", "device-2": "Device 2"}},
		{"Request", map[string]string{"device-2": "Device 2"}},
	} {
		namespace := newNamespace(t)
		events := bulkEdit(t, namespace, 2)
		task := newGroupTask(t, test.by, "a", events[:1], newApply(t, configMap(
			`"metadata": {"name": "shared"}, "data": "${ {'device-' + event.objectID: event.objectName} }"`)))
		for i := range events {
			_, err := do(t, newRunner(t), withGroup(task, fmt.Sprint(i), events[i:i+1]))
			expect(t, err, done)
		}
		if diff := cmp.Diff(test.want, list[corev1.ConfigMapList](t, namespace).Items[0].Data); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.by, diff)
		}
	}
}
