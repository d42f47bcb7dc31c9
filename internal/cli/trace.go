package cli

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/rule"
)

func newTraceCommand(p *plugin) *cobra.Command {
	var output string
	command := &cobra.Command{
		Use:   "trace EVENT",
		Short: "Show the way of an event: its source, each rule and why it matched or not, actions, and the objects they made",
		Long: "Show the way of an event as a tree: its source, each rule of the namespace, and for one that matched its actions with the " +
			"objects that they made, for any other the first thing that does not fit. Rules are evaluated as they are now, by the code that " +
			"the operator uses. The exit code is 0, whatever came of the event.",
		Example:           "  kubectl netbox trace site-14-updated-3f9c2a7be1d04c55a1b2",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: p.completeArgs(completeEvents),
		RunE: func(command *cobra.Command, args []string) error {
			api, namespace, err := p.cluster()
			if err != nil {
				return err
			}
			event, err := getEvent(command.Context(), api, namespace, args[0])
			if err != nil {
				return err
			}
			tree, err := p.trace(command.Context(), api, event)
			if err != nil {
				return err
			}
			if output == outputJSON {
				return p.printJSON(tree)
			}
			return p.printTree(tree)
		},
	}
	p.addOutput(command, &output, outputJSON)
	return command
}

// traceNode is a source, an event, a rule, an action or an object on the way of an event.
type traceNode struct {
	Kind string `json:"kind"`
	Name string `json:"name"`
	// State is what came of it, such as Succeeded.
	State string `json:"state"`
	// Text says more about the state, and Lines even more.
	Text     string       `json:"text,omitempty"`
	Lines    []string     `json:"lines,omitempty"`
	Children []*traceNode `json:"children,omitempty"`

	color color
}

// States of nodes that are none of the API.
const (
	stateMatched   = "matched"
	stateMatches   = "matches now"
	stateUnmatched = "does not match"
	stateSuspended = "suspended"
	stateInvalid   = "invalid"
	stateGone      = "deleted since"
	stateUnknown   = "unknown"
)

// trace returns the way of an event.
func (p *plugin) trace(ctx context.Context, api client.Client, event *v1alpha1.NetBoxEvent) (*traceNode, error) {
	var rules v1alpha1.NetBoxEventRuleList
	if err := api.List(ctx, &rules, client.InNamespace(event.Namespace)); err != nil {
		return nil, clusterError(err, "list", resourceRules, event.Namespace)
	}
	node := p.traceEvent(event)
	for i := range rules.Items {
		node.Children = append(node.Children, p.traceRule(ctx, api, event, &rules.Items[i]))
	}
	for i := range event.Status.Rules {
		status := &event.Status.Rules[i]
		if !slices.ContainsFunc(rules.Items, func(rule v1alpha1.NetBoxEventRule) bool { return rule.Name == status.Name }) {
			gone := p.traceDeliveries(ctx, api, event, nil, status)
			gone.Text = strings.TrimPrefix(gone.Text+"; the rule was deleted since", "; ")
			node.Children = append(node.Children, gone)
		}
	}
	source := traceSource(ctx, api, event)
	source.Children = []*traceNode{node}
	return source, nil
}

func traceSource(ctx context.Context, api client.Client, event *v1alpha1.NetBoxEvent) *traceNode {
	node := &traceNode{Kind: "source", Name: event.Spec.SourceRef.Name}
	var source v1alpha1.NetBoxSource
	err := api.Get(ctx, client.ObjectKey{Namespace: event.Namespace, Name: node.Name}, &source)
	ready := meta.FindStatusCondition(source.Status.Conditions, v1alpha1.ConditionReady)
	switch {
	case apierrors.IsNotFound(err):
		node.State, node.color = stateGone, yellow
	case err != nil:
		node.State, node.Text = stateUnknown, clusterError(err, "get", resourceSources, event.Namespace).Error()
	case ready == nil:
		node.State, node.Text = stateUnknown, "the operator has not looked at it yet"
	default:
		node.State, node.Text, node.color = "Ready "+string(ready.Status), ready.Message, statusCell(string(ready.Status)).color
	}
	return node
}

