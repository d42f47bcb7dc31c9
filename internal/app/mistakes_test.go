package app_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

// ruleCase is what people write, and what comes of it.
type ruleCase struct {
	reason string
	steps  []ruleStep
	// want are, by rule and action, the states of the last event's actions. A rule that did not match it is absent.
	want map[string]string
	// ready are the beginnings of the messages of the rules' conditions Ready, by their names.
	ready map[string]string
	// check returns what else there is.
	check func(t *testing.T, namespace string) any
	found any
}

// ruleStep writes rules, and sends a delivery after that. Rules from before stay as they are.
type ruleStep struct {
	rules map[string]string // specs by name
	body  string
}

const (
	siteEvent = `{"event":%q,"timestamp":"2026-11-26T11:30:%02dZ","object_type":"dcim.site","data":{"id":%d,"name":%q}}`
	note      = `actions: [{name: note, event: {reason: X, message: "x"}}]`
	mapping   = `{match: {objectTypes: [dcim.site], events: [created, updated]}, serviceAccountName: provisioner, actions: [{name: %s, apply: {template:
		{apiVersion: v1, kind: ConfigMap, metadata: {name: "site-${event.objectID}"}, data: {name: "${data.name}"}}}}]}`
)

func ruleCases(sink string) []ruleCase {
	return []ruleCase{
		{
			reason: "an update of a device that is active already, without a before",
			steps: []ruleStep{{map[string]string{
				"null-prechange":        `{match: {objectTypes: [dcim.device], events: [created, updated], cel: 'changedTo("status", "active")'}, ` + note + `}`,
				"null-prechange-fields": `{match: {objectTypes: [dcim.device], events: [created, updated], changedFields: [status]}, ` + note + `}`,
			}, `{"event":"updated","timestamp":"2026-11-26T11:30:00Z","object_type":"dcim.device","username":"bob","request_id":"n1",
				"data":{"id":901,"name":"edge-1","status":{"value":"active"},"primary_ip4":{"id":5,"address":"192.0.2.5/24"}},
				"snapshots":{"prechange":null,"postchange":{"name":"edge-1","status":"active","primary_ip4":5}}}`}},
		},
		{
			reason: "a custom field changed",
			steps: []ruleStep{{map[string]string{
				"nested-fields":  `{match: {objectTypes: [dcim.device], events: [updated], changedFields: [custom_fields.monitored]}, ` + note + `}`,
				"nested-changed": `{match: {objectTypes: [dcim.device], events: [updated], cel: 'changed("custom_fields.monitored")'}, ` + note + `}`,
			}, `{"event":"updated","timestamp":"2026-11-26T11:31:00Z","object_type":"dcim.device","username":"bob","request_id":"n2","data":{"id":902,"name":"edge-2"},
				"snapshots":{"prechange":{"name":"edge-2","custom_fields":{"monitored":false}},"postchange":{"name":"edge-2","custom_fields":{"monitored":true}}}}`}},
			want: map[string]string{"nested-fields/note": "Succeeded", "nested-changed/note": "Succeeded"},
		},
		{
			reason: "a number that is whole",
			steps: []ruleStep{{map[string]string{
				"decimal": `{match: {objectTypes: [dcim.device], cel: 'data.position * 2.0 > 2.0'}, actions: [{name: note, event: {reason: X, message: "top at ${data.position + 0.5}"}}]}`,
			}, `{"event":"updated","timestamp":"2026-11-26T12:10:00Z","object_type":"dcim.device","data":{"id":1,"position":12.0}}`}},
			want: map[string]string{"decimal/note": "Succeeded"}, check: kubernetesEvents, found: []string{"top at 12.5"},
		},
		{
			reason: "a text that Kubernetes would expand",
			steps: []ruleStep{{map[string]string{
				"env": `{match: {objectTypes: [dcim.device]}, serviceAccountName: provisioner, actions: [{name: job, apply: {template: {apiVersion: batch/v1, kind: Job,
					spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: "registry.example.com/tool:1", env: [
						{name: TOKEN, valueFrom: {secretKeyRef: {name: tok, key: token}}}, {name: COMMENT, value: "${data.comments}"}]}]}}}}}}]}`,
			}, `{"event":"updated","timestamp":"2026-11-26T12:20:00Z","object_type":"dcim.device","data":{"id":6,"name":"x","comments":"costs $$5, $(TOKEN)"}}`}},
			want:  map[string]string{"env/job": "Succeeded"},
			check: jobComments, found: []string{"costs $$$$5, $$(TOKEN)"},
		},
		{
			reason: "an action that got another name",
			steps: []ruleStep{
				{map[string]string{"sync": fmt.Sprintf(mapping, "cm")}, fmt.Sprintf(siteEvent, "created", 1, 801, "one")},
				{map[string]string{"sync": fmt.Sprintf(mapping, "configmap")}, fmt.Sprintf(siteEvent, "updated", 2, 801, "two")},
			},
			want: map[string]string{"sync/configmap": "Succeeded"}, check: configMaps, found: map[string]map[string]string{"site-801": {"name": "two"}},
		},
		{
			reason: "an object for a site, which is deleted with it",
			steps: []ruleStep{
				{map[string]string{
					"sync": fmt.Sprintf(mapping, "config"),
					"sites-gone": `{match: {objectTypes: [dcim.site], events: [deleted]}, serviceAccountName: provisioner, actions: [{name: config, apply: {operation: Delete,
						template: {apiVersion: v1, kind: ConfigMap, metadata: {name: "site-${event.objectID}"}}}}]}`,
				}, fmt.Sprintf(siteEvent, "created", 1, 801, "one")},
				{nil, fmt.Sprintf(siteEvent, "created", 2, 802, "two")},
				{nil, fmt.Sprintf(siteEvent, "deleted", 3, 801, "one")},
			},
			want: map[string]string{"sites-gone/config": "Succeeded"}, check: configMaps, found: map[string]map[string]string{"site-802": {"name": "two"}},
		},
		{
			reason: "one object for all sites",
			steps: []ruleStep{
				{map[string]string{
					"inventory": `{match: {objectTypes: [dcim.site]}, serviceAccountName: provisioner, actions: [{name: shared, apply: {template:
						{apiVersion: v1, kind: ConfigMap, metadata: {name: all-sites}, data: '${ {"s" + event.objectID: string(data.name)} }'}}}]}`,
				}, fmt.Sprintf(siteEvent, "created", 1, 801, "one")},
				{nil, fmt.Sprintf(siteEvent, "created", 2, 802, "two")},
			},
			want: map[string]string{"inventory/shared": "Succeeded"}, check: configMaps,
			found: map[string]map[string]string{"all-sites": {"s801": "one", "s802": "two"}},
		},
		{
			reason: "rules that cannot work",
			steps: []ruleStep{{map[string]string{
				"broken": `{match: {cel: 'event.user == "x"'}, ` + note + `}`,
				"form": `{match: {objectTypes: [dcim.device]}, actions: [{name: form, http: {url: "` + sink + `/form", format: NetBox,
					headers: [{name: Content-Type, value: application/x-www-form-urlencoded}]}}]}`,
				"typo":  `{match: {objectTypes: [DCIM.Device, dcim.devices], events: [update, object_updated, Updated], sources: [nosuch]}, actions: [{name: s, http: {url: "` + sink + `/typo"}}]}`,
				"later": `{actions: [{name: a, dependsOn: [b], log: {message: x}}, {name: b, log: {message: x}}]}`,
				"two":   `{actions: [{name: send, http: {url: "` + sink + `", body: {json: {}, text: a}}}]}`,
				"good":  `{match: {objectTypes: [DCIM.Device], events: [Updated], sources: [NetBox]}, ` + note + `}`,
			}, `{"event":"updated","timestamp":"2026-11-26T12:20:00Z","object_type":"dcim.device","data":{"id":6,"name":"x"}}`}},
			want: map[string]string{"good/note": "Succeeded"},
			ready: map[string]string{
				"broken": "spec.match.cel: 1:6: undefined field 'user'",
				"form":   "spec.actions[form].http.headers[Content-Type]: is application/x-www-form-urlencoded, but the body is JSON",
				"later":  `spec.actions[a].dependsOn: there is no action "b" before it in the list`,
				"two":    "spec.actions[send].http.body: must have exactly one of json, text and form",
				"good":   "events are matched against the rule",
				"typo": `events are matched against the rule; but spec.match.events: no webhook of NetBox has the event "update"; write "updated"; spec.match.events: ` +
					`no webhook of NetBox has the event "object_updated"; write "updated"; spec.match.objectTypes: NetBox has no object type "dcim.devices"`,
			},
		},
		{
			reason: "a message to a chat",
			steps: []ruleStep{{map[string]string{
				"slack": `{match: {objectTypes: [dcim.device], cel: 'changedTo("status", "active")'}, secrets: [{name: url, secretKeyRef: {name: slack, key: url}}],
					actions: [{name: chat, http: {url: "${secrets.url}", body: {json: {text: "${data.name} is ${postchange.status}, says ${event.username}"}}}}]}`,
			}, `{"event":"updated","timestamp":"2026-11-26T12:20:00Z","object_type":"dcim.device","username":"bob","data":{"id":6,"name":"edge-6"},
				"snapshots":{"prechange":{"status":"planned"},"postchange":{"status":"active"}}}`}},
			want: map[string]string{"slack/chat": `Succeeded: 200 OK: [redacted] application/json {"text":"edge-6 is active, says bob"}`},
		},
	}
}

