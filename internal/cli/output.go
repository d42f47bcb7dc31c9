package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Values of --output.
const (
	outputJSON = "json"
	outputName = "name"
)

// outputFormat is the value of --output: empty, for people, or one of some formats.
type outputFormat struct {
	value   *string
	formats []string
}

// String returns the value.
func (o outputFormat) String() string { return *o.value }

// Type names the kind of values in the help.
func (o outputFormat) Type() string { return "string" }

// Set sets the value.
func (o outputFormat) Set(value string) error {
	if !slices.Contains(o.formats, value) {
		return fmt.Errorf("must be %s", strings.Join(o.formats, " or "))
	}
	*o.value = value
	return nil
}

// addOutputFlag adds the flag --output with some formats.
func addOutputFlag(p *plugin, command *cobra.Command, value *string, formats ...string) {
	command.Flags().VarP(outputFormat{value, formats}, "output", "o", strings.Join(formats, " or ")+"; without it, for people")
	p.complete(command, "output", func(context.Context, *plugin) []string { return formats })
}

// cluster returns a client with the user's rights, and the namespace.
func (p *plugin) cluster() (client.Client, string, error) {
	namespace, err := p.namespace()
	if err != nil {
		return nil, "", err
	}
	api, err := p.client()
	return api, namespace, err
}