func (p *plugin) traceEvent(event *v1alpha1.NetBoxEvent) *traceNode {
	status := &event.Status
	node := &traceNode{Kind: "event", Name: event.Name, State: string(status.Phase), color: phaseColor(status.Phase)}
	if succeeded := meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionSucceeded); succeeded != nil {
		node.Text = succeeded.Message
	} else if status.StartTime == nil {
		node.Text = "the operator has not matched it yet; kubectl netbox status says whether it runs"
	}
	node.Lines = append(node.Lines, summary(&event.Spec)+", received "+p.moment(event.Spec.Delivery.ReceivedAt.Time))
	if matched := meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionMatched); matched != nil &&
		matched.Reason == v1alpha1.ReasonExpressionError {
		node.Lines = append(node.Lines, matched.Message)
	}
	return node
}

// matchTimeout bounds the evaluation of one rule.
const matchTimeout = 10 * time.Second

// traceRule returns what a rule did on an event, or why it did nothing.
func (p *plugin) traceRule(
	ctx context.Context, api client.Client, event *v1alpha1.NetBoxEvent, candidate *v1alpha1.NetBoxEventRule,
) *traceNode {
	for i := range event.Status.Rules {
		if status := &event.Status.Rules[i]; status.Name == candidate.Name {
			return p.traceDeliveries(ctx, api, event, candidate, status)
		}
	}
	node := &traceNode{Kind: "rule", Name: candidate.Name, State: stateUnmatched, color: dim}
	if candidate.Spec.Suspend {
		node.State, node.Text = stateSuspended, "set spec.suspend to false"
		return node
	}
	compiled, err := rule.Compile(&candidate.Spec)
	if err != nil {
		node.State, node.Lines, node.color = stateInvalid, strings.Split(err.Error(), "\n"), red
		return node
	}
	at := p.clock.Now()
	if event.Status.StartTime != nil {
		at = event.Status.StartTime.Time // of the variable now
	}
	ctx, cancel := context.WithTimeout(ctx, matchTimeout)
	defer cancel()
	if mismatch := compiled.Explain(ctx, event, rule.NewInput(event, at)); mismatch != nil {
		node.Text, node.Lines = mismatchText(mismatch, event, candidate), partLines(mismatch.Parts)
		return node
	}
	node.State, node.color = stateMatches, yellow
	again := fmt.Sprintf("kubectl netbox replay %s --rule %s -n %s delivers it", event.Name, candidate.Name, event.Namespace)
	switch start := event.Status.StartTime; {
	case start == nil && event.Status.Phase == v1alpha1.PhasePending:
		node.Text = "it is delivered once the operator has matched the event"
	case start == nil || isStatusCut(event):
		node.Text = "whether it did is not known any more: the event is too large to store it"
	case candidate.CreationTimestamp.After(start.Time):
		node.Text = "the rule was created after the event was matched; " + again
	default:
		node.Text = "when the event was matched, the rule was different, suspended or invalid; " + again
	}
	return node
}

// isStatusCut reports whether the states of the rules were dropped.
func isStatusCut(event *v1alpha1.NetBoxEvent) bool {
	succeeded := meta.FindStatusCondition(event.Status.Conditions, v1alpha1.ConditionSucceeded)
	return succeeded != nil && succeeded.Reason == v1alpha1.ReasonStatusCut
}

// mismatchText says which part of a rule does not fit an event.
func mismatchText(mismatch *rule.Mismatch, event *v1alpha1.NetBoxEvent, candidate *v1alpha1.NetBoxEventRule) string {
	field, wanted, got := "match."+mismatch.Field, strings.Join(mismatch.Wanted, ", "), strings.Join(mismatch.Got, ", ")
	switch mismatch.Field {
	case "sources":
		return fmt.Sprintf("%s has %s; the event is of source %s", field, wanted, got)
	case "branches":
		if len(candidate.Spec.Match.Branches) == 0 {
			return fmt.Sprintf("%s is absent, which means main; the change was made in branch %s", field, got)
		}
		return fmt.Sprintf("%s has %s; the change was made in %s", field, wanted, got)
	case "events":
		return fmt.Sprintf("%s has %s; the event is %s", field, wanted, got)
	case "objectTypes":
		return fmt.Sprintf("%s has %s; the object is of type %s", field, wanted, cmp.Or(got, "unknown"))
	case "changedFields":
		switch {
		case snapshot(&event.Spec, "prechange") == nil:
			return fmt.Sprintf("%s has %s; NetBox sent no state from before the change, so it is not known what changed", field, wanted)
		case got == "":
			return fmt.Sprintf("%s has %s; no field changed", field, wanted)
		default:
			return fmt.Sprintf("%s has %s; changed were %s", field, wanted, got)
		}
	}
	if mismatch.Err != nil {
		return fmt.Sprintf("%s failed: %v", field, mismatch.Err)
	}
	return field + " is false"
}

