package callbacks

import (
	"context"
	"errors"
	"iter"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/trace"
)

// function doubles, after 20 ms, and is whatever else an operator asks a function to be. By value:
// 1 fails once and may be tried again, 3 never answers, 4 fails, 5 fails with an error that is a
// trap.
type function struct{ *trap }

func (f function) Open(_ context.Context, _ async.Subtask, done async.Completer[int]) (async.Caller[int, int], error) {
	return &caller{trap: f.trap, done: done}, f.spring("async.Function.Open")
}

func (f function) MaxCalls() int {
	f.spring("async.CallLimiter.MaxCalls")
	return 0
}

func (f function) OnTimeout(async.Call[int]) (async.Outputs[int], error) {
	return async.One(0), f.spring("async.TimeoutHandler.OnTimeout")
}

func (f function) RetryResult(async.Outputs[int]) bool {
	f.spring("async.RetryPredicate.RetryResult")
	return false
}

func (f function) RetryError(err error) bool {
	f.spring("async.RetryPredicate.RetryError")
	return errors.Is(err, errAgain)
}

func (f function) Fallback(async.Failed[int]) (async.Outputs[int], error) {
	return async.One(0), f.spring("async.FallbackMaker.Fallback")
}

func (f function) RecordBytes(int) int {
	f.spring("async.Sizer.RecordBytes")
	return 8
}

var (
	errAgain = errors.New("once more")
	errNever = errors.New("refused")
)

type caller struct {
	*trap
	done async.Completer[int]

	mu     sync.Mutex
	timers []*time.Timer
}

func (c *caller) Call(batch []async.Call[int]) {
	c.spring("async.Caller.Call")
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, call := range batch {
		out := async.Completion[int]{ID: call.ID, Outputs: async.One(2 * call.Record.Value)}
		switch v := call.Record.Value; {
		case v == 1 && call.ID.Attempt == 1:
			out.Err = errAgain
		case v == 3:
			continue
		case v == 4 && action(c.trap) == async.Fallback:
			out.Err = errNever
		case v == 5:
			out.Err = &trapError{c.trap}
		}
		c.timers = append(c.timers, time.AfterFunc(20*time.Millisecond, func() { c.done.Complete([]async.Completion[int]{out}) }))
	}
}

func (c *caller) Cancel([]async.CallID) { c.spring("async.Caller.Cancel") }

func (c *caller) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.timers {
		t.Stop()
	}
	return c.spring("async.Caller.Close")
}

// trapError is an error each of whose methods may be the trap.
type trapError struct{ *trap }

func (e *trapError) Error() string {
	e.spring("error.Error")
	return "a trap"
}

func (e *trapError) Is(error) bool {
	e.spring("error.Is")
	return false
}

func (e *trapError) As(any) bool {
	e.spring("error.As")
	return false
}

func (e *trapError) Unwrap() error {
	e.spring("error.Unwrap")
	return nil
}

func (e *trapError) Verdict() async.Verdict {
	e.spring("async.Failure.Verdict")
	return async.Verdict{Class: async.Backend}
}

// tracer records nothing.
type tracer struct{ *trap }

func (r tracer) Start(*trace.Context, string, trace.Kind, time.Time, ...*trace.Context) trace.Span {
	r.spring("trace.Tracer.Start")
	return &span{r.trap, trace.Context{TraceID: [16]byte{1}, SpanID: [8]byte{1}, Flags: 1}}
}

type span struct {
	*trap
	own trace.Context
}

func (s *span) Context() *trace.Context {
	s.spring("trace.Span.Context")
	return &s.own
}
func (s *span) Set(...trace.Attr)                      { s.spring("trace.Span.Set") }
func (s *span) Event(time.Time, string, ...trace.Attr) { s.spring("trace.Span.Event") }
func (s *span) End(time.Time, error)                   { s.spring("trace.Span.End") }

// last is the error that a sequence of Map ended with.
func last[T any](results iter.Seq2[T, error]) (err error) {
	for _, e := range results {
		err = e
	}
	return err
}

