package main

import (
	"context"
	"fmt"
	"os/exec"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/netbox-events/netbox-event-operator/internal/cli"
)

// plugin returns the page of kubectl netbox. It has the texts of cobra's own generator on one page, without that generator's dependencies.
func plugin() (string, error) {
	root := cli.New(genericiooptions.NewTestIOStreamsDiscard())
	var page strings.Builder
	page.WriteString("# Commands of kubectl netbox\n\n" +
		"All commands and flags, as `--help` shows them. [kubectl netbox](../cli.md) is about what they are for.\n")
	var add func(command *cobra.Command)
	add = func(command *cobra.Command) {
		if command.IsAdditionalHelpTopicCommand() || command.Hidden {
			return
		}
		about := command.Long
		if about == "" {
			about = command.Short
		}
		fmt.Fprintf(&page, "\n## %s\n\n%s\n\n```text\n%s\n```\n", command.CommandPath(), paragraphs(about), command.UseLine())
		if command.Example != "" {
			fmt.Fprintf(&page, "\n```sh\n%s\n```\n", strings.TrimRight(dedented(command.Example), "\n"))
		}
		flags := command.LocalFlags().FlagUsages()
		if flags != "" {
			fmt.Fprintf(&page, "\n```text\n%s```\n", flags)
		}
		for _, child := range command.Commands() {
			add(child)
		}
	}
	add(root)
	return page.String(), nil
}

// paragraphs escapes a text of several paragraphs.
func paragraphs(text string) string {
	var all []string
	for paragraph := range strings.SplitSeq(text, "\n\n") {
		all = append(all, prose(paragraph))
	}
	return strings.Join(all, "\n\n")
}

// dedented removes the indentation of a text's first line from each line.
func dedented(text string) string {
	indent := text[:len(text)-len(strings.TrimLeft(text, " "))]
	return strings.TrimPrefix(strings.ReplaceAll("\n"+text, "\n"+indent, "\n"), "\n")
}

// manager returns the page of the manager's flags.
func manager() (string, error) {
	help, err := exec.CommandContext(context.Background(), "go", "run", "./cmd/manager", "--help").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, help)
	}
	_, flags, _ := strings.Cut(string(help), "\n  -")
	var rows [][]string
	for flag := range strings.SplitSeq(flags, "\n  -") {
		head, usage, isFlag := strings.Cut(flag, "\n")
		if !isFlag {
			return "", fmt.Errorf("cannot read %q", flag)
		}
		name, kind, _ := strings.Cut(head, " ")
		rows = append(rows, []string{code("--" + name), kind, prose(usage)})
	}
	return "# Flags of the manager\n\n" +
		"The flags of the operator's program. The chart sets them from [its values](../../charts/netbox-event-operator/README.md); " +
		"`extraArgs` adds others.\n\n" + table([]string{"flag", "value", "meaning"}, rows), nil
}
