package event_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/action"
	"github.com/netbox-events/netbox-event-operator/internal/eventstore"
	"github.com/netbox-events/netbox-event-operator/test/controlplane"
)

// newRule is a rule with one action that does nothing by itself: what it does is up to the test's doFunc.
func newRule(namespace, name string, change ...func(*v1alpha1.NetBoxEventRuleSpec)) *v1alpha1.NetBoxEventRule {
	made := &v1alpha1.NetBoxEventRule{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	made.Spec.Actions = []v1alpha1.Action{logAction("act")}
	made.Spec.Retry = v1alpha1.Retry{Backoff: metav1.Duration{Duration: 100 * time.Millisecond}, Timeout: metav1.Duration{Duration: 10 * time.Second}}
	for _, change := range change {
		change(&made.Spec)
	}
	return made
}

func logAction(name string) v1alpha1.Action {
	return v1alpha1.Action{Name: name, Log: &v1alpha1.LogAction{Message: "x"}}
}

func maxAttempts(n int32) func(*v1alpha1.NetBoxEventRuleSpec) {
	return func(spec *v1alpha1.NetBoxEventRuleSpec) { spec.Retry.MaxAttempts = n }
}

// sink takes note of what it is given.
type sink struct {
	mu    sync.Mutex
	tried map[string]int      // attempts, by rule/action event
	good  map[string][]string // names of events that were taken, by rule
	fail  func(task action.Task, attempt int) error
}

func newSink(fail func(task action.Task, attempt int) error) *sink {
	return &sink{tried: map[string]int{}, good: map[string][]string{}, fail: fail}
}

func (s *sink) do(ctx context.Context, task action.Task) (string, error) {
	entry := task.Rule.Name + "/" + task.Action.Spec.Name + " " + task.Event.Name
	s.mu.Lock()
	s.tried[entry]++
	attempt := s.tried[entry]
	s.mu.Unlock()
	if err := s.fail(task, attempt); err != nil {
		return "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.good[task.Rule.Name] = append(s.good[task.Rule.Name], task.Event.Name)
	return "taken", ctx.Err()
}

func (s *sink) attempts(entry string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tried[entry]
}

func (s *sink) taken(rule string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.good[rule])
}

func get(t *testing.T, namespace, name string) *v1alpha1.NetBoxEvent {
	t.Helper()
	var event v1alpha1.NetBoxEvent
	if err := plane.Client.Get(t.Context(), types.NamespacedName{Namespace: namespace, Name: name}, &event); err != nil {
		t.Fatal(err)
	}
	return &event
}

func eventually(t *testing.T, message string, within time.Duration, done func() bool) {
	t.Helper()
	for end := time.Now().Add(within); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(message)
		}
	}
}

func hasPhase(t *testing.T, namespace, name string, phase v1alpha1.Phase) func() bool {
	t.Helper()
	return func() bool { return get(t, namespace, name).Status.Phase == phase }
}

// summary is a status without what differs each time.
func summary(event *v1alpha1.NetBoxEvent) []string {
	lines := []string{string(event.Status.Phase)}
	for _, condition := range event.Status.Conditions {
		lines = append(lines, fmt.Sprintf("%s=%s %s: %s", condition.Type, condition.Status, condition.Reason, condition.Message))
	}
	slices.Sort(lines[1:])
	for _, rule := range event.Status.Rules {
		lines = append(lines, fmt.Sprintf("rule %s %s", rule.Name, rule.State))
		for _, action := range rule.Actions {
			lines = append(lines, fmt.Sprintf("action %s %s attempts=%d error=%q response=%q next=%t",
				action.Name, action.State, action.Attempts, action.LastError, action.Response, action.NextAttemptTime != nil))
		}
	}
	return lines
}

