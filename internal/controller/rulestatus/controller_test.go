package rulestatus_test

import (
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/controller/rulestatus"
	"github.com/netbox-events/netbox-event-operator/internal/rule"
	"github.com/netbox-events/netbox-event-operator/test/controlplane"
)

var plane *controlplane.ControlPlane

func TestMain(m *testing.M) { controlplane.Main(m, &plane) }

// available has sinks that are available.
type available struct{}

func (available) SinkAvailable(types.NamespacedName) metav1.Condition {
	return metav1.Condition{Type: v1alpha1.ConditionSinkAvailable, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonAvailable}
}

// TestReady makes a rule invalid, and valid again. kstatus only evaluates the condition Ready and the generations.
func TestReady(t *testing.T) {
	r := &rulestatus.Reconciler{
		Rules: plane.Client, Compiled: rule.NewCache(), Tally: rulestatus.NewTally(clock.RealClock{}), Sinks: available{},
		Status: plane.Client, Clock: clock.RealClock{},
	}
	eventRule := &v1alpha1.NetBoxEventRule{
		ObjectMeta: metav1.ObjectMeta{Namespace: plane.Namespace(t), Name: "broken"},
		Spec: v1alpha1.NetBoxEventRuleSpec{
			Match:   v1alpha1.Match{Filter: v1alpha1.Filter{CEL: `event.user == "x"`}},
			Actions: []v1alpha1.Action{{Name: "note", Event: &v1alpha1.EventAction{Reason: "X", Message: "x"}}},
		},
	}
	plane.Create(t, eventRule)
	key := client.ObjectKeyFromObject(eventRule)
	expect := func(status metav1.ConditionStatus, reason string) {
		t.Helper()
		if _, err := r.Reconcile(t.Context(), reconcile.Request{NamespacedName: key}); err != nil {
			t.Fatal(err)
		}
		if err := plane.Client.Get(t.Context(), key, eventRule); err != nil {
			t.Fatal(err)
		}
		for _, kind := range []string{v1alpha1.ConditionReady, v1alpha1.ConditionAccepted} {
			condition := meta.FindStatusCondition(eventRule.Status.Conditions, kind)
			if condition == nil || condition.Status != status || condition.Reason != reason || condition.ObservedGeneration != eventRule.Generation {
				t.Errorf("%s is %v, want %s %s of generation %d", kind, condition, status, reason, eventRule.Generation)
			}
		}
		if eventRule.Status.ObservedGeneration != eventRule.Generation {
			t.Errorf("observedGeneration is %d, want %d", eventRule.Status.ObservedGeneration, eventRule.Generation)
		}
	}
	expect(metav1.ConditionFalse, v1alpha1.ReasonInvalid)
	eventRule.Spec.Match.CEL = `event.username == "x"`
	if err := plane.Client.Update(t.Context(), eventRule); err != nil {
		t.Fatal(err)
	}
	expect(metav1.ConditionTrue, v1alpha1.ReasonCompiled)
}
