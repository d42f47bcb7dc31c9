package action_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/action"
	"github.com/netbox-events/netbox-event-operator/test/controlplane"
)

// grant grants permissions to a service account, in a namespace or, if target is empty, in all, and waits until they are effective.
func grant(t *testing.T, namespace, account, target, group, resource string, verbs ...string) {
	t.Helper()
	subject := rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: account}
	rules := []rbacv1.PolicyRule{{APIGroups: []string{group}, Resources: []string{resource}, Verbs: verbs}}
	if target == "" {
		role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"}, Rules: rules}
		plane.Create(t, role)
		plane.Create(t, &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: role.Name}, Subjects: []rbacv1.Subject{subject},
			RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role.Name},
		})
	} else {
		role := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-", Namespace: target}, Rules: rules}
		plane.Create(t, role)
		plane.Create(t, &rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: role.Name, Namespace: target}, Subjects: []rbacv1.Subject{subject},
			RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role.Name},
		})
	}
	for {
		review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
			User:               "system:serviceaccount:" + namespace + ":" + account,
			ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: target, Group: group, Resource: resource, Verb: verbs[0]},
		}}
		plane.Create(t, review)
		if review.Status.Allowed {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// newNamespace returns a namespace in which the service account of rules may write Jobs and ConfigMaps.
func newNamespace(t *testing.T) string {
	t.Helper()
	namespace := plane.Namespace(t)
	grant(t, namespace, serviceAccount, namespace, "batch", "jobs", "create", "patch", "get")
	grant(t, namespace, serviceAccount, namespace, "", "configmaps", "create", "patch", "get")
	return namespace
}

// newApply returns an apply action with a JSON template.
func newApply(t *testing.T, template string) v1alpha1.Action {
	t.Helper()
	spec := v1alpha1.Action{Apply: &v1alpha1.ApplyAction{Operation: v1alpha1.OperationApply}}
	if err := json.Unmarshal([]byte(template), &spec.Apply.Template); err != nil {
		t.Fatal(err)
	}
	return spec
}

// job returns the template of a Job with metadata.
func job(metadata string) string {
	return `{"apiVersion": "batch/v1", "kind": "Job", "metadata": {` + metadata + `}, "spec": {"template": {"spec": {"restartPolicy": "Never",
		"containers": [{"name": "main", "image": "provision", "args": ["${data.name}"]}]}}}}`
}

// configMap returns the template of a ConfigMap with members.
func configMap(members string) string {
	return `{"apiVersion": "v1", "kind": "ConfigMap", ` + members + `}`
}

// list lists the objects of a kind in a namespace.
func list[T any, L interface {
	*T
	client.ObjectList
}](t *testing.T, namespace string) *T {
	t.Helper()
	var found T
	if err := plane.Client.List(t.Context(), L(&found), client.InNamespace(namespace)); err != nil {
		t.Fatal(err)
	}
	return &found
}

func names(t *testing.T, namespace string) []string {
	t.Helper()
	found := []string{}
	for _, one := range list[corev1.ConfigMapList](t, namespace).Items {
		found = append(found, one.Name)
	}
	for _, one := range list[batchv1.JobList](t, namespace).Items {
		found = append(found, one.Name)
	}
	return found
}

func TestApplyJob(t *testing.T) {
	namespace, runner := newNamespace(t), newRunner(t)
	for _, operation := range []v1alpha1.ApplyOperation{v1alpha1.OperationApply, v1alpha1.OperationCreate} {
		t.Run(string(operation), func(t *testing.T) {
			name := strings.ToLower(string(operation)) + "-leaf1"
			spec := newApply(t, job(`"name": "`+strings.ToLower(string(operation))+`-${data.name}", "labels": {"device": "${string(data.id)}", "netbox-events.io/event": "another"}`))
			spec.Apply.Operation, spec.Apply.OwnedByEvent = operation, true
			event := device(t, namespace, "leaf1")
			plane.Create(t, event) // for its UID
			task := newTask(t, event, spec)
			for range 2 { // a retry, as after a failed status write
				response, err := do(t, runner, task)
				expect(t, err, done)
				if want := "Job " + namespace + "/" + name; response != want {
					t.Errorf("response is %q, want %q", response, want)
				}
			}
			var written batchv1.Job
			if err := plane.Client.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: name}, &written); err != nil {
				t.Fatal(err)
			}
			want := metav1.ObjectMeta{
				Labels: map[string]string{"device": "14", v1alpha1.LabelEvent: event.Name, v1alpha1.LabelRule: task.Rule.Name},
				OwnerReferences: []metav1.OwnerReference{{
					APIVersion: "netbox-events.io/v1alpha1", Kind: "NetBoxEvent", Name: event.Name, UID: event.UID,
				}},
			}
			if diff := cmp.Diff(want, metav1.ObjectMeta{Labels: written.Labels, OwnerReferences: written.OwnerReferences}); diff != "" {
				t.Errorf("metadata (-want +got):\n%s", diff)
			}
			if args := written.Spec.Template.Spec.Containers[0].Args; len(args) != 1 || args[0] != "leaf1" {
				t.Errorf("args are %q", args)
			}
			if manager := written.ManagedFields[0].Manager; !strings.HasPrefix(manager, "netbox-events.io/"+namespace+"/"+task.Rule.Name+"/do:") {
				t.Errorf("the field manager is %s", manager)
			}
			if written.Generation != 1 {
				t.Errorf("the Job was updated: generation %d", written.Generation)
			}
		})
	}
	if n := len(names(t, namespace)); n != 2 {
		t.Errorf("%d Jobs, want 2", n)
	}
}