func TestStatus(t *testing.T) {
	namespace := plane.Namespace(t)
	failing := map[string]error{
		"final":   &action.Failure{Err: errors.New("answered with 400 Bad Request"), Permanent: true},
		"forever": errors.New("answered with 503 Service Unavailable"),
	}
	tests := map[string]*v1alpha1.NetBoxEventRule{
		"good": newRule(namespace, "good", func(spec *v1alpha1.NetBoxEventRuleSpec) {
			spec.Match.ObjectTypes, spec.Actions = []string{"dcim.*"}, []v1alpha1.Action{logAction("one"), logAction("two")}
		}),
		"failing": newRule(namespace, "failing", maxAttempts(2), func(spec *v1alpha1.NetBoxEventRuleSpec) {
			spec.Actions = []v1alpha1.Action{logAction("final"), logAction("forever"), logAction("fine")}
		}),
		"other":   newRule(namespace, "other", func(spec *v1alpha1.NetBoxEventRuleSpec) { spec.Match.Sources = []string{"another"} }),
		"lacking": newRule(namespace, "lacking", func(spec *v1alpha1.NetBoxEventRuleSpec) { spec.Match.CEL = `data.role.slug == "leaf"` }),
		"broken":  newRule(namespace, "broken", func(spec *v1alpha1.NetBoxEventRuleSpec) { spec.Match.CEL = `evnt.objectType == ""` }),
	}
	for _, made := range tests {
		plane.Create(t, made)
	}
	sink := newSink(func(task action.Task, _ int) error { return failing[task.Action.Spec.Name] })
	logged, _ := startWith(t, plane.Config, namespace, 0, sink.do)
	plane.Create(t, newEvent(namespace, 1, 0))
	name := newEvent(namespace, 1, 0).Name
	eventually(t, "the event is not given up", 20*time.Second, hasPhase(t, namespace, name, v1alpha1.PhaseFailed))
	want := []string{
		"Failed",
		`Matched=True ExpressionError: rule lacking does not match: data.role: no such key; data has id in "data.role.slug == \"leaf\""`,
		"Succeeded=False DeliveryFailed: rule failing, action final failed permanently after attempt 1: answered with 400 Bad Request; " +
			"fix the cause, and annotate the event with netbox-events.io/replay=<any new value>",
		"rule failing Failed",
		`action final Failed attempts=1 error="answered with 400 Bad Request" response="" next=false`,
		`action forever Failed attempts=2 error="answered with 503 Service Unavailable" response="" next=false`,
		`action fine Succeeded attempts=1 error="" response="taken" next=false`,
		"rule good Succeeded",
		`action one Succeeded attempts=1 error="" response="taken" next=false`,
		`action two Succeeded attempts=1 error="" response="taken" next=false`,
	}
	if diff := cmp.Diff(want, summary(get(t, namespace, name))); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}

	counted := counts(t, logged.metrics)
	for name, want := range map[string]float64{
		"netbox_events_deliveries_total " + namespace + "/failing final failed":        1,
		"netbox_events_deliveries_total " + namespace + "/failing forever failed":      1,
		"netbox_events_deliveries_total " + namespace + "/failing forever retried":     1,
		"netbox_events_deliveries_total " + namespace + "/failing fine succeeded":      1,
		"netbox_events_deliveries_total " + namespace + "/good one succeeded":          1,
		"netbox_events_rule_expression_errors_total " + namespace + "/lacking":         1,
		"netbox_events_finished_since_change_seconds Failed " + namespace + "/netbox":  1,
		"netbox_events_finished_since_receipt_seconds Failed " + namespace + "/netbox": 1,
	} {
		if counted[name] != want {
			t.Errorf("%s is %g, want %g, of %v", name, counted[name], want, counted)
		}
	}

	// What the rules say of it.
	rules := map[string]v1alpha1.NetBoxEventRuleStatus{}
	eventually(t, "the rules have no counts", 20*time.Second, func() bool {
		var list v1alpha1.NetBoxEventRuleList
		if err := plane.Client.List(t.Context(), &list, client.InNamespace(namespace)); err != nil {
			t.Fatal(err)
		}
		for _, rule := range list.Items {
			rules[rule.Name] = rule.Status
			if len(rule.Status.Conditions) == 0 {
				return false
			}
		}
		return rules["failing"].Failed > 0 && rules["good"].Matched > 0 && rules["lacking"].ExpressionErrors > 0
	})
	got := map[string]string{}
	for name, status := range rules {
		condition := status.Conditions[0]
		got[name] = fmt.Sprintf("%s %d/%d/%d %s", condition.Status, status.Matched, status.Failed, status.ExpressionErrors,
			condition.Message+status.LastExpressionError)
	}
	accepted := "events are matched against the rule"
	wantRules := map[string]string{
		"good":    "True 1/0/0 " + accepted,
		"failing": "True 1/1/0 " + accepted,
		"other":   "True 0/0/0 " + accepted + `; but spec.match.sources: there is no NetBoxSource "another" in namespace "` + namespace + `"`,
		"lacking": "True 0/0/1 " + accepted + name + `: data.role: no such key; data has id in "data.role.slug == \"leaf\""`,
		"broken":  "False 0/0/0 spec.match.cel: 1:1: undeclared reference to 'evnt' (in container '')",
	}
	if diff := cmp.Diff(wantRules, got); diff != "" {
		t.Errorf("rules (-want +got):\n%s", diff)
	}
}

// counts returns the values of metrics, and how often a histogram was observed, by name and labels.
func counts(t *testing.T, metrics prometheus.Gatherer) map[string]float64 {
	t.Helper()
	families, err := metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			labels := map[string]string{}
			for _, label := range metric.GetLabel() {
				labels[label.GetName()] = label.GetValue()
			}
			name := strings.Join(strings.Fields(fmt.Sprintf("%s %s %s %s %s %s", family.GetName(),
				labels["rule"], labels["action"], labels["result"], labels["phase"], labels["source"])), " ")
			values[name] = metric.GetCounter().GetValue() + metric.GetGauge().GetValue() + float64(metric.GetHistogram().GetSampleCount())
		}
	}
	return values
}

