package netbox

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/outbound"
	"github.com/netbox-events/netbox-event-operator/internal/rule"
)

// reader has one source and its token.
type reader struct {
	client.Reader

	source *v1alpha1.NetBoxSource
}

func (r reader) Get(_ context.Context, name types.NamespacedName, into client.Object, _ ...client.GetOption) error {
	switch into := into.(type) {
	case *v1alpha1.NetBoxSource:
		r.source.DeepCopyInto(into)
	case *corev1.Secret:
		into.Name, into.Data = name.Name, map[string][]byte{"token": []byte("0123456789abcdef0123456789abcdef01234567\n")}
	}
	return nil
}

// asked has an Oracle for a NetBox whose answers a test gives, by path and query.
type asked struct {
	*Oracle

	source *v1alpha1.NetBoxSource
	clock  *clocktesting.FakeClock

	mu      sync.Mutex
	paths   []string
	answers map[string]string // or 502, or cut for a connection that ends
}

func (a *asked) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	a.paths = append(a.paths, r.URL.RequestURI())
	answer, ok := a.answers[r.URL.Path]
	a.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	switch {
	case r.URL.Path == "/api/status/":
		fmt.Fprint(w, `{"netbox-version": "4.7.3"}`)
	case !ok:
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, `{"detail": "No Site matches the given query."}`)
	case answer == "cut":
		panic(http.ErrAbortHandler)
	case answer == "502":
		w.WriteHeader(http.StatusBadGateway)
	default:
		fmt.Fprint(w, answer)
	}
}

func (a *asked) set(path, answer string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answers[path] = answer
}

// count returns how many requests were sent to a path.
func (a *asked) count(path string) (count int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, sent := range a.paths {
		if strings.HasPrefix(sent, path) {
			count++
		}
	}
	return count
}

func newAsked(t *testing.T) *asked {
	t.Helper()
	a := &asked{answers: map[string]string{}, clock: clocktesting.NewFakeClock(time.Date(2026, 11, 27, 8, 0, 0, 0, time.UTC))}
	server := httptest.NewServer(a)
	t.Cleanup(server.Close)
	a.source = &v1alpha1.NetBoxSource{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "netbox", UID: "u"}}
	a.source.Spec.Redact = []string{"auth_psk"}
	a.source.Spec.NetBox = &v1alpha1.NetBoxAPI{
		URL: server.URL, TokenSecretRef: v1alpha1.SecretKeyReference{Name: "token", Key: "token"}, Lookups: v1alpha1.LookupsAllowed,
	}
	secrets := outbound.NewSecrets(reader{source: a.source}, a.clock)
	transports := outbound.NewTransports(outbound.Options{
		Secrets: secrets, AllowCIDRs: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Clock: a.clock,
	})
	a.Oracle = NewOracle(reader{source: a.source}, NewClients(transports, secrets, NewMetrics(prometheus.NewRegistry()), a.clock), a.clock)
	return a
}

func (a *asked) event(request, id string) *v1alpha1.NetBoxEvent {
	return &v1alpha1.NetBoxEvent{
		ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "e", UID: types.UID("event " + id)},
		Spec: v1alpha1.NetBoxEventSpec{
			SourceRef: v1alpha1.SourceReference{Name: "netbox"}, RequestID: request, ObjectType: "dcim.site", ObjectID: id,
			Delivery: v1alpha1.Delivery{ReceivedAt: metav1.NewMicroTime(a.clock.Now())},
		},
	}
}

const changeLog = "/api/core/object-changes/"

// rows is a page of the change log with updates of sites.
func rows(request string, ids ...string) string {
	var rows []string
	for i, id := range ids {
		rows = append(rows, fmt.Sprintf(`{"id": %d, "time": "2026-11-27T08:00:00Z", "user_name": "admin", "request_id": %q,
			"action": {"value": "update", "label": "Updated"}, "changed_object_type": "dcim.site", "changed_object_id": %s,
			"object_repr": "s", "prechange_data": {}, "postchange_data": {}}`, i+1, request, id))
	}
	return fmt.Sprintf(`{"count": %d, "next": null, "previous": null, "results": [%s]}`, len(ids), strings.Join(rows, ","))
}

const request = "b3dc3247-883f-4810-ad01-0f50ee6b722d"

