package event_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/action"
	"github.com/netbox-events/netbox-event-operator/internal/controller/event"
	"github.com/netbox-events/netbox-event-operator/internal/eventstore"
)

// groupSink takes note of the groups that it is given.
type groupSink struct {
	mu     sync.Mutex
	groups []*action.Group
	fail   func(group *action.Group, attempt int) error // nil for never
}

func (s *groupSink) Do(_ context.Context, task action.Task) (action.Result, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	group := task.Group
	if group == nil {
		group = &action.Group{Events: []*v1alpha1.NetBoxEvent{task.Event}}
	}
	s.groups = append(s.groups, group)
	if s.fail != nil {
		if err := s.fail(group, len(s.groups)); err != nil {
			return action.Result{}, err
		}
	}
	return action.Result{Response: "taken"}, nil
}

// taken returns the names of the events of each call.
func (s *groupSink) taken() (calls [][]string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, group := range s.groups {
		var names []string
		for _, event := range group.Events {
			names = append(names, event.Name)
		}
		calls = append(calls, names)
	}
	return calls
}

func (s *groupSink) play(t *testing.T, namespace string) (stop func()) {
	t.Helper()
	_, stop = startWith(t, plane.Config, namespace, 0, nil, func(options *event.Options) { options.Actions = s })
	return stop
}

func grouped(by string, quiet time.Duration) func(*v1alpha1.NetBoxEventRuleSpec) {
	return func(spec *v1alpha1.NetBoxEventRuleSpec) {
		spec.Group = &v1alpha1.Group{By: by, Quiet: metav1.Duration{Duration: quiet}, MaxWait: metav1.Duration{Duration: time.Minute}, MaxEvents: 500}
	}
}

// bulkEdit returns the events of one request, of as many objects, in NetBox's order.
func bulkEdit(namespace, request string, count int) (events []*v1alpha1.NetBoxEvent) {
	now := time.Now()
	for i := range count {
		made := newEvent(namespace, 100+i, 0)
		made.Spec.RequestID = request
		made.Spec.Timestamp = metav1.NewMicroTime(made.Spec.Timestamp.Add(time.Duration(i) * time.Millisecond))
		made.Spec.Delivery.ReceivedAt = metav1.NewMicroTime(now.Add(time.Duration(i) * time.Millisecond))
		made.Name += "-" + strings.ToLower(request)
		events = append(events, made)
	}
	return events
}

func namesOf(events []*v1alpha1.NetBoxEvent) (names []string) {
	for _, event := range events {
		names = append(names, event.Name)
	}
	return names
}

