package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/cli/ruletest"
	"github.com/netbox-events/netbox-event-operator/internal/payload"
)

func newRecordCommand(p *plugin) *cobra.Command {
	var rules []string
	directory := ""
	command := &cobra.Command{
		Use:   "record EVENT",
		Short: "Make a test of an event and of what the rules do about it",
		Long: "Write a test for kubectl netbox test: the body of an event, the rules, and what these do about the event now. The event is a " +
			"file, or the name of an object in the cluster; rules are those of --rule, files or names, or all in the namespace.\n\n" +
			"No Secret is read, and values that the source redacted stay redacted. The answers of NetBox to lookups are not recorded.",
		Example: "  kubectl netbox record device-16-created-d7f0a6b1c2e3f4a5b6c7 > test.yaml\n" +
			"  kubectl netbox record event.json --rule rules/provision.yaml --directory tests",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: p.completeArgs(completeEvents),
		RunE: func(command *cobra.Command, args []string) error {
			return p.record(command.Context(), args[0], rules, directory)
		},
	}
	command.Flags().StringArrayVar(&rules, "rule", nil, "a rule, or a file with rules; may be repeated (default: all rules of the namespace)")
	command.Flags().StringVar(&directory, "directory", "",
		"write the test, the event and the rules as files there (default: one text to the output)")
	p.complete(command, "rule", completeRules)
	return command
}

func (p *plugin) record(ctx context.Context, eventArg string, ruleArgs []string, directory string) error {
	stored, err := p.readEvent(ctx, eventArg)
	if err != nil {
		return err
	}
	rules, err := p.rulesToRecord(ctx, ruleArgs)
	if err != nil {
		return err
	}
	r := &recording{plugin: p, stored: stored, rules: rules, directory: directory}
	if stored.Status.StartTime != nil {
		r.now = stored.Status.StartTime.UTC()
	}
	if err := r.setEvent(); err != nil {
		return err
	}
	if err := r.setTest(ctx); err != nil {
		return err
	}
	if directory == "" {
		return r.print()
	}
	return r.writeFiles()
}

// rulesToRecord returns the rules of arguments, or all of the namespace.
func (p *plugin) rulesToRecord(ctx context.Context, args []string) (rules []*ruletest.Rule, err error) {
	for _, arg := range args {
		found, err := p.readRules(ctx, arg)
		if err != nil {
			return nil, err
		}
		rules = append(rules, found...)
	}
	if len(args) > 0 {
		return rules, nil
	}
	namespace, err := p.namespace()
	if err != nil {
		return nil, err
	}
	api, err := p.client()
	if err != nil {
		return nil, fmt.Errorf("%w; name files by --rule to record without a cluster", err)
	}
	var list v1alpha1.NetBoxEventRuleList
	if err := api.List(ctx, &list, client.InNamespace(namespace)); err != nil {
		return nil, clusterError(err, "list", resourceRules, namespace)
	}
	for i := range list.Items {
		compiled, err := ruletest.NewRule(&list.Items[i])
		if err != nil {
			fmt.Fprintln(p.ErrOut, "warning: left out: "+err.Error())
			continue
		}
		rules = append(rules, compiled)
	}
	if len(rules) == 0 {
		return nil, fmt.Errorf("namespace %s has no rule that is ready; name one by --rule", namespace)
	}
	return rules, nil
}

// recording is a test that is recorded.
type recording struct {
	*plugin

	stored    *v1alpha1.NetBoxEvent
	rules     []*ruletest.Rule
	directory string    // empty for the output
	now       time.Time // zero for the time of the event

	content []byte                // of the event's file
	event   *v1alpha1.NetBoxEvent // as a test reads it
	test    ruletest.RuleTest
}

// setEvent sets the body of the event. Where that would make another event, it is the NetBoxEvent: a change of a redacted value does not
// show in the body, and YAML does not hold large numbers.
func (r *recording) setEvent() (err error) {
	body, err := payload.Body(r.stored)
	if err != nil {
		return err
	}
	var indented bytes.Buffer
	if err := json.Indent(&indented, body, "", "  "); err != nil {
		return err
	}
	r.content = append(indented.Bytes(), '\n')
	isExact := r.directory != "" || len(r.stored.Spec.Delivery.Stringified) == 0
	if r.event, err = r.read(); err == nil && isExact && slices.Equal(r.event.Spec.ChangedFields, r.stored.Spec.ChangedFields) {
		return nil
	}
	bare := v1alpha1.NetBoxEvent{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.SchemeGroupVersion.String(), Kind: "NetBoxEvent"},
		ObjectMeta: metav1.ObjectMeta{Name: r.stored.Name},
		Spec:       r.stored.Spec,
	}
	if r.content, err = json.MarshalIndent(&bare, "", "  "); err != nil {
		return err
	}
	r.content = append(r.content, '\n')
	r.event, err = r.read()
	return err
}

