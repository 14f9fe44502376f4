package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/tensorferry/tensorferry/internal/cli"
	"github.com/tensorferry/tensorferry/stream/checkpoint"
)

// console gathers what a command writes, and sends it the signals of steps, each
// when the text before it has appeared.
type console struct {
	mu      sync.Mutex
	text    bytes.Buffer
	steps   []step
	signals chan os.Signal
}

// step is a signal that is sent when a text has appeared and, at a later write, its condition
// holds.
type step struct {
	text   string
	signal syscall.Signal
	when   func() bool
}

func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.text.Write(p)
	for len(c.steps) > 0 && strings.Contains(c.text.String(), c.steps[0].text) && (c.steps[0].when == nil || c.steps[0].when()) {
		c.signals <- c.steps[0].signal
		c.steps = c.steps[1:]
	}
	return len(p), nil
}

func (c *console) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.text.String()
}

// shell runs commands in a folder of their own.
type shell struct {
	*testing.T
	dir string
	// brokers are those of the first half of a past that is resumed in the same test; "": none.
	brokers string
}

func newShell(t *testing.T) *shell {
	s := &shell{T: t, dir: t.TempDir()}
	t.Chdir(s.dir)
	return s
}

func (s *shell) write(name, content string) {
	s.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(content), 0o600); err != nil {
		s.Fatal(err)
	}
}

// run runs a command that must end with this code.
func (s *shell) run(code int, args ...string) result {
	s.Helper()
	return s.check(code, try(args...), args)
}

func (s *shell) check(code int, r result, args []string) result {
	s.Helper()
	if r.code != code {
		s.Fatalf("tensorferry %s: exit code %d, want %d\nstdout:\n%s\nstderr:\n%s", strings.Join(args, " "), r.code, code, r.out, r.errors)
	}
	return r
}

// runUntil runs a command and sends it signals.
func (s *shell) runUntil(code int, steps []step, args ...string) result {
	s.Helper()
	var out bytes.Buffer
	errs := &console{steps: steps, signals: make(chan os.Signal, len(steps))}
	got := program.Run(&cli.World{Stdout: &out, Stderr: errs, Signals: errs.signals}, args)
	return s.check(code, result{got, out.String(), errs.String()}, args)
}

// output is what `cat out/part-*` shows.
func (s *shell) output() string {
	s.Helper()
	return s.cat("out")
}

func (s *shell) cat(dir string) string {
	s.Helper()
	parts, err := filepath.Glob(filepath.Join(s.dir, dir, "part-*"))
	if err != nil {
		s.Fatal(err)
	}
	var all strings.Builder
	for _, p := range parts {
		b, err := os.ReadFile(p)
		if err != nil {
			s.Fatal(err)
		}
		all.Write(b)
	}
	return all.String()
}

func (s *shell) contains(what, text string, wants ...string) {
	s.Helper()
	for _, want := range wants {
		if !strings.Contains(text, want) {
			s.Errorf("%s is\n%s\nwant %q in it", what, text, want)
		}
	}
}

// leftovers are files that a run must not leave beside its results.
func (s *shell) leftovers() {
	s.Helper()
	found, err := filepath.Glob(filepath.Join(s.dir, "*", ".pending*"))
	if err != nil || len(found) > 0 {
		s.Errorf("left behind: %v, %v", found, err)
	}
}

// TestDigits runs the example twice, as a new user would.
func TestDigits(t *testing.T) {
	example, err := filepath.Abs("../../examples/digits")
	if err != nil {
		t.Fatal(err)
	}
	s := newShell(t)
	for _, name := range []string{"digits.jsonl", "digits.onnx", "job.yaml"} {
		data, err := os.ReadFile(filepath.Join(example, name))
		if err != nil {
			t.Fatal(err)
		}
		s.write(name, string(data))
	}
	s.contains("validate", s.run(exitOK, "validate", "--connect", "job.yaml").out, "job.yaml: ok")
	s.contains("stdout", s.run(exitOK, "run", "job.yaml").out,
		"digits: finished in", "450 records read, 450 results in "+filepath.Join(s.dir, "out"), "restarts 0")
	first := s.output()
	checkDigits(s, first)
	s.leftovers()

	s.run(exitOK, "run", "job.yaml")
	if s.output() != first {
		t.Error("the second run left other results than the first")
	}
	s.contains("stdout", s.run(exitOK, "run", "job.yaml", "--resume").out, "the run was already finished; its results are in")
	if s.output() != first {
		t.Error("resuming the finished run changed its results")
	}
	s.contains("inspect", s.run(exitOK, "checkpoint", "inspect", "out/.checkpoints").out, "job digits, run ", "finished", "read", "450")
}

