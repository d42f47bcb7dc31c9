package netbox

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	logf "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/netboxapi"
)

// keeper makes the webhook and the event rule of one source what they should be, and remembers what it did.
type keeper struct {
	*WebhookReconciler

	source *v1alpha1.NetBoxSource
	state  *webhookState
	client *netboxapi.Client
	// wasConfirmed means that a process before this one confirmed the webhook for this generation of the source.
	wasConfirmed bool

	// corrected says what was changed in NetBox and put right, with the number of fields; changed says what this operator wants otherwise now.
	corrected, changed []string
	correctedFields    int
}

// keep makes the webhook and the event rule what they should be, and returns the object types.
func (k *keeper) keep(ctx context.Context, inputs webhookInputs) (selection, error) {
	if inputs.keyErr != nil {
		return selection{}, &setUpError{v1alpha1.ReasonKeyUnusable, inputs.keyErr.Error()}
	}
	selected, err := k.selectTypes(ctx, inputs.patterns)
	if err != nil {
		return selection{}, err
	}
	want := planWebhook(k.source, inputs.key.Value, selected.types)
	if err := k.keepWebhook(ctx, want); err != nil {
		return selection{}, err
	}
	want.rule.WebhookID = k.state.status.webhookID
	err = k.keepRule(ctx, want)
	for range maxRefusedTypes {
		refused := refusedType(err)
		if refused == "" || k.state.refused[refused] {
			break
		}
		k.state.refused[refused] = true
		if selected, err = k.selectTypes(ctx, inputs.patterns); err != nil {
			break
		}
		want.rule.ObjectTypes = selected.types
		err = k.keepRule(ctx, want)
	}
	if err != nil {
		return selection{}, err
	}
	k.state.confirmed = &want
	return selected, nil
}

const (
	// objectTypesTTL is how long the object types of a NetBox are used.
	objectTypesTTL = time.Hour
	// maxRefusedTypes is the number of object types that NetBox may refuse in one check, with an answer for each.
	maxRefusedTypes = 20
)

// selectTypes returns the object types that patterns select in this NetBox.
func (k *keeper) selectTypes(ctx context.Context, patterns []string) (selection, error) {
	source, state := k.source, k.state
	if now := k.Clock.Now(); state.types == nil || now.Sub(state.typesAt) >= objectTypesTTL {
		known, err := k.client.ObjectTypes(ctx)
		if err != nil {
			return selection{}, err
		}
		state.types, state.typesAt = known, now
	}
	selected := selectTypes(state.types, state.refused, patterns, slices.Contains(source.Spec.Redact, secretField))
	if len(selected.types) == 0 && len(patterns) > 0 && !isFromRules(source) {
		return selection{}, &setUpError{v1alpha1.ReasonRefused, "spec.netbox.webhook.objectTypes: this NetBox has event rules for none of " +
			joined(patterns) + ": correct the list"}
	}
	return selected, nil
}

// keepWebhook creates or changes the webhook.
func (k *keeper) keepWebhook(ctx context.Context, want desired) error {
	have, err := k.findWebhook(ctx, want.webhook.Name)
	if err != nil {
		return err
	}
	if have == nil {
		have, err = k.client.CreateWebhook(ctx, want.webhook)
		if err == nil {
			k.noteMade(webhookObject(have), k.state.status.webhookID, want)
			k.state.status.webhookID = have.ID
			return kept(webhookObject(have), have.Drift(want.webhookFrom(*have)))
		}
		if netboxapi.KindOf(err) != netboxapi.KindExists {
			return err
		}
		if have, err = k.findWebhook(ctx, want.webhook.Name); err != nil { // another process may have made it
			return err
		}
		if have == nil {
			return hiddenName("webhook", want.webhook.Name)
		}
	}
	wanted := want.webhookFrom(*have)
	differ := have.Drift(wanted)
	updated, err := k.client.UpdateWebhook(ctx, *have, wanted)
	if err != nil {
		return err
	}
	k.state.status.webhookID = have.ID
	var newly []string
	switch {
	case k.state.confirmed != nil:
		newly = k.state.confirmed.webhook.Drift(want.webhook)
	case k.wasConfirmed:
		newly = []string{"secret"} // it may have been changed meanwhile
	default:
		newly = differ
	}
	k.noteChanged(webhookObject(have), differ, newly)
	return kept(webhookObject(updated), updated.Drift(wanted))
}

// keepRule creates or changes the event rule.
func (k *keeper) keepRule(ctx context.Context, want desired) error {
	have, err := k.findRule(ctx, want.rule.Name)
	if err != nil {
		return err
	}
	if have == nil {
		have, err = k.client.CreateEventRule(ctx, want.rule)
		if err == nil {
			k.noteMade(ruleObject(have), k.state.status.eventRuleID, want)
			k.state.status.eventRuleID = have.ID
			return kept(ruleObject(have), have.Drift(want.rule))
		}
		if netboxapi.KindOf(err) != netboxapi.KindExists {
			return err
		}
		if have, err = k.findRule(ctx, want.rule.Name); err != nil { // another process may have made it
			return err
		}
		if have == nil {
			return hiddenName("event rule", want.rule.Name)
		}
	}
	differ := have.Drift(want.rule)
	updated, err := k.client.UpdateEventRule(ctx, *have, want.rule)
	if err != nil {
		return err
	}
	k.state.status.eventRuleID = have.ID
	var newly []string
	switch {
	case k.state.confirmed != nil:
		newly = k.state.confirmed.rule.Drift(want.rule)
	case k.wasConfirmed:
		newly = []string{"object_types"} // they may have been changed meanwhile
	default:
		newly = differ
	}
	k.noteChanged(ruleObject(have), differ, newly)
	return kept(ruleObject(updated), updated.Drift(want.rule))
}

