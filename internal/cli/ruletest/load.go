package ruletest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	sigsyaml "sigs.k8s.io/yaml"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/cli/manifest"
	"github.com/netbox-events/netbox-event-operator/internal/rule"
)

// Loader reads files with tests, and each file that they name once.
type Loader struct {
	rules map[string][]*Rule
	files map[string][]byte
}

// NewLoader returns a Loader.
func NewLoader() *Loader { return &Loader{map[string][]*Rule{}, map[string][]byte{}} }

// suite is a file with tests, and what it names.
type suite struct {
	file   string
	rules  []*Rule
	source *v1alpha1.NetBoxSource
	accept *rule.Filter // nil for none
	tests  []loadedTest
}

type loadedTest struct {
	*Test

	events []*v1alpha1.NetBoxEvent // in the order of Test.Events
	given  Given
	expect []loadedExpectation
}

type loadedExpectation struct {
	*Expectation

	rule  *Rule
	event *v1alpha1.NetBoxEvent // nil for none in particular
}

// Find returns the files with tests among the given ones, and in the given directories.
func Find(paths []string) (files []string, err error) {
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		if !info.IsDir() {
			files = append(files, path)
			continue
		}
		found, err := findIn(path)
		if err != nil {
			return nil, err
		}
		if len(found) == 0 {
			return nil, fmt.Errorf("%s has no file of the kind %s; name one", path, Kind)
		}
		files = append(files, found...)
	}
	return files, nil
}

func findIn(directory string) (files []string, err error) {
	err = filepath.WalkDir(directory, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if extension := filepath.Ext(path); entry.IsDir() || extension != ".yaml" && extension != ".yml" {
			return nil
		}
		content, err := os.ReadFile(path)
		if err == nil && bytes.Contains(content, []byte(APIVersion)) {
			files = append(files, path)
		}
		return err
	})
	return files, err
}

// Decode decodes the tests of a file, and returns them with the other documents.
func Decode(file string, content []byte) (*RuleTest, []manifest.Document, error) {
	documents, err := manifest.Documents(file, content)
	if err != nil {
		return nil, nil, err
	}
	at := slices.IndexFunc(documents, func(document manifest.Document) bool { return document.Kind == Kind })
	if at < 0 {
		return nil, nil, fmt.Errorf("%s has no %s; name a file with one", file, Kind)
	}
	document := &documents[at]
	others := slices.Delete(slices.Clone(documents), at, at+1)
	switch {
	case document.APIVersion != APIVersion:
		return nil, nil, document.At("apiVersion",
			fmt.Errorf("apiVersion is %q; this version of kubectl netbox knows %s", document.APIVersion, APIVersion))
	case slices.ContainsFunc(others, func(other manifest.Document) bool { return other.Kind == Kind }):
		return nil, nil, fmt.Errorf("%s has several documents of the kind %s; put all tests into one", file, Kind)
	}
	var decoded RuleTest
	if err := document.Decode(&decoded); err != nil {
		return nil, nil, err
	}
	return &decoded, others, check(document, &decoded)
}

// check looks for what is missing in tests.
func check(document *manifest.Document, decoded *RuleTest) error {
	var problems []error
	require := func(path string, isThere bool, text string) {
		if !isThere {
			problems = append(problems, document.At(path, fmt.Errorf("%s: %s", path, text)))
		}
	}
	require("tests", len(decoded.Tests) > 0, "there is no test; add one")
	for i := range decoded.Tests {
		test, path := &decoded.Tests[i], fmt.Sprintf("tests[%d]", i)
		require(path, test.Name != "", "has no name; add one")
		require(path, len(test.Events) > 0, "has no events; add events: [FILE]")
		require(path, len(test.Expect) > 0, "expects nothing; add expect: [{rule: NAME}]")
		for j := range test.Expect {
			require(fmt.Sprintf("%s.expect[%d]", path, j), test.Expect[j].Rule != "", "has no rule; add its name")
		}
	}
	return errors.Join(problems...)
}

// load reads a file with tests, and all that it names. Its error has a line for each problem.
func (l *Loader) load(ctx context.Context, file string) (*suite, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	decoded, others, err := Decode(file, content)
	if err != nil {
		return nil, err
	}
	loaded := &suite{file: file}
	if err := loaded.setSource(decoded.Source); err != nil {
		return nil, err
	}
	if loaded.rules, err = rulesOf(ctx, others); err != nil {
		return nil, err
	}
	for _, pattern := range decoded.Rules {
		found, err := l.glob(ctx, file, pattern)
		if err != nil {
			return nil, err
		}
		loaded.rules = append(loaded.rules, found...)
	}
	if len(loaded.rules) == 0 {
		return nil, fmt.Errorf("%s names no rules; add rules: [PATTERN]", file)
	}
	var problems []error
	for i := range decoded.Tests {
		test := &decoded.Tests[i]
		if test.Now == nil {
			test.Now = decoded.Now
		}
		ready, err := l.loadTest(loaded, test)
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: test %q: %w", file, test.Name, err))
			continue
		}
		loaded.tests = append(loaded.tests, *ready)
	}
	return loaded, errors.Join(problems...)
}