// checkDigits compares results with the reference answers that the input has.
func checkDigits(s *shell, output string) {
	s.Helper()
	input, err := os.ReadFile("digits.jsonl")
	if err != nil {
		s.Fatal(err)
	}
	in, out := bufio.NewScanner(bytes.NewReader(input)), bufio.NewScanner(strings.NewReader(output))
	right, n := 0, 0
	for ; in.Scan(); n++ {
		if !out.Scan() {
			s.Fatalf("the results end after %d", n)
		}
		var r struct {
			ID, Label, Digit int
			Probs, Scores    []float64
		}
		if err := json.Unmarshal(out.Bytes(), &r); err != nil {
			s.Fatalf("result %d: %v", n, err)
		}
		// The record's own bytes come first, digit for digit, so order and fields are right.
		if want := strings.TrimSuffix(in.Text(), "}"); !strings.HasPrefix(out.Text(), want+",") {
			s.Fatalf("result %d is\n%s\nwant it to begin with\n%s", n, out.Text(), want)
		}
		if r.Digit == r.Label {
			right++
		}
		if len(r.Scores) != 10 || len(r.Probs) != 10 {
			s.Fatalf("result %d has %d scores and %d probs", n, len(r.Scores), len(r.Probs))
		}
		for i := range r.Scores {
			if !(math.Abs(r.Scores[i]-r.Probs[i]) <= 1e-4) {
				s.Fatalf("result %d: score %d is %v, want %v within 1e-4", n, i, r.Scores[i], r.Probs[i])
			}
		}
	}
	if out.Scan() {
		s.Errorf("there are more results than records: %s", out.Text())
	}
	if n != 450 || right != 439 {
		s.Errorf("%d of %d digits are right, want 439 of 450", right, n)
	}
}

// many records take the slow sidecar so long that a job is always stopped midway,
// however slow the disk is.
const many = 10_000

// doubles is a job whose answers come slowly enough to be stopped midway.
func doubles(extra string) string {
	return `
name: doubles
parallelism: 2
source: {file: {path: in.jsonl, split_size: 2KiB}}
infer:
  model: double
  capacity: 16
  inputs: {x: {field: n}}
  outputs: {y: {field: twice}}
sink: {file: {path: out}}
` + extra
}

const (
	slowSidecar  = "sidecar: {models: {double: 'mock:double?input=x:INT64[1]&latency=0s+3ms'}}\n"
	quickSidecar = "sidecar: {models: {double: 'mock:double?input=x:INT64[1]'}}\n"
)

func numbers(n int) (in, out string) {
	var a, b strings.Builder
	for i := range n {
		fmt.Fprintf(&a, "{\"n\": %d}\n", i)
		fmt.Fprintf(&b, "{\"n\": %d,\"twice\":%d}\n", i, 2*i)
	}
	return a.String(), b.String()
}

