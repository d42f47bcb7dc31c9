package event

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	apply "github.com/netbox-events/netbox-event-operator/api/v1alpha1/applyconfiguration/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/conditions"
	"github.com/netbox-events/netbox-event-operator/internal/eventstore"
)

// saveDelay is how long what became of one rule waits for the others, to be written with them.
const saveDelay = time.Second

// save writes the status of an event if it is time to: when all is done, or nothing runs any more, or something is known for long that
// would be done again if we ended now.
func (r *Reconciler) save(ctx context.Context, w *work, turn *turn) error {
	status, ok := w.toSave(turn)
	if !ok {
		return nil
	}
	defer w.triedSave()
	slow := time.AfterFunc(slowWrite, func() { r.block(hungTime) })
	err := r.Status.ApplyStatus(ctx, statusOf(w.event, status))
	slow.Stop()
	if isUnavailable(err) {
		r.block(blockedTime)
	} else {
		r.blockedUntil.Store(0)
	}
	if err != nil && eventstore.IsTooLarge(err) {
		return r.saveShort(ctx, w, status)
	}
	if err != nil && !apierrors.IsNotFound(err) { // it may have been deleted meanwhile
		w.notSaved(turn.now)
		return err
	}
	r.saved(w, status)
	return nil
}

// isUnavailable tells whether the API server would fail another write as well.
func isUnavailable(err error) bool {
	if err == nil || eventstore.IsTooLarge(err) {
		return false
	}
	answered, ok := errors.AsType[*apierrors.StatusError](err)
	return !ok || answered.Status().Code == http.StatusTooManyRequests || answered.Status().Code >= http.StatusInternalServerError
}

// saved counts what is finished.
func (r *Reconciler) saved(w *work, status *v1alpha1.NetBoxEventStatus) {
	if status.Phase == v1alpha1.PhasePending {
		return
	}
	r.Metrics.finished(w.event, status, r.Clock.Now())
	endWork(w.span, status)
	if r.Finished != nil {
		r.Finished(types.NamespacedName{Namespace: w.event.Namespace, Name: w.event.Spec.SourceRef.Name})
	}
	for i := range status.Rules {
		if status.Rules[i].State == v1alpha1.DeliveryFailed {
			r.Tally.Failed(types.NamespacedName{Namespace: w.event.Namespace, Name: status.Rules[i].Name})
		}
	}
}

// toSave returns the status to be written now, if any, and takes it as written: the cache may learn of it before we know that it is.
func (w *work) toSave(turn *turn) (*v1alpha1.NetBoxEventStatus, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	done := isDone(w.status.Rules)
	switch {
	case w.finished, w.ending, !done && w.unsaved.IsZero():
		return nil, false
	case !done && len(w.running) > 0 && turn.now.Before(w.unsaved.Add(saveDelay)):
		turn.wakeAt(w.unsaved.Add(saveDelay))
		return nil, false
	}
	if done {
		w.finished = true
		w.status.CompletionTime = new(metav1.NewTime(turn.now))
	}
	condition := succeededCondition(w.status.Rules)
	condition.ObservedGeneration, condition.LastTransitionTime = w.event.Generation, metav1.NewTime(turn.now)
	meta.SetStatusCondition(&w.status.Conditions, condition)
	w.status.Phase = phaseOf(w.status.Rules)
	w.unsaved = time.Time{}
	return w.status.DeepCopy(), true
}

func (w *work) notSaved(since time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.finished = false
	w.unsaved = since
}

// saveShort writes no more than that an event is done, where it leaves no room for more.
func (r *Reconciler) saveShort(ctx context.Context, w *work, status *v1alpha1.NetBoxEventStatus) error {
	log := r.Log.WithValues(naming(w.event)...)
	if status.Phase == v1alpha1.PhasePending {
		log.Info("the event leaves no room for its status, which is kept in memory")
		return nil
	}
	log.Info("the event leaves no room for the states of its rules", "rules", status.Rules)
	short := *status
	short.Rules = nil
	err := r.Status.ApplyStatus(ctx, statusOf(w.event, &short))
	switch {
	case err == nil, apierrors.IsNotFound(err):
		r.saved(w, status)
		return nil
	case eventstore.IsTooLarge(err):
		log.Error(err, "the event leaves no room for its status and stays Pending; delete it")
		return nil
	default:
		w.notSaved(r.Clock.Now())
		return err
	}
}

