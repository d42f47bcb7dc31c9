package event_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	stdlog "log"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr/funcr"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"golang.org/x/net/http/httpproxy"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/action"
	"github.com/netbox-events/netbox-event-operator/internal/controller/event"
	"github.com/netbox-events/netbox-event-operator/internal/outbound"
)

// hidden are words that no place may show. The sinks get them, and repeat them.
var hidden = []string{"correct", "horse", "battery", "staple", "0penSesame", "pr0xy-passw0rd"}

// echo answers with what it got: well, with a refusal, or malformed. Its path /token gives out a token.
func echo(w http.ResponseWriter, request *http.Request) {
	credentials := request.Header.Get("Authorization") + " " + request.Header.Get("Proxy-Authorization") + " " + request.Header.Get("X-Hook-Signature")
	user, password, _ := request.BasicAuth()
	sent, _ := io.ReadAll(request.Body)
	body, _ := json.Marshal(map[string]any{"you sent": credentials, user: password, "query": request.URL.Query().Get("q"), "your body": string(sent)})
	answer := "200 OK\r\nX-Echo: " + credentials + "\r\nContent-Type: application/json\r\n\r\n"
	switch request.URL.Path {
	case "/refused":
		answer = "401 " + credentials + "\r\n\r\n"
	case "/redirect":
		answer = "302 Found\r\nLocation: /" + url.PathEscape(credentials) + "\r\n\r\n"
	case "/malformed":
		answer = "200 OK\r\n"
	case "/token":
		body = []byte(`{"access_token": "0penSesame", "expires_in": 300}`)
	}
	if request.URL.Host != "" { // as a proxy
		answer = "503 " + credentials + "\r\n\r\n"
	}
	conn, _, _ := http.NewResponseController(w).Hijack()
	_, _ = io.WriteString(conn, "HTTP/1.1 "+answer+string(body)+"\r\n\r\n")
	_ = conn.Close()
}

