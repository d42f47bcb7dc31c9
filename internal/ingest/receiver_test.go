package ingest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr/testr"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/app"
	"github.com/netbox-events/netbox-event-operator/internal/eventstore"
	"github.com/netbox-events/netbox-event-operator/internal/ingest"
	"github.com/netbox-events/netbox-event-operator/internal/ingest/apidocs/apidocstest"
	"github.com/netbox-events/netbox-event-operator/internal/netbox"
	"github.com/netbox-events/netbox-event-operator/internal/payload"
	"github.com/netbox-events/netbox-event-operator/internal/source"
	"github.com/netbox-events/netbox-event-operator/test/controlplane"
	"github.com/netbox-events/netbox-event-operator/test/deliveries"
)

var plane *controlplane.ControlPlane

func TestMain(m *testing.M) { controlplane.Main(m, &plane) }

// receiver is the Receiver of one replica, behind an HTTP server.
type receiver struct {
	*httptest.Server
	handler *ingest.Receiver
	// recorded receives its Kubernetes Events.
	recorded chan string
	metrics  *prometheus.Registry
}

// counted returns its request counters as "namespace/name result count".
func (r receiver) counted(t *testing.T) (counts []string) {
	t.Helper()
	families, err := r.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != "netbox_events_receiver_requests_total" {
			continue
		}
		for _, metric := range family.GetMetric() {
			labels := map[string]string{}
			for _, label := range metric.GetLabel() {
				labels[label.GetName()] = label.GetValue()
			}
			counts = append(counts, fmt.Sprintf("%s %s %.0f", labels["source"], labels["result"], metric.GetCounter().GetValue()))
		}
	}
	return counts
}

func start(t *testing.T, config *rest.Config) receiver {
	t.Helper()
	return startHolding(t, config, 25*time.Second)
}

// startHolding starts a receiver with the given hold.
func startHolding(t *testing.T, config *rest.Config, hold time.Duration) receiver {
	t.Helper()
	scheme := plane.Client.Scheme()
	sources, err := cache.New(config, cache.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	if err := app.IndexSources(t.Context(), sources); err != nil {
		t.Fatal(err)
	}
	go func() { _ = sources.Start(t.Context()) }()
	if !sources.WaitForCacheSync(t.Context()) {
		t.Fatal("the cache does not sync")
	}
	api, err := client.New(config, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	store, err := eventstore.New(config, scheme)
	if err != nil {
		t.Fatal(err)
	}
	recorder, registry := events.NewFakeRecorder(1000), prometheus.NewRegistry()
	handler := ingest.NewReceiver(ingest.Options{
		Sources: sources, Secrets: api, Events: store, Recorder: recorder, Registry: registry, Clock: clock.RealClock{},
		Hold: hold, Log: testr.New(t),
	})
	if err := app.OnSourceChange(t.Context(), sources, handler.SourcesChanged); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return receiver{server, handler, recorder.Events, registry}
}

// newSource creates a source with one key, and waits until it is served.
func newSource(t *testing.T, at receiver, key string, change func(*v1alpha1.NetBoxSource)) *v1alpha1.NetBoxSource {
	t.Helper()
	namespace := plane.Namespace(t)
	target := &v1alpha1.NetBoxSource{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "netbox"}}
	if key == "" {
		target.Spec.Unsigned = v1alpha1.UnsignedAccept
	} else {
		target.Spec.SecretRef = &v1alpha1.SecretKeysReference{Name: "webhook"}
		plane.Create(t, secret(namespace, map[string]string{"secret": key + "\n"}))
	}
	if change != nil {
		change(target)
	}
	plane.Create(t, target)
	served(t, at, source.Path(target))
	return target
}

func secret(namespace string, entries map[string]string) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "webhook"}, StringData: entries}
}

func served(t *testing.T, at receiver, path string) {
	t.Helper()
	eventually(t, "source is not served", func() bool {
		return post(t, at.URL+path, "", map[string]string{"Content-Type": "x"}).status != http.StatusNotFound
	})
}

func eventually(t *testing.T, message string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(message)
		}
	}
}

type response struct {
	status int
	header http.Header
	body   []byte
	took   time.Duration

	Result string
	Event  string
	Errors []struct{ Field, Message string }
}

func post(t *testing.T, url, body string, headers map[string]string) response {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	for name, value := range headers {
		request.Header.Set(name, value)
	}
	return send(t, request)
}

func send(t *testing.T, request *http.Request) response {
	t.Helper()
	started := time.Now()
	answer, err := http.DefaultTransport.RoundTrip(request) // follows no redirect
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	response := response{status: answer.StatusCode, header: answer.Header, body: body, took: time.Since(started)}
	if err := json.Unmarshal(body, &response); err != nil && request.Method != http.MethodHead {
		t.Fatalf("the body of answer %d is no JSON: %q", answer.StatusCode, body)
	}
	return response
}

