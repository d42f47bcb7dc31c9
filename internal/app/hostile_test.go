package app_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/netbox"
	"github.com/netbox-events/netbox-event-operator/internal/source"
)

// TestHostile sends malicious requests. Each must be refused with a reason, or stored and finished: no internal error, no request
// smuggling, and no event that blocks others.
func TestHostile(t *testing.T) {
	target := newSource(t)
	target.Spec.MaxBodyBytes = 3_000_000
	if err := plane.Client.Update(t.Context(), target); err != nil {
		t.Fatal(err)
	}
	m := start(t, plane.Config)
	served(t, m.url(target))

	stored := map[string]string{} // reasons, by event
	for _, test := range hostileBodies() {
		status, event := post(t.Context(), m.url(target), test.body)
		if status != test.want {
			t.Errorf("%s: answered with %d, want %d", test.reason, status, test.want)
		}
		if event != "" {
			stored[event] = test.reason
		}
	}
	for _, test := range hostileRequests(source.Path(target)) {
		statuses := exchange(t, m.webhooks, test.request)
		if !slices.Equal(statuses, test.want) {
			t.Errorf("%s: answered with %v, want %v", test.reason, statuses, test.want)
		}
	}

	// The next delivery about the same objects is not blocked.
	status, last := post(t.Context(), m.url(target), body(1))
	if status != http.StatusOK {
		t.Errorf("a delivery after all of this is answered with %d", status)
	}
	stored[last] = "the last"
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		done := phases(t, target)
		pending := []string{}
		for event, phase := range done {
			if phase != v1alpha1.PhaseSucceeded {
				pending = append(pending, stored[event])
			}
		}
		if len(pending) == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("not finished: %q", pending)
		}
	}
	var smuggled v1alpha1.NetBoxEventList
	if err := plane.Client.List(t.Context(), &smuggled, client.InNamespace(target.Namespace),
		client.MatchingFields{"spec.objectID": smuggledID}); err != nil || len(smuggled.Items) > 0 {
		t.Errorf("%d events of smuggled requests are stored: %v", len(smuggled.Items), err)
	}
}

type hostileBody struct {
	reason string
	body   string
	want   int
}

