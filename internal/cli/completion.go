package cli

import (
	"context"
	_ "embed" // for kubectlComplete
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/metadata"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

const (
	// completionTimeout bounds a request for names, for which the user waits at the prompt.
	completionTimeout = 3 * time.Second
	// maxCompletions bounds the names that a shell is given.
	maxCompletions = 500
)

// kubectlComplete is the program that kubectl runs to complete arguments of the plugin.
//
//go:embed kubectl_complete-netbox
var kubectlComplete string

// newCompletionCommand returns the command that prints kubectlComplete.
func newCompletionCommand(p *plugin) *cobra.Command {
	return &cobra.Command{
		Use:   "completion",
		Short: "Print the program that completes arguments",
		Long: "Print the program with which kubectl's own completion completes arguments of kubectl netbox, also names in the cluster. It must " +
			"be in PATH, with the name kubectl_complete-netbox.",
		Example: "  kubectl netbox completion > ~/bin/kubectl_complete-netbox && chmod +x ~/bin/kubectl_complete-netbox",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprint(p.Out, kubectlComplete)
			return err
		},
	}
}

// completer returns the names that may complete an argument or the value of a flag.
type completer func(ctx context.Context, p *plugin) []string

// Completers of names in the cluster.
var (
	completeNamespaces = namesOf(schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}, false)
	completeSources    = namesOf(v1alpha1.SchemeGroupVersion.WithResource(resourceSources), true)
	completeRules      = namesOf(v1alpha1.SchemeGroupVersion.WithResource(resourceRules), true)
	completeEvents     = namesOf(v1alpha1.SchemeGroupVersion.WithResource(resourceEvents), true)
)

// namesOf returns a completer of the names of a resource. It completes nothing where these cannot be listed: a shell has no place for
// errors.
func namesOf(resource schema.GroupVersionResource, isNamespaced bool) completer {
	return func(ctx context.Context, p *plugin) (names []string) {
		config, err := p.config()
		if err != nil {
			return nil
		}
		config.Timeout = completionTimeout
		api, err := metadata.NewForConfig(config)
		if err != nil {
			return nil
		}
		var named metadata.ResourceInterface = api.Resource(resource)
		if isNamespaced {
			namespace, err := p.namespace()
			if err != nil {
				return nil
			}
			named = api.Resource(resource).Namespace(namespace)
		}
		list, err := named.List(ctx, metav1.ListOptions{Limit: maxCompletions})
		if err != nil {
			return nil
		}
		for i := range list.Items {
			names = append(names, list.Items[i].Name)
		}
		return names
	}
}

// complete completes the value of a flag.
func (p *plugin) complete(command *cobra.Command, flag string, names completer) {
	complete := func(command *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return names(command.Context(), p), cobra.ShellCompDirectiveNoFileComp
	}
	if err := command.RegisterFlagCompletionFunc(flag, complete); err != nil {
		panic(err) // there is no such flag
	}
}

// completeArgs completes the arguments of a command, each by its own completer, and where that knows no name, or is nil, by files.
func (p *plugin) completeArgs(completers ...completer) cobra.CompletionFunc {
	return func(command *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) >= len(completers) {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		names := completers[len(args)]
		if names == nil {
			return nil, cobra.ShellCompDirectiveDefault
		}
		return names(command.Context(), p), cobra.ShellCompDirectiveDefault
	}
}

// completeMany completes any number of arguments by names that are not among them yet.
func (p *plugin) completeMany(names completer) cobra.CompletionFunc {
	return func(command *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		left := slices.DeleteFunc(names(command.Context(), p), func(name string) bool { return slices.Contains(args, name) })
		return left, cobra.ShellCompDirectiveNoFileComp
	}
}
