package cli

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/cli/redact"
	"github.com/netbox-events/netbox-event-operator/internal/delivery"
	"github.com/netbox-events/netbox-event-operator/internal/eventspec"
)

// unpack returns the files of an archive by their names without the directory, and checks that only the user may read it.
func unpack(t *testing.T, file string) map[string]string {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	decompressor, err := gzip.NewReader(bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for reader := tar.NewReader(decompressor); ; {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(reader)
		if err != nil {
			t.Fatal(err)
		}
		_, name, _ := strings.Cut(header.Name, "/")
		files[name] = string(text)
	}
}

func TestReport(t *testing.T) {
	space := namespace(t, "report")
	installOperator(t, namespace(t, "operators-report"), space, time.Now())
	newSource(t, space, "netbox", v1alpha1.NetBoxSourceSpec{}, serving)
	events := sites(t, space)
	user := newSession(t, space)
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	directory := t.TempDir()
	t.Chdir(directory)
	refused := user.run(t, "report")
	contains(t, refused.err, "Write netbox-report-report-20261123T191200Z.tar.gz? [y/N]", "not confirmed, and nothing done")
	if left, err := os.ReadDir(directory); err != nil || len(left) > 0 || refused.code != exitFailed {
		t.Errorf("%d files, %v, exit code %d", len(left), err, refused.code)
	}
	got := user.run(t, "report", "--yes")
	again := user.run(t, "report", "--yes")
	shown := user.run(t, "report", "--events", "1", "--show", "-y", "-f", "other.tar.gz")
	t.Chdir(here)
	if got.code != exitWell {
		t.Errorf("exit code %d: %s", got.code, got.err)
	}
	golden(t, "report.txt", "$ kubectl netbox report --yes\n"+got.out+got.err)
	contains(t, again.err, "exists; remove it, or choose another --file")

	files := unpack(t, filepath.Join(directory, "netbox-report-report-20261123T191200Z.tar.gz"))
	contains(t, files["README.txt"], "namespace report, made 2026-11-23T19:12:00.000000Z", "Left out:")
	contains(t, files["versions.yaml"], "kubernetes: v1.", "operators-report/netbox-event-operator", "version: v1alpha1")
	contains(t, files["rules/announce.yaml"], "kind: NetBoxEventRule", "- dcim.site", "url: <string ")
	contains(t, files["events/"+events[1].Name+".yaml"], "phase: Failed", "lastError: answered with 404 Not Found", "slug: <string ", "group: null", "asns: []")
	for _, event := range events {
		if strings.Contains(files["events/"+event.Name+".yaml"], event.Spec.ObjectName) {
			t.Errorf("the report has the name of %s", event.Name)
		}
	}
	contains(t, shown.out, "--- README.txt\n", "--- events/", "\n  objectType: dcim.site\n")
	if only := unpack(t, filepath.Join(directory, "other.tar.gz")); only["events/"+events[3].Name+".yaml"] == "" || only["events/"+events[2].Name+".yaml"] != "" {
		t.Errorf("the one event is not the newest that is not done: %s", shown.out)
	}
}

// canary is in all values that a report must not have.
const canary = "canary"

// TestReportSecrets has secrets and values of NetBox in all places that may have them.
func TestReportSecrets(t *testing.T) {
	space := plane().Namespace(t)
	operators := plane().Namespace(t)
	installOperator(t, operators, space, time.Now())
	var deployment appsv1.Deployment
	if err := plane().Client.Get(t.Context(), keyOf(operators, "netbox-event-operator"), &deployment); err != nil {
		t.Fatal(err)
	}
	container := &deployment.Spec.Template.Spec.Containers[0]
	container.Env = []corev1.EnvVar{{Name: "HTTPS_PROXY", Value: "http://me:canary-proxy@proxy.example.com"}}
	container.Args = append(container.Args, "--collector=https://canary.example.com/path")
	if err := plane().Client.Update(t.Context(), &deployment); err != nil {
		t.Fatal(err)
	}
	newPod := func(name string, restarts ...corev1.ContainerStatus) {
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: operators, Name: name, Labels: deployment.Spec.Selector.MatchLabels},
			Spec:       deployment.Spec.Template.Spec,
		}
		pod.Spec.NodeName = "canary-node" // no kubelet has its log
		plane().Create(t, pod)
		pod.Status.ContainerStatuses = restarts
		if err := plane().Client.Status().Update(t.Context(), pod); err != nil {
			t.Fatal(err)
		}
	}
	newPod("netbox-event-operator-x", corev1.ContainerStatus{Name: "manager"}, corev1.ContainerStatus{Name: "proxy", RestartCount: 1})
	newPod("netbox-event-operator-y", corev1.ContainerStatus{Name: "manager", RestartCount: 1})
	plane().Create(t,
		&corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: space, Name: "netbox-webhook", Annotations: map[string]string{"a": "canary-annotation"}},
			StringData: map[string]string{"key": "canary-key\n"},
		},
		&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: space, Name: "other"}, StringData: map[string]string{"key": "canary-unused"}})
	source := newSource(t, space, "netbox", v1alpha1.NetBoxSourceSpec{
		Path: "/canary/path", SecretRef: &v1alpha1.SecretKeysReference{Name: "netbox-webhook"},
		Accept: &v1alpha1.Filter{CEL: `data.name != "canary-cel"`},
		NetBox: &v1alpha1.NetBoxAPI{
			URL: "https://canary.example.com", TokenSecretRef: v1alpha1.SecretKeyReference{Name: "netbox-token", Key: "token"},
			Webhook: &v1alpha1.ManagedWebhook{URL: "https://canary.example.com/webhook"},
		},
	}, metav1.Condition{
		Type: v1alpha1.ConditionReceiving, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonNothingArrives,
		Message: `first is dcim.site 2 "canary-quoted" created by canary-user; see https://canary.example.com/x, or canary-name`,
	})
	rule := newRule(t, space, "announce", `{
		match: {cel: 'data.name == "canary-cel" // canary-comment', branches: [canary-branch]}, group: {by: '"canary-group"', quiet: 1s, maxWait: 2s},
		limit: {concurrency: 1, key: '"canary-limit"'}, secrets: [{name: token, secretKeyRef: {name: netbox-webhook, key: key}}], serviceAccountName: announcer,
		lookups: [{name: site, path: '/api/dcim/sites/?name=canary-lookup'}, {name: all, graphql: {query: '{ site(name: "canary") { id } }', variables: {a: canary-variable}}}],
		actions: [
			{name: send, when: 'data.name != "canary-when"', http: {url: "https://canary.example.com/${event.objectID}", method: PUT,
				headers: [{name: X-Token, value: "canary-header ${secrets.token}"}],
				body: {json: {text: "canary-body ${data.name}", list: [canary-item, "${'canary-literal'}"], number: 271828}},
				auth: {oauth2: {tokenURL: "https://canary.example.com/token", clientID: canary-client, clientSecretRef: {name: oauth, key: id}, scopes: [canary-scope]}}}},
			{name: form, http: {url: "https://canary.example.com", body: {form: {a: canary-form}}}},
			{name: text, http: {url: "https://canary.example.com", body: {text: canary-text}}},
			{name: note, event: {reason: Canary, message: canary-message}}, {name: log, log: {message: canary-log}},
			{name: config, apply: {template: {apiVersion: v1, kind: ConfigMap, metadata: {name: canary-config}, data: {a: canary-data}}}}]}`)
	rule.Annotations = map[string]string{"kubectl.kubernetes.io/last-applied-configuration": `{"spec": "canary-applied"}`}
	rule.Labels = map[string]string{"team": "canary-team"}
	if err := plane().Client.Update(t.Context(), rule); err != nil {
		t.Fatal(err)
	}
	setStatus(t, rule, v1alpha1.NetBoxEventRuleStatus{ExpressionErrors: 1, LastExpressionError: "site-1: canary-name is no number, as canary-unreported"})

	decoded, size := decode(t, "netbox-4.7.3-live/391")
	event := eventspec.New(decoded, eventspec.Delivery{Source: source, Key: "key", BodyBytes: size, ReceivedAt: received, Origin: v1alpha1.OriginWebhook})
	spec := &event.Spec
	spec.Username, spec.ObjectName, spec.Branch, spec.ObjectURL = "canary-user", "canary-name", "canary-branch", "/canary/url"
	for into, text := range map[*v1alpha1.JSONObject]string{
		&spec.Data:              `{"name": "canary-name", "tags": [{"slug": "canary-tag"}], "pin": 314159, "line": "one\ncanary line"}`,
		&spec.Snapshots:         `{"prechange": {"name": "canary-before"}, "postchange": {"name": "canary-name"}}`,
		&spec.Context:           `{"config": "canary-context"}`,
		&spec.Extra:             `{"plugin": "canary-extra"}`,
		&spec.Request:           `{"path": "/canary/request", "user": "canary-user"}`,
		&spec.Delivery.Envelope: `{"more": "canary-envelope"}`,
	} {
		setJSON(t, into, text)
	}
	plane().Create(t, event)
	deliver(t, event, []*v1alpha1.NetBoxEventRule{rule}, func(status *v1alpha1.NetBoxEventStatus) {
		attempt(status, 0, 0, delivery.Outcome{Response: "500 canary-name", Err: errors.New(`answered with "canary-answer`), Permanent: true}, time.Second)
		setJSON(t, &status.Rules[0].Actions[0].Result, `{"body": "canary-result"}`)
		status.Rules[0].LimitKey = "canary-limit"
		status.Rules[0].Group = &v1alpha1.GroupStatus{ID: "3f9c", Key: "canary-group", Events: 2}
	})
	decoded, size = decode(t, "netbox-4.7.3-live/391")
	unreported := eventspec.New(decoded, eventspec.Delivery{
		Source: source, Key: "key", BodyBytes: size + 1, ReceivedAt: received.Add(-time.Minute), Origin: v1alpha1.OriginWebhook,
	})
	unreported.Name, unreported.Spec.ObjectName = "unreported", "canary-unreported"
	plane().Create(t, unreported)
	for message, about := range map[string]*v1alpha1.NetBoxEvent{
		"canary-message: canary-name by canary-user, PIN 314159":      event,
		"CANARY-COMPUTED of the name, and CANARY of the user":         event,
		"a new message of a rule of the past, and the canary in it":   unreported,
		"Site canary-unreported was changed by canary-unreported-too": unreported,
	} {
		plane().Create(t, &corev1.Event{
			ObjectMeta: metav1.ObjectMeta{Namespace: space, GenerateName: "noted-"},
			InvolvedObject: corev1.ObjectReference{
				APIVersion: "netbox-events.io/v1alpha1", Kind: "NetBoxEvent", Namespace: space, Name: about.Name, UID: about.UID,
			},
			Type: corev1.EventTypeNormal, Reason: "Canary", Message: message,
			Source: corev1.EventSource{Component: "netbox-event-operator"}, FirstTimestamp: metav1.Now(), LastTimestamp: metav1.Now(),
		})
	}

	plane().Create(t, &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Namespace: operators, Name: "scheduled"},
		InvolvedObject: corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: operators, Name: "netbox-event-operator-x"},
		Type:           corev1.EventTypeNormal, Reason: "Scheduled", Message: "assigned netbox-event-operator-x to canary-node",
	})

	user := newSession(t, space)
	file := filepath.Join(t.TempDir(), "report.tar.gz")
	got := user.run(t, "report", "--yes", "--show", "--events", "1", "--file", file)
	if got.code != exitWell {
		t.Fatalf("exit code %d: %s", got.code, got.err)
	}
	files := unpack(t, file)
	at := strings.LastIndex(got.out, "\nNot read:\n") // from where on the user sees errors as they are
	files["what is printed"] = got.out[:at]
	unread := got.out[at:]
	for name, text := range files {
		for _, secret := range []string{
			canary, base64.StdEncoding.EncodeToString([]byte("canary-key\n")), "271828", "314159", "one\n",
		} {
			if at := strings.Index(strings.ToLower(text), strings.ToLower(secret)); at >= 0 {
				t.Errorf("%s has %q: %.200s", name, secret, text[max(0, at-100):])
			}
		}
	}
	contains(t, files["secrets.yaml"], "name: netbox-webhook", "bytes: 11", "trailingSpace: true", "missing: true\n  name: netbox-token", "name: oauth")
	contains(t, files["rules/announce.yaml"], "${event.objectID}", "${secrets.token}", "method: PUT", "name: X-Token", "kind: ConfigMap", "data.name == ")
	contains(t, files["events/"+event.Name+".yaml"], "pin: <number ", "id: 3f9c")
	contains(t, files["kubernetes-events.yaml"], "about: NetBoxEvent "+space+"/"+event.Name, "assigned netbox-event-operator-x to <string ")
	contains(t, files["operator/"+operators+"-netbox-event-operator/state.yaml"], "- HTTPS_PROXY", "--leader-elect", "holderIdentity")
	contains(t, files["operator/"+operators+"-netbox-event-operator/state.yaml"], "name: netbox-event-operator-x", "phase: Pending")
	if files["events/unreported.yaml"] != "" || strings.Contains(files["kubernetes-events.yaml"], "unreported") {
		t.Error("the report has more than one event")
	}
	contains(t, unread, "- log of pod netbox-event-operator-x: ", "- log of pod netbox-event-operator-y-previous: ")
	if strings.Contains(unread, "netbox-event-operator-x-previous") {
		t.Errorf("the manager did not restart, and its previous log was asked for:\n%s", unread)
	}
	if out := user.run(t, "report", "-y", "--logs=false", "-f", file+".2").out; strings.Contains(out, "log of pod") {
		t.Errorf("with --logs=false:\n%s", out)
	}
	if strings.Contains(files["secrets.yaml"], "other") {
		t.Error("the report has a Secret that nothing names")
	}
}

