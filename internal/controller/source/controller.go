// Package source says in the status of each NetBoxSource where it is served and what keeps it from being.
//
// It runs on the leader. It may not know the receiver, which decides for itself what to serve, by the same rules of package
// internal/source.
package source

import (
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
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

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	apply "github.com/netbox-events/netbox-event-operator/api/v1alpha1/applyconfiguration/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/conditions"
	"github.com/netbox-events/netbox-event-operator/internal/oneline"
	"github.com/netbox-events/netbox-event-operator/internal/rule"
	"github.com/netbox-events/netbox-event-operator/internal/secretkeys"
	"github.com/netbox-events/netbox-event-operator/internal/source"
)

// What the controller may do:
// +kubebuilder:rbac:groups=netbox-events.io,resources=netboxsources,verbs=list;watch
// +kubebuilder:rbac:groups=netbox-events.io,resources=netboxsources/status,verbs=patch
// +kubebuilder:rbac:groups="",resources=secrets,verbs=get

// FieldOwner is the field manager of a source's status.
const FieldOwner = "netbox-event-operator"

// maxMessageBytes bounds the message of a condition, which may repeat what the API server says. It takes 32 KiB.
const maxMessageBytes = 1024

// Secrets are not watched, so the status looks at them now and then: sooner where one is missing and somebody waits for it.
const (
	secretInterval        = time.Minute
	missingSecretInterval = 5 * time.Second
)

// Reconciler writes the status of sources.
type Reconciler struct {
	// Sources reads NetBoxSources from a cache that indexes them by source.PathIndex.
	Sources client.Reader
	// Secrets reads Secrets from the API server.
	Secrets client.Reader
	// Status writes the status of sources.
	Status client.StatusClient
	Clock  clock.PassiveClock
}

// SetupWithManager adds the controller to a manager.
func (r *Reconciler) SetupWithManager(mgr manager.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).
		Named("source").
		For(&v1alpha1.NetBoxSource{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&v1alpha1.NetBoxSource{}, handler.EnqueueRequestsFromMapFunc(r.rivals),
			builder.WithPredicates(predicate.Or(predicate.GenerationChangedPredicate{}, predicate.Funcs{UpdateFunc: claimChanged}))).
		WithOptions(controller.Options{
			SkipNameValidation: new(true), // the manager is made again when leadership was lost
		}).
		Complete(r)
}

// claimChanged reports whether the recorded claim of a source has changed, or was lost.
func claimChanged(update event.UpdateEvent) bool {
	before, after := update.ObjectOld.(*v1alpha1.NetBoxSource), update.ObjectNew.(*v1alpha1.NetBoxSource)
	return !equality.Semantic.DeepEqual(before.Status.Claim, after.Status.Claim)
}

// rivals are the sources that claim the path of another, which may gain or lose it by what happened to that one.
func (r *Reconciler) rivals(ctx context.Context, object client.Object) []reconcile.Request {
	claims, err := r.claims(ctx, source.Path(object.(*v1alpha1.NetBoxSource)))
	if err != nil {
		return nil // the cache is stopping
	}
	var rivals []reconcile.Request
	for _, claim := range claims {
		rivals = append(rivals, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&claim)})
	}
	return rivals
}

func (r *Reconciler) claims(ctx context.Context, path string) ([]v1alpha1.NetBoxSource, error) {
	var claims v1alpha1.NetBoxSourceList
	err := r.Sources.List(ctx, &claims, client.MatchingFields{source.PathIndex: path})
	return claims.Items, err
}

// Reconcile writes the status of one source if it is not right already.
func (r *Reconciler) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	var from v1alpha1.NetBoxSource
	if err := r.Sources.Get(ctx, request.NamespacedName, &from); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	status, err := r.status(ctx, &from)
	if err != nil {
		return reconcile.Result{}, err
	}
	if !equality.Semantic.DeepEqual(status, from.Status) {
		err := r.write(ctx, &from, status)
		if apierrors.IsConflict(err) {
			return reconcile.Result{RequeueAfter: conflictInterval}, nil
		}
		if err != nil {
			return reconcile.Result{}, client.IgnoreNotFound(err)
		}
	}
	switch ready := meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionReady); {
	case from.Spec.SecretRef == nil, ready.Reason == v1alpha1.ReasonSuspended, ready.Reason == v1alpha1.ReasonPathConflict,
		ready.Reason == v1alpha1.ReasonInvalidAccept:
		return reconcile.Result{}, nil
	case ready.Status == metav1.ConditionTrue:
		return reconcile.Result{RequeueAfter: secretInterval}, nil
	default:
		return reconcile.Result{RequeueAfter: missingSecretInterval}, nil
	}
}

