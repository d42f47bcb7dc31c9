package event

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

func TestForgetSources(t *testing.T) {
	registry := prometheus.NewRegistry()
	m := NewMetrics(registry)
	for _, name := range []string{"gone", "stays"} {
		e := &entry{line: &line{lane: lane("n" + laneSeparator + name + laneSeparator + laneSeparator)}}
		for _, phase := range []v1alpha1.Phase{v1alpha1.PhaseSucceeded, v1alpha1.PhaseFailed} {
			m.finished(e, &v1alpha1.NetBoxEventStatus{Phase: phase}, time.Now())
		}
	}
	m.ForgetSources(func(source string) bool { return source == "n/gone" })
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	left := 0
	for _, family := range families {
		left += len(family.GetMetric())
	}
	if left != 4 {
		t.Errorf("%d series are left, want the 4 of the source that stays", left)
	}
}