func (s *suite) setSource(settings *Source) (err error) {
	s.source = &v1alpha1.NetBoxSource{}
	s.source.Name = "netbox"
	if settings != nil {
		if settings.Name != "" {
			s.source.Name = settings.Name
		}
		s.source.Spec.Redact = settings.Redact
		if settings.Accept != nil {
			if s.accept, err = rule.CompileAccept(settings.Accept); err != nil {
				return fmt.Errorf("%s: source: %s", s.file, strings.ReplaceAll(err.Error(), "\n", "; "))
			}
		}
	}
	if s.source.Spec.Redact != nil {
		return nil
	}
	return manifest.Sources().Default(s.source)
}

// glob reads the rules in the files that match a pattern, which is relative to another file.
func (l *Loader) glob(ctx context.Context, file, pattern string) (rules []*Rule, err error) {
	files, err := filepath.Glob(relative(file, pattern))
	if err != nil {
		return nil, fmt.Errorf("%s: rules: %s: %w", file, pattern, err)
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%s: rules: no file matches %s; patterns are relative to the file with the tests", file, pattern)
	}
	for _, name := range files {
		if _, known := l.rules[name]; !known {
			if l.rules[name], err = ReadRules(ctx, name); err != nil {
				return nil, err
			}
		}
		rules = append(rules, l.rules[name]...)
	}
	return rules, nil
}

// relative returns the path of a file that another one names.
func relative(file, name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(filepath.Dir(file), filepath.FromSlash(name))
}

func (l *Loader) loadTest(s *suite, test *Test) (*loadedTest, error) {
	ready := &loadedTest{Test: test, given: Given{Secrets: test.Secrets, Results: test.Results, Failures: test.Failures}}
	if test.Now != nil {
		ready.given.Now = test.Now.Time
	}
	for i, event := range test.Events {
		name, content, err := l.contentOf(s.file, event)
		if err != nil {
			return nil, err
		}
		if name == "" {
			name = fmt.Sprintf("events[%d]", i)
		}
		read, err := ReadEvent(name, content, s.source, ready.given.Now)
		if err != nil {
			return nil, err
		}
		ready.events = append(ready.events, read)
	}
	ready.given.Lookups = map[string][]byte{}
	for _, name := range slices.Sorted(maps.Keys(test.Lookups)) {
		file, content, err := l.contentOf(s.file, test.Lookups[name])
		if err == nil && file != "" {
			if content, err = sigsyaml.YAMLToJSONStrict(content); err != nil {
				err = fmt.Errorf("%s: %w; an answer of NetBox is JSON", file, err)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("lookups[%s]: %w", name, err)
		}
		ready.given.Lookups[name] = content
	}
	for i := range test.Expect {
		expectation, err := s.loadExpectation(ready, &test.Expect[i])
		if err != nil {
			return nil, fmt.Errorf("expect[%d]: %w", i, err)
		}
		ready.expect = append(ready.expect, *expectation)
	}
	return ready, nil
}

// contentOf returns the content of a file, or a value in place.
func (l *Loader) contentOf(file string, value FileOrValue) (name string, content []byte, err error) {
	if value.File == "" {
		return "", value.Value, nil
	}
	name = relative(file, value.File)
	content, known := l.files[name]
	if !known {
		if content, err = os.ReadFile(name); err != nil {
			return "", nil, err
		}
		l.files[name] = content
	}
	return name, content, nil
}

func (s *suite) loadExpectation(test *loadedTest, expectation *Expectation) (*loadedExpectation, error) {
	found, err := s.rule(expectation.Rule)
	if err != nil {
		return nil, err
	}
	for _, action := range expectation.Actions {
		if found.Compiled.Find(action.Name) == nil {
			return nil, fmt.Errorf("rule %s has no action %q; it has %s", expectation.Rule, action.Name, strings.Join(found.actions(), ", "))
		}
	}
	loaded := &loadedExpectation{Expectation: expectation, rule: found}
	if expectation.Event == "" {
		return loaded, nil
	}
	at := slices.IndexFunc(test.Events, func(event FileOrValue) bool { return event.File == expectation.Event })
	if at < 0 {
		return nil, fmt.Errorf("event: %s is not one of the test's events; name it as it is there", expectation.Event)
	}
	loaded.event = test.events[at]
	return loaded, nil
}

// actions returns the names of the rule's actions.
func (r *Rule) actions() (names []string) {
	for _, action := range slices.Concat(r.Spec.Actions, r.Spec.OnFailure) {
		names = append(names, action.Name)
	}
	return names
}

// rule finds a rule by its name, or by its namespace and name.
func (s *suite) rule(name string) (*Rule, error) {
	var found []*Rule
	names := map[string]bool{}
	for _, candidate := range s.rules {
		names[candidate.Name] = true
		if name == candidate.Name || name == candidate.Namespace+"/"+candidate.Name {
			found = append(found, candidate)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return nil, fmt.Errorf("there is no rule %q; there are %s", name, strings.Join(slices.Sorted(maps.Keys(names)), ", "))
	default:
		return nil, fmt.Errorf("rule %q is in %s and in %s; write NAMESPACE/NAME, or correct the patterns of rules",
			name, found[0].File, found[1].File)
	}
}
