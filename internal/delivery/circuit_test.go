package delivery_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/delivery"
)

var (
	epoch = time.Unix(1_800_000_000, 0)
	retry = &v1alpha1.Retry{
		For:        metav1.Duration{Duration: 24 * time.Hour},
		Backoff:    metav1.Duration{Duration: time.Second},
		MaxBackoff: metav1.Duration{Duration: 5 * time.Minute},
	}
	good = delivery.Outcome{}
	down = delivery.Outcome{Err: errors.New("connection refused"), Unavailable: true}
)

func throttled(after time.Duration) delivery.Outcome {
	return delivery.Outcome{Err: errors.New("answered with 429"), Unavailable: true, Throttled: true, RetryAfter: after}
}

// simulate delivers a backlog through a circuit, with up to 32 deliveries in flight that each take the latency. The function sink returns
// the outcome of a request. simulate returns the total time, and the times of all requests.
func simulate(
	t *testing.T, c *delivery.Circuit, backlog int, latency time.Duration, sink func(at time.Duration) delivery.Outcome,
) (took time.Duration, requests []time.Duration) {
	t.Helper()
	type inFlightDelivery struct {
		ends    time.Time
		ticket  delivery.Ticket
		outcome delivery.Outcome
	}
	var inFlight []inFlightDelivery
	now := epoch
	for delivered := 0; delivered < backlog; {
		if now.Sub(epoch) > 48*time.Hour {
			t.Fatalf("%d of %d delivered after 48 hours", delivered, backlog)
		}
		var until time.Time
		for len(inFlight) < 32 && delivered+len(inFlight) < backlog {
			ticket, again, ok := c.Start(now)
			if !ok {
				until = again
				break
			}
			at := now.Sub(epoch)
			requests = append(requests, at)
			inFlight = append(inFlight, inFlightDelivery{now.Add(latency), ticket, sink(at)})
		}
		switch {
		case len(inFlight) > 0 && (until.IsZero() || !inFlight[0].ends.After(until)):
			ended := inFlight[0]
			inFlight, now = inFlight[1:], ended.ends
			c.End(ended.ticket, ended.outcome, retry, now)
			if ended.outcome.Err == nil {
				delivered++
			}
		case until.IsZero():
			t.Fatal("no delivery is in flight, and none may start")
		default:
			now = until
		}
	}
	return now.Sub(epoch), requests
}

// limiter returns a sink that accepts n requests in a sliding window.
func limiter(n int, window time.Duration) func(at time.Duration) delivery.Outcome {
	var accepted []time.Duration
	return func(at time.Duration) delivery.Outcome {
		accepted = slices.DeleteFunc(accepted, func(t time.Duration) bool { return at-t >= window })
		if len(accepted) < n {
			accepted = append(accepted, at)
			return good
		}
		return throttled((accepted[0] + window - at).Truncate(time.Second) + time.Second) // whole seconds, as Retry-After has them
	}
}

func TestThrottledSinks(t *testing.T) {
	for name, test := range map[string]struct {
		n        int
		window   time.Duration
		backlog  int
		requests int           // at most
		within   time.Duration // at most
	}{
		"one a second":         {1, time.Second, 500, 600, 650 * time.Second},
		"twenty a second":      {1, 50 * time.Millisecond, 2000, 2200, 200 * time.Second},
		"a hundred a minute":   {100, time.Minute, 1000, 1500, 15 * time.Minute},
		"thirty in five hours": {30, 5 * time.Hour, 90, 400, 24 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			var c delivery.Circuit
			took, requests := simulate(t, &c, test.backlog, 20*time.Millisecond, limiter(test.n, test.window))
			if len(requests) > test.requests || took > test.within {
				t.Errorf("%d requests in %s for %d deliveries", len(requests), took, test.backlog)
			}
			t.Logf("%d requests in %s for %d deliveries", len(requests), took, test.backlog)
		})
	}
}

// TestLimitLifted checks that the rate of a sink that throttles for a minute recovers soon after.
func TestLimitLifted(t *testing.T) {
	var c delivery.Circuit
	limited := limiter(1, time.Second)
	_, requests := simulate(t, &c, 10_000, 20*time.Millisecond, func(at time.Duration) delivery.Outcome {
		if at > time.Minute {
			return good
		}
		return limited(at)
	})
	late := slices.IndexFunc(requests, func(at time.Duration) bool { return at > 6*time.Minute })
	if late < 0 {
		return // all are delivered
	}
	if rate := len(requests[late:]); rate < 5000 {
		t.Errorf("%d requests remained after 6 minutes", rate)
	}
}

