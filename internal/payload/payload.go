// Package payload converts the free-form JSON of an event between the types of internal/netbox, which decodes bodies, and the types of the
// API.
package payload

import (
	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/netbox"
)

// Stored converts a decoded object to its stored form. Both share the memory of the values.
func Stored(object netbox.Object) v1alpha1.JSONObject {
	if object == nil {
		return nil
	}
	stored := make(v1alpha1.JSONObject, len(object))
	for name, value := range object {
		stored[name] = v1alpha1.JSON{Raw: value}
	}
	return stored
}

// Body restores the body that NetBox sent: equal as JSON, except for redacted values.
func Body(event *v1alpha1.NetBoxEvent) ([]byte, error) {
	spec := &event.Spec
	sent := netbox.Event{
		Envelope:    decoded(spec.Delivery.Envelope),
		Data:        decoded(spec.Data),
		Snapshots:   decoded(spec.Snapshots),
		Context:     decoded(spec.Context),
		Request:     decoded(spec.Request),
		Extra:       decoded(spec.Extra),
		Stringified: spec.Delivery.Stringified,
	}
	return sent.Body()
}

// decoded is the inverse of Stored.
func decoded(stored v1alpha1.JSONObject) netbox.Object {
	if stored == nil {
		return nil
	}
	object := make(netbox.Object, len(stored))
	for name, value := range stored {
		object[name] = value.Raw
	}
	return object
}
