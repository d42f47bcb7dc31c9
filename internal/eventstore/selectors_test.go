package eventstore_test

import (
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/fields"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/eventstore"
)

// The selectors agree with Phase.IsFinished.
func TestSelectors(t *testing.T) {
	for _, phase := range []v1alpha1.Phase{v1alpha1.PhasePending, v1alpha1.PhaseSucceeded, v1alpha1.PhaseFailed} {
		event, finished := fields.Set{"status.phase": string(phase)}, phase.IsFinished()
		if eventstore.Pending.Matches(event) == finished || eventstore.Finished.Matches(event) != finished ||
			slices.Contains(eventstore.FinishedPhases, phase) != finished {
			t.Errorf("phase %s, finished %t: the selectors disagree", phase, finished)
		}
	}
}
