package cli

import (
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	sigsyaml "sigs.k8s.io/yaml"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/cli/ruletest"
)

// renderOptions are the flags of render.
type renderOptions struct {
	output           string
	now              string
	lookups, results map[string]string // files by name
}

func newRenderCommand(p *plugin) *cobra.Command {
	options := &renderOptions{output: "yaml"}
	command := &cobra.Command{
		Use:   "render RULE EVENT",
		Short: "Show what a rule would send or apply for an event",
		Long: "Show whether a rule matches an event, and what its actions would send or apply. Each of both is a file, or the name of an " +
			"object in the cluster. Nothing is sent or written, and no Secret is read: a placeholder is in the place of each value.\n\n" +
			"The exit code is 1 if the match fails, or an action.",
		Example: "  kubectl netbox render rule.yaml device-16-created-d7f0a6b1c2e3f4a5b6c7\n" +
			"  kubectl netbox render provision event.json --lookup device=device-13.json -o json",
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: p.completeArgs(completeRules, completeEvents),
		RunE:              func(command *cobra.Command, args []string) error { return p.render(command, args[0], args[1], options) },
	}
	p.addOutput(command, &options.output, "yaml", "json")
	flags := command.Flags()
	flags.StringVar(&options.now, "now", "", "the variable now of expressions, such as 2026-11-23T19:05:00Z (default: the time of the event)")
	flags.StringToStringVar(&options.lookups, "lookup", nil, "a file with NetBox's answer to a lookup, as NAME=FILE; may be repeated")
	flags.StringToStringVar(&options.results, "result", nil, "a file with the result of an action, as ACTION=FILE; may be repeated")
	return command
}

func (p *plugin) render(command *cobra.Command, ruleArg, eventArg string, options *renderOptions) error {
	given, err := options.given()
	if err != nil {
		return err
	}
	rules, err := p.readRules(command.Context(), ruleArg)
	if err != nil {
		return err
	}
	event, err := p.readEvent(command.Context(), eventArg)
	if err != nil {
		return err
	}
	hasErrors := false
	for i, rendered := range rules {
		for _, warning := range rendered.Warnings() {
			fmt.Fprintln(p.ErrOut, "warning: "+warning)
		}
		if i > 0 && options.output == "yaml" {
			fmt.Fprintln(p.Out, "---")
		}
		for _, outcome := range ruletest.Evaluate(command.Context(), rendered, []*v1alpha1.NetBoxEvent{event}, given) {
			hasErrors = hasErrors || outcome.HasErrors()
			if err := write(p.Out, outcome, options.output); err != nil {
				return err
			}
		}
	}
	if hasErrors {
		return errFound
	}
	return nil
}

// given returns what the flags say.
func (o *renderOptions) given() (ruletest.Given, error) {
	given := ruletest.Given{Lookups: map[string][]byte{}, Results: map[string]v1alpha1.JSONObject{}}
	if o.now != "" {
		now, err := time.Parse(time.RFC3339, o.now)
		if err != nil {
			return given, fmt.Errorf("--now must be a time such as 2026-11-23T19:05:00Z, is %q", o.now)
		}
		given.Now = now
	}
	for name, file := range o.lookups {
		content, err := readJSON(file)
		if err != nil {
			return given, fmt.Errorf("--lookup %s: %w", name, err)
		}
		given.Lookups[name] = content
	}
	for name, file := range o.results {
		content, err := readJSON(file)
		if err != nil {
			return given, fmt.Errorf("--result %s: %w", name, err)
		}
		var result v1alpha1.JSONObject
		if err := json.Unmarshal(content, &result); err != nil {
			return given, fmt.Errorf("--result %s: %s must have an object, such as {response: {status: 200}}", name, file)
		}
		given.Results[name] = result
	}
	return given, nil
}

// readJSON reads a file of JSON or YAML as JSON.
func readJSON(file string) ([]byte, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	converted, err := sigsyaml.YAMLToJSONStrict(content)
	if err != nil {
		return nil, fmt.Errorf("%s is neither JSON nor YAML: %w", file, err)
	}
	return converted, nil
}
