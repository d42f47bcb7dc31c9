// Command bench compares the operator with lower bounds of the same work, in one run on embedded control planes:
//
//   - deliveries stored by the receiver of a replica that is not the leader, with bare creates of the same objects;
//   - refused signatures, with a bare HTTP handler that only reads and hashes;
//   - finished deliveries, with bare creates and one status write each, and with ConfigMaps of the same size, created and updated once;
//   - deliveries that one of 1, 10 or 100 rules sends to a sink, with the same bare creates and status writes.
//
// All sides of a comparison take turns, and take turns at being first. Rates are medians of the turns; the ratio is the median of the ratios turn
// by turn, which holds when the machine's speed drifts, with the interval in which it lies with a confidence of 96 %. It fails where all of
// that is below the aim: a ratio at its aim would be measured below it every other time. The API server's CPU, heap and writes per operation are
// medians too.
//
// With -before, another manager, of an earlier build for example, takes turns too, on its own control plane with its own CRDs.
//
// It also measures managers alone, and fails if a promise is broken:
//
//   - memory: at increasing numbers of finished events, with the time to readiness; and the deletion of nearly all events;
//   - connections: many that send nothing, or a byte a second, during deliveries.
//
// Each measurement has its own control plane. The program requires Linux: it reads /proc.
package main

import (
	"context"
	"crypto/hmac"
	"crypto/sha512"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"text/tabwriter"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/netbox"
	"github.com/netbox-events/netbox-event-operator/test/controlplane"
	"github.com/netbox-events/netbox-event-operator/test/deliveries"
	"github.com/netbox-events/netbox-event-operator/test/fleet"
	"github.com/netbox-events/netbox-event-operator/test/fleet/figures"
)

const (
	// namespace is that of the operator.
	namespace = "bench"
	// bareNamespace is not watched by the operator, which would otherwise process the bare clients' events.
	bareNamespace = "bare"
	key           = "a key of the benchmark"
	// limit is the time-out of the whole program.
	limit = 3 * time.Hour
)

// settings are those of a run.
type settings struct {
	stored, refused, turns int
	before, beforeCRDs     string
	size                   size
	only                   *regexp.Regexp
}

func main() {
	var s settings
	bare := flag.String("serve-bare", "", "serve the bare handler at this `address` (internal)")
	flag.IntVar(&s.stored, "stored", 600, "deliveries in each turn of a pair")
	flag.IntVar(&s.refused, "refused", 20000, "requests with a wrong signature in each turn")
	flag.IntVar(&s.turns, "turns", 15, "number of turns of each side of a pair")
	flag.StringVar(&s.before, "before", "", "`path` of another manager to measure beside bin/manager")
	flag.StringVar(&s.beforeCRDs, "before-crds", crds, "`directory` of that manager's CRDs")
	short := flag.Bool("short", false, "memory, connections: a small run for trying")
	only := flag.String("only", "", "run the measurements whose name matches this regular `expression`: "+strings.Join(names(), ", "))
	flag.Parse()
	fleet.Main("bench", limit, func(ctx context.Context) (err error) {
		if *bare != "" {
			return serveBare(ctx, *bare)
		}
		if s.only, err = regexp.Compile(*only); err != nil {
			return err
		}
		s.size = full
		if *short {
			s.size = small
		}
		return run(ctx, s)
	})
}

// serveBare does the minimum for refusing a signature: read the body and hash it.
func serveBare(ctx context.Context, address string) error {
	server := &http.Server{Addr: address, ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(
		func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				return
			}
			mac := hmac.New(sha512.New, []byte(key))
			mac.Write(body)
			if !hmac.Equal([]byte(fmt.Sprintf("%x", mac.Sum(nil))), []byte(r.Header.Get(netbox.SignatureHeader))) {
				http.Error(w, "no", http.StatusUnauthorized)
			}
		})}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// bench is one run.
type bench struct {
	settings

	operators []*operator            // bin/manager, and the one before it, if any
	bodies    []template             // of recorded deliveries
	run       uint32                 // makes each run's changes unique
	events    []v1alpha1.NetBoxEvent // the stored events of these deliveries
	lengths   []int                  // of their specs, as JSON
	serial    atomic.Int64           // makes each delivery and each object unique
	table     *tabwriter.Writer

	load     float64
	machine  figures.Machine
	figures  figures.Bench
	promises fleet.Promises
}

