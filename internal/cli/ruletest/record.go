package ruletest

import (
	"encoding/json"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

// operatorPrefix begins the labels and annotations that the operator adds to objects.
const operatorPrefix = "netbox-events.io/"

// Expectation returns the outcome as an expectation that it meets. It leaves out the actions that lack an answer of NetBox or the result of
// another action, and what the operator adds to the metadata of objects. It reports whether it left out actions.
func (o *Outcome) Expectation(r *Rule) (expectation *Expectation, isPartial bool, err error) {
	lacking := map[string]bool{}
	for _, action := range o.Actions {
		spec := r.Compiled.Find(action.Name).Spec
		for _, name := range spec.DependsOn {
			action.lacks = action.lacks || lacking[name]
		}
		lacking[action.Name], isPartial = action.lacks, isPartial || action.lacks
	}
	recorded := *o
	recorded.Event, recorded.Actions = "", nil
	for _, action := range o.Actions {
		if action.lacks || isPartial && !r.isInActions(action.Name) {
			continue // onFailure follows from what is lacking
		}
		recorded.Actions = append(recorded.Actions, action.recorded())
	}
	encoded, err := json.Marshal(&recorded)
	if err != nil {
		return nil, false, err
	}
	expectation = &Expectation{}
	return expectation, isPartial, json.Unmarshal(encoded, expectation)
}

func (r *Rule) isInActions(name string) bool {
	return slices.ContainsFunc(r.Spec.Actions, func(action v1alpha1.Action) bool { return action.Name == name })
}

// recorded returns a copy of the action without what the operator adds.
func (a *Action) recorded() *Action {
	recorded := *a
	recorded.Object = withoutMetadata(a.Object)
	recorded.Objects = nil
	for _, object := range a.Objects {
		recorded.Objects = append(recorded.Objects, withoutMetadata(object))
	}
	return &recorded
}

// withoutMetadata returns an object without the labels and annotations of the operator.
func withoutMetadata(object map[string]any) map[string]any {
	if object == nil {
		return nil
	}
	copied := runtime.DeepCopyJSON(object)
	metadata := copied["metadata"].(map[string]any) // Render sets labels
	for _, field := range []string{"labels", "annotations"} {
		values, _ := metadata[field].(map[string]any)
		for name := range values {
			if strings.HasPrefix(name, operatorPrefix) {
				delete(values, name)
			}
		}
		if len(values) == 0 {
			delete(metadata, field)
		}
	}
	return copied
}