func setJSON(t *testing.T, into *v1alpha1.JSONObject, text string) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), into); err != nil {
		t.Fatal(err)
	}
}

// TestReportRights lacks all rights but those to see the operator's resources.
func TestReportRights(t *testing.T) {
	space := plane().Namespace(t)
	newSource(t, space, "netbox", v1alpha1.NetBoxSourceSpec{SecretRef: &v1alpha1.SecretKeysReference{Name: "netbox-webhook"}}, serving)
	user := newSession(t, space)
	user.user = "reporter"
	allow(t, space, "reporter", rbacv1.PolicyRule{
		APIGroups: []string{v1alpha1.SchemeGroupVersion.Group}, Resources: []string{"netboxsources", "netboxevents"}, Verbs: []string{"get", "list"},
	})
	file := filepath.Join(t.TempDir(), "report.tar.gz")
	got := user.run(t, "report", "--file", file, "--yes")
	if got.code != exitWell {
		t.Errorf("exit code %d: %s", got.code, got.err)
	}
	contains(t, got.out, "Not read:", "- rules: you may not list netboxeventrules in namespace "+space,
		"- Secret netbox-webhook: you may not get secrets", "- Kubernetes Events: you may not list events")
	readme := unpack(t, file)["README.txt"]
	contains(t, readme, "you may not list netboxeventrules")
	if strings.Contains(readme, "reporter") {
		t.Errorf("the report names the user:\n%s", readme)
	}
}

