package event_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/controller/event"
	"github.com/netbox-events/netbox-event-operator/internal/rule"
)

// netbox answers questions, and takes note of them.
type netbox struct {
	mu      sync.Mutex
	asked   []string
	confirm func(event *v1alpha1.NetBoxEvent, n int) (bool, time.Duration, error)
	lookup  func(query rule.Query, n int) ([]byte, error)
}

// note returns how often a question was asked before.
func (n *netbox) note(question string) (times int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, earlier := range n.asked {
		if earlier == question {
			times++
		}
	}
	n.asked = append(n.asked, question)
	return times
}

func (n *netbox) questions() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.asked)
}

func (n *netbox) Confirm(_ context.Context, event *v1alpha1.NetBoxEvent) (bool, time.Duration, error) {
	return n.confirm(event, n.note(event.Name))
}

func (n *netbox) Lookup(_ context.Context, _ *v1alpha1.NetBoxEvent, query rule.Query) ([]byte, error) {
	return n.lookup(query, n.note(fmt.Sprint(query.Path, query.GraphQL, query.Variables)))
}

func asking(netbox *netbox, script *script) func(*event.Options) {
	return func(options *event.Options) { options.NetBox, options.Actions = netbox, script }
}

// TestLookups: the answers are in when and in templates; a failure is retried as the rule says; null is what is not there.
func TestLookups(t *testing.T) {
	namespace := plane.Namespace(t)
	plane.Create(t, newRule(namespace, "looks", func(spec *v1alpha1.NetBoxEventRuleSpec) {
		spec.Lookups = []v1alpha1.Lookup{
			{Name: "site", Path: "/api/dcim/sites/${event.objectID}/?name=${event.objectName + '/&x'}"},
			{Name: "gone", Path: "/api/dcim/racks/1/"},
			{Name: "query", GraphQL: &v1alpha1.GraphQLQuery{
				Query: "query($id: Int) { site(id: $id) { name } }", Variables: v1alpha1.JSONObject{"id": {Raw: []byte(`"${int(event.objectID)}"`)}},
			}},
		}
		spec.Actions = []v1alpha1.Action{
			say("leaf", "${lookups.site.role.slug} ${lookups.gone == null} ${lookups.query.site.name}"),
			say("spine", "x"), say("broken", "${lookups.site.missing}"),
		}
		spec.Actions[0].When, spec.Actions[1].When = `lookups.site.role.slug == "leaf"`, `lookups.site.role.slug == "spine"`
	}))
	netbox := &netbox{lookup: func(query rule.Query, n int) ([]byte, error) {
		switch {
		case query.GraphQL != "":
			return []byte(`{"site": {"name": "ams1"}}`), nil
		case query.Path == "/api/dcim/racks/1/":
			return nil, nil
		case n == 0:
			return nil, errors.New("NetBox answered with 502")
		default:
			return []byte(`{"role": {"slug": "leaf"}}`), nil
		}
	}}
	script := &script{}
	startWith(t, plane.Config, namespace, 0, nil, asking(netbox, script))
	made := newEvent(namespace, 7, 0)
	made.Spec.ObjectName = "a b"
	plane.Create(t, made)
	eventually(t, "the event is not finished", 20*time.Second, hasPhase(t, namespace, made.Name, v1alpha1.PhaseFailed))
	if diff := cmp.Diff([]string{"leaf: leaf true ams1"}, script.said()); diff != "" {
		t.Errorf("messages (-want +got):\n%s", diff)
	}
	site := "/api/dcim/sites/7/?name=a+b%2F%26xmap[]"
	want := []string{site, site, "/api/dcim/racks/1/map[]", "query($id: Int) { site(id: $id) { name } }map[id:7]"}
	if diff := cmp.Diff(want, netbox.questions()[:4]); diff != "" {
		t.Errorf("questions (-want +got):\n%s", diff)
	}
	actions := get(t, namespace, made.Name).Status.Rules[0].Actions
	got := fmt.Sprintf("%s %d, %s: %s, %s: %s", actions[0].State, actions[0].Attempts, actions[1].State, actions[1].Response, actions[2].State,
		actions[2].LastError)
	wantStates := `Succeeded 2, Skipped: when is false, Failed: lookups.site.missing: no such key; lookups.site has role in "lookups.site.missing"`
	if got != wantStates {
		t.Errorf("got  %s\nwant %s", got, wantStates)
	}
}

