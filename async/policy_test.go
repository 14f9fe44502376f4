package async_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tensorferry/tensorferry/async"
)

var everyOrder = []async.Order{async.Ordered, async.Unordered, async.Keyed}

// fallingBack makes -v of a failed record.
type fallingBack struct {
	async.Function[int, int]
	err error
}

func (f fallingBack) Fallback(x async.Failed[int]) (async.Outputs[int], error) {
	if f.err != nil {
		return async.Outputs[int]{}, f.err
	}
	return async.One(-x.Record.Value), nil
}

func every(a async.Action) async.OnError {
	return async.OnError{Backend: a, BadRecord: a, Timeout: a, Overload: a, Transport: a, Permanent: a}
}

// TestUnknownClass: a record whose failure has a class that does not exist fails the task, because
// no action was chosen for it. The actions of the classes that exist do not matter.
func TestUnknownClass(t *testing.T) {
	for _, order := range everyOrder {
		for _, action := range []async.Action{async.Fail, async.Drop, async.Fallback, async.DeadLetter} {
			row(t, fmt.Sprintf("%v/%v", action, order), func(t *testing.T) {
				if got := every(action).For(async.Permanent); got != action {
					t.Errorf("a class that exists: %v", got)
				}
				const unknown = async.Permanent + 1
				r := newRig(t, order, async.Config{OnError: every(action)}, func(r *rig) async.Function[int, int] { return fallingBack{r, nil} })
				r.op.DeadLetters(func(f []async.Failed[int]) { t.Errorf("dead letters: %+v", f) })
				if action == async.DeadLetter {
					if err := r.op.Open(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				r.admit(1)
				r.op.End()
				r.step().complete(1, async.Outputs[int]{}, classed{unknown})
				r.run(nil)
				if re, ok := errors.AsType[*async.RecordError](r.err); !ok || re.Class != unknown || !strings.Contains(re.Error(), "(class class(6))") || len(r.out) != 0 {
					t.Errorf("out %v, and the error is %v", r.out, r.err)
				}
			})
		}
	}
}

func TestPolicies(t *testing.T) {
	classes := map[async.Class]error{
		async.Backend: classed{async.Backend}, async.BadRecord: classed{async.BadRecord}, async.Timeout: classed{async.Timeout},
		async.Overload: classed{async.Overload}, async.Transport: classed{async.Transport}, async.Permanent: classed{async.Permanent},
	}
	for class, failure := range classes {
		for _, order := range everyOrder {
			row(t, fmt.Sprintf("42 %v/%v", class, order), func(t *testing.T) {
				for _, action := range []async.Action{async.Fail, async.Drop, async.Fallback, async.DeadLetter} {
					r := newRig(t, order, async.Config{OnError: every(action)}, func(r *rig) async.Function[int, int] { return fallingBack{r, nil} })
					var letters []async.Failed[int]
					r.op.DeadLetters(func(f []async.Failed[int]) { letters = append(letters, f...) })
					if action == async.DeadLetter {
						if err := r.op.Open(t.Context()); err != nil {
							t.Fatal(err)
						}
					}
					r.admit(1, 2, 3)
					r.op.End()
					r.step().complete(2, async.Outputs[int]{}, failure)
					r.double(1, 3)
					r.run(nil)
					st := r.op.Stats()
					want := "2@1 6@3"
					switch action {
					case async.Fail:
						if re, ok := errors.AsType[*async.RecordError](r.err); !ok || re.Class != class || len(r.out) != 0 {
							t.Fatalf("%v, out %v", r.err, r.out)
						}
						continue
					case async.Fallback:
						want = "-2@2 2@1 6@3"
						if order != async.Unordered { // all have the same, empty key
							want = "2@1 -2@2 6@3"
						}
						if st.Fallbacks != 1 {
							t.Errorf("%+v", st)
						}
					case async.DeadLetter:
						if len(letters) != 1 || letters[0].Record.Value != 2 || letters[0].Class != class || letters[0].Attempts != 1 || !errors.Is(letters[0].Err, failure) || letters[0].At.IsZero() {
							t.Fatalf("letters %+v", letters)
						}
					}
					if r.err != nil || strings.Join(r.out, " ") != want {
						t.Fatalf("%v: out %v, want %s, %v", action, r.out, want, r.err)
					}
					// Row 55: the counts balance.
					if st.Admitted != 3 || st.Admitted != st.Completed+st.Dropped+st.DeadLettered || st.Queued != 0 {
						t.Errorf("%v: %+v", action, st)
					}
				}
			})
		}
	}
}

func TestDeadLettersLeaveInTheirTurn(t *testing.T) {
	row(t, "ordered", func(t *testing.T) {
		r := newRig(t, async.Ordered, async.Config{OnError: async.OnError{Backend: async.DeadLetter}}, nil)
		r.op.DeadLetters(func(f []async.Failed[int]) { r.out = append(r.out, fmt.Sprintf("x%d", f[0].Record.Value)) })
		if err := r.op.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.admit(1, 2)
		r.op.Watermark(async.Watermark{Time: 2})
		r.admit(3)
		r.op.End()
		r.step().complete(2, async.Outputs[int]{}, errors.New("boom"))
		r.step().want("")
		r.double(3, 1)
		r.run(nil)
		if i, w := slices.Index(r.out, "x2"), slices.Index(r.out, "W2"); i < 0 || i > w {
			t.Fatalf("the dead letter passed the watermark: %v", r.out)
		}
	})
}

func TestPoliciesAreChecked(t *testing.T) {
	row(t, "nobody takes the letters", func(t *testing.T) {
		op, err := async.NewOperator(async.Function[int, int](&instant{}), async.Config{OnError: async.OnError{Timeout: async.DeadLetter}}, async.Subtask{}, func() {})
		if err != nil {
			t.Fatal(err)
		}
		if err := op.Open(t.Context()); err == nil || !strings.Contains(err.Error(), "dead letter") {
			t.Fatal(err)
		}
	})
	row(t, "no fallback", func(t *testing.T) {
		_, err := async.NewOperator(async.Function[int, int](&instant{}), async.Config{OnError: async.OnError{Timeout: async.Fallback}}, async.Subtask{}, func() {})
		if err == nil || !strings.Contains(err.Error(), "FallbackMaker") {
			t.Fatal(err)
		}
	})
	row(t, "a fallback that fails is the end", func(t *testing.T) {
		none := errors.New("no idea")
		r := newRig(t, async.Ordered, async.Config{OnError: async.OnError{Backend: async.Fallback}}, func(r *rig) async.Function[int, int] { return fallingBack{r, none} })
		r.admit(1)
		boom := errors.New("boom")
		r.step().complete(1, async.Outputs[int]{}, boom)
		if r.run(nil); !errors.Is(r.err, none) || !errors.Is(r.err, boom) {
			t.Fatal(r.err)
		}
	})
}

func TestKeyedOrder(t *testing.T) {
	row(t, "19 keys pass each other, the records of one do not", func(t *testing.T) {
		r := newRig(t, async.Keyed, async.Config{}, nil)
		for i, key := range []string{"a", "b", "a", "b", "a"} {
			r.op.Admit([]async.Record[int]{{Value: i + 1, Time: async.EventTime(i + 1), Key: key}})
		}
		r.op.End()
		r.step().double(5, 3, 2)
		r.step().want("4@2")
		r.double(1)
		r.step().want("4@2 2@1 6@3 10@5")
		r.double(4)
		r.run(nil).want("4@2 2@1 6@3 10@5 8@4")
	})
}

func TestBytes(t *testing.T) {
	row(t, "5 a bound in bytes", func(t *testing.T) {
		type rec = []byte
		op, err := async.NewOperator(async.Func(func(_ contextT, b rec) (int, error) { return len(b), nil }, 0),
			async.Config{MaxBytes: 100}, async.Subtask{}, func() {})
		if err != nil {
			t.Fatal(err)
		}
		if err := op.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
		defer op.Close()
		admit := func(sizes ...int) int {
			var recs []async.Record[rec]
			for _, n := range sizes {
				recs = append(recs, async.Record[rec]{Value: make(rec, n)})
			}
			return op.Admit(recs)
		}
		if n := admit(60, 40, 1); n != 2 || op.Room() != 0 || op.Stats().Bytes != 100 {
			t.Fatalf("admitted %d, room %d, %+v", n, op.Room(), op.Stats())
		}
		drain := func() {
			for op.Stats().Queued > 0 {
				if _, err := op.Step(time.Now(), 10, &instant{}); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Millisecond)
			}
		}
		drain()
		// One larger than the bound passes, alone.
		if n := admit(1000, 1); n != 1 || op.Room() != 0 {
			t.Fatalf("admitted %d", n)
		}
		drain()
		if op.Room() == 0 || admit(1) != 1 {
			t.Fatal("no room when all has left")
		}
		drain()
	})
}

func TestDrainLimit(t *testing.T) {
	for _, order := range everyOrder {
		row(t, "35 drain, then snapshot/"+order.String(), func(t *testing.T) {
			r := newRig(t, order, async.Config{Barrier: async.Drain, DrainLimit: 3 * time.Second, Timeout: async.Off}, nil)
			r.admit(1, 2, 3)
			r.step().double(1)
			r.op.Barrier(6)
			r.run(func() bool { return r.status.Barrier == 6 })
			if r.now() != 3*time.Second || len(r.status.Entries) != 2 {
				t.Fatalf("after %v with %d entries", r.now(), len(r.status.Entries))
			}
			st := r.op.Stats()
			if st.Drain.Count() != 1 || st.Drain.Sum != 3*time.Second || st.Drained != 1 || st.Snapshotted != 2 {
				t.Errorf("A38: %+v", st)
			}
			// A drain that ends before its limit has no entries.
			r.double(2, 3)
			r.op.Barrier(7)
			if r.step(); r.status.Barrier != 7 || len(r.status.Entries) != 0 {
				t.Fatalf("%+v", r.status)
			}
		})
	}
}

func TestOverloadLowersTheLimit(t *testing.T) {
	for _, order := range everyOrder {
		row(t, "54 falls and recovers/"+order.String(), func(t *testing.T) {
			r := newRig(t, order, async.Config{Capacity: 64}, nil)
			r.answer = func(r *rig, c async.Call[int]) {
				time.Sleep(10 * time.Millisecond)
				if at := r.now(); at > time.Second && at < 2*time.Second {
					r.complete(c.Record.Value, async.Outputs[int]{}, away{20 * time.Millisecond})
				} else {
					r.double(c.Record.Value)
				}
			}
			least := 64
			for v := 1; v <= 20000; {
				if r.admit(v) {
					v++
				} else {
					r.run(func() bool { return r.op.Room() > 0 })
				}
				least = min(least, r.op.Stats().Limit)
			}
			r.op.End()
			r.run(nil)
			if r.err != nil || len(r.out) != 20000 {
				t.Fatalf("%d results, %v", len(r.out), r.err)
			}
			if st := r.op.Stats(); least > 16 || st.Limit != 64 || st.Holds == 0 {
				t.Errorf("the limit fell to %d and is %d again, %d holds", least, st.Limit, st.Holds)
			}
		})
	}
}

func TestRetryBudget(t *testing.T) {
	row(t, "26 an outage spends it", func(t *testing.T) {
		r := newRig(t, async.Unordered, async.Config{
			Capacity: 10, Retry: async.Retry{Max: 100, Delay: time.Millisecond, Budget: 30},
			OnError: async.OnError{Backend: async.Drop},
		}, nil)
		r.answer = func(r *rig, c async.Call[int]) { r.complete(c.Record.Value, async.Outputs[int]{}, flaky{}) }
		r.admit(1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
		r.op.End()
		r.run(nil)
		if st := r.op.Stats(); r.err != nil || st.Calls != 10+30 || st.Dropped != 10 {
			t.Fatalf("%+v, %v", st, r.err)
		}
	})
	row(t, "the failure says so", func(t *testing.T) {
		for budget, want := range map[int]string{1: "failed after 2 attempt(s), with no retry left in the budget (class", 100: "failed after 4 attempt(s) (class"} {
			r := newRig(t, async.Ordered, async.Config{Capacity: 10, Retry: async.Retry{Max: 3, Delay: time.Millisecond, Budget: budget}}, nil)
			r.answer = func(r *rig, c async.Call[int]) { r.complete(c.Record.Value, async.Outputs[int]{}, flaky{}) }
			r.admit(1)
			r.op.End()
			r.run(nil)
			if r.err == nil || !strings.Contains(r.err.Error(), want) {
				t.Errorf("budget %d: %v", budget, r.err)
			}
		}
	})
}
