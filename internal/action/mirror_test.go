package action_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/action"
	"github.com/netbox-events/netbox-event-operator/internal/rule"
	"github.com/netbox-events/netbox-event-operator/test/deliveries"
)

// newMirror returns a Mirror action with a JSON template.
func newMirror(t *testing.T, template string) v1alpha1.Action {
	t.Helper()
	spec := newApply(t, template)
	spec.Apply.Operation = v1alpha1.OperationMirror
	return spec
}

// newMirrorNamespace returns a namespace in which the service account of rules may mirror ConfigMaps.
func newMirrorNamespace(t *testing.T) string {
	t.Helper()
	namespace := plane.Namespace(t)
	grant(t, namespace, serviceAccount, namespace, "", "configmaps", "create", "patch", "list", "delete")
	return namespace
}

// newMirrorRunner returns a Runner to which all events are in the past.
func newMirrorRunner(t *testing.T) *action.Runner {
	t.Helper()
	return newRunner(t, func(options *settings) {
		options.Clock = clocktesting.NewFakePassiveClock(time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC))
	})
}

// life returns the recorded events of a NetBox object, in order.
func life(t *testing.T, namespace, file, url string) []*v1alpha1.NetBoxEvent {
	t.Helper()
	all, err := deliveries.All()
	if err != nil {
		t.Fatal(err)
	}
	var events []*v1alpha1.NetBoxEvent
	for _, delivery := range all {
		if delivery.File != file {
			continue
		}
		if event, err := delivery.Event(namespace, deliveries.Redact); err == nil && event.Spec.ObjectURL == url {
			events = append(events, event)
		}
	}
	return events
}

// store stores events in a namespace, as the receiver does.
func store(t *testing.T, events ...*v1alpha1.NetBoxEvent) {
	t.Helper()
	for _, event := range events {
		event.ResourceVersion, event.UID = "", ""
		plane.Create(t, event)
	}
}

// annotate requests a replay of an event. A list that is as new as the event then has all that is stored.
func annotate(t *testing.T, event *v1alpha1.NetBoxEvent) {
	t.Helper()
	before := event.DeepCopy()
	event.Annotations = map[string]string{v1alpha1.AnnotationReplay: before.ResourceVersion}
	if err := plane.Client.Patch(t.Context(), event, client.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}
}

// story is a rule that mirrors a NetBox object, and the recorded life of that.
type story struct {
	*testing.T
	namespace string
	runner    *action.Runner
	rule      *rule.Rule
	task      action.Task
	events    []*v1alpha1.NetBoxEvent                     // in order
	shows     func(data map[string]any) map[string]string // by name of the ConfigMap, its data
}

// act executes the rule's action for an event, as the engine does. Any other event than the newest is skipped.
func (s *story) act(event, newest *v1alpha1.NetBoxEvent) {
	s.Helper()
	task := withEvent(s.task, event)
	task.IsRemoval = !s.matches(event)
	response, err := do(s.T, s.runner, task)
	expect(s.T, err, done)
	if isSkipped := strings.HasPrefix(response, "skipped"); isSkipped != (event != newest) ||
		isSkipped && response != "skipped: event "+newest.Name+" is newer" {
		s.Errorf("%s: response is %q; the newest is %s", event.Name, response, newest.Name)
	}
}

func (s *story) matches(event *v1alpha1.NetBoxEvent) bool {
	s.Helper()
	matches, err := s.rule.Match(s.Context(), event, withEvent(s.task, event).Input)
	if err != nil {
		s.Fatal(err)
	}
	return matches
}

// check compares the ConfigMaps with what an event says.
func (s *story) check(newest *v1alpha1.NetBoxEvent, when string) {
	s.Helper()
	want := map[string]string{}
	if newest.Spec.Event != "deleted" && s.matches(newest) {
		encoded, err := json.Marshal(newest.Spec.Data)
		if err != nil {
			s.Fatal(err)
		}
		data := map[string]any{}
		if err := json.Unmarshal(encoded, &data); err != nil {
			s.Fatal(err)
		}
		want = s.shows(data)
	}
	if diff := cmp.Diff(want, mirrored(s.T, s.namespace)); diff != "" {
		s.Errorf("%s (-want +got):\n%s", when, diff)
	}
}

