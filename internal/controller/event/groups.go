package event

import (
	"cmp"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/delivery"
)

// groupKey names the groups of a rule with one key, which are delivered one after the other.
type groupKey struct {
	rule types.NamespacedName
	key  string
}

// groupLine has the events of a groupKey.
type groupLine struct {
	key    groupKey
	unit   *unit
	open   []*entry // of no group yet, by receipt
	groups []*group // closed ones that are not delivered yet: the first is delivered next
}

// group is a closed group. Its first event keeps the record of it in its stored status, from before the first attempt until the statuses of
// all others are stored: then a restart changes nothing.
type group struct {
	id       string
	closed   time.Time
	entries  []*entry
	size     int32 // how many there were
	members  delivery.MemberSet
	recorded bool            // the record is stored; a group of one event has none
	left     map[*entry]bool // after the delivery: those whose status is not stored

	earliest *entry // in NetBox's order: groups that share NetBox objects are ordered by it
}

func newGroup(id string, size int32, closed time.Time, entries []*entry) *group {
	return &group{id: id, size: size, closed: closed, entries: entries, earliest: slices.MinFunc(entries, (*entry).compare)}
}

// first returns the event that keeps the record. The others are ordered by receipt.
func (g *group) first() *entry { return g.entries[0] }

// status returns the group as it is in the statuses of its events.
func (g *group) status(line *groupLine) *v1alpha1.GroupStatus {
	return &v1alpha1.GroupStatus{ID: g.id, Key: line.key.key, Events: g.size}
}

func (g *group) has(e *entry) bool {
	if g.entries[0] == e {
		return true
	}
	_, found := slices.BinarySearchFunc(g.entries[1:], e, (*entry).byReceipt)
	return found
}

// insert adds an event. It does not become the first.
func (g *group) insert(e *entry) {
	g.entries = append(g.entries[:1:1], insertEntry(slices.Clone(g.entries[1:]), e)...)
	g.earliest = slices.MinFunc(g.entries, (*entry).compare)
}

// remove removes an event, unless it is the only one.
func (g *group) remove(e *entry) {
	if g.entries[0] == e {
		g.entries = g.entries[1:]
		g.recorded = len(g.entries) == 1 // the next one keeps the record
	} else {
		g.entries = append(g.entries[:1:1], removeEntry(slices.Clone(g.entries[1:]), e)...)
	}
	g.earliest = slices.MinFunc(g.entries, (*entry).compare)
}

// inOrder returns the events of a group in NetBox's order.
func (g *group) inOrder() []*entry {
	return slices.SortedFunc(slices.Values(g.entries), (*entry).compare)
}

// byReceipt orders events by the time of their receipt, by which groups are made.
func (e *entry) byReceipt(other *entry) int {
	return cmp.Or(cmp.Compare(e.received, other.received), strings.Compare(e.name.Name, other.name.Name))
}

// member names the event in a group.
func (e *entry) member() string {
	return delivery.Member(e.name.Name, delivery.RecordedReplay(e.status))
}

func insertEntry(entries []*entry, e *entry) []*entry {
	at, found := slices.BinarySearchFunc(entries, e, (*entry).byReceipt)
	if found {
		return entries
	}
	return slices.Insert(entries, at, e)
}

func removeEntry(entries []*entry, e *entry) []*entry {
	if at, found := slices.BinarySearchFunc(entries, e, (*entry).byReceipt); found {
		return slices.Delete(entries, at, at+1)
	}
	return entries
}

const (
	// matchGrace is how long a group stays open for events that were received in time and are not matched yet.
	matchGrace = 2 * time.Second
	// unsettledInterval is the pause where a group cannot be closed yet because events are still listed or matched.
	unsettledInterval = 100 * time.Millisecond
)

