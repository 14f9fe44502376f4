package local

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tensorferry/tensorferry/job"
	"github.com/tensorferry/tensorferry/job/inference"
	"github.com/tensorferry/tensorferry/sidecar"
	"github.com/tensorferry/tensorferry/stream"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// double is a job file from files to files, with a sidecar of its own.
const double = `name: double
source: {file: {path: in.jsonl}}
sidecar: {models: {double: "mock:double"}}
infer: {model: double, inputs: {x: {field: n}}, outputs: {y: {field: twice}}}
sink: {file: {path: out}}
`

// load writes a job file with ten records beside it.
func load(t *testing.T, text string) *job.Spec {
	t.Helper()
	dir := t.TempDir()
	var in bytes.Buffer
	for n := range 10 {
		json.NewEncoder(&in).Encode(map[string]int{"n": n})
	}
	for name, data := range map[string]string{"in.jsonl": in.String(), "job.yaml": text} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	spec, err := job.Load(filepath.Join(dir, "job.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return spec
}

// A Go program runs a job file twice and observes its run.
func TestRun(t *testing.T) {
	spec := load(t, double)
	if faults := Check(t.Context(), spec); faults != nil {
		t.Fatal(faults)
	}
	var began *stream.Run
	j, err := Build(spec, Options{Started: func(r *stream.Run) { began = r }})
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if p := began.Progress(); p.Committed != 10 || j.Resumed() || j.Finished() || j.NotNumbers() != 0 {
		t.Errorf("%+v", p)
	}
	parts, err := filepath.Glob(filepath.Join(spec.Sink.File.Path, "*.jsonl"))
	if err != nil || len(parts) != 1 {
		t.Fatal(parts, err)
	}
	got, err := os.ReadFile(parts[0])
	if err != nil || strings.Count(string(got), "\n") != 10 || !strings.Contains(string(got), `"twice":18`) {
		t.Errorf("%s, %v", got, err)
	}
	again, err := Build(spec, Options{Resume: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Run(t.Context()); err != nil || !again.Resumed() || !again.Finished() {
		t.Errorf("a finished run, resumed: %v, %v, %v", err, again.Resumed(), again.Finished())
	}
}

// A run that cannot continue is refused before anything changes. A fault of the file has its place.
func TestRefused(t *testing.T) {
	spec := load(t, double)
	if _, err := Build(spec, Options{Resume: true, Fresh: true}); err == nil {
		t.Error("resume and fresh")
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	j, err := Build(spec, Options{Started: func(*stream.Run) { cancel(why) }})
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Run(ctx); !errors.Is(err, why) {
		t.Fatalf("cancelled: %v", err)
	}
	spec.Source.File.Paths = []string{"/nowhere/in.jsonl"}
	if faults := Check(t.Context(), spec); len(faults) != 1 || !strings.Contains(faults[0].Error(), "job.yaml:2") {
		t.Errorf("%v", faults)
	}
	_, err = Build(spec, Options{From: "3"})
	if err != nil {
		t.Fatal(err)
	}
	from, _ := Build(spec, Options{From: "3"})
	var refused *RefusedError
	if err := from.Run(t.Context()); !errors.As(err, &refused) || !strings.Contains(err.Error(), "there is no such checkpoint") {
		t.Errorf("from a checkpoint that is not there: %v", err)
	}
}

// Ask opens the file's model, and reports what does not fit.
func TestAsk(t *testing.T) {
	for text, want := range map[string]string{double: "", strings.Replace(double, "y: {field", "z: {field", 1): "z"} {
		j, err := Build(load(t, text), Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := j.Ask(t.Context()); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", want, err)
		}
	}
}

// TestOpenTimeout bounds the wait for a server when a run starts, and not that of Ask.
func TestOpenTimeout(t *testing.T) {
	away := strings.Replace(double, `sidecar: {models: {double: "mock:double"}}`+"\n", "", 1)
	for _, c := range []struct {
		keys string
		do   func(*Job, context.Context) error
	}{
		{"endpoint: 'unix:///nowhere/s', hold: 1h, open_timeout: 50ms, ", (*Job).Run},
		{"endpoint: 'unix:///nowhere/s', hold: 50ms, open_timeout: 1h, ", (*Job).Ask},
	} {
		j, err := Build(load(t, strings.Replace(away, "infer: {", "infer: {"+c.keys, 1)), Options{})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		if err := c.do(j, ctx); !errors.Is(err, sidecar.ErrUnreachable) || ctx.Err() != nil {
			t.Errorf("%s: %v", c.keys, err)
		}
		cancel()
	}
}

// TestUntouched: a run counts as touched once it has read something, even if a restart reset its
// totals, and once it runs and reads topics.
func TestUntouched(t *testing.T) {
	read := []stream.SubtaskProgress{{}, {OperatorProgress: stream.OperatorProgress{Name: SourceName, In: 7}}}
	for _, c := range []struct {
		p    stream.Progress
		want bool
	}{
		{stream.Progress{}, true},
		{stream.Progress{Worked: make([]stream.SubtaskProgress, 2)}, true},
		{stream.Progress{Worked: read}, false},
		{stream.Progress{Totals: stream.Totals{Read: 7}, Worked: read}, false},
		{stream.Progress{CheckpointsCompleted: 1}, false},
	} {
		j := &Job{spec: &job.Spec{}}
		if got := j.Untouched(&c.p); got != c.want {
			t.Errorf("%+v: %v", c.p, got)
		}
	}
	j := &Job{spec: &job.Spec{Source: job.Source{Kafka: &job.KafkaSource{}}}}
	if !j.Untouched(&stream.Progress{}) {
		t.Error("a run of topics that never ran")
	}
	j.ran.Store(true)
	if j.Untouched(&stream.Progress{}) {
		t.Error("a run of topics that ran")
	}
}

// TestPlaintextIsWarnedOf: a job warns if its records leave the machine in plaintext, and its own
// sidecar does not listen where other machines can reach it.
func TestPlaintextIsWarnedOf(t *testing.T) {
	for infer, warned := range map[string]bool{
		"endpoint: 'gpu:8001'": true, "endpoint: '192.0.2.1:8001'": true, "endpoint: '127.0.0.1:8001'": false, "endpoint: 'localhost:8001'": false,
		"endpoint: 'unix:///run/s'": false, "endpoint: 'gpu:8001', tls: {}": false,
	} {
		spec, err := job.Parse("j.yaml", t.TempDir(), []byte("name: j\nsource: {stdin: {}}\nsink: {stdout: {}}\ninfer: {model: m, "+infer+", inputs: {x: {field: x}}, outputs: {y: {field: y}}}\n"))
		if err != nil {
			t.Fatal(err)
		}
		var log bytes.Buffer
		warnPlain(spec, slog.New(slog.NewTextHandler(&log, nil)))
		if strings.Count(log.String(), "in plaintext") != map[bool]int{true: 1}[warned] {
			t.Errorf("%s: warned %v, it says %q", infer, warned, log.String())
		}
	}
	for endpoint, says := range map[string]string{"0.0.0.0:8001": "does not speak TLS", ":8001": "does not speak TLS", "127.0.0.1:8001": "", "unix:///run/s": ""} {
		spec, err := job.Parse("j.yaml", t.TempDir(), []byte("name: j\nsource: {stdin: {}}\nsink: {stdout: {}}\nsidecar: {models: {m: 'mock:double'}}\ninfer: {model: m, endpoint: '"+endpoint+
			"', inputs: {x: {field: x}}, outputs: {y: {field: y}}}\n"))
		if err != nil {
			t.Fatal(err)
		}
		if err := inference.CheckEndpoint(spec); (err == nil) != (says == "") || err != nil && !strings.Contains(err.Error(), says) {
			t.Errorf("a sidecar of the job's own at %s: %v", endpoint, err)
		}
	}
}
