// Package ruletest evaluates rules on events without a cluster, by the packages that the operator uses, and compares the results with what
// tests expect.
package ruletest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/cli/manifest"
	"github.com/netbox-events/netbox-event-operator/internal/rule"
)

// Rule is a compiled rule.
type Rule struct {
	*v1alpha1.NetBoxEventRule

	// File is where the rule is from, empty for a rule of the cluster.
	File     string
	Compiled *rule.Rule
}

// NewRule compiles a rule of the cluster. Its error is the message of the condition Ready.
func NewRule(eventRule *v1alpha1.NetBoxEventRule) (*Rule, error) {
	compiled, err := rule.Compile(&eventRule.Spec)
	if err != nil {
		return nil, fmt.Errorf("rule %s: %s", eventRule.Name, strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	return &Rule{NetBoxEventRule: eventRule, Compiled: compiled}, nil
}

// Warnings returns a line for each part of the rule that fits no event of NetBox.
func (r *Rule) Warnings() []string {
	warnings := rule.Warnings("spec.match", &r.Spec.Match.Filter)
	for i := range warnings {
		warnings[i] = strings.TrimPrefix(r.File+": ", ": ") + "rule " + r.Name + ": " + warnings[i]
	}
	return warnings
}

// ReadRules reads and compiles the rules of a file. It fails if there is none. Objects of other kinds are left out: files may have those
// that a rule needs.
func ReadRules(ctx context.Context, file string) ([]*Rule, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	documents, err := manifest.Documents(file, content)
	if err != nil {
		return nil, err
	}
	rules, err := rulesOf(ctx, documents)
	if err == nil && len(rules) == 0 {
		err = fmt.Errorf("%s has no NetBoxEventRule; name a file with one", file)
	}
	return rules, err
}

// rulesOf compiles the rules among the documents of a file.
func rulesOf(ctx context.Context, documents []manifest.Document) ([]*Rule, error) {
	var rules []*Rule
	var problems []error
	for i := range documents {
		document := &documents[i]
		if document.Kind != "NetBoxEventRule" {
			continue
		}
		found, err := readRule(ctx, document)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		rules = append(rules, found)
	}
	return rules, errors.Join(problems...)
}

func readRule(ctx context.Context, document *manifest.Document) (*Rule, error) {
	if want := v1alpha1.SchemeGroupVersion.String(); document.APIVersion != want {
		return nil, document.At("apiVersion", fmt.Errorf("apiVersion is %q; this version of kubectl netbox knows %s", document.APIVersion, want))
	}
	var eventRule v1alpha1.NetBoxEventRule
	if err := manifest.Rules().Decode(ctx, document, &eventRule); err != nil {
		return nil, err
	}
	if eventRule.Name == "" {
		return nil, document.At("metadata", errors.New("metadata.name: Required value"))
	}
	compiled, err := rule.Compile(&eventRule.Spec)
	if err == nil {
		return &Rule{&eventRule, document.File, compiled}, nil
	}
	var problems []error
	for line := range strings.Lines(err.Error()) {
		path, _, _ := strings.Cut(line, ": ")
		problems = append(problems, document.At(path, fmt.Errorf("rule %s: %s", eventRule.Name, strings.TrimSuffix(line, "\n"))))
	}
	return nil, errors.Join(problems...)
}

// urlSecret matches the URL of an http action that begins with the value of a Secret.
var urlSecret = regexp.MustCompile(`^\$\{\s*secrets\.(\w+)\s*\}`)

// secretsFor returns the values of the secrets that an action names. Those that are not given are placeholders: texts that are valid in any
// place, or a URL for the beginning of one.
func secretsFor(action *rule.Action, given map[string]string) map[string]string {
	values := map[string]string{}
	for name := range action.Secrets {
		values[name] = "secret-" + strings.ReplaceAll(name, "_", "-")
		if found := urlSecret.FindStringSubmatch(action.Spec.HTTP.URL); found != nil && found[1] == name {
			values[name] = "https://" + values[name]
		}
		if value, ok := given[name]; ok {
			values[name] = value
		}
	}
	return values
}
