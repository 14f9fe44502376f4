//go:build integration

package integration

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tensorferry/tensorferry/internal/pyenv"
)

func TestMain(m *testing.M) { pyenv.Main(m) }

// process is a running tensorferry.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	out  lockedBuffer
	done chan struct{} // closed when it has ended
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// start runs a command of the program; it is killed at the end of the test at the latest.
func start(t *testing.T, args ...string) *process {
	t.Helper()
	path, err := pyenv.Program()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, cmd: exec.Command(path, args...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		<-p.done
		if t.Failed() {
			t.Logf("%s printed:\n%s", strings.Join(args, " "), p.out.String())
		}
	})
	return p
}

func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatalf("signal %v: %v", s, err)
	}
}

func (p *process) over() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// exit waits for the end and returns the exit code, -1 after a kill.
func (p *process) exit() int {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(time.Minute):
		p.t.Fatalf("it does not end; so far it printed:\n%s", p.out.String())
	}
	return p.cmd.ProcessState.ExitCode()
}

func (p *process) waitFor(text string) *process {
	p.t.Helper()
	eventually(p.t, "it prints "+text, func() bool {
		if p.over() && !strings.Contains(p.out.String(), text) {
			p.t.Fatalf("it ended with %d and never printed %q:\n%s", p.exit(), text, p.out.String())
		}
		return strings.Contains(p.out.String(), text)
	})
	return p
}

// eventually looks until a thing holds, for as long as a slow machine may need.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(time.Minute); !holds(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("waited a minute in vain: %s", what)
		}
	}
}

// world is a folder with a job, its input and the log of a mock sidecar.
type world struct {
	t        *testing.T
	dir      string
	want     []byte
	endpoint string
}

func newWorld(t *testing.T, n int, endpoint string) *world {
	t.Helper()
	in, want := records(t, n)
	w := &world{t: t, dir: filepath.Dir(in), want: want, endpoint: endpoint}
	switch endpoint {
	case "unix":
		w.endpoint = "unix://" + filepath.Join(w.dir, "s.sock")
	case "tcp":
		w.endpoint = freeAddress(t)
	}
	return w
}

// freeAddress is one that nobody listens on. It is none of those that the system gives to
// connections, where a client that dials again and again while nobody listens would meet itself
// one day.
func freeAddress(t *testing.T) string {
	t.Helper()
	for range 100 {
		address := fmt.Sprintf("127.0.0.1:%d", 20_000+rand.IntN(10_000))
		if l, err := net.Listen("tcp", address); err == nil {
			l.Close()
			return address
		}
	}
	t.Fatal("no port is free")
	return ""
}

// mock starts the scripted sidecar, at the same endpoint each time.
func (w *world) mock(args ...string) *process {
	w.t.Helper()
	args = append([]string{"mock-sidecar", "--listen", w.endpoint, "--log", filepath.Join(w.dir, "calls.jsonl")}, args...)
	return start(w.t, args...).waitFor("ready")
}

func (w *world) job(parallelism int, more string) string {
	w.t.Helper()
	path := filepath.Join(w.dir, "job.yaml")
	text := fmt.Sprintf(`name: killed
parallelism: %d
source: {file: {path: in.jsonl, split_size: 16KiB}}
infer: {endpoint: %q, model: model, capacity: 40}
sink: {file: {path: out}}
checkpoint: {interval: 40ms, dir: state}
%s`, parallelism, w.endpoint, more)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		w.t.Fatal(err)
	}
	return path
}

// checkpoints counts the checkpoints that were ever completed, by the highest number.
func (w *world) checkpoints() int {
	names, _ := filepath.Glob(filepath.Join(w.dir, "state", "run-*", "chk-*"))
	highest := 0
	for _, name := range names {
		var n int
		if _, err := fmt.Sscanf(filepath.Base(name), "chk-%d", &n); err == nil {
			highest = max(highest, n)
		}
	}
	return highest
}

// calls returns how many calls the mock has seen begin, end well, and end because their caller had
// gone.
func (w *world) calls() (begun, answered, abandoned int) {
	f, err := os.Open(filepath.Join(w.dir, "calls.jsonl"))
	if err != nil {
		return 0, 0, 0
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		var c struct {
			End  int64
			Code int
		}
		switch err := json.Unmarshal(s.Bytes(), &c); {
		case err != nil: // a line that is being written
		case c.End == 0:
			begun++
		case c.Code == 0:
			answered++
		default:
			abandoned++
		}
	}
	return begun, answered, abandoned
}
