package netbox

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"net/url"
)

// Permission is an object permission.
type Permission struct {
	// Actions are view, add, change and delete.
	Actions []string `json:"actions"`
	// ObjectTypes are as in dcim.site.
	ObjectTypes []string `json:"object_types"`
	// Constraints restrict the objects, as in {"name__startswith": "a"}; nil is all objects.
	Constraints any `json:"constraints"`
}

// TokenWith makes a user that has these permissions only, and returns tokens of version 1 and 2 of that user.
func (n *NetBox) TokenWith(ctx context.Context, permissions ...Permission) (v1, v2 string, err error) {
	var user struct{ ID int64 }
	name := "user-" + rand.Text()
	account := map[string]any{"username": name, "password": "Aa1" + rand.Text()}
	if err := n.Do(ctx, http.MethodPost, "users/users/", account, &user); err != nil {
		return "", "", err
	}
	for i, permission := range permissions {
		body := struct {
			Permission
			Name  string  `json:"name"`
			Users []int64 `json:"users"`
		}{permission, fmt.Sprintf("%s-%d", name, i), []int64{user.ID}}
		if err := n.Do(ctx, http.MethodPost, "users/permissions/", body, nil); err != nil {
			return "", "", err
		}
	}
	var tokens [2]struct{ Key, Token string }
	for i := range tokens {
		if err := n.Do(ctx, http.MethodPost, "users/tokens/", map[string]any{"user": user.ID, "version": i + 1}, &tokens[i]); err != nil {
			return "", "", err
		}
	}
	return tokens[0].Token, "nbt_" + tokens[1].Key + "." + tokens[1].Token, nil
}

// Subscribe makes a webhook, and an event rule that sends all changes of all object types to it.
func (n *NetBox) Subscribe(ctx context.Context, name, receiver, secret string) error {
	var webhook struct{ ID int64 }
	body := map[string]any{"name": name, "payload_url": receiver, "secret": secret}
	if err := n.Do(ctx, http.MethodPost, "extras/webhooks/", body, &webhook); err != nil {
		return err
	}
	types, err := list[struct {
		AppLabel string `json:"app_label"`
		Model    string
	}](ctx, n.Client, "core/object-types/", url.Values{"features": {"event_rules"}})
	if err != nil {
		return err
	}
	names := make([]string, len(types))
	for i, t := range types {
		names[i] = t.AppLabel + "." + t.Model
	}
	return n.Do(ctx, http.MethodPost, "extras/event-rules/", map[string]any{
		"name":               name,
		"object_types":       names,
		"event_types":        []string{"object_created", "object_updated", "object_deleted"},
		"action_type":        "webhook",
		"action_object_type": "extras.webhook",
		"action_object_id":   webhook.ID,
	}, nil)
}

// PauseWebhooks disables all event rules, so that changes send no webhooks until ResumeWebhooks. Both are changes themselves.
func (n *NetBox) PauseWebhooks(ctx context.Context) error {
	rules, err := list[struct{ ID int64 }](ctx, n.Client, "extras/event-rules/", url.Values{"enabled": {"true"}})
	if err != nil {
		return err
	}
	for _, rule := range rules {
		n.paused = append(n.paused, rule.ID)
	}
	return n.enable(ctx, n.paused, false)
}

// ResumeWebhooks enables the event rules that PauseWebhooks disabled.
func (n *NetBox) ResumeWebhooks(ctx context.Context) error {
	paused := n.paused
	n.paused = nil
	return n.enable(ctx, paused, true)
}

func (n *NetBox) enable(ctx context.Context, rules []int64, enabled bool) error {
	if len(rules) == 0 {
		return nil
	}
	body := make([]map[string]any, len(rules))
	for i, rule := range rules {
		body[i] = map[string]any{"id": rule, "enabled": enabled}
	}
	return n.Do(ctx, http.MethodPatch, "extras/event-rules/", body, nil)
}
