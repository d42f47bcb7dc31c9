package cli

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/delivery"
	"github.com/netbox-events/netbox-event-operator/internal/eventspec"
	"github.com/netbox-events/netbox-event-operator/internal/eventstore"
	"github.com/netbox-events/netbox-event-operator/internal/netbox"
	"github.com/netbox-events/netbox-event-operator/test/deliveries"
)

var update = flag.Bool("update", false, "write the files in testdata, which docs/cli.md shows")

// received is when the first event of a test was received, and now is the time of the plugin.
var (
	received = time.Date(2026, 11, 23, 19, 0, 0, 0, time.UTC)
	now      = received.Add(12 * time.Minute)
)

// session is a user at a terminal.
type session struct {
	kubeconfig string
	namespace  string
	user       string // who is impersonated, "" for an administrator
	clock      *clocktesting.FakeClock
	in         string
}

func newSession(t *testing.T, namespace string) *session {
	t.Helper()
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(file, plane().Kubeconfig(), 0o600); err != nil {
		t.Fatal(err)
	}
	return &session{kubeconfig: file, namespace: namespace, clock: clocktesting.NewFakeClock(now)}
}

// output is what a command printed, and its exit code.
type output struct {
	out, err string
	code     int
}

func (s *session) run(t *testing.T, args ...string) output {
	t.Helper()
	var out, problems bytes.Buffer
	p := newPlugin(genericiooptions.IOStreams{In: strings.NewReader(s.in), Out: &out, ErrOut: &problems})
	p.clock = s.clock
	args = append(args, "--kubeconfig="+s.kubeconfig, "--namespace="+s.namespace)
	if s.user != "" {
		args = append(args, "--as="+s.user)
	}
	code := p.run(t.Context(), args)
	return output{out.String(), problems.String(), code}
}

// shows compares the output of a command with a file in testdata. The file begins with the command.
func (s *session) shows(t *testing.T, file string, code int, args ...string) {
	t.Helper()
	got := s.run(t, args...)
	if got.code != code {
		t.Errorf("%s: exit code %d, want %d: %s", file, got.code, code, got.err)
	}
	golden(t, file, "$ kubectl netbox "+strings.Join(args, " ")+"\n"+got.out+got.err)
}

// golden compares a text with a file in testdata, and with the block of docs/cli.md that has the name of the file, if there is one.
func golden(t *testing.T, file, got string) {
	t.Helper()
	inPage := regexp.MustCompile("(?s)(```text " + regexp.QuoteMeta(file) + "\n)(.*?)(```\n)")
	const page = "../../docs/cli.md"
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join("testdata", file)
	if *update {
		text = inPage.ReplaceAllFunc(text, func(found []byte) []byte {
			parts := inPage.FindSubmatch(found)
			return slices.Concat(parts[1], []byte(got), parts[3])
		})
		if err := errors.Join(os.WriteFile(name, []byte(got), 0o644), os.WriteFile(page, text, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got; go test ./internal/cli -update writes it, and docs/cli.md):\n%s", file, diff)
	}
	if shown := inPage.FindSubmatch(text); shown == nil || string(shown[2]) != string(want) {
		t.Errorf("docs/cli.md does not show %s; go test ./internal/cli -update writes it into the block of this name", file)
	}
}

// contains fails unless a text has all of some parts.
func contains(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%q is not in\n%s", part, text)
		}
	}
}

var recorded = sync.OnceValues(deliveries.All)

// decode decodes a recorded delivery.
func decode(t *testing.T, name string) (*netbox.Event, int) {
	t.Helper()
	all, err := recorded()
	if err != nil {
		t.Fatal(err)
	}
	at := slices.IndexFunc(all, func(delivery deliveries.Delivery) bool { return delivery.String() == name })
	if at < 0 {
		t.Fatalf("there is no delivery %s", name)
	}
	event, err := netbox.Decode([]byte(all[at].Body), deliveries.Redact)
	if err != nil {
		t.Fatal(err)
	}
	return event, len(all[at].Body)
}