// template is the body of a recorded delivery, before and behind its request ID.
type template struct{ before, behind string }

// crds is the directory of this build's CRDs.
const crds = "config/crd/bases"

// operator is a manager that is measured, with a control plane.
type operator struct {
	who, program, crds string

	plane     *controlplane.ControlPlane
	api       discovery.DiscoveryInterface
	apiServer fleet.Process
	url       string
	last      atomic.Value // the name of the event that was stored last
}

// comparison is an operation, or several, and all sides of it.
type comparison struct {
	name    string
	measure func(*bench, context.Context) error
}

func comparisons() []comparison {
	return []comparison{
		{"stored-1", func(b *bench, ctx context.Context) error { return b.compareStored(ctx, 1, b.stored/4) }},
		{"stored-16", func(b *bench, ctx context.Context) error { return b.compareStored(ctx, 16, b.stored) }},
		{"stored-64", func(b *bench, ctx context.Context) error { return b.compareStored(ctx, 64, b.stored) }},
		{"refused", (*bench).compareRefused},
		{"finished-16", func(b *bench, ctx context.Context) error { return b.compareFinished(ctx, 16, b.stored) }},
		{"finished-64", func(b *bench, ctx context.Context) error { return b.compareFinished(ctx, 64, b.stored) }},
		{"delivered-1", func(b *bench, ctx context.Context) error { return b.compareDelivered(ctx, 1, b.stored/2) }},
		{"delivered-10", func(b *bench, ctx context.Context) error { return b.compareDelivered(ctx, 10, b.stored/2) }},
		{"delivered-100", func(b *bench, ctx context.Context) error { return b.compareDelivered(ctx, 100, b.stored/2) }},
	}
}

func names() (names []string) {
	for _, one := range comparisons() {
		names = append(names, one.name)
	}
	return append(names, "memory", "connections")
}

func run(ctx context.Context, s settings) (err error) {
	b := &bench{settings: s, run: rand.Uint32(), load: fleet.Load(), table: tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)}
	defer func() { err = errors.Join(b.table.Flush(), err) }()
	b.operators = []*operator{{who: "operator", program: "bin/manager", crds: crds}}
	if s.before != "" {
		b.operators = append(b.operators, &operator{who: "before", program: s.before, crds: s.beforeCRDs})
	}
	if err := b.read(ctx); err != nil {
		return err
	}
	began := time.Now()
	for _, one := range comparisons() {
		if !s.only.MatchString(one.name) {
			continue
		}
		// Stored objects stay in the API server's memory, and its garbage collection would come to take half of a turn.
		if err := b.onNewPlanes(ctx, func() error { return one.measure(b, ctx) }); err != nil {
			return err
		}
	}
	var broken []error
	if len(b.figures.Pairs) > 0 {
		broken = append(broken, fleet.Publish("bench", began, b.machine, b.promises, b.figures))
	}
	if s.only.MatchString("memory") {
		broken = append(broken, memory(ctx, s.size))
	}
	if s.only.MatchString("connections") {
		broken = append(broken, connections(ctx, s.size))
	}
	return errors.Join(broken...)
}

// onNewPlanes runs do with empty control planes that only have a source.
func (b *bench) onNewPlanes(ctx context.Context, do func() error) (err error) {
	for _, o := range b.operators {
		next := do
		do = func() error { return o.onNewPlane(ctx, next) }
	}
	return do()
}

func (o *operator) onNewPlane(ctx context.Context, do func() error) (err error) {
	if o.plane, err = controlplane.StartWith(o.crds); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, o.plane.Stop()) }()
	if o.apiServer, err = fleet.APIServerOf(o.plane); err != nil {
		return err
	}
	if o.api, err = discovery.NewDiscoveryClientForConfig(o.plane.Config); err != nil {
		return err
	}
	if err := o.prepare(ctx); err != nil {
		return err
	}
	return do()
}

// compareStored measures the receiver of a replica that is not the leader.
func (b *bench) compareStored(ctx context.Context, senders, count int) error {
	return b.withFollowers(ctx, func() error {
		return b.compare(ctx, pair{what: "stored", senders: senders, count: count, aim: 0.95, bare: b.create, operator: b.post})
	})
}

