// Command report writes docs/endurance.md and its plots from the figures of the programs under test/ in bin/report. It is a separate
// module, so that the operator's go.mod needs no plotting library.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/netbox-events/netbox-event-operator/test/fleet/figures"
)

// all has the figures of the page.
type all struct {
	Memory      figures.Run[figures.Memory]
	Backlog     figures.Run[figures.Backlog]
	BacklogFew  figures.Run[figures.Backlog]
	Throttled   figures.Run[figures.Throttled]
	Down        figures.Run[figures.Down]
	Soak        figures.Run[figures.Chaos] // without faults
	Chaos       figures.Run[figures.Chaos]
	Bench       figures.Run[figures.Bench]
	Connections figures.Run[figures.Connections]
	NetBox      figures.Run[figures.NetBox]

	runs []oneRun // what these have in common, in the order of reading
}

func main() {
	from := flag.String("from", figures.Directory, "`directory` of the figures")
	to := flag.String("to", "docs", "`directory` to write endurance.md to, and endurance/*.svg")
	flag.Parse()
	if err := run(*from, *to); err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(1)
	}
}

func run(from, to string) error {
	var a all
	for _, read := range []func() error{
		reading(&a, from, "memory", &a.Memory), reading(&a, from, "backlog", &a.Backlog),
		reading(&a, from, "backlog-few", &a.BacklogFew), reading(&a, from, "throttled", &a.Throttled),
		reading(&a, from, "down", &a.Down), reading(&a, from, "bench", &a.Bench),
		reading(&a, from, "connections", &a.Connections), reading(&a, from, "soak", &a.Soak),
		reading(&a, from, "chaos", &a.Chaos), reading(&a, from, "netbox", &a.NetBox),
	} {
		if err := read(); err != nil {
			return fmt.Errorf("%w; run make bench, make backlog, make soak, make chaos and make netbox-test first", err)
		}
	}
	plots := filepath.Join(to, "endurance")
	if err := os.MkdirAll(plots, 0o750); err != nil {
		return err
	}
	for name, draw := range map[string]func(*all, string) error{
		"memory": drawMemory, "backlog": drawBacklog, "chaos": drawChaos, "soak": drawSoak, "answers": drawAnswers,
	} {
		if err := draw(&a, filepath.Join(plots, name+".svg")); err != nil {
			return fmt.Errorf("the plot %s: %w", name, err)
		}
	}
	page, err := os.Create(filepath.Join(to, "endurance.md"))
	if err != nil {
		return err
	}
	if err := a.write(page); err != nil {
		return err
	}
	return page.Close()
}

func reading[T any](a *all, from, name string, into *figures.Run[T]) func() error {
	return func() (err error) {
		*into, err = figures.Read[T](from, name)
		a.runs = append(a.runs, of(name, *into))
		return err
	}
}