// receive stores a recorded delivery to the source netbox, as the receiver does, at a time after received. The source's UID is constant, and so is
// the name of the event.
func receive(t *testing.T, namespace, name string, after time.Duration) *v1alpha1.NetBoxEvent {
	t.Helper()
	decoded, size := decode(t, name)
	decoded.Timestamp = received.Add(after - 200*time.Millisecond)
	event := eventspec.New(decoded, eventspec.Delivery{
		Source:    &v1alpha1.NetBoxSource{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "netbox", UID: "1"}},
		Key:       "secret",
		BodyBytes: size, ReceivedAt: received.Add(after), Origin: v1alpha1.OriginWebhook,
	})
	store := newStore(t)
	if err := store.Create(t.Context(), event); err != nil {
		t.Fatal(err)
	}
	stored, err := store.Get(t.Context(), namespace, event.Name)
	if err != nil {
		t.Fatal(err)
	}
	return stored
}

func newStore(t *testing.T) *eventstore.Store {
	t.Helper()
	store, err := eventstore.New(plane().Config, plane().Client.Scheme())
	if err != nil {
		t.Fatal(err)
	}
	return store
}

// deliver writes the status of an event that matched rules a second after it was received. The function changes it before it is summarized.
func deliver(t *testing.T, event *v1alpha1.NetBoxEvent, rules []*v1alpha1.NetBoxEventRule, change func(*v1alpha1.NetBoxEventStatus)) {
	t.Helper()
	var matched []v1alpha1.RuleStatus
	for _, rule := range rules {
		matched = append(matched, delivery.NewRuleStatus(rule))
	}
	at := event.Spec.Delivery.ReceivedAt.Add(time.Second)
	status := delivery.NewStatus(matched, nil, delivery.Replay{}, at)
	if change != nil {
		change(status)
	}
	for i := range status.Rules {
		status.Rules[i].State = delivery.RuleState(status.Rules[i].Actions)
	}
	delivery.Summarize(status, event.Generation, at.Add(time.Second))
	version := eventstore.Version{Namespace: event.Namespace, Name: event.Name, UID: event.UID, ResourceVersion: event.ResourceVersion}
	if _, err := newStore(t).UpdateStatus(t.Context(), version, status); err != nil {
		t.Fatal(err)
	}
}

// attempt records an attempt at an action.
func attempt(status *v1alpha1.NetBoxEventStatus, rule, action int, outcome delivery.Outcome, after time.Duration) {
	retry := &v1alpha1.Retry{Backoff: metav1.Duration{Duration: 10 * time.Minute}, MaxBackoff: metav1.Duration{Duration: time.Hour}}
	start := status.StartTime.Time
	delivery.RecordAttempt(&status.Rules[rule].Actions[action], outcome, retry, start.Add(24*time.Hour), start.Add(after))
}

// newRule makes a rule of its spec in YAML.
func newRule(t *testing.T, namespace, name, spec string) *v1alpha1.NetBoxEventRule {
	t.Helper()
	made := &v1alpha1.NetBoxEventRule{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	if err := yaml.UnmarshalStrict([]byte(spec), &made.Spec); err != nil {
		t.Fatal(err)
	}
	plane().Create(t, made)
	return made
}

// namespace makes a namespace with a fixed name, for outputs that show it.
func namespace(t *testing.T, name string) string {
	t.Helper()
	plane().Create(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
	return name
}

// errNotFound is the error of an attempt that fails permanently.
var errNotFound = errors.New("answered with 404 Not Found")

// errUnavailable is the error of an attempt that is retried.
var errUnavailable = errors.New("answered with 503 Service Unavailable")

func keyOf(namespace, name string) client.ObjectKey {
	return client.ObjectKey{Namespace: namespace, Name: name}
}
