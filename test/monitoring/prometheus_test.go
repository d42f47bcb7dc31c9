// Package monitoring tests the chart's alerts and dashboard: the alerts fire exactly when they should, and all metrics in queries of alerts and
// dashboard exist.
//
// It is a separate module because Prometheus has many dependencies.
package monitoring

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/url"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/common/promslog"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/template"
	"github.com/prometheus/prometheus/util/annotations"
	"k8s.io/apimachinery/pkg/util/yaml"
)

const (
	root      = "../.."
	chart     = root + "/charts/netbox-event-operator"
	namespace = "ops"
	job       = "netbox-event-operator-metrics" // of a release named netbox-event-operator
)

var promQL = parser.NewParser(parser.Options{})

// object has the fields of the chart's objects that these tests read.
type object struct {
	Kind     string
	Metadata struct {
		Name   string
		Labels map[string]string
	}
	Spec struct {
		Groups    json.RawMessage
		Ports     []struct{ Name string }
		Selector  struct{ MatchLabels map[string]string }
		Endpoints []struct{ Port string }
	}
	Data map[string]string
}

// render returns the objects of some of the chart's templates.
func render(t *testing.T, templates ...string) []object {
	t.Helper()
	arguments := []string{
		"tool", "-modfile=" + root + "/hack/tools/helm/go.mod", "helm.sh/helm/v4/cmd/helm", "template", "netbox-event-operator", chart,
		"--namespace", namespace, "--set", "serviceMonitor.enabled=true,prometheusRule.enabled=true,grafanaDashboard.enabled=true",
	}
	for _, template := range templates {
		arguments = append(arguments, "--show-only", "templates/"+template)
	}
	command := exec.Command("go", arguments...)
	var complaints strings.Builder
	command.Stderr = &complaints
	output, err := command.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, &complaints)
	}
	var objects []object
	decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(output), 4096)
	for {
		var rendered object
		err := decoder.Decode(&rendered)
		if errors.Is(err, io.EOF) {
			return objects
		}
		if err != nil {
			t.Fatal(err)
		}
		if rendered.Kind != "" {
			objects = append(objects, rendered)
		}
	}
}

// one returns the only object of a template.
func one(t *testing.T, template string) object {
	t.Helper()
	objects := render(t, template)
	if len(objects) != 1 {
		t.Fatalf("%s renders %d objects, want one", template, len(objects))
	}
	return objects[0]
}

// rules returns the chart's rules, checked as Prometheus checks them.
func rules(t *testing.T) []rulefmt.Rule {
	t.Helper()
	groups := fmt.Appendf(nil, `{"groups": %s}`, one(t, "prometheusrule.yaml").Spec.Groups) // JSON is YAML
	if bytes.Contains(groups, []byte("${")) {
		t.Errorf("a placeholder is not replaced:\n%s", groups)
	}
	parsed, errs := rulefmt.Parse(groups, false, model.UTF8Validation, promQL, promslog.NewNopLogger())
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	if len(parsed.Groups) != 1 {
		t.Fatalf("%d groups, want one: alerts need recording rules that are evaluated before them", len(parsed.Groups))
	}
	return parsed.Groups[0].Rules
}

// memory is a Prometheus storage.
type memory struct{ series map[string]*promql.Series }

func newMemory() *memory { return &memory{map[string]*promql.Series{}} }

func (m *memory) add(metric labels.Labels, at time.Time, v float64) {
	key := metric.String()
	if m.series[key] == nil {
		m.series[key] = &promql.Series{Metric: metric}
	}
	m.series[key].Floats = append(m.series[key].Floats, promql.FPoint{T: at.UnixMilli(), F: v})
}

func (m *memory) Querier(int64, int64) (storage.Querier, error) {
	return &storage.MockQuerier{SelectMockFunction: m.find}, nil
}

func (m *memory) find(_ bool, _ *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
	set := &seriesSet{}
	for _, key := range slices.Sorted(maps.Keys(m.series)) {
		series := m.series[key]
		if !slices.ContainsFunc(matchers, func(matcher *labels.Matcher) bool { return !matcher.Matches(series.Metric.Get(matcher.Name)) }) {
			set.series = append(set.series, promql.NewStorageSeries(*series))
		}
	}
	return set
}

