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
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/delivery"
	"github.com/netbox-events/netbox-event-operator/internal/tracing"
)

const (
	// heldBytes bounds the bodies in memory, by their size as sent: once for events that wait to be matched, and once for matched events. A
	// worker reads the other events from the API server.
	heldBytes = 8 << 20
	// bodyOverhead is the memory that an event takes besides the bytes of its body.
	bodyOverhead = 2 << 10
	// holdWait is how long a list waits for room for a body, once: the expressions of one namespace can be slow, and the others wait for the
	// list.
	holdWait = 200 * time.Millisecond
)

// ledger holds the pending events: their order, a bounded amount of their bodies, and their status, which may be newer than the stored
// one. It holds an event until the watch reports that it is no longer pending, so that a finished event is not taken for a new one while
// the watch lags behind our own write. It is safe for concurrent use.
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

	groupLines map[groupKey]*groupLine
	spreading  map[*entry][]*group // delivered groups that wait for the status of an event to be stored
	ending     map[string]bool     // the ids of these
	// unmatchedEvents counts the events that wait to be matched, by namespace, and unmatchedListed those of them that were first seen in a
	// list.
	unmatchedEvents, unmatchedListed map[string]int
}

// line has the events of a lane in the order in which NetBox made them, and the units of the rules that deliver them in order.
type line struct {
	lane    lane
	entries []*entry
	units   []*unit
}

// unitOf returns the unit of a rule, nil for none.
func (l *line) unitOf(rule string) *unit {
	for _, u := range l.units {
		if u.rule.Name == rule {
			return u
		}
	}
	return nil
}

// entry is a pending event. The ledger's lock guards it.
type entry struct {
	name       types.NamespacedName
	uid        types.UID
	generation int64
	version    string // the resource version of the stored event, as far as we know
	line       *line
	timestamp  int64 // when NetBox made it, in ns of Unix
	received   int64
	replay     delivery.Replay // requested by its annotations
	body       *v1alpha1.NetBoxEvent
	holds      int64 // bytes of unmatched that its body holds

	status   *v1alpha1.NetBoxEventStatus // nil before it is matched. Shared: to be copied before it is changed
	units    []*unit                     // those that have to deliver it
	dirty    *time.Time                  // since when its status is newer than the stored one; nil where it is not
	unsaved  []string                    // the rules whose deliveries are not in the stored status
	span     trace.Span
	inFlight int32  // deliveries
	seen     int32  // in which list
	isListed bool   // the list that it was first seen in is complete, so that all earlier events of its lane are known
	finished bool   // its last status is stored
	fromList bool   // it was first seen in a list
	waits    bool   // it is counted as one that waits to be matched
	noted    bool   // its status says that it waits for a group
	ending   bool   // its last status is being stored
	poison   string // the work that crashed the operator, if the event is set aside
}

func newLedger() *ledger {
	return &ledger{
		unmatched: semaphore.NewWeighted(heldBytes),
		events:    map[types.NamespacedName]*entry{},
		lanes:     map[lane]*line{},
		counts:    map[types.NamespacedName]int{},
		unsaved:   map[types.NamespacedName]int{},
		listed:    map[string]bool{},

		groupLines:      map[groupKey]*groupLine{},
		spreading:       map[*entry][]*group{},
		ending:          map[string]bool{},
		unmatchedEvents: map[string]int{},
		unmatchedListed: map[string]int{},
	}
}

func (e *entry) source() types.NamespacedName { return e.line.lane.source() }

func (e *entry) logValues() []any { return []any{"namespace", e.name.Namespace, "name", e.name.Name} }

func (e *entry) compare(other *entry) int {
	return cmp.Or(
		cmp.Compare(e.timestamp, other.timestamp), cmp.Compare(e.received, other.received), strings.Compare(e.name.Name, other.name.Name))
}