// TestSecretsStayHidden sends secrets to sinks that repeat them. It looks for their words in the log, the metrics, the traces, the statuses and the
// Kubernetes Events, also of later actions and of those on failure, and of requests that fail or are not sent.
func TestSecretsStayHidden(t *testing.T) {
	namespace := plane.Namespace(t)
	const phrase = "correct horse battery staple"
	plane.Create(t,
		&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "sink"}, StringData: map[string]string{
			"username": "horse", "password": phrase, "url": "http://127.0.0.1:1/battery/staple",
		}},
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "relay"}},
	)
	var bearers, signatures sync.Map // tokens of the service account, and signatures by a Secret
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		if token, ok := strings.CutPrefix(request.Header.Get("Authorization"), "Bearer ey"); ok {
			bearers.Store("ey"+token, true)
		}
		if signature := request.Header.Get("X-Hook-Signature"); signature != "" {
			signatures.Store(signature, true)
		}
		echo(w, request)
	}))
	defer server.Close()
	untrusted := httptest.NewUnstartedServer(http.NotFoundHandler())
	untrusted.Config.ErrorLog = stdlog.New(io.Discard, "", 0)
	untrusted.StartTLS()
	defer untrusted.Close()
	const oauth2 = `{oauth2: {tokenURL: "SERVER/%s", clientID: a, clientSecretRef: {name: sink, key: password}}}`
	actions := map[string]string{
		"good":            `{url: "SERVER/good?q=${secrets.phrase}", headers: [{name: Authorization, value: "Bearer ${secrets.phrase}"}]}`,
		"refused":         `{url: "SERVER/refused?q=${secrets.phrase}", headers: [{name: Authorization, value: "Bearer ${secrets.phrase}"}]}`,
		"malformed":       `{url: "SERVER/malformed?q=${secrets.phrase}", headers: [{name: Authorization, value: "Bearer ${secrets.phrase}"}]}`,
		"redirect":        `{url: "SERVER/redirect?q=${secrets.phrase}", headers: [{name: Authorization, value: "Bearer ${secrets.phrase}"}]}`,
		"untrusted":       `{url: "` + untrusted.URL + `/${secrets.phrase}", auth: {basic: {secretRef: {name: sink}}}}`,
		"no-tls":          `{url: "` + strings.Replace(server.URL, "http:", "https:", 1) + `/${secrets.phrase}", auth: {basic: {secretRef: {name: sink}}}}`,
		"no-host":         `{url: "https://sink.invalid/${secrets.phrase}", auth: {basic: {secretRef: {name: sink}}}}`,
		"down":            `{url: "${secrets.url}/${secrets.phrase}"}`,
		"no-header":       `{url: SERVER, headers: [{name: X-Phrase, value: "${secrets.phrase}\n"}]}`,
		"no-template":     `{url: SERVER, headers: [{name: X-Phrase, value: "${ip(secrets.phrase)}"}]}`,
		"form":            `{url: SERVER, body: {form: {phrase: "${secrets.phrase}"}}}`,
		"json":            `{url: SERVER/refused, body: {json: {phrase: "${secrets.phrase}", list: ["${secrets.phrase.split(' ')}"]}}}`,
		"signed":          `{url: SERVER, signingSecretRef: {name: sink, key: password}}`,
		"dry-run":         `{url: "SERVER/${secrets.phrase}", body: {form: {phrase: "${secrets.phrase}"}}, signingSecretRef: {name: sink, key: password}}`,
		"dry-run-basic":   `{url: "${secrets.url}", auth: {basic: {secretRef: {name: sink}}}}`,
		"basic":           `{url: SERVER, auth: {basic: {secretRef: {name: sink}}}}`,
		"basic-refused":   `{url: SERVER/refused, auth: {basic: {secretRef: {name: sink}}}}`,
		"missing-key":     `{url: SERVER, auth: {basic: {secretRef: {name: sink}}}, success: response.body.missing}`,
		"oauth2":          `{url: SERVER, auth: ` + fmt.Sprintf(oauth2, "token") + `}`,
		"oauth2-refused":  `{url: SERVER/refused, auth: ` + fmt.Sprintf(oauth2, "token") + `}`,
		"no-token":        `{url: SERVER, auth: ` + fmt.Sprintf(oauth2, "refused") + `}`,
		"account":         `{url: SERVER, auth: {serviceAccountToken: {audience: relay}}}`,
		"account-refused": `{url: SERVER/refused, auth: {serviceAccountToken: {audience: relay}}}`,
		"proxied":         `{url: "http://sink.example/", auth: {basic: {secretRef: {name: sink}}}}`,
	}
	for name, spec := range actions {
		text := `
serviceAccountName: relay
secrets: [{name: phrase, secretKeyRef: {name: sink, key: password}}, {name: url, secretKeyRef: {name: sink, key: url}}]
retry: {maxAttempts: 1}
actions:
- {name: do, http: ` + strings.ReplaceAll(spec, "SERVER", server.URL) + `}
- {name: use, dependsOn: [do], event: {reason: Used, message: "${results.do}"}}
- {name: line, dependsOn: [do], log: {message: "${results.do.response.body}"}}
onFailure:
- {name: tell, event: {reason: GivenUp, message: "${failure.error}"}}
- {name: say, log: {message: "${failure.error}"}}
`
		created := newRule(namespace, name)
		created.Spec = v1alpha1.NetBoxEventRuleSpec{}
		if err := yaml.UnmarshalStrict([]byte(text), &created.Spec); err != nil {
			t.Fatal(err)
		}
		created.Spec.DryRun = strings.HasPrefix(name, "dry-run")
		plane.Create(t, created)
	}
	var mu sync.Mutex
	var lines []string
	log := funcr.New(func(_, line string) {
		mu.Lock()
		defer mu.Unlock()
		lines = append(lines, line)
	}, funcr.Options{Verbosity: 1})
	reader := outbound.NewSecrets(plane.Client, clock.RealClock{})
	transports := outbound.NewTransports(outbound.Options{
		Secrets: reader,
		Proxy: &outbound.Proxy{
			Config:                httpproxy.Config{HTTPProxy: strings.Replace(server.URL, "//", "//operator:pr0xy-passw0rd@", 1)},
			AllowsUnresolvedHosts: true,
		},
		AllowCIDRs: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		Clock:      clock.RealClock{},
	})
	runner := action.NewRunner(action.Options{
		Config: plane.Config, Secrets: reader, Transports: transports, Accounts: plane.Client, Events: plane.Client,
		Log: log, Clock: clock.RealClock{},
	})
	spans := tracetest.NewInMemoryExporter()
	counted, _ := startWith(t, plane.Config, namespace, 0, nil, func(options *event.Options) {
		options.Log, options.Actions = log, runner
		options.Tracer = sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans)).Tracer("test")
	})
	made := newEvent(namespace, 1, 0)
	made.Spec.Delivery.Traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	plane.Create(t, made)
	eventually(t, "not failed", 30*time.Second, hasPhase(t, namespace, made.Name, v1alpha1.PhaseFailed))
	var notes eventsv1.EventList
	eventually(t, "no Kubernetes Event", 30*time.Second, func() bool {
		err := plane.Client.List(t.Context(), &notes, client.InNamespace(namespace))
		return err == nil && slices.ContainsFunc(notes.Items, func(note eventsv1.Event) bool { return note.Reason == "Used" }) &&
			slices.ContainsFunc(notes.Items, func(note eventsv1.Event) bool { return note.Reason == "GivenUp" })
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
	// The last span ends after the status was written.
	eventually(t, "no trace", 30*time.Second, func() bool { return len(spans.GetSpans()) > len(actions) })

	secrets := slices.Clone(hidden)
	bearers.Range(func(token, _ any) bool {
		secrets = append(secrets, strings.Split(token.(string), ".")...)
		return true
	})
	signatures.Range(func(signature, _ any) bool {
		secrets = append(secrets, signature.(string)[:12])
		return true
	})
	for _, encoded := range []string{"horse:" + phrase, "operator:pr0xy-passw0rd"} {
		secrets = append(secrets, base64.StdEncoding.EncodeToString([]byte(encoded))[:12])
	}
	if len(secrets) < len(hidden)+6 {
		t.Errorf("the sink got no token of a service account, or no signature")
	}
	mu.Lock()
	defer mu.Unlock()
	for place, shown := range map[string]any{
		"Kubernetes Events": notes, "events": events, "rules": rules, "metrics": metrics, "log": lines, "traces": fmt.Sprintf("%+v", spans.GetSpans()),
	} {
		text, err := json.Marshal(shown)
		if err != nil {
			t.Fatal(err)
		}
		if place != "metrics" && place != "traces" && !strings.Contains(string(text), "malformed") {
			t.Errorf("%s do not show the failure: %s", place, text)
		}
		for _, secret := range secrets {
			if strings.Contains(strings.NewReplacer("correct the", "", "; correct", "").Replace(string(text)), secret) {
				t.Errorf("%s show %s: %s", place, secret, text)
			}
		}
	}
}
