package netbox_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/events"
	clocktesting "k8s.io/utils/clock/testing"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	controller "github.com/netbox-events/netbox-event-operator/internal/controller/netbox"
	"github.com/netbox-events/netbox-event-operator/internal/eventspec"
	"github.com/netbox-events/netbox-event-operator/internal/eventstore"
	"github.com/netbox-events/netbox-event-operator/internal/netbox"
	"github.com/netbox-events/netbox-event-operator/internal/outbound"
	"github.com/netbox-events/netbox-event-operator/internal/rule"
	"github.com/netbox-events/netbox-event-operator/test/controlplane"
)

const (
	lag      = 2 * time.Minute
	interval = time.Minute
	// late is more than lag and the overlap of readings.
	late = lag + 11*time.Minute
)

// world is a source, its NetBox, and a ChangeLog with a clock that the test sets.
type world struct {
	*testing.T
	netbox   *fakeLog
	clock    *clocktesting.FakePassiveClock
	name     types.NamespacedName
	log      *controller.ChangeLog
	recorder *events.FakeRecorder
	events   *eventstore.Store
	pending  int
	due      time.Time // of the next reconcile
}

func newWorld(t *testing.T, change func(*v1alpha1.NetBoxSource)) *world {
	t.Helper()
	w := &world{T: t, netbox: newFakeLog(t), clock: clocktesting.NewFakePassiveClock(time.Now().Truncate(time.Second))}
	source := &v1alpha1.NetBoxSource{ObjectMeta: metav1.ObjectMeta{Namespace: plane.Namespace(t), Name: "netbox"}}
	w.name = client.ObjectKeyFromObject(source)
	plane.Create(t, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.name.Namespace, Name: "token"}, StringData: map[string]string{"token": strings.Repeat("0", 40)},
	})
	source.Spec.Unsigned = v1alpha1.UnsignedAccept
	source.Spec.NetBox = &v1alpha1.NetBoxAPI{
		URL: w.netbox.URL, TokenSecretRef: v1alpha1.SecretKeyReference{Name: "token", Key: "token"}, Backfill: &v1alpha1.Backfill{},
	}
	source.Spec.Redact = []string{"auth_psk"}
	if change != nil {
		change(source)
	}
	plane.Create(t, source)
	var err error
	if w.events, err = eventstore.New(plane.Config, plane.Client.Scheme()); err != nil {
		t.Fatal(err)
	}
	w.restart()
	return w
}

// restart makes another ChangeLog, as after a change of the leader.
func (w *world) restart() {
	w.Helper()
	secrets := outbound.NewSecrets(plane.Client, w.clock)
	metadata, err := metadata.NewForConfig(plane.Config)
	if err != nil {
		w.Fatal(err)
	}
	w.recorder = events.NewFakeRecorder(100)
	transports := outbound.NewTransports(outbound.Options{
		Secrets: secrets, AllowCIDRs: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Clock: w.clock,
	})
	metrics := controller.NewMetrics(prometheus.NewRegistry())
	w.log = &controller.ChangeLog{
		Cached: plane.Client, Status: plane.Client, Clients: controller.NewClients(transports, secrets, metrics, w.clock), Events: w.events,
		Metadata: metadata, Accept: rule.NewAcceptCache(), Pending: func(types.NamespacedName) int { return w.pending }, Recorder: w.recorder,
		Metrics: metrics, Clock: w.clock, Log: logr.Discard(),
	}
}

// reconcile reconciles once.
func (w *world) reconcile() {
	w.Helper()
	result, err := w.log.Reconcile(w.Context(), reconcile.Request{NamespacedName: w.name})
	if err != nil {
		w.Fatal(err)
	}
	w.due = w.clock.Now().Add(result.RequeueAfter)
}

// pass lets time pass, in which reconciles are made when they are due.
func (w *world) pass(d time.Duration) {
	w.Helper()
	for end := w.clock.Now().Add(d); ; w.reconcile() {
		if w.due.IsZero() || w.due.After(end) {
			w.clock.SetTime(end)
			return
		}
		if w.due.After(w.clock.Now()) {
			w.clock.SetTime(w.due)
		}
	}
}

// jump lets time pass without a reconcile.
func (w *world) jump(d time.Duration) { w.clock.SetTime(w.clock.Now().Add(d)) }

