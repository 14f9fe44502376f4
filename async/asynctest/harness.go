package asynctest

import (
	"context"
	"slices"
	"testing/synctest"
	"time"

	"github.com/tensorferry/tensorferry/async"
)

// TB is the part of testing.TB that this package uses.
type TB interface {
	Helper()
	Cleanup(func())
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// turnSize bounds the entries that leave in one step of the operator. settle takes as many steps as
// it needs.
const turnSize = 1024

// Harness runs one operator. Its methods must be called from the test's goroutine, and never from
// inside the function.
type Harness[IN, OUT any] struct {
	t     TB
	op    *async.Operator[IN, OUT]
	woken chan struct{}

	status   async.Status[IN]
	err      error // the failure, of Open or of the operator
	seen     bool  // the test has asked for err
	stepping bool
	torn     bool // the function ended the test in the middle of a step
	closed   bool

	next    int64 // position of the next record that Push makes
	barrier int64 // on its way; 0 if none is
	last    int64 // the newest barrier
	told    bool  // End was called
	ended   bool
	state   *State[IN] // of the newest barrier that passed
	out     []Element[IN, OUT]
}

// State is the state of an operator in a checkpoint. It does not depend on order, capacity or
// policy, so a harness that restores it may have others.
type State[IN any] struct {
	// Records are the records that had not left yet, oldest first. Under the drain policy there are
	// none, unless Config.DrainLimit cut the drain short.
	Records []async.Record[IN]
	// Watermarks are the queued watermarks, each with its place among Records.
	Watermarks []async.QueuedWatermark
	// Next is the position at which the input goes on. The first record that Push makes after
	// Restore has it.
	Next int64
}

// New opens fn in an operator with the configuration cfg, and closes it at the end of the test. It
// must be called inside testing/synctest.Test. A configuration with an error fails the test at
// once. If fn's Open fails, Err returns that failure.
func New[IN, OUT any](t TB, fn async.Function[IN, OUT], cfg async.Config) *Harness[IN, OUT] {
	t.Helper()
	return start(t, fn, cfg, nil)
}

// Restore is New with the state of another harness's checkpoint. The records of the state are
// called again, with all their attempts and a full timeout, before all records that are pushed. If
// the test is about a crash, close the other harness first, so that its calls are cancelled.
func Restore[IN, OUT any](t TB, fn async.Function[IN, OUT], cfg async.Config, state State[IN]) *Harness[IN, OUT] {
	t.Helper()
	return start(t, fn, cfg, &state)
}

func start[IN, OUT any](t TB, fn async.Function[IN, OUT], cfg async.Config, state *State[IN]) *Harness[IN, OUT] {
	t.Helper()
	if why := outside(); why != nil {
		t.Fatalf("asynctest: time must be virtual; call New and Restore inside synctest.Test (package testing/synctest): %v", why)
	}
	h := &Harness[IN, OUT]{t: t, woken: make(chan struct{}, 1)}
	op, err := async.NewOperator(fn, cfg, async.Subtask{Operator: "asynctest"}, h.wake)
	if err != nil {
		t.Fatalf("asynctest: %v", err)
	}
	h.op = op
	op.DeadLetters(h.deadLetters)
	if state != nil {
		h.next = state.Next
		op.Restore(state.Records, state.Watermarks)
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() {
		defer cancel()
		h.cleanup()
	})
	h.err = op.Open(context.WithValue(ctx, hostKey{}, host(h)))
	h.settle()
	return h
}

// outside returns why the goroutine is not in virtual time, or nil if it is.
func outside() (why any) {
	defer func() { why = recover() }()
	synctest.Wait()
	return nil
}

// host is a harness as a Manual sees it. It travels in the context of Open, so a Manual finds it
// through any function that embeds the Manual.
type host interface {
	settle()
	tb() TB
}

type hostKey struct{}

func (h *Harness[IN, OUT]) tb() TB { return h.t }

func (h *Harness[IN, OUT]) wake() {
	select {
	case h.woken <- struct{}{}:
	default:
	}
}

// settle steps the operator until nothing more happens without time passing.
func (h *Harness[IN, OUT]) settle() {
	h.t.Helper()
	if h.stepping {
		h.t.Fatalf("asynctest: a method of the harness or of a Manual was called from within the function; call them from the test only")
	}
	for first := true; ; first = false {
		synctest.Wait() // the function's goroutines come first, so that their answers are in time
		woken := false
		select {
		case <-h.woken:
			woken = true
		default:
		}
		if h.err != nil || h.closed || h.torn || (!first && !woken && !h.status.More) {
			return
		}
		h.step()
	}
}

func (h *Harness[IN, OUT]) step() {
	h.t.Helper()
	h.stepping = true
	h.torn = true
	defer func() { h.stepping = false }() // also if the function ends the test, as t.Fatal does
	now := time.Now()
	h.status, h.err = h.op.Step(now, turnSize, (*emitter[IN, OUT])(h))
	h.torn = false
	if d := time.Since(now); d != 0 {
		h.t.Fatalf("asynctest: the operator was blocked for %v; Call, Cancel, OnTimeout, RetryResult, RetryError and Fallback must not block", d)
	}
	if h.err != nil {
		return
	}
	if id := h.status.Barrier; id != 0 {
		h.barrier = 0
		h.state = &State[IN]{Records: h.status.Entries, Watermarks: h.status.Watermarks, Next: h.next}
		h.add(Element[IN, OUT]{Kind: Barrier, Barrier: id})
	}
	if h.status.Ended && !h.ended {
		h.ended = true
		h.add(Element[IN, OUT]{Kind: End})
	}
}

// Settle lets everything happen that is due at the present moment. The other methods do so by
// themselves. It is for a test that waits for an effect of the function outside the harness.
func (h *Harness[IN, OUT]) Settle() {
	h.t.Helper()
	h.settle()
}

// Close ends the operator as a crash or a cancelled job does: calls in progress are cancelled, and
// nothing more leaves. Output still returns what left before. Close returns the error of the
// function's own Close, and is idempotent. At the end of the test a harness that is still open is
// closed.
func (h *Harness[IN, OUT]) Close() error {
	h.t.Helper()
	if h.closed {
		return nil
	}
	h.settle()
	return h.close()
}

func (h *Harness[IN, OUT]) close() error {
	h.closed = true
	return h.op.Close()
}

// cleanup closes a harness at the end of its test. It reports a failure that the test did not ask
// for.
func (h *Harness[IN, OUT]) cleanup() {
	defer func() {
		if h.closed {
			return
		}
		if err := h.close(); err != nil {
			h.t.Errorf("asynctest: closing the function: %v", err)
		}
	}()
	if !h.closed {
		h.settle()
	}
	if h.err != nil && !h.seen {
		h.t.Errorf("asynctest: the operator failed, and the test did not ask for it with Err: %v", h.err)
	}
}

// State returns the state at the newest barrier that has passed. It fails the test if none has.
func (h *Harness[IN, OUT]) State() State[IN] {
	h.t.Helper()
	h.settle()
	if h.state == nil {
		h.t.Fatalf("asynctest: no barrier has passed, so there is no state; %s", h.describe())
	}
	return State[IN]{Records: slices.Clone(h.state.Records), Watermarks: slices.Clone(h.state.Watermarks), Next: h.state.Next}
}
