package app_test

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

// rivals are two sources in two namespaces that may claim the same path.
type rivals struct {
	path    string
	sources map[string]*v1alpha1.NetBoxSource // by the names that the test has for them
	served  string                            // name of the source that was served last
	sent    int
}

// do performs a step: a user's change of a source.
func (r *rivals) do(t *testing.T, step string) {
	t.Helper()
	name, what, _ := strings.Cut(step, " ")
	s := r.sources[name]
	if s == nil {
		namespace := plane.Namespace(t)
		plane.Create(t, &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "webhook"}, StringData: map[string]string{"secret": key},
		})
		s = &v1alpha1.NetBoxSource{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "netbox"}}
		s.Spec.SecretRef = &v1alpha1.SecretKeysReference{Name: "webhook"}
		r.sources[name] = s
	}
	var err error
	switch what {
	case "comes to it":
		s.Spec.Path = r.path
		err = plane.Client.Create(t.Context(), s)
	case "comes":
		err = plane.Client.Create(t.Context(), s)
	case "takes it":
		err = plane.Client.Patch(t.Context(), s, client.RawPatch("application/merge-patch+json", fmt.Appendf(nil, `{"spec":{"path":%q}}`, r.path)))
	case "leaves it":
		err = plane.Client.Patch(t.Context(), s, client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"path":null}}`)))
	case "is deleted":
		err = plane.Client.Delete(t.Context(), s)
	case "loses its status":
		err = plane.Client.Status().Patch(t.Context(), s, client.RawPatch("application/merge-patch+json", []byte(`{"status":null}`)))
	default:
		t.Fatalf("unknown step %q", step)
	}
	if err != nil {
		t.Fatalf("%s: %v", step, err)
	}
	if what == "is deleted" {
		delete(r.sources, name)
	}
}

// expect waits until the statuses show that want is served, and fails if a delivery is stored for another source than the previously served
// one.
func (r *rivals) expect(t *testing.T, m *manager, want string) {
	t.Helper()
	var statuses string
	for end := time.Now().Add(15 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		r.sent++
		_, event := post(t.Context(), "http://"+m.webhooks+r.path, body(r.sent))
		got := ""
		for name, s := range r.sources {
			if strings.HasPrefix(event, s.Namespace+"/") {
				got = name
			}
		}
		if got != "" && got != want && got != r.served {
			t.Fatalf("a delivery is stored for %q, which takes the path from %q", got, r.served)
		}
		if statuses = r.statuses(t, want); got == want && statuses == "" {
			r.served = want
			return
		}
		if time.Now().After(end) {
			t.Fatalf("a delivery is stored for %q, want %q; %s", got, want, statuses)
		}
	}
}

// statuses describes the statuses that differ from the expected ones.
func (r *rivals) statuses(t *testing.T, want string) string {
	t.Helper()
	for name, s := range r.sources {
		if err := plane.Client.Get(t.Context(), client.ObjectKeyFromObject(s), s); err != nil {
			t.Fatal(err)
		}
		reason := v1alpha1.ReasonServing
		if s.Spec.Path == r.path && name != want {
			reason = v1alpha1.ReasonPathConflict
		}
		ready := meta.FindStatusCondition(s.Status.Conditions, v1alpha1.ConditionReady)
		if ready == nil || ready.Reason != reason || ready.ObservedGeneration != s.Generation || s.Status.Claim == nil {
			return fmt.Sprintf("status of %s, which should be %s: %+v", name, reason, s.Status)
		}
	}
	return ""
}

// TestPathClaims lets two sources in two namespaces claim the same path, in every order: the first to claim it keeps it.
func TestPathClaims(t *testing.T) {
	for i, steps := range [][]string{
		{"old comes -", "new comes to it -new", "old takes it -new"}, // an older object
		{"old comes to it -old", "new comes to it -old", "old leaves it -new", "old takes it -new", "new is deleted -old"},
		{"old comes -", "new comes -", "old takes it -old", "new takes it -old"},
		{"old comes -", "new comes -", "new takes it -new", "old takes it -new", "new leaves it -old", "new takes it -old"},
		{"new comes to it -new", "old comes -new", "old takes it -new", "new loses its status -new", "old loses its status -new"},
	} {
		t.Run(strings.Join(steps, ", "), func(t *testing.T) {
			m := start(t, plane.Config)
			r := &rivals{path: fmt.Sprintf("/claimed-%d", i), sources: map[string]*v1alpha1.NetBoxSource{}}
			for _, step := range steps {
				step, want, _ := strings.Cut(step, " -")
				r.do(t, step)
				r.expect(t, m, want)
			}
			m.signal(t, syscall.SIGKILL)
			_ = m.waitEnd(t)
			r.expect(t, start(t, plane.Config), r.served) // by what is recorded
		})
	}
}
