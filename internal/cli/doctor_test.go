package cli

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/delivery"
	"github.com/netbox-events/netbox-event-operator/internal/eventstore"
	"github.com/netbox-events/netbox-event-operator/test/controlplane"
)

// newIngress makes an Ingress that leads to the Service of an operator.
func newIngress(t *testing.T, namespace, path string, annotations map[string]string, tls ...networkingv1.IngressTLS) {
	t.Helper()
	plane().Create(t, &networkingv1.Ingress{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: operatorName, Annotations: annotations},
		Spec: networkingv1.IngressSpec{TLS: tls, Rules: []networkingv1.IngressRule{{
			Host: testHost, IngressRuleValue: networkingv1.IngressRuleValue{HTTP: &networkingv1.HTTPIngressRuleValue{
				Paths: []networkingv1.HTTPIngressPath{{
					Path: path, PathType: new(networkingv1.PathTypePrefix), Backend: networkingv1.IngressBackend{
						Service: &networkingv1.IngressServiceBackend{Name: operatorName, Port: networkingv1.ServiceBackendPort{Name: "http"}},
					},
				}},
			}},
		}}},
	})
}

// patient is a namespace that doctor looks at, with an operator of its own as far as doctor sees.
type patient struct {
	namespace string
	// receiver is the address of the operator that watches it, unless it is watched by none.
	receiver string
	// args are those of doctor, and later is the time after which it looks.
	args  []string
	later time.Duration
}

// url has doctor ask a server at an address.
func (p *patient) url(address string) {
	p.args = append(p.args, "--url", "http://"+testHost, "--connect-to", address)
}

// refused waits for the Kubernetes Event of a refused delivery.
func (p *patient) refused(t *testing.T, reason string) {
	t.Helper()
	eventually(t, "there is no Kubernetes Event "+reason, func() bool {
		var events corev1.EventList
		if err := plane().Client.List(t.Context(), &events, client.InNamespace(p.namespace)); err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(events.Items, func(event corev1.Event) bool {
			return event.Reason == reason && event.Type == corev1.EventTypeWarning
		})
	})
}

func siteBody(n int) string {
	return fmt.Sprintf(`{"event":"updated","timestamp":"2026-11-23T10:00:00.5+00:00","object_type":"dcim.site","data":{"id":%d}}`, n)
}

// source makes the source, with a right Secret.
func (p *patient) source(t *testing.T, change func(*v1alpha1.NetBoxSourceSpec)) *v1alpha1.NetBoxSource {
	t.Helper()
	newSecret(t, p.namespace, signingSecret)
	return newSignedSource(t, p.namespace, p.receiver, change)
}

// delivered makes a source, and has it store an event.
func (p *patient) delivered(t *testing.T, change func(*v1alpha1.NetBoxSourceSpec)) *v1alpha1.NetBoxSource {
	t.Helper()
	made := p.source(t, change)
	if status := deliverTo(t, p.receiver, made, siteBody(1)); status != http.StatusOK {
		t.Errorf("answered with %d", status)
	}
	return made
}

// failingRule makes a rule whose sink answers with a status.
func (p *patient) failingRule(t *testing.T, status int) {
	t.Helper()
	sink := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
	t.Cleanup(sink.Close)
	made := newRule(t, p.namespace, "announce", `{actions: [{name: send, http: {url: "`+sink.URL+`"}}]}`)
	eventually(t, "the rule is not observed", func() bool {
		err := plane().Client.Get(t.Context(), client.ObjectKeyFromObject(made), made)
		return err == nil && made.Status.ObservedGeneration == made.Generation
	})
}

// html answers as another server than the operator.
func html(status int) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(status)
		_, err := w.Write([]byte("<html>"))
		return err == nil
	}
}

// mistake is a row of the table in docs/troubleshooting.md.
type mistake struct {
	// symptom is the row's first cell, without formatting.
	symptom string
	// isUnwatched is set if no operator may change what the test makes.
	isUnwatched bool
	make        func(t *testing.T, p *patient)
	// want are parts of what doctor says, besides that there is a problem; isWarning is set if it says it as a warning.
	want      []string
	isWarning bool
}

