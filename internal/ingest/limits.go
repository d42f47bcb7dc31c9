package ingest

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"time"

	"golang.org/x/sync/semaphore"
)

const (
	// requestMemory is how many bytes the heads and bodies of requests may take at one time. What does not fit is answered with 429.
	requestMemory = 64 << 20
	// headerOverhead is what a header takes beside its bytes, in bytes; a head of many small headers takes six times its length.
	headerOverhead = 100
	// firstBuffer is the memory that a body gets before its first byte has come; it grows with what comes. 10 000 senders that send
	// a byte now and then hold 20 MB.
	firstBuffer = 2 << 10

	// workUnits bounds the bodies that are decoded and stored at one time; each takes a unit for every unitBytes that it has begun. A
	// body is in memory about six times over while it is stored, which makes 24 MiB in all.
	workUnits = 64
	unitBytes = 64 << 10

	// discardBytes and discardTime are how much of a refused body is read and dropped, because many senders do not read an answer before
	// they have sent everything.
	discardBytes = 4 << 20
	discardTime  = 2 * time.Second
)

type limits struct {
	memory *semaphore.Weighted // bytes
	work   *semaphore.Weighted // units
}

func newLimits() limits {
	return limits{memory: semaphore.NewWeighted(requestMemory), work: semaphore.NewWeighted(workUnits)}
}

// admit claims the memory of a request's head; release gives it back.
func (l limits) admit(request *http.Request) (release func(), admitted bool) {
	size := int64(len(request.RequestURI))
	for name, values := range request.Header {
		for _, value := range values {
			size += int64(len(name)+len(value)) + headerOverhead
		}
	}
	return func() { l.memory.Release(size) }, l.memory.TryAcquire(size)
}

// readBody reads a body of at most limit bytes. The memory is claimed as the bytes come, so that neither a declared length nor a slow
// sender claims what it does not use; release gives it back.
func (l limits) readBody(request *http.Request, limit int64) (body []byte, release func(), err error) {
	var claimed int64
	defer func() {
		if err != nil {
			l.memory.Release(claimed)
		}
	}()

	for {
		if len(body) == cap(body) {
			size := min(max(firstBuffer, 2*int64(cap(body))), limit+1)
			if !l.memory.TryAcquire(size - claimed) {
				return nil, nil, errTooMany
			}
			claimed = size
			body = append(make([]byte, 0, size), body...)
		}
		n, err := request.Body.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		switch {
		case int64(len(body)) > limit:
			return nil, nil, tooLarge(limit)
		case errors.Is(err, io.EOF):
			return body, func() { l.memory.Release(claimed) }, nil
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil, nil, refuse(resultTimeout, "the body did not arrive in time")
		case err != nil:
			return nil, nil, &answer{result: resultMalformed, message: "the body ended early or is badly framed", cause: err}
		}
	}
}

// startWork waits until a body of some bytes may be decoded and stored; done gives the place to the next.
func (l limits) startWork(ctx context.Context, bytes int) (done func(), err error) {
	units := min(1+int64(bytes)/unitBytes, workUnits)
	if l.work.Acquire(ctx, units) != nil {
		return nil, unavailable("events are stored more slowly than they come; try again", time.Second, ctx.Err())
	}
	return func() { l.work.Release(units) }, nil
}

var errTooMany = throttled("too many requests in flight; try again")

// discard reads what is left of a refused body, so that the sender comes to read the answer.
func discard(w http.ResponseWriter, request *http.Request) {
	if request.Header.Get("Expect") != "" {
		return // the sender waits for the answer before it sends a body
	}
	// Where the connection knows no deadline, as in a test, the body is not slow either.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(discardTime))
	_, _ = io.CopyN(io.Discard, request.Body, discardBytes)
}
