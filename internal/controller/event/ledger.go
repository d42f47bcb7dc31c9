package event

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/semaphore"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/delivery"
	"github.com/netbox-events/netbox-event-operator/internal/tracing"
)

const (
	// heldBytes bounds the bodies that are held in memory, by their size as sent: those that wait to be matched, and as many again that were
	// matched. An event without its body here is read from the API server when it is worked on.
	heldBytes = 8 << 20
	// bodyOverhead is what an event takes in memory besides the bytes of its body.
	bodyOverhead = 2 << 10
	// holdWait is how long a list waits for room for a body, once: expressions of one namespace can take long, and others wait for the list.
	holdWait = 200 * time.Millisecond
)

// ledger knows the pending events: their order, their bodies as far as there is room, and their status, which may be newer here than at the
// API server. It holds an event until the watch says that it is no longer pending; so an event that is finished is not taken for a new one
// while the watch lags behind our own write. It is safe for concurrent use.
type ledger struct {
	unmatched *semaphore.Weighted // bytes of bodies that wait to be matched

	mu      sync.Mutex
	events  map[types.NamespacedName]*entry
	lanes   map[lane]*line
	counts  map[types.NamespacedName]int // unfinished events, by source
	unsaved map[types.NamespacedName]int // deliveries that are not in the stored status, by rule
	matched int64                        // bytes of bodies that were matched
	listing int32                        // counts the lists
	full    int32                        // the list in which matching did not keep up
	listed  map[string]bool              // namespaces of which a list was complete
}

// line has the events of a lane in the order in which NetBox made them.
type line struct {
	lane    lane
	entries []*entry
	waiting []waiting
}

// waiting counts the events of a lane that one rule has to deliver in order.
type waiting struct {
	rule   string
	events int
}

func (l *line) count(rule string, by int) {
	at := slices.IndexFunc(l.waiting, func(w waiting) bool { return w.rule == rule })
	if at < 0 {
		l.waiting = append(l.waiting, waiting{rule: rule})
		at = len(l.waiting) - 1
	}
	if l.waiting[at].events += by; l.waiting[at].events == 0 {
		l.waiting = slices.Delete(l.waiting, at, at+1)
	}
}

// entry is what is known of one pending event. The ledger's lock guards it.
type entry struct {
	name       types.NamespacedName
	uid        types.UID
	generation int64
	version    string // the resource version of the stored event, as far as we know
	line       *line
	timestamp  int64 // when NetBox made it, in ns of Unix
	received   int64
	replay     string // the value of its annotation
	body       *v1alpha1.NetBoxEvent
	holds      int64 // bytes of unmatched that its body holds

	status   *v1alpha1.NetBoxEventStatus // nil before it is matched. Shared: to be copied before it is changed
	ordered  []string                    // the rules in line.waiting
	running  []string                    // the rules that deliver it now
	dirty    *time.Time                  // since when its status is newer than the stored one; nil where it is not
	unsaved  []string                    // the rules whose deliveries are not in the stored status
	span     trace.Span
	seen     int32  // in which list
	isListed bool   // the list that it was first seen in is complete, so that those before it in its lane are known
	finished bool   // its last status is stored
	ending   bool   // its last status is being stored
	deadly   string // the piece of work at which processes died, where it is set aside
}

func newLedger() *ledger {
	return &ledger{
		unmatched: semaphore.NewWeighted(heldBytes),
		events:    map[types.NamespacedName]*entry{},
		lanes:     map[lane]*line{},
		counts:    map[types.NamespacedName]int{},
		unsaved:   map[types.NamespacedName]int{},
		listed:    map[string]bool{},
	}
}

func (e *entry) source() types.NamespacedName {
	object := e.line.lane.Value()
	return types.NamespacedName{Namespace: object.namespace, Name: object.source}
}

func (e *entry) logValues() []any { return []any{"namespace", e.name.Namespace, "name", e.name.Name} }

func (e *entry) compare(other *entry) int {
	return cmp.Or(
		cmp.Compare(e.timestamp, other.timestamp), cmp.Compare(e.received, other.received), strings.Compare(e.name.Name, other.name.Name))
}

// needsMatch reports whether the event is new, or a replay was asked for.
func (e *entry) needsMatch() bool { return e.status == nil || delivery.IsReplay(e.replay, e.status) }

// work names a piece of work on an event, or on a replay of it, in the journal.
func (e *entry) work(replay string, parts ...string) string {
	return fmt.Sprintf("%s %q %q", e.uid, replay, parts)
}