func TestStopAndResume(t *testing.T) {
	s := newShell(t)
	in, want := numbers(many)
	s.write("in.jsonl", in)
	s.write("job.yaml", doubles("checkpoint: {interval: 10ms}\n"+slowSidecar))

	// A checkpoint of a reader that has not read yet completes too.
	var before string
	grown := func() bool { return len(s.output()) > len(before) }
	stop := []step{{"checkpoint completed", syscall.SIGTERM, grown}}
	r := s.runUntil(143, stop, "run", "job.yaml", "--log-level=debug")
	s.contains("stderr", r.errors, "doubles: stopped, resumable: continue with --resume")
	half := s.output()
	if !isPart(want, half) || half == "" || half == want {
		t.Fatalf("after the stop there are %d bytes of results, want a part of %d", len(half), len(want))
	}
	s.leftovers()

	dir := filepath.Join(s.dir, "out", ".checkpoints")
	s.contains("stderr", s.run(exitUsage, "run", "job.yaml").errors,
		dir+" holds an unfinished run (at checkpoint ", "continue with --resume or discard with --fresh")
	s.write("other.yaml", strings.Replace(doubles("checkpoint: {interval: 10ms}\n"+slowSidecar), "field: twice", "field: double", 1))
	s.contains("stderr", s.run(exitUsage, "run", "--resume", "other.yaml").errors, "cannot be resumed", `fields was "x from`, "discard the run with --fresh")
	s.write("in2.jsonl", in)
	s.write("other.yaml", strings.Replace(doubles(quickSidecar), "in.jsonl", "in2.jsonl", 1))
	s.contains("stderr", s.run(exitUsage, "run", "--resume", "other.yaml").errors, "cannot be resumed", "source was ")
	if s.output() != half {
		t.Error("a refused run changed the results")
	}

	// Everything changes that may differ between two processes of a run.
	s.write("job.yaml", strings.Replace(doubles("checkpoint: {interval: 10ms}\n"+slowSidecar), "parallelism: 2", "parallelism: 3", 1))
	before = half
	s.runUntil(130, []step{{"checkpoint completed", syscall.SIGINT, grown}}, "run", "job.yaml", "--resume", "--log-level=debug")
	if now := s.output(); !isPart(want, now) || len(now) <= len(half) {
		t.Errorf("the second life added nothing: %d bytes, then %d", len(half), len(now))
	}
	s.write("job.yaml", doubles(quickSidecar))
	s.write("in.jsonl", in+"{\"n\": -1}\n") // is another run's
	s.contains("stderr", s.run(exitOK, "run", "job.yaml", "--resume").errors, "a file has grown since the run began")
	if s.output() != want {
		t.Error("the results after two stops are not those of an undisturbed run")
	}
	s.leftovers()

	// A finished run is replaced completely.
	in, want = numbers(3)
	s.write("in.jsonl", in)
	s.run(exitOK, "run", "job.yaml")
	if got := s.output(); got != want {
		t.Errorf("after a new run the results are\n%s\nwant\n%s", got, want)
	}
}

// isPart reports whether every line of part is one of whole's, in its order.
func isPart(whole, part string) bool {
	lines := strings.SplitAfter(whole, "\n")
	for line := range strings.Lines(part) {
		for len(lines) > 0 && lines[0] != line {
			lines = lines[1:]
		}
		if len(lines) == 0 {
			return false
		}
		lines = lines[1:]
	}
	return true
}

// TestFrom returns to an older checkpoint: results that were published since are replaced.
func TestFrom(t *testing.T) {
	s := newShell(t)
	in, want := numbers(many)
	s.write("in.jsonl", in)
	s.write("job.yaml", doubles("checkpoint: {interval: 10ms, retain: 100}\n"+slowSidecar))
	s.runUntil(143, []step{{"checkpoint completed\" checkpoint=3", syscall.SIGTERM, nil}}, "run", "job.yaml", "--log-level=debug")
	before := s.output()
	s.contains("stderr", s.run(exitUsage, "run", "job.yaml", "--from", "99").errors, "there is no such checkpoint: 99; the newest run has 1, 2, 3", "and 0, which is its beginning")
	if s.output() != before {
		t.Error("a refused run changed the results")
	}
	s.runUntil(143, []step{{"checkpoint completed", syscall.SIGTERM, nil}}, "run", "job.yaml", "--from", "1", "--log-level=debug")
	if now := s.output(); !isPart(want, now) {
		t.Errorf("after going back the results are\n%s", now)
	}
	s.runUntil(143, []step{{"checkpoint completed", syscall.SIGTERM, nil}}, "run", "job.yaml", "--from", "0", "--log-level=debug")
	if now := s.output(); !isPart(want, now) {
		t.Errorf("after going back to the beginning the results are\n%s", now)
	}
	s.write("job.yaml", doubles(quickSidecar))
	s.run(exitOK, "run", "job.yaml", "--resume")
	if s.output() != want {
		t.Error("the results after going back are not those of an undisturbed run")
	}
	s.leftovers()
}

