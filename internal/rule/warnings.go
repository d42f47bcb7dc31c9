package rule

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

// misnamedEvents are names that NetBox uses elsewhere, such as in its event rules, or that people write, and the names in its webhooks.
// A plugin may make up any other name.
//
// The admission policies rule-matches and source-accepts have the same names.
var misnamedEvents = map[string]string{
	"create": "created", "add": "created", "added": "created", "object_created": "created", "object-created": "created",
	"update": "updated", "change": "updated", "changed": "updated", "modified": "updated",
	"object_updated": "updated", "object-updated": "updated",
	"delete": "deleted", "remove": "deleted", "removed": "deleted", "object_deleted": "deleted", "object-deleted": "deleted",
	"job_start": "job_started",
	"job_end":   "job_ended", "job_completed": "job_ended", "job_failed": "job_ended", "job_errored": "job_ended", "job_finished": "job_ended",
}

// misnamedTypes matches object types of NetBox's own applications that are plural, or have a hyphen or underscore, as in URLs: NetBox's
// are singular, without either, such as dcim.device, dcim.virtualchassis, ipam.ipaddress and extras.status.
var misnamedTypes = regexp.MustCompile(
	`(?i)^(circuits|core|dcim|extras|ipam|tenancy|users|virtualization|vpn|wireless)\.([a-z0-9]*[-_].*|.*[^isu]s)$`)

// Warnings returns a line for each entry of a filter that fits no event of NetBox. The path is that of the filter in its object.
func Warnings(path string, filter *v1alpha1.Filter) []string {
	var warnings []string
	for _, event := range filter.Events {
		if right, ok := misnamedEvents[strings.ToLower(event)]; ok {
			warnings = append(warnings, fmt.Sprintf("%s.events: no webhook of NetBox has the event %q; write %q", path, event, right))
		}
	}
	for _, objectType := range filter.ObjectTypes {
		if misnamedTypes.MatchString(objectType) {
			warnings = append(warnings, fmt.Sprintf(
				"%s.objectTypes: NetBox has no object type %q: its types are singular, without hyphens and underscores, such as dcim.devicerole",
				path, objectType))
		}
	}
	return warnings
}