// joinGroup adds an event to the groups of a rule, and returns their unit.
func (l *ledger) joinGroup(e *entry, status *v1alpha1.RuleStatus) *unit {
	key := groupKey{types.NamespacedName{Namespace: e.name.Namespace, Name: status.Name}, status.Group.Key}
	line := l.groupLines[key]
	if line == nil {
		line = &groupLine{key: key}
		line.unit = &unit{rule: key.rule, groups: line}
		l.groupLines[key] = line
	}
	for _, g := range line.groups {
		switch {
		case g.has(e):
			return line.unit
		case g.id == status.Group.ID && status.Group.Until == nil || g.members.Has(e.member()):
			g.insert(e)
			return line.unit
		}
	}
	if status.Group.Members != nil || status.Group.Events == 1 {
		l.adoptGroup(line, e, status)
	} else {
		line.open = insertEntry(line.open, e)
	}
	return line.unit
}

// adoptGroup makes the group of a record that another replica stored in the status of an event.
func (l *ledger) adoptGroup(line *groupLine, e *entry, status *v1alpha1.RuleStatus) {
	g := newGroup(status.Group.ID, status.Group.Events, time.Unix(0, e.received), []*entry{e})
	g.members, g.recorded = delivery.NewMemberSet(status.Group.Members), true
	line.open = removeEntry(line.open, e)
	for _, other := range slices.Clone(line.open) {
		if g.members.Has(other.member()) {
			line.open = removeEntry(line.open, other)
			g.insert(other)
		}
	}
	line.groups = append(line.groups, g)
	slices.SortFunc(line.groups, func(a, b *group) int { return a.first().byReceipt(b.first()) })
}

// leaveGroup removes an event from the groups of a unit: it was deleted, is replayed, or another replica finished it.
func (l *ledger) leaveGroup(line *groupLine, e *entry) {
	line.open = removeEntry(line.open, e)
	line.groups = slices.DeleteFunc(line.groups, func(g *group) bool { return len(g.entries) == 1 && g.has(e) })
	for _, g := range line.groups {
		if !g.has(e) {
			continue
		}
		before := e.ruleStatus(line.key.rule.Name)
		if g.first() == e && before != nil && before.Group != nil && before.Group.ID == g.id { // the next one goes on with its attempts
			g.entries[1].setRule(*before)
		}
		g.remove(e)
	}
	l.pruneGroups(line)
}

func (e *entry) removeUnit(u *unit) {
	e.units = slices.DeleteFunc(e.units, func(other *unit) bool { return other == u })
}

// setRule sets the status of a rule.
func (e *entry) setRule(rule v1alpha1.RuleStatus) {
	status := *e.status
	status.Rules = slices.Clone(status.Rules)
	for i := range status.Rules {
		if status.Rules[i].Name == rule.Name {
			status.Rules[i] = rule
		}
	}
	e.status = &status
}

func (l *ledger) pruneGroups(line *groupLine) {
	if len(line.open)+len(line.groups) == 0 && line.unit.inFlight == 0 {
		delete(l.groupLines, line.key)
	}
}

// nextGroup returns the next group of a unit that may be delivered, and its first event. If there is none, wait is the time until it has to
// be asked again, 0 if the unit is queued by then.
func (l *ledger) nextGroup(u *unit, spec *v1alpha1.Group, isOrdered bool, now time.Time) (next *group, first *entry, wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	line := u.groups
	if l.groupLines[line.key] != line {
		return nil, nil, 0
	}
	l.leaveEnded(line)
	if len(line.groups) == 0 {
		if len(line.open) == 0 {
			return nil, nil, 0
		}
		if wait := l.closeGroup(line, spec, now); wait > 0 {
			return nil, nil, wait
		}
	}
	g := line.groups[0]
	if g.members != nil && !l.isComplete(line.key.rule.Namespace) {
		return nil, nil, unsettledInterval // events of a group that another replica closed may not be matched yet
	}
	if isOrdered {
		if blocked, wait := isBlocked(line, g); blocked {
			return nil, nil, wait
		}
	}
	return g, g.first(), 0
}

