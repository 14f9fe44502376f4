package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
)

// rules checks a file of rules.
func (k known) rules(text []byte) (n int, err error) {
	groups, faults := rulefmt.Parse(text, false, model.UTF8Validation)
	if len(faults) > 0 {
		return 0, errors.Join(faults...)
	}
	var errs []error
	for _, g := range groups.Groups {
		for _, r := range g.Rules {
			n++
			where := g.Name + "/" + r.Alert
			if r.Alert == "" {
				errs = append(errs, fmt.Errorf("%s: the rule is not an alert", where))
			}
			if _, err := k.check(r.Expr); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", where, err))
			}
			if r.Labels["severity"] == "" || r.Annotations["summary"] == "" {
				errs = append(errs, fmt.Errorf("%s: want a severity and a summary", where))
			}
		}
	}
	return n, errors.Join(errs...)
}

// dashboard is the part of Grafana's file format that is checked here.
type dashboard struct {
	Title, UID    string
	SchemaVersion int
	Templating    struct {
		List []struct{ Name, Type, Query string }
	}
	Panels []panel
}

type panel struct {
	ID          int
	Title, Type string
	GridPos     struct{ X, Y, W, H int }
	Targets     []struct{ RefID, Expr, LegendFormat string }
	Datasource  struct{ Type, UID string }
}

var (
	labelValues = regexp.MustCompile(`^label_values\((\w+), (\w+)\)$`)
	variable    = regexp.MustCompile(`\$\{?(\w+)\}?`)
	legend      = regexp.MustCompile(`\{\{(\w+)\}\}`)
)

// dashboard checks a dashboard: its expressions, the variables in them, and that no two panels
// overlap.
func (k known) dashboard(text []byte) (n int, err error) {
	var d dashboard
	if err := json.Unmarshal(text, &d); err != nil {
		return 0, err
	}
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if d.Title == "" || d.UID == "" || d.SchemaVersion == 0 || len(d.Panels) == 0 {
		bad("want a title, a uid, a schemaVersion and panels")
	}
	// Grafana's own variables, with a possible value of each.
	variables := map[string]string{"__rate_interval": "5m", "__interval": "1m", "__range": "1h"}
	for _, v := range d.Templating.List {
		variables[v.Name] = "x"
		if v.Type != "query" {
			continue
		}
		if m := labelValues.FindStringSubmatch(v.Query); m == nil || k.of(m[1]) == "" {
			bad("the variable %s has the query %s; want label_values of a known metric", v.Name, v.Query)
		}
	}
	ids := map[int]bool{}
	for i, p := range d.Panels {
		if p.Title == "" || p.Type == "" || ids[p.ID] || len(p.Targets) == 0 {
			bad("panel %d, %q: want a title, a type, a unique id and targets", i, p.Title)
		}
		ids[p.ID] = true
		if u := p.Datasource.UID; p.Datasource.Type != "prometheus" || variables[strings.Trim(u, "${}")] == "" {
			bad("%q uses the data source %q; want a variable, since other Grafana servers do not have that source", p.Title, u)
		}
		for _, o := range d.Panels[:i] {
			a, b := p.GridPos, o.GridPos
			if a.X < b.X+b.W && b.X < a.X+a.W && a.Y < b.Y+b.H && b.Y < a.Y+a.H {
				bad("%q overlaps %q", p.Title, o.Title)
			}
		}
		if a := p.GridPos; a.W < 1 || a.H < 1 || a.X+a.W > 24 {
			bad("%q does not fit a grid of 24 columns", p.Title)
		}
		refs := map[string]bool{}
		for _, t := range p.Targets {
			n++
			if t.RefID == "" || refs[t.RefID] {
				bad("%q: want a unique refId for each target", p.Title)
			}
			refs[t.RefID] = true
			expr := variable.ReplaceAllStringFunc(t.Expr, func(s string) string {
				to, ok := variables[strings.Trim(s, "${}")]
				if !ok {
					bad("%q: the variable %s is not defined", p.Title, s)
				}
				return to
			})
			if _, err := k.check(expr); err != nil {
				bad("%q: %s: %w", p.Title, t.Expr, err)
			}
			for _, m := range legend.FindAllStringSubmatch(t.LegendFormat, -1) {
				if !strings.Contains(t.Expr, "by (") {
					continue // all labels are kept
				}
				if by := t.Expr[strings.Index(t.Expr, "by (")+4:]; !strings.Contains(by[:strings.IndexByte(by, ')')], m[1]) {
					bad("%q: the legend names %s, which %s drops", p.Title, m[1], t.Expr)
				}
			}
		}
	}
	return n, errors.Join(errs...)
}
