// Command alerts checks alert rules and dashboards as Prometheus would: alerts -metrics
// PREFIX=DOC.md ... FILE...
//
// It reads a .yaml file with Prometheus' own reader of rules and templates. A .json file is a
// Grafana dashboard, whose expressions it parses with Prometheus' own parser. Then it finds
// expressions that load but never give a sensible value: a metric or a label that the documents do
// not list, a rate of a gauge, a quantile of a metric that is not a histogram.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
)

// known has the types of the metrics in the documents, by their full names.
type known map[string]string // type: counter, gauge or histogram

// read reads the rows | `name` | type | of a document. A row may have several names.
func (k known) read(arg string) error {
	prefix, file, ok := strings.Cut(arg, "=")
	if !ok {
		return fmt.Errorf("-metrics is %q; want PREFIX=DOC.md", arg)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	n := 0
	for _, m := range metricRow.FindAllStringSubmatch(string(text), -1) {
		k[prefix+m[1]] = m[2]
		n++
	}
	if n == 0 {
		return fmt.Errorf("%s lists no metrics", file)
	}
	return nil
}

var metricRow = regexp.MustCompile("(?m)^\\| `(\\w+)` \\| (counter|gauge|histogram) \\|")

// of returns the type of the metric that a selector names. It is "bucket" or "counter" for the
// parts of a histogram, and "" for an unknown metric.
func (k known) of(name string) string {
	if t := k[name]; t == "counter" || t == "gauge" {
		return t
	}
	for suffix, t := range map[string]string{"_bucket": "bucket", "_sum": "counter", "_count": "counter"} {
		if base, ok := strings.CutSuffix(name, suffix); ok && k[base] == "histogram" {
			return t
		}
	}
	return ""
}

// knownLabels has the labels of our metrics, including the sidecar's, and the one that a scrape
// adds.
var knownLabels = []string{"job", "operator", "subtask", "le", "instance", "model", "stage", "reason", "code"}

// check parses an expression and checks the metrics and labels in it.
func (k known) check(expr string) (selectors int, err error) {
	root, err := parser.ParseExpr(expr)
	if err != nil {
		return 0, err
	}
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	label := func(name string) {
		if !slices.Contains(knownLabels, name) {
			bad("the label %s is not one of ours", name)
		}
	}
	parser.Inspect(root, func(n parser.Node, path []parser.Node) error {
		switch n := n.(type) {
		case *parser.VectorSelector:
			selectors++
			kind := k.of(n.Name)
			if kind == "" {
				bad("no document lists the metric %s", n.Name)
				return nil
			}
			for _, m := range n.LabelMatchers {
				if m.Name != labels.MetricName {
					label(m.Name)
				}
			}
			if call := within(path); call != "" && (call == "deriv") != (kind == "gauge") {
				bad("%s does not suit the %s %s", call, kind, n.Name)
			} else if call == "" && kind != "gauge" {
				bad("the %s %s is used without rate or increase", kind, n.Name)
			}
			if kind == "bucket" && !under(path, "histogram_quantile") {
				bad("%s is used outside of histogram_quantile", n.Name)
			}
		case *parser.AggregateExpr:
			for _, l := range n.Grouping {
				label(l)
			}
			if under(path, "histogram_quantile") && !n.Without && !slices.Contains(n.Grouping, "le") {
				bad("the quantile is of sums without the label le")
			}
		}
		return nil
	})
	if selectors == 0 {
		bad("the expression names no metric")
	}
	return selectors, errors.Join(errs...)
}

// within returns the name of the range function around a selector, or "".
func within(path []parser.Node) string {
	for _, n := range slices.Backward(path) {
		if c, ok := n.(*parser.Call); ok && slices.Contains([]string{"rate", "irate", "increase", "deriv", "delta"}, c.Func.Name) {
			return c.Func.Name
		}
	}
	return ""
}

func under(path []parser.Node, function string) bool {
	return slices.ContainsFunc(path, func(n parser.Node) bool {
		c, ok := n.(*parser.Call)
		return ok && c.Func.Name == function
	})
}

func main() {
	k := known{}
	flag.Func("metrics", "`PREFIX=DOC.md`: a document that lists metrics, without their prefix", k.read)
	flag.Parse()
	if flag.NArg() == 0 || len(k) == 0 {
		fmt.Fprintln(os.Stderr, "usage: alerts -metrics PREFIX=DOC.md ... FILE...")
		os.Exit(2)
	}
	failed, n := false, 0
	for _, file := range flag.Args() {
		check := k.rules
		if filepath.Ext(file) == ".json" {
			check = k.dashboard
		}
		text, err := os.ReadFile(file)
		if err == nil {
			var exprs int
			exprs, err = check(text)
			n += exprs
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", file, err)
			failed = true
		}
	}
	fmt.Printf("%d expressions\n", n)
	if failed || n == 0 {
		os.Exit(1)
	}
}