// replay executes the action again for the events up to one, in an order of its own.
func (s *story) replay(last int, random *rand.Rand) {
	s.Helper()
	for _, at := range random.Perm(last + 1) {
		annotate(s.T, s.events[at])
		s.act(s.events[at], s.events[last])
	}
	s.check(s.events[last], "after replays")
}

// TestMirrorLife drives rules by the recorded lives of NetBox objects, in any order: the Kubernetes object is what NetBox last said.
func TestMirrorLife(t *testing.T) {
	runner := newMirrorRunner(t)
	newest := func(events []*v1alpha1.NetBoxEvent) *v1alpha1.NetBoxEvent {
		return slices.MaxFunc(events, func(a, b *v1alpha1.NetBoxEvent) int { return a.Spec.Timestamp.Compare(b.Spec.Timestamp.Time) })
	}
	for _, test := range []struct {
		reason, file, url string
		events            int
		match             string
		template          string
		shows             func(data map[string]any) map[string]string
	}{
		{
			reason: "a site", file: "netbox-4.6.8-live", url: "/api/dcim/sites/2/", events: 19, match: "true",
			template: configMap(`"metadata": {"name": "site-${data.slug}"}, "data": {"name": "${data.name}"}`),
			shows: func(data map[string]any) map[string]string {
				return map[string]string{"site-" + data["slug"].(string): data["name"].(string)}
			},
		},
		{
			reason: "a site while it is planned", file: "netbox-4.6.8-live", url: "/api/dcim/sites/2/", events: 19,
			match:    `event.event != "deleted" && data.status.value == "planned"`,
			template: configMap(`"metadata": {"name": "planned-${event.objectID}"}, "data": {"slug": "${data.slug}"}`),
			shows: func(data map[string]any) map[string]string {
				return map[string]string{"planned-2": data["slug"].(string)}
			},
		},
		{
			reason: "a site in a List", file: "netbox-4.6.8-live", url: "/api/dcim/sites/2/", events: 19, match: "true",
			template: `{"apiVersion": "v1", "kind": "List", "items": [
				` + configMap(`"metadata": {"name": "name-${data.slug}"}, "data": {"name": "${data.name}"}`) + `,
				` + configMap(`"metadata": {"name": "status"}, "data": {"status": "${data.status.value}"}`) + `]}`,
			shows: func(data map[string]any) map[string]string {
				return map[string]string{"name-" + data["slug"].(string): data["name"].(string), "status": data["status"].(map[string]any)["value"].(string)}
			},
		},
		{
			reason: "a power panel", file: "netbox-3.7.8-live", url: "/api/dcim/power-panels/1/", events: 4, match: "true",
			template: configMap(`"metadata": {"name": "${data.name.lowerAscii()}"}, "data": {"name": "${data.name}"}`),
			shows: func(data map[string]any) map[string]string {
				return map[string]string{strings.ToLower(data["name"].(string)): data["name"].(string)}
			},
		},
	} {
		for _, order := range []string{"in order", "newest first", "at random"} {
			t.Run(test.reason+" "+order, func(t *testing.T) {
				t.Parallel() // the lists wait for the API server's cache
				random := rand.New(rand.NewPCG(1, 2))
				namespace := newMirrorNamespace(t)
				events := life(t, namespace, test.file, test.url)
				if len(events) != test.events {
					t.Fatalf("the life has %d events, want %d", len(events), test.events)
				}
				s := &story{T: t, namespace: namespace, runner: runner, events: slices.Clone(events), shows: test.shows}
				s.task = newTask(t, events[0], newMirror(t, test.template))
				s.task.Rule.Spec.Match.CEL = test.match
				var err error
				if s.rule, err = rule.Compile(&s.task.Rule.Spec); err != nil {
					t.Fatal(err)
				}
				switch order {
				case "newest first":
					slices.Reverse(events)
				case "at random":
					random.Shuffle(len(events), func(i, j int) { events[i], events[j] = events[j], events[i] })
				}
				for i, event := range events {
					store(t, event)
					s.act(event, newest(events[:i+1]))
					s.check(newest(events[:i+1]), "after "+event.Name)
				}
				last := len(events) - 1
				s.replay(last, random)
				if err := plane.Client.Delete(t.Context(), s.events[last]); err != nil { // the deletion; now the object is back
					t.Fatal(err)
				}
				s.replay(last-1, random)
			})
		}
	}
}

