package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tensorferry/tensorferry/internal/cli"
)

// stuck is a pipe without a reader: it takes some bytes, and then blocks.
type stuck struct {
	mu      sync.Mutex
	text    bytes.Buffer
	holds   string        // the write that has it does not return before opened
	reached chan struct{} // closed when it has come
	once    sync.Once
	opened  chan struct{}
}

func newStuck(holds string) *stuck {
	return &stuck{holds: holds, reached: make(chan struct{}), opened: make(chan struct{})}
}

func (s *stuck) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte(s.holds)) {
		s.once.Do(func() { close(s.reached) })
		<-s.opened
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *stuck) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// TestAStopIsAStop: whatever a job waits for, it ends after a signal, with the signal's code.
func TestAStopIsAStop(t *testing.T) {
	toStdout := strings.Replace(doubles("stop_timeout: 10ms\ncheckpoint: {interval: 10ms}\n"+quickSidecar), "{file: {path: out}}", "{stdout: {}}", 1)
	toFiles := doubles("stop_timeout: 10ms\ncheckpoint: {interval: 10ms}\n" + slowSidecar)
	refusing := doubles("stop_timeout: 10ms\ncheckpoint: {interval: 1s, timeout: 500ms, tolerable_failures: 1000000}\n" +
		"sidecar: {models: {double: 'mock:double?input=x:INT64[1]&fault=RESOURCE_EXHAUSTED/QUEUE_FULL@all'}}\n")
	for name, c := range map[string]struct {
		job            string
		stdout, stderr string // what is held up when it is written
		signals        []syscall.Signal
		says           string
	}{
		"nobody reads the results, which nothing interrupts": {toStdout, "twice", "", []syscall.Signal{syscall.SIGTERM}, "doubles: the process ended before the job released its resources (stopping took longer than stop_timeout)"},
		"the same, and a second signal":                      {toStdout, "twice", "", []syscall.Signal{syscall.SIGTERM, syscall.SIGTERM}, "before the job released its resources"},
		"the same, and a third signal":                       {toStdout, "twice", "", []syscall.Signal{syscall.SIGTERM, syscall.SIGTERM, syscall.SIGTERM}, "before the job released its resources"},
		"nobody reads the log":                               {toFiles, "", "checkpoint completed", []syscall.Signal{syscall.SIGTERM}, ""},
		"the server refuses everything":                      {refusing, "", "", []syscall.Signal{syscall.SIGTERM}, "stopped, resumable"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newShell(t)
			in, _ := numbers(many)
			s.write("in.jsonl", in)
			s.write("job.yaml", c.job)
			out, errs := newStuck("none"), newStuck("none")
			at := errs
			switch {
			case c.stdout != "":
				out.holds, at = c.stdout, out
			case c.stderr != "":
				errs.holds = c.stderr
			default:
				errs.holds = "a checkpoint failed"
				close(errs.opened)
			}
			signals := make(chan os.Signal, len(c.signals))
			go func() {
				<-at.reached
				for _, one := range c.signals {
					signals <- one
				}
			}()
			grace := time.Minute // a job that can be interrupted ends long before
			if c.stdout+c.stderr != "" {
				grace = 50 * time.Millisecond
			}
			w := &cli.World{Stdout: out, Stderr: errs, Signals: signals, Grace: grace}
			if code := program.Run(w, []string{"run", "job.yaml", "--log-level=debug"}); code != 143 {
				t.Errorf("exit code %d", code)
			}
			if c.says != "" && !strings.Contains(errs.String(), c.says) {
				t.Errorf("stderr does not say %q:\n%s", c.says, errs)
			}
			// A process would end here. In this test the goroutines must end before the
			// next case.
			for _, o := range []*stuck{out, errs} {
				select {
				case <-o.opened:
				default:
					close(o.opened)
				}
			}
		})
	}
}

// TestStdoutThatNobodyReads: a job can stop waiting for a pipe, so it releases everything.
func TestStdoutThatNobodyReads(t *testing.T) {
	s := newShell(t)
	in, want := numbers(many)
	s.write("in.jsonl", in)
	s.write("job.yaml", strings.Replace(doubles("stop_timeout: 10ms\ncheckpoint: {interval: 10ms, dir: kept}\n"+quickSidecar), "{file: {path: out}}", "{stdout: {}}", 1))
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := w.SetWriteDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, err := w.Write(bytes.Repeat([]byte{'\n'}, 8<<20)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("the pipe took %d bytes: %v", n, err)
	}
	if err := w.SetWriteDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	errs := &console{steps: []step{{"running", syscall.SIGTERM, nil}}, signals: make(chan os.Signal, 1)}
	code := program.Run(&cli.World{Stdout: w, Stderr: errs, Signals: errs.signals}, []string{"run", "job.yaml"})
	if code != 143 || strings.Contains(errs.String(), "before the job released its resources") {
		t.Errorf("exit code %d\n%s", code, errs)
	}
	read := make(chan string, 1)
	go func() {
		all, _ := io.ReadAll(r) // an error makes it too little
		read <- string(all)
	}()
	s.check(exitOK, result{program.Run(&cli.World{Stdout: w, Stderr: errs}, []string{"run", "job.yaml", "--resume"}), "", errs.String()}, []string{"run"})
	w.Close()
	got := map[string]bool{}
	for line := range strings.Lines(<-read) {
		got[line] = true
	}
	for line := range strings.Lines(want) {
		if !got[line] {
			t.Fatalf("a result is missing: %s", line)
		}
	}
}
