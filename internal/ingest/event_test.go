package ingest

import (
	"regexp"
	"testing"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/netbox-events/netbox-event-operator/internal/netbox"
)

func TestEventName(t *testing.T) {
	for _, test := range []struct{ model, id, event, want string }{
		{"site", "14", "created", `^site-14-created-[0-9a-f]{20}$`},
		{
			"device", "56a46ee7-2f04-454b-8bef-4771e053f94a", "updated",
			`^device-56a46ee7-2f04-454b-8bef-4771e053f94a-updated-[0-9a-f]{20}$`,
		},
		{"script", "", "job_ended", `^script-job-ended-[0-9a-f]{20}$`},
		{"東京", "-", "", `^[0-9a-f]{20}$`},
	} {
		got := eventName(&netbox.Event{Model: test.model, ObjectID: test.id, Event: test.event}, "uid")
		if !regexp.MustCompile(test.want).MatchString(got) {
			t.Errorf("%s, want %s", got, test.want)
		}
	}
	event := &netbox.Event{Model: "site"}
	other := &netbox.Event{Model: "site", Digest: [32]byte{1}}
	if eventName(event, "a") == eventName(event, "b") || eventName(event, "a") == eventName(other, "a") {
		t.Error("two sources or two bodies share a name")
	}
}

// FuzzEventName checks that the API server takes the name of any event.
func FuzzEventName(f *testing.F) {
	f.Add("site", "14", "created", "uid")
	f.Add("A.b/ü\x00", "--", "\n", "")
	f.Fuzz(func(t *testing.T, model, id, event, uid string) {
		name := eventName(&netbox.Event{Model: model, ObjectID: id, Event: event}, uid)
		if faults := validation.IsDNS1123Subdomain(name); len(faults) > 0 {
			t.Fatalf("%q: %v", name, faults)
		}
	})
}