func TestFreshDiscards(t *testing.T) {
	s := newShell(t)
	in, want := numbers(many)
	s.write("in.jsonl", in)
	s.write("job.yaml", doubles("checkpoint: {interval: 10ms}\n"+slowSidecar))
	s.runUntil(143, []step{{"checkpoint completed", syscall.SIGTERM, nil}}, "run", "job.yaml", "--log-level=debug")
	s.write("job.yaml", doubles(quickSidecar))
	s.run(exitOK, "run", "job.yaml", "--fresh")
	if s.output() != want {
		t.Error("the fresh run's results are not those of an undisturbed run")
	}
}

// hangs is a job whose model never answers. That a checkpoint failed shows that
// calls are in progress; the next one has not failed by the time of the stop.
const hangs = "checkpoint: {interval: 1s, timeout: 500ms, tolerable_failures: 1000000}\n" +
	"sidecar: {models: {double: 'mock:double?input=x:INT64[1]&fault=hang@all'}}\n"

// TestSecondSignal: a model that never answers cannot be drained, and the second
// signal does not wait for it.
func TestSecondSignal(t *testing.T) {
	s := newShell(t)
	in, want := numbers(10)
	s.write("in.jsonl", in)
	s.write("job.yaml", doubles(hangs))
	r := s.runUntil(143, []step{{"a checkpoint failed", syscall.SIGTERM, nil}, {"stopping with a checkpoint", syscall.SIGINT, nil}}, "run", "job.yaml")
	s.contains("stderr", r.errors, "stopped, resumable", "a second signal")
	if got := s.output(); got != "" {
		t.Errorf("results of an unfinished run: %s", got)
	}
	s.leftovers()
	s.contains("stderr", s.run(exitUsage, "run", "job.yaml").errors, "before its first checkpoint")
	// The beginning of the run is kept. The job file may change, except where it reads and
	// writes.
	s.contains("inspect", s.run(exitOK, "checkpoint", "inspect", "out/.checkpoints").out, "unfinished", "chk-00000000", "checkpoint  0\n")
	good := doubles(quickSidecar)
	s.write("job.yaml", strings.Replace(good, "in.jsonl", "other.jsonl", 1))
	s.write("other.jsonl", in)
	s.contains("stderr", s.run(exitUsage, "run", "job.yaml", "--resume").errors, "source was ", "discard the run with --fresh")
	s.write("job.yaml", strings.Replace(good, "{field: twice}", "{field: double}", 1))
	s.run(exitOK, "run", "job.yaml", "--resume")
	if got := s.output(); got != strings.ReplaceAll(want, "twice", "double") {
		t.Errorf("the mended job gave\n%s", got)
	}
}

// TestStopTimeout: stop_timeout ends the job like a second signal.
func TestStopTimeout(t *testing.T) {
	s := newShell(t)
	in, _ := numbers(10)
	s.write("in.jsonl", in)
	s.write("job.yaml", doubles("stop_timeout: 1ms\n"+hangs))
	r := s.runUntil(130, []step{{"a checkpoint failed", syscall.SIGINT, nil}}, "run", "job.yaml")
	s.contains("stderr", r.errors, "stopped, resumable", "stopping took longer than stop_timeout")
}

// TestStopWhileTheServerIsAwaited: the job has read nothing, so it stops at once.
func TestStopWhileTheServerIsAwaited(t *testing.T) {
	s := newShell(t)
	in, _ := numbers(10)
	s.write("in.jsonl", in)
	s.write("job.yaml", strings.Replace(doubles("stop_timeout: 1h\n"), "infer:\n", "infer:\n  hold: 1h\n  endpoint: unix://"+s.dir+"/none.sock\n", 1))
	r := s.runUntil(129, []step{{"none.sock", syscall.SIGHUP, nil}}, "run", "job.yaml", "--log-level=debug")
	s.contains("stderr", r.errors, "doubles: stopped before it began")
}

