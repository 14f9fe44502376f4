package async_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tensorferry/tensorferry/async"
)

// The rows of the conformance list (docs/rules.md) that are about one operator.
// Queue-level rows are transcripts in internal/asyncq/testdata.

// row runs a test in virtual time.
func row(t *testing.T, name string, f func(*testing.T)) {
	t.Helper()
	t.Run(name, func(t *testing.T) { synctest.Test(t, f) })
}

// rows runs it in both orders.
func rows(t *testing.T, name string, f func(*testing.T, async.Order)) {
	t.Helper()
	for _, o := range []async.Order{async.Ordered, async.Unordered} {
		row(t, name+"/"+o.String(), func(t *testing.T) { f(t, o) })
	}
}

func sorted(out []string) string { s := slices.Clone(out); slices.Sort(s); return strings.Join(s, " ") }

func TestEventTime(t *testing.T) {
	row(t, "7 ordered", func(t *testing.T) {
		r := newRig(t, async.Ordered, async.Config{Capacity: 2}, nil)
		if !r.admit(1, 2) || r.op.Watermark(async.Watermark{Time: 2}) {
			t.Fatal("capacity 2 takes two records and no watermark")
		}
		r.step().double(2, 1)
		r.step()
		if !r.op.Watermark(async.Watermark{Time: 2}) || !r.admit(3) {
			t.Fatal("no room for the rest")
		}
		r.op.End()
		r.step().double(3)
		r.run(nil).want("2@1 4@2 W2 6@3")
	})
	row(t, "8 unordered", func(t *testing.T) {
		r := newRig(t, async.Unordered, async.Config{Capacity: 4}, nil)
		r.admit(1, 2)
		r.op.Watermark(async.Watermark{Time: 2})
		r.admit(3)
		r.op.End()
		r.step().double(3, 2, 1)
		r.run(nil).want("4@2 2@1 W2 6@3")
	})
}

func TestSnapshotAndRestore(t *testing.T) {
	rows(t, "12, 26, 46, 47", func(t *testing.T, order async.Order) {
		r := newRig(t, order, async.Config{Capacity: 4, Barrier: async.Snapshot}, nil)
		r.admit(1, 2, 3, 4)
		r.step()
		r.complete(3, async.One(6), nil) // finished results are dropped with the rest
		if order == async.Unordered {
			r.step()
			r.want("6@3")
		}
		r.op.Barrier(7)
		r.step()
		if r.status.Barrier != 7 || len(r.status.Entries) != 4-len(r.out)+1 {
			t.Fatalf("barrier %d with %d entries", r.status.Barrier, len(r.status.Entries))
		}
		state := r.status.Entries
		// Any capacity, also 1, and into a job that drains.
		for _, capacity := range []int{6, 4, 1} {
			for _, policy := range []async.BarrierPolicy{async.Snapshot, async.Drain} {
				n := newRig(t, order, async.Config{Capacity: capacity, Barrier: policy}, nil)
				n.answer = func(r *rig, c async.Call[int]) { r.double(c.Record.Value) }
				n.op.Restore(state, nil)
				if n.op.Room() != 0 {
					t.Fatal("input is admitted before the restored records")
				}
				n.op.Barrier(8)
				n.run(func() bool { return n.status.Barrier == 8 })
				if policy == async.Snapshot {
					// Whatever had not left yet is in the second checkpoint again.
					if len(n.status.Entries)+len(n.out)-1 != len(state) {
						t.Fatalf("capacity %d: %d entries after %v", capacity, len(n.status.Entries), n.out)
					}
				} else if len(n.out) != len(state)+1 {
					t.Fatalf("the drain let the barrier pass after %v", n.out)
				}
				n.run(func() bool { return len(n.out) == len(state)+1 })
				for v := 5; v <= 8; {
					if n.admit(v) {
						v++
					} else {
						n.run(func() bool { return n.op.Room() > 0 })
					}
				}
				n.op.End()
				n.run(nil)
				n.out = slices.DeleteFunc(n.out, func(s string) bool { return s == "|8" })
				want := []string{"2@1", "4@2", "6@3", "8@4", "10@5", "12@6", "14@7", "16@8"}
				if order == async.Unordered {
					n.out = append(n.out, r.out[0])
					slices.Sort(want)
					slices.Sort(n.out)
				}
				n.want(strings.Join(want, " "))
			}
		}
	})
	row(t, "queued watermarks", func(t *testing.T) {
		r := newRig(t, async.Unordered, async.Config{}, nil)
		r.admit(1)
		r.op.Watermark(async.Watermark{Time: 1})
		r.op.Watermark(async.Watermark{Time: 2})
		r.admit(3)
		r.op.Watermark(async.Watermark{Time: 3})
		r.op.Barrier(1)
		r.step()
		n := newRig(t, async.Unordered, async.Config{Capacity: 1}, nil)
		n.answer = func(r *rig, c async.Call[int]) { r.double(c.Record.Value) }
		n.op.Restore(r.status.Entries, r.status.Watermarks)
		n.op.End()
		n.run(nil).want("2@1 W1 W2 6@3 W3")
	})
}