// TestNames applies objects without names in the template.
func TestNames(t *testing.T) {
	namespace, runner := newNamespace(t), newRunner(t)
	task := newTask(t, device(t, namespace, "leaf1"), newApply(t, `{"apiVersion": "v1", "kind": "List", "items": [
		`+configMap(`"metadata": null`)+`,
		`+configMap(`"metadata": {"generateName": "of-${data.name}-"}`)+`,
		`+configMap(`"metadata": {"generateName": "${'abcdefgh'.split('').map(a, 'abcdefgh').join('')}"}`)+`,
		`+job(`"name": "job"`)+`]}`))
	first, err := do(t, runner, task)
	expect(t, err, done)
	second, err := do(t, runner, task)
	expect(t, err, done)
	if first != second {
		t.Errorf("wrote %s, then %s", first, second)
	}
	got := names(t, namespace)
	if len(got) != 4 {
		t.Fatalf("wrote %q, want 4 objects", got)
	}
	hash := func(name, prefix string) {
		t.Helper()
		if rest, ok := strings.CutPrefix(name, prefix); !ok || len(rest) != 16 || strings.Trim(rest, "0123456789abcdef") != "" {
			t.Errorf("name is %q, want %s and a hash", name, prefix)
		}
	}
	hash(got[0], strings.Repeat("abcdefgh", 8)[:63-16])
	hash(got[1], "of-leaf1-")
	hash(got[2], task.Rule.Name+"-")

	expectMore := func(reason string, task action.Task) {
		t.Helper()
		_, err := do(t, runner, task)
		expect(t, err, done)
		if more := names(t, namespace); len(more) != len(got)+1 {
			t.Errorf("%s: objects are %q, want one more than %q", reason, more, got)
		}
		got = names(t, namespace)
	}
	spec := newApply(t, configMap(`"metadata": {"generateName": "a-"}`))
	task = newTask(t, device(t, namespace, "leaf1"), spec)
	expectMore("a ConfigMap", task)
	expectMore("of another event", withEvent(task, device(t, namespace, "leaf1")))
	expectMore("of another rule", newTask(t, task.Event, spec))
}