// leaveEnded removes the events that another replica has delivered otherwise.
func (l *ledger) leaveEnded(line *groupLine) {
	rule := line.key.rule.Name
	ended := slices.Clone(line.open)
	for _, g := range line.groups {
		for _, e := range g.entries {
			if status := e.ruleStatus(rule); status == nil || status.Group == nil || status.Group.ID != g.id {
				ended = append(ended, e)
			}
		}
	}
	for _, e := range ended {
		if !e.isPendingFor(rule) {
			l.leaveGroup(line, e)
			e.removeUnit(line.unit)
		}
	}
}

// closeGroup closes the first group of the open events, or returns the time until it may be closed.
func (l *ledger) closeGroup(line *groupLine, spec *v1alpha1.Group, now time.Time) (wait time.Duration) {
	size, until := delivery.FirstGroup(line.receivedAt, len(line.open), spec, now)
	if until.IsZero() && !l.isSettled(line.key.rule.Namespace, line.receivedAt(size-1).Add(spec.Quiet.Duration), now) {
		return unsettledInterval
	}
	for _, e := range line.open[:size] { // a replayed event waits for others
		next := delivery.Next(e.ruleStatus(line.key.rule.Name).Actions, &v1alpha1.NetBoxEventRule{}, nil)
		if next.After(now) && next.After(until) {
			until = next
		}
	}
	if !until.IsZero() {
		return max(until.Sub(now), time.Millisecond)
	}
	first := line.open[0]
	g := newGroup(line.idOf(first), int32(size), now, slices.Clone(line.open[:size])) //nolint:gosec // G115: 5000
	g.recorded = size == 1
	line.open = slices.Delete(line.open, 0, size)
	line.groups = append(line.groups, g)
	return 0
}

// receivedAt returns when an open event was received.
func (line *groupLine) receivedAt(i int) time.Time { return time.Unix(0, line.open[i].received) }

// idOf returns the id of a group that begins with an event.
func (line *groupLine) idOf(first *entry) string {
	rule := line.key.rule
	return delivery.GroupID(rule.Namespace, rule.Name, line.key.key, string(first.uid), delivery.RecordedReplay(first.status))
}

// isComplete reports whether all events of a namespace that were pending when this replica began to lead are known and matched.
func (l *ledger) isComplete(namespace string) bool {
	return (l.listed[namespace] || l.listed[metav1.NamespaceAll]) && l.unmatchedListed[namespace] == 0
}

// isSettled reports whether all events of a namespace that were received before a time are known and matched, or had enough time for it.
func (l *ledger) isSettled(namespace string, before, now time.Time) bool {
	return l.isComplete(namespace) && (l.unmatchedEvents[namespace] == 0 || !now.Before(before.Add(matchGrace)))
}

// isBlocked reports whether a group has to wait for another group of the rule, or for an event that is in none yet, with which it shares a
// NetBox object. Of two closed groups, the one with the earliest event goes first, so that no two wait for each other: also not by way of a
// group that is delivered before one of them because it has the same key.
func isBlocked(at *groupLine, g *group) (blocked bool, wait time.Duration) {
	latest := map[*line]*entry{} // of the group, in each lane
	for _, e := range g.entries {
		if before := latest[e.line]; before == nil || before.compare(e) < 0 {
			latest[e.line] = e
		}
	}
	for lane, last := range latest {
		for _, other := range lane.entries {
			if blocked, wait := isBlockedBy(other, last, at.key.rule.Name, g); blocked {
				return true, wait
			}
		}
	}
	return false, 0
}

// isBlockedBy reports whether a group has to wait because of an event of one of its NetBox objects, of which it has a last event.
func isBlockedBy(other, last *entry, rule string, g *group) (blocked bool, wait time.Duration) {
	isEarlier := other.compare(last) < 0
	switch {
	case g.has(other):
		return false, 0
	case other.needsMatch() || !other.isListed:
		return isEarlier, 0 // startDeliveries queues this unit
	case other.finished || !other.isPendingFor(rule):
		return false, 0
	}
	ahead, isClosed := groupsUpTo(other, rule)
	if slices.ContainsFunc(ahead, func(theirs *group) bool { return theirs == g || g.earliest.compare(theirs.earliest) < 0 }) {
		return false, 0 // it comes after this group
	}
	return isClosed || isEarlier, blockedInterval // an open group closes in time; finishGroup may queue this unit earlier
}

