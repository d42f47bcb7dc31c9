// Package fleet runs the operator as in a cluster, for load tests and fault injection: a real control plane, bin/manager as separate processes,
// senders that behave like NetBox, and a sink. It requires Linux: it reads /proc.
package fleet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/test/controlplane"
	"github.com/netbox-events/netbox-event-operator/test/fleet/figures"
)

const (
	// Namespace is where the source and its events are.
	Namespace = "netbox"
	key       = "a key of the fleet"
	source    = "netbox"
	path      = "/webhook/" + Namespace + "/" + source
)

// Options configure a Fleet.
type Options struct {
	Replicas int
	// MaxEvents is the source's retention.maxEvents.
	MaxEvents int
	// MemoryLimit bounds the memory of each replica, in bytes; 0 for no bound. See Fleet.HardLimit.
	MemoryLimit int64
}

// maxPending is the largest value that a source allows.
const maxPending = 1_000_000

// Fleet is a control plane and replicas of the operator.
type Fleet struct {
	Plane    *controlplane.ControlPlane
	Replicas []*Replica
	Machine  figures.Machine

	options    Options
	keep       bool   // the files
	directory  string // of the replicas' files; their logs are manager-*.log
	kubernetes *kubernetes.Clientset
	groups     []*cgroup

	mu        sync.Mutex
	apiServer Process
	restarted *exec.Cmd // the API server, where KillAPIServer has started it again
}

// Start starts a control plane with a source of the name netbox, and prepares replicas, which do not run yet. Stop must be called.
func Start(ctx context.Context, options Options) (f *Fleet, err error) {
	f = &Fleet{options: options}
	load := Load()
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Stop())
		}
	}()
	if f.directory, err = os.MkdirTemp("", "netbox-event-operator-fleet-"); err != nil {
		return f, err
	}
	if f.Plane, err = controlplane.Start(); err != nil {
		return f, err
	}
	if f.apiServer, err = APIServerOf(f.Plane); err != nil {
		return f, err
	}
	if f.kubernetes, err = kubernetes.NewForConfig(f.Plane.Config); err != nil {
		return f, err
	}
	if f.Machine, err = ThisMachine(ctx, load, f.kubernetes); err != nil {
		return f, err
	}
	if err := f.createSource(ctx); err != nil {
		return f, err
	}
	return f, f.prepare(ctx)
}

// ThisMachine describes the machine, with the Load that it had, the control plane, and bin/manager.
func ThisMachine(ctx context.Context, load float64, api discovery.ServerVersionInterface) (machine figures.Machine, err error) {
	kubernetes, err := api.ServerVersion()
	if err != nil {
		return machine, err
	}
	operator, err := exec.CommandContext(ctx, "bin/manager", "--version").Output()
	if err != nil {
		return machine, fmt.Errorf("%w; run make build first", err)
	}
	return figures.Machine{
		CPU: lineOf("/proc/cpuinfo", "model name", ":"), Cores: runtime.NumCPU(), MemoryBytes: memoryOfMachine(), OS: operatingSystem(),
		Kubernetes: kubernetes.GitVersion, Operator: strings.TrimSpace(string(operator)), Load: load,
	}, nil
}

func (f *Fleet) createSource(ctx context.Context) error {
	of := &v1alpha1.NetBoxSource{ObjectMeta: metav1.ObjectMeta{Namespace: Namespace, Name: source}}
	of.Spec.SecretRef = &v1alpha1.SecretKeysReference{Name: "webhook"}
	of.Spec.Retention.MaxEvents = int32(f.options.MaxEvents)
	of.Spec.MaxPending = maxPending
	for _, object := range []client.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: Namespace}},
		&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: Namespace, Name: "webhook"}, StringData: map[string]string{"secret": key}},
		of,
	} {
		if err := f.Plane.Client.Create(ctx, object); err != nil {
			return err
		}
	}
	return nil
}

// prepare creates the objects and files of the replicas. They run a copy of bin/manager, so that a build meanwhile does not change it.
func (f *Fleet) prepare(ctx context.Context) error {
	kubeconfig, binary := filepath.Join(f.directory, "kubeconfig"), filepath.Join(f.directory, "manager")
	if err := os.WriteFile(kubeconfig, f.Plane.Kubeconfig(), 0o600); err != nil {
		return err
	}
	program, err := os.ReadFile("bin/manager")
	if err != nil {
		return err
	}
	if err := os.WriteFile(binary, program, 0o700); err != nil {
		return err
	}
	token, err := f.metricsToken(ctx)
	if err != nil {
		return err
	}
	for i := range f.options.Replicas {
		replica := &Replica{token: token}
		state := filepath.Join(f.directory, fmt.Sprintf("state-%d", i))
		if err := os.Mkdir(state, 0o700); err != nil {
			return err
		}
		for _, address := range []*string{&replica.webhooks, &replica.probes, &replica.metrics} {
			if *address, err = controlplane.FreeAddress(controlplane.AnyAddress); err != nil {
				return err
			}
		}
		if replica.log, err = os.Create(filepath.Join(f.directory, fmt.Sprintf("manager-%d.log", i))); err != nil {
			return err
		}
		replica.command = []string{
			binary, "--kubeconfig=" + kubeconfig, "--webhook-bind-address=" + replica.webhooks,
			"--health-probe-bind-address=" + replica.probes, "--metrics-bind-address=" + replica.metrics, "--leader-elect",
			"--sink-allow-cidrs=127.0.0.0/8", "--state-dir=" + state,
		}
		if f.options.MemoryLimit > 0 {
			f.limitMemory(replica, i)
		}
		f.Replicas = append(f.Replicas, replica)
	}
	return nil
}

