package fleet

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/netbox-events/netbox-event-operator/test/fleet/figures"
)

// Replica is a place for a manager: its addresses and log stay the same whenever one is started there.
type Replica struct {
	webhooks, probes, metrics string // addresses
	token                     string // for its metrics
	command                   []string
	environment               []string // besides that of this process
	log                       *os.File

	mu      sync.Mutex
	process *os.Process
	ended   chan struct{} // closed when the process has ended
	starts  int
	kills   int
}

// Start starts a manager.
func (r *Replica) Start() error {
	command := exec.Command(r.command[0], r.command[1:]...)
	command.Env = append(os.Environ(), r.environment...)
	command.Stderr = r.log
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for the program, which stops the manager
	if err := command.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = command.Wait() // errors are in its log
	}()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.process, r.ended = command.Process, ended
	r.starts++
	return nil
}

// Keep starts a manager, and restarts it when it exits, as a kubelet would, until ctx is done.
func (r *Replica) Keep(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := r.Start(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
		case <-r.ended:
			Pause(ctx, time.Second)
		}
	}
	return nil
}

// Ready waits until the manager is ready.
func (r *Replica) Ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.probes+"/readyz", nil)
		if err != nil {
			return err
		}
		if response, err := http.DefaultClient.Do(request); err == nil {
			_ = response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return nil
			}
		}
		if ctx.Err() != nil {
			return fmt.Errorf("a manager is not ready: %w", ctx.Err())
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// Kill kills the manager, and returns when it is gone.
func (r *Replica) Kill() error { return r.end(syscall.SIGKILL) }

// Terminate sends SIGTERM to the manager, and returns when it has exited.
func (r *Replica) Terminate() error { return r.end(syscall.SIGTERM) }

func (r *Replica) end(signal syscall.Signal) error {
	r.mu.Lock()
	process, ended := r.process, r.ended
	r.mu.Unlock()
	if process == nil {
		return nil
	}
	err := process.Signal(signal)
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	if err == nil {
		r.mu.Lock()
		r.kills++
		r.mu.Unlock()
		<-ended
	}
	return err
}

// Hang suspends the manager for a time, as a hanging machine does, and resumes it. It ignores a manager that exits meanwhile.
func (r *Replica) Hang(ctx context.Context, length time.Duration) error {
	r.mu.Lock()
	process := r.process
	r.mu.Unlock()
	err := process.Signal(syscall.SIGSTOP)
	if err == nil {
		Pause(ctx, length)
		err = process.Signal(syscall.SIGCONT)
	}
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

// HasEnded reports whether no manager runs here.
func (r *Replica) HasEnded() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case <-r.ended:
		return true
	default:
		return r.process == nil
	}
}

// Lives returns how often a manager was started and killed here.
func (r *Replica) Lives() (starts, kills int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.starts, r.kills
}

// Webhooks is the address at which the manager receives.
func (r *Replica) Webhooks() string { return r.webhooks }

// Head is the head of a delivery whose body has a length, but for the empty line that ends it.
func (r *Replica) Head(length int) string {
	return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n", path, r.webhooks, length)
}

// Process is the manager's.
func (r *Replica) Process() Process {
	r.mu.Lock()
	defer r.mu.Unlock()
	return Process{PID: r.process.Pid}
}

// Sample measures the manager once.
func (r *Replica) Sample(ctx context.Context) (figures.Process, Metrics, error) {
	metrics, err := r.Metrics(ctx)
	if err != nil {
		return figures.Process{}, nil, err
	}
	memory, err := r.Process().Memory()
	files, filesErr := r.Process().Files()
	return figures.Process{
		RSS: memory.RSS, Anonymous: memory.Anonymous, Heap: int64(metrics["go_memstats_heap_alloc_bytes"]),
		Goroutines: int(metrics["go_goroutines"]), Files: files,
	}, metrics, errors.Join(err, filesErr)
}

// Rest measures the manager some times, a second apart, and returns the minimum of each figure, because the amount of garbage varies.
func (r *Replica) Rest(ctx context.Context, times int) (least figures.Process, err error) {
	for i := range times {
		Pause(ctx, time.Second)
		now, _, err := r.Sample(ctx)
		if err != nil {
			return least, err
		}
		if i == 0 {
			least = now
		}
		least = figures.Process{
			RSS: min(least.RSS, now.RSS), Anonymous: min(least.Anonymous, now.Anonymous), Heap: min(least.Heap, now.Heap),
			Goroutines: min(least.Goroutines, now.Goroutines), Files: min(least.Files, now.Files),
		}
	}
	return least, nil
}

// Leader returns the replica that leads, nil if none reports so.
func (f *Fleet) Leader(ctx context.Context) *Replica {
	for _, replica := range f.Replicas {
		if metrics, err := replica.Metrics(ctx); err == nil && metrics.Leads() {
			return replica
		}
	}
	return nil
}

// Leads says whether the manager is the leader.
func (m Metrics) Leads() bool { return m["leader_election_master_status"] > 0 }

// Pending is the number of pending events; only the leader exports it.
func (m Metrics) Pending() int { return int(m["netbox_events_pending_events"]) }
