package ruletest

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/rule"
)

// Report has the results of a run.
type Report struct {
	Files  []FileResult `json:"files"`
	Passed int          `json:"passed"`
	Failed int          `json:"failed"`
	// Errors are of files that are wrong: their tests were not run.
	Errors []string `json:"errors,omitempty"`
	// Warnings are about rules.
	Warnings []string `json:"warnings,omitempty"`
}

// FileResult has the results of the tests of a file.
type FileResult struct {
	File  string   `json:"file"`
	Tests []Result `json:"tests"`
}

// Result is the result of a test.
type Result struct {
	Name     string        `json:"name"`
	Passed   bool          `json:"passed"`
	Failures []Failure     `json:"failures,omitempty"`
	Duration time.Duration `json:"-"`
}

// Failure is an expectation that is not met.
type Failure struct {
	Rule  string `json:"rule"`
	Event string `json:"event,omitempty"`
	// Message is for people, and Diff is a unified diff between what is expected and what the rule does.
	Message string `json:"message,omitempty"`
	Diff    string `json:"diff,omitempty"`
}

// Run runs the tests of files.
func (l *Loader) Run(ctx context.Context, files []string) *Report {
	report := &Report{}
	for _, file := range files {
		loaded, err := l.load(ctx, file)
		if err != nil {
			report.Errors = append(report.Errors, err.Error())
			continue
		}
		for _, tested := range loaded.rules {
			for _, warning := range tested.Warnings() {
				if !slices.Contains(report.Warnings, warning) {
					report.Warnings = append(report.Warnings, warning)
				}
			}
		}
		result := FileResult{File: file}
		for i := range loaded.tests {
			tested := loaded.run(ctx, &loaded.tests[i])
			if tested.Passed {
				report.Passed++
			} else {
				report.Failed++
			}
			result.Tests = append(result.Tests, tested)
		}
		report.Files = append(report.Files, result)
	}
	return report
}

// run runs a test. Each of its rules is evaluated once.
func (s *suite) run(ctx context.Context, test *loadedTest) Result {
	started := time.Now()
	result := Result{Name: test.Name}
	evaluated := map[*Rule][]*Outcome{}
	stored := slices.DeleteFunc(slices.Clone(test.events), func(event *v1alpha1.NetBoxEvent) bool { return s.ignores(ctx, event, test.given) })
	for i := range test.expect {
		expectation := &test.expect[i]
		if _, known := evaluated[expectation.rule]; !known {
			evaluated[expectation.rule] = Evaluate(ctx, expectation.rule, stored, test.given)
		}
		if failure := expectation.check(evaluated[expectation.rule], len(stored) < len(test.events)); failure != nil {
			result.Failures = append(result.Failures, *failure)
		}
	}
	result.Passed, result.Duration = len(result.Failures) == 0, time.Since(started)
	return result
}

// ignores reports whether the source does not store an event. It stores one on which the expression fails.
func (s *suite) ignores(ctx context.Context, event *v1alpha1.NetBoxEvent, given Given) bool {
	if s.accept == nil {
		return false
	}
	accepted, err := s.accept.Match(ctx, event, rule.NewInput(event, given.now(event)))
	return err == nil && !accepted
}

// check compares an expectation with the outcomes of its rule. It returns nil if one fits.
func (e *loadedExpectation) check(outcomes []*Outcome, ignored bool) *Failure {
	failure := &Failure{Rule: e.Rule, Event: e.Event}
	outcome, problem := e.choose(outcomes)
	if problem != "" {
		failure.Message = problem
		return failure
	}
	if outcome == nil {
		outcome = &Outcome{Rule: e.Rule} // the source does not store the event
	}
	diff, err := compare(e.Expectation, outcome)
	switch {
	case err != nil:
		failure.Message = err.Error()
	case diff == "":
		return nil
	}
	failure.Diff = diff
	if ignored && !outcome.Matched {
		failure.Message = "source.accept leaves out the event, or one of them"
	}
	return failure
}

// choose returns the outcome that an expectation is about, nil for an event that is not stored, or why that is not clear.
func (e *loadedExpectation) choose(outcomes []*Outcome) (chosen *Outcome, problem string) {
	var matched []*Outcome
	for _, outcome := range outcomes {
		if e.event != nil && outcome.has(e.event) {
			return outcome, ""
		}
		if outcome.Matched {
			matched = append(matched, outcome)
		}
	}
	switch {
	case e.event != nil || len(outcomes) == 0:
		return nil, ""
	case len(matched) == 0:
		like := slices.IndexFunc(outcomes, func(outcome *Outcome) bool {
			return (outcome.Error != "") == (e.Error != "") && outcome.Removes == e.Removes
		})
		return outcomes[max(0, like)], ""
	case len(matched) == 1 || e.Matched != nil && !*e.Matched:
		return matched[0], ""
	default:
		return nil, fmt.Sprintf("the rule acts %d times on the events; add event: FILE, to say about which one this is", len(matched))
	}
}
