// Package controlplane runs a real kube-apiserver and etcd with the project's CRDs, for tests, the demo and benchmarks. Their programs
// are in the directory KUBEBUILDER_ASSETS, which hack/control-plane.sh provides.
package controlplane

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/go-logr/logr"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/netbox-events/netbox-event-operator/internal/app"
)

// ControlPlane is a running API server.
type ControlPlane struct {
	// Config connects as an administrator, without a client-side rate limit.
	Config *rest.Config
	// Client reads and writes without a cache.
	Client client.WithWatch

	environment *envtest.Environment
	manager     func() (string, error)
	directory   string // of the manager
}

// Start starts a control plane on loopback and installs the CRDs. Stop must be called.
func Start() (*ControlPlane, error) {
	root, err := moduleRoot()
	if err != nil {
		return nil, err
	}
	return StartWith(filepath.Join(root, "config", "crd", "bases"))
}

// StartWith is Start with the CRDs of a directory, of another build for example.
func StartWith(crds string) (*ControlPlane, error) {
	if os.Getenv("KUBEBUILDER_ASSETS") == "" {
		return nil, errors.New(`KUBEBUILDER_ASSETS is not set: run "make test", or export KUBEBUILDER_ASSETS=$(hack/control-plane.sh) first`)
	}
	environment := &envtest.Environment{
		CRDDirectoryPaths:     []string{crds},
		ErrorIfCRDPathMissing: true,
	}
	config, err := environment.Start()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("starting the control plane: %w", err), environment.Stop())
	}
	config.QPS = -1
	plane := &ControlPlane{Config: config, environment: environment}
	plane.manager = sync.OnceValues(plane.buildManager)
	scheme, err := app.Scheme()
	if err == nil {
		plane.Client, err = client.NewWithWatch(config, client.Options{Scheme: scheme})
	}
	if err != nil {
		return nil, errors.Join(err, plane.Stop())
	}
	return plane, nil
}

// Stop ends the control plane and removes its data.
func (c *ControlPlane) Stop() error {
	return errors.Join(c.environment.Stop(), os.RemoveAll(c.directory))
}

// Manager builds the operator, once, and returns the path of the program, which Stop removes.
func (c *ControlPlane) Manager() (string, error) { return c.manager() }

func (c *ControlPlane) buildManager() (path string, err error) {
	if c.directory, err = os.MkdirTemp("", "manager-"); err != nil {
		return "", err
	}
	path = filepath.Join(c.directory, "manager")
	const command = "github.com/netbox-events/netbox-event-operator/cmd/manager"
	if output, err := exec.Command("go", "build", "-o", path, command).CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, output)
	}
	return path, nil
}

// Kubeconfig returns the text of a kubeconfig of an administrator.
func (c *ControlPlane) Kubeconfig() []byte { return c.environment.KubeConfig }

// moduleRoot is the nearest parent directory with a go.mod.
func moduleRoot() (string, error) {
	directory, err := os.Getwd()
	for err == nil {
		if _, err = os.Stat(filepath.Join(directory, "go.mod")); err == nil {
			return directory, nil
		}
		if parent := filepath.Dir(directory); errors.Is(err, fs.ErrNotExist) && parent != directory {
			directory, err = parent, nil
		}
	}
	return "", fmt.Errorf("finding the project's go.mod: %w", err)
}

// Main runs the tests of a package with a control plane. It is for TestMain. Fuzz targets, which Go runs in many processes, run without one.
func Main(m *testing.M, plane **ControlPlane) {
	flag.Parse()
	os.Exit(func() int {
		if fuzz := flag.Lookup("test.fuzz"); fuzz != nil && fuzz.Value.String() != "" {
			return m.Run()
		}
		ctrl.SetLogger(logr.Discard()) // the informers' messages about outages that tests cause
		started, err := Start()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer func() {
			if err := started.Stop(); err != nil {
				fmt.Fprintln(os.Stderr, "stopping the control plane:", err)
			}
		}()
		*plane = started
		return m.Run()
	}())
}
