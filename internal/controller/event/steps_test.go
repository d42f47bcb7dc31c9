package event_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/action"
	"github.com/netbox-events/netbox-event-operator/internal/controller/event"
)

// script does actions by their names, and takes note of the messages of log actions.
type script struct {
	mu       sync.Mutex
	messages []string
	tasks    []action.Task
	do       map[string]func(action.Task) (action.Result, error)
}

func (s *script) Do(ctx context.Context, task action.Task) (action.Result, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tasks = append(s.tasks, task)
	if task.Action.Message != nil {
		message, err := task.Action.Message.Text(ctx, task.Input)
		if err != nil {
			return action.Result{}, &action.Failure{Err: err, Permanent: true}
		}
		s.messages = append(s.messages, task.Action.Spec.Name+": "+message)
	}
	if do := s.do[task.Action.Spec.Name]; do != nil {
		return do(task)
	}
	return action.Result{Response: "done"}, nil
}

func (s *script) said() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.messages)
}

// play runs the controller with a script.
func (s *script) play(t *testing.T, namespace string) {
	t.Helper()
	startWith(t, plane.Config, namespace, 0, nil, func(options *event.Options) { options.Actions = s })
}

func say(name, message string, dependsOn ...string) v1alpha1.Action {
	return v1alpha1.Action{Name: name, DependsOn: dependsOn, Log: &v1alpha1.LogAction{Message: message}}
}

func statesOf(t *testing.T, namespace, name string) map[string]string {
	t.Helper()
	states := map[string]string{}
	for _, rule := range get(t, namespace, name).Status.Rules {
		for _, action := range rule.Actions {
			states[action.Name] = string(action.State)
			if action.State == v1alpha1.DeliverySkipped {
				states[action.Name] += ": " + action.Response
			}
		}
	}
	return states
}

// TestSteps runs a rule whose steps depend on each other and on results, through a restart between them.
func TestSteps(t *testing.T) {
	namespace := plane.Namespace(t)
	rule := newRule(namespace, "steps", func(spec *v1alpha1.NetBoxEventRuleSpec) {
		spec.Actions = []v1alpha1.Action{
			say("create", "create"),
			say("use", "id ${results.create.response.body.id}", "create"),
			say("never", "x", "create"),
			say("after", "x", "never"),
			say("alone", "alone"),
		}
		spec.Actions[2].When = `results.create.response.body.id == 8`
	})
	plane.Create(t, rule)
	results := 0
	s := &script{do: map[string]func(action.Task) (action.Result, error){
		"create": func(action.Task) (action.Result, error) {
			if results++; results == 1 {
				return action.Result{Response: "waits for it", Wait: time.Hour}, nil
			}
			return action.Result{}, errors.New("created twice")
		},
	}}
	_, stop := startWith(t, plane.Config, namespace, 0, nil, func(options *event.Options) { options.Actions = s })
	created := newEvent(namespace, 1, 0)
	plane.Create(t, created)
	eventually(t, "does not say that it waits", 10*time.Second, func() bool {
		condition := meta.FindStatusCondition(get(t, namespace, created.Name).Status.Conditions, v1alpha1.ConditionSucceeded)
		return condition != nil && condition.Reason == v1alpha1.ReasonWaiting
	})
	stop()
	s.mu.Lock()
	s.do["create"] = func(task action.Task) (action.Result, error) {
		if task.WaitingSince.IsZero() {
			return action.Result{}, errors.New("it was to go on with waiting")
		}
		kept, err := task.Action.Keep(map[string]any{"response": map[string]any{"status": 201, "body": map[string]any{"id": 7, "more": "x"}}})
		return action.Result{Response: "201 Created", Kept: kept}, err
	}
	s.mu.Unlock()
	stored := get(t, namespace, created.Name) // the time to look again has come
	for i := range stored.Status.Rules[0].Actions {
		if next := &stored.Status.Rules[0].Actions[i].NextAttemptTime; *next != nil {
			*next = new(metav1.Now())
		}
	}
	if err := plane.Client.Status().Update(t.Context(), stored); err != nil {
		t.Fatal(err)
	}
	s.play(t, namespace)
	eventually(t, "not finished", 10*time.Second, hasPhase(t, namespace, created.Name, v1alpha1.PhaseSucceeded))
	want := map[string]string{
		"create": "Succeeded", "use": "Succeeded", "never": "Skipped: when is false", "after": "Skipped: action never was skipped", "alone": "Succeeded",
	}
	if diff := cmp.Diff(want, statesOf(t, namespace, created.Name)); diff != "" {
		t.Errorf("states (-want +got):\n%s", diff)
	}
	if said := s.said(); !slices.Contains(said, "use: id 7") || said[1] != "alone: alone" {
		t.Errorf("said %q", said)
	}
	kept, err := json.Marshal(get(t, namespace, created.Name).Status.Rules[0].Actions[0].Result)
	if err != nil || string(kept) != `{"response":{"body":{"id":7}}}` {
		t.Errorf("result is %s, %v: only what others use is to be kept", kept, err)
	}
}

