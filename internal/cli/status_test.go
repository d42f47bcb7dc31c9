package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/delivery"
)

// installOperator makes the Deployment of an operator that watches a namespace, and its Lease.
func installOperator(t *testing.T, namespace, watched string, renewed time.Time) {
	t.Helper()
	const name = "netbox-event-operator"
	labels := map[string]string{"app.kubernetes.io/part-of": "netbox-event-operator", "app.kubernetes.io/version": "v1.4.0"}
	deployment := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labels},
		Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{
				Name: "manager", Image: "ghcr.io/netbox-events/netbox-event-operator:v1.4.0",
				Args: []string{"--leader-elect", "--leader-election-id=" + name, "--watch-namespaces=other," + watched},
			}}}},
		},
	}
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: coordinationv1.LeaseSpec{
		HolderIdentity: new(name + "-6d4cf56db6-2xvkq_8a2b"), LeaseDurationSeconds: new(int32(15)), RenewTime: new(metav1.NewMicroTime(renewed)),
	}}
	plane().Create(t, deployment, lease)
	deployment.Status = appsv1.DeploymentStatus{Replicas: 2, ReadyReplicas: 2}
	if err := plane().Client.Status().Update(t.Context(), deployment); err != nil {
		t.Fatal(err)
	}
}

// newSource makes a source with conditions.
func newSource(t *testing.T, namespace, name string, spec v1alpha1.NetBoxSourceSpec, conditions ...metav1.Condition) *v1alpha1.NetBoxSource {
	t.Helper()
	spec.Redact, spec.Unsigned = []string{}, v1alpha1.UnsignedAccept
	made := &v1alpha1.NetBoxSource{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: spec}
	plane().Create(t, made)
	made.Status.Keys, made.Status.Conditions = []string{"secret"}, dated(conditions)
	if spec.NetBox != nil {
		made.Status.NetBox = &v1alpha1.NetBoxAPIStatus{Version: "4.7.3"}
	}
	if err := plane().Client.Status().Update(t.Context(), made); err != nil {
		t.Fatal(err)
	}
	return made
}

func dated(conditions []metav1.Condition) []metav1.Condition {
	for i := range conditions {
		conditions[i].ObservedGeneration, conditions[i].LastTransitionTime = 1, metav1.NewTime(received)
	}
	return conditions
}

func setStatus(t *testing.T, rule *v1alpha1.NetBoxEventRule, status v1alpha1.NetBoxEventRuleStatus) {
	t.Helper()
	rule.Status = status
	rule.Status.Conditions = dated(status.Conditions)
	if err := plane().Client.Status().Update(t.Context(), rule); err != nil {
		t.Fatal(err)
	}
}

var serving = metav1.Condition{
	Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonServing, Message: "deliveries are stored",
}

const announceSpec = `{match: {objectTypes: [dcim.site]}, actions: [{name: send, http: {url: "https://hooks.example.com/"}}]}`

// later sets the clock of a session to a time after all objects were made, whose ages are then the same in each run.
func (s *session) later(after time.Duration) { s.clock.SetTime(time.Now().Add(after)) }

func TestStatusWell(t *testing.T) {
	space := namespace(t, "well")
	installOperator(t, namespace(t, "operators"), space, time.Now().Add(20*time.Minute+25*time.Second))
	netbox := v1alpha1.NetBoxSourceSpec{NetBox: &v1alpha1.NetBoxAPI{
		URL: "https://netbox.example.com", TokenSecretRef: v1alpha1.SecretKeyReference{Name: "netbox-token", Key: "token"},
	}}
	newSource(t, space, "netbox", netbox, serving, metav1.Condition{
		Type: v1alpha1.ConditionReceiving, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonChangesArrive, Message: "changes arrive",
	})
	announce := newRule(t, space, "announce", announceSpec)
	setStatus(t, announce, v1alpha1.NetBoxEventRuleStatus{Matched: 1, LastMatched: new(metav1.NewTime(time.Now())), Conditions: []metav1.Condition{
		{Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonCompiled, Message: "events are matched against the rule"},
	}})
	event := receive(t, space, "netbox-4.6.8-live/51", 0)
	deliver(t, event, []*v1alpha1.NetBoxEventRule{announce}, func(status *v1alpha1.NetBoxEventStatus) {
		attempt(status, 0, 0, delivery.Outcome{Response: "200 OK"}, time.Second)
	})
	user := newSession(t, space)
	user.later(20*time.Minute + 30*time.Second)
	user.shows(t, "status-well.txt", exitWell, "status")

	got := user.run(t, "status", "-o", "json")
	var parsed overview
	if err := json.Unmarshal([]byte(got.out), &parsed); err != nil || got.code != exitWell {
		t.Errorf("exit code %d, %v in %s", got.code, err, got.out)
	}
	if len(parsed.Sources) != 1 || parsed.Sources[0].NetBox != "4.7.3" || len(parsed.Operators) != 1 || len(parsed.Wrong) != 0 {
		t.Errorf("got %+v", parsed)
	}
}

