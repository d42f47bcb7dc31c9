package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/netbox-events/netbox-event-operator/internal/version"
)

func newVersionCommand(p *plugin) *cobra.Command {
	var isClient bool
	var output string
	command := &cobra.Command{
		Use:   "version",
		Short: "Print the versions of the plugin and of the operator, and whether they fit",
		Long: "Print the version of the plugin, that of the operator of the namespace as far as you may see it, and whether the operator's " +
			"CRDs fit the plugin. The exit code is 1 if they do not.",
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			return p.printVersions(command.Context(), isClient, output)
		},
	}
	command.Flags().BoolVar(&isClient, "client", false, "only the version of the plugin, without a cluster")
	p.addOutput(command, &output, outputJSON)
	return command
}

// versions is the answer of version.
type versions struct {
	Plugin    version.Build `json:"plugin"`
	Operators []operator    `json:"operators,omitempty"`
	CRDs      *fit          `json:"crds,omitempty"`
	// Unknown says what could not be looked at, and why.
	Unknown []string `json:"unknown,omitempty"`
}

func (p *plugin) printVersions(ctx context.Context, isClient bool, output string) error {
	found := versions{Plugin: version.ThisBuild()}
	if output == "" { // also where the cluster cannot be reached
		fmt.Fprintln(p.Out, found.Plugin.Of("kubectl-netbox"))
	}
	if !isClient {
		if err := p.addVersions(ctx, &found); err != nil {
			return err
		}
	}
	if output == outputJSON {
		if err := p.printJSON(found); err != nil {
			return err
		}
	} else if !isClient {
		p.printOperators(&overview{Operators: found.Operators, CRDs: found.CRDs, Unknown: found.Unknown})
	}
	if found.CRDs != nil && !found.CRDs.isGood() {
		return errFound
	}
	return nil
}

// addVersions adds those of the cluster.
func (p *plugin) addVersions(ctx context.Context, found *versions) error {
	config, err := p.config()
	if err != nil {
		return fmt.Errorf("%w; --client prints the version of the plugin alone", err)
	}
	found.CRDs, err = fitOf(ctx, config)
	if apierrors.IsNotFound(err) {
		return fmt.Errorf("this cluster has no CRDs of the operator (%s); install it, or correct --context", apiVersion)
	}
	if err != nil {
		return fmt.Errorf("cannot read the API of the cluster; --client prints the version of the plugin alone: %w", err)
	}
	api, namespace, err := p.cluster()
	if err != nil {
		return err
	}
	looked := &overview{Namespace: namespace}
	p.addOperators(ctx, api, looked)
	found.Operators, found.Unknown = looked.Operators, looked.Unknown
	if len(found.Operators) == 0 && len(found.Unknown) == 0 {
		found.Unknown = []string{"the operator: none watches namespace " + namespace + "; correct --namespace, or install the chart"}
	}
	return nil
}

// warnUnlessFit warns where the operator's CRDs do not fit the plugin: what it is about to request may mean something else there.
func (p *plugin) warnUnlessFit(ctx context.Context) {
	config, err := p.config()
	if err != nil {
		return // as the command says
	}
	if found, err := fitOf(ctx, config); err == nil && !found.isGood() {
		fmt.Fprintln(p.ErrOut, "warning:", found)
	}
}
