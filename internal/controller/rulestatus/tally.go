package rulestatus

import (
	"context"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/oneline"
)

// Counts are batched, because a write for each event would double the cost of events: tallyDelay is the delay of a write, and tallyInterval
// the minimum interval between two writes.
const (
	tallyDelay    = time.Second
	tallyInterval = 15 * time.Second
)

// maxErrorBytes bounds an expression error in the status.
const maxErrorBytes = 512

// Tally counts matches and failures per rule, until the controller adds the counts to the status. It is safe for concurrent use.
type Tally struct {
	clock clock.PassiveClock

	mu     sync.Mutex
	counts map[types.NamespacedName]*counts
	taken  map[types.NamespacedName]time.Time                      // last time of take, by rule
	queue  workqueue.TypedRateLimitingInterface[reconcile.Request] // nil until the controller starts
}

type counts struct {
	matched, failed, expressionErrors int64
	lastMatched                       time.Time
	lastExpressionError               string
}

// NewTally returns an empty Tally.
func NewTally(clock clock.PassiveClock) *Tally {
	return &Tally{clock: clock, counts: map[types.NamespacedName]*counts{}, taken: map[types.NamespacedName]time.Time{}}
}

// Matched counts an event that matched a rule.
func (t *Tally) Matched(rule types.NamespacedName, at time.Time) {
	t.count(rule, func(c *counts) {
		c.matched++
		c.lastMatched = at
	})
}

// Failed counts an event on which an action of a rule failed permanently.
func (t *Tally) Failed(rule types.NamespacedName) {
	t.count(rule, func(c *counts) { c.failed++ })
}

// ExpressionFailed counts an event on which the expression of a rule failed. The message names the event and the error.
func (t *Tally) ExpressionFailed(rule types.NamespacedName, message string) {
	t.count(rule, func(c *counts) {
		c.expressionErrors++
		c.lastExpressionError = oneline.Of(message, maxErrorBytes)
	})
}

// SinkChanged enqueues a rule because the availability of its sinks changed.
func (t *Tally) SinkChanged(rule types.NamespacedName) {
	t.count(rule, func(*counts) {})
}

func (t *Tally) count(rule types.NamespacedName, add func(*counts)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.counts[rule]
	if c == nil {
		c = &counts{}
		t.counts[rule] = c
		if t.queue != nil {
			t.enqueue(rule)
		}
	}
	add(c)
}

// enqueue enqueues a rule for the next write that the delay and interval allow.
func (t *Tally) enqueue(rule types.NamespacedName) {
	t.queue.AddAfter(reconcile.Request{NamespacedName: rule}, max(tallyDelay, tallyInterval-t.clock.Since(t.taken[rule])))
}

// setQueue sets the controller's queue, and enqueues all rules with counts.
func (t *Tally) setQueue(_ context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.queue = queue
	for rule := range t.counts {
		t.enqueue(rule)
	}
	return nil
}

// take removes and returns the counts of a rule, nil for none.
func (t *Tally) take(rule types.NamespacedName) *counts {
	t.mu.Lock()
	defer t.mu.Unlock()
	taken := t.counts[rule]
	delete(t.counts, rule)
	if taken != nil {
		t.taken[rule] = t.clock.Now()
	}
	return taken
}

// forget removes a deleted rule.
func (t *Tally) forget(rule types.NamespacedName) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.taken, rule)
}

// restore adds back taken counts whose write failed.
func (t *Tally) restore(rule types.NamespacedName, taken *counts) {
	if taken == nil {
		return
	}
	t.count(rule, func(c *counts) {
		c.matched += taken.matched
		c.failed += taken.failed
		c.expressionErrors += taken.expressionErrors
		if c.lastMatched.IsZero() {
			c.lastMatched = taken.lastMatched
		}
		if c.lastExpressionError == "" {
			c.lastExpressionError = taken.lastExpressionError
		}
	})
}

// addTo adds the counts to a status.
func (c *counts) addTo(status *v1alpha1.NetBoxEventRuleStatus) {
	status.Matched += c.matched
	status.Failed += c.failed
	status.ExpressionErrors += c.expressionErrors
	if !c.lastMatched.IsZero() {
		status.LastMatched = new(metav1.NewTime(c.lastMatched))
	}
	if c.lastExpressionError != "" {
		status.LastExpressionError = c.lastExpressionError
	}
}
