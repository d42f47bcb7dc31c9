package controlplane

import (
	"context"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
)

// Namespace creates a separate namespace for a test. No controller deletes its objects.
func (c *ControlPlane) Namespace(t testing.TB) string {
	t.Helper()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"}}
	c.Create(t, namespace)
	return namespace.Name
}

// Create creates objects or fails the test.
func (c *ControlPlane) Create(t testing.TB, objects ...client.Object) {
	t.Helper()
	for _, object := range objects {
		if err := c.Client.Create(t.Context(), object); err != nil {
			t.Fatalf("creating %T: %v", object, err)
		}
	}
}

// Run runs a manager until the test ends, or until the function that it returns is called.
func Run(t testing.TB, mgr manager.Manager) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	stopped := make(chan error, 1)
	go func() { stopped <- mgr.Start(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// AnyAddress asks FreeAddress for no port in particular.
const AnyAddress = "127.0.0.1:0"

// FreeAddress returns a free host and port: preferred, or another one of loopback if that is in use.
func FreeAddress(preferred string) (string, error) {
	listener, err := net.Listen("tcp", preferred)
	if err != nil {
		if listener, err = net.Listen("tcp", AnyAddress); err != nil {
			return "", err
		}
	}
	return listener.Addr().String(), listener.Close()
}

// NewAddress returns a free host and port of loopback.
func NewAddress(t *testing.T) string {
	t.Helper()
	address, err := FreeAddress(AnyAddress)
	if err != nil {
		t.Fatal(err)
	}
	return address
}

// WriteKubeconfig writes a kubeconfig file, which is removed with the test, and returns its name.
func WriteKubeconfig(t *testing.T, config *rest.Config) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "kubeconfig")
	err := clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters: map[string]*clientcmdapi.Cluster{
			"c": {Server: "https://" + strings.TrimPrefix(config.Host, "https://"), CertificateAuthorityData: config.CAData},
		},
		AuthInfos: map[string]*clientcmdapi.AuthInfo{
			"u": {ClientCertificateData: config.CertData, ClientKeyData: config.KeyData, Impersonate: config.Impersonate.UserName},
		},
		Contexts:       map[string]*clientcmdapi.Context{"x": {Cluster: "c", AuthInfo: "u"}},
		CurrentContext: "x",
	}, file)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// Outage is a proxy between a client and the API server that can simulate outages.
type Outage struct {
	listener net.Listener
	backend  string

	mu    sync.Mutex
	state OutageState
	conns map[net.Conn]bool // whether each still forwards bytes
}

// OutageState is a kind of outage.
type OutageState int

const (
	// Up forwards everything.
	Up OutageState = iota
	// Refused closes every connection, as if the process had exited.
	Refused
	// Hung accepts connections and never answers, as if the machine had failed. Connections that are open during it never recover.
	Hung
)

// NewOutage returns an Outage that is Up, and a config that uses it. It ends with the test.
func (c *ControlPlane) NewOutage(t testing.TB) (*Outage, *rest.Config) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	outage := &Outage{listener: listener, backend: c.environment.ControlPlane.APIServer.SecureServing.HostPort(), conns: map[net.Conn]bool{}}
	go outage.serve()
	t.Cleanup(func() {
		_ = listener.Close()
		outage.Set(Refused)
	})
	config := rest.CopyConfig(c.Config)
	config.Host = listener.Addr().String()
	return outage, config
}

// Set changes the state, also for open connections.
func (o *Outage) Set(state OutageState) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.state = state
	for conn := range o.conns {
		switch state {
		case Refused:
			_ = conn.Close()
		case Hung:
			o.conns[conn] = false
		case Up:
		}
	}
}

func (o *Outage) serve() {
	for {
		conn, err := o.listener.Accept()
		if err != nil {
			return
		}
		go o.pass(conn)
	}
}

func (o *Outage) pass(client net.Conn) {
	server, err := net.Dial("tcp", o.backend)
	if err != nil || !o.keep(client, server) {
		_ = client.Close()
		return
	}
	go o.copy(client, server)
	o.copy(server, client)
}

func (o *Outage) keep(conns ...net.Conn) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, conn := range conns {
		o.conns[conn] = o.state == Up
	}
	return o.state != Refused
}

// copy forwards bytes until the API server is Hung, and drops them from then on.
func (o *Outage) copy(to, from net.Conn) {
	defer func() { _, _ = to.Close(), from.Close() }()
	_, _ = io.Copy(writerFunc(func(bytes []byte) (int, error) {
		if o.isLost(from) {
			return len(bytes), nil
		}
		return to.Write(bytes)
	}), from)
}

func (o *Outage) isLost(conn net.Conn) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return !o.conns[conn]
}

type writerFunc func([]byte) (int, error)

func (w writerFunc) Write(bytes []byte) (int, error) { return w(bytes) }
