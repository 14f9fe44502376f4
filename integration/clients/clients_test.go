//go:build integration

// Package clients runs programs of other people against the sidecar's process: NVIDIA's Python
// client and its load generator, a Kubernetes health probe's call and gRPC reflection.
package clients

import (
	"bufio"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tensorferry/tensorferry/internal/pyenv"
)

// example is a file of the digits example.
func example(t *testing.T, name string) string {
	t.Helper()
	root, err := pyenv.Root()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(root, "examples", "digits", name)
}

// served is a running sidecar.
type served struct{ tcp, unix, health string }

// serve starts the sidecar with a repository of the digits model.
func serve(t *testing.T) served {
	t.Helper()
	path, err := pyenv.Program()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "tf") // short: a socket's path has 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	model, err := os.ReadFile(example(t, "digits.onnx"))
	if err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(dir, "models", "digits", "1")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "model.onnx"), model, 0o644); err != nil {
		t.Fatal(err)
	}
	p := pyenv.Start(t, exec.Command(path, "sidecar", "--listen", "127.0.0.1:0", "--listen", "unix://"+filepath.Join(dir, "s.sock"), "--health", "127.0.0.1:0",
		"--repository", filepath.Join(dir, "models"), "--model-control", "explicit", "--load", "digits",
		"--shared-memory-over-tcp")) // perf_analyzer and some of the examples know TCP alone
	p.Eventually("it is ready", func() bool { return strings.Count(p.Output(), "ready: ") == 3 })
	said := func(what string) string {
		_, rest, _ := strings.Cut(p.Output(), "ready: "+what+" on 127.")
		addr, _, _ := strings.Cut(rest, "\n")
		return "127." + addr
	}
	return served{tcp: said("gRPC"), unix: "unix:" + filepath.Join(dir, "s.sock"), health: said("health")}
}

// inFlight is how many requests the sidecar has that are not answered, and how many it has
// answered, by its own metrics.
func (s served) inFlight(t *testing.T) (inFlight, answered float64) {
	t.Helper()
	resp, err := http.Get("http://" + s.health + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	defer http.DefaultClient.CloseIdleConnections()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), " ")
		n, _ := strconv.ParseFloat(value, 64)
		switch name, _, _ := strings.Cut(name, "{"); name {
		case "tensorferry_sidecar_in_flight_requests":
			inFlight += n
		case "tensorferry_sidecar_requests_total":
			answered += n
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return inFlight, answered
}

func TestTritonClient(t *testing.T) {
	env := pyenv.Make(t, "testdata/clients.txt")
	s := serve(t)
	for name, endpoint := range map[string]string{"tcp": s.tcp, "unix": s.unix} {
		t.Run(name, func(t *testing.T) {
			p := pyenv.Start(t, env.Command("python", "testdata/clients.py", endpoint, example(t, "digits.jsonl")))
			if code := p.Wait(); code != 0 {
				t.Fatalf("it ended with %d", code)
			}
			if n := strings.Count(p.Output(), "ok "); n != 10 {
				t.Errorf("%d cases", n)
			}
		})
	}
}

// NVIDIA's perf_analyzer as it comes in a release of the client, each way for a bounded number of
// requests.
func TestPerfAnalyzer(t *testing.T) {
	env := pyenv.Make(t, "testdata/perf.txt")
	libs := libraries(t)
	s := serve(t)
	for _, c := range []struct {
		name string
		args []string
	}{
		{"sync", []string{"-u", s.tcp, "--concurrency-range", "4"}},
		{"async", []string{"-u", s.tcp, "--async", "--concurrency-range", "8"}},
		{"batch", []string{"-u", s.tcp, "-b", "8", "--concurrency-range", "4"}},
		{"stream", []string{"-u", s.tcp, "--streaming", "--concurrency-range", "8"}},
		{"shared memory", []string{"-u", s.tcp, "--shared-memory", "system", "--output-shared-memory-size", "1024", "--concurrency-range", "4"}},
		{"gzip", []string{"-u", s.tcp, "--grpc-compression-algorithm", "gzip", "--concurrency-range", "2"}},
		{"unix", []string{"-u", s.unix, "--concurrency-range", "4"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := perform(t, s, func() *exec.Cmd {
				cmd := env.Command("perf_analyzer", append([]string{"-m", "digits", "-i", "grpc", "--request-count", "400"}, c.args...)...)
				cmd.Env = append(cmd.Env, "LD_LIBRARY_PATH="+libs)
				return cmd
			})
			out := p.Output()
			// It asks for the statistics while its last requests are under way.
			var n int
			if _, text, ok := strings.Cut(out, "Successful request count: "); ok {
				fmt.Sscan(text, &n)
			}
			if n < 350 || n > 450 || !strings.Contains(out, "compute infer") || !strings.Contains(out, "throughput: ") {
				t.Errorf("%d requests counted; it says\n%s", n, out)
			}
			if strings.Contains(out, "throughput: 0 ") || strings.Contains(out, "Failed") {
				t.Errorf("it says\n%s", out)
			}
		})
	}
}

// perform runs perf_analyzer to its end. With --async it was seen, once in hundreds of runs, to
// wait for ever: it is run again if the sidecar has answered all that it was asked. A request that
// the sidecar does not answer fails the test.
func perform(t *testing.T, s served, command func() *exec.Cmd) *pyenv.Process {
	t.Helper()
	for range 3 {
		_, before := s.inFlight(t)
		p := pyenv.Start(t, command())
		if p.Ends(2 * time.Minute) {
			if code := p.Wait(); code != 0 {
				t.Fatalf("it ended with %d", code)
			}
			return p
		}
		n, after := s.inFlight(t)
		if n != 0 || after == before {
			t.Fatalf("it does not end: %v requests are not answered, %v were", n, after-before)
		}
		t.Logf("it does not end, though all of its %v requests are answered", after-before)
		p.Kill()
	}
	t.Fatal("it never ends")
	return nil
}

// libraries returns a folder with what perf_analyzer is linked with beside the system's: both lie
// in the package that brings Triton.
func libraries(t *testing.T) string {
	t.Helper()
	triton := pyenv.Make(t, "../servers/testdata/triton.txt")
	dir := t.TempDir()
	for name, pattern := range map[string]string{"libb64.so.0d": "libb64-*.so.0d", "libcudart.so.12": "libcudart-*.so.12*"} {
		found, _ := filepath.Glob(filepath.Join(triton.Dir, "lib", "python3*", "site-packages", "nvidia_pytriton.libs", pattern))
		if len(found) == 0 {
			t.Fatalf("no %s in %s", pattern, triton.Dir)
		}
		if err := os.Symlink(found[0], filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