// changeSite returns a stored event of a site at a time, in seconds.
func changeSite(t *testing.T, namespace, kind string, id, at int, name string) *v1alpha1.NetBoxEvent {
	t.Helper()
	event := site(t, namespace, kind, id, name)
	event.Spec.Timestamp = metav1.NewMicroTime(time.Date(2027, 7, 28, 9, 0, at, 123000, time.UTC))
	event.Spec.Delivery.ReceivedAt = event.Spec.Timestamp
	store(t, event)
	return event
}

// mirrored returns the data of the ConfigMaps in a namespace, by their names.
func mirrored(t *testing.T, namespace string) map[string]string {
	t.Helper()
	data := map[string]string{}
	for _, each := range list[corev1.ConfigMapList](t, namespace).Items {
		data[each.Name] = strings.Join(slices.Sorted(maps.Values(each.Data)), " ")
	}
	return data
}

func TestMirror(t *testing.T) {
	runner := newMirrorRunner(t)
	const byName = `"metadata": {"name": "${data.name}"}, "data": {"id": "${event.objectID}"}`
	mirror := func(t *testing.T, task action.Task, event *v1alpha1.NetBoxEvent, want string) {
		t.Helper()
		response, err := do(t, runner, withEvent(task, event))
		expect(t, err, done)
		if want = strings.ReplaceAll(want, "NAMESPACE", event.Namespace); response != want {
			t.Errorf("response is %q, want %q", response, want)
		}
	}
	expectData := func(t *testing.T, namespace string, want map[string]string) {
		t.Helper()
		if diff := cmp.Diff(want, mirrored(t, namespace)); diff != "" {
			t.Errorf("ConfigMaps (-want +got):\n%s", diff)
		}
	}

	t.Run("only its own objects", func(t *testing.T) {
		namespace := newMirrorNamespace(t)
		first := changeSite(t, namespace, "created", 801, 1, "one")
		task := newTask(t, first, newMirror(t, configMap(byName)))
		another := newTask(t, first, newMirror(t, configMap(`"metadata": {"name": "${data.name}-other"}, "data": {"id": "${event.objectID}"}`)))
		applied := newTask(t, first, newApply(t, configMap(`"metadata": {"name": "${data.name}-applied"}`)))
		second := changeSite(t, namespace, "created", 802, 1, "two")
		for _, each := range []action.Task{task, another, applied} {
			for _, event := range []*v1alpha1.NetBoxEvent{first, second} {
				_, err := do(t, runner, withEvent(each, event))
				expect(t, err, done)
			}
		}
		var labels map[string]string
		for _, each := range list[corev1.ConfigMapList](t, namespace).Items {
			if each.Name == "one" {
				labels = each.Labels
			}
		}
		plane.Create(t, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "copied", Labels: labels}})

		mirror(t, task, changeSite(t, namespace, "updated", 801, 2, "renamed"), "ConfigMap NAMESPACE/renamed; deleted ConfigMap NAMESPACE/one")
		want := map[string]string{
			"renamed": "801", "two": "802", "one-other": "801", "two-other": "802", "one-applied": "", "two-applied": "", "copied": "",
		}
		expectData(t, namespace, want)
		mirror(t, task, changeSite(t, namespace, "deleted", 801, 3, "renamed"), "deleted ConfigMap NAMESPACE/renamed")
		delete(want, "renamed")
		expectData(t, namespace, want)
		mirror(t, task, changeSite(t, namespace, "deleted", 801, 4, "renamed"), "nothing to delete")
	})
	t.Run("a name for each NetBox object", func(t *testing.T) {
		namespace := newMirrorNamespace(t)
		task := newTask(t, changeSite(t, namespace, "created", 801, 1, "one"), newMirror(t, configMap(`"metadata": {"labels": {"a": "b"}}, "data": {"name": "${data.name}"}`)))
		_, err := do(t, runner, task)
		expect(t, err, done)
		for _, event := range []*v1alpha1.NetBoxEvent{changeSite(t, namespace, "updated", 801, 2, "three"), changeSite(t, namespace, "created", 802, 1, "two")} {
			_, err := do(t, runner, withEvent(task, event))
			expect(t, err, done)
		}
		if got := slices.Sorted(maps.Values(mirrored(t, namespace))); !slices.Equal(got, []string{"three", "two"}) {
			t.Errorf("ConfigMaps have %q", got)
		}
	})
	t.Run("two NetBox objects of one name", func(t *testing.T) {
		for _, force := range []bool{false, true} {
			namespace := newMirrorNamespace(t)
			task := newTask(t, changeSite(t, namespace, "created", 801, 1, "one"), newMirror(t, configMap(byName)))
			task.Action.Spec.Apply.Force = force
			mirror(t, task, task.Event, "ConfigMap NAMESPACE/one")
			second := changeSite(t, namespace, "updated", 802, 2, "one")
			_, err := do(t, runner, withEvent(task, second))
			expect(t, err, retry, "ConfigMap "+namespace+"/one: it follows another NetBox object", "${event.objectID}")
			expectData(t, namespace, map[string]string{"one": "801"})
			mirror(t, task, changeSite(t, namespace, "updated", 801, 3, "three"), "ConfigMap NAMESPACE/three; deleted ConfigMap NAMESPACE/one")
			mirror(t, task, second, "ConfigMap NAMESPACE/one")
			expectData(t, namespace, map[string]string{"one": "802", "three": "801"})
		}
	})
	t.Run("objects of other people", func(t *testing.T) {
		namespace := newMirrorNamespace(t)
		plane.Create(t, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "one"}, Data: map[string]string{"mine": "x"}})
		task := newTask(t, changeSite(t, namespace, "created", 801, 1, "one"), newMirror(t, configMap(byName)))
		_, err := do(t, runner, task)
		expect(t, err, permanent, "ConfigMap "+namespace+"/one: it is not taken over, because the field manager", "apply.force")
		expectData(t, namespace, map[string]string{"one": "x"})
		if labels := list[corev1.ConfigMapList](t, namespace).Items[0].Labels; len(labels) > 0 {
			t.Errorf("labels are %v", labels)
		}
		task.Action.Spec.Apply.Force = true
		mirror(t, task, task.Event, "ConfigMap NAMESPACE/one")
		expectData(t, namespace, map[string]string{"one": "801 x"})
	})
	t.Run("changed by other people", func(t *testing.T) {
		namespace := newMirrorNamespace(t)
		task := newTask(t, changeSite(t, namespace, "created", 801, 1, "one"), newMirror(t, configMap(byName)))
		mirror(t, task, task.Event, "ConfigMap NAMESPACE/one")
		existing := &list[corev1.ConfigMapList](t, namespace).Items[0]
		existing.Data["mine"] = "x"
		if err := plane.Client.Update(t.Context(), existing, client.FieldOwner("a person")); err != nil {
			t.Fatal(err)
		}
		mirror(t, task, changeSite(t, namespace, "updated", 801, 2, "one"), "ConfigMap NAMESPACE/one")
		expectData(t, namespace, map[string]string{"one": "801 x"})
		mirror(t, task, changeSite(t, namespace, "deleted", 801, 3, "one"), "deleted ConfigMap NAMESPACE/one")
		expectData(t, namespace, map[string]string{})
	})
	t.Run("a renamed rule", func(t *testing.T) {
		namespace := newMirrorNamespace(t)
		task := newTask(t, changeSite(t, namespace, "created", 801, 1, "one"), newMirror(t, configMap(byName)))
		mirror(t, task, task.Event, "ConfigMap NAMESPACE/one")
		renamed := newTask(t, task.Event, newMirror(t, configMap(byName)))
		mirror(t, renamed, changeSite(t, namespace, "updated", 801, 2, "one"), "ConfigMap NAMESPACE/one")
		mirror(t, renamed, changeSite(t, namespace, "deleted", 801, 3, "one"), "deleted ConfigMap NAMESPACE/one")
		expectData(t, namespace, map[string]string{})
	})
	t.Run("branches", func(t *testing.T) {
		namespace := newMirrorNamespace(t)
		branched := func(kind string, at int) *v1alpha1.NetBoxEvent {
			event := site(t, namespace, kind, 801, "one")
			event.Spec.Branch, event.Spec.Timestamp.Time = "rack move", event.Spec.Timestamp.Add(time.Duration(at)*time.Second)
			store(t, event)
			return event
		}
		task := newTask(t, changeSite(t, namespace, "created", 801, 1, "one"), newMirror(t, configMap(`"metadata": {}, "data": {"branch": "${event.branch}"}`)))
		newer := branched("updated", 10)
		for _, event := range []*v1alpha1.NetBoxEvent{task.Event, newer} {
			_, err := do(t, runner, withEvent(task, event))
			expect(t, err, done)
		}
		if got := slices.Sorted(maps.Values(mirrored(t, namespace))); !slices.Equal(got, []string{"", "rack move"}) {
			t.Errorf("ConfigMaps have %q", got)
		}
		_, err := do(t, runner, withEvent(task, branched("deleted", 20)))
		expect(t, err, done)
		if got := slices.Collect(maps.Values(mirrored(t, namespace))); !slices.Equal(got, []string{""}) {
			t.Errorf("ConfigMaps have %q", got)
		}
	})
	t.Run("events that do not count", func(t *testing.T) {
		namespace := newMirrorNamespace(t)
		task := newTask(t, changeSite(t, namespace, "created", 801, 1, "one"), newMirror(t, configMap(byName)))
		job := changeSite(t, namespace, "job_ended", 801, 2, "one")
		changeSite(t, namespace, "updated", 802, 2, "two")
		mirror(t, task, task.Event, "ConfigMap NAMESPACE/one")
		mirror(t, task, job, "skipped: Mirror follows created, updated and deleted, not job_ended")
		job.Spec.ObjectID = ""
		_, err := do(t, runner, withEvent(task, job))
		expect(t, err, permanent, "no object id")
	})
	t.Run("an object of an event that is gone", func(t *testing.T) {
		namespace := newMirrorNamespace(t)
		task := newTask(t, changeSite(t, namespace, "updated", 801, 5, "one"), newMirror(t, configMap(byName)))
		mirror(t, task, task.Event, "ConfigMap NAMESPACE/one")
		if err := plane.Client.Delete(t.Context(), task.Event); err != nil {
			t.Fatal(err)
		}
		old := changeSite(t, namespace, "updated", 801, 4, "two")
		mirror(t, task, old, "skipped: ConfigMap NAMESPACE/one is of a newer event")
		wrong := newRunner(t, func(options *settings) {
			options.Clock = clocktesting.NewFakePassiveClock(old.Spec.Timestamp.Time)
		})
		_, err := do(t, wrong, withEvent(task, old)) // of a NetBox whose clock was ahead
		expect(t, err, done)
		expectData(t, namespace, map[string]string{"two": "801"})
	})
	t.Run("a dry run", func(t *testing.T) {
		namespace := newMirrorNamespace(t)
		task := newTask(t, changeSite(t, namespace, "created", 801, 1, "one"), newMirror(t, configMap(byName)))
		mirror(t, task, task.Event, "ConfigMap NAMESPACE/one")
		task.IsDryRun = true
		mirror(t, task, changeSite(t, namespace, "updated", 801, 2, "two"), "dry run: ConfigMap NAMESPACE/two; would delete ConfigMap NAMESPACE/one")
		newest := changeSite(t, namespace, "deleted", 801, 3, "two")
		mirror(t, task, newest, "dry run: would delete ConfigMap NAMESPACE/one")
		mirror(t, task, task.Event, "dry run: skipped: event "+newest.Name+" is newer")
		expectData(t, namespace, map[string]string{"one": "801"})
	})
	t.Run("still being deleted", func(t *testing.T) {
		namespace := newMirrorNamespace(t)
		task := newTask(t, changeSite(t, namespace, "created", 801, 1, "one"), newMirror(t, configMap(`"metadata": {"name": "one", "finalizers": ["example.com/wait"]}`)))
		mirror(t, task, task.Event, "ConfigMap NAMESPACE/one")
		removal := withEvent(task, changeSite(t, namespace, "updated", 801, 2, "one"))
		removal.IsRemoval = true
		_, err := do(t, runner, removal)
		expect(t, err, done)
		back := withEvent(task, changeSite(t, namespace, "updated", 801, 3, "one"))
		_, err = do(t, runner, back)
		expect(t, err, retry, "ConfigMap "+namespace+"/one: it is still being deleted")
		terminating := &list[corev1.ConfigMapList](t, namespace).Items[0]
		terminating.Finalizers = nil
		if err := plane.Client.Update(t.Context(), terminating); err != nil {
			t.Fatal(err)
		}
		mirror(t, task, back.Event, "ConfigMap NAMESPACE/one")
		expectData(t, namespace, map[string]string{"one": ""})
	})
	t.Run("waits", func(t *testing.T) {
		namespace := newMirrorNamespace(t)
		spec := newMirror(t, configMap(byName))
		spec.Apply.Wait = &v1alpha1.ApplyWait{Success: "has(object.data.ready)"}
		grant(t, namespace, serviceAccount, namespace, "", "configmaps", "get")
		task := newTask(t, changeSite(t, namespace, "created", 801, 1, "one"), spec)
		mirror(t, task, task.Event, "waits for ConfigMap NAMESPACE/one")
		task.WaitingSince = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
		mirror(t, task, task.Event, "waits for ConfigMap NAMESPACE/one")
		newer := changeSite(t, namespace, "deleted", 801, 2, "one")
		annotate(t, task.Event)
		mirror(t, task, task.Event, "skipped: event "+newer.Name+" is newer")
		task.WaitingSince = time.Time{}
		mirror(t, task, newer, "deleted ConfigMap NAMESPACE/one")
	})
	t.Run("results", func(t *testing.T) {
		namespace := newMirrorNamespace(t)
		task := usedBy(t, newTask(t, changeSite(t, namespace, "created", 801, 1, "one"), newMirror(t, configMap(byName))), "${results.do.object.metadata.name}")
		for at, kind := range []string{"updated", "deleted"} {
			result, err := attempt(t, runner, withEvent(task, changeSite(t, namespace, kind, 801, 2+at, "one")))
			expect(t, err, done)
			if string(result.Kept) != `{"object":{"metadata":{"name":"one"}}}` {
				t.Errorf("kept %s", result.Kept)
			}
		}
	})
}

