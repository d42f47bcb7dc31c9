package netbox

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	logf "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/netboxapi"
	"github.com/netbox-events/netbox-event-operator/internal/notice"
	"github.com/netbox-events/netbox-event-operator/internal/outbound"
	"github.com/netbox-events/netbox-event-operator/internal/secretkeys"
)

// RBAC of the controller. It patches finalizers:
// +kubebuilder:rbac:groups=netbox-events.io,resources=netboxsources,verbs=list;watch;patch
// +kubebuilder:rbac:groups=netbox-events.io,resources=netboxsources/status,verbs=patch
// +kubebuilder:rbac:groups=netbox-events.io,resources=netboxeventrules,verbs=list;watch
// +kubebuilder:rbac:groups="",resources=secrets,verbs=get
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch

const (
	// checkInterval is the time between two checks of the webhook in NetBox while nothing changes.
	checkInterval = 5 * time.Minute
	// keyInterval is the time between two reads of the Secrets, which are not watched. It bounds how late a new key reaches NetBox.
	keyInterval = 15 * time.Second
	// minCheckBackoff and maxCheckBackoff bound the exponential backoff after a failed check.
	minCheckBackoff, maxCheckBackoff = 5 * time.Second, 5 * time.Minute
	// minAPIBackoff and maxAPIBackoff bound the backoff after an error of the API server.
	minAPIBackoff, maxAPIBackoff = 100 * time.Millisecond, time.Minute
	// staleInterval is the pause after a conflict: the cache had an older source than the API server.
	staleInterval = 100 * time.Millisecond
	// webhookWorkers is the number of concurrent reconciles: they mostly wait for NetBox.
	webhookWorkers = 4
)

// WebhookReconciler makes and keeps the webhook and its event rule in the NetBox of each source with spec.netbox.webhook, and says whether
// the NetBox of each source with spec.netbox can be reached.
//
// It asks NetBox at each change of the source, of its rules where they select the object types, and of the Secrets; and every 5 minutes.
type WebhookReconciler struct {
	// Cached reads NetBoxSources and NetBoxEventRules from a cache.
	Cached client.Reader
	// Sources writes the finalizers and the status of sources.
	Sources SourceWriter
	// Clients calls the NetBoxes, and Secrets reads the keys of their webhooks.
	Clients  *Clients
	Secrets  *outbound.Secrets
	Recorder events.EventRecorder
	Metrics  *Metrics
	Clock    clock.PassiveClock

	mu     sync.Mutex
	states map[types.NamespacedName]*webhookState
}

// SourceWriter writes sources.
type SourceWriter interface {
	client.Writer
	client.StatusClient
}

// webhookState is what is known of a source's NetBox. Only the reconcile of the source uses it.
type webhookState struct {
	uid types.UID
	// client is the last one that could be made; it may be outdated.
	client *netboxapi.Client
	// inputs identifies what the last check wanted, and checkAt is when to check again even if that is the same.
	inputs   [sha256.Size]byte
	checkAt  time.Time
	failures int
	// netbox identifies the NetBox and its version, and types are its object types as of typesAt. refused are those that it did not take for
	// an event rule.
	netbox  string
	types   []netboxapi.ObjectType
	typesAt time.Time
	refused map[string]bool
	// confirmed is what NetBox had at the end of the last successful check; nil if there was none since the start.
	confirmed *desired
	// corrected says which fields were changed in NetBox, and put right, and when; "" for none.
	corrected string
	status    webhookStatus
}

// SetupWithManager adds the controller to a manager.
func (r *WebhookReconciler) SetupWithManager(mgr manager.Manager) error {
	if err := mgr.Add(manager.RunnableFunc(func(ctx context.Context) error {
		<-ctx.Done()
		r.Metrics.reset() // another replica leads now
		return nil
	})); err != nil {
		return err
	}
	return ctrl.NewControllerManagedBy(mgr).
		Named("netbox-webhook").
		For(&v1alpha1.NetBoxSource{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&v1alpha1.NetBoxEventRule{}, handler.EnqueueRequestsFromMapFunc(r.askedFor),
			builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		WithOptions(controller.Options{
			MaxConcurrentReconciles: webhookWorkers,
			RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](minAPIBackoff, maxAPIBackoff),
			SkipNameValidation:      new(true), // the manager is created again after leadership was lost
		}).
		Complete(r)
}

// askedFor returns the sources whose object types depend on a rule.
func (r *WebhookReconciler) askedFor(ctx context.Context, rule client.Object) []reconcile.Request {
	var sources v1alpha1.NetBoxSourceList
	if err := r.Cached.List(ctx, &sources, client.InNamespace(rule.GetNamespace())); err != nil {
		return nil // the cache is stopping
	}
	var requests []reconcile.Request
	for _, source := range sources.Items {
		if isFromRules(&source) {
			requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&source)})
		}
	}
	return requests
}

