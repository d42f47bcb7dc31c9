// Command demo demonstrates the operator: it starts a real Kubernetes API server, the manager and a sink, and sends recorded deliveries. Rules
// send CloudEvents to the sink and create a Job.
//
// With DEMO_ONCE=1 it exits by itself, with status 0 only if every answer and every stored event was as expected. Otherwise it runs until it is
// interrupted.
//
// With -netbox it starts a real NetBox instead, which a person can change; see runWithNetBox.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/test/controlplane"
	"github.com/netbox-events/netbox-event-operator/test/deliveries"
)

const namespace = "netbox"

// keys are the webhook secrets of the servers that the deliveries were recorded from. One source accepts them all.
var keys = map[string]string{"lab": "My precious", "old": "NetBox-s3cret ü", "new": "k3y with spaces ü"}

func main() {
	ctrl.SetLogger(logr.Discard())
	withNetBox := flag.Bool("netbox", false, "start a real NetBox instead of sending recorded deliveries")
	flag.Parse()
	demo := run
	if *withNetBox {
		demo = runWithNetBox
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := demo(ctx, os.Getenv("DEMO_ONCE") == "1")
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, once bool) (err error) {
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

	heading("Creating a Secret with the webhook's secrets, and a NetBoxSource")
	if err := createSource(ctx, plane.Client); err != nil {
		return err
	}
	sink := newSink()
	defer sink.server.Close()
	heading("Creating a rule that sends DCIM's events to a sink at " + sink.server.URL + ", and one that creates a Job for a device that becomes active")
	if err := createRules(ctx, plane.Client, kubeconfig, sink.server.URL); err != nil {
		return err
	}
	manager, err := startManager(ctx, directory, kubeconfig)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, manager.stop()) }()

	heading("Sending recorded NetBox deliveries to " + manager.url)
	wrong, err := sendAll(ctx, manager.url)
	if err != nil {
		return err
	}
	if err := waitUntilDone(ctx, plane.Client); err != nil {
		return errors.Join(err, manager.showLog("NetBox event"))
	}
	heading("The manager's log of these events")
	if err := manager.showLog("NetBox event"); err != nil {
		return err
	}
	heading("The CloudEvents at the sink")
	if err := sink.show(); err != nil {
		return err
	}
	if err := waitUntilCounted(ctx, plane.Client); err != nil {
		return err
	}
	for _, arguments := range []string{
		"get netboxsources -n " + namespace, "get netboxevents -n " + namespace, "get netboxevents -n " + namespace + " -o wide",
		"get netboxeventrules -n " + namespace, "get jobs -n " + namespace + " -L site",
	} {
		heading("kubectl " + arguments)
		if err := kubectl(ctx, kubeconfig, arguments); err != nil {
			return err
		}
	}
	if wrong > 0 {
		return fmt.Errorf("%d answers were not as expected; see the lines marked ✗", wrong)
	}
	fmt.Printf("\n✓ Every answer and every stored event is as expected.\n")
	if once {
		return nil
	}
	invite(kubeconfig, manager.url)
	select {
	case <-ctx.Done():
		return nil
	case err := <-manager.ended:
		return fmt.Errorf("the manager exited: %w", err)
	}
}

func heading(text string) { fmt.Printf("\n── %s\n", text) }

func createSource(ctx context.Context, api client.Client) error {
	source := &v1alpha1.NetBoxSource{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "netbox"}}
	source.Spec.SecretRef = &v1alpha1.SecretKeysReference{Name: "netbox-webhook"}
	for _, object := range []client.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}},
		&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "netbox-webhook"}, StringData: keys},
		source,
	} {
		if err := api.Create(ctx, object); err != nil {
			return err
		}
	}
	return nil
}

// createRules creates the demo's own rule, and the sample rule that creates a Job, with its service account.
func createRules(ctx context.Context, api client.Client, kubeconfig, sinkURL string) error {
	rule := &v1alpha1.NetBoxEventRule{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "announce"}}
	rule.Spec.Match.ObjectTypes = []string{"dcim.*"}
	rule.Spec.Actions = []v1alpha1.Action{{Name: "send", HTTP: &v1alpha1.HTTPAction{URL: sinkURL + "/${event.objectType}"}}}
	if err := api.Create(ctx, rule); err != nil {
		return err
	}
	return kubectl(ctx, kubeconfig, "apply -f config/samples/rule_provision.yaml")
}

// sink receives CloudEvents.
type sink struct {
	server *httptest.Server

	mu  sync.Mutex
	got []string
}

func newSink() *sink {
	s := &sink{}
	s.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var event struct{ Type, Subject, Time string }
		if err := json.NewDecoder(r.Body).Decode(&event); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.got = append(s.got, fmt.Sprintf("%s %s\t%s\t%s\t%s", r.Method, r.URL.Path, event.Type, event.Subject, event.Time))
	}))
	return s
}

