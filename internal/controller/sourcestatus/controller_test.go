package sourcestatus_test

import (
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/app"
	"github.com/netbox-events/netbox-event-operator/internal/controller/sourcestatus"
	"github.com/netbox-events/netbox-event-operator/test/controlplane"
)

var plane *controlplane.ControlPlane

func TestMain(m *testing.M) { controlplane.Main(m, &plane) }

func start(t *testing.T) {
	t.Helper()
	mgr, err := ctrl.NewManager(plane.Config, ctrl.Options{
		Scheme: plane.Client.Scheme(), Logger: logr.Discard(), Metrics: metricsserver.Options{BindAddress: "0"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := app.IndexSources(t.Context(), mgr.GetFieldIndexer()); err != nil {
		t.Fatal(err)
	}
	reconciler := &sourcestatus.Reconciler{
		Sources: mgr.GetClient(), Secrets: mgr.GetAPIReader(), Status: mgr.GetClient(), Clock: clock.RealClock{},
	}
	if err := reconciler.SetupWithManager(mgr); err != nil {
		t.Fatal(err)
	}
	controlplane.Run(t, mgr)
}

// state is the status of a source that kubectl shows.
type state struct {
	Ready, Path string
	Keys        []string
}

func waitFor(t *testing.T, source *v1alpha1.NetBoxSource, want state) {
	t.Helper()
	var diff string
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		var current v1alpha1.NetBoxSource
		if err := plane.Client.Get(t.Context(), client.ObjectKeyFromObject(source), &current); err != nil {
			t.Fatal(err)
		}
		got := state{Path: current.Status.Path, Keys: current.Status.Keys}
		if ready := meta.FindStatusCondition(current.Status.Conditions, v1alpha1.ConditionReady); ready != nil {
			got.Ready = string(ready.Status) + " " + ready.Reason + ": " + ready.Message
		}
		if diff = cmp.Diff(want, got); diff == "" {
			return
		}
	}
	t.Fatalf("status of %s (-want +got):\n%s", source.Name, diff)
}

func newSource(namespace, name string, change func(*v1alpha1.NetBoxSourceSpec)) *v1alpha1.NetBoxSource {
	s := &v1alpha1.NetBoxSource{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	s.Spec.SecretRef = &v1alpha1.SecretKeysReference{Name: "webhook"}
	change(&s.Spec)
	return s
}

func TestStatus(t *testing.T) {
	start(t)
	namespace := plane.Namespace(t)
	secret := func(name string, entries map[string]string) *corev1.Secret {
		return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, StringData: entries}
	}
	plane.Create(t, secret("webhook", map[string]string{"b": "x", "a": "y", "empty": "\n"}))
	for name, test := range map[string]struct {
		change func(*v1alpha1.NetBoxSourceSpec)
		want   state
	}{
		"serving": {
			func(*v1alpha1.NetBoxSourceSpec) {},
			state{"True Serving: deliveries are stored", "/webhook/" + namespace + "/serving", []string{"a", "b"}},
		},
		"one-key": {
			func(s *v1alpha1.NetBoxSourceSpec) { s.SecretRef.Key, s.Path = "b", "/one/" },
			state{"True Serving: deliveries are stored", "/one", []string{"b"}},
		},
		"open": {
			func(s *v1alpha1.NetBoxSourceSpec) { s.SecretRef, s.Unsigned = nil, v1alpha1.UnsignedAccept },
			state{"True Serving: deliveries are stored; any client can send them, because the source has no secretRef", "/webhook/" + namespace + "/open", nil},
		},
		"choosy": {
			func(s *v1alpha1.NetBoxSourceSpec) { s.Accept = &v1alpha1.Filter{CEL: "data.id == 1"} },
			state{
				"True Serving: deliveries that match spec.accept are stored; all others are answered with 200 and ignored",
				"/webhook/" + namespace + "/choosy",
				[]string{"a", "b"},
			},
		},
		"broken": {
			func(s *v1alpha1.NetBoxSourceSpec) { s.Accept = &v1alpha1.Filter{CEL: "date.id == 1"} },
			state{
				"False InvalidAccept: spec.accept.cel: 1:1: undeclared reference to 'date' (in container ''); deliveries are answered with 503",
				"/webhook/" + namespace + "/broken",
				nil,
			},
		},
		"suspended": {
			func(s *v1alpha1.NetBoxSourceSpec) { s.Suspend = true },
			state{
				"False Suspended: spec.suspend is true; deliveries are answered with 503",
				"/webhook/" + namespace + "/suspended", nil,
			},
		},
		"no-key": {
			func(s *v1alpha1.NetBoxSourceSpec) { s.SecretRef.Key = "empty" },
			state{
				"False KeyNotFound: Secret webhook has no entry empty, or it is empty; deliveries are answered with 503",
				"/webhook/" + namespace + "/no-key", nil,
			},
		},
	} {
		source := newSource(namespace, name, test.change)
		plane.Create(t, source)
		waitFor(t, source, test.want)
	}

	t.Run("a Secret is created later", func(t *testing.T) {
		source := newSource(namespace, "later", func(s *v1alpha1.NetBoxSourceSpec) { s.SecretRef.Name = "later" })
		path := "/webhook/" + namespace + "/later"
		plane.Create(t, source)
		waitFor(t, source, state{
			"False SecretNotFound: Secret later does not exist in namespace " + namespace + "; deliveries are answered with 503", path, nil,
		})
		plane.Create(t, secret("later", map[string]string{"secret": "x"}))
		waitFor(t, source, state{"True Serving: deliveries are stored", path, []string{"secret"}})
	})

	t.Run("a path is released", func(t *testing.T) {
		samePath := func(s *v1alpha1.NetBoxSourceSpec) { s.Path = "/same" }
		older, younger := newSource(namespace, "older", samePath), newSource(namespace, "younger", samePath)
		plane.Create(t, older, younger)
		serving := state{"True Serving: deliveries are stored", "/same", []string{"a", "b"}}
		waitFor(t, older, serving)
		waitFor(t, younger, state{
			"False PathConflict: the path /same belongs to NetBoxSource " + namespace + "/older, which claimed it first; choose another spec.path",
			"/same", nil,
		})
		if err := plane.Client.Get(t.Context(), client.ObjectKeyFromObject(older), older); err != nil {
			t.Fatal(err)
		}
		older.Spec.Path = ""
		if err := plane.Client.Update(t.Context(), older); err != nil {
			t.Fatal(err)
		}
		waitFor(t, younger, serving)
	})
}
