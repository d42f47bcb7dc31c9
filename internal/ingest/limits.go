package ingest

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"

	"golang.org/x/sync/semaphore"
)

const (
	// bodyMemory is how many bytes of bodies are held at one time. What does not fit is answered with 429.
	bodyMemory = 64 << 20
	// firstBuffer is the memory that a body gets before its first byte has come; it grows with what comes. 10 000 senders that send
	// a byte now and then hold 5 MB.
	firstBuffer = 512

	// workUnits bounds the bodies that are decoded and stored at one time; each takes a unit for every unitBytes that it has begun. A
	// body is in memory about six times over while it is stored, which makes 24 MiB in all.
	workUnits = 64
	unitBytes = 64 << 10

	// discardBytes is how much of a refused body is read and dropped, because many senders do not read an answer before they have sent
	// everything.
	discardBytes = 4 << 20
)

type limits struct {
	memory *semaphore.Weighted // bytes
	work   *semaphore.Weighted // units
}

func newLimits() limits {
	return limits{memory: semaphore.NewWeighted(bodyMemory), work: semaphore.NewWeighted(workUnits)}
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
				return nil, nil, throttled("too many requests in flight; try again")
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
		return nil, throttled("too many requests in flight; try again")
	}
	return func() { l.work.Release(units) }, nil
}

// discard reads what is left of a refused body, so that the sender comes to read the answer.
func discard(request *http.Request) {
	if request.Header.Get("Expect") == "" {
		_, _ = io.CopyN(io.Discard, request.Body, discardBytes)
	}
}
