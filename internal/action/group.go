package action

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"

	"github.com/cloudevents/sdk-go/v2/binding"
	cloudevents "github.com/cloudevents/sdk-go/v2/event"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/delivery"
)

// Group is a group of events for which an action is executed once.
type Group struct {
	// ID is the same at each attempt.
	ID string
	// Events are in NetBox's order, and without those that the rule leaves out (group.net).
	Events []*v1alpha1.NetBoxEvent
}

// identity returns the id of the group, or the UID of the event: names of objects are made of it.
func (t Task) identity() string {
	if t.Group != nil {
		return t.Group.ID
	}
	return string(t.Event.UID)
}

// replays identifies the replay of the event, or of the group: a replay of any of its events is one of the group.
func (t Task) replays() string {
	if t.Group == nil {
		return delivery.ReplayOf(t.Event).String()
	}
	var replays []string
	for _, event := range t.Group.Events {
		if replay := delivery.ReplayOf(event).String(); replay != "" {
			replays = append(replays, event.Name, replay)
		}
	}
	return fmt.Sprintf("%q", replays)
}

const (
	// groupType is the type of the CloudEvent of a group.
	groupType = "io.netbox-events.group"
	// maxGroupBytes bounds the body of a request with the events of a group, which is built in memory.
	maxGroupBytes = 32 << 20
)

// encodeGroup returns the events of a group in a format, and its content type: one CloudEvent whose data has them, or a batch of them.
func encodeGroup(ctx context.Context, task Task, format v1alpha1.HTTPFormat) ([]byte, string, error) {
	var body bytes.Buffer
	if format == v1alpha1.FormatCloudEventBatch {
		err := writeEvents(ctx, &body, task.Group)
		return body.Bytes(), cloudevents.ApplicationCloudEventsBatchJSON, err
	}
	head, err := groupEvent(ctx, task)
	if err != nil {
		return nil, "", err
	}
	id, err := json.Marshal(task.Group.ID)
	if err != nil {
		return nil, "", err
	}
	body.Write(bytes.TrimSuffix(head, []byte("}"))) // the data, of some megabytes, is not copied into an object
	fmt.Fprintf(&body, `,"data":{"group":%s,"events":`, id)
	if err := writeEvents(ctx, &body, task.Group); err != nil {
		return nil, "", err
	}
	body.WriteString("}}")
	return body.Bytes(), cloudevents.ApplicationCloudEventsJSON, nil
}

// groupEvent returns the CloudEvent of a group, in structured mode, without its data.
func groupEvent(ctx context.Context, task Task) ([]byte, error) {
	event := cloudevents.New()
	event.SetID(task.Group.ID)
	event.SetSource(sourceOf(task.Event))
	event.SetType(groupType)
	event.SetSubject(task.Rule.Name)
	event.SetTime(task.Event.Spec.Timestamp.Time)
	event.SetDataContentType(cloudevents.ApplicationJSON)
	body, _, err := write(binding.WithForceStructured(ctx), &event)
	return body, err
}

// writeEvents writes the events of a group as an array of CloudEvents in structured mode.
func writeEvents(ctx context.Context, to *bytes.Buffer, group *Group) error {
	separator := "["
	for _, event := range group.Events {
		if err := ctx.Err(); err != nil {
			return err
		}
		encoded, _, err := encodeStructured(ctx, event)
		if err != nil {
			return fmt.Errorf("%s: %w", event.Name, err)
		}
		if to.Len()+len(encoded) > maxGroupBytes {
			return fmt.Errorf("the %d events of the group take more than %d MiB; lower spec.group.maxEvents, or send a body with templates",
				len(group.Events), maxGroupBytes>>20)
		}
		to.WriteString(separator)
		to.Write(encoded)
		separator = ","
	}
	to.WriteString("]")
	return nil
}
