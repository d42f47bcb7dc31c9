package event_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr/funcr"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/action"
	"github.com/netbox-events/netbox-event-operator/internal/controller/event"
)

// TestSecretsStayHidden sends a Secret to sinks that repeat it, in a good answer, a refusal and a malformed one. It looks for its words in the log,
// the metrics, the statuses and the Kubernetes Events.
func TestSecretsStayHidden(t *testing.T) {
	namespace := plane.Namespace(t)
	plane.Create(t, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "sink"}, StringData: map[string]string{"phrase": "correct horse battery staple"},
	})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		answer := map[string]string{"/good": "200 OK\r\n\r\n", "/refused": "401 No\r\n\r\n", "/malformed": "200 OK\r\n"}[request.URL.Path]
		conn, _, _ := http.NewResponseController(w).Hijack()
		_, _ = io.WriteString(conn, "HTTP/1.1 "+answer+"you sent "+request.Header.Get("Authorization")+" "+request.URL.RawQuery+"\r\n\r\n")
		_ = conn.Close()
	}))
	defer server.Close()
	plane.Create(t, newRule(namespace, "rule", maxAttempts(1), func(spec *v1alpha1.NetBoxEventRuleSpec) {
		spec.Secrets = []v1alpha1.RuleSecret{{Name: "phrase", SecretKeyRef: v1alpha1.SecretKeyReference{Name: "sink", Key: "phrase"}}}
		spec.Actions = nil
		for _, name := range []string{"malformed", "good", "refused"} {
			spec.Actions = append(spec.Actions, v1alpha1.Action{Name: name, HTTP: &v1alpha1.HTTPAction{
				URL: server.URL + "/" + name + "?q=${secrets.phrase}", Headers: []v1alpha1.HTTPHeader{{Name: "Authorization", Value: "Bearer ${secrets.phrase}"}},
			}})
		}
	}))
	runner := action.NewRunner(action.Options{
		Config: plane.Config, Secrets: plane.Client, SinkAllowCIDRs: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Clock: clock.RealClock{},
	})
	var mu sync.Mutex
	var lines []string
	log := funcr.New(func(_, line string) {
		mu.Lock()
		defer mu.Unlock()
		lines = append(lines, line)
	}, funcr.Options{Verbosity: 1})
	counted, _ := startWith(t, plane.Config, namespace, 0, nil, func(options *event.Options) {
		options.Log, options.Actions = log, runner
	})
	made := newEvent(namespace, 1, 0)
	plane.Create(t, made)
	eventually(t, "not failed", 30*time.Second, hasPhase(t, namespace, made.Name, v1alpha1.PhaseFailed))
	var notes eventsv1.EventList
	eventually(t, "no Kubernetes Event", 30*time.Second, func() bool {
		err := plane.Client.List(t.Context(), &notes, client.InNamespace(namespace))
		return err == nil && len(notes.Items) > 0
	})
	var events v1alpha1.NetBoxEventList
	var rules v1alpha1.NetBoxEventRuleList
	for _, list := range []client.ObjectList{&events, &rules} {
		if err := plane.Client.List(t.Context(), list, client.InNamespace(namespace)); err != nil {
			t.Fatal(err)
		}
	}
	metrics, err := counted.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	for place, shown := range map[string]any{"Kubernetes Events": notes, "events": events, "rules": rules, "metrics": metrics, "log": lines} {
		text, err := json.Marshal(shown)
		if err != nil {
			t.Fatal(err)
		}
		if place != "metrics" && !strings.Contains(string(text), "malformed") {
			t.Errorf("%s do not show the failure: %s", place, text)
		}
		for word := range strings.FieldsSeq("correct horse battery staple") {
			if strings.Contains(strings.ReplaceAll(string(text), "correct the", ""), word) {
				t.Errorf("%s show %s: %s", place, word, text)
			}
		}
	}
}
