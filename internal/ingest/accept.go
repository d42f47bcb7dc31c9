package ingest

import (
	"context"
	"time"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

// accepts reports whether an event passes the spec.accept of its source.
func (r *Receiver) accepts(ctx context.Context, source *v1alpha1.NetBoxSource, event *v1alpha1.NetBoxEvent) (bool, error) {
	if source.Spec.Accept == nil {
		return true, nil
	}
	filter, err := r.accept.Get(source)
	if err != nil {
		return false, unavailable("spec.accept of this source does not compile; see the source's status", time.Minute, err)
	}
	accepted, err := filter.Accepts(ctx, event)
	if err != nil {
		r.metrics.acceptErrors.WithLabelValues(nameOf(source)).Inc()
		r.notices.acceptFailed(source, event, err)
	}
	return accepted, nil
}
