package deliveries

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/netbox-events/netbox-event-operator/internal/netbox"
)

// bulkEdit names the recorded delivery of the first device of a bulk edit, PATCH /api/dcim/devices/.
const bulkEdit = "netbox-4.6.8/313"

// BulkEdit returns the deliveries of one bulk edit of n devices, made from a recorded one: they share its request id, and set the status of
// "Device 1" and so on, with the ids 1 and so on, from active to failed. Their timestamps are a millisecond apart.
func BulkEdit(n int) ([]Delivery, error) {
	all, err := All()
	if err != nil {
		return nil, err
	}
	at := slices.IndexFunc(all, func(delivery Delivery) bool { return delivery.String() == bulkEdit })
	recorded := all[at]
	first, err := netbox.Decode([]byte(recorded.Body), nil)
	if err != nil {
		return nil, err
	}
	timestamp := func(at time.Time) string { return at.Format("2006-01-02T15:04:05.000000-07:00") }
	deliveries := make([]Delivery, n)
	for i := range deliveries {
		id := strconv.Itoa(i + 1)
		delivery := recorded
		delivery.File, delivery.N = "bulk-edit", i+1
		delivery.Body = strings.NewReplacer(
			`"data": {"id": `+first.ObjectID+`,`, `"data": {"id": `+id+`,`,
			`/dcim/devices/`+first.ObjectID+`/`, `/dcim/devices/`+id+`/`,
			strconv.Quote(first.ObjectName), strconv.Quote("Device "+id),
			timestamp(first.Timestamp), timestamp(first.Timestamp.Add(time.Duration(i)*time.Millisecond)),
		).Replace(recorded.Body)
		delivery.Headers = slices.Clone(recorded.Headers)
		for at, header := range delivery.Headers {
			switch header[0] {
			case netbox.SignatureHeader:
				delivery.Headers[at][1] = netbox.Sign([]byte(*recorded.Key), []byte(delivery.Body))
			case "Content-Length":
				delivery.Headers[at][1] = strconv.Itoa(len(delivery.Body))
			}
		}
		deliveries[i] = delivery
	}
	return deliveries, nil
}
