//go:build integration

package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// The job's process is killed, again and again, and resumed: the committed bytes are those of an
// undisturbed run.
func TestJobKilledAndResumed(t *testing.T) {
	for _, endpoint := range []string{"unix", "tcp"} {
		for _, parallelism := range []int{1, 2, 4} {
			t.Run(fmt.Sprintf("%s/parallelism=%d", endpoint, parallelism), func(t *testing.T) {
				w := newWorld(t, 3000*parallelism, endpoint)
				w.mock("--latency", "10ms", "--jitter", "20ms", "--seed", fmt.Sprint(parallelism))
				job := w.job(parallelism, "")
				kills := 0
				for range 5 {
					before := w.checkpoints()
					p := start(t, "run", job, "--resume")
					eventually(t, "two checkpoints more, with calls under way", func() bool {
						begun, answered, abandoned := w.calls()
						return p.over() || w.checkpoints() >= before+2 && begun > answered+abandoned
					})
					if p.over() {
						t.Fatalf("the job ended with %d before it could be killed %d times", p.exit(), kills+1)
					}
					p.signal(syscall.SIGKILL)
					p.exit()
					kills++
					eventually(t, "the sidecar sees its caller gone", func() bool {
						begun, answered, abandoned := w.calls()
						return begun == answered+abandoned
					})
				}
				if _, _, abandoned := w.calls(); abandoned < kills {
					t.Errorf("%d calls were under way at %d kills", abandoned, kills)
				}
				if code := start(t, "run", job, "--resume").exit(); code != 0 {
					t.Fatalf("the last run ended with %d", code)
				}
				sameBytes(t, output(t, filepath.Join(w.dir, "out")), w.want)
				noPending(t, w)
			})
		}
	}
}

// noPending checks that a finished job leaves nothing but its results, and the list of them.
func noPending(t *testing.T, w *world) {
	t.Helper()
	files, err := os.ReadDir(filepath.Join(w.dir, "out"))
	if err != nil {
		t.Fatal(err)
	}
	lists := 0
	for _, f := range files {
		switch {
		case strings.HasPrefix(f.Name(), ".parts-"):
			lists++
		case !strings.HasPrefix(f.Name(), "part-"):
			t.Errorf("%s is left in the output folder", f.Name())
		}
	}
	if lists > 1 {
		t.Errorf("%d lists of the results are left in the output folder", lists)
	}
}

// The sidecar's process is killed and started again: the job goes on by itself.
func TestSidecarKilledAndRestarted(t *testing.T) {
	for _, endpoint := range []string{"unix", "tcp"} {
		for _, parallelism := range []int{1, 2, 4} {
			t.Run(fmt.Sprintf("%s/parallelism=%d", endpoint, parallelism), func(t *testing.T) {
				w := newWorld(t, 3000*parallelism, endpoint)
				latency := []string{"--latency", "10ms", "--jitter", "20ms"}
				s := w.mock(latency...)
				p := start(t, "run", w.job(parallelism, "restart: {strategy: none}\n"))
				for range 3 {
					before := w.checkpoints()
					eventually(t, "two checkpoints more, with calls under way", func() bool {
						begun, answered, abandoned := w.calls()
						return p.over() || w.checkpoints() >= before+2 && begun > answered+abandoned
					})
					if p.over() {
						t.Fatalf("the job ended with %d before the sidecar could be killed", p.exit())
					}
					s.signal(syscall.SIGKILL)
					s.exit()
					// A killed server's log has calls without an end; the next one's begins anew.
					if err := os.Remove(filepath.Join(w.dir, "calls.jsonl")); err != nil {
						t.Fatal(err)
					}
					s = w.mock(latency...)
				}
				if code := p.exit(); code != 0 {
					t.Fatalf("the job ended with %d", code)
				}
				sameBytes(t, output(t, filepath.Join(w.dir, "out")), w.want)
				noPending(t, w)
				s.signal(syscall.SIGTERM)
				if code := s.exit(); code != 0 {
					t.Errorf("the sidecar ended with %d after SIGTERM", code)
				}
				if path, ok := strings.CutPrefix(w.endpoint, "unix://"); ok {
					if _, err := os.Stat(path); err == nil {
						t.Error("the socket file is left")
					}
				}
			})
		}
	}
}

