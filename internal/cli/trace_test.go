package cli

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/delivery"
)

// TestTrace has ten rules which each miss an event for another reason, and one that matched it.
func TestTrace(t *testing.T) {
	space := namespace(t, "trace")
	newSource(t, space, "netbox", v1alpha1.NetBoxSourceSpec{}, serving)
	newSource(t, space, "lab", v1alpha1.NetBoxSourceSpec{}, serving)
	provision := newRule(t, space, "provision", `{match: {objectTypes: [dcim.site]}, serviceAccountName: provisioner, actions: [
		{name: announce, http: {url: "https://hooks.example.com/"}},
		{name: ticket, http: {url: "https://tickets.example.com/"}},
		{name: note, event: {reason: X, message: x}},
		{name: job, apply: {template: {apiVersion: v1, kind: List, items: [
			{apiVersion: batch/v1, kind: Job, metadata: {generateName: "survey-"}}, {apiVersion: v1, kind: ConfigMap, metadata: {name: "${data.slug}"}}]}}}]}`)
	const actions = `actions: [{name: say, log: {message: x}}]`
	for name, spec := range map[string]string{
		"miss-source":     `match: {sources: [lab]}`,
		"miss-branch":     `match: {branches: ["Rack move"]}`,
		"miss-event":      `match: {events: [created, deleted]}`,
		"miss-type":       `match: {objectTypes: [dcim.device, "ipam.*"]}`,
		"miss-field":      `match: {changedFields: [status, name]}`,
		"miss-expression": `match: {cel: 'changedTo("status", "active") && data.region.slug == "emea" || data.tenant != null'}`,
		"miss-key":        `match: {cel: 'data.role.slug == "leaf"'}`,
		"miss-suspended":  `suspend: true`,
		"miss-invalid":    `match: {cel: 'event.user == "admin"'}`,
		"miss-younger":    `match: {objectTypes: [dcim.site]}`,
	} {
		newRule(t, space, name, "{"+spec+", "+actions+"}")
	}
	job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: space, Name: "survey-3f9c2a7b"}, Spec: batchv1.JobSpec{
		Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "c", Image: "x"}}}},
	}}
	plane().Create(t, job)
	job.Status.StartTime, job.Status.Active = new(metav1.NewTime(received)), 1
	if err := plane().Client.Status().Update(t.Context(), job); err != nil {
		t.Fatal(err)
	}
	event := receive(t, space, "netbox-4.7.3-live/391", 0)
	deliver(t, event, []*v1alpha1.NetBoxEventRule{provision}, func(status *v1alpha1.NetBoxEventStatus) {
		attempt(status, 0, 0, delivery.Outcome{Response: "200 OK"}, time.Second)
		attempt(status, 0, 1, delivery.Outcome{Response: "503 Service Unavailable", Err: errUnavailable}, 10*time.Second)
		status.Rules[0].Actions[1].NextAttemptTime.Time = now.Add(90 * time.Second) // jitter
		attempt(status, 0, 3, delivery.Outcome{Response: "Job trace/survey-3f9c2a7b, ConfigMap trace/p1-x0"}, 2*time.Second)
	})
	user := newSession(t, space)
	user.shows(t, "trace.txt", exitWell, "trace", event.Name)

	reasons := map[string]string{
		"miss-source":     "match.sources has lab; the event is of source netbox",
		"miss-branch":     "match.branches has Rack move; the change was made in main",
		"miss-event":      "match.events has created, deleted; the event is updated",
		"miss-type":       "match.objectTypes has dcim.device, ipam.*; the object is of type dcim.site",
		"miss-field":      "match.changedFields has status, name; changed were description, latitude",
		"miss-expression": "match.cel is false",
		"miss-key":        "match.cel failed: data.role: no such key",
		"miss-suspended":  "suspended: set spec.suspend to false",
		"miss-invalid":    "undefined field 'user'",
		"miss-younger":    "created after the event was matched",
	}
	out := user.run(t, "trace", event.Name).out
	for name, reason := range reasons {
		_, of, ok := strings.Cut(out, "rule "+name+":")
		if of, _, _ = strings.Cut(of, "─ rule "); !ok || !strings.Contains(of, reason) {
			t.Errorf("%s: %q is not in %q", name, reason, of)
		}
	}
	var tree traceNode
	if err := json.Unmarshal([]byte(user.run(t, "trace", event.Name, "-o", "json").out), &tree); err != nil {
		t.Error(err)
	}
	if children := tree.Children[0].Children; len(children) != 11 {
		t.Errorf("%d rules, want 11", len(children))
	}
}