// status works out the status that a source should have.
func (r *Reconciler) status(ctx context.Context, from *v1alpha1.NetBoxSource) (v1alpha1.NetBoxSourceStatus, error) {
	path := source.Path(from)
	claims, err := r.claims(ctx, path)
	if err != nil {
		return v1alpha1.NetBoxSourceStatus{}, err
	}
	owner, now := source.Owner(claims), r.Clock.Now()
	ready, keys := r.ready(ctx, from, owner)
	ready.ObservedGeneration = from.Generation
	ready.LastTransitionTime = metav1.NewTime(now)

	status := *from.Status.DeepCopy()
	meta.SetStatusCondition(&status.Conditions, ready)
	status.Path, status.Keys, status.ObservedGeneration = path, keys, from.Generation
	status.Claim = source.Claim(from, owner, now)
	return status, nil
}

// ready says whether deliveries to a source are stored, and the names of the keys they may be signed with.
func (r *Reconciler) ready(ctx context.Context, from, owner *v1alpha1.NetBoxSource) (metav1.Condition, []string) {
	not := func(reason, format string, args ...any) metav1.Condition {
		return metav1.Condition{
			Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, Reason: reason,
			Message: oneline.Of(fmt.Sprintf(format, args...), maxMessageBytes),
		}
	}
	if from.Spec.Suspend {
		return not(v1alpha1.ReasonSuspended, "spec.suspend is set; deliveries are answered with 503"), nil
	}
	if owner == nil {
		return not(v1alpha1.ReasonPathConflict, "several NetBoxSources have the path %s, and it is unknown which of them claimed it first, so "+
			"deliveries to it are answered with 404; change spec.path of all but one of them", source.Path(from)), nil
	}
	if owner.UID != from.UID {
		return not(v1alpha1.ReasonPathConflict, "the path %s belongs to NetBoxSource %s/%s, which claimed it first; choose another spec.path",
			source.Path(from), owner.Namespace, owner.Name), nil
	}
	serving := metav1.Condition{
		Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonServing, Message: "deliveries are stored",
	}
	if from.Spec.Accept != nil {
		if _, err := rule.CompileAccept(from.Spec.Accept); err != nil {
			return not(v1alpha1.ReasonInvalidAccept, "%v; deliveries are answered with 503", err), nil
		}
		serving.Message = "deliveries that fit spec.accept are stored, and others are answered with 200 and ignored"
		if warnings := rule.Warnings("spec.accept", from.Spec.Accept); warnings != nil {
			serving.Message = oneline.Of(serving.Message+"; but "+strings.Join(warnings, "; "), maxMessageBytes)
		}
	}
	if from.Spec.SecretRef == nil {
		serving.Message += "; anybody can send them, because the source has no secretRef"
		return serving, nil
	}

	var secret corev1.Secret
	name := types.NamespacedName{Namespace: from.Namespace, Name: from.Spec.SecretRef.Name}
	if err := r.Secrets.Get(ctx, name, &secret); apierrors.IsNotFound(err) {
		return not(v1alpha1.ReasonSecretNotFound, "Secret %s does not exist in namespace %s; deliveries are answered with 503",
			name.Name, name.Namespace), nil
	} else if err != nil {
		return not(v1alpha1.ReasonSecretUnreadable, "%v", err), nil
	}
	keys, err := secretkeys.Of(&secret, from.Spec.SecretRef)
	if err != nil {
		return not(v1alpha1.ReasonKeyNotFound, "%v; deliveries are answered with 503", err), nil
	}
	if from.Spec.Unsigned == v1alpha1.UnsignedAccept {
		serving.Message += "; those without a signature are taken too, because spec.unsigned is Accept"
	}
	var names []string
	for _, key := range keys {
		names = append(names, key.Name)
	}
	return serving, names
}

// write writes the status of a source. The API server refuses it if the source has changed since it was read: a cache that lags behind must
// not replace the record of a claim.
func (r *Reconciler) write(ctx context.Context, from *v1alpha1.NetBoxSource, status v1alpha1.NetBoxSourceStatus) error {
	desired := apply.NetBoxSourceStatus().
		WithPath(status.Path).
		WithKeys(status.Keys...).
		WithObservedGeneration(status.ObservedGeneration)
	if claim := status.Claim; claim != nil {
		desired.WithClaim(apply.PathClaim().WithPath(claim.Path).WithSince(claim.Since).WithHeld(claim.Held))
	}
	ready := meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionReady) // others have field managers of their own
	desired.WithConditions(conditions.Apply([]metav1.Condition{*ready})...)
	return r.Status.Status().Apply(ctx,
		apply.NetBoxSource(from.Name, from.Namespace).WithUID(from.UID).WithResourceVersion(from.ResourceVersion).WithStatus(desired),
		client.FieldOwner(FieldOwner), client.ForceOwnership)
}
