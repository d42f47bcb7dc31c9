package fleet

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/netbox-events/netbox-event-operator/internal/netbox"
	"github.com/netbox-events/netbox-event-operator/test/deliveries"
	"github.com/netbox-events/netbox-event-operator/test/fleet/figures"
)

// Sender sends deliveries to the replicas in turn as NetBox's workers do, and keeps a ledger of the answers.
//
// A delivery that is not answered with 2xx is retried with the same bytes after a pause (RQ_RETRY_MAX and RQ_RETRY_INTERVAL), without occupying a
// worker meanwhile. The number of workers bounds the concurrent requests, however many deliveries wait.
type Sender struct {
	// Pause is the time from a failure to the retry, Tries the maximum number of attempts.
	Pause time.Duration
	Tries int
	// Timeout is that of an answer.
	Timeout time.Duration
	// Objects is the number of NetBox objects of the deliveries, in turn.
	Objects int
	// Began is the origin of the ledger's times.
	Began time.Time

	urls      []string
	templates []string // bodies of recorded deliveries, with placeholders that make each unique
	client    *http.Client
	workers   chan struct{} // has an element per active worker
	run       uint32        // part of each request id
	next      atomic.Int64

	mu      sync.Mutex
	names   map[string]string // of events, by the request ids of the deliveries that were answered with 200
	answers []Answer
	sent    int
	givenUp int
	again   int // answered as duplicates
}

// Answer is that of one attempt.
type Answer struct {
	At     time.Duration // since Began
	Took   time.Duration
	Status int // 0: none came
}

// Replaced in a recorded delivery.
const markTime, markRequest, markID = "\x00time\x00", "\x00request\x00", "\x00id\x00"

// workers is the number of NetBox's workers. Burst has its own senders instead.
const workers = 16

// maxTemplate excludes a few deliveries that are far larger than the rest.
const maxTemplate = 64 << 10

// NewSender returns a sender of unique deliveries of NetBox 4.6.8, to some replicas, or to all.
func (f *Fleet) NewSender(to ...*Replica) (*Sender, error) {
	if len(to) == 0 {
		to = f.Replicas
	}
	s := &Sender{
		Pause: 2 * time.Second, Tries: 100, Timeout: 30 * time.Second, Began: time.Now(), run: rand.Uint32(), names: map[string]string{},
		workers: make(chan struct{}, workers),
		// Without keep-alive, as NetBox sends: each of its webhooks is a session of its own.
		client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}},
	}
	for _, replica := range to {
		s.urls = append(s.urls, "http://"+replica.webhooks+path)
	}
	all, err := deliveries.All()
	if err != nil {
		return nil, err
	}
	marks := []struct {
		find *regexp.Regexp
		mark string
	}{
		{regexp.MustCompile(`"timestamp": "[^"]*"`), `"timestamp": "` + markTime + `"`},
		{regexp.MustCompile(`"request_id": "[^"]*"`), `"request_id": "` + markRequest + `"`},
		{regexp.MustCompile(`"data": \{"id": \d+`), `"data": {"id": ` + markID},
	}
	for _, delivery := range all {
		if !strings.HasPrefix(delivery.File, "netbox-4.6.8") || len(delivery.Body) > maxTemplate {
			continue
		}
		body, once := delivery.Body, true
		for _, mark := range marks {
			once = once && len(mark.find.FindAllString(body, -1)) == 1
			body = mark.find.ReplaceAllString(body, mark.mark)
		}
		if once {
			s.templates = append(s.templates, body)
		}
	}
	// Mixed, in the same way each time: the recording has one kind of object after the other.
	rand.New(rand.NewPCG(1, 1)).Shuffle(len(s.templates), func(i, j int) { s.templates[i], s.templates[j] = s.templates[j], s.templates[i] })
	const each = 50 // objects of each recorded delivery
	s.Objects = each * len(s.templates)
	return s, nil
}

// RequestID is the request ID of a run's n-th change.
func RequestID(run uint32, n int64) string { return fmt.Sprintf("%08x-0000-4000-8000-%012x", run, n) }

// delivery makes a delivery that was not sent before.
func (s *Sender) delivery() (body []byte, requestID string) {
	n := s.next.Add(1)
	object := int(n) % s.Objects
	template := s.templates[object%len(s.templates)]
	requestID = RequestID(s.run, n)
	return []byte(strings.NewReplacer(
		markTime, time.Now().UTC().Format("2006-01-02T15:04:05.000000+00:00"), markRequest, requestID,
		markID, fmt.Sprint(1+object),
	).Replace(template)), requestID
}

