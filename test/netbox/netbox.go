// Package netbox runs a real NetBox on loopback and changes objects in it, for tests and the demo. hack/netbox.sh starts its programs. The
// package reads NetBox's change log by itself, so that it can check what the operator made of it: it imports none of the operator's
// packages.
package netbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// NetBox is a running NetBox.
type NetBox struct {
	// Client makes requests as the administrator.
	Client
	// V2Token is another token of the administrator: nbt_KEY.TOKEN.
	V2Token string
	// User and Password are the administrator's.
	User, Password string
	// Directory holds its data, logs and sockets.
	Directory string

	script string
	paused []int64
}

// Start starts a new NetBox in a new directory, with hack/netbox.sh. Progress is on standard error: the first start on a machine takes
// minutes, later ones seconds. Stop must be called.
func Start(ctx context.Context) (*NetBox, error) {
	module, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return nil, fmt.Errorf("finding the project's go.mod: %w", err)
	}
	directory, err := os.MkdirTemp("", "netbox.")
	if err != nil {
		return nil, err
	}
	n := &NetBox{Directory: directory, script: filepath.Join(filepath.Dir(strings.TrimSpace(string(module))), "hack", "netbox.sh")}
	if err := os.Chmod(directory, 0o711); err != nil { // PostgreSQL runs as another user
		return nil, errors.Join(err, n.Stop())
	}
	if err := n.up(ctx); err != nil {
		return nil, errors.Join(err, n.Stop())
	}
	return n, nil
}

// Stop ends NetBox's programs and removes its directory.
func (n *NetBox) Stop() error {
	return errors.Join(run(exec.Command(n.script, "down", n.Directory)), os.RemoveAll(n.Directory))
}

// StopWorker ends the worker, which sends webhooks and runs background jobs. They queue until StartWorker.
func (n *NetBox) StopWorker(ctx context.Context) error {
	return n.down(ctx, "worker")
}

// StartWorker starts the worker and waits until it is ready, which takes 5 to 20 seconds.
func (n *NetBox) StartWorker(ctx context.Context) error { return n.up(ctx) }

// StopWeb ends the web server, so that connections are refused.
func (n *NetBox) StopWeb(ctx context.Context) error { return n.down(ctx, "web") }

// StartWeb starts the web server at the same URL and waits until it answers.
func (n *NetBox) StartWeb(ctx context.Context) error { return n.up(ctx) }

// WorkerPID returns the process id of the worker.
func (n *NetBox) WorkerPID() (int, error) { return n.pid("worker") }

// WebPID returns the process id of the web server. Its requests are served by a child process.
func (n *NetBox) WebPID() (int, error) { return n.pid("web") }

func (n *NetBox) pid(service string) (int, error) {
	text, err := os.ReadFile(filepath.Join(n.Directory, service+".pid"))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

// up starts the programs that are not running, and reads their environment.
func (n *NetBox) up(ctx context.Context) error {
	var output bytes.Buffer
	command := exec.CommandContext(ctx, n.script, "up", n.Directory)
	command.Stdout = &output
	if err := run(command); err != nil {
		return err
	}
	variables := map[string]string{}
	for line := range strings.Lines(output.String()) {
		name, value, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "export "), "=")
		variables[name] = value
	}
	n.Client = Client{URL: variables["NETBOX_URL"], Token: variables["NETBOX_TOKEN"]}
	n.V2Token, n.User, n.Password = variables["NETBOX_V2_TOKEN"], variables["NETBOX_USER"], variables["NETBOX_PASSWORD"]
	return nil
}

func (n *NetBox) down(ctx context.Context, service string) error {
	return run(exec.CommandContext(ctx, n.script, "down", n.Directory, service))
}

func run(command *exec.Cmd) error {
	command.Stderr = os.Stderr
	command.WaitDelay = 10 * time.Second // for programs of the script that outlive it
	if err := command.Run(); err != nil {
		return fmt.Errorf("%s: %w", strings.Join(command.Args, " "), err)
	}
	return nil
}
