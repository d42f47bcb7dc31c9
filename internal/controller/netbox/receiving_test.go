package netbox

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/netboxapi"
)

func TestReceivingCondition(t *testing.T) {
	start := time.Unix(1_795_770_000, 0)
	at := func(minute int) time.Time { return start.Add(time.Duration(minute) * time.Minute) }
	arrival := func(minute int) func(*sightings) {
		return func(s *sightings) {
			event := &v1alpha1.NetBoxEvent{}
			event.Spec.Delivery.ReceivedAt = metav1.NewMicroTime(at(minute))
			s.received(event)
		}
	}
	miss := func(minute int) func(*sightings) {
		return func(s *sightings) {
			s.miss(&change{changeKey: changeKey{"r", "dcim.site", "1"}, event: "updated", user: "admin", objectName: "A", time: at(minute)})
		}
	}
	excuse := func(s *sightings) { s.excuse(at(5)) }
	for name, test := range map[string]struct {
		previous string
		happened []func(*sightings)
		want     string
	}{
		"nothing yet":                        {"", nil, "Unknown NothingLogged"},
		"nothing since a restart":            {"False", nil, "False before"},
		"a webhook":                          {"Unknown", []func(*sightings){arrival(1)}, "True ChangesArrive"},
		"a change missed":                    {"True", []func(*sightings){miss(1)}, "False NothingArrives"},
		"one missed after the last webhook":  {"", []func(*sightings){arrival(1), miss(2), miss(3)}, "False NothingArrives"},
		"one missed before the last webhook": {"", []func(*sightings){arrival(3), miss(2)}, "True ChangesArrive"},
		"a webhook after those missed":       {"False", []func(*sightings){miss(1), miss(2), arrival(5)}, "True ChangesArrive"},
		"missed while suspended":             {"True", []func(*sightings){excuse, miss(4)}, "True before"},
		"missed after being suspended":       {"True", []func(*sightings){excuse, miss(6)}, "False NothingArrives"},
	} {
		var s sightings
		for _, happened := range test.happened {
			happened(&s)
		}
		var previous *metav1.Condition
		if test.previous != "" {
			previous = &metav1.Condition{Status: metav1.ConditionStatus(test.previous), Reason: "before", Message: "m"}
		}
		got := receivingCondition(previous, s.receiving(), time.Minute, []string{"hint"})
		if s := string(got.Status) + " " + got.Reason; s != test.want {
			t.Errorf("%s: %s, want %s", name, s, test.want)
		}
	}

	var s sightings
	arrival(1)(&s)
	miss(3)(&s)
	miss(2)(&s)
	want := `NetBox logged 2 changes that it should have sent, and none of them came within 2m0s; the first is dcim.site 1 "A" updated by admin ` +
		`at ` + at(2).UTC().Format(time.RFC3339) + ` (request r). the event rule 9 is disabled`
	got := receivingCondition(nil, s.receiving(), 2*time.Minute, []string{"the event rule 9 is disabled"})
	if diff := cmp.Diff(want, got.Message); diff != "" {
		t.Errorf("message (-want +got):\n%s", diff)
	}
}

func TestDiagnoseQueues(t *testing.T) {
	for want, queue := range map[string]netboxapi.Queue{
		"":                                   {Name: "default", Workers: 1},
		"no RQ worker serves NetBox's queue": {Name: "default"},
		"7 jobs wait in NetBox's queue":      {Name: "default", Workers: 1, Waiting: 7},
		"3 jobs in NetBox's queue default failed": {Name: "default", Workers: 1, Failed: 3},
	} {
		found := strings.Join(diagnoseQueues([]netboxapi.Queue{queue, {Name: "low"}}), "; ")
		if !strings.Contains(found, want) || (want == "") != (found == "") {
			t.Errorf("%+v: %q, want %q", queue, found, want)
		}
	}
}

