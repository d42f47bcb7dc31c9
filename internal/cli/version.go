package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/netbox-events/netbox-event-operator/internal/version"
)

func newVersionCommand(p *plugin) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version of the plugin",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(p.Out, version.ThisBuild().Of("kubectl-netbox"))
			return err
		},
	}
}
