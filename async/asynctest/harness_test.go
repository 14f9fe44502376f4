package asynctest_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/async/asynctest"
)

// virtual runs a named test in virtual time.
func virtual(t *testing.T, name string, f func(*testing.T)) {
	t.Helper()
	t.Run(name, func(t *testing.T) { synctest.Test(t, f) })
}

func double(r async.Record[int]) (async.Outputs[int], error) { return async.One(2 * r.Value), nil }

// slow doubles after a second for each unit of its input.
var slow = async.Func(func(ctx context.Context, v int) (int, error) {
	select {
	case <-time.After(time.Duration(v) * time.Second):
		return 2 * v, nil
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}, 0)

// at are records with a split, a position, a key and their value as event time.
func at(split int, key string, values ...int) []async.Record[int] {
	recs := make([]async.Record[int], len(values))
	for i, v := range values {
		recs[i] = async.Record[int]{Value: v, Time: async.EventTime(v), Key: key, Split: split, Position: int64(100 + i)}
	}
	return recs
}

func TestInput(t *testing.T) {
	virtual(t, "what a record carries reaches the function and the result", func(t *testing.T) {
		var fn asynctest.Manual[int, int]
		h := asynctest.New(t, &fn, async.Config{})
		h.PushRecords(at(3, "k", 7)...)
		c := fn.Call(7)
		if r := c.Record; r.Split != 3 || r.Key != "k" || r.Time != 7 || r.Position != 100 {
			t.Errorf("%+v", r)
		}
		if want := time.Now().Add(async.DefaultTimeout); !c.Deadline.Equal(want) || c.Attempt() != 1 {
			t.Errorf("deadline %v, want %v, attempt %d", c.Deadline, want, c.Attempt())
		}
		c.Complete(1, 2)
		want := []async.Record[int]{{Value: 1, Time: 7, Key: "k", Split: 3, Position: 100}, {Value: 2, Time: 7, Key: "k", Split: 3, Position: 100}}
		if got := h.Results(); !slices.Equal(got, want) {
			t.Errorf("%+v", got)
		}
	})
	virtual(t, "positions go on", func(t *testing.T) {
		var fn asynctest.Manual[int, int]
		h := asynctest.New(t, &fn, async.Config{})
		fn.Answer(double)
		h.Push(1, 2)
		h.PushRecords(at(0, "", 3)...) // position 100
		h.PushRecords(at(1, "", 4)...) // of another split
		h.Push(5)
		var got []int64
		for _, r := range h.Results() {
			got = append(got, r.Position)
		}
		if !slices.Equal(got, []int64{0, 1, 100, 100, 101}) {
			t.Error(got)
		}
	})
	virtual(t, "as many as there is room for", func(t *testing.T) {
		var fn asynctest.Manual[int, int]
		h := asynctest.New(t, &fn, async.Config{Capacity: 2})
		if n := h.Offer(h.Records(1, 2, 3)...); n != 2 || h.Room() != 0 {
			t.Errorf("%d taken, room %d", n, h.Room())
		}
		fn.Call(1).Complete(2)
		if n := h.Offer(h.Records(3, 4)...); n != 1 {
			t.Errorf("%d taken", n)
		}
		if got := len(fn.Calls()); got != 2 || fn.Call(3).Record.Position != 2 {
			t.Errorf("%d calls, position %d", got, fn.Call(3).Record.Position)
		}
		fn.Answer(double) // those in progress, and all that follow
		if n := h.Offer(h.Records(4, 5, 6, 7, 8)...); n != 5 {
			t.Errorf("%d taken of a function that answers at once", n)
		}
		if got := h.Transcript(); got != "2 4 6 8 10 12 14 16" {
			t.Error(got)
		}
	})
	virtual(t, "more than fits, in time", func(t *testing.T) {
		h := asynctest.New(t, slow, async.Config{Capacity: 2})
		start := time.Now()
		h.Feed(h.Records(1, 1, 1, 1, 1)...)
		if d := time.Since(start); d != 2*time.Second {
			t.Errorf("fed after %v", d)
		}
		h.Finish()
		if d := time.Since(start); d != 3*time.Second || len(h.Values()) != 5 || !h.Ended() {
			t.Errorf("%v after %v", h.Values(), d)
		}
	})
	virtual(t, "watermarks and idleness, in their place", func(t *testing.T) {
		var fn asynctest.Manual[int, int]
		h := asynctest.New(t, &fn, async.Config{Order: async.Unordered})
		h.PushRecords(at(0, "", 1, 2)...)
		h.Watermark(2)
		h.PushRecords(at(0, "", 3)...)
		h.Idle()
		h.Watermark(async.EndOfTime)
		fn.Call(3).Complete(6)
		fn.Call(2).Complete(4)
		fn.Call(1).Complete()
		h.Finish()
		if got := h.Transcript(); got != "4@2 W2 6@3 Widle Wend end" {
			t.Error(got)
		}
	})
	virtual(t, "keys", func(t *testing.T) {
		var fn asynctest.Manual[int, int]
		h := asynctest.New(t, &fn, async.Config{Order: async.Keyed})
		h.PushRecords(at(0, "a", 1, 2)...)
		h.PushRecords(at(0, "b", 3)...)
		fn.Call(2).Complete(4)
		fn.Call(3).Complete(6)
		fn.Call(1).Complete(2)
		if got := h.Transcript(); got != "6@3 2@1 4@2" {
			t.Error(got)
		}
	})
}

func TestClock(t *testing.T) {
	virtual(t, "a step at every due time", func(t *testing.T) {
		var fn asynctest.Manual[int, int]
		h := asynctest.New(t, &fn, async.Config{
			Capacity: 1, Timeout: 3 * time.Second, OnError: async.OnError{Timeout: async.DeadLetter},
		})
		start := time.Now()
		h.Push(1)
		h.Advance(10 * time.Second)
		h.Push(2)
		h.Advance(10 * time.Second)
		if d := time.Since(start); d != 20*time.Second {
			t.Errorf("time moved by %v", d)
		}
		var got []string
		for _, e := range h.Output() {
			got = append(got, fmt.Sprintf("%v at %v, failed %v", e, e.At.Sub(start), e.DeadLetter.At.Sub(start)))
		}
		if !slices.Equal(got, []string{"x1:timeout at 3s, failed 3s", "x2:timeout at 13s, failed 13s"}) {
			t.Error(got)
		}
	})
	virtual(t, "an answer at the deadline is in time", func(t *testing.T) {
		for _, order := range []async.Order{async.Ordered, async.Unordered, async.Keyed} {
			h := asynctest.New(t, async.Func(func(_ context.Context, v int) (int, error) {
				time.Sleep(time.Second) // and never mind the context
				return 2 * v, nil
			}, 0), async.Config{Order: order, Timeout: time.Second})
			h.Push(1)
			h.Finish()
			if got := h.Transcript(); got != "2 end" || h.Err() != nil {
				t.Errorf("%v: %s (%v)", order, got, h.Err())
			}
		}
	})
	virtual(t, "until something holds", func(t *testing.T) {
		h := asynctest.New(t, slow, async.Config{Order: async.Unordered})
		start := time.Now()
		h.Push(3, 1, 2)
		h.Until(func() bool { return len(h.Values()) == 2 })
		if d := time.Since(start); d != 2*time.Second || h.Transcript() != "2 4" {
			t.Errorf("%s after %v", h.Transcript(), d)
		}
	})
	virtual(t, "a timer of more than a day", func(t *testing.T) {
		var fn asynctest.Manual[int, int]
		h := asynctest.New(t, &fn, async.Config{Timeout: 72 * time.Hour, OnError: async.OnError{Timeout: async.Drop}})
		start := time.Now()
		h.Push(1)
		h.Finish()
		if d := time.Since(start); d != 72*time.Hour || h.Transcript() != "end" || h.Stats().Dropped != 1 {
			t.Errorf("%s after %v", h.Transcript(), d)
		}
	})
}

func TestCheckpoints(t *testing.T) {
	virtual(t, "a drain", func(t *testing.T) {
		var fn asynctest.Manual[int, int]
		h := asynctest.New(t, &fn, async.Config{})
		h.Push(1, 2)
		h.Barrier(4)
		if n := h.Offer(h.Records(3)...); n != 0 || h.Transcript() != "" {
			t.Errorf("%d taken, %s", n, h.Transcript())
		}
		fn.Answer(double)
		if got := h.Transcript(); got != "2 4 |4" {
			t.Error(got)
		}
		if s := h.State(); len(s.Records) != 0 || s.Next != 2 {
			t.Errorf("%+v", s)
		}
	})
	virtual(t, "a drain that is given up", func(t *testing.T) {
		var fn asynctest.Manual[int, int]
		h := asynctest.New(t, &fn, async.Config{})
		h.Push(1)
		h.Barrier(1)
		h.AbortBarrier()
		h.Push(2)
		h.Barrier(2)
		fn.Answer(double)
		if got := h.Transcript(); got != "2 4 |2" {
			t.Error(got)
		}
	})
	// The same state, into every order, policy and a smaller capacity.
	virtual(t, "restore", func(t *testing.T) {
		var fn asynctest.Manual[int, int]
		h := asynctest.New(t, &fn, async.Config{Barrier: async.Snapshot, Capacity: 10})
		h.PushRecords(at(1, "k", 1, 2)...)
		h.Watermark(2)
		h.Push(3)
		fn.Call(3).Complete(6) // done, but not its turn
		h.Barrier(1)
		state := h.State()
		if len(state.Records) != 3 || len(state.Watermarks) != 1 || state.Watermarks[0].Before != 2 || state.Next != 1 {
			t.Fatalf("%+v", state)
		}
		if err := h.Close(); err != nil || len(fn.Cancelled()) != 2 || len(fn.Calls()) != 0 {
			t.Errorf("%v, %d cancelled, %d in progress", err, len(fn.Cancelled()), len(fn.Calls()))
		}
		if got := h.Transcript(); got != "|1" {
			t.Errorf("after Close: %s", got)
		}
		for _, order := range []async.Order{async.Ordered, async.Unordered, async.Keyed} {
			for _, cfg := range []async.Config{{Capacity: 1}, {Capacity: 2, Barrier: async.Drain}, {Barrier: async.Snapshot}} {
				cfg.Order = order
				var fn asynctest.Manual[int, int]
				h := asynctest.Restore(t, &fn, cfg, state)
				if n := h.Room(); n != h.Config().Capacity-4 && n != 0 {
					t.Errorf("%v, %+v: room %d", order, cfg, n)
				}
				if p := fn.Call(1); p.Attempt() != 1 || p.Record.Split != 1 || p.Record.Position != 100 {
					t.Errorf("%+v", p.Call)
				}
				fn.Answer(double)
				h.Push(4)
				h.Barrier(1)
				h.Finish()
				if got := h.Transcript(); got != "2@1 4@2 W2 6 8 |1 end" {
					t.Errorf("%v, %+v: %s", order, cfg, got)
				}
				if r := h.Results(); r[3].Position != 1 {
					t.Errorf("the input went on at position %d", r[3].Position)
				}
			}
		}
		if again := h.State(); !slices.Equal(again.Records, state.Records) {
			t.Errorf("%+v", again)
		}
	})
}

func TestFailures(t *testing.T) {
	virtual(t, "of a record", func(t *testing.T) {
		var fn asynctest.Manual[int, int]
		h := asynctest.New(t, &fn, async.Config{})
		h.Push(1, 2)
		boom := errors.New("boom")
		fn.Call(2).Fail(boom)
		failure, ok := errors.AsType[*async.RecordError](h.Err())
		if !ok || !errors.Is(failure, boom) || failure.Position != 1 || h.Transcript() != "" || h.Room() != 0 {
			t.Errorf("%v, %s", h.Err(), h.Transcript())
		}
		h.Advance(time.Minute) // nothing more happens, and Finish does not wait for it
		h.Finish()
		if h.Ended() {
			t.Error("ended")
		}
	})
	virtual(t, "while input waits", func(t *testing.T) {
		var fn asynctest.Manual[int, int]
		h := asynctest.New(t, &fn, async.Config{Capacity: 1, Timeout: time.Second})
		h.Feed(h.Records(1, 2)...)
		if !errors.Is(h.Err(), async.ErrTimeout) {
			t.Error(h.Err())
		}
	})
	virtual(t, "of Open", func(t *testing.T) {
		h := asynctest.New(t, async.Function[int, int](unopened{}), async.Config{})
		if err := h.Err(); !errors.Is(err, errUnopened) {
			t.Error(err)
		}
	})
	virtual(t, "of Close", func(t *testing.T) {
		var fn unclosed
		h := asynctest.New(t, &fn, async.Config{})
		if err := h.Close(); !errors.Is(err, errUnclosed) {
			t.Error(err)
		}
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	virtual(t, "a panic of a handler", func(t *testing.T) {
		h := asynctest.New(t, &panicking{}, async.Config{Timeout: time.Second})
		h.Push(1)
		h.Finish()
		if p, ok := errors.AsType[*async.PanicError](h.Err()); !ok || p.Value != "no idea" {
			t.Error(h.Err())
		}
	})
}

var (
	errUnopened = errors.New("cannot be opened")
	errUnclosed = errors.New("cannot be closed")
)

type unopened struct{}

func (unopened) Open(context.Context, async.Subtask, async.Completer[int]) (async.Caller[int, int], error) {
	return nil, errUnopened
}

// unclosed is a function whose Close fails.
type unclosed struct{ asynctest.Manual[int, int] }

type unclosedCaller struct{ async.Caller[int, int] }

func (f *unclosed) Open(ctx context.Context, sub async.Subtask, done async.Completer[int]) (async.Caller[int, int], error) {
	c, err := f.Manual.Open(ctx, sub, done)
	return unclosedCaller{c}, err
}

func (unclosedCaller) Close() error { return errUnclosed }

type panicking struct{ asynctest.Manual[int, int] }

func (*panicking) OnTimeout(async.Call[int]) (async.Outputs[int], error) { panic("no idea") }

func TestElementsAreReadable(t *testing.T) {
	type element = asynctest.Element[int, string]
	for want, e := range map[string]element{
		"a@2":       {Result: async.Record[string]{Value: "a", Time: 2}},
		"a":         {Result: async.Record[string]{Value: "a", Time: async.NoTime}},
		"x5:record": {Kind: asynctest.DeadLetter, DeadLetter: async.Failed[int]{Record: async.Record[int]{Value: 5}, Class: async.BadRecord}},
		"W-3":       {Kind: asynctest.Watermark, Watermark: async.Watermark{Time: -3}},
		"Widle":     {Kind: asynctest.Watermark, Watermark: async.Watermark{Idle: true}},
		"Wend":      {Kind: asynctest.Watermark, Watermark: async.Watermark{Time: async.EndOfTime}},
		"|9":        {Kind: asynctest.Barrier, Barrier: 9},
		"end":       {Kind: asynctest.End},
	} {
		if got := e.String(); got != want {
			t.Errorf("%v is written %q, want %q", e.Kind, got, want)
		}
	}
}
