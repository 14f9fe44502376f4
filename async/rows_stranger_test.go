package async_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tensorferry/tensorferry/async"
)

// Rows about answers that the operator does not wait for, and about counts.

func TestStrangerRows(t *testing.T) {
	inEveryOrder(t, "49 completions from many goroutines at once", func(t *testing.T, order async.Order) {
		const n = 64
		r := newRig(t, order, async.Config{}, nil)
		for v := 1; v <= n; v++ {
			admitKeyed(r, v, ownKey(v%5))
		}
		r.op.End()
		r.step()
		var all sync.WaitGroup
		for g := range uint64(8) {
			all.Go(func() { // each goroutine completes every record, in an order of its own
				for _, i := range rand.New(rand.NewPCG(g, 1)).Perm(n) {
					r.double(i + 1)
				}
			})
		}
		r.run(nil)
		all.Wait()
		var want []string
		for v := 1; v <= n; v++ {
			want = append(want, fmt.Sprintf("%d@%d", 2*v, v))
		}
		if order == async.Ordered {
			r.want(strings.Join(want, " "))
		}
		if st := r.op.Stats(); r.err != nil || sorted(r.out) != sorted(want) || st.Completed != n {
			t.Fatalf("%v, %d results, %+v", r.err, len(r.out), st)
		}
	})
	inEveryOrder(t, "51 unknown, duplicate and timed-out ids", func(t *testing.T, order async.Order) {
		r := newRig(t, order, async.Config{Capacity: 1, Timeout: time.Second}, func(r *rig) async.Function[int, int] {
			return &handled{Function: r, handler: func(async.Call[int]) (async.Outputs[int], error) { return async.One(-1), nil }}
		})
		stranger := func(ids ...async.CallID) {
			for _, id := range ids {
				r.done.Complete([]async.Completion[int]{{ID: id, Outputs: async.One(666)}, {ID: id, Err: flaky{}}})
			}
		}
		unknown := []async.CallID{{}, {Entry: 1<<64 - 1, Attempt: 1}, {Entry: 1 << 40, Attempt: 9}, {Entry: 7}}
		stranger(unknown...)
		r.admit(1)
		stranger(unknown...)
		r.step()
		stranger(append(unknown, async.CallID{Entry: r.calls[1][0].Entry, Attempt: r.calls[1][0].Attempt + 1})...)
		r.step().double(1, 1)
		r.step().want("2@1")
		first := r.calls[1][0]
		stranger(first)
		r.admit(2) // in the same slot
		r.step()
		stranger(first)
		r.step().want("2@1")
		time.Sleep(time.Second)
		r.step().want("2@1 -1@2")
		stranger(first, r.calls[2][0])
		r.admit(3)
		r.op.End()
		r.step()
		stranger(first, r.calls[2][0])
		r.step().double(3)
		if r.run(nil).want("2@1 -1@2 6@3"); r.err != nil {
			t.Fatal(r.err)
		}
	})
}

