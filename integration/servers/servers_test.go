//go:build integration

package servers

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/internal/pyenv"
	"github.com/tensorferry/tensorferry/sidecar"
	"github.com/tensorferry/tensorferry/tensor"
)

func TestMain(m *testing.M) { pyenv.Main(m) }

// The operator and the command against every server. The last case ends the server and starts it
// again.
func TestServers(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			s := serve(t, k)
			t.Run("digits", func(t *testing.T) { digitsJob(t, s, "digits", "") })
			if slices.Contains(s.models, "untold") {
				t.Run("digits without metadata", func(t *testing.T) { untold(t, s) })
			}
			t.Run("datatypes", func(t *testing.T) { datatypes(t, s) })
			t.Run("dynamic shapes", func(t *testing.T) { dynamicShapes(t, s) })
			t.Run("large rows", func(t *testing.T) { largeRows(t, s) })
			t.Run("mismatches", func(t *testing.T) { mismatches(t, s) })
			t.Run("failing records", func(t *testing.T) { failingRecords(t, s) })
			t.Run("slow model", func(t *testing.T) { slowModel(t, s) })
			t.Run("shared memory", func(t *testing.T) { sharedMemory(t, s) })
			if slices.Contains(s.models, "tiny") {
				t.Run("full queue", func(t *testing.T) { fullQueue(t, s) })
			}
			t.Run("killed and restarted", func(t *testing.T) { killed(t, s) })
			if s.name == "triton" {
				t.Run("killed with shared memory", func(t *testing.T) { sharedKilled(t, s) })
			}
		})
	}
}

// Triton has no option for a Unix socket, and listens on one all the same.
func TestTritonOnUnixSocket(t *testing.T) {
	dir, err := os.MkdirTemp("", "tf") // short: a socket's path has 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &server{kind: kinds[0], t: t, env: pyenv.Make(t, filepath.Join("testdata", "triton.txt")), scratch: t.TempDir(),
		socket: filepath.Join(dir, "triton.sock")}
	s.listen()
	s.start()
	digitsJob(t, s, "digits", "")
	killed(t, s)
}

// runJob starts `tensorferry run` on a job file in a folder of its own.
func runJob(t *testing.T, dir, text string) *pyenv.Process {
	t.Helper()
	path, err := pyenv.Program()
	if err != nil {
		t.Fatal(err)
	}
	job := filepath.Join(dir, "job.yaml")
	if err := os.WriteFile(job, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return pyenv.Start(t, exec.Command(path, "run", job))
}

// results are the lines that a job has written, in order.
func results(t *testing.T, dir string) []map[string]json.RawMessage {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "out", "part-*"))
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	var out []map[string]json.RawMessage
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for s := bufio.NewScanner(bytes.NewReader(text)); s.Scan(); {
			var m map[string]json.RawMessage
			if err := json.Unmarshal(s.Bytes(), &m); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			out = append(out, m)
		}
	}
	return out
}

// A model whose settings have no tensors: the server tells of none, and the job file states them.
func untold(t *testing.T, s *server) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "digits.jsonl"), []byte("{}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	p := runJob(t, dir, fmt.Sprintf("name: digits\nsource: {file: {path: digits.jsonl}}\ninfer: {endpoint: %q, model: untold}\nsink: {file: {path: out}}\n", s.endpoint()))
	if code := p.Wait(); code == 0 || !strings.Contains(p.Output(), "infer.tensors") {
		t.Errorf("without them the job ended with %d: %s", code, p.Output())
	}
	digitsJob(t, s, "untold", `  tensors:
    inputs: {pixels: {type: FP32, shape: [-1, 64]}}
    outputs: {probs: {type: FP32, shape: [-1, 10]}, label: {type: INT64, shape: [-1]}}
`)
}

