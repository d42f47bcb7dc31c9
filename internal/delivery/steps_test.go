package delivery_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/delivery"
)

func TestAdvance(t *testing.T) {
	const pending, succeeded, failed, skipped = v1alpha1.DeliveryPending, v1alpha1.DeliverySucceeded, v1alpha1.DeliveryFailed, v1alpha1.DeliverySkipped
	rule := &v1alpha1.NetBoxEventRule{Spec: v1alpha1.NetBoxEventRuleSpec{
		Actions: []v1alpha1.Action{
			{Name: "a"}, {Name: "b", DependsOn: []string{"a"}}, {Name: "c", DependsOn: []string{"b"}}, {Name: "d"},
		},
		OnFailure: []v1alpha1.Action{{Name: "alarm"}, {Name: "page", DependsOn: []string{"alarm"}}},
	}}
	type states []v1alpha1.DeliveryState
	for _, test := range []struct {
		reason    string
		rule      *v1alpha1.NetBoxEventRule
		given     states // of a, b, c, d
		want      states // of these, and of alarm and page where they are added
		responses map[string]string
	}{
		{"all wait", rule, states{pending, pending, pending, pending}, states{pending, pending, pending, pending}, nil},
		{"the others do not", rule, states{pending, pending, pending, succeeded}, states{pending, pending, pending, succeeded}, nil},
		{
			"one failed, others are pending", rule,
			states{failed, pending, pending, pending},
			states{failed, skipped, skipped, pending},
			map[string]string{"b": "action a failed", "c": "action b was skipped"},
		},
		{
			"it gives up", rule,
			states{failed, pending, pending, succeeded},
			states{failed, skipped, skipped, succeeded, pending, pending},
			map[string]string{"b": "action a failed", "c": "action b was skipped"},
		},
		{
			"skipped ones are no failure", rule,
			states{skipped, pending, pending, succeeded},
			states{skipped, skipped, skipped, succeeded},
			map[string]string{"b": "action a was skipped", "c": "action b was skipped"},
		},
		{
			"the rule was deleted", nil,
			states{succeeded, pending, pending, failed},
			states{succeeded, skipped, skipped, failed},
			map[string]string{"b": "the rule was deleted", "c": "the rule was deleted"},
		},
	} {
		t.Run(test.reason, func(t *testing.T) {
			now := time.Unix(1_800_000_000, 0)
			var actions []v1alpha1.ActionStatus
			for i, state := range test.given {
				actions = append(actions, v1alpha1.ActionStatus{Name: string("abcd"[i]), State: state})
			}
			for range 2 { // the second one changes nothing
				actions, _ = delivery.Advance(actions, test.rule, now)
			}
			var got states
			responses := map[string]string{}
			for _, action := range actions {
				got = append(got, action.State)
				if action.Response != "" {
					responses[action.Name] = action.Response
				}
			}
			if test.responses == nil {
				test.responses = map[string]string{}
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("states (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.responses, responses); diff != "" {
				t.Errorf("responses (-want +got):\n%s", diff)
			}
		})
	}
}

// TestStepTimes checks when the steps of a rule are due, and until when they are retried: an action that waited an hour for another has as
// long as one that did not.
func TestStepTimes(t *testing.T) {
	start := time.Unix(1_800_000_000, 0)
	rule := &v1alpha1.NetBoxEventRule{Spec: v1alpha1.NetBoxEventRuleSpec{
		Actions: []v1alpha1.Action{{Name: "a"}, {Name: "b", DependsOn: []string{"a"}}}, Retry: *retry,
	}}
	status := delivery.NewStatus([]v1alpha1.RuleStatus{delivery.NewRuleStatus(rule)}, nil, delivery.Replay{}, start)
	actions := status.Rules[0].Actions
	a, b := &actions[0], &actions[1]
	if !delivery.IsDue(a, actions, rule, start) || delivery.IsDue(b, actions, rule, start) {
		t.Errorf("at first, a alone must be due: %+v", actions)
	}
	wait := delivery.Outcome{Response: "waits for Job n/x", Wait: time.Minute}
	delivery.RecordAttempt(a, wait, retry, delivery.Deadline(status, a, retry), start)
	if next := delivery.Next(actions, rule, nil); !next.Equal(start.Add(time.Minute)) || a.Attempts != 0 {
		t.Errorf("the next attempt is at %s, want %s; %d attempts", next, start.Add(time.Minute), a.Attempts)
	}
	end := start.Add(time.Hour)
	delivery.RecordAttempt(a, delivery.Outcome{Kept: []byte(`{"object":{"kind":"Job"}}`)}, retry, delivery.Deadline(status, a, retry), end)
	actions, changed := delivery.Advance(actions, rule, end)
	if !changed || !delivery.IsDue(b, actions, rule, end) || a.WaitingSince != nil || string(a.Result["object"].Raw) != `{"kind":"Job"}` {
		t.Errorf("after a, b must be due: %+v", actions)
	}
	if got, want := delivery.Deadline(status, b, retry), end.Add(retry.For.Duration); !got.Equal(want) {
		t.Errorf("b is retried until %s, want %s", got, want)
	}
}

func TestReplayIsNew(t *testing.T) {
	for _, test := range []struct {
		reason            string
		requested, stored delivery.Replay
		want              bool
	}{
		{"none", delivery.Replay{}, delivery.Replay{}, false},
		{"all rules", delivery.Replay{Value: "1"}, delivery.Replay{}, true},
		{"all rules, done", delivery.Replay{Value: "1"}, delivery.Replay{Value: "1"}, false},
		{"one rule", delivery.Replay{Rule: "a"}, delivery.Replay{}, true},
		{"one rule, done", delivery.Replay{Rule: "a"}, delivery.Replay{Rule: "a"}, false},
		{"another rule", delivery.Replay{Rule: "b"}, delivery.Replay{Rule: "a"}, true},
		{"one rule after all", delivery.Replay{Value: "1", Rule: "a"}, delivery.Replay{Value: "1"}, true},
		{"one rule again", delivery.Replay{Value: "2", Rule: "a"}, delivery.Replay{Value: "1", Rule: "a"}, true},
		{"the annotation of the rule was removed", delivery.Replay{Value: "1"}, delivery.Replay{Value: "1", Rule: "a"}, false},
	} {
		t.Run(test.reason, func(t *testing.T) {
			status := &v1alpha1.NetBoxEventStatus{Replay: test.stored.Value, ReplayRule: test.stored.Rule}
			if got := test.requested.IsNew(status); got != test.want {
				t.Errorf("IsNew is %t", got)
			}
		})
	}
}

// TestReplayOfOneRule checks what a replay leaves alone.
func TestReplayOfOneRule(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	stored := &v1alpha1.NetBoxEventStatus{
		Phase: v1alpha1.PhaseFailed, StartTime: new(metav1.NewTime(now)), CompletionTime: new(metav1.NewTime(now)),
		Rules: []v1alpha1.RuleStatus{{Name: "new", State: v1alpha1.DeliveryFailed}, {Name: "old", State: v1alpha1.DeliverySucceeded}},
	}
	request := delivery.Replay{Rule: "new"}
	reopened := delivery.Reopen(stored, request)
	if reopened.Phase != v1alpha1.PhasePending || reopened.CompletionTime != nil || !request.IsNew(reopened) {
		t.Errorf("reopened as %+v", reopened)
	}
	fresh := delivery.NewStatus([]v1alpha1.RuleStatus{{Name: "new", State: v1alpha1.DeliveryPending}}, nil, request, now.Add(time.Minute))
	replayed := delivery.KeepOthers(fresh, reopened)
	want := []v1alpha1.RuleStatus{{Name: "new", State: v1alpha1.DeliveryPending}, {Name: "old", State: v1alpha1.DeliverySucceeded}}
	if diff := cmp.Diff(want, replayed.Rules); diff != "" {
		t.Errorf("rules (-want +got):\n%s", diff)
	}
	if request.IsNew(replayed) {
		t.Errorf("the status does not record the replay: %+v", replayed)
	}
}
