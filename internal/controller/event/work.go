package event

import (
	"context"
	"maps"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"
	"k8s.io/apimachinery/pkg/types"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

// known remembers the work on pending events until the cache, which lags behind our own writes, lets go of them.
//
// Reconcile must ask for what is known of a lane before it reads the cache: an event that is finished and forgotten in between would look
// like a new one.
type known struct {
	mu     sync.Mutex
	byLane map[Lane]map[types.UID]*work
}

// of returns what is known of the events of a lane.
func (k *known) of(lane Lane) map[types.UID]*work {
	k.mu.Lock()
	defer k.mu.Unlock()
	return maps.Clone(k.byLane[lane])
}

func (k *known) put(lane Lane, one *work) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.byLane == nil {
		k.byLane = map[Lane]map[types.UID]*work{}
	}
	if k.byLane[lane] == nil {
		k.byLane[lane] = map[types.UID]*work{}
	}
	if before := k.byLane[lane][one.event.UID]; before != nil {
		before.span.End()
	}
	k.byLane[lane][one.event.UID] = one
}

// forget forgets an event that the cache let go of.
func (k *known) forget(lane Lane, uid types.UID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if gone := k.byLane[lane][uid]; gone != nil && !gone.isFinished() { // else it ends when its last status is known to be written
		gone.span.End()
	}
	delete(k.byLane[lane], uid)
	if len(k.byLane[lane]) == 0 {
		delete(k.byLane, lane)
	}
}

// isUnfinished tells whether an event is known and not finished.
func (k *known) isUnfinished(lane Lane, uid types.UID) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	one := k.byLane[lane][uid]
	return one != nil && !one.isFinished()
}

// lanes returns the lanes of a namespace in which something is known of an event.
func (k *known) lanes(namespace string) []Lane {
	k.mu.Lock()
	defer k.mu.Unlock()
	var lanes []Lane
	for lane := range k.byLane {
		if lane.Namespace == namespace {
			lanes = append(lanes, lane)
		}
	}
	return lanes
}

func (k *known) all() (all []*work) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, lane := range k.byLane {
		for _, one := range lane {
			all = append(all, one)
		}
	}
	return all
}

// work is what is known of one pending event: the status that it is to have, ahead of what the API server has.
type work struct {
	event *v1alpha1.NetBoxEvent // not to be changed
	span  trace.Span

	mu       sync.Mutex
	status   v1alpha1.NetBoxEventStatus
	running  map[string]bool // the rules whose deliveries run, or wait for their turn to
	unsaved  time.Time       // since when status is ahead of the API server; zero where it is not
	saved    chan struct{}   // closed after the next attempt to write it; nil where nobody waits for that
	ending   bool            // it is to begin anew
	finished bool            // its last status is written, or being written
}

// isAhead takes note that the status is no longer what the API server has.
func (w *work) isAhead(now time.Time) {
	if w.unsaved.IsZero() {
		w.unsaved = now
	}
}

// awaitSave waits for the next attempt to write the status, if that is to be soon: where nothing else is being done about the event.
func (w *work) awaitSave(ctx context.Context) {
	w.mu.Lock()
	if w.unsaved.IsZero() || len(w.running) > 0 {
		w.mu.Unlock()
		return
	}
	if w.saved == nil {
		w.saved = make(chan struct{})
	}
	saved := w.saved
	w.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, saveDelay) // it may be deleted meanwhile, or begin anew
	defer cancel()
	select {
	case <-saved:
	case <-ctx.Done():
	}
}

// triedSave ends what waits in awaitSave.
func (w *work) triedSave() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.saved != nil {
		close(w.saved)
		w.saved = nil
	}
}

func (w *work) isFinished() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.finished
}

func (w *work) isEnding() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ending
}

// isReplaced tells whether somebody asked for the event to be done again, so that it begins anew. What runs comes to its end before, and
// nothing else is begun.
func (w *work) isReplaced(event *v1alpha1.NetBoxEvent) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ending = isReplay(event, &w.status)
	return w.ending && len(w.running) == 0
}

// isReplay tells whether somebody asked for an event to be done again since its status was begun.
func isReplay(event *v1alpha1.NetBoxEvent, status *v1alpha1.NetBoxEventStatus) bool {
	wanted := event.Annotations[v1alpha1.AnnotationReplay]
	return wanted != "" && wanted != status.Replay
}

