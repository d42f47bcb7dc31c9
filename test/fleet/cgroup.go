package fleet

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// cgroup is a control group with a memory limit: the kernel kills a process in it that exceeds the limit, as in a pod.
type cgroup struct{ directory string }

// newCgroup creates a control group of a unique name, by cgroup v2 or v1. It fails if this user may not, or if there is no memory controller.
func newCgroup(name string, limit int64) (*cgroup, error) {
	var errs []error
	for _, at := range []struct{ root, file string }{
		{"/sys/fs/cgroup", "memory.max"},
		{"/sys/fs/cgroup/memory", "memory.limit_in_bytes"},
	} {
		group := &cgroup{filepath.Join(at.root, name)}
		if err := os.Mkdir(group.directory, 0o750); err != nil {
			errs = append(errs, err)
			continue
		}
		err := setExisting(filepath.Join(group.directory, at.file), strconv.FormatInt(limit, 10))
		if err == nil {
			return group, nil
		}
		errs = append(errs, err, group.remove())
	}
	return nil, fmt.Errorf("no control group can bound memory: %w", errors.Join(errs...))
}

// setExisting writes a file, if it is there: the root of cgroup v1 is a file system of its own, in which any file could be made.
func setExisting(file, value string) error {
	opened, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = opened.WriteString(value)
	return errors.Join(err, opened.Close())
}

// command returns the command that runs another one in the group.
func (g *cgroup) command(inner []string) []string {
	return append([]string{"/bin/sh", "-c", `echo $$ >"$0" && exec "$@"`, filepath.Join(g.directory, "cgroup.procs")}, inner...)
}

// remove removes the group, which must be empty.
func (g *cgroup) remove() error { return os.Remove(g.directory) }
