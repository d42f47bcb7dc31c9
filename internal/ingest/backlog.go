package ingest

import (
	"context"
	"fmt"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

// backlogRetryAfter is the Retry-After while a source's backlog is full: sinks rarely recover at once.
const backlogRetryAfter = 30 * time.Second

// backlogs limits the pending events of each source. The leader publishes their number in the source's status; backlogs adds the events
// that this replica has stored since, so that the limit holds between two publications, and while no replica leads.
type backlogs struct {
	sources client.Reader

	mu    sync.Mutex // also serializes reads of the cache, so that an older one never replaces a newer one
	known map[types.UID]*backlog
}

// backlog counts the pending events of one source.
type backlog struct {
	maxPending int64             // 0 for no limit: the cluster's CRD is older than the field
	pending    int64             // as last published by the leader
	at         *metav1.MicroTime // when pending was counted; nil for never
	stored     int64             // events stored by this replica since it saw pending
	storing    int64             // deliveries in progress
}

func newBacklogs(sources client.Reader) *backlogs {
	return &backlogs{sources: sources, known: map[types.UID]*backlog{}}
}

// admit reserves a place in the backlog of a source for a delivery, or refuses the delivery. The caller reports with settle whether it
// stored a new event; a duplicate takes no place.
func (b *backlogs) admit(ctx context.Context, source *v1alpha1.NetBoxSource) (settle func(stored bool), err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	backlog := b.known[source.UID]
	if backlog == nil {
		backlog = newBacklog(source)
		b.known[source.UID] = backlog
		if err := b.read(ctx); err != nil { // the source of the request may be older than the last publication
			delete(b.known, source.UID)
			return nil, unavailable("cannot look up NetBoxSources; try again", time.Second, err)
		}
	}
	if backlog.isFull() {
		return nil, &answer{
			result: resultBacklogFull, retryAfter: backlogRetryAfter,
			message: fmt.Sprintf("the backlog of this source is full: %d pending events (spec.maxPending); try again", backlog.maxPending),
		}
	}
	backlog.storing++
	return func(stored bool) {
		b.mu.Lock()
		defer b.mu.Unlock()
		backlog.storing--
		if stored {
			backlog.stored++
		}
	}, nil
}

// refresh reads the published numbers from the cache, and removes deleted sources.
func (b *backlogs) refresh(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.read(ctx)
}

func (b *backlogs) read(ctx context.Context) error {
	if len(b.known) == 0 {
		return nil
	}
	var sources v1alpha1.NetBoxSourceList
	if err := b.sources.List(ctx, &sources, client.UnsafeDisableDeepCopy); err != nil { // read only
		return err
	}
	present := make(map[types.UID]*backlog, len(b.known))
	for i := range sources.Items {
		source := &sources.Items[i]
		if backlog := b.known[source.UID]; backlog != nil {
			backlog.update(source)
			present[source.UID] = backlog
		}
	}
	b.known = present
	return nil
}

func newBacklog(source *v1alpha1.NetBoxSource) *backlog {
	backlog := &backlog{}
	backlog.update(source)
	return backlog
}

// update applies the spec and the published number of a source. Any change of the time is a new publication, even to an earlier one:
// leaders' clocks differ.
func (b *backlog) update(source *v1alpha1.NetBoxSource) {
	b.maxPending = int64(source.Spec.MaxPending)
	if status := source.Status; status.Pending != nil && status.PendingTime != nil && !status.PendingTime.Equal(b.at) {
		b.pending, b.at, b.stored = *status.Pending, status.PendingTime.DeepCopy(), 0
	}
}

func (b *backlog) isFull() bool {
	return b.maxPending > 0 && b.pending+b.stored+b.storing >= b.maxPending
}
