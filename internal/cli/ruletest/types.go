package ruletest

import (
	"bytes"
	"encoding/json"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

// APIVersion and Kind are those of files with tests.
const (
	APIVersion = "cli.netbox-events.io/v1alpha1"
	Kind       = "RuleTest"
)

// RuleTest is a file with tests of rules. Names of files in it are relative to it.
type RuleTest struct {
	metav1.TypeMeta `json:",inline"`

	// Rules are patterns of files with rules, such as rules/*.yaml. Rules in other documents of the file itself are tested as well.
	Rules []string `json:"rules,omitempty"`
	// Source has settings of the NetBoxSource that receives the bodies.
	Source *Source `json:"source,omitempty"`
	// Now is the variable now of expressions, and when bodies are received. The default is the time of the event.
	Now   *metav1.Time `json:"now,omitempty"`
	Tests []Test       `json:"tests"`
}

// Source has settings of the NetBoxSource that receives bodies.
type Source struct {
	// Name is the name of the source. The default is netbox.
	Name string `json:"name,omitempty"`
	// Accept is as in a NetBoxSource: no rule sees what it leaves out.
	Accept *v1alpha1.Filter `json:"accept,omitempty"`
	// Redact is as in a NetBoxSource, with the same default.
	Redact []string `json:"redact,omitempty"`
}

// Test is one test.
type Test struct {
	Name string `json:"name"`
	// Now takes precedence over that of the file.
	Now *metav1.Time `json:"now,omitempty"`
	// Events are bodies as NetBox sends them, or NetBoxEvents, in NetBox's order.
	Events []FileOrValue `json:"events"`
	// Lookups are NetBox's answers, by the names of lookups.
	Lookups map[string]FileOrValue `json:"lookups,omitempty"`
	// Secrets are values of a rule's secrets, by their names. The default is secret- and the name.
	Secrets map[string]string `json:"secrets,omitempty"`
	// Results are results of actions, which later actions use, by the names of actions.
	Results map[string]v1alpha1.JSONObject `json:"results,omitempty"`
	// Failures are errors with which actions fail, by the names of actions.
	Failures map[string]string `json:"failures,omitempty"`
	Expect   []Expectation     `json:"expect"`
}

// FileOrValue is the name of a file with JSON or YAML, or a value in place.
type FileOrValue struct {
	// File is empty for a value in place.
	File string
	// Value is JSON.
	Value []byte
}

// UnmarshalJSON takes a text as the name of a file, and anything else as the value.
func (f *FileOrValue) UnmarshalJSON(text []byte) error {
	if bytes.HasPrefix(text, []byte(`"`)) {
		return json.Unmarshal(text, &f.File)
	}
	f.Value = bytes.Clone(text)
	return nil
}

// MarshalJSON is the inverse of UnmarshalJSON.
func (f FileOrValue) MarshalJSON() ([]byte, error) {
	if f.File != "" {
		return json.Marshal(f.File)
	}
	return f.Value, nil
}

// Expectation is what a rule should do about an event, or about a group. What it does not say is not compared, except that a rule and an
// action do not fail, and an action is not skipped, unless it says so.
type Expectation struct {
	// Rule is the name of the rule, with its namespace and a slash if several have the name.
	Rule string `json:"rule"`
	// Event is one of the test's events, as it is named there. It is needed if the rule acts several times, once for each event or group.
	Event string `json:"event,omitempty"`
	// Matched defaults to true, and to false with Error or Removes.
	Matched *bool `json:"matched,omitempty"`
	Removes bool  `json:"removes,omitempty"`
	// Error is a part of the error of the rule's match.
	Error   string              `json:"error,omitempty"`
	Lookups []Lookup            `json:"lookups,omitempty"`
	Actions []ExpectationAction `json:"actions,omitempty"`
}

// ExpectationAction is what an action should do. The object, the objects, the request and its body are subsets: members that they do not
// have are not compared. Lists are compared element by element, and null is a member that is absent or null.
type ExpectationAction struct {
	Name string `json:"name"`
	// Skipped is a part of why the action is not executed, and Error a part of its error.
	Skipped string `json:"skipped,omitempty"`
	Error   string `json:"error,omitempty"`

	Request   *ExpectationRequest   `json:"request,omitempty"`
	Operation string                `json:"operation,omitempty"`
	Object    v1alpha1.JSONObject   `json:"object,omitempty"`
	Objects   []v1alpha1.JSONObject `json:"objects,omitempty"`
	Removes   bool                  `json:"removes,omitempty"`
	Message   string                `json:"message,omitempty"`
}

// ExpectationRequest is what the request of an http action should be.
type ExpectationRequest struct {
	Method string `json:"method,omitempty"`
	URL    string `json:"url,omitempty"`
	// Headers are names and values; null is a header that is absent.
	Headers map[string]*string `json:"headers,omitempty"`
	// Body is an object or list for JSON and forms, or a text.
	Body *v1alpha1.JSON `json:"body,omitempty"`
}
