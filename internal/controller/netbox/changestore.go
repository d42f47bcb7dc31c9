package netbox

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/eventspec"
	"github.com/netbox-events/netbox-event-operator/internal/eventstore"
	"github.com/netbox-events/netbox-event-operator/internal/netbox"
	"github.com/netbox-events/netbox-event-operator/internal/netboxapi"
)

// find finds out whether a change has an event, and, where its request made many changes, whether these have.
func (r *reading) find(ctx context.Context, c *change) error {
	same := r.state.window.of(c.requestID)
	if len(same) < listFrom {
		return r.get(ctx, c, c.eventName(r.source.UID))
	}
	list, err := r.Metadata.Resource(v1alpha1.SchemeGroupVersion.WithResource("netboxevents")).Namespace(r.source.Namespace).
		List(ctx, metav1.ListOptions{FieldSelector: fields.AndSelectors(
			fields.OneTermEqualSelector("spec.requestID", c.requestID), eventstore.OfSource(r.source.Name),
		).String()})
	if err != nil {
		return err
	}
	names := map[string]string{}
	for i := range list.Items {
		names[nameSuffix(list.Items[i].Name)] = list.Items[i].Name
	}
	var last *change
	var lastName string
	for _, c := range same {
		name, ok := names[nameSuffix(c.eventName(r.source.UID))]
		switch {
		case !ok:
			c.isMissing = true
		case last == nil:
			last, lastName = c, name
		default:
			r.settle(c)
		}
	}
	if last == nil {
		return nil
	}
	return r.get(ctx, last, lastName) // tells how it came
}

// get finds out whether an event of a change exists, and came by webhook.
func (r *reading) get(ctx context.Context, c *change, name string) error {
	event, err := r.Events.Get(ctx, r.source.Namespace, name)
	if apierrors.IsNotFound(err) {
		c.isMissing = true
		return nil
	}
	if err != nil {
		return err
	}
	if event.Spec.Delivery.Origin != v1alpha1.OriginChangeLog {
		r.state.sightings.arrived(event.Spec.Delivery.ReceivedAt.Time)
	}
	r.settle(c)
	return nil
}

// readObject is an object of the API, and when it was read.
type readObject struct {
	data json.RawMessage
	at   time.Time
}

// objects reads the objects of changes as they are now. What is gone, or may not be read, is missing.
func (r *reading) objects(ctx context.Context, changes []*change) (map[objectKey]readObject, error) {
	ids := map[string][]string{}
	for _, c := range changes {
		if c.event != eventDeleted && !slices.Contains(ids[c.objectType], c.objectID) {
			ids[c.objectType] = append(ids[c.objectType], c.objectID)
		}
	}
	objects, state := map[objectKey]readObject{}, r.state
	for _, objectType := range slices.Sorted(maps.Keys(ids)) {
		endpoint := state.types.endpoint(objectType)
		if endpoint == "" || state.found.refused[objectType] {
			continue
		}
		at := r.Clock.Now()
		read, err := r.api.Objects(ctx, endpoint, ids[objectType])
		switch netboxapi.KindOf(err) {
		case netboxapi.KindForbidden, netboxapi.KindNotFound, netboxapi.KindWrongURL, netboxapi.KindInvalid, netboxapi.KindTooLarge:
			state.found.refused[objectType], state.unreadable[objectType] = true, err.Error()
			continue
		default:
		}
		if err != nil {
			return nil, err
		}
		for id, object := range read {
			objects[objectKey{objectType, id}] = readObject{relativeLinks(object), at}
		}
		if r.isHidden(objectType, ids[objectType], read) {
			state.unreadable[objectType] = "the token lacks the permission view on some of them in NetBox, or they were just deleted"
		} else if len(read) > 0 {
			delete(state.unreadable, objectType)
		}
	}
	return objects, nil
}

// isHidden reports whether objects were not found whose deletion is not in the log.
func (r *reading) isHidden(objectType string, ids []string, read map[string]json.RawMessage) bool {
	window := r.state.window
	return !window.end.IsZero() && slices.ContainsFunc(ids, func(id string) bool {
		return read[id] == nil && !window.deleted[objectKey{objectType, id}]
	})
}

// create creates the event of a change.
func (r *reading) create(ctx context.Context, c *change, object readObject) error {
	event, err := r.event(c, object)
	if err != nil {
		r.pass(c, err)
		return nil
	}
	if r.accept != nil {
		if accepted, _ := r.accept.Accepts(ctx, event); !accepted {
			r.settle(c)
			return nil
		}
	}
	if err := r.state.creations.Wait(ctx); err != nil {
		return err
	}
	err = r.Events.Create(ctx, event)
	switch {
	case apierrors.IsAlreadyExists(err):
	case err == nil:
		r.stored(c)
	case eventstore.IsTooLarge(err) || apierrors.IsInvalid(err) || apierrors.IsBadRequest(err):
		r.pass(c, err)
	default:
		return err
	}
	r.settle(c)
	return nil
}

// pass passes over a change that can never be stored.
func (r *reading) pass(c *change, err error) {
	r.Log.Info("a change cannot be stored as an event", "source", client.ObjectKeyFromObject(r.source).String(), "change", c.String(),
		"cause", err.Error())
	r.warn(r.source, v1alpha1.EventChangeNotStored, "%s cannot be stored as an event: %v", c, err)
	r.settle(c)
}

// event builds the event of a change, as the receiver would of its webhook.
func (r *reading) event(c *change, object readObject) (*v1alpha1.NetBoxEvent, error) {
	data, err := object.data, error(nil)
	if data == nil {
		if data, err = c.data(r.state.types.endpoint(c.objectType)); err != nil {
			return nil, err
		}
	}
	body, err := c.body(data)
	if err != nil {
		return nil, err
	}
	decoded, err := netbox.Decode(body, r.source.Spec.Redact)
	if err != nil {
		return nil, err
	}
	return eventspec.New(decoded, eventspec.Delivery{
		Source: r.source, Origin: v1alpha1.OriginChangeLog, BodyBytes: len(body), ReceivedAt: r.Clock.Now(), DataReadAt: object.at,
	}), nil
}

func (r *reading) stored(c *change) {
	r.state.missed++
	r.state.storedTotal++
	r.Metrics.missed.WithLabelValues(client.ObjectKeyFromObject(r.source).String()).Inc()
	r.state.sightings.miss(c)
	if r.state.found.stored == 0 {
		r.state.found.first = c.summary()
	}
	r.state.found.stored++
}
