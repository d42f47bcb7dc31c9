package netboxapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Action is what a row of the change log says was done.
type Action string

// The actions.
const (
	Create Action = "create"
	Update Action = "update"
	Delete Action = "delete"
)

// Row is an entry of the change log. Several rows may stand for one change of an object in one request.
type Row struct {
	// ID is a number in NetBox, a UUID in Nautobot.
	ID string
	// Time is when the row was made, before the request was committed.
	Time time.Time
	// UserName is who made the request.
	UserName string
	// RequestID is the UUID of the request.
	RequestID string
	// Action is what was done.
	Action Action
	// ObjectType is, for example, dcim.site; empty if Nautobot no longer has the type.
	ObjectType string
	// ObjectID is a number in NetBox, a UUID in Nautobot.
	ObjectID string
	// ObjectRepr is the name of the object at that time where the row has it (from NetBox 4.1 on), else the one that it has now, if any.
	ObjectRepr string
	// ObjectURL is the path of the object in the API. It is empty where it was not asked for (NetBox 4.6 and later, for speed: use the
	// endpoint of the ObjectType), and for what was deleted.
	ObjectURL string
	// Prechange and Postchange are the object before and after, flat as in the snapshots of webhooks; nil where NetBox has none, or an empty
	// object. Nautobot, and NetBox 2.9 and 2.10, have only one of them: before for a deletion, after for the others.
	Prechange, Postchange json.RawMessage
}

// Cursor returns the position after the row.
func (r Row) Cursor() Cursor {
	if id, err := strconv.ParseInt(r.ID, 10, 64); err == nil {
		return Cursor{ID: id}
	}
	return Cursor{Time: r.Time, UUID: r.ID}
}

// UnmarshalJSON decodes a row of NetBox or Nautobot.
func (r *Row) UnmarshalJSON(text []byte) error {
	var wire struct {
		ID     json.RawMessage `json:"id"`
		Time   time.Time       `json:"time"`
		Action struct {
			Value Action `json:"value"`
		} `json:"action"`
		UserName      string          `json:"user_name"`
		RequestID     string          `json:"request_id"`
		ObjectType    *string         `json:"changed_object_type"`
		ObjectID      json.RawMessage `json:"changed_object_id"`
		ChangedObject json.RawMessage `json:"changed_object"`
		ObjectRepr    string          `json:"object_repr"`
		Prechange     json.RawMessage `json:"prechange_data"`
		Postchange    json.RawMessage `json:"postchange_data"`
		ObjectData    json.RawMessage `json:"object_data"`
		ObjectDataV2  json.RawMessage `json:"object_data_v2"`
	}
	if err := json.Unmarshal(text, &wire); err != nil {
		return err
	}
	row := Row{
		Time: wire.Time.UTC(), UserName: wire.UserName, RequestID: wire.RequestID, Action: wire.Action.Value, ObjectRepr: wire.ObjectRepr,
		Prechange: snapshot(wire.Prechange), Postchange: snapshot(wire.Postchange),
	}
	var err error
	if row.ID, err = scalar(wire.ID); err != nil {
		return fmt.Errorf("a row of the change log: %w", err)
	}
	if row.ObjectID, err = scalar(wire.ObjectID); err != nil {
		return fmt.Errorf("row %.40q of the change log: changed_object_id: %w", row.ID, err)
	}
	if row.Action != Create && row.Action != Update && row.Action != Delete {
		return fmt.Errorf("row %.40q of the change log has the unknown action %.20q", row.ID, row.Action)
	}
	if wire.Time.IsZero() || row.RequestID == "" {
		return fmt.Errorf("row %.40q of the change log has no time or request_id", row.ID)
	}
	if wire.ObjectType != nil {
		row.ObjectType = *wire.ObjectType
	}
	row.addObject(wire.ChangedObject)
	row.addData(wire.ObjectDataV2, wire.ObjectData)
	*r = row
	return nil
}

// addObject adds what the object is now. NetBox writes a text in place of an object for models that its API does not have.
func (r *Row) addObject(value json.RawMessage) {
	var object struct {
		URL     string `json:"url"`
		Display string `json:"display"`
		Name    string `json:"name"`
	}
	if json.Unmarshal(value, &object) != nil {
		_ = json.Unmarshal(value, &object.Display)
	}
	r.ObjectURL = pathOf(object.URL)
	for _, name := range []string{object.Display, object.Name} {
		if r.ObjectRepr == "" {
			r.ObjectRepr = name
		}
	}
}

// addData adds the object of a log that has one state alone. The first state that is there counts.
func (r *Row) addData(states ...json.RawMessage) {
	for _, state := range states {
		if r.Prechange != nil || r.Postchange != nil {
			return
		}
		if r.Action == Delete {
			r.Prechange = snapshot(state)
		} else {
			r.Postchange = snapshot(state)
		}
	}
}

// snapshot returns nil for null and for an empty object, with which NetBox writes null.
func snapshot(value json.RawMessage) json.RawMessage {
	if isNull(value) {
		return nil
	}
	if text := bytes.TrimSpace(value); text[0] == '{' && len(bytes.TrimSpace(text[1:len(text)-1])) == 0 {
		return nil
	}
	return value
}

// Cursor is a position in a change log: after a certain row. The zero Cursor is before all rows. Rows that are committed late may appear
// before a Cursor: who may miss none reads again from an earlier one.
type Cursor struct {
	// ID is the id of the row, for NetBox.
	ID int64
	// Time and UUID are the time and id of the row, for Nautobot, whose ids have no order.
	Time time.Time
	UUID string
}

// String returns the cursor as text: the id (325), or the time and the UUID.
func (c Cursor) String() string {
	if c.Time.IsZero() {
		return strconv.FormatInt(c.ID, 10)
	}
	return c.Time.UTC().Format(time.RFC3339Nano) + "/" + c.UUID
}

// ParseCursor reads a text that String returned.
func ParseCursor(text string) (Cursor, error) {
	moment, uuid, hasTime := strings.Cut(text, "/")
	if hasTime {
		parsed, err := time.Parse(time.RFC3339Nano, moment)
		if err != nil || parsed.IsZero() {
			return Cursor{}, errors.New("a cursor of Nautobot's change log must be <time>/<id>")
		}
		return Cursor{Time: parsed.UTC(), UUID: uuid}, nil
	}
	id, err := strconv.ParseInt(text, 10, 64)
	if err != nil || id < 0 {
		return Cursor{}, errors.New("a cursor of NetBox's change log must be the id of a row")
	}
	return Cursor{ID: id}, nil
}

// Compare returns -1, 0 or 1 as a cursor of the same log is before, at or after another.
func (c Cursor) Compare(other Cursor) int {
	switch {
	case c.ID < other.ID:
		return -1
	case c.ID > other.ID:
		return 1
	}
	if order := c.Time.Compare(other.Time); order != 0 {
		return order
	}
	return strings.Compare(c.UUID, other.UUID)
}
