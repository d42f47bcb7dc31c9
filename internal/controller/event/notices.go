package event

import (
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/notice"
)

// What telling people takes:
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch

// A sink that is down fails every event: of those that are tried again there is one line of each rule in logInterval, and one Kubernetes
// Event in eventInterval. What is given up has a line each.
const (
	logInterval   = time.Second
	eventInterval = time.Minute
)

type notices struct {
	log      logr.Logger
	recorder events.EventRecorder
	lines    *notice.Limiter[types.NamespacedName]
	events   *notice.Limiter[noticeKey]
}

type noticeKey struct {
	rule   types.NamespacedName
	reason string
}

func newNotices(r *Reconciler) *notices {
	return &notices{
		log: r.Log, recorder: r.Recorder,
		lines:  notice.NewLimiter[types.NamespacedName](logInterval, r.Clock),
		events: notice.NewLimiter[noticeKey](eventInterval, r.Clock),
	}
}

// failed tells of an attempt that failed.
func (n *notices) failed(rule *v1alpha1.NetBoxEventRule, event *v1alpha1.NetBoxEvent, status *v1alpha1.ActionStatus, err error) {
	name := types.NamespacedName{Namespace: rule.Namespace, Name: rule.Name}
	log := n.log.WithValues(naming(event)...).WithValues("rule", rule.Name, "action", status.Name,
		"requestID", event.Spec.RequestID, "attempts", status.Attempts)
	if status.State == v1alpha1.DeliveryFailed {
		log.Error(err, "action given up; mend the cause, and annotate the event with "+v1alpha1.AnnotationReplay)
		n.record(rule, v1alpha1.ReasonDeliveryFailed, name, "action %s on %s was given up after attempt %d: %v",
			status.Name, event.Name, status.Attempts, err)
		return
	}
	if allowed, withheld := n.lines.Allow(name); allowed {
		log.Info("action failed and will be tried again", "cause", err.Error(), "at", status.NextAttemptTime.Time, "moreSinceLastLine", withheld)
	}
	n.record(rule, v1alpha1.ReasonRetrying, name, "action %s on %s failed at attempt %d: %v", status.Name, event.Name, status.Attempts, err)
}

// expressionFailed tells that the expression of a rule failed on an event.
func (n *notices) expressionFailed(rule *v1alpha1.NetBoxEventRule, event *v1alpha1.NetBoxEvent, err error) {
	name := types.NamespacedName{Namespace: rule.Namespace, Name: rule.Name}
	n.record(rule, v1alpha1.ReasonExpressionError, name, "match.cel failed on %s, which therefore does not match: %v", event.Name, err)
}

func (n *notices) record(rule *v1alpha1.NetBoxEventRule, reason string, name types.NamespacedName, format string, args ...any) {
	if allowed, _ := n.events.Allow(noticeKey{name, reason}); allowed {
		n.recorder.Eventf(rule, nil, corev1.EventTypeWarning, reason, "Deliver", format, args...)
	}
}
