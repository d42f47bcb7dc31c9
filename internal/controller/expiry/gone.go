package expiry

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/eventstore"
)

const (
	// gracePeriod is the least time for which the events of a deleted source are kept, however old they are: a source that is deleted by
	// mistake, or to be recreated, loses no events. It restarts with each leader.
	gracePeriod = 6 * time.Hour
	// retryInterval is the pause after a failed search for deleted sources.
	retryInterval = 10 * time.Second
)

// goneSource returns a stand-in for a deleted source, with the default TTLs, and without a limit of events: it gets no new ones.
func goneSource(name types.NamespacedName) v1alpha1.NetBoxSource {
	source := v1alpha1.NetBoxSource{ObjectMeta: metav1.ObjectMeta{Namespace: name.Namespace, Name: name.Name}}
	source.Spec.Retention = v1alpha1.DefaultRetention()
	source.Spec.Retention.MaxEvents = math.MaxInt32
	return source
}

// findGone queues the deleted sources that still have events when a leader starts. The watch of sources reports later deletions.
func (r *Reconciler) findGone(ctx context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) {
	_ = wait.PollUntilContextCancel(ctx, retryInterval, true, func(ctx context.Context) (done bool, err error) {
		namespaces, err := r.namespacesOfEvents(ctx)
		for i := 0; err == nil && i < len(namespaces); i++ {
			err = r.findGoneIn(ctx, namespaces[i], queue)
		}
		if err != nil && ctx.Err() == nil {
			r.Log.Info("cannot find events of deleted sources; retrying", "cause", err.Error())
		}
		return err == nil, nil
	})
}

// namespacesOfEvents returns the watched namespaces, or the namespaces with events if all are watched.
func (r *Reconciler) namespacesOfEvents(ctx context.Context) ([]string, error) {
	if len(r.Namespaces) > 0 {
		return r.Namespaces, nil
	}
	found := map[string]bool{}
	page := metav1.ListOptions{Limit: pageSize}
	for more := true; more; more = page.Continue != "" {
		list, err := r.events(metav1.NamespaceAll).List(ctx, page)
		if err != nil {
			return nil, fmt.Errorf("listing events: %w", err)
		}
		for i := range list.Items {
			found[list.Items[i].Namespace] = true
		}
		page.Continue = list.Continue
	}
	return slices.Collect(maps.Keys(found)), nil
}

// findGoneIn queues the deleted sources of events in a namespace. It lists one event whose source is not yet known, and repeats without
// that source. The metadata of an event lacks its source, so one event of each source is read.
func (r *Reconciler) findGoneIn(
	ctx context.Context, namespace string, queue workqueue.TypedRateLimitingInterface[reconcile.Request],
) error {
	var sources v1alpha1.NetBoxSourceList
	if err := r.Sources.List(ctx, &sources, client.InNamespace(namespace)); err != nil {
		return fmt.Errorf("listing sources: %w", err)
	}
	var unknown []fields.Selector
	for i := range sources.Items {
		unknown = append(unknown, eventstore.NotOfSource(sources.Items[i].Name))
	}
	for {
		selector := fields.AndSelectors(unknown...).String()
		list, err := r.events(namespace).List(ctx, metav1.ListOptions{Limit: 1, FieldSelector: selector})
		if err != nil {
			return fmt.Errorf("listing events: %w", err)
		}
		if len(list.Items) == 0 {
			return nil
		}
		var event v1alpha1.NetBoxEvent
		err = r.Reader.Get(ctx, client.ObjectKey{Namespace: namespace, Name: list.Items[0].Name}, &event)
		if apierrors.IsNotFound(err) {
			continue // deleted concurrently
		}
		if err != nil {
			return fmt.Errorf("reading an event: %w", err)
		}
		source := event.Spec.SourceRef.Name
		queue.Add(reconcile.Request{NamespacedName: types.NamespacedName{Namespace: namespace, Name: source}})
		unknown = append(unknown, eventstore.NotOfSource(source))
	}
}