func (e *entry) ruleStatus(name string) *v1alpha1.RuleStatus {
	if e.status == nil {
		return nil
	}
	for i := range e.status.Rules {
		if e.status.Rules[i].Name == name {
			return &e.status.Rules[i]
		}
	}
	return nil
}

func (e *entry) isPendingFor(rule string) bool {
	status := e.ruleStatus(rule)
	return status != nil && status.State == v1alpha1.DeliveryPending
}

// observe records an event that is pending at the API server. It returns the event if it is to be matched, because it is new or a replay was
// asked for, and nil otherwise. While events are listed it waits a moment for room for the body.
func (l *ledger) observe(ctx context.Context, event *v1alpha1.NetBoxEvent, isListing bool) (toMatch *entry) {
	holds := min(event.Spec.Delivery.BodyBytes+bodyOverhead, heldBytes)
	held := l.unmatched.TryAcquire(holds) || isListing && l.waitForRoom(ctx, holds)
	l.mu.Lock()
	defer l.mu.Unlock()
	name := types.NamespacedName{Namespace: event.Namespace, Name: event.Name}
	e := l.events[name]
	if e != nil && e.uid != event.UID { // another event took its name
		l.drop(e)
		e = nil
	}
	if e == nil {
		e = l.add(name, event)
		e.isListed = !isListing
		toMatch = e
	}
	e.seen, e.generation = l.listing, event.Generation
	if l.adopt(e, event) && e.needsMatch() {
		toMatch = e
	}
	if held && toMatch != nil && e.body == nil {
		e.body, e.holds = event, holds
	} else if held {
		l.unmatched.Release(holds)
	}
	return toMatch
}

// waitForRoom waits for room for a body, for holdWait at the most, and not again in this list after that was too short.
func (l *ledger) waitForRoom(ctx context.Context, holds int64) (held bool) {
	if l.hasNoRoom() {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, holdWait)
	defer cancel()
	if l.unmatched.Acquire(ctx, holds) == nil {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.full = l.listing
	return false
}

func (l *ledger) hasNoRoom() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.full == l.listing
}

func (l *ledger) add(name types.NamespacedName, event *v1alpha1.NetBoxEvent) *entry {
	lane := laneOf(event)
	at := l.lanes[lane]
	if at == nil {
		at = &line{lane: lane}
		l.lanes[lane] = at
	}
	name.Namespace = lane.Value().namespace // shares its memory
	e := &entry{
		name: name, uid: event.UID, line: at,
		timestamp: event.Spec.Timestamp.UnixNano(), received: event.Spec.Delivery.ReceivedAt.UnixNano(),
		replay: event.Annotations[v1alpha1.AnnotationReplay],
	}
	index, _ := slices.BinarySearchFunc(at.entries, e, (*entry).compare)
	at.entries = slices.Insert(at.entries, index, e)
	l.events[name] = e
	l.counts[e.source()]++
	return e
}

// isBefore reports whether a resource version is known to be older than, or the same as, what we know: the watch lags behind our own
// writes.
func (e *entry) isBefore(version string) bool {
	order, err := resourceversion.CompareResourceVersion(version, e.version)
	return err == nil && order <= 0
}

// adopt takes over what others stored of an event: the annotation that asks for a replay, and the progress of another replica, which our
// next write would undo. It reports whether the annotation is another one.
func (l *ledger) adopt(e *entry, stored *v1alpha1.NetBoxEvent) (asked bool) {
	if e.isBefore(stored.ResourceVersion) {
		return false
	}
	if replay := stored.Annotations[v1alpha1.AnnotationReplay]; replay != e.replay {
		e.replay, asked = replay, true
		l.release(e) // actions see the annotation
	}
	status := &stored.Status
	switch {
	case e.finished || status.StartTime == nil:
	case e.status != nil && e.status.Replay == status.Replay:
		e.status = delivery.Merge(e.status, status)
		l.passOn(e)
	case e.status == nil || e.replay == status.Replay: // another replica began
		if len(e.running) > 0 { // for what is replayed: our next write will meet a conflict, and is merged then
			return asked
		}
		e.status = status.DeepCopy()
	}
	e.version = stored.ResourceVersion
	return asked
}

// forget drops an event that is not pending any more, and reports whether it was unfinished: others may have waited for it.
func (l *ledger) forget(name types.NamespacedName, uid types.UID) (unfinished *entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.events[name]
	if e == nil || e.uid != uid {
		return nil
	}
	l.drop(e)
	if e.finished {
		return nil
	}
	return e
}

