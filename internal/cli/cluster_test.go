package cli_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/cli/ruletest"
	"github.com/netbox-events/netbox-event-operator/test/deliveries"
)

// cluster is a namespace with rules and events, and the flags for it.
type cluster struct {
	namespace string
	flags     []string
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	kubeconfig := writeFile(t, t.TempDir(), "kubeconfig", string(plane.Kubeconfig()))
	namespace := plane.Namespace(t)
	return &cluster{namespace, []string{"--kubeconfig", kubeconfig, "-n", namespace}}
}

// run runs kubectl netbox in the namespace.
func (c *cluster) run(t *testing.T, args ...string) result {
	t.Helper()
	return run(t.Context(), append(c.flags, args...)...)
}

// createRule creates a sample rule.
func (c *cluster) createRule(t *testing.T, file string) {
	t.Helper()
	rules, err := ruletest.ReadRules(t.Context(), filepath.Join(samples(t), file))
	if err != nil {
		t.Fatal(err)
	}
	created := rules[0].NetBoxEventRule
	created.Namespace = c.namespace
	plane.Create(t, created)
}

// createEvent stores the event of a recorded delivery, and returns its name.
func (c *cluster) createEvent(t *testing.T, delivery string) string {
	t.Helper()
	all, err := deliveries.All()
	if err != nil {
		t.Fatal(err)
	}
	for _, recorded := range all {
		if recorded.String() != delivery {
			continue
		}
		event, err := recorded.Event(c.namespace, deliveries.Redact)
		if err != nil {
			t.Fatal(err)
		}
		plane.Create(t, event)
		return event.Name
	}
	t.Fatalf("there is no delivery %s", delivery)
	return ""
}

// TestLive renders and records objects of a cluster, and runs the recorded test.
func TestLive(t *testing.T) {
	c := newCluster(t)
	for _, file := range []string{"rule_steps.yaml", "rule_mirror.yaml", "rule_deletions.yaml", "rule_relay.yaml"} {
		c.createRule(t, file)
	}
	event := c.createEvent(t, "netbox-4.6.8-live/210")
	c.run(t, "render", "announce-deletions", event).check(t, 0, "message: device leaf1 was deleted by admin\n", "")
	c.run(t, "render", "announce-deletion", event).check(t, 2, "",
		`error: netboxeventrules.netbox-events.io "announce-deletion" not found; see kubectl get netboxeventrules -n `+c.namespace+"\n")
	c.run(t, "render", "announce-deletions", "gone").check(t, 2, "", `netboxevents.netbox-events.io "gone" not found; see kubectl get netboxevents`)

	directory := t.TempDir()
	c.run(t, "record", event, "--directory", directory).check(t, 0, filepath.Join("rules", "relay.yaml"), "warning: rule clean-up: left out actions")
	run(t.Context(), "test", directory).check(t, 0, "1 passed, 0 failed", "")
	c.run(t, "record", event, "--directory", directory).check(t, 0, event, "warning: rule clean-up")
	writeFile(t, filepath.Join(directory, "rules"), "relay.yaml", "a: b\n")
	c.run(t, "record", event, "--directory", directory).check(t, 2, "", "relay.yaml exists, and is different; remove it, or choose another --directory")

	recorded := c.run(t, "record", event, "--rule", "announce-deletions")
	recorded.check(t, 0, "kind: NetBoxEventRule\n", "")
	run(t.Context(), "test", writeFile(t, t.TempDir(), "tests.yaml", recorded.out)).check(t, 0, "1 passed, 0 failed", "")
}

