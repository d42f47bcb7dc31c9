package event

import (
	"strconv"
	"unique"

	"k8s.io/apimachinery/pkg/types"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/fairqueue"
)

// Keys are handles of 8 bytes: those of a large backlog are in several maps at one time, and Go's maps never shrink.

// lane identifies a NetBox object. A rule with an order delivers the events of a lane one after the other.
type lane struct{ unique.Handle[object] }

type object struct{ namespace, source, objectType, objectID string }

func laneOf(event *v1alpha1.NetBoxEvent) lane {
	spec := &event.Spec
	return lane{unique.Make(object{event.Namespace, spec.SourceRef.Name, spec.ObjectType, spec.ObjectID})}
}

// kind says what a key is of.
type kind byte

const (
	// ofLane is the delivery of a NetBox object's events in their order.
	ofLane kind = iota
	// ofEvent is the delivery of one event, for a rule without order.
	ofEvent
	// ofSink starts the deliveries that wait for the sink of one action.
	ofSink
)

// key is the unit of delivery: with one worker at a time.
type key struct{ unique.Handle[target] }

type target struct {
	rule types.NamespacedName
	kind kind
	lane lane
	name string // of the event or the action
}

func laneKey(rule string, lane lane) key {
	return key{unique.Make(target{rule: types.NamespacedName{Namespace: lane.Value().namespace, Name: rule}, kind: ofLane, lane: lane})}
}

func eventKey(rule string, event types.NamespacedName) key {
	return key{unique.Make(target{rule: types.NamespacedName{Namespace: event.Namespace, Name: rule}, kind: ofEvent, name: event.Name})}
}

func sinkKey(rule types.NamespacedName, action string) key {
	return key{unique.Make(target{rule: rule, kind: ofSink, name: action})}
}

// sinkFlow ends the name of the flow of a rule's keys of kind ofSink, which do not wait for its deliveries. No rule has such a name.
const sinkFlow = " sink"

func (k key) flow() fairqueue.Flow {
	target := k.Value()
	if target.kind == ofSink {
		return fairqueue.Flow{Group: target.rule.Namespace, Name: target.rule.Name + sinkFlow}
	}
	return fairqueue.Flow{Group: target.rule.Namespace, Name: target.rule.Name}
}

// logValues name the key in the log.
func (k key) logValues() []any {
	target := k.Value()
	values := []any{"namespace", target.rule.Namespace, "rule", target.rule.Name}
	switch target.kind {
	case ofLane:
		object := target.lane.Value()
		return append(values, "source", object.source, "objectType", object.objectType, "objectID", object.objectID)
	case ofEvent:
		return append(values, "name", target.name)
	default:
		return append(values, "action", target.name)
	}
}

// writeKey identifies the status of an event that is to be written: the one that finishes it, or one before.
type writeKey struct {
	event    *entry
	finishes bool
}

func (k writeKey) flow() fairqueue.Flow {
	return fairqueue.Flow{Group: k.event.name.Namespace, Name: strconv.FormatBool(k.finishes)}
}

func (k writeKey) logValues() []any { return k.event.logValues() }
