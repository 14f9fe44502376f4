package asynctest_test

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/async/asynctest"
)

// probe is a test inside a test, which may fail.
type probe struct {
	failures []string
	cleanups []func()
}

func (p *probe) Helper()          {}
func (p *probe) Cleanup(f func()) { p.cleanups = append(p.cleanups, f) }
func (p *probe) Errorf(format string, a ...any) {
	p.failures = append(p.failures, fmt.Sprintf(format, a...))
}
func (p *probe) Fatalf(format string, a ...any) {
	p.Errorf(format, a...)
	runtime.Goexit()
}

// failures runs a test to its end and returns what it says, a line for each failure.
func failures(f func(p *probe)) string {
	p := &probe{}
	run := func(f func()) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			f()
		}()
		<-done
	}
	run(func() { f(p) })
	for _, c := range slices.Backward(p.cleanups) {
		run(c)
	}
	return strings.Join(p.failures, "\n")
}

// blocking is a function with a handler that blocks, which is not allowed.
type blocking struct {
	asynctest.Manual[int, int]
	handle func()
}

func (b *blocking) OnTimeout(async.Call[int]) (async.Outputs[int], error) {
	b.handle()
	return async.None[int](), nil
}

func TestMisuse(t *testing.T) {
	type manual = asynctest.Manual[int, int]
	type harness = asynctest.Harness[int, int]
	cfg := async.Config{Capacity: 2, Timeout: time.Minute}
	in := func(f func(h *harness, fn *manual)) func(*probe) {
		return func(p *probe) {
			var fn manual
			f(asynctest.New(p, &fn, cfg), &fn)
		}
	}
	boom := errors.New("boom")
	for _, c := range []struct {
		name string
		test func(*probe)
		want string
	}{
		{"nothing wrong", in(func(h *harness, fn *manual) { h.Push(1); fn.Call(1).Complete(2); h.Finish() }), ""},
		{"a bad configuration", func(p *probe) { asynctest.New(p, &manual{}, async.Config{Capacity: -1}) }, "capacity is -1"},
		{"more than fits", in(func(h *harness, _ *manual) { h.Push(1, 2, 3) }), "only 2 of 3 records were taken; 2 record(s) in a queue of 2 (16 bytes): 2 calls in progress"},
		{"a watermark that does not fit", in(func(h *harness, _ *manual) { h.Push(1, 2); h.Watermark(1) }), "no room for the watermark"},
		{"a push into a drain", in(func(h *harness, _ *manual) { h.Push(1); h.Barrier(3); h.Push(2) }), "barrier 3 is on its way, and nothing is taken"},
		{"two barriers", in(func(h *harness, _ *manual) { h.Push(1); h.Barrier(3); h.Barrier(4) }), "barrier 4 while barrier 3 is still on its way"},
		{"a barrier again", in(func(h *harness, _ *manual) { h.Barrier(3); h.Barrier(3) }), "barrier 3 is not larger than the one before, 3"},
		{"barrier 0", in(func(h *harness, _ *manual) { h.Barrier(0) }), "barrier 0 is not larger"},
		{"no barrier to give up", in(func(h *harness, _ *manual) { h.AbortBarrier() }), "no barrier is on its way"},
		{"no state", in(func(h *harness, _ *manual) { h.Push(1); h.Barrier(1); h.State() }), "no barrier has passed"},
		{"input after the end", in(func(h *harness, _ *manual) { h.End(); h.Push(1) }), "Offer after End"},
		{"two ends", in(func(h *harness, _ *manual) { h.End(); h.End() }), "End after End"},
		{"input after Close", in(func(h *harness, _ *manual) { h.Close(); h.Push(1) }), "Offer after Close"},
		{"the end after Close", in(func(h *harness, _ *manual) { h.Close(); h.Finish() }), "Finish after Close"},
		{"backwards", in(func(h *harness, _ *manual) { h.Advance(-time.Second) }), "time does not run backwards"},
		{"input after a failure", in(func(h *harness, fn *manual) { h.Push(1); fn.Call(1).Fail(boom); h.Push(2) }), "Offer after the operator failed: asynctest: record at split 0, position 0"},
		{"a failure that ends the waiting", in(func(h *harness, fn *manual) { h.Push(1); h.Until(func() bool { return false }) }), "Until after the operator failed"},
		{"a failure that nobody asks for", in(func(h *harness, fn *manual) { h.Push(1); fn.Call(1).Fail(boom) }), "did not ask for it with Err: asynctest: record at"},
		{"a failure at the very end", func(p *probe) {
			h := asynctest.New(p, slow, async.Config{Timeout: time.Second / 2})
			h.Push(1)
			time.Sleep(time.Second) // behind the harness's back
		}, "no answer within the timeout"},
		{"a failed Open that nobody asks for", func(p *probe) {
			asynctest.New(p, async.Function[int, int](unopened{}), async.Config{})
		}, "did not ask for it with Err: cannot be opened"},
		{"a Close that fails", func(p *probe) {
			asynctest.New(p, &unclosed{}, async.Config{})
		}, "closing the function: cannot be closed"},
		{"a call that is not in progress", in(func(h *harness, fn *manual) { h.Push(1, 2); fn.Call(3) }), "no call is in progress for 3, only for [1 2]"},
		{"a call that is over", in(func(h *harness, fn *manual) { h.Push(1); c := fn.Call(1); c.Complete(2); c.Complete(2) }), "attempt 1 for 1 was completed before"},
		{"a failure without an error", in(func(h *harness, fn *manual) { h.Push(1); fn.Call(1).Fail(nil) }), "Fail without an error for 1"},
		{"a wait for what cannot come", func(p *probe) {
			var fn manual
			h := asynctest.New(p, &fn, async.Config{Order: async.Unordered, Timeout: async.Off})
			h.Push(1)
			h.Finish()
		}, "Finish hangs: nothing has happened for 24h0m0s and no timer of the operator is due; 1 record(s) in a queue of 1000 (8 bytes): 1 calls in progress"},
		{"a handler that blocks", func(p *probe) {
			h := asynctest.New(p, &blocking{handle: func() { time.Sleep(time.Second) }}, cfg)
			h.Push(1)
			h.Finish()
		}, "the operator was blocked for 1s; Call, Cancel, OnTimeout"},
		{"a handler that uses the harness", func(p *probe) {
			var h *harness
			h = asynctest.New(p, &blocking{handle: func() { h.Stats() }}, cfg)
			h.Push(1)
			h.Finish()
		}, "called from within the function"},
		{"a handler that uses its Manual", func(p *probe) {
			var fn *blocking
			fn = &blocking{handle: func() { fn.Calls() }}
			h := asynctest.New(p, fn, cfg)
			h.Push(1)
			h.Finish()
		}, "called from within the function"},
	} {
		virtual(t, c.name, func(t *testing.T) {
			got := failures(c.test)
			if !strings.Contains(got, c.want) || (c.want == "") != (got == "") || strings.Contains(got, "\n") {
				t.Errorf("it says  %q\nwant one %q", got, c.want)
			}
		})
	}
	t.Run("real time", func(t *testing.T) {
		got := failures(func(p *probe) { asynctest.New(p, &manual{}, cfg) })
		if !strings.Contains(got, "inside synctest.Test") {
			t.Errorf("it says %q", got)
		}
	})
}