var asyncRows = map[string]row{
	"async.CallLimiter.MaxCalls": {run: inJob, where: "MaxCalls of the function"},
	"async.Caller.Call":          {run: inJob, where: "async"},
	"async.Caller.Cancel":        {run: inJob, where: "async"},
	// logged: the results are published
	"async.Caller.Close":               {run: inJob, returns: true, check: harmless},
	"async.Completer.Complete":         {why: byUser},
	"async.Completer.Resume":           {why: byUser},
	"async.Completer.Suspend":          {why: byUser},
	"async.Config.Tracer":              {why: nested},
	"async.Completer.ResultsFull":      {why: byUser},
	"async.Emitter.Emit":               {why: onCallers},
	"async.Emitter.Watermark":          {why: onCallers},
	"async.Completer.Fail":             {why: byUser},
	"async.Failure.Verdict":            {run: inJob, where: "Verdict of the error"},
	"async.FallbackMaker.Fallback":     {run: inJob, where: "async", returns: true},
	"async.Function.Open":              {run: inJob, where: "async", returns: true},
	"async.Map(fn)":                    {why: nested},
	"async.NewOperator(fn)":            {why: nested},
	"async.Operator.DeadLetters(take)": {why: onCallers},
	"async.Operator.Step(out)":         {why: onCallers},
	"async.RetryPredicate.RetryError":  {run: inJob, where: "async"},
	"async.RetryPredicate.RetryResult": {run: inJob, where: "async"},
	"async.Sizer.RecordBytes":          {run: inJob, where: "async"},
	"async.Subtask.Logger":             {why: byUser},
	"async.TimeoutHandler.OnTimeout":   {run: inJob, where: "async", returns: true},
	"+error.Error":                     {run: inJob, where: "Error of the error"},
	"+error.Is":                        {run: inJob, where: "Is of the error"},
	"+error.As":                        {run: inJob, where: "As of the error"},
	"+error.Unwrap":                    {run: inJob, where: "Unwrap of the error"},
	"trace.Tracer.Start":               {run: inJob, where: "Start of the tracer", exits: "async"},
	"trace.Span.Context":               {run: inJob, where: "Start of the tracer", exits: "async"},
	"trace.Span.Set":                   {run: inJob, where: "Set of a span", exits: "async"},
	"trace.Span.Event":                 {run: inJob, where: "Event of a span", exits: "async"},
	"trace.Span.End":                   {run: inJob, where: "End of a span", exits: "async"},

	"async.Func(f)": {where: "the function", returns: true, run: virtual(func(t *testing.T, tr *trap) error {
		f := async.Func(func(context.Context, int) (int, error) { return 0, tr.spring("async.Func(f)") }, 1)
		return last(async.Map(t.Context(), async.Values(slices.Values([]int{1, 2})), f, async.Config{}))
	})},
	"async.Map(in)": {where: "the input of Map", returns: true, run: input(async.Map[int, int], "async.Map(in)")},
	"async.As(fn)":  {why: nested},
	"async.Unwrapper.Unwrap": {where: "Unwrap of the function", run: virtual(func(t *testing.T, tr *trap) error {
		_, err := async.NewOperator[int, int](wrapping{function{tr}, tr}, async.Config{}, async.Subtask{}, func() {})
		return err
	})},
	"async.Values(in)": {where: "the input of Map", run: virtual(func(t *testing.T, tr *trap) error {
		in := async.Values(func(func(int) bool) { tr.spring("async.Values(in)") })
		return last(async.Map(t.Context(), in, function{tr}, async.Config{}))
	})},
	"async.NewOperator(wake)": {where: "the function that wakes", run: virtual(func(t *testing.T, tr *trap) error {
		op, err := async.NewOperator(function{tr}, async.Config{}, async.Subtask{}, func() { tr.spring("async.NewOperator(wake)") })
		if err != nil {
			return err
		}
		if err := op.Open(t.Context()); err != nil {
			return err
		}
		defer op.Close()
		op.Admit([]async.Record[int]{{Value: 2}})
		for {
			if _, err = op.Step(time.Now(), 1, nowhere{}); err != nil || tr.sprung.Load() > 0 {
				return err
			}
			time.Sleep(30 * time.Millisecond) // the answer comes meanwhile
		}
	})},
}

type nowhere struct{}

func (nowhere) Emit([]async.Record[int])  {}
func (nowhere) Watermark(async.Watermark) {}

// mapping is async.Map, or its like.
type mapping func(context.Context, iter.Seq2[int, error], async.Function[int, int], async.Config) iter.Seq2[int, error]

// input runs one whose input is the trap.
func input(m mapping, at string) func(*testing.T, *trap) error {
	return virtual(func(t *testing.T, tr *trap) error {
		in := func(yield func(int, error) bool) {
			if err := tr.spring(at); err != nil {
				yield(0, err)
			}
		}
		return last(m(t.Context(), in, function{tr}, async.Config{}))
	})
}

// requests is a tracer whose trap is in the spans of requests alone, which are another goroutine's
// than those of records.
type requests struct{ tracer }

func (r requests) Start(parent *trace.Context, name string, kind trace.Kind, at time.Time, links ...*trace.Context) trace.Span {
	s := r.tracer.Start(parent, name, kind, at, links...).(*span)
	if kind != trace.Client {
		return s
	}
	return requestSpan{s}
}

type requestSpan struct{ *span }

func (s requestSpan) Set(...trace.Attr) { s.spring("trace.Tracer of the channel") }

// wrapping is a function that wraps another one.
type wrapping struct {
	async.Function[int, int]
	tr *trap
}

func (w wrapping) Unwrap() async.Function[int, int] {
	w.tr.spring("async.Unwrapper.Unwrap")
	return w.Function
}
