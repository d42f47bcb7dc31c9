package netbox_test

import (
	"context"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/netbox-events/netbox-event-operator/test/netbox"
)

// receiver stores the events of webhooks, by the key of their change.
type receiver struct {
	mu     sync.Mutex
	events map[netbox.Key][]string
}

func (r *receiver) ServeHTTP(_ http.ResponseWriter, request *http.Request) {
	var webhook struct {
		Event      string
		ObjectType string `json:"object_type"`
		Data       struct{ ID int64 }
		Request    struct{ ID string }
	}
	text, err := io.ReadAll(request.Body)
	if err == nil {
		err = json.Unmarshal(text, &webhook)
	}
	if err != nil {
		panic(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	key := netbox.Key{RequestID: webhook.Request.ID, ObjectType: webhook.ObjectType, ObjectID: webhook.Data.ID}
	r.events[key] = append(r.events[key], webhook.Event)
}

// start starts a NetBox whose webhooks go to the receiver.
func start(t *testing.T) (*netbox.NetBox, *receiver) {
	t.Helper()
	if os.Getenv("NETBOX_LIVE") == "" {
		t.Skip("set NETBOX_LIVE=1 to test with a real NetBox")
	}
	started := time.Now()
	n, err := netbox.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Stop(); err != nil {
			t.Error(err)
		}
	})
	t.Logf("NetBox started in %s", time.Since(started).Round(time.Second))
	received := &receiver{events: map[netbox.Key][]string{}}
	server := httptest.NewServer(received)
	t.Cleanup(server.Close)
	if err := n.Subscribe(t.Context(), "test", server.URL, ""); err != nil {
		t.Fatal(err)
	}
	return n, received
}

// TestChangeLog compares the change log with the webhooks of the same changes.
func TestChangeLog(t *testing.T) {
	n, received := start(t)
	changes := netbox.NewChanges(n.Client, 1)
	changes.Background = true
	started := time.Now()
	if err := changes.Run(t.Context(), 200); err != nil {
		t.Fatal(err)
	}
	t.Logf("200 requests in %s", time.Since(started).Round(time.Second))
	drain(t, n)
	t.Logf("webhooks sent after %s", time.Since(started).Round(time.Second))

	rows, err := n.Rows(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	requests := map[string]netbox.Request{}
	for _, request := range changes.Requests {
		requests[request.ID] = request
	}
	logged := netbox.Fold(rows)
	t.Logf("%d rows, %d changes, %d webhooks of %d keys", len(rows), len(logged), count(received.events), len(received.events))
	for _, kind := range slices.Sorted(maps.Keys(changes.Counts())) {
		t.Logf("%4d %s", changes.Counts()[kind], kind)
	}
	exceptions := map[string]int{}
	for key, change := range logged {
		request := requests[key.RequestID]
		switch events := received.events[key]; {
		case request.ID == "": // the test's own webhook and event rule
		case request.Outcome == netbox.RolledBack:
			t.Errorf("the change log has %v of a request that was rolled back: %v", key, request.Kind)
		case len(events) == 0:
			exceptions["row without a webhook: "+key.ObjectType+" in "+request.Kind]++
		case len(events) > 1 || events[0] != change.Event:
			t.Errorf("%v in %s: the change log has %s, the webhooks are %v", key, request.Kind, change.Event, events)
		}
	}
	for key, events := range received.events {
		if _, ok := logged[key]; !ok {
			exceptions["webhook without a row: "+strings.Join(events, ",")+" "+key.ObjectType+" in "+requests[key.RequestID].Kind]++
		}
	}
	for _, exception := range slices.Sorted(maps.Keys(exceptions)) {
		t.Logf("%4d %s", exceptions[exception], exception)
	}
}

// TestLoss checks that the helpers lose webhooks, and that the change log has their changes all the same.
func TestLoss(t *testing.T) {
	n, received := start(t)
	changes := netbox.NewChanges(n.Client, 2)
	lose := func(name string, before, after func(context.Context) error) {
		if err := before(t.Context()); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		first := len(changes.Requests)
		if err := changes.Run(t.Context(), 10); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := after(t.Context()); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		drain(t, n)
		for key := range received.events {
			if slices.ContainsFunc(changes.Requests[first:], func(r netbox.Request) bool { return r.ID == key.RequestID }) {
				t.Errorf("%s: received %v", name, key)
			}
		}
		rows, err := n.Rows(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, request := range changes.Requests[first:] {
			if request.Outcome == netbox.Committed && !strings.HasPrefix(request.Kind, "empty") &&
				!slices.ContainsFunc(rows, func(row netbox.Row) bool { return row.RequestID == request.ID }) {
				t.Errorf("%s: the change log has no row of %v", name, request)
			}
		}
	}
	lose("worker ends, queue is lost", n.StopWorker, func(ctx context.Context) error {
		if err := n.FlushQueue(ctx); err != nil {
			return err
		}
		return n.StartWorker(ctx)
	})
	lose("webhooks are paused", n.PauseWebhooks, n.ResumeWebhooks)
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

func count(events map[netbox.Key][]string) (n int) {
	for _, of := range events {
		n += len(of)
	}
	return n
}
