package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/delivery"
)

// sites makes a namespace with three events of sites and one of a device, of which one failed and one is pending.
func sites(t *testing.T, space string) (events []*v1alpha1.NetBoxEvent) {
	t.Helper()
	announce := newRule(t, space, "announce", announceSpec)
	for i, name := range []string{"netbox-4.6.8-live/51", "netbox-4.6.8-live/72", "netbox-4.6.8/307", "netbox-4.7.3-live/538"} {
		events = append(events, receive(t, space, name, time.Duration(i)*3*time.Minute))
	}
	matched := []*v1alpha1.NetBoxEventRule{announce}
	deliver(t, events[0], matched, func(status *v1alpha1.NetBoxEventStatus) {
		attempt(status, 0, 0, delivery.Outcome{Response: "200 OK"}, time.Second)
	})
	deliver(t, events[1], matched, func(status *v1alpha1.NetBoxEventStatus) {
		attempt(status, 0, 0, delivery.Outcome{Response: "404 Not Found", Err: errNotFound, Permanent: true}, time.Second)
	})
	deliver(t, events[2], nil, nil)
	return events
}

func TestEvents(t *testing.T) {
	space := namespace(t, "events")
	events := sites(t, space)
	user := newSession(t, space)
	user.shows(t, "events.txt", exitWell, "events")
	user.shows(t, "events-failed.txt", exitWell, "events", "--failed", "--since", "2h")

	names := func(args ...string) (indexes []int) {
		got := user.run(t, append([]string{"events", "-o", "name"}, args...)...)
		if got.code != exitWell {
			t.Errorf("%s: exit code %d: %s", args, got.code, got.err)
		}
		for line := range strings.Lines(got.out) {
			indexes = append(indexes, slices.IndexFunc(events, func(event *v1alpha1.NetBoxEvent) bool {
				return "netboxevent.netbox-events.io/"+event.Name == strings.TrimSpace(line)
			}))
		}
		return indexes
	}
	for args, want := range map[string][]int{
		"":                         {0, 1, 2, 3},
		"--source netbox":          {0, 1, 2, 3},
		"--source other":           nil,
		"--type dcim.site":         {0, 1, 3},
		"--type dcim.*":            {0, 1, 2, 3},
		"--type ipam.*":            nil,
		"--object p1-x1":           {3},
		"--object P1-X1":           {3},
		"--user nobody":            nil,
		"--branch main":            {0, 1, 2, 3},
		"--branch other":           nil,
		"--failed":                 {1},
		"--failed --rule announce": {1},
		"--rule announce":          {0, 1},
		"--pending":                {3},
		"--since 4m":               {3},
		"--since 6m":               {2, 3},
		"--object " + events[0].Spec.ObjectID + " --type dcim.site":       {0, 1},
		"--request " + events[2].Spec.RequestID:                           {2},
		"--user " + events[0].Spec.Username + " --source netbox --failed": {1},
	} {
		if got := names(strings.Fields(args)...); !slices.Equal(got, want) {
			t.Errorf("events %s: %v, want %v", args, got, want)
		}
	}

	got := user.run(t, "events", "-o", "json", "--pending")
	var list v1alpha1.NetBoxEventList
	if err := json.Unmarshal([]byte(got.out), &list); err != nil || len(list.Items) != 1 || list.Kind != "List" || list.Items[0].Spec.Data == nil {
		t.Errorf("%v in %s", err, got.out)
	}
	if got := user.run(t, "events", "--failed", "--pending"); got.code != exitFailed {
		t.Errorf("--failed and --pending: exit code %d", got.code)
	}
}

func TestEventsRights(t *testing.T) {
	space := plane().Namespace(t)
	user := newSession(t, space)
	user.user = "lister"
	contains(t, user.run(t, "events").err, "you may not list netboxevents in namespace "+space)
	allow(t, space, "lister", rbacv1.PolicyRule{
		APIGroups: []string{v1alpha1.SchemeGroupVersion.Group}, Resources: []string{"netboxevents", "netboxsources"}, Verbs: []string{"list"},
	})
	got := user.run(t, "events", "--watch")
	contains(t, got.err, "you may not watch netboxevents in namespace "+space)
	if got.code != exitFailed {
		t.Errorf("exit code %d", got.code)
	}
}

// buffer is a bytes.Buffer for several goroutines.
type buffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *buffer) Write(text []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(text)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func eventually(t *testing.T, what string, isSo func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !isSo(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(what)
		}
	}
}