func (l *ledger) drop(e *entry) {
	delete(l.events, e.name)
	l.release(e)
	l.uncount(e)
	l.settle(e)
	l.unorder(e)
	at := e.line
	if index, found := slices.BinarySearchFunc(at.entries, e, (*entry).compare); found {
		at.entries = slices.Delete(at.entries, index, index+1)
	}
	if len(at.entries) == 0 {
		delete(l.lanes, at.lane)
	}
	if e.span != nil && !e.ending { // else it ends with the last write, which the watch may tell of first
		e.span.End()
	}
}

// uncount takes an event out of the counts of its source, once: when it is finished, or else when it is dropped.
func (l *ledger) uncount(e *entry) {
	if e.finished {
		return
	}
	if l.counts[e.source()]--; l.counts[e.source()] == 0 {
		delete(l.counts, e.source())
	}
}

// release lets the body of an event go.
func (l *ledger) release(e *entry) {
	switch {
	case e.body == nil:
		return
	case e.holds > 0:
		l.unmatched.Release(e.holds)
		e.holds = 0
	default:
		l.matched -= e.body.Spec.Delivery.BodyBytes + bodyOverhead
	}
	e.body = nil
}

// rest lets the body of an event go that waits for something.
func (l *ledger) rest(e *entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.release(e)
}

// settle records that what was delivered of an event is stored, or never will be.
func (l *ledger) settle(e *entry) {
	for _, rule := range e.unsaved {
		name := types.NamespacedName{Namespace: e.name.Namespace, Name: rule}
		if l.unsaved[name]--; l.unsaved[name] == 0 {
			delete(l.unsaved, name)
		}
	}
	e.unsaved = nil
}

// passOn lets what is behind an event in its lane go on for the rules that have delivered it.
func (l *ledger) passOn(e *entry) {
	e.ordered = slices.DeleteFunc(e.ordered, func(rule string) bool {
		done := !e.isPendingFor(rule)
		if done {
			e.line.count(rule, -1)
		}
		return done
	})
}

func (l *ledger) unorder(e *entry) {
	for _, rule := range e.ordered {
		e.line.count(rule, -1)
	}
	e.ordered = nil
}

// begin gives an event the status with which the work on it begins. It returns false where the event is gone, or another replica has
// begun, or it is delivered just now: a replay begins when that has ended.
func (l *ledger) begin(e *entry, status *v1alpha1.NetBoxEventStatus, span trace.Span) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.events[e.name] != e || len(e.running) > 0 || !e.needsMatch() {
		return false
	}
	if e.finished { // a replay
		l.counts[e.source()]++
	}
	l.settle(e)
	l.unorder(e)
	if e.span != nil {
		e.span.End()
	}
	e.status, e.span, e.finished, e.ending, e.dirty = status, span, false, false, nil
	return true
}

// enter lists the rules that have to deliver an event in the order of its lane, and returns all rules that may have been waiting for it
// to be matched.
func (l *ledger) enter(e *entry, inOrder func(rule string) bool) (ordered, unordered []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.events[e.name] != e || e.status == nil {
		return nil, nil
	}
	l.unorder(e)
	for i := range e.status.Rules {
		if rule := e.status.Rules[i]; rule.State == v1alpha1.DeliveryPending && inOrder(rule.Name) {
			e.ordered = append(e.ordered, rule.Name)
			e.line.count(rule.Name, 1)
		} else if rule.State == v1alpha1.DeliveryPending {
			unordered = append(unordered, rule.Name)
		}
	}
	for _, w := range e.line.waiting {
		ordered = append(ordered, w.rule)
	}
	if e.holds > 0 { // its body was held to be matched
		body := e.body
		l.release(e)
		if size := body.Spec.Delivery.BodyBytes + bodyOverhead; len(e.status.Rules) > 0 && l.matched+size <= heldBytes {
			l.matched += size
			e.body = body
		}
	}
	return ordered, unordered
}

// next returns the event of a lane that a rule is to deliver next; nil where there is none, or where an earlier one is to be matched first,
// or may still be listed.
func (l *ledger) next(of lane, rule string) *entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := l.lanes[of]
	if at == nil {
		return nil
	}
	for _, e := range at.entries {
		switch {
		case e.needsMatch() || !e.isListed:
			return nil
		case !e.finished && e.isPendingFor(rule):
			return e
		}
	}
	return nil
}

// get returns an event that is pending, nil for none.
func (l *ledger) get(name types.NamespacedName) *entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.events[name]
}

// toMatch returns the replay that an event is to be matched for, "" where it is new. It fails where there is nothing to match, or the
// event is delivered just now, which has to end first.
func (l *ledger) toMatch(e *entry) (replay string, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return e.replay, l.events[e.name] == e && e.needsMatch() && len(e.running) == 0
}

