package cli

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/oneline"
)

const doctorExample = `  # The way from NetBox to an event, as far as it can be seen from here
  kubectl netbox doctor -n netbox

  # With the URL that NetBox's webhook has
  kubectl netbox doctor -n netbox --url https://netbox-events.example.com/webhook/netbox/netbox`

func newDoctorCommand(p *plugin) *cobra.Command {
	command := &doctorCommand{reach: reach{now: p.now, isInsecure: true}}
	var output string
	doctor := &cobra.Command{
		Use:   "doctor",
		Short: "Check the way from NetBox to an event, and say what to do about each problem",
		Long: "Check the way from NetBox to an event: the CRDs, the operator, and for each source of the namespace its Secret, its path, the " +
			"Ingress or HTTPRoute with its redirects, limits and time-outs, the certificate, refused deliveries, and NetBox's side.\n\n" +
			"It sends requests to the hosts of the Ingress, or to --url, which the operator refuses: they have a wrong signature, and no " +
			"event. No proxy is used. The exit code is 1 if there is a problem; warnings do not count.",
		Example: doctorExample,
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			diagnosis, err := command.run(c.Context(), p)
			if err != nil {
				return err
			}
			if output == outputJSON {
				err = p.printJSON(diagnosis)
			} else {
				err = p.printDiagnosis(diagnosis)
			}
			if err == nil && diagnosis.count(resultProblem) > 0 {
				err = errFound
			}
			return err
		},
	}
	p.addOutput(doctor, &output, outputJSON)
	doctor.Flags().StringVar(&command.url, "url", "", "the URL of NetBox's webhook; without a path, that of each source is added")
	command.addReachFlags(doctor.Flags())
	return doctor
}

// checkResult is what a check found.
type checkResult string

const (
	resultOK      checkResult = "ok"
	resultWarning checkResult = "warning"
	resultProblem checkResult = "problem"
	resultUnknown checkResult = "unknown"
)

// check is something that doctor looked at.
type check struct {
	About  string      `json:"about"`
	Result checkResult `json:"result"`
	Text   string      `json:"text"`
	Next   string      `json:"next,omitempty"`
}

// diagnosis is the answer of doctor.
type diagnosis struct {
	Namespace string  `json:"namespace"`
	Checks    []check `json:"checks"`
}

func (d *diagnosis) count(result checkResult) (number int) {
	for _, check := range d.Checks {
		if check.Result == result {
			number++
		}
	}
	return number
}

// doctorCommand has the flags of doctor.
type doctorCommand struct {
	reach

	url string
}

// doctor looks at a namespace.
type doctor struct {
	*plugin
	diagnosis

	api   client.Client
	found *overview
	// reach is how URLs are reached, and url that of the flag, or nil.
	reach *reach
	url   *url.URL

	// everywhere are the sources of all namespaces, or, without the right to list these, of this one.
	everywhere []v1alpha1.NetBoxSource
	// routes are what leads to the receivers, once it was looked for.
	routes []route
}

// doctorChecks are all checks, in the order of the answer. What status finds is among them, by what it is about.
var doctorChecks = []func(*doctor, context.Context){
	(*doctor).checkCRDs,
	(*doctor).checkOperators,
	(*doctor).findRoutes,
	(*doctor).checkURL,
	(*doctor).checkSources,
	(*doctor).checkRules,
	(*doctor).addRest,
	(*doctor).checkRights,
}

// sourceChecks are the checks of each source.
var sourceChecks = []func(*doctor, context.Context, *v1alpha1.NetBoxSource){
	(*doctor).checkReady,
	(*doctor).checkKeys,
	(*doctor).checkUnsigned,
	(*doctor).checkAccept,
	(*doctor).checkPath,
	(*doctor).checkNetBox,
	(*doctor).checkSetAside,
	(*doctor).checkDeliveries,
	(*doctor).checkRoutes,
	(*doctor).checkWay,
}

func (c *doctorCommand) run(ctx context.Context, p *plugin) (*diagnosis, error) {
	d := &doctor{plugin: p, reach: &c.reach}
	err := c.check()
	if err == nil && c.url != "" {
		d.url, err = parseURL("--url", c.url)
	}
	if err != nil {
		return nil, err
	}
	var namespace string
	if d.api, namespace, err = p.cluster(); err != nil {
		return nil, err
	}
	if d.found, err = p.overview(ctx, d.api, namespace); err != nil {
		return nil, err
	}
	d.diagnosis = diagnosis{Namespace: namespace, Checks: []check{}}
	for _, check := range doctorChecks {
		check(d, ctx)
	}
	return &d.diagnosis, nil
}

func (d *doctor) add(result checkResult, about, text, next string) {
	next = strings.ReplaceAll(next, "{namespace}", d.Namespace)
	added := check{about, result, oneline.Of(text, maxLineBytes), next}
	if !slices.Contains(d.Checks, added) { // two sources may share an Ingress
		d.Checks = append(d.Checks, added)
	}
}

func (d *doctor) ok(about, format string, args ...any) {
	d.add(resultOK, about, fmt.Sprintf(format, args...), "")
}