// TestOnFailure has a rule give up, and announce it, once.
func TestOnFailure(t *testing.T) {
	namespace := plane.Namespace(t)
	plane.Create(t, newRule(namespace, "rule", func(spec *v1alpha1.NetBoxEventRuleSpec) {
		spec.Actions = []v1alpha1.Action{say("send", "x"), say("then", "x", "send"), say("other", "other")}
		spec.OnFailure = []v1alpha1.Action{say("alarm", "${failure.action} failed on ${event.name}: ${failure.error}"), say("fine", "x")}
		spec.OnFailure[1].When = `failure.action != "send"`
	}))
	attempts := 0
	s := &script{do: map[string]func(action.Task) (action.Result, error){
		"send": func(action.Task) (action.Result, error) {
			return action.Result{}, &action.Failure{Err: errors.New("answered with 404 Not Found"), Permanent: true}
		},
		"alarm": func(action.Task) (action.Result, error) {
			if attempts++; attempts == 1 {
				return action.Result{}, &action.Failure{Err: errors.New("down"), Unavailable: true}
			}
			return action.Result{Response: "200 OK"}, nil
		},
	}}
	s.play(t, namespace)
	created := newEvent(namespace, 1, 0)
	plane.Create(t, created)
	eventually(t, "not given up", 10*time.Second, hasPhase(t, namespace, created.Name, v1alpha1.PhaseFailed))
	want := map[string]string{
		"send": "Failed", "then": "Skipped: action send failed", "other": "Succeeded", "alarm": "Succeeded", "fine": "Skipped: when is false",
	}
	if diff := cmp.Diff(want, statesOf(t, namespace, created.Name)); diff != "" {
		t.Errorf("states (-want +got):\n%s", diff)
	}
	message := fmt.Sprintf("alarm: send failed on %s: answered with 404 Not Found", created.Name)
	if said := s.said(); said[len(said)-1] != message {
		t.Errorf("said %q, want %q at the end", said, message)
	}
}

// TestSuspendAndReplayOneRule makes events while one rule is suspended, and replays that rule alone.
func TestSuspendAndReplayOneRule(t *testing.T) {
	namespace := plane.Namespace(t)
	plane.Create(t, newRule(namespace, "old"))
	suspended := newRule(namespace, "new", func(spec *v1alpha1.NetBoxEventRuleSpec) { spec.Suspend = true })
	plane.Create(t, suspended)
	sink := newSink(func(action.Task, int) error { return nil })
	startWith(t, plane.Config, namespace, 0, sink.do)
	created := newEvent(namespace, 1, 0)
	plane.Create(t, created)
	eventually(t, "not finished", 10*time.Second, hasPhase(t, namespace, created.Name, v1alpha1.PhaseSucceeded))
	replay := func(rule string) {
		t.Helper()
		stored := get(t, namespace, created.Name)
		before := stored.DeepCopy()
		stored.Annotations = map[string]string{v1alpha1.AnnotationReplayRule: rule}
		if err := plane.Client.Patch(t.Context(), stored, client.MergeFrom(before)); err != nil {
			t.Fatal(err)
		}
		eventually(t, "not replayed", 15*time.Second, func() bool {
			status := get(t, namespace, created.Name).Status
			return status.ReplayRule == rule && status.Phase == v1alpha1.PhaseSucceeded
		})
	}
	replay("missing")
	condition := meta.FindStatusCondition(get(t, namespace, created.Name).Status.Conditions, v1alpha1.ConditionMatched)
	if want := "rule missing does not match: there is no such rule that is ready and not suspended; correct the annotation netbox-events.io/replay-rule"; condition == nil ||
		condition.Message != want {
		t.Errorf("Matched is %v, want %q", condition, want)
	}
	suspended.Spec.Suspend = false
	if err := plane.Client.Update(t.Context(), suspended); err != nil {
		t.Fatal(err)
	}
	replay("new")
	if old, fresh := sink.taken("old"), sink.taken("new"); len(old) != 1 || len(fresh) != 1 {
		t.Errorf("old was delivered %d times, new %d times, want 1 and 1", len(old), len(fresh))
	}
	if got := len(get(t, namespace, created.Name).Status.Rules); got != 2 {
		t.Errorf("the status has %d rules, want both", got)
	}
}

