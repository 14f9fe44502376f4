package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func ours(t *testing.T) known {
	doc := filepath.Join(t.TempDir(), "doc.md")
	text := "| name | type |\n|---|---|\n| `in_total` | counter | x |\n| `queued` | gauge | x |\n| `seconds` | histogram | x |\n"
	if err := os.WriteFile(doc, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	k := known{}
	if err := k.read("a_=" + doc); err != nil {
		t.Fatal(err)
	}
	if err := k.read("a_=main.go"); err == nil {
		t.Error("a document without a list was taken")
	}
	return k
}

func TestExpressions(t *testing.T) {
	k := ours(t)
	for expr, want := range map[string]string{
		"a_queued > 3": "",
		"sum by (job) (rate(a_in_total{operator=\"x\"}[5m]))":                    "",
		"histogram_quantile(0.9, sum by (job, le) (rate(a_seconds_bucket[5m])))": "",
		"rate(a_seconds_sum[5m]) / rate(a_seconds_count[5m])":                    "",
		"deriv(a_queued[5m]) > 0":                                                "",
		"a_queued >":                                                             "parse error",
		"a_queue > 3":                                                            "no document lists the metric a_queue",
		"a_seconds > 3":                                                          "no document lists",
		"a_in_total > 3":                                                         "without rate",
		"rate(a_queued[5m])":                                                     "rate does not suit the gauge",
		"deriv(a_in_total[5m])":                                                  "deriv does not suit the counter",
		"a_queued{state=\"x\"}":                                                  "the label state",
		"sum by (pod) (a_queued)":                                                "the label pod",
		"rate(a_seconds_bucket[5m])":                                             "outside of histogram_quantile",
		"histogram_quantile(0.9, sum by (job) (rate(a_seconds_bucket[5m])))": "without the label le",
		"vector(1)": "names no metric",
	} {
		_, err := k.check(expr)
		if got := errString(err); (want == "") != (err == nil) || !strings.Contains(got, want) {
			t.Errorf("%s: %s; want %q", expr, got, want)
		}
	}
}

func errString(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestFiles(t *testing.T) {
	k := ours(t)
	const rules = `groups: [{name: g, rules: [{alert: A, expr: a_queued > 3, for: 5m, labels: {severity: page}, annotations: {summary: "{{ $labels.job }}"}}]}]`
	const board = `{"title": "t", "uid": "u", "schemaVersion": 39, "templating": {"list": [{"name": "d", "type": "datasource", "query": "prometheus"}, {"name": "job", "type": "query", "query": "label_values(a_queued, job)"}]},
"panels": [{"id": 1, "title": "p", "type": "timeseries", "datasource": {"type": "prometheus", "uid": "${d}"}, "gridPos": {"x": 0, "y": 0, "w": 12, "h": 8},
"targets": [{"refId": "A", "expr": "sum by (job) (rate(a_in_total{job=~\"$job\"}[$__rate_interval]))", "legendFormat": "{{job}}"}]}]}`
	for _, c := range []struct {
		check    func([]byte) (int, error)
		text     string
		old, new string
		want     string
	}{
		{k.rules, rules, "", "", ""},
		{k.rules, rules, "a_queued", "a_queue", "no document lists"},
		{k.rules, rules, "5m", "5 minutes", "in duration"},
		{k.rules, rules, "{{ $labels.job }}", "{{ $labels.job }", "unexpected"},
		{k.rules, rules, "for:", "four:", "field four not found"},
		{k.rules, rules, "severity: page", "", "want a severity"},
		{k.dashboard, board, "", "", ""},
		{k.dashboard, board, "[$__rate_interval]", "", "expected type range vector"},
		{k.dashboard, board, "=~\\\"$job", "=~\\\"$jobs", "the variable $jobs is not defined"},
		{k.dashboard, board, "{{job}}", "{{subtask}}", "the legend names subtask"},
		{k.dashboard, board, "${d}", "mine", "uses the data source"},
		{k.dashboard, board, "label_values(a_queued", "label_values(a_queue", "the variable job"},
		{k.dashboard, board, `"w": 12`, `"w": 25`, "grid"},
		{k.dashboard, board, `"title": "p"`, `"title": ""`, "want a title"},
	} {
		n, err := c.check([]byte(strings.Replace(c.text, c.old, c.new, 1)))
		if got := errString(err); (c.want == "") != (err == nil && n == 1) || !strings.Contains(got, c.want) {
			t.Errorf("with %q for %q: %s; want %q", c.new, c.old, got, c.want)
		}
	}
}