// TestApplyOutcomes checks the errors of invalid and forbidden objects.
func TestApplyOutcomes(t *testing.T) {
	runner := newRunner(t)
	long := strings.Repeat("x", 200_000)
	for _, test := range []struct {
		reason   string
		template string
		create   bool
		owned    bool
		name     string // of the device
		before   func(t *testing.T, namespace string)
		want     outcome
		texts    []string
	}{
		{reason: "an unknown field", template: configMap(`"metadata": {"name": "a"}, "dat": {}`), want: permanent, texts: []string{"/a: ", ".dat: field not declared in schema", "correct the template"}},
		{reason: "an unknown field, created", template: configMap(`"metadata": {"name": "a"}, "dat": {}`), create: true, want: permanent, texts: []string{`unknown field "dat"`}},
		{reason: "a number in a string field", template: configMap(`"metadata": {"name": "a"}, "data": {"id": "${data.id}"}`), want: permanent, texts: []string{".data.id: expected string", "${string(data.id)}"}},
		{reason: "a number as a label", template: configMap(`"metadata": {"name": "a", "labels": {"id": "${data.id}"}}`), want: permanent, texts: []string{"template.metadata.labels must be strings", "${string(data.id)}"}},
		{reason: "an invalid value", template: job(`"name": "A"`), want: permanent, texts: []string{"metadata.name: Invalid value"}},
		{reason: "a missing key", template: configMap(`"metadata": {"name": "a"}, "data": {"site": "${data.site.slug}"}`), want: permanent, texts: []string{"template.data.site: data.site: no such key"}},
		{reason: "null in a string", template: configMap(`"metadata": {"name": "a"}, "data": {"tenant": "of ${data.tenant}"}`), want: permanent, texts: []string{"template.data.tenant: ${data.tenant} is null"}},

		{reason: "a name that is a number", template: configMap(`"metadata": {"name": "${data.id}"}`), want: permanent, texts: []string{"template.metadata.name must be a non-empty string", "14", "${string(data.id)}"}},
		{reason: "a name that is null", template: configMap(`"metadata": {"name": "${data.tenant}"}`), want: permanent, texts: []string{"template.metadata.name must be a non-empty string"}},
		{reason: "an empty name", template: configMap(`"metadata": {"name": "${data.name}"}`), want: permanent, texts: []string{"template.metadata.name must be a non-empty string"}},
		{reason: "a name with path segments", template: configMap(`"metadata": {"name": "${data.name}"}`), name: "../secrets/a", want: permanent, texts: []string{`template.metadata.name is "../secrets/a"`}},
		{reason: "a name with path segments, created", template: configMap(`"metadata": {"name": "${data.name}"}`), create: true, name: "../secrets/a", want: permanent, texts: []string{`template.metadata.name is "../secrets/a"`}},
		{reason: "two dots", template: configMap(`"metadata": {"name": "${data.name}"}`), name: "..", want: permanent, texts: []string{"template.metadata.name is"}},
		{reason: "a name of 200 kB", template: configMap(`"metadata": {"name": "${data.name}"}`), name: long, want: permanent, texts: []string{"template.metadata.name is"}},
		{reason: "a name with a newline", template: configMap(`"metadata": {"name": "${data.name}"}`), name: "a\nkind: Secret", want: permanent, texts: []string{"Invalid value"}},
		{reason: "a name with a query", template: configMap(`"metadata": {"name": "${data.name}"}`), name: "a?dryRun=All", want: permanent, texts: []string{"Invalid value"}},
		{reason: "a name prefix with path segments", template: configMap(`"metadata": {"generateName": "${data.name}"}`), name: "../", want: permanent, texts: []string{"template.metadata.generateName is"}},
		{reason: "a namespace with path segments", template: configMap(`"metadata": {"name": "a", "namespace": "${data.name}"}`), name: "../default", want: permanent, texts: []string{"template.metadata.namespace is"}},
		{reason: "a namespace that is empty", template: configMap(`"metadata": {"name": "a", "namespace": "${data.name}"}`), want: permanent, texts: []string{"template.metadata.namespace must be a non-empty string"}},
		{reason: "a value of 200 kB as a label", template: configMap(`"metadata": {"name": "a", "labels": {"a": "${data.name}"}}`), name: long, want: permanent, texts: []string{"Invalid value"}},

		{reason: "a kind that does not exist yet", template: `{"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "a"}}`, want: retry, texts: []string{"Widget a: ", "no matches for kind"}},
		{reason: "a version that does not exist yet", template: `{"apiVersion": "batch/v9", "kind": "Job", "metadata": {"name": "a"}}`, want: retry, texts: []string{"Job a: ", "no matches for kind"}},
		{
			reason: "a namespace that does not exist yet", template: configMap(`"metadata": {"name": "a", "namespace": "nowhere"}`), want: retry, texts: []string{`namespaces "nowhere" not found`},
			before: func(t *testing.T, namespace string) {
				t.Helper()
				grant(t, namespace, serviceAccount, "", "", "configmaps", "patch", "create")
			},
		},
		{
			reason: "a terminating namespace", template: configMap(`"metadata": {"name": "a"}`), want: retry, texts: []string{"being terminated"},
			before: func(t *testing.T, namespace string) {
				t.Helper()
				if err := plane.Client.Delete(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}); err != nil {
					t.Fatal(err)
				}
				for probe := 0; ; probe++ { // until admission has observed it
					err := plane.Client.Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: fmt.Sprint("probe", probe)}})
					if apierrors.IsForbidden(err) {
						return
					}
				}
			},
		},
		{
			reason: "over a quota", template: configMap(`"metadata": {"name": "a"}`), want: retry, texts: []string{"exceeded quota: none"},
			before: func(t *testing.T, namespace string) {
				t.Helper()
				none := corev1.ResourceList{corev1.ResourceConfigMaps: resource.MustParse("0")}
				quota := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "none"}, Spec: corev1.ResourceQuotaSpec{Hard: none}}
				plane.Create(t, quota)
				quota.Status = corev1.ResourceQuotaStatus{Hard: none, Used: none} // as the quota controller does
				if err := plane.Client.Status().Update(t.Context(), quota); err != nil {
					t.Fatal(err)
				}
				for probe := 0; ; probe++ { // until admission has observed it
					created := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: fmt.Sprint("probe", probe)}}
					if err := plane.Client.Create(t.Context(), created); apierrors.IsForbidden(err) && strings.Contains(err.Error(), "exceeded") {
						return
					} else if err == nil {
						_ = plane.Client.Delete(t.Context(), created)
					}
				}
			},
		},

		{reason: "another namespace", template: configMap(`"metadata": {"name": "a", "namespace": "default"}`), want: permanent, texts: []string{"ConfigMap default/a: ", `cannot patch resource "configmaps"`, `namespace "default"`}},
		{reason: "a forbidden kind", template: `{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}}`, want: permanent, texts: []string{":provisioner\" cannot patch resource \"secrets\"", "grant this permission to the service account"}},
		{reason: "permissions for itself", template: `{"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "a"}}`, create: true, want: permanent, texts: []string{`cannot create resource "clusterrolebindings"`, "at the cluster scope"}},
		{reason: "owned across namespaces", template: configMap(`"metadata": {"name": "a", "namespace": "default"}`), owned: true, want: permanent, texts: []string{"an event can own only objects in its own namespace", "remove ownedByEvent"}},
		{reason: "an owned cluster-scoped object", template: `{"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "a", "namespace": "${event.namespace}"}, "value": 1}`, owned: true, want: permanent, texts: []string{"an event can own only objects in its own namespace"}},
	} {
		t.Run(test.reason, func(t *testing.T) {
			namespace := newNamespace(t)
			spec := newApply(t, test.template)
			spec.Apply.OwnedByEvent = test.owned
			if test.create {
				spec.Apply.Operation = v1alpha1.OperationCreate
			}
			task := newTask(t, device(t, namespace, test.name), spec)
			if test.before != nil {
				test.before(t, namespace)
			}
			response, err := do(t, runner, task)
			expect(t, err, test.want, test.texts...)
			if written := names(t, namespace); response != "" || len(written) > 0 {
				t.Errorf("wrote %q, response %q", written, response)
			}
		})
	}

	t.Run("the second of two", func(t *testing.T) {
		namespace := newNamespace(t)
		task := newTask(t, device(t, namespace, "leaf1"), newApply(t, `{"apiVersion": "v1", "kind": "List", "items": [`+
			configMap(`"metadata": {"name": "a"}`)+`, `+configMap(`"metadata": {"name": "b"}, "dat": {}`)+`, `+configMap(`"metadata": {"name": "c"}`)+`]}`))
		response, err := do(t, runner, task)
		expect(t, err, permanent, "ConfigMap "+namespace+"/b: ")
		if response != "ConfigMap "+namespace+"/a" {
			t.Errorf("response is %q", response)
		}
		if got := names(t, namespace); len(got) != 1 {
			t.Errorf("wrote %q, want a alone", got)
		}
	})
	t.Run("a long response is truncated", func(t *testing.T) {
		namespace := newNamespace(t)
		items := strings.TrimSuffix(strings.Repeat(configMap(`"metadata": {}`)+", ", 50), ", ")
		response, err := do(t, runner, newTask(t, device(t, namespace, "leaf1"), newApply(t, `{"apiVersion": "v1", "kind": "List", "items": [`+items+`]}`)))
		expect(t, err, done)
		if written := names(t, namespace); len(written) != 50 || len(response) > 1024 || !strings.HasSuffix(response, "…") {
			t.Errorf("wrote %d objects, response %q", len(written), response)
		}
	})
	t.Run("cluster-scoped", func(t *testing.T) {
		namespace := plane.Namespace(t)
		grant(t, namespace, serviceAccount, "", "scheduling.k8s.io", "priorityclasses", "patch", "create")
		task := newTask(t, device(t, namespace, "leaf1"), newApply(t, `{"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "${event.namespace}", "namespace": "x"}, "value": "${data.id}"}`))
		response, err := do(t, runner, task)
		expect(t, err, done)
		var written schedulingv1.PriorityClass
		if err := plane.Client.Get(t.Context(), client.ObjectKey{Name: namespace}, &written); err != nil || written.Value != 14 || response != "PriorityClass "+namespace {
			t.Errorf("wrote %v, response %q: %v", written, response, err)
		}
	})
}

