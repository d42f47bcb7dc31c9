package notice

import (
	"fmt"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/events"

	"github.com/netbox-events/netbox-event-operator/internal/oneline"
)

// Recorder makes Kubernetes Events whose notes are one line that the API server takes: it refuses an Event with a longer one.
type Recorder struct{ events.EventRecorder }

// Eventf makes an Event.
func (r Recorder) Eventf(regarding, related runtime.Object, eventType, reason, action, note string, args ...any) {
	r.EventRecorder.Eventf(regarding, related, eventType, reason, action, "%s", oneline.Of(fmt.Sprintf(note, args...), oneline.NoteBytes))
}
