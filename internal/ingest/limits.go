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
	// requestMemory is how many bytes the requests in flight may take, from when their heads are there until they are answered. What does
	// not fit is answered with 429.
	requestMemory = 64 << 20
	// requestBytes is what a request takes beside its head and body: a goroutine, and the buffers of its connection. So it also bounds
	// how many are in flight: 2048.
	requestBytes = 32 << 10
	// headerOverhead is what a header takes beside its bytes, in bytes; a head of many small headers takes six times its length.
	headerOverhead = 100
	// firstBuffer is the memory that a body gets before its first byte has come, within requestBytes; it grows with what comes.
	firstBuffer = 2 << 10
	// smallRequest is how many bytes a request may take, all in all, that large ones must not get in the way of: those of NetBox's objects.
	smallRequest = 96 << 10
	// slowestRate is how fast a body must come where others need its memory, in bytes a second: 1 MB within 16 s. longestPause is how long
	// nothing of it may come then, however fast the rest was: networks take less to send again what they lost.
	slowestRate  = 64 << 10
	longestPause = time.Second

	// workUnits bounds the bodies that are decoded and stored at one time; each takes a unit for every unitBytes that it has begun. A
	// body is in memory about six times over while it is stored, which makes 24 MiB in all.
	workUnits = 64
	unitBytes = 64 << 10

	// discardBytes and discardTime are how much of a refused body is read and dropped, because many senders do not read an answer before
	// they have sent everything. A request that there was no memory for has turnedAwayTime.
	discardBytes   = 4 << 20
	discardTime    = 2 * time.Second
	turnedAwayTime = 100 * time.Millisecond
)

// limits share what requests take among the sources.
type limits struct {
	memory *memory
	work   *work
}

func newLimits(clock clock.PassiveClock) limits {
	return limits{memory: newMemory(requestMemory, clock), work: newWork(workUnits)}
}

// admit claims the memory of a request without its body. It returns nil where there is none.
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

// readBody reads a body of at most limit bytes. The memory is claimed as the bytes come, so that a declared length claims nothing.
func readBody(request *http.Request, limit int64, claim *claim) (body []byte, err error) {
	sent := claim.wait(request.Body)
	body, err = readAll(sent, limit, claim)
	if !claim.waited() {
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
			return nil, &answer{result: resultMalformed, message: "the body ended early or is badly framed", cause: err}
		}
	}
}

// startWork waits until a body of some bytes, received at a time, may be decoded and stored; done gives the place to the next.
func (l limits) startWork(ctx context.Context, source string, bytes int, receivedAt time.Time) (done func(), err error) {
	units := min(1+int64(bytes)/unitBytes, workUnits)
	done, err = l.work.start(ctx, flow{source: source, small: units == 1}, units, receivedAt)
	if err != nil {
		return nil, unavailable("events are stored more slowly than they come; try again", time.Second, err)
	}
	return done, nil
}

var (
	errTooMany = throttled("too many requests in flight; try again")
	errTooSlow = throttled("too many requests in flight, and the body of this one came too slowly to wait for; try again")
)

// discard reads what is left of a refused body, so that the sender comes to read the answer.
func discard(w http.ResponseWriter, request *http.Request, claim *claim) {
	if request.Header.Get("Expect") != "" || claim.gaveWay() {
		return // the sender waits for the answer before it sends a body
	}
	if request.Body == http.NoBody {
		return // the deadline would stay, and end what net/http reads ahead: with it the context of all that follows on the connection
	}
	// Where the connection knows no deadline, as in a test, the body is not slow either.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(discardTime))
	_, _ = io.CopyN(io.Discard, claim.wait(request.Body), discardBytes)
	claim.waited()
}