func (w *world) source() *v1alpha1.NetBoxSource {
	w.Helper()
	var source v1alpha1.NetBoxSource
	if err := plane.Client.Get(w.Context(), w.name, &source); err != nil {
		w.Fatal(err)
	}
	if source.Status.NetBox == nil {
		source.Status.NetBox = &v1alpha1.NetBoxAPIStatus{}
	}
	return &source
}

// change changes the source.
func (w *world) change(change func(*v1alpha1.NetBoxSource)) {
	w.Helper()
	source := w.source()
	change(source)
	if err := plane.Client.Update(w.Context(), source); err != nil {
		w.Fatal(err)
	}
	w.reconcile()
}

func (w *world) stored() []v1alpha1.NetBoxEvent {
	w.Helper()
	var list v1alpha1.NetBoxEventList
	if err := plane.Client.List(w.Context(), &list, client.InNamespace(w.name.Namespace)); err != nil {
		w.Fatal(err)
	}
	slices.SortFunc(list.Items, func(a, b v1alpha1.NetBoxEvent) int { return a.Spec.Timestamp.Compare(b.Spec.Timestamp.Time) })
	return list.Items
}

// expect compares the stored events, in the form "created 1", sorted by time.
func (w *world) expect(reason string, want ...string) {
	w.Helper()
	var got []string
	for _, event := range w.stored() {
		got = append(got, event.Spec.Event+" "+event.Spec.ObjectID)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		w.Fatalf("%s: events (-want +got):\n%s", reason, diff)
	}
}

// expectCondition waits for nothing: the condition was written by the last reconcile.
func (w *world) expectCondition(name, want, message string) {
	w.Helper()
	condition := meta.FindStatusCondition(w.source().Status.Conditions, name)
	if condition == nil {
		w.Fatalf("there is no condition %s", name)
	}
	if got := string(condition.Status) + " " + condition.Reason; got != want || !strings.Contains(condition.Message, message) {
		w.Fatalf("%s is %s: %s\nwant %s: …%s…", name, got, condition.Message, want, message)
	}
}

// expectNotice takes the Kubernetes Events, one of which must contain a text.
func (w *world) expectNotice(text string) {
	w.Helper()
	var notices []string
	for {
		select {
		case notice := <-w.recorder.Events:
			notices = append(notices, notice)
			continue
		default:
		}
		break
	}
	if !slices.ContainsFunc(notices, func(notice string) bool { return strings.Contains(notice, text) }) {
		w.Fatalf("no Event contains %q: %q", text, notices)
	}
}

// siteRow is a row of a change of a site that is made now.
func (w *world) siteRow(request, action string, id int) row {
	r := row{at: w.clock.Now(), request: request, action: action, objectType: "dcim.site", objectID: id}
	if action != "create" {
		r.prechange = map[string]any{"name": fmt.Sprintf("Site %d", id), "status": "planned", "last_updated": "a"}
	}
	if action != "delete" {
		r.postchange = map[string]any{"name": fmt.Sprintf("Site %d", id), "status": "active", "last_updated": "b"}
	}
	return r
}

// make makes a change of a site of which no webhook comes.
func (w *world) make(request, action string, id int) {
	path := fmt.Sprintf("/api/dcim/sites/%d/", id)
	if action == "delete" {
		w.netbox.set(path, nil)
	} else {
		w.netbox.set(path, map[string]any{"id": id, "display": fmt.Sprintf("Site %d", id), "status": map[string]any{"value": "active"}})
	}
	w.netbox.log(w.siteRow(request, action, id))
}

// webhook stores the event of a webhook, as the receiver does, unless it exists. The engine then calls Received.
func (w *world) webhook(r row) (isDuplicate bool) {
	w.Helper()
	body := fmt.Sprintf(`{"event":"updated","timestamp":%q,"object_type":%q,"data":{"id":%d,"display":"Site %d","url":"/api/dcim/sites/%d/"},`+
		`"request":{"id":%q,"user":"admin","method":"PATCH"},"snapshots":{"prechange":{"status":"planned"},"postchange":{"status":"active"}}}`,
		r.at.Format(time.RFC3339Nano), r.objectType, r.objectID, r.objectID, r.objectID, r.request)
	decoded, err := netbox.Decode([]byte(body), nil)
	if err != nil {
		w.Fatal(err)
	}
	event := eventspec.New(decoded, eventspec.Delivery{
		Source: w.source(), Origin: v1alpha1.OriginWebhook, BodyBytes: len(body), ReceivedAt: w.clock.Now(),
	})
	if err = w.events.Create(w.Context(), event); apierrors.IsAlreadyExists(err) {
		stored, err := w.events.Get(w.Context(), event.Namespace, event.Name)
		if err != nil || !eventspec.IsSame(stored, event, w.source()) {
			w.Fatalf("the webhook is not known as that of the change: %v", err)
		}
		return true
	}
	if err != nil {
		w.Fatal(err)
	}
	w.log.Received(event)
	return false
}