func managed(source *v1alpha1.NetBoxSource) *v1alpha1.ManagedWebhook {
	if source.Spec.NetBox == nil {
		return nil
	}
	return source.Spec.NetBox.Webhook
}

func isFromRules(source *v1alpha1.NetBoxSource) bool {
	webhook := managed(source)
	return webhook != nil && slices.Equal(webhook.ObjectTypes, []string{v1alpha1.ObjectTypesFromRules})
}

// Reconcile does what is due for one source.
func (r *WebhookReconciler) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	var cached v1alpha1.NetBoxSource
	if err := r.Cached.Get(ctx, request.NamespacedName, &cached); apierrors.IsNotFound(err) {
		r.forget(request.NamespacedName)
		return reconcile.Result{}, nil
	} else if err != nil {
		return reconcile.Result{}, err
	}
	source := cached.DeepCopy()
	state := r.state(source)
	hasFinalizer := controllerutil.ContainsFinalizer(source, v1alpha1.FinalizerNetBox)
	switch {
	case !source.DeletionTimestamp.IsZero() && !hasFinalizer:
		return reconcile.Result{}, nil
	case hasFinalizer && (managed(source) == nil || !source.DeletionTimestamp.IsZero()):
		return r.remove(ctx, source, state)
	case managed(source) != nil && !hasFinalizer:
		if err := r.setFinalizer(ctx, source, controllerutil.AddFinalizer); apierrors.IsConflict(err) {
			return reconcile.Result{RequeueAfter: staleInterval}, nil
		} else if err != nil {
			return reconcile.Result{}, err
		}
	}
	return r.keep(ctx, source, state)
}

// keep checks the NetBox of a source if that is due, and writes the status.
func (r *WebhookReconciler) keep(ctx context.Context, source *v1alpha1.NetBoxSource, state *webhookState) (reconcile.Result, error) {
	if source.Spec.NetBox == nil {
		r.forget(client.ObjectKeyFromObject(source))
		return reconcile.Result{}, r.writeStatus(ctx, source, webhookStatus{})
	}
	inputs, err := r.inputs(ctx, source)
	if err != nil {
		return reconcile.Result{}, err
	}
	now := r.Clock.Now()
	if id := inputs.id(source); id != state.inputs || !now.Before(state.checkAt) {
		if id != state.inputs {
			state.failures = 0
		}
		pause := r.check(ctx, source, state, inputs)
		if ctx.Err() != nil {
			return reconcile.Result{}, ctx.Err()
		}
		state.inputs, state.checkAt = id, now.Add(pause)
	}
	if err := r.writeStatus(ctx, source, state.status); err != nil {
		return reconcile.Result{}, err
	}
	next := max(state.checkAt.Sub(r.Clock.Now()), time.Second)
	if managed(source) != nil {
		next = min(next, keyInterval)
	}
	return reconcile.Result{RequeueAfter: next}, nil
}

// webhookInputs is what a check needs from Kubernetes.
type webhookInputs struct {
	client    *netboxapi.Client
	clientErr error
	// key signs the deliveries; its name is empty for a source without secretRef.
	key    secretkeys.Key
	keyErr error
	// patterns select the object types.
	patterns []string
}

// inputs reads what a check needs. It fails only if the cache does.
func (r *WebhookReconciler) inputs(ctx context.Context, source *v1alpha1.NetBoxSource) (webhookInputs, error) {
	var in webhookInputs
	in.client, in.clientErr = r.Clients.For(ctx, source)
	if managed(source) == nil {
		return in, nil
	}
	if ref := source.Spec.SecretRef; ref != nil {
		secret, err := r.Secrets.Get(ctx, source.Namespace, ref.Name)
		if err != nil {
			in.keyErr = fmt.Errorf("spec.secretRef: %w", err)
		} else {
			in.key, in.keyErr = signingKey(secret, ref)
		}
	}
	var rules v1alpha1.NetBoxEventRuleList
	if isFromRules(source) {
		if err := r.Cached.List(ctx, &rules, client.InNamespace(source.Namespace)); err != nil {
			return in, err
		}
	}
	in.patterns = sentPatterns(source, rules.Items)
	return in, nil
}