func TestTimeouts(t *testing.T) {
	rows(t, "14 the default handler fails the record", func(t *testing.T, order async.Order) {
		r := newRig(t, order, async.Config{Timeout: 10 * time.Second}, nil)
		r.admit(1)
		r.step()
		time.Sleep(5 * time.Second)
		r.admit(2)
		r.step()
		time.Sleep(6 * time.Second)
		r.double(2)
		r.run(nil).want("")
		re, ok := errors.AsType[*async.RecordError](r.err)
		if !ok || re.Position != 0 || re.Class != async.Timeout || !errors.Is(r.err, async.ErrTimeout) {
			t.Fatalf("failed with %v", r.err)
		}
		if !r.cancelled[r.calls[1][0]] {
			t.Error("the call was not cancelled (A23)")
		}
	})
	rows(t, "15 a handler that emits", func(t *testing.T, order async.Order) {
		var h *handled
		r := newRig(t, order, async.Config{Timeout: 10 * time.Second}, func(r *rig) async.Function[int, int] {
			h = &handled{Function: r, handler: func(c async.Call[int]) (async.Outputs[int], error) { return async.One(3 * c.Record.Value), nil }}
			return h
		})
		r.admit(1)
		r.step()
		time.Sleep(5 * time.Second)
		r.admit(2)
		r.op.End()
		r.step().double(2)
		r.run(nil)
		if r.err != nil || sorted(r.out) != "3@1 4@2" || h.calls != 1 {
			t.Fatalf("%v, %v, %d handler calls", r.out, r.err, h.calls)
		}
	})
	rows(t, "22, 23 to the tick, no hang", func(t *testing.T, order async.Order) {
		r := newRig(t, order, async.Config{Timeout: 1234567 * time.Microsecond}, nil)
		r.admit(1, 2, 3)
		r.op.End()
		r.run(nil)
		if r.now() != 1234567*time.Microsecond || !errors.Is(r.err, async.ErrTimeout) {
			t.Fatalf("%v after %v", r.err, r.now())
		}
	})
	rows(t, "48 a handler that completes nothing", func(t *testing.T, order async.Order) {
		r := newRig(t, order, async.Config{Timeout: time.Second}, func(r *rig) async.Function[int, int] {
			return &handled{Function: r, handler: func(async.Call[int]) (async.Outputs[int], error) { return async.Outputs[int]{}, nil }}
		})
		r.admit(1)
		r.run(nil)
		if !errors.Is(r.err, async.ErrHandlerSilent) {
			t.Fatalf("failed with %v", r.err)
		}
	})
	rows(t, "a handler may drop the record", func(t *testing.T, order async.Order) {
		r := newRig(t, order, async.Config{Timeout: time.Second}, func(r *rig) async.Function[int, int] {
			return &handled{Function: r, handler: func(async.Call[int]) (async.Outputs[int], error) { return async.None[int](), nil }}
		})
		r.admit(1)
		r.op.End()
		r.run(nil).want("")
		if r.err != nil || !r.status.Ended {
			t.Fatal(r.err)
		}
	})
	row(t, "the other side's own deadline is a timeout too", func(t *testing.T) {
		late := classed{async.Timeout}
		r := newRig(t, async.Ordered, async.Config{}, func(r *rig) async.Function[int, int] {
			return &handled{Function: r, handler: func(async.Call[int]) (async.Outputs[int], error) { return async.One(-1), nil }}
		})
		r.admit(1)
		r.op.End()
		r.step().complete(1, async.Outputs[int]{}, late)
		r.run(nil).want("-1@1")
	})
}

