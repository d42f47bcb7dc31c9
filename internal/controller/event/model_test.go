package event

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrlevent "sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/action"
	"github.com/netbox-events/netbox-event-operator/internal/delivery"
	"github.com/netbox-events/netbox-event-operator/internal/eventstore"
	"github.com/netbox-events/netbox-event-operator/internal/rule"
)

// TestModel runs the reconcilers of the engine one step at a time, in random order and with a clock of its own, against a model of the
// API server and of sinks: events come late and out of order, watches lag behind, sinks fail and throttle, writes fail, rules are edited
// and deleted, events are deleted and replayed, leaders are killed, and paused ones go on. The steps of others run while an action is
// done.
//
// Rule one has steps and onFailure, rule two a limit of one delivery for each key, and rule any a limit of its rate; some actions wait for
// their results. Rules two and merge deliver only what NetBox has logged. Rules batch and merge deliver groups: the events of a request, in the order of objects, and those of an object.
//
// The promises: a rule with an order does the events of an object in order, one at a time, as far as its leader knows of them; everything
// is delivered at least once, and once where nothing was killed; what is finished stays finished; nothing stays pending.
func TestModel(t *testing.T) {
	seeds := 60
	if testing.Short() {
		seeds = 20
	}
	for seed := range seeds {
		newModel(t, uint64(seed)).run()
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// model is the world around the engine.
type model struct {
	t      *testing.T
	random *rand.Rand
	clock  *clocktesting.FakePassiveClock

	reading sync.Mutex
	stored  map[string]*v1alpha1.NetBoxEvent
	version int
	rules   map[string]*v1alpha1.NetBoxEventRule
	leader  *replica
	zombies []*replica

	made, depth    int
	delivered      string // the event that was delivered last, maybe just now
	ticks          int
	calm           bool // nothing goes wrong any more
	gentle         bool // no leader is paused, and no event deleted: then no event is in two groups
	mayRepeat      bool // something was killed
	down           map[string]bool
	goodDeliveries map[string]int      // by rule, event and replay
	everDelivered  map[string]bool     // by rule and event
	groupOf        map[string]string   // by rule, event and replay
	members        map[string][]string // groups, by event
	hasReplayed    map[string]bool     // groups of which an event was replayed
	replayed       map[string]bool     // events of which a replay of all rules was requested
	hopeless       map[string]bool     // events that sinks refuse for good
	phantoms       map[string]bool     // events that NetBox did not log
}

// replica is one leader.
type replica struct {
	*Engine
	model *model

	matching   *queue[*entry]
	delivering *queue[*unit]
	writing    *queue[writeKey]
	feeder     *feeder
	isListing  bool
	hasListed  bool
	watched    []watched
	seen       map[string]int  // when it learned that an event is pending, or is to be replayed
	began      map[*unit]int   // when the delivery of a key began
	continues  map[*unit]bool  // where it goes on with a delivery that waited for its result
	running    map[string]bool // rule and object
	attempting map[string]bool // rule and event
	waiting    map[string]bool // rule and event: those that wait for their results, or did
	dead       bool
}

type watched struct {
	event *v1alpha1.NetBoxEvent
	gone  bool
}

// queue is a work queue whose items are taken at random, on the model's clock.
type queue[T comparable] struct {
	workqueue.TypedRateLimitingInterface[T]
	model *model
	items []T // those of due, in the order in which they came
	due   map[T]time.Time
	busy  map[T]bool
}

func newQueue[T comparable](m *model) *queue[T] {
	return &queue[T]{model: m, due: map[T]time.Time{}, busy: map[T]bool{}}
}

func (q *queue[T]) Add(item T) { q.AddAfter(item, 0) }

func (q *queue[T]) AddAfter(item T, after time.Duration) {
	at := q.model.clock.Now().Add(after)
	due, ok := q.due[item]
	if !ok {
		q.items = append(q.items, item)
	}
	if !ok || at.Before(due) {
		q.due[item] = at
	}
}

// step processes one item that is due, if there is any.
func step[T comparable](q *queue[T], do func(context.Context, T) (reconcile.Result, error)) bool {
	var ready []int
	for i, item := range q.items {
		if !q.due[item].After(q.model.clock.Now()) && !q.busy[item] {
			ready = append(ready, i)
		}
	}
	if len(ready) == 0 {
		return false
	}
	at := ready[q.model.random.IntN(len(ready))]
	item := q.items[at]
	q.items = slices.Delete(q.items, at, at+1)
	delete(q.due, item)
	q.busy[item] = true
	result, err := do(context.Background(), item)
	delete(q.busy, item)
	if err != nil {
		q.AddAfter(item, time.Second)
	} else if result.RequeueAfter > 0 {
		q.AddAfter(item, result.RequeueAfter)
	}
	return true
}

func newModel(t *testing.T, seed uint64) *model {
	t.Helper()
	m := &model{
		t: t, random: rand.New(rand.NewPCG(seed, 1)), clock: clocktesting.NewFakePassiveClock(time.Unix(1_800_000_000, 0)),
		stored: map[string]*v1alpha1.NetBoxEvent{}, rules: map[string]*v1alpha1.NetBoxEventRule{}, down: map[string]bool{},
		goodDeliveries: map[string]int{}, everDelivered: map[string]bool{}, groupOf: map[string]string{}, members: map[string][]string{}, hasReplayed: map[string]bool{}, replayed: map[string]bool{}, hopeless: map[string]bool{},
		phantoms: map[string]bool{},
	}
	for name, order := range map[string]v1alpha1.Order{
		"one": v1alpha1.OrderPerObject, "two": v1alpha1.OrderPerObject, "any": v1alpha1.OrderNone,
		"batch": v1alpha1.OrderPerObject, "merge": v1alpha1.OrderNone,
	} {
		made := &v1alpha1.NetBoxEventRule{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: name, UID: types.UID(name), Generation: 1}}
		made.Spec.Order = order
		made.Spec.Confirm = name == "two" || name == "merge"
		made.Spec.Retry = v1alpha1.Retry{
			For: metav1.Duration{Duration: 24 * time.Hour}, Backoff: metav1.Duration{Duration: time.Second},
			MaxBackoff: metav1.Duration{Duration: time.Minute}, Timeout: metav1.Duration{Duration: 10 * time.Second},
		}
		for _, name := range []string{"a", "b"} {
			made.Spec.Actions = append(made.Spec.Actions, v1alpha1.Action{Name: name, Log: &v1alpha1.LogAction{Message: "x"}})
		}
		switch name {
		case "one":
			made.Spec.Actions[1].DependsOn = []string{"a"}
			made.Spec.OnFailure = []v1alpha1.Action{{Name: "alarm", Log: &v1alpha1.LogAction{Message: "${failure.action}"}}}
		case "two":
			made.Spec.Limit = v1alpha1.Limit{Concurrency: 1, Key: `event.objectID == "0" ? "x" : "y"`}
		case "any":
			made.Spec.Limit = v1alpha1.Limit{PerSecond: 2}
		case "batch":
			made.Spec.Group = &v1alpha1.Group{By: v1alpha1.GroupByRequest, Quiet: seconds(5), MaxWait: seconds(20), MaxEvents: 4}
		case "merge":
			made.Spec.Group = &v1alpha1.Group{By: v1alpha1.GroupByObject, Quiet: seconds(10), MaxWait: seconds(30), MaxEvents: 500}
		}
		m.rules[name] = made
	}
	m.gentle = seed%3 == 0
	m.lead()
	return m
}

func seconds(n int) metav1.Duration {
	return metav1.Duration{Duration: time.Duration(n) * time.Second}
}

// lead starts a leader, which lists what is pending.
func (m *model) lead() {
	r := &replica{
		model: m, matching: newQueue[*entry](m), delivering: newQueue[*unit](m), writing: newQueue[writeKey](m),
		seen: map[string]int{}, began: map[*unit]int{}, continues: map[*unit]bool{}, running: map[string]bool{}, attempting: map[string]bool{}, waiting: map[string]bool{},
	}
	r.Engine = NewEngine(Options{
		Events: modelEvents{replica: r}, Rules: modelRules{model: m}, Compiled: rule.NewCache(), Actions: r, Tally: noTally{}, Status: r,
		NetBox:  modelNetBox{model: m},
		Metrics: NewMetrics(prometheus.NewRegistry()), Recorder: &events.FakeRecorder{}, Clock: m.clock, Log: logr.Discard(),
	})
	r.matches, r.deliveries, r.writes = r.matching, r.delivering, r.writing
	r.guard.alive.Store(int64(time.Since(start)))
	m.leader = r
	r.feeder = &feeder{Engine: r.Engine}
	r.list()
}

// list lists what is pending, as when the replica starts, or its watch was too far behind. Other things happen between the events of the
// list.
func (r *replica) list() {
	m := r.model
	r.feeder.Listing()
	r.watched, r.isListing = nil, true
	for _, event := range m.pending() {
		if m.depth < 2 && m.random.IntN(2) == 0 {
			m.step()
		}
		for _, rule := range event.Status.Rules {
			if !r.hasListed { // a later list may have what a paused leader began
				r.waiting[rule.Name+" "+event.Name] = delivery.IsWaiting(rule.Actions)
			}
		}
		r.watch(watched{event: event})
	}
	r.feeder.Listed()
	r.isListing, r.hasListed = false, true
}

// pending returns copies of the pending events, by name.
func (m *model) pending() (pending []*v1alpha1.NetBoxEvent) {
	for _, name := range slices.Sorted(maps.Keys(m.stored)) {
		if event := m.stored[name]; event.Status.Phase == v1alpha1.PhasePending {
			pending = append(pending, event.DeepCopy())
		}
	}
	return pending
}

func (r *replica) watch(w watched) {
	if w.gone {
		delete(r.seen, w.event.Name)
		r.feeder.Gone(w.event)
		return
	}
	r.learn(w.event.Name)
	r.feeder.Seen(context.Background(), w.event)
}

func (r *replica) learn(event string) {
	r.model.ticks++
	r.seen[event] = r.model.ticks
}

// changed tells the replicas that watch of a change.
func (m *model) changed(before, after *v1alpha1.NetBoxEvent) {
	pending := func(event *v1alpha1.NetBoxEvent) bool {
		return event != nil && event.Status.Phase == v1alpha1.PhasePending
	}
	for _, r := range append([]*replica{m.leader}, m.zombies...) {
		switch {
		case pending(after):
			r.watched = append(r.watched, watched{event: after.DeepCopy()})
		case pending(before):
			r.watched = append(r.watched, watched{event: before.DeepCopy(), gone: true})
		}
	}
}

func (m *model) store(name string, change func(*v1alpha1.NetBoxEvent)) {
	before := m.stored[name]
	after := before.DeepCopy()
	change(after)
	m.version++
	after.ResourceVersion = strconv.Itoa(m.version)
	if before.Status.Phase != v1alpha1.PhasePending && after.Status.Phase == v1alpha1.PhasePending && after.Status.StartTime != nil &&
		!delivery.ReplayOf(after).IsNew(&after.Status) {
		m.t.Errorf("%s was finished and is pending again", name)
	}
	if after.Status.StartTime != nil {
		m.checkProgress(before, after)
	}
	m.stored[name] = after
	m.changed(before, after)
}

// checkProgress fails where an action that had ended is pending again, and was not replayed.
func (m *model) checkProgress(before, after *v1alpha1.NetBoxEvent) {
	replayed := delivery.RecordedReplay(&before.Status) != delivery.RecordedReplay(&after.Status)
	if replayed && (after.Status.ReplayRule == "" || m.replayed[after.Name]) {
		return
	}
	ended := map[string]bool{}
	for _, rule := range before.Status.Rules {
		for _, action := range rule.Actions {
			ended[rule.Name+"/"+action.Name] = action.State != v1alpha1.DeliveryPending
		}
	}
	for _, rule := range after.Status.Rules {
		if replayed && rule.Name == after.Status.ReplayRule {
			continue
		}
		for _, action := range rule.Actions {
			if action.State == v1alpha1.DeliveryPending && ended[rule.Name+"/"+action.Name] {
				m.t.Errorf("action %s of rule %s on %s had ended and is pending again:\n%+v\n%+v", action.Name, rule.Name, after.Name, before.Status, after.Status)
			}
		}
	}
}

// UpdateStatus is the API server's.
func (r *replica) UpdateStatus(_ context.Context, of eventstore.Version, status *v1alpha1.NetBoxEventStatus) (string, error) {
	m, name := r.model, of.Name
	current := m.stored[name]
	resource := v1alpha1.SchemeGroupVersion.WithResource("netboxevents").GroupResource()
	switch {
	case current == nil:
		return "", apierrors.NewNotFound(resource, name)
	case of.ResourceVersion != current.ResourceVersion || current.UID != of.UID:
		return "", apierrors.NewConflict(resource, name, errors.New("changed"))
	case !m.calm && m.random.IntN(10) == 0:
		return "", apierrors.NewInternalError(errors.New("etcd is away"))
	}
	m.store(name, func(stored *v1alpha1.NetBoxEvent) { stored.Status = *status.DeepCopy() })
	version := m.stored[name].ResourceVersion
	m.reopen(name)
	if !m.calm && m.random.IntN(20) == 0 {
		return "", apierrors.NewTimeoutError("the answer was lost", 1)
	}
	return version, nil
}

// Do is a sink.
func (r *replica) Do(_ context.Context, task action.Task) (action.Result, error) {
	m, event := r.model, task.Event
	busy, attempt := task.Rule.Name+" "+event.Spec.ObjectID, task.Rule.Name+" "+event.Name
	if task.Rule.Spec.Order == v1alpha1.OrderPerObject && task.Group == nil {
		if r.running[busy] {
			m.t.Errorf("rule %s delivers two events of object %s at one time", task.Rule.Name, event.Spec.ObjectID)
		}
		m.checkOrder(r, task)
	}
	if u := r.ledger.lanes[laneOf(event)].unitOf(task.Rule.Name); u != nil && !task.WaitingSince.IsZero() {
		r.continues[u] = true
	}
	m.checkLimit(r, task)
	if task.Rule.Spec.Confirm && task.Group == nil && m.phantoms[event.Name] {
		m.t.Errorf("rule %s delivers %s, which is not in the change log", task.Rule.Name, event.Name)
	}
	r.running[busy], r.attempting[attempt], m.delivered = true, true, event.Name
	if task.Group != nil {
		return r.doGroup(task) //nolint:contextcheck // the reconcilers do not use theirs
	}
	status := r.ledger.events[client.ObjectKeyFromObject(event)].status
	id := deliveryID(task.Rule.Name, task.Action.Spec.Name, event, delivery.RecordedReplay(status).String())
	for range m.random.IntN(4) {
		if m.depth < 6 {
			m.step() //nolint:contextcheck // the reconcilers do not use theirs
		}
	}
	r.running[busy], r.attempting[attempt] = false, false
	isAlarm, chance := task.Action.Spec.Name == "alarm", m.random.IntN(10)
	if !task.WaitingSince.IsZero() && (m.calm || chance > 1) { // it was executed before
		if chance > 5 {
			return action.Result{Wait: time.Second}, nil
		}
		return action.Result{Response: "the result"}, nil
	} else if !task.WaitingSince.IsZero() { // executed again after the failure
		m.goodDeliveries[id]--
		return action.Result{}, &action.Failure{Err: errors.New("the result is a failure")}
	}
	switch {
	case m.hopeless[event.Name] && !isAlarm:
		return action.Result{}, &action.Failure{Err: errors.New("refused"), Permanent: true}
	case m.down[task.Rule.Name] && !m.calm:
		return action.Result{}, &action.Failure{Err: errors.New("down"), Unavailable: true}
	case chance == 0 && !m.calm:
		return action.Result{}, &action.Failure{Err: errors.New("too many"), Unavailable: true, Throttled: true, RetryAfter: 3 * time.Second}
	case chance == 1 && !m.calm:
		return action.Result{}, &action.Failure{Err: errors.New("fails this time")}
	}
	if m.goodDeliveries[id]++; m.goodDeliveries[id] > 1 && !m.mayRepeat {
		m.t.Errorf("%s was delivered twice", id)
	}
	m.everDelivered[deliveryID(task.Rule.Name, task.Action.Spec.Name, event, "")] = true
	if chance > 6 {
		r.waiting[attempt] = true
		return action.Result{Response: "waits", Wait: 2 * time.Second}, nil
	}
	return action.Result{Response: "taken"}, nil
}

// checkLimit fails where a delivery starts beside another one of its key, which is in flight or waits for its result. A paused leader that
// goes on may have begun others.
func (m *model) checkLimit(r *replica, task action.Task) {
	if task.Rule.Spec.Limit.Concurrency == 0 || r.continues[r.ledger.lanes[laneOf(task.Event)].unitOf(task.Rule.Name)] {
		return
	}
	for name, entry := range r.ledger.events {
		if name.Name == task.Event.Name || entry.needsMatch() {
			continue
		}
		status, own := entry.ruleStatus(task.Rule.Name), r.ledger.events[client.ObjectKeyFromObject(task.Event)].ruleStatus(task.Rule.Name)
		if status != nil && status.LimitKey == own.LimitKey &&
			(r.attempting[task.Rule.Name+" "+name.Name] || r.waiting[task.Rule.Name+" "+name.Name] && delivery.IsWaiting(status.Actions)) {
			m.t.Errorf("rule %s delivers %s beside %s", task.Rule.Name, task.Event.Name, name.Name)
		}
	}
}

// doGroup is a sink of groups.
func (r *replica) doGroup(task action.Task) (action.Result, error) {
	m := r.model
	for range m.random.IntN(4) {
		if m.depth < 6 {
			m.step()
		}
	}
	isHopeless := false
	for _, event := range task.Group.Events {
		r.running[task.Rule.Name+" "+event.Spec.ObjectID], r.attempting[task.Rule.Name+" "+event.Name] = false, false
		isHopeless = isHopeless || m.hopeless[event.Name]
		if task.Rule.Spec.Confirm && m.phantoms[event.Name] {
			m.t.Errorf("rule %s delivers %s in a group, and it is not in the change log", task.Rule.Name, event.Name)
		}
	}
	switch chance := m.random.IntN(10); {
	case isHopeless:
		return action.Result{}, &action.Failure{Err: errors.New("refused"), Permanent: true}
	case m.down[task.Rule.Name] && !m.calm:
		return action.Result{}, &action.Failure{Err: errors.New("down"), Unavailable: true}
	case chance < 2 && !m.calm:
		return action.Result{}, &action.Failure{Err: errors.New("fails this time")}
	}
	for i, event := range task.Group.Events {
		id := deliveryID(task.Rule.Name, task.Action.Spec.Name, event, event.Annotations[v1alpha1.AnnotationReplay])
		if before := m.groupOf[id]; before != "" && before != task.Group.ID && m.gentle && !m.hasReplayed[before] {
			m.t.Errorf("%s was delivered in group %s, and is again in %s", id, before, task.Group.ID)
		}
		if m.goodDeliveries[id]++; m.goodDeliveries[id] > 1 && !m.mayRepeat {
			m.t.Errorf("%s was delivered twice, in group %s", id, task.Group.ID)
		}
		m.members[event.Name] = append(m.members[event.Name], task.Group.ID)
		if len(task.Group.Events) > 1 { // the group of one event has no record before its first attempt
			m.groupOf[id] = task.Group.ID
		}
		m.everDelivered[deliveryID(task.Rule.Name, task.Action.Spec.Name, event, "")] = true
		if i > 0 && event.Spec.Timestamp.Before(&task.Group.Events[i-1].Spec.Timestamp) {
			m.t.Errorf("group %s has its events in the wrong order", task.Group.ID)
		}
	}
	return action.Result{Response: "taken"}, nil
}

func deliveryID(rule, action string, event *v1alpha1.NetBoxEvent, replay string) string {
	return fmt.Sprintf("%s/%s %s (replay %q)", rule, action, event.UID, replay)
}

// checkOrder fails where an earlier event of the object is to be done first, as far as the replica knows.
func (m *model) checkOrder(r *replica, task action.Task) {
	u := r.ledger.lanes[laneOf(task.Event)].unitOf(task.Rule.Name)
	if r.continues[u] {
		return
	}
	began := r.began[u]
	for name, seen := range r.seen {
		earlier := m.stored[name]
		if earlier == nil || earlier.Spec.ObjectID != task.Event.Spec.ObjectID || !earlier.Spec.Timestamp.Time.Before(task.Event.Spec.Timestamp.Time) {
			continue
		}
		entry := r.ledger.events[types.NamespacedName{Namespace: "n", Name: name}]
		if entry == nil || entry.finished || seen > began {
			continue
		}
		if entry.needsMatch() || entry.isPendingFor(task.Rule.Name) {
			m.t.Errorf("rule %s delivers %s before %s", task.Rule.Name, task.Event.Name, name)
		}
	}
}

// step does one thing at random.
func (m *model) step() {
	m.depth++
	defer func() { m.depth-- }()
	r := m.leader
	if len(m.zombies) > 0 && m.random.IntN(4) == 0 {
		r = m.zombies[m.random.IntN(len(m.zombies))]
	}
	chance := m.random.IntN(100)
	switch {
	case m.calm || chance < 60:
	case chance < 75:
		m.create()
	case chance < 80:
		m.clock.SetTime(m.clock.Now().Add(time.Duration(m.random.IntN(5000)) * time.Millisecond))
	case chance < 84:
		name := slices.Sorted(maps.Keys(m.rules))[m.random.IntN(len(m.rules))]
		m.down[name] = !m.down[name]
	case chance < 85:
		m.kill()
	case chance < 86 && !m.gentle:
		m.zombies, m.mayRepeat = append(m.zombies, m.leader), true
		m.lead()
	case chance < 88:
		m.editRule()
	case chance < 89 && !m.leader.isListing:
		m.leader.list()
	case chance < 93:
		m.replay()
	case chance < 95 && !m.gentle:
		m.deleteEvent()
	}
	r.step()
}

// step of a replica handles a change that it watches, or an item of a queue.
func (r *replica) step() bool {
	did := false
	for _, n := range r.model.random.Perm(4) {
		switch n {
		case 0:
			if len(r.watched) > 0 && !r.isListing {
				next := r.watched[0]
				r.watched = r.watched[1:]
				r.watch(next)
				did = true
			}
		case 1:
			did = step(r.matching, r.match)
		case 2:
			did = step(r.delivering, func(ctx context.Context, u *unit) (reconcile.Result, error) {
				r.model.ticks++
				r.began[u] = r.model.ticks
				r.continues[u] = u.waiting != nil && r.ledger.next(u) == u.waiting
				return r.deliver(ctx, u)
			})
		default:
			did = step(r.writing, r.write)
		}
		if did {
			return true
		}
	}
	return false
}

func (m *model) create() {
	m.made++
	name := fmt.Sprintf("e%d", m.made)
	at := metav1.NewMicroTime(m.clock.Now().Add(-time.Duration(m.random.IntN(20)) * time.Second).Add(time.Duration(m.made) * time.Microsecond))
	m.version++
	event := &v1alpha1.NetBoxEvent{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "n", Name: name, UID: types.UID(name), Generation: 1, ResourceVersion: strconv.Itoa(m.version),
		},
		Spec: v1alpha1.NetBoxEventSpec{
			SourceRef: v1alpha1.SourceReference{Name: "netbox"}, Event: "updated", ObjectType: "dcim.site",
			ObjectID: strconv.Itoa(m.random.IntN(3)), RequestID: strconv.Itoa(m.random.IntN(3)), Timestamp: at,
			Delivery: v1alpha1.Delivery{ReceivedAt: at},
		},
		Status: v1alpha1.NetBoxEventStatus{Phase: v1alpha1.PhasePending},
	}
	m.hopeless[name] = m.random.IntN(10) == 0
	m.phantoms[name] = m.random.IntN(6) == 0
	m.stored[name] = event
	m.changed(nil, event)
}

