package async_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tensorferry/tensorferry/async"
)

// able is a function with all optional interfaces.
type able struct {
	async.Function[int, int]
	asked map[string]bool
}

func (a *able) MaxCalls() int         { a.asked["MaxCalls"] = true; return 3 }
func (a *able) RecordBytes(int) int   { a.asked["RecordBytes"] = true; return 8 }
func (a *able) RetryError(error) bool { a.asked["RetryError"] = true; return false }
func (a *able) RetryResult(o async.Outputs[int]) bool {
	a.asked["RetryResult"] = true
	return false
}

func (a *able) OnTimeout(async.Call[int]) (async.Outputs[int], error) {
	a.asked["OnTimeout"] = true
	return async.One(-1), nil
}

func (a *able) Fallback(async.Failed[int]) (async.Outputs[int], error) {
	a.asked["Fallback"] = true
	return async.One(-2), nil
}

// plain wraps a function. All that it may add is a limit.
type plain struct{ inner async.Function[int, int] }

func (p plain) Open(ctx context.Context, sub async.Subtask, done async.Completer[int]) (async.Caller[int, int], error) {
	return p.inner.Open(ctx, sub, done)
}
func (p plain) Unwrap() async.Function[int, int] { return p.inner }

type limiting struct{ plain }

func (limiting) MaxCalls() int { return 2 }

// A function keeps its optional interfaces when it is wrapped. Those of the wrapper come first.
func TestUnwrap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := &able{async.Func(func(ctx context.Context, v int) (int, error) {
			switch v {
			case 1:
				<-ctx.Done()
				return 0, ctx.Err()
			case 2:
				return 0, context.Canceled
			}
			return v, nil
		}, 9), map[string]bool{}}
		r := newRig(t, async.Ordered, async.Config{Timeout: time.Second, OnError: async.OnError{Backend: async.Fallback}},
			func(*rig) async.Function[int, int] { return plain{limiting{plain{inner}}} })
		if got := r.op.Config().MaxCalls; got != 2 || inner.asked["MaxCalls"] {
			t.Errorf("%d calls at a time, and the inner one was asked: %v", got, inner.asked)
		}
		r.admit(0, 1, 2)
		r.op.End()
		for !r.status.Ended {
			r.step()
			time.Sleep(time.Second)
			synctest.Wait()
		}
		r.want("0@0 -1@1 -2@2")
		r.closed = true // its caller was never opened
		for _, name := range []string{"RecordBytes", "RetryError", "RetryResult", "OnTimeout", "Fallback"} {
			if !inner.asked[name] {
				t.Errorf("%s was not asked", name)
			}
		}
	})
}

// itself wraps itself.
type itself struct{ async.Function[int, int] }

func (f itself) Unwrap() async.Function[int, int] { return f }

func TestWrapsItself(t *testing.T) {
	_, err := async.NewOperator[int, int](itself{}, async.Config{}, async.Subtask{}, func() {})
	if err == nil || !strings.Contains(err.Error(), "does one wrap itself?") {
		t.Errorf("the error is %v", err)
	}
}