func TestMissedChange(t *testing.T) {
	w := newWorld(t, nil)
	w.make("before", "create", 1)
	w.reconcile()
	w.expectCondition("ChangeLogRead", "True UpToDate", "all changes older than 2m0s have events")
	w.expectCondition("Receiving", "Unknown NothingLogged", "")
	w.pass(time.Second)
	w.make("r1", "update", 1)
	w.pass(lag - time.Second)
	w.expect("a webhook may still come")
	w.pass(interval)
	w.expect("it did not come", "updated 1")

	event := w.stored()[0]
	spec := event.Spec
	if spec.Delivery.Origin != v1alpha1.OriginChangeLog || spec.Delivery.DataReadAt == nil || spec.Delivery.Signature != "" {
		t.Errorf("delivery: %+v", spec.Delivery)
	}
	if !slices.Equal(spec.ChangedFields, []string{"status"}) || spec.Username != "admin" || spec.RequestID != "r1" || spec.ObjectName != "Site 1" ||
		spec.ObjectURL != "/api/dcim/sites/1/" || !strings.Contains(string(spec.Data["status"].Raw), "active") {
		t.Errorf("spec: %+v", spec)
	}
	if !strings.Contains(string(spec.Snapshots["prechange"].Raw), "planned") {
		t.Errorf("snapshots: %v", spec.Snapshots)
	}
	status := w.source().Status.NetBox
	if status.Missed != 1 {
		t.Errorf("missed is %d", status.Missed)
	}
	w.expectNotice("MissedChanges 1 changes")
	w.expectCondition("Receiving", "False NothingArrives", `the first is dcim.site 1 "Object 1" updated by admin`)
	w.expectCondition("Receiving", "False NothingArrives", "2 jobs in NetBox's queue default failed")

	if !w.webhook(w.netbox.rows[1]) {
		t.Error("the webhook that came after all made another event")
	}
	w.pass(time.Second)
	r := w.siteRow("r2", "update", 1)
	w.netbox.log(r)
	if w.webhook(r) {
		t.Error("the webhook is a duplicate")
	}
	w.pass(late)
	w.expect("nothing is missing", "updated 1", "updated 1")
	w.expectCondition("Receiving", "True ChangesArrive", "")
	if status := w.source().Status.NetBox; status.Missed != 1 || status.Cursor != 3 {
		t.Errorf("status: %+v", status)
	}
}

// TestCost counts the requests: at rest, one page for each interval; and no reads of events of which the webhooks came.
func TestCost(t *testing.T) {
	w := newWorld(t, nil)
	w.make("r0", "create", 999)
	w.reconcile()
	for i := range 50 {
		r := w.siteRow("bulk", "update", i+1)
		w.netbox.log(r)
		w.webhook(r)
	}
	reads := &countingStore{EventStore: w.events}
	w.log.Events = reads
	w.pass(late + interval)
	w.netbox.asked()
	version := w.source().ResourceVersion
	w.pass(10 * interval)
	if asked := w.netbox.asked(); len(asked) != 10 || slices.ContainsFunc(asked, func(uri string) bool { return !strings.Contains(uri, "object-changes/?limit=1000") }) {
		t.Errorf("%d requests in 10 intervals at rest: %q", len(asked), asked)
	}
	if w.source().ResourceVersion != version {
		t.Error("the status was written at rest")
	}
	if reads.gets != 0 {
		t.Errorf("%d events were read", reads.gets)
	}
	w.restart()
	w.log.Events = reads
	w.reconcile()
	w.pass(10 * interval)
	if reads.gets > 1 || reads.creations != 0 {
		t.Errorf("after a restart, %d events were read, and %d created", reads.gets, reads.creations)
	}
}

