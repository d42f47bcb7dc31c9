package main

import (
	"context"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/eventspec"
	decoding "github.com/netbox-events/netbox-event-operator/internal/netbox"
	"github.com/netbox-events/netbox-event-operator/test/fleet"
	"github.com/netbox-events/netbox-event-operator/test/netbox"
)

// keyOf returns the key of an event's change.
func keyOf(event *v1alpha1.NetBoxEvent) netbox.Key {
	id, _ := strconv.ParseInt(event.Spec.ObjectID, 10, 64) // jobs have none
	return netbox.Key{RequestID: event.Spec.RequestID, ObjectType: event.Spec.ObjectType, ObjectID: id}
}

// isUnlogged reports whether NetBox sends an event that it does not log: an update that changed nothing, a job, or the deletion of an owner.
func isUnlogged(event *v1alpha1.NetBoxEvent) bool {
	spec := &event.Spec
	return spec.Event == "updated" && len(spec.ChangedFields) == 0 || strings.HasPrefix(spec.Event, "job_") ||
		strings.HasPrefix(spec.ObjectType, "users.owner")
}

// compare compares the change log, the events and the calls of the sink.
func (s *scene) compare(ctx context.Context) error {
	rows, changes, err := s.logged(ctx, nil)
	if err != nil {
		return err
	}
	events, err := s.events(ctx)
	if err != nil {
		return err
	}
	source, err := s.source(ctx)
	if err != nil {
		return err
	}
	s.countRequests()
	byKey := map[netbox.Key][]*v1alpha1.NetBoxEvent{}
	for i := range events {
		key := keyOf(&events[i])
		byKey[key] = append(byKey[key], &events[i])
	}
	s.result.Rows, s.result.Changes = rows, len(changes)
	s.result.Missed, s.result.Phantoms = source.Status.NetBox.Missed, source.Status.NetBox.Phantoms
	s.compareWebhooks(changes)
	s.compareEvents(changes, byKey)
	s.compareCalls(events)
	s.compareConfirmed(changes, byKey)
	s.compareLookups()
	s.promises.Holds(s.result.Missed <= int64(s.result.FromLog), "the status counts %d missed changes, and %d events are of the change log",
		s.result.Missed, s.result.FromLog)
	s.promises.None(int(s.result.Phantoms), "phantoms, according to the status")
	return nil
}

func (s *scene) countRequests() {
	s.result.Requests, s.result.Kinds = len(s.changes.Requests), s.changes.Counts()
	for _, request := range s.changes.Requests {
		switch request.Outcome {
		case netbox.RolledBack:
			s.result.RolledBack++
		case netbox.Background:
			s.result.Background++
		case netbox.Committed:
		}
	}
}

func (s *scene) compareWebhooks(changes map[netbox.Key]netbox.Change) {
	came := map[netbox.Key]bool{}
	for _, webhook := range s.ingress.since(0) {
		s.result.Webhooks++
		if webhook.status == http.StatusOK {
			s.result.Answered++
			came[webhook.key] = true
		}
		if webhook.result == "duplicate" {
			s.result.Duplicates++
		}
	}
	for key := range changes {
		if !s.wants(key.ObjectType) {
			continue
		}
		s.result.Wanted++
		if !came[key] {
			s.result.Lost++
		}
	}
	s.promises.Holds(s.result.Lost > 0, "no webhook was lost: the test tests nothing")
}