// statusOf returns the status of an event, which is not to be changed; nil before it is matched.
func (l *ledger) statusOf(e *entry) *v1alpha1.NetBoxEventStatus {
	l.mu.Lock()
	defer l.mu.Unlock()
	return e.status
}

// bodyOf returns the body of an event, nil where it is not held.
func (l *ledger) bodyOf(e *entry) *v1alpha1.NetBoxEvent {
	l.mu.Lock()
	defer l.mu.Unlock()
	return e.body
}

// hasMore reports whether a rule has more events of a lane to deliver in order.
func (l *ledger) hasMore(of lane, rule string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := l.lanes[of]
	return at != nil && slices.ContainsFunc(at.waiting, func(w waiting) bool { return w.rule == rule })
}

// setAside fails an event at which processes died.
func (l *ledger) setAside(e *entry, work string, deaths int, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.events[e.name] != e || e.finished {
		return
	}
	l.unorder(e)
	e.status = delivery.SetAside(e.status, e.replay, deaths, e.generation, now)
	e.dirty, e.deadly = &now, work
}

// take marks an event as being delivered by a rule, and returns a copy of the states of its actions. It fails where there is nothing to do.
func (l *ledger) take(e *entry, rule string) (actions []v1alpha1.ActionStatus, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.events[e.name] != e || e.finished || e.needsMatch() || !e.isPendingFor(rule) || slices.Contains(e.running, rule) {
		return nil, false
	}
	e.running = append(e.running, rule)
	return slices.Clone(e.ruleStatus(rule).Actions), true
}

// isWanted reports whether the work on an event may go on: it was not deleted, nor was a replay asked for.
func (l *ledger) isWanted(e *entry) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.events[e.name] == e && !e.needsMatch()
}

// put records the new states of a rule's actions. Delivered tells whether a sink has got something that would be sent again if that were
// not stored.
func (l *ledger) put(e *entry, rule string, actions []v1alpha1.ActionStatus, delivered bool, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.events[e.name] != e { // it was deleted
		return
	}
	status := *e.status
	status.Rules = slices.Clone(status.Rules)
	for i := range status.Rules {
		if status.Rules[i].Name == rule {
			merged := delivery.MergeActions(actions, status.Rules[i].Actions) // another replica may have written meanwhile
			status.Rules[i].Actions, status.Rules[i].State = merged, delivery.RuleState(merged)
		}
	}
	e.status = &status
	l.passOn(e)
	if e.dirty == nil {
		e.dirty = &now
	}
	if delivered && !slices.Contains(e.unsaved, rule) {
		e.unsaved = append(e.unsaved, rule)
		l.unsaved[types.NamespacedName{Namespace: e.name.Namespace, Name: rule}]++
	}
}

// giveBack ends what take began. It reports whether a replay waits for that.
func (l *ledger) giveBack(e *entry, rule string) (replay bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := slices.Index(e.running, rule)
	e.running = slices.Delete(e.running, at, at+1)
	return len(e.running) == 0 && l.events[e.name] == e && e.needsMatch()
}

// unsavedOf is how many deliveries of a rule are not in a stored status.
func (l *ledger) unsavedOf(rule types.NamespacedName) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.unsaved[rule]
}

// snapshot is a status that is to be stored.
type snapshot struct {
	status  *v1alpha1.NetBoxEventStatus
	version string
	taken   *v1alpha1.NetBoxEventStatus // of which it is made
}

// snapshot returns the status to be stored now, with its phase and conditions: when all is done, or else some time after the first
// change, so that one write has what several rules did; and at once where a rule has many deliveries that are not stored. Where it is not
// time to, it returns the time of it, zero for never.
func (l *ledger) snapshot(e *entry, now time.Time, delay time.Duration) (*snapshot, time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.events[e.name] != e || e.finished || e.needsMatch() {
		return nil, time.Time{}
	}
	done := delivery.IsDone(e.status)
	switch {
	case !done && e.dirty == nil:
		return nil, time.Time{}
	case !done && now.Before(e.dirty.Add(delay)) && !l.isUrgent(e):
		return nil, e.dirty.Add(delay)
	}
	e.ending = done
	status := *e.status
	status.Conditions = slices.Clone(status.Conditions)
	delivery.Summarize(&status, e.generation, now)
	return &snapshot{status: &status, version: e.version, taken: e.status}, time.Time{}
}