// TestMistakes: each mistake is one message with its place, and leaves nothing that would disturb
// the corrected job.
func TestMistakes(t *testing.T) {
	s := newShell(t)
	in, want := numbers(5)
	s.write("in.jsonl", in)
	good := doubles(quickSidecar)
	cases := []struct {
		name, job string
		code      int
		wants     []string
	}{
		{"no such model file", doubles("sidecar: {models: {double: absent.onnx}}\n"), exitUsage,
			[]string{"job.yaml:11:20: sidecar.models.double: no such file: " + filepath.Join(s.dir, "absent.onnx")}},
		{"no such backend", doubles("sidecar: {models: {double: model.pt}}\n"), exitUsage,
			[]string{"job.yaml:11:20: sidecar.models.double: no backend for a file with the extension"}},
		{"no such input", strings.Replace(good, "in.jsonl", "absent.jsonl", 1), exitUsage,
			[]string{"job.yaml:4:17: source.file.path: ", "absent.jsonl: no such file"}},
		{"a bad endpoint", strings.Replace(good, "infer:\n", "infer:\n  endpoint: unix://x.sock\n", 1), exitUsage,
			[]string{"job.yaml:6:3: infer.endpoint: endpoint \"unix://x.sock\": the path must be absolute"}},
		{"a mapping that does not suit", strings.Replace(good, "inputs: {x:", "inputs: {z:", 1), exitFailed,
			[]string{"does not fit the model", `the model has no input "z"`, "x INT64[1]"}},
		{"a model that fails to load", doubles("sidecar: {models: {double: 'mock:double?load_error=boom'}}\n"), exitFailed,
			[]string{"the job's sidecar: model \"double\"", "boom"}},
		{"nobody listens", doubles(""), exitUsage, []string{"infer.endpoint: missing"}},
		{"an endpoint that nobody serves", strings.Replace(doubles(""), "infer:\n", "infer:\n  hold: 2s\n  endpoint: unix://"+s.dir+"/none.sock\n", 1), exitFailed,
			[]string{"none.sock", "no such file"}},
		{"the same, where failures restart the job", strings.Replace(doubles("checkpoint: {interval: 10ms}\n"), "infer:\n", "infer:\n  hold: 2s\n  endpoint: unix://"+s.dir+"/none.sock\n", 1), exitFailed,
			[]string{`job "doubles" failed: open infer`, "none.sock", "no such file"}},
		{"an option that the model does not have", doubles("sidecar: {models: {double: {file: 'mock:double', options: {fault_: x}}}}\n"), exitUsage,
			[]string{"job.yaml:11:20: sidecar.models.double: ", `unknown option "fault_"`}},
		{"a sink that is a file", strings.Replace(good, "path: out}", "path: in.jsonl}", 1), exitUsage,
			[]string{"sink.file.path: ", "in.jsonl is a file; want a folder"}},
		{"a folder with foreign parts", strings.Replace(good, "path: out}", "path: foreign}", 1), exitFailed, []string{"foreign"}},
	}
	if err := os.Mkdir("foreign", 0o700); err != nil {
		t.Fatal(err)
	}
	s.write("foreign/part-00000-00000.jsonl", "{}\n")
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s := &shell{T: t, dir: s.dir}
			s.write("job.yaml", c.job)
			s.contains("stderr", s.run(c.code, "run", "job.yaml", "--log-level=error").errors, c.wants...)
		})
	}
	s.write("job.yaml", good)
	s.run(exitOK, "run", "job.yaml")
	if got := s.output(); got != want {
		t.Errorf("after the mistakes the results are\n%s\nwant\n%s", got, want)
	}
}

