package ingest_test

import (
	"fmt"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/eventspec"
	"github.com/netbox-events/netbox-event-operator/internal/netbox"
	"github.com/netbox-events/netbox-event-operator/internal/source"
)

// updated is the body of an update of site 14 by one request.
func updated(timestamp, status string) string {
	return fmt.Sprintf(`{"event": "updated", "timestamp": %q, "object_type": "dcim.site", "data": {"id": 14, "status": %q},
		"request": {"id": "b3dc3247-883f-4810-ad01-0f50ee6b722d", "user": "admin"}, "snapshots": {"prechange": {"status": "planned"}}}`, timestamp, status)
}

// TestSameChange sends several bodies of one change: what is the same change is stored once, and nothing else is lost.
func TestSameChange(t *testing.T) {
	at := start(t, plane.Config)
	const now, later = "2026-11-27T08:00:00.000001Z", "2026-11-27T08:00:01.000002Z"
	for name, test := range map[string]struct {
		readsLog bool
		fromLog  string   // the body of the event that the change log made
		bodies   []string // and their results
		results  []string
		stored   int
	}{
		"webhooks alone":             {false, "", []string{updated(now, "active"), updated(later, "active"), updated(later, "active")}, []string{"ok", "ok", "duplicate"}, 2},
		"two event rules":            {true, "", []string{updated(now, "active"), updated(later, "active")}, []string{"ok", "duplicate"}, 1},
		"two updates in one request": {true, "", []string{updated(now, "active"), updated(now, "retired"), updated(now, "retired")}, []string{"ok", "ok", "duplicate"}, 2},
		"webhook after the backfill": {true, updated(now, "retired"), []string{updated(now, "active"), updated(later, "active")}, []string{"duplicate", "duplicate"}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			target := newSource(t, at, "", func(made *v1alpha1.NetBoxSource) {
				if test.readsLog {
					made.Spec.NetBox = &v1alpha1.NetBoxAPI{
						URL: "https://netbox.example.com", TokenSecretRef: v1alpha1.SecretKeyReference{Name: "token", Key: "token"},
						Backfill: &v1alpha1.Backfill{},
					}
				}
			})
			if test.fromLog != "" {
				event, err := netbox.Decode([]byte(test.fromLog), nil)
				if err != nil {
					t.Fatal(err)
				}
				plane.Create(t, eventspec.New(event, eventspec.Delivery{Source: target, Origin: v1alpha1.OriginChangeLog, ReceivedAt: time.Now()}))
			}
			for i, body := range test.bodies {
				if got := post(t, at.URL+source.Path(target), body, nil); got.Result != test.results[i] {
					t.Errorf("delivery %d: %s, want %s", i, got.body, test.results[i])
				}
			}
			var events v1alpha1.NetBoxEventList
			if err := plane.Client.List(t.Context(), &events, client.InNamespace(target.Namespace)); err != nil || len(events.Items) != test.stored {
				t.Errorf("%d events are stored, want %d (%v)", len(events.Items), test.stored, err)
			}
		})
	}
}
