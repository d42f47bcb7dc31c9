package app_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/test/deliveries"
)

// TestMirror runs two Mirror rules on the recorded life of a site, with a late event and replays.
func TestMirror(t *testing.T) {
	target := newSource(t)
	namespace := target.Namespace
	subject := rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: "provisioner"}
	plane.Create(t, &rbacv1.Role{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "mirror"},
		Rules:      []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"create", "patch", "list", "delete"}}},
	}, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "mirror"}, Subjects: []rbacv1.Subject{subject},
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "mirror"},
	})
	for _, status := range []string{"planned", "active"} {
		spec := v1alpha1.Action{Name: "config", Apply: &v1alpha1.ApplyAction{Operation: v1alpha1.OperationMirror}}
		template := `{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "` + status + `-${data.slug}"}, "data": {"name": "${data.name}"}}`
		if err := json.Unmarshal([]byte(template), &spec.Apply.Template); err != nil {
			t.Fatal(err)
		}
		mirror := newRule(namespace, status, spec)
		mirror.Spec.ServiceAccountName = subject.Name
		mirror.Spec.Match.ObjectTypes = []string{"dcim.site"}
		mirror.Spec.Match.CEL = `data.status.value == "` + status + `"`
		plane.Create(t, mirror)
	}
	all, err := deliveries.All()
	if err != nil {
		t.Fatal(err)
	}
	bodies := map[string]string{}
	for _, delivery := range all {
		bodies[delivery.String()] = delivery.Body
	}
	m := start(t, plane.Config, "--watch-namespaces="+namespace)
	served(t, m.url(target))

	stored := map[string]*v1alpha1.NetBoxEvent{}
	send := func(t *testing.T, n string) {
		t.Helper()
		status, name := post(t.Context(), m.url(target), bodies["netbox-4.6.8-live/"+n])
		if status != http.StatusOK {
			t.Fatalf("answered with %d", status)
		}
		stored[n] = &v1alpha1.NetBoxEvent{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: strings.TrimPrefix(name, namespace+"/")}}
	}
	replay := func(t *testing.T, n string) {
		t.Helper()
		value := time.Now().Format(time.RFC3339Nano)
		patch := `{"metadata": {"annotations": {"` + v1alpha1.AnnotationReplay + `": "` + value + `"}}}`
		if err := plane.Client.Patch(t.Context(), stored[n], client.RawPatch("application/merge-patch+json", []byte(patch))); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the event is not replayed", 20*time.Second, func() bool {
			err := plane.Client.Get(t.Context(), client.ObjectKeyFromObject(stored[n]), stored[n])
			return err == nil && stored[n].Status.Replay == value && stored[n].Status.Phase.IsFinished()
		})
	}
	for _, step := range []struct {
		reason string
		do     func(t *testing.T, n string)
		n      string
		want   map[string]string
	}{
		{"created, planned", send, "51", map[string]string{"planned-tokyo": "東京 🚀"}},
		{"active", send, "72", map[string]string{"active-tokyo": "東京 🚀"}},
		{"renamed", send, "86", map[string]string{"active-tokyo-hq": "Tokyo HQ"}},
		{"late, planned", send, "58", map[string]string{"active-tokyo-hq": "Tokyo HQ"}},
		{"the creation, replayed", replay, "51", map[string]string{"active-tokyo-hq": "Tokyo HQ"}},
		{"deleted", send, "255", map[string]string{}},
		{"renamed, replayed", replay, "86", map[string]string{}},
	} {
		t.Run(step.reason, func(t *testing.T) {
			step.do(t, step.n)
			allDone(t, target)
			var found corev1.ConfigMapList
			if err := plane.Client.List(t.Context(), &found, client.InNamespace(namespace)); err != nil {
				t.Fatal(err)
			}
			got := map[string]string{}
			for _, each := range found.Items {
				got[each.Name] = each.Data["name"]
			}
			if diff := cmp.Diff(step.want, got); diff != "" {
				t.Errorf("ConfigMaps (-want +got):\n%s", diff)
			}
		})
	}
}