// TestBadRecord: a record that cannot be encoded ends the job, and the error names it.
func TestBadRecord(t *testing.T) {
	s := newShell(t)
	s.write("in.jsonl", "{\"n\": 1}\n{\"n\": \"two\"}\n")
	s.write("job.yaml", doubles("checkpoint: {interval: 1h}\n"+quickSidecar))
	s.contains("stderr", s.run(exitFailed, "run", "job.yaml").errors, "tensorferry run: ", "split 0, position 9", "class record", `n`,
		"(the record is at byte 9 of "+filepath.Join(s.dir, "in.jsonl")+")")
	if got := s.output(); got != "" {
		t.Errorf("results of a failed run: %s", got)
	}
}

func TestLockedFolder(t *testing.T) {
	s := newShell(t)
	s.write("in.jsonl", "{\"n\": 1}\n")
	s.write("job.yaml", doubles(quickSidecar))
	store, err := checkpoint.Open(filepath.Join(s.dir, "out", ".checkpoints"), checkpoint.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s.contains("stderr", s.run(exitUsage, "run", "job.yaml").errors, "is in use by", fmt.Sprint(os.Getpid()))
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	s.run(exitOK, "run", "job.yaml")
}

// closedPipe is standard output whose reader has gone.
type closedPipe struct{}

func (closedPipe) Write([]byte) (int, error) { return 0, syscall.EPIPE }

// TestClosedPipe: a closed pipe ends the job, because a restart cannot open it again.
func TestClosedPipe(t *testing.T) {
	s := newShell(t)
	in, _ := numbers(10)
	s.write("in.jsonl", in)
	s.write("job.yaml", strings.Replace(doubles("restart: {strategy: exponential-delay}\n"+quickSidecar), "{file: {path: out}}", "{stdout: {}}", 1))
	var errs bytes.Buffer
	if code := program.Run(&cli.World{Stdout: closedPipe{}, Stderr: &errs}, []string{"run", "job.yaml"}); code != exitFailed {
		t.Errorf("exit code %d", code)
	}
	s.contains("stderr", errs.String(), "the reader of standard output has closed it")
}

// TestPipe: from standard input to standard output. The JSON log and the summary do not mix with
// the results.
func TestPipe(t *testing.T) {
	s := newShell(t)
	in, want := numbers(100)
	s.write("in.jsonl", in)
	f, err := os.Open("in.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s.write("job.yaml", `
name: pipe
source: {stdin: }
infer: {model: double, outputs: {y: {field: twice}}, inputs: {x: {field: n}}}
sink: {stdout: }
sidecar: {models: {double: 'mock:double?input=x:INT64[1]'}}
log: {format: json}
`)
	var out, errs bytes.Buffer
	code := program.Run(&cli.World{Stdin: f, Stdout: &out, Stderr: &errs}, []string{"run", "job.yaml"})
	s.check(exitOK, result{code, out.String(), errs.String()}, nil)
	if out.String() != want {
		t.Errorf("stdout is\n%s\nwant\n%s", out.String(), want)
	}
	s.contains("stderr", errs.String(), "pipe: finished in", "100 records read, 100 results in standard output", `"msg":"running"`)
	s.contains("stderr", s.run(exitUsage, "run", "--resume", "job.yaml").errors, "the job keeps no checkpoints, so there is nothing to resume")
}

// TestLiveView: on a terminal the block is drawn and removed, and the summary remains.
func TestLiveView(t *testing.T) {
	s := newShell(t)
	in, _ := numbers(500)
	s.write("in.jsonl", in)
	s.write("job.yaml", doubles("checkpoint: {interval: 50ms}\n"+slowSidecar))
	var out bytes.Buffer
	errs := &console{}
	code := program.Run(&cli.World{Stdout: &out, Stderr: errs, Size: func() (int, int) { return 100, 30 }}, []string{"run", "job.yaml"})
	s.check(exitOK, result{code, out.String(), errs.String()}, nil)
	s.contains("stderr", errs.String(), "doubles  running", "records      in ", "in flight", "latency      p50 ", "connected", "checkpoints  ", "restarts 0", "\x1b[A")
	if !strings.HasSuffix(errs.String(), "\x1b[A\x1b[2K") {
		t.Errorf("the block is still there at the end: %q", errs.String()[max(0, errs.text.Len()-200):])
	}
	s.contains("stdout", out.String(), "500 records read, 500 results")
}
