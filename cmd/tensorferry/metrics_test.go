package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/internal/cli"
	"github.com/tensorferry/tensorferry/stream"
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

// figure is one line of a page.
type figure struct {
	name   string
	labels map[string]string
	value  float64
}

var (
	figureLine  = regexp.MustCompile(`(?m)^(\w+)(?:\{(.*)\})? (\S+)$`)
	figureLabel = regexp.MustCompile(`(\w+)="([^"]*)"`)
)

func figures(t *testing.T, page string) (all []figure) {
	for _, m := range figureLine.FindAllStringSubmatch(page, -1) {
		f := figure{name: strings.TrimPrefix(m[1], "tensorferry_job_"), labels: map[string]string{}}
		for _, l := range figureLabel.FindAllStringSubmatch(m[2], -1) {
			f.labels[l[1]] = l[2]
		}
		var err error
		if f.value, err = strconv.ParseFloat(m[3], 64); err != nil {
			t.Errorf("a line with no number: %s", m[0])
		}
		all = append(all, f)
	}
	return all
}

// sum adds up the figures of a name and an operator, over subtasks.
func sum(all []figure, name, operator string) (n float64) {
	for _, f := range all {
		if f.name == name && f.labels["operator"] == operator {
			n += f.value
		}
	}
	return n
}

// served runs a job with metrics and returns what it serves.
func served(t *testing.T) (page string) {
	s := newKafkaShell(t, 2, "in", "out", "failed")
	s.write("job.yaml", strings.Replace(fmt.Sprintf(toKafka, s.brokers), "group: g", "group: g, watermark: 10s", 1))
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
		done <- program.Run(&cli.World{Stdout: io.Discard, Stderr: errs, Signals: errs.signals}, []string{"run", "--metrics", "127.0.0.1:0", "--pprof", "job.yaml"})
	}()
	s.consume("out", 297)
	s.consume("failed", 3)
	url := metricsURL.FindString(errs.String())
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
	return page
}

var metricsURL = regexp.MustCompile(`http://127\.0\.0\.1:\d+`)

// TestMetrics: a job serves exactly the metrics and labels of docs/metrics.md. The dashboard and
// the alerts use no others.
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
	page := served(t)
	all := figures(t, page)
	for _, want := range []struct {
		name, operator string
		value          float64
	}{
		{"records_in_total", "source", 300}, {"records_dead_lettered_total", "infer", 3}, {"records_in_total", "sink", 297},
		{"calls_total", "infer", 300}, {"connected", "infer", 2}, {"batch_rows_sum", "infer", 297}, {"call_seconds_count", "infer", 300},
		{"latency_seconds_count", "infer", 300}, {"head_of_line_wait_seconds_count", "infer", 300},
		{"ready", "", 1}, {"consumer_lag_records", "", 0}, {"restarts_total", "", 0},
	} {
		if got := sum(all, want.name, want.operator); got != want.value {
			t.Errorf("%s of %q is %v, want %v", want.name, want.operator, got, want.value)
		}
	}
	subtasks := map[string]bool{}
	for _, f := range all {
		for label, value := range f.labels {
			switch {
			case label == "job" && value == "pipe", label == "operator", label == "le" && strings.HasSuffix(f.name, "_bucket"):
			case label == "subtask" && f.labels["operator"] != "":
				subtasks[value] = true
			default:
				t.Errorf("%s has the label %s=%q", f.name, label, value)
			}
		}
		if f.name == "records_in_total" && f.labels["operator"] == "source" && f.value != 150 {
			t.Errorf("subtask %s has read %v records of 300; its partition has 150", f.labels["subtask"], f.value)
		}
		if f.name == "watermark_lag_seconds" && (f.value < 10 || f.value > 300) {
			t.Errorf("%v: watermarks are 10 s behind records of a moment ago", f)
		}
	}
	if len(subtasks) != 2 {
		t.Errorf("the subtasks are %v, want 0 and 1", subtasks)
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
	// The period of each metric: counters are of this process, and gauges are of the present or
	// of the whole run.
	for _, m := range regexp.MustCompile("(?m)^\\| `(\\w+)` \\| (\\w+) \\| [^|]+ \\| (\\w+) \\| ").FindAllStringSubmatch(docs, -1) {
		ok := m[3] == "process"
		if m[2] == "gauge" {
			ok = m[3] == "now" || m[3] == "run"
		}
		if !ok {
			t.Errorf("docs/metrics.md says that the %s %s counts since %q", m[2], m[1], m[3])
		}
	}
	// The job or the sidecar serves every metric that they name. tools/alerts checks that
	// Prometheus can parse them.
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
}

