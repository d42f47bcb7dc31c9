package event

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/delivery"
)

// sink names where the deliveries of one action go.
type sink struct {
	rule   types.NamespacedName
	action string
}

// circuits has the circuit of each sink, and the deliveries that wait for it. It is safe for concurrent use.
type circuits struct {
	mu     sync.Mutex
	bySink map[sink]*circuit
}

// circuit is that of one sink.
type circuit struct {
	delivery.Circuit

	unit     *unit   // releases them
	parked   []*unit // in the order in which they came
	isParked map[*unit]bool
}

func newCircuits() *circuits { return &circuits{bySink: map[sink]*circuit{}} }

// start asks for the permission to start a delivery. If it is refused, the unit is parked until release returns it.
func (c *circuits) start(s sink, parked *unit, now time.Time) (delivery.Ticket, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	at := c.circuit(s)
	ticket, _, ok := at.Start(now)
	if !ok && !at.isParked[parked] {
		at.parked, at.isParked[parked] = append(at.parked, parked), true
	}
	return ticket, ok
}

// unit returns the unit that releases the deliveries that are parked at a sink.
func (c *circuits) unit(s sink) *unit {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.circuit(s).unit
}

func (c *circuits) circuit(s sink) *circuit {
	at := c.bySink[s]
	if at == nil {
		at = &circuit{unit: &unit{rule: s.rule, action: s.action}, isParked: map[*unit]bool{}}
		c.bySink[s] = at
	}
	return at
}

// end records the outcome of a delivery. It reports whether the sink's state changed, and whether the caller must call release.
func (c *circuits) end(
	s sink, ticket delivery.Ticket, outcome delivery.Outcome, retry *v1alpha1.Retry, now time.Time,
) (changed, release bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	at := c.bySink[s]
	if at == nil { // the rule was deleted
		return false, false
	}
	before, _, _ := at.State()
	at.End(ticket, outcome, retry, now)
	after, _, _ := at.State()
	return before != after, len(at.parked) > 0 || after != v1alpha1.ReasonAvailable
}

// cancel gives back the permission for a delivery that was cut off.
func (c *circuits) cancel(s sink, ticket delivery.Ticket) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if at := c.bySink[s]; at != nil {
		at.Cancel(ticket)
	}
}

const (
	// parkedInterval bounds the pause between two checks of parked deliveries for expired ones.
	parkedInterval = time.Minute
	// windowInterval is the pause between two releases while the window is open: a released key may turn out to be empty.
	windowInterval = time.Second
	// idleInterval is how long an unavailable sink has no delivery before its circuit is reset.
	idleInterval = 30 * time.Second
)

// release returns the units whose deliveries may start now, those that are overdue, and when to call it again, 0 for never. It reports
// whether the sink's state changed.
func (c *circuits) release(s sink, overdue func(*unit) bool, now time.Time) (units []*unit, again time.Duration, changed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	at := c.bySink[s]
	if at == nil {
		return nil, 0, false
	}
	state, _, _ := at.State()
	places, until := at.Places(now, len(at.parked))
	if places == 0 && state != v1alpha1.ReasonAvailable {
		at.parked = slices.DeleteFunc(at.parked, func(u *unit) bool {
			if overdue(u) {
				units = append(units, u)
				delete(at.isParked, u)
				return true
			}
			return false
		})
	}
	for _, u := range at.parked[:places] {
		units = append(units, u)
		delete(at.isParked, u)
	}
	at.parked = slices.Delete(at.parked, 0, places)
	switch {
	case len(at.parked) == 0:
		if at.parked = nil; state == v1alpha1.ReasonAvailable {
			return units, 0, false
		}
		if len(units) == 0 && at.IsIdle(now, idleInterval) { // no delivery waits for it any more
			at.Reset()
			return nil, 0, true
		}
		return units, idleInterval, false
	case !until.IsZero():
		return units, min(max(until.Sub(now), time.Millisecond), parkedInterval), false
	default:
		return units, cmp.Or(at.Gap(), windowInterval), false
	}
}

// reset closes the circuits of a changed rule, and returns its parked deliveries.
func (c *circuits) reset(rule *v1alpha1.NetBoxEventRule) (units []*unit) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for s, at := range c.bySink {
		if s.rule.Namespace == rule.Namespace && s.rule.Name == rule.Name {
			at.Reset()
			units = append(units, at.parked...)
			at.parked, at.isParked = nil, map[*unit]bool{}
		}
	}
	return units
}

// forget drops the circuits of a deleted rule.
func (c *circuits) forget(rule types.NamespacedName) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for s := range c.bySink {
		if s.rule == rule {
			delete(c.bySink, s)
		}
	}
}

// cause is why deliveries to a sink wait, "" where they do not.
func (c *circuits) cause(s sink) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if at := c.bySink[s]; at != nil {
		_, _, cause := at.State()
		return cause
	}
	return ""
}

// sinkState is the state of a sink.
type sinkState struct {
	sink
	reason  string
	since   time.Time
	message string
}

// states returns the state of each sink of a rule, or of all rules where the name is empty, sorted by action.
func (c *circuits) states(rule types.NamespacedName) (states []sinkState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for s, at := range c.bySink {
		if rule.Name != "" && s.rule != rule {
			continue
		}
		reason, since, cause := at.State()
		state := sinkState{sink: s, reason: reason, since: since}
		switch reason {
		case v1alpha1.ReasonUnavailable:
			state.message = fmt.Sprintf("action %s: no delivery has succeeded since %s; one at a time probes the sink, and what waits uses up no "+
				"attempts: %s", s.action, since.UTC().Format(time.RFC3339), cause)
		case v1alpha1.ReasonAskedToWait:
			state.message = fmt.Sprintf("action %s: the sink asked at %s to send less; deliveries go on at the rate that it takes: %s",
				s.action, since.UTC().Format(time.RFC3339), cause)
		}
		states = append(states, state)
	}
	slices.SortFunc(states, func(a, b sinkState) int {
		return cmp.Or(strings.Compare(a.rule.String(), b.rule.String()), strings.Compare(a.action, b.action))
	})
	return states
}
