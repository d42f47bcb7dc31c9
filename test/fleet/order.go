package fleet

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

// Disorder has the events that a sink received out of order, each with its observations.
//
// The order is that of NetBox's timestamps among the events of one object. A pair only counts if the earlier event was in the cluster before the
// later one: the operator cannot wait for an event that has not arrived.
type Disorder struct {
	// Overtaken events arrived first after a later event of their object.
	Overtaken []string
	// Late events arrived again after a later event of their object was observed to be finished.
	Late []string
	// Objects is the number of objects with several events, which have an order.
	Objects int
}

// placed is an event with its position in the order.
type placed struct {
	name               string
	timestamp, receipt time.Time
	revision           int64     // at which it came into the cluster
	first              int       // its place among the arrivals, -1 for none
	came               time.Time // when it arrived,
	last               time.Time // and when it did again; zero for never
	finished           time.Time // zero where that was not seen
}

func (e *placed) compare(other *placed) int {
	return cmp.Or(e.timestamp.Compare(other.timestamp), e.receipt.Compare(other.receipt), strings.Compare(e.name, other.name))
}

// String returns the times of its arrivals and its completion.
func (e *placed) String() string {
	const layout = "15:04:05.000"
	text := fmt.Sprintf("%s (revision %d; received %s, came %s", e.name, e.revision, e.receipt.Local().Format(layout), e.came.Format(layout))
	if !e.last.IsZero() {
		text += e.last.Format(", again " + layout)
	}
	if !e.finished.IsZero() {
		text += e.finished.Format(", seen finished " + layout)
	}
	return text + ")"
}

// Disorder compares the arrivals at a sink with the order of the events in the cluster. If watcher is nil, no event is Late.
func (f *Fleet) Disorder(ctx context.Context, sink *Sink, watcher *Watcher) (found Disorder, err error) {
	revisions, err := f.revisions(ctx)
	if err != nil {
		return found, err
	}
	var finished map[string]time.Time
	if watcher != nil {
		finished = watcher.Finished()
	}
	first, last := map[string]int{}, map[string]time.Time{}
	arrivals := sink.Arrivals()
	for i, arrival := range arrivals {
		if _, known := first[arrival.RequestID]; !known {
			first[arrival.RequestID] = i
		} else {
			last[arrival.RequestID] = arrival.At // when it was given again
		}
	}
	objects := map[string][]*placed{}
	err = f.eachEvent(ctx, func(event *v1alpha1.NetBoxEvent) {
		spec, e := &event.Spec, &placed{name: event.Name, revision: revisions[event.Name], first: -1}
		e.timestamp, e.receipt = spec.Timestamp.Time, spec.Delivery.ReceivedAt.Time
		if at, taken := first[spec.RequestID]; taken {
			e.first, e.came = at, arrivals[at].At
		}
		e.last, e.finished = last[spec.RequestID], finished[spec.RequestID]
		object := spec.ObjectType + " " + spec.ObjectID
		objects[object] = append(objects[object], e)
	})
	for object, events := range objects {
		if len(events) > 1 {
			found.Objects++
			found.compare(object, events)
		}
	}
	return found, err
}

// compare adds the events of an object that are out of order.
func (d *Disorder) compare(object string, events []*placed) {
	slices.SortFunc(events, (*placed).compare)
	for i, e := range events {
		overtaken, late := false, false
		for _, later := range events[i+1:] {
			if e.first < 0 || later.first < 0 || e.revision > later.revision { // whether all were delivered is another question
				continue
			}
			overtakes := later.first < e.first
			if overtakes && !overtaken {
				d.Overtaken = append(d.Overtaken, fmt.Sprintf("%s: %s came after %s", object, e, later))
			}
			isLate := !e.last.IsZero() && !later.finished.IsZero() && later.finished.Before(e.last)
			if isLate && !late {
				d.Late = append(d.Late, fmt.Sprintf("%s: %s came again after %s", object, e, later))
			}
			overtaken, late = overtaken || overtakes, late || isLate
		}
	}
}

// revisions returns the revision at which each event came into the cluster, by its name. Only etcd knows.
func (f *Fleet) revisions(ctx context.Context) (map[string]int64, error) {
	const prefix, page = "/registry/netbox-events.io/netboxevents/" + Namespace + "/", 10_000
	end := prefix[:len(prefix)-1] + "0" // the byte after the slash
	revisions := map[string]int64{}
	for from := prefix; ; {
		text, err := f.etcd(ctx, http.MethodPost, "/v3/kv/range", fmt.Sprintf(`{"key":%q,"range_end":%q,"keys_only":true,"limit":%d}`,
			base64.StdEncoding.EncodeToString([]byte(from)), base64.StdEncoding.EncodeToString([]byte(end)), page))
		if err != nil {
			return nil, err
		}
		var answer struct {
			KVs []struct {
				Key      []byte
				Revision string `json:"create_revision"`
			}
			More bool
		}
		if err := json.Unmarshal(text, &answer); err != nil {
			return nil, err
		}
		for _, kv := range answer.KVs {
			revision, err := strconv.ParseInt(kv.Revision, 10, 64)
			if err != nil {
				return nil, err
			}
			revisions[strings.TrimPrefix(string(kv.Key), prefix)] = revision
			from = string(kv.Key) + "\x00"
		}
		if !answer.More || len(answer.KVs) == 0 {
			return revisions, nil
		}
	}
}