func signed(key, body string) map[string]string {
	return map[string]string{netbox.SignatureHeader: netbox.Sign([]byte(key), []byte(body))}
}

func event(n int) string {
	return fmt.Sprintf(`{"event":"updated","timestamp":"2020-11-23T10:00:00.5+00:00","object_type":"dcim.site","data":{"id":%d}}`, n)
}

// TestRecorded sends every recorded delivery, and compares the stored event with it.
func TestRecorded(t *testing.T) {
	at := start(t, plane.Config)
	all, err := deliveries.All()
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	want := map[string]deliveries.Delivery{}
	sources := map[string]*v1alpha1.NetBoxSource{}
	work := make(chan deliveries.Delivery)
	var senders sync.WaitGroup
	statuses := map[int]int{}
	for range 8 {
		senders.Go(func() {
			for delivery := range work {
				key := ""
				if delivery.Key != nil {
					key = *delivery.Key
				}
				mu.Lock()
				target := sources[key]
				mu.Unlock()
				request, err := delivery.Request(t.Context(), at.URL+source.Path(target)+"/?from="+delivery.File)
				if err != nil {
					t.Error(err)
					continue
				}
				answer := send(t, request)
				if wantStatus := expectedStatus(delivery); answer.status != wantStatus {
					t.Errorf("%s: answered %d %s, want %d", delivery, answer.status, answer.Result, wantStatus)
				}
				mu.Lock()
				statuses[answer.status]++
				if answer.status == http.StatusOK && answer.Result == "ok" {
					want[answer.Event] = delivery
				}
				mu.Unlock()
			}
		})
	}
	for _, delivery := range all {
		key := ""
		if delivery.Key != nil {
			key = *delivery.Key
		}
		mu.Lock()
		known := sources[key] != nil
		mu.Unlock()
		if !known {
			target := newSource(t, at, key, nil)
			mu.Lock()
			sources[key] = target
			mu.Unlock()
		}
		work <- delivery
	}
	close(work)
	senders.Wait()
	t.Logf("answers: %v, events: %d", statuses, len(want))

	compared := 0
	for _, target := range sources {
		var stored v1alpha1.NetBoxEventList
		if err := plane.Client.List(t.Context(), &stored, client.InNamespace(target.Namespace)); err != nil {
			t.Fatal(err)
		}
		for _, item := range stored.Items {
			sent, ok := want[item.Namespace+"/"+item.Name]
			if !ok {
				t.Errorf("%s was stored without an answer", item.Name)
				continue
			}
			compare(t, sent, item)
			compared++
		}
	}
	if compared != len(want) || compared < 3000 {
		t.Errorf("%d events are stored, want %d", compared, len(want))
	}
}

// expectedStatus returns the status according to the contract.
func expectedStatus(delivery deliveries.Delivery) int {
	var body map[string]any
	switch {
	case delivery.Method != http.MethodPost:
		return http.StatusMethodNotAllowed
	case !strings.HasPrefix(delivery.Header("Content-Type"), "application/json"):
		return http.StatusUnsupportedMediaType
	case json.Unmarshal([]byte(delivery.Body), &body) != nil:
		return http.StatusBadRequest
	case body["event"] == nil:
		return http.StatusUnprocessableEntity
	default:
		return http.StatusOK
	}
}

func compare(t *testing.T, delivery deliveries.Delivery, stored v1alpha1.NetBoxEvent) {
	t.Helper()
	var body, sent, again map[string]any
	number(t, []byte(delivery.Body), &body)
	number(t, []byte(delivery.Body), &sent)
	remade, err := payload.Body(&stored)
	if err != nil {
		t.Fatal(err)
	}
	number(t, remade, &again)
	redacted := stored.Spec.Delivery.Redacted
	if diff := cmp.Diff(normal(sent, "", redacted), normal(again, "", redacted)); diff != "" {
		t.Errorf("%s: body (-sent +restored):\n%s", delivery, diff)
	}
	var spec map[string]any
	encoded, err := json.Marshal(stored.Spec)
	if err != nil {
		t.Fatal(err)
	}
	number(t, encoded, &spec)
	changed := slices.Concat(stored.Spec.Delivery.Redacted, stored.Spec.Delivery.Stringified)
	for _, pointer := range stored.Spec.Delivery.Stringified {
		if got, want := fmt.Sprint(at(spec, pointer)), fmt.Sprint(at(body, pointer)); got != want {
			t.Errorf("%s: %s is stored as %s, was sent as %s", delivery, pointer, got, want)
		}
	}
	for _, pointer := range stored.Spec.Delivery.Redacted {
		if got := at(spec, pointer); got != netbox.Redacted {
			t.Errorf("%s: %s is stored as %v", delivery, pointer, got)
		}
	}
	for _, name := range []string{"data", "snapshots", "request", "context"} {
		if diff := cmp.Diff(normal(body[name], "/"+name, changed), normal(spec[name], "/"+name, changed)); diff != "" {
			t.Errorf("%s: %s (-sent +stored):\n%s", delivery, name, diff)
		}
	}
	if stored.Status.Phase != v1alpha1.PhasePending {
		t.Errorf("%s: phase %q", delivery, stored.Status.Phase)
	}
}