// compareRefused measures wrong signatures.
func (b *bench) compareRefused(ctx context.Context) error {
	return b.withFollowers(ctx, func() error {
		return b.withBare(ctx, func(bareURL string) error {
			refused := pair{what: "refused", aim: 0.8}
			refused.bare = func(ctx context.Context) error { return b.refuse(ctx, bareURL) }
			refused.operator = func(ctx context.Context, o *operator) error { return b.refuse(ctx, o.url) }
			for _, refused.senders = range []int{1, 16, 64} {
				refused.count = b.refused
				if refused.senders == 1 {
					refused.count /= 4
				}
				if err := b.compare(ctx, refused); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// compareFinished measures a replica that leads, without rules.
func (b *bench) compareFinished(ctx context.Context, senders, count int) error {
	return b.withManagers(ctx, func() error {
		finished := b.toTheEnd(pair{what: "finished", senders: senders, count: count, aim: 0.9})
		finished.configMap = b.createAndChangeConfigMap
		return b.compare(ctx, finished)
	})
}

// compareDelivered measures deliveries by one of several rules. It has no aim, because no promise covers the cost of a sink.
func (b *bench) compareDelivered(ctx context.Context, rules, count int) error {
	var got atomic.Int64
	sink := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		got.Add(1)
	}))
	defer sink.Close()
	return b.withManagers(ctx, func() error {
		for _, o := range b.operators {
			if err := o.createRules(ctx, rules, sink.URL); err != nil {
				return err
			}
		}
		err := b.compare(ctx, b.toTheEnd(pair{what: fmt.Sprintf("delivered, rules: %d", rules), senders: 16, count: count}))
		if want := int64(b.turns * count * len(b.operators)); err == nil && got.Load() != want {
			err = fmt.Errorf("the sink got %d events, want %d", got.Load(), want)
		}
		return err
	})
}

// toTheEnd makes a pair that is measured until the last event is finished.
func (b *bench) toTheEnd(of pair) pair {
	of.bare, of.operator, of.finish = b.createAndFinish, b.post, b.allFinished
	return of
}

// createRules creates rules, of which the first sends each event to the sink, and waits until the operator has accepted all.
func (o *operator) createRules(ctx context.Context, count int, url string) error {
	for n := range count {
		rule := &v1alpha1.NetBoxEventRule{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: fmt.Sprintf("rule-%d", n)}}
		rule.Spec.Match.CEL = `has(data.id) && event.sourceRef.name == "netbox"`
		if n > 0 {
			rule.Spec.Match.CEL = fmt.Sprintf(`data.?status.value.orValue("") == "active" && changedTo("status", "state-%d")`, n)
		}
		rule.Spec.Actions = []v1alpha1.Action{{Name: "send", HTTP: &v1alpha1.HTTPAction{URL: url}}}
		if err := o.plane.Client.Create(ctx, rule); err != nil {
			return err
		}
	}
	return o.allReady(ctx)
}

// allReady waits until every rule is ready.
func (o *operator) allReady(ctx context.Context) error {
	for {
		var rules v1alpha1.NetBoxEventRuleList
		if err := o.plane.Client.List(ctx, &rules, client.InNamespace(namespace)); err != nil {
			return err
		}
		if !slices.ContainsFunc(rules.Items, func(rule v1alpha1.NetBoxEventRule) bool {
			return !meta.IsStatusConditionTrue(rule.Status.Conditions, v1alpha1.ConditionReady)
		}) {
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// prepare creates a source.
func (o *operator) prepare(ctx context.Context) error {
	source := &v1alpha1.NetBoxSource{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "netbox"}}
	source.Spec.SecretRef = &v1alpha1.SecretKeysReference{Name: "webhook"}
	source.Spec.Retention.MaxEvents = 1 << 20 // retention must not delete the bare clients' events
	for _, object := range []client.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: bareNamespace}},
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}},
		&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "webhook"}, StringData: map[string]string{"secret": key}},
		source,
	} {
		if err := o.plane.Client.Create(ctx, object); err != nil {
			return err
		}
	}
	return nil
}

var requestID = regexp.MustCompile(`"request_id": "([^"]*)"`)