type countingStore struct {
	controller.EventStore
	mu              sync.Mutex
	gets, creations int
	err             error
}

func (s *countingStore) Get(ctx context.Context, namespace, name string) (*v1alpha1.NetBoxEvent, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gets++
	return s.EventStore.Get(ctx, namespace, name)
}

func (s *countingStore) Create(ctx context.Context, event *v1alpha1.NetBoxEvent) error {
	s.mu.Lock()
	s.creations++
	err := s.err
	s.mu.Unlock()
	if err != nil {
		return err
	}
	return s.EventStore.Create(ctx, event)
}

// TestLateCommit: rows appear below the newest one, and some minutes late.
func TestLateCommit(t *testing.T) {
	w := newWorld(t, nil)
	w.make("r0", "create", 1)
	w.reconcile()
	job := w.siteRow("job", "create", 2)
	job.id = 2
	w.pass(time.Second)
	other := w.siteRow("other", "update", 1)
	other.id = 3
	w.netbox.log(other)
	w.pass(5 * time.Minute)
	w.expect("the job has not committed", "updated 1")
	w.netbox.log(job)
	w.pass(interval)
	w.expect("the job has committed", "created 2", "updated 1")
	w.pass(late)
	w.restart()
	w.reconcile()
	w.pass(late)
	w.expect("after a restart", "created 2", "updated 1")
	if missed := w.source().Status.NetBox.Missed; missed != 2 {
		t.Errorf("missed is %d", missed)
	}
}

// TestRestart: a change that became due while nobody led is found, and one whose reading was interrupted is not made twice.
func TestRestart(t *testing.T) {
	w := newWorld(t, nil)
	w.reconcile() // the log is empty
	w.make("r1", "create", 1)
	w.restart()
	w.jump(time.Hour)
	w.reconcile()
	w.expect("after an outage", "created 1")

	w.make("r2", "update", 1)
	w.make("r2", "delete", 2)
	w.pass(lag - time.Second)
	failing := &countingStore{EventStore: w.events, err: errors.New("the API server is away")}
	w.log.Events = failing
	w.jump(interval)
	if _, err := w.log.Reconcile(t.Context(), reconcile.Request{NamespacedName: w.name}); err == nil {
		t.Error("the error of the API server is lost")
	}
	var leaders sync.WaitGroup
	w.log.Events = w.events
	first := w.log
	w.restart()
	for _, leader := range []*controller.ChangeLog{first, w.log} {
		leaders.Go(func() {
			_, _ = leader.Reconcile(t.Context(), reconcile.Request{NamespacedName: w.name})
		})
	}
	leaders.Wait()
	w.expect("two leaders at once", "created 1", "updated 1", "deleted 2")
}

// TestRestartWithinLag: the webhooks came before the restart. Their events are listed once for a bulk edit, and read one by one otherwise.
func TestRestartWithinLag(t *testing.T) {
	w := newWorld(t, nil)
	w.make("r0", "create", 99)
	w.reconcile()
	w.pass(time.Second)
	for i := range 6 {
		r := w.siteRow("bulk", "update", i+1)
		w.netbox.log(r)
		if i != 2 {
			w.webhook(r)
		}
	}
	single := w.siteRow("single", "update", 7)
	w.netbox.log(single)
	w.webhook(single)
	w.restart()
	counting := &countingStore{EventStore: w.events}
	w.log.Events = counting
	w.pass(late)
	w.expectCondition("Receiving", "True ChangesArrive", "1 did not, and became events from the change log")
	if counting.gets != 2 || counting.creations != 1 || w.source().Status.NetBox.Missed != 1 {
		t.Errorf("%d events were read, and %d created", counting.gets, counting.creations)
	}
}

// TestTooLarge: a change that cannot be stored does not hold up the others.
func TestTooLarge(t *testing.T) {
	w := newWorld(t, nil)
	w.reconcile()
	large := w.siteRow("r1", "update", 1)
	large.postchange["comments"] = strings.Repeat("x", 2<<20)
	w.netbox.log(large)
	w.make("r2", "create", 2)
	w.pass(lag + interval)
	w.expect("the other one", "created 2")
	w.expectNotice("ChangeNotStored dcim.site 1")
}

