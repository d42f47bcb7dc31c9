package netbox

import (
	"context"
	"fmt"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/netboxapi"
)

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
		r.state.cursor, err = r.api.FirstAfter(ctx, at)
	} else {
		r.state.cursor, err = r.api.Last(ctx)
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
		cursor, err := r.api.FirstAfter(ctx, since)
		if err != nil {
			return err
		}
		if cursor.Compare(r.state.cursor) < 0 {
			r.state.cursor, r.state.cursorTime = cursor, since
		}
	}
	r.state.since, r.state.sinceNote = value, note
	if note != "" {
		r.warn(r.source, v1alpha1.EventBackfillRefused, "%s", note)
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
		return oldest, fmt.Sprintf("the annotation %s goes back to %s instead of %s: retention deleted the events of earlier changes, "+
			"which would be stored again", v1alpha1.AnnotationBackfillSince, oldest.UTC().Format(time.RFC3339), value)
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

// checkReset looks for a NetBox that was restored from a backup: its newest row is older than the cursor. The reading then begins again,
// after the time of the cursor.
func (r *reading) checkReset(ctx context.Context) (bool, error) {
	newest, err := r.api.Last(ctx)
	if err != nil || newest.ID >= r.state.cursor.ID {
		return false, err
	}
	cursor, err := r.api.FirstAfter(ctx, r.state.cursorTime.Add(time.Microsecond))
	if err != nil {
		return false, err
	}
	r.warn(r.source, v1alpha1.EventChangeLogReset,
		"the change log ends at row %d, and was read up to %d before: NetBox was restored from a backup, or "+
			"the log was emptied; it is read from row %d on", newest.ID, r.state.cursor.ID, cursor.ID)
	if cursor == (netboxapi.Cursor{}) {
		cursor.Time = r.state.cursorTime
	}
	r.state.cursor, r.state.window = cursor, newWindow(cursor)
	return true, nil
}