func TestConfirm(t *testing.T) {
	a := newAsked(t)
	a.set(changeLog, rows(request))
	first := a.event(request, "1")
	expect := func(what string, event *v1alpha1.NetBoxEvent, isThere bool, again time.Duration, requests int) {
		t.Helper()
		got, wait, err := a.Confirm(t.Context(), event)
		if err != nil || got != isThere || wait != again || a.count(changeLog) != requests {
			t.Errorf("%s: %t, again after %s, error %v, after %d requests", what, got, wait, err, a.count(changeLog))
		}
	}
	expect("not there yet", first, false, recheckInterval, 1)
	expect("asked again at once", first, false, recheckInterval, 1)
	a.clock.Step(recheckInterval)
	a.set(changeLog, rows(request, "1", "2"))
	expect("there", first, true, 0, 2)
	expect("another object of the request", a.event(request, "2"), true, 0, 2)
	a.clock.Step(defaultLag)
	phantom := a.event(request, "3")
	phantom.Spec.Delivery.ReceivedAt = metav1.NewMicroTime(a.clock.Now().Add(-defaultLag))
	expect("a phantom", phantom, false, 0, 3)
	job := a.event("", "")
	expect("a job", job, true, 0, 3)
	logged := a.event(request, "4")
	logged.Spec.Delivery.Origin = v1alpha1.OriginChangeLog
	expect("from the change log", logged, true, 0, 3)
	a.source.Spec.NetBox = nil
	if _, _, err := a.Confirm(t.Context(), first); err == nil || !strings.Contains(err.Error(), "has no spec.netbox") {
		t.Errorf("without spec.netbox: %v", err)
	}
}

func TestLookup(t *testing.T) {
	a := newAsked(t)
	const lan = "/api/wireless/wireless-lans/1/"
	a.set(lan, `{"id": 1, "ssid": "a", "auth_psk": "very secret"}`)
	expect := func(what string, event *v1alpha1.NetBoxEvent, query rule.Query, want string, requests int) {
		t.Helper()
		got, err := a.Lookup(t.Context(), event, query)
		if text := fmt.Sprint(string(got), err); !strings.Contains(text, want) || a.count("/api/")-a.count("/api/status/")+a.count("/graphql/") != requests {
			t.Errorf("%s: %s after %d requests, want %s after %d", what, text, len(a.paths), want, requests)
		}
	}
	expect("an answer, redacted", a.event(request, "1"), rule.Query{Path: lan}, `{"id": 1, "ssid": "a", "auth_psk": "[redacted]"}<nil>`, 1)
	expect("the same change set", a.event(request, "2"), rule.Query{Path: lan}, `"ssid"`, 1)
	expect("another change set", a.event("other", "1"), rule.Query{Path: lan}, `"ssid"`, 2)
	expect("nothing there", a.event(request, "1"), rule.Query{Path: "/api/dcim/sites/1/"}, "<nil>", 3)
	expect("nothing there is kept too", a.event(request, "1"), rule.Query{Path: "/api/dcim/sites/1/"}, "<nil>", 3)
	a.set("/graphql/", `{"data": {"site_list": [{"name": "a", "auth_psk": "very secret"}]}}`)
	query := rule.Query{GraphQL: "query($id: ID) { site(id: $id) { name } }", Variables: map[string]any{"id": 1}}
	expect("GraphQL", a.event(request, "1"), query, `{"site_list": [{"name": "a", "auth_psk": "[redacted]"}]}<nil>`, 4)
	a.set(lan, "502")
	expect("an outage", a.event("third", "1"), rule.Query{Path: lan}, "502", 5)
	a.source.Spec.NetBox.Lookups = v1alpha1.LookupsDenied
	expect("denied", a.event(request, "1"), rule.Query{Path: lan}, "does not allow lookups", 5)
}

// TestOutage: a NetBox that cannot be reached is not asked by each delivery of a rule.
func TestOutage(t *testing.T) {
	a := newAsked(t)
	a.set("/api/a/", "cut")
	for step, want := range []int{1, 1, 2} {
		if _, err := a.Lookup(t.Context(), a.event(request, "1"), rule.Query{Path: "/api/a/"}); err == nil || a.count("/api/a/") != want {
			t.Errorf("step %d: error %v after %d requests, want %d", step, err, a.count("/api/a/"), want)
		}
		if step > 0 {
			a.clock.Step(outageTime)
		}
	}
}
