package monitoring

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
)

type dashboard struct {
	Templating struct {
		List []struct{ Name, Type, Definition string }
	}
	Panels []panel
}

type panel struct {
	ID                       int
	Type, Title, Description string
	GridPos                  struct{ X, Y, W, H int }
	Datasource               struct{ UID string }
	FieldConfig              struct {
		Defaults struct{ Unit string }
	}
	Targets []target
}

type target struct {
	Expr, LegendFormat string
	Datasource         struct{ UID string }
}

// readDashboard returns the dashboard as Grafana's sidecar gets it.
func readDashboard(t *testing.T) (text string, parsed dashboard) {
	t.Helper()
	for _, text = range one(t, "grafana-dashboard.yaml").Data {
		if err := json.Unmarshal([]byte(text), &parsed); err != nil {
			t.Fatal(err)
		}
	}
	if len(parsed.Panels) == 0 {
		t.Fatal("the dashboard has no panels")
	}
	return text, parsed
}

// fill replaces variables as Grafana does, for a panel with a point per minute.
func fill(expression string) string {
	return strings.NewReplacer("$__rate_interval", "1m", "$job", job, "$namespace", namespace, "$source", ".*").Replace(expression)
}

func TestDashboard(t *testing.T) {
	text, board := readDashboard(t)
	for _, variable := range board.Templating.List {
		if strings.Count(text, "$"+variable.Name)+strings.Count(text, "${"+variable.Name+"}") == 0 {
			t.Errorf("nothing uses $%s", variable.Name)
		}
	}
	ids := map[int]bool{}
	var taken [100][24]string // lines and columns
	for _, p := range board.Panels {
		if ids[p.ID] {
			t.Errorf("%s has a duplicate id", p.Title)
		}
		ids[p.ID] = true
		for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
			for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
				if taken[y][x] != "" {
					t.Errorf("%s overlaps %s", p.Title, taken[y][x])
				}
				taken[y][x] = p.Title
			}
		}
		if p.Type == "row" {
			continue
		}
		if p.Description == "" || p.FieldConfig.Defaults.Unit == "" || p.Datasource.UID != "${datasource}" || len(p.Targets) == 0 {
			t.Errorf("%s lacks a description, a unit, the data source or a query", p.Title)
		}
		for _, target := range p.Targets {
			if target.Datasource.UID != "${datasource}" {
				t.Errorf("%s uses another data source", p.Title)
			}
		}
	}
}

// TestScope checks that no query mixes two releases in one cluster.
func TestScope(t *testing.T) {
	expressions := map[string]string{}
	for _, rule := range rules(t) {
		expressions[rule.Alert+rule.Record] = rule.Expr
	}
	_, board := readDashboard(t)
	for _, p := range board.Panels {
		for _, target := range p.Targets {
			expressions[p.Title+" "+target.LegendFormat] = fill(target.Expr)
		}
	}
	ofOthers := regexp.MustCompile("^(apiserver|kube)_")
	for where, expression := range expressions {
		for _, selector := range selectors(t, expression) {
			if ofOthers.MatchString(selector.Name) {
				continue
			}
			want := map[string]string{"job": job, "namespace": namespace}
			for _, matcher := range selector.LabelMatchers {
				if matcher.Type == labels.MatchEqual && want[matcher.Name] == matcher.Value {
					delete(want, matcher.Name)
				}
			}
			if len(want) > 0 {
				t.Errorf("%s: %s may select series of another release", where, selector)
			}
		}
	}
}