type classed struct{ class async.Class }

func (c classed) Error() string          { return "class " + c.class.String() }
func (c classed) Verdict() async.Verdict { return async.Verdict{Class: c.class} }

func TestFailures(t *testing.T) {
	rows(t, "18, 19 a failing completion", func(t *testing.T, order async.Order) {
		r := newRig(t, order, async.Config{}, nil)
		r.admit(1, 2, 3)
		boom := errors.New("boom")
		r.step().complete(2, async.Outputs[int]{}, boom)
		r.double(1, 3)
		r.run(nil)
		re, ok := errors.AsType[*async.RecordError](r.err)
		if !ok || re.Position != 1 || !errors.Is(r.err, boom) {
			t.Fatalf("failed with %v", r.err)
		}
		r.want("") // from the transition on nothing leaves (A13)
		if r.admit(4) || r.op.Watermark(async.Watermark{}) {
			t.Error("a failed operator admits")
		}
		r.op.Barrier(1)
		if r.step(); r.status.Barrier != 0 || r.err == nil {
			t.Error("a barrier passed a failed operator")
		}
	})
	rows(t, "20, 21, 24, 25 retries exhausted", func(t *testing.T, order async.Order) {
		r := newRig(t, order, async.Config{Retry: async.Retry{Max: 3, Delay: 10 * time.Millisecond, Jitter: async.Off}}, nil)
		r.answer = func(r *rig, c async.Call[int]) { r.complete(c.Record.Value, async.Outputs[int]{}, flaky{}) }
		r.admit(1)
		r.run(nil)
		re, ok := errors.AsType[*async.RecordError](r.err)
		if !ok || re.Attempts != 4 || len(r.calls[1]) != 4 || r.now() != 30*time.Millisecond {
			t.Fatalf("%v, %d calls, after %v", r.err, len(r.calls[1]), r.now())
		}
	})
	rows(t, "56 a barrier right behind a failing record", func(t *testing.T, order async.Order) {
		r := newRig(t, order, async.Config{Barrier: async.Drain}, nil)
		r.admit(1)
		r.step()
		r.op.Barrier(5)
		r.step().complete(1, async.Outputs[int]{}, errors.New("boom"))
		r.run(nil).want("")
	})
	row(t, "a panic in Call fails the task (A9)", func(t *testing.T) {
		r := newRig(t, async.Ordered, async.Config{}, func(r *rig) async.Function[int, int] { return panics{r} })
		r.admit(1)
		if p, ok := errors.AsType[*async.PanicError](r.step().err); !ok || p.Value != "in Call" {
			t.Fatal(r.err)
		}
	})
	rows(t, "27, 28 closed before emission", func(t *testing.T, order async.Order) {
		r := newRig(t, order, async.Config{}, nil)
		r.admit(1, 2)
		r.step().double(1, 2)
		if err := r.op.Close(); err != nil {
			t.Fatal(err)
		}
		r.step().want("")
		if r.err == nil {
			t.Error("a closed operator steps")
		}
		r.double(1) // vanishes
	})
}

type panics struct{ *rig }

func (p panics) Call([]async.Call[int]) { panic("in Call") }
func (p panics) Open(ctx contextT, s async.Subtask, d async.Completer[int]) (async.Caller[int, int], error) {
	_, err := p.rig.Open(ctx, s, d)
	return p, err
}