// TestOrder has 16 senders make 200 updates of one object and 200 of others, for a rule whose sink fails a third of its calls, beside one
// whose sink is down for good and one whose sink hangs.
func TestOrder(t *testing.T) {
	namespace := plane.Namespace(t)
	plane.Create(t,
		newRule(namespace, "flaky", maxAttempts(1000), func(spec *v1alpha1.NetBoxEventRuleSpec) { spec.Retry.MaxBackoff.Duration = 200 * time.Millisecond }),
		newRule(namespace, "down", maxAttempts(1000)),
		newRule(namespace, "hangs", maxAttempts(1000), func(spec *v1alpha1.NetBoxEventRuleSpec) { spec.Retry.Timeout.Duration = time.Minute }))
	done := make(chan struct{})
	defer close(done)
	sink := newSink(func(task action.Task, attempt int) error {
		switch {
		case task.Rule.Name == "down":
			return errors.New("connection refused")
		case task.Rule.Name == "hangs":
			<-done
			return errors.New("the test is over")
		case (len(task.Event.Name)+int(task.Event.Spec.Timestamp.Unix())+attempt)%3 == 0:
			return errors.New("answered with 500")
		}
		return nil
	})
	startWith(t, plane.Config, namespace, 0, sink.do)
	const updates, senders = 200, 16
	type span struct{ from, to time.Time }
	var mu sync.Mutex
	creations := map[string]span{}
	numbers := make(chan int)
	var all sync.WaitGroup
	for range senders {
		all.Go(func() {
			for n := range numbers {
				for _, object := range []int{0, 1 + n%20} {
					event := newEvent(namespace, object, n%60)
					event.Name = fmt.Sprintf("o%d-%03d", object, n)
					event.Spec.Timestamp = metav1.NewMicroTime(event.Spec.Timestamp.Add(time.Duration(n/60) * time.Minute))
					from := time.Now()
					if err := plane.Client.Create(t.Context(), event); err != nil {
						t.Error(err)
					}
					mu.Lock()
					creations[event.Name] = span{from, time.Now()}
					mu.Unlock()
				}
			}
		})
	}
	for n := range updates {
		numbers <- n
	}
	close(numbers)
	all.Wait()
	eventually(t, "not every event was delivered", 60*time.Second, func() bool { return len(sink.taken("flaky")) >= 2*updates })
	delivered := map[string][]string{}
	for _, name := range sink.taken("flaky") {
		object, _, _ := strings.Cut(name, "-")
		for _, before := range delivered[object] {
			// An event that was not there yet when the next began to be stored cannot have been waited for.
			if before == name || before > name && creations[name].to.Before(creations[before].from) {
				t.Errorf("%s was delivered after %s", name, before)
			}
		}
		delivered[object] = append(delivered[object], name)
	}
	if got := len(slices.Concat(slices.Collect(maps.Values(delivered))...)); got != 2*updates {
		t.Errorf("%d events were delivered, want %d", got, 2*updates)
	}
}

// TestLate has an event come while a later one of its object is delivered: it waits for that, and is delivered late.
func TestLate(t *testing.T) {
	namespace := plane.Namespace(t)
	plane.Create(t, newRule(namespace, "rule"))
	late, running, other := newEvent(namespace, 1, 0).Name, newEvent(namespace, 1, 1).Name, newEvent(namespace, 2, 0).Name
	goOn := make(chan struct{})
	sink := newSink(func(task action.Task, _ int) error {
		if task.Event.Name == running {
			<-goOn
		}
		return nil
	})
	startWith(t, plane.Config, namespace, 0, sink.do)
	plane.Create(t, newEvent(namespace, 1, 1))
	eventually(t, "not begun", 10*time.Second, func() bool { return sink.attempts("rule/act "+running) == 1 })
	plane.Create(t, newEvent(namespace, 1, 0), newEvent(namespace, 2, 0))
	eventually(t, "another object waits", 10*time.Second, hasPhase(t, namespace, other, v1alpha1.PhaseSucceeded))
	if sink.attempts("rule/act "+late) != 0 {
		t.Error("two events of one object are delivered at once")
	}
	close(goOn)
	eventually(t, "the late event waits", 10*time.Second, hasPhase(t, namespace, late, v1alpha1.PhaseSucceeded))
	if diff := cmp.Diff([]string{other, running, late}, sink.taken("rule")); diff != "" {
		t.Errorf("deliveries (-want +got):\n%s", diff)
	}
}