// needsMatch reports whether the event is new, or a replay was asked for.
func (e *entry) needsMatch() bool { return e.status == nil || e.replay.IsNew(e.status) }

// work names a piece of work on an event, or on a replay of it, in the journal.
func (e *entry) work(replay delivery.Replay, parts ...string) string {
	return fmt.Sprintf("%s %q %q", e.uid, replay, parts)
}

func (e *entry) ruleStatus(name string) *v1alpha1.RuleStatus {
	if e.status == nil {
		return nil
	}
	return delivery.RuleIn(e.status, name)
}

func (e *entry) isPendingFor(rule string) bool {
	status := e.ruleStatus(rule)
	return status != nil && status.State == v1alpha1.DeliveryPending
}

// isWaitingFor reports whether the delivery of the event for a rule waits for its result.
func (e *entry) isWaitingFor(rule string) bool {
	status := e.ruleStatus(rule)
	return status != nil && status.State == v1alpha1.DeliveryPending && delivery.IsWaiting(status.Actions)
}

// observe records an event that is pending at the API server. It returns the event if it is to be matched, because it is new or a replay
// was asked for, and nil otherwise. While events are listed it waits a moment for room for the body.
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
		e.isListed, e.fromList = !isListing, isListing
		toMatch = e
	}
	e.seen, e.generation = l.listing, event.Generation
	if l.adopt(e, event) && e.needsMatch() {
		toMatch = e
	}
	l.countUnmatched(e)
	if held && toMatch != nil && e.body == nil {
		e.body, e.holds = event, holds
	} else if held {
		l.unmatched.Release(holds)
	}
	return toMatch
}

// countUnmatched counts an event that waits to be matched, or does not any more.
func (l *ledger) countUnmatched(e *entry) {
	waits := l.events[e.name] == e && e.needsMatch() && !e.finishesGroup()
	if waits == e.waits {
		return
	}
	e.waits = waits
	change := map[bool]int{true: 1, false: -1}[waits]
	counts := []map[string]int{l.unmatchedEvents}
	if e.fromList {
		counts = append(counts, l.unmatchedListed)
		e.fromList = waits // a later replay is not of the list
	}
	for _, count := range counts {
		if count[e.name.Namespace] += change; count[e.name.Namespace] == 0 {
			delete(count, e.name.Namespace)
		}
	}
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
	name.Namespace = at.lane.source().Namespace // shares its memory
	e := &entry{
		name: name, uid: event.UID, line: at,
		timestamp: event.Spec.Timestamp.UnixNano(), received: event.Spec.Delivery.ReceivedAt.UnixNano(),
		replay: delivery.ReplayOf(event),
	}
	index, _ := slices.BinarySearchFunc(at.entries, e, (*entry).compare)
	at.entries = slices.Insert(at.entries, index, e)
	l.events[name] = e
	l.counts[e.source()]++
	return e
}

// isStale reports whether a resource version is not newer than the one that we know: the watch lags behind our own writes.
func (e *entry) isStale(version string) bool {
	order, err := resourceversion.CompareResourceVersion(version, e.version)
	return err == nil && order <= 0
}