// read reads the deliveries to send, and prints the setup.
func (b *bench) read(ctx context.Context) error {
	all, err := deliveries.All()
	if err != nil {
		return err
	}
	total := 0
	for _, delivery := range all {
		if delivery.File != "netbox-4.6.8" {
			continue
		}
		// Others, as of jobs, could not be told apart.
		if found := requestID.FindAllStringSubmatchIndex(delivery.Body, -1); len(found) == 1 {
			b.bodies = append(b.bodies, template{delivery.Body[:found[0][2]], delivery.Body[found[0][3]:]})
			total += len(delivery.Body)
		}
	}
	for _, o := range b.operators {
		version, err := exec.CommandContext(ctx, o.program, "--version").Output()
		if err != nil {
			return fmt.Errorf("%s: %w", o.program, err)
		}
		fmt.Fprintf(os.Stdout, "%s: %s", o.program, version)
		if o.program == b.before {
			b.figures.Before = strings.TrimSpace(string(version))
		}
	}
	fmt.Fprintf(os.Stdout, "%d recorded deliveries of NetBox 4.6.8, %d bytes on average; %d turns each\n\n",
		len(b.bodies), total/len(b.bodies), b.turns)
	return nil
}

// withFollowers runs the operators while do runs; the Lease of each belongs to another holder.
func (b *bench) withFollowers(ctx context.Context, do func() error) error {
	for _, o := range b.operators {
		lease := &coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: namespace},
			Spec: coordinationv1.LeaseSpec{
				HolderIdentity:       new("another holder"),
				LeaseDurationSeconds: new(int32(24 * 60 * 60)),
				AcquireTime:          new(metav1.NowMicro()),
				RenewTime:            new(metav1.NowMicro()),
			},
		}
		if err := o.plane.Client.Create(ctx, lease); err != nil {
			return err
		}
	}
	return b.withManagers(ctx, do)
}

// withManagers runs the operators while do runs.
func (b *bench) withManagers(ctx context.Context, do func() error) error {
	inner := func() error { return errors.Join(b.record(ctx), do()) }
	for _, o := range b.operators {
		next := inner
		inner = func() error { return o.withManager(ctx, next) }
	}
	return inner()
}

