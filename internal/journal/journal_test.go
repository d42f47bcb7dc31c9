package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func open(t testing.TB, dir string) *Journal {
	t.Helper()
	j, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() }) // again, in most tests
	return j
}

func begin(t testing.TB, j *Journal, key string) (end func()) {
	t.Helper()
	end, err := j.Begin(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	return end
}

// refused returns the number of crashes for which Begin refuses a key.
func refused(t *testing.T, j *Journal, key string) int {
	t.Helper()
	_, err := j.Begin(t.Context(), key)
	poison, ok := errors.AsType[*PoisonError](err)
	if !ok {
		t.Fatalf("Begin returns %v, want a PoisonError", err)
	}
	return poison.Crashes
}

// crash closes the file without ending work, as a crash of the process does.
func crash(t *testing.T, j *Journal) {
	t.Helper()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

const childDir = "JOURNAL_OF_CHILD"

// TestChild is the process that TestCrash starts: it begins work under two keys, one of which kills it.
func TestChild(t *testing.T) {
	dir := os.Getenv(childDir)
	if dir == "" {
		t.Skip("not a child of TestCrash")
	}
	j := open(t, dir)
	end := begin(t, j, "innocent")
	if j.Suspects() > 0 { // otherwise both are in progress at the first crash
		end()
	}
	begin(t, j, "poison")
	if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	select {}
}

func TestCrash(t *testing.T) {
	dir := t.TempDir()
	for range MaxCrashes {
		child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestChild$")
		child.Env = append(os.Environ(), childDir+"="+dir)
		output, err := child.CombinedOutput()
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("the child was not killed: %v\n%s", err, output)
		}
	}
	j := open(t, dir)
	begin(t, j, "innocent")()
	if crashes := refused(t, j, "poison"); crashes != MaxCrashes || j.Suspects() != 1 {
		t.Errorf("refused for %d crashes, with %d suspects, want %d and 1", crashes, j.Suspects(), MaxCrashes)
	}
	crash(t, j)
	j = open(t, dir)
	if crashes := refused(t, j, "poison"); crashes != MaxCrashes {
		t.Errorf("opened again: refused for %d crashes, want %d", crashes, MaxCrashes)
	}
	j.Forget("poison")
	begin(t, j, "poison")()
	crash(t, j)
	if j = open(t, dir); j.Suspects() != 0 || len(j.free) != slots {
		t.Errorf("%d suspects and %d free slots at the end, want 0 and %d", j.Suspects(), len(j.free), slots)
	}
}

// Work stays suspect, with its number of crashes, through crashes of other work, until it ends.
func TestSuspect(t *testing.T) {
	dir := t.TempDir()
	for range 2 {
		j := open(t, dir)
		begin(t, j, "suspect")
		crash(t, j)
	}
	for range 5 {
		j := open(t, dir)
		begin(t, j, "another")() // it was suspect
		if s := j.suspects[digestOf("suspect")]; s.crashes != 2 || j.Suspects() != 1 {
			t.Fatalf("%d crashes, and %d suspects, want 2 and 1", s.crashes, j.Suspects())
		}
		begin(t, j, "another")
		begin(t, j, "another") // one crash counts once
		crash(t, j)
	}
	j := open(t, dir)
	if s := j.suspects[digestOf("another")]; s.crashes != 1 {
		t.Errorf("%d crashes of a key that began twice, want 1", s.crashes)
	}
	begin(t, j, "suspect")()
	begin(t, j, "another")()
	begin(t, j, "suspect")
	crash(t, j)
	j = open(t, dir)
	if s := j.suspects[digestOf("suspect")]; s.crashes != 1 || j.Suspects() != 1 {
		t.Errorf("%d crashes after the work ended once, want 1", s.crashes)
	}
	j.Forget("suspect")
	if j.Suspects() != 1 {
		t.Error("Forget cleared a suspect that Begin does not refuse")
	}
}

func TestSuspectRunsExclusively(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir)
	begin(t, j, "suspect")
	crash(t, j)
	j = open(t, dir)
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		began, start := map[string]time.Duration{}, time.Now()
		for _, key := range []string{"a", "suspect", "b", "c"} {
			go func() {
				end := begin(t, j, key)
				defer end()
				mu.Lock()
				began[key] = time.Since(start)
				mu.Unlock()
				time.Sleep(time.Second)
			}()
			synctest.Wait() // each begins after the previous one
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		want := map[string]time.Duration{"a": 0, "suspect": time.Second, "b": 2 * time.Second, "c": 2 * time.Second}
		if !maps.Equal(began, want) {
			t.Errorf("began at %v, want %v", began, want)
		}
	})
}

func TestContext(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir)
	begin(t, j, "suspect")
	crash(t, j)
	j = open(t, dir)
	end := begin(t, j, "a")
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := j.Begin(ctx, "suspect"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Begin of a suspect returns %v, want the context's error", err)
	}
	end()
	end = begin(t, j, "suspect")
	ctx, cancel = context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := j.Begin(ctx, "a"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Begin beside a suspect returns %v, want the context's error", err)
	}
	end()
	begin(t, j, "a")()
}