// phaseOf is the phase of an event whose rules have some states.
func phaseOf(rules []v1alpha1.RuleStatus) v1alpha1.Phase {
	phase := v1alpha1.PhaseSucceeded
	for i := range rules {
		switch rules[i].State {
		case v1alpha1.DeliveryPending:
			return v1alpha1.PhasePending
		case v1alpha1.DeliveryFailed:
			phase = v1alpha1.PhaseFailed
		default:
		}
	}
	return phase
}

// succeededCondition says how far the work on an event is, by the action that needs attention most.
func succeededCondition(rules []v1alpha1.RuleStatus) metav1.Condition {
	condition := metav1.Condition{
		Type: v1alpha1.ConditionSucceeded, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonDelivered, Message: "all actions are done",
	}
	if len(rules) == 0 {
		condition.Reason, condition.Message = v1alpha1.ReasonLogged, "the event was logged; no rule matches it"
	}
	not := func(reason, format string, args ...any) {
		condition.Status, condition.Reason, condition.Message = metav1.ConditionFalse, reason, fmt.Sprintf(format, args...)
	}
	for i := range rules {
		for _, action := range rules[i].Actions {
			switch {
			case action.State == v1alpha1.DeliveryFailed:
				not(v1alpha1.ReasonDeliveryFailed,
					"rule %s, action %s was given up after attempt %d: %s; mend the cause, and annotate the event with %s=<any new value>",
					rules[i].Name, action.Name, action.Attempts, action.LastError, v1alpha1.AnnotationReplay)
				return condition
			case action.State == v1alpha1.DeliveryPending && action.NextAttemptTime != nil && action.Attempts > 0:
				not(v1alpha1.ReasonRetrying, "rule %s, action %s failed at attempt %d and is tried again at %s: %s",
					rules[i].Name, action.Name, action.Attempts, action.NextAttemptTime.UTC().Format(time.RFC3339), action.LastError)
			case action.State == v1alpha1.DeliveryPending && condition.Status == metav1.ConditionTrue:
				not(v1alpha1.ReasonDelivering, "rule %s, action %s is not done yet", rules[i].Name, action.Name)
			}
		}
	}
	return condition
}

// statusOf is what is written.
func statusOf(event *v1alpha1.NetBoxEvent, status *v1alpha1.NetBoxEventStatus) *apply.NetBoxEventApplyConfiguration {
	written := apply.NetBoxEventStatus().WithPhase(status.Phase).WithStartTime(*status.StartTime)
	if status.CompletionTime != nil {
		written.WithCompletionTime(*status.CompletionTime)
	}
	if status.Replay != "" {
		written.WithReplay(status.Replay)
	}
	written.WithConditions(conditions.Apply(status.Conditions)...)
	for i := range status.Rules {
		rule := apply.RuleStatus().WithName(status.Rules[i].Name).WithState(status.Rules[i].State)
		for _, action := range status.Rules[i].Actions {
			rule.WithActions(actionOf(action))
		}
		written.WithRules(rule)
	}
	return apply.NetBoxEvent(event.Name, event.Namespace).WithUID(event.UID).WithStatus(written)
}

func actionOf(status v1alpha1.ActionStatus) *apply.ActionStatusApplyConfiguration {
	written := apply.ActionStatus().WithName(status.Name).WithState(status.State)
	if status.Attempts > 0 {
		written.WithAttempts(status.Attempts)
	}
	if status.LastAttemptTime != nil {
		written.WithLastAttemptTime(*status.LastAttemptTime)
	}
	if status.NextAttemptTime != nil {
		written.WithNextAttemptTime(*status.NextAttemptTime)
	}
	if status.LastError != "" {
		written.WithLastError(status.LastError)
	}
	if status.Response != "" {
		written.WithResponse(status.Response)
	}
	return written
}