// limitMemory applies the memory limit to a replica. If the kernel cannot enforce it, the replica at least gets it as GOMEMLIMIT.
func (f *Fleet) limitMemory(replica *Replica, number int) {
	const ratio = 0.9 // as internal/app has it
	group, err := newCgroup(fmt.Sprintf("%s-%d", filepath.Base(f.directory), number), f.options.MemoryLimit)
	if err != nil {
		Say("the kernel does not enforce the memory limit of replica %d: %v", number, err)
		replica.environment = []string{fmt.Sprintf("GOMEMLIMIT=%d", int64(ratio*float64(f.options.MemoryLimit)))}
		return
	}
	f.groups = append(f.groups, group)
	replica.command = group.command(replica.command)
}

// HardLimit reports whether the kernel kills a replica that exceeds its memory limit, as in a pod. Otherwise the limit is only set as
// GOMEMLIMIT.
func (f *Fleet) HardLimit() bool { return len(f.groups) > 0 }

// metricsToken is the token of a service account that may read metrics, as docs/monitoring.md has it, and profiles.
func (f *Fleet) metricsToken(ctx context.Context) (string, error) {
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: Namespace, Name: "metrics"}}
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "metrics-reader"}}
	role.Rules = []rbacv1.PolicyRule{{NonResourceURLs: []string{"/metrics", "/debug/pprof/*"}, Verbs: []string{"get"}}}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "metrics-reader"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role.Name},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: Namespace, Name: account.Name}},
	}
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: new(int64(24 * 60 * 60))}}
	api := f.Plane.Client
	err := errors.Join(api.Create(ctx, account), api.Create(ctx, role), api.Create(ctx, binding))
	if err != nil {
		return "", err
	}
	err = api.SubResource("token").Create(ctx, account, request)
	return request.Status.Token, err
}

// APIServer is the process of the API server.
func (f *Fleet) APIServer() Process {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.apiServer
}

// Etcd is the process of etcd.
func (f *Fleet) Etcd() (Process, error) {
	found, err := children("etcd")
	if err == nil && len(found) != 1 {
		err = fmt.Errorf("%d processes of etcd, want 1", len(found))
	}
	if err != nil {
		return Process{}, err
	}
	return found[0], nil
}

// KillAPIServer kills the API server and starts it again, with the same arguments, after a while.
func (f *Fleet) KillAPIServer(ctx context.Context, away time.Duration) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	arguments, err := f.apiServer.arguments()
	if err != nil {
		return err
	}
	if err := f.apiServer.Signal(syscall.SIGKILL); err != nil {
		return err
	}
	if f.restarted != nil {
		_ = f.restarted.Wait() // it was killed
	}
	Pause(ctx, away)
	command := exec.Command(arguments[0], arguments[1:]...)
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := command.Start(); err != nil {
		return err
	}
	f.restarted, f.apiServer = command, Process{PID: command.Process.Pid}
	return nil
}

// Stop stops all processes of the fleet.
func (f *Fleet) Stop() error {
	var errs []error
	for _, replica := range f.Replicas {
		errs = append(errs, replica.Kill(), replica.log.Close())
	}
	for _, group := range f.groups {
		errs = append(errs, group.remove())
	}
	if f.restarted != nil {
		errs = append(errs, f.restarted.Process.Kill())
		_ = f.restarted.Wait() // it was killed
	}
	if f.Plane != nil {
		errs = append(errs, f.Plane.Stop())
	}
	if f.keep {
		Say("the replicas' logs are in %s", f.directory)
		return errors.Join(append(errs, os.Remove(filepath.Join(f.directory, "manager")))...)
	}
	return errors.Join(append(errs, os.RemoveAll(f.directory))...)
}

// End stops all processes, and returns err joined with errors of stopping. If there is an error, it first prints the end of each replica's log,
// and keeps the logs.
func (f *Fleet) End(err error) error {
	if err != nil {
		f.showLogs()
		f.keep = true
	}
	return errors.Join(err, f.Stop())
}

func (f *Fleet) showLogs() {
	const lines = 20
	for i, replica := range f.Replicas {
		text, err := os.ReadFile(replica.log.Name())
		if err != nil {
			continue
		}
		all := strings.Split(strings.TrimSpace(string(text)), "\n")
		fmt.Fprintf(os.Stderr, "\nthe end of the log of replica %d:\n%s\n", i, strings.Join(all[max(0, len(all)-lines):], "\n"))
	}
}

// Pause waits, or ends early with ctx.
func Pause(ctx context.Context, duration time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(duration):
	}
}
