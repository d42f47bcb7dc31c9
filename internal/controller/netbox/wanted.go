package netbox

import (
	"slices"
	"strings"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/netboxapi"
)

// wanted is which changes of a source become events: those that NetBox should send, and that spec.accept takes.
type wanted struct {
	types map[string]netboxapi.ObjectType
	// sent and accepted are patterns such as dcim.site, dcim.* and *.
	sent, accepted []string
	// named are the patterns that must name webhookType, where its secrets are not redacted.
	named []string
	// events and acceptedEvents are kinds of events; nil for all.
	events, acceptedEvents []string
	// areWebhooksSafe means that the secrets of changed webhooks are redacted.
	areWebhooksSafe bool
}

// wantedOf returns what is wanted of a source, whose namespace has some rules.
func wantedOf(source *v1alpha1.NetBoxSource, rules []v1alpha1.NetBoxEventRule, types map[string]netboxapi.ObjectType) wanted {
	all := []string{v1alpha1.AllObjectTypes}
	w := wanted{types: types, sent: all, accepted: all, areWebhooksSafe: slices.Contains(source.Spec.Redact, secretField)}
	if webhook := source.Spec.NetBox.Webhook; webhook != nil {
		w.events, w.sent = webhook.Events, sentPatterns(source, rules)
	}
	w.named = w.sent
	if accept := source.Spec.Accept; accept != nil {
		w.acceptedEvents = accept.Events
		if len(accept.ObjectTypes) > 0 {
			w.accepted = accept.ObjectTypes
			if source.Spec.NetBox.Webhook == nil {
				w.named = w.accepted
			}
		}
	}
	return w
}

// wantsType reports whether changes of an object type may be wanted.
func (w wanted) wantsType(objectType string) bool {
	if objectType == "" || w.types[objectType].HasEventRules == netboxapi.SupportNo {
		return false
	}
	// The set-up leaves out webhooks as well, whose changes have their secrets in clear.
	if objectType == webhookType && !w.areWebhooksSafe && !containsFold(w.named, webhookType) {
		return false
	}
	return anyPattern(w.sent, objectType) && anyPattern(w.accepted, objectType)
}

// wantsEvent reports whether changes of a kind may be wanted.
func (w wanted) wantsEvent(event string) bool {
	return (len(w.events) == 0 || slices.Contains(w.events, event)) && (len(w.acceptedEvents) == 0 || containsFold(w.acceptedEvents, event))
}

func anyPattern(patterns []string, objectType string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		return matchesType(pattern, objectType)
	})
}

func containsFold(texts []string, text string) bool {
	return slices.ContainsFunc(texts, func(other string) bool { return strings.EqualFold(other, text) })
}