// withManager runs an operator while do runs.
func (o *operator) withManager(ctx context.Context, do func() error) (err error) {
	directory, err := os.MkdirTemp("", "netbox-event-operator-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(directory)) }()
	kubeconfig := filepath.Join(directory, "kubeconfig")
	if err := os.WriteFile(kubeconfig, o.plane.Kubeconfig(), 0o600); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(directory, "log"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	address, err := controlplane.FreeAddress(controlplane.AnyAddress)
	if err != nil {
		return err
	}
	o.url = "http://" + address + "/webhook/" + namespace + "/netbox"
	command := exec.CommandContext(ctx, o.program, "--kubeconfig="+kubeconfig, "--webhook-bind-address="+address,
		"--health-probe-bind-address=0", "--metrics-bind-address=0", "--watch-namespaces="+namespace,
		"--leader-elect", "--leader-election-id="+namespace, "--sink-allow-cidrs=127.0.0.0/8")
	command.Stderr = log
	return during(ctx, command, o.url, do)
}

// withBare runs the bare handler while do runs.
func (b *bench) withBare(ctx context.Context, do func(url string) error) error {
	address, err := controlplane.FreeAddress(controlplane.AnyAddress)
	if err != nil {
		return err
	}
	url := "http://" + address + "/webhook/" + namespace + "/netbox"
	return during(ctx, exec.CommandContext(ctx, os.Args[0], "--serve-bare="+address), url, func() error { return do(url) })
}

// during runs a server, waits until it answers at url, calls do, and stops the server.
func during(ctx context.Context, server *exec.Cmd, url string, do func() error) error {
	server.Cancel = func() error { return server.Process.Signal(syscall.SIGTERM) }
	if err := server.Start(); err != nil {
		return err
	}
	deadline := time.Now().Add(30 * time.Second)
	for {
		status, _, _ := send(ctx, url, "{}", "")
		if status == http.StatusUnauthorized {
			break
		}
		if time.Now().After(deadline) {
			return errors.Join(fmt.Errorf("%s does not serve", server.Path), server.Process.Kill())
		}
		time.Sleep(50 * time.Millisecond)
	}
	err := errors.Join(do(), server.Process.Signal(syscall.SIGTERM))
	_ = server.Wait() // it was terminated above
	return err
}

// record stores each delivery once and keeps the stored objects, to create the same objects without the receiver.
func (b *bench) record(ctx context.Context) error {
	if b.events != nil {
		return nil
	}
	for range b.bodies {
		if err := b.post(ctx, b.operators[0]); err != nil {
			return err
		}
	}
	var stored v1alpha1.NetBoxEventList
	if err := b.operators[0].plane.Client.List(ctx, &stored, client.InNamespace(namespace)); err != nil {
		return err
	}
	for _, event := range stored.Items {
		text, err := json.Marshal(event.Spec)
		if err != nil {
			return err
		}
		b.lengths = append(b.lengths, len(text))
	}
	b.events = stored.Items
	return nil
}

var transport = &http.Transport{MaxIdleConnsPerHost: 128}

func send(ctx context.Context, url, body, signature string) (status int, answer []byte, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set(netbox.SignatureHeader, signature)
	response, err := transport.RoundTrip(request)
	if err != nil {
		return 0, nil, err
	}
	answer, err = io.ReadAll(response.Body)
	return response.StatusCode, answer, errors.Join(err, response.Body.Close())
}

// nextBody is the body of a delivery that was not sent before, of a change of its own: events are named after their change.
func (b *bench) nextBody() string {
	n := b.serial.Add(1)
	body := b.bodies[int(n)%len(b.bodies)]
	return body.before + fleet.RequestID(b.run, n) + body.behind
}

// post sends a delivery to the receiver, and retries if an overloaded API server does not store it within the hold.
func (b *bench) post(ctx context.Context, to *operator) error {
	body := b.nextBody()
	signature := netbox.Sign([]byte(key), []byte(body))
	status, answer, err := send(ctx, to.url, body, signature)
	for err == nil && status == http.StatusServiceUnavailable {
		status, answer, err = send(ctx, to.url, body, signature)
	}
	if err := expect(http.StatusOK, status, err); err != nil {
		return err
	}
	var stored struct{ Event string }
	if err := json.Unmarshal(answer, &stored); err != nil {
		return err
	}
	to.last.Store(strings.TrimPrefix(stored.Event, namespace+"/"))
	return nil
}

// refuse sends a delivery with a wrong signature.
func (b *bench) refuse(ctx context.Context, url string) error {
	status, _, err := send(ctx, url, b.nextBody(), wrongSignature)
	return expect(http.StatusUnauthorized, status, err)
}

var wrongSignature = strings.Repeat("0", 128)

func expect(want, status int, err error) error {
	if err == nil && status != want {
		err = fmt.Errorf("answered %d, want %d", status, want)
	}
	return err
}

func (b *bench) nextEvent() *v1alpha1.NetBoxEvent {
	n := b.serial.Add(1)
	event := b.events[int(n)%len(b.events)].DeepCopy()
	event.ObjectMeta = metav1.ObjectMeta{Namespace: bareNamespace, Name: fmt.Sprintf("%s-%d", event.Name, n)}
	event.Status = v1alpha1.NetBoxEventStatus{}
	return event
}

// create creates an event without the receiver.
func (b *bench) create(ctx context.Context) error {
	return b.operators[0].plane.Client.Create(ctx, b.nextEvent())
}

// createAndFinish creates an event and writes its status, as the controller would.
func (b *bench) createAndFinish(ctx context.Context) error {
	event, api := b.nextEvent(), b.operators[0].plane.Client
	if err := api.Create(ctx, event); err != nil {
		return err
	}
	now := metav1.Now()
	event.Status = v1alpha1.NetBoxEventStatus{
		Phase: v1alpha1.PhaseSucceeded, StartTime: &now, CompletionTime: &now,
		Conditions: []metav1.Condition{{
			Type: v1alpha1.ConditionSucceeded, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonLogged,
			Message: "the event was logged; no rule matches it", ObservedGeneration: 1, LastTransitionTime: now,
		}},
	}
	// The API server only uses the status, so a bare client need not send the rest either.
	event.Spec = v1alpha1.NetBoxEventSpec{}
	return api.Status().Update(ctx, event)
}

// createAndChangeConfigMap creates a ConfigMap of the size of an event, and updates it once.
func (b *bench) createAndChangeConfigMap(ctx context.Context) error {
	n := int(b.serial.Add(1))
	length := b.lengths[n%len(b.lengths)]
	object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: bareNamespace, Name: fmt.Sprintf("as-long-as-an-event-%d", n)}}
	object.Data = map[string]string{"n": fmt.Sprint(n), "text": strings.Repeat("x", length)}
	api := b.operators[0].plane.Client
	if err := api.Create(ctx, object); err != nil {
		return err
	}
	object.Data["n"] += " changed"
	return api.Update(ctx, object)
}

