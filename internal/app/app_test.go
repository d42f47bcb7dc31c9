package app_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/netbox"
	"github.com/netbox-events/netbox-event-operator/internal/source"
	"github.com/netbox-events/netbox-event-operator/test/controlplane"
)

var plane *controlplane.ControlPlane

func TestMain(m *testing.M) { controlplane.Main(m, &plane) }

// manager is a running process.
type manager struct {
	webhooks, probes string // addresses
	process          *os.Process
	ended            chan error
	log              *bytes.Buffer // to be read after it ended
}

func start(t *testing.T, config *rest.Config, arguments ...string) *manager {
	t.Helper()
	m := launch(t, config, arguments...)
	eventually(t, "the manager is not ready", 30*time.Second, m.ready)
	return m
}

// launch starts a manager without waiting until it is ready.
func launch(t *testing.T, config *rest.Config, arguments ...string) *manager {
	t.Helper()
	binary, err := plane.Manager()
	if err != nil {
		t.Fatal(err)
	}
	m := &manager{webhooks: controlplane.NewAddress(t), probes: controlplane.NewAddress(t), ended: make(chan error, 1), log: &bytes.Buffer{}}
	command := exec.Command(binary, append([]string{
		"--kubeconfig=" + controlplane.WriteKubeconfig(t, config), "--webhook-bind-address=" + m.webhooks,
		"--health-probe-bind-address=" + m.probes, "--metrics-bind-address=0",
	}, arguments...)...)
	command.Stderr = m.log
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	m.process = command.Process
	go func() { m.ended <- command.Wait() }()
	t.Cleanup(func() {
		_ = m.process.Kill()
		_ = m.waitEnd(t)
		if t.Failed() {
			t.Logf("log of the manager:\n%s", m.log)
		}
	})
	return m
}

func (m *manager) waitEnd(t *testing.T) error {
	t.Helper()
	select {
	case err := <-m.ended:
		m.ended <- err
		return err
	case <-time.After(35 * time.Second):
		t.Fatal("the manager does not exit")
		return nil
	}
}

func (m *manager) signal(t *testing.T, signal os.Signal) {
	t.Helper()
	if err := m.process.Signal(signal); err != nil {
		t.Fatal(err)
	}
}

func (m *manager) ready() bool {
	response, err := http.Get("http://" + m.probes + "/readyz")
	if err != nil {
		return false
	}
	_ = response.Body.Close()
	return response.StatusCode == http.StatusOK
}

func eventually(t *testing.T, message string, within time.Duration, done func() bool) {
	t.Helper()
	for end := time.Now().Add(within); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(message)
		}
	}
}

const key = "a key"

func newSource(t *testing.T) *v1alpha1.NetBoxSource {
	t.Helper()
	namespace := plane.Namespace(t)
	target := &v1alpha1.NetBoxSource{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "netbox"}}
	target.Spec.SecretRef = &v1alpha1.SecretKeysReference{Name: "webhook"}
	plane.Create(t, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "webhook"}, StringData: map[string]string{"secret": key},
	}, target)
	return target
}

func body(n int) string {
	return fmt.Sprintf(`{"event":"updated","timestamp":"2026-11-23T10:00:00.5+00:00","object_type":"dcim.site","data":{"id":%d}}`, n)
}

// post sends a delivery and returns the status and the name of the event, or 0 if there was no answer.
func post(ctx context.Context, url, body string) (status int, event string) {
	return postBy(ctx, http.DefaultClient, url, body)
}

func postBy(ctx context.Context, sender *http.Client, url, body string) (status int, event string) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		return 0, ""
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set(netbox.SignatureHeader, netbox.Sign([]byte(key), []byte(body)))
	response, err := sender.Do(request)
	if err != nil {
		return 0, ""
	}
	defer response.Body.Close()
	var answer struct{ Event string }
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		return 0, ""
	}
	return response.StatusCode, answer.Event
}

func (m *manager) url(target *v1alpha1.NetBoxSource) string {
	return "http://" + m.webhooks + source.Path(target)
}

