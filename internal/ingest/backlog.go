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

// backlogRetryAfter is when a sender may try again while a source's backlog is full: sinks are rarely back at once.
const backlogRetryAfter = 30 * time.Second

// backlogs bounds how many events of each source wait to be finished. The leader publishes that number in the source's status; backlogs
// adds the events that this replica has stored since, so that the bound holds between two publications, and while no replica leads.
type backlogs struct {
	sources client.Reader

	mu    sync.Mutex // held while sources are read, so that an older read never replaces a newer one
	known map[types.UID]*backlog
}

// backlog is that of one source.
type backlog struct {
	maxPending int64             // 0 for no bound: the cluster's CRD is older than the field
	pending    int64             // as the leader published it last
	at         *metav1.MicroTime // when that was counted; nil if it never was
	stored     int64             // events that this replica has stored since it saw that
	storing    int64             // deliveries that are being stored
}

func newBacklogs(sources client.Reader) *backlogs {
	return &backlogs{sources: sources, known: map[types.UID]*backlog{}}
}

// admit takes a place in the backlog of a source for a delivery, or refuses the delivery. The caller says by settle whether it stored an
// event; one that was there before has its place already.
func (b *backlogs) admit(ctx context.Context, from *v1alpha1.NetBoxSource) (settle func(stored bool), err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	backlog := b.known[from.UID]
	if backlog == nil {
		backlog = newBacklog(from)
		b.known[from.UID] = backlog
		if err := b.read(ctx); err != nil { // the request may have come before the last publication
			delete(b.known, from.UID)
			return nil, unavailable("sources cannot be looked up; try again", time.Second, err)
		}
	}
	if backlog.isFull() {
		return nil, &answer{
			result: resultBacklogFull, retryAfter: backlogRetryAfter,
			message: fmt.Sprintf("as many events of this source wait to be finished as its maxPending allows, %d; try again", backlog.maxPending),
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

// refresh takes what the leader has published since, and forgets the sources that are gone.
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
	if err := b.sources.List(ctx, &sources, client.UnsafeDisableDeepCopy); err != nil { // they are only read
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

func newBacklog(of *v1alpha1.NetBoxSource) *backlog {
	backlog := &backlog{}
	backlog.update(of)
	return backlog
}

// update takes what a source says. Any other time is a new publication, an earlier one too: leaders' clocks differ.
func (b *backlog) update(source *v1alpha1.NetBoxSource) {
	b.maxPending = int64(source.Spec.MaxPending)
	if status := source.Status; status.Pending != nil && status.PendingTime != nil && !status.PendingTime.Equal(b.at) {
		b.pending, b.at, b.stored = *status.Pending, status.PendingTime.DeepCopy(), 0
	}
}

func (b *backlog) isFull() bool {
	return b.maxPending > 0 && b.pending+b.stored+b.storing >= b.maxPending
}