func TestHostileValues(t *testing.T) {
	namespace := newNamespace(t)
	event := hostile(t, namespace)
	var name string
	if err := json.Unmarshal(event.Spec.Data["name"].Raw, &name); err != nil {
		t.Fatal(err)
	}
	task := newTask(t, event, newApply(t, configMap(`"metadata": {"name": "a", "annotations": {"name": "${data.name}"}}, "data": {"name": "${data.name}", "part": "<${data.name}>"}`)))
	_, err := do(t, newRunner(t), task)
	expect(t, err, done)
	var written corev1.ConfigMap
	if err := plane.Client.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: "a"}, &written); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"name": name, "part": "<" + name + ">"}, written.Data); diff != "" {
		t.Errorf("data (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]string{"name": name}, written.Annotations); diff != "" {
		t.Errorf("annotations (-want +got):\n%s", diff)
	}
	if got := names(t, namespace); len(got) != 1 || len(list[corev1.SecretList](t, namespace).Items) > 0 {
		t.Errorf("wrote %q", got)
	}
}

func TestCreate(t *testing.T) {
	runner := newRunner(t)
	newCreate := func(t *testing.T, namespace string) action.Task {
		t.Helper()
		spec := newApply(t, configMap(`"metadata": {"name": "a"}, "data": {"name": "${data.name}"}`))
		spec.Apply.Operation = v1alpha1.OperationCreate
		return newTask(t, device(t, namespace, "leaf1"), spec)
	}
	data := func(t *testing.T, namespace string) string {
		t.Helper()
		return list[corev1.ConfigMapList](t, namespace).Items[0].Data["name"]
	}
	t.Run("created by another user", func(t *testing.T) {
		namespace := newNamespace(t)
		plane.Create(t, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "a"}, Data: map[string]string{"name": "mine"}})
		_, err := do(t, runner, newCreate(t, namespace))
		expect(t, err, permanent, "ConfigMap "+namespace+"/a: ", "already exists", "this event did not create it", "${event.name}")
		if got := data(t, namespace); got != "mine" {
			t.Errorf("the data became %s", got)
		}
	})
	t.Run("created by another event, and by another rule", func(t *testing.T) {
		namespace := newNamespace(t)
		task := newCreate(t, namespace)
		_, err := do(t, runner, task)
		expect(t, err, done)
		_, err = do(t, runner, withEvent(task, device(t, namespace, "leaf2")))
		expect(t, err, permanent, "this event did not create it")
		other := newCreate(t, namespace)
		_, err = do(t, runner, withEvent(other, task.Event))
		expect(t, err, permanent, "this event did not create it")
		if got := data(t, namespace); got != "leaf1" {
			t.Errorf("the data became %s", got)
		}
	})
	t.Run("changed since", func(t *testing.T) {
		namespace := newNamespace(t)
		task := newCreate(t, namespace)
		_, err := do(t, runner, task)
		expect(t, err, done)
		existing := &list[corev1.ConfigMapList](t, namespace).Items[0]
		existing.Data["name"] = "changed"
		if err := plane.Client.Update(t.Context(), existing); err != nil {
			t.Fatal(err)
		}
		_, err = do(t, runner, task)
		expect(t, err, done)
		if got := data(t, namespace); got != "changed" {
			t.Errorf("the data became %s", got)
		}
	})
	t.Run("the service account has no permission to get it", func(t *testing.T) {
		namespace := plane.Namespace(t)
		grant(t, namespace, serviceAccount, namespace, "", "configmaps", "create")
		task := newCreate(t, namespace)
		_, err := do(t, runner, task)
		expect(t, err, done)
		_, err = do(t, runner, task)
		expect(t, err, permanent, "already exists", `cannot get resource "configmaps"`, "grant this permission to the service account")
	})
}

