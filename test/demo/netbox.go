package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/test/controlplane"
	"github.com/netbox-events/netbox-event-operator/test/netbox"
)

// sampleRule is the rule of the demo with a real NetBox.
const sampleRule = `apiVersion: netbox-events.io/v1alpha1
kind: NetBoxEventRule
metadata: {name: announce, namespace: ` + namespace + `}
spec:
  match:
    objectTypes: [dcim.device]
  confirm: true                          # act on what NetBox has logged, not on what it rolled back
  lookups:
  - name: site                           # ask NetBox about more than the event tells
    path: /api/dcim/sites/${data.site.id}/
  actions:
  - name: send
    http:
      url: %s/devices
      body:
        json:
          text: ${event.objectName} was ${event.event} by ${event.username} at ${lookups.site.name}, which has ${lookups.site.device_count} devices
`

// runWithNetBox runs the demo with a real NetBox, which the operator sets up by itself.
func runWithNetBox(ctx context.Context, once bool) (err error) {
	heading("Starting a real NetBox on loopback; the first time on a machine, this takes some minutes")
	n, err := netbox.Start(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.Stop()) }()
	heading("Starting a Kubernetes API server on loopback, with the operator's CRDs")
	plane, err := controlplane.Start()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, plane.Stop()) }()
	directory, err := os.MkdirTemp("", "netbox-event-operator-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(directory)) }()
	kubeconfig := filepath.Join(directory, "kubeconfig")
	if err := os.WriteFile(kubeconfig, plane.Kubeconfig(), 0o600); err != nil {
		return err
	}
	manager, err := startManager(ctx, directory, kubeconfig)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, manager.stop()) }()
	sent := make(chan string, 100)
	sink := announcements(sent)
	defer sink.Close()
	heading("Creating a NetBoxSource for the NetBox at " + n.URL + ", and a rule that sends changes of devices to a sink at " + sink.URL)
	if err := connect(ctx, plane.Client, n, manager.url); err != nil {
		return err
	}
	rule := filepath.Join(directory, "rule.yaml")
	if err := os.WriteFile(rule, fmt.Appendf(nil, sampleRule, sink.URL), 0o600); err != nil {
		return err
	}
	if err := kubectl(ctx, kubeconfig, "apply -f "+rule); err != nil {
		return err
	}
	if err := waitUntilConfigured(ctx, plane.Client); err != nil {
		return errors.Join(err, manager.showLog(""))
	}
	heading("Creating a device in NetBox")
	device, err := createDevice(ctx, n)
	if err != nil {
		return err
	}
	if err := announced(ctx, sent); err != nil {
		return errors.Join(err, manager.showLog(""))
	}
	for _, arguments := range []string{
		"get netboxsources -n " + namespace + " -o wide", "get netboxevents -n " + namespace, "get netboxeventrules -n " + namespace,
	} {
		heading("kubectl " + arguments)
		if err := kubectl(ctx, kubeconfig, arguments); err != nil {
			return err
		}
	}
	if once {
		return nil
	}
	inviteToNetBox(n, device, kubeconfig, rule)
	for {
		select {
		case <-ctx.Done():
			return nil
		case text := <-sent:
			fmt.Println("the sink received:", text)
		case err := <-manager.ended:
			return fmt.Errorf("the manager exited: %w", err)
		}
	}
}

// announcements returns a sink for the sample rule.
func announcements(sent chan<- string) *httptest.Server {
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body struct{ Text string }
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		select {
		case sent <- body.Text:
		case <-r.Context().Done():
		}
	}))
}

