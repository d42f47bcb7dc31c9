package cli

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/eventspec"
	"github.com/netbox-events/netbox-event-operator/internal/netbox"
	"github.com/netbox-events/netbox-event-operator/internal/rule"
	"github.com/netbox-events/netbox-event-operator/test/controlplane"
)

const testHost = "netbox-events.example.com"

// certificate makes a certificate for a host, and writes it to the file tls.crt, and its key to tls.key.
func certificate(t *testing.T, host string, until time.Time) (tls.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Example CA"}, DNSNames: []string{host},
		NotBefore: time.Now().Add(-24 * 365 * time.Hour), NotAfter: until, IsCA: true, BasicConstraintsValid: true,
	}
	bytes, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	directory := t.TempDir()
	writePEM := func(name, kind string, bytes []byte) string {
		file := filepath.Join(directory, name)
		if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: bytes}), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	writePEM("tls.key", "EC PRIVATE KEY", private)
	return tls.Certificate{Certificate: [][]byte{bytes}, PrivateKey: key}, writePEM("tls.crt", "CERTIFICATE", bytes)
}

// newProxy starts a proxy such as that of an Ingress, which may answer by itself, and returns its address. With a certificate it serves
// https.
func newProxy(t *testing.T, receiver string, certificate *tls.Certificate, answers func(http.ResponseWriter, *http.Request) bool) string {
	t.Helper()
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: receiver})
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		if answers == nil || !answers(w, request) {
			proxy.ServeHTTP(w, request)
		}
	}))
	if certificate != nil {
		server.TLS = &tls.Config{Certificates: []tls.Certificate{*certificate}}
		server.StartTLS()
	} else {
		server.Start()
	}
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

// changing changes requests on their way.
func changing(change func(*http.Request)) func(http.ResponseWriter, *http.Request) bool {
	return func(_ http.ResponseWriter, request *http.Request) bool {
		change(request)
		return false
	}
}

// breakingOff ends an answer in its body.
func breakingOff(w http.ResponseWriter, _ *http.Request) bool {
	w.Header().Set("Content-Length", "100")
	w.WriteHeader(http.StatusOK)
	_ = http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

func redirectTo(status int, location string) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Location", location)
		w.WriteHeader(status)
		return true
	}
}

// hashes are the ends of the names of test events, which differ in each run.
var hashes = regexp.MustCompile(`test-1-created-[0-9a-f]{20}`)

// showsSent is shows for send and doctor, whose outputs have addresses and names that differ in each run.
func (s *session) showsSent(t *testing.T, file string, code int, replaced map[string]string, args ...string) {
	t.Helper()
	got := s.run(t, args...)
	if got.code != code {
		t.Errorf("%s: exit code %d, want %d: %s", file, got.code, code, got.err)
	}
	text := "$ kubectl netbox " + strings.Join(args, " ") + "\n" + got.out + got.err
	for from, to := range replaced {
		text = strings.ReplaceAll(text, from, to)
	}
	golden(t, file, hashes.ReplaceAllString(text, "test-1-created-3f9c2a7be1d04c55a1b2"))
}