// adopt merges a stored event: the annotation that asks for a replay, and the progress of another replica, which our next write would
// undo. It reports whether the annotation changed.
func (l *ledger) adopt(e *entry, stored *v1alpha1.NetBoxEvent) (asked bool) {
	if e.isStale(stored.ResourceVersion) {
		return false
	}
	if replay := delivery.ReplayOf(stored); replay != e.replay {
		e.replay, asked = replay, true
		l.dropBody(e) // actions see the annotation
	}
	status := &stored.Status
	switch {
	case status.StartTime == nil:
	case e.finished: // a replay of one rule keeps the states of the others
		e.status = status.DeepCopy()
	case e.status != nil && delivery.RecordedReplay(e.status) == delivery.RecordedReplay(status):
		e.status = delivery.Merge(e.status, status)
		l.leaveDone(e)
	case e.status == nil || e.replay == delivery.RecordedReplay(status): // another replica began
		if e.inFlight > 0 { // deliveries before the replay are in flight: our next write conflicts, and is merged then
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
	l.countUnmatched(e)
	l.dropBody(e)
	l.uncount(e)
	l.clearUnsaved(e)
	at := e.line
	if index, found := slices.BinarySearchFunc(at.entries, e, (*entry).compare); found {
		at.entries = slices.Delete(at.entries, index, index+1)
	}
	l.leaveLane(e)
	l.prune(at)
	if e.span != nil && !e.ending { // else it ends with the last write, which the watch may tell of first
		e.span.End()
	}
}

// uncount removes an event from the count of its source, once: when it is finished, or else when it is dropped.
func (l *ledger) uncount(e *entry) {
	if e.finished {
		return
	}
	if l.counts[e.source()]--; l.counts[e.source()] == 0 {
		delete(l.counts, e.source())
	}
}

// dropBody frees the body of an event.
func (l *ledger) dropBody(e *entry) {
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

// hibernate frees the body of an event that waits for a retry or its sink.
func (l *ledger) hibernate(e *entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dropBody(e)
}

// clearUnsaved removes an event's deliveries from the count of unsaved ones: they are stored, or never will be.
func (l *ledger) clearUnsaved(e *entry) {
	for _, rule := range e.unsaved {
		name := types.NamespacedName{Namespace: e.name.Namespace, Name: rule}
		if l.unsaved[name]--; l.unsaved[name] == 0 {
			delete(l.unsaved, name)
		}
	}
	e.unsaved = nil
}

// leaveDone unblocks later events of the lane for the rules that are done with an event.
func (l *ledger) leaveDone(e *entry) {
	e.units = slices.DeleteFunc(e.units, func(u *unit) bool {
		done := !e.isPendingFor(u.rule.Name) && !u.keepsDone(e)
		if done {
			l.leave(u, e)
		}
		return done
	})
}

// leaveLane unblocks later events of the lane for all rules.
func (l *ledger) leaveLane(e *entry) {
	for _, u := range e.units {
		l.leave(u, e)
	}
	e.units = nil
}

// leaveRule unblocks later events of the lane for one rule.
func (l *ledger) leaveRule(e *entry, rule string) {
	e.units = slices.DeleteFunc(e.units, func(u *unit) bool {
		if u.rule.Name == rule {
			l.leave(u, e)
		}
		return u.rule.Name == rule
	})
}

func (l *ledger) leave(u *unit, e *entry) {
	switch {
	case u.line != nil:
		u.events--
		l.prune(u.line)
	case u.groups != nil:
		l.leaveGroup(u.groups, e)
	}
}

// keepsDone reports whether an event stays with a unit that has delivered it: finishGroup has to give the states to the rest of its group.
func (u *unit) keepsDone(e *entry) bool {
	return u.groups != nil && slices.ContainsFunc(u.groups.groups, func(g *group) bool { return g.first() == e })
}

// prune forgets the units of a line that have nothing to deliver, and a line that has neither units nor events. A unit whose delivery is in
// flight stays, even where its event was deleted: the next event of the object must not start beside it.
func (l *ledger) prune(at *line) {
	at.units = slices.DeleteFunc(at.units, func(u *unit) bool { return u.events == 0 && u.inFlight == 0 })
	if len(at.entries) == 0 && len(at.units) == 0 {
		delete(l.lanes, at.lane)
	}
}

// start sets the first status of an event, or of a replay of it. It returns false if the event was deleted, if another replica has matched
// it, or while deliveries are in flight or its group is being finished: a replay starts after those.
func (l *ledger) start(e *entry, status *v1alpha1.NetBoxEventStatus, span trace.Span) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.events[e.name] != e || e.inFlight > 0 || e.finishesGroup() || !e.needsMatch() {
		return false
	}
	if e.finished { // a replay
		l.counts[e.source()]++
	}
	l.clearUnsaved(e)
	if status.ReplayRule == "" {
		l.leaveLane(e)
	} else {
		l.leaveRule(e, status.ReplayRule)
	}
	if e.span != nil {
		e.span.End()
	}
	e.status, e.span, e.finished, e.ending, e.dirty = delivery.KeepOthers(status, e.status), span, false, false, nil
	e.noted = false
	l.countUnmatched(e)
	return true
}

// enterLane registers the rules that have to deliver an event, in the order of its lane or without. It returns their units, and all others
// of the lane, which may have waited for the event to be matched.
func (l *ledger) enterLane(e *entry, inOrder func(rule string) bool) (units []*unit) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.events[e.name] != e || e.status == nil {
		return nil
	}
	before := e.units
	e.units = nil
	for i := range e.status.Rules {
		switch rule := &e.status.Rules[i]; {
		case rule.Group != nil && (rule.State == v1alpha1.DeliveryPending || rule.Group.Members != nil && !l.ending[rule.Group.ID]):
			e.units = append(e.units, l.joinGroup(e, rule))
		case rule.State == v1alpha1.DeliveryPending:
			e.units = append(e.units, e.unitFor(rule.Name, inOrder(rule.Name), before))
		}
	}
	for _, u := range before {
		if !slices.Contains(e.units, u) {
			l.leave(u, e)
		}
	}
	e.noteWaiting()
	units = append(slices.Clone(e.line.units), l.groupUnitsIn(e.line)...)
	for _, u := range e.units {
		if u.line == nil && u.groups == nil {
			units = append(units, u)
		}
	}
	if e.holds > 0 { // its body was held to be matched
		body := e.body
		l.dropBody(e)
		if size := body.Spec.Delivery.BodyBytes + bodyOverhead; len(e.status.Rules) > 0 && l.matched+size <= heldBytes {
			l.matched += size
			e.body = body
		}
	}
	return units
}

// unitFor returns the unit of a rule that has to deliver an event: one that it has already, or that of the lane, or a new one.
func (e *entry) unitFor(rule string, inOrder bool, has []*unit) *unit {
	at := slices.IndexFunc(has, func(u *unit) bool { return u.rule.Name == rule && (u.line != nil) == inOrder })
	if at >= 0 {
		return has[at]
	}
	name := types.NamespacedName{Namespace: e.name.Namespace, Name: rule}
	if !inOrder {
		return &unit{rule: name, event: e}
	}
	u := e.line.unitOf(rule)
	if u == nil {
		u = &unit{rule: name, line: e.line}
		e.line.units = append(e.line.units, u)
	}
	u.events++
	return u
}

// next returns the event that a unit has to deliver next; nil if there is none, or while an earlier event of the lane is not matched or may
// not be listed yet.
func (l *ledger) next(u *unit) *entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e := u.event; e != nil && slices.Contains(e.units, u) {
		return e
	}
	if u.groups != nil && len(u.groups.groups) > 0 {
		return u.groups.groups[0].first()
	}
	if u.line == nil || !slices.Contains(u.line.units, u) {
		return nil
	}
	if e := u.waiting; e != nil && l.events[e.name] == e && !e.finished && !e.needsMatch() && e.isWaitingFor(u.rule.Name) {
		return e // even if an earlier event has come meanwhile
	}
	u.waiting = nil
	for _, e := range u.line.entries {
		switch {
		case e.needsMatch() || !e.isListed:
			return nil
		case !e.finished && e.isPendingFor(u.rule.Name):
			return e
		}
	}
	return nil
}

