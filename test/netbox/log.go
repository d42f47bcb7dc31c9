package netbox

import (
	"context"
	"net/url"
	"time"
)

// Row is a row of NetBox's change log.
type Row struct {
	ID        int64  `json:"id"`
	RequestID string `json:"request_id"`
	// ObjectType is as in dcim.site.
	ObjectType string `json:"changed_object_type"`
	ObjectID   int64  `json:"changed_object_id"`
	Action     struct {
		// Value is create, update or delete.
		Value string `json:"value"`
	} `json:"action"`
	Time time.Time `json:"time"`
}

// Rows returns the whole change log, by ascending id.
func (c Client) Rows(ctx context.Context) ([]Row, error) {
	return list[Row](ctx, c, "core/object-changes/", url.Values{"omit": {"changed_object"}})
}

// Key identifies a change: NetBox sends at most one webhook for each.
type Key struct {
	RequestID  string
	ObjectType string
	ObjectID   int64
}

// Key returns the key of the row's change.
func (r Row) Key() Key { return Key{r.RequestID, r.ObjectType, r.ObjectID} }

// Change is all rows of one key.
type Change struct {
	// Event is created, updated or deleted, as in the change's webhook.
	Event string
	Rows  []Row
}

// Fold groups rows into changes. A change with a delete is deleted, else one with a create is created.
func Fold(rows []Row) map[Key]Change {
	changes := map[Key]Change{}
	for _, row := range rows {
		change := changes[row.Key()]
		change.Rows = append(change.Rows, row)
		switch {
		case row.Action.Value == "delete":
			change.Event = "deleted"
		case row.Action.Value == "create" && change.Event != "deleted":
			change.Event = "created"
		case change.Event == "":
			change.Event = "updated"
		}
		changes[row.Key()] = change
	}
	return changes
}
