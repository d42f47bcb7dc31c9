package event

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

// works remembers the work on pending events until the cache, which lags behind our own writes, lets go of them.
//
// Reconcile must ask for what is known of a lane before it reads the cache: an event that is finished and forgotten in between would look
// like a new one.
type works struct {
	mu     sync.Mutex
	byLane map[Lane]map[types.UID]*work
}

// of returns what is known of the events of a lane.
func (w *works) of(lane Lane) map[types.UID]*work {
	w.mu.Lock()
	defer w.mu.Unlock()
	known := make(map[types.UID]*work, len(w.byLane[lane]))
	for uid, one := range w.byLane[lane] {
		known[uid] = one
	}
	return known
}

func (w *works) put(lane Lane, one *work) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.byLane == nil {
		w.byLane = map[Lane]map[types.UID]*work{}
	}
	if w.byLane[lane] == nil {
		w.byLane[lane] = map[types.UID]*work{}
	}
	w.byLane[lane][one.event.UID] = one
}

// forget forgets an event. It tells whether others of its lane may have waited for it.
func (w *works) forget(lane Lane, uid types.UID) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	one := w.byLane[lane][uid]
	delete(w.byLane[lane], uid)
	if len(w.byLane[lane]) == 0 {
		delete(w.byLane, lane)
		return false
	}
	return one != nil && !one.isFinished()
}

// lanes returns the lanes of a namespace in which something is known of an event.
func (w *works) lanes(namespace string) []Lane {
	w.mu.Lock()
	defer w.mu.Unlock()
	var lanes []Lane
	for lane := range w.byLane {
		if lane.Namespace == namespace {
			lanes = append(lanes, lane)
		}
	}
	return lanes
}

func (w *works) all() (all []*work) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, lane := range w.byLane {
		for _, one := range lane {
			all = append(all, one)
		}
	}
	return all
}

// work is what is known of one pending event: the status that it is to have, ahead of what the API server has.
type work struct {
	event *v1alpha1.NetBoxEvent // not to be changed

	mu       sync.Mutex
	status   v1alpha1.NetBoxEventStatus
	running  map[string]bool // the rules whose deliveries run, or wait for their turn to
	unsaved  time.Time       // since when status is ahead of the API server; zero where it is not
	finished bool            // its last status is written, or being written
}

// isAhead takes note that the status is no longer what the API server has.
func (w *work) isAhead(now time.Time) {
	if w.unsaved.IsZero() {
		w.unsaved = now
	}
}

func (w *work) isFinished() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.finished
}

// isReplaced tells whether somebody asked for the event to be done again, and whether what runs for it must be waited for.
func (w *work) isReplaced(event *v1alpha1.NetBoxEvent) (replaced, running bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.status.Replay != event.Annotations[v1alpha1.AnnotationReplay], len(w.running) > 0
}

// turn is what the events of a lane share while it is moved.
type turn struct {
	now   time.Time
	rules func(name string) (*v1alpha1.NetBoxEventRule, error)
	held  map[string]bool // the rules that have an earlier event to do
	wake  time.Time       // when there is more to do, zero for never
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

// advance returns the names of the rules that are to be delivered now, and takes note of them. It skips what has no rule any more.
func (w *work) advance(turn *turn) (due []string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.finished {
		return nil, nil
	}
	for i := range w.status.Rules {
		status := &w.status.Rules[i]
		if status.State != v1alpha1.DeliveryPending || turn.held[status.Name] {
			continue
		}
		rule, err := turn.rules(status.Name)
		if err != nil {
			return nil, err
		}
		running := w.running[status.Name]
		if !running && skipMissing(status, rule) {
			w.isAhead(turn.now)
			if status.State != v1alpha1.DeliveryPending {
				continue
			}
		}
		if rule == nil || rule.Spec.Order != v1alpha1.OrderNone {
			turn.held[status.Name] = true
		}
		if running {
			continue
		}
		if at := nextAttempt(status); at.After(turn.now) {
			turn.wakeAt(at)
			continue
		}
		w.running[status.Name] = true
		due = append(due, status.Name)
	}
	return due, nil
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
