package rule

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

// Counts wait to be written, because a write for each event would double what events cost: tallyDelay, and tallyInterval from one time to
// the next.
const (
	tallyDelay    = time.Second
	tallyInterval = 15 * time.Second
)

// maxErrorBytes is how much of an expression error the status keeps.
const maxErrorBytes = 512

// Tally counts what becomes of rules, until the counts are added to their status. It is safe for concurrent use.
type Tally struct {
	clock clock.PassiveClock

	mu     sync.Mutex
	counts map[types.NamespacedName]*counts
	taken  map[types.NamespacedName]time.Time                      // when a rule's counts were last taken
	queue  workqueue.TypedRateLimitingInterface[reconcile.Request] // nil before the controller runs
}

type counts struct {
	matched, failed, expressionErrors int64
	lastMatched                       time.Time
	lastExpressionError               string
}

// NewTally returns a Tally that has counted nothing.
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

// ExpressionFailed counts an event on which the expression of a rule failed, with a message that says which and why.
func (t *Tally) ExpressionFailed(rule types.NamespacedName, message string) {
	t.count(rule, func(c *counts) {
		c.expressionErrors++
		c.lastExpressionError = oneline.Of(message, maxErrorBytes)
	})
}

// SinkChanged says that the condition of a rule's sinks is another now.
func (t *Tally) SinkChanged(rule types.NamespacedName) {
	t.count(rule, func(*counts) {})
}

func (t *Tally) count(rule types.NamespacedName, add func(*counts)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	of := t.counts[rule]
	if of == nil {
		of = &counts{}
		t.counts[rule] = of
		if t.queue != nil {
			t.ask(rule)
		}
	}
	add(of)
}

// ask has the counts of a rule written when it is time to.
func (t *Tally) ask(rule types.NamespacedName) {
	t.queue.AddAfter(reconcile.Request{NamespacedName: rule}, max(tallyDelay, tallyInterval-t.clock.Since(t.taken[rule])))
}

// keepQueue keeps the controller's queue, to have a rule's status written some time after it was counted for.
func (t *Tally) keepQueue(_ context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.queue = queue
	for rule := range t.counts {
		t.ask(rule)
	}
	return nil
}

// take returns what was counted of a rule since the last time, nil for nothing.
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

// forget forgets a rule that is gone.
func (t *Tally) forget(rule types.NamespacedName) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.taken, rule)
}

// giveBack counts again what was taken and could not be written.
func (t *Tally) giveBack(rule types.NamespacedName, taken *counts) {
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