// TestOrderOfWhatIsThere delivers what waits when the operator starts: strictly in order for each object, but for a rule without order.
func TestOrderOfWhatIsThere(t *testing.T) {
	namespace := plane.Namespace(t)
	plane.Create(t,
		newRule(namespace, "ordered"),
		newRule(namespace, "any", func(spec *v1alpha1.NetBoxEventRuleSpec) { spec.Order = v1alpha1.OrderNone }))
	const objects, seconds = 5, 20
	for second := seconds - 1; second >= 0; second-- {
		for object := range objects {
			plane.Create(t, newEvent(namespace, object, second))
		}
	}
	// The first event of object 0 is given up at its second attempt, which releases those behind it; the others are not held.
	stuck := newEvent(namespace, 0, 0).Name
	sink := newSink(func(task action.Task, attempt int) error {
		if task.Event.Name == stuck {
			if attempt == 2 {
				return &action.Failure{Err: errors.New("no"), Permanent: true}
			}
			return &action.Failure{Err: errors.New("later"), RetryAfter: 2 * time.Second}
		}
		return nil
	})
	startWith(t, plane.Config, namespace, 0, sink.do)
	eventually(t, "the other objects are held", 1500*time.Millisecond+10*time.Second, func() bool {
		return len(sink.taken("ordered")) == (objects-1)*seconds && len(sink.taken("any")) == objects*seconds-1
	})
	if n := sink.attempts("ordered/act " + newEvent(namespace, 0, 1).Name); n != 0 {
		t.Error("an event overtook one that is tried again")
	}
	eventually(t, "what was held is not released", 10*time.Second, func() bool { return len(sink.taken("ordered")) == objects*seconds-1 })
	got, want := map[string][]string{}, map[string][]string{}
	for _, name := range sink.taken("ordered") {
		object := strings.SplitAfterN(name, "-", 3)[1]
		got[object] = append(got[object], name)
	}
	for object := range objects {
		for second := range seconds {
			if name := newEvent(namespace, object, second).Name; name != stuck {
				key := fmt.Sprintf("%d-", object)
				want[key] = append(want[key], name)
			}
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("deliveries of each object (-want +got):\n%s", diff)
	}
}

// TestRestart stops the controller while deliveries wait for their next attempt.
func TestRestart(t *testing.T) {
	namespace := plane.Namespace(t)
	plane.Create(t, newRule(namespace, "rule", func(spec *v1alpha1.NetBoxEventRuleSpec) {
		spec.Actions = []v1alpha1.Action{logAction("fails"), logAction("works")}
		spec.Actions[0].Log.Message = "${now}"
	}))
	var mu sync.Mutex
	said := map[string]bool{} // messages
	say := func(task action.Task) {
		message, err := task.Action.Message.Message(t.Context(), task.Input)
		if err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		said[message] = true
	}
	down := newSink(func(task action.Task, _ int) error {
		say(task)
		if task.Action.Spec.Name == "fails" {
			return errors.New("down")
		}
		return nil
	})
	_, stop := startWith(t, plane.Config, namespace, 0, down.do)
	plane.Create(t, newEvent(namespace, 1, 0))
	name := newEvent(namespace, 1, 0).Name
	attempts := func() int32 {
		event := get(t, namespace, name)
		if len(event.Status.Rules) == 0 {
			return 0
		}
		return event.Status.Rules[0].Actions[0].Attempts
	}
	eventually(t, "two attempts are not written down", 10*time.Second, func() bool { return attempts() >= 2 })
	stop()
	before := attempts()
	// A rule that comes later has no part in an event that is decided.
	plane.Create(t, newRule(namespace, "late"))
	up := newSink(func(task action.Task, _ int) error {
		say(task)
		return nil
	})
	startWith(t, plane.Config, namespace, 0, up.do)
	eventually(t, "the event is not done", 10*time.Second, hasPhase(t, namespace, name, v1alpha1.PhaseSucceeded))
	if got := attempts(); got != before+1 {
		t.Errorf("%d attempts after %d before the restart", got, before)
	}
	if got := up.taken("rule"); len(got) != 1 || up.attempts("rule/works "+name) != 0 || len(up.taken("late")) != 0 {
		t.Errorf("done after the restart: %v", up.tried)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(said) != 2 { // and "x"
		t.Errorf("templates said something else after the restart: %v", said)
	}
}

// TestOutageWhileDelivering takes the API server away while 600 events of as many objects are delivered, or wait for their turn to be.
func TestOutageWhileDelivering(t *testing.T) {
	const most = 64 // deliveries after that: twice as many as a rule does at once
	for name, state := range map[string]controlplane.OutageState{
		"it refuses connections": controlplane.Refused,
		"it does not answer":     controlplane.Hung,
	} {
		t.Run(name, func(t *testing.T) {
			namespace := plane.Namespace(t)
			plane.Create(t, newRule(namespace, "rule"))
			const objects, before = 600, 100
			for object := range objects {
				plane.Create(t, newEvent(namespace, object, 0))
			}
			outage, config := plane.NewOutage(t)
			var got atomic.Int32
			startWith(t, config, namespace, 0, func(context.Context, action.Task) (string, error) {
				time.Sleep(200 * time.Millisecond)
				if got.Add(1) == before {
					outage.Set(state)
				}
				return "", nil
			})
			eventually(t, "nothing is delivered", 20*time.Second, func() bool { return got.Load() >= before })
			time.Sleep(4 * time.Second)
			if after := int(got.Load()) - before; after > most {
				t.Errorf("%d events were delivered that could not be written down", after)
			}
			outage.Set(controlplane.Refused) // nobody waits for connections that hung
			outage.Set(controlplane.Up)
			waitDone(t, namespace, objects)
			if got := got.Load(); got != objects {
				t.Errorf("%d deliveries of %d events", got, objects)
			}
		})
	}
}

// TestMended edits a rule, and deletes rules and actions, while deliveries wait.
func TestMended(t *testing.T) {
	namespace := plane.Namespace(t)
	slow := func(spec *v1alpha1.NetBoxEventRuleSpec) {
		spec.Retry.Backoff.Duration, spec.Retry.MaxBackoff.Duration = time.Second, time.Hour
	}
	mended, deleted := newRule(namespace, "mended"), newRule(namespace, "deleted", slow, func(spec *v1alpha1.NetBoxEventRuleSpec) {
		spec.Retry.Backoff.Duration = time.Hour
	})
	shrunk := newRule(namespace, "shrunk", slow, func(spec *v1alpha1.NetBoxEventRuleSpec) {
		spec.Actions = []v1alpha1.Action{logAction("kept"), logAction("dropped")}
	})
	plane.Create(t, mended, deleted, shrunk)
	sink := newSink(func(task action.Task, _ int) error {
		if task.Rule.Generation == 1 && task.Action.Spec.Name != "kept" {
			return errors.New("a wrong URL")
		}
		return nil
	})
	startWith(t, plane.Config, namespace, 0, sink.do)
	plane.Create(t, newEvent(namespace, 1, 0), newEvent(namespace, 1, 1))
	first, second := newEvent(namespace, 1, 0).Name, newEvent(namespace, 1, 1).Name
	eventually(t, "the first attempts are not made", 10*time.Second, func() bool {
		return sink.attempts("deleted/act "+first) == 1 && sink.attempts("shrunk/dropped "+first) == 1
	})
	if err := plane.Client.Delete(t.Context(), deleted); err != nil {
		t.Fatal(err)
	}
	for rule, patch := range map[*v1alpha1.NetBoxEventRule]string{
		shrunk: `[{"op": "remove", "path": "/spec/actions/1"}]`,
		mended: `[{"op": "replace", "path": "/spec/actions/0/log/message", "value": "y"}]`,
	} {
		if err := plane.Client.Patch(t.Context(), rule, client.RawPatch(types.JSONPatchType, []byte(patch))); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{first, second} {
		eventually(t, "not done", 15*time.Second, hasPhase(t, namespace, name, v1alpha1.PhaseSucceeded))
	}
	states := map[string]v1alpha1.DeliveryState{}
	for _, rule := range get(t, namespace, first).Status.Rules {
		for _, action := range rule.Actions {
			states[rule.Name+"/"+action.Name] = action.State
		}
	}
	if diff := cmp.Diff(map[string]v1alpha1.DeliveryState{
		"deleted/act": "Skipped", "mended/act": "Succeeded", "shrunk/kept": "Succeeded", "shrunk/dropped": "Skipped",
	}, states); diff != "" {
		t.Errorf("states (-want +got):\n%s", diff)
	}
}

func annotate(t *testing.T, namespace, name, value string) {
	t.Helper()
	patch := fmt.Appendf(nil, `{"metadata":{"annotations":{"netbox-events.io/replay":%q}}}`, value)
	if value == "" {
		patch = []byte(`{"metadata":{"annotations":null}}`)
	}
	if err := plane.Client.Patch(t.Context(), get(t, namespace, name), client.RawPatch(types.MergePatchType, patch)); err != nil {
		t.Fatal(err)
	}
}

// TestReplayOfWhatRuns annotates an event while it is delivered, and takes the annotation away while it is delivered again: it is done
// twice, and what is behind it waits for both.
func TestReplayOfWhatRuns(t *testing.T) {
	namespace := plane.Namespace(t)
	plane.Create(t, newRule(namespace, "rule"))
	first, second := newEvent(namespace, 1, 0).Name, newEvent(namespace, 1, 1).Name
	goOn := make(chan struct{})
	sink := newSink(func(task action.Task, _ int) error {
		if task.Event.Name == first {
			<-goOn
		}
		return nil
	})
	startWith(t, plane.Config, namespace, 0, sink.do)
	plane.Create(t, newEvent(namespace, 1, 0), newEvent(namespace, 1, 1))
	for n, value := range []string{"1", ""} {
		eventually(t, "not delivered again", 10*time.Second, func() bool { return sink.attempts("rule/act "+first) == n+1 })
		annotate(t, namespace, first, value)
		time.Sleep(300 * time.Millisecond)
		goOn <- struct{}{}
	}
	for _, name := range []string{first, second} {
		eventually(t, "not finished", 10*time.Second, hasPhase(t, namespace, name, v1alpha1.PhaseSucceeded))
	}
	if diff := cmp.Diff([]string{first, first, second}, sink.taken("rule")); diff != "" {
		t.Errorf("deliveries (-want +got):\n%s", diff)
	}
}

// TestSlowAction has the second action of a rule hang: that the first is done is written down meanwhile, and is not done again.
func TestSlowAction(t *testing.T) {
	namespace := plane.Namespace(t)
	plane.Create(t, newRule(namespace, "rule", func(spec *v1alpha1.NetBoxEventRuleSpec) {
		spec.Actions = []v1alpha1.Action{logAction("fast"), logAction("hangs")}
	}))
	_, stop := startWith(t, plane.Config, namespace, 0, func(ctx context.Context, task action.Task) (string, error) {
		if task.Action.Spec.Name == "hangs" {
			<-ctx.Done()
		}
		return "", ctx.Err()
	})
	plane.Create(t, newEvent(namespace, 1, 0))
	name := newEvent(namespace, 1, 0).Name
	eventually(t, "the first action is not written down", 5*time.Second, func() bool {
		rules := get(t, namespace, name).Status.Rules
		return len(rules) == 1 && rules[0].Actions[0].State == v1alpha1.DeliverySucceeded
	})
	stop()
	if got := get(t, namespace, name).Status.Rules[0].Actions[1].Attempts; got != 0 {
		t.Errorf("what was cut off has %d attempts", got)
	}
}

// TestUnwritable has the API server refuse the status of an event for good: those behind it and others are delivered and finished.
func TestUnwritable(t *testing.T) {
	namespace := plane.Namespace(t)
	denied, behind, other := newEvent(namespace, 1, 0), newEvent(namespace, 1, 1), newEvent(namespace, 2, 0)
	plane.Create(t, newRule(namespace, "rule"), denied)
	denyStatus(t, denied)
	sink := newSink(func(action.Task, int) error { return nil })
	startWith(t, plane.Config, namespace, 0, sink.do)
	plane.Create(t, behind, other)
	for _, event := range []*v1alpha1.NetBoxEvent{behind, other} {
		eventually(t, event.Name+" is not finished", 10*time.Second, hasPhase(t, namespace, event.Name, v1alpha1.PhaseSucceeded))
	}
	if got := sink.attempts("rule/act " + denied.Name); got != 1 {
		t.Errorf("what cannot be written down was delivered %d times", got)
	}
}

// TestLongNotes fails with errors that are longer than the note of a Kubernetes Event: it is cut.
func TestLongNotes(t *testing.T) {
	namespace := plane.Namespace(t)
	plane.Create(t, newRule(namespace, "rule"), newEvent(namespace, 1, 0))
	sink := newSink(func(action.Task, int) error {
		return &action.Failure{Err: errors.New(strings.Repeat("é", 1000)), Permanent: true}
	})
	startWith(t, plane.Config, namespace, 0, sink.do)
	eventually(t, "no Kubernetes Event tells of the failure", 10*time.Second, func() bool {
		var recorded eventsv1.EventList
		if err := plane.Client.List(t.Context(), &recorded, client.InNamespace(namespace)); err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(recorded.Items, func(event eventsv1.Event) bool {
			return event.Reason == v1alpha1.ReasonDeliveryFailed && strings.HasSuffix(event.Note, "é…")
		})
	})
}

// TestLarge stores events as large as they may be: each is finished, with as much of its status as there is room for, and holds no other up.
func TestLarge(t *testing.T) {
	namespace := plane.Namespace(t)
	for n := range 40 {
		plane.Create(t, newRule(namespace, fmt.Sprintf("rule-%02d", n), func(spec *v1alpha1.NetBoxEventRuleSpec) {
			spec.Actions = nil
			for n := range 16 {
				spec.Actions = append(spec.Actions, logAction(fmt.Sprintf("a%d", n)))
			}
			if n > 0 {
				spec.Match.Events = []string{"updated"}
			}
		}))
	}
	store, err := eventstore.New(plane.Config, plane.Client.Scheme())
	if err != nil {
		t.Fatal(err)
	}
	// All rules match the first, and one the second. Their numbers take four times as long when they are stored.
	manyRules, oneRule, small := newEvent(namespace, 1, 0), newEvent(namespace, 2, 0), newEvent(namespace, 3, 0)
	manyRules.Spec.Event, oneRule.Spec.Event, small.Spec.Event = "updated", "deleted", "updated"
	createLargest(t, store, manyRules)
	createLargest(t, store, oneRule)
	plane.Create(t, small)
	sink := newSink(func(action.Task, int) error {
		return &action.Failure{Err: errors.New(strings.Repeat("x", 1000)), Permanent: true}
	})
	startWith(t, plane.Config, namespace, 0, sink.do)
	finished := func(of *v1alpha1.NetBoxEvent) v1alpha1.NetBoxEventStatus {
		eventually(t, of.Name+" is not finished", time.Minute, hasPhase(t, namespace, of.Name, v1alpha1.PhaseFailed))
		return get(t, namespace, of.Name).Status
	}
	if status := finished(small); len(status.Rules) != 40 || status.Rules[39].Actions[15].LastError == "" {
		t.Errorf("the small event has the states of %d rules", len(status.Rules))
	}
	if status := finished(oneRule); len(status.Rules) != 1 || len(status.Rules[0].Actions) != 16 || status.Rules[0].State != v1alpha1.DeliveryFailed {
		t.Errorf("the event that one rule matches has the states %v", status.Rules)
	}
	check := func(status v1alpha1.NetBoxEventStatus) {
		t.Helper()
		succeeded := meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionSucceeded)
		if len(status.Rules) > 0 || succeeded == nil || succeeded.Status != metav1.ConditionFalse || succeeded.Reason != v1alpha1.ReasonStatusCut ||
			!strings.HasPrefix(succeeded.Message, "the event is too large to store the states of its 40 rules: rule rule-00, action a0 failed permanently") {
			t.Errorf("the event that 40 rules match has the states of %d rules and %v", len(status.Rules), succeeded)
		}
	}
	check(finished(manyRules))

	// A replay asked for by a long annotation is done once.
	long := strings.Repeat("again ", 4000)
	annotate(t, namespace, manyRules.Name, long)
	isReplayed := func() bool { return sink.attempts("rule-39/a15 "+manyRules.Name) == 2 }
	eventually(t, "not replayed", time.Minute, isReplayed)
	status := finished(manyRules)
	check(status)
	if len(status.Replay) > 64 || !strings.HasPrefix(status.Replay, "again again ") {
		t.Errorf("status.replay is %q", status.Replay)
	}
	annotate(t, namespace, manyRules.Name, long+"and again")
	eventually(t, "not replayed once more", 20*time.Second, func() bool { return sink.attempts("rule-39/a15 "+manyRules.Name) == 3 })
	if again := finished(manyRules); again.Replay == status.Replay {
		t.Errorf("two annotations have one status.replay, %q", again.Replay)
	}
}

// createLargest creates an event that is as large as the store takes, with numbers that take four times as long when they are stored.
func createLargest(t *testing.T, store *eventstore.Store, event *v1alpha1.NetBoxEvent) {
	t.Helper()
	const most = 1_540_096
	create := func(size int) error {
		event.Spec.Data["pad"] = v1alpha1.JSON{Raw: []byte("[" + strings.Repeat("1e+20,", 5000) + strconv.Quote(strings.Repeat("x", size)) + "]")}
		return store.Create(t.Context(), event)
	}
	tooLarge, ok := errors.AsType[*eventstore.TooLargeError](create(most))
	if !ok {
		t.Fatal("an event that is too large is stored")
	}
	if err := create(most - (tooLarge.Bytes - most) + 1); !eventstore.IsTooLarge(err) {
		t.Fatalf("an event that is one byte too large: %v", err)
	}
	if err := create(most - (tooLarge.Bytes - most)); err != nil {
		t.Fatal(err)
	}
}

// denyStatus has the API server refuse every status of an event.
func denyStatus(t *testing.T, event *v1alpha1.NetBoxEvent) {
	t.Helper()
	namespace, name := event.Namespace, event.Name
	policy := &admissionv1.ValidatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: namespace},
		Spec: admissionv1.ValidatingAdmissionPolicySpec{
			MatchConstraints: &admissionv1.MatchResources{ResourceRules: []admissionv1.NamedRuleWithOperations{{
				RuleWithOperations: admissionv1.RuleWithOperations{
					Operations: []admissionv1.OperationType{admissionv1.Update},
					Rule: admissionv1.Rule{
						APIGroups: []string{v1alpha1.SchemeGroupVersion.Group}, APIVersions: []string{"*"}, Resources: []string{"netboxevents/status"},
					},
				},
			}}},
			Validations: []admissionv1.Validation{{
				Expression: fmt.Sprintf("object.metadata.namespace != %q || object.metadata.name != %q", namespace, name),
			}},
		},
	}
	binding := &admissionv1.ValidatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: namespace},
		Spec: admissionv1.ValidatingAdmissionPolicyBindingSpec{
			PolicyName: namespace, ValidationActions: []admissionv1.ValidationAction{admissionv1.Deny},
		},
	}
	plane.Create(t, policy, binding)
	t.Cleanup(func() {
		for _, object := range []client.Object{policy, binding} {
			if err := plane.Client.Delete(context.WithoutCancel(t.Context()), object); err != nil {
				t.Error(err)
			}
		}
	})
	eventually(t, "the policy is not in force", 20*time.Second, func() bool {
		patch := client.RawPatch(types.MergePatchType, []byte(`{"status":{"phase":"Pending"}}`))
		return plane.Client.Status().Patch(t.Context(), get(t, namespace, name), patch) != nil
	})
}

