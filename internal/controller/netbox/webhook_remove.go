package netbox

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	logf "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/netboxapi"
)

// removalTime bounds how long the deletion of a source waits until its webhook is removed from NetBox, and unknownRemovalTime if nothing is
// known to be there.
const removalTime, unknownRemovalTime = 10 * time.Minute, time.Minute

// remove removes the webhook and its event rule from NetBox, or marks them as kept, and then the finalizer: of a source that is deleted, or
// that has no spec.netbox.webhook any more. A deletion goes on after removalTime, whatever NetBox answers.
func (r *WebhookReconciler) remove(ctx context.Context, source *v1alpha1.NetBoxSource, state *webhookState) (reconcile.Result, error) {
	if source.Spec.NetBox == nil {
		r.reportLeft(ctx, source, state, errors.New("spec.netbox was removed before spec.netbox.webhook"))
		return r.finishRemoval(ctx, source, state)
	}
	err := r.removeFromNetBox(ctx, source, state)
	if ctx.Err() != nil {
		return reconcile.Result{}, ctx.Err()
	}
	if err == nil {
		return r.finishRemoval(ctx, source, state)
	}
	now := r.Clock.Now()
	pause := max(checkBackoff(state.failures), retryAfterOf(err))
	state.failures++
	if deletedAt := source.DeletionTimestamp; !deletedAt.IsZero() {
		left := deletedAt.Add(removalLimit(state.status)).Sub(now)
		if left <= 0 {
			r.reportLeft(ctx, source, state, err)
			return r.finishRemoval(ctx, source, state)
		}
		pause = min(pause, left)
	}
	before := state.status
	state.status.configured = newCondition(source, v1alpha1.ConditionWebhookConfigured, metav1.ConditionFalse, v1alpha1.ReasonRemovalFailed,
		"the webhook could not be removed from NetBox yet: %v", err)
	r.reportConditions(ctx, source, before, state.status)
	return reconcile.Result{RequeueAfter: pause}, r.writeStatus(ctx, source, state.status)
}

func removalLimit(status webhookStatus) time.Duration {
	if status.webhookID == 0 && status.eventRuleID == 0 {
		return unknownRemovalTime
	}
	return removalTime
}

// removeFromNetBox deletes what the source owns in NetBox, or marks it as kept.
func (r *WebhookReconciler) removeFromNetBox(ctx context.Context, source *v1alpha1.NetBoxSource, state *webhookState) error {
	netbox, err := r.Clients.For(ctx, source)
	if err != nil {
		if state.client == nil {
			return err
		}
		netbox = state.client // the Secret of the token may be deleted before the source, such as with their namespace
	}
	keeper := &keeper{WebhookReconciler: r, source: source, state: state, client: netbox}
	webhook, rule, err := keeper.findOwn(ctx)
	if netboxapi.KindOf(err) == netboxapi.KindUnsupported {
		return nil // nothing can have been made
	}
	if err != nil {
		return err
	}
	spec := managed(source)
	isKept := spec != nil && spec.DeletionPolicy == v1alpha1.DeletionPolicyRetain
	var objects []string
	if rule != nil {
		objects = append(objects, fmt.Sprintf("event rule %d", rule.ID))
		if err := keeper.removeRule(ctx, *rule, isKept); err != nil {
			return err
		}
	}
	if webhook != nil {
		objects = append(objects, fmt.Sprintf("webhook %d", webhook.ID))
		if err := keeper.removeWebhook(ctx, *webhook, isKept); err != nil {
			return err
		}
	}
	if len(objects) == 0 {
		return nil
	}
	what := "deleted from"
	if isKept {
		what = "kept in"
	}
	text := fmt.Sprintf("%s %s NetBox at %s", strings.Join(objects, " and "), what, hostOf(source.Spec.NetBox.URL))
	r.recorder().Eventf(source, nil, corev1.EventTypeNormal, v1alpha1.EventWebhookRemoved, "RemoveWebhook", "%s", text)
	logf.FromContext(ctx).Info("webhook of a source removed", "result", text)
	return nil
}

// findOwn returns the webhook and the event rule that the source owns in NetBox; nil for none.
func (k *keeper) findOwn(ctx context.Context) (*netboxapi.Webhook, *netboxapi.EventRule, error) {
	name := objectName(client.ObjectKeyFromObject(k.source))
	webhook, err := k.findWebhook(ctx, name)
	if err != nil && !isNameTaken(err) {
		return nil, nil, err
	}
	rule, err := k.findRule(ctx, name)
	if err != nil && !isNameTaken(err) {
		return nil, nil, err
	}
	if webhook != nil && !webhookObject(webhook).isOwned(k.source.UID, k.state.status.webhookID) {
		webhook = nil
	}
	if rule != nil && !ruleObject(rule).isOwned(k.source.UID, k.state.status.eventRuleID) {
		rule = nil
	}
	return webhook, rule, nil
}

func (k *keeper) removeRule(ctx context.Context, rule netboxapi.EventRule, isKept bool) error {
	if !isKept {
		return k.client.DeleteEventRule(ctx, rule.ID)
	}
	want := rule
	want.Description = retainedMark(client.ObjectKeyFromObject(k.source))
	_, err := k.client.UpdateEventRule(ctx, rule, want)
	return err
}

func (k *keeper) removeWebhook(ctx context.Context, webhook netboxapi.Webhook, isKept bool) error {
	if !isKept {
		return k.client.DeleteWebhook(ctx, webhook.ID)
	}
	want := webhook
	want.Description = retainedMark(client.ObjectKeyFromObject(k.source))
	_, err := k.client.UpdateWebhook(ctx, webhook, want)
	return err
}

// reportLeft reports what remains in NetBox.
func (r *WebhookReconciler) reportLeft(ctx context.Context, source *v1alpha1.NetBoxSource, state *webhookState, cause error) {
	where := "NetBox"
	if source.Spec.NetBox != nil {
		where += " at " + hostOf(source.Spec.NetBox.URL)
	}
	what := fmt.Sprintf("webhook %d and event rule %d, named %s, remain", state.status.webhookID, state.status.eventRuleID,
		objectName(client.ObjectKeyFromObject(source)))
	if removalLimit(state.status) != removalTime {
		what = fmt.Sprintf("a webhook and an event rule named %s may remain", objectName(client.ObjectKeyFromObject(source)))
	}
	text := fmt.Sprintf("%s in %s, delete them there: %v", what, where, cause)
	r.recorder().Eventf(source, nil, corev1.EventTypeWarning, v1alpha1.EventWebhookLeft, "RemoveWebhook", "%s", text)
	logf.FromContext(ctx).Info("webhook of a source left in NetBox", "result", text)
}

// finishRemoval removes the finalizer.
func (r *WebhookReconciler) finishRemoval(
	ctx context.Context, source *v1alpha1.NetBoxSource, state *webhookState,
) (reconcile.Result, error) {
	if err := r.setFinalizer(ctx, source, controllerutil.RemoveFinalizer); apierrors.IsConflict(err) {
		return reconcile.Result{RequeueAfter: staleInterval}, nil
	} else if err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	state.status = webhookStatus{version: state.status.version, reachable: state.status.reachable}
	state.confirmed, state.corrected, state.failures = nil, "", 0
	if !source.DeletionTimestamp.IsZero() {
		return reconcile.Result{}, nil
	}
	return r.keep(ctx, source, state)
}