// show prints the received events, which should be those of DCIM.
func (s *sink) show() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	slices.Sort(s.got)
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	for _, line := range s.got {
		fmt.Fprintln(table, line)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if len(s.got) != dcimEvents {
		return fmt.Errorf("the sink received %d events, want %d", len(s.got), dcimEvents)
	}
	return nil
}

// manager is a running bin/manager.
type manager struct {
	url     string
	logFile string
	command *exec.Cmd
	ended   chan error
}

func startManager(ctx context.Context, directory, kubeconfig string) (*manager, error) {
	webhooks, err := controlplane.FreeAddress("127.0.0.1:8080")
	if err != nil {
		return nil, err
	}
	probes, err := controlplane.FreeAddress("127.0.0.1:8081")
	if err != nil {
		return nil, err
	}
	m := &manager{
		url:     "http://" + webhooks + "/webhook/" + namespace + "/netbox",
		logFile: filepath.Join(directory, "manager.log"),
		ended:   make(chan error, 1),
	}
	log, err := os.Create(m.logFile)
	if err != nil {
		return nil, err
	}
	m.command = exec.Command("bin/manager", "--kubeconfig="+kubeconfig, "--webhook-bind-address="+webhooks,
		"--health-probe-bind-address="+probes, "--metrics-bind-address=0", "--sink-allow-cidrs=127.0.0.0/8")
	m.command.Stderr = log
	m.command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for the demo, which stops the manager
	heading("Starting the manager: " + strings.Join(m.command.Args, " "))
	if err := m.command.Start(); err != nil {
		return nil, fmt.Errorf("%w; run make build first", err)
	}
	go func() { m.ended <- m.command.Wait() }()
	err = wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, 30*time.Second, true, func(ctx context.Context) (bool, error) {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+probes+"/readyz", nil)
		if err != nil {
			return false, err
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return false, nil //nolint:nilerr // it does not listen yet
		}
		return response.StatusCode == http.StatusOK, response.Body.Close()
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("the manager is not ready: %w", err), m.showLog(""), m.stop())
	}
	return m, nil
}

func (m *manager) stop() error {
	if err := m.command.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case err := <-m.ended:
		return err
	case <-time.After(30 * time.Second):
		return errors.Join(errors.New("the manager did not stop within 30 s"), m.command.Process.Kill())
	}
}

// showLog prints the lines of the manager's log that contain a text.
func (m *manager) showLog(text string) error {
	log, err := os.ReadFile(m.logFile)
	for line := range strings.Lines(string(log)) {
		if strings.Contains(line, text) {
			fmt.Print(line)
		}
	}
	return err
}

// request is one request of the demo, with the expected answer.
type request struct {
	what   string
	change func(*http.Request)
	from   deliveries.Delivery
	status int
	result string
}

// requests selects a variety of recorded deliveries, and adds some faulty requests.
func requests() ([]request, error) {
	all, err := deliveries.All()
	if err != nil {
		return nil, err
	}
	find := func(file string, texts ...string) deliveries.Delivery {
		i := slices.IndexFunc(all, func(d deliveries.Delivery) bool {
			return d.File == file && !slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(d.Path+" "+d.Body, text) })
		})
		if i < 0 {
			err = errors.Join(err, fmt.Errorf("no delivery of %s contains %q", file, texts))
			return deliveries.Delivery{}
		}
		return all[i]
	}
	device := find("netbox-4.6.8", `"event": "updated"`, `"object_type": "dcim.device",`)
	activeDevice := find("netbox-4.6.8", `"event": "created"`, `"object_type": "dcim.device",`, `"status": "active"`)
	set := func(header, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(header, value) }
	}
	list := []request{
		{what: "NetBox 2.9: circuit updated", from: find("netbox-2.9.11", `"updated"`, `"model": "circuit"`), status: 200, result: `"ok"`},
		{what: "NetBox 2.11: region created", from: find("netbox-2.11.12", `"created"`, `"model": "region"`), status: 200, result: `"ok"`},
		{what: "NetBox 3.7: IP address deleted", from: find("netbox-3.7.8", `"deleted"`, `"model": "ipaddress"`), status: 200, result: `"ok"`},
		{what: "NetBox 4.6: device updated", from: device, status: 200, result: `"ok"`},
		{what: "NetBox 4.6: device created, active", from: activeDevice, status: 200, result: `"ok"`},
		{what: "NetBox 4.6: script ended", from: find("netbox-4.6.8-live", "job_ended"), status: 200, result: `"ok"`},
		{what: "NetBox 4.7: region created", from: find("netbox-4.7.0-beta1", `"created"`, `"object_type": "dcim.region"`), status: 200, result: `"ok"`},
		{what: "Nautobot 2.4: device created", from: find("nautobot-2.4.44", `"event": "created"`, `"model": "device",`), status: 200, result: `"ok"`},
		{what: "the device again, as in a retry", from: device, status: 200, result: `"duplicate"`},
		{what: "a wrong signature", from: device, change: set("X-Hook-Signature", strings.Repeat("0", 128)), status: 401},
		{what: "no signature", from: device, change: func(r *http.Request) { r.Header.Del("X-Hook-Signature") }, status: 401},
		{what: "GET, as after a redirect", from: find("netbox-4.6.8-live", "/target/301 "), status: 405},
		{what: "another path", from: device, change: func(r *http.Request) { r.URL.Path = "/webhook" }, status: 404},
		{what: "a body template with other keys", from: find("netbox-4.6.8-live", "/template/"), status: 422, result: `"field":"timestamp"`},
		{what: "a body template of plain text", from: find("netbox-4.6.8-live", "/plain/"), status: 415},
	}
	return list, err
}

