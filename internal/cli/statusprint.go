package cli

import (
	"fmt"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/oneline"
)

// printOverview prints the answer of status for people.
func (p *plugin) printOverview(found *overview) error {
	isEverywhere := found.Namespace == ""
	if len(found.Sources) > 0 {
		if err := p.printSources(found.Sources, isEverywhere); err != nil {
			return err
		}
	}
	if len(found.Refused) > 0 {
		rows := [][]cell{placed(isEverywhere, "NAMESPACE", cells("REFUSED BY", "REASON", "LAST", "DELIVERY"))}
		for _, refused := range found.Refused {
			row := []cell{{refused.Source, ""}, {refused.Reason, red}, {p.age(refused.Last.Time), ""}, {refused.Note, ""}}
			rows = append(rows, placed(isEverywhere, refused.Namespace, row))
		}
		if err := p.section(rows); err != nil {
			return err
		}
	}
	if len(found.Rules) > 0 {
		if err := p.printRules(found.Rules, isEverywhere); err != nil {
			return err
		}
	}
	p.printOperators(found)
	return p.printFindings(found)
}

// section prints a table and an empty line.
func (p *plugin) section(rows [][]cell) error {
	err := p.newTable().print(rows...)
	fmt.Fprintln(p.Out)
	return err
}

// placed puts the namespace before a row about all namespaces.
func placed(isEverywhere bool, namespace string, row []cell) []cell {
	if isEverywhere {
		return append(cells(namespace), row...)
	}
	return row
}

func (p *plugin) printSources(sources []sourceOverview, isEverywhere bool) error {
	head := cells("SOURCE", "READY", "REASON", "LAST DELIVERY", "PENDING", "OLDEST", "FAILED", "KEYS", "NETBOX", "RECEIVING")
	rows := [][]cell{placed(isEverywhere, "NAMESPACE", head)}
	for _, source := range sources {
		rows = append(rows, placed(isEverywhere, source.Namespace, []cell{
			{source.Name, ""},
			statusCell(source.Ready),
			{source.Reason, ""},
			p.ageCell(source.LastDelivery),
			{strconv.Itoa(source.Pending), ""},
			p.ageCell(source.OldestPending), countCell(int64(source.Failed)),
			{strings.Join(source.Keys, ","), ""},
			{source.NetBox, ""},
			statusCell(source.Receiving),
		}))
	}
	return p.section(rows)
}

func (p *plugin) printRules(rules []ruleOverview, isEverywhere bool) error {
	rows := [][]cell{placed(isEverywhere, "NAMESPACE", cells("RULE", "READY", "REASON", "MATCHED", "FAILED", "LAST MATCHED", "SINKS"))}
	for _, rule := range rules {
		sinks := cell{rule.Sinks, ""}
		if rule.Sinks != "" && rule.Sinks != v1alpha1.ReasonAvailable {
			sinks.color = red
		}
		rows = append(rows, placed(isEverywhere, rule.Namespace, []cell{
			{rule.Name, ""},
			statusCell(rule.Ready),
			{rule.Reason, ""},
			{strconv.FormatInt(rule.Matched, 10), ""},
			countCell(rule.Failed),
			p.ageCell(rule.LastMatched), sinks,
		}))
	}
	return p.section(rows)
}

// printOperators prints who leads, and the versions.
func (p *plugin) printOperators(found *overview) {
	for i := range found.Operators {
		fmt.Fprintf(p.Out, "%s: %s\n", strings.TrimSpace("Operator "+found.Operators[i].name()), p.operatorState(&found.Operators[i]))
	}
	if found.CRDs != nil {
		text := found.CRDs.String()
		fmt.Fprintln(p.Out, strings.ToUpper(text[:1])+text[1:])
	}
	for _, unknown := range found.Unknown {
		fmt.Fprintln(p.Out, "Not shown:", oneline.Of(unknown, maxLineBytes))
	}
}

func (p *plugin) printFindings(found *overview) error {
	paint := painter(p.hasColors())
	if len(found.Wrong) == 0 {
		_, err := fmt.Fprintln(p.Out, "\n"+paint.paint("Nothing is wrong.", green))
		return err
	}
	fmt.Fprintln(p.Out, "\n"+paint.paint("Wrong:", red))
	for _, wrong := range found.Wrong {
		if _, err := fmt.Fprintf(p.Out, "- %s\n  Next: %s\n", oneline.Of(wrong.About+": "+wrong.Problem, maxLineBytes), wrong.Next); err != nil {
			return err
		}
	}
	return nil
}

func statusCell(status string) cell {
	switch metav1.ConditionStatus(status) {
	case metav1.ConditionTrue:
		return cell{status, green}
	case metav1.ConditionFalse:
		return cell{status, red}
	default:
		return cell{status, yellow}
	}
}

func countCell(number int64) cell {
	if number > 0 {
		return cell{strconv.FormatInt(number, 10), red}
	}
	return cell{strconv.FormatInt(number, 10), ""}
}

func (p *plugin) ageCell(then *metav1.Time) cell {
	if then == nil {
		return cell{}
	}
	return cell{p.age(then.Time), ""}
}
