package asynctest

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"

	"github.com/tensorferry/tensorferry/async"
)

// Manual is a function whose calls the test completes. Its zero value is ready for use. It must not
// be copied after its first use. A test of a timeout handler, a retry predicate or a fallback
// embeds it in a type that has that method.
//
// In a harness its methods must be called from the test's goroutine. Each of them leaves the
// harness at rest, so the effects of a completion can be seen at once. Elsewhere, as in async.Map
// or a whole job, its methods may be called from any goroutine, and the operator acts in its own
// time.
//
// A Manual may be opened several times, by several subtasks or by one harness after another. It
// then has the calls of all of them.
type Manual[IN, OUT any] struct {
	mu        sync.Mutex
	callers   []*manualCaller[IN, OUT] // open
	pending   []*PendingCall[IN, OUT]
	cancelled []*PendingCall[IN, OUT]
	answer    func(async.Record[IN]) (async.Outputs[OUT], error)
}

// PendingCall is a call in progress. Its methods may be called from the same goroutines as those of
// its Manual.
type PendingCall[IN, OUT any] struct {
	// Call is the call that the operator made, with the record and the deadline.
	async.Call[IN]

	caller    *manualCaller[IN, OUT]
	completed bool
	cancelled bool
}

type manualCaller[IN, OUT any] struct {
	m    *Manual[IN, OUT]
	done async.Completer[OUT]
	host host // nil outside a harness
}

// Calls returns the calls in progress, in the order in which they were made.
func (m *Manual[IN, OUT]) Calls() []*PendingCall[IN, OUT] {
	m.settle()
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.pending)
}

// Call returns the oldest call in progress for a record with the value v, as reflect.DeepEqual
// compares values. If there is none it fails the test, or panics outside a harness.
func (m *Manual[IN, OUT]) Call(v IN) *PendingCall[IN, OUT] {
	calls := m.Calls()
	for _, p := range calls {
		if reflect.DeepEqual(p.Record.Value, v) {
			return p
		}
	}
	values := make([]IN, len(calls))
	for i, p := range calls {
		values[i] = p.Record.Value
	}
	m.mu.Lock()
	callers := slices.Clone(m.callers)
	m.mu.Unlock()
	var h host
	if len(callers) > 0 {
		h = callers[len(callers)-1].host
	}
	misuse(h, "asynctest: no call is in progress for %v, only for %v", v, values)
	return nil
}

// Cancelled returns the calls that the operator cancelled, in the order of their cancellation.
// These are the calls of records that timed out, and those that were in progress when the operator
// closed.
func (m *Manual[IN, OUT]) Cancelled() []*PendingCall[IN, OUT] {
	m.settle()
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.cancelled)
}

// Answer makes f answer every call at once: first the calls in progress, then all that follow,
// until Answer is called again. With a nil f the test completes the calls again. f is called inside
// the operator's Call, so it must not block, and must not use the Manual or the harness.
func (m *Manual[IN, OUT]) Answer(f func(async.Record[IN]) (async.Outputs[OUT], error)) {
	m.settle()
	m.mu.Lock()
	m.answer = f
	var waiting []*PendingCall[IN, OUT]
	if f != nil {
		waiting, m.pending = m.pending, nil
		for _, p := range waiting {
			p.completed = true
		}
	}
	m.mu.Unlock()
	for _, p := range waiting {
		p.report(f(p.Record))
	}
	m.settle()
}

// Suspend tells the operator that no call can be made for now, and why. Its records are held. Calls
// in progress go on.
func (m *Manual[IN, OUT]) Suspend(reason error) {
	for _, c := range m.open() {
		c.done.Suspend(reason)
	}
	m.settle()
}

// Resume tells the operator that calls can be made again.
func (m *Manual[IN, OUT]) Resume() {
	for _, c := range m.open() {
		c.done.Resume()
	}
	m.settle()
}

// Attempt returns the number of this call among the calls for its record, from 1. Calls that ended
// in a hold are counted.
func (p *PendingCall[IN, OUT]) Attempt() int { return int(p.ID.Attempt) }

// Cancelled reports whether the operator cancelled the call. The test may still complete the call,
// like an answer that comes too late. The operator ignores that.
func (p *PendingCall[IN, OUT]) Cancelled() bool {
	p.caller.settle()
	p.caller.m.mu.Lock()
	defer p.caller.m.mu.Unlock()
	return p.cancelled
}