func (m *model) kill() {
	m.mayRepeat = true
	m.leader.dead = true
	m.lead()
}

func (m *model) any() *v1alpha1.NetBoxEvent {
	if len(m.stored) == 0 {
		return nil
	}
	names := slices.Sorted(maps.Keys(m.stored))
	return m.stored[names[m.random.IntN(len(names))]]
}

// replay annotates an event, and makes it pending where it is finished, as the controller of replays does.
func (m *model) replay() {
	event := m.any()
	if recent := m.stored[m.delivered]; recent != nil && m.random.IntN(2) == 0 {
		event = recent
	}
	if event == nil {
		return
	}
	m.annotate(event.Name)
}

// annotate requests a replay of an event, of all rules or of one.
func (m *model) annotate(name string) {
	annotations := map[string]string{v1alpha1.AnnotationReplay: strconv.Itoa(m.version)}
	if m.random.IntN(3) == 0 {
		annotations[v1alpha1.AnnotationReplayRule] = "one"
	} else {
		m.replayed[name] = true
	}
	for _, id := range m.members[name] {
		m.hasReplayed[id] = true
	}
	m.store(name, func(event *v1alpha1.NetBoxEvent) { event.Annotations = annotations })
	m.reopen(name)
}

// reopen makes a finished event whose replay is requested pending, as the controller of replays does.
func (m *model) reopen(name string) {
	event := m.stored[name]
	requested := delivery.ReplayOf(event)
	if event.Status.Phase == v1alpha1.PhasePending || !requested.IsNew(&event.Status) {
		return
	}
	m.store(name, func(event *v1alpha1.NetBoxEvent) { event.Status = *delivery.Reopen(&event.Status, requested) })
}