var mistakes = []mistake{
	{
		symptom: "401, SignatureMismatch",
		make: func(t *testing.T, p *patient) {
			t.Helper()
			newSecret(t, p.namespace, "\n"+signingSecret+"\n")
			made := newSignedSource(t, p.namespace, p.receiver, nil)
			deliverTo(t, p.receiver, made, siteBody(1))
			p.refused(t, "SignatureMismatch")
		},
		want: []string{
			"key secret of Secret netbox-webhook begins with white space", "deliveries were refused (SignatureMismatch)",
			"Next: set the secret of NetBox's webhook to one of the keys",
		},
	},
	{
		symptom: `405, with "method":"GET" in the operator's log`,
		make: func(t *testing.T, p *patient) {
			t.Helper()
			p.delivered(t, nil)
			newIngress(t, p.namespace, "/", nil, networkingv1.IngressTLS{Hosts: []string{testHost}})
			p.url(newProxy(t, p.receiver, nil, redirectTo(http.StatusMovedPermanently, "https://"+testHost+"/")))
		},
		want: []string{"it answers with 301, a redirect to https://" + testHost + "/: NetBox follows it with a GET without the body, and the event is lost"},
	},
	{
		symptom: "NetBox reports the delivery as successful, but no event exists",
		make: func(t *testing.T, p *patient) {
			t.Helper()
			p.delivered(t, nil)
			newIngress(t, p.namespace, "/", nil)
			p.url(newProxy(t, p.receiver, nil, html(http.StatusOK)))
		},
		want: []string{"another server than the operator answers with 200: text/html <html>", "Next: another server answers at this URL, and NetBox takes that for a success"},
	},
	{
		symptom: "the same, and the answer is ignored",
		make: func(t *testing.T, p *patient) {
			t.Helper()
			p.delivered(t, func(s *v1alpha1.NetBoxSourceSpec) { s.Accept = &v1alpha1.Filter{ObjectTypes: []string{"dcim.devices"}} })
		},
		want: []string{`NetBox has no object type "dcim.devices"`, "what spec.accept does not match is not stored, and is answered with 200 and ignored"},
	},
	{
		symptom: "404",
		make: func(t *testing.T, p *patient) {
			t.Helper()
			p.delivered(t, nil)
			newIngress(t, p.namespace, "/webhook", map[string]string{nginxRewrite: "/"})
			p.url(newProxy(t, p.receiver, nil, changing(func(request *http.Request) { request.URL.Path = "/" })))
		},
		want: []string{"rewrite-target makes / of the path", "the operator answers with 404: no NetBoxSource has this path"},
	},
	{
		symptom: "504 as HTML, or a failed job in NetBox that says timed out",
		make: func(t *testing.T, p *patient) {
			t.Helper()
			p.delivered(t, nil)
			newIngress(t, p.namespace, "/", map[string]string{nginx + "proxy-read-timeout": "20"})
		},
		want: []string{"proxy-read-timeout is 20s: NetBox gets 504 while the operator holds a delivery, up to 25s", "Next: raise it to 30s"},
	},
	{
		symptom: "413 as HTML",
		make: func(t *testing.T, p *patient) {
			t.Helper()
			p.delivered(t, nil)
			newIngress(t, p.namespace, "/", map[string]string{nginx + "proxy-body-size": "500k"})
			p.url(newProxy(t, p.receiver, nil, func(w http.ResponseWriter, request *http.Request) bool {
				return request.ContentLength > 500<<10 && html(http.StatusRequestEntityTooLarge)(w, request)
			}))
		},
		want: []string{"proxy-body-size lets 512000 bytes through", "a body of 1000000 bytes, which spec.maxBodyBytes allows, is answered with 413 by another server"},
	},
	{
		symptom: "415 or 422",
		make: func(t *testing.T, p *patient) {
			t.Helper()
			made := p.source(t, nil)
			postAs(t, "http://"+p.receiver+pathOf(made), netboxAgent, "text/plain", siteBody(1), signingSecret)
			deliverTo(t, p.receiver, made, `{"text": "a template"}`)
			p.refused(t, "UnsupportedMediaType")
			p.refused(t, "InvalidBody")
		},
		want: []string{"(UnsupportedMediaType)", "(InvalidBody)", "set the HTTP content type of NetBox's webhook", "remove the body template"},
	},
	{
		symptom: "429, BacklogFull",
		make: func(t *testing.T, p *patient) {
			t.Helper()
			p.failingRule(t, http.StatusServiceUnavailable)
			made := p.delivered(t, func(s *v1alpha1.NetBoxSourceSpec) { s.MaxPending = 1 })
			eventually(t, "the backlog is not full", func() bool {
				err := plane().Client.Get(t.Context(), client.ObjectKeyFromObject(made), made)
				return err == nil && meta.IsStatusConditionTrue(made.Status.Conditions, v1alpha1.ConditionBacklogFull)
			})
			eventually(t, "nothing is refused", func() bool { return deliverTo(t, p.receiver, made, siteBody(2)) == http.StatusTooManyRequests })
			p.refused(t, "BacklogFull")
		},
		want: []string{"BacklogFull is True (MaxPendingReached)", "deliveries were refused (BacklogFull)"},
	},
	{
		symptom: "429 without BacklogFull",
		make: func(t *testing.T, p *patient) {
			t.Helper()
			made := p.source(t, func(s *v1alpha1.NetBoxSourceSpec) { s.RateLimit = &v1alpha1.RateLimit{RequestsPerSecond: 1, Burst: 1} })
			eventually(t, "nothing is refused", func() bool { return deliverTo(t, p.receiver, made, siteBody(1)) == http.StatusTooManyRequests })
			p.refused(t, "Throttled")
		},
		want: []string{"deliveries were refused (Throttled)", "Next: raise spec.rateLimit"},
	},
	{
		symptom: "503, SecretNotFound",
		make: func(t *testing.T, p *patient) {
			t.Helper()
			newSignedSource(t, p.namespace, p.receiver, nil)
		},
		want: []string{"Ready is False (SecretNotFound)", "Next: create the Secret"},
	},
	{
		symptom: "503, InvalidAccept",
		make: func(t *testing.T, p *patient) {
			t.Helper()
			p.source(t, func(s *v1alpha1.NetBoxSourceSpec) { s.Accept = &v1alpha1.Filter{CEL: "date.id == 1"} })
		},
		want: []string{"Ready is False (InvalidAccept): spec.accept.cel: 1:1: undeclared reference to 'date'", "Next: correct spec.accept"},
	},
	{
		symptom: "503 while the API server is unavailable", isUnwatched: true,
		make: func(t *testing.T, p *patient) {
			t.Helper()
			outage, config := plane().NewOutage(t)
			p.receiver = startManager(t, config, "--watch-namespaces="+p.namespace, "--hold=1s")
			made := p.delivered(t, nil)
			outage.Set(controlplane.Refused)
			if status := deliverTo(t, p.receiver, made, siteBody(2)); status != http.StatusServiceUnavailable {
				t.Errorf("answered with %d", status)
			}
			outage.Set(controlplane.Up)
			p.refused(t, "NotStored")
		},
		want: []string{"deliveries were refused (NotStored)", "Next: NetBox does not send again by itself: requeue its failed jobs"},
	},
	{
		symptom: "a source is not Ready, PathConflict",
		make: func(t *testing.T, p *patient) {
			t.Helper()
			made := p.source(t, nil)
			other := &v1alpha1.NetBoxSource{ObjectMeta: metav1.ObjectMeta{Namespace: p.namespace, Name: "other"}}
			other.Spec.Path, other.Spec.SecretRef = pathOf(made), made.Spec.SecretRef
			plane().Create(t, other)
			eventually(t, "the source has no status", func() bool {
				return plane().Client.Get(t.Context(), client.ObjectKeyFromObject(other), other) == nil && readyReason(other) != ""
			})
		},
		want: []string{"source other\n  problem   Ready is False (PathConflict)", "Next: set another spec.path"},
	},
	{
		symptom: "many events stay Pending",
		make: func(t *testing.T, p *patient) {
			t.Helper()
			p.failingRule(t, http.StatusServiceUnavailable)
			made := p.delivered(t, nil)
			for n := range 5 {
				deliverTo(t, p.receiver, made, siteBody(10+n))
			}
			eventually(t, "the sink is available", func() bool {
				var rule v1alpha1.NetBoxEventRule
				err := plane().Client.Get(t.Context(), keyOf(p.namespace, "announce"), &rule)
				return err == nil && meta.IsStatusConditionFalse(rule.Status.Conditions, v1alpha1.ConditionSinkAvailable)
			})
			p.later = time.Hour
		},
		want: []string{"rule announce\n  problem   SinkAvailable is False", "no replica leads: events are stored, and not acted on", "6 events are pending, the oldest for "},
	},
	{
		symptom: "one event stays Pending",
		make: func(t *testing.T, p *patient) {
			t.Helper()
			p.failingRule(t, http.StatusInternalServerError)
			p.delivered(t, nil)
			p.later = 20 * time.Minute
		},
		want: []string{"1 event is pending, the oldest for 20m", "Next: kubectl netbox events --pending"},
	},
	{
		symptom: "an event is Failed, SetAside", isUnwatched: true,
		make: func(t *testing.T, p *patient) {
			t.Helper()
			newSource(t, p.namespace, "netbox", v1alpha1.NetBoxSourceSpec{}, serving)
			event := receive(t, p.namespace, "netbox-4.6.8-live/51", 0)
			status := delivery.SetAside(&event.Status, delivery.Replay{}, 3, event.Generation, time.Now())
			version := eventstore.Version{Namespace: event.Namespace, Name: event.Name, UID: event.UID, ResourceVersion: event.ResourceVersion}
			if _, err := newStore(t).UpdateStatus(t.Context(), version, status); err != nil {
				t.Fatal(err)
			}
		},
		want: []string{"1 event was set aside, because the operator crashed while it processed them; the last is site-2-created-"},
	},
	{
		symptom: "nothing happens, and the log is empty", isWarning: true,
		make: func(t *testing.T, p *patient) {
			t.Helper()
			p.source(t, nil)
		},
		want: []string{"no delivery was stored or refused yet", "Next: in NetBox, check that the RQ worker runs"},
	},
	{
		symptom: "a job fails in NetBox 4.6 when a webhook should report its start", isUnwatched: true,
		make: func(t *testing.T, p *patient) {
			t.Helper()
			made := newSource(t, p.namespace, "netbox", v1alpha1.NetBoxSourceSpec{NetBox: &v1alpha1.NetBoxAPI{
				URL: "https://netbox.example.com", TokenSecretRef: v1alpha1.SecretKeyReference{Name: "netbox-token", Key: "token"},
				Webhook: &v1alpha1.ManagedWebhook{URL: "https://" + testHost + "/webhook", Events: []string{"created", "job_started"}},
			}}, serving)
			made.Status.NetBox.Version = "4.6.8"
			if err := plane().Client.Status().Update(t.Context(), made); err != nil {
				t.Fatal(err)
			}
		},
		want: []string{"jobs fail in NetBox 4.6.8 when their start is reported", "Next: remove job_started from spec.netbox.webhook.events"},
	},
}