// turn has the figures of one turn of one side.
type turn struct {
	rate  float64 // a second
	times []time.Duration

	// Cost for the API server per operation: milliseconds of CPU, retained bytes of its heap, and writes.
	cpu, heap, writes float64
}

// drive does an operation count times, some concurrently, and then waits until the last one is finished.
func drive(ctx context.Context, senders, count int, do, finish func(context.Context) error) (turn, error) {
	started := time.Now()
	var left atomic.Int64
	left.Store(int64(count))
	times, failures := make([][]time.Duration, senders), make([]error, senders)
	var all sync.WaitGroup
	for i := range senders {
		all.Go(func() {
			for left.Add(-1) >= 0 {
				before := time.Now()
				if failures[i] = do(ctx); failures[i] != nil {
					return
				}
				times[i] = append(times[i], time.Since(before))
			}
		})
	}
	all.Wait()
	err := errors.Join(failures...)
	if err == nil && finish != nil {
		err = finish(ctx)
	}
	return turn{rate: float64(count) / time.Since(started).Seconds(), times: slices.Concat(times...)}, err
}

// pair is an operation and the lower bound that it is compared with.
type pair struct {
	what      string
	senders   int
	count     int     // in each turn
	aim       float64 // the minimum ratio, 0 for none
	bare      func(context.Context) error
	operator  func(context.Context, *operator) error
	configMap func(context.Context) error            // nil where it is not compared
	finish    func(context.Context, *operator) error // waits for the operator's work in flight, if any
}

// side is one participant of a comparison.
type side struct {
	who        string
	at         *operator // whose control plane it writes to
	do, finish func(context.Context) error
	turns      []turn
}

// compare measures a pair and adds its rows to the table.
func (b *bench) compare(ctx context.Context, of pair) (err error) {
	if b.machine, err = fleet.ThisMachine(ctx, b.load, b.operators[0].api); err != nil {
		return err
	}
	var sides []*side
	for _, o := range b.operators {
		next := &side{who: o.who, at: o, do: func(ctx context.Context) error { return of.operator(ctx, o) }}
		if of.finish != nil {
			next.finish = func(ctx context.Context) error { return of.finish(ctx, o) }
		}
		sides = append(sides, next)
	}
	sides = append(sides, &side{who: "bare", at: b.operators[0], do: of.bare})
	if of.configMap != nil {
		sides = append(sides, &side{who: "ConfigMap", at: b.operators[0], do: of.configMap})
	}
	for round := range b.turns {
		fmt.Fprintf(os.Stderr, "%s, %d at once: turn %d of %d\n", of.what, of.senders, round+1, b.turns)
		for _, next := range order(sides, round) {
			if err := b.takeTurn(ctx, next, of); err != nil {
				return err
			}
		}
	}
	b.report(of, sides)
	return nil
}

// order returns the sides in the order of a round. Each is first, and behind each other one, equally often.
func order(sides []*side, round int) []*side {
	first := round / 2 % len(sides)
	ordered := slices.Concat(sides[first:], sides[:first])
	if round%2 == 1 {
		slices.Reverse(ordered)
	}
	return ordered
}

func (b *bench) takeTurn(ctx context.Context, next *side, of pair) error {
	before, err := next.at.count(ctx)
	if err != nil {
		return err
	}
	turn, err := drive(ctx, of.senders, of.count, next.do, next.finish)
	if err != nil {
		return err
	}
	cpu, err := next.at.apiServer.CPU() // before it collects garbage
	if err != nil {
		return err
	}
	after, err := next.at.count(ctx)
	each := float64(of.count)
	turn.cpu, turn.heap, turn.writes = 1000*(cpu-before.cpu)/each, (after.heap-before.heap)/each, (after.writes-before.writes)/each
	next.turns = append(next.turns, turn)
	return err
}

// counters are those of an API server.
type counters struct{ cpu, heap, writes float64 }

// count first forces a garbage collection of the API server: if one falls into only one of two turns, the ratio is off by up to 0.2.
func (o *operator) count(ctx context.Context) (now counters, err error) {
	heap, err := fleet.CollectGarbage(ctx, o.api.RESTClient())
	if err != nil {
		return now, err
	}
	now.heap = float64(heap)
	if now.writes, err = fleet.Writes(ctx, o.api.RESTClient()); err != nil {
		return now, err
	}
	now.cpu, err = o.apiServer.CPU()
	return now, err
}

// ratio is the median of the ratios of two sides, turn by turn, and where it lies with a confidence of 96 %.
type ratio struct{ median, from, to float64 }