func TestConflict(t *testing.T) {
	namespace, runner := newNamespace(t), newRunner(t)
	data := func() map[string]string { return list[corev1.ConfigMapList](t, namespace).Items[0].Data }
	task := newTask(t, device(t, namespace, "leaf1"), newApply(t, configMap(`"metadata": {"name": "a"}, "data": {"name": "${data.name}"}`)))
	_, err := do(t, runner, task)
	expect(t, err, done)

	other := newTask(t, device(t, namespace, "leaf2"), newApply(t, configMap(`"metadata": {"name": "a"}, "data": {"id": "${string(data.id)}"}`)))
	_, err = do(t, runner, other)
	expect(t, err, done) // although the first one manages the labels
	if diff := cmp.Diff(map[string]string{"name": "leaf1", "id": "14"}, data()); diff != "" {
		t.Errorf("data after another rule applied a field of its own (-want +got):\n%s", diff)
	}
	if label := list[corev1.ConfigMapList](t, namespace).Items[0].Labels[v1alpha1.LabelRule]; label != other.Rule.Name {
		t.Errorf("label is %s, want %s", label, other.Rule.Name)
	}

	existing := &list[corev1.ConfigMapList](t, namespace).Items[0]
	existing.Data["name"], existing.Data["note"] = "mine", "mine"
	if err := plane.Client.Update(t.Context(), existing, client.FieldOwner("a person")); err != nil {
		t.Fatal(err)
	}
	_, err = do(t, runner, task)
	expect(t, err, permanent, "ConfigMap "+namespace+"/a: other field managers own fields of the template: .data.name (\"a person\" using v1); ",
		"remove these fields from the template", "apply.force")
	if diff := cmp.Diff(map[string]string{"name": "mine", "id": "14", "note": "mine"}, data()); diff != "" {
		t.Errorf("data after a conflict (-want +got):\n%s", diff)
	}

	task.Action.Spec.Apply.Force = true
	_, err = do(t, runner, task)
	expect(t, err, done)
	if diff := cmp.Diff(map[string]string{"name": "leaf1", "id": "14", "note": "mine"}, data()); diff != "" {
		t.Errorf("data after a forced apply (-want +got):\n%s", diff)
	}
}

// TestRename applies an object again after its action, and then its rule, got another name.
func TestRename(t *testing.T) {
	namespace, runner := newNamespace(t), newRunner(t)
	spec := newApply(t, configMap(`"metadata": {"name": "a"}, "data": {"name": "${data.name}"}`))
	task := newTask(t, device(t, namespace, "one"), spec)
	_, err := do(t, runner, task)
	expect(t, err, done)

	task.Action.Spec.Name = "renamed"
	_, err = do(t, runner, withEvent(task, device(t, namespace, "two")))
	expect(t, err, done)
	if got := list[corev1.ConfigMapList](t, namespace).Items[0].Data["name"]; got != "two" {
		t.Errorf("the data of the renamed action is %s", got)
	}
	_, err = do(t, runner, newTask(t, device(t, namespace, "three"), spec))
	expect(t, err, done)
	if got := list[corev1.ConfigMapList](t, namespace).Items[0].Data["name"]; got != "three" {
		t.Errorf("the data of the renamed rule is %s", got)
	}
}