// TestRow55: whatever becomes of the records, and whatever else is queued, the counts balance after
// every step, and at the end.
func TestRow55(t *testing.T) {
	first := rand.Uint64()
	actions := []async.Action{async.Drop, async.Fallback, async.DeadLetter}
	seen := map[string]int64{}
	for i := range uint64(150) {
		seed := first + i
		row(t, "55 the counts balance", func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 55))
			order := everyOrder[rng.IntN(3)]
			pick := func() async.Action { return actions[rng.IntN(3)] }
			cfg := async.Config{
				Capacity: 1 + rng.IntN(20), Timeout: time.Second, Hold: 2 * time.Second,
				Retry: async.Retry{Max: 1 + rng.IntN(2), Delay: 50 * time.Millisecond, Budget: 5},
				OnError: async.OnError{
					Backend: pick(), BadRecord: pick(), Timeout: pick(), Overload: pick(), Transport: pick(), Permanent: pick(),
				},
			}
			fail := func(format string, a ...any) {
				t.Helper()
				t.Fatalf("seed %d, %v: %s", seed, order, fmt.Sprintf(format, a...))
			}
			r := newRig(t, order, cfg, func(r *rig) async.Function[int, int] { return fallingBack{r, nil} })
			letters := 0
			r.op.DeadLetters(func(f []async.Failed[int]) { letters += len(f) })
			if cfg.OnError.Uses(async.DeadLetter) {
				if err := r.op.Open(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			var mu sync.Mutex // of rng, where answers come from goroutines
			draw := func(n int) int { mu.Lock(); defer mu.Unlock(); return rng.IntN(n) }
			r.answer = func(r *rig, c async.Call[int]) {
				time.Sleep(time.Duration(draw(900)) * time.Millisecond)
				done := async.Completion[int]{ID: c.ID}
				switch draw(10) {
				case 0:
					return // never
				case 1:
					done.Err = flaky{}
				case 2:
					done.Err = away{time.Duration(draw(3000)) * time.Millisecond}
				case 3:
					done.Err = classed{async.Class(draw(6))}
				case 4:
					done.Outputs = async.None[int]()
				case 5:
					done.Outputs = async.Many(1, 2, 3)
				default:
					done.Outputs = async.One(2 * c.Record.Value)
				}
				r.done.Complete([]async.Completion[int]{done, done})
			}
			balance := func() {
				t.Helper()
				if st := r.op.Stats(); st.Admitted != st.Completed+st.Dropped+st.DeadLettered+int64(st.Queued) || int64(letters) != st.DeadLettered {
					fail("%+v, %d letters", st, letters)
				}
				// Every call and every record is timed once.
				st := r.op.Stats()
				left := st.Completed + st.Dropped + st.DeadLettered
				if st.Call.Count()+int64(st.InFlight) != st.Calls || st.Latency.Count() != left || st.HeadOfLine.Count() != left {
					fail("%+v", st)
				}
			}
			const n = 100
			restored := make([]async.Record[int], rng.IntN(40))
			for i := range restored {
				restored[i] = async.Record[int]{Value: i + 1, Key: ownKey(i % 3)}
			}
			r.op.Restore(restored, []async.QueuedWatermark{{Before: len(restored) / 2, Mark: async.Watermark{Time: 1}}})
			balance()
			for v := len(restored) + 1; v <= n; {
				if admitKeyed(r, v, ownKey(v%3)) {
					v++
					if draw(5) == 0 {
						r.op.Watermark(async.Watermark{Time: async.EventTime(v)})
					}
				} else {
					r.run(func() bool { balance(); return r.op.Room() > 0 })
				}
				if balance(); r.err != nil {
					fail("%v", r.err)
				}
			}
			r.op.End()
			r.run(func() bool { balance(); return false })
			balance()
			st := r.op.Stats()
			if r.err != nil || st.Admitted != n || st.Queued != 0 || !r.status.Ended {
				fail("%v, %+v", r.err, st)
			}
			seen["completed"] += st.Completed
			seen["dropped"] += st.Dropped
			seen["dead letters"] += st.DeadLettered
			seen["fallbacks"] += st.Fallbacks
			seen["timeouts"] += st.Timeouts
			seen["retries"] += st.Retries
			seen["holds"] += st.Holds
			time.Sleep(time.Second) // late answers go nowhere
		})
		if t.Failed() {
			return
		}
	}
	for what, n := range seen {
		if n < 100 {
			t.Errorf("only %d %s, which shows little", n, what)
		}
	}
	if len(seen) != 7 {
		t.Error(seen)
	}
}

// askedPredicate counts how often it is asked.
type askedPredicate struct {
	async.Function[int, int]
	asked *int
}

func (p askedPredicate) RetryResult(async.Outputs[int]) bool { *p.asked++; return false }
func (p askedPredicate) RetryError(error) bool               { *p.asked++; return true }

// TestPredicateAndStrangers: the predicate is asked about outcomes that count, and not about
// duplicates or late answers (A11).
func TestPredicateAndStrangers(t *testing.T) {
	inEveryOrder(t, "11 what the predicate is asked", func(t *testing.T, order async.Order) {
		asked := 0
		cfg := async.Config{Retry: async.Retry{Max: 1, Delay: time.Second, Jitter: async.Off}}
		r := newRig(t, order, cfg, func(r *rig) async.Function[int, int] { return askedPredicate{r, &asked} })
		r.admit(1)
		r.step()
		r.complete(1, async.Outputs[int]{}, flaky{}) // it will be retried
		r.double(1, 1)
		if r.step(); asked != 1 {
			t.Errorf("asked %d times about one outcome", asked)
		}
		time.Sleep(time.Second)
		r.step()
		r.completeAttempt(1, 1, async.One(666), nil)
		r.double(1, 1)
		r.step()
		r.double(1)
		r.step()
		r.want("2@1")
		if asked != 2 {
			t.Errorf("asked %d times about two outcomes", asked)
		}
	})
}