func number(t *testing.T, encoded []byte, into any) {
	t.Helper()
	decoder := json.NewDecoder(bytes.NewReader(encoded))
	decoder.UseNumber()
	if err := decoder.Decode(into); err != nil {
		t.Fatal(err)
	}
}

// normal formats equal numbers alike, since the API server turns 1.0 into 1, and blanks redacted and stringified values.
func normal(value any, pointer string, changed []string) any {
	if slices.Contains(changed, pointer) {
		return "changed"
	}
	escape := strings.NewReplacer("~", "~0", "/", "~1")
	switch value := value.(type) {
	case map[string]any:
		for name, child := range value {
			value[name] = normal(child, pointer+"/"+escape.Replace(name), changed)
		}
	case []any:
		for i, child := range value {
			value[i] = normal(child, fmt.Sprintf("%s/%d", pointer, i), changed)
		}
	case json.Number:
		exact, _ := new(big.Rat).SetString(value.String())
		return json.Number(exact.RatString())
	}
	return value
}

// at returns the value at a pointer of which no token needs to be unescaped.
func at(value any, pointer string) any {
	for token := range strings.SplitSeq(strings.TrimPrefix(pointer, "/"), "/") {
		switch container := value.(type) {
		case map[string]any:
			value = container[token]
		case []any:
			var index int
			_, _ = fmt.Sscan(token, &index)
			value = container[index]
		}
	}
	return value
}

// TestEmptyObjects distinguishes an empty object from null, as NetBox does for jobs.
func TestEmptyObjects(t *testing.T) {
	at := start(t, plane.Config)
	target := newSource(t, at, "", nil)
	for sent, empty := range map[string]bool{"{}": true, "null": false} {
		body := `{"event":"job_ended","timestamp":"2020-11-23T10:00:00.5+00:00","model":"script","username":null,"data":` +
			sent + `,"snapshots":` + sent + `,"context":` + sent + `,"request":` + sent + `,"extra":` + sent + `}`
		answer := post(t, at.URL+source.Path(target), body, nil)
		_, name, _ := strings.Cut(answer.Event, "/")
		var stored v1alpha1.NetBoxEvent
		if err := plane.Client.Get(t.Context(), client.ObjectKey{Namespace: target.Namespace, Name: name}, &stored); err != nil {
			t.Fatal(err)
		}
		for field, object := range map[string]v1alpha1.JSONObject{
			"data": stored.Spec.Data, "snapshots": stored.Spec.Snapshots, "context": stored.Spec.Context, "request": stored.Spec.Request,
		} {
			if (object != nil) != empty || len(object) > 0 {
				t.Errorf("%s: %s is stored as %v", field, sent, object)
			}
		}
		compare(t, deliveries.Delivery{Body: body}, stored)
	}
}

// TestLongTexts sends a text of 100 kB for each printer column: the column is truncated, and the full text is stored.
func TestLongTexts(t *testing.T) {
	at := start(t, plane.Config)
	target := newSource(t, at, "", nil)
	long := strings.Repeat("é", 50_000)
	body := fmt.Sprintf(`{"event":%q,"timestamp":"2020-11-23T10:00:00.5+00:00","object_type":"dcim.%s","username":%q,"request_id":%q,`+
		`"data":{"id":%q,"url":%q,"display":%q}}`, long, long, long, long, long, long, long)
	answer := post(t, at.URL+source.Path(target), body, nil)
	if answer.status != 200 {
		t.Fatal(answer.status, answer.Result)
	}
	_, name, _ := strings.Cut(answer.Event, "/")
	var stored v1alpha1.NetBoxEvent
	if err := plane.Client.Get(t.Context(), client.ObjectKey{Namespace: target.Namespace, Name: name}, &stored); err != nil {
		t.Fatal(err)
	}
	spec := stored.Spec
	for field, text := range map[string]string{
		"event": spec.Event, "objectType": spec.ObjectType, "model": spec.Model, "username": spec.Username, "requestID": spec.RequestID,
		"objectID": spec.ObjectID, "objectURL": spec.ObjectURL, "objectName": spec.ObjectName,
	} {
		if len(text) > 1024 || !strings.HasSuffix(text, "é…") {
			t.Errorf("%s takes %d bytes", field, len(text))
		}
	}
	compare(t, deliveries.Delivery{Body: body}, stored)
}