func hostileBodies() []hostileBody {
	// An event with other data, or with other members before its data.
	data := func(data string) string {
		return `{"event":"updated","timestamp":"2026-11-23T10:00:00.5+00:00","object_type":"dcim.site","data":` + data + `}`
	}
	member := func(name, value string) string {
		members := map[string]string{
			"event": `"updated"`, "timestamp": `"2026-11-23T10:00:00.5+00:00"`, "object_type": `"dcim.site"`, "data": `{"id":1}`,
		}
		members[name] = value
		var body []string
		for name, value := range members {
			body = append(body, fmt.Sprintf("%q:%s", name, value))
		}
		return "{" + strings.Join(body, ",") + "}"
	}
	deep := func(levels int) string {
		return data(`{"id":1,"x":` + strings.Repeat("[", levels) + strings.Repeat("]", levels) + `}`)
	}
	long := strings.Repeat("x", 1_000_000)
	var many strings.Builder
	many.WriteString(`{"id":1`)
	for n := range 50_000 {
		fmt.Fprintf(&many, `,"f%d":%d`, n, n)
	}
	many.WriteString("}")

	return []hostileBody{
		{"nested as deep as may be", deep(netbox.MaxDepth - 2), 200},
		{"nested deeper", deep(netbox.MaxDepth - 1), 400},
		{"nested much deeper", deep(1_000_000), 400},
		{"objects that do not end", strings.Repeat(`{"a":`, 500_000), 400},
		{"the whole body is an array", "[" + data(`{"id":1}`) + "]", 400},
		{"null", "null", 400},
		{"white space", " \t\r\n", 400},
		{"nothing", "", 400},
		{"two objects", body(1) + body(2), 400},
		{"a comma too many", `{"event":"updated",}`, 400},
		{"single quotes", `{'event':'updated'}`, 400},
		{"a comment", `{/* */"event":"updated"}`, 400},
		{"compressed", "\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff\xab\xae\x05\x00\x43\xbf\xa6\xa3\x02\x00\x00\x00", 400},

		{"an integer beyond 64 bits", data(`{"id":1,"x":123456789012345678901234567890}`), 200},
		{"an integer of 100 000 digits", data(`{"id":1,"x":` + strings.Repeat("9", 100_000) + `}`), 200},
		{"more than a float holds", data(`{"id":1,"x":[1e400,-1e400,1e-400,1e999999999999]}`), 200},
		{"many numbers that are longer when they are written out", data(`{"id":1,"x":[1e20` + strings.Repeat(",1e20", 20_000) + `]}`), 200},
		{"zeros", data(`{"id":-0,"x":[-0.0,0e9,0E-9]}`), 200},
		{"a number with a zero in front", data(`{"id":01}`), 400},
		{"a number with a plus", data(`{"id":+1}`), 400},
		{"a hexadecimal number", data(`{"id":0x1}`), 400},
		{"NaN", data(`{"id":1,"x":NaN}`), 400},
		{"Infinity", data(`{"id":1,"x":-Infinity}`), 400},
		{"an id of 100 digits", data(`{"id":` + strings.Repeat("9", 100) + `}`), 200},
		{"an id that is no scalar", data(`{"id":{"a":[]},"url":[],"display":{}}`), 200},

		{"a name twice", `{"event":"created",` + body(1)[1:], 400},
		{"a name twice, deep inside", data(`{"id":1,"x":[{"a":1,"a":2}]}`), 400},
		{"a name twice, once escaped", data(`{"id":1,"a":1,"\u0061":2}`), 400},
		{"names that differ by case", data(`{"id":1,"ID":2,"Id":3}`), 200},
		{"names with a meaning elsewhere", data(`{"id":1,"__proto__":{},"constructor":1,"$ref":"#","":0,"~1/":0,"a.b":0}`), 200},
		{"members that Kubernetes has", `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"x"},"status":{"phase":"Succeeded"},` + body(1)[1:], 200},
		{"a name of 100 000 characters", data(`{"id":1,"` + strings.Repeat("n", 100_000) + `":1}`), 200},
		{"50 000 names", data(many.String()), 200},

		{"no UTF-8", data("{\"id\":1,\"x\":\"\xff\"}"), 400},
		{"no UTF-8 in a name", data("{\"id\":1,\"\xc3\":1}"), 400},
		{"an overlong slash", data("{\"id\":1,\"x\":\"\xc0\xaf\"}"), 400},
		{"a surrogate in UTF-8", data("{\"id\":1,\"x\":\"\xed\xa0\x80\"}"), 400},
		{"a byte order mark", "\ufeff" + body(1), 400},
		{"UTF-16", "\xff\xfe{\x00}\x00", 400},
		{"lone surrogates", data(`{"id":1,"x":"\ud800","y":"\udc00\ud800","z":{"\ud800":1}}`), 200},
		{"two names that only lone surrogates tell apart", data(`{"id":1,"\ud800":1,"\ud801":2}`), 400},
		{"control characters, escaped", data(`{"id":1,"display":"\u0000\u001b[31m\n\u202e\u2028","x":"\u0000"}`), 200},
		{"a control character as it is", data("{\"id\":1,\"x\":\"\n\"}"), 400},
		{"an escape that there is not", data(`{"id":1,"x":"\x41"}`), 400},
		{"a text of 1 MB", data(`{"id":1,"x":"` + long + `"}`), 200},
		{"a text that is six times as long when it is escaped", data(`{"id":1,"x":"` + strings.Repeat("<", 1_000_000) + `"}`), 413},
		{"a text of 1 MB where a short one belongs", member("event", `"`+long+`"`), 200},
		{"an object type of 1 MB", member("object_type", `"dcim.`+long+`"`), 200},
		{"an id of 1 MB", data(`{"id":"` + long + `"}`), 200},
		{"a display name of 1 MB", data(`{"id":1,"display":"` + long + `"}`), 200},
		{"an empty event", member("event", `""`), 422},
		{"an event of control characters", member("event", `"\u0000\n"`), 200},
		{"an object type of control characters", member("object_type", `"\u0000.\n"`), 200},
		{"an object type that climbs", member("object_type", `"../../etc.passwd"`), 200},
		{"data that is an array", member("data", `[]`), 422},
		{"a secret that is deep", data(`{"id":1,"password":` + strings.Repeat("[", 190) + strings.Repeat("]", 190) + `}`), 200},
		{"a day that there is not", member("timestamp", `"2026-02-30T10:00:00Z"`), 422},
		{"a year of five digits", member("timestamp", `"12026-11-23T10:00:00Z"`), 422},
		{"the first day", member("timestamp", `"0001-01-01T00:00:00Z"`), 422},
		{"the last day", member("timestamp", `"9999-12-31T23:59:59.999999-14:00"`), 422},
		{"a number for a time", member("timestamp", `1e18`), 422},
	}
}

// smuggledID is the object ID in smuggled requests.
const smuggledID = "666"

type hostileRequest struct {
	reason  string
	request string
	want    []int // the statuses of all answers on the connection
}

