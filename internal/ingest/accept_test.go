package ingest_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/source"
)

// TestAccept sends accepted and ignored deliveries to a source with spec.accept.
func TestAccept(t *testing.T) {
	at := start(t, plane.Config)
	target := newSource(t, at, "key", func(s *v1alpha1.NetBoxSource) {
		s.Spec.Accept = &v1alpha1.Filter{
			ObjectTypes: []string{"dcim.*", "ipam.prefix"}, Events: []string{"created", "updated"}, ChangedFields: []string{"status"},
			CEL: `event.objectType != "dcim.device" || data.custom_fields.iccid == "12345678901234567890"`,
		}
	})
	drain(at.recorded) // refusals until newSource was served
	url := at.URL + source.Path(target)
	send := func(event, objectType, rest string) string {
		t.Helper()
		body := fmt.Sprintf(`{"event":%q,"timestamp":"2020-11-23T10:00:00.5+00:00","object_type":%q,%s}`, event, objectType, rest)
		answer := post(t, url, body, signed("key", body))
		if answer.status != 200 || (answer.Event == "") != (answer.Result == "ignored") {
			t.Errorf("%s is answered with %d %q %q", body, answer.status, answer.Result, answer.Event)
		}
		return answer.Result
	}
	snapshots := func(before, after string) string {
		return fmt.Sprintf(`"data":{"id":1},"snapshots":{"prechange":{"status":%q},"postchange":{"status":%q}}`, before, after)
	}
	for _, test := range []struct{ reason, event, objectType, rest, want string }{
		{"all fits", "updated", "dcim.site", snapshots("planned", "active"), "ok"},
		{"another application", "updated", "virtualization.cluster", snapshots("planned", "active"), "ignored"},
		{"another type of an application", "updated", "ipam.vlan", snapshots("planned", "active"), "ignored"},
		{"another event", "deleted", "dcim.site", snapshots("planned", "active"), "ignored"},
		{"another field", "updated", "dcim.site", snapshots("active", "active"), "ignored"},
		{"a creation changes all fields", "created", "dcim.site", `"data":{"id":2}`, "ok"},
		{"a number as the event will have it", "created", "dcim.device", `"data":{"id":3,"custom_fields":{"iccid":12345678901234567890}}`, "ok"},
		{"another number", "created", "dcim.device", `"data":{"id":4,"custom_fields":{"iccid":12345678901234567891}}`, "ignored"},
	} {
		if got := send(test.event, test.objectType, test.rest); got != test.want {
			t.Errorf("%s: %s, want %s", test.reason, got, test.want)
		}
	}
	if lines := drain(at.recorded); len(lines) > 0 {
		t.Errorf("Kubernetes Events about ignored deliveries: %q", lines)
	}
	if got := send("created", "dcim.device", `"data":{"id":5}`); got != "ok" {
		t.Errorf("an event on which the expression fails: %s", got)
	}
	if lines := drain(at.recorded); len(lines) != 1 || !strings.Contains(lines[0], "Warning AcceptFailed spec.accept.cel failed on device-5-created-") {
		t.Errorf("Kubernetes Events of an expression that failed: %q", lines)
	}

	// A change of spec.accept takes effect, and an event is stored if the expression exceeds its cost limit.
	costly := "[" + strings.Repeat("0, ", 99) + "0]"
	for _, test := range []struct{ accept, want string }{
		{`data.id == 7`, "ignored"},
		{fmt.Sprintf("%s.all(a, %s.all(b, %s.all(c, a == b)))", costly, costly, costly), "ok"},
	} {
		before := target.Generation
		target.Spec.Accept = &v1alpha1.Filter{CEL: test.accept}
		if err := plane.Client.Update(t.Context(), target); err != nil || target.Generation == before {
			t.Fatal(target.Generation, err)
		}
		eventually(t, fmt.Sprintf("with %.30q an event is not %s", test.accept, test.want), func() bool {
			return send("created", "dcim.site", fmt.Sprintf(`"data":{"id":6,"generation":%d}`, target.Generation)) == test.want
		})
	}

	var stored v1alpha1.NetBoxEventList
	if err := plane.Client.List(t.Context(), &stored, client.InNamespace(target.Namespace)); err != nil {
		t.Fatal(err)
	}
	counted := at.counted(t)
	isIgnored := func(count string) bool { return strings.HasPrefix(count, target.Namespace+"/netbox ignored ") }
	if !slices.Contains(counted, fmt.Sprintf("%s/netbox stored %d", target.Namespace, len(stored.Items))) || !slices.ContainsFunc(counted, isIgnored) {
		t.Errorf("%d events are stored, and counted are %q", len(stored.Items), counted)
	}
	families, err := at.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var failures float64
	for _, family := range families {
		if family.GetName() == "netbox_events_receiver_accept_errors_total" {
			failures = family.GetMetric()[0].GetCounter().GetValue()
		}
	}
	if failures != 2 {
		t.Errorf("%v failed expressions are counted, want 2", failures)
	}
}

func drain(lines <-chan string) (drained []string) {
	for {
		select {
		case line := <-lines:
			drained = append(drained, line)
		default:
			return drained
		}
	}
}