// The example's digits through the command: the reference's answers, in the order of the input.
// more are lines of the infer section.
func digitsJob(t *testing.T, s *server, model, more string) {
	root, err := pyenv.Root()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, "examples", "digits", "digits.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "digits.jsonl"), text, 0o644); err != nil {
		t.Fatal(err)
	}
	p := runJob(t, dir, fmt.Sprintf(`name: digits
parallelism: 2
source: {file: {path: digits.jsonl, split_size: 32KiB}}
infer:
  endpoint: %q
  model: %s
  capacity: 256
  inputs:  {pixels: {field: pixels}}
  outputs: {label: {field: digit}, probs: {field: scores}}
%ssink: {file: {path: out}}
checkpoint: {interval: 1s, dir: state}
`, s.endpoint(), model, more))
	if code := p.Wait(); code != 0 {
		t.Fatalf("the job ended with %d", code)
	}
	var want []map[string]json.RawMessage
	for _, line := range bytes.Split(bytes.TrimSpace(text), []byte("\n")) {
		var m map[string]json.RawMessage
		if err := json.Unmarshal(line, &m); err != nil {
			t.Fatal(err)
		}
		want = append(want, m)
	}
	got := results(t, dir)
	if len(got) != len(want) || len(want) != 450 {
		t.Fatalf("%d results for %d records", len(got), len(want))
	}
	for i, m := range got {
		var reference, scores []float64
		if err := errors.Join(json.Unmarshal(want[i]["probs"], &reference), json.Unmarshal(m["scores"], &scores)); err != nil {
			t.Fatal(err)
		}
		best := 0
		for k, v := range reference {
			// The reference is written with six digits.
			if math.Abs(scores[k]-v) > 1e-5 {
				t.Errorf("record %d: scores %v; the reference is %v", i, scores, reference)
				break
			}
			if v > reference[best] {
				best = k
			}
		}
		// Triton has the label in a dimension of its own.
		if digit := strings.Trim(string(m["digit"]), "[]"); digit != fmt.Sprint(best) || string(m["id"]) != string(want[i]["id"]) {
			t.Errorf("record %d: %s says %s; want id %s, digit %d", i, m["id"], digit, want[i]["id"], best)
		}
	}
}

func ints(n int, value func(int) int32) func(func([]int32, error) bool) {
	return func(yield func([]int32, error) bool) {
		for i := range n {
			if !yield([]int32{value(i)}, nil) {
				return
			}
		}
	}
}

func oddFunction(s *server, model string) *sidecar.AsyncFunction[[]int32, []int32] {
	return sidecar.NewAsyncFunction(sidecar.Config{Endpoint: s.endpoint(), Model: model}, tensor.Values[int32, int32]("x", "y"))
}

// A model that raises for some records loses those alone, as the policy says; and fails the job
// where it says that.
func failingRecords(t *testing.T, s *server) {
	bad := func(i int) bool { return i%17 == 5 }
	in := ints(100, func(i int) int32 {
		if bad(i) {
			return 666
		}
		return int32(i)
	})
	cfg := async.Config{OnError: async.OnError{Backend: async.Drop, BadRecord: async.Drop}, Retry: async.Retry{Max: 1, Delay: 10 * time.Millisecond}}
	i := 0
	for out, err := range async.Map(t.Context(), in, oddFunction(s, "odd"), cfg) {
		if err != nil {
			t.Fatal(err)
		}
		for bad(i) {
			i++
		}
		if out[0] != int32(2*i) {
			t.Fatalf("record %d became %d", i, out[0])
		}
		i++
	}
	if i < 100 {
		t.Errorf("the results end at record %d", i)
	}
	var last error
	for _, err := range async.Map(t.Context(), in, oddFunction(s, "odd"), async.Config{}) {
		last = err
	}
	if e, ok := errors.AsType[*async.RecordError](last); !ok || !bad(int(e.Position)) || !errors.Is(last, sidecar.ErrBackend) {
		t.Errorf("the default policy: %v", last)
	}
	// A model that loses a row: not a record's results for another's.
	for _, err := range async.Map(t.Context(), ints(1, func(int) int32 { return 667 }), oddFunction(s, "odd"), async.Config{}) {
		if !errors.Is(err, sidecar.ErrBadOutput) && !errors.Is(err, sidecar.ErrBackend) {
			t.Errorf("a lost row: %v", err)
		}
	}
}