// findWebhook returns the source's webhook: by its name, or by the id in the status if it was renamed in NetBox; nil if there is none. The
// error isNameTaken if the webhook with the name is not the source's.
func (k *keeper) findWebhook(ctx context.Context, name string) (*netboxapi.Webhook, error) {
	id := k.state.status.webhookID
	named, err := k.client.Webhook(ctx, name)
	if err != nil {
		return nil, err
	}
	if named != nil {
		return named, webhookObject(named).claim(k.source.UID, id)
	}
	if id == 0 {
		return nil, nil
	}
	renamed, err := k.client.WebhookByID(ctx, id)
	if err != nil || renamed == nil || !webhookObject(renamed).hasMark(k.source.UID) {
		return nil, err
	}
	return renamed, nil
}

// findRule is findWebhook for the event rule.
func (k *keeper) findRule(ctx context.Context, name string) (*netboxapi.EventRule, error) {
	id := k.state.status.eventRuleID
	named, err := k.client.EventRule(ctx, name)
	if err != nil {
		return nil, err
	}
	if named != nil {
		return named, ruleObject(named).claim(k.source.UID, id)
	}
	if id == 0 {
		return nil, nil
	}
	renamed, err := k.client.EventRuleByID(ctx, id)
	if err != nil || renamed == nil || !ruleObject(renamed).hasMark(k.source.UID) {
		return nil, err
	}
	return renamed, nil
}

func kept(object netboxObject, differ []string) error {
	if len(differ) == 0 {
		return nil
	}
	return &setUpError{v1alpha1.ReasonRefused, fmt.Sprintf("NetBox did not keep %s of %s %d as they were sent: check what changes them "+
		"there, such as a plugin", strings.Join(differ, ", "), object.kind, object.id)}
}

// noteMade remembers that an object was made, and that the one with the id in the status was deleted in NetBox.
func (k *keeper) noteMade(object netboxObject, earlierID int64, want desired) {
	isSameNetBox := k.wasConfirmed
	if k.state.confirmed != nil {
		isSameNetBox = k.state.confirmed.url == want.url
	}
	if earlierID == 0 || !isSameNetBox {
		k.changed = append(k.changed, fmt.Sprintf("%s %d was made", object.kind, object.id))
		return
	}
	k.corrected = append(k.corrected, fmt.Sprintf("%s %d was deleted, and made again as %d", object.kind, earlierID, object.id))
	k.correctedFields++
}

// noteChanged remembers that fields were changed. newly are those of which the operator wanted something else before.
func (k *keeper) noteChanged(object netboxObject, differ, newly []string) {
	drifted := driftedFields(differ, newly)
	if len(drifted) > 0 {
		k.corrected = append(k.corrected, fmt.Sprintf("%s of %s %d", strings.Join(drifted, ", "), object.kind, object.id))
		k.correctedFields += len(drifted)
	}
	if own := driftedFields(differ, drifted); len(own) > 0 {
		k.changed = append(k.changed, fmt.Sprintf("%s of %s %d changed", strings.Join(own, ", "), object.kind, object.id))
	}
}

// report reports what was done, also before an error. It never names values: one of them is the secret.
func (k *keeper) report(ctx context.Context) {
	name := client.ObjectKeyFromObject(k.source).String()
	if len(k.changed) > 0 {
		text := strings.Join(k.changed, "; ")
		k.recorder().Eventf(k.source, nil, corev1.EventTypeNormal, v1alpha1.EventWebhookChanged, "ConfigureWebhook", "in NetBox: %s", text)
		logf.FromContext(ctx).Info("webhook in NetBox changed", "source", name, "changes", text)
	}
	if len(k.corrected) > 0 {
		text := strings.Join(k.corrected, "; ")
		k.Metrics.drift.WithLabelValues(name).Add(float64(k.correctedFields))
		k.state.corrected = fmt.Sprintf("put right at %s, because it was changed in NetBox: %s", k.Clock.Now().UTC().Format(time.RFC3339), text)
		k.recorder().Eventf(k.source, nil, corev1.EventTypeWarning, v1alpha1.EventDriftCorrected, "ConfigureWebhook",
			"put right, because it was changed in "+
				"NetBox: %s; change spec.netbox.webhook instead", text)
		logf.FromContext(ctx).Info("webhook was changed in NetBox, and put right", "source", name, "changes", text)
	}
}

// isConfirmed reports whether a condition says that the webhook was configured for a generation.
func isConfirmed(configured *metav1.Condition, generation int64) bool {
	return configured != nil && configured.Status == metav1.ConditionTrue && configured.ObservedGeneration == generation
}
