package event

import (
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/fairqueue"
)

// lane identifies a NetBox object: namespace, source, object type and object ID, joined by laneSeparator. A rule with an order delivers the
// events of a lane one after the other.
type lane string

const laneSeparator = "\x00"

func laneOf(event *v1alpha1.NetBoxEvent) lane {
	spec := &event.Spec
	return lane(strings.Join([]string{event.Namespace, spec.SourceRef.Name, spec.ObjectType, spec.ObjectID}, laneSeparator))
}

// source returns the source of the object. It shares the memory of the lane.
func (l lane) source() types.NamespacedName {
	parts := strings.SplitN(string(l), laneSeparator, 3)
	return types.NamespacedName{Namespace: parts[0], Name: parts[1]}
}

func (l lane) logValues() []any {
	parts := strings.SplitN(string(l), laneSeparator, 4)
	return []any{"source", parts[1], "objectType", parts[2], "objectID", parts[3]}
}

// unit is the key of the delivery queue: one worker at a time has it. It is a pointer because the units of a large backlog are in several
// maps at the same time, and Go's maps never shrink. The ledger and the circuits keep one for each purpose:
//
//   - the deliveries of a rule in a lane, in the order of its events;
//   - the delivery of one event, for a rule without order;
//   - the deliveries of a rule's groups with one key, one after the other;
//   - the release of the deliveries that are parked at the sink of an action.
type unit struct {
	rule   types.NamespacedName
	line   *line  // of a lane
	event  *entry // without order
	groups *groupLine
	action string // of a sink

	waiting *entry // whose delivery, of a lane, waits for its result; nil for none

	events   int32 // of the line that the rule still has to deliver
	inFlight int32 // deliveries, even of deleted events
}

// sinkFlow ends the name of the flow of a rule's units of sinks, which do not wait for its deliveries. No rule has such a name.
const sinkFlow = " sink"

func (u *unit) flow() fairqueue.Flow {
	if u.action != "" {
		return fairqueue.Flow{Group: u.rule.Namespace, Name: u.rule.Name + sinkFlow}
	}
	return fairqueue.Flow{Group: u.rule.Namespace, Name: u.rule.Name}
}

// logValues name the unit in the log.
func (u *unit) logValues() []any {
	values := []any{"namespace", u.rule.Namespace, "rule", u.rule.Name}
	switch {
	case u.line != nil:
		return append(values, u.line.lane.logValues()...)
	case u.event != nil:
		return append(values, "name", u.event.name.Name)
	case u.groups != nil:
		return append(values, "groupKey", u.groups.key.key)
	default:
		return append(values, "action", u.action)
	}
}

// writeKey identifies a pending status write of an event: the final one, or an earlier one.
type writeKey struct {
	event    *entry
	finishes bool
}

func (k writeKey) flow() fairqueue.Flow {
	return fairqueue.Flow{Group: k.event.name.Namespace, Name: strconv.FormatBool(k.finishes)}
}

func (k writeKey) logValues() []any { return k.event.logValues() }