// A model that is slow meets the timeout of its record alone, and a request that was cancelled
// while it waited is never run.
func slowModel(t *testing.T, s *server) {
	os.Remove(s.executedFile())
	model := "odd"
	if slices.Contains(s.models, "tiny") {
		model = "tiny" // a row at a time, and no timeout of its own in the queue
	}
	fn := oddFunction(s, model)
	// The first takes 2.5 s; the second waits behind it, in a request of its own.
	in := func(yield func([]int32, error) bool) {
		if yield([]int32{3500}, nil) {
			p := time.NewTimer(time.Minute)
			defer p.Stop()
			for tick := time.NewTicker(10 * time.Millisecond); !slices.Contains(s.executed(), "3500"); {
				select {
				case <-tick.C:
				case <-p.C:
					t.Error("the first was not run within a minute")
					return
				}
			}
			yield([]int32{77}, nil)
		}
	}
	cfg := async.Config{Timeout: 500 * time.Millisecond, OnError: async.OnError{Timeout: async.Drop, Backend: async.Drop}}
	began := time.Now()
	n := 0
	for range async.Map(t.Context(), in, fn, cfg) {
		n++
	}
	if n != 0 {
		t.Errorf("%d results; both were too slow", n)
	}
	t.Logf("both timed out after %v", time.Since(began).Round(10*time.Millisecond))
	// When the server is free again, the second must not be run.
	for out, err := range async.Map(t.Context(), ints(1, func(int) int32 { return 78 }), fn, async.Config{Retry: async.Retry{Max: 20, Delay: 200 * time.Millisecond}}) {
		if err != nil || out[0] != 156 {
			t.Errorf("afterwards: %v, %v", out, err)
		}
	}
	ran := slices.Contains(s.executed(), "77")
	t.Logf("the cancelled request was run: %v", ran)
	if ran && s.leavesQueue {
		t.Error("the cancelled request was run")
	}
}

// Triton's max_queue_size: a full queue is back-pressure and no failure.
func fullQueue(t *testing.T, s *server) {
	cfg := sidecar.Config{Endpoint: s.endpoint(), Model: "tiny", Window: 16}
	fn := sidecar.NewAsyncFunction(cfg, tensor.Values[int32, int32]("x", "y"))
	i := 0
	for out, err := range async.Map(t.Context(), ints(120, func(i int) int32 { return 1010 }), fn, async.Config{Timeout: 30 * time.Second}) {
		if err != nil {
			t.Fatalf("record %d: %v", i, err)
		}
		if out[0] != 2020 {
			t.Errorf("record %d became %d", i, out[0])
		}
		i++
	}
	if i != 120 {
		t.Errorf("%d results", i)
	}
}

// The server is killed in mid-run and started again: every record has its result, in order.
func killed(t *testing.T, s *server) {
	os.Remove(s.executedFile())
	const n = 1500
	dir := t.TempDir()
	var in bytes.Buffer
	for i := range n {
		fmt.Fprintf(&in, "{\"id\":%d,\"x\":%d}\n", i, 1001+i%5)
	}
	if err := os.WriteFile(filepath.Join(dir, "in.jsonl"), in.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	p := runJob(t, dir, fmt.Sprintf(`name: killed
parallelism: 2
source: {file: {path: in.jsonl, split_size: 4KiB}}
infer: {endpoint: %q, model: odd, capacity: 32}
sink: {file: {path: out}}
checkpoint: {interval: 200ms, dir: state}
restart: {strategy: none}
`, s.endpoint()))
	p.Eventually("the model has run some", func() bool { return len(s.executed()) > n/5 })
	s.process.Kill()
	if len(s.executed()) >= n {
		t.Fatal("all was run before the server was killed")
	}
	s.start()
	if code := p.Wait(); code != 0 {
		t.Fatalf("the job ended with %d", code)
	}
	got := results(t, dir)
	if len(got) != n {
		t.Fatalf("%d results for %d records", len(got), n)
	}
	for i, m := range got {
		if want := fmt.Sprint(2 * (1001 + i%5)); string(m["id"]) != fmt.Sprint(i) || strings.Trim(string(m["y"]), "[]") != want {
			t.Fatalf("result %d is %s -> %s, want %s", i, m["id"], m["y"], want)
		}
	}
}
