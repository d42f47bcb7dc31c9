package netbox

import (
	"slices"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/eventspec"
)

// maxSightings bounds the events of a source that wait until the change log is read. For more, the API server is asked whether they exist.
const maxSightings = 20_000

// unloggedTypes have event rules, but no change log, in NetBox 4.7.
var unloggedTypes = []string{"extras.script", "users.owner", "users.ownergroup"}

// sighting is an event that came by webhook, and whose rows were not read yet.
type sighting struct {
	name       string
	receivedAt time.Time
	// isExpected means that the change log must have the change.
	isExpected bool
}

// sightings are what came by webhook. They are safe for concurrent use.
type sightings struct {
	mu     sync.Mutex
	isOff  bool
	events map[changeKey]sighting
	counts receiving
}

// receiving counts what came, and what did not.
type receiving struct {
	// arrived is the number of events that came by webhook since counting began, and lastArrival the time of the last one.
	arrived     int64
	lastArrival time.Time
	// stored is the number of changes of which no webhook came since counting began.
	stored int64
	// missed is the number of those that are newer than lastArrival; first is the oldest of them.
	missed int64
	first  change
}

// received records an event that came by webhook.
func (s *sightings) received(event *v1alpha1.NetBoxEvent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isOff {
		return
	}
	receivedAt := event.Spec.Delivery.ReceivedAt.Time
	s.counts.arrived++
	s.counts.excuse(receivedAt)
	if !eventspec.HasChange(&event.Spec) || event.Spec.Branch != "" || len(s.events) >= maxSightings {
		return
	}
	if s.events == nil {
		s.events = map[changeKey]sighting{}
	}
	s.events[changeKey{event.Spec.RequestID, event.Spec.ObjectType, event.Spec.ObjectID}] = sighting{
		name: event.Name, receivedAt: receivedAt, isExpected: isLogged(event),
	}
}

// isLogged reports whether the change log must have the change of an event. Updates that changed nothing are not in it, nor those of fields
// that NetBox computes, such as _path; and updates without a snapshot from before may be of these kinds.
func isLogged(event *v1alpha1.NetBoxEvent) bool {
	if slices.Contains(unloggedTypes, event.Spec.ObjectType) || metav1.HasLabel(event.ObjectMeta, v1alpha1.LabelPhantom) {
		return false
	}
	switch event.Spec.Event {
	case eventCreated, eventDeleted:
		return true
	case eventUpdated:
		return slices.ContainsFunc(event.Spec.ChangedFields, func(field string) bool { return !strings.HasPrefix(field, "_") })
	default:
		return false
	}
}

// excuse leaves changes up to a time out of what is missed.
func (r *receiving) excuse(at time.Time) {
	if at.After(r.lastArrival) {
		r.lastArrival = at
	}
	if !r.first.time.After(r.lastArrival) {
		r.missed, r.first = 0, change{}
	}
}

// miss records a change of which no webhook came.
func (r *receiving) miss(c *change) {
	r.stored++
	if !c.time.After(r.lastArrival) {
		return
	}
	if r.missed == 0 || c.time.Before(r.first.time) {
		r.first = c.summary()
	}
	r.missed++
}

// take removes the sighting of a change whose row was read. It reports whether there was one.
func (s *sightings) take(key changeKey) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.events[key]
	delete(s.events, key)
	return ok
}

// miss records a change of which no webhook came.
func (s *sightings) miss(c *change) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts.miss(c)
}

// excuse leaves changes up to a time out of what is missed: the receiver refused webhooks.
func (s *sightings) excuse(until time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts.excuse(until)
}

// arrived records that an event was found that came by webhook.
func (s *sightings) arrived(at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts.arrived++
	s.counts.excuse(at)
}

// receiving returns the counts.
func (s *sightings) receiving() receiving {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts
}

// turn stops or resumes the recording.
func (s *sightings) turn(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isOff = !on; s.isOff {
		s.events, s.counts = nil, receiving{}
	}
}

// suspects returns the sightings that were received between two times and should be in the change log, and forgets the others and older
// ones.
func (s *sightings) suspects(since, until time.Time) map[changeKey]sighting {
	s.mu.Lock()
	defer s.mu.Unlock()
	suspects := map[changeKey]sighting{}
	for key, sighting := range s.events {
		switch {
		case sighting.receivedAt.After(until):
		case sighting.isExpected && sighting.receivedAt.After(since):
			suspects[key] = sighting
		default:
			delete(s.events, key)
		}
	}
	return suspects
}