// A signal stops with a checkpoint; what a second run may and may not do; --resume completes it.
func TestStopAndResume(t *testing.T) {
	for signal, code := range map[syscall.Signal]int{syscall.SIGINT: 130, syscall.SIGTERM: 143} {
		t.Run(signal.String(), func(t *testing.T) {
			w := newWorld(t, 4000, "unix")
			w.mock("--latency", "10ms", "--jitter", "20ms")
			job := w.job(2, "")
			p := start(t, "run", job)
			eventually(t, "two checkpoints", func() bool { return w.checkpoints() >= 2 || p.over() })
			second := start(t, "run", job, "--resume")
			if got := second.exit(); got != 2 || !strings.Contains(second.out.String(), fmt.Sprint(p.cmd.Process.Pid)) {
				t.Errorf("a second run beside it: exit %d, %s; want 2, and the first one's process", got, second.out.String())
			}
			p.signal(signal)
			if got := p.exit(); got != code || !strings.Contains(p.out.String(), "stopped, resumable") {
				t.Fatalf("exit %d, want %d:\n%s", got, code, p.out.String())
			}
			sofar := output(t, filepath.Join(w.dir, "out"))
			if len(sofar) == 0 || !bytes.HasPrefix(w.want, firstSplit(t, w)) {
				t.Error("what is committed at a stop is no part of the answer")
			}
			refused := start(t, "run", job)
			if got := refused.exit(); got != 2 || !strings.Contains(refused.out.String(), "--resume") || !strings.Contains(refused.out.String(), "--fresh") {
				t.Errorf("a run over an unfinished one: exit %d, %s; want 2 and what to do", got, refused.out.String())
			}
			// Another parallelism is fine.
			if got := start(t, "run", w.job(3, ""), "--resume").exit(); got != 0 {
				t.Fatalf("resumed: exit %d", got)
			}
			sameBytes(t, output(t, filepath.Join(w.dir, "out")), w.want)
			if got := start(t, "run", job, "--resume").exit(); got != 0 {
				t.Errorf("--resume of a finished run: exit %d, want 0", got)
			}
			sameBytes(t, output(t, filepath.Join(w.dir, "out")), w.want)
			noPending(t, w)
		})
	}
}

// firstSplit is what the first split has committed.
func firstSplit(t *testing.T, w *world) []byte {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(w.dir, "out", "part-00000-*"))
	if err != nil || len(names) == 0 {
		t.Fatalf("no part of the first split (%v)", err)
	}
	var all []byte
	for _, n := range names {
		b, err := os.ReadFile(n)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b...)
	}
	return all
}

// Real digits through a real model in a sidecar process of its own.
func TestDigitsThroughASidecarProcess(t *testing.T) {
	example, err := filepath.Abs("../examples/digits")
	if err != nil {
		t.Fatal(err)
	}
	for _, endpoint := range []string{"unix", "tcp"} {
		dir := t.TempDir()
		if endpoint == "unix" {
			endpoint = "unix://" + filepath.Join(dir, "digits.sock")
		} else {
			endpoint = freeAddress(t)
		}
		s := start(t, "sidecar", "--listen", endpoint, "--model", "digits="+filepath.Join(example, "digits.onnx")).waitFor("ready")
		job := filepath.Join(dir, "job.yaml")
		text := fmt.Sprintf(`name: digits
parallelism: 2
source: {file: {path: %q, split_size: 32KiB}}
infer: {endpoint: %q, model: digits, inputs: {pixels: {field: pixels}}, outputs: {label: {field: digit}, probs: {field: scores}}}
sink: {file: {path: out}}
`, filepath.Join(example, "digits.jsonl"), endpoint)
		if err := os.WriteFile(job, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if code := start(t, "run", job).exit(); code != 0 {
			t.Fatalf("exit %d", code)
		}
		right, n := 0, 0
		for line := range bytes.Lines(output(t, filepath.Join(dir, "out"))) {
			var r struct {
				Label, Digit  int
				Probs, Scores []float64
			}
			if err := json.Unmarshal(line, &r); err != nil {
				t.Fatal(err)
			}
			n++
			if r.Label == r.Digit {
				right++
			}
			for i := range r.Probs {
				if math.Abs(r.Probs[i]-r.Scores[i]) > 1e-4 {
					t.Fatalf("line %d: score %d is %v, want %v", n, i, r.Scores[i], r.Probs[i])
				}
			}
		}
		if n != 450 || right != 439 {
			t.Errorf("%d of %d right; want 439 of 450", right, n)
		}
		s.signal(syscall.SIGTERM)
		if code := s.exit(); code != 0 {
			t.Errorf("the sidecar ended with %d", code)
		}
	}
}