// TestSuspendWhileRunning suspends a rule while it retries an event: the event is delivered, and the next one is not matched.
func TestSuspendWhileRunning(t *testing.T) {
	namespace := plane.Namespace(t)
	rule := newRule(namespace, "rule")
	plane.Create(t, rule)
	var isSuspended atomic.Bool
	sink := newSink(func(action.Task, int) error {
		if !isSuspended.Load() {
			return errors.New("not yet")
		}
		return nil
	})
	startWith(t, plane.Config, namespace, 0, sink.do)
	first, second := newEvent(namespace, 1, 0), newEvent(namespace, 1, 1)
	plane.Create(t, first)
	eventually(t, "not begun", 10*time.Second, func() bool { return sink.attempts("rule/act "+first.Name) > 0 })
	before := rule.DeepCopy()
	rule.Spec.Suspend = true
	if err := plane.Client.Patch(t.Context(), rule, client.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "not suspended", 10*time.Second, func() bool {
		if err := plane.Client.Get(t.Context(), client.ObjectKeyFromObject(rule), rule); err != nil {
			t.Fatal(err)
		}
		ready := meta.FindStatusCondition(rule.Status.Conditions, v1alpha1.ConditionReady)
		return ready != nil && ready.Reason == v1alpha1.ReasonSuspended
	})
	isSuspended.Store(true)
	eventually(t, "the event is not delivered", 10*time.Second, hasPhase(t, namespace, first.Name, v1alpha1.PhaseSucceeded))
	plane.Create(t, second)
	eventually(t, "the next event is not finished", 10*time.Second, hasPhase(t, namespace, second.Name, v1alpha1.PhaseSucceeded))
	if taken := sink.taken("rule"); len(taken) != 1 || taken[0] != first.Name {
		t.Errorf("delivered %q, want %s alone", taken, first.Name)
	}
}

// TestDryRun checks that a rule with dryRun tells its actions so, and skips what needs results, which it does not have.
func TestDryRun(t *testing.T) {
	namespace := plane.Namespace(t)
	steps := func(spec *v1alpha1.NetBoxEventRuleSpec) {
		spec.Actions = []v1alpha1.Action{say("create", "x"), say("use", "id ${results.create.response.body.id}", "create"), say("check", "x", "create")}
		spec.Actions[2].When = "results.create.response.body.id == 8"
	}
	plane.Create(t,
		newRule(namespace, "dry", steps, func(spec *v1alpha1.NetBoxEventRuleSpec) { spec.DryRun = true }),
		newRule(namespace, "failing", func(spec *v1alpha1.NetBoxEventRuleSpec) {
			spec.Actions = []v1alpha1.Action{say("send", "x")}
			spec.Actions[0].When = "data.missing == 1"
		}),
	)
	s := &script{}
	s.play(t, namespace)
	created := newEvent(namespace, 1, 0)
	plane.Create(t, created)
	eventually(t, "not finished", 10*time.Second, hasPhase(t, namespace, created.Name, v1alpha1.PhaseFailed))
	got := map[string]string{}
	for _, rule := range get(t, namespace, created.Name).Status.Rules {
		for _, action := range rule.Actions {
			text, _, _ := strings.Cut(action.Response+action.LastError, "; ")
			got[action.Name] = string(action.State) + " " + text
		}
	}
	const noResult = `results.create.response: results.create is null`
	want := map[string]string{
		"create": "Succeeded done", "use": "Succeeded dry run: it needs the result of another action: " + noResult,
		"check": "Skipped dry run: when needs the result of another action: " + noResult, "send": "Failed when: data.missing: no such key",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("actions (-want +got):\n%s", diff)
	}
	for _, task := range s.tasks {
		if !task.IsDryRun || task.Rule.Name != "dry" {
			t.Errorf("action %s of rule %s was executed, dry run %t", task.Action.Spec.Name, task.Rule.Name, task.IsDryRun)
		}
	}
}