// id identifies the inputs for a generation of a source, in this process.
func (in webhookInputs) id(source *v1alpha1.NetBoxSource) [sha256.Size]byte {
	return sha256.Sum256(fmt.Appendf(nil, "%d %p %v %q %q %v %q", source.Generation, in.client, in.clientErr, in.key.Name, in.key.Value,
		in.keyErr, in.patterns))
}

// check asks NetBox, and makes the webhook and its event rule what they should be. It returns the pause until the next check.
func (r *WebhookReconciler) check(
	ctx context.Context, source *v1alpha1.NetBoxSource, state *webhookState, inputs webhookInputs,
) time.Duration {
	before := state.status
	err := inputs.clientErr
	if err == nil {
		state.client = inputs.client
		err = r.askStatus(ctx, source, state)
	}
	switch {
	case err != nil:
		state.status.reachable = newCondition(source, v1alpha1.ConditionNetBoxReachable, metav1.ConditionFalse, reasonOf(err), "%v", err)
		if managed(source) != nil {
			state.status.configured = newCondition(source, v1alpha1.ConditionWebhookConfigured, metav1.ConditionUnknown, reasonOf(err),
				"not checked, because NetBox is not reachable: %v", err)
		}
	case managed(source) != nil:
		err = r.configure(ctx, source, state, inputs)
	}
	if ctx.Err() != nil {
		state.status.reachable, state.status.configured = before.reachable, before.configured
		return 0
	}
	r.reportConditions(ctx, source, before, state.status)
	if err == nil {
		state.failures = 0
		return checkInterval
	}
	pause := max(checkBackoff(state.failures), retryAfterOf(err))
	state.failures++
	return pause
}

// checkBackoff returns the pause after NetBox failed, which followed other failures.
func checkBackoff(failures int) time.Duration {
	const maxDoublings = 10
	return min(minCheckBackoff<<min(failures, maxDoublings), maxCheckBackoff)
}

// retryAfterOf returns the time for which NetBox asked for no requests.
func retryAfterOf(err error) time.Duration {
	if failure, ok := errors.AsType[*netboxapi.Error](err); ok {
		return failure.RetryAfter
	}
	return 0
}

// askStatus asks NetBox for its version. What was known of another version is forgotten.
func (r *WebhookReconciler) askStatus(ctx context.Context, source *v1alpha1.NetBoxSource, state *webhookState) error {
	status, err := state.client.Status(ctx)
	if err != nil {
		return err
	}
	text := fmt.Sprintf("%s %s answers at %s", status.Flavor, status.Version, hostOf(source.Spec.NetBox.URL))
	if text != state.netbox {
		state.netbox, state.types, state.refused = text, nil, map[string]bool{}
	}
	state.status.version = status.Version
	state.status.reachable = newCondition(source, v1alpha1.ConditionNetBoxReachable, metav1.ConditionTrue, v1alpha1.ReasonReachable,
		"%s", text)
	return nil
}

// configure makes the webhook and its event rule what they should be, and sets the condition.
func (r *WebhookReconciler) configure(ctx context.Context, source *v1alpha1.NetBoxSource, state *webhookState, inputs webhookInputs) error {
	r.Metrics.drift.WithLabelValues(client.ObjectKeyFromObject(source).String()) // shows 0 before the first one
	keeper := &keeper{
		WebhookReconciler: r, source: source, state: state, client: inputs.client,
		wasConfirmed: isConfirmed(state.status.configured, source.Generation),
	}
	selected, err := keeper.keep(ctx, inputs)
	keeper.report(ctx)
	if err != nil {
		state.status.configured = newCondition(source, v1alpha1.ConditionWebhookConfigured, metav1.ConditionFalse, webhookReasonOf(err),
			"%v", err)
		return err
	}
	state.status.key, state.status.objectTypes = inputs.key.Name, int32(len(selected.types)) //nolint:gosec // at most some thousands
	state.status.configured = newCondition(source, v1alpha1.ConditionWebhookConfigured, metav1.ConditionTrue, v1alpha1.ReasonConfigured, "%s",
		describeWebhook(source, state, selected))
	return nil
}

