package event

import (
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/notice"
	"github.com/netbox-events/netbox-event-operator/internal/tracing"
)

// RBAC for Kubernetes Events:
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch

// Failures that are retried are logged once in logInterval for each rule, and recorded as a Kubernetes Event once in eventInterval. Each
// permanent failure is logged.
const (
	logInterval   = time.Second
	eventInterval = time.Minute
)

type notices struct {
	log      logr.Logger
	recorder notice.Recorder
	lines    *notice.Limiter[types.NamespacedName]
	events   *notice.Limiter[noticeKey]
}

type noticeKey struct {
	rule   types.NamespacedName
	reason string
}

func newNotices(options Options) *notices {
	return &notices{
		log: options.Log, recorder: notice.Recorder{EventRecorder: options.Recorder},
		lines:  notice.NewLimiter[types.NamespacedName](logInterval, options.Clock),
		events: notice.NewLimiter[noticeKey](eventInterval, options.Clock),
	}
}

// failed reports an attempt that failed, or, with a nil event, was not made before the deadline.
func (n *notices) failed(
	rule *v1alpha1.NetBoxEventRule, entry *entry, event *v1alpha1.NetBoxEvent, status *v1alpha1.ActionStatus, err error,
) {
	name := types.NamespacedName{Namespace: rule.Namespace, Name: rule.Name}
	log := n.log.WithValues("namespace", entry.name.Namespace, "name", entry.name.Name, "rule", rule.Name, "action", status.Name,
		"attempts", status.Attempts)
	if event != nil {
		log = log.WithValues("requestID", event.Spec.RequestID).WithValues(tracing.LogValues(event.Spec.Delivery.Traceparent)...)
	}
	if status.State == v1alpha1.DeliveryFailed {
		log.Error(err, "action failed permanently; fix the cause and set annotation "+v1alpha1.AnnotationReplay)
		n.record(rule, v1alpha1.ReasonDeliveryFailed, name, "action %s on %s failed permanently after attempt %d: %v",
			status.Name, entry.name.Name, status.Attempts, err)
		return
	}
	if allowed, suppressed := n.lines.Allow(name); allowed {
		log.Info("action failed; retrying", "cause", err.Error(), "at", status.NextAttemptTime.Time, "suppressed", suppressed)
	}
	n.record(rule, v1alpha1.ReasonRetrying, name, "action %s on %s failed at attempt %d: %v",
		status.Name, entry.name.Name, status.Attempts, err)
}

// expressionFailed reports that a rule's expression failed on an event.
func (n *notices) expressionFailed(rule *v1alpha1.NetBoxEventRule, event *v1alpha1.NetBoxEvent, err error) {
	name := types.NamespacedName{Namespace: rule.Namespace, Name: rule.Name}
	n.record(rule, v1alpha1.ReasonExpressionError, name, "match.cel failed on %s, which therefore does not match: %v", event.Name, err)
}

func (n *notices) record(rule *v1alpha1.NetBoxEventRule, reason string, name types.NamespacedName, format string, args ...any) {
	if allowed, _ := n.events.Allow(noticeKey{name, reason}); allowed {
		n.recorder.Eventf(rule, nil, corev1.EventTypeWarning, reason, "Deliver", format, args...)
	}
}