// TestController runs the controller in a manager.
func TestController(t *testing.T) {
	w := newWorld(t, nil)
	mgr, err := ctrl.NewManager(plane.Config, ctrl.Options{
		Scheme: plane.Client.Scheme(), Logger: logr.Discard(), Metrics: metricsserver.Options{BindAddress: "0"},
	})
	if err != nil {
		t.Fatal(err)
	}
	w.log.Cached, w.log.Status = mgr.GetClient(), mgr.GetClient()
	if err := w.log.SetupWithManager(mgr); err != nil {
		t.Fatal(err)
	}
	controlplane.Run(t, mgr)
	wait := func(reason string, done func(*v1alpha1.NetBoxSource) bool) {
		t.Helper()
		for end := time.Now().Add(10 * time.Second); !done(w.source()); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s: %+v", reason, w.source().Status)
			}
		}
	}
	wait("the first reading", func(s *v1alpha1.NetBoxSource) bool {
		return meta.IsStatusConditionTrue(s.Status.Conditions, "ChangeLogRead")
	})
	source, value := w.source(), w.clock.Now().Add(-time.Hour).Format(time.RFC3339)
	source.Annotations = map[string]string{v1alpha1.AnnotationBackfillSince: value}
	if err := plane.Client.Update(t.Context(), source); err != nil {
		t.Fatal(err)
	}
	wait("the annotation", func(s *v1alpha1.NetBoxSource) bool { return s.Status.NetBox.BackfillSince == value })
}

func TestFrom(t *testing.T) {
	w := newWorld(t, nil)
	at := w.clock.Now()
	for i, age := range []time.Duration{30 * time.Hour, 5 * time.Hour, 3 * time.Hour, time.Hour} {
		r := w.siteRow(fmt.Sprint("r", i), "create", i+1)
		r.at = at.Add(-age)
		w.netbox.log(r)
	}
	w.change(func(s *v1alpha1.NetBoxSource) {
		s.Spec.NetBox.Backfill.From = new(metav1.NewTime(at.Add(-4 * time.Hour)))
	})
	w.expect("from 4 hours ago", "created 3", "created 4")

	since := func(value string) {
		w.change(func(s *v1alpha1.NetBoxSource) {
			s.Annotations = map[string]string{v1alpha1.AnnotationBackfillSince: value}
		})
	}
	since("yesterday")
	w.expectNotice("BackfillRefused")
	w.expectCondition("ChangeLogRead", "True UpToDate", "must be a time such as")
	since(at.Add(time.Hour).Format(time.RFC3339))
	w.expectCondition("ChangeLogRead", "True UpToDate", "is in the future")
	since(at.Add(-6 * time.Hour).Format(time.RFC3339))
	w.expect("since 6 hours ago", "created 2", "created 3", "created 4")
	since(at.Add(-1000 * time.Hour).Format(time.RFC3339))
	w.expectCondition("ChangeLogRead", "True UpToDate", "retention deleted the events of earlier changes")
	w.expect("since retention, beyond maxAge", "created 1", "created 2", "created 3", "created 4")
	if got := w.source().Status.NetBox; got.Missed != 4 || !strings.HasPrefix(got.BackfillSince, at.Add(-1000*time.Hour).Format("2006-01-02T15")) {
		t.Errorf("status: %+v", got)
	}
	w.netbox.asked()
	w.pass(3 * interval)
	if asked := w.netbox.asked(); len(asked) != 3 {
		t.Errorf("the annotation is processed again: %q", asked)
	}
}

func TestMaxAge(t *testing.T) {
	w := newWorld(t, func(s *v1alpha1.NetBoxSource) { s.Spec.NetBox.Backfill.MaxAge.Duration = time.Hour })
	w.make("r0", "create", 1)
	w.reconcile()
	w.pass(time.Second)
	w.make("r1", "update", 1)
	w.jump(90 * time.Minute)
	w.make("r2", "update", 2)
	w.jump(10 * time.Minute)
	w.reconcile()
	w.expect("after an outage", "updated 2")
	w.expectNotice("ChangesSkipped 1 changes")
}

