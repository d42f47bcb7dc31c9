package event_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap/zapcore"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/action"
	"github.com/netbox-events/netbox-event-operator/internal/controller/event"
	"github.com/netbox-events/netbox-event-operator/internal/controller/replay"
	"github.com/netbox-events/netbox-event-operator/internal/controller/rulestatus"
	"github.com/netbox-events/netbox-event-operator/internal/eventstore"
	"github.com/netbox-events/netbox-event-operator/internal/rule"
	"github.com/netbox-events/netbox-event-operator/test/controlplane"
)

var plane *controlplane.ControlPlane

func TestMain(m *testing.M) { controlplane.Main(m, &plane) }

// start runs the controller for a namespace and returns the lines that it logs.
func start(t *testing.T, config *rest.Config, namespace string, verbosity int) *lines {
	t.Helper()
	logged, _ := startWith(t, config, namespace, verbosity, nil)
	return logged
}

// startWith runs the controller for a namespace, with actions done by a function, nil for none.
func startWith(
	t testing.TB, config *rest.Config, namespace string, verbosity int, do doFunc, change ...func(*event.Options),
) (logged *lines, stop func()) {
	t.Helper()
	logged = &lines{metrics: prometheus.NewRegistry()}
	log := zap.New(zap.WriteTo(logged), zap.Level(zapcore.Level(-verbosity)))
	scheme := plane.Client.Scheme()
	namespaces := map[string]cache.Config{namespace: {}}
	mgr, err := ctrl.NewManager(config, ctrl.Options{
		Scheme: scheme, Logger: logr.Discard(), Metrics: metricsserver.Options{BindAddress: "0"},
		Cache: cache.Options{DefaultNamespaces: namespaces},
	})
	if err != nil {
		t.Fatal(err)
	}
	events, err := client.NewWithWatch(config, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	store, err := eventstore.New(config, scheme)
	if err != nil {
		t.Fatal(err)
	}
	tally, compiled := rulestatus.NewTally(clock.RealClock{}), rule.NewCache()
	options := event.Options{
		Events: events, Namespaces: []string{namespace}, Rules: mgr.GetClient(), Compiled: compiled, Actions: do, Tally: tally, Status: store,
		Metrics: event.NewMetrics(logged.metrics), Recorder: mgr.GetEventRecorder("test"), Clock: clock.RealClock{}, Log: log,
	}
	for _, change := range change {
		change(&options)
	}
	engine := event.NewEngine(options)
	rules := &rulestatus.Reconciler{
		Rules: mgr.GetAPIReader(), Cached: mgr.GetClient(), Compiled: compiled, Tally: tally, Sinks: engine, Status: mgr.GetClient(), Clock: clock.RealClock{},
	}
	replays := &replay.Reconciler{
		Events: events, Rules: mgr.GetClient(), Status: store, Namespaces: []string{namespace}, Clock: clock.RealClock{}, Log: log,
	}
	err = errors.Join(
		engine.SetupWithManager(t.Context(), mgr, mgr.GetCache()), rules.SetupWithManager(mgr), replays.SetupWithManager(mgr))
	if err != nil {
		t.Fatal(err)
	}
	return logged, controlplane.Run(t, mgr)
}

// doFunc does actions, and returns their responses.
type doFunc func(ctx context.Context, task action.Task) (string, error)

func (f doFunc) Do(ctx context.Context, task action.Task) (action.Result, error) {
	response, err := f(ctx, task)
	return action.Result{Response: response}, err
}

// lines are the JSON objects that were logged, beside what was counted.
type lines struct {
	metrics *prometheus.Registry

	mu  sync.Mutex
	all []map[string]any
}

// Write takes one line.
func (l *lines) Write(line []byte) (int, error) {
	var values map[string]any
	if err := json.Unmarshal(line, &values); err != nil {
		return 0, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if values["msg"] == "NetBox event" {
		delete(values, "ts")
		l.all = append(l.all, values)
	}
	return len(line), nil
}

func (l *lines) copy() []map[string]any {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.all)
}

// newEvent is an update of an object at a second.
func newEvent(namespace string, object, second int) *v1alpha1.NetBoxEvent {
	at := metav1.NewMicroTime(time.Date(2026, 11, 23, 10, 0, second, 123456000, time.UTC))
	return &v1alpha1.NetBoxEvent{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: fmt.Sprintf("site-%d-updated-%d", object, second)},
		Spec: v1alpha1.NetBoxEventSpec{
			SourceRef:  v1alpha1.SourceReference{Name: "netbox"},
			Event:      "updated",
			ObjectType: "dcim.site",
			Model:      "site",
			ObjectID:   fmt.Sprint(object),
			ObjectURL:  fmt.Sprintf("/api/dcim/sites/%d/", object),
			Username:   "admin",
			RequestID:  "b3dc3247-883f-4810-ad01-0f50ee6b722d",
			Timestamp:  at,
			Data:       v1alpha1.JSONObject{"id": {Raw: fmt.Append(nil, object)}},
			Delivery: v1alpha1.Delivery{
				ReceivedAt: at, Signature: v1alpha1.SignatureUnsigned, BodySHA256: strings.Repeat("0", 64),
			},
		},
	}
}