// TestConfirm: actions wait until the change is in the change log, in the order of the object's events, and are skipped for one that does not
// appear there.
func TestConfirm(t *testing.T) {
	namespace := plane.Namespace(t)
	plane.Create(t, newRule(namespace, "sure", func(spec *v1alpha1.NetBoxEventRuleSpec) {
		spec.Confirm = true
		spec.Actions = []v1alpha1.Action{say("act", "${event.name}"), say("more", "x", "act")}
	}))
	first, second, phantom := newEvent(namespace, 1, 0), newEvent(namespace, 1, 1), newEvent(namespace, 2, 0)
	netbox := &netbox{confirm: func(event *v1alpha1.NetBoxEvent, n int) (bool, time.Duration, error) {
		switch {
		case event.Name == first.Name && n == 0:
			return false, 0, errors.New("NetBox answered with 502")
		case event.Name == first.Name && n < 3, event.Name == phantom.Name && n == 0:
			return false, 50 * time.Millisecond, nil
		default:
			return event.Name != phantom.Name, 0, nil
		}
	}}
	script := &script{}
	startWith(t, plane.Config, namespace, 0, nil, asking(netbox, script))
	plane.Create(t, first, second, phantom)
	for _, made := range []*v1alpha1.NetBoxEvent{first, second, phantom} {
		eventually(t, "an event is not finished", 20*time.Second, hasPhase(t, namespace, made.Name, v1alpha1.PhaseSucceeded))
	}
	var order []string
	for _, message := range script.said() {
		if message != "more: x" {
			order = append(order, message)
		}
	}
	if diff := cmp.Diff([]string{"act: " + first.Name, "act: " + second.Name}, order); diff != "" {
		t.Errorf("messages (-want +got):\n%s", diff)
	}
	if attempts := get(t, namespace, first.Name).Status.Rules[0].Actions[0].Attempts; attempts != 2 {
		t.Errorf("%d attempts, want 2: a failure counts, and waiting does not", attempts)
	}
	if state := statesOf(t, namespace, phantom.Name)["act"]; state != "Skipped: the change is not in NetBox's change log: NetBox rolled it back, or "+
		"it changed nothing" {
		t.Errorf("the phantom is %s", state)
	}
}

// TestConfirmGroup leaves the changes that are not in the change log out of a group.
func TestConfirmGroup(t *testing.T) {
	namespace := plane.Namespace(t)
	plane.Create(t, newRule(namespace, "together", func(spec *v1alpha1.NetBoxEventRuleSpec) {
		spec.Confirm = true
		spec.Group = &v1alpha1.Group{By: v1alpha1.GroupByRule, Quiet: metav1.Duration{Duration: time.Second}}
		spec.Actions = []v1alpha1.Action{say("act", "${events.map(e, e.objectID).join(' ')}")}
	}))
	netbox := &netbox{confirm: func(event *v1alpha1.NetBoxEvent, _ int) (bool, time.Duration, error) {
		return event.Spec.ObjectID != "2", 0, nil
	}}
	script := &script{}
	startWith(t, plane.Config, namespace, 0, nil, asking(netbox, script))
	plane.Create(t, newEvent(namespace, 1, 0), newEvent(namespace, 2, 0), newEvent(namespace, 3, 0))
	for id := range 3 {
		name := newEvent(namespace, id+1, 0).Name
		eventually(t, "an event is not finished", 20*time.Second, hasPhase(t, namespace, name, v1alpha1.PhaseSucceeded))
	}
	if diff := cmp.Diff([]string{"act: 1 3"}, script.said()); diff != "" {
		t.Errorf("messages (-want +got):\n%s", diff)
	}
}