// site returns an event of a site with an id and a name.
func site(t *testing.T, namespace, event string, id int, name string) *v1alpha1.NetBoxEvent {
	t.Helper()
	return decode(t, namespace, fmt.Sprintf(`{"event":%q,"timestamp":"2027-07-28T09:30:00.123456+00:00","object_type":"dcim.site","username":"admin",
		"request_id":"b3dc3247-883f-4810-ad01-0f50ee6b722d","data":{"id":%d,"url":"/api/dcim/sites/%d/","name":%q}}`, event, id, id, name))
}

// sharedConfigMap is a ConfigMap with a key for each NetBox object.
const sharedConfigMap = `"metadata": {"name": "all"}, "data": "${ {'s' + event.objectID: string(data.name)} }"`

// TestSharedObject applies fields of several NetBox objects to one object.
func TestSharedObject(t *testing.T) {
	namespace, runner := newNamespace(t), newRunner(t)
	task := newTask(t, site(t, namespace, "created", 801, "one"), newApply(t, configMap(sharedConfigMap)))
	for _, event := range []*v1alpha1.NetBoxEvent{
		task.Event, site(t, namespace, "created", 802, "two"), site(t, namespace, "updated", 801, "three"),
	} {
		_, err := do(t, runner, withEvent(task, event))
		expect(t, err, done)
	}
	got := list[corev1.ConfigMapList](t, namespace).Items[0]
	if diff := cmp.Diff(map[string]string{"s801": "three", "s802": "two"}, got.Data); diff != "" {
		t.Errorf("data (-want +got):\n%s", diff)
	}
	if len(got.ManagedFields) != 2 {
		t.Errorf("%d field managers, want one for each site", len(got.ManagedFields))
	}

	t.Run("with elements of a list", func(t *testing.T) {
		grant(t, namespace, serviceAccount, namespace, "", "services", "create", "patch")
		task := newTask(t, site(t, namespace, "created", 801, "one"), newApply(t, `{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "all"},
			"spec": {"ports": [{"port": "${int(event.objectID)}", "name": "p${event.objectID}"}]}}`))
		for _, id := range []int{801, 802} {
			_, err := do(t, runner, withEvent(task, site(t, namespace, "created", id, "one")))
			expect(t, err, done)
		}
		if got := list[corev1.ServiceList](t, namespace).Items[0].Spec.Ports; len(got) != 2 {
			t.Errorf("ports are %v, want 801 and 802", got)
		}
	})
	t.Run("with the same fields", func(t *testing.T) { // managedFields must not grow
		namespace := newNamespace(t)
		task := newTask(t, site(t, namespace, "created", 801, "one"), newApply(t, configMap(`"metadata": {"name": "last"}, "data": {"name": "${data.name}"}`)))
		for _, id := range []int{801, 802} {
			_, err := do(t, runner, withEvent(task, site(t, namespace, "created", id, "one")))
			expect(t, err, done)
		}
		if got := list[corev1.ConfigMapList](t, namespace).Items[0].ManagedFields; len(got) != 1 {
			t.Errorf("%d field managers, want 1", len(got))
		}
	})
	t.Run("of too many", func(t *testing.T) {
		namespace := newNamespace(t)
		full := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "all"}}
		full.Data = map[string]string{}
		var managers []metav1.ManagedFieldsEntry
		for i := range 500 {
			key := fmt.Sprint("k", i)
			full.Data[key] = "x"
			managers = append(managers, metav1.ManagedFieldsEntry{
				Manager: fmt.Sprintf("netbox-events.io/a/b/c:%016x", i), Operation: metav1.ManagedFieldsOperationApply, APIVersion: "v1", Time: new(metav1.Now()),
				FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(`{"f:data":{"f:` + key + `":{}}}`),
			})
		}
		plane.Create(t, full)
		full.ManagedFields = managers
		if err := plane.Client.Update(t.Context(), full); err != nil {
			t.Fatal(err)
		}
		_, err := do(t, runner, newTask(t, site(t, namespace, "created", 801, "one"), newApply(t, configMap(sharedConfigMap))))
		expect(t, err, permanent, "ConfigMap "+namespace+"/all: it has fields of 500 NetBox objects", "${event.objectID}")
		if got := list[corev1.ConfigMapList](t, namespace).Items[0]; len(got.Data) != 500 || got.Data["s801"] != "" {
			t.Errorf("%d keys, want the 500 from before: %v", len(got.Data), got.Data["s801"])
		}
	})
}