// compareEvents checks that each wanted change has one event, and that each event has its change.
func (s *scene) compareEvents(changes map[netbox.Key]netbox.Change, events map[netbox.Key][]*v1alpha1.NetBoxEvent) {
	for key, change := range changes {
		if s.wants(key.ObjectType) && len(events[key]) == 0 {
			s.result.Missing++
			fleet.Say("missing: %v %s", key, change.Event)
		}
	}
	for key, same := range events {
		change, isLogged := changes[key]
		if len(same) > 1 && key.RequestID != "" {
			s.result.Doubled++
			fleet.Say("double: %v %s %s", key, same[0].Name, same[1].Name)
		}
		for _, event := range same {
			isFromLog := event.Spec.Delivery.Origin == v1alpha1.OriginChangeLog
			if isFromLog {
				s.result.FromLog++
			} else {
				s.result.ByWebhook++
			}
			_, isPhantom := event.Labels[v1alpha1.LabelPhantom]
			s.promises.Holds(!isPhantom, "%s is labeled as a phantom", event.Name)
			s.promises.Holds(event.Status.Phase == v1alpha1.PhaseSucceeded, "%s is %s: %+v", event.Name, event.Status.Phase, event.Status.Rules)
			switch {
			case isLogged:
				s.promises.Holds(event.Spec.Event == change.Event, "%s is %s, and the change is %s", event.Name, event.Spec.Event, change.Event)
			case isFromLog || !isUnlogged(event):
				s.promises.Holds(false, "%s of request %s is not in the change log", event.Name, event.Spec.RequestID)
			default:
				s.result.Unlogged++
			}
		}
	}
	s.promises.None(s.result.Missing, "changes have no event")
	s.promises.None(s.result.Doubled, "changes have two events")
	s.promises.Holds(s.result.ByWebhook > 0 && s.result.FromLog > 0, "all events are of one origin")
}

// compareCalls checks that each event was acted on once, and no change twice.
func (s *scene) compareCalls(events []v1alpha1.NetBoxEvent) {
	calls, names := map[string]int{}, map[netbox.Key]map[string]bool{}
	for _, call := range s.sink.of("every") {
		calls[call.event]++
		if call.key.RequestID == "" {
			continue
		}
		if names[call.key] == nil {
			names[call.key] = map[string]bool{}
		}
		names[call.key][call.event] = true
	}
	for _, same := range names {
		if len(same) > 1 {
			s.result.Twice++
		}
	}
	for i := range events {
		switch n := calls[events[i].Name]; n {
		case 0:
			s.result.Unacted++
		case 1:
			s.result.Once++
		default:
			s.result.Again += n - 1
		}
		delete(calls, events[i].Name)
	}
	s.promises.None(s.result.Unacted, "events were not acted on")
	s.promises.None(s.result.Twice, "changes were acted on as two events")
	s.promises.None(len(calls), "events were acted on that are not stored")
	s.promises.Holds(s.result.Again <= kills*sentAtOnce, "%d calls were repeated: more than the leaders that were killed had in flight", s.result.Again)
}

const (
	// kills is the number of leaders that are killed.
	kills = 2
	// sentAtOnce bounds the calls that a leader may have made whose result it has not written.
	sentAtOnce = 100
)

// compareConfirmed checks that the rule with confirm acted on what is in the change log, and on nothing else.
func (s *scene) compareConfirmed(changes map[netbox.Key]netbox.Change, events map[netbox.Key][]*v1alpha1.NetBoxEvent) {
	acted := map[netbox.Key]bool{}
	for _, call := range s.sink.of("confirmed") {
		_, isLogged := changes[call.key]
		s.promises.Holds(isLogged || call.key.RequestID == "", "the rule confirmed acted on %v, which is not in the change log", call.key)
		acted[call.key] = true
	}
	var left int
	for key, same := range events {
		_, isLogged := changes[key]
		switch {
		case acted[key]:
			s.result.Confirmed++
		case isLogged:
			left++
			fleet.Say("not confirmed: %v: %+v", key, same[0].Status.Rules)
		default:
			s.result.Skipped++
		}
	}
	s.promises.None(left, "changes of the change log were not confirmed")
}

// compareLookups checks what NetBox answered about the devices of interfaces.
func (s *scene) compareLookups() {
	for _, call := range s.sink.of("lookup") {
		if call.lookup == nil {
			s.result.NullLookups++
		} else {
			s.promises.Holds(call.lookup.ID == call.device && call.lookup.Name != "", "the lookup of device %v answered %+v", call.device, *call.lookup)
		}
		s.result.Lookups++
	}
	s.promises.Holds(s.result.Lookups > s.result.NullLookups, "no lookup had an answer")
}

