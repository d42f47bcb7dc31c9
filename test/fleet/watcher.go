package fleet

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/follow"
)

// Watcher observes through the API when each event is finished, and whether one becomes unfinished afterwards. See Fleet.Watch.
type Watcher struct {
	mu         sync.Mutex
	completed  map[types.UID]string // the completion times of those that are finished
	finished   map[string]time.Time // when that was seen first, by request id
	unfinished map[types.UID]string // the observation of each
}

// Watch watches the events until ctx is done. Transitions that the watch misses during an outage of the API server show in the completion time.
func (f *Fleet) Watch(ctx context.Context) *Watcher {
	w := &Watcher{completed: map[types.UID]string{}, finished: map[string]time.Time{}, unfinished: map[types.UID]string{}}
	follower := follow.Follower{
		Client: f.Plane.Client, List: &v1alpha1.NetBoxEventList{}, Namespace: Namespace, Selector: fields.Everything(), PageSize: 500,
		Log: logr.Discard(),
	}
	go follower.Run(ctx, follow.SeenFunc(func(object client.Object) { w.seen(object.(*v1alpha1.NetBoxEvent)) }))
	return w
}

func (w *Watcher) seen(event *v1alpha1.NetBoxEvent) {
	w.mu.Lock()
	defer w.mu.Unlock()
	isFinished := event.Status.Phase == v1alpha1.PhaseSucceeded || event.Status.Phase == v1alpha1.PhaseFailed
	completion := ""
	if event.Status.CompletionTime != nil {
		completion = event.Status.CompletionTime.String()
	}
	before, wasFinished := w.completed[event.UID]
	switch {
	case event.Annotations[v1alpha1.AnnotationReplay] != "": // a replay was requested
	case wasFinished && !isFinished:
		w.unfinished[event.UID] = fmt.Sprintf("%s was finished at %s, and is %s", event.Name, before, event.Status.Phase)
	case wasFinished && before != completion:
		w.unfinished[event.UID] = fmt.Sprintf("%s was finished at %s, and again at %s", event.Name, before, completion)
	}
	if !isFinished {
		return
	}
	w.completed[event.UID] = completion
	if _, known := w.finished[event.Spec.RequestID]; !known {
		w.finished[event.Spec.RequestID] = time.Now()
	}
}

// Finished is when each event was seen to be finished, by request id. It was finished before.
func (w *Watcher) Finished() map[string]time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.finished)
}

// Unfinished describes each event that was finished, and then was not, or was finished again without a replay.
func (w *Watcher) Unfinished() (all []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, seen := range w.unfinished {
		all = append(all, seen)
	}
	return all
}