// TestDelete deletes objects with the NetBox object that they were made for.
func TestDelete(t *testing.T) {
	runner := newRunner(t)
	newDelete := func(t *testing.T, template string) v1alpha1.Action {
		t.Helper()
		spec := newApply(t, template)
		spec.Apply.Operation = v1alpha1.OperationDelete
		return spec
	}
	newNamespace := func(t *testing.T) string {
		t.Helper()
		namespace := newNamespace(t)
		grant(t, namespace, serviceAccount, namespace, "", "configmaps", "delete")
		return namespace
	}
	const template = `"metadata": {"name": "site-${event.objectID}"}`

	t.Run("applied and created by rules", func(t *testing.T) {
		for _, operation := range []v1alpha1.ApplyOperation{v1alpha1.OperationApply, v1alpha1.OperationCreate} {
			namespace := newNamespace(t)
			made := newApply(t, configMap(template+`, "data": {"name": "${data.name}"}`))
			made.Apply.Operation = operation
			task := newTask(t, site(t, namespace, "created", 801, "one"), made)
			for _, id := range []int{801, 802} {
				_, err := do(t, runner, withEvent(task, site(t, namespace, "created", id, "one")))
				expect(t, err, done)
			}
			gone := newTask(t, site(t, namespace, "deleted", 801, "one"), newDelete(t, configMap(template)))
			for range 2 { // a retry: it does not exist any more
				response, err := do(t, runner, gone)
				expect(t, err, done)
				if response != "ConfigMap "+namespace+"/site-801" {
					t.Errorf("response is %q", response)
				}
			}
			if got := names(t, namespace); len(got) != 1 || got[0] != "site-802" {
				t.Errorf("%s: left %q, want site-802", operation, got)
			}
		}
	})
	t.Run("of other people", func(t *testing.T) {
		namespace := newNamespace(t)
		plane.Create(t, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "site-801"}, Data: map[string]string{"mine": "x"}})
		task := newTask(t, site(t, namespace, "deleted", 801, "one"), newDelete(t, configMap(template)))
		_, err := do(t, runner, task)
		expect(t, err, permanent, "ConfigMap "+namespace+"/site-801: it is not deleted", "owns fields of it", "apply.force")

		_, err = do(t, runner, newTask(t, task.Event, newApply(t, configMap(template+`, "data": {"name": "${data.name}"}`))))
		expect(t, err, done)
		_, err = do(t, runner, task)
		expect(t, err, permanent, "it is not deleted", "owns fields of it") // although a rule owns one of them
		if got := names(t, namespace); len(got) != 1 {
			t.Errorf("left %q", got)
		}

		task.Action.Spec.Apply.Force = true
		_, err = do(t, runner, task)
		expect(t, err, done)
		if got := names(t, namespace); len(got) != 0 {
			t.Errorf("left %q", got)
		}
	})
	t.Run("of several NetBox objects", func(t *testing.T) {
		namespace := newNamespace(t)
		shared := newTask(t, site(t, namespace, "created", 801, "one"), newApply(t, configMap(sharedConfigMap)))
		for _, id := range []int{801, 802} {
			_, err := do(t, runner, withEvent(shared, site(t, namespace, "created", id, "one")))
			expect(t, err, done)
		}
		gone := newTask(t, site(t, namespace, "deleted", 802, "one"), newDelete(t, configMap(`"metadata": {"name": "all"}`)))
		_, err := do(t, runner, gone)
		expect(t, err, done)
		if diff := cmp.Diff(map[string]string{"s801": "one"}, list[corev1.ConfigMapList](t, namespace).Items[0].Data); diff != "" {
			t.Errorf("data (-want +got):\n%s", diff)
		}
		_, err = do(t, runner, withEvent(gone, site(t, namespace, "deleted", 801, "one")))
		expect(t, err, done)
		if got := names(t, namespace); len(got) != 0 {
			t.Errorf("left %q", got)
		}
	})
	t.Run("without permission", func(t *testing.T) {
		namespace := plane.Namespace(t)
		grant(t, namespace, serviceAccount, namespace, "", "configmaps", "create", "patch", "get")
		event := site(t, namespace, "deleted", 801, "one")
		_, err := do(t, runner, newTask(t, event, newApply(t, configMap(template))))
		expect(t, err, done)
		_, err = do(t, runner, newTask(t, event, newDelete(t, configMap(template))))
		expect(t, err, permanent, `cannot delete resource "configmaps"`, "grant this permission to the service account")
	})
}

// TestAppliedByEvents applies one object for several events of a rule: the last one owns it.
func TestAppliedByEvents(t *testing.T) {
	namespace, runner := newNamespace(t), newRunner(t)
	spec := newApply(t, configMap(`"metadata": {"name": "a"}, "data": {"name": "${data.name}"}`))
	spec.Apply.OwnedByEvent = true
	task := newTask(t, device(t, namespace, "leaf1"), spec)
	for _, name := range []string{"leaf1", "leaf2"} {
		event := device(t, namespace, name)
		_, err := do(t, runner, withEvent(task, event))
		expect(t, err, done)
		applied := list[corev1.ConfigMapList](t, namespace).Items[0]
		if applied.Data["name"] != name || applied.Labels[v1alpha1.LabelEvent] != event.Name || len(applied.OwnerReferences) != 1 || applied.OwnerReferences[0].UID != event.UID {
			t.Errorf("%s: %v, %v", name, applied.ObjectMeta, applied.Data)
		}
	}
}

