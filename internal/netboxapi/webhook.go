package netboxapi

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strconv"
)

const webhooksPath = "/api/extras/webhooks/"

// Webhook is a webhook of NetBox 3.7 or later.
type Webhook struct {
	// ID is the id; 0 before it is created.
	ID int64 `json:"id"`
	// Name is unique in NetBox.
	Name string `json:"name"`
	// Description is shown in NetBox's list.
	Description string `json:"description"`
	// PayloadURL is the URL to send to. It may be a template of Jinja.
	PayloadURL string `json:"payload_url"`
	// HTTPMethod is, for example, POST.
	HTTPMethod string `json:"http_method"`
	// HTTPContentType is, for example, application/json.
	HTTPContentType string `json:"http_content_type"`
	// AdditionalHeaders are headers, one a line, as a template of Jinja.
	AdditionalHeaders string `json:"additional_headers"`
	// BodyTemplate is a template of Jinja; NetBox's own body if empty.
	BodyTemplate string `json:"body_template"`
	// Secret is the key of the signature, in clear. NetBox strips white space around it and takes at most 255 characters.
	Secret string `json:"secret"`
	// SSLVerification is whether NetBox verifies the certificate of the receiver.
	SSLVerification bool `json:"ssl_verification"`
	// CAFilePath is a file on NetBox's host with the CA certificates; the host's own if empty.
	CAFilePath *string `json:"ca_file_path"`
}

// UnmarshalJSON decodes a webhook. It fails for one without id or name, which no later request could name.
func (w *Webhook) UnmarshalJSON(text []byte) error {
	type plain Webhook
	var wire plain
	if err := json.Unmarshal(text, &wire); err != nil {
		return err
	}
	if wire.ID <= 0 || wire.Name == "" {
		return errors.New("a webhook has no id or name")
	}
	*w = Webhook(wire)
	return nil
}

// fields returns the fields that can be changed, by their names in the API.
func (w Webhook) fields() map[string]any {
	return map[string]any{
		"name": w.Name, "description": w.Description, "payload_url": w.PayloadURL, "http_method": w.HTTPMethod,
		"http_content_type": w.HTTPContentType, "additional_headers": w.AdditionalHeaders, "body_template": w.BodyTemplate,
		"secret": w.Secret, "ssl_verification": w.SSLVerification, "ca_file_path": orNil(w.CAFilePath),
	}
}

func orNil(text *string) any {
	if text == nil || *text == "" {
		return nil
	}
	return *text
}

// Drift returns the names of the fields, as in NetBox's API and sorted, in which the webhook is not as wanted.
func (w Webhook) Drift(want Webhook) []string { return drift(w.fields(), want.fields()) }

// Webhook returns the webhook of a name; nil if there is none that the token may see.
func (c *Client) Webhook(ctx context.Context, name string) (*Webhook, error) {
	if err := c.needEventRules(ctx); err != nil {
		return nil, err
	}
	var page struct {
		Results []Webhook `json:"results"`
	}
	if err := c.call(ctx, byName(webhooksPath, name), &page); err != nil {
		return nil, err
	}
	for _, webhook := range page.Results {
		if webhook.Name == name {
			return &webhook, nil
		}
	}
	return nil, nil
}

func byName(path, name string) request {
	return request{method: http.MethodGet, path: path, query: url.Values{"name": {name}}}
}

// WebhookByID returns a webhook; nil if there is none that the token may see.
func (c *Client) WebhookByID(ctx context.Context, id int64) (*Webhook, error) {
	if err := c.needEventRules(ctx); err != nil {
		return nil, err
	}
	webhook := &Webhook{}
	err := c.call(ctx, request{method: http.MethodGet, path: byID(webhooksPath, id)}, webhook)
	if KindOf(err) == KindNotFound {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return webhook, nil
}

func byID(path string, id int64) string { return path + strconv.FormatInt(id, 10) + "/" }

// CreateWebhook creates a webhook and returns it as NetBox has it. The kind of the error is KindExists if the name is taken, even by a
// webhook that the token may not see.
func (c *Client) CreateWebhook(ctx context.Context, webhook Webhook) (*Webhook, error) {
	if err := c.needEventRules(ctx); err != nil {
		return nil, err
	}
	created := &Webhook{}
	r := request{method: http.MethodPost, path: webhooksPath, body: webhook.fields(), secret: webhook.Secret}
	if err := c.call(ctx, r, created); err != nil {
		return nil, err
	}
	return created, nil
}

// UpdateWebhook changes the fields of a webhook in which it is not as wanted, and returns it as NetBox has it. It sends nothing if there is
// no such field. The kind of the error is KindNotFound if the webhook was deleted.
func (c *Client) UpdateWebhook(ctx context.Context, have, want Webhook) (*Webhook, error) {
	changes := pick(want.fields(), have.Drift(want))
	if len(changes) == 0 {
		return &have, nil
	}
	updated := &Webhook{}
	r := request{method: http.MethodPatch, path: byID(webhooksPath, have.ID), body: changes, secret: want.Secret}
	if err := c.call(ctx, r, updated); err != nil {
		return nil, err
	}
	return updated, nil
}

// DeleteWebhook deletes a webhook. NetBox deletes the event rules that use it, too. It is no error if there is none.
func (c *Client) DeleteWebhook(ctx context.Context, id int64) error {
	return c.remove(ctx, byID(webhooksPath, id))
}

func (c *Client) remove(ctx context.Context, path string) error {
	_, err := c.send(ctx, request{method: http.MethodDelete, path: path})
	if KindOf(err) == KindNotFound {
		return nil
	}
	return err
}

// needEventRules fails unless this NetBox has webhooks with event rules.
func (c *Client) needEventRules(ctx context.Context) error {
	status, err := c.known(ctx)
	if err != nil {
		return err
	}
	if status.Flavor != NetBox || !status.AtLeast(3, 7) {
		return c.unsupported(status, "event rules, which came with NetBox 3.7: set up the webhook by hand, and leave out spec.netbox.webhook")
	}
	return nil
}
