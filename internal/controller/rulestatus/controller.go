// Package rulestatus writes the status of each NetBoxEventRule: whether it is valid, whether its sinks are available, and its counts.
//
// It runs on the leader.
package rulestatus

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	apply "github.com/netbox-events/netbox-event-operator/api/v1alpha1/applyconfiguration/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/conditions"
	"github.com/netbox-events/netbox-event-operator/internal/oneline"
	"github.com/netbox-events/netbox-event-operator/internal/rule"
)

// RBAC of the controller:
// +kubebuilder:rbac:groups=netbox-events.io,resources=netboxeventrules,verbs=get;list;watch
// +kubebuilder:rbac:groups=netbox-events.io,resources=netboxsources,verbs=list;watch
// +kubebuilder:rbac:groups=netbox-events.io,resources=netboxeventrules/status,verbs=patch

const fieldOwner = "netbox-event-operator"

// Reconciler writes the status of rules.
type Reconciler struct {
	// Rules reads NetBoxEventRules from the API server, not from a cache: counts must be added to the stored ones.
	Rules client.Reader
	// Cached reads NetBoxEventRules and NetBoxSources from a cache.
	Cached client.Reader
	// Compiled compiles them.
	Compiled *rule.Cache
	// Tally has the counts that are not stored yet.
	Tally *Tally
	// Sinks reports the availability of their sinks.
	Sinks Sinks
	// Status writes their status.
	Status client.StatusClient
	Clock  clock.PassiveClock
}

// Sinks reports whether deliveries of a rule wait for its sinks.
type Sinks interface {
	// SinkAvailable returns the condition SinkAvailable of a rule.
	SinkAvailable(rule types.NamespacedName) metav1.Condition
}

// SetupWithManager adds the controller to a manager.
func (r *Reconciler) SetupWithManager(mgr manager.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).
		Named("rule").
		For(&v1alpha1.NetBoxEventRule{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&v1alpha1.NetBoxSource{}, handler.EnqueueRequestsFromMapFunc(r.naming), builder.WithPredicates(predicate.Funcs{
			UpdateFunc: func(event.UpdateEvent) bool { return false },
		})).
		WatchesRawSource(source.Func(r.Tally.setQueue)).
		WithOptions(controller.Options{
			SkipNameValidation: new(true), // a new manager starts after leadership is lost
		}).
		Complete(r)
}

// naming returns requests for the rules that name a source, which was created or deleted.
func (r *Reconciler) naming(ctx context.Context, named client.Object) []reconcile.Request {
	var rules v1alpha1.NetBoxEventRuleList
	if err := r.Cached.List(ctx, &rules, client.InNamespace(named.GetNamespace())); err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "cannot list the rules that name a source")
		return nil
	}
	var requests []reconcile.Request
	for i := range rules.Items {
		names := rules.Items[i].Spec.Match.Sources
		if slices.ContainsFunc(names, func(name string) bool { return strings.EqualFold(name, named.GetName()) }) {
			requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&rules.Items[i])})
		}
	}
	return requests
}

// Reconcile writes the status of a rule if it changed.
func (r *Reconciler) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	counted := r.Tally.take(request.NamespacedName)
	var rule v1alpha1.NetBoxEventRule
	if err := r.Rules.Get(ctx, request.NamespacedName, &rule); apierrors.IsNotFound(err) {
		r.Tally.forget(request.NamespacedName)
		return reconcile.Result{}, nil
	} else if err != nil {
		r.Tally.restore(request.NamespacedName, counted)
		return reconcile.Result{}, err
	}
	status := *rule.Status.DeepCopy()
	if counted != nil {
		counted.addTo(&status)
	}
	ready, err := r.ready(ctx, &rule)
	if err != nil {
		r.Tally.restore(request.NamespacedName, counted)
		return reconcile.Result{}, err
	}
	ready.ObservedGeneration, ready.LastTransitionTime = rule.Generation, metav1.NewTime(r.Clock.Now())
	meta.SetStatusCondition(&status.Conditions, ready)
	if meta.RemoveStatusCondition(&status.Conditions, v1alpha1.ConditionStalled); ready.Status == metav1.ConditionFalse {
		ready.Type, ready.Status = v1alpha1.ConditionStalled, metav1.ConditionTrue
		meta.SetStatusCondition(&status.Conditions, ready)
	}
	r.setSinkAvailable(&status, request.NamespacedName, rule.Generation)
	status.ObservedGeneration = rule.Generation
	if equality.Semantic.DeepEqual(status, rule.Status) {
		return reconcile.Result{}, nil
	}
	if err := client.IgnoreNotFound(r.write(ctx, &rule, &status)); err != nil {
		r.Tally.restore(request.NamespacedName, counted)
		return reconcile.Result{}, err
	}
	return reconcile.Result{}, nil
}

