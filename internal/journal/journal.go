// Package journal detects work that crashes the process beyond recovery: it runs out of memory, or meets a fatal error of the runtime. A
// file lists the work in progress; after a crash, the next process reads from it which work was in progress.
package journal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"golang.org/x/sync/semaphore"
)

// MaxCrashes is the number of crashes during a piece of work after which Begin refuses it.
const MaxCrashes = 3

// PoisonError refuses a piece of work that crashed the process MaxCrashes times.
type PoisonError struct{ Crashes int }

// Error implements error.
func (e *PoisonError) Error() string {
	return fmt.Sprintf("the process crashed %d times while it processed this", e.Crashes)
}

// Journal records the work in progress. A nil *Journal records nothing, and refuses nothing. It is safe for concurrent use.
//
// Work that was in progress at a crash is suspect until it ends. Suspect work runs exclusively, so that no other work is blamed when the
// process crashes again. The file is not synced: it must survive the process, not the machine.
type Journal struct {
	file   *os.File
	damage error
	// exclusive is a read-write lock that respects a context: work takes a weight of 1, suspect work all of it. It is FIFO, so suspect work
	// waits only for earlier work.
	exclusive *semaphore.Weighted

	mu       sync.Mutex
	suspects map[digest]suspect // filled by Open alone
	free     []int              // vacant slots
	failure  error
}

type suspect struct {
	slot    int
	crashes uint8
}

const (
	fileName  = "journal"
	allWeight = 1 << 30
)

// Open opens the journal in a directory, which no other process may use. It counts a crash for all work that was in progress, and drops
// damaged records: see Damage.
func Open(dir string) (_ *Journal, err error) {
	file, err := os.OpenFile(filepath.Join(dir, fileName), os.O_RDWR|os.O_CREATE, 0o600) //nolint:gosec // the directory is configured
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, file.Close())
		}
	}()
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, fmt.Errorf("cannot lock %s, is another process using it? %w", file.Name(), err)
	}
	content, err := io.ReadAll(io.LimitReader(file, fileSize+1))
	if err != nil {
		return nil, err
	}
	j := &Journal{file: file, exclusive: semaphore.NewWeighted(allWeight), suspects: map[digest]suspect{}}
	var records []record
	if len(content) > 0 {
		records, j.damage = parse(content)
	}
	records = countCrashes(records)
	for slot, r := range records {
		if r.state == suspected {
			j.suspects[r.key] = suspect{slot: slot, crashes: r.crashes}
		} else {
			j.free = append(j.free, slot)
		}
	}
	if err := file.Truncate(fileSize); err != nil {
		return nil, err
	}
	// Each record stays in its slot, and a kill here leaves whole pages, so each record is either the old or the new one. All pages are
	// written, so that the file never needs more space.
	if _, err := file.WriteAt(format(records), 0); err != nil {
		return nil, err
	}
	return j, nil
}

// countCrashes counts one crash for each key that was in progress, and returns one record per key, in one of its slots.
func countCrashes(records []record) []record {
	counted := make([]record, slots)
	first := map[digest]int{}
	for slot, r := range records {
		if r.state == vacant {
			continue
		}
		if _, ok := first[r.key]; !ok {
			first[r.key] = slot
		}
		c := &counted[first[r.key]]
		c.key, c.state, c.crashes = r.key, max(c.state, r.state), max(c.crashes, r.crashes)
	}
	for slot := range counted {
		if c := &counted[slot]; c.state == working {
			c.state, c.crashes = suspected, min(c.crashes, MaxCrashes-1)+1
		}
	}
	return counted
}

// Damage returns the error that Open met in the file, nil for none. Open keeps the readable records.
func (j *Journal) Damage() error {
	if j == nil {
		return nil
	}
	return j.damage
}

// Suspects returns the number of suspect pieces of work.
func (j *Journal) Suspects() int {
	if j == nil {
		return 0
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.suspects)
}

// Begin records the start of a piece of work. The caller must call end once, when the work ends in any way, and must not begin other work
// before that: suspect work waits for all other work to end, and other work waits for suspect work to end. Begin returns a *PoisonError for
// work that it refuses, until Forget, and the error of a context that is done before the work may begin.
//
// A key has any length, and identifies one piece of work: the end of any work under a key clears its suspicion. While 4096 pieces of work
// are recorded, further work is not. A panic runs a deferred end, so it does not count as a crash.
func (j *Journal) Begin(ctx context.Context, key string) (end func(), err error) {
	if j == nil {
		return func() {}, nil
	}
	id, weight := digestOf(key), int64(1)
	if s, ok := j.suspect(id); ok {
		if s.crashes >= MaxCrashes {
			return nil, &PoisonError{Crashes: int(s.crashes)}
		}
		weight = allWeight
	}
	if err := j.exclusive.Acquire(ctx, weight); err != nil {
		return nil, err
	}
	slot, crashes, ok := j.slot(id)
	if !ok {
		return func() { j.exclusive.Release(weight) }, nil
	}
	j.write(slot, record{key: id, state: working, crashes: crashes})
	return func() {
		j.clear(id, slot)
		j.exclusive.Release(weight)
	}, nil
}

// Forget removes the record of work that Begin refuses. Call it after the failure of the work is stored elsewhere.
func (j *Journal) Forget(key string) {
	if j == nil {
		return
	}
	id := digestOf(key)
	if s, ok := j.suspect(id); ok && s.crashes >= MaxCrashes { // other work may be in progress
		j.clear(id, s.slot)
	}
}

// Close closes the file, and returns the first error of a write to it. The next Open counts a crash for work that is still in progress.
func (j *Journal) Close() error {
	if j == nil {
		return nil
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	return errors.Join(j.failure, j.file.Close())
}

func (j *Journal) suspect(key digest) (suspect, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	s, ok := j.suspects[key]
	return s, ok
}

// slot reserves a slot for the record of a key, if one is vacant, and returns the number of crashes of the key.
func (j *Journal) slot(key digest) (slot int, crashes uint8, ok bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if s, ok := j.suspects[key]; ok {
		return s.slot, s.crashes, true
	}
	last := len(j.free) - 1
	if last < 0 {
		return 0, 0, false
	}
	slot, j.free = j.free[last], j.free[:last]
	return slot, 0, true
}

// clear removes a record, and then frees its slot.
func (j *Journal) clear(key digest, slot int) {
	j.write(slot, record{})
	j.mu.Lock()
	defer j.mu.Unlock()
	delete(j.suspects, key)
	j.free = append(j.free, slot)
}

// write writes a record. It keeps an error for Close: work is worth more than the journal, so it continues.
func (j *Journal) write(slot int, r record) {
	content := r.format()
	if _, err := j.file.WriteAt(content[:], offset(slot)); err != nil {
		j.mu.Lock()
		defer j.mu.Unlock()
		if j.failure == nil {
			j.failure = err
		}
	}
}
