package event

import (
	"context"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/delivery"
	"github.com/netbox-events/netbox-event-operator/internal/eventstore"
	"github.com/netbox-events/netbox-event-operator/internal/follow"
)

// pageSize is how many events are listed at one time. It bounds the memory of a list: an event can take 1.5 MiB.
const pageSize = 100

// namespaces returns the followed namespaces.
func (e *Engine) namespaces() []string {
	if len(e.Namespaces) == 0 {
		return []string{metav1.NamespaceAll}
	}
	return e.Namespaces
}

// feed adds the pending events of all namespaces to the ledger until ctx is done.
func (e *Engine) feed(ctx context.Context) error {
	for range queues {
		select {
		case <-e.queueReady:
		case <-ctx.Done():
			return nil
		}
	}
	defer e.Metrics.follow(e)()
	var all sync.WaitGroup
	for _, namespace := range e.namespaces() {
		all.Go(func() { e.feedNamespace(ctx, namespace) })
	}
	all.Wait()
	return nil
}

func (e *Engine) feedNamespace(ctx context.Context, namespace string) {
	follower := follow.Follower{
		Client: e.Events, List: &v1alpha1.NetBoxEventList{}, Namespace: namespace, Selector: eventstore.Pending, PageSize: pageSize, Log: e.Log,
	}
	follower.Run(ctx, &feeder{Engine: e, namespace: namespace})
}

// feeder is the follow.Handler that adds the pending events of a namespace to the ledger.
type feeder struct {
	*Engine
	namespace string // "" for all

	isListing bool
	list      int32
}

func (f *feeder) Listing() { f.isListing, f.list = true, f.ledger.startList() }

func (f *feeder) Seen(ctx context.Context, object client.Object) {
	event := object.(*v1alpha1.NetBoxEvent)
	entry := f.ledger.observe(ctx, event, f.isListing)
	f.adoptPlaces(client.ObjectKeyFromObject(event))
	if entry != nil {
		f.matches.Add(entry)
		if f.Received != nil {
			f.Received(event)
		}
		f.changed(types.NamespacedName{Namespace: event.Namespace, Name: event.Spec.SourceRef.Name})
	}
}

func (f *feeder) Listed() {
	f.isListing = false
	gone, ready := f.ledger.endList(f.namespace, f.list)
	for _, entry := range gone {
		f.entryDeleted(entry)
	}
	for _, entry := range ready { // their deliveries waited for the list
		f.matches.Add(entry)
	}
}

func (f *feeder) Gone(object client.Object) {
	if gone := f.ledger.forget(client.ObjectKeyFromObject(object), object.GetUID()); gone != nil {
		f.entryDeleted(gone)
	}
}

func (e *Engine) changed(source types.NamespacedName) {
	if e.Changed != nil {
		e.Changed(source)
	}
}

// adoptPlaces makes the limits of rules agree with the stored status of an event: deliveries that wait for their results began before this
// replica led, or another replica has ended them.
func (e *Engine) adoptPlaces(event types.NamespacedName) {
	var freed []*unit
	e.ledger.eachRule(event, func(entry *entry, found *v1alpha1.RuleStatus) {
		switch {
		case delivery.IsWaiting(found.Actions):
			e.limits.occupy(types.NamespacedName{Namespace: event.Namespace, Name: found.Name}, entry, found.LimitKey)
		case found.State != v1alpha1.DeliveryPending:
			freed = append(freed, e.limits.free(found.Name, entry)...)
		}
	})
	for _, u := range freed {
		e.deliveries.Add(u)
	}
}

// freePlaces gives back the places of an event's deliveries, of one rule or, where the name is empty, of all, and queues those that waited
// for them.
func (e *Engine) freePlaces(rule string, entry *entry) {
	for _, u := range e.limits.free(rule, entry) {
		e.deliveries.Add(u)
	}
}

// entryDeleted resumes the events that waited for a deleted one.
func (e *Engine) entryDeleted(entry *entry) {
	e.freePlaces("", entry)
	e.settleGroups(entry, nil)
	e.wakeLane(entry)
	e.changed(entry.source())
}

// wakeLane queues the pending deliveries in the lane of an event.
func (e *Engine) wakeLane(entry *entry) {
	for _, u := range e.ledger.unitsIn(entry.line) {
		e.deliveries.Add(u)
	}
}
