package rule

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

func TestWarnings(t *testing.T) {
	for _, objectType := range []string{"DCIM.Devices", "dcim.device-roles", "ipam.ip_address", "ipam.ipaddresses", "extras.statuses"} {
		got := Warnings("spec.match", &v1alpha1.Filter{Events: []string{"Created", "branch_merged"}, ObjectTypes: []string{objectType, "plugin.zones"}})
		if len(got) != 1 || !strings.Contains(got[0], objectType) || !strings.HasPrefix(got[0], "spec.match.objectTypes: ") {
			t.Errorf("%s: warnings: %q", objectType, got)
		}
	}
	if got := Warnings("spec.accept", &v1alpha1.Filter{Events: []string{"Update"}}); len(got) != 1 || !strings.Contains(got[0], `"Update"; write "updated"`) {
		t.Errorf("warnings: %q", got)
	}
	good := &v1alpha1.Filter{
		Events: []string{"created", "UPDATED", "deleted", "job_started", "job_ended", "branch_merged"},
		ObjectTypes: []string{
			"dcim.*", "DCIM.Device", "dcim.virtualchassis", "ipam.ipaddress", "dcim.macaddress", "extras.status", "netbox_dns.zones", "a-b.c-d",
		},
	}
	if got := Warnings("spec.match", good); got != nil {
		t.Errorf("warnings: %q", got)
	}
}

// TestPoliciesWarnOfTheSame compares the admission policies with Warnings.
func TestPoliciesWarnOfTheSame(t *testing.T) {
	_, pattern, _ := strings.Cut(misnamedTypes.String(), "(?i)")
	pattern = strings.ReplaceAll(pattern, `\.`, "[.]")
	for _, name := range []string{"rule_matches", "source_accepts"} {
		policy, err := os.ReadFile("../../config/admission/" + name + ".yaml")
		if err != nil {
			t.Fatal(err)
		}
		_, events, _ := strings.Cut(string(policy), "lowerAscii() in [")
		events, _, _ = strings.Cut(events, "]")
		var got []string
		for _, quoted := range regexp.MustCompile(`"([^"]+)"`).FindAllStringSubmatch(events, -1) {
			got = append(got, quoted[1])
		}
		slices.Sort(got)
		if diff := cmp.Diff(slices.Sorted(maps.Keys(misnamedEvents)), got); diff != "" {
			t.Errorf("events of %s (-want +got):\n%s", name, diff)
		}
		if !strings.Contains(string(policy), `"`+pattern+`"`) {
			t.Errorf("the pattern of %s differs from %s", name, pattern)
		}
	}
}
