// Package eventspec builds the NetBoxEvent of a change, which the receiver and the reader of the change log create. Both give the event of
// one change the same name, so that the API server stores one of them. It is pure.
package eventspec

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"reflect"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/netbox"
	"github.com/netbox-events/netbox-event-operator/internal/oneline"
	"github.com/netbox-events/netbox-event-operator/internal/payload"
)

// Delivery is how a change became known.
type Delivery struct {
	Source *v1alpha1.NetBoxSource
	Origin v1alpha1.Origin
	// Key is the name of the key that signed the webhook, "" for none.
	Key string
	// BodyBytes is the length of the body.
	BodyBytes int
	// ReceivedAt is when the body was received or made.
	ReceivedAt time.Time
	// DataReadAt is when the data of an event from the change log was read, zero if it is of the change itself.
	DataReadAt time.Time
	// Traceparent is the span of the request, "" if it is not traced.
	Traceparent string
}

// New builds the NetBoxEvent of a decoded body. Its name is that of the change.
func New(event *netbox.Event, d Delivery) *v1alpha1.NetBoxEvent {
	built := &v1alpha1.NetBoxEvent{
		ObjectMeta: metav1.ObjectMeta{Namespace: d.Source.Namespace},
		Spec: v1alpha1.NetBoxEventSpec{
			SourceRef:     v1alpha1.SourceReference{Name: d.Source.Name},
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
				Origin:      d.Origin,
				ReceivedAt:  metav1.NewMicroTime(d.ReceivedAt),
				Key:         d.Key,
				BodySHA256:  hex.EncodeToString(event.Digest[:]),
				BodyBytes:   int64(d.BodyBytes),
				Stringified: event.Stringified,
				Redacted:    event.Redacted,
				Envelope:    payload.Stored(event.Envelope),
				Traceparent: d.Traceparent,
			},
		},
	}
	switch {
	case d.Origin == v1alpha1.OriginChangeLog:
	case d.Key == "":
		built.Spec.Delivery.Signature = v1alpha1.SignatureUnsigned
	default:
		built.Spec.Delivery.Signature = v1alpha1.SignatureVerified
	}
	if !d.DataReadAt.IsZero() {
		built.Spec.Delivery.DataReadAt = new(metav1.NewMicroTime(d.DataReadAt))
	}
	built.Name = ChangeName(&built.Spec, d.Source.UID)
	return built
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

// HasChange reports whether an event is a change of an object by a request, which NetBox's change log can have. Jobs are not.
func HasChange(spec *v1alpha1.NetBoxEventSpec) bool {
	return spec.RequestID != "" && spec.ObjectType != "" && spec.ObjectID != ""
}

// ChangeName returns the name of the event of a change: all that NetBox does to one object in one request. NetBox 4.x sends one webhook for
// it. Without a request, it is BodyName.
func ChangeName(spec *v1alpha1.NetBoxEventSpec, source types.UID) string {
	if !HasChange(spec) {
		return BodyName(spec, source)
	}
	return name(spec, string(source), spec.RequestID, spec.ObjectType, spec.ObjectID)
}

// BodyName returns the name of the event of a body. It is for a body whose change has an event of another body: an older NetBox sends
// several webhooks for some changes.
func BodyName(spec *v1alpha1.NetBoxEventSpec, source types.UID) string {
	return name(spec, string(source), spec.Delivery.BodySHA256)
}

// hashBytes makes 80 bits: among 10 million events of a source the chance that two share a hash is 1 in 24 billion.
const hashBytes = 10

// name returns a name with the model, object ID and event for people, and a hash of what identifies the event. It is a DNS-1123 subdomain
// for any input.
func name(spec *v1alpha1.NetBoxEventSpec, identity ...string) string {
	hash := sha256.New()
	for _, part := range identity {
		digest := sha256.Sum256([]byte(part)) // of a fixed length
		hash.Write(digest[:])
	}
	var parts []string
	for _, part := range []string{spec.Model, spec.ObjectID, spec.Event} {
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

// IsSame reports whether a stored event is that of a new one with the same name: it has the same body, or is of the same change, which need
// not be stored again. Events of a source that reads the change log are of the same change also if only their timestamps differ, as where
// two event rules of NetBox sent one change.
func IsSame(stored, event *v1alpha1.NetBoxEvent, source *v1alpha1.NetBoxSource) bool {
	if stored.Spec.Delivery.BodySHA256 == event.Spec.Delivery.BodySHA256 {
		return true
	}
	if stored.Spec.Delivery.Origin == v1alpha1.OriginChangeLog || event.Spec.Delivery.Origin == v1alpha1.OriginChangeLog {
		return true
	}
	readsChangeLog := source.Spec.NetBox != nil && source.Spec.NetBox.Backfill != nil
	return readsChangeLog && equal(stored.Spec.Data, event.Spec.Data) && equal(stored.Spec.Snapshots, event.Spec.Snapshots)
}

// equal compares two objects as JSON: the API server writes numbers and orders members in its own way.
func equal(a, b v1alpha1.JSONObject) bool {
	return reflect.DeepEqual(decoded(a), decoded(b))
}

func decoded(object v1alpha1.JSONObject) map[string]any {
	values := make(map[string]any, len(object))
	for name, value := range object {
		var member any
		_ = json.Unmarshal(value.Raw, &member) // a number that is too large stays nil on both sides
		values[name] = member
	}
	return values
}