// TestRecordSecrets records events with redacted values and with large numbers: the test sees what the rules saw.
func TestRecordSecrets(t *testing.T) {
	c := newCluster(t)
	c.createRule(t, "rule_relay.yaml")
	all, err := deliveries.All()
	if err != nil {
		t.Fatal(err)
	}
	redacted, stringified := 0, 0
	for _, recorded := range all {
		event, err := recorded.Event(c.namespace, deliveries.Redact)
		if err != nil || !strings.HasPrefix(recorded.Version, "4.") {
			continue
		}
		isRedacted, isStringified := len(event.Spec.Delivery.Redacted) > 0, len(event.Spec.Delivery.Stringified) > 0
		if !(isRedacted && redacted < 5) && !(isStringified && stringified < 5) {
			continue
		}
		if isRedacted {
			redacted++
		}
		if isStringified {
			stringified++
		}
		plane.Create(t, event)
		directory := t.TempDir()
		c.run(t, "record", event.Name, "--directory", directory).check(t, 0, event.Name, "")
		run(t.Context(), "test", directory).check(t, 0, "1 passed, 0 failed", "")
		text := c.run(t, "record", event.Name).out
		run(t.Context(), "test", writeFile(t, directory, "text.yaml", text)).check(t, 0, "1 passed, 0 failed", "")
		content, err := os.ReadFile(filepath.Join(directory, "events", event.Name+".json"))
		if err != nil {
			t.Fatal(err)
		}
		if isRedacted && (!strings.Contains(string(content), "[redacted]") || !strings.Contains(text, "[redacted]")) {
			t.Errorf("%s: the redacted value is lost", recorded)
		}
	}
	if redacted == 0 || stringified == 0 {
		t.Errorf("%d redacted events, %d with large numbers", redacted, stringified)
	}
}

// TestCompletion completes names of the namespace.
func TestCompletion(t *testing.T) {
	c := newCluster(t)
	c.createRule(t, "rule_deletions.yaml")
	event := c.createEvent(t, "netbox-4.6.8-live/210")
	c.run(t, "__complete", "render", "").check(t, 0, "announce-deletions\n", "ShellCompDirectiveDefault")
	c.run(t, "__complete", "render", "announce-deletions", "").check(t, 0, event+"\n", "ShellCompDirectiveDefault")
	c.run(t, "__complete", "record", event, "--rule", "").check(t, 0, "announce-deletions\n", "ShellCompDirectiveNoFileComp")
	source := &v1alpha1.NetBoxSource{ObjectMeta: metav1.ObjectMeta{Namespace: c.namespace, Name: "lab"}}
	source.Spec.Unsigned = v1alpha1.UnsignedAccept
	plane.Create(t, source)
	c.run(t, "__complete", "send", "").check(t, 0, "lab\n", "ShellCompDirectiveDefault")
	c.run(t, "__complete", "render", "x", "y", "--namespace", "").check(t, 0, c.namespace+"\n", "ShellCompDirectiveNoFileComp")
	c.run(t, "__complete", "test", "-o", "").check(t, 0, "json\njunit\n", "ShellCompDirectiveNoFileComp")
	run(t.Context(), "--kubeconfig", filepath.Join(t.TempDir(), "none"), "__complete", "render", "").check(t, 0, ":0\n", "ShellCompDirectiveDefault")
}

// TestRights runs commands as a user who may read rules and no events.
func TestRights(t *testing.T) {
	c := newCluster(t)
	c.createRule(t, "rule_deletions.yaml")
	plane.Create(t,
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: c.namespace, Name: "reader"}},
		&rbacv1.Role{
			ObjectMeta: metav1.ObjectMeta{Namespace: c.namespace, Name: "reader"},
			Rules:      []rbacv1.PolicyRule{{APIGroups: []string{v1alpha1.SchemeGroupVersion.Group}, Resources: []string{"netboxeventrules"}, Verbs: []string{"get"}}},
		},
		&rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Namespace: c.namespace, Name: "reader"},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "reader"},
			Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Name: "reader", Namespace: c.namespace}},
		},
	)
	as := []string{"--as", "system:serviceaccount:" + c.namespace + ":reader"}
	c.run(t, append(as, "render", "announce-deletions", "some")...).check(t, 2, "", "error: you may not get netboxevents in namespace "+c.namespace+"; ask for a role")
	c.run(t, append(as, "record", filepath.Join(samples(t), "tests/events/device-deleted.json"))...).check(t, 2, "",
		"error: you may not list netboxeventrules in namespace "+c.namespace)
	c.run(t, append(as, "__complete", "record", "")...).check(t, 0, ":0\n", "ShellCompDirectiveDefault")
}