// compareLate checks that late webhooks were duplicates of the events that were made from the change log, and that these are what the webhooks
// would have made.
func (s *scene) compareLate(requests []netbox.Request, events []v1alpha1.NetBoxEvent, came []webhook) {
	ids := map[string]bool{}
	for _, request := range requests {
		ids[request.ID] = true
	}
	stored := map[netbox.Key]*v1alpha1.NetBoxEvent{}
	for i := range events {
		stored[keyOf(&events[i])] = &events[i]
	}
	for _, webhook := range came {
		event := stored[webhook.key]
		if !ids[webhook.key.RequestID] || event == nil { // an update that changed nothing is not in the change log
			continue
		}
		s.result.Late++
		s.promises.Holds(webhook.result == "duplicate", "a late webhook of %s was answered with %d %s", event.Name, webhook.status, webhook.result)
		sent, err := decoding.Decode(webhook.body, nil)
		if err != nil {
			s.promises.Holds(false, "a webhook of %s: %v", event.Name, err)
			continue
		}
		would := eventspec.New(sent, eventspec.Delivery{Source: &v1alpha1.NetBoxSource{}, Origin: v1alpha1.OriginWebhook})
		if differ := difference(&event.Spec, &would.Spec); len(differ) > 0 {
			s.promises.Holds(false, "%s differs from its webhook in %s", event.Name, strings.Join(differ, ", "))
			continue
		}
		s.result.Equal++
		if reflect.DeepEqual(values(event.Spec.Data, "last_updated"), values(would.Spec.Data, "last_updated")) {
			s.result.EqualData++
		}
	}
	s.promises.Holds(s.result.Late > 0, "no webhook came late")
}

// difference returns the names of the fields in which an event from the change log is not as its webhook would have made it, data aside: that is
// the object as it was when the change log was read.
func difference(have, want *v1alpha1.NetBoxEventSpec) (names []string) {
	for name, pair := range map[string][2]any{
		"event": {have.Event, want.Event}, "objectType": {have.ObjectType, want.ObjectType}, "model": {have.Model, want.Model},
		"objectID": {have.ObjectID, want.ObjectID}, "objectURL": {have.ObjectURL, want.ObjectURL},
		"username": {have.Username, want.Username}, "requestID": {have.RequestID, want.RequestID},
		"changedFields": {fieldsOf(have), fieldsOf(want)},
		"prechange":     {snapshot(have, "prechange"), snapshot(want, "prechange")},
		"postchange":    {snapshot(have, "postchange"), snapshot(want, "postchange")},
	} {
		if !reflect.DeepEqual(pair[0], pair[1]) {
			names = append(names, name)
			fleet.Say("%s %s %s: %.300v, want %.300v", have.ObjectType, have.Event, name, pair[0], pair[1])
		}
	}
	slices.Sort(names)
	return names
}

// fieldsOf returns the changed fields without those that the change log does not have.
func fieldsOf(spec *v1alpha1.NetBoxEventSpec) []string {
	return slices.DeleteFunc(slices.Clone(spec.ChangedFields), isUnloggedField)
}

func isUnloggedField(name string) bool {
	return slices.Contains([]string{"created", "last_updated", "path", "sort_path"}, name) || strings.HasPrefix(name, "_")
}

// snapshot returns a snapshot without the fields that the change log does not have.
func snapshot(spec *v1alpha1.NetBoxEventSpec, name string) map[string]any {
	fields, _ := decoded(spec.Snapshots[name].Raw).(map[string]any)
	maps.DeleteFunc(fields, func(name string, _ any) bool { return isUnloggedField(name) })
	return fields
}

func values(object v1alpha1.JSONObject, without string) map[string]any {
	all := map[string]any{}
	for name, value := range object {
		if name != without {
			all[name] = decoded(value.Raw)
		}
	}
	return all
}