func TestRetries(t *testing.T) {
	rows(t, "29, 30 retry on empty", func(t *testing.T, order async.Order) {
		r := newRig(t, order, async.Config{Retry: async.Retry{Max: 2, Delay: 10 * time.Millisecond}}, func(r *rig) async.Function[int, int] { return retryEmpty{r} })
		r.answer = func(r *rig, c async.Call[int]) {
			if v := c.Record.Value; v%2 == 1 {
				r.complete(v, async.None[int](), nil)
			} else {
				r.double(v)
			}
		}
		r.admit(1, 2, 3, 4, 5, 6)
		r.op.End()
		r.run(nil)
		if sorted(r.out) != "12@6 4@2 8@4" || len(r.calls[1]) != 3 || r.err != nil {
			t.Fatalf("%v, %d calls, %v", r.out, len(r.calls[1]), r.err)
		}
		if order == async.Ordered {
			r.want("4@2 8@4 12@6")
		}
	})
	rows(t, "31, 32 ten duplicates", func(t *testing.T, order async.Order) {
		r := newRig(t, order, async.Config{Retry: async.Retry{Max: 2, Delay: 10 * time.Millisecond}}, func(r *rig) async.Function[int, int] { return retryEmpty{r} })
		r.answer = func(r *rig, c async.Call[int]) {
			cs := make([]async.Completion[int], 10)
			for i := range cs {
				cs[i].ID, cs[i].Outputs = c.ID, async.None[int]()
				if c.Record.Value%2 == 0 {
					cs[i].Outputs = async.One(2 * c.Record.Value)
				}
			}
			r.done.Complete(cs)
		}
		r.admit(1, 2, 3, 4, 5, 6)
		r.op.End()
		r.run(nil)
		if sorted(r.out) != "12@6 4@2 8@4" || r.err != nil {
			t.Fatal(r.out, r.err)
		}
	})
	for _, fails := range []bool{false, true} {
		rows(t, fmt.Sprintf("33 to 36 attempts of 501 ms, handler fails %v", fails), func(t *testing.T, order async.Order) {
			var h *handled
			cfg := async.Config{Timeout: time.Second, Retry: async.Retry{Max: 5, Delay: 100 * time.Millisecond}}
			r := newRig(t, order, cfg, func(r *rig) async.Function[int, int] {
				h = &handled{Function: r, handler: func(async.Call[int]) (async.Outputs[int], error) {
					if fails {
						return async.Outputs[int]{}, errors.New("no fallback")
					}
					return async.One(-1), nil
				}}
				return h
			})
			r.answer = func(r *rig, c async.Call[int]) {
				time.Sleep(501 * time.Millisecond)
				r.done.Complete([]async.Completion[int]{{ID: c.ID, Err: flaky{}}})
			}
			r.admit(1, 2)
			r.op.End()
			r.run(nil)
			if len(r.calls[1]) > 2 || len(r.calls[2]) > 2 || r.now() != time.Second {
				t.Fatalf("%d and %d attempts, ended after %v", len(r.calls[1]), len(r.calls[2]), r.now())
			}
			if fails && (h.calls != 1 || r.err == nil || len(r.out) != 0) {
				t.Fatalf("%d handler calls, %v, %v", h.calls, r.err, r.out)
			}
			if !fails && sorted(r.out) != "-1@1 -1@2" {
				t.Fatal(r.out)
			}
			time.Sleep(time.Second) // late answers go nowhere
		})
	}
	rows(t, "37, 52 the answer to an earlier attempt", func(t *testing.T, order async.Order) {
		r := newRig(t, order, async.Config{Retry: async.Retry{Max: 2, Delay: 10 * time.Millisecond}}, nil)
		r.admit(7)
		r.op.End()
		r.step().complete(7, async.Outputs[int]{}, flaky{})
		r.run(func() bool { return len(r.calls[7]) == 2 })
		r.completeAttempt(7, 1, async.One(1), nil)
		r.step().want("")
		r.completeAttempt(7, 2, async.One(14), nil)
		r.run(nil).want("14@7")
	})
	rows(t, "38 the last record has the chances of the first", func(t *testing.T, order async.Order) {
		r := newRig(t, order, async.Config{Timeout: time.Second, Retry: async.Retry{Max: 1, Delay: 50 * time.Millisecond, Jitter: async.Off}}, nil)
		var n int
		r.answer = func(r *rig, c async.Call[int]) {
			switch n++; n {
			case 1:
				r.complete(9, async.Outputs[int]{}, away{30 * time.Second})
			case 2:
				r.complete(9, async.Outputs[int]{}, flaky{})
			default:
				r.double(9)
			}
		}
		r.admit(9)
		r.op.End()
		r.run(nil).want("18@9")
		if r.now() != 30050*time.Millisecond {
			t.Fatalf("after %v", r.now())
		}
	})
}

