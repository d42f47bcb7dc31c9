package action_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/action"
	"github.com/netbox-events/netbox-event-operator/internal/outbound"
	"github.com/netbox-events/netbox-event-operator/internal/rule"
	"github.com/netbox-events/netbox-event-operator/test/controlplane"
	"github.com/netbox-events/netbox-event-operator/test/deliveries"
)

var plane *controlplane.ControlPlane

func TestMain(m *testing.M) { controlplane.Main(m, &plane) }

// settings are the options of a Runner and of its connections.
type settings struct {
	action.Options

	API        client.Reader
	Proxy      *outbound.Proxy
	AllowCIDRs []netip.Prefix
}

// newRunner returns a Runner that may connect to loopback, and has all permissions at the API server.
func newRunner(t *testing.T, change ...func(*settings)) *action.Runner {
	t.Helper()
	http, err := rest.HTTPClientFor(plane.Config)
	if err != nil {
		t.Fatal(err)
	}
	mapper, err := apiutil.NewDynamicRESTMapper(plane.Config, http)
	if err != nil {
		t.Fatal(err)
	}
	options := settings{
		Options: action.Options{
			Config: plane.Config, Mapper: mapper, Accounts: plane.Client, Events: plane.Client, Clock: clock.RealClock{}, Log: logr.Discard(),
		},
		API:        plane.Client,
		AllowCIDRs: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")},
	}
	for _, change := range change {
		change(&options)
	}
	options.Secrets = outbound.NewSecrets(options.API, options.Clock)
	options.Transports = outbound.NewTransports(outbound.Options{
		Secrets: options.Secrets, Proxy: options.Proxy, AllowCIDRs: options.AllowCIDRs, Clock: options.Clock,
	})
	return action.NewRunner(options.Options)
}

// decode returns the event that the receiver stores for a body.
func decode(t *testing.T, namespace, body string) *v1alpha1.NetBoxEvent {
	t.Helper()
	event, err := deliveries.Delivery{Body: body}.Event(namespace, nil)
	if err != nil {
		t.Fatal(err)
	}
	event.Name, event.UID = "event-"+rand.String(10), types.UID(rand.String(10))
	return event
}

// device returns an event of a device with a name.
func device(t *testing.T, namespace, name string) *v1alpha1.NetBoxEvent {
	t.Helper()
	quoted, err := json.Marshal(name)
	if err != nil {
		t.Fatal(err)
	}
	return decode(t, namespace, `{"event":"updated","timestamp":"2027-07-28T09:30:00.123456+00:00","object_type":"dcim.device","username":"admin",
		"request_id":"b3dc3247-883f-4810-ad01-0f50ee6b722d","data":{"id":14,"url":"/api/dcim/devices/14/","name":`+string(quoted)+`,"tenant":null}}`)
}

const serviceAccount = "provisioner"

// newTask creates a rule with an action at the API server and returns a task of it.
func newTask(t *testing.T, event *v1alpha1.NetBoxEvent, spec v1alpha1.Action, secrets ...v1alpha1.RuleSecret) action.Task {
	t.Helper()
	spec.Name = "do"
	eventRule := &v1alpha1.NetBoxEventRule{
		ObjectMeta: metav1.ObjectMeta{Namespace: event.Namespace, GenerateName: "rule-"},
		Spec:       v1alpha1.NetBoxEventRuleSpec{ServiceAccountName: serviceAccount, Secrets: secrets, Actions: []v1alpha1.Action{spec}},
	}
	plane.Create(t, eventRule)
	compiled, err := rule.Compile(&eventRule.Spec)
	if err != nil {
		t.Fatal(err)
	}
	return withEvent(action.Task{Rule: eventRule, Action: &compiled.Actions[0]}, event)
}

// withEvent returns the same task for another event.
func withEvent(task action.Task, event *v1alpha1.NetBoxEvent) action.Task {
	task.Event, task.Input = event, rule.NewInput(event, event.Spec.Timestamp.Time)
	return task
}

// do executes a task as the event controller does.
func do(t *testing.T, runner *action.Runner, task action.Task) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), task.Rule.Spec.Retry.Timeout.Duration)
	defer cancel()
	result, err := runner.Do(ctx, task)
	return result.Response, err
}

// outcome is the outcome of an action.
type outcome string

const (
	done      outcome = "done"
	retry     outcome = "retry"
	permanent outcome = "permanent failure"
)

func outcomeOf(err error) outcome {
	failure, ok := errors.AsType[*action.Failure](err)
	switch {
	case err == nil:
		return done
	case ok && failure.Permanent:
		return permanent
	default:
		return retry
	}
}

// expect checks the outcome of an action, and that its error contains texts, and is short.
func expect(t *testing.T, err error, want outcome, texts ...string) {
	t.Helper()
	if got := outcomeOf(err); got != want {
		t.Errorf("outcome is %s, want %s; error: %v", got, want, err)
	}
	for _, text := range texts {
		if err != nil && !strings.Contains(err.Error(), text) {
			t.Errorf("error is %q, want one with %q", err, text)
		}
	}
	if err != nil && (len(err.Error()) > 1024 || strings.ContainsAny(err.Error(), "\n\x1b")) {
		t.Errorf("error of %d bytes: %.2000q", len(err.Error()), err)
	}
}

// secretOf returns the declaration of an entry of the Secret sink in a rule.
func secretOf(name, key string) v1alpha1.RuleSecret {
	return v1alpha1.RuleSecret{Name: name, SecretKeyRef: v1alpha1.SecretKeyReference{Name: "sink", Key: key}}
}

// newSecret creates a Secret.
func newSecret(t *testing.T, namespace, name string, data map[string]string) *corev1.Secret {
	t.Helper()
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, StringData: data}
	plane.Create(t, secret)
	return secret
}

func newRequest(to string) v1alpha1.Action {
	return v1alpha1.Action{HTTP: &v1alpha1.HTTPAction{URL: to}}
}

func TestUnknownKind(t *testing.T) {
	task := newTask(t, device(t, plane.Namespace(t), "leaf1"), v1alpha1.Action{Log: &v1alpha1.LogAction{Message: "x"}})
	task.Action.Spec = &v1alpha1.Action{Name: "do"} // of a newer version of the operator
	_, err := do(t, newRunner(t), task)
	expect(t, err, permanent, "unknown kind")
}
