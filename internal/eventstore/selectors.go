package eventstore

import (
	"k8s.io/apimachinery/pkg/fields"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

// Selectors of pending and finished events. v1alpha1.Phase.IsFinished is the same predicate for one event.
var (
	Pending  = InPhase(v1alpha1.PhasePending)
	Finished = fields.OneTermNotEqualSelector("status.phase", string(v1alpha1.PhasePending))
)

// FinishedPhases are the phases that Finished selects.
var FinishedPhases = []v1alpha1.Phase{v1alpha1.PhaseSucceeded, v1alpha1.PhaseFailed}

// InPhase selects the events in a phase.
func InPhase(phase v1alpha1.Phase) fields.Selector {
	return fields.OneTermEqualSelector("status.phase", string(phase))
}

// OfSource selects the events of a source, which may have been deleted.
func OfSource(name string) fields.Selector {
	return fields.OneTermEqualSelector("spec.sourceRef.name", name)
}

// NotOfSource selects the events of all other sources.
func NotOfSource(name string) fields.Selector {
	return fields.OneTermNotEqualSelector("spec.sourceRef.name", name)
}

// InGroup selects the events whose first rule with groups delivered them in a group.
func InGroup(id string) fields.Selector {
	return fields.OneTermEqualSelector("status.group", id)
}

// FinishedInGroup selects those that are finished.
func FinishedInGroup(id string) fields.Selector {
	return fields.AndSelectors(InGroup(id), Finished)
}
