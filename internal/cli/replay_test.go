package cli

import (
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/delivery"
)

// requested returns the replay that an event requests, the zero value for none that is new.
func requested(t *testing.T, event *v1alpha1.NetBoxEvent) delivery.Replay {
	t.Helper()
	var stored v1alpha1.NetBoxEvent
	if err := plane().Client.Get(t.Context(), keyOf(event.Namespace, event.Name), &stored); err != nil {
		t.Fatal(err)
	}
	if replay := delivery.ReplayOf(&stored); replay.IsNew(&stored.Status) {
		return replay
	}
	return delivery.Replay{}
}

func TestReplay(t *testing.T) {
	space := namespace(t, "replay")
	events := sites(t, space) // of which the second failed, and the last is pending
	user := newSession(t, space)
	got := user.run(t, "replay", "--failed")
	contains(t, got.err, "not confirmed, and nothing done")
	if replay := requested(t, events[1]); got.code != exitFailed || replay != (delivery.Replay{}) {
		t.Errorf("exit code %d, requested %+v", got.code, replay)
	}
	user.shows(t, "replay.txt", exitWell, "replay", "--failed", "--rule", "announce", "--since", "2h", "--yes")
	for i, want := range []delivery.Replay{{}, {Value: "2026-11-23T19:12:00.000000Z", Rule: "announce"}, {}, {}} {
		if got := requested(t, events[i]); got != want {
			t.Errorf("event %d requests %+v, want %+v", i, got, want)
		}
	}
	user.clock.Step(time.Minute)
	user.in = "y\n"
	got = user.run(t, "replay", events[2].Name, "nbe/"+events[1].Name, events[3].Name, events[1].Name)
	contains(t, got.out, "2 events will be delivered again", "Requested the replay of 2 events")
	contains(t, got.err, "1 event is pending, and left out", "Replay 2 events? [y/N]")
	if first, second := strings.Index(got.out, events[1].Name), strings.Index(got.out, events[2].Name); first > second {
		t.Errorf("not the oldest first:\n%s", got.out)
	}
	for i, want := range []delivery.Replay{{}, {Value: "2026-11-23T19:13:00.000000Z"}, {Value: "2026-11-23T19:13:00.000000Z"}, {}} {
		if got := requested(t, events[i]); got != want {
			t.Errorf("event %d requests %+v, want %+v", i, got, want)
		}
	}

	other := plane().Namespace(t)
	newRule(t, other, "there", announceSpec)
	elsewhere := receive(t, other, "netbox-4.6.8-live/51", 0)
	deliver(t, elsewhere, nil, nil)
	contains(t, user.run(t, "replay", other+"/"+elsewhere.Name, "--rule", "there", "--yes").out, "kubectl netbox events --pending -n "+other)
	if got := requested(t, elsewhere); got.Rule != "there" {
		t.Errorf("requested %+v", got)
	}

	newRule(t, space, "suspended", `{suspend: true, actions: [{name: say, log: {message: x}}]}`)
	newRule(t, space, "new", `{actions: [{name: say, log: {message: x}}]}`)
	for args, want := range map[string]string{
		"":                                "name events, or select them",
		"--rule announce":                 "name events, or select them",
		"--failed " + events[0].Name:      "not both",
		"--failed --rule suspended":       "rule suspended is suspended",
		"--failed --rule absent":          `"absent" not found`,
		"absent":                          `"absent" not found`,
		"absent " + other + "/a":          "in namespaces " + space + " and " + other + "; replay those of one namespace at a time",
		other + "/a --rule announce":      `"announce" not found; see kubectl get netboxeventrules -n ` + other,
		"--failed --per-second 0":         "--per-second must be more than 0",
		"--source other --yes":            "nothing to replay",
		"--rule new --since 10h --yes":    "1 event is pending",
		events[0].Name + " --rule new -y": "",
	} {
		contains(t, user.run(t, append([]string{"replay"}, strings.Fields(args)...)...).err, want)
	}
	if got := requested(t, events[0]); got.Rule != "new" {
		t.Errorf("requested %+v", got)
	}
}

func TestReplayRights(t *testing.T) {
	space := plane().Namespace(t)
	events := sites(t, space)
	user := newSession(t, space)
	user.user = "replayer"
	allow(t, space, "replayer", rbacv1.PolicyRule{
		APIGroups: []string{v1alpha1.SchemeGroupVersion.Group}, Resources: []string{"netboxevents", "netboxsources"}, Verbs: []string{"get", "list"},
	})
	got := user.run(t, "replay", events[0].Name)
	contains(t, got.err, "you may not patch netboxevents in namespace "+space)
	if got.code != exitFailed || got.out != "" {
		t.Errorf("exit code %d: %s", got.code, got.out)
	}
}