// toMatch returns the replay that an event has to be matched for, none for a new event. It returns false if there is nothing to match, or
// while deliveries are in flight.
func (l *ledger) toMatch(e *entry) (replay delivery.Replay, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return e.replay, l.events[e.name] == e && e.needsMatch() && e.inFlight == 0 && !e.finishesGroup()
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

// hasMore reports whether a unit has more events to deliver in order.
func (l *ledger) hasMore(u *unit) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return u.events > 0
}

// setAside fails an event whose processing crashed the operator repeatedly.
func (l *ledger) setAside(e *entry, work string, crashes int, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.events[e.name] != e || e.finished {
		return
	}
	l.leaveLane(e)
	defer l.countUnmatched(e)
	e.status = delivery.SetAside(e.status, e.replay, crashes, e.generation, now)
	e.dirty, e.poison = &now, work
}

// acquire marks an event as in flight for a unit, and returns a copy of the states of its rule's actions. It returns false if there is
// nothing to deliver.
func (l *ledger) acquire(e *entry, u *unit) (actions []v1alpha1.ActionStatus, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.events[e.name] != e || e.finished || e.needsMatch() || !e.isPendingFor(u.rule.Name) {
		return nil, false
	}
	u.inFlight++
	e.inFlight++
	return slices.Clone(e.ruleStatus(u.rule.Name).Actions), true
}