// TestRemovals checks which events a rule with a Mirror action removes its object for.
func TestRemovals(t *testing.T) {
	namespace := plane.Namespace(t)
	template := v1alpha1.JSONObject{}
	if err := json.Unmarshal([]byte(`{"apiVersion": "v1", "kind": "ConfigMap"}`), &template); err != nil {
		t.Fatal(err)
	}
	plane.Create(t, newRule(namespace, "rule", func(spec *v1alpha1.NetBoxEventRuleSpec) {
		spec.Match.ObjectTypes, spec.Match.CEL = []string{"dcim.site"}, `data.status == "active"`
		spec.ServiceAccountName = "mirror"
		spec.Actions = []v1alpha1.Action{
			{Name: "mirror", Apply: &v1alpha1.ApplyAction{Operation: v1alpha1.OperationMirror, Template: template}}, say("note", "x"),
		}
	}))
	s := &script{}
	s.play(t, namespace)
	var got []string
	for i, of := range []struct{ event, objectType, status string }{
		{"created", "dcim.site", "active"},
		{"updated", "dcim.site", "planned"},
		{"deleted", "dcim.site", "planned"},
		{"deleted", "dcim.site", "active"},
		{"updated", "dcim.device", "planned"},
	} {
		made := newEvent(namespace, 1, i)
		made.Spec.Event, made.Spec.ObjectType = of.event, of.objectType
		made.Spec.Data = v1alpha1.JSONObject{"status": v1alpha1.JSON{Raw: []byte(`"` + of.status + `"`)}}
		plane.Create(t, made)
		eventually(t, "not finished", 10*time.Second, hasPhase(t, namespace, made.Name, v1alpha1.PhaseSucceeded))
		summary := of.event + " " + of.status + ":"
		for _, task := range s.tasks {
			if task.Event.Name == made.Name {
				summary += fmt.Sprintf(" %s (removal %t)", task.Action.Spec.Name, task.IsRemoval)
			}
		}
		got = append(got, summary)
	}
	want := []string{
		"created active: mirror (removal false) note (removal false)",
		"updated planned: mirror (removal true)",
		"deleted planned: mirror (removal true)",
		"deleted active: mirror (removal false) note (removal false)",
		"updated planned:",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("actions (-want +got):\n%s", diff)
	}
	if counted := get(t, namespace, newEvent(namespace, 1, 1).Name).Status.Rules[0]; !counted.Removal || len(counted.Actions) != 1 {
		t.Errorf("the status of a removal is %+v", counted)
	}
}

// TestLimits starts many events of two sites at once.
func TestLimits(t *testing.T) {
	namespace := plane.Namespace(t)
	plane.Create(t, newRule(namespace, "rule", func(spec *v1alpha1.NetBoxEventRuleSpec) {
		spec.Order = v1alpha1.OrderNone
		spec.Limit = v1alpha1.Limit{Concurrency: 1, PerSecond: 100, Key: `event.objectID == "1" ? "ams" : "fra"`}
	}))
	var mu sync.Mutex
	inFlight, most := map[string]int{}, map[string]int{}
	sink := newSink(func(task action.Task, _ int) error {
		site := map[bool]string{true: "ams", false: "fra"}[task.Event.Spec.ObjectID == "1"]
		count := func(change int) {
			mu.Lock()
			defer mu.Unlock()
			inFlight[site] += change
			most[site] = max(most[site], inFlight[site])
			most["all"] = max(most["all"], inFlight["ams"]+inFlight["fra"])
		}
		count(1)
		time.Sleep(30 * time.Millisecond)
		count(-1)
		return nil
	})
	for second := range 10 {
		plane.Create(t, newEvent(namespace, 1, second))
		plane.Create(t, newEvent(namespace, 2, second))
	}
	startWith(t, plane.Config, namespace, 0, sink.do)
	eventually(t, "not delivered", 20*time.Second, func() bool { return len(sink.taken("rule")) == 20 })
	if diff := cmp.Diff(map[string]int{"ams": 1, "fra": 1, "all": 2}, most); diff != "" {
		t.Errorf("deliveries at once (-want +got):\n%s", diff)
	}
	eventually(t, "not finished", 10*time.Second, hasPhase(t, namespace, newEvent(namespace, 1, 0).Name, v1alpha1.PhaseSucceeded))
	if key := get(t, namespace, newEvent(namespace, 1, 0).Name).Status.Rules[0].LimitKey; key != "ams" {
		t.Errorf("limitKey is %q", key)
	}
}