// Steady sends a number of deliveries per second for a time, then waits until each is answered with 200 or abandoned.
func (s *Sender) Steady(ctx context.Context, perSecond float64, duration time.Duration) {
	var all sync.WaitGroup
	ticks := time.NewTicker(time.Duration(float64(time.Second) / perSecond))
	defer ticks.Stop()
	end := time.After(duration)
	for running := true; running; {
		select {
		case <-ctx.Done():
			running = false
		case <-end:
			running = false
		case <-ticks.C:
			all.Go(func() { s.deliver(ctx, s.workers) })
		}
	}
	all.Wait()
}

// Burst sends count deliveries, some at once, as fast as they are answered.
func (s *Sender) Burst(ctx context.Context, count, atOnce int) {
	var all sync.WaitGroup
	var left atomic.Int64
	left.Store(int64(count))
	for range atOnce {
		all.Go(func() {
			for ctx.Err() == nil && left.Add(-1) >= 0 {
				s.deliver(ctx, make(chan struct{}, 1))
			}
		})
	}
	all.Wait()
}

// deliver sends one delivery until it is answered with 200 or abandoned. Each attempt occupies a worker.
func (s *Sender) deliver(ctx context.Context, workers chan struct{}) {
	body, requestID := s.delivery()
	signature := netbox.Sign([]byte(key), body)
	s.mu.Lock()
	s.sent++
	s.mu.Unlock()
	for try := range s.Tries {
		workers <- struct{}{}
		before := time.Now()
		status, name, duplicate := s.post(ctx, s.urls[(int(s.next.Load())+try)%len(s.urls)], body, signature)
		<-workers
		if ctx.Err() != nil {
			break
		}
		s.mu.Lock()
		s.answers = append(s.answers, Answer{At: time.Since(s.Began), Took: time.Since(before), Status: status})
		if status == http.StatusOK {
			s.names[requestID] = name
			if duplicate {
				s.again++
			}
		}
		s.mu.Unlock()
		if status == http.StatusOK {
			return
		}
		Pause(ctx, s.Pause)
	}
	s.mu.Lock()
	s.givenUp++
	s.mu.Unlock()
}

func (s *Sender) post(ctx context.Context, url string, body []byte, signature string) (status int, name string, duplicate bool) {
	ctx, cancel := context.WithTimeout(ctx, s.Timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return 0, "", false
	}
	request.GetBody = nil // or Go's client would send it again where a connection was closed
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set(netbox.SignatureHeader, signature)
	response, err := s.client.Do(request)
	if err != nil {
		return 0, "", false
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, "", false
	}
	var answer struct{ Result, Event string }
	if response.StatusCode == http.StatusOK && json.Unmarshal(text, &answer) != nil {
		return 0, "", false // cut off
	}
	return response.StatusCode, answer.Event, answer.Result == "duplicate"
}

// Answered is how many deliveries were answered with 200.
func (s *Sender) Answered() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.names)
}

// Names are those of the events of the deliveries that were answered with 200, by request id.
func (s *Sender) Names() map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.names)
}

// Answers returns those from the n-th on.
func (s *Sender) Answers(n int) []Answer {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.answers[n:])
}

// verdict is the sender's part of the verdict.
func (s *Sender) verdict() figures.Verdict {
	s.mu.Lock()
	defer s.mu.Unlock()
	return figures.Verdict{
		Sent: s.sent, Attempts: len(s.answers), Answered: len(s.names), Duplicates: s.again, GivenUp: s.givenUp,
	}
}

// Quantiles returns quantiles of the time that answers took, of those with 200 or of the others.
func Quantiles(answers []Answer, stored bool) (quantiles []figures.Quantile) {
	var times []time.Duration
	for _, answer := range answers {
		if (answer.Status == http.StatusOK) == stored {
			times = append(times, answer.Took)
		}
	}
	if len(times) == 0 {
		return nil
	}
	slices.Sort(times)
	for _, quantile := range []float64{0.5, 0.9, 0.99, 0.999, 1} {
		at := times[int(quantile*float64(len(times)-1))]
		quantiles = append(quantiles, figures.Quantile{Quantile: quantile, Milliseconds: float64(at.Microseconds()) / 1000})
	}
	return quantiles
}

// At returns one of some quantiles, in milliseconds, and 0 if there are none.
func At(quantiles []figures.Quantile, quantile float64) float64 {
	for _, one := range quantiles {
		if one.Quantile == quantile {
			return one.Milliseconds
		}
	}
	return 0
}

// Wait polls done until it returns true or a time-out. It ignores errors of done before that, because the API server may be unavailable.
func Wait(ctx context.Context, limit time.Duration, what string, done func(context.Context) (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var last error
	for ctx.Err() == nil {
		attempt, cancelAttempt := context.WithTimeout(ctx, 10*time.Second)
		finished, err := done(attempt)
		cancelAttempt()
		if finished && err == nil {
			return nil
		}
		last = err
		Pause(ctx, 50*time.Millisecond)
	}
	return errors.Join(fmt.Errorf("%s: not within %s", what, limit), last)
}
