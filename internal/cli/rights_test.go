package cli

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

// allowView gives a user the role view in a namespace, as config/rbac extends it. The test's control plane has no controller that aggregates roles.
func allowView(t *testing.T, namespace, user string) {
	t.Helper()
	text, err := os.ReadFile("../../config/rbac/viewer_role.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var extension rbacv1.ClusterRole
	if err := yaml.UnmarshalStrict(text, &extension); err != nil {
		t.Fatal(err)
	}
	var roles rbacv1.ClusterRoleList
	const label = "rbac.authorization.k8s.io/aggregate-to-view"
	if err := plane().Client.List(t.Context(), &roles, client.MatchingLabels{label: "true"}); err != nil {
		t.Fatal(err)
	}
	if extension.Labels[label] != "true" || len(roles.Items) == 0 {
		t.Fatalf("%d roles are aggregated to view; labels of the extension: %v", len(roles.Items), extension.Labels)
	}
	rules := extension.Rules
	for _, role := range roles.Items {
		rules = append(rules, role.Rules...)
	}
	allow(t, namespace, user, rules...)
}

// TestViewRole runs each command as a user who has the role view in the namespace, and nothing else.
func TestViewRole(t *testing.T) {
	space := plane().Namespace(t)
	installOperator(t, plane().Namespace(t), space, time.Now())
	newSource(t, space, "netbox", v1alpha1.NetBoxSourceSpec{SecretRef: &v1alpha1.SecretKeysReference{Name: "netbox-webhook"}}, serving)
	events := sites(t, space)
	event := events[0].Name
	user := newSession(t, space)
	user.later(0)
	user.user = "onlooker"
	allowView(t, space, user.user)

	type row struct {
		args []string
		code int
		// says is a part of the output: what was done, or the right that is missing.
		says string
	}
	rows := map[string][]row{
		"completion": {{nil, exitWell, "__complete"}},
		"doctor":     {{nil, exitFound, "you may not get secrets in namespace " + space}},
		"events":     {{nil, exitWell, event}, {[]string{"-A"}, exitFailed, "you may not list netboxevents in all namespaces"}},
		"record":     {{[]string{event}, exitWell, "kind: RuleTest"}},
		"render":     {{[]string{"announce", event}, exitWell, "matched: true"}},
		"replay": {
			{[]string{event, "--yes"}, exitFailed, "you may not patch netboxevents in namespace " + space},
			{[]string{"--failed", "--yes"}, exitFailed, "you may not patch netboxevents in namespace " + space},
		},
		"report": {{[]string{"--yes", "--file", filepath.Join(t.TempDir(), "report.tar.gz")}, exitWell, "you may not get secrets in namespace " + space}},
		"send":   {{[]string{"netbox", "--yes"}, exitFailed, "you may not get secrets in namespace " + space}},
		"show":   {{[]string{event}, exitWell, "Succeeded"}},
		"status": {
			{nil, exitFound, "you may not list deployments in all namespaces"},
			{[]string{"-A"}, exitFailed, "in all namespaces"},
		},
		"test":    {{[]string{"../../config/samples/tests/rules.yaml"}, exitWell, "0 failed"}},
		"trace":   {{[]string{event}, exitWell, "rule announce: matched"}},
		"version": {{nil, exitWell, "you may not list deployments in all namespaces"}},
	}
	for _, command := range New(genericiooptions.NewTestIOStreamsDiscard()).Commands() {
		name := command.Name()
		if name == "ui" {
			continue // it ends with Ctrl-C; TestUIRights has its answers
		}
		if len(rows[name]) == 0 {
			t.Errorf("%s has no row: what does it do for a user with the role view alone?", name)
		}
		for _, row := range rows[name] {
			args := append([]string{name}, row.args...)
			got := user.run(t, args...)
			if got.code != row.code {
				t.Errorf("%s: exit code %d, want %d: %s%s", args, got.code, row.code, got.out, got.err)
			}
			contains(t, got.out+got.err, row.says)
		}
		delete(rows, name)
	}
	for name := range rows {
		t.Errorf("there is no command %s", name)
	}
	if got := requested(t, events[0]); got.Value != "" {
		t.Errorf("the user requested %+v", got)
	}
	var role rbacv1.Role
	if err := plane().Client.Get(t.Context(), keyOf(space, user.user), &role); err != nil {
		t.Fatal(err)
	}
	for _, rule := range role.Rules {
		for _, verb := range rule.Verbs {
			if verb != "get" && verb != "list" && verb != "watch" {
				t.Errorf("view may %s %v", verb, rule.Resources)
			}
		}
	}
}