// partLines lists the parts of an expression with their values.
func partLines(parts []rule.Part) (lines []string) {
	for i, part := range parts {
		value := part.Value
		isCausedBelow := i+1 < len(parts) && parts[i+1].Depth > part.Depth && parts[i+1].Err != nil // has the same error
		switch {
		case part.Err != nil && isCausedBelow:
			value = "failed"
		case part.Err != nil:
			value = "failed: " + part.Err.Error()
		}
		lines = append(lines, strings.Repeat("  ", part.Depth)+part.Text+"  →  "+value)
	}
	return lines
}

// traceDeliveries returns the actions of a rule that matched. The rule is nil if it was deleted.
func (p *plugin) traceDeliveries(
	ctx context.Context, api client.Client, event *v1alpha1.NetBoxEvent, matched *v1alpha1.NetBoxEventRule, status *v1alpha1.RuleStatus,
) *traceNode {
	state := stateCell(status.State)
	node := &traceNode{Kind: "rule", Name: status.Name, State: stateMatched + ", " + state.text, color: state.color}
	if status.Removal {
		node.State = "ends an earlier match, " + string(status.State)
		node.Text = "its Mirror actions delete their objects"
	}
	if matched != nil && matched.Spec.DryRun {
		node.Lines = append(node.Lines, "dry run: spec.dryRun is true")
	}
	if group := status.Group; group != nil {
		node.Lines = append(node.Lines, p.groupText(event, group))
	}
	if status.LimitKey != "" {
		node.Lines = append(node.Lines, "limit.key is "+status.LimitKey)
	}
	for i := range status.Actions {
		action := &status.Actions[i]
		node.Children = append(node.Children, &traceNode{
			Kind: "action", Name: action.Name, State: string(action.State), Text: p.actionText(status, action),
			Children: traceObjects(ctx, api, matched, action), color: stateCell(action.State).color,
		})
	}
	return node
}

func (p *plugin) groupText(event *v1alpha1.NetBoxEvent, group *v1alpha1.GroupStatus) string {
	switch {
	case group.Until != nil:
		return fmt.Sprintf("in group %s, which closes %s unless another event comes", group.ID, p.until(group.Until.Time))
	case group.ID == "":
		return "waits for its group"
	default:
		return fmt.Sprintf("in group %s of %s: kubectl get netboxevents -n %s --field-selector status.group=%s",
			group.ID, plural(int(group.Events), "event", "events"), event.Namespace, group.ID)
	}
}

// actionText says how the attempts at an action went.
func (p *plugin) actionText(rule *v1alpha1.RuleStatus, action *v1alpha1.ActionStatus) string {
	var parts []string
	add := func(format string, args ...any) { parts = append(parts, fmt.Sprintf(format, args...)) }
	if action.Attempts > 0 {
		add("%s", plural(int(action.Attempts), "attempt", "attempts"))
	}
	if action.LastAttemptTime != nil {
		add("the last %s ago", p.age(action.LastAttemptTime.Time))
	}
	if action.WaitingSince != nil {
		add("has waited for its objects for %s", p.age(action.WaitingSince.Time))
	}
	if action.NextAttemptTime != nil && action.State == v1alpha1.DeliveryPending {
		add("the next %s", p.until(action.NextAttemptTime.Time))
	}
	if len(parts) == 0 && action.State == v1alpha1.DeliveryPending {
		if at := slices.IndexFunc(rule.Actions, isRetried); at >= 0 && rule.Actions[at].Name != action.Name {
			add("not attempted yet; action %s is retried", rule.Actions[at].Name)
		} else {
			add("not attempted yet")
		}
	}
	text := strings.Join(parts, ", ")
	if answer := cmp.Or(action.LastError, action.Response); answer != "" {
		text = strings.TrimPrefix(text+": "+answer, ": ")
	}
	return text
}

func isRetried(action v1alpha1.ActionStatus) bool {
	return action.State == v1alpha1.DeliveryPending && action.LastError != ""
}