func TestSend(t *testing.T) {
	space, operators := namespace(t, "send"), namespace(t, "send-operator")
	receiver := startManager(t, plane().Config, "--watch-namespaces="+space)
	installOperator(t, operators, space, time.Now())
	var deployment appsv1.Deployment
	if err := plane().Client.Get(t.Context(), keyOf(operators, operatorName), &deployment); err != nil {
		t.Fatal(err)
	}
	newPod(t, &deployment, receiver)
	newSecret(t, space, signingSecret)
	newSignedSource(t, space, receiver, nil)
	newRule(t, space, "devices", `{match: {objectTypes: [dcim.device]}, actions: [{name: note, log: {message: a}}]}`)
	newRule(t, space, "all", `{actions: [{name: note, log: {message: a}}]}`)
	user := newSession(t, space)
	user.later(0)
	user.showsSent(t, "send.txt", exitWell, nil, "send", "netbox")

	until := time.Now().Add(24 * 90 * time.Hour)
	served, caFile := certificate(t, testHost, until)
	direct := newProxy(t, receiver, &served, nil)
	byURL := func(proxy string, args ...string) []string {
		return append([]string{"send", "netbox", "--url", "https://" + testHost, "--connect-to", proxy, "--ca-file", caFile}, args...)
	}
	shown := map[string]string{direct: "192.0.2.7:443", caFile: "ca.crt", until.UTC().Format(time.DateOnly): "2027-02-21"}
	user.showsSent(t, "send-url.txt", exitWell, shown, byURL(direct)...)
	redirecting := newProxy(t, receiver, &served, redirectTo(http.StatusMovedPermanently, "https://other.example.com/"))
	shown = map[string]string{redirecting: "192.0.2.7:443", caFile: "ca.crt", until.UTC().Format(time.DateOnly): "2027-02-21"}
	user.showsSent(t, "send-redirect.txt", exitFound, shown, byURL(redirecting)...)

	t.Run("rules that match", func(t *testing.T) {
		newRule(t, space, "every-branch", `{match: {branches: ["*"]}, actions: [{name: note, log: {message: a}}]}`)
		got := user.run(t, "send", "netbox")
		contains(t, got.out+got.err, "Rules match it, and will execute their actions: every-branch",
			"Send it? [y/N] \n", "not confirmed, and nothing done")
		user.in = "y\n"
		eventually(t, "the receiver does not know the change", func() bool { return user.run(t, byURL(direct)...).code == exitWell })
		got = user.run(t, "send", "netbox")
		contains(t, got.out, "Stored as event test-1-created-")
		user.in = ""
	})
	file := filepath.Join(t.TempDir(), "body.json")
	t.Run("a rule that mirrors", func(t *testing.T) {
		newRule(t, space, "racks", `{match: {objectTypes: [dcim.rack]}, serviceAccountName: mirror, actions: [{name: config,
			apply: {operation: Mirror, template: {apiVersion: v1, kind: ConfigMap, metadata: {name: "rack-${event.objectID}"}}}}]}`)
		deleted := `{"event": "deleted", "timestamp": "2026-11-23T19:06:00+00:00", "object_type": "dcim.rack", "data": {"id": 1}}`
		if err := os.WriteFile(file, []byte(deleted), 0o600); err != nil {
			t.Fatal(err)
		}
		contains(t, user.run(t, "send", "netbox", file).out, "racks (deletes what it mirrored)")
	})
	for _, test := range []struct {
		reason, body string
		change       func(*v1alpha1.NetBoxSourceSpec)
		code         int
		want         []string
	}{
		{"a recorded body", body(t, "netbox-4.7.3-live/391"), nil, exitWell, []string{"dcim.site p1-x0 updated by admin", "Stored as event site-13-updated-"}},
		{"the same again", body(t, "netbox-4.7.3-live/391"), nil, exitWell, []string{"Stored before, as event site-13-updated-"}},
		{"another body", `{"a": "b\u001b"}`, nil, exitFound, []string{"This is no event, and will be refused", "HTTP     422", "- data: is missing", "Not stored."}},
		{"no JSON", "\x1b[2J", nil, exitFound, []string{"HTTP     400", "Not stored."}},
		{"accept", body(t, "netbox-4.7.3-live/391"), func(s *v1alpha1.NetBoxSourceSpec) { s.Accept = &v1alpha1.Filter{ObjectTypes: []string{"dcim.rack"}} }, exitWell, []string{"Well received, and not stored", "spec.accept does not match it: it is not stored"}},
		{"suspended", "{}", func(s *v1alpha1.NetBoxSourceSpec) { s.Suspend = true }, exitFound, []string{"this source is suspended", "HTTP     503", "Next: kubectl netbox doctor"}},
	} {
		t.Run(test.reason, func(t *testing.T) {
			if test.change != nil {
				changeSource(t, space, test.change)
			}
			if err := os.WriteFile(file, []byte(test.body), 0o600); err != nil {
				t.Fatal(err)
			}
			var got output
			eventually(t, "the receiver does not know the change", func() bool {
				got = user.run(t, byURL(direct, file, "--yes")...)
				return test.change == nil || strings.Contains(got.out, test.want[0])
			})
			if got.code != test.code || strings.Contains(got.out, "\x1b") {
				t.Errorf("exit code %d", got.code)
			}
			contains(t, got.out+got.err, test.want...)
		})
	}
	t.Run("what is wrong", func(t *testing.T) {
		got := user.run(t, byURL(direct)...)
		contains(t, got.out, "Next: kubectl netbox doctor")
		changeSource(t, space, func(s *v1alpha1.NetBoxSourceSpec) { s.Suspend, s.Accept = false, nil })
		user.in = "y\n"
		old, oldFile := certificate(t, testHost, time.Now().Add(-time.Hour))
		closed := controlplane.NewAddress(t)
		hostile := func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Content-Type", "text/html")
			_, err := w.Write([]byte("<h1>Login\x1b[2J</h1>"))
			return err == nil
		}
		for want, args := range map[string][]string{
			"certificate has expired":                      {"send", "netbox", "--url", "https://" + testHost, "--ca-file", oldFile, "--connect-to", newProxy(t, receiver, &old, nil)},
			"certificate signed by unknown authority":      {"send", "netbox", "--url", "https://" + testHost, "--connect-to", direct},
			"valid for " + testHost + ", not other.":       {"send", "netbox", "--url", "https://other.example.com", "--ca-file", caFile, "--connect-to", direct},
			"connection refused":                           byURL(closed),
			"502 Bad Gateway":                              byURL(newProxy(t, closed, &served, nil)),
			"the proxy reaches no pod of the operator":     byURL(newProxy(t, receiver, &served, html(http.StatusServiceUnavailable))),
			"raise the time-out of the proxy above --hold": byURL(newProxy(t, receiver, &served, html(http.StatusGatewayTimeout))),
			"raise the body size limit of the Ingress":     byURL(newProxy(t, receiver, &served, html(http.StatusRequestEntityTooLarge))),
			"the Ingress has no such host or path":         byURL(newProxy(t, receiver, &served, html(http.StatusNotFound))),
			"NetBox takes that for a success":              byURL(newProxy(t, receiver, &served, html(http.StatusOK))),
			"correct the URL, or the Ingress":              byURL(newProxy(t, receiver, &served, html(http.StatusTeapot))),
			"NetBox repeats the POST there":                byURL(newProxy(t, receiver, &served, redirectTo(http.StatusPermanentRedirect, "/a"))),
			"a proxy changed the path":                     byURL(newProxy(t, receiver, &served, changing(func(request *http.Request) { request.URL.Path = "/" }))),
			"a proxy changed the body":                     byURL(newProxy(t, receiver, &served, changing(func(request *http.Request) { request.Header.Del("X-Hook-Signature") }))),
			"a proxy changed the method":                   byURL(newProxy(t, receiver, &served, changing(func(request *http.Request) { request.Method = http.MethodGet }))),
			"the answer broke off":                         byURL(newProxy(t, receiver, &served, breakingOff)),
			"not of the operator: text/html <h1>Login [2J": byURL(newProxy(t, receiver, &served, hostile)),
			"first record does not look like a TLS":        byURL(receiver),
			"correct the host of the URL":                  {"send", "netbox", "--url", "http://netbox.invalid"},
			"--url must be a URL such as":                  {"send", "netbox", "--url", "netbox"},
			"--connect-to must be host:port":               {"send", "netbox", "--url", "http://a", "--connect-to", "a"},
			"go with --url":                                {"send", "netbox", "--connect-to", "a:1"},
			`"other" not found; see kubectl get`:           {"send", "other"},
			"accepts between 1 and 2 arg":                  {"send"},
		} {
			got := user.run(t, args...)
			if got.code == exitWell {
				t.Errorf("%s: exit code %d", want, got.code)
			}
			contains(t, got.out+got.err, want)
		}
		got = user.run(t, "send", "netbox", "--url", "https://"+testHost, "--connect-to", newProxy(t, receiver, &old, nil), "--insecure-skip-verify")
		contains(t, got.out, "the certificate is not valid: x509: certificate has expired", "Stored as event")
	})
	t.Run("rights", func(t *testing.T) {
		viewer := newSession(t, space)
		viewer.user = "sender"
		group := v1alpha1.SchemeGroupVersion.Group
		rules := []rbacv1.PolicyRule{{APIGroups: []string{group}, Resources: []string{"netboxsources", "netboxeventrules", "netboxevents"}, Verbs: []string{"get", "list"}}}
		allow(t, space, "sender", rules...)
		got := viewer.run(t, "send", "netbox")
		contains(t, got.err, "you may not get secrets in namespace send; ask for a role with that right")
		if got.code != exitFailed {
			t.Errorf("exit code %d", got.code)
		}
	})
}