// TestMistakes runs rules as people write them, on deliveries that have surprised them.
func TestMistakes(t *testing.T) {
	sink := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		body, _ := io.ReadAll(request.Body)
		fmt.Fprintf(w, "%s %s %s", request.URL.Path, request.Header.Get("Content-Type"), body)
	}))
	defer sink.Close()
	cases := ruleCases(sink.URL)
	targets := make([]*v1alpha1.NetBoxSource, len(cases))
	var namespaces []string
	for i := range cases {
		targets[i] = newSource(t)
		namespace := targets[i].Namespace
		namespaces = append(namespaces, namespace)
		subject := rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: "provisioner"}
		plane.Create(t,
			&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "slack"}, StringData: map[string]string{"url": sink.URL + "/services/T0000/B0000"}},
			&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "provisioner"}, Rules: []rbacv1.PolicyRule{
				{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"create", "get", "patch", "delete"}},
				{APIGroups: []string{"batch"}, Resources: []string{"jobs"}, Verbs: []string{"create", "patch"}},
			}},
			&rbacv1.RoleBinding{
				ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "provisioner"}, Subjects: []rbacv1.Subject{subject},
				RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "provisioner"},
			},
		)
	}
	m := start(t, plane.Config, "--watch-namespaces="+strings.Join(namespaces, ","), allowLoopback)
	for i, test := range cases {
		t.Run(test.reason, func(t *testing.T) {
			namespace, url, name := targets[i].Namespace, m.url(targets[i]), ""
			served(t, url)
			for _, step := range test.steps {
				for name, spec := range step.rules {
					writeRule(t, namespace, name, spec)
				}
				var status int
				if status, name = post(t.Context(), url, step.body); status != http.StatusOK {
					t.Fatalf("answered with %d", status)
				}
				allDone(t, targets[i])
			}
			var event v1alpha1.NetBoxEvent
			if err := plane.Client.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: strings.TrimPrefix(name, namespace+"/")}, &event); err != nil {
				t.Fatal(err)
			}
			got := map[string]string{}
			for _, rule := range event.Status.Rules {
				for _, action := range rule.Actions {
					got[rule.Name+"/"+action.Name] = string(action.State)
					if strings.Contains(action.Response, "OK: ") {
						got[rule.Name+"/"+action.Name] += ": " + action.Response
					}
				}
			}
			if test.want == nil {
				test.want = map[string]string{}
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("actions (-want +got):\n%s", diff)
			}
			for name, want := range test.ready {
				if message := readyMessage(t, namespace, name); !strings.HasPrefix(message, want) {
					t.Errorf("rule %s says\n%s\nwant\n%s", name, message, want)
				}
			}
			if test.check == nil {
				return
			}
			eventually(t, "something is missing", 10*time.Second, func() bool { return cmp.Equal(test.found, test.check(t, namespace)) })
		})
	}
}