// TestTraceRights lacks the right to see what an action made.
func TestTraceRights(t *testing.T) {
	space := plane().Namespace(t)
	newSource(t, space, "netbox", v1alpha1.NetBoxSourceSpec{}, serving)
	provision := newRule(t, space, "provision", `{serviceAccountName: provisioner, actions: [
		{name: config, apply: {template: {apiVersion: v1, kind: ConfigMap, metadata: {name: a}}}}]}`)
	event := receive(t, space, "netbox-4.7.3-live/391", 0)
	deliver(t, event, []*v1alpha1.NetBoxEventRule{provision}, func(status *v1alpha1.NetBoxEventStatus) {
		attempt(status, 0, 0, delivery.Outcome{Response: "ConfigMap " + space + "/a"}, time.Second)
	})
	user := newSession(t, space)
	user.user = "tracer"
	group := v1alpha1.SchemeGroupVersion.Group
	allow(t, space, "tracer",
		rbacv1.PolicyRule{APIGroups: []string{group}, Resources: []string{"netboxevents"}, Verbs: []string{"get", "list"}},
		rbacv1.PolicyRule{APIGroups: []string{group}, Resources: []string{"netboxsources"}, Verbs: []string{"list"}})
	contains(t, user.run(t, "trace", event.Name).err, "you may not list netboxeventrules in namespace "+space)

	role := &rbacv1.Role{}
	if err := plane().Client.Get(t.Context(), keyOf(space, "tracer"), role); err != nil {
		t.Fatal(err)
	}
	role.Rules[1].Resources = append(role.Rules[1].Resources, "netboxeventrules")
	if err := plane().Client.Update(t.Context(), role); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the role does not take effect", func() bool { return user.run(t, "trace", event.Name).code == exitWell })
	contains(t, user.run(t, "trace", event.Name).out,
		"you may not get netboxsources in namespace "+space, "you may not get configmaps in namespace "+space)
}

// TestTraceLater traces events whose rules or objects have changed since.
func TestTraceLater(t *testing.T) {
	space := plane().Namespace(t)
	provision := newRule(t, space, "provision", `{serviceAccountName: provisioner, actions: [
		{name: config, apply: {template: {apiVersion: v1, kind: ConfigMap, metadata: {name: a}}}}]}`)
	newRule(t, space, "changed", `{match: {objectTypes: [dcim.site]}, actions: [{name: say, log: {message: x}}]}`)
	plane().Create(t, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: space, Name: "a"}})
	gone := provision.DeepCopy()
	gone.Name = "gone"
	event := receive(t, space, "netbox-4.7.3-live/391", time.Until(received)*-1+time.Hour) // after the rules were made
	user := newSession(t, space)
	contains(t, user.run(t, "trace", event.Name).out, "source netbox: deleted since", "the operator has not matched it yet",
		"rule changed: matches now: it is delivered once")
	deliver(t, event, []*v1alpha1.NetBoxEventRule{gone, provision}, func(status *v1alpha1.NetBoxEventStatus) {
		attempt(status, 0, 0, delivery.Outcome{Response: "ConfigMap " + space + "/b"}, time.Second)
		attempt(status, 1, 0, delivery.Outcome{Response: "ConfigMap " + space + "/a"}, time.Second)
		status.Rules[1].Group = &v1alpha1.GroupStatus{ID: "3f9c", Events: 24}
	})
	contains(t, user.run(t, "trace", event.Name).out,
		"rule changed: matches now: when the event was matched, the rule was different",
		"rule gone: matched, Succeeded: the rule was deleted since",
		"ConfigMap "+space+"/a: Current", "in group 3f9c of 24 events: kubectl get netboxevents -n "+space+" --field-selector status.group=3f9c")
}
