// Package payload converts the free-form JSON of an event between the types of internal/netbox, which decodes bodies, and those of the API, in
// which it is stored.
package payload

import (
	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/netbox"
)

// Stored returns an object as it is stored. Both share the memory of its values.
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

// Body makes the body again that NetBox sent: equal as JSON, but for what was redacted.
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

// decoded reverses Stored.
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