// TestReplay annotates events that failed, that succeeded and that wait.
func TestReplay(t *testing.T) {
	namespace := plane.Namespace(t)
	plane.Create(t, newRule(namespace, "rule", maxAttempts(1)))
	var mu sync.Mutex
	down := true
	sink := newSink(func(action.Task, int) error {
		mu.Lock()
		defer mu.Unlock()
		if down {
			return errors.New("down")
		}
		return nil
	})
	startWith(t, plane.Config, namespace, 0, sink.do)
	name := newEvent(namespace, 1, 0).Name
	plane.Create(t, newEvent(namespace, 1, 0))
	eventually(t, "not given up", 10*time.Second, hasPhase(t, namespace, name, v1alpha1.PhaseFailed))
	mu.Lock()
	down = false
	mu.Unlock()
	annotate := func(value string) {
		t.Helper()
		annotate(t, namespace, name, value)
	}
	annotate("1")
	eventually(t, "not replayed", 10*time.Second, hasPhase(t, namespace, name, v1alpha1.PhaseSucceeded))
	annotate("1") // changes nothing
	plane.Create(t, newRule(namespace, "new"))
	time.Sleep(time.Second)
	if got := len(sink.taken("rule")); got != 1 {
		t.Errorf("delivered %d times after one replay", got)
	}
	annotate("2")
	eventually(t, "not matched again", 10*time.Second, func() bool { return len(sink.taken("new")) == 1 && len(sink.taken("rule")) == 2 })
	eventually(t, "not finished", 10*time.Second, hasPhase(t, namespace, name, v1alpha1.PhaseSucceeded))
	if got := get(t, namespace, name).Status.Replay; got != "2" {
		t.Errorf("status.replay is %q", got)
	}
}

