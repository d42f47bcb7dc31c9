package rule_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/rule"
)

// TestExpandedFields renders values of NetBox in fields where Kubernetes expands $(NAME), and in others.
func TestExpandedFields(t *testing.T) {
	const (
		containers = `[{"command": ["$(SHELL) ${data.c}"], "args": ["${data.c}", "$${data.c}$(A)"], "image": "${data.c}", "workingDir": "${data.c}",
			"env": [{"name": "N", "value": "a$(TOKEN)${data.c}"}], "volumeMounts": [{"subPathExpr": "${data.c}", "mountPath": "${data.c}"}]},
			{"command": "${data.list}", "env": "${[{'name': data.c, 'value': data.c}]}"}, "${ {'args': dyn([data.c]), 'image': data.c} }"]`
		escapedContainers = `[{"command": ["$(SHELL) $$$$5 $$(TOKEN)$$"], "args": ["$$$$5 $$(TOKEN)$$", "${data.c}$(A)"], "image": "$$5 $(TOKEN)$", "workingDir": "$$5 $(TOKEN)$",
			"env": [{"name": "N", "value": "a$(TOKEN)$$$$5 $$(TOKEN)$$"}], "volumeMounts": [{"subPathExpr": "$$$$5 $$(TOKEN)$$", "mountPath": "$$5 $(TOKEN)$"}]},
			{"command": ["$$(A)", 1], "env": [{"name": "$$5 $(TOKEN)$", "value": "$$$$5 $$(TOKEN)$$"}]}, {"args": ["$$$$5 $$(TOKEN)$$"], "image": "$$5 $(TOKEN)$"}]`
	)
	plain := strings.NewReplacer(`$$$$5 $$(TOKEN)$$`, `$$5 $(TOKEN)$`, `$$(A)`, `$(A)`).Replace(escapedContainers)
	event := eventWith(t, `{"id": 1, "c": "$$5 $(TOKEN)$", "list": ["$(A)", 1]}`)
	for _, test := range []struct {
		apiVersion, kind, before, after string // of the PodSpec
		isEscaped                       bool
	}{
		{"v1", "Pod", `"spec": `, ``, true},
		{"v1", "PodTemplate", `"template": {"spec": `, `}`, true},
		{"v1", "ReplicationController", `"spec": {"template": {"spec": `, `}}`, true},
		{"apps/v1", "DaemonSet", `"spec": {"template": {"spec": `, `}}`, true},
		{"apps/v1", "Deployment", `"spec": {"template": {"spec": `, `}}`, true},
		{"apps/v1", "ReplicaSet", `"spec": {"template": {"spec": `, `}}`, true},
		{"apps/v1", "StatefulSet", `"spec": {"template": {"spec": `, `}}`, true},
		{"batch/v1", "Job", `"spec": {"template": {"spec": `, `}}`, true},
		{"batch/v1", "CronJob", `"spec": {"jobTemplate": {"spec": {"template": {"spec": `, `}}}}`, true},
		{"example.com/v1", "Job", `"spec": {"template": {"spec": `, `}}`, false},
		{"batch/v1", "Job", `"spec": {"other": {"spec": `, `}}`, false},
	} {
		object := func(containers string) string {
			return `{"apiVersion": "` + test.apiVersion + `", "kind": "` + test.kind + `", ` + test.before +
				`{"containers": ` + containers + `, "initContainers": ` + containers + `, "ephemeralContainers": ` + containers + `}` + test.after + `}`
		}
		var template v1alpha1.JSONObject
		if err := json.Unmarshal([]byte(object(containers)), &template); err != nil {
			t.Fatal(err)
		}
		compiled, err := rule.Compile(&v1alpha1.NetBoxEventRuleSpec{Actions: []v1alpha1.Action{{Name: "a", Apply: &v1alpha1.ApplyAction{Template: template}}}})
		if err != nil {
			t.Fatal(err)
		}
		got, _, err := compiled.Actions[0].Objects[0].Render(t.Context(), rule.NewInput(event, now))
		if err != nil {
			t.Fatal(err)
		}
		wanted := plain
		if test.isEscaped {
			wanted = escapedContainers
		}
		var want map[string]any
		if err := json.Unmarshal([]byte(object(wanted)), &want); err != nil {
			t.Fatal(err)
		}
		encoded, err := json.Marshal(got)
		if err != nil {
			t.Fatal(err)
		}
		var decoded map[string]any
		if err := json.Unmarshal(encoded, &decoded); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, decoded); diff != "" {
			t.Errorf("%s %s (-want +got):\n%s", test.apiVersion, test.kind, diff)
		}
	}
}
