package action_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/action"
	"github.com/netbox-events/netbox-event-operator/internal/rule"
)

// usedBy returns the same task, of a rule whose next action logs a message.
func usedBy(t *testing.T, task action.Task, message string) action.Task {
	t.Helper()
	task.Rule.Spec.Actions = []v1alpha1.Action{
		*task.Action.Spec, {Name: "next", DependsOn: []string{task.Action.Spec.Name}, Log: &v1alpha1.LogAction{Message: message}},
	}
	compiled, err := rule.Compile(&task.Rule.Spec)
	if err != nil {
		t.Fatal(err)
	}
	task.Action = &compiled.Actions[0]
	return task
}

// attempt executes a task as the event controller does.
func attempt(t *testing.T, runner *action.Runner, task action.Task) (action.Result, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), task.Rule.Spec.Retry.Timeout.Duration)
	defer cancel()
	return runner.Do(ctx, task)
}

// TestApplyResults checks the results that later actions get.
func TestApplyResults(t *testing.T) {
	runner := newRunner(t)
	secret := `{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a", "annotations": {"note": "${data.name}"}}, "stringData": {"key": "${data.name}"}}`
	for _, test := range []struct {
		reason    string
		operation v1alpha1.ApplyOperation
		template  string
		isThere   bool // before the action
		uses      string
		want      string
	}{
		{
			reason: "an object", operation: v1alpha1.OperationApply, template: configMap(`"metadata": {"name": "a"}, "data": {"name": "${data.name}"}`),
			uses: `results.do.object.metadata.name + results.do.object.data.name + string(results.do.object.metadata.?uid.hasValue())`,
			want: `{"object":{"data":{"name":"leaf1"},"metadata":{"name":"a","uid":"UID"}}}`,
		},
		{
			reason: "a created object", operation: v1alpha1.OperationCreate, template: configMap(`"metadata": {"name": "a"}`),
			uses: `results.do.object.metadata.uid`, want: `{"object":{"metadata":{"uid":"UID"}}}`,
		},
		{
			reason: "a List", operation: v1alpha1.OperationApply, uses: `results.do.objects.map(o, o.metadata.name).join()`,
			template: `{"apiVersion": "v1", "kind": "List", "items": [` + configMap(`"metadata": {"name": "a"}`) + `]}`,
			want:     `{"objects":[{"apiVersion":"v1","kind":"ConfigMap","metadata":{"creationTimestamp":"TIME","labels":{"netbox-events.io/event":"EVENT","netbox-events.io/rule":"RULE"},"name":"a","namespace":"NAMESPACE","resourceVersion":"VERSION","uid":"UID"}}]}`,
		},
		{
			reason: "a Secret", operation: v1alpha1.OperationApply, template: secret, uses: `results.do.object.data.key + string(results.do.object.metadata.annotations)`,
			want: `{"object":{"data":{"key":"[redacted]"},"metadata":{}}}`,
		},
		{
			reason: "a deleted object", operation: v1alpha1.OperationDelete, template: configMap(`"metadata": {"name": "a"}`), isThere: true,
			uses: `results.do.object.data.name`, want: `{"object":{"data":{"name":"leaf1"}}}`,
		},
		{
			reason: "an object that did not exist", operation: v1alpha1.OperationDelete, template: configMap(`"metadata": {"name": "a"}`),
			uses: `string(has(results.do.object.data)) + results.do.object.metadata.name`, want: `{"object":{"metadata":{"name":"a"}}}`,
		},
	} {
		t.Run(test.reason, func(t *testing.T) {
			namespace := newNamespace(t)
			grant(t, namespace, serviceAccount, namespace, "", "configmaps", "delete")
			grant(t, namespace, serviceAccount, namespace, "", "secrets", "patch", "create")
			event := device(t, namespace, "leaf1")
			if test.isThere {
				_, err := do(t, runner, newTask(t, event, newApply(t, configMap(`"metadata": {"name": "a"}, "data": {"name": "${data.name}"}`))))
				expect(t, err, done)
			}
			spec := newApply(t, test.template)
			spec.Apply.Operation = test.operation
			task := usedBy(t, newTask(t, event, spec), "${"+test.uses+"}")
			result, err := attempt(t, runner, task)
			expect(t, err, done)
			got := string(result.Kept)
			for _, one := range list[corev1.ConfigMapList](t, namespace).Items {
				got = strings.NewReplacer(string(one.UID), "UID", one.CreationTimestamp.UTC().Format("2006-01-02T15:04:05Z"), "TIME",
					event.Name, "EVENT", task.Rule.Name, "RULE", namespace, "NAMESPACE", `"`+one.ResourceVersion+`"`, `"VERSION"`).Replace(got)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("kept (-want +got):\n%s", diff)
			}
		})
	}

	t.Run("too large", func(t *testing.T) {
		namespace := newNamespace(t)
		spec := newApply(t, configMap(`"metadata": {"name": "a"}, "data": {"name": "${data.name}"}`))
		task := usedBy(t, newTask(t, device(t, namespace, strings.Repeat("x", 5000)), spec), "${results.do.object.data.name}")
		result, err := attempt(t, runner, task)
		expect(t, err, done) // it is written
		if want := "ConfigMap " + namespace + "/a; its result is not kept: later actions use 5"; result.Kept != nil || !strings.HasPrefix(result.Response, want) {
			t.Errorf("kept %d bytes, response %q, want %q", len(result.Kept), result.Response, want)
		}
	})
	t.Run("used by no action", func(t *testing.T) {
		result, err := attempt(t, runner, newTask(t, device(t, newNamespace(t), "leaf1"), newApply(t, configMap(`"metadata": {"name": "a"}`))))
		expect(t, err, done)
		if result.Kept != nil {
			t.Errorf("kept %s", result.Kept)
		}
	})
}