// TestOneEvent sends the same delivery a hundred times at once to two replicas.
func TestOneEvent(t *testing.T) {
	replicas := []receiver{start(t, plane.Config), start(t, plane.Config)}
	target := newSource(t, replicas[0], "key", nil)
	served(t, replicas[1], source.Path(target))
	var all sync.WaitGroup
	results := make(chan response, 100)
	for i := range 100 {
		all.Go(func() { results <- post(t, replicas[i%2].URL+source.Path(target), event(1), signed("key", event(1))) })
	}
	all.Wait()
	close(results)
	count := map[string]int{}
	for answer := range results {
		count[fmt.Sprint(answer.status, answer.Result)]++
	}
	if diff := cmp.Diff(map[string]int{"200ok": 1, "200duplicate": 99}, count); diff != "" {
		t.Errorf("answers (-want +got):\n%s", diff)
	}
	var stored v1alpha1.NetBoxEventList
	if err := plane.Client.List(t.Context(), &stored, client.InNamespace(target.Namespace)); err != nil || len(stored.Items) != 1 {
		t.Errorf("%d events are stored: %v", len(stored.Items), err)
	}
}

// TestContract checks the answer to each kind of request.
func TestContract(t *testing.T) {
	at := start(t, plane.Config)
	target := newSource(t, at, "key", func(s *v1alpha1.NetBoxSource) {
		s.Spec.MaxBodyBytes = 5000
		s.Spec.MaxAge = &metav1.Duration{Duration: 24 * time.Hour}
	})
	newSource(t, at, "", func(s *v1alpha1.NetBoxSource) { s.Spec.Path = "/open/"; s.Spec.MaxBodyBytes = 3_000_000 })
	either := newSource(t, at, "key", func(s *v1alpha1.NetBoxSource) { s.Spec.Unsigned = v1alpha1.UnsignedAccept })
	suspended := newSource(t, at, "key", func(s *v1alpha1.NetBoxSource) { s.Spec.Suspend = true })
	limited := newSource(t, at, "key", func(s *v1alpha1.NetBoxSource) {
		s.Spec.RateLimit = &v1alpha1.RateLimit{RequestsPerSecond: 1, Burst: 1}
	})
	bounded := newSource(t, at, "key", func(s *v1alpha1.NetBoxSource) { s.Spec.MaxPending = 1 })
	choosy := newSource(t, at, "", func(s *v1alpha1.NetBoxSource) {
		s.Spec.Accept = &v1alpha1.Filter{ObjectTypes: []string{"dcim.*"}, CEL: "data.id < 3"}
	})
	broken := newSource(t, at, "", func(s *v1alpha1.NetBoxSource) { s.Spec.Accept = &v1alpha1.Filter{CEL: "data.id <"} })
	now := strings.Replace(event(1), "2020-11-23T10:00:00.5", time.Now().UTC().Format("2006-01-02T15:04:05"), 1)
	long := strings.Replace(now, "{", "{"+strings.Repeat(" ", 5000), 1)
	big := strings.Replace(event(2), `"data":{`, `"data":{"x":"`+strings.Repeat("x", 1_700_000)+`",`, 1)
	bigger := strings.Replace(event(2), `"data":{`, `"data":{"x":"`+strings.Repeat("x", 2_300_000)+`",`, 1)
	bigAsStored := strings.Replace(event(2), `"data":{`, `"data":{"x":[1e20`+strings.Repeat(",1e20", 70_300)+`],`, 1) // 22 bytes each
	tooMany := strings.Replace(event(2), `"data":{`, `"data":{"x":[0`+strings.Repeat(",0", netbox.MaxValues)+`],`, 1)
	hugeWhenEscaped := strings.Replace(event(2), `"data":{`, `"data":{"x":"`+strings.Repeat("<", 900_000)+`",`, 1)

	described := apidocstest.Validator(t)
	for _, test := range []struct {
		reason string
		method string
		path   string
		body   string
		header map[string]string
		want   int
		result string
	}{
		{"stored", "POST", source.Path(target), now, signed("key", now), 200, "ok"},
		{"the same again, to the path with a slash and a query", "POST", source.Path(target) + "/?a=b", now, signed("key", now), 200, "duplicate"},
		{"unsigned where that is accepted", "POST", "/open", event(1), nil, 200, "ok"},
		{"signed where there is no key", "POST", "/open", event(1), signed("other", event(1)), 200, "duplicate"},
		{"unsigned beside a key", "POST", source.Path(either), event(3), nil, 200, "ok"},
		{"another media type of JSON", "POST", "/open", event(1), map[string]string{"Content-Type": "Application/Foo+JSON;x"}, 200, "duplicate"},
		{"no JSON", "POST", "/open", "{", nil, 400, "not valid JSON: unexpected EOF (line 1, column 2, byte 1)"},
		{"NaN", "POST", "/open", `{"a": NaN}`, nil, 400, "not valid JSON: NaN is not a JSON number (line 1, column 7, byte 6)"},
		{"no object", "POST", "/open", `[]`, nil, 400, "the body must be a JSON object, is an array (line 1, column 1, byte 0)"},
		{"no body", "POST", "/open", "", nil, 400, "the body is empty (line 1, column 1, byte 0)"},
		{"no signature", "POST", source.Path(target), now, nil, 401, ""},
		{"a wrong signature", "POST", source.Path(target), now, signed("wrong", now), 401, ""},
		{"a wrong signature where none is needed", "POST", source.Path(either), event(3), signed("wrong", event(3)), 401, ""},
		{"a prefixed signature", "POST", source.Path(target), now, map[string]string{netbox.SignatureHeader: "sha512=" + netbox.Sign([]byte("key"), []byte(now))}, 401, ""},
		{"no such path", "POST", "/webhook", now, nil, 404, ""},
		{"GET, as after a redirect", "GET", source.Path(target), "", nil, 405, ""},
		{"GET without a source", "GET", "/", "", nil, 405, ""},
		{"HEAD", "HEAD", source.Path(target), "", nil, 405, ""},
		{"PUT", "PUT", source.Path(target), now, signed("key", now), 405, ""},
		{"over the source's limit", "POST", source.Path(target), long, signed("key", long), 413, ""},
		{"over etcd's limit", "POST", "/open", big, nil, 413, ""},
		{"over etcd's limit as it is stored", "POST", "/open", bigAsStored, nil, 413, ""},
		{"too many values", "POST", "/open", tooMany, nil, 413, netbox.ErrTooManyValues.Error()},
		{"over the limit of the API server's connection to etcd", "POST", "/open", bigger, nil, 413, ""},
		{"over the API server's limit", "POST", "/open", hugeWhenEscaped, nil, 413, ""},
		{"a form", "POST", source.Path(target), now, map[string]string{"Content-Type": "application/x-www-form-urlencoded"}, 415, ""},
		{"no content type", "POST", source.Path(target), now, map[string]string{"Content-Type": ""}, 415, ""},
		{"other keys", "POST", "/open", `{"a":1,"event":5}`, nil, 422, ""},
		{"too old", "POST", source.Path(target), event(1), signed("key", event(1)), 422, "the event is too old: timestamp is older than the source's maxAge, 24h0m0s"},
		{"within the rate", "POST", source.Path(limited), event(1), signed("key", event(1)), 200, "ok"},
		{"over the rate", "POST", source.Path(limited), event(2), signed("key", event(2)), 429, ""},
		{"within maxPending", "POST", source.Path(bounded), event(1), signed("key", event(1)), 200, "ok"},
		{"over maxPending", "POST", source.Path(bounded), event(2), signed("key", event(2)), 429, "the backlog of this source is full: 1 pending events (spec.maxPending); try again"},
		{"accepted", "POST", source.Path(choosy), event(1), nil, 200, "ok"},
		{"accepted, and stored before", "POST", source.Path(choosy), event(1), nil, 200, "duplicate"},
		{"of another object type", "POST", source.Path(choosy), strings.Replace(event(2), "dcim.site", "ipam.vlan", 1), nil, 200, "ignored"},
		{"not matched by the expression", "POST", source.Path(choosy), event(3), nil, 200, "ignored"},
		{"accept.cel fails", "POST", source.Path(choosy), strings.Replace(event(3), `"id"`, `"no"`, 1), nil, 200, "ok"},
		{"accept does not compile", "POST", source.Path(broken), event(1), nil, 503, "spec.accept of this source does not compile; see the source's status"},
		{"suspended", "POST", source.Path(suspended), now, signed("key", now), 503, "this source is suspended"},
	} {
		for _, chunked := range []bool{false, true} {
			if chunked && test.want == 200 {
				continue
			}
			var body io.Reader = strings.NewReader(test.body)
			if chunked {
				body = io.MultiReader(body) // hides the length
			}
			request, err := http.NewRequestWithContext(t.Context(), test.method, at.URL+test.path, body)
			if err != nil {
				t.Fatal(err)
			}
			request.Header.Set("Content-Type", "application/json")
			for name, value := range test.header {
				request.Header.Set(name, value)
			}
			answer := send(t, request)
			if answer.status != test.want || test.result != "" && answer.Result != test.result {
				t.Errorf("%s (chunked: %t): %d %q, want %d %q", test.reason, chunked, answer.status, answer.Result, test.want, test.result)
			}
			if test.method != "HEAD" {
				described(answer.status, answer.header, answer.body)
			}
			if test.want == 401 && answer.header.Get("WWW-Authenticate") != `HMAC-SHA512 header="X-Hook-Signature"` {
				t.Errorf("%s: WWW-Authenticate is %q", test.reason, answer.header.Get("WWW-Authenticate"))
			}
			if test.want == 405 && answer.header.Get("Allow") != "POST" {
				t.Errorf("%s: Allow is %q", test.reason, answer.header.Get("Allow"))
			}
			if (test.want == 429 || test.want == 503) && answer.header.Get("Retry-After") == "" {
				t.Errorf("%s: no Retry-After", test.reason)
			}
			if test.reason == "other keys" {
				if advice := "; clear the webhook's body template in NetBox"; !strings.HasSuffix(answer.Result, advice) {
					t.Errorf("the result is %q, without %q", answer.Result, advice)
				}
				var faulty []string
				for _, fault := range answer.Errors {
					faulty = append(faulty, fault.Field)
				}
				if diff := cmp.Diff([]string{"data", "event", "object_type", "timestamp"}, faulty); diff != "" {
					t.Errorf("faults (-want +got):\n%s", diff)
				}
			}
			if test.method != "HEAD" && answer.Result == "" {
				t.Errorf("%s: no result", test.reason)
			}
		}
	}

	select {
	case recorded := <-at.recorded:
		t.Log(recorded)
	default:
		t.Error("no Kubernetes Event about the refusals")
	}
}

