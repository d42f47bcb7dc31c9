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
	// gracePeriod is how long the events of a source that is gone are left alone, however long ago they were finished: a source that is
	// deleted by mistake, or to be created again, loses nothing by it. It begins anew with another leader.
	gracePeriod = 6 * time.Hour
	// retryInterval is the pause after looking for sources that are gone has failed.
	retryInterval = 10 * time.Second
)

// goneSource stands for a source that is gone. Its events are kept as long as those of a source that does not say how long; as nothing is
// added to them, their number needs no bound.
func goneSource(name types.NamespacedName) v1alpha1.NetBoxSource {
	source := v1alpha1.NetBoxSource{ObjectMeta: metav1.ObjectMeta{Namespace: name.Namespace, Name: name.Name}}
	source.Spec.Retention = v1alpha1.DefaultRetention()
	source.Spec.Retention.MaxEvents = math.MaxInt32
	return source
}

// findGone queues the sources that are gone and have events still, when a leader begins. It is told of later ones by the watch of sources.
func (r *Reconciler) findGone(ctx context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) {
	_ = wait.PollUntilContextCancel(ctx, retryInterval, true, func(ctx context.Context) (done bool, err error) {
		namespaces, err := r.namespacesOfEvents(ctx)
		for i := 0; err == nil && i < len(namespaces); i++ {
			err = r.findGoneIn(ctx, namespaces[i], queue)
		}
		if err != nil && ctx.Err() == nil {
			r.Log.Info("cannot look for events of sources that are gone; trying again", "cause", err.Error())
		}
		return err == nil, nil
	})
}

// namespacesOfEvents returns the namespaces that are watched, or where that is all of them, those that have events.
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

// findGoneIn looks for an event of none of the sources in a namespace, and again for one of yet another source. Which source an event is of
// is not in its metadata, so one event of each is read.
func (r *Reconciler) findGoneIn(ctx context.Context, namespace string, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
	var sources v1alpha1.NetBoxSourceList
	if err := r.Sources.List(ctx, &sources, client.InNamespace(namespace)); err != nil {
		return fmt.Errorf("listing sources: %w", err)
	}
	var others []fields.Selector
	for i := range sources.Items {
		others = append(others, eventstore.NotOfSource(sources.Items[i].Name))
	}
	for {
		list, err := r.events(namespace).List(ctx, metav1.ListOptions{Limit: 1, FieldSelector: fields.AndSelectors(others...).String()})
		if err != nil {
			return fmt.Errorf("listing events: %w", err)
		}
		if len(list.Items) == 0 {
			return nil
		}
		var event v1alpha1.NetBoxEvent
		err = r.Reader.Get(ctx, client.ObjectKey{Namespace: namespace, Name: list.Items[0].Name}, &event)
		if apierrors.IsNotFound(err) {
			continue // somebody deleted it
		}
		if err != nil {
			return fmt.Errorf("reading an event: %w", err)
		}
		source := event.Spec.SourceRef.Name
		queue.Add(reconcile.Request{NamespacedName: types.NamespacedName{Namespace: namespace, Name: source}})
		others = append(others, eventstore.NotOfSource(source))
	}
}
