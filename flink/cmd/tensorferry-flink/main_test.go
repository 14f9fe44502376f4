package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/tensorferry/tensorferry/flink/internal/leaktest"
	"github.com/tensorferry/tensorferry/internal/cli"
)

// asMain lets the test's program be the command.
const asMain = "TENSORFERRY_FLINK_AS_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(asMain) != "" {
		main()
	}
	leaktest.Main(m, nil)
}

// text is a writer that is read while a command writes to it.
type text struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	when string // if it is not empty: do is called once it has been written
	do   func()
}

func (t *text) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf.Write(b)
	if t.when != "" && strings.Contains(t.buf.String(), t.when) {
		t.when = ""
		t.do()
	}
	return len(b), nil
}

func (t *text) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.buf.String()
}

// surroundings are a World of a test's own.
type surroundings struct {
	cli.World
	out, errs text
	signals   chan os.Signal
}

func newWorld() *surroundings {
	s := &surroundings{signals: make(chan os.Signal, 4)}
	s.World = cli.World{Stdout: &s.out, Stderr: &s.errs, Signals: s.signals}
	return s
}

// signalWhen sends a signal when a text has been said on stderr.
func (s *surroundings) signalWhen(said string, sig os.Signal) {
	s.errs.when, s.errs.do = said, func() { s.signals <- sig }
}

// has checks what a command left; an empty text must be empty.
func (s *surroundings) has(t *testing.T, code, wantCode int, out, errs string) {
	t.Helper()
	if code != wantCode {
		t.Errorf("exit code %d, want %d", code, wantCode)
	}
	for _, c := range []struct{ what, got, want string }{{"stdout", s.out.String(), out}, {"stderr", s.errs.String(), errs}} {
		if !strings.Contains(c.got, c.want) || c.want == "" && c.got != "" {
			t.Errorf("%s is\n%s\nwant %q in it", c.what, c.got, c.want)
		}
	}
}

// jobFile writes a good job with a small input, and returns its path.
func jobFile(t *testing.T) string { return jobFileTo(t, "{file: {path: out}}") }

// jobFileTo is jobFile with a sink.
func jobFileTo(t *testing.T, sink string) string {
	return jobFileOf(t, "{file: {path: in.jsonl}}", sink)
}

// jobFileOf is jobFile with a source and a sink.
func jobFileOf(t *testing.T, source, sink string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"in.jsonl": `{"x":[1]}` + "\n",
		"job.yaml": `name: digits
source: ` + source + `
infer: {endpoint: "unix:///run/nobody.sock", model: model, outputs: {y: {field: y}}}
sink: ` + sink + "\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "job.yaml")
}