// turn is what the events of a lane share while it is moved.
type turn struct {
	now   time.Time
	rules func(name string) (*v1alpha1.NetBoxEventRule, error)
	// due is what is to be delivered now.
	due []*delivery
	// held has the rules with an order that have an earlier event to do, and the delivery that this event is part of, nil where it may
	// not begin yet.
	held map[string]*delivery
	// busy has the rules that do an event of the lane now. One that came late may be before that, and waits all the same.
	busy map[string]bool
	wake time.Time // when there is more to do, zero for never
}

// deliveryEvents is how many events of a lane a rule with an order is given at once: many, because a lane of thousands takes long to look
// at; few, because they are what is delivered again after a kill.
const deliveryEvents = 16

// delivery is what a rule is to do: one event, or several of one lane in their order.
type delivery struct {
	rule  string
	works []*work
}

func (t *turn) wakeAt(at time.Time) {
	if t.wake.IsZero() || at.Before(t.wake) {
		t.wake = at
	}
}

// pause is how long the lane can rest, 0 for until something happens.
func (t *turn) pause() time.Duration {
	if t.wake.IsZero() {
		return 0
	}
	return max(t.wake.Sub(t.now), time.Millisecond)
}

// advance adds to the turn what is to be delivered now of an event. It skips what has no rule any more.
func (w *work) advance(turn *turn) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.finished {
		return nil
	}
	for i := range w.status.Rules {
		status := &w.status.Rules[i]
		if status.State != v1alpha1.DeliveryPending {
			continue
		}
		rule, err := turn.rules(status.Name)
		if err != nil {
			return err
		}
		running := w.running[status.Name] || w.ending // what begins anew holds those behind it as before
		if !running && skipMissing(status, rule) {
			w.isAhead(turn.now)
			if status.State != v1alpha1.DeliveryPending {
				continue
			}
		}
		begun, held := turn.held[status.Name]
		ordered := rule == nil || rule.Spec.Order != v1alpha1.OrderNone
		at := nextAttempt(status)
		switch {
		case running, ordered && turn.busy[status.Name], held && (begun == nil || len(begun.works) == deliveryEvents):
			begun = nil
		case at.After(turn.now):
			if !held {
				turn.wakeAt(at)
			}
			begun = nil
		case held:
			begun.works = append(begun.works, w)
			w.running[status.Name] = true
		default:
			begun = &delivery{status.Name, []*work{w}}
			turn.due = append(turn.due, begun)
			w.running[status.Name] = true
		}
		if ordered {
			turn.held[status.Name] = begun
		}
	}
	return nil
}

// addBusy adds the rules that do an event now.
func (w *work) addBusy(busy map[string]bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for name := range w.running {
		busy[name] = true
	}
}

// skipMissing ends the actions that a rule no longer has, all of them where the rule itself is gone. It tells whether there were any.
func skipMissing(status *v1alpha1.RuleStatus, rule *v1alpha1.NetBoxEventRule) bool {
	there := map[string]bool{}
	if rule != nil {
		for i := range rule.Spec.Actions {
			there[rule.Spec.Actions[i].Name] = true
		}
	}
	skipped := false
	for i := range status.Actions {
		if action := &status.Actions[i]; action.State == v1alpha1.DeliveryPending && !there[action.Name] {
			action.State, action.NextAttemptTime, skipped = v1alpha1.DeliverySkipped, nil, true
		}
	}
	status.State = ruleState(status.Actions)
	return skipped
}

// ruleState is that of a rule whose actions have some states.
func ruleState(actions []v1alpha1.ActionStatus) v1alpha1.DeliveryState {
	states := map[v1alpha1.DeliveryState]bool{}
	for i := range actions {
		states[actions[i].State] = true
	}
	for _, state := range []v1alpha1.DeliveryState{v1alpha1.DeliveryPending, v1alpha1.DeliveryFailed, v1alpha1.DeliverySkipped} {
		if states[state] {
			return state
		}
	}
	return v1alpha1.DeliverySucceeded
}

// nextAttempt is when the next action of a rule is due, zero for at once.
func nextAttempt(status *v1alpha1.RuleStatus) time.Time {
	var next time.Time
	for i := range status.Actions {
		switch action := &status.Actions[i]; {
		case action.State != v1alpha1.DeliveryPending:
		case action.NextAttemptTime == nil:
			return time.Time{}
		case next.IsZero() || action.NextAttemptTime.Time.Before(next):
			next = action.NextAttemptTime.Time
		}
	}
	return next
}

// isDone tells whether nothing is left to do.
func isDone(rules []v1alpha1.RuleStatus) bool {
	for i := range rules {
		if rules[i].State == v1alpha1.DeliveryPending {
			return false
		}
	}
	return true
}