// blockedInterval is the pause of a group that waits for another one.
const blockedInterval = time.Second

// groupsUpTo returns the closed groups of a rule that are delivered before, or with, an event that waits for the rule, and whether it is in
// the last of them.
func groupsUpTo(e *entry, rule string) (groups []*group, isClosed bool) {
	for _, u := range e.units {
		if u.groups == nil || u.rule.Name != rule {
			continue
		}
		for i, g := range u.groups.groups {
			if g.has(e) {
				return u.groups.groups[:i+1], true
			}
		}
		return u.groups.groups, false
	}
	return nil, false
}

// recordGroup puts the record of a group into the status of its first event. It returns that event if the record is to be stored before the
// group is delivered.
func (l *ledger) recordGroup(u *unit, g *group, rule *v1alpha1.NetBoxEventRule, now time.Time) (toStore *entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	first := g.first()
	status := first.ruleStatus(u.rule.Name)
	if status == nil {
		return nil
	}
	if status.Group == nil || status.Group.ID != g.id || !g.recorded {
		recorded := *status
		recorded.Group = g.status(u.groups)
		if len(g.entries) > 1 {
			names := make([]string, len(g.entries))
			for i, e := range g.entries {
				names[i] = e.member()
			}
			recorded.Group.Members = delivery.EncodeMembers(names)
		}
		recorded.Actions = slices.Clone(status.Actions)
		for i := range recorded.Actions {
			if action := &recorded.Actions[i]; action.StartTime == nil && !waitsForOthers(rule, action.Name) {
				action.StartTime = new(metav1.NewTime(g.closed))
			}
		}
		first.setRule(recorded)
	}
	if g.recorded {
		return nil
	}
	first.dirty = new(now.Add(-writeDelay)) // at once
	return first
}

func waitsForOthers(rule *v1alpha1.NetBoxEventRule, action string) bool {
	spec := delivery.SpecOf(rule, action)
	return spec != nil && len(spec.DependsOn) > 0
}

// storedRecords notes which records of groups a stored status of an event has. It returns the units of these groups.
func (l *ledger) storedRecords(e *entry, stored *v1alpha1.NetBoxEventStatus) []*unit {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.noteRecords(e, func(g *group) bool {
		return slices.ContainsFunc(stored.Rules, func(rule v1alpha1.RuleStatus) bool {
			return rule.Group != nil && rule.Group.ID == g.id && rule.Group.Members != nil
		})
	})
}

// noteRecords lets those groups be delivered whose record an event keeps and that are done waiting for it: it is stored, or cannot be. It
// returns their units.
func (l *ledger) noteRecords(e *entry, isDone func(*group) bool) (units []*unit) {
	for _, u := range e.units {
		if u.groups == nil {
			continue
		}
		for _, g := range u.groups.groups {
			if g.first() == e && !g.recorded && isDone(g) {
				g.recorded = true
				units = append(units, u)
			}
		}
	}
	return units
}

// isDelivered reports whether nothing is left to do for a group but to store the statuses of its events.
func (l *ledger) isDelivered(u *unit, g *group) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !g.first().isPendingFor(u.rule.Name)
}

