package rule

import (
	"cmp"
	"slices"
	"strings"

	apicel "k8s.io/apiserver/pkg/cel"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/netbox"
)

// Events of NetBox that change an object. All others change nothing.
const (
	eventCreated = "created"
	eventUpdated = "updated"
	eventDeleted = "deleted"
)

// changeNone is the event of a change that comes to nothing.
const changeNone = "none"

// changeType is the type of the elements of the variable changes.
var changeType = apicel.NewObjectType("Change", fields(map[string]*apicel.DeclType{
	"event":         apicel.StringType,
	"objectType":    apicel.StringType,
	"model":         apicel.StringType,
	"objectID":      apicel.StringType,
	"objectURL":     apicel.StringType,
	"objectName":    apicel.StringType,
	"branch":        apicel.StringType,
	"data":          apicel.DynType,
	"prechange":     apicel.DynType,
	"postchange":    apicel.DynType,
	"changedFields": apicel.NewListType(apicel.StringType, -1),
	"events":        apicel.IntType,
}))

// change is what the events of a NetBox object in a group come to.
type change struct {
	decoder *decoder
	events  []*v1alpha1.NetBoxEvent
	// event is created, updated or deleted; none for an object that was created and deleted, or is as before; and the last event for an object
	// that has other events alone.
	event string
	// prechange and postchange are the first and the last snapshot as JSON: null, or nil, for an object that did not exist, and where NetBox
	// sent none.
	prechange, postchange []byte
	changedFields         []string // of an update

	fields map[string]any // nil until they are used; free-form JSON is deferred
}

// changesOf returns the changes of the NetBox objects in a group, in the order of their first events.
func changesOf(events []*v1alpha1.NetBoxEvent, decoder *decoder) []*change {
	type key struct{ source, objectType, model, id, branch, name string }
	var changes []*change
	found := map[key]*change{}
	for _, event := range events {
		spec := &event.Spec
		key := key{spec.SourceRef.Name, spec.ObjectType, spec.Model, spec.ObjectID, spec.Branch, ""}
		if spec.ObjectID == "" { // of a job: none has to do with another
			key.name = event.Name
		}
		if found[key] == nil {
			found[key] = &change{decoder: decoder}
			changes = append(changes, found[key])
		}
		found[key].events = append(found[key].events, event)
	}
	for _, change := range changes {
		change.compute()
	}
	return changes
}

// compute computes the change from its events.
func (c *change) compute() {
	var events []*v1alpha1.NetBoxEvent // that change the object
	var first, last string             // creation or deletion
	for _, event := range c.events {
		switch event.Spec.Event {
		case eventCreated, eventDeleted:
			first, last = cmp.Or(first, event.Spec.Event), event.Spec.Event
		case eventUpdated:
		default:
			continue
		}
		events = append(events, event)
	}
	if len(events) == 0 {
		c.event = c.newest().Spec.Event
		return
	}
	existed, exists := first != eventCreated, last != eventDeleted // before and after the group
	if existed {
		c.prechange = events[0].Spec.Snapshots["prechange"].Raw
	}
	if exists {
		c.postchange = events[len(events)-1].Spec.Snapshots["postchange"].Raw
	}
	switch {
	case !existed && !exists:
		c.event = changeNone
	case !existed:
		c.event = eventCreated
	case !exists:
		c.event = eventDeleted
	default:
		c.event = eventUpdated
		isKnown := isObject(c.prechange) && isObject(c.postchange)
		c.changedFields = changedFields(events, c.prechange, c.postchange, isKnown)
		if isKnown && len(c.changedFields) == 0 {
			c.event = changeNone
		}
	}
}

// newest returns the last event of the object.
func (c *change) newest() *v1alpha1.NetBoxEvent { return c.events[len(c.events)-1] }

// changedFields returns the fields in which the first and the last snapshot of events differ. If one of these is not known, it returns the
// fields that the events changed.
func changedFields(events []*v1alpha1.NetBoxEvent, before, after []byte, isKnown bool) []string {
	if len(events) == 1 {
		return events[0].Spec.ChangedFields
	}
	var changed []string // by any event
	for _, event := range events {
		changed = append(changed, event.Spec.ChangedFields...)
	}
	slices.Sort(changed)
	changed = slices.Compact(changed)
	if !isKnown {
		return changed
	}
	// Redacted values are equal before and after: those that an event changed have changed.
	redacted := redactedFields(events)
	changed = slices.DeleteFunc(changed, func(field string) bool { return !redacted[field] })
	for _, field := range changed {
		if parent, _, isPart := strings.Cut(field, "."); isPart {
			changed = append(changed, parent)
		}
	}
	changed = append(changed, netbox.ChangedFields(before, after)...)
	slices.Sort(changed)
	return slices.Compact(changed)
}

// redactedFields returns the fields of snapshots that have redacted values, as changedFields names them.
func redactedFields(events []*v1alpha1.NetBoxEvent) map[string]bool {
	const customFields = "custom_fields"
	redacted := map[string]bool{}
	for _, event := range events {
		for _, pointer := range event.Spec.Delivery.Redacted { // such as /snapshots/prechange/auth_psk
			path := strings.Split(pointer, "/")
			if len(path) < 4 || path[1] != "snapshots" || path[2] != "prechange" && path[2] != "postchange" {
				continue
			}
			field := path[3]
			if field == customFields && len(path) > 4 {
				field += "." + path[4]
			}
			redacted[strings.NewReplacer("~1", "/", "~0", "~").Replace(field)] = true
		}
	}
	return redacted
}

// all returns the fields of changeType.
func (c *change) all() map[string]any {
	if c.fields == nil {
		newest := &c.newest().Spec
		c.fields = map[string]any{
			"event":         c.event,
			"objectType":    newest.ObjectType,
			"model":         newest.Model,
			"objectID":      newest.ObjectID,
			"objectURL":     newest.ObjectURL,
			"objectName":    newest.ObjectName,
			"branch":        newest.Branch,
			"data":          c.decoder.object(newest.Data),
			"prechange":     c.decoder.value(c.prechange),
			"postchange":    c.decoder.value(c.postchange),
			"changedFields": c.changedFields,
			"events":        len(c.events),
		}
	}
	return c.fields
}

func (c *change) find(name string) (any, bool) {
	value, ok := c.all()[name]
	return value, ok
}

func (c *change) weight() int {
	weight := fieldsWeight + weightOf(c.newest().Spec.Data) + weightOfText(c.prechange) + weightOfText(c.postchange)
	for _, field := range c.changedFields {
		weight += valueBytes + len(field)
	}
	return weight
}
