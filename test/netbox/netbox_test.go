package netbox_test

import (
	"context"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/netbox-events/netbox-event-operator/test/netbox"
)

// webhook is what a test looks at in a webhook.
type webhook struct {
	Event      string
	ObjectType string `json:"object_type"`
	Data       struct{ ID int64 }
	Request    struct{ ID string }
	Snapshots  struct{ Prechange, Postchange map[string]any }
}

// changesNothing compares the object before and after the change.
func (w webhook) changesNothing() bool {
	delete(w.Snapshots.Prechange, "last_updated")
	delete(w.Snapshots.Postchange, "last_updated")
	return reflect.DeepEqual(w.Snapshots.Prechange, w.Snapshots.Postchange)
}

// receiver stores webhooks by the key of their change.
type receiver struct {
	mu       sync.Mutex
	webhooks map[netbox.Key][]webhook
}

func (r *receiver) ServeHTTP(_ http.ResponseWriter, request *http.Request) {
	var received webhook
	text, err := io.ReadAll(request.Body)
	if err == nil {
		err = json.Unmarshal(text, &received)
	}
	if err != nil {
		panic(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	key := netbox.Key{RequestID: received.Request.ID, ObjectType: received.ObjectType, ObjectID: received.Data.ID}
	r.webhooks[key] = append(r.webhooks[key], received)
}

// all returns the webhooks so far.
func (r *receiver) all() map[netbox.Key][]webhook {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.webhooks)
}

// start starts a NetBox whose webhooks go to the receiver.
func start(t *testing.T) (*netbox.NetBox, *receiver) {
	t.Helper()
	if os.Getenv("NETBOX_LIVE") == "" {
		t.Skip("set NETBOX_LIVE=1 to test with a real NetBox")
	}
	n, err := netbox.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Stop(); err != nil {
			t.Error(err)
		}
	})
	received := &receiver{webhooks: map[netbox.Key][]webhook{}}
	server := httptest.NewServer(received)
	t.Cleanup(server.Close)
	if err := n.Subscribe(t.Context(), "test", server.URL, ""); err != nil {
		t.Fatal(err)
	}
	return n, received
}

// TestChangeLog checks that each change has one webhook, and rows in the change log that fold to the same event. Only an update that
// changes nothing has no row, and only object types without event rules have no webhook.
func TestChangeLog(t *testing.T) {
	n, received := start(t)
	changes := netbox.NewChanges(n.Client, 1)
	changes.Background = true
	if err := changes.Run(t.Context(), 200); err != nil {
		t.Fatal(err)
	}
	drain(t, n)
	requests := map[string]netbox.Request{}
	for _, request := range changes.Requests {
		requests[request.ID] = request
	}
	logged, webhooks := changeLog(t, n), received.all()
	t.Logf("%d changes in the change log, %d in webhooks, requests: %v", len(logged), len(webhooks), changes.Counts())

	for key, change := range logged {
		request, ok := requests[key.RequestID]
		switch sent := webhooks[key]; {
		case !ok || key.ObjectType == "dcim.portmapping": // no request of the changes, or no object type with event rules
		case request.Outcome == netbox.RolledBack:
			t.Errorf("the change log has %v of a request that was rolled back: %s", key, request.Kind)
		case len(sent) != 1 || sent[0].Event != change.Event:
			t.Errorf("%v is %s in the change log of %s, its webhooks are %v", key, change.Event, request.Kind, sent)
		}
	}
	for key, sent := range webhooks {
		request := requests[key.RequestID]
		_, ok := logged[key]
		switch {
		case request.Outcome == netbox.RolledBack:
			t.Errorf("webhooks were sent of a request that was rolled back: %s: %v", request.Kind, sent)
		case !ok && (sent[0].Event != "updated" || !sent[0].changesNothing()):
			t.Errorf("%v has no row in the change log of %s, its webhooks are %v", key, request.Kind, sent)
		}
	}
}

// TestLoss checks that webhooks can be lost, that the change log has their changes all the same, and that webhooks are sent again then.
func TestLoss(t *testing.T) {
	n, received := start(t)
	changes := netbox.NewChanges(n.Client, 2)
	nothing := func(context.Context) error { return nil }
	restart := func(ctx context.Context) error {
		if err := n.FlushQueue(ctx); err != nil {
			return err
		}
		return n.StartWorker(ctx)
	}
	tests := []struct {
		name          string
		before, after func(context.Context) error
		lost          bool
	}{
		{name: "the worker ends and the queue is lost", before: n.StopWorker, after: restart, lost: true},
		{name: "the new worker sends", before: nothing, after: nothing},
		{name: "webhooks are paused", before: n.PauseWebhooks, after: n.ResumeWebhooks, lost: true},
		{name: "webhooks are sent again", before: nothing, after: nothing},
	}
	for _, test := range tests {
		first := len(changes.Requests)
		err := test.before(t.Context())
		if err == nil {
			err = changes.Run(t.Context(), 10)
		}
		if err == nil {
			err = test.after(t.Context())
		}
		if err != nil {
			t.Fatalf("%s: %v", test.name, err)
		}
		drain(t, n)
		logged, webhooks := changeLog(t, n), received.all()
		var rows int
		for _, request := range changes.Requests[first:] {
			for key := range logged {
				if key.RequestID != request.ID {
					continue
				}
				rows++
				if (len(webhooks[key]) == 0) != test.lost {
					t.Errorf("%s: %s has webhooks %v", test.name, request.Kind, webhooks[key])
				}
			}
		}
		if rows == 0 {
			t.Errorf("%s: no change has a row in the change log", test.name)
		}
	}
}

// TestTokenWith checks that a token has its permissions only, in both versions.
func TestTokenWith(t *testing.T) {
	n, _ := start(t)
	v1, v2, err := n.TokenWith(t.Context(), netbox.Permission{Actions: []string{"view"}, ObjectTypes: []string{"core.objectchange"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, token := range []string{v1, v2, n.V2Token} {
		client := netbox.Client{URL: n.URL, Token: token}
		if _, err := client.Rows(t.Context()); err != nil {
			t.Error(err)
		}
		if err := client.Do(t.Context(), http.MethodGet, "dcim/sites/", nil, nil); (err == nil) != (token == n.V2Token) {
			t.Errorf("sites with token %s: %v", token, err)
		}
	}
}

func drain(t *testing.T, n *netbox.NetBox) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	if err := n.Drain(ctx); err != nil {
		t.Fatal(err)
	}
}

func changeLog(t *testing.T, n *netbox.NetBox) map[netbox.Key]netbox.Change {
	t.Helper()
	rows, err := n.Rows(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return netbox.Fold(rows)
}
