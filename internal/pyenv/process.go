//go:build integration

package pyenv

import (
	"bytes"
	"net"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Process is a running program and all processes that it has started. They are a process group, and
// end together.
type Process struct {
	t    testing.TB
	cmd  *exec.Cmd
	log  log
	done chan struct{}
}

type log struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// logSize is how much of the end of a program's output a failed test shows, in bytes.
const logSize = 16 << 10

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// Start runs a command until the end of the test. Its output is shown if the test fails.
func Start(t testing.TB, cmd *exec.Cmd) *Process {
	t.Helper()
	p := &Process{t: t, cmd: cmd, done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = &p.log, &p.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// Children that outlive a killed parent hold the output open.
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatalf("%s: %v", strings.Join(cmd.Args, " "), err)
	}
	go func() {
		_ = cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			text := p.Output()
			t.Logf("%s printed:\n%s", strings.Join(cmd.Args, " "), text[max(0, len(text)-logSize):])
		}
	})
	return p
}

// Output returns what the program has printed.
func (p *Process) Output() string { return p.log.String() }

// Over reports whether the program has ended.
func (p *Process) Over() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Kill ends the whole group at once and returns when the program is gone.
func (p *Process) Kill() {
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	<-p.done
}

// Signal sends a signal to the program, not to its group.
func (p *Process) Signal(s syscall.Signal) { _ = p.cmd.Process.Signal(s) }

// Wait waits for the end and returns the exit code, -1 after a kill.
func (p *Process) Wait() int {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(2 * time.Minute):
		p.t.Fatalf("%s did not end within 2 minutes", strings.Join(p.cmd.Args, " "))
	}
	return p.cmd.ProcessState.ExitCode()
}

// Ends reports whether the program ends within a time.
func (p *Process) Ends(within time.Duration) bool {
	select {
	case <-p.done:
		return true
	case <-time.After(within):
		return false
	}
}

// Eventually checks until holds returns true, for as long as a slow machine may need. The test
// fails if the program ends first.
func (p *Process) Eventually(what string, holds func() bool) {
	p.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(3 * time.Minute); !holds(); <-tick.C {
		if p.Over() && !holds() { // it may hold since the end
			p.t.Fatalf("%s ended with exit code %d before this was true: %s", strings.Join(p.cmd.Args, " "), p.cmd.ProcessState.ExitCode(), what)
		}
		if time.Now().After(end) {
			p.t.Fatalf("not true after 3 minutes: %s", what)
		}
	}
}

// PID returns the process id of the program.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// FreePort returns a port of loopback that no process listens on.
func FreePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
