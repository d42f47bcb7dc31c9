package netbox

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/netboxapi"
	"github.com/netbox-events/netbox-event-operator/internal/oneline"
)

// maxNameBytes bounds the name of an object in a message.
const maxNameBytes = 80

// String describes the change in a message.
func (c *change) String() string {
	object := oneline.Of(fmt.Sprintf("%s %q", c.objectID, c.objectName), maxNameBytes)
	return fmt.Sprintf("%s %s %s by %s at %s (request %s)", c.objectType, object, c.event,
		oneline.Of(c.user, maxNameBytes), c.time.UTC().Format(time.RFC3339), c.requestID)
}

// receivingCondition returns the condition Receiving of a source. The previous one, which may be nil, stays while nothing new is known.
// findings are what was found in NetBox.
func receivingCondition(previous *metav1.Condition, counts receiving, lag time.Duration, findings []string) metav1.Condition {
	condition := metav1.Condition{Type: v1alpha1.ConditionReceiving}
	switch {
	case counts.missed > 0:
		condition.Status, condition.Reason = metav1.ConditionFalse, v1alpha1.ReasonNothingArrives
		condition.Message = fmt.Sprintf("NetBox logged %d changes that it should have sent, and none of them came within %s; the first is %s. %s",
			counts.missed, lag, &counts.first, strings.Join(findings, "; "))
	case counts.arrived > 0:
		condition.Status, condition.Reason = metav1.ConditionTrue, v1alpha1.ReasonChangesArrive
		condition.Message = "changes arrive by webhook"
		if counts.stored > 0 {
			condition.Message += fmt.Sprintf("; %d did not, and became events from the change log: %d arrived since", counts.stored, counts.arrived)
		}
	case previous != nil:
		condition.Status, condition.Reason, condition.Message = previous.Status, previous.Reason, previous.Message
	default:
		condition.Status, condition.Reason = metav1.ConditionUnknown, v1alpha1.ReasonNothingLogged
		condition.Message = "NetBox has logged no change that it should have sent yet"
	}
	return condition
}

// diagnose returns what may keep a NetBox from sending changes.
func diagnose(ctx context.Context, client *netboxapi.Client, source *v1alpha1.NetBoxSource) []string {
	var findings []string
	isManaged := source.Spec.NetBox.Webhook != nil
	if isManaged {
		findings = append(findings, diagnoseWebhook(ctx, client, source)...)
	}
	queues, err := client.Queues(ctx)
	if err == nil {
		findings = append(findings, diagnoseQueues(queues)...)
	}
	if len(findings) > 0 {
		return findings
	}
	findings = []string{"check that NetBox's RQ worker runs, and that it reaches the URL of the webhook through firewalls and proxies"}
	if netboxapi.KindOf(err) == netboxapi.KindForbidden {
		findings = append(findings, "the queues of the worker are shown to a superuser's token alone")
	}
	if !isManaged {
		findings = append(findings, "check that an event rule of the webhook is enabled and has this type; "+
			"if NetBox is not meant to send it, leave it out of spec.accept")
	}
	return append(findings, "deliveries that were refused, as for a wrong secret, are in the Kubernetes Events of this source")
}

// diagnoseWebhook looks at the webhook and the event rule of a source.
func diagnoseWebhook(ctx context.Context, client *netboxapi.Client, source *v1alpha1.NetBoxSource) (findings []string) {
	status := source.Status.NetBox
	if status == nil || status.WebhookID == 0 || status.EventRuleID == 0 {
		return []string{"the webhook was not set up yet: see the condition WebhookConfigured"}
	}
	webhook, err := client.WebhookByID(ctx, status.WebhookID)
	switch {
	case err != nil:
		return []string{"the webhook cannot be looked at: " + err.Error()}
	case webhook == nil:
		findings = append(findings, fmt.Sprintf("the webhook %d is gone from NetBox", status.WebhookID))
	case webhook.PayloadURL != source.Spec.NetBox.Webhook.URL:
		findings = append(findings, fmt.Sprintf("the webhook sends to %s instead of spec.netbox.webhook.url", withoutSecrets(webhook.PayloadURL)))
	}
	rule, err := client.EventRuleByID(ctx, status.EventRuleID)
	switch {
	case err != nil:
		findings = append(findings, "the event rule cannot be looked at: "+err.Error())
	case rule == nil:
		findings = append(findings, fmt.Sprintf("the event rule %d is gone from NetBox", status.EventRuleID))
	case !rule.Enabled:
		findings = append(findings, fmt.Sprintf("the event rule %d is disabled", status.EventRuleID))
	case rule.WebhookID != status.WebhookID:
		findings = append(findings, fmt.Sprintf("the event rule %d does not send the webhook %d", status.EventRuleID, status.WebhookID))
	}
	return findings
}

// withoutSecrets returns a URL that people wrote, without what may be secret in it.
func withoutSecrets(text string) string {
	parsed, err := url.Parse(text)
	if err != nil || parsed.Host == "" {
		return "another URL"
	}
	return parsed.Scheme + "://" + oneline.Of(parsed.Host, maxNameBytes)
}

// defaultQueue has the webhooks, unless NetBox is configured otherwise.
const defaultQueue = "default"

// diagnoseQueues looks at the queues of NetBox's workers.
func diagnoseQueues(queues []netboxapi.Queue) (findings []string) {
	for _, queue := range queues {
		name := oneline.Of(queue.Name, maxNameBytes)
		if queue.Workers == 0 && (queue.Waiting > 0 || queue.Name == defaultQueue) {
			findings = append(findings, fmt.Sprintf("no RQ worker serves NetBox's queue %s, in which %d jobs wait", name, queue.Waiting))
		} else if queue.Waiting > 0 {
			findings = append(findings, fmt.Sprintf("%d jobs wait in NetBox's queue %s", queue.Waiting, name))
		}
		if queue.Failed > 0 {
			findings = append(findings, fmt.Sprintf("%d jobs in NetBox's queue %s failed: see the failed background tasks of NetBox",
				queue.Failed, name))
		}
	}
	return findings
}
