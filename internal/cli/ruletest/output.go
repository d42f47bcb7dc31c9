package ruletest

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"strings"
)

// Colors of a terminal.
const (
	red   = "\x1b[31m"
	green = "\x1b[32m"
	plain = "\x1b[0m"
)

// WriteText writes a report for people.
func (r *Report) WriteText(to io.Writer, hasColors bool) error {
	paint := func(color, text string) string {
		if !hasColors {
			return text
		}
		return color + text + plain
	}
	var text bytes.Buffer
	for _, file := range r.Files {
		fmt.Fprintln(&text, file.File)
		for _, test := range file.Tests {
			if test.Passed {
				fmt.Fprintf(&text, "  %s  %s\n", paint(green, "pass"), test.Name)
				continue
			}
			fmt.Fprintf(&text, "  %s  %s\n", paint(red, "FAIL"), test.Name)
			for _, failure := range test.Failures {
				fmt.Fprintf(&text, "        %s\n", failure.title())
				for line := range strings.Lines(failure.Diff) {
					line = strings.TrimSuffix(line, "\n")
					switch line[:min(1, len(line))] {
					case "-":
						line = paint(red, line)
					case "+":
						line = paint(green, line)
					}
					fmt.Fprintf(&text, "        %s\n", line)
				}
			}
		}
	}
	fmt.Fprintf(&text, "%d passed, %d failed\n", r.Passed, r.Failed)
	_, err := to.Write(text.Bytes())
	return err
}

// title names what failed.
func (f *Failure) title() string {
	title := "rule " + f.Rule
	if f.Event != "" {
		title += ", event " + f.Event
	}
	if f.Message != "" {
		title += ": " + f.Message
	}
	return title
}

// WriteJSON writes a report as JSON.
func (r *Report) WriteJSON(to io.Writer) error {
	encoder := json.NewEncoder(to)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(r)
}

// Elements of JUnit's XML.
type (
	junitSuites struct {
		XMLName  xml.Name     `xml:"testsuites"`
		Tests    int          `xml:"tests,attr"`
		Failures int          `xml:"failures,attr"`
		Errors   int          `xml:"errors,attr"`
		Suites   []junitSuite `xml:"testsuite"`
	}
	junitSuite struct {
		Name     string      `xml:"name,attr"`
		Tests    int         `xml:"tests,attr"`
		Failures int         `xml:"failures,attr"`
		Errors   int         `xml:"errors,attr"`
		Cases    []junitCase `xml:"testcase"`
	}
	junitCase struct {
		Name     string         `xml:"name,attr"`
		Class    string         `xml:"classname,attr"`
		Time     string         `xml:"time,attr"`
		Failures []junitProblem `xml:"failure"`
		Errors   []junitProblem `xml:"error"`
	}
	junitProblem struct {
		Message string `xml:"message,attr"`
		Text    string `xml:",chardata"`
	}
)

// WriteJUnit writes a report as JUnit's XML. Files that are wrong are errors of a suite of their own.
func (r *Report) WriteJUnit(to io.Writer) error {
	all := junitSuites{Tests: r.Passed + r.Failed + len(r.Errors), Failures: r.Failed, Errors: len(r.Errors)}
	for _, file := range r.Files {
		suite := junitSuite{Name: file.File, Tests: len(file.Tests)}
		for _, test := range file.Tests {
			tested := junitCase{Name: test.Name, Class: file.File, Time: fmt.Sprintf("%.6f", test.Duration.Seconds())}
			for _, failure := range test.Failures {
				tested.Failures = append(tested.Failures, junitProblem{failure.title(), failure.Diff})
			}
			if !test.Passed {
				suite.Failures++
			}
			suite.Cases = append(suite.Cases, tested)
		}
		all.Suites = append(all.Suites, suite)
	}
	if len(r.Errors) > 0 {
		suite := junitSuite{Name: "files", Tests: len(r.Errors), Errors: len(r.Errors)}
		for _, problem := range r.Errors {
			name, _, _ := strings.Cut(problem, ": ")
			suite.Cases = append(suite.Cases, junitCase{Name: name, Class: "files", Time: "0", Errors: []junitProblem{{problem, ""}}})
		}
		all.Suites = append(all.Suites, suite)
	}
	if _, err := io.WriteString(to, xml.Header); err != nil {
		return err
	}
	encoder := xml.NewEncoder(to)
	encoder.Indent("", "  ")
	if err := encoder.Encode(all); err != nil {
		return err
	}
	_, err := fmt.Fprintln(to)
	return err
}
