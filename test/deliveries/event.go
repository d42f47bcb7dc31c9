package deliveries

import (
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/netbox"
)

// Redact has the keys that a NetBoxSource redacts by default.
var Redact = []string{"auth_key", "auth_psk", "preshared_key", "password", "aws_secret_access_key"}

// Event returns the event that the receiver stores for a delivery to a source named netbox that redacts some keys, for tests of its processing.
// It fails as netbox.Decode does.
func (d Delivery) Event(namespace string, redact []string) (*v1alpha1.NetBoxEvent, error) {
	decoded, err := netbox.Decode([]byte(d.Body), redact)
	if err != nil {
		return nil, err
	}
	object := func(from netbox.Object) v1alpha1.JSONObject {
		if from == nil {
			return nil
		}
		converted := v1alpha1.JSONObject{}
		for name, value := range from {
			converted[name] = v1alpha1.JSON{Raw: value}
		}
		return converted
	}
	return &v1alpha1.NetBoxEvent{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: strings.ReplaceAll(d.String(), "/", "-")},
		Spec: v1alpha1.NetBoxEventSpec{
			SourceRef: v1alpha1.SourceReference{Name: "netbox"}, Event: decoded.Event, ObjectType: decoded.ObjectType, Model: decoded.Model,
			ObjectID: decoded.ObjectID, ObjectURL: decoded.ObjectURL, ObjectName: decoded.ObjectName, Branch: decoded.Branch, Username: decoded.Username,
			RequestID: decoded.RequestID, Request: object(decoded.Request), Timestamp: metav1.NewMicroTime(decoded.Timestamp),
			ChangedFields: decoded.ChangedFields, Data: object(decoded.Data), Snapshots: object(decoded.Snapshots),
			Context: object(decoded.Context), Extra: object(decoded.Extra),
			Delivery: v1alpha1.Delivery{
				Origin:     v1alpha1.OriginWebhook,
				ReceivedAt: metav1.NewMicroTime(decoded.Timestamp), Signature: v1alpha1.SignatureVerified, Key: "secret",
				BodySHA256: strings.Repeat("0", 64), BodyBytes: int64(len(d.Body)),
				Stringified: decoded.Stringified, Redacted: decoded.Redacted, Envelope: object(decoded.Envelope),
			},
		},
	}, nil
}
