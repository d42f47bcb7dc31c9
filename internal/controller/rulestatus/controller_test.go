package rulestatus_test

import (
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	kstatus "sigs.k8s.io/cli-utils/pkg/kstatus/status"
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

// TestReady makes a rule invalid, valid, suspended and a dry run. Flux and Argo CD evaluate its status as kstatus does.
func TestReady(t *testing.T) {
	r := &rulestatus.Reconciler{
		Rules: plane.Client, Compiled: rule.NewCache(), Tally: rulestatus.NewTally(clock.RealClock{}), Sinks: available{},
		Status: plane.Client, Clock: clock.RealClock{},
	}
	eventRule := &v1alpha1.NetBoxEventRule{
		ObjectMeta: metav1.ObjectMeta{Namespace: plane.Namespace(t), Name: "changing"},
		Spec: v1alpha1.NetBoxEventRuleSpec{
			Actions: []v1alpha1.Action{{Name: "note", Event: &v1alpha1.EventAction{Reason: "X", Message: "x"}}},
		},
	}
	plane.Create(t, eventRule)
	key := client.ObjectKeyFromObject(eventRule)
	for _, test := range []struct {
		change func(*v1alpha1.NetBoxEventRuleSpec)
		status metav1.ConditionStatus
		reason string
		want   kstatus.Status
	}{
		{func(s *v1alpha1.NetBoxEventRuleSpec) { s.Match.CEL = `event.user == "x"` }, metav1.ConditionFalse, v1alpha1.ReasonInvalid, kstatus.FailedStatus},
		{func(s *v1alpha1.NetBoxEventRuleSpec) { s.Match.CEL = `event.username == "x"` }, metav1.ConditionTrue, v1alpha1.ReasonCompiled, kstatus.CurrentStatus},
		{func(s *v1alpha1.NetBoxEventRuleSpec) { s.DryRun = true }, metav1.ConditionTrue, v1alpha1.ReasonDryRun, kstatus.CurrentStatus},
		{func(s *v1alpha1.NetBoxEventRuleSpec) { s.Suspend = true }, metav1.ConditionTrue, v1alpha1.ReasonSuspended, kstatus.CurrentStatus},
	} {
		t.Run(test.reason, func(t *testing.T) {
			test.change(&eventRule.Spec)
			if err := plane.Client.Update(t.Context(), eventRule); err != nil {
				t.Fatal(err)
			}
			if got := evaluate(t, eventRule); eventRule.Status.ObservedGeneration > 0 && got == kstatus.CurrentStatus {
				t.Errorf("kstatus is %s before the change is observed", got)
			}
			if _, err := r.Reconcile(t.Context(), reconcile.Request{NamespacedName: key}); err != nil {
				t.Fatal(err)
			}
			if err := plane.Client.Get(t.Context(), key, eventRule); err != nil {
				t.Fatal(err)
			}
			ready := meta.FindStatusCondition(eventRule.Status.Conditions, v1alpha1.ConditionReady)
			if ready == nil || ready.Status != test.status || ready.Reason != test.reason || ready.ObservedGeneration != eventRule.Generation {
				t.Errorf("Ready is %v, want %s %s of generation %d", ready, test.status, test.reason, eventRule.Generation)
			}
			if got := evaluate(t, eventRule); got != test.want {
				t.Errorf("kstatus is %s, want %s", got, test.want)
			}
		})
	}
}

// evaluate returns the status of a rule by kstatus.
func evaluate(t *testing.T, eventRule *v1alpha1.NetBoxEventRule) kstatus.Status {
	t.Helper()
	object, err := runtime.DefaultUnstructuredConverter.ToUnstructured(eventRule)
	if err != nil {
		t.Fatal(err)
	}
	result, err := kstatus.Compute(&unstructured.Unstructured{Object: object})
	if err != nil {
		t.Fatal(err)
	}
	return result.Status
}