func TestHolds(t *testing.T) {
	rows(t, "54 overload is no failure", func(t *testing.T, order async.Order) {
		r := newRig(t, order, async.Config{Timeout: 100 * time.Millisecond, Capacity: 8}, nil)
		r.answer = func(r *rig, c async.Call[int]) {
			if r.now() < time.Second {
				r.complete(c.Record.Value, async.Outputs[int]{}, away{30 * time.Millisecond})
			} else {
				r.double(c.Record.Value)
			}
		}
		r.admit(1, 2, 3)
		r.op.End()
		r.run(nil)
		if sorted(r.out) != "2@1 4@2 6@3" || r.err != nil {
			t.Fatal(r.out, r.err)
		}
	})
	rows(t, "held for as long as allowed", func(t *testing.T, order async.Order) {
		r := newRig(t, order, async.Config{Hold: 5 * time.Second}, nil)
		r.answer = func(r *rig, c async.Call[int]) { r.complete(c.Record.Value, async.Outputs[int]{}, away{}) }
		r.admit(1)
		r.run(nil)
		re, ok := errors.AsType[*async.RecordError](r.err)
		if !ok || re.Class != async.Overload || !errors.Is(r.err, async.ErrHold) || r.now() != 5*time.Second || re.Attempts != 0 {
			t.Fatalf("%v after %v", r.err, r.now())
		}
	})
	rows(t, "44 a drain while disconnected", func(t *testing.T, order async.Order) {
		r := newRig(t, order, async.Config{Barrier: async.Drain, Timeout: time.Second}, nil)
		r.admit(1, 2)
		r.step()
		lost := errors.New("connection refused")
		r.done.Suspend(lost)
		r.complete(1, async.Outputs[int]{}, away{})
		r.complete(2, async.Outputs[int]{}, away{})
		r.op.Barrier(3)
		r.step()
		if s := r.op.Stats(); s.Held != 2 || s.Suspended != lost {
			t.Fatalf("%+v", s)
		}
		time.Sleep(20 * time.Second) // far beyond the timeout, which stands still
		r.answer = func(r *rig, c async.Call[int]) { r.double(c.Record.Value) }
		r.done.Resume()
		r.run(func() bool { return r.status.Barrier == 3 })
		if got := sorted(r.out[:2]) + " " + r.out[2]; got != "2@1 4@2 |3" {
			t.Fatal(r.out)
		}
	})
	row(t, "why no call could be made", func(t *testing.T) {
		r := newRig(t, async.Ordered, async.Config{Hold: time.Second}, nil)
		lost := errors.New("connection refused")
		r.done.Suspend(lost)
		r.admit(1)
		r.run(nil)
		if !errors.Is(r.err, lost) || async.VerdictOf(r.err).Class != async.Transport || r.now() != time.Second {
			t.Fatalf("%v after %v", r.err, r.now())
		}
	})
}