func (m *model) deleteEvent() {
	if event := m.any(); event != nil {
		delete(m.stored, event.Name)
		m.changed(event, nil)
	}
}

// editRule edits a rule; at times it deletes one.
func (m *model) editRule() {
	names := slices.Sorted(maps.Keys(m.rules))
	before := m.rules[names[m.random.IntN(len(names))]]
	if m.random.IntN(10) == 0 && before.Name == "two" {
		delete(m.rules, before.Name)
		m.leader.ruleDeleted(context.Background(), ctrlevent.TypedDeleteEvent[*v1alpha1.NetBoxEventRule]{Object: before}, m.leader.delivering)
		return
	}
	after := before.DeepCopy()
	after.Generation++
	m.rules[after.Name] = after
	m.leader.ruleUpdated(context.Background(),
		ctrlevent.TypedUpdateEvent[*v1alpha1.NetBoxEventRule]{ObjectOld: before, ObjectNew: after}, m.leader.delivering)
}

func (m *model) run() {
	for range 400 {
		m.step()
	}
	// From here on nothing goes wrong, and the former leaders have noticed that they lead no more.
	m.calm, m.zombies = true, nil
	for idle, steps := 0, 0; idle < 100; steps++ {
		if steps > 100_000 {
			m.t.Errorf("busy without an end: %v, %v, %v", m.leader.matching.due, m.leader.delivering.due, m.leader.writing.due)
			break
		}
		if m.leader.step() {
			idle = 0
			continue
		}
		idle++
		m.clock.SetTime(m.clock.Now().Add(20 * time.Second))
	}
	m.checkEnd()
}