func TestStatusWrong(t *testing.T) {
	space := namespace(t, "wrong")
	installOperator(t, namespace(t, "operators-down"), space, time.Now().Add(-time.Hour))
	sick := newSource(t, space, "netbox", v1alpha1.NetBoxSourceSpec{}, metav1.Condition{
		Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonSecretNotFound,
		Message: "Secret netbox-webhook does not exist in namespace wrong; deliveries are answered with 503",
	})
	newSource(t, space, "new", v1alpha1.NetBoxSourceSpec{})
	plane().Create(t, &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Namespace: space, Name: "refused"},
		InvolvedObject: corev1.ObjectReference{APIVersion: "netbox-events.io/v1alpha1", Kind: "NetBoxSource", Namespace: space, Name: "netbox", UID: sick.UID},
		Type:           corev1.EventTypeWarning, Reason: "SignatureMismatch", Action: "Receive",
		Message:             "delivery from 192.0.2.7:4711 answered with 401: signature missing or wrong",
		ReportingController: "netbox-event-operator", ReportingInstance: "x", EventTime: metav1.NewMicroTime(time.Now()),
	})
	announce := newRule(t, space, "announce", announceSpec)
	setStatus(t, announce, v1alpha1.NetBoxEventRuleStatus{Matched: 7, Failed: 1, LastMatched: new(metav1.NewTime(time.Now())), Conditions: []metav1.Condition{
		{Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonCompiled, Message: "events are matched against the rule"},
		{
			Type: v1alpha1.ConditionSinkAvailable, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonUnavailable,
			Message: "action send: connection refused",
		},
	}})
	setStatus(t, newRule(t, space, "broken", `{match: {cel: event.user == "x"}, actions: [{name: a, log: {message: a}}]}`), v1alpha1.NetBoxEventRuleStatus{
		Conditions: []metav1.Condition{{
			Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonInvalid,
			Message: "spec.match.cel: 1:6: undefined field 'user'",
		}},
	})
	failed := receive(t, space, "netbox-4.6.8-live/51", 0)
	deliver(t, failed, []*v1alpha1.NetBoxEventRule{announce}, func(status *v1alpha1.NetBoxEventStatus) {
		attempt(status, 0, 0, delivery.Outcome{Response: "404 Not Found", Err: errNotFound, Permanent: true}, time.Second)
	})
	receive(t, space, "netbox-4.6.8-live/72", time.Minute)
	user := newSession(t, space)
	user.later(20*time.Minute + 30*time.Second)
	user.shows(t, "status-wrong.txt", exitFound, "status")
}

// TestStatusProcess looks at operators that are no Deployments.
func TestStatusProcess(t *testing.T) {
	space := plane().Namespace(t)
	newSource(t, space, "netbox", v1alpha1.NetBoxSourceSpec{}, serving)
	user := newSession(t, space)
	user.later(0)
	look := func(code int, text string) {
		t.Helper()
		got := user.run(t, "status")
		if got.code != code {
			t.Errorf("the exit code is %d, want %d", got.code, code)
		}
		contains(t, got.out, text)
	}
	look(exitWell, "Operator: no Deployment and no Lease is visible; it looked at all sources, and last wrote the status of one ")

	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: space, Name: operatorName}, Spec: coordinationv1.LeaseSpec{
		HolderIdentity: new("laptop_8a2b"), LeaseDurationSeconds: new(int32(15)), RenewTime: new(metav1.NowMicro()),
	}}
	plane().Create(t, lease)
	look(exitWell, "Operator "+space+"/netbox-event-operator: no Deployment is visible, leader laptop\n")
	user.later(time.Hour)
	look(exitFound, "no operator watches namespace "+space)
	if err := plane().Client.Delete(t.Context(), lease); err != nil {
		t.Fatal(err)
	}

	newSource(t, space, "new", v1alpha1.NetBoxSourceSpec{})
	look(exitFound, "no operator watches namespace "+space)
}

// TestStatusRights looks with the right to see the operator's resources alone, and with none.
func TestStatusRights(t *testing.T) {
	space := plane().Namespace(t)
	newSource(t, space, "netbox", v1alpha1.NetBoxSourceSpec{}, serving)
	user := newSession(t, space)
	user.user = "viewer"
	got := user.run(t, "status")
	if got.code != exitFailed {
		t.Errorf("without rights, the exit code is %d", got.code)
	}
	contains(t, got.err, "you may not list netboxsources in namespace "+space)

	allow(t, space, "viewer", rbacv1.PolicyRule{
		APIGroups: []string{v1alpha1.SchemeGroupVersion.Group}, Resources: []string{"netboxsources", "netboxeventrules", "netboxevents"},
		Verbs: []string{"get", "list", "watch"},
	})
	user.later(0)
	got = user.run(t, "status")
	if got.code != exitWell {
		t.Errorf("the exit code is %d: %s", got.code, got.out+got.err)
	}
	contains(t, got.out, "you may not list events in namespace "+space, "you may not list deployments in all namespaces", "fit this plugin")
}

