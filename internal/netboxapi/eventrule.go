package netboxapi

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"reflect"
	"slices"
)

const (
	eventRulesPath = "/api/extras/event-rules/"
	webhookType    = "extras.webhook"
	webhookAction  = "webhook"
)

// Names of events in NetBox 4.1 and later, which an EventRule has for all versions.
const (
	ObjectCreated = "object_created"
	ObjectUpdated = "object_updated"
	ObjectDeleted = "object_deleted"
	JobStarted    = "job_started"
	JobCompleted  = "job_completed"
	JobFailed     = "job_failed"
	JobErrored    = "job_errored"
)

// typeFields are the fields of an event rule before NetBox 4.1, and the events that they stand for.
var typeFields = map[string][]string{
	"type_create": {ObjectCreated}, "type_update": {ObjectUpdated}, "type_delete": {ObjectDeleted},
	"type_job_start": {JobStarted}, "type_job_end": {JobCompleted, JobErrored, JobFailed},
}

// EventRule is an event rule of NetBox 3.7 or later.
type EventRule struct {
	// ID is the id; 0 before it is created.
	ID int64
	// Name is unique in NetBox.
	Name string
	// Description is shown in NetBox's list.
	Description string
	// Enabled is whether the rule fires.
	Enabled bool
	// ObjectTypes are names such as dcim.site, in lower case. The order does not matter. Without any, the rule never fires.
	ObjectTypes []string
	// Events are names such as object_created. The order does not matter.
	Events []string
	// Conditions are NetBox's conditions on the data; nil for none.
	Conditions json.RawMessage
	// WebhookID is the webhook that the rule sends; 0 if its action is another one.
	WebhookID int64
}

// fields returns the fields that can be changed, by their names in the API of a version.
func (r EventRule) fields(status Status) map[string]any {
	fields := map[string]any{
		"name": r.Name, "description": r.Description, "enabled": r.Enabled, "conditions": conditions(r.Conditions),
		"action_type": webhookAction, "action_object_type": webhookType, "action_object_id": r.WebhookID,
	}
	types := "object_types"
	if !status.AtLeast(4, 0) {
		types = "content_types"
	}
	fields[types] = sorted(r.ObjectTypes)
	if status.AtLeast(4, 1) {
		fields["event_types"] = sorted(r.Events)
		return fields
	}
	for name, events := range typeFields {
		fields[name] = slices.ContainsFunc(events, func(event string) bool { return slices.Contains(r.Events, event) })
	}
	return fields
}

func conditions(value json.RawMessage) any {
	var decoded any
	_ = json.Unmarshal(value, &decoded)
	return decoded
}

func sorted(texts []string) []string {
	texts = append([]string{}, texts...)
	slices.Sort(texts)
	return slices.Compact(texts)
}

// Drift returns the names of the fields, as in the API of NetBox 4.1 and later and sorted, in which the rule is not as wanted.
func (r EventRule) Drift(want EventRule) []string {
	latest := Status{major: 4, minor: 1}
	return drift(r.fields(latest), want.fields(latest))
}

