package rule

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	apicel "k8s.io/apiserver/pkg/cel"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

// groupType is the type of the variable group.
var groupType = apicel.NewObjectType("Group", fields(map[string]*apicel.DeclType{"id": apicel.StringType}))

// costPerEvent is the cost limit of an evaluation for each event that a group may have, and minCostLimit is Kubernetes' limit, which is the
// higher one for up to 1000 events. So a group of 5000 costs at most what five events do that are delivered by themselves.
const costPerEvent, minCostLimit = 1000, 1_000_000

// group compiles the key of a group, nil unless it is an expression, and declares the variables of groups for the actions that are compiled
// afterwards.
func (c *compiler) group(path string, spec *v1alpha1.Group) (key *expression) {
	if spec == nil {
		return nil
	}
	known := []string{v1alpha1.GroupByRequest, v1alpha1.GroupByObject, v1alpha1.GroupByRule}
	at := slices.IndexFunc(known, func(name string) bool { return strings.EqualFold(name, spec.By) })
	switch {
	case at < 0:
		key = c.expression(path+".by", spec.By, nil)
	case spec.By != known[at]:
		c.addError(path+".by", fmt.Errorf("write %s", known[at]))
	}
	c.scope.others = []string{variableEvents, variableChanges, variableGroup}
	if limit := uint64(costPerEvent * max(spec.MaxEvents, 0)); limit > minCostLimit {
		c.scope.costLimit = limit
	}
	c.isGrouped = true
	return key
}

// checkGrouping refuses what an action of a rule with groups cannot do, and what only such an action can.
func (c *compiler) checkGrouping(path string, action *v1alpha1.Action) {
	var format v1alpha1.HTTPFormat
	if action.HTTP != nil {
		format = action.HTTP.Format
	}
	isMirror := action.Apply != nil && action.Apply.Operation == v1alpha1.OperationMirror
	switch {
	case !c.isGrouped && format == v1alpha1.FormatCloudEventBatch:
		c.addError(path+".http.format", errors.New("CloudEventBatch is for groups of events; set spec.group, or use CloudEvent"))
	case c.isGrouped && (format == v1alpha1.FormatCloudEventBinary || format == v1alpha1.FormatNetBox):
		c.addError(path+".http.format", fmt.Errorf(
			"%s is for single events; use CloudEvent, CloudEventBatch or a body with templates, or remove spec.group", format))
	case c.isGrouped && isMirror:
		c.addError(path+".apply.operation", errors.New("Mirror follows single events; use Apply or Delete, or remove spec.group"))
	}
}

// GroupKey returns the key of an event's group among the groups of the rule: events with the same key belong together. It is the value of
// group.by as text, "" where that is null or fails.
func (r *Rule) GroupKey(ctx context.Context, event *v1alpha1.NetBoxEvent, in *Input) string {
	if r.Group == nil {
		return ""
	}
	spec := &event.Spec
	switch r.Group.By {
	case v1alpha1.GroupByRequest:
		if spec.RequestID != "" {
			return spec.SourceRef.Name + "/" + spec.RequestID
		}
		return event.Name // of a job: it belongs to no request, and is alone
	case v1alpha1.GroupByObject:
		if spec.ObjectID != "" {
			return spec.SourceRef.Name + "/" + cmp.Or(spec.ObjectType, spec.Model) + "/" + spec.ObjectID
		}
		return event.Name
	case v1alpha1.GroupByRule:
		return ""
	default:
		return r.groupKey.key(ctx, in)
	}
}

// NewGroupInput returns the Input of a group of events, which are in NetBox's order; at least one. The variables event, data, prechange and
// postchange are those of the last event. With net, it leaves out the NetBox objects whose changes come to nothing; if none is left, it
// returns false.
//
// Events are decoded where expressions read them, and not kept.
func NewGroupInput(events []*v1alpha1.NetBoxEvent, id string, net bool, now time.Time) (*Input, bool) {
	decoder := &decoder{}
	changes := func() []*change { return changesOf(events, decoder) }
	if net {
		all := changes()
		left := slices.DeleteFunc(all, func(change *change) bool { return change.event == changeNone })
		if len(left) == 0 {
			return nil, false
		}
		changes = func() []*change { return left }
		events = eventsOf(left, events)
	}
	in := NewInput(events[len(events)-1], now).with(map[string]any{
		variableEvents: func() any {
			return deferAll(events, func(event *v1alpha1.NetBoxEvent) source { return &eventSource{decoder: decoder, event: event} })
		},
		variableChanges: func() any { return deferAll(changes(), func(change *change) source { return change }) },
		variableGroup:   map[string]any{"id": id},
	})
	in.events = events
	return in, true
}

// Events returns the events of a group that expressions see, nil for a single event.
func (in *Input) Events() []*v1alpha1.NetBoxEvent { return in.events }

// eventsOf returns those of a list of events that are of changes.
func eventsOf(changes []*change, events []*v1alpha1.NetBoxEvent) []*v1alpha1.NetBoxEvent {
	wanted := map[*v1alpha1.NetBoxEvent]bool{}
	for _, change := range changes {
		for _, event := range change.events {
			wanted[event] = true
		}
	}
	return slices.DeleteFunc(slices.Clone(events), func(event *v1alpha1.NetBoxEvent) bool { return !wanted[event] })
}

// deferAll returns a CEL list of deferred maps.
func deferAll[T any](elements []T, sourceOf func(T) source) ref.Val {
	list := make([]ref.Val, len(elements))
	for i, element := range elements {
		list[i] = deferred{sourceOf(element)}
	}
	return types.NewRefValList(types.DefaultTypeAdapter, list)
}

// eventSource is an event of a group, with the fields of eventType.
type eventSource struct {
	decoder *decoder
	event   *v1alpha1.NetBoxEvent
	fields  map[string]any // nil until they are used; free-form JSON is deferred
}

func (s *eventSource) all() map[string]any {
	if s.fields == nil {
		object := s.decoder.object
		s.fields = eventFields(s.event, object(s.event.Spec.Data), object(s.event.Spec.Snapshots), object)
	}
	return s.fields
}

func (s *eventSource) find(name string) (any, bool) {
	value, ok := s.all()[name]
	return value, ok
}

// fieldsWeight is the weight of the fields of an event or a change besides its free-form JSON. Texts of NetBox among them are also in that,
// where they count twice.
const fieldsWeight = 2 << 10

func (s *eventSource) weight() int {
	spec := &s.event.Spec
	weight := fieldsWeight
	for _, object := range []v1alpha1.JSONObject{spec.Data, spec.Snapshots, spec.Request, spec.Context, spec.Extra, spec.Delivery.Envelope} {
		weight += weightOf(object)
	}
	for _, pointers := range [][]string{spec.Delivery.Stringified, spec.Delivery.Redacted} {
		for _, pointer := range pointers {
			weight += valueBytes + len(pointer)
		}
	}
	return weight
}
