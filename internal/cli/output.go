package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v2"
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

// write writes a value as yaml or json, with its fields in their order.
func write(to io.Writer, value any, format string) error {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(value); err != nil {
		return err
	}
	if format == "yaml" {
		var ordered yaml.MapSlice // of YAML 1.1, as kubectl reads it
		if err := yaml.Unmarshal(text.Bytes(), &ordered); err != nil {
			return err
		}
		converted, err := yaml.Marshal(ordered)
		if err != nil {
			return err
		}
		text = *bytes.NewBuffer(converted)
	}
	_, err := text.WriteTo(to)
	return err
}

// hasColors reports whether the output is a terminal that shows colors.
func (p *plugin) hasColors() bool {
	file, isFile := p.Out.(*os.File)
	return isFile && term.IsTerminal(int(file.Fd())) && os.Getenv("NO_COLOR") == ""
}

// confirm asks a question, and fails unless the answer is yes, or was given before.
func (p *plugin) confirm(ctx context.Context, isConfirmed bool, question string) error {
	if isConfirmed {
		return nil
	}
	fmt.Fprintf(p.ErrOut, "%s [y/N] ", question)
	answered := make(chan string, 1)
	go func() { // without an answer, it ends with the program
		answer, err := bufio.NewReader(p.In).ReadString('\n')
		if err != nil { // the input ended without a line break
			fmt.Fprintln(p.ErrOut)
		}
		answered <- answer
	}()
	var answer string
	select {
	case <-ctx.Done():
		fmt.Fprintln(p.ErrOut)
	case answer = <-answered:
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	default:
		return errors.New("not confirmed, and nothing done; answer y, or pass --yes")
	}
}