// writeRule creates or changes a rule, and waits until the operator has observed it.
func writeRule(t *testing.T, namespace, name, spec string) {
	t.Helper()
	rule := newRule(namespace, name)
	err := plane.Client.Get(t.Context(), client.ObjectKeyFromObject(rule), rule)
	if client.IgnoreNotFound(err) != nil {
		t.Fatal(err)
	}
	rule.Spec = v1alpha1.NetBoxEventRuleSpec{}
	if err := yaml.UnmarshalStrict([]byte(spec), &rule.Spec); err != nil {
		t.Fatal(err)
	}
	if apierrors.IsNotFound(err) {
		plane.Create(t, rule)
	} else if err := plane.Client.Update(t.Context(), rule); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the rule is not observed", 10*time.Second, func() bool {
		err := plane.Client.Get(t.Context(), client.ObjectKeyFromObject(rule), rule)
		return err == nil && rule.Status.ObservedGeneration == rule.Generation
	})
}

func readyMessage(t *testing.T, namespace, name string) string {
	t.Helper()
	rule := newRule(namespace, name)
	if err := plane.Client.Get(t.Context(), client.ObjectKeyFromObject(rule), rule); err != nil {
		t.Fatal(err)
	}
	return meta.FindStatusCondition(rule.Status.Conditions, v1alpha1.ConditionReady).Message
}

func kubernetesEvents(t *testing.T, namespace string) any {
	t.Helper()
	var events eventsv1.EventList
	if err := plane.Client.List(t.Context(), &events, client.InNamespace(namespace)); err != nil {
		t.Fatal(err)
	}
	var notes []string
	for _, event := range events.Items {
		if event.Reason == "X" {
			notes = append(notes, event.Note)
		}
	}
	return notes
}

func jobComments(t *testing.T, namespace string) any {
	t.Helper()
	var jobs batchv1.JobList
	if err := plane.Client.List(t.Context(), &jobs, client.InNamespace(namespace)); err != nil {
		t.Fatal(err)
	}
	var comments []string
	for _, job := range jobs.Items {
		env := job.Spec.Template.Spec.Containers[0].Env
		at := slices.IndexFunc(env, func(variable corev1.EnvVar) bool { return variable.Name == "COMMENT" })
		comments = append(comments, env[at].Value)
	}
	return comments
}

func configMaps(t *testing.T, namespace string) any {
	t.Helper()
	var list corev1.ConfigMapList
	if err := plane.Client.List(t.Context(), &list, client.InNamespace(namespace)); err != nil {
		t.Fatal(err)
	}
	data := map[string]map[string]string{}
	for _, each := range list.Items {
		data[each.Name] = each.Data
	}
	return data
}
