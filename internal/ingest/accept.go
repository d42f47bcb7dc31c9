package ingest

import (
	"context"
	"time"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/rule"
)

// acceptTimeout bounds the evaluation of a source's spec.accept. CEL's cost limit ends it sooner, after some tenths of a second, unless the
// CPUs are busy.
const acceptTimeout = time.Second

// accepts reports whether an event passes the spec.accept of its source. If the expression fails, the event is accepted: an event that is
// stored needlessly can be deleted, and one that is not stored is lost.
func (r *Receiver) accepts(ctx context.Context, source *v1alpha1.NetBoxSource, event *v1alpha1.NetBoxEvent) (bool, error) {
	if source.Spec.Accept == nil {
		return true, nil
	}
	filter, err := r.accept.Get(source)
	if err != nil {
		return false, unavailable("spec.accept of this source does not compile; see the source's status", time.Minute, err)
	}
	ctx, cancel := context.WithTimeout(ctx, acceptTimeout)
	defer cancel()
	accepted, err := filter.Match(ctx, event, rule.NewInput(event, event.Spec.Delivery.ReceivedAt.Time))
	if err != nil {
		r.metrics.acceptErrors.WithLabelValues(nameOf(source)).Inc()
		r.notices.acceptFailed(source, event, err)
		return true, nil
	}
	return accepted, nil
}
