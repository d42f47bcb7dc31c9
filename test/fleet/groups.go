package fleet

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

// GroupSink receives groups of events as CloudEvents.
type GroupSink struct {
	server *http.Server
	url    string

	mu       sync.Mutex
	groups   map[string]map[string]bool // ids of groups, by the name of an event
	calls    int
	disorder int // calls with events in the wrong order
}

// NewGroupSink returns a sink that accepts every request.
func NewGroupSink(ctx context.Context) (*GroupSink, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.2:0")
	if err != nil {
		return nil, err
	}
	s := &GroupSink{groups: map[string]map[string]bool{}, url: "http://" + listener.Addr().String()}
	s.server = &http.Server{Handler: s, ReadHeaderTimeout: time.Minute}
	go func() { _ = s.server.Serve(listener) }()
	return s, nil
}

// Close ends it.
func (s *GroupSink) Close() { _ = s.server.Close() }

func (s *GroupSink) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var group struct {
		ID   string
		Data struct {
			Events []struct {
				ID   string
				Time time.Time
			}
		}
	}
	if err := json.NewDecoder(r.Body).Decode(&group); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	for i, event := range group.Data.Events {
		if s.groups[event.ID] == nil {
			s.groups[event.ID] = map[string]bool{}
		}
		s.groups[event.ID][group.ID] = true
		if i > 0 && event.Time.Before(group.Data.Events[i-1].Time) {
			s.disorder++
		}
	}
}

// Compare returns the number of requests, of the given events (namespace/name) that came in no group, of those that came in several, and of
// requests with events that were not in NetBox's order.
func (s *GroupSink) Compare(names map[string]string) (calls, missing, several, disorder int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range names {
		switch groups := len(s.groups[name[len(Namespace)+1:]]); {
		case groups == 0:
			missing++
		case groups > 1:
			several++
		}
	}
	return s.calls, missing, several, s.disorder
}

// CreateGroupRule creates a rule that sends the events of each NetBox object to a sink in groups.
func (f *Fleet) CreateGroupRule(ctx context.Context, sink *GroupSink, retry v1alpha1.Retry) error {
	rule := &v1alpha1.NetBoxEventRule{ObjectMeta: metav1.ObjectMeta{Namespace: Namespace, Name: "groups"}}
	rule.Spec.Retry = retry
	rule.Spec.Group = &v1alpha1.Group{
		By: v1alpha1.GroupByObject, Quiet: metav1.Duration{Duration: 2 * time.Second}, MaxWait: metav1.Duration{Duration: 8 * time.Second},
	}
	rule.Spec.Actions = []v1alpha1.Action{{Name: "send", HTTP: &v1alpha1.HTTPAction{URL: sink.url}}}
	return f.create(ctx, rule)
}