func drift(have, want map[string]any) []string {
	var names []string
	for name, value := range want {
		if !reflect.DeepEqual(have[name], value) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func pick(fields map[string]any, names []string) map[string]any {
	picked := map[string]any{}
	for _, name := range names {
		picked[name] = fields[name]
	}
	return picked
}

// UnmarshalJSON decodes an event rule of any version.
func (r *EventRule) UnmarshalJSON(text []byte) error {
	var wire struct {
		ID           int64    `json:"id"`
		Name         string   `json:"name"`
		Description  string   `json:"description"`
		Enabled      bool     `json:"enabled"`
		ObjectTypes  []string `json:"object_types"`
		ContentTypes []string `json:"content_types"`
		EventTypes   []string `json:"event_types"`
		TypeCreate   bool     `json:"type_create"`
		TypeUpdate   bool     `json:"type_update"`
		TypeDelete   bool     `json:"type_delete"`
		TypeJobStart bool     `json:"type_job_start"`
		TypeJobEnd   bool     `json:"type_job_end"`

		Conditions       json.RawMessage `json:"conditions"`
		ActionObjectType *string         `json:"action_object_type"`
		ActionObjectID   *int64          `json:"action_object_id"`
		ActionType       struct {
			Value string `json:"value"`
		} `json:"action_type"`
	}
	if err := json.Unmarshal(text, &wire); err != nil {
		return err
	}
	if wire.ID <= 0 || wire.Name == "" {
		return errors.New("an event rule has no id or name")
	}
	*r = EventRule{
		ID: wire.ID, Name: wire.Name, Description: wire.Description, Enabled: wire.Enabled,
		ObjectTypes: sorted(append(wire.ObjectTypes, wire.ContentTypes...)),
	}
	events := wire.EventTypes
	for name, isSet := range map[string]bool{
		"type_create": wire.TypeCreate, "type_update": wire.TypeUpdate, "type_delete": wire.TypeDelete,
		"type_job_start": wire.TypeJobStart, "type_job_end": wire.TypeJobEnd,
	} {
		if isSet {
			events = append(events, typeFields[name]...)
		}
	}
	r.Events = sorted(events)
	if !isNull(wire.Conditions) {
		r.Conditions = wire.Conditions
	}
	isWebhook := wire.ActionType.Value == webhookAction && wire.ActionObjectType != nil && *wire.ActionObjectType == webhookType
	if isWebhook && wire.ActionObjectID != nil {
		r.WebhookID = *wire.ActionObjectID
	}
	return nil
}

// EventRule returns the event rule of a name; nil if there is none that the token may see.
func (c *Client) EventRule(ctx context.Context, name string) (*EventRule, error) {
	if err := c.needEventRules(ctx); err != nil {
		return nil, err
	}
	var page struct {
		Results []EventRule `json:"results"`
	}
	if err := c.call(ctx, byName(eventRulesPath, name), &page); err != nil {
		return nil, err
	}
	for _, rule := range page.Results {
		if rule.Name == name {
			return &rule, nil
		}
	}
	return nil, nil
}

// EventRuleByID returns an event rule; nil if there is none that the token may see.
func (c *Client) EventRuleByID(ctx context.Context, id int64) (*EventRule, error) {
	if err := c.needEventRules(ctx); err != nil {
		return nil, err
	}
	rule := &EventRule{}
	err := c.call(ctx, request{method: http.MethodGet, path: byID(eventRulesPath, id)}, rule)
	if KindOf(err) == KindNotFound {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return rule, nil
}

// CreateEventRule creates an event rule and returns it as NetBox has it. The kind of the error is KindExists if the name is taken, even by
// a rule that the token may not see.
func (c *Client) CreateEventRule(ctx context.Context, rule EventRule) (*EventRule, error) {
	if err := c.needEventRules(ctx); err != nil {
		return nil, err
	}
	status, err := c.known(ctx)
	if err != nil {
		return nil, err
	}
	created := &EventRule{}
	if err := c.call(ctx, request{method: http.MethodPost, path: eventRulesPath, body: rule.fields(status)}, created); err != nil {
		return nil, err
	}
	return created, nil
}

// UpdateEventRule changes the fields of an event rule in which it is not as wanted, and returns it as NetBox has it. It sends nothing if
// there is no such field. The kind of the error is KindNotFound if the rule was deleted.
func (c *Client) UpdateEventRule(ctx context.Context, have, want EventRule) (*EventRule, error) {
	status, err := c.known(ctx)
	if err != nil {
		return nil, err
	}
	fields := want.fields(status)
	names := drift(have.fields(status), fields)
	if len(names) == 0 {
		return &have, nil
	}
	if have.WebhookID != want.WebhookID {
		names = append(names, "action_type", "action_object_type", "action_object_id")
	}
	changes := pick(fields, names)
	updated := &EventRule{}
	if err := c.call(ctx, request{method: http.MethodPatch, path: byID(eventRulesPath, have.ID), body: changes}, updated); err != nil {
		return nil, err
	}
	return updated, nil
}

// DeleteEventRule deletes an event rule. It is no error if there is none.
func (c *Client) DeleteEventRule(ctx context.Context, id int64) error {
	return c.remove(ctx, byID(eventRulesPath, id))
}