// sendAll sends the requests, prints the answers, and returns the number of unexpected ones.
func sendAll(ctx context.Context, url string) (wrong int, err error) {
	list, err := requests()
	if err != nil {
		return 0, err
	}
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	for _, r := range list {
		request, err := r.from.Request(ctx, url)
		if err != nil {
			return 0, err
		}
		if r.change != nil {
			r.change(request)
		}
		response, err := http.DefaultTransport.RoundTrip(request) // follows no redirect
		if err != nil {
			return 0, err
		}
		body, err := io.ReadAll(response.Body)
		if err = errors.Join(err, response.Body.Close()); err != nil {
			return 0, err
		}
		mark := "✓"
		if response.StatusCode != r.status || !strings.Contains(string(body), r.result) {
			mark = "✗"
			wrong++
		}
		answer := []rune(strings.TrimSpace(string(body)))
		if len(answer) > 110 {
			answer = append(answer[:110], '…')
		}
		fmt.Fprintf(table, "%s\t%s\t%d\t%s\n", mark, r.what, response.StatusCode, string(answer))
	}
	return wrong, table.Flush()
}

// dcimEvents is the number of DCIM's events.
const dcimEvents = 5

// waitUntilDone waits until the events of the eight deliveries that were answered with ok are stored and finished.
func waitUntilDone(ctx context.Context, api client.Client) error {
	want := []string{
		"circuits.circuit updated testuser", "dcim.region created testuser", "ipam.ipaddress deleted testuser",
		"dcim.device updated testuser", "dcim.device created testuser", "extras.script job_ended admin", "dcim.region created testuser", "dcim.device created nautobotuser",
	}
	slices.Sort(want)
	var got []string
	err := wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, 20*time.Second, true, func(ctx context.Context) (bool, error) {
		var events v1alpha1.NetBoxEventList
		if err := api.List(ctx, &events, client.InNamespace(namespace)); err != nil {
			return false, err
		}
		got = nil
		for _, event := range events.Items {
			if event.Status.Phase == v1alpha1.PhaseSucceeded {
				got = append(got, event.Spec.ObjectType+" "+event.Spec.Event+" "+event.Spec.Username)
			}
		}
		slices.Sort(got)
		return slices.Equal(got, want), nil
	})
	if err != nil {
		return fmt.Errorf("the finished events are not as expected: %w\n got: %s\nwant: %s", err, strings.Join(got, ", "), strings.Join(want, ", "))
	}
	return nil
}

// waitUntilCounted waits until the status of the rules has the number of matched events.
func waitUntilCounted(ctx context.Context, api client.Client) error {
	want, got := map[string]int64{"announce": dcimEvents, "provision-active-devices": 1}, map[string]int64{}
	err := wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, 20*time.Second, true, func(ctx context.Context) (bool, error) {
		var rules v1alpha1.NetBoxEventRuleList
		err := api.List(ctx, &rules, client.InNamespace(namespace))
		for i := range rules.Items {
			got[rules.Items[i].Name] = rules.Items[i].Status.Matched
		}
		return maps.Equal(got, want), err
	})
	if err != nil {
		return fmt.Errorf("the rules matched %v events, want %v: %w", got, want, err)
	}
	return nil
}

func kubectl(ctx context.Context, kubeconfig, arguments string) error {
	command := exec.CommandContext(ctx, filepath.Join(os.Getenv("KUBEBUILDER_ASSETS"), "kubectl"), strings.Fields(arguments)...)
	command.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig)
	command.Stdout, command.Stderr = os.Stdout, os.Stderr
	return command.Run()
}

func invite(kubeconfig, url string) {
	docs := strings.SplitAfterN(url, "/", 4)
	fmt.Printf(`
The operator stays up until Ctrl-C. In another terminal:

  export KUBECONFIG=%[1]s PATH=%[2]s:$PATH
  kubectl get netboxevents -n %[3]s --watch
  kubectl describe netboxeventrules -n %[3]s

  body='{"event":"created","timestamp":"2026-01-31T12:00:00.000000+00:00","object_type":"dcim.site","data":{"id":1,"name":"Mine"}}'
  curl -i %[4]s -H 'Content-Type: application/json' -d "$body" \
    -H "X-Hook-Signature: $(printf %%s "$body" | openssl dgst -sha512 -hmac '%[5]s' | sed 's/.* //')"

The API is described at %[6]sdocs
`, kubeconfig, os.Getenv("KUBEBUILDER_ASSETS"), namespace, url, keys["lab"], strings.Join(docs[:3], ""))
}