// connect creates a source that sets up its webhook in NetBox, and reads its change log.
func connect(ctx context.Context, api client.Client, n *netbox.NetBox, webhook string) error {
	source := &v1alpha1.NetBoxSource{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "netbox"}}
	source.Spec.SecretRef = &v1alpha1.SecretKeysReference{Name: "netbox-webhook"}
	source.Spec.NetBox = &v1alpha1.NetBoxAPI{
		URL:            n.URL,
		TokenSecretRef: v1alpha1.SecretKeyReference{Name: "netbox-token", Key: "token"},
		Webhook:        &v1alpha1.ManagedWebhook{URL: webhook},
		Backfill:       &v1alpha1.Backfill{Interval: metav1.Duration{Duration: 5 * time.Second}, Lag: metav1.Duration{Duration: 30 * time.Second}},
		Lookups:        v1alpha1.LookupsAllowed,
	}
	secret := func(name, key, value string) client.Object {
		return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, StringData: map[string]string{key: value}}
	}
	for _, object := range []client.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}},
		secret("netbox-webhook", "secret", keys["lab"]), secret("netbox-token", "token", n.V2Token), source,
	} {
		if err := api.Create(ctx, object); err != nil {
			return err
		}
	}
	return nil
}

// waitUntilConfigured waits until the operator has set up the webhook.
func waitUntilConfigured(ctx context.Context, api client.Client) error {
	var source v1alpha1.NetBoxSource
	err := wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
		err := api.Get(ctx, types.NamespacedName{Namespace: namespace, Name: "netbox"}, &source)
		return meta.IsStatusConditionTrue(source.Status.Conditions, v1alpha1.ConditionWebhookConfigured), err
	})
	if err != nil {
		return fmt.Errorf("the webhook is not set up: %w: %+v", err, source.Status.Conditions)
	}
	configured := meta.FindStatusCondition(source.Status.Conditions, v1alpha1.ConditionWebhookConfigured)
	fmt.Printf("✓ %s\n", configured.Message)
	return nil
}

// createDevice creates a device and what it needs, and returns the path of its page.
func createDevice(ctx context.Context, n *netbox.NetBox) (page string, err error) {
	ids := map[string]int64{}
	for _, o := range []struct {
		name, path string
		body       map[string]any
	}{
		{"site", "dcim/sites/", map[string]any{"name": "Vienna", "slug": "vienna"}},
		{"manufacturer", "dcim/manufacturers/", map[string]any{"name": "Acme", "slug": "acme"}},
		{"device_type", "dcim/device-types/", map[string]any{"manufacturer": "manufacturer", "model": "Switch 48", "slug": "switch-48"}},
		{"role", "dcim/device-roles/", map[string]any{"name": "Leaf", "slug": "leaf"}},
		{"device", "dcim/devices/", map[string]any{"name": "leaf-1", "site": "site", "device_type": "device_type", "role": "role"}},
	} {
		for field, value := range o.body {
			if id, ok := ids[fmt.Sprint(value)]; ok {
				o.body[field] = id
			}
		}
		var created struct{ ID int64 }
		if err := n.Do(ctx, http.MethodPost, o.path, o.body, &created); err != nil {
			return "", err
		}
		ids[o.name] = created.ID
	}
	return fmt.Sprintf("/dcim/devices/%d/", ids["device"]), nil
}

// announced waits until the sink has received the change.
func announced(ctx context.Context, sent <-chan string) error {
	const limit = time.Minute
	select {
	case text := <-sent:
		fmt.Println("✓ the sink received:", text)
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(limit):
		return fmt.Errorf("the sink received nothing within %s", limit)
	}
}

func inviteToNetBox(n *netbox.NetBox, device, kubeconfig, rule string) {
	fmt.Printf(`
The operator and NetBox stay up until Ctrl-C. Log in to NetBox, change the device, and watch the event come:

  %[1]s%[2]s   user %[3]s, password %[4]s
  %[1]s/core/changelog/

In another terminal:

  export KUBECONFIG=%[5]s PATH=%[6]s:$PATH
  kubectl get netboxevents -n %[7]s --watch
  kubectl describe netboxsources -n %[7]s
  kubectl apply -f %[8]s    # the rule, to change

NetBox's worker sends the webhooks. While it is down, events come from the change log, 30 seconds later:

  hack/netbox.sh down %[9]s worker
  hack/netbox.sh up %[9]s

`, n.URL, device, n.User, n.Password, kubeconfig, strings.TrimSpace(os.Getenv("KUBEBUILDER_ASSETS")), namespace, rule, n.Directory)
}
