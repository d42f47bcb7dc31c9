package ruletest

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/cli/manifest"
	"github.com/netbox-events/netbox-event-operator/internal/eventspec"
	"github.com/netbox-events/netbox-event-operator/internal/netbox"
)

// Kind of stored events.
const kindEvent = "NetBoxEvent"

// ReadEvent returns the event of a file: the body of a webhook as NetBox sends it, or a NetBoxEvent in YAML or JSON. A body becomes the
// event that the receiver stores for a source, received at a time, or, if that is zero, at its own time.
func ReadEvent(file string, content []byte, source *v1alpha1.NetBoxSource, received time.Time) (*v1alpha1.NetBoxEvent, error) {
	if isStored(content) {
		return readStored(file, content)
	}
	decoded, err := netbox.Decode(content, source.Spec.Redact)
	if err != nil {
		return nil, fmt.Errorf("%s: is no event: %w; it must be the body of a webhook as NetBox sends it, or a NetBoxEvent", file, err)
	}
	if received.IsZero() {
		received = decoded.Timestamp
	}
	event := eventspec.New(decoded, eventspec.Delivery{
		Source: source, Origin: v1alpha1.OriginWebhook, Key: "secret", BodyBytes: len(content), ReceivedAt: received,
	})
	event.TypeMeta = metav1.TypeMeta{APIVersion: v1alpha1.SchemeGroupVersion.String(), Kind: kindEvent}
	event.UID = types.UID(event.Name) // names of objects are made of it
	return event, nil
}

// isStored reports whether a file is a Kubernetes object rather than a body.
func isStored(content []byte) bool {
	if !bytes.HasPrefix(bytes.TrimSpace(content), []byte("{")) {
		return true // a body is JSON
	}
	var meta metav1.TypeMeta
	return json.Unmarshal(content, &meta) == nil && meta.Kind != ""
}

func readStored(file string, content []byte) (*v1alpha1.NetBoxEvent, error) {
	documents, err := manifest.Documents(file, content)
	if err != nil {
		return nil, err
	}
	if len(documents) != 1 || documents[0].Kind != kindEvent || documents[0].APIVersion != v1alpha1.SchemeGroupVersion.String() {
		return nil, fmt.Errorf("%s: is no event; it must be the body of a webhook as NetBox sends it, or one NetBoxEvent of %s",
			file, v1alpha1.SchemeGroupVersion)
	}
	var event v1alpha1.NetBoxEvent
	if err := documents[0].Decode(&event); err != nil {
		return nil, err
	}
	if event.Spec.Event == "" || event.Spec.SourceRef.Name == "" {
		return nil, documents[0].At("spec", errors.New("is no event: spec.event and spec.sourceRef.name are required"))
	}
	event.UID = cmp.Or(event.UID, types.UID(event.Name))
	return &event, nil
}
