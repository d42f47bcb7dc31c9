package netbox

import (
	"context"
	"maps"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/netboxapi"
)

const (
	// maxSuspects bounds the requests of suspected events that are looked up in one reading.
	maxSuspects = 20
	// maxSuspectAge is the age from which on an event is not looked up: NetBox may be configured to delete rows after a day.
	maxSuspectAge = 12 * time.Hour
)

// phantomPatch labels an event.
var phantomPatch = []byte(`{"metadata":{"labels":{"` + v1alpha1.LabelPhantom + `":"true"}}}`)

// findPhantoms labels the events whose change is not in the log although they are older than the lag. The end of the log must have been
// reached: what is in the window is not among the sightings any more.
func (r *reading) findPhantoms(ctx context.Context) error {
	end := r.state.window.end
	suspects := r.state.sightings.suspects(end.Add(-maxSuspectAge), end.Add(-r.backfill.Lag.Duration))
	requests := map[string][]changeKey{}
	for key := range suspects {
		if r.state.settled[key] {
			r.state.sightings.take(key)
			continue
		}
		requests[key.requestID] = append(requests[key.requestID], key)
	}
	for i, request := range slices.Sorted(maps.Keys(requests)) {
		if i == maxSuspects || !r.Clock.Now().Before(r.deadline) {
			break
		}
		rows, err := r.api.ChangesOf(ctx, request)
		isUnknown := netboxapi.KindOf(err) == netboxapi.KindTooLarge
		if err != nil && !isUnknown {
			return err
		}
		logged := map[changeKey]bool{}
		for j := range rows {
			logged[keyOf(&rows[j])] = true
		}
		for _, key := range requests[request] {
			if !logged[key] && !isUnknown {
				if err := r.label(ctx, suspects[key].name); err != nil {
					return err
				}
			}
			r.state.sightings.take(key)
		}
	}
	return nil
}

// label labels an event as a phantom, and counts it.
func (r *reading) label(ctx context.Context, name string) error {
	_, err := r.Metadata.Resource(v1alpha1.SchemeGroupVersion.WithResource("netboxevents")).Namespace(r.source.Namespace).
		Patch(ctx, name, types.MergePatchType, phantomPatch, metav1.PatchOptions{FieldManager: ChangeLogFieldOwner})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	r.state.phantoms++
	r.Metrics.phantoms.WithLabelValues(client.ObjectKeyFromObject(r.source).String()).Inc()
	if r.state.found.phantoms == 0 {
		r.state.found.firstPhantom = name
	}
	r.state.found.phantoms++
	return nil
}
