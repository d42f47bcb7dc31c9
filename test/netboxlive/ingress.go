package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/netbox-events/netbox-event-operator/test/fleet"
	"github.com/netbox-events/netbox-event-operator/test/netbox"
)

// webhook is a webhook that NetBox sent, and its answer.
type webhook struct {
	key    netbox.Key
	body   []byte
	at     time.Time
	status int
	result string // stored, duplicate, …
}

// ingress passes webhooks on to the replicas in turn, as an Ingress does: it tries another replica if one refuses the connection, and answers
// with 502 if a connection breaks.
type ingress struct {
	server   *httptest.Server
	replicas []*fleet.Replica
	client   *http.Client

	mu       sync.Mutex
	next     int
	webhooks []webhook
}

func newIngress(replicas []*fleet.Replica) *ingress {
	i := &ingress{replicas: replicas}
	// A kept connection of a replica that was killed would break with the next webhook.
	i.client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	i.server = httptest.NewServer(i)
	return i
}

func (i *ingress) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // NetBox has ended
	}
	status, answer := i.pass(r, body)
	var sent struct {
		ObjectType string `json:"object_type"`
		Data       struct{ ID int64 }
		Request    struct{ ID string }
	}
	var answered struct{ Result string }
	if err := json.Unmarshal(body, &sent); err != nil {
		fleet.Say("a webhook that is not of NetBox: %v in %.200q", err, body)
	}
	_ = json.Unmarshal(answer, &answered) // a 502 has no result
	i.mu.Lock()
	i.webhooks = append(i.webhooks, webhook{
		key:  netbox.Key{RequestID: sent.Request.ID, ObjectType: sent.ObjectType, ObjectID: sent.Data.ID},
		body: body, at: time.Now(), status: status, result: answered.Result,
	})
	i.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(answer)
}

// pass sends a webhook to a replica, and returns its answer.
func (i *ingress) pass(r *http.Request, body []byte) (status int, answer []byte) {
	i.mu.Lock()
	i.next++
	first := i.next
	i.mu.Unlock()
	for n := range i.replicas {
		replica := i.replicas[(first+n)%len(i.replicas)]
		request, err := http.NewRequestWithContext(r.Context(), r.Method, "http://"+replica.Webhooks()+r.URL.RequestURI(), bytes.NewReader(body))
		if err != nil {
			break
		}
		request.Header = r.Header.Clone()
		response, err := i.client.Do(request)
		var connection *net.OpError
		if errors.As(err, &connection) && connection.Op == "dial" {
			continue
		}
		if err != nil {
			break
		}
		answer, err := io.ReadAll(response.Body)
		if err = errors.Join(err, response.Body.Close()); err != nil {
			break
		}
		return response.StatusCode, answer
	}
	return http.StatusBadGateway, nil
}

// since returns the webhooks after the first n.
func (i *ingress) since(n int) []webhook {
	i.mu.Lock()
	defer i.mu.Unlock()
	return slices.Clone(i.webhooks[n:])
}

// count is the number of webhooks so far.
func (i *ingress) count() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return len(i.webhooks)
}

// gate passes the operator's requests on to NetBox, and counts them.
type gate struct {
	server *httptest.Server

	mu     sync.Mutex
	counts map[string]int // by method and path, with N for ids
}

var idInPath = regexp.MustCompile(`/\d+/`)

func newGate(target string) (*gate, error) {
	to, err := url.Parse(target)
	if err != nil {
		return nil, err
	}
	g := &gate{counts: map[string]int{}}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			r.Out.Host = r.In.Host // NetBox writes its URLs with it
		},
		ErrorLog: log.New(io.Discard, "", 0), // a replica that is killed breaks its requests
	}
	g.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.mu.Lock()
		g.counts[r.Method+" "+idInPath.ReplaceAllString(r.URL.Path, "/N/")]++
		g.mu.Unlock()
		proxy.ServeHTTP(w, r)
	}))
	return g, nil
}

// reset returns the counts since the last reset.
func (g *gate) reset() map[string]int {
	g.mu.Lock()
	defer g.mu.Unlock()
	counts := g.counts
	g.counts = map[string]int{}
	return counts
}

// call is a request that the sink accepted.
type call struct {
	// rule is the last part of the URL.
	rule string
	key  netbox.Key
	// event is the name of the event.
	event string
	// device and lookup are of the rule lookup: the device of the interface, and what NetBox answered about it.
	device float64
	lookup *struct {
		ID   float64
		Name string
	}
}

// sink accepts the calls of all rules.
type sink struct {
	server *httptest.Server

	mu    sync.Mutex
	calls []call
}

func newSink() *sink {
	s := &sink{}
	s.server = httptest.NewServer(s)
	return s
}

func (s *sink) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var body struct {
		ID, RequestID, ObjectType, ObjectID string

		Device float64
		Lookup *struct {
			ID   float64
			Name string
		}
	}
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	id, _ := strconv.ParseInt(body.ObjectID, 10, 64) // jobs have none
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, call{
		rule: r.URL.Path[1:], key: netbox.Key{RequestID: body.RequestID, ObjectType: body.ObjectType, ObjectID: id}, event: body.ID,
		device: body.Device, lookup: body.Lookup,
	})
}

// of returns the calls of a rule.
func (s *sink) of(rule string) []call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(s.calls), func(c call) bool { return c.rule != rule })
}

// perHour writes counts as a rate.
func perHour(counts map[string]int, during time.Duration) (total float64, text string) {
	for _, path := range sortedKeys(counts) {
		rate := float64(counts[path]) * float64(time.Hour) / float64(during)
		total += rate
		text += fmt.Sprintf("; %.0f × %s", rate, path)
	}
	return total, text
}
