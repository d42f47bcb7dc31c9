package delivery

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

// FirstGroup returns the number of events in the first group of those that wait for a rule with one key, given the times of their receipt
// in ascending order, at least one. If the group is still open, until is when it closes unless another event comes; the zero time if it is
// closed. Both depend on when the events were received, not on when they are looked at, so that a restart changes nothing.
func FirstGroup(received func(i int) time.Time, count int, spec *v1alpha1.Group, now time.Time) (size int, until time.Time) {
	end := received(0).Add(spec.MaxWait.Duration)
	for size = 1; size < count && size < int(spec.MaxEvents); size++ {
		if until := earlier(received(size-1).Add(spec.Quiet.Duration), end); !received(size).Before(until) {
			return size, time.Time{}
		}
	}
	until = earlier(received(size-1).Add(spec.Quiet.Duration), end)
	if size == int(spec.MaxEvents) || !now.Before(until) {
		return size, time.Time{}
	}
	return size, until
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// GroupID returns the id of the group that begins with an event, by its UID. The event may be replayed.
func GroupID(namespace, rule, key, first string, replay Replay) string {
	const bytes = 10
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q %q %q %q", namespace, rule, key, first, replay))
	return hex.EncodeToString(sum[:bytes])
}

// Member names an event in a group. A replay of the event is another member.
func Member(event string, replay Replay) string { return fmt.Sprintf("%q %q", event, replay) }

// memberBytes is the length of the hash of a member. Two events of one key have the same hash with a probability of one in four billion,
// and it matters only after a crash.
const memberBytes = 4

// EncodeMembers encodes the members of a group.
func EncodeMembers(members []string) []byte {
	encoded := make([]byte, 0, memberBytes*len(members))
	for _, member := range members {
		sum := sha256.Sum256([]byte(member))
		encoded = append(encoded, sum[:memberBytes]...)
	}
	return encoded
}

// MemberSet holds the members of a group.
type MemberSet map[uint32]bool

// NewMemberSet decodes the members of a group.
func NewMemberSet(encoded []byte) MemberSet {
	set := MemberSet{}
	for ; len(encoded) >= memberBytes; encoded = encoded[memberBytes:] {
		set[binary.BigEndian.Uint32(encoded)] = true
	}
	return set
}

// Has reports whether the group has a member.
func (s MemberSet) Has(member string) bool {
	sum := sha256.Sum256([]byte(member))
	return s[binary.BigEndian.Uint32(sum[:])]
}
