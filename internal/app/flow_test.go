package app_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/netbox"
	"github.com/netbox-events/netbox-event-operator/internal/source"
)

// deliver sends small deliveries sequentially, each on a new connection as NetBox does, until ctx is done. It returns the counts of the
// statuses, and the 99th percentile of the latency.
func deliver(ctx context.Context, url string, first int) (statuses map[int]int, p99 time.Duration) {
	sender := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	statuses = map[int]int{}
	var took []time.Duration
	for n := first; ctx.Err() == nil; n++ {
		sent := time.Now()
		status, _ := postBy(context.WithoutCancel(ctx), sender, url, body(n))
		took = append(took, time.Since(sent))
		statuses[status]++
		time.Sleep(10 * time.Millisecond)
	}
	slices.Sort(took)
	return statuses, took[len(took)*99/100]
}

func total(statuses map[int]int) (sum int) {
	for _, count := range statuses {
		sum += count
	}
	return sum
}

// checkDelivered fails unless all are stored, except those that an overloaded API server does not store in time.
func checkDelivered(t *testing.T, statuses map[int]int, p99 time.Duration) {
	t.Helper()
	t.Logf("answers: %v; 99 of 100 within %s", statuses, p99.Round(time.Millisecond))
	stored, tooLate := statuses[http.StatusOK], statuses[http.StatusServiceUnavailable]
	if stored == 0 || stored+tooLate != total(statuses) {
		t.Errorf("answers: %v", statuses)
	}
	if p99 > 3*time.Second {
		t.Errorf("99 of 100 took up to %s", p99)
	}
}

// TestFairness exhausts the limits of one source in all ways, and measures another.
func TestFairness(t *testing.T) {
	flooded, other := newSource(t), newSource(t)
	m := start(t, plane.Config)
	served(t, m.url(flooded))
	served(t, m.url(other))
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
	defer cancel()
	var flood sync.WaitGroup

	// Large bodies that stall half-way, and heads of many small headers without a body.
	half := head(flooded, 900_000) + "\r\n" + strings.Repeat(" ", 500_000)
	var headers strings.Builder
	for n := range 1200 {
		fmt.Fprintf(&headers, "a%d: b\r\n", n)
	}
	for _, part := range []string{half, head(flooded, 900_000) + headers.String() + "\r\n{"} {
		for range 4 {
			flood.Go(func() {
				for ctx.Err() == nil {
					if conn, err := new(net.Dialer).DialContext(ctx, "tcp", m.webhooks); err == nil {
						defer func() { _ = conn.Close() }()
						_, _ = io.WriteString(conn, part)
					}
					time.Sleep(20 * time.Millisecond)
				}
			})
		}
	}
	// Deliveries without a pause, large and small, valid and forged.
	large := strings.Replace(body(0), `"data":{`, `"data":{"x":"`+strings.Repeat("x", 900_000)+`",`, 1)
	for sender := range 16 { // more would take the API server's processors, which the receiver does not share out
		flood.Go(func() {
			for n := sender; ctx.Err() == nil; n += 16 {
				switch sender % 8 {
				case 0:
					_, _ = post(ctx, m.url(flooded), strings.Replace(large, `"id":0`, fmt.Sprintf(`"id":%d`, n), 1))
				case 1:
					_, _ = postBy(ctx, http.DefaultClient, m.url(flooded)+"?forged", large+"}")
				default:
					_, _ = post(ctx, m.url(flooded), body(n))
				}
			}
		})
	}

	statuses, p99 := deliver(ctx, m.url(other), 0)
	flood.Wait()
	t.Logf("peak memory %d MiB", peakMemory(t, m.process.Pid)>>20)
	checkDelivered(t, statuses, p99)
}

// head returns the head of a delivery without the final empty line.
func head(target *v1alpha1.NetBoxSource, length int) string {
	return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n", source.Path(target), length)
}

// TestSlowSenders opens thousands of connections that send nothing, or a byte a second of a head or body, to the same source as the
// measured deliveries.
func TestSlowSenders(t *testing.T) {
	target := newSource(t)
	m := start(t, plane.Config)
	served(t, m.url(target))
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		t.Fatal(err)
	}
	connections := int(min(10_000, files.Cur/2))

	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	opened := make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		begun := []string{"", "POST / HTTP/1.1\r\nHost: ", head(target, 900_000) + "\r\n{"}
		var conns []net.Conn
		for n := range connections {
			conn, err := net.Dial("tcp", m.webhooks)
			if err != nil {
				t.Error(err)
				break
			}
			defer func() { _ = conn.Close() }()
			_, _ = io.WriteString(conn, begun[n%3])
			conns = append(conns, conn)
		}
		close(opened)
		for ctx.Err() == nil {
			for n, conn := range conns {
				if n%3 > 0 {
					_, _ = io.WriteString(conn, " ") // fails where the receiver has closed it
				}
			}
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	})

	during, stop := context.WithCancel(ctx)
	go func() { <-opened; stop() }()
	statuses, p99 := deliver(during, m.url(target), 0)
	t.Logf("while %d connections are opened: %v, 99 of 100 within %s", connections, statuses, p99.Round(time.Millisecond))
	statuses, p99 = deliver(ctx, m.url(target), 100_000)
	all.Wait()
	checkDelivered(t, statuses, p99)
	peak := peakMemory(t, m.process.Pid)
	t.Logf("peak memory %d MiB", peak>>20)
	if peak > 400<<20 {
		t.Errorf("the manager used %d MiB", peak>>20)
	}
}

// TestSlowReader reads the documentation slowly: a later delivery on the same connection, as through a proxy, is stored.
func TestSlowReader(t *testing.T) {
	target := newSource(t)
	m := start(t, plane.Config)
	served(t, m.url(target))
	conn, err := net.Dial("tcp", m.webhooks)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	read := bufio.NewReader(conn)
	status := func() int {
		response, err := http.ReadResponse(read, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, response.Body); err != nil {
			t.Fatal(err)
		}
		return response.StatusCode
	}
	const pages = 32 // of 1.5 MB, uncompressed: more than the socket buffers hold
	_, _ = io.WriteString(conn, strings.Repeat("GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n", pages))
	time.Sleep(3 * time.Second)
	for range pages {
		if got := status(); got != http.StatusOK {
			t.Fatalf("a page is answered with %d", got)
		}
	}
	sent := body(1)
	_, _ = io.WriteString(conn, head(target, len(sent))+netbox.SignatureHeader+": "+netbox.Sign([]byte(key), []byte(sent))+"\r\n\r\n"+sent)
	if got := status(); got != http.StatusOK {
		t.Errorf("a delivery is answered with %d", got)
	}
}
