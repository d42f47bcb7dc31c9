package ingest

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/netbox"
	"github.com/netbox-events/netbox-event-operator/internal/oneline"
	"github.com/netbox-events/netbox-event-operator/internal/payload"
)

// delivery is a verified body to be stored, with its origin.
type delivery struct {
	source      *v1alpha1.NetBoxSource
	body        []byte
	key         string // the name of the key that signed it, "" for none
	receivedAt  time.Time
	traceparent string // of the span of the request, "" if not traced
}

// newEvent builds the NetBoxEvent of a delivery.
func newEvent(event *netbox.Event, d delivery) *v1alpha1.NetBoxEvent {
	signature := v1alpha1.SignatureVerified
	if d.key == "" {
		signature = v1alpha1.SignatureUnsigned
	}
	return &v1alpha1.NetBoxEvent{
		ObjectMeta: metav1.ObjectMeta{Namespace: d.source.Namespace, Name: eventName(event, string(d.source.UID))},
		Spec: v1alpha1.NetBoxEventSpec{
			SourceRef:     v1alpha1.SourceReference{Name: d.source.Name},
			Event:         bounded(event.Event),
			ObjectType:    bounded(event.ObjectType),
			Model:         bounded(event.Model),
			ObjectID:      bounded(event.ObjectID),
			ObjectURL:     bounded(event.ObjectURL),
			ObjectName:    bounded(event.ObjectName),
			Branch:        bounded(event.Branch),
			Username:      bounded(event.Username),
			RequestID:     bounded(event.RequestID),
			Request:       payload.Stored(event.Request),
			Timestamp:     metav1.NewMicroTime(event.Timestamp),
			ChangedFields: event.ChangedFields,
			Data:          payload.Stored(event.Data),
			Snapshots:     payload.Stored(event.Snapshots),
			Context:       payload.Stored(event.Context),
			Extra:         payload.Stored(event.Extra),
			Delivery: v1alpha1.Delivery{
				ReceivedAt:  metav1.NewMicroTime(d.receivedAt),
				Signature:   signature,
				Key:         d.key,
				BodySHA256:  hex.EncodeToString(event.Digest[:]),
				BodyBytes:   int64(len(d.body)),
				Stringified: event.Stringified,
				Redacted:    event.Redacted,
				Envelope:    payload.Stored(event.Envelope),
				Traceparent: d.traceparent,
			},
		},
	}
}

// maxFieldBytes bounds the fields that are printer columns, field selectors and log values. NetBox's own values are shorter.
const maxFieldBytes = 1024

// bounded truncates a text over maxFieldBytes. The full text is stored in data or delivery.envelope.
func bounded(text string) string {
	if len(text) <= maxFieldBytes {
		return text
	}
	return oneline.Of(text, maxFieldBytes)
}

// hashBytes makes 80 bits: among 10 million events of a source the chance that two share a hash is 1 in 24 billion.
const hashBytes = 10

// eventName returns a name with the model, object ID and event for people, and a hash of source and body, so that a delivery that is sent
// again gets the same name and is deduplicated. It is a DNS-1123 subdomain for any input.
func eventName(event *netbox.Event, sourceUID string) string {
	hash := sha256.New()
	hash.Write([]byte(sourceUID))
	hash.Write(event.Digest[:])

	var parts []string
	for _, part := range []string{event.Model, event.ObjectID, event.Event} {
		if part = nameSafe(part); part != "" {
			parts = append(parts, part)
		}
	}
	parts = append(parts, hex.EncodeToString(hash.Sum(nil)[:hashBytes]))
	return strings.Join(parts, "-")
}

// nameSafe replaces the characters that a name may not contain, and truncates the text: three parts and a hash stay below the 253
// characters that Kubernetes allows.
func nameSafe(text string) string {
	const longest = 63
	safe := strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', '0' <= r && r <= '9':
			return r
		case 'A' <= r && r <= 'Z':
			return r - 'A' + 'a'
		default:
			return '-'
		}
	}, text)
	return strings.Trim(safe[:min(len(safe), longest)], "-")
}
