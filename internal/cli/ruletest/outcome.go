package ruletest

import (
	"fmt"
	"mime"
	"net/url"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/json"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/action"
	"github.com/netbox-events/netbox-event-operator/internal/netbox"
	"github.com/netbox-events/netbox-event-operator/internal/rule"
)

// Outcome is what a rule does about an event, or about a group of events. As JSON, it has the fields of an Expectation.
type Outcome struct {
	Rule string `json:"rule"`
	// Event is the name of the event, or of the last one of the group.
	Event   string `json:"event"`
	Matched bool   `json:"matched"`
	// Removes means that the event ends a match of its NetBox object: Mirror actions delete what they made.
	Removes bool `json:"removes,omitempty"`
	// Error is that of the rule's match.
	Error   string    `json:"error,omitempty"`
	Lookups []Lookup  `json:"lookups,omitempty"`
	Actions []*Action `json:"actions,omitempty"`

	events   []*v1alpha1.NetBoxEvent
	groupKey string
}

// Lookup is a request to NetBox.
type Lookup struct {
	Name      string         `json:"name"`
	Path      string         `json:"path,omitempty"`
	GraphQL   string         `json:"graphql,omitempty"`
	Variables map[string]any `json:"variables,omitempty"`
}

// Action is what an action does.
type Action struct {
	Name string `json:"name"`
	// Skipped is why the action is not executed, and Error why it fails.
	Skipped string `json:"skipped,omitempty"`
	Error   string `json:"error,omitempty"`

	Request *Request `json:"request,omitempty"`
	// Operation is that of an apply action. One object is in Object, several are in Objects. Removes means that a Mirror action deletes what
	// it made.
	Operation string           `json:"operation,omitempty"`
	Object    map[string]any   `json:"object,omitempty"`
	Objects   []map[string]any `json:"objects,omitempty"`
	Removes   bool             `json:"removes,omitempty"`
	Message   string           `json:"message,omitempty"`

	// lacks means that the action fails because an answer of NetBox, or the result of another action, is not given.
	lacks bool
}

// Request is the request of an http action.
type Request struct {
	Method  string            `json:"method"`
	URL     string            `json:"url"`
	Headers map[string]string `json:"headers,omitempty"`
	// Body is decoded if it is JSON or a form, and a text otherwise; nil for none.
	Body any `json:"body,omitempty"`
}

// HasErrors reports whether the match fails, or an action.
func (o *Outcome) HasErrors() bool {
	return o.Error != "" || slices.ContainsFunc(o.Actions, func(action *Action) bool { return action.Error != "" })
}

// has reports whether the outcome is about an event.
func (o *Outcome) has(event *v1alpha1.NetBoxEvent) bool {
	for _, own := range o.events {
		if own.Name == event.Name {
			return true
		}
	}
	return false
}

// action returns what an action of the rule does, which it adds if it is new.
func (o *Outcome) action(name string) *Action {
	for _, known := range o.Actions {
		if known.Name == name {
			return known
		}
	}
	added := &Action{Name: name}
	o.Actions = append(o.Actions, added)
	return added
}

func (a *Action) render(found *rule.Action, rendering *action.Rendering) {
	a.Message = rendering.Message
	if rendering.Request != nil {
		a.Request = newRequest(found.Spec.HTTP, rendering)
	}
	if found.Spec.Apply == nil {
		return
	}
	a.Operation, a.Removes = string(found.Spec.Apply.Operation), rendering.DeletesMirrored
	for _, object := range rendering.Objects() {
		a.Objects = append(a.Objects, object.Object)
	}
	if len(a.Objects) == 1 {
		a.Object, a.Objects = a.Objects[0], nil
	}
}

// newRequest describes a request, with placeholders for what is signed and authenticated by Secrets.
func newRequest(spec *v1alpha1.HTTPAction, rendering *action.Rendering) *Request {
	request := rendering.Request
	described := &Request{Method: request.Method, URL: request.URL.String(), Headers: map[string]string{}}
	for name := range request.Header {
		if name != "User-Agent" {
			described.Headers[name] = strings.Join(request.Header[name], ", ")
		}
	}
	if spec.SigningSecretRef != nil {
		described.Headers[netbox.SignatureHeader] = fmt.Sprintf("<signature by Secret %s>", spec.SigningSecretRef.Name)
	}
	if value := authorization(spec.Auth); value != "" {
		described.Headers["Authorization"] = value
	}
	if len(rendering.Body) > 0 {
		described.Body = decodeBody(request.Header.Get("Content-Type"), rendering.Body)
	}
	return described
}

func authorization(auth *v1alpha1.HTTPAuth) string {
	switch {
	case auth == nil:
		return ""
	case auth.Basic != nil:
		return fmt.Sprintf("Basic <user and password of Secret %s>", auth.Basic.SecretRef.Name)
	case auth.OAuth2 != nil:
		return "Bearer <token of oauth2>"
	default:
		return "Bearer <token of serviceAccountToken>"
	}
}

// decodeBody returns JSON and forms as values, and anything else as text.
func decodeBody(contentType string, body []byte) any {
	kind, _, _ := mime.ParseMediaType(contentType)
	switch {
	case kind == "application/json" || strings.HasSuffix(kind, "+json"):
		var decoded any
		if err := json.Unmarshal(body, &decoded); err == nil {
			return decoded
		}
	case kind == "application/x-www-form-urlencoded":
		if values, err := url.ParseQuery(string(body)); err == nil {
			form := map[string]any{}
			for name := range values {
				form[name] = values.Get(name)
			}
			return form
		}
	}
	return string(body)
}
