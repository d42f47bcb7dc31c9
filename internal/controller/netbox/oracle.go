package netbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/eventspec"
	"github.com/netbox-events/netbox-event-operator/internal/netbox"
	"github.com/netbox-events/netbox-event-operator/internal/netboxapi"
	"github.com/netbox-events/netbox-event-operator/internal/rule"
)

const (
	// answerTTL is how long the answers for one change set are used, and maxAnswers how many are kept: each has 1 MiB at most.
	answerTTL, maxAnswers = 5 * time.Minute, 128
	// recheckInterval is the time until the change log is read again for a change that it did not have.
	recheckInterval = 2 * time.Second
	// questionTimeout bounds one question. Several deliveries may share it.
	questionTimeout = 30 * time.Second
	// outageTime is the time after a failed connection for which NetBox is not asked again: all deliveries of a rule would wait for it.
	outageTime = 5 * time.Second
	// defaultLag is spec.netbox.backfill.lag of a source without backfill.
	defaultLag = 2 * time.Minute
)

// Oracle answers the questions of rules about the NetBoxes of events. It is safe for concurrent use.
type Oracle struct {
	sources client.Reader
	clients *Clients
	clock   clock.PassiveClock

	answers *cache.LRUExpireCache // []byte by question
	logged  *cache.LRUExpireCache // loggedChanges by source and request
	flights singleflight.Group

	mu      sync.Mutex
	outages map[types.NamespacedName]outage
}

// outage is a failed connection to the NetBox of a source.
type outage struct {
	err   error
	until time.Time
}

// loggedChanges are the objects that the change log has for a request.
type loggedChanges struct {
	objects map[loggedObject]bool
	readAt  time.Time
}

type loggedObject struct{ objectType, id string }

// NewOracle returns an Oracle that reads sources from a cache.
func NewOracle(sources client.Reader, clients *Clients, clock clock.PassiveClock) *Oracle {
	return &Oracle{
		sources: sources, clients: clients, clock: clock,
		answers: cache.NewLRUExpireCacheWithClock(maxAnswers, clock),
		logged:  cache.NewLRUExpireCacheWithClock(maxAnswers, clock),
		outages: map[types.NamespacedName]outage{},
	}
}

// Confirm reports whether the change of an event is in the change log. If it is not there yet, again is the time until it is to be asked
// again. An event that is no change, such as that of a job, is confirmed.
func (o *Oracle) Confirm(ctx context.Context, event *v1alpha1.NetBoxEvent) (isThere bool, again time.Duration, err error) {
	if !eventspec.HasChange(&event.Spec) || event.Spec.Delivery.Origin == v1alpha1.OriginChangeLog {
		return true, 0, nil
	}
	source, err := o.sourceOf(ctx, event)
	if err != nil {
		return false, 0, err
	}
	if source.Spec.NetBox == nil {
		return false, 0, fmt.Errorf("NetBoxSource %s has no spec.netbox to read the change log with; set it, or remove confirm from the rule",
			source.Name)
	}
	lag := defaultLag
	if source.Spec.NetBox.Backfill != nil {
		lag = source.Spec.NetBox.Backfill.Lag.Duration
	}
	isLate := o.clock.Since(event.Spec.Delivery.ReceivedAt.Time) >= lag
	changes, err := o.changesOf(ctx, source, event.Spec.RequestID, loggedObject{event.Spec.ObjectType, event.Spec.ObjectID}, isLate)
	switch {
	case err != nil:
		return false, 0, err
	case changes.objects[loggedObject{event.Spec.ObjectType, event.Spec.ObjectID}]:
		return true, 0, nil
	case isLate:
		return false, 0, nil
	}
	return false, recheckInterval, nil
}