func served(t *testing.T, url string) {
	t.Helper()
	eventually(t, "the source is not served", 10*time.Second, func() bool {
		status, _ := post(t.Context(), url, "")
		return status == http.StatusBadRequest
	})
}

// phases returns the phase of each event of a source.
func phases(t *testing.T, target *v1alpha1.NetBoxSource) map[string]v1alpha1.Phase {
	t.Helper()
	var events v1alpha1.NetBoxEventList
	if err := plane.Client.List(t.Context(), &events, client.InNamespace(target.Namespace)); err != nil {
		t.Fatal(err)
	}
	phases := map[string]v1alpha1.Phase{}
	for _, event := range events.Items {
		phases[event.Namespace+"/"+event.Name] = event.Status.Phase
	}
	return phases
}

func allDone(t *testing.T, target *v1alpha1.NetBoxSource) {
	t.Helper()
	eventually(t, "not all events are done", 60*time.Second, func() bool {
		for _, phase := range phases(t, target) {
			if phase != v1alpha1.PhaseSucceeded {
				return false
			}
		}
		return true
	})
}

// senders are clients that send deliveries until they are stopped.
type senders struct {
	cancel context.CancelFunc
	all    sync.WaitGroup
	mu     sync.Mutex
	stored map[string]bool // The names that were answered with 200.
}

// stream starts senders, each of which alternates between the replicas.
func stream(t *testing.T, urls ...string) *senders {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	s := &senders{cancel: cancel, stored: map[string]bool{}}
	for first := range 8 {
		s.all.Go(func() {
			for n := first; ctx.Err() == nil; n += 8 {
				status, event := post(ctx, urls[n%len(urls)], body(n))
				switch status {
				case http.StatusOK:
					s.mu.Lock()
					s.stored[event] = true
					s.mu.Unlock()
				case 0: // nobody listens
					time.Sleep(10 * time.Millisecond)
				}
			}
		})
	}
	return s
}

// wait waits until that many deliveries are stored.
func (s *senders) wait(t *testing.T, atLeast int) {
	t.Helper()
	eventually(t, "too few deliveries were stored", time.Minute, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.stored) >= atLeast
	})
}

// stop returns the names of the events that were answered with 200.
func (s *senders) stop() map[string]bool {
	s.cancel()
	s.all.Wait()
	return s.stored
}

// TestKilled kills the manager, and then its successor, under load.
func TestKilled(t *testing.T) {
	target := newSource(t)
	stored := map[string]bool{}
	for range 2 {
		m := start(t, plane.Config)
		served(t, m.url(target))
		sending := stream(t, m.url(target))
		sending.wait(t, len(stored)+100) // The second sends again what the first sent.
		m.signal(t, syscall.SIGKILL)
		_ = m.waitEnd(t)
		maps.Copy(stored, sending.stop())
	}
	there := phases(t, target)
	for name := range stored {
		if _, ok := there[name]; !ok {
			t.Errorf("event %s was answered with 200, and is lost", name)
		}
	}
	start(t, plane.Config)
	allDone(t, target)
}

// TestEveryEventIsLogged stores more events per second than controller-runtime's sampling would log.
func TestEveryEventIsLogged(t *testing.T) {
	const events = 400
	target := newSource(t)
	for n := range events {
		at := metav1.NowMicro()
		plane.Create(t, &v1alpha1.NetBoxEvent{
			ObjectMeta: metav1.ObjectMeta{Namespace: target.Namespace, Name: fmt.Sprintf("e-%d", n)},
			Spec: v1alpha1.NetBoxEventSpec{
				SourceRef: v1alpha1.SourceReference{Name: target.Name}, Event: "updated", ObjectID: fmt.Sprint(n), Timestamp: at,
				Delivery: v1alpha1.Delivery{ReceivedAt: at, Signature: v1alpha1.SignatureUnsigned, BodySHA256: strings.Repeat("0", 64)},
			},
		})
	}
	m := start(t, plane.Config, "--watch-namespaces="+target.Namespace)
	allDone(t, target)
	m.signal(t, syscall.SIGTERM)
	if err := m.waitEnd(t); err != nil {
		t.Error(err)
	}
	if got := strings.Count(m.log.String(), `"NetBox event"`); got != events {
		t.Errorf("%d lines for %d events", got, events)
	}
}

