package cli

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/follow"
	"github.com/netbox-events/netbox-event-operator/internal/oneline"
)

// streamEvents sends the events that a filter selects, and then each change, until the browser closes the connection. Each line is a
// uiMessage as JSON.
func (u *uiAPI) streamEvents(w http.ResponseWriter, r *http.Request) {
	selection, err := uiFilter(r)
	if err != nil {
		uiError(w, err)
		return
	}
	if err := u.api.List(r.Context(), &v1alpha1.NetBoxEventList{}, client.InNamespace(u.namespace), client.Limit(1)); err != nil {
		uiError(w, clusterError(err, "list", resourceEvents, u.namespace))
		return
	}
	w.Header().Set("Content-Type", "application/jsonl")
	stream := &uiStream{selection: selection, now: u.clock.Now, encoder: json.NewEncoder(w), flush: http.NewResponseController(w).Flush}
	ctx, cancel := context.WithCancel(r.Context())
	var flushing sync.WaitGroup
	flushing.Go(func() { stream.keepFlushing(ctx) })
	defer flushing.Wait()
	defer cancel()
	if err := mayWatch(ctx, u.api, u.namespace); err != nil {
		u.sendOnce(ctx, stream, err)
		return
	}
	follower := follow.Follower{
		Client: u.api, List: &v1alpha1.NetBoxEventList{}, Namespace: u.namespace, Selector: selection.selector(), PageSize: pageSize,
		Log: stream.log(),
	}
	follower.Run(ctx, stream)
}

// sendOnce sends a list that is not followed, and the reason.
func (u *uiAPI) sendOnce(ctx context.Context, stream *uiStream, reason error) {
	stream.Listing()
	events, err := stream.selection.list(ctx, u.api, u.namespace, u.clock.Now(), withoutPayload)
	for _, event := range events {
		stream.Seen(ctx, event)
	}
	stream.Listed()
	if err != nil {
		reason = err
	}
	stream.send(uiMessage{Error: reason.Error()})
}

// uiMessage is one of several messages about a list.
type uiMessage struct {
	// Listing begins a complete list, and Listed ends it: events that were not sent in between are gone.
	Listing bool `json:"listing,omitempty"`
	Listed  bool `json:"listed,omitempty"`
	// Row is an event that is new or changed.
	Row *uiRow `json:"row,omitempty"`
	// Gone is the UID of an event that was deleted, or is no longer selected.
	Gone string `json:"gone,omitempty"`
	// Warning says why the list may be old for a while.
	Warning string `json:"warning,omitempty"`
	// Error says why this is the last message.
	Error string `json:"error,omitempty"`
}

// uiStream writes messages, and flushes them from time to time.
type uiStream struct {
	selection filter
	now       func() time.Time

	mu      sync.Mutex // of all below
	encoder *json.Encoder
	flush   func() error
	isDirty bool
}

func (s *uiStream) send(message uiMessage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.encoder.Encode(message) // when the browser is gone, so is the context
	s.isDirty = true
}

// uiFlushInterval is how long a message may wait for others, which a page shows together.
const uiFlushInterval = 100 * time.Millisecond

// keepFlushing sends what was written, until ctx is done.
func (s *uiStream) keepFlushing(ctx context.Context) {
	ticker := time.NewTicker(uiFlushInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		s.mu.Lock()
		if s.isDirty {
			_ = s.flush()
			s.isDirty = false
		}
		s.mu.Unlock()
	}
}

// log returns a logger of what is a warning in the page.
func (s *uiStream) log() logr.Logger {
	return funcr.NewJSON(func(line string) {
		var entry struct{ Msg, Cause string }
		if json.Unmarshal([]byte(line), &entry) == nil {
			s.send(uiMessage{Warning: entry.Msg + ": " + entry.Cause})
		}
	}, funcr.Options{})
}

// Listing implements follow.Handler.
func (s *uiStream) Listing() { s.send(uiMessage{Listing: true}) }

// Listed implements follow.Handler.
func (s *uiStream) Listed() { s.send(uiMessage{Listed: true}) }

// Seen implements follow.Handler.
func (s *uiStream) Seen(_ context.Context, object client.Object) {
	event := object.(*v1alpha1.NetBoxEvent)
	if !s.selection.selects(event, s.now()) {
		s.Gone(object)
		return
	}
	s.send(uiMessage{Row: newUIRow(event)})
}

// Gone implements follow.Handler.
func (s *uiStream) Gone(object client.Object) { s.send(uiMessage{Gone: string(object.GetUID())}) }

// uiRow is an event in the list.
type uiRow struct {
	UID      string    `json:"uid"`
	Name     string    `json:"name"`
	Source   string    `json:"source"`
	Event    string    `json:"event"`
	Type     string    `json:"type"`
	Object   string    `json:"object"`
	User     string    `json:"user"`
	Branch   string    `json:"branch"`
	Changed  string    `json:"changed"`
	Phase    uiCell    `json:"phase"`
	Received time.Time `json:"received"`
	// Sent orders events that were received within a second: microseconds since 1970.
	Sent int64 `json:"sent"`
}

func newUIRow(event *v1alpha1.NetBoxEvent) *uiRow {
	spec, phase := &event.Spec, event.Status.Phase
	text := func(value string) string { return oneline.Of(value, maxCellBytes) }
	return &uiRow{
		UID: string(event.UID), Name: event.Name, Source: spec.SourceRef.Name, Event: text(spec.Event), Type: text(spec.ObjectType),
		Object: text(spec.ObjectName), User: text(spec.Username), Branch: text(spec.Branch), Changed: text(changedFields(spec)),
		Phase: uiCell{string(phase), tones[phaseColor(phase)]}, Received: spec.Delivery.ReceivedAt.UTC(), Sent: spec.Timestamp.UnixMicro(),
	}
}
