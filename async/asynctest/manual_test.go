package asynctest_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/async/asynctest"
)

// busy is an overload: the record waits, and no attempt is used up.
type busy struct{}

func (busy) Error() string { return "busy" }
func (busy) Verdict() async.Verdict {
	return async.Verdict{Class: async.Overload, Hold: true, RetryAfter: time.Second}
}

func TestManual(t *testing.T) {
	virtual(t, "calls follow from completions", func(t *testing.T) {
		var fn asynctest.Manual[int, int]
		h := asynctest.New(t, &fn, async.Config{MaxCalls: 1})
		h.Push(1, 2, 3)
		for v := 1; v <= 3; v++ {
			if calls := fn.Calls(); len(calls) != 1 || calls[0].Record.Value != v {
				t.Fatalf("%d: %d calls", v, len(calls))
			}
			fn.Call(v).Complete(2 * v)
		}
		if got := h.Transcript(); got != "2 4 6" {
			t.Error(got)
		}
	})
	virtual(t, "what follows happens at the same moment", func(t *testing.T) {
		var fn asynctest.Manual[int, int]
		h := asynctest.New(t, &fn, async.Config{})
		h.Push(1)
		now := time.Now()
		fn.Call(1).Complete(2)
		time.Sleep(time.Second) // the test lets time pass by itself
		if out := h.Output(); len(out) != 1 || !out[0].At.Equal(now) {
			t.Errorf("completed at %v, left %+v", now, out)
		}
	})
	virtual(t, "a late answer is ignored", func(t *testing.T) {
		var fn asynctest.Manual[int, int]
		h := asynctest.New(t, &fn, async.Config{Timeout: time.Second, OnError: async.OnError{Timeout: async.DeadLetter}})
		h.Push(1)
		late := fn.Call(1)
		if late.Cancelled() {
			t.Error("cancelled before its deadline")
		}
		h.Advance(time.Second)
		if !late.Cancelled() || len(fn.Calls()) != 0 || len(fn.Cancelled()) != 1 || fn.Cancelled()[0] != late {
			t.Errorf("cancelled: %v", late.Cancelled())
		}
		late.Complete(2)
		if got := h.Transcript(); got != "x1:timeout" {
			t.Error(got)
		}
	})
	virtual(t, "overload", func(t *testing.T) {
		var fn asynctest.Manual[int, int]
		h := asynctest.New(t, &fn, async.Config{Capacity: 4})
		h.Push(1)
		fn.Call(1).Fail(busy{})
		if st := h.Stats(); st.Held != 1 || st.Holds != 1 || len(fn.Calls()) != 0 || st.Limit != 2 {
			t.Errorf("%+v", st)
		}
		h.Advance(time.Second)
		c := fn.Call(1)
		if left := time.Until(c.Deadline); c.Attempt() != 2 || left != async.DefaultTimeout {
			t.Errorf("attempt %d, %v left", c.Attempt(), left)
		}
		c.Complete(2)
		if got := h.Transcript(); got != "2" {
			t.Error(got)
		}
	})
	virtual(t, "calls are suspended and resumed", func(t *testing.T) {
		var fn asynctest.Manual[int, int]
		h := asynctest.New(t, &fn, async.Config{Hold: time.Minute, OnError: async.OnError{Transport: async.DeadLetter}})
		gone := errors.New("the line is dead")
		fn.Suspend(gone)
		h.Push(1)
		if st := h.Stats(); !errors.Is(st.Suspended, gone) || st.Held != 1 || len(fn.Calls()) != 0 {
			t.Errorf("%+v", st)
		}
		h.Advance(30 * time.Second)
		fn.Resume()
		fn.Call(1).Complete(2)
		fn.Suspend(gone)
		h.Push(3)
		h.Advance(time.Minute)
		if got := h.Transcript(); got != "2 x3:transport" || !errors.Is(h.DeadLetters()[0].Err, gone) {
			t.Error(got)
		}
	})
	virtual(t, "the function answers, then the test does", func(t *testing.T) {
		var fn asynctest.Manual[int, int]
		h := asynctest.New(t, &fn, async.Config{OnError: async.OnError{BadRecord: async.Drop}})
		h.Push(1)
		fn.Answer(func(r async.Record[int]) (async.Outputs[int], error) {
			if r.Value == 2 {
				return async.Outputs[int]{}, badRecord{}
			}
			return double(r)
		})
		h.Push(2, 3)
		fn.Answer(nil)
		h.Push(4)
		if got := h.Transcript(); got != "2 6" || len(fn.Calls()) != 1 {
			t.Errorf("%s, %d calls", got, len(fn.Calls()))
		}
	})
	virtual(t, "several harnesses", func(t *testing.T) {
		var fn asynctest.Manual[int, int]
		a := asynctest.New(t, &fn, async.Config{})
		b := asynctest.New(t, &fn, async.Config{})
		a.Push(1)
		b.Push(2)
		if n := len(fn.Calls()); n != 2 {
			t.Errorf("%d calls", n)
		}
		if err := a.Close(); err != nil || len(fn.Calls()) != 1 {
			t.Errorf("%v, %d calls", err, len(fn.Calls()))
		}
		fn.Call(2).Complete(4)
		if a.Transcript() != "" || b.Transcript() != "4" {
			t.Errorf("%q, %q", a.Transcript(), b.Transcript())
		}
	})
}

type badRecord struct{}

func (badRecord) Error() string          { return "bad" }
func (badRecord) Verdict() async.Verdict { return async.Verdict{Class: async.BadRecord} }

// Outside a harness misuse has no test to fail.
func TestManualOutsideAHarness(t *testing.T) {
	var fn asynctest.Manual[int, int]
	if _, err := fn.Open(context.Background(), async.Subtask{}, nil); err == nil {
		t.Error("opened without a Completer")
	}
	defer func() {
		if v := recover(); v == nil {
			t.Error("a call that does not exist was found")
		}
	}()
	fn.Call(1)
}