// TestRefusedTests expects that tests of kubectl netbox that are refused do not warn, and do not keep a delivery of NetBox from it.
func TestRefusedTests(t *testing.T) {
	at := start(t, plane.Config)
	target := newSource(t, at, "key", nil)
	for _, test := range []struct{ agent, want string }{
		{"kubectl-netbox", "Normal SignatureMismatch test from 127.0.0.1:"},
		{"python-urllib3/2.8.0", "Warning SignatureMismatch delivery from 127.0.0.1:"},
	} {
		post(t, at.URL+source.Path(target), "{}", map[string]string{"User-Agent": test.agent})
		for recorded := ""; !strings.HasPrefix(recorded, test.want); {
			select {
			case recorded = <-at.recorded:
			case <-time.After(10 * time.Second):
				t.Fatalf("there is no Kubernetes Event %s", test.want)
			}
		}
	}
}

// TestKeys rotates the key of a source.
func TestKeys(t *testing.T) {
	at := start(t, plane.Config)
	target := newSource(t, at, "old", nil)
	n := 0
	send := func(key string) int {
		n++
		return post(t, at.URL+source.Path(target), event(n), signed(key, event(n))).status
	}
	update := func(entries map[string]string) {
		t.Helper()
		current := secret(target.Namespace, nil)
		if err := plane.Client.Get(t.Context(), client.ObjectKeyFromObject(current), current); err != nil {
			t.Fatal(err)
		}
		current.Data, current.StringData = nil, entries
		if err := plane.Client.Update(t.Context(), current); err != nil {
			t.Fatal(err)
		}
	}
	if got := send("old"); got != 200 {
		t.Fatalf("the first key: %d", got)
	}
	time.Sleep(1100 * time.Millisecond) // the Secret is read at most once a second
	update(map[string]string{"old": "old", "new": "new"})
	for range 20 {
		if before, after := send("old"), send("new"); before != 200 || after != 200 {
			t.Fatalf("with both keys in the Secret: the old one is answered with %d, the new one with %d", before, after)
		}
	}
	time.Sleep(1100 * time.Millisecond)
	update(map[string]string{"new": "new"})
	if got := send("wrong"); got != 401 { // triggers a read of the Secret
		t.Fatalf("a wrong key: %d", got)
	}
	if before, after := send("old"), send("new"); before != 401 || after != 200 {
		t.Errorf("after removing the old key: it is answered with %d, the new one with %d", before, after)
	}
}