func TestEventsWatch(t *testing.T) {
	space := plane().Namespace(t)
	first := receive(t, space, "netbox-4.6.8-live/51", 0)
	user := newSession(t, space)
	var out buffer
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan int)
	p := newPlugin(genericiooptions.IOStreams{In: strings.NewReader(""), Out: &out, ErrOut: &out})
	p.clock = user.clock
	go func() {
		ended <- p.run(ctx, []string{"events", "--watch", "--type=dcim.site", "--kubeconfig=" + user.kubeconfig, "--namespace=" + space})
	}()
	eventually(t, "the list is not printed", func() bool { return strings.Contains(out.String(), first.Name) })
	receive(t, space, "netbox-4.6.8/307", time.Minute) // not of a site
	second := receive(t, space, "netbox-4.7.3-live/538", time.Minute)
	eventually(t, "a new event is not printed", func() bool { return strings.Contains(out.String(), second.Name) })
	deliver(t, second, nil, nil)
	eventually(t, "its end is not printed", func() bool { return strings.Count(out.String(), second.Name) == 2 })
	cancel()
	if code := <-ended; code != exitWell {
		t.Errorf("exit code %d", code)
	}
	if lines := strings.Split(strings.TrimSpace(out.String()), "\n"); len(lines) != 4 || !strings.Contains(lines[3], "Succeeded") {
		t.Errorf("%d lines:\n%s", len(lines), out.String())
	}
}

// TestTable keeps what NetBox sent from becoming more than a cell.
func TestTable(t *testing.T) {
	var out bytes.Buffer
	table := &table{out: &out, paint: true, maxBytes: 100}
	if err := table.print(cells("A", "B"), []cell{{"é", red}, {"x\x1b[2J\ny", ""}}, cells("東", "z")); err != nil {
		t.Fatal(err)
	}
	if want := "A    B\n\x1b[31mé\x1b[0m    x [2J y\n東   z\n"; out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
}

// TestEventsPages lists more events than a page has.
func TestEventsPages(t *testing.T) {
	if testing.Short() {
		t.Skip("makes many events")
	}
	space := plane().Namespace(t)
	first, store := receive(t, space, "netbox-4.6.8-live/51", 0), newStore(t)
	const more = pageSize + 20
	for i := range more {
		event := first.DeepCopy()
		event.ResourceVersion, event.UID, event.Name = "", "", fmt.Sprintf("%s-%d", first.Name, i)
		event.Spec.Delivery.ReceivedAt.Time = received.Add(time.Duration(more-i) * time.Second)
		if err := store.Create(t.Context(), event); err != nil {
			t.Fatal(err)
		}
	}
	got := strings.Fields(newSession(t, space).run(t, "events", "-o", "name").out)
	if len(got) != more+1 || !strings.HasSuffix(got[0], first.Name) || !strings.HasSuffix(got[more], first.Name+"-0") {
		t.Errorf("%d events, from %s to %s", len(got), got[0], got[len(got)-1])
	}
}

// TestAllNamespaces lists events and shows the status of two namespaces, among those of other tests.
func TestAllNamespaces(t *testing.T) {
	first, second := plane().Namespace(t), plane().Namespace(t)
	newSource(t, first, "netbox", v1alpha1.NetBoxSourceSpec{}, serving)
	newSource(t, second, "netbox", v1alpha1.NetBoxSourceSpec{})
	events := []*v1alpha1.NetBoxEvent{sites(t, first)[1], receive(t, second, "netbox-4.6.8-live/51", 0)}
	user := newSession(t, first)
	got := user.run(t, "events", "-A")
	if !strings.HasPrefix(got.out, "NAMESPACE ") || got.code != exitWell {
		t.Errorf("exit code %d: %s%s", got.code, got.out, got.err)
	}
	for _, event := range events {
		contains(t, got.out, "\n"+event.Namespace+" ")
		name := event.Namespace + "/" + event.Name
		contains(t, user.run(t, "events", "-A", "-o", "name").out, name+"\n")
		contains(t, user.run(t, "show", name).out, name)
	}

	user.later(time.Minute)
	got = user.run(t, "status", "-A", "-o", "json")
	var all overview
	if err := json.Unmarshal([]byte(got.out), &all); err != nil || got.code != exitFound {
		t.Fatalf("exit code %d, %v: %s", got.code, err, got.err)
	}
	for namespace, ready := range map[string]string{first: "True", second: "Unknown"} {
		at := slices.IndexFunc(all.Sources, func(source sourceOverview) bool { return source.Namespace == namespace })
		if at < 0 || all.Sources[at].Ready != ready {
			t.Errorf("the source of %s: %+v", namespace, all.Sources)
		}
	}
	got = user.run(t, "status", "--all-namespaces")
	contains(t, got.out, "NAMESPACE ", "\n"+first+" ", "\n"+second+" ", "- source netbox in namespace "+first+": 1 event failed",
		"kubectl netbox events --failed --source netbox -n "+first, "- source netbox in namespace "+second+": the operator has not looked at it")
	user.user = "nobody"
	contains(t, user.run(t, "status", "-A").err, "in all namespaces")
	contains(t, user.run(t, "events", "-A").err, "you may not list netboxevents in all namespaces")
}