// TestReplicas stops the leader of two replicas.
func TestReplicas(t *testing.T) {
	target := newSource(t)
	one := start(t, plane.Config, "--leader-elect")
	other := start(t, plane.Config, "--leader-elect")
	served(t, one.url(target))
	served(t, other.url(target))
	for n := range 20 {
		for _, replica := range []*manager{one, other} {
			if status, _ := post(t.Context(), replica.url(target), body(n)); status != http.StatusOK {
				t.Errorf("a replica answered with %d", status)
			}
		}
	}
	if got := len(phases(t, target)); got != 20 {
		t.Errorf("%d events are stored, want 20", got)
	}
	allDone(t, target)
	one.signal(t, syscall.SIGTERM)
	if err := one.waitEnd(t); err != nil {
		t.Errorf("the first replica ended with %v", err)
	}
	if status, _ := post(t.Context(), other.url(target), body(100)); status != http.StatusOK {
		t.Errorf("the second replica answered with %d", status)
	}
	allDone(t, target)
}

// TestRights runs the manager with only the RBAC permissions of config/rbac.
func TestRights(t *testing.T) {
	plane.Create(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "system"}})
	for _, file := range []string{"role.yaml", "role_binding.yaml"} {
		content, err := os.Open(filepath.Join("..", "..", "config", "rbac", file))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = content.Close() }()
		documents := yaml.NewYAMLOrJSONDecoder(content, 4096)
		for {
			var object unstructured.Unstructured
			if err := documents.Decode(&object); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			plane.Create(t, &object)
		}
	}
	config := rest.CopyConfig(plane.Config)
	config.Impersonate.UserName = "system:serviceaccount:system:manager"
	target := newSource(t)
	provisioner(t, target.Namespace, config.Impersonate.UserName)
	to := newSink(t, target.Namespace)
	plane.Create(t, everyAction(target.Namespace, to.URL))
	m := start(t, config, "--leader-elect", "--leader-election-namespace=system", allowLoopback)
	served(t, m.url(target))
	status, event := post(t.Context(), m.url(target), body(1))
	if status != http.StatusOK {
		t.Errorf("answered with %d", status)
	}
	allDone(t, target)
	if came, _ := to.counts(map[string]bool{event: true}); came != 1 {
		t.Error("the sink did not get the event")
	}
	hasJob(t, target.Namespace, 1)
	reasons := map[string]bool{}
	eventually(t, "the refused body and the rule made no Kubernetes Events", 10*time.Second, func() bool {
		var events eventsv1.EventList
		if err := plane.Client.List(t.Context(), &events, client.InNamespace(target.Namespace)); err != nil {
			t.Fatal(err)
		}
		for _, event := range events.Items {
			reasons[event.Reason] = true
		}
		return reasons["MalformedBody"] && reasons["Changed"]
	})
	m.signal(t, syscall.SIGTERM)
	if err := m.waitEnd(t); err != nil {
		t.Error(err)
	}
	if strings.Contains(m.log.String(), "forbidden") {
		t.Error("the API server answered forbidden")
		t.Log(m.log)
	}
}