// TestSecretLater creates the Secret after the source.
func TestSecretLater(t *testing.T) {
	impatient, patient := startHolding(t, plane.Config, time.Second), start(t, plane.Config)
	namespace := plane.Namespace(t)
	target := &v1alpha1.NetBoxSource{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "netbox"}}
	target.Spec.SecretRef = &v1alpha1.SecretKeysReference{Name: "webhook", Key: "token"}
	plane.Create(t, target)
	served(t, impatient, source.Path(target))
	served(t, patient, source.Path(target))
	send := func(at receiver) response {
		return post(t, at.URL+source.Path(target), event(1), signed("key", event(1)))
	}
	if answer := send(impatient); answer.status != 503 || answer.header.Get("Retry-After") == "" || strings.Contains(answer.Result, "webhook") ||
		answer.took < time.Second || answer.took > 2*time.Second {
		t.Errorf("without a Secret: %+v", answer)
	}
	time.AfterFunc(2*time.Second, func() { plane.Create(t, secret(namespace, map[string]string{"token": "key"})) })
	if answer := send(patient); answer.status != 200 || answer.took < time.Second || answer.took > 6*time.Second {
		t.Errorf("the Secret is created while the delivery is held: %+v", answer)
	}
}

// TestSourcesDeleted deletes sources after deliveries to them: the receiver must keep no state of them.
func TestSourcesDeleted(t *testing.T) {
	const count = 20
	at := start(t, plane.Config)
	stays := newSource(t, at, "key", nil)
	var gone []*v1alpha1.NetBoxSource
	for range count {
		gone = append(gone, newSource(t, at, "key", func(s *v1alpha1.NetBoxSource) {
			s.Spec.RateLimit = &v1alpha1.RateLimit{RequestsPerSecond: 1, Burst: 10}
		}))
	}
	for n, target := range append(gone, stays) {
		if answer := post(t, at.URL+source.Path(target), event(n), signed("key", event(n))); answer.status != 200 {
			t.Errorf("%d %s", answer.status, answer.Result)
		}
	}
	if kept := at.handler.Kept(); kept < 2*count {
		t.Fatalf("the receiver keeps %d limiters and key sets for %d sources", kept, count)
	}
	for _, target := range gone {
		if err := plane.Client.Delete(t.Context(), target); err != nil {
			t.Fatal(err)
		}
	}
	series := func() (names []string) {
		families, err := at.metrics.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, family := range families {
			for _, metric := range family.GetMetric() {
				for _, label := range metric.GetLabel() {
					if label.GetName() == "source" {
						names = append(names, label.GetValue())
					}
				}
			}
		}
		slices.Sort(names)
		return slices.Compact(names)
	}
	want := []string{"", stays.Namespace + "/" + stays.Name}
	eventually(t, "series of deleted sources are kept", func() bool { return slices.Equal(series(), want) })
	eventually(t, "limiters and keys of deleted sources are kept", func() bool { return at.handler.Kept() == 1 })
}

