package event

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/delivery"
	"github.com/netbox-events/netbox-event-operator/internal/rule"
)

// NetBox asks the NetBox that an event is of, as netbox.Oracle does.
type NetBox interface {
	// Confirm reports whether the change of an event is in the change log. If it is not there yet, again is the time until it is to be asked
	// again; 0 means that it does not come any more.
	Confirm(ctx context.Context, event *v1alpha1.NetBoxEvent) (isThere bool, again time.Duration, err error)
	// Lookup returns the answer to a query in JSON, nil for null.
	Lookup(ctx context.Context, event *v1alpha1.NetBoxEvent, query rule.Query) ([]byte, error)
}

// answers is what NetBox answered for a delivery, once it was asked.
type answers struct {
	isAsked bool
	isGone  bool // no change of the delivery is in the change log
	outcome delivery.Outcome
}

// absent is why the actions on a change that is not in the change log are skipped.
const absent = "the change is not in NetBox's change log: NetBox rolled it back, or it changed nothing"

// asks reports whether NetBox is asked before the rule's actions.
func (d *attempts) asks() bool { return d.rule.Spec.Confirm || len(d.rule.Spec.Lookups) > 0 }

// ask asks NetBox what the rule wants to know before its actions: whether it logged the changes, and the lookups. It returns false for
// ready if the action must not be attempted now, and false for goOn if the work on the event must stop.
func (d *attempts) ask(state *v1alpha1.ActionStatus) (ready, goOn bool, err error) {
	if !d.asks() {
		return true, true, nil
	}
	found, end, err := d.prepare(state)
	if _, invalid := errors.AsType[*invalidError](err); invalid || d.comesToNothing {
		return true, true, nil // attempt and applyWhen say so
	}
	if found == nil || err != nil {
		return false, false, err
	}
	defer end()
	if !d.asked.isAsked {
		if err := d.askOnce(state); err != nil || d.later > 0 || d.deliveryContext.Err() != nil {
			return false, false, err
		}
		d.asked.isAsked = true
	}
	switch err := d.asked.outcome.Err; {
	case d.asked.isGone:
		delivery.Skip(state, absent)
		d.ended(state, nil, false)
		return false, true, nil
	case err != nil && state.WaitingSince != nil:
		d.later = d.rule.Spec.Retry.Backoff.Duration // the action was executed, and must not be executed again
		return false, false, nil
	case err != nil:
		deadline := delivery.Deadline(d.status, state, &d.rule.Spec.Retry)
		delivery.RecordAttempt(state, d.asked.outcome, &d.rule.Spec.Retry, deadline, d.Clock.Now())
		d.ended(state, err, false)
		return false, true, nil
	}
	return true, true, nil
}

// askOnce asks NetBox, and sets the answers, or later.
func (d *attempts) askOnce(state *v1alpha1.ActionStatus) error {
	ctx, cancel := context.WithTimeout(d.deliveryContext, d.rule.Spec.Retry.Timeout.Duration)
	defer cancel()
	compiled, err := d.Compiled.Get(d.rule)
	if err != nil {
		return err // prepare compiled it
	}
	if d.rule.Spec.Confirm && state.WaitingSince == nil {
		if err := d.confirm(ctx, compiled); err != nil {
			d.asked.outcome.Err = fmt.Errorf("confirm: %w", err)
			return nil
		}
	}
	if d.later > 0 || d.asked.isGone || d.comesToNothing {
		return nil
	}
	answers := make(map[string][]byte, len(compiled.Lookups))
	for i := range compiled.Lookups {
		lookup := &compiled.Lookups[i]
		query, err := lookup.Query(ctx, d.input)
		if err != nil {
			d.asked.outcome = delivery.Outcome{Err: fmt.Errorf("lookups[%s]: %w", lookup.Name, err), Permanent: ctx.Err() == nil}
			return nil
		}
		if answers[lookup.Name], err = d.NetBox.Lookup(ctx, d.event, query); err != nil {
			d.asked.outcome.Err = fmt.Errorf("lookups[%s]: %w", lookup.Name, err)
			return nil
		}
	}
	d.input = d.input.WithLookups(answers)
	return nil
}

// confirm leaves out the events whose changes are not in the change log, and sets later if one may still appear there.
func (d *attempts) confirm(ctx context.Context, compiled *rule.Rule) error {
	var confirmed []*v1alpha1.NetBoxEvent
	for _, event := range d.events {
		isThere, again, err := d.NetBox.Confirm(ctx, event)
		if err != nil {
			return err
		}
		d.later = max(d.later, again)
		if isThere {
			confirmed = append(confirmed, event)
		}
	}
	switch {
	case d.later > 0:
	case len(confirmed) == 0:
		d.asked.isGone = true
	case len(confirmed) < len(d.events):
		d.events, d.event = confirmed, confirmed[len(confirmed)-1]
		d.setInput(compiled)
	}
	return nil
}
