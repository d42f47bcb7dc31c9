package netbox

import (
	"context"
	"fmt"
	"net/url"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	apply "github.com/netbox-events/netbox-event-operator/api/v1alpha1/applyconfiguration/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/conditions"
	"github.com/netbox-events/netbox-event-operator/internal/oneline"
)

// WebhookFieldOwner is WebhookReconciler's field manager in a source's status.
const WebhookFieldOwner = "netbox-event-operator-webhook"

// maxConditionBytes bounds the message of a condition.
const maxConditionBytes = 1024

// webhookStatus is the part of a source's status that WebhookReconciler writes.
type webhookStatus struct {
	version                string
	webhookID, eventRuleID int64
	key                    string
	objectTypes            int32
	// reachable and configured are conditions without a time of transition, or nil.
	reachable, configured *metav1.Condition
}

// statusOf returns the part of a source's status.
func statusOf(source *v1alpha1.NetBoxSource) webhookStatus {
	status := webhookStatus{
		reachable:  meta.FindStatusCondition(source.Status.Conditions, v1alpha1.ConditionNetBoxReachable).DeepCopy(),
		configured: meta.FindStatusCondition(source.Status.Conditions, v1alpha1.ConditionWebhookConfigured).DeepCopy(),
	}
	if netbox := source.Status.NetBox; netbox != nil {
		status.version, status.webhookID, status.eventRuleID = netbox.Version, netbox.WebhookID, netbox.EventRuleID
		status.key, status.objectTypes = netbox.Key, netbox.ObjectTypes
	}
	return status
}

// newCondition returns a condition of a source.
func newCondition(
	source *v1alpha1.NetBoxSource, name string, status metav1.ConditionStatus, reason, format string, args ...any,
) *metav1.Condition {
	return &metav1.Condition{
		Type: name, Status: status, Reason: reason, ObservedGeneration: source.Generation,
		Message: oneline.Of(fmt.Sprintf(format, args...), maxConditionBytes),
	}
}

// writeStatus writes a source's status unless it is that already. The API server refuses it if the source was recreated since it was read.
func (r *WebhookReconciler) writeStatus(ctx context.Context, source *v1alpha1.NetBoxSource, status webhookStatus) error {
	desired := apply.NetBoxSourceStatus()
	target := v1alpha1.NetBoxAPIStatus{
		Version: status.version, WebhookID: status.webhookID, EventRuleID: status.eventRuleID, Key: status.key, ObjectTypes: status.objectTypes,
	}
	if target != (v1alpha1.NetBoxAPIStatus{}) {
		desired.WithNetBox(applyStatus(status))
	}
	all := []metav1.Condition{}
	before := statusOf(source)
	isSame := before.version == status.version && before.webhookID == status.webhookID && before.eventRuleID == status.eventRuleID &&
		before.key == status.key && before.objectTypes == status.objectTypes
	for _, pair := range []struct{ before, after *metav1.Condition }{
		{before.reachable, status.reachable}, {before.configured, status.configured},
	} {
		if pair.after == nil {
			isSame = isSame && pair.before == nil
			continue
		}
		next := *pair.after
		conditions.Stamp(&next, source.Status.Conditions, next.ObservedGeneration, r.Clock.Now())
		isSame = isSame && pair.before != nil && equality.Semantic.DeepEqual(next, *pair.before)
		all = append(all, next)
	}
	if isSame {
		return nil
	}
	desired.WithConditions(conditions.Apply(all)...)
	err := r.Sources.Status().Apply(ctx, apply.NetBoxSource(source.Name, source.Namespace).WithUID(source.UID).WithStatus(desired),
		client.FieldOwner(WebhookFieldOwner), client.ForceOwnership)
	return client.IgnoreNotFound(err)
}

// applyStatus leaves out what is not known.
func applyStatus(status webhookStatus) *apply.NetBoxAPIStatusApplyConfiguration {
	desired := apply.NetBoxAPIStatus()
	if status.version != "" {
		desired.WithVersion(status.version)
	}
	if status.webhookID != 0 {
		desired.WithWebhookID(status.webhookID)
	}
	if status.eventRuleID != 0 {
		desired.WithEventRuleID(status.eventRuleID)
	}
	if status.key != "" {
		desired.WithKey(status.key)
	}
	if status.objectTypes != 0 {
		desired.WithObjectTypes(status.objectTypes)
	}
	return desired
}

// hostOf returns the host of a URL that was validated.
func hostOf(text string) string {
	parsed, err := url.Parse(text)
	if err != nil {
		return ""
	}
	return parsed.Host
}
