// Command netboxlive tests the operator with a real NetBox: the operator sets up its webhook, a driver makes changes, and what stands between
// them fails. At the end, the stored events must agree with NetBox's change log, and each change must have been acted on once. It prints a
// table.
package main

import (
	"context"
	"flag"
	"fmt"
	"strings"
	"time"

	"github.com/netbox-events/netbox-event-operator/test/fleet"
	"github.com/netbox-events/netbox-event-operator/test/fleet/figures"
)

// options are the flags.
type options struct {
	seed    uint64
	changes int
	late    time.Duration
	rest    time.Duration
	missed  int
}

func main() {
	var o options
	flag.Uint64Var(&o.seed, "seed", uint64(time.Now().UnixNano())%1000, "seed of the changes, and of the order of the faults; timing still varies between runs")
	flag.IntVar(&o.changes, "changes", 200, "requests to NetBox under faults; there are half as many in other phases")
	flag.DurationVar(&o.late, "late", 20*time.Second, "age of the changes whose webhooks come late, at least")
	flag.DurationVar(&o.rest, "rest", time.Minute, "time for which the operator's requests to NetBox are counted while nothing changes")
	flag.IntVar(&o.missed, "missed", 0, "changes made while the operator is down")
	flag.Parse()
	limit := 20*time.Minute + time.Duration(o.changes)*2*time.Second + o.late + o.rest + time.Duration(o.missed)*time.Second/4
	fleet.Main("netbox-test", limit, func(ctx context.Context) error { return run(ctx, o) })
}

func run(ctx context.Context, options options) (err error) {
	began := time.Now()
	s, err := start(ctx, options)
	if err != nil {
		return err
	}
	defer func() { err = s.end(err) }()
	s.result.Seed = options.seed
	for _, part := range []struct {
		name string
		run  func(context.Context) error
	}{
		{"Set-up, with a token of the least rights", s.setUp},
		{"Drift: what others change in NetBox is put right", s.drift},
		{"Changes while the leader, the API server and NetBox's worker fail", s.underFaults},
		{"Changes while the event rule is disabled and the worker is down: from the change log alone", s.withoutWebhooks},
		{"Webhooks that come after their events were made from the change log", s.lateWebhooks},
		{"Rotation of the signing key", s.rotation},
		{"Changes while the operator is down", s.whileDown},
		{"Everything comes to rest", s.settle},
		{"Comparison of events, change log and calls", s.compare},
		{"Requests to NetBox at rest", s.atRest},
		{"Deletion of the source", s.deletion},
	} {
		if err := phase(ctx, part.name, part.run); err != nil {
			return err
		}
	}
	if err := fleet.Table(rows(s.result)...); err != nil {
		return err
	}
	return fleet.Publish("netbox", began, s.fleet.Machine, s.promises, s.result)
}

func rows(r figures.NetBox) []string {
	rows := []string{
		fmt.Sprintf("from nothing to Receiving=True\t%.1f s", r.SetUpSeconds),
		fmt.Sprintf("fields put right\t%d", r.Drift),
		fmt.Sprintf("requests that change NetBox\t%d, %d of them rolled back, %d in the background", r.Requests, r.RolledBack, r.Background),
		"\t" + kinds(r.Kinds),
		fmt.Sprintf("rows in the change log\t%d", r.Rows),
		fmt.Sprintf("changes\t%d, %d of them wanted", r.Changes, r.Wanted),
		fmt.Sprintf("webhooks that came\t%d, %d answered with 200, %d of these as stored before", r.Webhooks, r.Answered, r.Duplicates),
		fmt.Sprintf("changes without a webhook\t%d", r.Lost),
		fmt.Sprintf("events\t%d by webhook, %d from the change log", r.ByWebhook, r.FromLog),
		fmt.Sprintf("events that are not in the change log\t%d, because they changed nothing", r.Unlogged),
		fmt.Sprintf("missed and phantoms in the status\t%d, %d", r.Missed, r.Phantoms),
		fmt.Sprintf("missing events\t%d", r.Missing),
		fmt.Sprintf("double events\t%d", r.Doubled),
		fmt.Sprintf("acted on once\t%d", r.Once),
		fmt.Sprintf("sent again after a kill\t%d", r.Again),
		fmt.Sprintf("acted on twice\t%d", r.Twice),
		fmt.Sprintf("not acted on\t%d", r.Unacted),
		fmt.Sprintf("confirmed and acted on\t%d; skipped %d", r.Confirmed, r.Skipped),
		fmt.Sprintf("lookups\t%d, %d of them of what is gone", r.Lookups, r.NullLookups),
		fmt.Sprintf("webhooks that came late\t%d; events equal to them: %d, %d of them with equal data", r.Late, r.Equal, r.EqualData),
		fmt.Sprintf("webhooks during the rotation of the key\t%d; refused %d", r.Rotation, r.Refused),
		fmt.Sprintf("requests to NetBox an hour at rest\t%.0f%s", r.RequestsPerHour, r.RequestKinds),
	}
	if r.WhileDown > 0 {
		rows = append(rows, fmt.Sprintf("changes while the operator was down\t%d, stored in %.1f s, acted on in %.1f s", r.WhileDown, r.StoredSeconds, r.ActedSeconds))
	}
	return rows
}

// kinds writes the number of requests by what they do, without the object types.
func kinds(counts map[string]int) string {
	sums := map[string]int{}
	for kind, count := range counts {
		sums[kind[:strings.LastIndex(kind, " ")]] += count
	}
	var texts []string
	for _, kind := range sortedKeys(sums) {
		texts = append(texts, fmt.Sprintf("%s %d", kind, sums[kind]))
	}
	return strings.Join(texts, ", ")
}