// hostileRequests returns requests that servers parse differently.
func hostileRequests(path string) []hostileRequest {
	signedHeaders := func(body string) string {
		return "Host: x\r\nContent-Type: application/json\r\n" + netbox.SignatureHeader + ": " + netbox.Sign([]byte(key), []byte(body)) + "\r\n"
	}
	// A complete request that must never be parsed as one.
	inner := strings.Replace(body(0), `"id":0`, `"id":`+smuggledID, 1)
	hidden := fmt.Sprintf("POST %s HTTP/1.1\r\n%sContent-Length: %d\r\n\r\n%s", path, signedHeaders(inner), len(inner), inner)
	// A valid delivery with different framing.
	good := body(1)
	post := func(framing, sent string) string {
		return "POST " + path + " HTTP/1.1\r\n" + signedHeaders(good) + framing + "\r\n" + sent
	}
	length := fmt.Sprintf("Content-Length: %d\r\n", len(good))
	chunked := "Transfer-Encoding: chunked\r\n"
	chunk := fmt.Sprintf("%x\r\n%s\r\n", len(good), good)
	last := "Connection: close\r\n"

	return []hostileRequest{
		{"a good one", post(length+last, good), []int{200}},
		{"two, one after the other", post(length, good) + post(length+last, good), []int{200, 200}},
		{"a length and chunks: the connection ends with them", post("Content-Length: 5\r\n"+chunked, "0\r\n\r\n"+hidden), []int{401}},
		{"chunks and a length", post(chunked+"Content-Length: 5\r\n", "0\r\n\r\n"+hidden), []int{401}},
		{"two lengths", post("Content-Length: 0\r\n"+length, good+hidden), []int{400}},
		{"two lengths in one", post("Content-Length: 5, 5\r\n", good), []int{400}},
		{"the same length twice", post(length+length+last, good), []int{200}},
		{"a negative length", post("Content-Length: -1\r\n", good+hidden), []int{400}},
		{"a length with a plus", post(fmt.Sprintf("Content-Length: +%d\r\n", len(good)), good), []int{400}},
		{"a length beyond 64 bits", post("Content-Length: 18446744073709551616\r\n", good), []int{400}},
		{"a length of 8 EiB", post("Content-Length: 9223372036854775807\r\n", good), []int{413}},
		{"no length is a length of 0", post(last, good), []int{401}},
		{"a length that is too short", post(fmt.Sprintf("Content-Length: %d\r\n", len(good)-1)+last, good), []int{401}},
		{"what is no transfer encoding", post("Transfer-Encoding: xchunked\r\n", chunk+"0\r\n\r\n"), []int{501}},
		{"two transfer encodings", post("Transfer-Encoding: chunked, identity\r\n", chunk+"0\r\n\r\n"), []int{501}},
		{"a transfer encoding twice", post(chunked+chunked, chunk+"0\r\n\r\n"), []int{501}},
		{"a transfer encoding before a space", post("Transfer-Encoding : chunked\r\n", chunk+"0\r\n\r\n"), []int{400}},
		{"a transfer encoding after a tab", post("Transfer-Encoding:\tchunked\r\n"+last, chunk+"0\r\n\r\n"), []int{200}},
		{"a transfer encoding in HTTP/1.0, which has none", strings.Replace(post(chunked, chunk+"0\r\n\r\n"), "HTTP/1.1", "HTTP/1.0", 1), []int{401}},
		{"chunks", post(chunked+last, chunk+"0\r\n\r\n"), []int{200}},
		{"a chunk extension", post(chunked+last, strings.Replace(chunk, "\r\n", ";a=b\r\n", 1)+"0\r\n\r\n"), []int{200}},
		{"a long chunk extension", post(chunked+last, strings.Replace(chunk, "\r\n", ";a="+strings.Repeat("b", 9000)+"\r\n", 1)+"0\r\n\r\n"), []int{400}},
		{"a chunk extension with a bare line feed", post(chunked+last, strings.Replace(chunk, "\r\n", ";a\n", 1)+"0\r\n\r\n"), []int{400}},
		{"a bare line feed after a chunk", post(chunked+last, strings.TrimSuffix(chunk, "\r\n")+"\n0\r\n\r\n"), []int{400}},
		{"a chunk of 16 EiB", post(chunked+last, "ffffffffffffffff\r\n"+strings.Repeat(" ", 3_100_000)), []int{413}},
		{"a chunk length of 17 digits", post(chunked+last, "10000000000000000\r\n"+good), []int{400}},
		{"a negative chunk", post(chunked+last, "-1\r\n"+good), []int{400}},
		{"a hexadecimal prefix", post(chunked+last, "0x"+chunk+"0\r\n\r\n"), []int{400}},
		{"a trailer that is a header", post(chunked+"Trailer: X-Hook-Signature\r\n"+last, chunk+"0\r\nX-Hook-Signature: 0\r\n\r\n"), []int{200}},
		{"a trailer that is a length", post(chunked+"Trailer: Content-Length\r\n"+last, chunk+"0\r\nContent-Length: 1\r\n\r\n"), []int{400}},
		{"a folded header", post("A: b\r\n c\r\n"+length+last, good), []int{200}},
		{"a folded length", post("Content-Length:\r\n 0\r\n"+last, hidden), []int{401}},
		{"a space in front of the first header", strings.Replace(post(length, good), "Host", " Host", 1), []int{400}},
		{"bare line feeds", strings.ReplaceAll(post(length+last, good), "\r\n", "\n"), []int{200}},
		{"a bare carriage return", post("A: b\rTransfer-Encoding: chunked\r\n"+length+last, good), []int{400}},
		{"a zero byte in a header", post("A: \x00\r\n"+length+last, good), []int{400}},
		{"a header name with a space", post("A b: c\r\n"+length+last, good), []int{400}},
		{"a header without a colon", post("A\r\n"+length+last, good), []int{400}},
		{"two hosts", post("Host: y\r\n"+length, good), []int{400}},
		{"no host", strings.Replace(post(length, good), "Host: x\r\n", "", 1), []int{400}},
		{"two signatures", post(netbox.SignatureHeader+": "+netbox.Sign([]byte(key), []byte(good))+"\r\n"+length+last, good), []int{401}},
		{"two content types", post("Content-Type: text/plain\r\n"+length+last, good), []int{200}},
		{"a whole URL", strings.Replace(post(length+last, good), path, "http://elsewhere"+path, 1), []int{200}},
		{"no path", strings.Replace(post(length+last, good), path, "*", 1), []int{404}},
		{"CONNECT", strings.Replace(post(length+last, good), "POST "+path, "CONNECT x:80", 1), []int{405}},
		{"another method hidden in a header", post("X-HTTP-Method-Override: DELETE\r\n"+length+last, good), []int{200}},
		{"a method of another case", strings.Replace(post(length+last, good), "POST", "post", 1), []int{405}},
		{"a path with dots", strings.Replace(post(length+last, good), path, "/x/.."+path, 1), []int{404}},
		{"a path with an escaped slash", strings.Replace(post(length+last, good), path, strings.ReplaceAll(path, "/", "%2f"), 1), []int{400}},
		{"a path with a zero byte", strings.Replace(post(length+last, good), path, path+"%00", 1), []int{404}},
		{"a path of 20 000 characters", strings.Replace(post(length, good), path, "/"+strings.Repeat("x", 20_000), 1), []int{431}},
		{"a header of 20 000 characters", post("A: "+strings.Repeat("x", 20_000)+"\r\n"+length, good), []int{431}},
		{"HTTP/0.9", "GET /\r\n", []int{400}},
		{"HTTP/1.0", strings.Replace(post(length, good), "HTTP/1.1", "HTTP/1.0", 1), []int{200}},
		{"HTTP/1.9", strings.Replace(post(length+last, good), "HTTP/1.1", "HTTP/1.9", 1), []int{200}},
		{"HTTP/2 without TLS", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00", []int{405}},
		{"an upgrade to HTTP/2", post("Connection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"+length, good), []int{200}},
		{"an upgrade to WebSockets", post("Connection: Upgrade, close\r\nUpgrade: websocket\r\n"+length, good), []int{200}},
		{"an expectation that there is not", post("Expect: 200-maybe\r\n"+length, good), []int{417}},
		{"TLS to the plain port", "\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03", []int{400}},
		{"no HTTP", "\x00\x01\x02\x03\r\n\r\n", []int{400}},
		{"a proxy's preface", "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + post(length, good), []int{400}},
	}
}

// exchange sends bytes on a new connection, and returns the statuses of all answers. It takes a few seconds if the connection is kept open.
func exchange(t *testing.T, address, request string) (statuses []int) {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(conn, request) // the receiver may have closed it before it has all
	for answers := bufio.NewReader(conn); ; {
		answer, err := http.ReadResponse(answers, nil)
		if err != nil {
			if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
				statuses = append(statuses, 0) // nothing came, and the connection is still open
			}
			return statuses
		}
		_, _ = io.Copy(io.Discard, answer.Body)
		statuses = append(statuses, answer.StatusCode)
	}
}