// finishGroup gives all events of a delivered group the states of its actions. It returns the events whose statuses are to be stored, and
// the units of groups that may have waited for this one.
func (l *ledger) finishGroup(u *unit, g *group, now time.Time) (toStore []*entry, units []*unit) {
	l.mu.Lock()
	defer l.mu.Unlock()
	line, first := u.groups, g.first()
	status := first.ruleStatus(u.rule.Name)
	if status == nil || !slices.Contains(line.groups, g) {
		return nil, nil
	}
	line.groups = slices.DeleteFunc(line.groups, func(other *group) bool { return other == g })
	g.left = map[*entry]bool{}
	waiting := map[*unit]bool{line.unit: true}
	for _, e := range g.entries {
		e.removeUnit(u)
		for _, other := range l.groupUnitsIn(e.line) {
			if other.rule == u.rule {
				waiting[other] = true
			}
		}
		if e == first {
			continue
		}
		finished := *status
		finished.Group = g.status(line)
		e.setRule(finished)
		e.dirty, g.left[e] = &now, true
		l.spreading[e] = append(l.spreading[e], g)
		l.ending[g.id] = true
		toStore = append(toStore, e)
	}
	if len(g.left) == 0 {
		l.endRecord(g, u.rule.Name, now)
	}
	for other := range waiting {
		units = append(units, other)
	}
	l.pruneGroups(line)
	return append(toStore, first), units
}

// endRecord removes the record of a group whose other events are finished.
func (l *ledger) endRecord(g *group, rule string, now time.Time) {
	first := g.first()
	status := first.ruleStatus(rule)
	if l.events[first.name] != first || status == nil || status.Group == nil || status.Group.ID != g.id || status.Group.Members == nil {
		return
	}
	ended := *status
	ended.Group = &v1alpha1.GroupStatus{ID: g.id, Key: status.Group.Key, Events: g.size}
	first.setRule(ended)
	first.dirty = &now
	l.countUnmatched(first)
}

// finishesGroup reports whether the event keeps the record of a delivered group, because the statuses of its other events are not stored.
func (e *entry) finishesGroup() bool {
	return e.status != nil && slices.ContainsFunc(e.status.Rules, func(rule v1alpha1.RuleStatus) bool {
		return rule.State != v1alpha1.DeliveryPending && rule.Group != nil && rule.Group.Members != nil
	})
}

// settleGroups notes that the status of an event is stored, or that it is gone. It returns the events whose records are no longer needed.
func (l *ledger) settleGroups(e *entry, stored *v1alpha1.NetBoxEventStatus, now time.Time) (ended []*entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.spreading[e]) == 0 {
		return nil
	}
	var left []*group
	for _, g := range l.spreading[e] {
		rule := ""
		if stored != nil {
			if rule = ruleOfGroup(stored, g.id); rule == "" {
				left = append(left, g)
				continue
			}
		}
		if delete(g.left, e); len(g.left) == 0 {
			if rule == "" {
				rule = ruleOfGroup(g.first().status, g.id)
			}
			l.endRecord(g, rule, now)
			delete(l.ending, g.id)
			ended = append(ended, g.first())
		}
	}
	if l.spreading[e] = left; left == nil {
		delete(l.spreading, e)
	}
	return ended
}

// ruleOfGroup returns the rule that has delivered a group, by the status of an event; "" for none.
func ruleOfGroup(status *v1alpha1.NetBoxEventStatus, id string) string {
	if status == nil {
		return ""
	}
	for i := range status.Rules {
		if rule := &status.Rules[i]; rule.Group != nil && rule.Group.ID == id && rule.State != v1alpha1.DeliveryPending {
			return rule.Name
		}
	}
	return ""
}

// adoptOutcome gives the first event of a group the states of the group's actions that another event has in its stored status.
func (l *ledger) adoptOutcome(g *group, rule string, stored *v1alpha1.NetBoxEventStatus) {
	l.mu.Lock()
	defer l.mu.Unlock()
	g.size, g.members = int32(len(g.entries)), nil //nolint:gosec // G115: at most 5000
	status := g.first().ruleStatus(rule)
	if status == nil {
		return
	}
	for i := range stored.Rules {
		other := &stored.Rules[i]
		if other.Name == rule && other.Group != nil && other.Group.ID == g.id && other.State != v1alpha1.DeliveryPending {
			adopted := *status
			adopted.Actions, adopted.State = other.Actions, other.State
			g.size = other.Group.Events
			g.first().setRule(adopted)
		}
	}
}