// TestMaxEvents: a change whose event retention may have deleted is not stored again.
func TestMaxEvents(t *testing.T) {
	w := newWorld(t, func(s *v1alpha1.NetBoxSource) { s.Spec.Retention.MaxEvents = 1 })
	w.reconcile()
	w.make("r1", "create", 1)
	w.jump(time.Hour)
	source := w.source()
	source.Status.Events, source.Status.Oldest = new(int64(1)), new(metav1.NewTime(w.clock.Now().Add(-time.Minute)))
	if err := plane.Client.Status().Update(t.Context(), source); err != nil {
		t.Fatal(err)
	}
	w.restart()
	w.reconcile()
	w.expect("older than the oldest event")
	w.expectNotice("ChangesSkipped 1 changes")
	w.make("r2", "create", 2)
	w.pass(lag + interval)
	w.expect("newer than this leader", "created 2")
}

func TestRestoredBackup(t *testing.T) {
	w := newWorld(t, nil)
	for i := range 5 {
		w.make(fmt.Sprint("r", i), "create", i+1)
	}
	w.jump(time.Second)
	w.reconcile()
	w.pass(3 * interval)
	w.netbox.mu.Lock()
	w.netbox.rows = w.netbox.rows[:2]
	w.netbox.mu.Unlock()
	w.make("new", "update", 1)
	w.pass(interval)
	w.expectNotice("ChangeLogReset the change log ends at row 3, and was read up to 5")
	w.pass(lag + interval)
	w.expect("the change after the restore", "updated 1")
	if len(w.recorder.Events) > 1 {
		t.Errorf("it is reported again: %d", len(w.recorder.Events))
	}
}

// TestObjects: objects that are gone, or that the token may not read, are taken from the log.
func TestObjects(t *testing.T) {
	w := newWorld(t, nil)
	w.reconcile()
	w.make("r1", "create", 1)
	w.jump(time.Millisecond)
	w.make("r2", "delete", 1)
	w.jump(time.Millisecond)
	lan := row{
		at: w.clock.Now(), request: "r3", action: "create", objectType: "wireless.wirelesslan", objectID: 7,
		postchange: map[string]any{"ssid": "x", "auth_psk": "secret", "custom_fields": map[string]any{"n": "1"}},
	}
	w.jump(time.Millisecond)
	hidden := w.siteRow("r4", "update", 9)
	unsent := w.siteRow("r5", "update", 3)
	unsent.objectType = "dcim.portmapping"
	w.netbox.log(lan, hidden, unsent)
	w.netbox.failing(answers("/wireless-lans/", http.StatusForbidden, "application/json", `{"detail":"You do not have permission to perform this action."}`))
	w.pass(lag + interval)
	w.expect("all of them", "created 1", "deleted 1", "created 7", "updated 9")
	for _, event := range w.stored() {
		spec := event.Spec
		if spec.Delivery.DataReadAt != nil || spec.ObjectURL == "" || string(spec.Data["id"].Raw) != spec.ObjectID || spec.ObjectName != "Object "+spec.ObjectID {
			t.Errorf("%s: dataReadAt %v, url %s, data %v", event.Name, spec.Delivery.DataReadAt, spec.ObjectURL, spec.Data)
		}
		if spec.ObjectID == "7" && (string(spec.Data["auth_psk"].Raw) != `"[redacted]"` || len(spec.Delivery.Redacted) != 2) {
			t.Errorf("%s: redacted are %v of %s", event.Name, spec.Delivery.Redacted, spec.Data)
		}
	}
	w.expectCondition("ChangeLogRead", "True UpToDate", "the token lacks the permission view on the objects of /api/wireless/wireless-lans/")
	w.expectCondition("ChangeLogRead", "True UpToDate", "the data of dcim.site are taken from the change log")
}

// TestManyRows: the rows of a request are on several pages, its last ones change what was created.
func TestManyRows(t *testing.T) {
	const objects = 600
	w := newWorld(t, func(s *v1alpha1.NetBoxSource) { s.Spec.Accept = &v1alpha1.Filter{CEL: `data.id % 100 == 0`} })
	w.reconcile()
	var rows []row
	for _, action := range []string{"create", "update"} {
		for i := range objects {
			r := w.siteRow("bulk", action, i+1)
			if action == "update" {
				r.postchange = map[string]any{"status": "last"}
			}
			rows = append(rows, r)
		}
	}
	w.netbox.mu.Lock()
	for i := range rows {
		rows[i].id = i + 1
	}
	w.netbox.rows = rows
	w.netbox.mu.Unlock()
	w.pass(lag + interval)
	stored := w.stored()
	if len(stored) != objects/100 {
		t.Fatalf("%d events", len(stored))
	}
	for _, event := range stored {
		if event.Spec.Event != "created" || !strings.Contains(string(event.Spec.Snapshots["postchange"].Raw), "last") ||
			string(event.Spec.Snapshots["prechange"].Raw) != "null" {
			t.Errorf("%s: %s", event.Name, event.Spec.Snapshots)
		}
	}
	w.pass(late)
	if cursor := w.source().Status.NetBox.Cursor; cursor != 2*objects {
		t.Errorf("the cursor is at %d", cursor)
	}
}

