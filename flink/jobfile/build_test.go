package jobfile

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	_ "github.com/apache/beam/sdks/v2/go/pkg/beam/runners/prism"

	"github.com/tensorferry/tensorferry/flink/internal/jobserver"
	"github.com/tensorferry/tensorferry/flink/submit"
	"github.com/tensorferry/tensorferry/job"
)

const doubling = `name: doubling
source: {file: {path: in.jsonl, split_size: 1KiB}}
sink: {file: {path: out}}
infer:
  model: double
  inputs: {x: {field: n}}
  outputs: {y: {field: twice}}
%s
sidecar: {models: {double: 'mock:double?input=x:INT64[1]'}}
`

// doublingJob is a job over n records, with some more of infer.
func doublingJob(t *testing.T, n int, more string) *job.Spec {
	t.Helper()
	dir := t.TempDir()
	var in strings.Builder
	for i := range n {
		fmt.Fprintf(&in, "{\"n\":[%d]}\n", i)
	}
	put(t, filepath.Join(dir, "in.jsonl"), in.String())
	return loadIn(t, dir, fmt.Sprintf(doubling, more))
}

func build(t *testing.T, spec *job.Spec, resumed bool) *beam.Pipeline {
	t.Helper()
	p := beam.NewPipeline()
	if err := Build(t.Context(), p, spec, resumed); err != nil {
		t.Fatal(err)
	}
	return p
}

func runLocally(t *testing.T, p *beam.Pipeline) {
	t.Helper()
	if _, err := beam.Run(context.Background(), "prism", p); err != nil {
		t.Fatal(err)
	}
}

// lines are those of all files of a folder, in the order of their names.
func lines(t *testing.T, dir string) (all []string) {
	t.Helper()
	for _, part := range strings.Split(folder(t, dir), "\n") {
		_, text, _ := strings.Cut(part, ": ")
		all = append(all, strings.Fields(text)...)
	}
	return all
}

func TestBuildAndRun(t *testing.T) {
	const n = 500
	spec := doublingJob(t, n, "")
	out := spec.Sink.File.Path
	runLocally(t, build(t, spec, false))
	check := func() {
		t.Helper()
		all := lines(t, out)
		if len(all) != n || hidden(t, out) != 0 {
			t.Fatalf("%d results, and %d files that are not seen", len(all), hidden(t, out))
		}
		for i, l := range all {
			if want := fmt.Sprintf(`{"n":[%d],"twice":%d}`, i, 2*i); l != want {
				t.Fatalf("%s where %s should be", l, want)
			}
		}
	}
	check()
	wantError(t, Build(t.Context(), beam.NewPipeline(), spec, false), "job.yaml:3:15: sink.file.path: ")
	// A job that goes on does what is missing, and nothing else.
	if err := os.Remove(filepath.Join(out, wholeName(2))); err != nil {
		t.Fatal(err)
	}
	kept := filepath.Join(out, wholeName(1))
	text, err := os.ReadFile(kept)
	if err != nil {
		t.Fatal(err)
	}
	put(t, kept, "kept\n")
	runLocally(t, build(t, spec, true))
	if got, err := os.ReadFile(kept); err != nil || string(got) != "kept\n" {
		t.Errorf("a split with results was read again: %.50s, %v", got, err)
	}
	put(t, kept, string(text))
	check()
}

func TestBuildAndRunWithDeadLetters(t *testing.T) {
	spec := doublingJob(t, 100, "  on_error: {record: dead_letter}\ndead_letter: {file: {path: failed}}")
	in := spec.Source.File.Paths[0]
	text, err := os.ReadFile(in)
	if err != nil {
		t.Fatal(err)
	}
	put(t, in, strings.Replace(string(text), "[50]", `"no"`, 1))
	for _, resumed := range []bool{false, true} { // again all is done, and there once
		runLocally(t, build(t, spec, resumed))
		if n := len(lines(t, spec.Sink.File.Path)); n != 99 {
			t.Errorf("%d results", n)
		}
		if got := folder(t, spec.DeadLetter.File.Path); !strings.Contains(got, `{"record":{"n":"no"},"class":"record","error":"`) || strings.Count(got, "record\":{") != 1 || strings.Contains(got, "position 0") {
			t.Errorf("the dead letters are\n%s", got)
		}
	}
}

// A record that failed and succeeds when the job goes on, or the other way round, is in one of the
// folders.
func TestResumeWithOtherFailures(t *testing.T) {
	const n = 100
	const good, bad = "mock:double?input=x:INT64[1]", "mock:double?input=x:INT64[1]&fault=bad@row=50"
	spec := doublingJob(t, n, "  on_error: {record: dead_letter}\ndead_letter: {file: {path: failed}}")
	for i, model := range []string{bad, good, bad} {
		spec.Sidecar.Models["double"] = job.Model{Location: model}
		runLocally(t, build(t, spec, i > 0))
		results, letters := len(lines(t, spec.Sink.File.Path)), strings.Count(folder(t, spec.DeadLetter.File.Path), `{"record":{`)
		want := 0
		if model == bad {
			want = 1
		}
		if letters != want || results != n-letters {
			t.Errorf("run %d: of %d records there are %d results and %d dead letters", i, n, results, letters)
		}
	}
}

// Whatever a job file asks for can be written down for Flink.
func TestSubmit(t *testing.T) {
	b := newBroker(t, 1, "in", "out", "failed")
	const letters = "  on_error: {record: dead_letter}\n"
	for name, spec := range map[string]*job.Spec{
		"files":                   doublingJob(t, 10, ""),
		"files, letters":          doublingJob(t, 10, letters+"dead_letter: {file: {path: failed}}"),
		"unordered":               doublingJob(t, 10, "  order: unordered"),
		"kafka to files":          b.reading("topic: in"),
		"kafka, letters":          load(t, strings.ReplaceAll(fromKafka, "h:1", b.address())+letters+"dead_letter: {file: {path: failed}}\n"),
		"kafka to kafka":          load(t, strings.ReplaceAll(pipe, "h:1", b.address())),
		"kafka to kafka, letters": load(t, strings.ReplaceAll(pipe, "h:1", b.address())+letters+"dead_letter: {kafka: {topic: failed}}\n"),
	} {
		t.Run(name, func(t *testing.T) {
			s := jobserver.Start(t, jobserver.Script{})
			o := submit.Options{JobServer: s.Address, WorkerPool: "127.0.0.1:1"}
			Options(spec, &o)
			j, err := submit.Submit(t.Context(), build(t, spec, false), o)
			if err != nil {
				t.Fatal(err)
			}
			defer j.Close()
			if s.Prepared().GetJobName() != spec.Name || len(s.Prepared().GetPipeline().GetComponents().GetTransforms()) < 4 {
				t.Errorf("it arrives as %v", s.Prepared().GetJobName())
			}
		})
	}
	wantError(t, Build(t.Context(), beam.NewPipeline(), load(t, strings.Replace(fromFiles, "file: {path: out}", "stdout: {}", 1)), false), "sink.stdout")
}
