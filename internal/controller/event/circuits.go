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

// circuit is one of them.
type circuit struct {
	delivery.Circuit

	parked   []key // in the order in which they came
	isParked map[key]bool
}

func newCircuits() *circuits { return &circuits{bySink: map[sink]*circuit{}} }

// start asks for the permission to start a delivery. Where it is refused, the key is parked until release returns it.
func (c *circuits) start(s sink, parked key, now time.Time) (delivery.Ticket, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	at := c.bySink[s]
	if at == nil {
		at = &circuit{isParked: map[key]bool{}}
		c.bySink[s] = at
	}
	ticket, _, ok := at.Start(now)
	if !ok && !at.isParked[parked] {
		at.parked, at.isParked[parked] = append(at.parked, parked), true
	}
	return ticket, ok
}

// end records how a delivery ended. It reports whether the sink's state changed, and whether release has to be called.
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
	// parkedInterval bounds the pause between two looks at what is parked: the time of some may be over.
	parkedInterval = time.Minute
	// windowInterval is the pause between two looks where something may start: what was released may have found nothing to do.
	windowInterval = time.Second
	// idleInterval is how long a sink that is not available has no delivery before that is forgotten.
	idleInterval = 30 * time.Second
)

// release returns the keys whose deliveries may start now, those that are overdue, and when to call it again, 0 for never. It reports
// whether the sink's state changed.
func (c *circuits) release(s sink, overdue func(key) bool, now time.Time) (keys []key, again time.Duration, changed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	at := c.bySink[s]
	if at == nil {
		return nil, 0, false
	}
	state, _, _ := at.State()
	places, until := at.Places(now, len(at.parked))
	if places == 0 && state != v1alpha1.ReasonAvailable {
		at.parked = slices.DeleteFunc(at.parked, func(k key) bool {
			if overdue(k) {
				keys = append(keys, k)
				delete(at.isParked, k)
				return true
			}
			return false
		})
	}
	for _, k := range at.parked[:places] {
		keys = append(keys, k)
		delete(at.isParked, k)
	}
	at.parked = slices.Delete(at.parked, 0, places)
	switch {
	case len(at.parked) == 0:
		if at.parked = nil; state == v1alpha1.ReasonAvailable {
			return keys, 0, false
		}
		if len(keys) == 0 && at.IsIdle(now, idleInterval) { // nothing waits for it any more
			at.Reset()
			return nil, 0, true
		}
		return keys, idleInterval, false
	case !until.IsZero():
		return keys, min(max(until.Sub(now), time.Millisecond), parkedInterval), false
	default:
		return keys, cmp.Or(at.Gap(), windowInterval), false
	}
}

// reset closes the circuits of a rule that was changed, and returns what was parked.
func (c *circuits) reset(rule *v1alpha1.NetBoxEventRule) (keys []key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for s, at := range c.bySink {
		if s.rule.Namespace == rule.Namespace && s.rule.Name == rule.Name {
			at.Reset()
			keys = append(keys, at.parked...)
			at.parked, at.isParked = nil, map[key]bool{}
		}
	}
	return keys
}

// forget drops the circuits of a rule that is gone.
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