func TestDrain(t *testing.T) {
	rows(t, "43 whatever the head does", func(t *testing.T, order async.Order) {
		r := newRig(t, order, async.Config{Barrier: async.Drain, Timeout: time.Second, Retry: async.Retry{Max: 1, Delay: 10 * time.Millisecond}}, func(r *rig) async.Function[int, int] {
			return &handled{Function: r, handler: func(c async.Call[int]) (async.Outputs[int], error) { return async.One(-c.Record.Value), nil }}
		})
		r.admit(1, 2, 3)
		r.step()
		r.op.Barrier(4)
		if r.admit(9) {
			t.Fatal("admitted while draining")
		}
		r.complete(2, async.Outputs[int]{}, flaky{}) // waits for its retry
		r.double(3)                                  // 1 never answers
		r.run(func() bool { return len(r.calls[2]) == 2 })
		r.double(2)
		r.run(func() bool { return r.status.Barrier == 4 })
		if r.now() != time.Second || sorted(r.out[:3]) != "-1@1 4@2 6@3" || r.out[3] != "|4" {
			t.Fatalf("%v after %v", r.out, r.now())
		}
		if r.op.Room() == 0 {
			t.Error("admission did not resume")
		}
		// Row 45: another one right behind.
		r.op.Barrier(5)
		if r.step(); r.status.Barrier != 5 {
			t.Error("an empty operator drains at once")
		}
	})
	rows(t, "a drain that is given up", func(t *testing.T, order async.Order) {
		r := newRig(t, order, async.Config{Barrier: async.Drain}, nil)
		r.admit(1)
		r.step()
		r.op.Barrier(4)
		r.step()
		r.op.AbortBarrier(4)
		if !r.admit(2) {
			t.Fatal("admission did not resume")
		}
		r.step().double(1, 2)
		r.op.End()
		if r.run(nil); sorted(r.out) != "2@1 4@2" {
			t.Fatal(r.out)
		}
	})
}

func TestCapacityBoundsWhatIsNotEmitted(t *testing.T) {
	rows(t, "41 capacity 1", func(t *testing.T, order async.Order) {
		r := newRig(t, order, async.Config{Capacity: 1}, nil)
		for v := 1; v <= 3; v++ {
			if !r.admit(v) || r.admit(9) {
				t.Fatal("capacity 1 takes one")
			}
			r.step().double(v)
			// Complete, and downstream takes nothing: the slot is not free (A3).
			if _, err := r.op.Step(time.Now(), 0, r); err != nil || r.op.Room() != 0 {
				t.Fatal(err)
			}
			r.step()
		}
		r.want("2@1 4@2 6@3")
	})
	rows(t, "calls in progress", func(t *testing.T, order async.Order) {
		r := newRig(t, order, async.Config{Capacity: 10, MaxCalls: 3}, nil)
		r.admit(1, 2, 3, 4, 5)
		r.step()
		if len(r.calls) != 3 || r.op.Stats().InFlight != 3 {
			t.Fatalf("%d calls", len(r.calls))
		}
		r.double(3)
		if r.step(); len(r.calls) != 4 {
			t.Fatalf("%d calls", len(r.calls))
		}
	})
}

func TestOutputs(t *testing.T) {
	rows(t, "0 to n outputs keep the record's time (A12)", func(t *testing.T, order async.Order) {
		r := newRig(t, order, async.Config{}, nil)
		r.admit(1, 2, 3)
		r.op.End()
		r.step()
		r.complete(1, async.Many(10, 11, 12), nil)
		r.complete(2, async.None[int](), nil)
		r.complete(3, async.Outputs[int]{}, nil) // nothing and no error is no output
		r.run(nil).want("10@1 11@1 12@1")
	})
}

func TestSteadyStateAllocatesNothing(t *testing.T) {
	for _, order := range []async.Order{async.Ordered, async.Unordered} {
		f := &instant{}
		op, err := async.NewOperator(f, async.Config{Order: order}, async.Subtask{}, func() {})
		if err != nil {
			t.Fatal(err)
		}
		if err := op.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
		recs := make([]async.Record[int], 256)
		turn := func() {
			op.Admit(recs)
			for range 2 {
				if _, err := op.Step(time.Now(), 1000, f); err != nil {
					t.Fatal(err)
				}
			}
		}
		for range 10 {
			turn()
		}
		if n := testing.AllocsPerRun(100, turn); n != 0 {
			t.Errorf("%v: %v allocations for %d records", order, n, len(recs))
		}
		op.Close()
	}
}