// seriesSet iterates over series; the first Next leads to the first of them.
type seriesSet struct {
	series []storage.Series
	next   int
}

func (s *seriesSet) Next() bool                        { s.next++; return s.next <= len(s.series) }
func (s *seriesSet) At() storage.Series                { return s.series[s.next-1] }
func (s *seriesSet) Err() error                        { return nil }
func (s *seriesSet) Warnings() annotations.Annotations { return nil }

func (m *memory) query(t *testing.T, expression string, at time.Time) promql.Vector {
	t.Helper()
	engine := promql.NewEngine(promql.EngineOpts{MaxSamples: 1e6, Timeout: time.Minute, Parser: promQL})
	query, err := engine.NewInstantQuery(t.Context(), m, nil, expression, at)
	if err != nil {
		t.Fatalf("%v in\n%s", err, expression)
	}
	defer query.Close()
	vector, err := query.Exec(t.Context()).Vector()
	if err != nil {
		t.Fatalf("%v in\n%s", err, expression)
	}
	return slices.Clone(vector)
}

// fired is a firing alert.
type fired struct {
	name        string
	labels      labels.Labels
	annotations map[string]string
}

// run evaluates rules each minute as Prometheus does, and returns the alerts that fire at the end.
func (m *memory) run(t *testing.T, rules []rulefmt.Rule, start, end time.Time) []fired {
	t.Helper()
	since := map[string]time.Time{} // when each alert and set of labels became active
	recorded := map[string]labels.Labels{}
	var firing []fired
	for now := start; !now.After(end); now = now.Add(time.Minute) {
		firing = nil
		active := map[string]time.Time{}
		current := map[string]labels.Labels{}
		for _, rule := range rules {
			vector := m.query(t, rule.Expr, now)
			for _, sample := range vector {
				if rule.Record != "" {
					metric := labels.NewBuilder(sample.Metric).Set(model.MetricNameLabel, rule.Record).Labels()
					m.add(metric, now, sample.F)
					current[metric.String()] = metric
					continue
				}
				found := labels.NewBuilder(sample.Metric).Del(model.MetricNameLabel)
				key := rule.Alert + found.Labels().String()
				active[key] = now
				if before, ok := since[key]; ok {
					active[key] = before
				}
				if now.Sub(active[key]) < time.Duration(rule.For) {
					continue
				}
				texts := map[string]string{}
				for name, text := range rule.Annotations {
					texts[name] = expand(t, text, sample)
				}
				for name, text := range rule.Labels {
					found.Set(name, text)
				}
				firing = append(firing, fired{rule.Alert, found.Labels(), texts})
			}
			// A series that is no longer recorded ends at once.
			for key, metric := range recorded {
				if _, ok := current[key]; !ok && metric.Get(model.MetricNameLabel) == rule.Record {
					m.add(metric, now, math.Float64frombits(value.StaleNaN))
					delete(recorded, key)
				}
			}
		}
		maps.Copy(recorded, current)
		since = active
	}
	return firing
}

// expand expands the template of an annotation.
func expand(t *testing.T, text string, sample promql.Sample) string {
	t.Helper()
	text = "{{$labels := .Labels}}{{$value := .Value}}" + text
	data := template.AlertTemplateData(sample.Metric.Map(), nil, "", sample)
	noQuery := func(context.Context, string, time.Time) (promql.Vector, error) { return nil, nil }
	expanded, err := template.NewTemplateExpander(t.Context(), text, "", data, model.Time(sample.T), noQuery, &url.URL{}, nil).Expand()
	if err != nil {
		t.Errorf("%v in %s", err, text)
	}
	return expanded
}

// selectors returns the series selectors of an expression.
func selectors(t *testing.T, expression string) []*parser.VectorSelector {
	t.Helper()
	parsed, err := promQL.ParseExpr(expression)
	if err != nil {
		t.Fatalf("%v in\n%s", err, expression)
	}
	var found []*parser.VectorSelector
	parser.Inspect(parsed, func(node parser.Node, _ []parser.Node) error {
		if selector, ok := node.(*parser.VectorSelector); ok {
			found = append(found, selector)
		}
		return nil
	})
	return found
}