// TestAccounts checks that actions have the permissions of their service account, not those of the operator, which has all.
func TestAccounts(t *testing.T) {
	runner := newRunner(t)
	namespace, other := plane.Namespace(t), plane.Namespace(t)
	grant(t, namespace, "jobs", namespace, "batch", "jobs", "create", "patch")
	grant(t, namespace, "configmaps", namespace, "", "configmaps", "create", "patch")
	grant(t, namespace, "jobs", other, "batch", "jobs", "create", "patch")
	event := device(t, namespace, "leaf1")
	for _, test := range []struct {
		reason, account, template string
		want                      outcome
		text                      string
	}{
		{"its own permission", "jobs", job(`"name": "a"`), done, ""},
		{"a permission of the previous account", "configmaps", job(`"name": "b"`), permanent, `User "system:serviceaccount:` + namespace + `:configmaps" cannot patch resource "jobs" in API group "batch"`},
		{"its own permission", "configmaps", configMap(`"metadata": {"name": "a"}`), done, ""},
		{"a permission of the previous account", "jobs", configMap(`"metadata": {"name": "b"}`), permanent, `:jobs" cannot patch resource "configmaps"`},
		{"a permission in another namespace", "jobs", job(`"name": "c", "namespace": "` + other + `"`), done, ""},
		{"an account that does not exist", "nobody", job(`"name": "d"`), permanent, `:nobody" cannot patch resource "jobs"`},
		{"no account", "", job(`"name": "e"`), permanent, `cannot patch resource "jobs"`},
	} {
		t.Run(test.reason+" "+test.account, func(t *testing.T) {
			task := newTask(t, event, newApply(t, test.template))
			task.Rule.Spec.ServiceAccountName = test.account
			_, err := do(t, runner, task)
			expect(t, err, test.want, test.text)
			if test.want == permanent {
				expect(t, err, permanent, "grant this permission to the service account with a Role and a RoleBinding, and replay the event")
			}
		})
	}
	if got := append(names(t, namespace), names(t, other)...); fmt.Sprint(got) != "[a a c]" {
		t.Errorf("wrote %q", got)
	}
	t.Run("an account of the same name in another namespace", func(t *testing.T) {
		task := newTask(t, device(t, other, "leaf1"), newApply(t, job(`"name": "f"`)))
		task.Rule.Spec.ServiceAccountName = "jobs"
		_, err := do(t, runner, task)
		expect(t, err, permanent, "system:serviceaccount:"+other+":jobs")
	})
}

// TestImpersonation runs the operator as a service account without, and then with, the permission to impersonate.
func TestImpersonation(t *testing.T) {
	namespace := newNamespace(t)
	operator := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "operator"}}
	plane.Create(t, operator)
	token := &authenticationv1.TokenRequest{}
	if err := plane.Client.SubResource("token").Create(t.Context(), operator, token); err != nil {
		t.Fatal(err)
	}
	config := rest.AnonymousClientConfig(plane.Config)
	config.QPS, config.BearerToken = -1, token.Status.Token
	runner := newRunner(t, func(options *settings) { options.Config = config })
	task := newTask(t, device(t, namespace, "leaf1"), newApply(t, job(`"name": "a"`)))
	_, err := do(t, runner, task)
	expect(t, err, permanent, ":operator\" cannot impersonate", "allow the operator to impersonate the rule's service account")
	if written := names(t, namespace); len(written) > 0 {
		t.Errorf("wrote %q", written)
	}
	grant(t, namespace, "operator", namespace, "", "serviceaccounts", "impersonate")
	_, err = do(t, runner, task)
	expect(t, err, done)
	if written := names(t, namespace); len(written) != 1 {
		t.Errorf("wrote %q", written)
	}
}

// TestOutage applies during an outage of the API server.
func TestOutage(t *testing.T) {
	namespace := newNamespace(t)
	outage, config := plane.NewOutage(t)
	runner := newRunner(t, func(options *settings) { options.Config = config })
	task := newTask(t, device(t, namespace, "leaf1"), newApply(t, configMap(`"metadata": {"name": "a"}`)))
	task.Rule.Spec.Retry.Timeout.Duration = 500 * time.Millisecond
	for _, step := range []struct {
		state controlplane.OutageState
		want  outcome
		text  string
	}{
		{controlplane.Refused, retry, "ConfigMap " + namespace + "/a: "},
		{controlplane.Hung, retry, "timed out after 500ms: ConfigMap " + namespace + "/a: "},
		{controlplane.Up, done, ""},
	} {
		outage.Set(step.state)
		_, err := do(t, runner, task)
		expect(t, err, step.want, step.text)
		outage.Set(controlplane.Refused) // hung connections stay hung
	}
}