func TestUsage(t *testing.T) {
	good, refused := jobFile(t), jobFileTo(t, "{stdout: {}}")
	topics := jobFileOf(t, `{kafka: {brokers: "h:1", topic: in}}`, "{file: {path: out}}")
	for _, c := range []struct {
		args      string
		code      int
		out, errs string
	}{
		{"", exitUsage, "", "usage: tensorferry-flink COMMAND"},
		{"help", exitOK, "serve workers to the TaskManager on this machine", ""},
		{"--help", exitOK, "exit codes: 0 done", ""},
		{"rnu", exitUsage, "", `tensorferry-flink: unknown command "rnu"; see tensorferry-flink help`},
		{"help rnu", exitUsage, "", `tensorferry-flink: unknown command "rnu"`},
		{"help run", exitOK, "--worker-pool HOST:PORT", ""},
		{"run -h", exitOK, "usage: tensorferry-flink run --job-server HOST:PORT JOB.yaml", ""},
		{"help validate", exitOK, "usage: tensorferry-flink validate JOB.yaml", ""},
		{"worker --help", exitOK, "--listen HOST:PORT", ""},
		{"version", exitOK, "Beam v2.", ""},
		{"--version", exitOK, "tensorferry-flink ", ""},
		{"version now", exitUsage, "", "tensorferry-flink version: want no arguments, got 1 argument(s)"},

		{"run", exitUsage, "", "tensorferry-flink run: want one job file, got 0 argument(s)"},
		{"run a.yaml", exitUsage, "", "want --job-server, the address of Beam's job server for Flink"},
		{"run a.yaml b.yaml --job-server x:1", exitUsage, "", "want one job file, got 2 argument(s)"},
		{"run a.yaml --resum", exitUsage, "", "flag provided but not defined: --resum; see tensorferry-flink help run"},
		{"run --job-server x:1 a.yaml --lost-state", exitUsage, "", "--lost-state needs --savepoint"},
		{"run --job-server x:1 a.yaml --log-format xml", exitUsage, "", `--log-format is "xml"; want text or json`},
		{"run --job-server x:1 testdata/absent.yaml", exitUsage, "", "absent.yaml: no such file"},
		{"run --job-server x:1 --bundle-time soon a.yaml", exitUsage, "", `invalid value "soon" for flag --bundle-time`},
		{"run --job-server x:1 --bundle-time 6s " + good, exitUsage, "", "bundles of 6s; want 5s or less"},
		{"run --job-server x:1 --worker-pool= " + good, exitUsage, "", `--worker-pool is ""; want host:port`},
		{"run --job-server x " + good, exitUsage, "", `--job-server is "x"; want host:port`},
		{"run --job-server x:1 --flink x " + good, exitUsage, "", `--flink is "x"; want host:port, or a URL`},
		{"run --job-server x:1 --bundle-time=-1s " + good, exitUsage, "", "--bundle-time is -1s"},
		{"run --job-server x:1 --savepoint /s " + good, exitUsage, "", "--savepoint is for jobs that read topics"},
		{"run --job-server x:1 " + refused, exitUsage, "", "job.yaml:4:8: sink.stdout: want a folder"},

		{"validate", exitUsage, "", "tensorferry-flink validate: want one job file, got 0 argument(s)"},
		{"validate -- a.yaml -x.yaml", exitUsage, "", "tensorferry-flink validate: want one job file, got 2 argument(s)"},
		{"validate testdata/absent.yaml", exitUsage, "", "absent.yaml: no such file"},
		{"validate " + good, exitOK, "job.yaml: ok\n", ""},
		{"validate " + refused, exitUsage, "", "job.yaml:4:8: sink.stdout: want a folder"},
		{"validate " + topics, exitOK, "run needs --accept-growing-state to start such a job", ""},
		{"validate " + topics, exitOK, "job.yaml: ok\n", ""},
		{"help run", exitOK, "--accept-growing-state", ""},
		// Its own sidecar runs in the worker.
		{"validate ../../../examples/digits/job.yaml", exitOK, "note: restart.strategy exponential-delay becomes a fixed delay of 1s", ""},
		{"validate ../../../examples/digits/job.yaml", exitOK, "../../../examples/digits/job.yaml: ok\n", ""},

		{"worker now", exitUsage, "", "tensorferry-flink worker: want no arguments, got 1 argument(s)"},
		{"worker --log-format xml", exitUsage, "", `--log-format is "xml"; want text or json`},
		{"worker --listen 127.0.0.1", exitUsage, "", "--listen: "},
	} {
		t.Run(c.args, func(t *testing.T) {
			w := newWorld()
			w.has(t, program.Run(&w.World, strings.Fields(c.args)), c.code, c.out, c.errs)
		})
	}
}

// Beam refuses to start a program in which a type's coder or function is registered amiss, and says
// so only there.
func TestProgramStarts(t *testing.T) {
	c := exec.CommandContext(t.Context(), os.Args[0], "validate", jobFile(t))
	c.Env = append(os.Environ(), asMain+"=1")
	out, err := c.CombinedOutput()
	if err != nil || !strings.HasSuffix(string(out), "job.yaml: ok\n") {
		t.Errorf("%v, and it says\n%s", err, out)
	}
}

// Whoever reads what a command says may go. The command does not end in the midst of its work then:
// workers are at work for others, and a job on Flink goes on.
func TestProgramOutlivesItsReader(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	r.Close()
	c := exec.CommandContext(t.Context(), os.Args[0], "validate", jobFile(t))
	c.Env, c.Stdout = append(os.Environ(), asMain+"=1"), w
	if err := c.Run(); err != nil {
		t.Error(err)
	}
}
