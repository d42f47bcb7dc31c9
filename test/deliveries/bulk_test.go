package deliveries_test

import (
	"fmt"
	"testing"

	"github.com/netbox-events/netbox-event-operator/internal/netbox"
	"github.com/netbox-events/netbox-event-operator/test/deliveries"
)

func TestBulkEdit(t *testing.T) {
	const n = 500
	edit, err := deliveries.BulkEdit(n)
	if err != nil || len(edit) != n {
		t.Fatal(len(edit), err)
	}
	requests, digests := map[string]bool{}, map[[32]byte]bool{}
	for i, delivery := range edit {
		event, err := netbox.Decode([]byte(delivery.Body), nil)
		if err != nil {
			t.Fatal(err)
		}
		id := fmt.Sprint(i + 1)
		if event.ObjectID != id || event.ObjectURL != "/api/dcim/devices/"+id+"/" || event.ObjectName != "Device "+id || len(event.ChangedFields) != 1 {
			t.Errorf("%s: %+v", delivery, event)
		}
		if want := netbox.Sign([]byte(*delivery.Key), []byte(delivery.Body)); delivery.Header(netbox.SignatureHeader) != want {
			t.Errorf("%s: the signature does not match", delivery)
		}
		requests[event.RequestID], digests[event.Digest] = true, true
	}
	if len(requests) != 1 || len(digests) != n {
		t.Errorf("%d requests and %d bodies, want 1 and %d", len(requests), len(digests), n)
	}
}
