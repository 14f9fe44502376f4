package jobfile

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/tensorferry/tensorferry/async"
)

// none hears of no completions.
type none struct{}

func (none) Complete([]async.Completion[value]) {}

func (none) Resume() {}

func (none) Suspend(error) {}

func (none) Fail(error) {}

func (none) ResultsFull() bool { return false }

// bringing is the function of a job with a sidecar at a socket of this name.
func bringing(t *testing.T, model string) (fn async.Function[value, value], socket string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "tf") // short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket = filepath.Join(dir, "s")
	spec := load(t, brought+"  endpoint: unix://"+socket+"\nsidecar: {models: {m: '"+model+"'}}\n")
	s, err := ship(spec)
	if err != nil {
		t.Fatal(err)
	}
	if fn, err = s.Function(); err != nil {
		t.Fatal(err)
	}
	return fn, socket
}

func open(t *testing.T, fn async.Function[value, value]) caller {
	t.Helper()
	c, err := fn.Open(t.Context(), async.Subtask{}, none{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func shutCaller(t *testing.T, c caller) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// up reports whether somebody listens.
func up(socket string) bool {
	c, err := net.Dial("unix", socket)
	if err == nil {
		c.Close()
	}
	return err == nil
}

// hires reports whether there is a sidecar of a function's job.
func hires(fn async.Function[value, value]) bool {
	hiredMu.Lock()
	defer hiredMu.Unlock()
	return allHired[fn.(*withSidecar).key] != nil
}

const model = "mock:double?input=x:FP32[1]"

func TestSidecarIsShared(t *testing.T) {
	fn, socket := bringing(t, model)
	if up(socket) {
		t.Fatal("a sidecar runs before anybody needs it")
	}
	for range 2 { // and again
		a, b := open(t, fn), open(t, fn)
		if !up(socket) || !hires(fn) {
			t.Error("no sidecar runs")
		}
		shutCaller(t, a)
		a.Close() // counts once, whatever it says
		if !up(socket) {
			t.Error("it ended with the first of two channels")
		}
		shutCaller(t, b)
		if up(socket) || hires(fn) {
			t.Error("it outlives its channels")
		}
	}
	// Another job has its own.
	other, otherSocket := bringing(t, model)
	a, b := open(t, fn), open(t, other)
	shutCaller(t, a)
	if up(socket) || !up(otherSocket) {
		t.Error("the wrong one has ended")
	}
	shutCaller(t, b)
}

func TestSidecarFailsToStart(t *testing.T) {
	fn, socket := bringing(t, model)
	l, err := net.Listen("unix", socket) // somebody else's
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fn.Open(t.Context(), async.Subtask{}, none{}); err == nil {
		t.Fatal("it listens where another does")
	}
	if hires(fn) {
		t.Error("it is left")
	}
	l.Close()
	shutCaller(t, open(t, fn))
	// A channel that cannot be opened leaves no sidecar behind.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := fn.Open(ctx, async.Subtask{}, none{}); !errors.Is(err, context.Canceled) {
		t.Errorf("the error is %v", err)
	}
	// Nor does a model that is not there.
	spec := load(t, brought+"sidecar: {models: {m: absent.onnx}}\n")
	absent, err := shipped{*spec}.Function()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := absent.Open(t.Context(), async.Subtask{}, none{}); err == nil || !strings.Contains(err.Error(), "absent.onnx") {
		t.Errorf("the error is %v", err)
	}
	if hires(fn) || hires(absent) || up(socket) {
		t.Error("a sidecar is left")
	}
}

// Whoever waits for a start that fails tries for itself.
func TestSidecarIsWaitedFor(t *testing.T) {
	fn, socket := bringing(t, model)
	w := fn.(*withSidecar)
	// One is starting: it holds the sidecar.
	m := &hired{key: w.key, users: 1}
	m.ready.Lock()
	hiredMu.Lock()
	allHired[w.key] = m
	hiredMu.Unlock()
	type opened struct {
		c   caller
		err error
	}
	second := make(chan opened, 1)
	go func() {
		c, err := fn.Open(t.Context(), async.Subtask{}, none{})
		second <- opened{c, err}
	}()
	m.left() // it fails, before the second has come or after
	m.ready.Unlock()
	o := <-second
	if o.err != nil {
		t.Fatal(o.err)
	}
	if !up(socket) || !hires(fn) {
		t.Error("no sidecar runs")
	}
	shutCaller(t, o.c)
	if hires(fn) {
		t.Error("it is left")
	}
}

// Channels come and go at once; the socket is one, so a sidecar never starts before the last has
// ended.
func TestSidecarConcurrently(t *testing.T) {
	fn, socket := bringing(t, model)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 10 {
				c, err := fn.Open(t.Context(), async.Subtask{}, none{})
				if err != nil {
					t.Error(err)
					return
				}
				if !up(socket) {
					t.Error("there is no sidecar for a channel")
				}
				if err := c.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if hires(fn) || up(socket) {
		t.Error("it is left")
	}
}