// TestMirrorScopes mirrors objects in other namespaces, and in none.
func TestMirrorScopes(t *testing.T) {
	runner := newMirrorRunner(t)
	t.Run("a namespace from the event", func(t *testing.T) {
		namespace, other := plane.Namespace(t), plane.Namespace(t)
		for _, each := range []string{namespace, other} {
			grant(t, namespace, serviceAccount, each, "", "configmaps", "create", "patch", "list", "delete")
		}
		task := newTask(t, changeSite(t, namespace, "created", 801, 1, namespace), newMirror(t, configMap(`"metadata": {"name": "a", "namespace": "${data.name}"}`)))
		_, err := do(t, runner, task)
		expect(t, err, permanent, "all namespaces are searched, because the template's depends on the event", `cannot list resource "configmaps"`, "with a ClusterRole")

		grant(t, namespace, serviceAccount, "", "", "configmaps", "list")
		for at, where := range []string{namespace, other, namespace} {
			_, err := do(t, runner, withEvent(task, changeSite(t, namespace, "updated", 801, 2+at, where)))
			expect(t, err, done)
			for _, each := range []string{namespace, other} {
				if found := len(names(t, each)); (found == 1) != (each == where) {
					t.Errorf("%d ConfigMaps in %s, want one in %s", found, each, where)
				}
			}
		}
		_, err = do(t, runner, withEvent(task, changeSite(t, namespace, "deleted", 801, 9, "anything")))
		expect(t, err, done)
		if found := names(t, namespace); len(found) > 0 {
			t.Errorf("left %q", found)
		}
	})
	t.Run("another namespace", func(t *testing.T) {
		namespace, other := plane.Namespace(t), plane.Namespace(t)
		grant(t, namespace, serviceAccount, other, "", "configmaps", "create", "patch", "list", "delete")
		task := newTask(t, changeSite(t, namespace, "created", 801, 1, "one"), newMirror(t, configMap(fmt.Sprintf(`"metadata": {"name": "${data.name}", "namespace": %q}`, other))))
		for at, name := range []string{"one", "two"} {
			_, err := do(t, runner, withEvent(task, changeSite(t, namespace, "updated", 801, 2+at, name)))
			expect(t, err, done)
		}
		if found := names(t, other); !slices.Equal(found, []string{"two"}) {
			t.Errorf("ConfigMaps are %q", found)
		}
		removal := withEvent(task, changeSite(t, namespace, "updated", 801, 9, "two"))
		removal.IsRemoval = true
		_, err := do(t, runner, removal)
		expect(t, err, done)
		if found := names(t, other); len(found) > 0 {
			t.Errorf("left %q", found)
		}
	})
	t.Run("no namespace", func(t *testing.T) {
		namespace := plane.Namespace(t)
		grant(t, namespace, serviceAccount, "", "scheduling.k8s.io", "priorityclasses", "create", "patch", "list", "delete")
		task := newTask(t, changeSite(t, namespace, "created", 801, 1, "one"), newMirror(t, `{"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
			"metadata": {"name": "${event.namespace}-${data.name}"}, "value": 14}`))
		found := func() (found []string) {
			for _, each := range list[schedulingv1.PriorityClassList](t, "").Items {
				if name, ok := strings.CutPrefix(each.Name, namespace+"-"); ok {
					found = append(found, name)
				}
			}
			return found
		}
		for at, name := range []string{"two", "three"} {
			_, err := do(t, runner, withEvent(task, changeSite(t, namespace, "updated", 801, 2+at, name)))
			expect(t, err, done)
			if got := found(); !slices.Equal(got, []string{name}) {
				t.Errorf("PriorityClasses are %q, want %s", got, name)
			}
		}
		_, err := do(t, runner, withEvent(task, changeSite(t, namespace, "deleted", 801, 9, "three")))
		expect(t, err, done)
		if got := found(); len(got) > 0 {
			t.Errorf("left %q", got)
		}
	})
}

// TestMirrorWithoutEvents mirrors while the events cannot be listed, or not all of them.
func TestMirrorWithoutEvents(t *testing.T) {
	namespace := newMirrorNamespace(t)
	task := newTask(t, changeSite(t, namespace, "created", 801, 1, "one"), newMirror(t, configMap(`"metadata": {"name": "one"}`)))
	for reason, answer := range map[string]string{
		"an answer that is cut off": `{"kind": "NetBoxEventList", "items": [{"metadata": {"name": "a"}, "spec": {"event": "updated"}}`,
		"an answer of another kind": `[]`,
		"no answer":                 "",
	} {
		t.Run(reason, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, answer) }))
			defer server.Close()
			runner := newRunner(t, func(options *settings) { options.Config = &rest.Config{Host: server.URL, QPS: -1} })
			_, err := do(t, runner, task)
			expect(t, err, retry, "the events of dcim.site 801: ")
			if failure, ok := errors.AsType[*action.Failure](err); !ok || !failure.Unavailable {
				t.Errorf("%v does not make the API server unavailable", err)
			}
		})
	}
}
