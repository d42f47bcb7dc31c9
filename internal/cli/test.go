package cli

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/netbox-events/netbox-event-operator/internal/cli/ruletest"
)

func newTestCommand(p *plugin) *cobra.Command {
	output := ""
	command := &cobra.Command{
		Use:   "test [FILE|DIRECTORY]...",
		Short: "Test rules on recorded events, without a cluster",
		Long: "Run the tests in files of the kind RuleTest, or in those of directories, by default the current one. Rules are evaluated as the " +
			"operator does, without a cluster, NetBox or sinks.\n\n" +
			"The exit code is 0 if all tests passed, 1 if one failed, and 2 if a file is wrong.",
		Example: "  kubectl netbox test\n  kubectl netbox test rules/tests.yaml -o junit > report.xml",
		RunE: func(command *cobra.Command, args []string) error {
			if len(args) == 0 {
				args = []string{"."}
			}
			return p.test(command, args, output)
		},
	}
	p.addOutput(command, &output, "json", "junit")
	return command
}

func (p *plugin) test(command *cobra.Command, paths []string, output string) error {
	files, err := ruletest.Find(paths)
	if err != nil {
		return err
	}
	report := ruletest.NewLoader().Run(command.Context(), files)
	switch output {
	case "json":
		err = report.WriteJSON(p.Out)
	case "junit":
		err = report.WriteJUnit(p.Out)
	default:
		err = report.WriteText(p.Out, p.hasColors())
	}
	if err != nil {
		return err
	}
	for _, warning := range report.Warnings {
		fmt.Fprintln(p.ErrOut, "warning: "+warning)
	}
	switch {
	case len(report.Errors) > 0:
		var all []error
		for _, problem := range report.Errors {
			all = append(all, errors.New(problem))
		}
		return errors.Join(all...)
	case report.Failed > 0:
		return errFound
	}
	return nil
}
