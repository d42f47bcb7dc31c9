// Package journal finds work that kills the process in a way that cannot be recovered: memory that runs out, or a fatal error of the
// runtime. A file lists what is being worked on; the next process finds there what the last one worked on when it died.
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

// MaxDeaths is how many times a process may die at a piece of work before it is refused.
const MaxDeaths = 3

// DeadlyError refuses a piece of work at which too many processes died.
type DeadlyError struct{ Deaths int }

// Error implements error.
func (e *DeadlyError) Error() string {
	return fmt.Sprintf("the process died %d times while it worked on this", e.Deaths)
}

// Journal writes down what is being worked on. A nil *Journal writes nothing, and refuses nothing. It is safe for concurrent use.
//
// Work that was not ended when a process died is a suspect until it ends. It runs alone, so that nothing beside it shares the blame when
// the process dies again. The file is not synced: it must outlive the process, not the machine.
type Journal struct {
	file   *os.File
	damage error
	// alone is a read-write lock that respects a context: work takes one place, a suspect all. It is first in, first out, so a suspect waits
	// only for work that began before.
	alone *semaphore.Weighted

	mu       sync.Mutex
	suspects map[digest]suspect // none is added after Open
	free     []int              // slots without a record
	failure  error
}

type suspect struct {
	slot   int
	deaths uint8
}

const (
	fileName = "journal"
	all      = 1 << 30
)

// Open opens the journal in a directory, which no other process may use. It counts a death for all that was being worked on, and starts
// anew where the file is damaged: see Damage.
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
	j := &Journal{file: file, alone: semaphore.NewWeighted(all), suspects: map[digest]suspect{}}
	var records []record
	if len(content) > 0 {
		records, j.damage = parse(content)
	}
	records = countDeaths(records)
	for slot, r := range records {
		if r.state == suspected {
			j.suspects[r.key] = suspect{slot: slot, deaths: r.deaths}
		} else {
			j.free = append(j.free, slot)
		}
	}
	if err := file.Truncate(fileSize); err != nil {
		return nil, err
	}
	// A process that is killed here leaves whole pages, and so whole records, of before or after: each record stays in its slot. All pages are
	// written, so that the file never needs more space.
	if _, err := file.WriteAt(format(records), 0); err != nil {
		return nil, err
	}
	return j, nil
}

// countDeaths counts one death for each key that was being worked on, and returns one record for each key, in a slot that it was in.
func countDeaths(records []record) []record {
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
		c.key, c.state, c.deaths = r.key, max(c.state, r.state), max(c.deaths, r.deaths)
	}
	for slot := range counted {
		if c := &counted[slot]; c.state == working {
			c.state, c.deaths = suspected, min(c.deaths, MaxDeaths-1)+1
		}
	}
	return counted
}

// Damage returns what was wrong with the file that Open found. Records that could be read are kept.
func (j *Journal) Damage() error {
	if j == nil {
		return nil
	}
	return j.damage
}

// Suspects returns how many pieces of work are suspects.
func (j *Journal) Suspects() int {
	if j == nil {
		return 0
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.suspects)
}

// Begin writes down that a piece of work begins. The caller must call end once, when the work ends in any way, and must not begin other
// work before: a suspect waits for all other work to end, and other work waits for a suspect to end. Begin returns a *DeadlyError for work
// that must not be done, until Forget, and the error of a context that is done before the work may begin.
//
// A key is of any length, and identifies one piece of work: a suspect is cleared by any work that ends under its key. While 4096 pieces of
// work are written down, others begin without. A panic runs a deferred end, so it does not count as a death.
func (j *Journal) Begin(ctx context.Context, key string) (end func(), err error) {
	if j == nil {
		return func() {}, nil
	}
	id, places := digestOf(key), int64(1)
	if s, ok := j.suspect(id); ok {
		if s.deaths >= MaxDeaths {
			return nil, &DeadlyError{Deaths: int(s.deaths)}
		}
		places = all
	}
	if err := j.alone.Acquire(ctx, places); err != nil {
		return nil, err
	}
	slot, deaths, ok := j.slot(id)
	if !ok {
		return func() { j.alone.Release(places) }, nil
	}
	j.write(slot, record{key: id, state: working, deaths: deaths})
	return func() {
		j.clear(id, slot)
		j.alone.Release(places)
	}, nil
}

// Forget removes a key that Begin refuses. Call it when the failure of the work is stored elsewhere.
func (j *Journal) Forget(key string) {
	if j == nil {
		return
	}
	id := digestOf(key)
	if s, ok := j.suspect(id); ok && s.deaths >= MaxDeaths { // any other may be being worked on
		j.clear(id, s.slot)
	}
}

// Close closes the file, and returns the first error of writing to it. The next Open counts a death for work that has not ended.
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

// slot returns the slot for the record of a key, if there is any, and how many processes died at it.
func (j *Journal) slot(key digest) (slot int, deaths uint8, ok bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if s, ok := j.suspects[key]; ok {
		return s.slot, s.deaths, true
	}
	last := len(j.free) - 1
	if last < 0 {
		return 0, 0, false
	}
	slot, j.free = j.free[last], j.free[:last]
	return slot, 0, true
}

// clear removes a record, and only then lets others have its slot.
func (j *Journal) clear(key digest, slot int) {
	j.write(slot, record{})
	j.mu.Lock()
	defer j.mu.Unlock()
	delete(j.suspects, key)
	j.free = append(j.free, slot)
}

// write writes a record. Work goes on if that fails, because it is worth more than the journal.
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