// isWanted reports whether the work on an event may go on: it was not deleted, nor was a replay asked for.
func (l *ledger) isWanted(e *entry) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.events[e.name] == e && !e.needsMatch()
}

// record stores the new states of a rule's actions. Delivered is true if a sink accepted a delivery, which is repeated after a crash unless
// the status is stored before.
func (l *ledger) record(e *entry, rule string, actions []v1alpha1.ActionStatus, delivered bool, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.events[e.name] != e { // it was deleted
		return
	}
	l.setActions(e, rule, actions)
	l.leaveDone(e)
	if e.dirty == nil {
		e.dirty = &now
	}
	if delivered && !slices.Contains(e.unsaved, rule) {
		e.unsaved = append(e.unsaved, rule)
		l.unsaved[types.NamespacedName{Namespace: e.name.Namespace, Name: rule}]++
	}
}

// waits records that actions of a rule still wait for their results. It makes no difference to the stored status that is worth a write.
func (l *ledger) waits(e *entry, rule string, actions []v1alpha1.ActionStatus) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.events[e.name] == e {
		l.setActions(e, rule, actions)
	}
}

// setActions merges new states of a rule's actions with the status, which another replica may have written meanwhile.
func (l *ledger) setActions(e *entry, rule string, actions []v1alpha1.ActionStatus) {
	if before := e.ruleStatus(rule); before != nil {
		after := *before
		after.Actions = delivery.MergeActions(actions, before.Actions)
		after.State = delivery.RuleState(after.Actions)
		e.setRule(after)
	}
	e.noteWaiting()
	l.countUnmatched(e)
}

// noteWaiting makes the units of an event whose delivery waits for its result go on with that.
func (e *entry) noteWaiting() {
	for _, u := range e.units {
		if u.line != nil && e.isWaitingFor(u.rule.Name) {
			u.waiting = e
		}
	}
}

// isWaiting reports whether a delivery of an event for a rule waits for its result.
func (l *ledger) isWaiting(e *entry, rule string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.events[e.name] == e && !e.finished && e.isWaitingFor(rule)
}

// deadline returns the time after which an action on an event is not retried. It returns false if there is no such action.
func (l *ledger) deadline(e *entry, s sink, retry *v1alpha1.Retry) (time.Time, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	status := e.ruleStatus(s.rule.Name)
	if status == nil {
		return time.Time{}, false
	}
	action := delivery.Find(status.Actions, s.action)
	if action == nil {
		return time.Time{}, false
	}
	return delivery.Deadline(e.status, action, retry), true
}