// stored returns the number of stored events in a namespace.
func stored(t *testing.T, namespace string) int {
	t.Helper()
	var events v1alpha1.NetBoxEventList
	if err := plane.Client.List(t.Context(), &events, client.InNamespace(namespace)); err != nil {
		t.Fatal(err)
	}
	return len(events.Items)
}

// outages are the two kinds of API server outages.
var outages = map[string]controlplane.OutageState{"refused": controlplane.Refused, "hung": controlplane.Hung}

// TestOutage is an outage shorter than the hold.
func TestOutage(t *testing.T) {
	const senders, outageTime = 20, 4 * time.Second
	for name, state := range outages {
		t.Run(name, func(t *testing.T) {
			outage, config := plane.NewOutage(t)
			at := start(t, config)
			target := newSource(t, at, "key", nil)
			send := func(n int) response { return post(t, at.URL+source.Path(target), event(n), signed("key", event(n))) }
			if answer := send(0); answer.status != 200 {
				t.Fatalf("before: %d %s", answer.status, answer.Result)
			}
			outage.Set(state)
			began := time.Now()
			var all sync.WaitGroup
			var sent atomic.Int64
			for range senders {
				all.Go(func() {
					for time.Since(began) < outageTime {
						if answer := send(int(sent.Add(1))); answer.status != 200 {
							t.Errorf("%d %s after %s", answer.status, answer.Result, answer.took)
						}
					}
				})
			}
			// A sender that hangs up before the outage ends.
			all.Go(func() {
				body := event(1000)
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				request, err := http.NewRequestWithContext(ctx, http.MethodPost, at.URL+source.Path(target), strings.NewReader(body))
				if err != nil {
					t.Error(err)
					return
				}
				request.Header.Set("Content-Type", "application/json")
				request.Header.Set(netbox.SignatureHeader, signed("key", body)[netbox.SignatureHeader])
				if answer, err := http.DefaultTransport.RoundTrip(request); err == nil {
					t.Errorf("answered with %d during the outage", answer.StatusCode)
					_ = answer.Body.Close()
				}
			})
			if answer := post(t, at.URL+source.Path(target), event(1), signed("wrong", event(1))); answer.status != 401 || answer.took > 2*time.Second {
				t.Errorf("a wrong signature during an outage: %d after %s, want 401 from cached keys", answer.status, answer.took)
			}
			time.Sleep(outageTime - time.Since(began))
			outage.Set(controlplane.Up)
			all.Wait()
			eventually(t, "the delivery of a sender that hung up is not stored", func() bool {
				return stored(t, target.Namespace) >= int(sent.Load())+2
			})
			if got, want := stored(t, target.Namespace), int(sent.Load())+2; got != want {
				t.Errorf("%d events are stored, want %d", got, want)
			}
		})
	}
}

// TestLongOutage is an outage longer than the hold.
func TestLongOutage(t *testing.T) {
	for name, state := range outages {
		t.Run(name, func(t *testing.T) {
			outage, config := plane.NewOutage(t)
			at := startHolding(t, config, 2*time.Second)
			target := newSource(t, at, "", nil)
			send := func(n int) response { return post(t, at.URL+source.Path(target), event(n), nil) }
			outage.Set(state)
			var all sync.WaitGroup
			for n := range 20 {
				all.Go(func() {
					if answer := send(n); answer.status != 503 || answer.took < 2*time.Second || answer.took > 3*time.Second ||
						answer.header.Get("Retry-After") == "" {
						t.Errorf("%d %q after %s", answer.status, answer.Result, answer.took)
					}
				})
			}
			all.Wait()
			outage.Set(controlplane.Up)
			if answer := send(1000); answer.status != 200 {
				t.Errorf("after the outage: %d %s", answer.status, answer.Result)
			}
		})
	}
}