// TestReplayOrder annotates events of one object in another order than that in which NetBox made them.
func TestReplayOrder(t *testing.T) {
	namespace := plane.Namespace(t)
	plane.Create(t, newRule(namespace, "rule", maxAttempts(1)))
	sink := newSink(func(_ action.Task, attempt int) error {
		if attempt == 1 {
			return errors.New("down")
		}
		return nil
	})
	startWith(t, plane.Config, namespace, 0, sink.do)
	var names []string
	for second := range 3 {
		plane.Create(t, newEvent(namespace, 1, second))
		names = append(names, newEvent(namespace, 1, second).Name)
		eventually(t, "not given up", 10*time.Second, hasPhase(t, namespace, names[second], v1alpha1.PhaseFailed))
	}
	for _, second := range []int{2, 0, 1} {
		annotate(t, namespace, names[second], "1")
		eventually(t, "not begun", 10*time.Second, hasPhase(t, namespace, names[second], v1alpha1.PhasePending))
	}
	eventually(t, "not replayed", 15*time.Second, hasPhase(t, namespace, names[2], v1alpha1.PhaseSucceeded))
	if diff := cmp.Diff(names, sink.taken("rule")); diff != "" {
		t.Errorf("deliveries (-want +got):\n%s", diff)
	}
}