// lost returns how many events of a group that another replica closed are not pending any more.
func (l *ledger) lost(g *group) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if g.members == nil {
		return 0
	}
	return int(g.size) - len(g.entries)
}

// entriesOf returns the events of a group in NetBox's order.
func (l *ledger) entriesOf(g *group) []*entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	return g.inOrder()
}

// ungroup delivers the events of a rule that has no groups any more one by one. It returns their units.
func (l *ledger) ungroup(u *unit, isOrdered bool) (units []*unit) {
	l.mu.Lock()
	defer l.mu.Unlock()
	line := u.groups
	entries := slices.Clone(line.open)
	for _, g := range line.groups {
		entries = append(entries, g.entries...)
	}
	line.open, line.groups = nil, nil
	for _, e := range entries {
		status := *e.ruleStatus(u.rule.Name)
		status.Group = nil
		e.setRule(status)
		e.removeUnit(u)
		if status.State == v1alpha1.DeliveryPending {
			e.units = append(e.units, e.unitFor(u.rule.Name, isOrdered, nil))
			units = append(units, e.units[len(e.units)-1])
		}
	}
	l.pruneGroups(line)
	return units
}

// groupUnitsOf returns the units of groups of a rule.
func (l *ledger) groupUnitsOf(rule types.NamespacedName) (units []*unit) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for key, line := range l.groupLines {
		if key.rule == rule {
			units = append(units, line.unit)
		}
	}
	return units
}

// groupUnitsIn returns the units of groups of the events of a lane.
func (l *ledger) groupUnitsIn(at *line) (units []*unit) {
	for _, e := range at.entries {
		for _, u := range e.units {
			if u.groups != nil && !slices.Contains(units, u) {
				units = append(units, u)
			}
		}
	}
	return units
}

// noteAfter is how long an event waits for its group before its status says so: a write that most events need not.
const noteAfter = 10 * time.Second

// noteGrouping makes the statuses of the events that have waited long say for what. It returns these events, and the time until it is to
// be called again, 0 for never.
func (l *ledger) noteGrouping(u *unit, spec *v1alpha1.Group, now time.Time) (noted []*entry, again time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	note := func(e *entry, group *v1alpha1.GroupStatus) {
		if wait := time.Unix(0, e.received).Add(noteAfter).Sub(now); wait > 0 {
			if again == 0 || wait < again {
				again = wait
			}
			return
		}
		if status := e.ruleStatus(u.rule.Name); !e.noted && status != nil {
			waiting := *status
			waiting.Group = group
			e.setRule(waiting)
			e.noted, e.dirty = true, new(now.Add(-writeDelay))
			noted = append(noted, e)
		}
	}
	line := u.groups
	for _, g := range line.groups {
		for _, e := range g.entries[1:] {
			note(e, g.status(line))
		}
	}
	if len(line.open) > 0 {
		size, until := delivery.FirstGroup(line.receivedAt, len(line.open), spec, now)
		if until.IsZero() {
			until = line.receivedAt(size - 1).Add(spec.Quiet.Duration)
		}
		for _, e := range line.open[:size] {
			note(e, &v1alpha1.GroupStatus{ID: line.idOf(line.open[0]), Key: line.key.key, Until: new(metav1.NewTime(until))})
		}
	}
	return noted, again
}

// isGrouping reports whether an event waits for nothing but its groups to close.
func (e *entry) isGrouping() bool {
	return len(e.units) > 0 && !slices.ContainsFunc(e.units, func(u *unit) bool {
		if u.groups == nil {
			return true
		}
		_, isOpen := slices.BinarySearchFunc(u.groups.open, e, (*entry).byReceipt)
		return !isOpen || len(u.groups.groups) > 0 // it waits for another group
	})
}