// allow gives a user rights in a namespace.
func allow(t *testing.T, namespace, user string, rules ...rbacv1.PolicyRule) {
	t.Helper()
	plane().Create(t,
		&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: user}, Rules: rules},
		&rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: user},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: user},
			Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}},
		})
	eventuallyMay(t, namespace, user)
}

// eventuallyMay waits until the API server knows a new role.
func eventuallyMay(t *testing.T, namespace, user string) {
	t.Helper()
	session := newSession(t, namespace)
	session.user = user
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if got := session.run(t, "status"); !strings.Contains(got.err, "you may not list netboxsources") {
			return
		} else if time.Now().After(deadline) {
			t.Fatal(got.err)
		}
	}
}

// TestFit compares the plugin with CRDs that lack a field, and have another one.
func TestFit(t *testing.T) {
	stored := &apiSchema{Properties: map[string]*apiSchema{
		"spec": {Properties: map[string]*apiSchema{"suspend": {}, "sooner": {}}}, "status": {Properties: map[string]*apiSchema{}},
	}}
	var got fit
	got.compare("NetBoxEventRule", kinds["NetBoxEventRule"], stored)
	contains(t, strings.Join(got.Missing, " "), "NetBoxEventRule.spec.match", "NetBoxEventRule.spec.actions")
	if len(got.Unknown) != 1 || got.Unknown[0] != "NetBoxEventRule.spec.sooner" {
		t.Errorf("unknown: %q", got.Unknown)
	}
	contains(t, got.String(), "older than this plugin")
}

// olderCRDs points a session at a proxy of the API server whose CRDs lack a field of rules.
func (s *session) olderCRDs(t *testing.T) {
	t.Helper()
	transport, err := rest.TransportFor(plane().Config)
	if err != nil {
		t.Fatal(err)
	}
	target, _, err := rest.DefaultServerUrlFor(plane().Config)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.Transport = transport
	proxy.ModifyResponse = func(response *http.Response) error {
		if response.Request.URL.Path != "/openapi/v3/apis/netbox-events.io/v1alpha1" {
			return nil
		}
		text, err := io.ReadAll(response.Body)
		if err != nil {
			return err
		}
		text = bytes.ReplaceAll(text, []byte(`"dryRun"`), []byte(`"dryRan"`))
		response.Body = io.NopCloser(bytes.NewReader(text))
		return nil
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Del("Accept-Encoding")
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	s.kubeconfig = filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf(`{apiVersion: v1, kind: Config, clusters: [{name: c, cluster: {server: %q}}], contexts: [{name: c, context: {cluster: c}}], current-context: c}`,
		server.URL)
	if err := os.WriteFile(s.kubeconfig, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestVersion(t *testing.T) {
	space := plane().Namespace(t)
	user := newSession(t, space)
	user.later(time.Hour) // no Lease of another test is held then
	contains(t, user.run(t, "version").out, "Not shown: the operator: none watches namespace "+space)
	installOperator(t, plane().Namespace(t), space, time.Now())
	user = newSession(t, space)
	got := user.run(t, "version")
	contains(t, got.out, "kubectl-netbox ", "/netbox-event-operator v1.4.0: 2 of 2 replicas ready", "The CRDs (v1alpha1) fit this plugin")
	var parsed versions
	if err := json.Unmarshal([]byte(user.run(t, "version", "-o", "json").out), &parsed); err != nil || got.code != exitWell {
		t.Errorf("exit code %d, %v", got.code, err)
	}
	if parsed.Plugin.Go == "" || len(parsed.Operators) != 1 || parsed.CRDs == nil {
		t.Errorf("got %+v", parsed)
	}

	event := sites(t, space)[0]
	user.olderCRDs(t)
	got = user.run(t, "version")
	contains(t, got.out, "older than this plugin, and lack NetBoxEventRule.spec.dryRun: upgrade the operator")
	if got.code != exitFound {
		t.Errorf("the exit code is %d: %s", got.code, got.err)
	}
	contains(t, user.run(t, "replay", event.Name, "--yes").err, "warning: the CRDs (v1alpha1) are older than this plugin")

	user.kubeconfig = filepath.Join(t.TempDir(), "none")
	got = user.run(t, "version")
	contains(t, got.out, "kubectl-netbox ")
	contains(t, got.err, "no such file", "--client prints the version of the plugin alone")
	if got = user.run(t, "version", "--client"); got.code != exitWell || got.err != "" || strings.Count(got.out, "\n") != 1 {
		t.Errorf("exit code %d: %s%s", got.code, got.out, got.err)
	}
}
