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

// deadly returns how many deaths a key is refused for.
func deadly(t *testing.T, j *Journal, key string) int {
	t.Helper()
	_, err := j.Begin(t.Context(), key)
	deadly, ok := errors.AsType[*DeadlyError](err)
	if !ok {
		t.Fatalf("Begin returns %v, want a DeadlyError", err)
	}
	return deadly.Deaths
}

// die closes the file, as the death of the process does, and nothing else.
func die(t *testing.T, j *Journal) {
	t.Helper()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

const dirOfChild = "JOURNAL_OF_CHILD"

// TestChild is the process that TestDeath starts: it works on two keys, one of which kills it.
func TestChild(t *testing.T) {
	dir := os.Getenv(dirOfChild)
	if dir == "" {
		t.Skip("not a child of TestDeath")
	}
	j := open(t, dir)
	end := begin(t, j, "innocent")
	if j.Suspects() > 0 { // otherwise both are in work at the first death
		end()
	}
	begin(t, j, "poison")
	if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	select {}
}

func TestDeath(t *testing.T) {
	dir := t.TempDir()
	for range MaxDeaths {
		child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestChild$")
		child.Env = append(os.Environ(), dirOfChild+"="+dir)
		output, err := child.CombinedOutput()
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("the child was not killed: %v\n%s", err, output)
		}
	}
	j := open(t, dir)
	begin(t, j, "innocent")()
	if deaths := deadly(t, j, "poison"); deaths != MaxDeaths || j.Suspects() != 1 {
		t.Errorf("refused for %d deaths, with %d suspects, want %d and 1", deaths, j.Suspects(), MaxDeaths)
	}
	die(t, j)
	j = open(t, dir)
	if deaths := deadly(t, j, "poison"); deaths != MaxDeaths {
		t.Errorf("opened again: refused for %d deaths, want %d", deaths, MaxDeaths)
	}
	j.Forget("poison")
	begin(t, j, "poison")()
	die(t, j)
	if j = open(t, dir); j.Suspects() != 0 || len(j.free) != slots {
		t.Errorf("%d suspects and %d free slots at the end, want 0 and %d", j.Suspects(), len(j.free), slots)
	}
}

// A suspect stays one, with its deaths, while others die, until its work ends.
func TestSuspect(t *testing.T) {
	dir := t.TempDir()
	for range 2 {
		j := open(t, dir)
		begin(t, j, "suspect")
		die(t, j)
	}
	for range 5 {
		j := open(t, dir)
		begin(t, j, "another")() // which was a suspect
		if s := j.suspects[digestOf("suspect")]; s.deaths != 2 || j.Suspects() != 1 {
			t.Fatalf("%d deaths, and %d suspects, want 2 and 1", s.deaths, j.Suspects())
		}
		begin(t, j, "another")
		begin(t, j, "another") // the process dies once
		die(t, j)
	}
	j := open(t, dir)
	if s := j.suspects[digestOf("another")]; s.deaths != 1 {
		t.Errorf("%d deaths of a key begun twice, want 1", s.deaths)
	}
	begin(t, j, "suspect")()
	begin(t, j, "another")()
	begin(t, j, "suspect")
	die(t, j)
	j = open(t, dir)
	if s := j.suspects[digestOf("suspect")]; s.deaths != 1 || j.Suspects() != 1 {
		t.Errorf("%d deaths after the work ended once, want 1", s.deaths)
	}
	j.Forget("suspect")
	if j.Suspects() != 1 {
		t.Error("Forget cleared a suspect that Begin does not refuse")
	}
}

func TestAlone(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir)
	begin(t, j, "suspect")
	die(t, j)
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
			synctest.Wait() // each comes after the one before
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
	die(t, j)
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
	die(t, j)
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
					t.Errorf("a suspect is one of %d in work", n)
				}
				runtime.Gosched()
				busy.Add(-1)
				end()
			}
		})
	}
	all.Wait()
	die(t, j)
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
	die(t, j)
	if j = open(t, dir); j.Suspects() != slots {
		t.Errorf("%d suspects, want %d", j.Suspects(), slots)
	}
	begin(t, j, "not written down")()
	begin(t, j, "7")()
	begin(t, j, "written down")
	die(t, j)
	if j = open(t, dir); j.suspects[digestOf("written down")].deaths != 1 {
		t.Error("the slot of a suspect was not used again")
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
	sound := func() []byte {
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
	torn := bytes.Clone(sound)
	torn[len(torn)-recordSize+3] ^= 1
	for _, test := range []struct {
		reason   string
		content  []byte
		damaged  bool
		suspects int
	}{
		{reason: "a process died before it wrote anything", content: nil},
		{reason: "sound", content: sound, suspects: 2},
		{reason: "one record is torn", content: torn, damaged: true, suspects: 1},
		{reason: "too short", content: sound[:len(sound)-1], damaged: true},
		{reason: "too long", content: append(bytes.Clone(sound), 0), damaged: true},
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
		begin(t, j, "works")
		die(t, j)
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
		t.Error("a nil journal knows something")
	}
}

// FuzzParse checks that what can be read of any file comes back when it is written, and that it holds one suspect for each key.
func FuzzParse(f *testing.F) {
	records := make([]record, slots)
	records[1] = record{key: digestOf("a"), state: working, deaths: 2}
	records[2] = record{key: digestOf("a"), state: suspected, deaths: 200}
	f.Add([]byte{}, 0)
	f.Add(format(records)[:4*recordSize], 0)
	f.Add(format(records)[recordSize:][:4*recordSize], 1)
	f.Add(format(records)[recordSize:][:4*recordSize+1], slots-3)
	f.Fuzz(func(t *testing.T, content []byte, slot int) {
		file := content
		if slot > 0 && slot < slots { // inside a journal, whose size a fuzzer does not hit
			file = format(make([]record, slots))
			copy(file[slot*recordSize:], content)
		}
		records, err := parse(file)
		if err == nil && !bytes.Equal(format(records), file) {
			t.Fatal("what was read is not what is written")
		}
		counted := countDeaths(records)
		again, err := parse(format(counted))
		if err != nil || !slices.Equal(again, counted) {
			t.Fatalf("what is written cannot be read: %v", err)
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
