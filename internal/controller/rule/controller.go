// Package rule says in the status of each NetBoxEventRule whether it is in use, and how often it was.
//
// It runs on the leader.
package rule

import (
	"context"
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
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	apply "github.com/netbox-events/netbox-event-operator/api/v1alpha1/applyconfiguration/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/conditions"
	"github.com/netbox-events/netbox-event-operator/internal/rule"
)

// What the controller may do:
// +kubebuilder:rbac:groups=netbox-events.io,resources=netboxeventrules,verbs=get;list;watch
// +kubebuilder:rbac:groups=netbox-events.io,resources=netboxeventrules/status,verbs=patch

const fieldOwner = "netbox-event-operator"

// Reconciler writes the status of rules.
type Reconciler struct {
	// Rules reads NetBoxEventRules from the API server: counts are added to what is really there.
	Rules client.Reader
	// Compiled compiles them.
	Compiled *rule.Cache
	// Tally has what became of them.
	Tally *Tally
	// Sinks knows whether deliveries wait for their sinks.
	Sinks Sinks
	// Status writes their status.
	Status client.StatusClient
	Clock  clock.PassiveClock
}

// Sinks knows whether deliveries of a rule wait for its sinks.
type Sinks interface {
	// SinkAvailable returns the condition of that type.
	SinkAvailable(rule types.NamespacedName) metav1.Condition
}

// SetupWithManager adds the controller to a manager.
func (r *Reconciler) SetupWithManager(mgr manager.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).
		Named("rule").
		For(&v1alpha1.NetBoxEventRule{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		WatchesRawSource(source.Func(r.Tally.keepQueue)).
		WithOptions(controller.Options{
			SkipNameValidation: new(true), // the manager is made again when leadership was lost
		}).
		Complete(r)
}

// Reconcile writes the status of one rule if it is not right already.
func (r *Reconciler) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	counted := r.Tally.take(request.NamespacedName)
	var of v1alpha1.NetBoxEventRule
	if err := r.Rules.Get(ctx, request.NamespacedName, &of); apierrors.IsNotFound(err) {
		r.Tally.forget(request.NamespacedName)
		return reconcile.Result{}, nil
	} else if err != nil {
		r.Tally.giveBack(request.NamespacedName, counted)
		return reconcile.Result{}, err
	}
	status := *of.Status.DeepCopy()
	if counted != nil {
		counted.addTo(&status)
	}
	accepted := r.accepted(&of)
	accepted.ObservedGeneration, accepted.LastTransitionTime = of.Generation, metav1.NewTime(r.Clock.Now())
	meta.SetStatusCondition(&status.Conditions, accepted)
	r.setSinkAvailable(&status, request.NamespacedName, of.Generation)
	status.ObservedGeneration = of.Generation
	if equality.Semantic.DeepEqual(status, of.Status) {
		return reconcile.Result{}, nil
	}
	if err := client.IgnoreNotFound(r.write(ctx, &of, &status)); err != nil {
		r.Tally.giveBack(request.NamespacedName, counted)
		return reconcile.Result{}, err
	}
	return reconcile.Result{}, nil
}

// setSinkAvailable sets the condition SinkAvailable. A rule whose sinks were always available has none.
func (r *Reconciler) setSinkAvailable(status *v1alpha1.NetBoxEventRuleStatus, rule types.NamespacedName, generation int64) {
	condition := r.Sinks.SinkAvailable(rule)
	if condition.Status == metav1.ConditionTrue && meta.FindStatusCondition(status.Conditions, condition.Type) == nil {
		return
	}
	condition.ObservedGeneration = generation
	meta.SetStatusCondition(&status.Conditions, condition)
}

// accepted tells whether a rule is in use.
func (r *Reconciler) accepted(of *v1alpha1.NetBoxEventRule) metav1.Condition {
	if _, err := r.Compiled.Get(of); err != nil {
		return metav1.Condition{
			Type: v1alpha1.ConditionAccepted, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonInvalid,
			Message: strings.ReplaceAll(err.Error(), "\n", "; "),
		}
	}
	return metav1.Condition{
		Type: v1alpha1.ConditionAccepted, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonCompiled,
		Message: "events are matched against the rule",
	}
}

func (r *Reconciler) write(ctx context.Context, of *v1alpha1.NetBoxEventRule, status *v1alpha1.NetBoxEventRuleStatus) error {
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
	return r.Status.Status().Apply(ctx, apply.NetBoxEventRule(of.Name, of.Namespace).WithUID(of.UID).WithStatus(desired),
		client.FieldOwner(fieldOwner), client.ForceOwnership)
}
