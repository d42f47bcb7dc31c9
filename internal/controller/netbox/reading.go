package netbox

import (
	"context"
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/netboxapi"
	"github.com/netbox-events/netbox-event-operator/internal/rule"
)

const (
	// pageRows is the number of rows to ask for at once.
	pageRows = 1000
	// batchSize is the number of changes that are processed at once, and whose objects are asked for together.
	batchSize = 50
	// maxWindowBytes bounds the states of objects that are kept until all rows of their changes are read.
	maxWindowBytes = 16 << 20
	// listFrom is the number of changes of one request from which on their events are listed instead of read one by one.
	listFrom = 4
	// typesTTL and unknownTypesTTL are how long the list of object types is used, the second if it lacks one.
	typesTTL, unknownTypesTTL = time.Hour, 10 * time.Minute
)

// result is how a turn of a reading ended.
type result int

const (
	resultFailed result = iota
	// resultUnfinished means that there is more to do.
	resultUnfinished
	// resultCongested means that live deliveries go first.
	resultCongested
	// resultUpToDate means that the end of the log was reached.
	resultUpToDate
)

// knownTypes are the object types of a NetBox.
type knownTypes struct {
	types map[string]netboxapi.ObjectType
	at    time.Time
	// endpoints are those that rows tell, for versions of NetBox whose object types do not.
	endpoints map[string]string
}

// findings are what a reading found.
type findings struct {
	stored, skipped, phantoms int
	first, firstSkipped       change
	firstPhantom              string
	// refused are the object types that the token may not read.
	refused map[string]bool
}

// acceptError is the error of a spec.accept that does not compile.
type acceptError struct{ err error }

// Error says what is wrong.
func (e *acceptError) Error() string { return e.err.Error() }

// reading is one turn of work on a change log.
type reading struct {
	*ChangeLog
	source   *v1alpha1.NetBoxSource
	backfill *v1alpha1.Backfill
	state    *logState
	api      *netboxapi.Client
	accept   *rule.Filter
	rules    []v1alpha1.NetBoxEventRule
	wanted   wanted
	deadline time.Time
}

func (c *ChangeLog) newReading(ctx context.Context, source *v1alpha1.NetBoxSource, state *logState) (*reading, error) {
	r := &reading{ChangeLog: c, source: source, backfill: source.Spec.NetBox.Backfill, state: state, deadline: c.Clock.Now().Add(sliceTime)}
	var err error
	if source.Spec.Accept != nil {
		if r.accept, err = c.Accept.Get(source); err != nil {
			return nil, &acceptError{fmt.Errorf("spec.accept does not compile: %w", err)}
		}
	}
	if r.api, err = c.Clients.For(ctx, source); err != nil {
		return nil, err
	}
	var rules v1alpha1.NetBoxEventRuleList
	if isFromRules(source) {
		if err := c.Cached.List(ctx, &rules, client.InNamespace(source.Namespace)); err != nil {
			return nil, err
		}
	}
	r.rules = rules.Items
	r.wanted = wantedOf(source, r.rules, state.types.types)
	return r, nil
}

// run works until the end of the log, the deadline, or congestion.
func (r *reading) run(ctx context.Context) (result, error) {
	if err := r.begin(ctx); err != nil {
		return resultFailed, err
	}
	for r.Clock.Now().Before(r.deadline) {
		window := r.state.window
		due := window.due(r.Clock.Now(), r.backfill.Lag.Duration, batchSize)
		switch {
		case len(due) > 0:
			if isCongested, err := r.process(ctx, due); err != nil || isCongested {
				r.trim()
				return resultCongested, err
			}
		case window.end.IsZero() && window.bytes() < maxWindowBytes:
			if err := r.readPage(ctx); err != nil {
				return resultFailed, err
			}
		case window.end.IsZero():
			if err := r.complete(ctx); err != nil {
				return resultFailed, err
			}
		default:
			if err := r.findPhantoms(ctx); err != nil {
				return resultFailed, err
			}
			r.trim()
			r.report()
			r.state.window = nil
			return resultUpToDate, nil
		}
		r.trim()
	}
	return resultUnfinished, nil
}

// readPage reads the next rows.
func (r *reading) readPage(ctx context.Context) error {
	window, before := r.state.window, r.Clock.Now()
	after := window.position
	isFirst := after == r.state.cursor && len(window.entries) == 0
	if isFirst && after.ID > 0 {
		after.ID-- // the row at the cursor shows that this is the log of which the cursor is
	}
	rows, more, err := r.api.Changes(ctx, after, pageRows)
	if err != nil {
		return err
	}
	if isFirst && len(rows) == 0 && window.position.ID > 0 {
		if isReset, err := r.checkReset(ctx); err != nil || isReset {
			return err
		}
	}
	added := window.add(rows)
	if !more {
		window.end = before
	}
	if len(added) == 0 {
		return nil
	}
	if err := r.learnTypes(ctx, rows); err != nil {
		return err
	}
	for _, found := range added {
		if r.state.sightings.take(found.changeKey) || r.state.settled[found.changeKey] {
			r.settle(found)
		} else if !r.wanted.wantsType(found.objectType) {
			found.settle()
		}
	}
	return nil
}