func TestConcurrent(t *testing.T) {
	const suspects = 100
	dir := t.TempDir()
	j := open(t, dir)
	for i := range suspects {
		begin(t, j, fmt.Sprint(i))
	}
	crash(t, j)
	j = open(t, dir)
	if j.Suspects() != suspects {
		t.Fatalf("%d suspects, want %d", j.Suspects(), suspects)
	}
	var all sync.WaitGroup
	var busy atomic.Int32
	for i := range 1000 {
		all.Go(func() {
			for round := range 10 {
				end, err := j.Begin(t.Context(), fmt.Sprint(i))
				if err != nil {
					t.Error(err)
					return
				}
				if n := busy.Add(1); i < suspects && round == 0 && n > 1 {
					t.Errorf("suspect work runs with %d others", n-1)
				}
				runtime.Gosched()
				busy.Add(-1)
				end()
			}
		})
	}
	all.Wait()
	crash(t, j)
	if j = open(t, dir); j.Suspects() != 0 || j.Damage() != nil || len(j.free) != slots {
		t.Errorf("%d suspects and %d free slots at the end, damage: %v", j.Suspects(), len(j.free), j.Damage())
	}
}

func TestFull(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir)
	for i := range slots {
		begin(t, j, fmt.Sprint(i))
	}
	begin(t, j, "one more")()
	crash(t, j)
	if j = open(t, dir); j.Suspects() != slots {
		t.Errorf("%d suspects, want %d", j.Suspects(), slots)
	}
	begin(t, j, "not recorded")()
	begin(t, j, "7")()
	begin(t, j, "recorded")
	crash(t, j)
	if j = open(t, dir); j.suspects[digestOf("recorded")].crashes != 1 {
		t.Error("the slot of cleared work was not reused")
	}
}

func TestInUse(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	if _, err := Open(dir); !errors.Is(err, syscall.EWOULDBLOCK) {
		t.Errorf("Open returns %v while the file is locked", err)
	}
	if _, err := Open(filepath.Join(dir, "absent")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Open returns %v without a directory", err)
	}
}

func TestDamaged(t *testing.T) {
	intact := func() []byte {
		dir := t.TempDir()
		j := open(t, dir)
		begin(t, j, "a")
		begin(t, j, "b")
		content, err := os.ReadFile(filepath.Join(dir, fileName))
		if err != nil {
			t.Fatal(err)
		}
		return content
	}()
	torn := bytes.Clone(intact)
	torn[len(torn)-recordSize+3] ^= 1
	for _, test := range []struct {
		reason   string
		content  []byte
		damaged  bool
		suspects int
	}{
		{reason: "empty, after a crash before the first write", content: nil},
		{reason: "intact", content: intact, suspects: 2},
		{reason: "one record is torn", content: torn, damaged: true, suspects: 1},
		{reason: "too short", content: intact[:len(intact)-1], damaged: true},
		{reason: "too long", content: append(bytes.Clone(intact), 0), damaged: true},
		{reason: "another file", content: bytes.Repeat([]byte("another\n"), fileSize/8), damaged: true},
		{reason: "zeros", content: make([]byte, fileSize), damaged: true},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, fileName), test.content, 0o600); err != nil {
			t.Fatal(err)
		}
		j := open(t, dir)
		if (j.Damage() != nil) != test.damaged || j.Suspects() != test.suspects {
			t.Errorf("%s: damage: %v, and %d suspects, want %d", test.reason, j.Damage(), j.Suspects(), test.suspects)
		}
		begin(t, j, "new work")
		crash(t, j)
		if j = open(t, dir); j.Damage() != nil || j.Suspects() != test.suspects+1 {
			t.Errorf("%s: opened again: damage: %v, and %d suspects, want %d", test.reason, j.Damage(), j.Suspects(), test.suspects+1)
		}
	}
}

func TestNil(t *testing.T) {
	var j *Journal
	begin(t, j, "a")()
	j.Forget("a")
	if j.Suspects() != 0 || j.Damage() != nil || j.Close() != nil {
		t.Error("a nil journal has state")
	}
}

// FuzzParse checks that the readable records of any file survive a round trip, and that Open leaves one suspect per key.
func FuzzParse(f *testing.F) {
	records := make([]record, slots)
	records[1] = record{key: digestOf("a"), state: working, crashes: 2}
	records[2] = record{key: digestOf("a"), state: suspected, crashes: 200}
	f.Add([]byte{}, 0)
	f.Add(format(records)[:4*recordSize], 0)
	f.Add(format(records)[recordSize:][:4*recordSize], 1)
	f.Add(format(records)[recordSize:][:4*recordSize+1], slots-3)
	f.Fuzz(func(t *testing.T, content []byte, slot int) {
		file := content
		if slot > 0 && slot < slots { // inside a journal: a fuzzer does not find its size
			file = format(make([]record, slots))
			copy(file[slot*recordSize:], content)
		}
		records, err := parse(file)
		if err == nil && !bytes.Equal(format(records), file) {
			t.Fatal("a valid file does not round-trip")
		}
		counted := countCrashes(records)
		again, err := parse(format(counted))
		if err != nil || !slices.Equal(again, counted) {
			t.Fatalf("the records after Open do not round-trip: %v", err)
		}
		seen := map[digest]bool{}
		for _, r := range counted {
			if r.state == working || r.state == suspected && seen[r.key] {
				t.Fatalf("%+v after Open", r)
			}
			seen[r.key] = r.state == suspected
		}
	})
}

func BenchmarkBegin(b *testing.B) {
	const key = "5f0c9a5e-3b1d-4c36-9e0f-1d2f7f6b8a11/2026-11-26T14:00:00Z"
	j := open(b, b.TempDir())
	b.Run("serial", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			begin(b, j, key)()
		}
	})
	b.Run("goroutines=1000", func(b *testing.B) {
		b.SetParallelism(500)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				begin(b, j, key)()
			}
		})
	})
	b.Run("nil", func(b *testing.B) {
		for b.Loop() {
			begin(b, nil, key)()
		}
	})
}
