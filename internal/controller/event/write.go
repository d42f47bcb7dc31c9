package event

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/delivery"
	"github.com/netbox-events/netbox-event-operator/internal/eventstore"
)

// writeDelay is how long the results of one rule wait for those of others, to be stored by one write.
const writeDelay = time.Second

// queueWrite queues the write of an event's status.
func (e *Engine) queueWrite(entry *entry) {
	if status := e.ledger.statusOf(entry); status != nil {
		e.writes.Add(writeKey{entry, delivery.IsDone(status)})
	}
}

// write stores the status of an event if it is due.
func (e *Engine) write(_ context.Context, k writeKey) (reconcile.Result, error) {
	entry := k.event
	if status := e.ledger.statusOf(entry); status == nil || delivery.IsDone(status) != k.finishes { // the other key is queued
		return reconcile.Result{}, nil
	}
	now := e.Clock.Now()
	taken, at := e.ledger.snapshot(entry, now, writeDelay)
	if taken == nil {
		if at.IsZero() {
			return reconcile.Result{}, nil
		}
		return reconcile.Result{RequeueAfter: max(at.Sub(now), time.Millisecond)}, nil
	}
	return reconcile.Result{}, e.store(e.work, entry, taken) //nolint:contextcheck // writes outlive the leadership; see drain
}

// writeAll stores the status of all events that is newer than the stored one.
func (e *Engine) writeAll() {
	places := make(chan struct{}, 2*writesShared)
	var writing sync.WaitGroup
	for _, entry := range e.ledger.dirtyEvents() {
		places <- struct{}{}
		writing.Go(func() {
			defer func() { <-places }()
			taken, _ := e.ledger.snapshot(entry, e.Clock.Now(), 0)
			if taken == nil || e.work.Err() != nil {
				return
			}
			if err := e.store(e.work, entry, taken); err != nil {
				e.Log.Info("the last status cannot be stored, and what it says was delivered will be delivered again",
					append(entry.logValues(), "cause", err.Error())...)
			}
		})
	}
	writing.Wait()
}

// store writes a status. The write carries the resource version that it is based on: if another replica has written since, it conflicts, so
// that a finished event never becomes pending again.
func (e *Engine) store(ctx context.Context, entry *entry, taken *snapshot) error {
	version, err := e.Status.UpdateStatus(ctx, versionOf(entry, taken), taken.status)
	if err != nil && eventstore.IsTooLarge(err) {
		version, err = e.storeShort(ctx, entry, taken)
	}
	switch {
	case err == nil:
		e.stored(entry, taken, version)
		return nil
	case apierrors.IsNotFound(err): // the watch will say so
		return nil
	case apierrors.IsConflict(err):
		return e.resolve(ctx, entry)
	case !isUnavailable(err):
		for _, u := range e.ledger.unstorable(entry) {
			e.deliveries.Add(u)
		}
		e.fair.Wake()
		return err
	default:
		return err
	}
}

// storeShort stores as much of a status as the event leaves room for.
func (e *Engine) storeShort(ctx context.Context, entry *entry, taken *snapshot) (version string, err error) {
	log := e.Log.WithValues(append(entry.logValues(), "rules", len(taken.status.Rules))...)
	for _, shorter := range delivery.Shorten(taken.status) {
		version, err = e.Status.UpdateStatus(ctx, versionOf(entry, taken), shorter)
		if err == nil || !eventstore.IsTooLarge(err) {
			if err == nil {
				log.Info("the event leaves no room for its whole status, which was cut", "phase", shorter.Phase, "storedRules", len(shorter.Rules))
			}
			return version, err
		}
	}
	if !taken.status.Phase.IsFinished() {
		log.Info("the event leaves no room for its status, which is kept in memory until the event is finished")
	} else {
		log.Error(err, "the event leaves no room for its status and stays Pending; delete it, or shorten its annotations")
	}
	return taken.version, nil
}

// stored records a successful write, and counts the event if it is finished.
func (e *Engine) stored(entry *entry, taken *snapshot, version string) {
	finished, poison := e.ledger.stored(entry, taken, version)
	e.fair.Wake()
	for _, u := range e.ledger.storedRecords(entry, taken.status) {
		e.deliveries.Add(u)
	}
	e.settleGroups(entry, taken.status)
	if !finished {
		e.queueWrite(entry) // for deliveries that ended meanwhile
		return
	}
	if poison != "" {
		e.Journal.Forget(poison)
	}
	e.Metrics.finished(entry, taken.status, e.Clock.Now())
	endWork(e.ledger.spanOf(entry), taken.status)
	e.changed(entry.source())
	if e.Finished != nil {
		e.Finished(entry.source())
	}
	for i := range taken.status.Rules {
		if only := taken.status.ReplayRule; only != "" && only != taken.status.Rules[i].Name {
			continue // it failed, and was counted, before the replay
		}
		if taken.status.Rules[i].State == v1alpha1.DeliveryFailed {
			e.Tally.Failed(types.NamespacedName{Namespace: entry.name.Namespace, Name: taken.status.Rules[i].Name})
		}
	}
}

// settleGroups ends the records of the groups whose last status is stored now. The status is nil for an event that is gone.
func (e *Engine) settleGroups(entry *entry, stored *v1alpha1.NetBoxEventStatus) {
	for _, first := range e.ledger.settleGroups(entry, stored, e.Clock.Now()) {
		e.queueWrite(first)
		e.matches.Add(first) // a replay may have waited for it
	}
}

// resolve reads an event whose status could not be stored because it was changed meanwhile: by another replica, or by a user who
// annotated it. The stored status wins.
func (e *Engine) resolve(ctx context.Context, entry *entry) error {
	var current v1alpha1.NetBoxEvent
	if err := e.Events.Get(ctx, entry.name, &current); err != nil {
		return client.IgnoreNotFound(err)
	}
	switch {
	case current.UID != entry.uid: // the watch will say so
	case current.Status.Phase.IsFinished():
		e.ledger.superseded(entry, &current.Status)
		e.freePlaces("", entry)
		e.settleGroups(entry, nil)
		e.fair.Wake()
	default:
		e.ledger.merge(entry, &current)
		e.matches.Add(entry) // a replay may have been asked for
	}
	return nil
}

// isUnavailable reports whether the API server would fail another write as well.
func isUnavailable(err error) bool {
	answered, ok := errors.AsType[*apierrors.StatusError](err)
	return !ok || answered.Status().Code == http.StatusTooManyRequests || answered.Status().Code >= http.StatusInternalServerError
}

// versionOf returns the version of the event that a snapshot is based on.
func versionOf(entry *entry, taken *snapshot) eventstore.Version {
	return eventstore.Version{
		Namespace: entry.name.Namespace, Name: entry.name.Name, UID: entry.uid, ResourceVersion: taken.version,
	}
}