// Complete ends the call with any number of results. Without results, nothing is emitted for the
// record. Completing a call twice fails the test, or panics outside a harness.
func (p *PendingCall[IN, OUT]) Complete(results ...OUT) {
	outs := async.None[OUT]()
	switch len(results) {
	case 0:
	case 1:
		outs = async.One(results[0])
	default:
		outs = async.Many(slices.Clone(results)...)
	}
	p.end(outs, nil)
}

// Fail ends the call with the failure err, which must not be nil. async.VerdictOf(err), the retry
// predicate and Config.OnError decide what the operator does about it.
func (p *PendingCall[IN, OUT]) Fail(err error) {
	if err == nil {
		misuse(p.caller.host, "asynctest: Fail without an error for %v; use Complete", p.Record.Value)
	}
	p.end(async.Outputs[OUT]{}, err)
}

func (p *PendingCall[IN, OUT]) end(outs async.Outputs[OUT], err error) {
	m := p.caller.m
	m.settle()
	m.mu.Lock()
	again := p.completed
	p.completed = true
	m.pending = slices.DeleteFunc(m.pending, func(q *PendingCall[IN, OUT]) bool { return q == p })
	m.mu.Unlock()
	if again {
		misuse(p.caller.host, "asynctest: attempt %d for %v was completed before", p.Attempt(), p.Record.Value)
	}
	p.report(outs, err)
	m.settle()
}

func (p *PendingCall[IN, OUT]) report(outs async.Outputs[OUT], err error) {
	p.caller.done.Complete([]async.Completion[OUT]{{ID: p.ID, Outputs: outs, Err: err}})
}

// misuse fails the test. Outside a harness it panics.
func misuse(h host, format string, args ...any) {
	if h == nil {
		panic(fmt.Sprintf(format, args...))
	}
	h.tb().Helper()
	h.tb().Fatalf(format, args...)
}

func (m *Manual[IN, OUT]) open() []*manualCaller[IN, OUT] {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.callers)
}

// settle brings the harnesses that use m to rest.
func (m *Manual[IN, OUT]) settle() {
	for _, c := range m.open() {
		c.settle()
	}
}

func (c *manualCaller[IN, OUT]) settle() {
	if c.host != nil {
		c.host.settle()
	}
}

// Open makes Manual an async.Function.
func (m *Manual[IN, OUT]) Open(ctx context.Context, _ async.Subtask, done async.Completer[OUT]) (async.Caller[IN, OUT], error) {
	if done == nil {
		return nil, errors.New("asynctest: Manual was opened without a Completer")
	}
	c := &manualCaller[IN, OUT]{m: m, done: done}
	c.host, _ = ctx.Value(hostKey{}).(host)
	m.mu.Lock()
	m.callers = append(m.callers, c)
	m.mu.Unlock()
	return c, nil
}

func (c *manualCaller[IN, OUT]) Call(batch []async.Call[IN]) {
	c.m.mu.Lock()
	answer := c.m.answer
	if answer == nil {
		for _, call := range batch {
			c.m.pending = append(c.m.pending, &PendingCall[IN, OUT]{Call: call, caller: c})
		}
	}
	c.m.mu.Unlock()
	if answer == nil {
		return
	}
	report := make([]async.Completion[OUT], len(batch))
	for i, call := range batch {
		report[i].ID = call.ID
		report[i].Outputs, report[i].Err = answer(call.Record)
	}
	c.done.Complete(report)
}

func (c *manualCaller[IN, OUT]) Cancel(ids []async.CallID) {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	for _, id := range ids {
		i := slices.IndexFunc(c.m.pending, func(p *PendingCall[IN, OUT]) bool { return p.caller == c && p.ID == id })
		if i < 0 {
			continue // completed at the same moment
		}
		c.m.pending[i].cancelled = true
		c.m.cancelled = append(c.m.cancelled, c.m.pending[i])
		c.m.pending = slices.Delete(c.m.pending, i, i+1)
	}
}

func (c *manualCaller[IN, OUT]) Close() error {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	c.m.callers = slices.DeleteFunc(c.m.callers, func(x *manualCaller[IN, OUT]) bool { return x == c })
	c.m.pending = slices.DeleteFunc(c.m.pending, func(p *PendingCall[IN, OUT]) bool { return p.caller == c })
	return nil
}
