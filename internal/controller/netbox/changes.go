package netbox

import (
	"encoding/json"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/eventspec"
	"github.com/netbox-events/netbox-event-operator/internal/netboxapi"
)

// Kinds of events that are changes of objects.
const eventCreated, eventUpdated, eventDeleted = "created", "updated", "deleted"

// changeKey identifies a change: all that one request did to one object.
type changeKey struct{ requestID, objectType, objectID string }

func keyOf(row *netboxapi.Row) changeKey {
	return changeKey{row.RequestID, row.ObjectType, row.ObjectID}
}

// change is the rows of the change log with one changeKey. NetBox sends one webhook for them.
type change struct {
	changeKey
	event string
	// user, objectName and time are those of the newest row.
	user, objectName string
	time             time.Time
	// first and last are the positions of the oldest and the newest row.
	first, last netboxapi.Cursor
	// before is the object before the first row, after that after the last one; latest is the newest state that the rows have.
	before, after, latest json.RawMessage
	// isSettled means that there is nothing left to do: it has an event, or none is wanted.
	isSettled bool
	// isWhole means that all its rows were read, although there are later ones.
	isWhole bool
	// isMissing means that no event of it was found.
	isMissing bool
}

// add adds the next row of the change.
func (c *change) add(row *netboxapi.Row) {
	if c.event == "" {
		c.changeKey, c.event, c.first, c.before = keyOf(row), eventUpdated, row.Cursor(), row.Prechange
	}
	switch row.Action {
	case netboxapi.Delete:
		c.event = eventDeleted
	case netboxapi.Create:
		if c.event == eventUpdated {
			c.event = eventCreated
		}
	case netboxapi.Update:
	}
	c.user, c.objectName, c.time, c.last = row.UserName, row.ObjectRepr, row.Time, row.Cursor()
	c.after = row.Postchange
	for _, state := range []json.RawMessage{row.Postchange, row.Prechange} {
		if state != nil {
			c.latest = state
			break
		}
	}
}

// bytes returns the length of the states that the change holds: after is latest, or absent.
func (c *change) bytes() int { return len(c.before) + len(c.latest) }

// settle drops what is only needed to make an event.
func (c *change) settle() { c.isSettled, c.before, c.after, c.latest = true, nil, nil, nil }

// eventName returns the name of the change's event.
func (c *change) eventName(source types.UID) string {
	spec := v1alpha1.NetBoxEventSpec{
		Event: c.event, ObjectType: c.objectType, Model: c.objectType[strings.LastIndex(c.objectType, ".")+1:], ObjectID: c.objectID,
		RequestID: c.requestID,
	}
	return eventspec.ChangeName(&spec, source)
}

// nameSuffix returns the end of the name of an event, which is the same for all kinds of events of a change.
func nameSuffix(name string) string { return name[strings.LastIndex(name, "-")+1:] }

// fold returns the changes of some rows, in the order of their newest rows.
func fold(rows []netboxapi.Row) []*change {
	window := newWindow(netboxapi.Cursor{})
	window.add(rows)
	var changes []*change
	for _, entry := range window.entries {
		if entry.cursor == entry.change.last {
			changes = append(changes, entry.change)
		}
	}
	return changes
}

// window is a part of the change log, folded: from a cursor to the position up to which it was read.
type window struct {
	position netboxapi.Cursor
	// newest is the time of the newest row that was read.
	newest time.Time
	// end is when the end of the log was reached, zero before.
	end     time.Time
	entries []entry
	changes map[changeKey]*change
	// requests has the changes of each request.
	requests map[string][]*change
	// deleted are the objects of rows that are deletions.
	deleted map[objectKey]bool
}

// entry is a row of a window.
type entry struct {
	cursor netboxapi.Cursor
	time   time.Time
	change *change
}

type objectKey struct{ objectType, objectID string }

func newWindow(cursor netboxapi.Cursor) *window {
	return &window{
		position: cursor, changes: map[changeKey]*change{}, requests: map[string][]*change{}, deleted: map[objectKey]bool{},
	}
}

// add adds rows in ascending order. It leaves out those up to the position, and returns the changes that are new in the window.
func (w *window) add(rows []netboxapi.Row) (added []*change) {
	for i := range rows {
		row := &rows[i]
		if row.Cursor().Compare(w.position) <= 0 {
			continue
		}
		found := w.changes[keyOf(row)]
		if found == nil {
			found = &change{}
			w.changes[keyOf(row)] = found
			w.requests[row.RequestID] = append(w.requests[row.RequestID], found)
			added = append(added, found)
		}
		found.add(row)
		if found.isSettled {
			found.settle()
		}
		if row.Action == netboxapi.Delete {
			w.deleted[objectKey{row.ObjectType, row.ObjectID}] = true
		}
		w.entries = append(w.entries, entry{row.Cursor(), row.Time, found})
		w.position = row.Cursor()
		if row.Time.After(w.newest) {
			w.newest = row.Time
		}
	}
	return added
}

// bytes returns the length of the states of objects that the window holds.
func (w *window) bytes() (length int) {
	for _, change := range w.changes {
		length += change.bytes()
	}
	return length
}

// due returns up to limit changes that are not settled, have all their rows in the window, and whose newest row is not younger than lag, in
// the order of their newest rows.
//
// Before the end of the log, a change has all its rows if the log was read for overlap beyond its newest one, or if it is whole.
func (w *window) due(now time.Time, lag time.Duration, limit int) []*change {
	latest := earliest(w.newest.Add(-overlap), now.Add(-lag))
	if !w.end.IsZero() {
		latest = w.end.Add(-lag)
	}
	var due []*change
	for _, entry := range w.entries {
		found := entry.change
		if len(due) == limit {
			break
		}
		if !found.isSettled && entry.cursor == found.last && (found.isWhole || !found.time.After(latest)) {
			due = append(due, found)
		}
	}
	return due
}

// oldest returns the first change that is not settled, or nil.
func (w *window) oldest() *change {
	for _, entry := range w.entries {
		if !entry.change.isSettled {
			return entry.change
		}
	}
	return nil
}

// trim removes the rows at the beginning of the window whose changes are settled, not younger than a time, and have no later rows. It
// returns them.
func (w *window) trim(horizon time.Time) (trimmed []entry) {
	var newest netboxapi.Cursor
	for i, entry := range w.entries {
		if !entry.change.isSettled || entry.change.time.After(horizon) {
			break
		}
		if entry.change.last.Compare(newest) > 0 {
			newest = entry.change.last
		}
		if newest == entry.cursor {
			trimmed = w.entries[:i+1]
		}
	}
	for _, entry := range trimmed {
		request := entry.change.requestID
		delete(w.changes, entry.change.changeKey)
		w.requests[request] = slices.DeleteFunc(w.requests[request], func(c *change) bool { return c == entry.change })
		if len(w.requests[request]) == 0 {
			delete(w.requests, request)
		}
	}
	w.entries = w.entries[len(trimmed):]
	return trimmed
}

// of returns the changes of a request that are not settled.
func (w *window) of(requestID string) []*change {
	return slices.DeleteFunc(slices.Clone(w.requests[requestID]), func(c *change) bool { return c.isSettled })
}

func earliest(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// summary returns what identifies a change to people, without the states of its object.
func (c *change) summary() change {
	return change{changeKey: c.changeKey, event: c.event, user: c.user, objectName: c.objectName, time: c.time}
}