func waitDone(t *testing.T, namespace string, want int) []v1alpha1.NetBoxEvent {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		var events v1alpha1.NetBoxEventList
		err := plane.Client.List(t.Context(), &events, client.InNamespace(namespace),
			client.MatchingFields{"status.phase": string(v1alpha1.PhaseSucceeded)})
		if err != nil {
			t.Fatal(err)
		}
		if len(events.Items) == want {
			return events.Items
		}
		if time.Now().After(end) {
			t.Fatalf("%d events are done, want %d", len(events.Items), want)
		}
	}
}

// TestLogged creates events while the operator is down, and others while it is up: each is logged once.
func TestLogged(t *testing.T) {
	namespace := plane.Namespace(t)
	const objects, seconds = 5, 10
	for second := seconds - 1; second >= 0; second-- {
		for object := range objects {
			plane.Create(t, newEvent(namespace, object, second))
		}
	}
	logged := start(t, plane.Config, namespace, 0)
	for object := range objects {
		for second := range seconds {
			plane.Create(t, newEvent(namespace, object, seconds+second))
		}
	}
	for _, done := range waitDone(t, namespace, 2*objects*seconds) {
		condition := done.Status.Conditions[0]
		if condition.Type != v1alpha1.ConditionSucceeded || condition.Status != metav1.ConditionTrue ||
			done.Status.StartTime.IsZero() || done.Status.CompletionTime.IsZero() {
			t.Errorf("status of %s: %+v", done.Name, done.Status)
		}
	}
	got := map[string]int{}
	for _, line := range logged.copy() {
		got[line["name"].(string)]++
	}
	want := map[string]int{}
	for object := range objects {
		for second := range 2 * seconds {
			want[newEvent(namespace, object, second).Name] = 1
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("lines of the log for each event (-want +got):\n%s", diff)
	}
}

// TestLogLine pins the fields of the line, which people search for.
func TestLogLine(t *testing.T) {
	for verbosity, data := range map[int]any{0: nil, 1: map[string]any{"id": float64(14)}} {
		namespace := plane.Namespace(t)
		logged := start(t, plane.Config, namespace, verbosity)
		plane.Create(t, newEvent(namespace, 14, 0))
		waitDone(t, namespace, 1)
		want := map[string]any{
			"level": "info", "msg": "NetBox event",
			"requestID": "b3dc3247-883f-4810-ad01-0f50ee6b722d", "username": "admin", "event": "updated",
			"timestamp": "2026-11-23T10:00:00.123456Z", "objectType": "dcim.site", "objectID": "14", "objectURL": "/api/dcim/sites/14/",
			"objectName": "", "namespace": namespace, "name": "site-14-updated-0", "source": "netbox",
		}
		if data != nil {
			want["data"] = data
		}
		if diff := cmp.Diff([]map[string]any{want}, logged.copy()); diff != "" {
			t.Errorf("verbosity %d (-want +got):\n%s", verbosity, diff)
		}
	}
}

// TestOutage takes the API server away while events are pending.
func TestOutage(t *testing.T) {
	namespace := plane.Namespace(t)
	outage, config := plane.NewOutage(t)
	log := start(t, config, namespace, 0)
	plane.Create(t, newEvent(namespace, 1, 0))
	waitDone(t, namespace, 1)
	outage.Set(controlplane.Refused)
	for second := range 20 {
		plane.Create(t, newEvent(namespace, 1, 1+second))
	}
	outage.Set(controlplane.Up)
	waitDone(t, namespace, 21)
	if got := len(log.copy()); got != 21 {
		t.Errorf("%d lines for 21 events", got)
	}
}
