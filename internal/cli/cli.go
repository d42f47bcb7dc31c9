// Package cli has the commands of kubectl netbox.
//
// Each command is in a file of its own, with a function such as newRenderCommand(p *plugin), which New lists. A command gets all that it
// needs from the plugin: kubectl's flags, the streams, the namespace, and a client with the user's rights. It returns
//
//   - nil where all is well: exit code 0;
//   - errFound where something is wrong, or a test failed, and it has said so: exit code 1;
//   - any other error where it could not do what it was asked to: Run prints it as one line, and the exit code is 2. The error says what to
//     do; clusterError makes such errors of those of the API server.
//
// What does not talk to the user is in packages below this one, without cobra: ruletest evaluates rules on events without a cluster.
package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/utils/clock"

	"github.com/netbox-events/netbox-event-operator/internal/oneline"
)

// Exit codes.
const (
	exitWell   = 0
	exitFound  = 1
	exitFailed = 2
)

// errFound is returned by a command that found, and said, that something is wrong.
var errFound = errors.New("something is wrong")

// plugin is what commands need.
type plugin struct {
	genericiooptions.IOStreams

	flags *genericclioptions.ConfigFlags
	clock clock.Clock
}

func newPlugin(streams genericiooptions.IOStreams) *plugin {
	return &plugin{IOStreams: streams, flags: genericclioptions.NewConfigFlags(true), clock: clock.RealClock{}}
}

// Run runs the plugin with arguments, without the name of the program, and returns the exit code.
func Run(ctx context.Context, args []string, streams genericiooptions.IOStreams) int {
	return newPlugin(streams).run(ctx, args)
}

func (p *plugin) run(ctx context.Context, args []string) int {
	root := p.root() //nolint:contextcheck // completions get the context of their command
	root.SetArgs(args)
	command, err := root.ExecuteContextC(ctx)
	switch {
	case err == nil:
		return exitWell
	case errors.Is(err, errFound):
		return exitFound
	}
	text := err.Error()
	if isUsageError(text) {
		text += "; see " + command.CommandPath() + " --help"
	}
	for line := range strings.Lines(text) {
		fmt.Fprintln(p.ErrOut, "error: "+oneline.Of(strings.TrimSpace(line), maxLineBytes))
	}
	return exitFailed
}

// maxLineBytes bounds a line of an error.
const maxLineBytes = 4096

// isUsageError reports whether an error is one of cobra about the arguments, which names nothing to do.
func isUsageError(text string) bool {
	for _, start := range []string{"unknown ", "accepts ", "requires ", "required ", "invalid argument ", "flag needs ", "if any flags "} {
		if strings.HasPrefix(text, start) {
			return true
		}
	}
	return false
}

// New returns the root command.
func New(streams genericiooptions.IOStreams) *cobra.Command { return newPlugin(streams).root() }

func (p *plugin) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "kubectl-netbox",
		Short: "See, try and replay events of NetBox",
		Long: "See, try and replay events of NetBox, with your own rights.\n\n" +
			"Takes kubectl's flags for the cluster and the user (see kubectl options). The exit code is 0 if all is well, 1 if something is " +
			"wrong or a test failed, and 2 if the command could not do what it was asked to.",
		Annotations:       map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl netbox"},
		Args:              cobra.NoArgs,
		RunE:              func(command *cobra.Command, _ []string) error { return command.Help() }, // without it, any argument is accepted
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true}, // newCompletionCommand is for plugins
	}
	root.SetIn(p.In)
	root.SetOut(p.Out)
	root.SetErr(p.ErrOut)
	p.addFlags(root)
	root.AddCommand(
		newCompletionCommand(p),
		newDoctorCommand(p),
		newEventsCommand(p),
		newReplayCommand(p),
		newSendCommand(p),
		newShowCommand(p),
		newStatusCommand(p),
		newRecordCommand(p),
		newRenderCommand(p),
		newTestCommand(p),
		newTraceCommand(p),
		newVersionCommand(p),
	)
	return root
}

// shownFlags are those of kubectl's flags that the help of each command lists.
var shownFlags = []string{"context", "kubeconfig", "namespace"}

// addFlags adds kubectl's flags.
func (p *plugin) addFlags(root *cobra.Command) {
	flags := root.PersistentFlags()
	p.flags.AddFlags(flags)
	hidden := map[string]bool{}
	flags.VisitAll(func(flag *pflag.Flag) { hidden[flag.Name] = true })
	for _, name := range shownFlags {
		delete(hidden, name)
	}
	for name := range hidden {
		flags.Lookup(name).Hidden = true
	}
	p.complete(root, "namespace", completeNamespaces)
}