func (d *doctor) unknown(about, format string, args ...any) {
	d.add(resultUnknown, about, fmt.Sprintf(format, args...), "")
}

// addFindings adds what status found wrong with something, and reports whether there was anything.
func (d *doctor) addFindings(about string) (isWrong bool) {
	for _, finding := range d.found.Wrong {
		if finding.About == about {
			d.add(resultProblem, about, finding.Problem, finding.Next)
			isWrong = true
		}
	}
	return isWrong
}

func (d *doctor) checkCRDs(context.Context) {
	switch fit := d.found.CRDs; {
	case fit == nil: // checkRights says why
	case len(fit.Missing) > 0 || len(fit.Unknown) > 0:
		problem, next, _ := strings.Cut(fit.String(), ": ")
		d.add(resultWarning, "CRDs", problem, next)
	default:
		d.ok("CRDs", "%s", fit)
	}
}

func (d *doctor) checkOperators(context.Context) {
	d.addFindings("operator")
	if number := len(d.found.Operators); number > 1 {
		d.add(resultProblem, "operator", fmt.Sprintf("%d operators watch namespace %s, and execute each action twice", number, d.Namespace),
			"remove the namespace from watchNamespaces of all but one")
	}
	for i := range d.found.Operators {
		operator := &d.found.Operators[i]
		if about := aboutOperator(operator); !d.addFindings(about) {
			d.ok(about, "%s", strings.TrimPrefix(operator.Version+": "+d.operatorState(operator), ": "))
		}
	}
}

func aboutOperator(operator *operator) string {
	if operator.Name == "" {
		return "operator"
	}
	return "operator " + operator.Namespace + "/" + operator.Name
}

// checkURL compares the path of the flag with those of the sources.
func (d *doctor) checkURL(context.Context) {
	if d.url == nil || strings.Trim(d.url.Path, "/") == "" {
		return
	}
	var paths []string
	for i := range d.found.sources {
		if d.isURLOf(&d.found.sources[i]) {
			return
		}
		paths = append(paths, pathOf(&d.found.sources[i]))
	}
	problem := fmt.Sprintf("no source of this namespace has the path %s; they have %s", d.url.Path, cmp.Or(list(paths), "none"))
	d.add(resultProblem, "URL", problem, "correct the URL in NetBox, or spec.path of the source")
}

func (d *doctor) checkSources(ctx context.Context) {
	d.everywhere = d.found.sources
	var all v1alpha1.NetBoxSourceList
	if err := d.api.List(ctx, &all); err == nil {
		d.everywhere = all.Items
	}
	d.addFindings("namespace " + d.Namespace)
	for i := range d.found.sources {
		for _, check := range sourceChecks {
			check(d, ctx, &d.found.sources[i])
		}
	}
}

func (d *doctor) checkRules(context.Context) {
	var good []string
	for i := range d.found.rules {
		if name := d.found.rules[i].Name; !d.addFindings("rule " + name) {
			good = append(good, name)
		}
	}
	if len(good) > 0 {
		d.ok("rules", "%d ready: %s", len(good), list(good))
	}
}

// addRest adds what status found wrong with anything else, such as refused deliveries of a source that was deleted since.
func (d *doctor) addRest(context.Context) {
	for _, finding := range d.found.Wrong {
		if !slices.ContainsFunc(d.Checks, func(check check) bool { return check.About == finding.About }) {
			d.addFindings(finding.About)
		}
	}
}

// checkRights says what could not be looked at.
func (d *doctor) checkRights(context.Context) {
	for _, unknown := range d.found.Unknown {
		d.unknown("rights", "%s", unknown)
	}
}

// resultColors are the colors of results.
var resultColors = map[checkResult]color{resultOK: green, resultWarning: yellow, resultProblem: red, resultUnknown: dim}

// printDiagnosis prints the answer for people: the checks below what they are about.
func (p *plugin) printDiagnosis(d *diagnosis) error {
	paint := painter(p.hasColors())
	var abouts []string
	for _, check := range d.Checks {
		if !slices.Contains(abouts, check.About) {
			abouts = append(abouts, check.About)
		}
	}
	for _, about := range abouts {
		fmt.Fprintln(p.Out, oneline.Of(about, maxCellBytes))
		for _, check := range d.Checks {
			if check.About != about {
				continue
			}
			const width = len(resultProblem) + len(columnGap)
			padding := strings.Repeat(" ", width-len(check.Result))
			fmt.Fprintf(p.Out, "  %s%s%s\n", paint.paint(string(check.Result), resultColors[check.Result]), padding, check.Text)
			if check.Next != "" {
				fmt.Fprintf(p.Out, "  %sNext: %s\n", strings.Repeat(" ", width), check.Next)
			}
		}
	}
	_, err := fmt.Fprintf(p.Out, "\n%s, %s, %d unknown\n", plural(d.count(resultProblem), "problem", "problems"),
		plural(d.count(resultWarning), "warning", "warnings"), d.count(resultUnknown))
	return err
}