// TestOutageAtStart starts the operator during an outage of the API server: it is alive but not ready, and receives after the outage.
func TestOutageAtStart(t *testing.T) {
	target := newSource(t)
	outage, config := plane.NewOutage(t)
	outage.Set(controlplane.Refused)
	m := launch(t, config, "--leader-elect", "--watch-namespaces="+target.Namespace+",default")
	alive := func() bool {
		response, err := http.Get("http://" + m.probes + "/healthz")
		return err == nil && response.Body.Close() == nil && response.StatusCode == http.StatusOK
	}
	eventually(t, "the manager is not alive", 30*time.Second, alive)
	time.Sleep(3 * time.Second)
	if !alive() || m.ready() {
		t.Errorf("alive: %t, ready: %t", alive(), m.ready())
	}
	outage.Set(controlplane.Up)
	eventually(t, "the manager is not ready", 30*time.Second, m.ready)
	served(t, m.url(target))
	if status, _ := post(t.Context(), m.url(target), body(1)); status != http.StatusOK {
		t.Errorf("after the outage: %d", status)
	}
	allDone(t, target)
}

// TestOutage is an outage longer than the leader's Lease, under load from senders that wait for their answers.
func TestOutage(t *testing.T) {
	target := newSource(t)
	outage, config := plane.NewOutage(t)
	m := start(t, config, "--leader-elect")
	served(t, m.url(target))
	if status, _ := post(t.Context(), m.url(target), body(1)); status != http.StatusOK {
		t.Fatalf("before the outage: %d", status)
	}
	allDone(t, target)
	outage.Set(controlplane.Refused)
	const outageTime = 20 * time.Second
	began := time.Now()
	time.AfterFunc(outageTime, func() { outage.Set(controlplane.Up) })
	var senders sync.WaitGroup
	var sent atomic.Int64
	sent.Store(1)
	for range 20 {
		senders.Go(func() {
			for time.Since(began) < outageTime+time.Second {
				if status, _ := post(t.Context(), m.url(target), body(int(sent.Add(1)))); status != http.StatusOK {
					t.Errorf("answered with %d", status)
				}
			}
		})
	}
	senders.Wait()
	allDone(t, target)
	if stored := phases(t, target); len(stored) != int(sent.Load()) {
		t.Errorf("%d events are stored, want %d", len(stored), sent.Load())
	}
	select {
	case err := <-m.ended:
		t.Errorf("the manager exited: %v", err)
		m.ended <- err
	default:
	}
}

// TestDrain stops the manager while a delivery is in flight.
func TestDrain(t *testing.T) {
	target := newSource(t)
	m := start(t, plane.Config)
	served(t, m.url(target))
	sent := body(1)
	reader, writer := io.Pipe()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, m.url(target), reader)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set(netbox.SignatureHeader, netbox.Sign([]byte(key), []byte(sent)))
	answered := make(chan error, 1)
	go func() {
		response, err := http.DefaultClient.Do(request)
		if err == nil && response.StatusCode != http.StatusOK {
			err = fmt.Errorf("answered with %d", response.StatusCode)
		}
		answered <- err
	}()
	if _, err := io.WriteString(writer, sent[:20]); err != nil {
		t.Fatal(err)
	}
	time.Sleep(100 * time.Millisecond)
	m.signal(t, syscall.SIGTERM)
	eventually(t, "still ready after SIGTERM", 5*time.Second, func() bool { return !m.ready() })
	if _, err := io.WriteString(writer, sent[20:]); err != nil {
		t.Fatal(err)
	}
	_ = writer.Close()
	if err := <-answered; err != nil {
		t.Errorf("a delivery in flight: %v", err)
	}
	if err := m.waitEnd(t); err != nil {
		t.Errorf("the manager ended with %v", err)
	}
}