// release ends an acquire. It reports whether a replay waits for it.
func (l *ledger) release(e *entry, u *unit) (replay bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	u.inFlight--
	e.inFlight--
	switch {
	case u.line != nil:
		l.prune(u.line)
	case u.groups != nil:
		l.pruneGroups(u.groups)
	}
	return e.inFlight == 0 && l.events[e.name] == e && e.needsMatch()
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
// change, so that one write covers several rules; and at once if a rule has many unsaved deliveries. If it is not
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
// an event that was set aside the work that crashed the operator.
func (l *ledger) stored(e *entry, s *snapshot, version string) (finished bool, poison string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	finished = s.status.Phase.IsFinished()
	if l.events[e.name] != e {
		return finished, e.poison
	}
	if !e.isStale(version) {
		e.version = version
	}
	// Unless a delivery ended meanwhile. The watch may have reported this write before its answer came, and adopt merged it then.
	if e.status == s.taken || equality.Semantic.DeepEqual(e.status.Rules, s.status.Rules) {
		e.status = s.status
		e.dirty = nil
		l.clearUnsaved(e)
	}
	if finished {
		l.finish(e)
	}
	return finished, e.poison
}

// finish marks an event as finished, and frees everything else about it.
func (l *ledger) finish(e *entry) {
	l.dropBody(e)
	l.uncount(e)
	l.clearUnsaved(e)
	l.leaveLane(e)
	e.finished = true
}

// superseded records that another replica finished an event, with a status.
func (l *ledger) superseded(e *entry, status *v1alpha1.NetBoxEventStatus) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.events[e.name] == e && !e.finished {
		e.status = status
		l.finish(e)
	}
}

// merge adopts a stored event that is known to be newer.
func (l *ledger) merge(e *entry, stored *v1alpha1.NetBoxEvent) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.events[e.name] == e && !e.finished {
		l.adopt(e, stored)
		l.countUnmatched(e)
	}
}

// unstorable records that the API server refuses the status of this event alone, so that it does not count as unsaved and block other
// deliveries of its rules. It returns the units of groups that waited for it.
func (l *ledger) unstorable(e *entry) []*unit {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.clearUnsaved(e)
	return l.noteRecords(e, func(*group) bool { return true })
}

// startList begins a list, and returns its number.
func (l *ledger) startList() int32 {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.listing++
	return l.listing
}

// endList drops the events of a namespace, "" for all, that were not observed since a list began, and returns the unfinished ones among
// them. It also returns the events that were first seen in the list: their lanes are complete now.
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

// unitsOf returns the units of a rule.
func (l *ledger) unitsOf(rule types.NamespacedName) (units []*unit) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.events {
		for _, u := range e.units {
			if u.rule == rule {
				units = append(units, u)
			}
		}
	}
	return units
}

// eachRule calls a function for each rule that an event matched, while no delivery of the event can begin or end.
func (l *ledger) eachRule(name types.NamespacedName, do func(*entry, *v1alpha1.RuleStatus)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.events[name]
	if e == nil || e.status == nil || e.finished {
		return
	}
	for i := range e.status.Rules {
		do(e, &e.status.Rules[i])
	}
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

// backlog describes the pending events of a source.
type backlog struct {
	events   int       // without those that wait for a group to close
	oldest   time.Time // when the oldest of these was received
	grouping int       // those that wait for a group to close
}

// backlog returns the backlog of each source that has pending events.
func (l *ledger) backlog() map[types.NamespacedName]backlog {
	l.mu.Lock()
	defer l.mu.Unlock()
	sources := map[types.NamespacedName]backlog{}
	for _, e := range l.events {
		if e.finished {
			continue
		}
		summary, received := sources[e.source()], time.Unix(0, e.received)
		if e.isGrouping() {
			summary.grouping++
			sources[e.source()] = summary
			continue
		}
		if summary.events++; summary.events == 1 || received.Before(summary.oldest) {
			summary.oldest = received
		}
		sources[e.source()] = summary
	}
	return sources
}

// unitsIn returns the units of a lane.
func (l *ledger) unitsIn(at *line) []*unit {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append(slices.Clone(at.units), l.groupUnitsIn(at)...)
}
