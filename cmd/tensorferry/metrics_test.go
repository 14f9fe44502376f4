package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/twmb/franz-go/pkg/kgo"
)

// get returns the body of a page and its status.
func (s *shell) get(url string) (string, int) {
	s.Helper()
	resp, err := http.Get(url)
	if err != nil {
		s.Fatal(err)
	}
	defer resp.Body.Close()
	defer http.DefaultClient.CloseIdleConnections()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		s.Fatal(err)
	}
	return string(text), resp.StatusCode
}

var metricType = regexp.MustCompile(`(?m)^# TYPE (\S+) (\S+)$`)

// served runs a job with metrics and returns what it serves.
func served(t *testing.T) (page string, s *kafkaShell) {
	s = newKafkaShell(t, 2, "in", "out", "failed")
	s.write("job.yaml", fmt.Sprintf(toKafka, s.brokers))
	var records []*kgo.Record
	for i := range 300 {
		r := &kgo.Record{Topic: "in", Partition: int32(i % 2), Value: fmt.Appendf(nil, `{"id":%d,"x":[1]}`, i)}
		if i%100 == 7 {
			r.Value = []byte("not json")
		}
		records = append(records, r)
	}
	s.produce(records...)
	errs := &console{signals: make(chan os.Signal, 1)}
	done := make(chan int, 1)
	go func() {
		done <- dispatch(&world{stdout: io.Discard, stderr: errs, signals: errs.signals}, []string{"run", "--metrics", "127.0.0.1:0", "--pprof", "job.yaml"})
	}()
	s.consume("out", 297)
	s.consume("failed", 3)
	url := regexp.MustCompile(`http://127\.0\.0\.1:\d+`).FindString(errs.String())
	deadline := time.Now().Add(time.Minute)
	for !strings.Contains(page, "tensorferry_job_published_results{job=\"pipe\"} 297") && time.Now().Before(deadline) {
		page, _ = s.get(url + "/metrics")
	}
	health, code := s.get(url + "/health")
	var form struct {
		Job, State string
		Restarts   int
	}
	if err := json.Unmarshal([]byte(health), &form); err != nil || code != 200 || form.Job != "pipe" || form.State != "ready" {
		t.Errorf("/health is %d: %s", code, health)
	}
	if text, code := s.get(url + "/debug/pprof/goroutine?debug=1"); code != 200 || !strings.Contains(text, "goroutine profile") {
		t.Errorf("/debug/pprof/goroutine is %d", code)
	}
	errs.signals <- os.Interrupt
	if code := <-done; code != 130 {
		t.Fatalf("exit code %d: %s", code, errs)
	}
	return page, s
}

// TestMetrics: what a job serves, which is what docs/metrics.md lists; and the dashboard and the alerts use no others.
func TestMetrics(t *testing.T) {
	root, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	read := func(path string) string {
		text, err := os.ReadFile(root + "/../../" + path)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	docs, dashboard, alerts, sidecars := read("docs/metrics.md"), read("deploy/grafana/tensorferry.json"), read("deploy/prometheus/alerts.yaml"), read("sidecar/server/metrics.go")
	page, s := served(t)
	for _, want := range []string{
		`tensorferry_job_records_in_total{job="pipe",operator="source"} 300`,
		`tensorferry_job_records_dead_lettered_total{job="pipe",operator="infer"} 3`,
		`tensorferry_job_records_in_total{job="pipe",operator="sink"} 297`,
		`tensorferry_job_calls_total{job="pipe",operator="infer"} 300`,
		`tensorferry_job_connected{job="pipe",operator="infer"} 1`,
		`tensorferry_job_state{job="pipe",state="running"} 1`,
		`tensorferry_job_consumer_lag_records{job="pipe"} 0`,
		`tensorferry_job_request_rows_sum{job="pipe"} 297`,
	} {
		s.contains("/metrics", page, want)
	}
	var names []string
	for _, m := range metricType.FindAllStringSubmatch(page, -1) {
		names = append(names, m[1])
		if row := fmt.Sprintf("| `%s` | %s |", strings.TrimPrefix(m[1], "tensorferry_job_"), m[2]); !strings.Contains(docs, row) {
			t.Errorf("docs/metrics.md has no row that begins with %s", row)
		}
	}
	for _, m := range regexp.MustCompile("(?m)^\\| `(\\w+)` \\| (counter|gauge|histogram) \\|").FindAllStringSubmatch(docs, -1) {
		if !slices.Contains(names, "tensorferry_job_"+m[1]) {
			t.Errorf("docs/metrics.md has %s, which is not served", m[1])
		}
	}
	// Whatever they name is served, by the job or the sidecar.
	for what, text := range map[string]string{"the dashboard": dashboard, "the alerts": alerts} {
		used := regexp.MustCompile(`tensorferry_(job|sidecar)_\w+`).FindAllString(text, -1)
		if len(used) < 5 {
			t.Errorf("%s uses %d metrics", what, len(used))
		}
		for _, name := range used {
			base := name
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				base = strings.TrimSuffix(base, suffix)
			}
			known := slices.Contains(names, name) || slices.Contains(names, base)
			if rest, ok := strings.CutPrefix(base, "tensorferry_sidecar_"); ok {
				known = strings.Contains(sidecars, `"`+rest+`"`)
			}
			if !known {
				t.Errorf("%s uses %s, which is not served", what, name)
			}
		}
	}
	var board struct {
		Title  string
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
			GridPos struct{ W, H int }
		}
	}
	if err := json.Unmarshal([]byte(dashboard), &board); err != nil || len(board.Panels) < 8 {
		t.Errorf("the dashboard: %v, %d panels", err, len(board.Panels))
	}
	for _, p := range board.Panels {
		if p.Title == "" || len(p.Targets) == 0 || p.Targets[0].Expr == "" || p.GridPos.W == 0 {
			t.Errorf("a panel of the dashboard lacks something: %+v", p)
		}
	}
	var rules struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For string
				Labels           map[string]string
				Annotations      map[string]string
			}
		}
	}
	if err := yaml.UnmarshalWithOptions([]byte(alerts), &rules, yaml.Strict()); err != nil || len(rules.Groups) == 0 {
		t.Fatalf("the alerts: %v", err)
	}
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			if _, err := time.ParseDuration(r.For); err != nil || r.Alert == "" || r.Expr == "" || r.Annotations["summary"] == "" {
				t.Errorf("an alert lacks something: %+v", r)
			}
		}
	}
}

// TestMetricsMistakes: an address that cannot be listened on, before anything begins.
func TestMetricsMistakes(t *testing.T) {
	s := newShell(t)
	s.write("job.yaml", "name: a\nsource: {stdin: }\ninfer: {model: m, endpoint: 'h:1'}\nsink: {stdout: }\n")
	s.contains("stderr", s.run(2, "run", "--metrics", "nowhere", "job.yaml").errors, "--metrics", "missing port")
	s.contains("stderr", s.run(2, "run", "--pprof", "job.yaml").errors, "want both")
}
