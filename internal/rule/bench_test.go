package rule_test

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/rule"
)

const job = `{"apiVersion": "batch/v1", "kind": "Job",
	"metadata": {"name": "provision-${data.name}", "labels": {"role": "${data.role.slug}", "id": "${string(data.id)}"}},
	"spec": {"ttlSecondsAfterFinished": 600, "backoffLimit": "${data.device_type.id}", "template": {"spec": {
		"restartPolicy": "Never",
		"containers": [{"name": "provision", "image": "registry.example.com/provision:1.4",
			"args": ["--site", "${data.site.slug}", "--serial=${data.serial}", "$${HOME}"],
			"env": [{"name": "DATA", "value": "${data.custom_fields}"}, {"name": "REQUEST", "value": "${event.requestID}"}]}]}}}}`

func jobRule(t testing.TB) *v1alpha1.NetBoxEventRuleSpec {
	t.Helper()
	spec := &v1alpha1.NetBoxEventRuleSpec{
		Match: v1alpha1.Match{
			Sources: []string{"netbox"}, Filter: v1alpha1.Filter{
				Events: []string{"created", "updated"}, ObjectTypes: []string{"dcim.device"},
				CEL: `changedTo("status", "active") && data.role.slug == "leaf"`,
			},
		},
		Actions: []v1alpha1.Action{
			{Name: "job", Apply: &v1alpha1.ApplyAction{}},
			{Name: "announce", HTTP: &v1alpha1.HTTPAction{URL: "https://hooks.example.com/netbox/${event.objectType}?name=${data.name}"}},
			{Name: "note", Event: &v1alpha1.EventAction{Reason: "DeviceActive", Message: "${data.name} is active"}},
		},
	}
	if err := json.Unmarshal([]byte(job), &spec.Actions[0].Apply.Template); err != nil {
		t.Fatal(err)
	}
	return spec
}

// benchmarkEvent is an update of a device that makes it active.
func benchmarkEvent(t testing.TB) *v1alpha1.NetBoxEvent {
	t.Helper()
	events, _ := recorded(t)
	event := events["netbox-4.6.8-live/182"]
	if event == nil || event.Spec.ObjectType != "dcim.device" || event.Spec.Event != "updated" {
		t.Fatal("the recorded deliveries lack the update of a device")
	}
	return event
}

// BenchmarkMatch1000 matches one event against 1000 rules: the lists of 400 exclude it, 300 read data, 200 compare snapshots, and 100 read
// the event.
func BenchmarkMatch1000(b *testing.B) {
	event := benchmarkEvent(b)
	var rules []*rule.Rule
	for i := range 1000 {
		var match v1alpha1.Match
		switch {
		case i%10 < 4:
			match = v1alpha1.Match{Filter: v1alpha1.Filter{Events: []string{"updated"}, ObjectTypes: []string{"ipam.*", "virtualization.virtualmachine"}}}
		case i%10 < 7:
			match = v1alpha1.Match{Filter: v1alpha1.Filter{ObjectTypes: []string{"dcim.*"}, CEL: fmt.Sprintf(`data.role.slug == "role-%d" && data.tags.exists(t, t.slug == "a")`, i)}}
		case i%10 < 9:
			match = v1alpha1.Match{Filter: v1alpha1.Filter{ObjectTypes: []string{"dcim.device"}, CEL: fmt.Sprintf(`changedTo("status", "active") && data.site.slug == "site-%d"`, i)}}
		default:
			match = v1alpha1.Match{Filter: v1alpha1.Filter{CEL: fmt.Sprintf(`event.username == "user-%d"`, i)}}
		}
		rules = append(rules, compile(b, &v1alpha1.NetBoxEventRuleSpec{Match: match}))
	}
	b.ReportAllocs()
	for b.Loop() {
		in := rule.NewInput(event, now)
		for _, rule := range rules {
			if matched, err := rule.Match(b.Context(), event, in); matched || err != nil {
				b.Fatal(matched, err)
			}
		}
	}
}

// BenchmarkCompile compiles a rule with a match expression, a Job of 8 expressions, a URL and a message.
func BenchmarkCompile(b *testing.B) {
	spec := jobRule(b)
	compile(b, spec) // initializes the environment
	b.ReportAllocs()
	for b.Loop() {
		compile(b, spec)
	}
}

// BenchmarkRender renders the Job from an event that is not decoded yet.
func BenchmarkRender(b *testing.B) {
	event, object := benchmarkEvent(b), compile(b, jobRule(b)).Actions[0].Objects[0]
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := object.Render(b.Context(), rule.NewInput(event, now)); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkInput evaluates one expression on an event that is not decoded yet.
func BenchmarkInput(b *testing.B) {
	event := benchmarkEvent(b)
	for name, cel := range map[string]string{
		"event": `event.username == "admin"`, "data": `data.role.slug == "leaf"`, "changedTo": `changedTo("status", "active")`,
	} {
		compiled := compile(b, &v1alpha1.NetBoxEventRuleSpec{Match: v1alpha1.Match{Filter: v1alpha1.Filter{CEL: cel}}})
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := compiled.Match(b.Context(), event, rule.NewInput(event, now)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
