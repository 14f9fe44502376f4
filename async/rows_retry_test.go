package async_test

import (
	"errors"
	"testing"
	"time"

	"github.com/tensorferry/tensorferry/async"
)

// Rows about timers and retries.

func TestTimerRows(t *testing.T) {
	inEveryOrder(t, "16 no timer after completion", func(t *testing.T, order async.Order) {
		r := newRig(t, order, async.Config{Timeout: 10 * time.Second, Retry: async.Retry{Max: 1, Delay: time.Second}}, nil)
		r.admit(1, 2)
		r.step().double(1)
		r.complete(2, async.Outputs[int]{}, flaky{})
		r.run(func() bool { return len(r.calls[2]) == 2 }).double(2)
		if r.step().want("2@1 4@2"); !r.status.Next.IsZero() {
			t.Fatalf("something is timed for %v", r.status.Next.Sub(r.start))
		}
		time.Sleep(time.Hour)
		if r.step(); r.err != nil || r.op.Stats().Timeouts != 0 {
			t.Fatal(r.err)
		}
	})
	inEveryOrder(t, "17 in time, and looked at late", func(t *testing.T, order async.Order) {
		r := newRig(t, order, async.Config{Timeout: 10 * time.Second}, nil)
		r.admit(1, 2)
		r.step()
		time.Sleep(10*time.Second - 1)
		r.double(1)
		time.Sleep(time.Nanosecond)
		r.double(2) // at the very deadline a result is in time (A15)
		time.Sleep(time.Hour)
		r.op.End()
		r.run(nil)
		if sorted(r.out) != "2@1 4@2" || r.err != nil || r.op.Stats().Timeouts != 0 {
			t.Fatalf("%v, %v", r.out, r.err)
		}
	})
	inEveryOrder(t, "24, 25 never completes, with retry", func(t *testing.T, order async.Order) {
		r := newRig(t, order, async.Config{Timeout: time.Second, Retry: async.Retry{Max: 3, Delay: 100 * time.Millisecond, Jitter: async.Off}}, nil)
		r.admit(1)
		r.op.End()
		r.step().complete(1, async.Outputs[int]{}, flaky{})
		r.run(nil).want("")
		re, ok := errors.AsType[*async.RecordError](r.err)
		if !ok || !errors.Is(r.err, async.ErrTimeout) || re.Attempts != 2 || len(r.calls[1]) != 2 || r.now() != time.Second {
			t.Fatalf("%v after %v, %d calls", r.err, r.now(), len(r.calls[1]))
		}
		if !r.cancelled[r.calls[1][1]] {
			t.Error("the second call was not cancelled")
		}
	})
	inEveryOrder(t, "28 closed while one waits for its retry", func(t *testing.T, order async.Order) {
		r := newRig(t, order, async.Config{Retry: async.Retry{Max: 3, Delay: 100 * time.Millisecond}}, nil)
		r.admit(1, 2, 3)
		r.step().complete(1, async.Outputs[int]{}, flaky{})
		if r.step(); r.op.Stats().Retrying != 1 {
			t.Fatalf("%+v", r.op.Stats())
		}
		r.double(2) // complete, and not yet emitted
		if err := r.op.Close(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if r.step().want(""); len(r.calls[1]) != 1 || r.err == nil || !r.cancelled[r.calls[3][0]] {
			t.Errorf("%d calls of 1, %v, cancelled %v", len(r.calls[1]), r.err, r.cancelled)
		}
	})
	inEveryOrder(t, "39 the end of input, and a call that never answers", func(t *testing.T, order async.Order) {
		r := newRig(t, order, async.Config{Timeout: time.Second}, func(r *rig) async.Function[int, int] {
			return &handled{Function: r, handler: func(async.Call[int]) (async.Outputs[int], error) { return async.One(-1), nil }}
		})
		r.admit(1)
		r.op.End()
		r.run(nil).want("-1@1")
		if !r.status.Ended || r.now() != time.Second {
			t.Fatalf("%+v after %v", r.status, r.now())
		}
	})
}

// TestRow36: the failure of a timeout handler is final, even if retry strategy, predicate and
// verdict all ask for another attempt (FLINK-38082).
func TestRow36(t *testing.T) {
	inEveryOrder(t, "35, 36 a handler whose failure looks worth a retry", func(t *testing.T, order async.Order) {
		for _, predicated := range []bool{false, true} {
			var h *handled
			cfg := async.Config{Timeout: time.Second, Retry: async.Retry{Max: 5, Delay: 10 * time.Millisecond}}
			r := newRig(t, order, cfg, func(r *rig) async.Function[int, int] {
				h = &handled{Function: r, handler: func(async.Call[int]) (async.Outputs[int], error) { return async.Outputs[int]{}, flaky{} }}
				if predicated {
					return retryingHandler{h}
				}
				return h
			})
			start := time.Now()
			r.admit(1, 2)
			r.op.End()
			r.run(nil).want("")
			if !errors.Is(r.err, flaky{}) || h.calls != 1 || len(r.calls[1]) != 1 || len(r.calls[2]) != 1 || time.Since(start) != time.Second {
				t.Fatalf("%v after %v, %d handler calls, calls %v", r.err, time.Since(start), h.calls, r.calls)
			}
			if time.Sleep(time.Minute); r.step().err == nil || h.calls != 1 || len(r.calls[1]) != 1 {
				t.Fatal("it was called again")
			}
		}
	})
}

// retryingHandler is a timeout handler whose function would retry whatever fails.
type retryingHandler struct{ *handled }

func (retryingHandler) RetryResult(async.Outputs[int]) bool { return false }
func (retryingHandler) RetryError(error) bool               { return true }

// TestRow37: a timeout fires while a failure is being turned into a retry, in every way in which
// the two can meet. Each time there is one outcome, and no attempt after the deadline (A24).
func TestRow37(t *testing.T) {
	const delay = 10 * time.Millisecond
	for _, c := range []struct {
		name  string
		fails time.Duration // when the failure is reported
		looks time.Duration // when the task gets to it
		want  string
	}{
		{"the retry is due, then the time is up, both noticed late", 985 * time.Millisecond, 2 * time.Second, "-1@1"},
		{"the retry is due at the deadline", 990 * time.Millisecond, time.Second, ""},
		{"the retry would be due after the deadline", time.Second - 1, time.Second, ""},
		{"the failure comes at the deadline", time.Second, time.Second, "-1@1"},
		{"the failure comes behind the deadline, the task behind both", time.Second + 1, 2 * time.Second, "-1@1"},
	} {
		inEveryOrder(t, "37 "+c.name, func(t *testing.T, order async.Order) {
			var h *handled
			cfg := async.Config{
				Timeout: time.Second, Retry: async.Retry{Max: 3, Delay: delay, Jitter: async.Off},
				// the outcome where the handler is not asked
				OnError: async.OnError{Backend: async.Drop},
			}
			r := newRig(t, order, cfg, func(r *rig) async.Function[int, int] {
				h = &handled{Function: r, handler: func(async.Call[int]) (async.Outputs[int], error) { return async.One(-1), nil }}
				return h
			})
			r.admit(1)
			r.step()
			time.Sleep(c.fails)
			r.complete(1, async.Outputs[int]{}, flaky{})
			time.Sleep(c.looks - c.fails)
			r.step()
			r.op.End()
			r.complete(1, async.Outputs[int]{}, flaky{}) // and again, late
			r.double(1)
			r.run(nil).want(c.want)
			st := r.op.Stats()
			if r.err != nil || !r.status.Ended || st.Completed+st.Dropped != 1 || h.calls != len(r.out) || len(r.calls[1]) != 1 {
				t.Fatalf("%v, %d handler calls, %d attempts, %+v", r.err, h.calls, len(r.calls[1]), st)
			}
			if time.Sleep(time.Hour); !r.step().status.Next.IsZero() || len(r.out) != h.calls {
				t.Error("something of it is left")
			}
		})
	}
	inEveryOrder(t, "37 the handler answers while the failure is on its way", func(t *testing.T, order async.Order) {
		r := newRig(t, order, async.Config{Timeout: time.Second, Retry: async.Retry{Max: 3, Delay: delay}}, func(r *rig) async.Function[int, int] {
			return &handled{Function: r, handler: func(async.Call[int]) (async.Outputs[int], error) {
				r.complete(1, async.Outputs[int]{}, flaky{})
				return async.One(-1), nil
			}}
		})
		r.admit(1)
		r.op.End()
		if r.run(nil).want("-1@1"); r.err != nil || len(r.calls[1]) != 1 || r.op.Stats().Retries != 0 {
			t.Fatalf("%v, %+v", r.err, r.op.Stats())
		}
	})
}
