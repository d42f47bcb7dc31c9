package cli

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/delivery"
	"github.com/netbox-events/netbox-event-operator/test/deliveries"
)

func TestShow(t *testing.T) {
	space := namespace(t, "show")
	provision := newRule(t, space, "provision", `{serviceAccountName: provisioner, actions: [
		{name: send, http: {url: "https://hooks.example.com/"}},
		{name: config, apply: {template: {apiVersion: v1, kind: ConfigMap, metadata: {name: a}}}}]}`)
	event := receive(t, space, "netbox-4.7.3-live/391", 0)
	deliver(t, event, []*v1alpha1.NetBoxEventRule{provision}, func(status *v1alpha1.NetBoxEventStatus) {
		attempt(status, 0, 0, delivery.Outcome{Response: "503 Service Unavailable", Err: errUnavailable}, 10*time.Second)
		status.Rules[0].Actions[0].NextAttemptTime.Time = now.Add(90 * time.Second) // jitter
		attempt(status, 0, 1, delivery.Outcome{Response: "ConfigMap show/a"}, time.Second)
	})
	user := newSession(t, space)
	user.shows(t, "show.txt", exitWell, "show", event.Name)

	event = receive(t, space, "netbox-4.6.8-live/72", 0) // with all that is hard to restore
	for _, name := range []string{event.Name, "netboxevent.netbox-events.io/" + event.Name, "nbe/" + event.Name, space + "/" + event.Name} {
		got := user.run(t, "show", name, "--raw")
		if diff := cmp.Diff(asJSON(t, body(t, "netbox-4.6.8-live/72")), asJSON(t, got.out)); got.code != exitWell || diff != "" {
			t.Errorf("show --raw %s: exit code %d %s (-sent +shown):\n%s", name, got.code, got.err, diff)
		}
	}
	got := user.run(t, "show", "absent")
	contains(t, got.err, `"absent" not found`, "see kubectl get netboxevents -n "+space)
	if got.code != exitFailed {
		t.Errorf("exit code %d", got.code)
	}
}

// TestShowCustomField shows a field by itself, not with all others.
func TestShowCustomField(t *testing.T) {
	space := plane().Namespace(t)
	event := receive(t, space, "netbox-4.7.3-live/538", 0)
	got := newSession(t, space).run(t, "show", event.Name)
	contains(t, got.out, "CHANGED              BEFORE   AFTER\ncustom_fields.p1cf   ", "No rule matched")
}

func body(t *testing.T, name string) string {
	t.Helper()
	all, err := recorded()
	if err != nil {
		t.Fatal(err)
	}
	return all[slices.IndexFunc(all, func(delivery deliveries.Delivery) bool { return delivery.String() == name })].Body
}

func asJSON(t *testing.T, text string) (value any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &value); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return value
}