func (l *ledger) isUrgent(e *entry) bool {
	return slices.ContainsFunc(e.unsaved, func(rule string) bool {
		return l.unsaved[types.NamespacedName{Namespace: e.name.Namespace, Name: rule}] >= unsavedPerRule/2
	})
}

// stored records that a snapshot is at the API server, with a new resource version. It reports whether the event is finished by it, and for
// one that was set aside the piece of work at which processes died.
func (l *ledger) stored(e *entry, s *snapshot, version string) (finished bool, deadly string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	finished = s.status.Phase != v1alpha1.PhasePending
	if l.events[e.name] != e {
		return finished, e.deadly
	}
	if !e.isBefore(version) {
		e.version = version
	}
	if e.status == s.taken { // nothing was delivered meanwhile
		e.status = s.status
		e.dirty = nil
		l.settle(e)
	}
	if finished {
		l.finish(e)
	}
	return finished, e.deadly
}

// finish keeps of an event only that it is finished.
func (l *ledger) finish(e *entry) {
	l.release(e)
	l.uncount(e)
	l.settle(e)
	l.unorder(e)
	e.finished = true
}

// superseded records that another replica has finished an event.
func (l *ledger) superseded(e *entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.events[e.name] == e && !e.finished {
		l.finish(e)
	}
}

// merge takes over what others stored of an event, of which we know that it is newer.
func (l *ledger) merge(e *entry, stored *v1alpha1.NetBoxEvent) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.events[e.name] == e && !e.finished {
		l.adopt(e, stored)
	}
}

// unstorable records that the API server refuses the status of this event alone: it does not count among what is to be stored, so that it
// holds no other delivery up.
func (l *ledger) unstorable(e *entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.settle(e)
}

// startList begins a list, and returns its number.
func (l *ledger) startList() int32 {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.listing++
	return l.listing
}

// endList drops the events of a namespace, "" for all, that were not observed since a list began, and returns those that were unfinished.
// It also returns those that were first seen in the list: their lanes are complete now.
func (l *ledger) endList(namespace string, list int32) (gone, ready []*entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.events {
		switch {
		case namespace != metav1.NamespaceAll && e.name.Namespace != namespace:
		case e.seen >= list && !e.isListed:
			e.isListed = true
			ready = append(ready, e)
		case e.seen < list:
			l.drop(e)
			if !e.finished {
				gone = append(gone, e)
			}
		}
	}
	l.listed[namespace] = true
	return gone, ready
}

// keysOf returns the keys of what a rule has to deliver.
func (l *ledger) keysOf(rule types.NamespacedName) (keys []key) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.events {
		switch {
		case e.name.Namespace != rule.Namespace || e.finished || !e.isPendingFor(rule.Name):
		case slices.Contains(e.ordered, rule.Name):
			keys = append(keys, laneKey(rule.Name, e.line.lane))
		default:
			keys = append(keys, eventKey(rule.Name, e.name))
		}
	}
	return keys
}

// spanOf returns the span of the work on an event.
func (l *ledger) spanOf(e *entry) trace.Span {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e.span == nil { // the work began before this replica led
		return tracing.None
	}
	return e.span
}

// dirtyEvents returns the events whose status is newer than the stored one.
func (l *ledger) dirtyEvents() (dirty []*entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.events {
		if e.dirty != nil && !e.finished {
			dirty = append(dirty, e)
		}
	}
	return dirty
}

// Pending is how many events of a source are not finished.
func (l *ledger) Pending(source types.NamespacedName) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.counts[source]
}

// isListed reports whether all events of some namespaces were listed.
func (l *ledger) isListed(namespaces []string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !slices.ContainsFunc(namespaces, func(namespace string) bool { return !l.listed[namespace] })
}

// backlog is what is pending of one source.
type backlog struct {
	events int
	oldest time.Time // when it was received
}

// backlog returns what is pending of each source that has any.
func (l *ledger) backlog() map[types.NamespacedName]backlog {
	l.mu.Lock()
	defer l.mu.Unlock()
	sources := map[types.NamespacedName]backlog{}
	for _, e := range l.events {
		if e.finished {
			continue
		}
		of, received := sources[e.source()], time.Unix(0, e.received)
		if of.events++; of.events == 1 || received.Before(of.oldest) {
			of.oldest = received
		}
		sources[e.source()] = of
	}
	return sources
}

// waitingIn returns the rules that have events of a lane to deliver in order.
func (l *ledger) waitingIn(of lane) (rules []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if at := l.lanes[of]; at != nil {
		for _, w := range at.waiting {
			rules = append(rules, w.rule)
		}
	}
	return rules
}
