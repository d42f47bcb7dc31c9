package ingest

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"time"

	"k8s.io/utils/clock"
)

const (
	// requestMemory is the memory budget of the requests in flight, in bytes, from the end of the head to the answer. A request over it is
	// answered with 429.
	requestMemory = 64 << 20
	// requestBytes is the memory of a request besides its head and body: a goroutine, and the buffers of its connection. It thereby limits the
	// requests in flight to 2048.
	requestBytes = 32 << 10
	// headerOverhead is the memory of a header besides its text, in bytes; a head of many small headers takes six times its length.
	headerOverhead = 100
	// firstBuffer is the initial buffer of a body, within requestBytes; it grows with the bytes received.
	firstBuffer = 2 << 10
	// smallRequest is the total memory up to which a request counts as small, as those of NetBox's objects are. Memory is reserved for small
	// requests.
	smallRequest = 96 << 10
	// slowestRate is the least rate of a body, in bytes a second, when other requests need its memory: 1 MB within 16 s. longestPause is the
	// longest gap then, however fast the rest was: networks retransmit lost packets sooner.
	slowestRate  = 64 << 10
	longestPause = time.Second

	// slots limits the bodies that are decoded and stored concurrently; a body takes one for each started slotBytes. A body is in memory about
	// six times while it is stored, 24 MiB in all.
	slots     = 64
	slotBytes = 64 << 10

	// discardBytes and discardTime limit how much of a refused body is read and dropped, because many senders read the answer only after they
	// have sent the whole body. shedTime is the limit for requests that are shed because memory is exhausted.
	discardBytes = 4 << 20
	discardTime  = 2 * time.Second
	shedTime     = 100 * time.Millisecond
)

// limits shares memory and processing slots fairly between sources.
type limits struct {
	memory    *memory
	semaphore *semaphore
}

func newLimits(clock clock.PassiveClock) limits {
	return limits{memory: newMemory(requestMemory, clock), semaphore: newSemaphore(slots)}
}

// admit claims the memory of a request without its body. It returns nil if the budget is exhausted.
func (l limits) admit(w http.ResponseWriter, request *http.Request, source string) *claim {
	size := requestBytes + int64(len(request.RequestURI))
	for name, values := range request.Header {
		for _, value := range values {
			size += int64(len(name)+len(value)) + headerOverhead
		}
	}
	connection := http.NewResponseController(w)
	return l.memory.claim(source, size, func() { _ = connection.SetReadDeadline(time.Unix(1, 0)) })
}

// readBody reads a body of at most limit bytes. The memory is claimed as bytes arrive, not by Content-Length.
func readBody(request *http.Request, limit int64, claim *claim) (body []byte, err error) {
	sent := claim.startWaiting(request.Body)
	body, err = readAll(sent, limit, claim)
	if !claim.stopWaiting() {
		return nil, errTooSlow
	}
	if err != nil {
		claim.shrink(claim.first)
	}
	return body, err
}

func readAll(sent io.Reader, limit int64, claim *claim) ([]byte, error) {
	body := make([]byte, 0, min(firstBuffer, limit+1))
	for {
		if len(body) == cap(body) {
			size := min(2*int64(cap(body)), limit+1)
			if !claim.grow(size - int64(cap(body))) {
				return nil, errTooMany
			}
			body = append(make([]byte, 0, size), body...)
		}
		n, err := sent.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		switch {
		case int64(len(body)) > limit:
			return nil, tooLarge(limit)
		case errors.Is(err, io.EOF):
			return body, nil
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil, refuse(resultTimeout, "the body did not arrive in time")
		case err != nil:
			return nil, &answer{result: resultMalformed, message: "the body ended early or has invalid framing", cause: err}
		}
	}
}

// acquireSlots waits until a body of the given length, received at receivedAt, may be decoded and stored. The caller releases the slots
// with done.
func (l limits) acquireSlots(ctx context.Context, source string, bytes int, receivedAt time.Time) (done func(), err error) {
	units := min(1+int64(bytes)/slotBytes, slots)
	done, err = l.semaphore.acquire(ctx, flow{source: source, small: units == 1}, units, receivedAt)
	if err != nil {
		return nil, unavailable("the receiver is busy storing other events; try again", time.Second, err)
	}
	return done, nil
}

var (
	errTooMany = throttled("too many requests in flight; try again")
	errTooSlow = throttled("too many requests in flight, and this request's body arrived too slowly; try again")
)

// discard reads the rest of a refused body, so that the sender gets to read the answer.
func discard(w http.ResponseWriter, request *http.Request, claim *claim) {
	if request.Header.Get("Expect") != "" || claim.isEvicted() {
		return // the sender waits for the answer before it sends a body
	}
	if request.Body == http.NoBody {
		return // the deadline would persist and fail net/http's background read, which cancels the contexts of later requests on the connection
	}
	// A connection without deadlines, as in tests, has no slow bodies either.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(discardTime))
	_, _ = io.CopyN(io.Discard, claim.startWaiting(request.Body), discardBytes)
	claim.stopWaiting()
}