// TestReportUnread has errors of the API server, which name users and addresses.
func TestReportUnread(t *testing.T) {
	const problem = `User "jane@corp.example" cannot list: Get "https://api.corp.example": dial tcp 10.1.2.3:10250, http://node.corp.example/a`
	found := &evidence{overview: &overview{Unknown: []string{problem}}, unread: []string{problem}, redactor: redact.New()}
	files, err := found.files()
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range append(files, reportFile{"README.txt", found.readme()}) {
		for _, private := range []string{"jane", "corp.example", "10.1.2.3"} {
			if strings.Contains(string(file.content), private) {
				t.Errorf("%s has %q:\n%s", file.name, private, file.content)
			}
		}
	}
	if found.overview.Unknown[0] != problem || found.unread[0] != problem {
		t.Error("the user does not see the errors as they are")
	}
}

// TestReportProcess has an operator that is no Deployment, as on a developer's machine: nothing is asked about a Deployment.
func TestReportProcess(t *testing.T) {
	space := plane().Namespace(t)
	newSource(t, space, "netbox", v1alpha1.NetBoxSourceSpec{}, serving)
	got := newSession(t, space).run(t, "report", "--yes", "--show", "--file", filepath.Join(t.TempDir(), "report.tar.gz"))
	if got.code != exitWell || strings.Contains(got.out, "Not read:") {
		t.Errorf("exit code %d: %s%s", got.code, got.err, got.out)
	}
	contains(t, got.out, "\noperators:\n", "\noperators: {}\n") // of the status, and without versions
}
