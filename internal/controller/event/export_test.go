package event

import (
	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/delivery"
)

// MatchWork is the name of the matching of an event in the journal.
func MatchWork(event *v1alpha1.NetBoxEvent) string {
	return (&entry{uid: event.UID}).work(delivery.Replay{})
}