// TestLogged: events that need not be in the change log are no phantoms.
func TestLogged(t *testing.T) {
	for _, test := range []struct {
		event, objectType string
		changed           []string
		label             string
		want              bool
	}{
		{event: "created", objectType: "dcim.site", want: true},
		{event: "updated", objectType: "dcim.site", changed: []string{"name"}, want: true},
		{event: "updated", objectType: "dcim.interface", changed: []string{"_path", "name"}, want: true},
		{event: "updated", objectType: "dcim.interface", changed: []string{"_path"}},
		{event: "updated", objectType: "dcim.site"},
		{event: "deleted", objectType: "users.owner"},
		{event: "job_ended", objectType: "core.datasource"},
		{event: "created", objectType: "dcim.site", label: v1alpha1.LabelPhantom},
	} {
		event := &v1alpha1.NetBoxEvent{Spec: v1alpha1.NetBoxEventSpec{Event: test.event, ObjectType: test.objectType, ChangedFields: test.changed}}
		if test.label != "" {
			event.Labels = map[string]string{test.label: "true"}
		}
		if got := isLogged(event); got != test.want {
			t.Errorf("%+v: %t", test, got)
		}
	}
}

func TestWanted(t *testing.T) {
	types := map[string]netboxapi.ObjectType{
		"dcim.site": {HasEventRules: netboxapi.SupportYes}, "dcim.portmapping": {HasEventRules: netboxapi.SupportNo}, "ipam.prefix": {},
		"extras.webhook": {HasEventRules: netboxapi.SupportYes},
	}
	managed := func(types ...string) *v1alpha1.ManagedWebhook { return &v1alpha1.ManagedWebhook{ObjectTypes: types} }
	ruleOf := func(source string, suspend bool, types ...string) v1alpha1.NetBoxEventRule {
		rule := v1alpha1.NetBoxEventRule{}
		rule.Spec.Suspend, rule.Spec.Match.ObjectTypes = suspend, types
		if source != "" {
			rule.Spec.Match.Sources = []string{source}
		}
		return rule
	}
	for name, test := range map[string]struct {
		webhook *v1alpha1.ManagedWebhook
		accept  *v1alpha1.Filter
		redact  []string
		rules   []v1alpha1.NetBoxEventRule
		want    []string
	}{
		"set up by people":          {want: []string{"dcim.site", "ipam.prefix", "new.type"}},
		"with webhooks' secrets":    {redact: []string{"secret"}, want: []string{"dcim.site", "extras.webhook", "ipam.prefix", "new.type"}},
		"all":                       {webhook: managed("*"), want: []string{"dcim.site", "ipam.prefix", "new.type"}},
		"some":                      {webhook: managed("dcim.*", "extras.webhook"), want: []string{"dcim.site", "extras.webhook"}},
		"accepted":                  {accept: &v1alpha1.Filter{ObjectTypes: []string{"IPAM.*"}}, want: []string{"ipam.prefix"}},
		"from no rules":             {webhook: managed("FromRules")},
		"from rules":                {webhook: managed("FromRules"), rules: []v1alpha1.NetBoxEventRule{ruleOf("NetBox", false, "Dcim.Site"), ruleOf("other", false), ruleOf("", true)}, want: []string{"dcim.site"}},
		"from a rule for all types": {webhook: managed("FromRules"), rules: []v1alpha1.NetBoxEventRule{ruleOf("", false)}, want: []string{"dcim.site", "ipam.prefix", "new.type"}},
	} {
		source := &v1alpha1.NetBoxSource{ObjectMeta: metav1.ObjectMeta{Name: "netbox"}}
		source.Spec.NetBox, source.Spec.Accept, source.Spec.Redact = &v1alpha1.NetBoxAPI{Webhook: test.webhook}, test.accept, test.redact
		wanted := wantedOf(source, test.rules, types)
		var got []string
		for _, objectType := range []string{"", "dcim.portmapping", "dcim.site", "extras.webhook", "ipam.prefix", "new.type"} {
			if wanted.wantsType(objectType) {
				got = append(got, objectType)
			}
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