// create creates events in another order than NetBox's, several at one time.
func create(t *testing.T, events []*v1alpha1.NetBoxEvent) {
	t.Helper()
	var creating sync.WaitGroup
	for part := range 8 {
		creating.Go(func() {
			for i := len(events) - 1 - part; i >= 0; i -= 8 {
				if err := plane.Client.Create(t.Context(), events[i].DeepCopy()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	creating.Wait()
}

func allFinished(t *testing.T, namespace string) bool {
	t.Helper()
	var pending v1alpha1.NetBoxEventList
	err := plane.Client.List(t.Context(), &pending, client.InNamespace(namespace), client.MatchingFieldsSelector{Selector: eventstore.Pending})
	if err != nil {
		t.Fatal(err)
	}
	return len(pending.Items) == 0
}

// TestBulkEdit has an edit of 500 devices delivered by one call, through a restart in the quiet time and one during the delivery.
func TestBulkEdit(t *testing.T) {
	namespace := plane.Namespace(t)
	plane.Create(t, newRule(namespace, "rule", grouped(v1alpha1.GroupByRequest, 3*time.Second)))
	s := &groupSink{fail: func(_ *action.Group, attempt int) error {
		if attempt == 1 {
			return &action.Failure{Err: errors.New("down"), Unavailable: true}
		}
		return nil
	}}
	stop := s.play(t, namespace)
	events := bulkEdit(namespace, "A", 500)
	create(t, events)
	stop()
	stop = s.play(t, namespace)
	eventually(t, "no call", 30*time.Second, func() bool { return len(s.taken()) > 0 })
	stop()
	s.play(t, namespace)
	eventually(t, "not finished", 30*time.Second, func() bool { return allFinished(t, namespace) })
	calls := s.taken()
	if len(calls) != 2 {
		t.Errorf("%d calls, want one that failed and one that did not", len(calls))
	}
	for _, call := range calls {
		if diff := cmp.Diff(namesOf(events), call); diff != "" {
			t.Errorf("%d events (-want +got):\n%.2000s", len(call), diff)
		}
	}
	if s.groups[0].ID != s.groups[1].ID {
		t.Errorf("the group has the ids %s and %s", s.groups[0].ID, s.groups[1].ID)
	}
	var group v1alpha1.NetBoxEventList
	err := plane.Client.List(t.Context(), &group, client.InNamespace(namespace),
		client.MatchingFieldsSelector{Selector: eventstore.InGroup(s.groups[0].ID)})
	if err != nil || len(group.Items) != len(events) {
		t.Errorf("the selector status.group finds %d events, %v", len(group.Items), err)
	}
	for i := range group.Items {
		status := group.Items[i].Status.Rules[0]
		if status.State != v1alpha1.DeliverySucceeded || status.Group.Events != 500 || status.Group.Members != nil {
			t.Fatalf("the status of %s is %+v, %+v", group.Items[i].Name, status, status.Group)
		}
	}
}

// TestDebounce saves one object ten times, creates and deletes another, and has events by themselves.
func TestDebounce(t *testing.T) {
	namespace := plane.Namespace(t)
	plane.Create(t, newRule(namespace, "rule", grouped(v1alpha1.GroupByObject, time.Second),
		func(spec *v1alpha1.NetBoxEventRuleSpec) { spec.Group.Net = true }))
	s := &groupSink{}
	s.play(t, namespace)
	var saved []string
	save := func(object, second int, event, before, after string) string {
		made := newEvent(namespace, object, second)
		made.Spec.Event = event
		made.Spec.Delivery.ReceivedAt = metav1.NowMicro()
		made.Spec.Data = v1alpha1.JSONObject{"id": v1alpha1.JSON{Raw: fmt.Append(nil, object)}}
		made.Spec.Snapshots = v1alpha1.JSONObject{"prechange": v1alpha1.JSON{Raw: []byte(before)}, "postchange": v1alpha1.JSON{Raw: []byte(after)}}
		plane.Create(t, made)
		return made.Name
	}
	for second := range 10 {
		saved = append(saved, save(1, second, "updated", fmt.Sprintf(`{"name": "v%d"}`, second), fmt.Sprintf(`{"name": "v%d"}`, second+1)))
	}
	save(2, 0, "created", `null`, `{"name": "x"}`)
	gone := save(2, 1, "deleted", `{"name": "x"}`, `null`)
	eventually(t, "not finished", 20*time.Second, func() bool { return allFinished(t, namespace) })
	if diff := cmp.Diff([][]string{saved}, s.taken()); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
	action := get(t, namespace, gone).Status.Rules[0].Actions[0]
	if action.State != v1alpha1.DeliverySkipped || action.Response != "the changes of the group come to nothing" {
		t.Errorf("the action on the object that came and went is %+v", action)
	}
}

// TestGrouping checks what is seen of an event while it waits for its group.
func TestGrouping(t *testing.T) {
	namespace := plane.Namespace(t)
	plane.Create(t, newRule(namespace, "rule", grouped(v1alpha1.GroupByRule, 15*time.Second)))
	s := &groupSink{}
	s.play(t, namespace)
	waiting := newEvent(namespace, 1, 0)
	waiting.Spec.Delivery.ReceivedAt = metav1.NowMicro()
	plane.Create(t, waiting)
	eventually(t, "the status says nothing", 14*time.Second, func() bool {
		condition := meta.FindStatusCondition(get(t, namespace, waiting.Name).Status.Conditions, v1alpha1.ConditionSucceeded)
		return condition != nil && condition.Reason == v1alpha1.ReasonGrouping && strings.Contains(condition.Message, "closes at")
	})
	eventually(t, "not finished", 20*time.Second, hasPhase(t, namespace, waiting.Name, v1alpha1.PhaseSucceeded))
}

// TestChangedGroups changes the groups of a rule while events wait for them, and then removes them.
func TestChangedGroups(t *testing.T) {
	namespace := plane.Namespace(t)
	rule := newRule(namespace, "rule", grouped(v1alpha1.GroupByRequest, time.Minute))
	plane.Create(t, rule)
	s := &groupSink{}
	s.play(t, namespace)
	change := func(change func(*v1alpha1.NetBoxEventRuleSpec)) {
		t.Helper()
		before := rule.DeepCopy()
		change(&rule.Spec)
		if err := plane.Client.Patch(t.Context(), rule, client.MergeFrom(before)); err != nil {
			t.Fatal(err)
		}
	}
	wait := func(events []*v1alpha1.NetBoxEvent) {
		t.Helper()
		create(t, events)
		time.Sleep(time.Second) // nothing shows yet that they wait
	}
	first, second := bulkEdit(namespace, "A", 3), bulkEdit(namespace, "B", 2)
	wait(first)
	change(func(spec *v1alpha1.NetBoxEventRuleSpec) { spec.Group.Quiet.Duration = 100 * time.Millisecond })
	eventually(t, "the new time is not used", 10*time.Second, func() bool { return allFinished(t, namespace) })
	change(func(spec *v1alpha1.NetBoxEventRuleSpec) { spec.Group.Quiet.Duration = time.Minute })
	wait(second)
	change(func(spec *v1alpha1.NetBoxEventRuleSpec) { spec.Group = nil })
	eventually(t, "not delivered one by one", 10*time.Second, func() bool { return allFinished(t, namespace) })
	calls := s.taken()
	if len(calls) != 3 || !cmp.Equal(calls[0], namesOf(first)) || len(calls[1])+len(calls[2]) != 2 {
		t.Errorf("calls %q", calls)
	}
}

// TestGroupsOfObjects has two groups that share an object, with their events interleaved.
func TestGroupsOfObjects(t *testing.T) {
	namespace := plane.Namespace(t)
	plane.Create(t, newRule(namespace, "rule", grouped(v1alpha1.GroupByRequest, time.Second)))
	s := &groupSink{}
	var want [][]string
	for _, request := range []string{"A", "B"} {
		want = append(want, namesOf(bulkEdit(namespace, request, 3)))
	}
	first, second := bulkEdit(namespace, "A", 3), bulkEdit(namespace, "B", 3)
	for i := range second {
		second[i].Spec.Timestamp = metav1.NewMicroTime(second[i].Spec.Timestamp.Add(500 * time.Microsecond))
	}
	s.play(t, namespace)
	create(t, append(slices.Clone(second), first...))
	eventually(t, "not finished", 20*time.Second, func() bool { return allFinished(t, namespace) })
	if diff := cmp.Diff(want, s.taken()); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}

// TestReplayOfGroup replays one event of a group, and with it the group. Another rule is left alone.
func TestReplayOfGroup(t *testing.T) {
	namespace := plane.Namespace(t)
	plane.Create(t, newRule(namespace, "grouped", grouped(v1alpha1.GroupByRequest, time.Second)))
	plane.Create(t, newRule(namespace, "single"))
	s := &groupSink{}
	s.play(t, namespace)
	events := bulkEdit(namespace, "A", 5)
	create(t, events)
	eventually(t, "not finished", 20*time.Second, func() bool { return allFinished(t, namespace) })
	before := len(s.taken())
	stored := get(t, namespace, events[3].Name)
	changed := stored.DeepCopy()
	changed.Annotations = map[string]string{v1alpha1.AnnotationReplayRule: "grouped"}
	if err := plane.Client.Patch(t.Context(), changed, client.MergeFrom(stored)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "not replayed", 30*time.Second, func() bool {
		return get(t, namespace, events[3].Name).Status.ReplayRule == "grouped" && allFinished(t, namespace)
	})
	if diff := cmp.Diff([][]string{namesOf(events)}, s.taken()[before:]); diff != "" {
		t.Errorf("calls of the replay (-want +got):\n%s", diff)
	}
}