func (m *model) checkEnd() {
	for _, name := range slices.Sorted(maps.Keys(m.stored)) {
		event := m.stored[name]
		if event.Status.Phase == v1alpha1.PhasePending {
			m.t.Errorf("%s stays pending: %+v", name, event.Status)
		}
		for _, rule := range event.Status.Rules {
			m.checkRule(event, &rule)
		}
	}
	l := m.leader.ledger
	if len(l.groupLines)+len(l.spreading)+len(l.ending)+len(l.unmatchedEvents)+len(l.unmatchedListed) > 0 {
		m.t.Errorf("the ledger keeps groups: %v, %v, %v, %v", l.groupLines, l.spreading, l.unmatchedEvents, l.unmatchedListed)
	}
	if len(l.events)+len(l.lanes)+len(l.counts)+len(l.unsaved) > 0 || l.matched != 0 || !l.unmatched.TryAcquire(heldBytes) {
		m.t.Errorf("the ledger keeps something: %d events, %d lanes, %v, %v, %d bytes", len(l.events), len(l.lanes), l.counts, l.unsaved, l.matched)
	}
	for name, limit := range m.leader.limits.byRule {
		if len(limit.starts)+len(limit.places)+len(limit.woken) > 0 {
			m.t.Errorf("the limit of rule %s keeps something: %+v", name, limit)
		}
	}
	for sink, circuit := range m.leader.circuits.bySink {
		if reason, _, _ := circuit.State(); len(circuit.parked) > 0 || reason != v1alpha1.ReasonAvailable {
			m.t.Errorf("sink %v is %s, and %v wait for it", sink, reason, circuit.parked)
		}
	}
}

