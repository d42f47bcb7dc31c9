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
		reading(from, "memory", &a.Memory), reading(from, "backlog", &a.Backlog),
		reading(from, "backlog-few", &a.BacklogFew), reading(from, "throttled", &a.Throttled), reading(from, "down", &a.Down),
		reading(from, "soak", &a.Soak), reading(from, "chaos", &a.Chaos), reading(from, "bench", &a.Bench),
		reading(from, "connections", &a.Connections), reading(from, "netbox", &a.NetBox),
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

func reading[T any](from, name string, into *figures.Run[T]) func() error {
	return func() (err error) {
		*into, err = figures.Read[T](from, name)
		return err
	}
}