// TestBurst has 2000 events of one object, and as many of others, wait for a sink that is down, and then one more of another object.
func TestBurst(t *testing.T) {
	if testing.Short() {
		t.Skip("makes 4000 events")
	}
	namespace := plane.Namespace(t)
	plane.Create(t, newRule(namespace, "rule", maxAttempts(1000)))
	const burst = 2000
	var makers sync.WaitGroup
	for maker := range 16 {
		makers.Go(func() {
			for n := maker; n < burst; n += 16 {
				for _, object := range []int{0, 1 + n} {
					event := newEvent(namespace, object, n%60)
					event.Name = fmt.Sprintf("o%d-%d", object, n)
					if err := plane.Client.Create(t.Context(), event); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	makers.Wait()
	fresh := newEvent(namespace, 999_999, 0).Name
	sink := newSink(func(task action.Task, _ int) error {
		if task.Event.Name == fresh {
			return nil
		}
		return errors.New("down")
	})
	logged, _ := startWith(t, plane.Config, namespace, 0, sink.do)
	time.Sleep(time.Second) // in the middle of it
	plane.Create(t, newEvent(namespace, 999_999, 0))
	created := time.Now()
	eventually(t, "a fresh event starves", time.Minute, hasPhase(t, namespace, fresh, v1alpha1.PhaseSucceeded))
	t.Logf("a fresh event was finished after %s beside %d that fail", time.Since(created), 2*burst)
	eventually(t, "the metric of pending events is wrong", 5*time.Second, func() bool {
		return counts(t, logged.metrics)["netbox_events_pending_events "+namespace+"/netbox"] == 2*burst
	})
}

// TestWarned checks that the condition of a rule names what of its match fits no event, also after a source comes.
func TestWarned(t *testing.T) {
	namespace := plane.Namespace(t)
	made := newRule(namespace, "typo", func(spec *v1alpha1.NetBoxEventRuleSpec) {
		spec.Match.Sources = []string{"nosuch"}
		spec.Match.Events, spec.Match.ObjectTypes = []string{"update", "Updated"}, []string{"DCIM.Device", "dcim.devices"}
	})
	plane.Create(t, made)
	start(t, plane.Config, namespace, 0)
	var message string
	accepted := func() bool {
		var stored v1alpha1.NetBoxEventRule
		if err := plane.Client.Get(t.Context(), client.ObjectKeyFromObject(made), &stored); err != nil {
			t.Fatal(err)
		}
		condition := meta.FindStatusCondition(stored.Status.Conditions, v1alpha1.ConditionReady)
		if condition == nil || condition.Status != metav1.ConditionTrue {
			return false
		}
		message = condition.Message
		return true
	}
	eventually(t, "the rule is not accepted", 10*time.Second, accepted)
	const source = `; spec.match.sources: there is no NetBoxSource "nosuch" in namespace `
	for _, part := range []string{`has the event "update"`, `no object type "dcim.devices"`, source} {
		if !strings.Contains(message, part) {
			t.Errorf("message is %q, want one with %q", message, part)
		}
	}
	plane.Create(t, &v1alpha1.NetBoxSource{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "nosuch"}, Spec: v1alpha1.NetBoxSourceSpec{Unsigned: v1alpha1.UnsignedAccept},
	})
	eventually(t, "the warning of the source stays", 10*time.Second, func() bool { return accepted() && !strings.Contains(message, source) })
}