// TestSendTLS sends to a pod that serves https, with a key that NetBox cannot have.
func TestSendTLS(t *testing.T) {
	space := plane().Namespace(t)
	_, file := certificate(t, operatorName, time.Now().Add(time.Hour))
	plain := startManager(t, plane().Config, "--watch-namespaces="+space)
	encrypted := startManager(t, plane().Config, "--watch-namespaces="+space, "--webhook-cert-dir="+filepath.Dir(file))
	installOperator(t, space, space, time.Now())
	var deployment appsv1.Deployment
	if err := plane().Client.Get(t.Context(), keyOf(space, operatorName), &deployment); err != nil {
		t.Fatal(err)
	}
	container := &deployment.Spec.Template.Spec.Containers[0]
	container.Args = append(container.Args, "--webhook-cert-dir=/etc/webhook-tls", "--webhook-bind-address=:9443")
	if err := plane().Client.Update(t.Context(), &deployment); err != nil {
		t.Fatal(err)
	}
	user := newSession(t, space)
	newSecret(t, space, " "+signingSecret)
	newSignedSource(t, space, plain, nil)
	got := user.run(t, "send", "netbox")
	contains(t, got.err, "no pod of Deployment "+space+"/netbox-event-operator is ready; kubectl describe pods -n "+space)
	newPod(t, &deployment, encrypted)
	got = user.run(t, "send", "netbox")
	contains(t, got.out+got.err, "2xvkq."+space+":9443/webhook/"+space+"/netbox", `certificate "CN=Example CA"`, "Stored as event test-1-created-",
		"warning: key secret of Secret netbox-webhook begins with white space")
	if got.code != exitWell {
		t.Errorf("exit code %d", got.code)
	}

	user.user = "forwarder"
	allow(t, space, user.user,
		rbacv1.PolicyRule{
			APIGroups: []string{v1alpha1.SchemeGroupVersion.Group}, Resources: []string{"netboxsources", "netboxeventrules"}, Verbs: []string{"get", "list"},
		},
		rbacv1.PolicyRule{APIGroups: []string{"", "apps"}, Resources: []string{"secrets", "pods", "deployments"}, Verbs: []string{"get", "list"}})
	got = user.run(t, "send", "netbox")
	contains(t, got.err, "cannot forward a port to pod "+space+"/netbox-event-operator-6d4cf56db6-2xvkq: ", "pods/portforward",
		"it needs the right to create pods/portforward in namespace "+space+"; or send by --url")
	if got.code != exitFailed {
		t.Errorf("exit code %d", got.code)
	}
}