// TestHealth: the word of each state at /health, and whether it counts as healthy.
func TestHealth(t *testing.T) {
	for state, want := range map[stream.State]string{
		stream.StateStarting: "starting 503", stream.StateRunning: "ready 200", stream.StateFailing: "failing 503", stream.StateRestarting: "restarting 503", stream.StateStopping: "stopping 503",
		stream.StateFinished: "stopped 503", stream.StateStopped: "stopped 503", stream.StateFailed: "stopped 503",
	} {
		p := stream.Progress{State: state, Restarts: 2, LastCheckpoint: 7, LastError: errors.New("broken")}
		p.Operators = []stream.OperatorProgress{{}, {Async: async.Stats{Suspended: errors.New("away")}}}
		m := &metrics{job: "a", progress: func() stream.Progress { return p }}
		w := httptest.NewRecorder()
		m.health(w, nil)
		word, code, _ := strings.Cut(want, " ")
		body := fmt.Sprintf(`{"checkpoint":7,"job":"a","last_error":"broken","restarts":2,"state":%q,"suspended":"away"}`, word) + "\n"
		if fmt.Sprint(w.Code) != code || w.Body.String() != body {
			t.Errorf("%s: %d %s want %s %s", state, w.Code, w.Body, code, body)
		}
	}
}

// TestHealthOfARun: a job that waits for its restart says so, and why.
func TestHealthOfARun(t *testing.T) {
	s := newShell(t)
	s.write("in.jsonl", "{\"n\": 1}\n")
	s.write("job.yaml", doubles("checkpoint: {interval: 1h}\nrestart: {strategy: fixed-delay, delay: 1h, attempts: 3}\n"+
		"sidecar: {models: {double: 'mock:double?input=x:INT64[1]&fault=INTERNAL@all'}}\n"))
	errs := &console{signals: make(chan os.Signal, 1)}
	done := make(chan int, 1)
	go func() {
		done <- program.Run(&cli.World{Stdout: io.Discard, Stderr: errs, Signals: errs.signals}, []string{"run", "--metrics", "127.0.0.1:0", "job.yaml"})
	}()
	var health, page string
	var code int
	for deadline := time.Now().Add(time.Minute); !strings.Contains(health, `"restarting"`) && time.Now().Before(deadline); {
		if url := metricsURL.FindString(errs.String()); url != "" {
			health, code = s.get(url + "/health")
			page, _ = s.get(url + "/metrics")
		}
	}
	if code != 503 {
		t.Errorf("/health is %d", code)
	}
	s.contains("/health", health, `"restarting"`, `"restarts":1`, "split 0, position 0")
	s.contains("/metrics", page, `tensorferry_job_ready{job="doubles"} 0`, `tensorferry_job_restarts_total{job="doubles"} 1`)
	errs.signals <- os.Interrupt
	if code := <-done; code != 130 {
		t.Fatalf("exit code %d: %s", code, errs)
	}
}

// TestMetricsMistakes: an address that cannot be used is an error before the job begins.
func TestMetricsMistakes(t *testing.T) {
	s := newShell(t)
	s.write("job.yaml", "name: a\nsource: {stdin: }\ninfer: {model: m, endpoint: 'h:1'}\nsink: {stdout: }\n")
	s.contains("stderr", s.run(2, "run", "--metrics", "nowhere", "job.yaml").errors, "--metrics", "missing port")
	s.contains("stderr", s.run(2, "run", "--pprof", "job.yaml").errors, "needs --metrics")
	// An address in use may soon be free, so a supervisor should try again.
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	s.contains("stderr", s.run(1, "run", "--metrics", taken.Addr().String(), "job.yaml").errors, "--metrics", "in use")
}
