package netbox

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/eventspec"
	"github.com/netbox-events/netbox-event-operator/internal/eventstore"
	"github.com/netbox-events/netbox-event-operator/internal/netbox"
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
	// acceptTimeout bounds the evaluation of a source's spec.accept.
	acceptTimeout = time.Second
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
	netbox   *netboxapi.Client
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
	if r.netbox, err = c.Clients.For(ctx, source); err != nil {
		return nil, err
	}
	var rules v1alpha1.NetBoxEventRuleList
	if webhook := source.Spec.NetBox.Webhook; webhook != nil && slices.Contains(webhook.ObjectTypes, v1alpha1.ObjectTypesFromRules) {
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

// begin finds out where to begin, unless a reading is in progress.
func (r *reading) begin(ctx context.Context) error {
	state, now := r.state, r.Clock.Now()
	status := r.source.Status.NetBox
	if state.cursorTime.IsZero() && status != nil && status.CursorTime != nil {
		state.cursor, state.cursorTime = netboxapi.Cursor{ID: status.Cursor}, status.CursorTime.Time
		if status.Cursor == 0 { // Nautobot, or a NetBox without any row
			state.cursor = netboxapi.Cursor{Time: status.CursorTime.UTC()}
		}
		state.since = status.BackfillSince
	}
	if state.cursorTime.IsZero() {
		if err := r.start(ctx, now); err != nil {
			return err
		}
	}
	value := sinceOf(r.source)
	if value == "" {
		state.sinceNote = ""
	} else if value != state.since {
		if err := r.rewind(ctx, value, now); err != nil {
			return err
		}
		state.window = nil
	}
	if state.window == nil {
		state.window, state.found = newWindow(state.cursor), findings{refused: map[string]bool{}}
	}
	return nil
}

// start sets the cursor of a source whose change log was never read.
func (r *reading) start(ctx context.Context, now time.Time) (err error) {
	at := now
	if from := r.backfill.From; from != nil && from.Time.Before(now) {
		at = from.Time
		r.state.cursor, err = r.netbox.FirstAfter(ctx, at)
	} else {
		r.state.cursor, err = r.netbox.Last(ctx)
	}
	if err != nil {
		return err
	}
	if r.state.cursor == (netboxapi.Cursor{}) {
		r.state.cursor.Time = at
	}
	r.state.cursorTime = at
	r.Log.Info("reading the change log", "source", client.ObjectKeyFromObject(r.source).String(), "after", r.state.cursor.String())
	return nil
}

// rewind sets the cursor back to the time of the annotation.
func (r *reading) rewind(ctx context.Context, value string, now time.Time) error {
	since, note := sinceTime(value, r.source, now)
	if !since.IsZero() && since.Before(r.state.cursorTime) {
		cursor, err := r.netbox.FirstAfter(ctx, since)
		if err != nil {
			return err
		}
		if cursor.Compare(r.state.cursor) < 0 {
			r.state.cursor, r.state.cursorTime = cursor, since
		}
	}
	r.state.since, r.state.sinceNote = value, note
	if note != "" {
		r.warn(r.source, "BackfillRefused", "%s", note)
	}
	return nil
}

// sinceTime returns the time of the annotation from which on the log is to be read, zero if it is refused, and what people should know.
func sinceTime(value string, source *v1alpha1.NetBoxSource, now time.Time) (since time.Time, note string) {
	since, err := time.Parse(time.RFC3339, value)
	oldest := now.Add(-shorterTTL(source))
	switch {
	case err != nil:
		return time.Time{}, fmt.Sprintf("the annotation %s is refused: it must be a time such as 2026-11-27T08:00:00Z, is %.40q",
			v1alpha1.AnnotationBackfillSince, value)
	case since.After(now):
		return time.Time{}, fmt.Sprintf("the annotation %s is refused: %s is in the future", v1alpha1.AnnotationBackfillSince, value)
	case since.Before(oldest):
		return oldest, fmt.Sprintf("the annotation %s goes back to %s instead of %s: retention deleted the events of earlier changes, which would be "+
			"stored again", v1alpha1.AnnotationBackfillSince, oldest.UTC().Format(time.RFC3339), value)
	}
	return since, ""
}

func shorterTTL(source *v1alpha1.NetBoxSource) time.Duration {
	return min(source.Spec.Retention.SucceededTTL.Duration, source.Spec.Retention.FailedTTL.Duration)
}

// oldestWanted returns the time of the oldest changes that may become events.
func (r *reading) oldestWanted(now time.Time) time.Time {
	oldest := now.Add(-r.backfill.MaxAge.Duration)
	if since, _ := sinceTime(sinceOf(r.source), r.source, now); !since.IsZero() && since.Before(oldest) {
		oldest = since
	}
	// Retention may have deleted the events of changes before its oldest event, but not of those that came since ChangeLog started.
	status, kept := &r.source.Status, time.Time{}
	if status.Events != nil && status.Oldest != nil && *status.Events >= int64(r.source.Spec.Retention.MaxEvents) {
		kept = earliest(status.Oldest.Time, r.state.startedAt)
	}
	if kept.After(oldest) {
		return kept
	}
	return oldest
}

// readPage reads the next rows.
func (r *reading) readPage(ctx context.Context) error {
	window, before := r.state.window, r.Clock.Now()
	after := window.position
	isFirst := after == r.state.cursor && len(window.entries) == 0
	if isFirst && after.ID > 0 {
		after.ID-- // the row at the cursor shows that this is the log of which the cursor is
	}
	rows, more, err := r.netbox.Changes(ctx, after, pageRows)
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

// checkReset looks for a NetBox that was restored from a backup: its newest row is older than the cursor. The reading then begins again, after
// the time of the cursor.
func (r *reading) checkReset(ctx context.Context) (bool, error) {
	newest, err := r.netbox.Last(ctx)
	if err != nil || newest.ID >= r.state.cursor.ID {
		return false, err
	}
	cursor, err := r.netbox.FirstAfter(ctx, r.state.cursorTime.Add(time.Microsecond))
	if err != nil {
		return false, err
	}
	r.warn(r.source, "ChangeLogReset", "the change log ends at row %d, and was read up to %d before: NetBox was restored from a backup, or the log "+
		"was emptied; it is read from row %d on", newest.ID, r.state.cursor.ID, cursor.ID)
	if cursor == (netboxapi.Cursor{}) {
		cursor.Time = r.state.cursorTime
	}
	r.state.cursor, r.state.window = cursor, newWindow(cursor)
	return true, nil
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
	types, err := r.netbox.ObjectTypes(ctx)
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
	rows, err := r.netbox.ChangesOf(ctx, request)
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
		r.state.found.firstSkipped = change{changeKey: c.changeKey, event: c.event, user: c.user, objectName: c.objectName, time: c.time}
	}
	r.state.found.skipped++
	r.settle(c)
}

// isCongested reports whether live deliveries go first.
func (r *reading) isCongested() bool {
	return meta.IsStatusConditionTrue(r.source.Status.Conditions, v1alpha1.ConditionBacklogFull) ||
		r.Pending(client.ObjectKeyFromObject(r.source)) > int(r.source.Spec.MaxPending)/2
}

// find finds out whether a change has an event, and, where its request made many changes, whether these have.
func (r *reading) find(ctx context.Context, c *change) error {
	same := r.state.window.of(c.requestID)
	if len(same) < listFrom {
		return r.get(ctx, c, c.eventName(r.source.UID))
	}
	list, err := r.Metadata.Resource(v1alpha1.SchemeGroupVersion.WithResource("netboxevents")).Namespace(r.source.Namespace).
		List(ctx, metav1.ListOptions{FieldSelector: fields.AndSelectors(
			fields.OneTermEqualSelector("spec.requestID", c.requestID), eventstore.OfSource(r.source.Name),
		).String()})
	if err != nil {
		return err
	}
	names := map[string]string{}
	for i := range list.Items {
		names[nameSuffix(list.Items[i].Name)] = list.Items[i].Name
	}
	var last *change
	var lastName string
	for _, c := range same {
		name, ok := names[nameSuffix(c.eventName(r.source.UID))]
		switch {
		case !ok:
			c.isMissing = true
		case last == nil:
			last, lastName = c, name
		default:
			r.settle(c)
		}
	}
	if last == nil {
		return nil
	}
	return r.get(ctx, last, lastName) // tells how it came
}

// get finds out whether an event of a change exists, and came by webhook.
func (r *reading) get(ctx context.Context, c *change, name string) error {
	event, err := r.Events.Get(ctx, r.source.Namespace, name)
	if apierrors.IsNotFound(err) {
		c.isMissing = true
		return nil
	}
	if err != nil {
		return err
	}
	if event.Spec.Delivery.Origin != v1alpha1.OriginChangeLog {
		r.state.sightings.arrived(event.Spec.Delivery.ReceivedAt.Time)
	}
	r.settle(c)
	return nil
}

// readObject is an object of the API, and when it was read.
type readObject struct {
	data json.RawMessage
	at   time.Time
}

// objects reads the objects of changes as they are now. What is gone, or may not be read, is missing.
func (r *reading) objects(ctx context.Context, changes []*change) (map[objectKey]readObject, error) {
	ids := map[string][]string{}
	for _, c := range changes {
		if c.event != eventDeleted && !slices.Contains(ids[c.objectType], c.objectID) {
			ids[c.objectType] = append(ids[c.objectType], c.objectID)
		}
	}
	objects, state := map[objectKey]readObject{}, r.state
	for _, objectType := range slices.Sorted(maps.Keys(ids)) {
		endpoint := state.types.endpoint(objectType)
		if endpoint == "" || state.found.refused[objectType] {
			continue
		}
		at := r.Clock.Now()
		read, err := r.netbox.Objects(ctx, endpoint, ids[objectType])
		switch netboxapi.KindOf(err) {
		case netboxapi.KindForbidden, netboxapi.KindNotFound, netboxapi.KindWrongURL, netboxapi.KindInvalid, netboxapi.KindTooLarge:
			state.found.refused[objectType], state.unreadable[objectType] = true, err.Error()
			continue
		}
		if err != nil {
			return nil, err
		}
		for id, object := range read {
			objects[objectKey{objectType, id}] = readObject{relativeLinks(object), at}
		}
		if r.isHidden(objectType, ids[objectType], read) {
			state.unreadable[objectType] = "the token lacks the permission view on some of them in NetBox, or they were just deleted"
		} else if len(read) > 0 {
			delete(state.unreadable, objectType)
		}
	}
	return objects, nil
}

// isHidden reports whether objects were not found whose deletion is not in the log.
func (r *reading) isHidden(objectType string, ids []string, read map[string]json.RawMessage) bool {
	window := r.state.window
	return !window.end.IsZero() && slices.ContainsFunc(ids, func(id string) bool {
		return read[id] == nil && !window.deleted[objectKey{objectType, id}]
	})
}

// create creates the event of a change.
func (r *reading) create(ctx context.Context, c *change, object readObject) error {
	event, err := r.event(c, object)
	if err != nil {
		r.pass(c, err)
		return nil
	}
	if r.accept != nil && !r.accepts(ctx, event) {
		r.settle(c)
		return nil
	}
	if err := r.state.creations.Wait(ctx); err != nil {
		return err
	}
	err = r.Events.Create(ctx, event)
	switch {
	case apierrors.IsAlreadyExists(err):
	case err == nil:
		r.stored(c)
	case eventstore.IsTooLarge(err) || apierrors.IsInvalid(err) || apierrors.IsBadRequest(err):
		r.pass(c, err)
	default:
		return err
	}
	r.settle(c)
	return nil
}

// pass passes over a change that can never be stored.
func (r *reading) pass(c *change, err error) {
	r.Log.Info("a change cannot be stored as an event", "source", client.ObjectKeyFromObject(r.source).String(), "change", c.String(),
		"cause", err.Error())
	r.warn(r.source, "ChangeNotStored", "%s cannot be stored as an event: %v", c, err)
	r.settle(c)
}

// event builds the event of a change, as the receiver would of its webhook.
func (r *reading) event(c *change, object readObject) (*v1alpha1.NetBoxEvent, error) {
	data, err := object.data, error(nil)
	if data == nil {
		if data, err = c.data(r.state.types.endpoint(c.objectType)); err != nil {
			return nil, err
		}
	}
	body, err := c.body(data)
	if err != nil {
		return nil, err
	}
	decoded, err := netbox.Decode(body, r.source.Spec.Redact)
	if err != nil {
		return nil, err
	}
	return eventspec.New(decoded, eventspec.Delivery{
		Source: r.source, Origin: v1alpha1.OriginChangeLog, BodyBytes: len(body), ReceivedAt: r.Clock.Now(), DataReadAt: object.at,
	}), nil
}

// accepts reports whether an event passes the spec.accept of its source, as in the receiver.
func (r *reading) accepts(ctx context.Context, event *v1alpha1.NetBoxEvent) bool {
	ctx, cancel := context.WithTimeout(ctx, acceptTimeout)
	defer cancel()
	accepted, err := r.accept.Match(ctx, event, rule.NewInput(event, event.Spec.Delivery.ReceivedAt.Time))
	return accepted || err != nil
}

func (r *reading) stored(c *change) {
	r.state.missed++
	r.state.storedTotal++
	r.Metrics.missed.WithLabelValues(client.ObjectKeyFromObject(r.source).String()).Inc()
	r.state.sightings.miss(c)
	if r.state.found.stored == 0 {
		r.state.found.first = change{changeKey: c.changeKey, event: c.event, user: c.user, objectName: c.objectName, time: c.time}
	}
	r.state.found.stored++
}

// report makes the Kubernetes Events and log lines of a reading that is complete.
func (r *reading) report() {
	found := &r.state.found
	log := r.Log.WithValues("source", client.ObjectKeyFromObject(r.source).String())
	if found.stored > 0 {
		log.Info("changes of which no webhook came became events", "changes", found.stored, "first", found.first.String())
		r.warn(r.source, "MissedChanges", "%d changes of which no webhook came became events from NetBox's change log; the first is %s",
			found.stored, &found.first)
	}
	if found.skipped > 0 {
		log.Info("changes that are too old were skipped", "changes", found.skipped, "first", found.firstSkipped.String())
		r.warn(r.source, "ChangesSkipped", "%d changes that may have no event were skipped, because they are older than spec.netbox.backfill.maxAge, "+
			"or than the oldest event that spec.retention.maxEvents keeps; the first is %s", found.skipped, &found.firstSkipped)
	}
	if found.phantoms > 0 {
		log.Info("events are not in the change log", "events", found.phantoms, "first", found.firstPhantom)
		r.warn(r.source, "PhantomEvents", "%d events are not in NetBox's change log, and were labeled %s: NetBox rolled their changes back; the first is %s",
			found.phantoms, v1alpha1.LabelPhantom, found.firstPhantom)
	}
}