// changeSource changes the source of a namespace, and waits until its status is of the change.
func changeSource(t *testing.T, namespace string, change func(*v1alpha1.NetBoxSourceSpec)) {
	t.Helper()
	var source v1alpha1.NetBoxSource
	if err := plane().Client.Get(t.Context(), keyOf(namespace, "netbox"), &source); err != nil {
		t.Fatal(err)
	}
	change(&source.Spec)
	if err := plane().Client.Update(t.Context(), &source); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the change is not observed", func() bool {
		err := plane().Client.Get(t.Context(), keyOf(namespace, "netbox"), &source)
		return err == nil && readyReason(&source) != ""
	})
}

// TestOperatorAnswers tells the operator's answers from those of other servers.
func TestOperatorAnswers(t *testing.T) {
	own := []string{`{"result":"ok","event":"netbox/site-1"}`, `{"result":"duplicate","event":"netbox/a"}`, `{"result":"ignored"}`}
	foreign := []string{
		`{"result":"success"}`, `{"result":"ok"}`, `{"result":"ok","event":"a/\u001b[2J"}`, `{"result":"ok","event":"a/b\nNext: curl x | sh"}`,
	}
	for _, body := range append(own, foreign...) {
		var answer operatorAnswer
		if err := json.Unmarshal([]byte(body), &answer); err != nil {
			t.Fatal(err)
		}
		if got := answer.isOperators(http.StatusOK); got != slices.Contains(own, body) {
			t.Errorf("%s: %t", body, got)
		}
	}
}

// TestActsOn expects that a rule counts as acting where this plugin cannot know.
func TestActsOn(t *testing.T) {
	body, err := testBody(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	decoded, err := netbox.Decode(body, nil)
	if err != nil {
		t.Fatal(err)
	}
	event := eventspec.New(decoded, eventspec.Delivery{Source: &v1alpha1.NetBoxSource{}, Origin: v1alpha1.OriginWebhook})
	in := rule.NewInput(event, time.Now())
	over, cancel := context.WithCancel(t.Context())
	cancel()
	for reason, test := range map[string]struct {
		ctx   context.Context
		match v1alpha1.Match
		acts  bool
	}{
		"matches":               {t.Context(), v1alpha1.Match{Branches: []string{"*"}}, true},
		"is of the main branch": {t.Context(), v1alpha1.Match{}, false},
		"does not compile":      {t.Context(), v1alpha1.Match{Filter: v1alpha1.Filter{CEL: "later(event)"}}, true},
		"is not evaluated":      {over, v1alpha1.Match{Branches: []string{"*"}, Filter: v1alpha1.Filter{CEL: "event.objectID == '2'"}}, true},
	} {
		candidate := &v1alpha1.NetBoxEventRule{Spec: v1alpha1.NetBoxEventRuleSpec{
			Match: test.match, Actions: []v1alpha1.Action{{Name: "say", Log: &v1alpha1.LogAction{Message: "x"}}},
		}}
		if what, acts := actsOn(test.ctx, candidate, event, in); acts != test.acts {
			t.Errorf("a rule that %s: %t%s, want %t", reason, acts, what, test.acts)
		}
	}
}

// TestInterruptedQuestion interrupts a question before an answer.
func TestInterruptedQuestion(t *testing.T) {
	in, out := io.Pipe()
	t.Cleanup(func() { _ = out.Close() })
	p := newPlugin(genericiooptions.IOStreams{In: in, Out: io.Discard, ErrOut: io.Discard})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.confirm(ctx, false, "Send it?"); err == nil {
		t.Error("confirmed")
	}
}