// checkRule checks the end of the deliveries of a rule for an event.
func (m *model) checkRule(event *v1alpha1.NetBoxEvent, rule *v1alpha1.RuleStatus) {
	hasFailed, hasAlarm := false, false
	for _, action := range rule.Actions {
		hasFailed = hasFailed || action.State == v1alpha1.DeliveryFailed
		hasAlarm = hasAlarm || action.Name == "alarm"
		switch action.State {
		case v1alpha1.DeliverySucceeded:
			isLeftOut := rule.Name == "merge" && m.phantoms[event.Name] // of its group
			if !m.everDelivered[deliveryID(rule.Name, action.Name, event, "")] && !isLeftOut {
				m.t.Errorf("%s says that %s of rule %s succeeded, and it did not", event.Name, action.Name, rule.Name)
			}
		case v1alpha1.DeliveryFailed:
			if rule.Group == nil && (!m.hopeless[event.Name] || action.Name == "alarm") {
				m.t.Errorf("%s failed: %+v", event.Name, action)
			}
		case v1alpha1.DeliverySkipped:
			isPhantom := m.phantoms[event.Name] && (rule.Name == "two" || rule.Name == "merge")
			if m.rules[rule.Name] != nil && !isPhantom && !(rule.Name == "one" && action.Name == "b" && m.hopeless[event.Name]) {
				m.t.Errorf("rule %s skipped %s: %+v", rule.Name, event.Name, action)
			}
		default:
			m.t.Errorf("%s is %s", event.Name, action.State)
		}
	}
	if rule.Name == "one" && hasFailed != hasAlarm {
		m.t.Errorf("rule %s on %s has the actions %+v", rule.Name, event.Name, rule.Actions)
	}
}

