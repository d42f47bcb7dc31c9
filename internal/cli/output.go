package cli

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// choice is the value of a flag that takes one of some words.
type choice struct {
	value *string
	words []string
}

// Set sets the word.
func (c *choice) Set(word string) error {
	if !slices.Contains(c.words, word) {
		return fmt.Errorf("use %s", strings.Join(c.words, " or "))
	}
	*c.value = word
	return nil
}

// String returns the word.
func (c *choice) String() string {
	if c.value == nil {
		return ""
	}
	return *c.value
}

// Type returns the words, for the help.
func (c *choice) Type() string { return strings.Join(c.words, "|") }

// addOutput adds the flag --output for the format of the output.
func (p *plugin) addOutput(command *cobra.Command, output *string, formats ...string) {
	command.Flags().VarP(&choice{output, formats}, "output", "o", "format of the output")
	p.complete(command, "output", func(context.Context, *plugin) []string { return formats })
}

// hasColors reports whether the output is a terminal that shows colors.
func (p *plugin) hasColors() bool {
	file, isFile := p.Out.(*os.File)
	return isFile && term.IsTerminal(int(file.Fd())) && os.Getenv("NO_COLOR") == "" //nolint:gosec // a file descriptor is small
}