// TestSinkDown checks that a sink that is down for 30 minutes gets few requests, and gets them again soon after it recovers.
func TestSinkDown(t *testing.T) {
	var c delivery.Circuit
	const outage = 30 * time.Minute
	took, requests := simulate(t, &c, 10_000, 20*time.Millisecond, func(at time.Duration) delivery.Outcome {
		if at < outage {
			return down
		}
		return good
	})
	during := len(slices.DeleteFunc(slices.Clone(requests), func(at time.Duration) bool { return at >= outage }))
	if during > 32+30 || len(requests) > 10_000+during {
		t.Errorf("%d requests during the outage, %d in total", during, len(requests))
	}
	if took > outage+retry.MaxBackoff.Duration+20*time.Second {
		t.Errorf("the backlog took %s", took)
	}
	if reason, _, _ := c.State(); reason != v1alpha1.ReasonAvailable {
		t.Errorf("the sink is %s", reason)
	}
}

// TestCircuit checks when a circuit opens and closes.
func TestCircuit(t *testing.T) {
	var c delivery.Circuit
	now := epoch
	end := func(outcome delivery.Outcome) {
		t.Helper()
		ticket, _, ok := c.Start(now)
		if !ok {
			t.Fatal("no delivery may start")
		}
		c.End(ticket, outcome, retry, now)
	}
	reason := func() string { reason, _, _ := c.State(); return reason }
	for range 4 {
		end(down)
	}
	end(good)
	for range 4 {
		end(down)
	}
	end(delivery.Outcome{Err: errors.New("answered with 400"), Permanent: true}) // the sink is available
	for range 5 {
		if reason() != v1alpha1.ReasonAvailable {
			t.Errorf("the circuit opened after less than five consecutive failures: %s", reason())
		}
		end(down)
	}
	if got, since, cause := c.State(); got != v1alpha1.ReasonUnavailable || !since.Equal(now) || cause != "connection refused" {
		t.Errorf("%s since %s: %s", got, since, cause)
	}
	if _, until, ok := c.Start(now); ok || until.Before(now.Add(500*time.Millisecond)) || until.After(now.Add(time.Second)) {
		t.Errorf("an open circuit allows a delivery, or the next one in %s", until.Sub(now))
	}
	now = now.Add(time.Second)
	probe, _, ok := c.Start(now)
	if _, _, two := c.Start(now); !ok || two {
		t.Error("not exactly one delivery probes the sink")
	}
	c.Cancel(probe)
	end(down)
	now = now.Add(2 * time.Second)
	end(good)
	if reason() != v1alpha1.ReasonAvailable {
		t.Errorf("the state after a success is %s", reason())
	}
	for n := range 2 {
		if _, _, ok := c.Start(now); !ok {
			t.Errorf("delivery %d may not start after a success", n+1)
		}
	}
	if _, _, ok := c.Start(now); ok {
		t.Error("a third delivery starts after one success")
	}
}

// TestLateFailures checks that failures of deliveries that started before the circuit opened do not open it again.
func TestLateFailures(t *testing.T) {
	var c delivery.Circuit
	var tickets []delivery.Ticket
	for range 32 {
		ticket, _, _ := c.Start(epoch)
		tickets = append(tickets, ticket)
	}
	for _, ticket := range tickets {
		c.End(ticket, down, retry, epoch)
	}
	if _, until, ok := c.Start(epoch); ok || until.After(epoch.Add(time.Second)) {
		t.Errorf("the circuit is open for %s after one outage", until.Sub(epoch))
	}
}

// TestResetRestartsMeasurement resets a circuit before a throttled delivery: the deliveries before the reset do not count.
func TestResetRestartsMeasurement(t *testing.T) {
	var c delivery.Circuit
	now := epoch
	for n := range 3 {
		ticket, _, _ := c.Start(now)
		now = now.Add(100 * time.Millisecond)
		if n < 2 {
			c.End(ticket, good, retry, now)
		} else {
			c.End(ticket, throttled(time.Second), retry, now)
		}
		if n == 0 {
			c.Reset()
		}
	}
	if gap := c.Gap(); gap > 2*time.Second {
		t.Errorf("the gap is %s", gap)
	}
}