// TestEndHolds stops a receiver that holds deliveries.
func TestEndHolds(t *testing.T) {
	outage, config := plane.NewOutage(t)
	at := start(t, config)
	target := newSource(t, at, "", nil)
	outage.Set(controlplane.Refused)
	var all sync.WaitGroup
	var ended atomic.Pointer[time.Time]
	for n := range 20 {
		all.Go(func() {
			answer := post(t, at.URL+source.Path(target), event(n), nil)
			if end := ended.Load(); answer.status != 503 || end == nil || time.Since(*end) > 2*time.Second {
				t.Errorf("%d %q after %s", answer.status, answer.Result, answer.took)
			}
		})
	}
	time.Sleep(time.Second)
	ended.Store(new(time.Now()))
	at.handler.EndHolds()
	all.Wait()
	if answer := post(t, at.URL+source.Path(target), event(1), nil); answer.status != 503 || answer.took > 2*time.Second {
		t.Errorf("a delivery after EndHolds: %d after %s", answer.status, answer.took)
	}
	outage.Set(controlplane.Up)
	if answer := post(t, at.URL+source.Path(target), event(1), nil); answer.status != 200 {
		t.Errorf("after EndHolds, without an outage: %d", answer.status)
	}
}

// TestSilentFailover replaces the API server without closing the kept connections to it.
func TestSilentFailover(t *testing.T) {
	outage, config := plane.NewOutage(t)
	at := start(t, config)
	target := newSource(t, at, "", nil)
	send := func(n int) response { return post(t, at.URL+source.Path(target), event(n), nil) }
	var all sync.WaitGroup
	for n := range 20 {
		all.Go(func() {
			if answer := send(n); answer.status != 200 {
				t.Errorf("before: %d %s", answer.status, answer.Result)
			}
		})
	}
	all.Wait()
	outage.Set(controlplane.Hung)
	outage.Set(controlplane.Up)
	if answer := send(20); answer.status != 200 || answer.took > 5*time.Second {
		t.Errorf("afterwards: %d %s after %s, want one attempt to fail on a kept connection", answer.status, answer.Result, answer.took)
	}
}

// TestThrottling is an API server that answers with Retry-After, and that closes connections in use.
func TestThrottling(t *testing.T) {
	transport, err := rest.TransportFor(plane.Config)
	if err != nil {
		t.Fatal(err)
	}
	api, err := url.Parse("https://" + strings.TrimPrefix(plane.Config.Host, "https://"))
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(api)
	proxy.Transport, proxy.FlushInterval = transport, -1
	refusals := make(chan http.HandlerFunc, 2)
	tooMuch := func(after string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", after)
			http.Error(w, "too many requests, please try again later", http.StatusTooManyRequests)
		}
	}
	between := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		if request.Method == http.MethodPost && strings.HasSuffix(request.URL.Path, "/netboxevents") {
			if agent := request.UserAgent(); agent != rest.DefaultKubernetesUserAgent() {
				t.Errorf("an audit log has %q for a user agent", agent)
			}
			select {
			case refuse := <-refusals:
				refuse(w, request)
				return
			default:
			}
		}
		proxy.ServeHTTP(w, request)
	}))
	t.Cleanup(between.CloseClientConnections)
	at := startHolding(t, &rest.Config{Host: between.URL}, 5*time.Second)
	target := newSource(t, at, "", nil)
	send := func() response { return post(t, at.URL+source.Path(target), event(1), nil) }

	refusals <- tooMuch("7")
	if answer := send(); answer.status != 503 || answer.header.Get("Retry-After") != "7" || answer.took > 2*time.Second {
		t.Errorf("Retry-After 7 s: %d, Retry-After %q, after %s", answer.status, answer.header.Get("Retry-After"), answer.took)
	}
	refusals <- tooMuch("1")
	if answer := send(); answer.status != 200 || answer.took < time.Second {
		t.Errorf("Retry-After 1 s: %d %s after %s", answer.status, answer.Result, answer.took)
	}
	refusals <- func(_ http.ResponseWriter, request *http.Request) {
		proxy.ServeHTTP(httptest.NewRecorder(), request)
		<-request.Context().Done()
	}
	body := event(2)
	if answer := post(t, at.URL+source.Path(target), body, nil); answer.status != 200 || answer.Result != "ok" {
		t.Errorf("event stored without an answer: %d %s after %s, want ok", answer.status, answer.Result, answer.took)
	}
	refusals <- func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	if answer := send(); answer.status != 200 {
		t.Errorf("kept connection closed: %d %s", answer.status, answer.Result)
	}
}