// changesOf returns what the change log has for a request. An answer without the wanted object is used for recheckInterval.
func (o *Oracle) changesOf(
	ctx context.Context, source *v1alpha1.NetBoxSource, request string, wanted loggedObject, isLast bool,
) (loggedChanges, error) {
	key := fmt.Sprintf("%s %q", source.UID, request)
	if cached, ok := o.logged.Get(key); ok {
		changes := cached.(loggedChanges)
		if changes.objects[wanted] || !isLast && o.clock.Since(changes.readAt) < recheckInterval {
			return changes, nil
		}
	}
	answer, err := o.ask(ctx, source, "log "+key, func(ctx context.Context, client *netboxapi.Client) (any, error) {
		changes := loggedChanges{objects: map[loggedObject]bool{}, readAt: o.clock.Now()}
		rows, err := client.ChangesOf(ctx, request)
		for _, row := range rows {
			changes.objects[loggedObject{row.ObjectType, row.ObjectID}] = true
		}
		return changes, err
	})
	if err != nil {
		return loggedChanges{}, err
	}
	o.logged.Add(key, answer, answerTTL)
	return answer.(loggedChanges), nil
}

// Lookup returns the answer to a query in JSON, nil for null. It is made once for a change set. Values under the names in the source's
// redact are left out.
func (o *Oracle) Lookup(ctx context.Context, event *v1alpha1.NetBoxEvent, query rule.Query) ([]byte, error) {
	source, err := o.sourceOf(ctx, event)
	if err != nil {
		return nil, err
	}
	if source.Spec.NetBox == nil || source.Spec.NetBox.Lookups != v1alpha1.LookupsAllowed {
		return nil, fmt.Errorf("NetBoxSource %s does not allow lookups; set its spec.netbox.lookups to Allow", source.Name)
	}
	changeSet := event.Spec.RequestID
	if changeSet == "" {
		changeSet = string(event.UID)
	}
	variables, err := json.Marshal(query.Variables)
	if err != nil {
		return nil, err
	}
	key := fmt.Sprintf("%s %q %q %q %s", source.UID, changeSet, query.Path, query.GraphQL, variables)
	if cached, ok := o.answers.Get(key); ok {
		return cached.([]byte), nil
	}
	answer, err := o.ask(ctx, source, key, func(ctx context.Context, client *netboxapi.Client) (any, error) {
		var answer json.RawMessage
		var err error
		if query.GraphQL != "" {
			answer, err = client.GraphQL(ctx, query.GraphQL, query.Variables)
		} else {
			answer, err = client.Get(ctx, query.Path)
		}
		if err != nil || answer == nil {
			return []byte(nil), err
		}
		return netbox.Redact(answer, source.Spec.Redact)
	})
	if err != nil {
		return nil, err
	}
	o.answers.Add(key, answer, answerTTL)
	return answer.([]byte), nil
}

func (o *Oracle) sourceOf(ctx context.Context, event *v1alpha1.NetBoxEvent) (*v1alpha1.NetBoxSource, error) {
	var source v1alpha1.NetBoxSource
	err := o.sources.Get(ctx, types.NamespacedName{Namespace: event.Namespace, Name: event.Spec.SourceRef.Name}, &source)
	if apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("NetBoxSource %s does not exist any more", event.Spec.SourceRef.Name)
	}
	return &source, err
}

// ask asks the NetBox of a source. Those who ask the same at one time share the answer.
func (o *Oracle) ask(
	ctx context.Context, source *v1alpha1.NetBoxSource, key string, question func(context.Context, *netboxapi.Client) (any, error),
) (any, error) {
	name := client.ObjectKeyFromObject(source)
	if err := o.outage(name); err != nil {
		return nil, err
	}
	result := o.flights.DoChan(key, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), questionTimeout)
		defer cancel()
		client, err := o.clients.For(ctx, source)
		if err != nil {
			return nil, err
		}
		answer, err := question(ctx, client)
		o.noteOutage(name, err)
		return answer, err
	})
	select {
	case <-ctx.Done():
		return nil, errors.New("NetBox did not answer within the rule's retry.timeout")
	case answered := <-result:
		return answered.Val, answered.Err
	}
}

// outage returns the error of a connection that failed a moment ago.
func (o *Oracle) outage(source types.NamespacedName) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if latest, ok := o.outages[source]; ok && o.clock.Now().Before(latest.until) {
		return latest.err
	}
	delete(o.outages, source)
	return nil
}

func (o *Oracle) noteOutage(source types.NamespacedName, err error) {
	if kind := netboxapi.KindOf(err); kind != netboxapi.KindUnreachable && kind != netboxapi.KindTimeout {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.outages[source] = outage{err, o.clock.Now().Add(outageTime)}
}
