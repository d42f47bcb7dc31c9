package netbox

import (
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/netboxapi"
)

const (
	// webhookType is the type of webhooks, whose events have the secrets of all webhooks in clear, under secretField.
	webhookType = "extras.webhook"
	secretField = "secret"
)

// selection is the result of selecting object types.
type selection struct {
	// types are the selected ones, sorted.
	types []string
	// unknown are the patterns that select none: NetBox has no such type, or none with event rules.
	unknown []string
	// isWebhookLeftOut means that a pattern would have selected webhookType.
	isWebhookLeftOut bool
}

// selectTypes selects the object types with event rules that match patterns such as dcim.site, dcim.* and *. refused are types that NetBox
// did not take for an event rule. Only a pattern without an asterisk selects webhookType, unless its secrets are redacted.
func selectTypes(known []netboxapi.ObjectType, refused map[string]bool, patterns []string, areSecretsRedacted bool) selection {
	var result selection
	selected := map[string]bool{}
	for _, pattern := range patterns {
		matches := false
		for _, objectType := range known {
			name := objectType.Name
			if objectType.HasEventRules == netboxapi.SupportNo || refused[name] || !matchesType(pattern, name) {
				continue
			}
			matches = true
			if name == webhookType && !strings.EqualFold(pattern, webhookType) && !areSecretsRedacted {
				result.isWebhookLeftOut = true
				continue
			}
			selected[name] = true
		}
		if !matches {
			result.unknown = append(result.unknown, pattern)
		}
	}
	result.types = slices.Sorted(maps.Keys(selected))
	result.isWebhookLeftOut = result.isWebhookLeftOut && !selected[webhookType]
	return result
}

// matchesType reports whether a pattern such as dcim.device or dcim.* has an object type. Case makes no difference.
func matchesType(pattern, name string) bool {
	pattern, name = strings.ToLower(pattern), strings.ToLower(name)
	if app, isApp := strings.CutSuffix(pattern, "*"); isApp {
		return strings.HasPrefix(name, app)
	}
	return pattern == name
}

// sentPatterns returns the patterns of object types that NetBox should send to a source, which must have spec.netbox.webhook. rules are
// those of its namespace, and only used if isFromRules.
func sentPatterns(source *v1alpha1.NetBoxSource, rules []v1alpha1.NetBoxEventRule) []string {
	webhook := managed(source)
	switch {
	case len(webhook.ObjectTypes) == 0:
		return []string{v1alpha1.AllObjectTypes}
	case isFromRules(source):
		return rulePatterns(rules, source.Name)
	default:
		return webhook.ObjectTypes
	}
}

// rulePatterns returns the patterns of object types that the rules of a source's namespace ask of it, sorted.
func rulePatterns(rules []v1alpha1.NetBoxEventRule, source string) []string {
	patterns := map[string]bool{}
	for _, rule := range rules {
		if rule.Spec.Suspend || !rule.DeletionTimestamp.IsZero() || !asksFor(rule.Spec.Match, source) {
			continue
		}
		if len(rule.Spec.Match.ObjectTypes) == 0 {
			return []string{v1alpha1.AllObjectTypes}
		}
		for _, pattern := range rule.Spec.Match.ObjectTypes {
			patterns[strings.ToLower(pattern)] = true
		}
	}
	return slices.Sorted(maps.Keys(patterns))
}

func asksFor(match v1alpha1.Match, source string) bool {
	return len(match.Sources) == 0 || slices.ContainsFunc(match.Sources, func(name string) bool { return strings.EqualFold(name, source) })
}

var invalidTypePattern = regexp.MustCompile(`Invalid content type: ([a-z0-9_-]+\.[a-z0-9_-]+)`)

// refusedType returns the object type that NetBox did not take for an event rule, from its error; "" if that is about something else.
func refusedType(err error) string {
	if netboxapi.KindOf(err) != netboxapi.KindInvalid {
		return ""
	}
	if parts := invalidTypePattern.FindStringSubmatch(err.Error()); parts != nil {
		return parts[1]
	}
	return ""
}
