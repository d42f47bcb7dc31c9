package fleet

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/netbox-events/netbox-event-operator/test/controlplane"
)

// Process is a running process, seen through Linux's /proc.
type Process struct{ PID int }

// children returns the processes of a program that this one has started.
func children(program string) (found []Process, err error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	for _, file := range stats {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		// pid (program) state parent …
		pid, rest, _ := strings.Cut(string(text), " (")
		name, rest, _ := strings.Cut(rest, ") ")
		if fields := strings.Fields(rest); name == program && len(fields) > 1 && fields[1] == strconv.Itoa(os.Getpid()) {
			number, err := strconv.Atoi(pid)
			if err != nil {
				return nil, err
			}
			found = append(found, Process{PID: number})
		}
	}
	return found, nil
}

// APIServerOf returns the process of the API server of a control plane that this process has started.
func APIServerOf(plane *controlplane.ControlPlane) (Process, error) {
	host, err := url.Parse(plane.Config.Host)
	if err != nil {
		return Process{}, err
	}
	found, err := children("kube-apiserver")
	if err != nil {
		return Process{}, err
	}
	for _, process := range found {
		if arguments, err := process.arguments(); err == nil && slices.Contains(arguments, "--secure-port="+host.Port()) {
			return process, nil
		}
	}
	return Process{}, fmt.Errorf("no kube-apiserver listens at %s", host.Host)
}

// arguments returns the command line, the program first.
func (p Process) arguments() ([]string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.PID))
	return strings.Split(strings.TrimRight(string(text), "\x00"), "\x00"), err
}

// Signal sends it a signal. SIGSTOP and SIGCONT are how a machine hangs and comes back.
func (p Process) Signal(signal syscall.Signal) error { return syscall.Kill(p.PID, signal) }

// Memory is the memory use of a process, in bytes.
type Memory struct {
	RSS       int64
	Peak      int64 // the highest RSS since its start
	Anonymous int64 // the part of RSS that is not pages of its program, which the kernel may drop and read again
}

// Memory returns the current memory use.
func (p Process) Memory() (memory Memory, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID))
	if err != nil {
		return memory, err
	}
	var errs [3]error
	memory.RSS, errs[0] = kilobytes(string(text), "VmRSS:")
	memory.Peak, errs[1] = kilobytes(string(text), "VmHWM:")
	memory.Anonymous, errs[2] = kilobytes(string(text), "RssAnon:")
	return memory, errors.Join(errs[:]...)
}

// kilobytes reads a line such as "VmRSS:  12345 kB", in bytes.
func kilobytes(text, name string) (int64, error) {
	for line := range strings.Lines(text) {
		if rest, found := strings.CutPrefix(line, name); found {
			number, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			return number << 10, err
		}
	}
	return 0, fmt.Errorf("no %s", name)
}

// Files returns how many file descriptors it has open.
func (p Process) Files() (int, error) {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.PID))
	return len(entries), err
}

// CPU returns the seconds of CPU that it has used.
func (p Process) CPU() (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID))
	if err != nil {
		return 0, err
	}
	const user, system = 11, 12 // fields after the program's name
	_, rest, _ := strings.Cut(string(text), ") ")
	fields, ticks := strings.Fields(rest), 0.0
	for _, field := range []int{user, system} {
		value, err := strconv.ParseFloat(fields[field], 64)
		if err != nil {
			return 0, err
		}
		ticks += value
	}
	const ticksPerSecond = 100 // USER_HZ, on every architecture that Kubernetes runs on
	return ticks / ticksPerSecond, nil
}

func memoryOfMachine() int64 {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	bytes, err := kilobytes(string(text), "MemTotal:")
	if err != nil {
		return 0
	}
	return bytes
}

// lineOf returns what follows a name and a separator in a file of lines, or "unknown".
func lineOf(file, name, separator string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return "unknown"
	}
	for line := range strings.Lines(string(text)) {
		before, after, found := strings.Cut(line, separator)
		if found && strings.TrimSpace(before) == name {
			return strings.Trim(strings.TrimSpace(after), `"`)
		}
	}
	return "unknown"
}

func operatingSystem() string {
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return fmt.Sprintf("%s, Linux %s, %s", lineOf("/etc/os-release", "PRETTY_NAME", "="), strings.TrimSpace(string(kernel)), runtime.GOARCH)
}

// Load measures for two seconds how many cores the machine keeps busy, steal time included: proc_stat(5). It returns 0 if that is
// unknown.
func Load() float64 {
	const during, ticksPerSecond = 2 * time.Second, 100
	before := busyTicks()
	time.Sleep(during)
	return (busyTicks() - before) / ticksPerSecond / during.Seconds()
}

// busyTicks is the time of all cores that was not idle.
func busyTicks() (busy float64) {
	text, _ := os.ReadFile("/proc/stat")
	first, _, _ := strings.Cut(string(text), "\n")
	const idle, iowait, guest = 4, 5, 9 // fields; guests' time is in the user's
	for i, field := range strings.Fields(first) {
		if i == 0 || i == idle || i == iowait || i >= guest {
			continue
		}
		ticks, _ := strconv.ParseFloat(field, 64)
		busy += ticks
	}
	return busy
}