func ratioOf(a, b *side) ratio {
	var all []float64
	for i := range a.turns {
		all = append(all, a.turns[i].rate/b.turns[i].rate)
	}
	slices.Sort(all)
	least := leastOf(len(all))
	return ratio{median(all), all[least-1], all[len(all)-least]}
}

// leastOf is the place, in their order and counted from either end, of the values that bound the median of some with a confidence of 96 %, or the
// extremes if they are few. By chance, fewer than 4 of 15 are on one side of it in 2 * (1 + 15 + 105 + 455) / 2^15 of all runs.
func leastOf(values int) int {
	const chance = 0.04
	least, choose, sum := 0, 1.0, 0.0
	for ; least < values/2; least++ {
		if sum += choose; 2*sum > chance*math.Exp2(float64(values)) {
			break
		}
		choose *= float64(values-least) / float64(least+1)
	}
	return max(least, 1)
}

// report adds the rows of a pair to the table.
func (b *bench) report(of pair, sides []*side) {
	milliseconds := func(time time.Duration) float64 { return float64(time.Microseconds()) / 1000 }
	if len(b.figures.Pairs) == 0 {
		fmt.Fprintln(b.table, "operation\tconcurrency\tclient\tper second\tratio\tfrom\tto\taim\tp50\tp99\tCPU\theap\twrites")
	}
	row := figures.Pair{What: of.what, AtOnce: of.senders, Aim: of.aim}
	for _, one := range sides {
		middle := func(value func(turn) float64) float64 {
			var values []float64
			for _, turn := range one.turns {
				values = append(values, value(turn))
			}
			return median(values)
		}
		ratio := ratioOf(sides[0], one)
		p50, p99 := quantiles(one.turns)
		side := figures.Side{
			Who: one.who, Rate: middle(func(t turn) float64 { return t.rate }), Ratio: ratio.median, From: ratio.from, To: ratio.to,
			P50: milliseconds(p50), P99: milliseconds(p99), CPU: middle(func(t turn) float64 { return t.cpu }),
			Heap: middle(func(t turn) float64 { return t.heap }), Writes: middle(func(t turn) float64 { return t.writes }),
		}
		aimed := ""
		if of.aim > 0 && one.who == "bare" {
			aimed = fmt.Sprintf("%.2f", of.aim)
			b.promises.Holds(ratio.to >= of.aim, "%s, %d at once: %.2f (%.2f to %.2f) of the bare rate, not %.2f",
				of.what, of.senders, ratio.median, ratio.from, ratio.to, of.aim)
		}
		fmt.Fprintf(b.table, "%s\t%d\t%s\t%.0f\t%.2f\t%.2f\t%.2f\t%s\t%s\t%s\t%.2f ms\t%.1f kB\t%.2f\n",
			of.what, of.senders, side.Who, side.Rate, side.Ratio, side.From, side.To, aimed, p50, p99, side.CPU, side.Heap/1000, side.Writes)
		row.Sides = append(row.Sides, side)
	}
	b.figures.Pairs = append(b.figures.Pairs, row)
}

func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}

func quantiles(turns []turn) (p50, p99 time.Duration) {
	var times []time.Duration
	for _, turn := range turns {
		times = append(times, turn.times...)
	}
	slices.Sort(times)
	at := func(quantile float64) time.Duration {
		return times[int(quantile*float64(len(times)-1))].Round(10 * time.Microsecond)
	}
	return at(0.5), at(0.99)
}

// allFinished waits until no event is pending. A list of all stored events costs the API server as much as many events, so it first waits for
// the last event.
func (*bench) allFinished(ctx context.Context, by *operator) error {
	last := v1alpha1.NetBoxEvent{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: by.last.Load().(string)}}
	for {
		if err := by.plane.Client.Get(ctx, client.ObjectKeyFromObject(&last), &last); err != nil {
			return err
		}
		if last.Status.Phase != v1alpha1.PhasePending {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	for {
		pending := metav1.PartialObjectMetadataList{}
		pending.SetGroupVersionKind(v1alpha1.SchemeGroupVersion.WithKind("NetBoxEventList"))
		err := by.plane.Client.List(ctx, &pending, client.InNamespace(namespace), client.Limit(1),
			client.MatchingFields{"status.phase": string(v1alpha1.PhasePending)})
		if err != nil || len(pending.Items) == 0 {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
}