// TestApplyDryRun checks that a dry run changes nothing, and fails where the action would.
func TestApplyDryRun(t *testing.T) {
	runner := newRunner(t)
	dryRun := func(task action.Task) action.Task {
		task.IsDryRun = true
		return task
	}
	for _, operation := range []v1alpha1.ApplyOperation{v1alpha1.OperationApply, v1alpha1.OperationCreate, v1alpha1.OperationDelete} {
		t.Run(string(operation), func(t *testing.T) {
			namespace := newNamespace(t)
			grant(t, namespace, serviceAccount, namespace, "", "configmaps", "delete")
			event := device(t, namespace, "leaf1")
			_, err := do(t, runner, newTask(t, event, newApply(t, configMap(`"metadata": {"name": "old"}`))))
			expect(t, err, done)
			before := list[corev1.ConfigMapList](t, namespace).Items

			name := "new"
			if operation == v1alpha1.OperationDelete {
				name = "old"
			}
			spec := newApply(t, configMap(fmt.Sprintf(`"metadata": {"name": %q}, "data": {"name": "${data.name}"}`, name)))
			spec.Apply.Operation = operation
			result, err := attempt(t, runner, dryRun(usedBy(t, newTask(t, event, spec), "${results.do.object.metadata.name}")))
			expect(t, err, done)
			if want := "dry run: ConfigMap " + namespace + "/" + name; result.Response != want {
				t.Errorf("response is %q, want %q", result.Response, want)
			}
			if want := `{"object":{"metadata":{"name":"` + name + `"}}}`; string(result.Kept) != want {
				t.Errorf("kept %s, want %s", result.Kept, want)
			}
			if diff := cmp.Diff(before, list[corev1.ConfigMapList](t, namespace).Items); diff != "" {
				t.Errorf("changed (-before +after):\n%s", diff)
			}
		})
	}
	for _, test := range []struct{ reason, template, text string }{
		{"a field that does not exist", configMap(`"metadata": {"name": "a"}, "dat": {}`), ".dat: field not declared in schema"},
		{"a missing permission of the account", `{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}}`, `cannot patch resource "secrets"`},
		{"fields of another field manager", configMap(`"metadata": {"name": "foreign"}, "data": {"a": "b"}`), "other field managers own fields"},
	} {
		t.Run(test.reason, func(t *testing.T) {
			namespace := newNamespace(t)
			plane.Create(t, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "foreign"}, Data: map[string]string{"a": "mine"}})
			result, err := attempt(t, runner, dryRun(newTask(t, device(t, namespace, "leaf1"), newApply(t, test.template))))
			expect(t, err, permanent, test.text)
			if result.Response != "" {
				t.Errorf("response is %q", result.Response)
			}
		})
	}
}
