package event

import "github.com/netbox-events/netbox-event-operator/api/v1alpha1"

// MatchWork is the name of the matching of an event in the journal.
func MatchWork(event *v1alpha1.NetBoxEvent) string { return (&entry{uid: event.UID}).work("") }
