// Package sourcestatus writes the status of NetBoxSources: the path, the claim to it, the readiness and the backlog.
//
// It runs on the leader. It may not import the receiver, which decides by itself which sources to serve, by the same rules of package
// internal/source.
package sourcestatus

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

// RBAC of the controller:
// +kubebuilder:rbac:groups=netbox-events.io,resources=netboxsources,verbs=list;watch
// +kubebuilder:rbac:groups=netbox-events.io,resources=netboxsources/status,verbs=patch
// +kubebuilder:rbac:groups="",resources=secrets,verbs=get

// FieldOwner is the field manager of a source's status.
const FieldOwner = "netbox-event-operator"

// maxMessageBytes bounds the message of a condition, which may quote an error of the API server. The API allows 32 KiB.
const maxMessageBytes = 1024

// Secrets are not watched but polled, more often while one is missing and a user waits for it.
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
			SkipNameValidation: new(true), // the manager is created again after leadership was lost
		}).
		Complete(r)
}

// claimChanged reports whether the recorded claim of a source was changed or removed.
func claimChanged(update event.UpdateEvent) bool {
	before, after := update.ObjectOld.(*v1alpha1.NetBoxSource), update.ObjectNew.(*v1alpha1.NetBoxSource)
	return !equality.Semantic.DeepEqual(before.Status.Claim, after.Status.Claim)
}

// rivals returns the sources that claim the path of a changed source: they may gain or lose it.
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

// Reconcile writes the status of one source if it is outdated.
func (r *Reconciler) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	var netbox v1alpha1.NetBoxSource
	if err := r.Sources.Get(ctx, request.NamespacedName, &netbox); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	status, err := r.status(ctx, &netbox)
	if err != nil {
		return reconcile.Result{}, err
	}
	if !equality.Semantic.DeepEqual(status, netbox.Status) {
		err := r.write(ctx, &netbox, status)
		if apierrors.IsConflict(err) {
			return reconcile.Result{RequeueAfter: conflictInterval}, nil
		}
		if err != nil {
			return reconcile.Result{}, client.IgnoreNotFound(err)
		}
	}
	switch ready := meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionReady); {
	case netbox.Spec.SecretRef == nil, ready.Reason == v1alpha1.ReasonSuspended, ready.Reason == v1alpha1.ReasonPathConflict,
		ready.Reason == v1alpha1.ReasonInvalidAccept:
		return reconcile.Result{}, nil
	case ready.Status == metav1.ConditionTrue:
		return reconcile.Result{RequeueAfter: secretInterval}, nil
	default:
		return reconcile.Result{RequeueAfter: missingSecretInterval}, nil
	}
}

// status computes the desired status of a source.
func (r *Reconciler) status(ctx context.Context, netbox *v1alpha1.NetBoxSource) (v1alpha1.NetBoxSourceStatus, error) {
	path := source.Path(netbox)
	claims, err := r.claims(ctx, path)
	if err != nil {
		return v1alpha1.NetBoxSourceStatus{}, err
	}
	owner, now := source.Owner(claims), r.Clock.Now()
	ready, keys := r.ready(ctx, netbox, owner)
	ready.ObservedGeneration = netbox.Generation
	ready.LastTransitionTime = metav1.NewTime(now)

	status := *netbox.Status.DeepCopy()
	meta.SetStatusCondition(&status.Conditions, ready)
	status.Path, status.Keys, status.ObservedGeneration = path, keys, netbox.Generation
	status.Claim = source.Claim(netbox, owner, now)
	return status, nil
}

// ready returns the condition Ready of a source, and the names of its signing keys.
func (r *Reconciler) ready(ctx context.Context, netbox, owner *v1alpha1.NetBoxSource) (metav1.Condition, []string) {
	notReady := func(reason, format string, args ...any) metav1.Condition {
		return metav1.Condition{
			Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, Reason: reason,
			Message: oneline.Of(fmt.Sprintf(format, args...), maxMessageBytes),
		}
	}
	if netbox.Spec.Suspend {
		return notReady(v1alpha1.ReasonSuspended, "spec.suspend is true; deliveries are answered with 503"), nil
	}
	if owner == nil {
		return notReady(v1alpha1.ReasonPathConflict, "several NetBoxSources have the path %s, and it is unknown which of them claimed it "+
			"first: deliveries to it are answered with 404; change spec.path of all but one of them", source.Path(netbox)), nil
	}
	if owner.UID != netbox.UID {
		return notReady(v1alpha1.ReasonPathConflict,
			"the path %s belongs to NetBoxSource %s/%s, which claimed it first; choose another spec.path",
			source.Path(netbox), owner.Namespace, owner.Name), nil
	}
	serving := metav1.Condition{
		Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonServing, Message: "deliveries are stored",
	}
	if netbox.Spec.Accept != nil {
		if _, err := rule.CompileAccept(netbox.Spec.Accept); err != nil {
			return notReady(v1alpha1.ReasonInvalidAccept, "%v; deliveries are answered with 503", err), nil
		}
		serving.Message = "deliveries that match spec.accept are stored; all others are answered with 200 and ignored"
		if warnings := rule.Warnings("spec.accept", netbox.Spec.Accept); warnings != nil {
			serving.Message = oneline.Of(serving.Message+"; but "+strings.Join(warnings, "; "), maxMessageBytes)
		}
	}
	if netbox.Spec.SecretRef == nil {
		serving.Message += "; any client can send them, because the source has no secretRef"
		return serving, nil
	}

	var secret corev1.Secret
	name := types.NamespacedName{Namespace: netbox.Namespace, Name: netbox.Spec.SecretRef.Name}
	if err := r.Secrets.Get(ctx, name, &secret); apierrors.IsNotFound(err) {
		return notReady(v1alpha1.ReasonSecretNotFound, "Secret %s does not exist in namespace %s; deliveries are answered with 503",
			name.Name, name.Namespace), nil
	} else if err != nil {
		return notReady(v1alpha1.ReasonSecretUnreadable, "%v", err), nil
	}
	keys, err := secretkeys.Of(&secret, netbox.Spec.SecretRef)
	if err != nil {
		return notReady(v1alpha1.ReasonKeyNotFound, "%v; deliveries are answered with 503", err), nil
	}
	if netbox.Spec.Unsigned == v1alpha1.UnsignedAccept {
		serving.Message += "; unsigned deliveries are stored too, because spec.unsigned is Accept"
	}
	var names []string
	for _, key := range keys {
		names = append(names, key.Name)
	}
	return serving, names
}

// write writes the status of a source. The API server refuses it with a conflict if the source has changed since it was read: an outdated
// cache must not overwrite the record of a claim.
func (r *Reconciler) write(ctx context.Context, netbox *v1alpha1.NetBoxSource, status v1alpha1.NetBoxSourceStatus) error {
	desired := apply.NetBoxSourceStatus().
		WithPath(status.Path).
		WithKeys(status.Keys...).
		WithObservedGeneration(status.ObservedGeneration)
	if claim := status.Claim; claim != nil {
		desired.WithClaim(apply.PathClaim().WithPath(claim.Path).WithSince(claim.Since).WithHeld(claim.Held))
	}
	ready := meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionReady) // other conditions have other field managers
	desired.WithConditions(conditions.Apply([]metav1.Condition{*ready})...)
	return r.Status.Status().Apply(ctx,
		apply.NetBoxSource(netbox.Name, netbox.Namespace).WithUID(netbox.UID).WithResourceVersion(netbox.ResourceVersion).WithStatus(desired),
		client.FieldOwner(FieldOwner), client.ForceOwnership)
}
