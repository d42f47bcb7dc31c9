package netbox_test

import (
	"strings"
	"testing"

	"github.com/netbox-events/netbox-event-operator/test/netbox"
)

func TestFold(t *testing.T) {
	for actions, want := range map[string]string{
		"create":               "created",
		"update":               "updated",
		"delete":               "deleted",
		"create update update": "created",
		"update delete":        "deleted",
		"create delete":        "deleted",
		"delete update":        "deleted", // rows are in the order of their ids, which is not always that of the changes
	} {
		var rows []netbox.Row
		for action := range strings.FieldsSeq(actions) {
			row := netbox.Row{RequestID: "a", ObjectType: "dcim.site", ObjectID: 1}
			row.Action.Value = action
			rows = append(rows, row)
		}
		rows = append(rows, netbox.Row{RequestID: "a", ObjectType: "dcim.site", ObjectID: 2}, netbox.Row{RequestID: "b", ObjectType: "dcim.site", ObjectID: 1})
		changes := netbox.Fold(rows)
		if got := changes[rows[0].Key()]; got.Event != want || len(got.Rows) != len(rows)-2 || len(changes) != 3 {
			t.Errorf("%s: got %v, want %s", actions, changes, want)
		}
	}
}