// TestLargeRows: the rows of a change are further apart than what is kept in memory.
func TestLargeRows(t *testing.T) {
	w := newWorld(t, func(s *v1alpha1.NetBoxSource) { s.Spec.Accept = &v1alpha1.Filter{CEL: `data.id == 1`} })
	w.reconcile()
	w.netbox.pageRows = 10
	w.netbox.log(w.siteRow("bulk", "create", 1))
	for i := range 35 {
		r := w.siteRow("bulk", "update", i+2)
		r.postchange["comments"] = strings.Repeat("x", 600_000)
		w.netbox.log(r)
	}
	last := w.siteRow("bulk", "update", 1)
	last.postchange = map[string]any{"status": "last"}
	w.netbox.log(last)
	w.pass(lag + interval)
	w.expect("one is accepted", "created 1")
	if after := string(w.stored()[0].Spec.Snapshots["postchange"].Raw); !strings.Contains(after, "last") {
		t.Errorf("the last row is not seen: %.200s", after)
	}
	w.expectCondition("ChangeLogRead", "True UpToDate", "")
}

func TestErrors(t *testing.T) {
	w := newWorld(t, nil)
	w.reconcile()
	w.make("r1", "create", 1)
	for name, test := range map[string]struct {
		fail            func(http.ResponseWriter, *http.Request) bool
		reason, message string
	}{
		"forbidden": {
			answers("object-changes", http.StatusForbidden, "application/json", `{"detail":"You do not have permission to perform this action."}`),
			"PermissionMissing", "view on core.objectchange",
		},
		"token":   {answers("/", http.StatusForbidden, "application/json", `{"detail":"Invalid v1 token"}`), "TokenRefused", "tokenSecretRef"},
		"gateway": {answers("/", http.StatusBadGateway, "text/html", "<html>"), "Unreachable", "502"},
		"login":   {answers("/", http.StatusOK, "text/html", "<html>"), "Unreachable", "instead of JSON"},
		"cut":     {answers("object-changes", http.StatusOK, "application/json", `{"results":[`), "Unreachable", "JSON"},
	} {
		w.netbox.failing(test.fail)
		w.netbox.asked()
		w.pass(10 * time.Minute)
		w.expectCondition("ChangeLogRead", "False "+test.reason, test.message)
		if asked := len(w.netbox.asked()); asked > 10 {
			t.Errorf("%s: %d requests in 10 minutes", name, asked)
		}
		w.netbox.failing(nil)
		w.jump(5 * time.Minute)
		w.reconcile()
		w.expectCondition("ChangeLogRead", "True UpToDate", "")
	}
	w.expect("nothing is lost", "created 1")

	w.netbox.failing(func(rw http.ResponseWriter, _ *http.Request) bool {
		rw.Header().Set("Retry-After", "1200")
		rw.WriteHeader(http.StatusServiceUnavailable)
		return true
	})
	w.pass(interval)
	w.netbox.asked()
	w.pass(19 * time.Minute)
	if asked := w.netbox.asked(); len(asked) > 0 {
		t.Errorf("Retry-After is not honoured: %q", asked)
	}
}

func TestSuspended(t *testing.T) {
	w := newWorld(t, nil)
	w.reconcile()
	w.change(func(s *v1alpha1.NetBoxSource) { s.Spec.Suspend = true })
	w.make("r1", "create", 1)
	w.pass(late)
	w.expectCondition("ChangeLogRead", "False Suspended", "")
	w.expect("while suspended")
	w.change(func(s *v1alpha1.NetBoxSource) { s.Spec.Suspend = false })
	w.expect("when resumed", "created 1")
	w.expectCondition("Receiving", "Unknown NothingLogged", "")
	w.change(func(s *v1alpha1.NetBoxSource) { s.Spec.NetBox.Backfill = nil })
	if status := w.source().Status; status.NetBox.Cursor != 0 || meta.FindStatusCondition(status.Conditions, "ChangeLogRead") != nil {
		t.Errorf("without backfill: %+v", status)
	}
}