// modelNetBox has all changes in its change log but those of phantoms.
type modelNetBox struct {
	NetBox
	model *model
}

func (n modelNetBox) Confirm(_ context.Context, event *v1alpha1.NetBoxEvent) (bool, time.Duration, error) {
	m := n.model
	if m.depth < 6 && m.random.IntN(3) == 0 {
		m.step() //nolint:contextcheck // the reconcilers do not use theirs
	}
	switch chance := m.random.IntN(8); {
	case chance == 0 && !m.calm:
		return false, 0, errors.New("NetBox does not answer")
	case chance < 3 && !m.calm:
		return false, 2 * time.Second, nil
	default:
		return !m.phantoms[event.Name], 0, nil
	}
}

// modelEvents reads events as the API server has them.
type modelEvents struct {
	client.WithWatch
	replica *replica
}

func (e modelEvents) Get(_ context.Context, name client.ObjectKey, into client.Object, _ ...client.GetOption) error {
	e.replica.model.reading.Lock() // the events of a group are read at one time
	defer e.replica.model.reading.Unlock()
	event := e.replica.model.stored[name.Name]
	if event == nil {
		return apierrors.NewNotFound(v1alpha1.SchemeGroupVersion.WithResource("netboxevents").GroupResource(), name.Name)
	}
	event.DeepCopyInto(into.(*v1alpha1.NetBoxEvent))
	if _, ok := e.replica.seen[name.Name]; ok { // it may learn of a replay
		e.replica.learn(name.Name)
	}
	return nil
}

