//go:build e2e

package e2e

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/netbox-events/netbox-event-operator/internal/netbox"
	"github.com/netbox-events/netbox-event-operator/test/deliveries"
)

// answer is the receiver's answer, with the route.
type answer struct {
	Result string `json:"result"`
	Event  string `json:"event"`

	status int
	text   string
}

// way is a route from outside to the receiver.
type way struct {
	name, url, host string
	client          *http.Client
}

// recorded returns deliveries of several NetBoxes that the receiver stores as events.
func recorded(t *testing.T) []deliveries.Delivery {
	t.Helper()
	all, err := deliveries.All()
	if err != nil {
		t.Fatal(err)
	}
	var some []deliveries.Delivery
	for i, delivery := range all {
		if _, err := netbox.Decode([]byte(delivery.Body), nil); i%25 == 0 && err == nil && delivery.Method == http.MethodPost {
			some = append(some, delivery)
		}
	}
	if len(some) < 20 {
		t.Fatalf("only %d recorded deliveries can be sent", len(some))
	}
	return some
}

// unique changes a delivery so that it is not a duplicate, as with every change in NetBox.
func unique(delivery deliveries.Delivery) deliveries.Delivery {
	delivery.Body = fmt.Sprintf(`{"e2e":%q,%s`, rand.Text(), strings.TrimPrefix(strings.TrimSpace(delivery.Body), "{"))
	return delivery
}

// send sends a delivery, signed with key, without retries.
func (w way) send(ctx context.Context, path, key string, delivery deliveries.Delivery) (answer, error) {
	request, err := delivery.Request(ctx, w.url+path)
	if err != nil {
		return answer{}, err
	}
	request.Host = w.host
	request.Header.Set(netbox.SignatureHeader, netbox.Sign([]byte(key), []byte(delivery.Body)))
	request.GetBody = nil // or Go's client would send it again where a connection was closed
	response, err := w.client.Do(request)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return answer{}, err
	}
	got := answer{status: response.StatusCode, text: string(text)}
	_ = json.Unmarshal(text, &got) // an Ingress controller's own answer is not JSON
	return got, nil
}

// stream sends deliveries at a steady rate, over all routes in turn, until stop is called.
type stream struct {
	cancel  context.CancelFunc
	senders sync.WaitGroup
	key     atomic.Pointer[string]

	mu      sync.Mutex
	sent    int
	stored  map[string]bool // <namespace>/<name>
	wrong   []string
	slowest time.Duration
}

func startStream(t *testing.T, ways []way, path, key string, perSecond int) *stream {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s := &stream{cancel: cancel, stored: map[string]bool{}}
	s.key.Store(&key)
	some := recorded(t)
	ticks := time.NewTicker(time.Second / time.Duration(perSecond))
	t.Cleanup(cancel)
	s.senders.Go(func() {
		defer ticks.Stop()
		for n := 0; ; n++ {
			select {
			case <-ctx.Done():
				return
			case <-ticks.C:
			}
			way, delivery, key := ways[n%len(ways)], unique(some[n%len(some)]), *s.key.Load()
			s.senders.Go(func() { s.sendOne(context.WithoutCancel(ctx), way, path, key, delivery) })
		}
	})
	return s
}

func (s *stream) sendOne(ctx context.Context, way way, path, key string, delivery deliveries.Delivery) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second) // deliveries are held for 25 s while the API server is slow
	defer cancel()
	began := time.Now()
	got, err := way.send(ctx, path, key, delivery)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent++
	s.slowest = max(s.slowest, time.Since(began))
	switch {
	case err != nil:
		s.wrong = append(s.wrong, fmt.Sprintf("%s %s: %v", time.Now().Format(time.TimeOnly), way.name, err))
	case got.status != http.StatusOK || got.Result != "ok":
		s.wrong = append(s.wrong, fmt.Sprintf("%s %s: %d %s", time.Now().Format(time.TimeOnly), way.name, got.status, got.text))
	default:
		s.stored[got.Event] = true
	}
}

// check fails the test if an answer since the last call was not 200.
func (s *stream) check(t *testing.T, during string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	t.Logf("%s: %d deliveries sent so far, the slowest took %s", during, s.sent, s.slowest.Round(time.Millisecond))
	for i, wrong := range s.wrong {
		if i == 10 {
			t.Errorf("and %d more", len(s.wrong)-i)
			break
		}
		t.Errorf("%s: %s", during, wrong)
	}
	s.wrong, s.slowest = nil, 0
}

// stop ends the stream and returns how many deliveries were sent, and the names of the events that were stored.
func (s *stream) stop() (sent int, stored map[string]bool) {
	s.cancel()
	s.senders.Wait()
	return s.sent, s.stored
}
