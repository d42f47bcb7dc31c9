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
	// events and acceptedEvents are kinds of events; nil for all.
	events, acceptedEvents []string
	// areWebhooksSafe means that the secrets of changed webhooks are redacted.
	areWebhooksSafe bool
}

// wantedOf returns what is wanted of a source, whose namespace has some rules.
func wantedOf(source *v1alpha1.NetBoxSource, rules []v1alpha1.NetBoxEventRule, types map[string]netboxapi.ObjectType) wanted {
	all := []string{v1alpha1.AllObjectTypes}
	w := wanted{types: types, sent: all, accepted: all, areWebhooksSafe: slices.Contains(source.Spec.Redact, "secret")}
	if webhook := source.Spec.NetBox.Webhook; webhook != nil {
		w.events = webhook.Events
		switch {
		case slices.Equal(webhook.ObjectTypes, []string{v1alpha1.ObjectTypesFromRules}):
			w.sent = typesOfRules(rules, source.Name)
		case len(webhook.ObjectTypes) > 0:
			w.sent = webhook.ObjectTypes
		}
	}
	if accept := source.Spec.Accept; accept != nil {
		w.acceptedEvents = accept.Events
		if len(accept.ObjectTypes) > 0 {
			w.accepted = accept.ObjectTypes
		}
	}
	return w
}

// typesOfRules returns the patterns of object types that rules match on a source.
func typesOfRules(rules []v1alpha1.NetBoxEventRule, source string) []string {
	var patterns []string
	for i := range rules {
		spec := &rules[i].Spec
		isOf := len(spec.Match.Sources) == 0 || containsFold(spec.Match.Sources, source)
		switch {
		case spec.Suspend || !isOf:
		case len(spec.Match.ObjectTypes) == 0:
			return []string{v1alpha1.AllObjectTypes}
		default:
			patterns = append(patterns, spec.Match.ObjectTypes...)
		}
	}
	return patterns
}

// wantsType reports whether changes of an object type may be wanted.
func (w wanted) wantsType(objectType string) bool {
	if objectType == "" || w.types[objectType].HasEventRules == netboxapi.SupportNo {
		return false
	}
	// The set-up leaves out webhooks as well, whose changes have their secrets in clear.
	if objectType == "extras.webhook" && !w.areWebhooksSafe && !containsFold(w.sent, objectType) && !containsFold(w.accepted, objectType) {
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
		prefix, isPrefix := strings.CutSuffix(strings.ToLower(pattern), "*")
		return isPrefix && strings.HasPrefix(strings.ToLower(objectType), prefix) || strings.EqualFold(pattern, objectType)
	})
}

func containsFold(texts []string, text string) bool {
	return slices.ContainsFunc(texts, func(other string) bool { return strings.EqualFold(other, text) })
}