func (r *recording) read() (*v1alpha1.NetBoxEvent, error) {
	return readBody(r.stored.Name, r.content, r.stored.Spec.SourceRef.Name, r.now)
}

// setTest sets the test: what the rules do about the event.
func (r *recording) setTest(ctx context.Context) error {
	r.test.APIVersion, r.test.Kind = ruletest.APIVersion, ruletest.Kind
	if name := r.stored.Spec.SourceRef.Name; name != "netbox" {
		r.test.Source = &ruletest.Source{Name: name}
	}
	if !r.now.IsZero() {
		r.test.Now = new(metav1.NewTime(r.now))
	}
	spec := &r.stored.Spec
	test := ruletest.Test{
		Name:    fmt.Sprintf("%s %s %s", spec.Model, spec.ObjectName, spec.Event),
		Results: map[string]v1alpha1.JSONObject{},
	}
	for _, ruleStatus := range r.stored.Status.Rules {
		for _, action := range ruleStatus.Actions {
			if len(action.Result) > 0 {
				test.Results[action.Name] = action.Result
			}
		}
	}
	for _, recorded := range r.rules {
		given := ruletest.Given{Now: r.now, Results: test.Results}
		for _, outcome := range ruletest.Evaluate(ctx, recorded, []*v1alpha1.NetBoxEvent{r.event}, given) {
			expectation, isPartial, err := outcome.Expectation(recorded)
			if err != nil {
				return err
			}
			if isPartial {
				fmt.Fprintf(r.ErrOut, "warning: rule %s: left out actions that need answers of NetBox or results; add lookups or results to the test, "+
					"and what you expect\n", recorded.Name)
			}
			test.Expect = append(test.Expect, *expectation)
		}
	}
	r.test.Tests = []ruletest.Test{test}
	return nil
}

// print prints the test as one text: with the event in it, and the rules as further documents.
func (r *recording) print() error {
	r.test.Tests[0].Events = []ruletest.FileOrValue{{Value: r.content}}
	if err := write(r.Out, &r.test, "yaml"); err != nil {
		return err
	}
	for _, recorded := range r.rules {
		fmt.Fprintln(r.Out, "---")
		if err := write(r.Out, bareRule(recorded), "yaml"); err != nil {
			return err
		}
	}
	return nil
}

// bareRule returns a rule without what the API server adds.
func bareRule(recorded *ruletest.Rule) any {
	return map[string]any{
		"apiVersion": v1alpha1.SchemeGroupVersion.String(), "kind": "NetBoxEventRule",
		"metadata": map[string]any{"name": recorded.Name, "namespace": recorded.Namespace}, "spec": recorded.Spec,
	}
}

// writeFiles writes the test, the event, and the rules that are not files.
func (r *recording) writeFiles() error {
	files := map[string][]byte{}
	eventFile := filepath.Join("events", r.stored.Name+".json")
	files[eventFile] = r.content
	r.test.Tests[0].Events = []ruletest.FileOrValue{{File: filepath.ToSlash(eventFile)}}
	for _, recorded := range r.rules {
		name, err := r.ruleFile(recorded, files)
		if err != nil {
			return err
		}
		if !slices.Contains(r.test.Rules, name) {
			r.test.Rules = append(r.test.Rules, name)
		}
	}
	var text bytes.Buffer
	if err := write(&text, &r.test, "yaml"); err != nil {
		return err
	}
	files[r.stored.Name+".yaml"] = text.Bytes()
	return r.writeAll(files)
}

// ruleFile returns the name of a rule's file as the test names it. It adds that of a rule from the cluster.
func (r *recording) ruleFile(recorded *ruletest.Rule, files map[string][]byte) (string, error) {
	if recorded.File != "" {
		directory, err := filepath.Abs(r.directory)
		if err != nil {
			return "", err
		}
		file, err := filepath.Abs(recorded.File)
		if err != nil {
			return "", err
		}
		relative, err := filepath.Rel(directory, file)
		return filepath.ToSlash(relative), err
	}
	name := filepath.Join("rules", recorded.Name+".yaml")
	var text bytes.Buffer
	err := write(&text, bareRule(recorded), "yaml")
	files[name] = text.Bytes()
	return filepath.ToSlash(name), err
}

// writeAll writes files, unless one of them exists with another content.
func (r *recording) writeAll(files map[string][]byte) error {
	for name, content := range files {
		path := filepath.Join(r.directory, name)
		existing, err := os.ReadFile(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return err
		case !bytes.Equal(existing, content):
			return fmt.Errorf("%s exists, and is different; remove it, or choose another --directory", path)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		path := filepath.Join(r.directory, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // nothing of it is secret
			return err
		}
		if err := os.WriteFile(path, files[name], 0o644); err != nil { //nolint:gosec // nothing of it is secret
			return err
		}
		fmt.Fprintln(r.Out, path)
	}
	return nil
}