// describeWebhook returns a text about the webhook of a source.
func describeWebhook(source *v1alpha1.NetBoxSource, state *webhookState, selected selection) string {
	text := fmt.Sprintf("webhook %d and event rule %d in NetBox send the changes of %d object types to %s", state.status.webhookID,
		state.status.eventRuleID, len(selected.types), managed(source).URL)
	if len(selected.types) == 0 {
		text = fmt.Sprintf("webhook %d and event rule %d in NetBox send nothing: no rule of this namespace matches an object type of this source",
			state.status.webhookID, state.status.eventRuleID)
	}
	if source.Spec.SecretRef == nil {
		text += ", unsigned"
	}
	if len(selected.unknown) > 0 {
		text += fmt.Sprintf("; this NetBox has no event rules for %s", joined(selected.unknown))
	}
	if selected.isWebhookLeftOut {
		text += fmt.Sprintf("; %s is left out, because its events hold the secrets of webhooks: add %s to spec.redact, or list it by "+
			"its name", webhookType, secretField)
	}
	if state.corrected != "" {
		text += "; " + state.corrected
	}
	return text
}

// joined joins some of many names.
func joined(names []string) string {
	const maxNames = 10
	if len(names) > maxNames {
		return fmt.Sprintf("%s and %d others", strings.Join(names[:maxNames], ", "), len(names)-maxNames)
	}
	return strings.Join(names, ", ")
}

// state returns the state of a source. A recreated source of the same name gets a new one.
func (r *WebhookReconciler) state(source *v1alpha1.NetBoxSource) *webhookState {
	r.mu.Lock()
	defer r.mu.Unlock()
	name := client.ObjectKeyFromObject(source)
	if state := r.states[name]; state != nil && state.uid == source.UID {
		return state
	}
	if r.states == nil {
		r.states = map[types.NamespacedName]*webhookState{}
	}
	state := &webhookState{uid: source.UID, refused: map[string]bool{}, status: statusOf(source)}
	r.states[name] = state
	return state
}

// forget removes what is known of a source that is deleted, or has no spec.netbox any more.
func (r *WebhookReconciler) forget(source types.NamespacedName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.states, source)
	r.Clients.Forget(source)
	r.Metrics.forget(source.String())
}

// setFinalizer adds or removes the finalizer. The API server refuses it with a conflict if the source has changed since it was read.
func (r *WebhookReconciler) setFinalizer(
	ctx context.Context, source *v1alpha1.NetBoxSource, change func(client.Object, string) bool,
) error {
	before := source.DeepCopy()
	if !change(source, v1alpha1.FinalizerNetBox) {
		return nil
	}
	return r.Sources.Patch(ctx, source, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}))
}

// recorder makes Kubernetes Events.
func (r *WebhookReconciler) recorder() notice.Recorder {
	return notice.Recorder{EventRecorder: r.Recorder}
}

// reportConditions reports the conditions whose status or reason has changed.
func (r *WebhookReconciler) reportConditions(ctx context.Context, source *v1alpha1.NetBoxSource, before, after webhookStatus) {
	for _, pair := range []struct{ before, after *metav1.Condition }{
		{before.reachable, after.reachable}, {before.configured, after.configured},
	} {
		if pair.after == nil || pair.before != nil && pair.before.Status == pair.after.Status && pair.before.Reason == pair.after.Reason {
			continue
		}
		isWell := pair.after.Status == metav1.ConditionTrue
		if isWell && pair.before == nil {
			continue // nobody doubted it
		}
		kind := corev1.EventTypeWarning
		if isWell {
			kind = corev1.EventTypeNormal
		}
		r.recorder().Eventf(source, nil, kind, pair.after.Reason, "CheckNetBox", "%s: %s", pair.after.Type, pair.after.Message)
		logf.FromContext(ctx).Info("condition changed", "condition", pair.after.Type, "status", pair.after.Status, "reason", pair.after.Reason,
			"message", pair.after.Message)
	}
}
