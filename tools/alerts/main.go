// Command alerts checks alert rules and dashboards as Prometheus would: alerts -metrics
// PREFIX=DOC.md ... FILE...
//
// A .yaml file is read by Prometheus' own reader of rules, with its templates. A .json file is a
// Grafana dashboard, of which each expression is parsed by Prometheus' own parser. Then it looks
// for what loads and says nothing: a metric or a label that is not in the lists of the documents, a
// rate of a gauge, a quantile of what is no histogram.
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

// known are the metrics of the documents, by their whole names.
type known map[string]string // type: counter, gauge or histogram

// read takes the rows | `name` | type | of a document. A row may have several names.
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

// of returns the type of what a selector names: for the parts of a histogram "bucket" and
// "counter", "" if it is nothing.
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

// Labels that our metrics have, the sidecar's among them, and the one that a scrape adds.
var knownLabels = []string{"job", "operator", "subtask", "le", "instance", "model", "stage", "reason", "code"}

// check parses an expression and looks for what it names.
func (k known) check(expr string) (selectors int, err error) {
	root, err := parser.ParseExpr(expr)
	if err != nil {
		return 0, err
	}
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	label := func(name string) {
		if !slices.Contains(knownLabels, name) {
			bad("the label %s is none of ours", name)
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
				bad("%s of the %s %s", call, kind, n.Name)
			} else if call == "" && kind != "gauge" {
				bad("the %s %s as it is, without rate or increase", kind, n.Name)
			}
			if kind == "bucket" && !under(path, "histogram_quantile") {
				bad("%s outside of histogram_quantile", n.Name)
			}
		case *parser.AggregateExpr:
			for _, l := range n.Grouping {
				label(l)
			}
			if under(path, "histogram_quantile") && !n.Without && !slices.Contains(n.Grouping, "le") {
				bad("a quantile of sums that have lost the label le")
			}
		}
		return nil
	})
	if selectors == 0 {
		bad("it names no metric")
	}
	return selectors, errors.Join(errs...)
}

// within is which function of a range stands around a selector, if one does.
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