// List lists the finished events of a group.
func (e modelEvents) List(_ context.Context, into client.ObjectList, options ...client.ListOption) error {
	var applied client.ListOptions
	applied.ApplyOptions(options)
	list := into.(*v1alpha1.NetBoxEventList)
	for _, event := range e.replica.model.stored {
		set := fields.Set{"status.group": event.Status.Group, "status.phase": string(event.Status.Phase)}
		if applied.FieldSelector.Matches(set) && len(list.Items) < int(applied.Limit) {
			list.Items = append(list.Items, *event.DeepCopy())
		}
	}
	return nil
}

// modelRules is the cache of rules.
type modelRules struct {
	client.Reader
	model *model
}

func (r modelRules) Get(_ context.Context, name client.ObjectKey, into client.Object, _ ...client.GetOption) error {
	found := r.model.rules[name.Name]
	if found == nil {
		return apierrors.NewNotFound(v1alpha1.SchemeGroupVersion.WithResource("netboxeventrules").GroupResource(), name.Name)
	}
	found.DeepCopyInto(into.(*v1alpha1.NetBoxEventRule))
	return nil
}

func (r modelRules) List(_ context.Context, into client.ObjectList, _ ...client.ListOption) error {
	list := into.(*v1alpha1.NetBoxEventRuleList)
	for _, name := range slices.Sorted(maps.Keys(r.model.rules)) {
		list.Items = append(list.Items, *r.model.rules[name].DeepCopy())
	}
	return nil
}

type noTally struct{}

func (noTally) Matched(types.NamespacedName, time.Time)       {}
func (noTally) Failed(types.NamespacedName)                   {}
func (noTally) ExpressionFailed(types.NamespacedName, string) {}
func (noTally) SinkChanged(types.NamespacedName)              {}