// learnTypes reads the object types if they are not known.
func (r *reading) learnTypes(ctx context.Context, rows []netboxapi.Row) error {
	known, now := &r.state.types, r.Clock.Now()
	isUnknown := false
	for i := range rows {
		row := &rows[i]
		if _, ok := known.types[row.ObjectType]; !ok {
			isUnknown = true
		}
		if endpoint, _, ok := strings.Cut(row.ObjectURL, "/"+row.ObjectID+"/"); ok && row.ObjectURL != "" {
			if known.endpoints == nil {
				known.endpoints = map[string]string{}
			}
			known.endpoints[row.ObjectType] = endpoint + "/"
		}
	}
	age := now.Sub(known.at)
	if known.types != nil && age < typesTTL && (!isUnknown || age < unknownTypesTTL) {
		return nil
	}
	types, err := r.api.ObjectTypes(ctx)
	if err != nil {
		return err
	}
	known.types, known.at = map[string]netboxapi.ObjectType{}, now
	for _, objectType := range types {
		known.types[objectType.Name] = objectType
	}
	r.wanted = wantedOf(r.source, r.rules, known.types)
	return nil
}

// endpoint returns the path of the list of objects of a type, "" if it is unknown.
func (k *knownTypes) endpoint(objectType string) string {
	if endpoint := k.types[objectType].Endpoint; endpoint != "" {
		return endpoint
	}
	return k.endpoints[objectType]
}

// complete reads all rows of the request of the oldest change, where too many rows are between them to keep.
func (r *reading) complete(ctx context.Context) error {
	window := r.state.window
	request := window.oldest().requestID
	rows, err := r.api.ChangesOf(ctx, request)
	if err != nil && netboxapi.KindOf(err) != netboxapi.KindTooLarge {
		return err
	}
	for _, whole := range fold(rows) {
		if found := window.changes[whole.changeKey]; found != nil && !found.isSettled {
			whole.last = found.last // of the rows in the window
			*found = *whole
		}
	}
	for _, found := range window.of(request) {
		found.isWhole = true
	}
	return nil
}

func (r *reading) settle(c *change) {
	r.state.settled[c.changeKey] = true
	c.settle()
}

// trim moves the cursor over what is settled and old enough.
func (r *reading) trim() {
	state := r.state
	if state.window == nil {
		return
	}
	trimmed := state.window.trim(r.Clock.Now().Add(-r.backfill.Lag.Duration - overlap))
	for _, entry := range trimmed {
		delete(state.settled, entry.change.changeKey)
		state.cursor, state.cursorTime = entry.cursor, entry.time
	}
}

// process settles changes. It reports whether it left some because live deliveries go first.
func (r *reading) process(ctx context.Context, due []*change) (isCongested bool, err error) {
	var missing []*change
	oldest := r.oldestWanted(r.Clock.Now())
	for _, c := range due {
		switch {
		case r.state.sightings.take(c.changeKey):
			r.settle(c)
		case !r.wanted.wantsEvent(c.event):
			c.settle()
		case c.time.Before(oldest):
			r.skip(c)
		default:
			if !c.isMissing && !c.isSettled {
				if err := r.find(ctx, c); err != nil {
					return false, err
				}
			}
			if c.isMissing {
				missing = append(missing, c)
			}
		}
	}
	if len(missing) == 0 {
		return false, nil
	}
	if r.isCongested() {
		return true, nil
	}
	objects, err := r.objects(ctx, missing)
	if err != nil {
		return false, err
	}
	for _, c := range missing {
		if err := r.create(ctx, c, objects[objectKey{c.objectType, c.objectID}]); err != nil {
			return false, err
		}
	}
	return false, nil
}

func (r *reading) skip(c *change) {
	if r.state.found.skipped == 0 {
		r.state.found.firstSkipped = c.summary()
	}
	r.state.found.skipped++
	r.settle(c)
}

// isCongested reports whether live deliveries go first.
func (r *reading) isCongested() bool {
	return meta.IsStatusConditionTrue(r.source.Status.Conditions, v1alpha1.ConditionBacklogFull) ||
		r.Pending(client.ObjectKeyFromObject(r.source)) > int(r.source.Spec.MaxPending)/2
}

// report makes the Kubernetes Events and log lines of a reading that is complete.
func (r *reading) report() {
	found := &r.state.found
	log := r.Log.WithValues("source", client.ObjectKeyFromObject(r.source).String())
	if found.stored > 0 {
		log.Info("changes of which no webhook came became events", "changes", found.stored, "first", found.first.String())
		r.warn(r.source, v1alpha1.EventMissedChanges,
			"%d changes of which no webhook came became events from NetBox's change log; the first is %s",
			found.stored, &found.first)
	}
	if found.skipped > 0 {
		log.Info("changes that are too old were skipped", "changes", found.skipped, "first", found.firstSkipped.String())
		r.warn(r.source, v1alpha1.EventChangesSkipped, "%d changes that may have no event were skipped, because they are older than "+
			"spec.netbox.backfill.maxAge, or than the oldest event that spec.retention.maxEvents keeps; the first is %s",
			found.skipped, &found.firstSkipped)
	}
	if found.phantoms > 0 {
		log.Info("events are not in the change log", "events", found.phantoms, "first", found.firstPhantom)
		r.warn(r.source, v1alpha1.EventPhantomEvents,
			"%d events are not in NetBox's change log, and were labeled %s: NetBox rolled their changes back; "+
				"the first is %s", found.phantoms, v1alpha1.LabelPhantom, found.firstPhantom)
	}
}