// setSinkAvailable sets the condition SinkAvailable. A rule whose sinks have always been available does not have it.
func (r *Reconciler) setSinkAvailable(status *v1alpha1.NetBoxEventRuleStatus, rule types.NamespacedName, generation int64) {
	condition := r.Sinks.SinkAvailable(rule)
	if condition.Status == metav1.ConditionTrue && meta.FindStatusCondition(status.Conditions, condition.Type) == nil {
		return
	}
	condition.ObservedGeneration = generation
	meta.SetStatusCondition(&status.Conditions, condition)
}

// ready returns the condition Ready.
func (r *Reconciler) ready(ctx context.Context, eventRule *v1alpha1.NetBoxEventRule) (metav1.Condition, error) {
	if _, err := r.Compiled.Get(eventRule); err != nil {
		return metav1.Condition{
			Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonInvalid,
			Message: strings.ReplaceAll(err.Error(), "\n", "; "),
		}, nil
	}
	warnings := rule.Warnings("spec.match", &eventRule.Spec.Match.Filter)
	for _, name := range eventRule.Spec.Match.Sources {
		var named v1alpha1.NetBoxSource
		err := r.Cached.Get(ctx, types.NamespacedName{Namespace: eventRule.Namespace, Name: strings.ToLower(name)}, &named)
		if apierrors.IsNotFound(err) {
			warnings = append(warnings, fmt.Sprintf("spec.match.sources: there is no NetBoxSource %q in namespace %q", name, eventRule.Namespace))
		} else if err != nil {
			return metav1.Condition{}, err
		}
	}
	ready := metav1.Condition{
		Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonCompiled,
		Message: "events are matched against the rule",
	}
	switch {
	case eventRule.Spec.Suspend:
		ready.Reason, ready.Message = v1alpha1.ReasonSuspended, "spec.suspend is true: no event is matched against the rule"
	case eventRule.Spec.DryRun:
		ready.Reason = v1alpha1.ReasonDryRun
		ready.Message = "spec.dryRun is true: the status of each event that matches shows what its actions would do"
	}
	if warnings != nil {
		ready.Message = oneline.Of(ready.Message+"; but "+strings.Join(warnings, "; "), maxMessageBytes)
	}
	return ready, nil
}

// maxMessageBytes bounds the message of a condition: the API server takes 32 KiB.
const maxMessageBytes = 16 << 10

func (r *Reconciler) write(ctx context.Context, rule *v1alpha1.NetBoxEventRule, status *v1alpha1.NetBoxEventRuleStatus) error {
	desired := apply.NetBoxEventRuleStatus().
		WithMatched(status.Matched).
		WithFailed(status.Failed).
		WithExpressionErrors(status.ExpressionErrors).
		WithObservedGeneration(status.ObservedGeneration)
	if status.LastMatched != nil {
		desired.WithLastMatched(*status.LastMatched)
	}
	if status.LastExpressionError != "" {
		desired.WithLastExpressionError(status.LastExpressionError)
	}
	desired.WithConditions(conditions.Apply(status.Conditions)...)
	return r.Status.Status().Apply(ctx, apply.NetBoxEventRule(rule.Name, rule.Namespace).WithUID(rule.UID).WithStatus(desired),
		client.FieldOwner(fieldOwner), client.ForceOwnership)
}