// TestTLS changes the certificate of a running manager.
func TestTLS(t *testing.T) {
	target := newSource(t)
	directory := t.TempDir()
	writeCertificate(t, directory, 1)
	m := start(t, plane.Config, "--webhook-cert-dir="+directory)
	serial := func() int64 {
		conn, err := tls.Dial("tcp", m.webhooks, &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
	}
	if got := serial(); got != 1 {
		t.Errorf("certificate %d is served", got)
	}
	https := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	eventually(t, "no delivery by HTTPS", 10*time.Second, func() bool {
		status, _ := postBy(t.Context(), https, "https://"+m.webhooks+source.Path(target), body(1))
		return status == http.StatusOK
	})
	writeCertificate(t, directory, 2)
	eventually(t, "the new certificate is not served", 15*time.Second, func() bool { return serial() == 2 })
}

func writeCertificate(t *testing.T, directory string, serial int64) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{
		"tls.key": {Type: "PRIVATE KEY", Bytes: encoded}, "tls.crt": {Type: "CERTIFICATE", Bytes: certificate},
	} {
		if err := os.WriteFile(filepath.Join(directory, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestFlood exceeds the memory budget: valid and invalid large bodies, and slow senders.
func TestFlood(t *testing.T) {
	target := newSource(t)
	m := start(t, plane.Config)
	served(t, m.url(target))

	for range 2000 {
		conn, err := net.Dial("tcp", m.webhooks)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		_, err = fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 900000\r\n\r\n{", source.Path(target))
		if err != nil {
			t.Fatal(err)
		}
	}
	large := func(n int) string {
		return strings.Replace(body(n), `"data":{`, `"data":{"x":"`+strings.Repeat("x", 950_000)+`",`, 1)
	}
	statuses := map[int]int{}
	var mu sync.Mutex
	var senders sync.WaitGroup
	for sender := range 150 {
		senders.Go(func() {
			for n := range 2 {
				sent := large(sender*10 + n)
				if sender%2 == 0 {
					sent += "}" // no JSON, but well signed
				}
				status, _ := post(t.Context(), m.url(target), sent)
				mu.Lock()
				statuses[status]++
				mu.Unlock()
			}
		})
	}
	time.Sleep(100 * time.Millisecond)
	for n := range 20 {
		eventually(t, "a small delivery is not stored during the flood", 10*time.Second, func() bool {
			status, _ := post(t.Context(), m.url(target), body(-1-n))
			return status == http.StatusOK
		})
	}
	senders.Wait()
	peak := peakMemory(t, m.process.Pid)
	t.Logf("answers to the large bodies: %v; peak memory %d MiB", statuses, peak>>20)
	for status := range statuses {
		switch status {
		case http.StatusOK, http.StatusBadRequest, http.StatusTooManyRequests, http.StatusServiceUnavailable:
		case 0:
			// The receiver closes the connection of a body that arrives too slowly, as here when the CPUs are busy: a sender that is still writing
			// may not see the answer, 429. For NetBox that is a failed delivery too.
			if statuses[status] > 100 {
				t.Errorf("%d large bodies got no answer", statuses[status])
			}
		default:
			t.Errorf("%d large bodies were answered with %d", statuses[status], status)
		}
	}
	if peak > 400<<20 {
		t.Errorf("the manager used %d MiB", peak>>20)
	}
}

// TestLargeHeads opens many connections with heads that take far more memory than their bytes, and bodies that never arrive.
func TestLargeHeads(t *testing.T) {
	target := newSource(t)
	m := start(t, plane.Config)
	served(t, m.url(target))
	var headers strings.Builder
	for n := range 1200 {
		fmt.Fprintf(&headers, "a%d: b\r\n", n)
	}
	head := "POST " + source.Path(target) + " HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 900000\r\n" + headers.String() + "\r\n{"
	for range 3000 {
		conn, err := net.Dial("tcp", m.webhooks)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		if _, err := io.WriteString(conn, head); err != nil {
			t.Fatal(err)
		}
	}
	if peak := peakMemory(t, m.process.Pid); peak > 400<<20 {
		t.Errorf("the manager used %d MiB", peak>>20)
	}
}

// peakMemory returns the peak resident memory of a process in bytes.
func peakMemory(t *testing.T, pid int) (bytes int64) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if errors.Is(err, os.ErrNotExist) {
		t.Skip("no /proc to read the memory of a process from")
	}
	for line := range strings.Lines(string(status)) {
		if n, _ := fmt.Sscanf(line, "VmHWM: %d kB", &bytes); n == 1 {
			return bytes << 10
		}
	}
	t.Fatal("no VmHWM in /proc")
	return 0
}
