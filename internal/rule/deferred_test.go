package rule

import (
	"math"
	"testing"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/test/deliveries"
)

// TestWeightOfDeferred checks that the weight of what is not decoded is an upper bound, and not much above the weight itself: an event that
// is within the limits when it is decoded has to be within them.
func TestWeightOfDeferred(t *testing.T) {
	all, err := deliveries.All()
	if err != nil {
		t.Fatal(err)
	}
	for _, delivery := range all {
		event, err := delivery.Event("netbox", deliveries.Redact)
		if err != nil {
			continue
		}
		decoder := &decoder{}
		for _, source := range []source{
			&eventSource{decoder: decoder, event: event}, changesOf([]*v1alpha1.NetBoxEvent{event}, decoder)[0],
			&objectSource{decoder, event.Spec.Data}, &objectSource{decoder, event.Spec.Snapshots},
		} {
			usage := usage{ctx: t.Context()}
			remaining := budget(math.MaxInt)
			value, err := native(deferred{source}, &remaining)
			if err != nil {
				t.Fatal(err)
			}
			weight := usage.weigh(value, math.MaxInt)
			if bound := source.weight(); bound < weight || bound > 4*weight+2*fieldsWeight {
				t.Errorf("%s: %T weighs %d, which is bounded by %d", delivery, source, weight, bound)
			}
			if got := usage.scale(deferred{source}, math.MaxInt); got.weight-got.deferred != valueBytes {
				t.Errorf("%s: %T takes %d bytes", delivery, source, got.weight-got.deferred)
			}
		}
	}
}