// TestCongested: live deliveries go first.
func TestCongested(t *testing.T) {
	w := newWorld(t, func(s *v1alpha1.NetBoxSource) { s.Spec.MaxPending = 10 })
	w.reconcile()
	w.make("r1", "create", 1)
	w.pending = 6
	w.pass(lag + interval)
	w.expect("while events wait")
	w.expectCondition("ChangeLogRead", "True CatchingUp", "pausing")
	w.pending = 5
	w.pass(5 * time.Second)
	w.expect("when they are fewer", "created 1")
	w.expectCondition("ChangeLogRead", "True UpToDate", "")
}

func TestPhantoms(t *testing.T) {
	w := newWorld(t, nil)
	w.reconcile()
	known := w.siteRow("r1", "update", 1)
	w.netbox.log(known)
	w.webhook(known)
	w.webhook(w.siteRow("rolled-back", "update", 2))
	w.pass(lag - time.Second)
	if phantoms := w.source().Status.NetBox.Phantoms; phantoms != 0 {
		t.Errorf("%d phantoms within the lag", phantoms)
	}
	w.pass(interval)
	for _, event := range w.stored() {
		if want := event.Spec.ObjectID == "2"; metav1.HasLabel(event.ObjectMeta, v1alpha1.LabelPhantom) != want {
			t.Errorf("%s: labels %v", event.Name, event.Labels)
		}
	}
	w.expectNotice("PhantomEvents 1 events")
	w.pass(late)
	w.restart()
	for _, event := range w.stored() {
		w.log.Received(&event)
	}
	w.pass(late)
	if phantoms := w.source().Status.NetBox.Phantoms; phantoms != 1 {
		t.Errorf("%d phantoms, want 1", phantoms)
	}
}

// TestDiagnosis: the condition Receiving says what was found about the webhook that the operator keeps.
func TestDiagnosis(t *testing.T) {
	w := newWorld(t, func(s *v1alpha1.NetBoxSource) {
		s.Spec.NetBox.Webhook = &v1alpha1.ManagedWebhook{URL: "https://receiver.example/webhook", ObjectTypes: []string{"dcim.site"}}
	})
	source := w.source()
	source.Status.NetBox = &v1alpha1.NetBoxAPIStatus{WebhookID: 14, EventRuleID: 9}
	if err := plane.Client.Status().Update(t.Context(), source); err != nil {
		t.Fatal(err)
	}
	w.netbox.set("/api/extras/webhooks/14/", map[string]any{"id": 14, "name": "w", "payload_url": "https://user:secret@elsewhere.example/x"})
	w.netbox.set("/api/extras/event-rules/9/", map[string]any{
		"id": 9, "name": "w", "enabled": false, "action_type": map[string]any{"value": "webhook"}, "action_object_type": "extras.webhook", "action_object_id": 14,
	})
	w.reconcile()
	w.make("r1", "create", 1)
	w.pass(lag + interval)
	w.expectCondition("Receiving", "False NothingArrives", "the webhook sends to https://elsewhere.example instead of spec.netbox.webhook.url; "+
		"the event rule 9 is disabled")
	w.netbox.asked()
	w.pass(3 * interval)
	if asked := w.netbox.asked(); slices.ContainsFunc(asked, func(uri string) bool { return strings.Contains(uri, "webhooks") }) {
		t.Errorf("NetBox is asked at each reading: %q", asked)
	}
	w.netbox.set("/api/extras/event-rules/9/", nil)
	source = w.source() // the set-up has put something right
	meta.SetStatusCondition(&source.Status.Conditions, metav1.Condition{
		Type: v1alpha1.ConditionWebhookConfigured, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonConfigured, Message: "put right",
	})
	if err := plane.Client.Status().Update(t.Context(), source); err != nil {
		t.Fatal(err)
	}
	w.pass(interval)
	w.expectCondition("Receiving", "False NothingArrives", "the event rule 9 is gone from NetBox")
}