// symptomsOfPage returns the first cells of the page's table of misconfigurations, without formatting.
func symptomsOfPage(t *testing.T) (symptoms []string) {
	t.Helper()
	content, err := os.ReadFile("../../docs/troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(content), "\n## When no events come\n")
	section, _, _ = strings.Cut(section, "\n## ")
	for _, row := range regexp.MustCompile(`(?m)^\| (.*?) \| `).FindAllStringSubmatch(section, -1) {
		if text := strings.NewReplacer("`", "", "*", "").Replace(row[1]); text != "symptom" && text != "---" {
			symptoms = append(symptoms, text)
		}
	}
	return symptoms
}

// TestDoctorMistakes makes each mistake of the page's table, and expects that doctor finds it.
func TestDoctorMistakes(t *testing.T) {
	patients := map[string]*patient{}
	var watched []string
	for _, mistake := range mistakes {
		p := &patient{namespace: plane().Namespace(t)}
		if patients[mistake.symptom] = p; !mistake.isUnwatched {
			watched = append(watched, p.namespace)
		}
	}
	receiver := startManager(t, plane().Config, "--watch-namespaces="+strings.Join(watched, ","))
	symptoms := symptomsOfPage(t)
	if len(symptoms) < 10 {
		t.Fatalf("the page has the rows %q", symptoms)
	}
	for _, mistake := range mistakes {
		if !slices.Contains(symptoms, mistake.symptom) {
			t.Errorf("the page does not have %s", mistake.symptom)
		}
	}
	for _, symptom := range symptoms {
		t.Run(symptom, func(t *testing.T) {
			at := slices.IndexFunc(mistakes, func(mistake mistake) bool { return mistake.symptom == symptom })
			if at < 0 {
				t.Fatal("doctor has no check for this row")
			}
			p := patients[symptom]
			p.receiver = receiver
			installOperator(t, p.namespace, p.namespace, time.Now())
			newService(t, p.namespace)
			mistakes[at].make(t, p)
			user := newSession(t, p.namespace)
			user.later(p.later)
			got := user.run(t, append([]string{"doctor"}, p.args...)...)
			if want := map[bool]int{true: exitWell, false: exitFound}[mistakes[at].isWarning]; got.code != want {
				t.Errorf("exit code %d, want %d", got.code, want)
			}
			contains(t, got.out+got.err, mistakes[at].want...)
			if t.Failed() {
				t.Log(got.out + got.err)
			}
		})
	}
}

// TestDoctor looks at a way that is well, at one where much is wrong, and with few rights.
func TestDoctor(t *testing.T) {
	well, wrong := namespace(t, "doctor"), namespace(t, "doctor-wrong")
	receiver := startManager(t, plane().Config, "--watch-namespaces="+well+","+wrong)
	until := time.Now().Add(24 * 90 * time.Hour)
	served, caFile := certificate(t, testHost, until)
	newWay := func(space, secret string, annotations map[string]string) *patient {
		installOperator(t, space, space, time.Now().Add(20*time.Minute))
		newService(t, space)
		plane().Create(t, &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: space, Name: "netbox-events-tls"}, Type: corev1.SecretTypeTLS,
			Data: map[string][]byte{corev1.TLSCertKey: readFile(t, caFile), corev1.TLSPrivateKeyKey: []byte("x")},
		})
		newIngress(t, space, "/webhook", annotations, networkingv1.IngressTLS{Hosts: []string{testHost}, SecretName: "netbox-events-tls"})
		newSecret(t, space, secret)
		return &patient{namespace: space, receiver: receiver}
	}
	look := func(file string, code int, p *patient, proxy string) {
		t.Helper()
		user := newSession(t, p.namespace)
		user.later(20 * time.Minute)
		shown := map[string]string{proxy: "192.0.2.7:443", caFile: "ca.crt", until.UTC().Format(time.DateOnly): "2027-02-21"}
		user.showsSent(t, file, code, shown, "doctor", "--connect-to", proxy, "--ca-file", caFile)
	}

	good := newWay(well, "k3y of NetBox, long\n", nil)
	made := newSignedSource(t, well, receiver, nil)
	if status := postAs(t, "http://"+receiver+pathOf(made), netboxAgent, "application/json", siteBody(1), "k3y of NetBox, long"); status != http.StatusOK {
		t.Fatalf("answered with %d", status)
	}
	direct := newProxy(t, receiver, &served, nil)
	look("doctor-well.txt", exitWell, good, direct)
	look("doctor-well.txt", exitWell, good, direct) // the first has left no traces that count

	bad := newWay(wrong, "\n"+signingSecret, map[string]string{nginx + "proxy-read-timeout": "10", nginx + "proxy-body-size": "100k"})
	made = newSignedSource(t, wrong, receiver, nil)
	deliverTo(t, receiver, made, siteBody(1))
	bad.refused(t, "SignatureMismatch")
	redirecting := newProxy(t, receiver, &served, redirectTo(http.StatusFound, "https://login.example.com/"))
	look("doctor-wrong.txt", exitFound, bad, redirecting)

	t.Run("json", func(t *testing.T) {
		user := newSession(t, wrong)
		user.later(20 * time.Minute)
		got := user.run(t, "doctor", "-o", "json", "--connect-to", redirecting, "--ca-file", caFile)
		var parsed diagnosis
		if err := json.Unmarshal([]byte(got.out), &parsed); err != nil || got.code != exitFound || parsed.count(resultProblem) != 5 {
			t.Errorf("exit code %d, %v in %s", got.code, err, got.out)
		}
	})
	t.Run("a deleted source", func(t *testing.T) {
		plane().Create(t, &corev1.Event{
			ObjectMeta:     metav1.ObjectMeta{Namespace: wrong, Name: "refused"},
			InvolvedObject: corev1.ObjectReference{APIVersion: "netbox-events.io/v1alpha1", Kind: "NetBoxSource", Namespace: wrong, Name: "gone"},
			Type:           corev1.EventTypeWarning, Reason: "SignatureMismatch", Action: "Receive", Message: "delivery answered with 401",
			ReportingController: operatorName, ReportingInstance: "x", EventTime: metav1.NewMicroTime(time.Now()),
		})
		user := newSession(t, wrong)
		user.later(0)
		contains(t, user.run(t, "doctor").out, "source gone\n  problem   deliveries were refused (SignatureMismatch)")
	})
	t.Run("another URL", func(t *testing.T) {
		got := newSession(t, well).run(t, "doctor", "--url", "https://"+testHost+"/webhook/other", "--connect-to", direct, "--ca-file", caFile)
		contains(t, got.out, "no source of this namespace has the path /webhook/other; they have /webhook/doctor/netbox")
	})
	t.Run("http", func(t *testing.T) {
		got := newSession(t, wrong).run(t, "doctor", "--url", "http://"+testHost, "--connect-to", redirecting)
		contains(t, got.out, "problem   it redirects http://"+testHost+"/webhook/doctor-wrong/netbox to https")
	})
	t.Run("out of reach", func(t *testing.T) {
		got := newSession(t, well).run(t, "doctor")
		contains(t, got.out, "unknown   it cannot be reached from here: ", "Next: run this where NetBox runs, or pass --connect-to HOST:PORT")
	})
	t.Run("an unknown CA", func(t *testing.T) {
		got := newSession(t, well).run(t, "doctor", "--connect-to", direct)
		contains(t, got.out, "warning   its certificate is of no CA that is known here", "Next: pass --ca-file; and set the CA file path of NetBox's webhook")
	})
	t.Run("rights", func(t *testing.T) {
		user := newSession(t, well)
		user.user = "patient"
		user.later(0)
		allow(t, well, "patient", rbacv1.PolicyRule{
			APIGroups: []string{v1alpha1.SchemeGroupVersion.Group}, Resources: []string{"netboxsources", "netboxeventrules", "netboxevents"},
			Verbs: []string{"get", "list", "watch"},
		})
		got := user.run(t, "doctor")
		if got.code != exitWell {
			t.Errorf("exit code %d", got.code)
		}
		contains(t, got.out, "unknown   the keys in Secret netbox-webhook: you may not get secrets in namespace doctor",
			"rights\n  unknown   refused deliveries: you may not list events", "  unknown   the operator: you may not list deployments in all namespaces")
	})
}

func readFile(t *testing.T, file string) []byte {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return content
}
