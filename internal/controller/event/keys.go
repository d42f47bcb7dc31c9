package event

import (
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"github.com/netbox-events/netbox-event-operator/internal/fairqueue"
)

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
type key struct {
	namespace, rule string
	kind            kind
	id              string // the lane, or the names of the event or the action
}

func (k key) ruleName() types.NamespacedName {
	return types.NamespacedName{Namespace: k.namespace, Name: k.rule}
}

// sinkFlow ends the name of the flow of a rule's keys of kind ofSink, which do not wait for its deliveries. No rule has such a name.
const sinkFlow = " sink"

func (k key) flow() fairqueue.Flow {
	if k.kind == ofSink {
		return fairqueue.Flow{Group: k.namespace, Name: k.rule + sinkFlow}
	}
	return fairqueue.Flow{Group: k.namespace, Name: k.rule}
}

// logValues name the key in the log.
func (k key) logValues() []any {
	values := []any{"namespace", k.namespace, "rule", k.rule}
	switch k.kind {
	case ofLane:
		parts := strings.SplitN(k.id, laneSeparator, 4)
		return append(values, "source", parts[1], "objectType", parts[2], "objectID", parts[3])
	case ofEvent:
		return append(values, "name", k.id)
	default:
		return append(values, "action", k.id)
	}
}

// writeKey names the status of an event that is to be written: the one that finishes it, or one before.
type writeKey struct {
	event    types.NamespacedName
	finishes bool
}

func (k writeKey) flow() fairqueue.Flow {
	return fairqueue.Flow{Group: k.event.Namespace, Name: strconv.FormatBool(k.finishes)}
}

func (k writeKey) logValues() []any { return eventValues(k.event) }
