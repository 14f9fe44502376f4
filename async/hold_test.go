package async_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tensorferry/tensorferry/async"
)

// waits runs f with 1 to 1,000 records in flight, in each order.
func waits(t *testing.T, cfg async.Config, f func(t *testing.T, r *rig, n int)) {
	for _, n := range []int{1, 10, 100, 1000} {
		for _, order := range []async.Order{async.Ordered, async.Unordered, async.Keyed} {
			t.Run(fmt.Sprintf("%d %v", n, order), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					cfg.Capacity = n
					f(t, newRig(t, order, cfg, nil), n)
				})
			})
		}
	}
}

// feed admits n records as there is room, ends the input and runs to the end.
func (r *rig) feed(n int) {
	for v := 1; v <= n; {
		if r.admit(v) {
			v++
		} else if r.run(func() bool { return r.op.Room() > 0 }); r.err != nil {
			return
		}
	}
	r.op.End()
	r.run(nil)
}

func (r *rig) refuse(c async.Call[int], err error) {
	r.done.Complete([]async.Completion[int]{{ID: c.ID, Err: err}})
}

func (r *rig) accept(c async.Call[int]) {
	r.done.Complete([]async.Completion[int]{{ID: c.ID, Outputs: async.One(2 * c.Record.Value)}})
}

// lost is a call that a lost connection ended.
type lost struct{}

func (lost) Error() string          { return "connection refused" }
func (lost) Verdict() async.Verdict { return async.Verdict{Class: async.Transport, Hold: true} }

const hold = 10 * time.Second

// TestHoldIsABound: a record that waits for a server that takes nothing fails after hold, however
// many wait (A40, A41).
func TestHoldIsABound(t *testing.T) {
	// dropped runs until all records have failed, and looks at when the first and the last did.
	dropped := func(t *testing.T, r *rig, n int, most time.Duration, begin func(*rig)) {
		var first, last time.Duration
		var failed, others int
		r.op.DeadLetters(func(all []async.Failed[int]) {
			for _, f := range all {
				if at := f.At.Sub(r.start); failed == 0 {
					first, last = at, at
				} else {
					first, last = min(first, at), max(last, at)
				}
				failed++
				if !errors.Is(f.Err, async.ErrHold) {
					others++
				}
			}
		})
		if err := r.op.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
		begin(r)
		for v := 1; v <= n; v++ {
			r.admit(v)
		}
		r.op.End()
		r.run(nil)
		if r.err != nil || failed != n || others > 0 || first < hold || last > most {
			t.Errorf("%d of %d failed, %d otherwise, from %v to %v; want all from %v to %v (%v)", failed, n, others, first, last, hold, most, r.err)
		}
	}
	cfg := async.Config{
		Hold: hold, Timeout: time.Second, Barrier: async.Drain,
		OnError: async.OnError{Overload: async.DeadLetter, Transport: async.DeadLetter},
	}
	t.Run("refused", func(t *testing.T) {
		for _, after := range []time.Duration{0, 50 * time.Millisecond, time.Minute} {
			t.Run(after.String(), func(t *testing.T) {
				waits(t, cfg, func(t *testing.T, r *rig, n int) {
					r.answer = func(r *rig, c async.Call[int]) { r.refuse(c, away{after}) }
					dropped(t, r, n, hold, func(*rig) {})
				})
			})
		}
	})
	t.Run("refused after a while", func(t *testing.T) { // the queue's own waiting time
		slow := cfg
		slow.Timeout = time.Minute
		waits(t, slow, func(t *testing.T, r *rig, n int) {
			r.answer = func(r *rig, c async.Call[int]) {
				time.Sleep(4 * time.Second)
				r.refuse(c, away{})
			}
			dropped(t, r, n, hold+3*4*time.Second, func(*rig) {})
		})
	})
	t.Run("out of reach", func(t *testing.T) {
		waits(t, cfg, func(t *testing.T, r *rig, n int) {
			dropped(t, r, n, hold, func(r *rig) { r.done.Suspend(lost{}) })
		})
	})
	t.Run("lost again and again", func(t *testing.T) {
		waits(t, cfg, func(t *testing.T, r *rig, n int) {
			r.answer = func(r *rig, c async.Call[int]) {
				time.Sleep(time.Millisecond)
				r.refuse(c, lost{})
			}
			dropped(t, r, n, hold+time.Second, func(r *rig) {
				go func() {
					for r.now() < time.Minute {
						r.done.Suspend(lost{})
						time.Sleep(300 * time.Millisecond)
						r.done.Resume()
						time.Sleep(20 * time.Millisecond)
					}
				}()
			})
			time.Sleep(time.Minute)
		})
	})
	t.Run("each has the whole of it", func(t *testing.T) {
		waits(t, async.Config{Hold: hold, OnError: async.OnError{Overload: async.Drop}}, func(t *testing.T, r *rig, n int) {
			r.answer = func(r *rig, c async.Call[int]) { r.refuse(c, away{}) }
			r.feed(3 * n) // records that came when the first had failed waited from then on
			if st := r.op.Stats(); st.Dropped != int64(3*n) || r.now() != 3*hold {
				t.Errorf("%d of %d failed after %v; want %v", st.Dropped, 3*n, r.now(), 3*hold)
			}
		})
	})
	t.Run("the class of one that was never called", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, async.Ordered, async.Config{Hold: hold, MaxCalls: 1, OnError: async.OnError{Overload: async.Drop}}, nil)
			r.answer = func(r *rig, c async.Call[int]) { r.refuse(c, away{time.Hour}) }
			r.feed(5)
			if st := r.op.Stats(); st.Dropped != 5 || st.Calls != 1 || r.err != nil {
				t.Errorf("%+v, %v", st, r.err)
			}
		})
	})
}

// TestSlowIsNotAway: a server that takes records, however slowly, is back-pressure. No record's
// time runs meanwhile (A20, A40).
func TestSlowIsNotAway(t *testing.T) {
	const hold = 3 * time.Second
	all := func(t *testing.T, r *rig, n int) {
		r.feed(n)
		if st := r.op.Stats(); r.err != nil || len(r.out) != n || st.Timeouts != 0 {
			t.Errorf("%d of %d results after %v, %d timeouts: %v", len(r.out), n, r.now(), st.Timeouts, r.err)
		}
	}
	t.Run("10 a second", func(t *testing.T) {
		waits(t, async.Config{Hold: hold, Timeout: time.Second}, func(t *testing.T, r *rig, n int) {
			var mu sync.Mutex
			var last time.Time
			r.answer = func(r *rig, c async.Call[int]) {
				mu.Lock()
				defer mu.Unlock()
				if time.Since(last) < 100*time.Millisecond {
					r.refuse(c, away{})
					return
				}
				last = time.Now()
				r.accept(c)
			}
			all(t, r, max(n, 100))
		})
	})
	t.Run("10 a second, whoever comes", func(t *testing.T) {
		for seed := range uint64(3) {
			rng := rand.New(rand.NewPCG(seed, 1))
			waits(t, async.Config{Hold: hold, Timeout: time.Second}, func(t *testing.T, r *rig, n int) {
				t.Log("seed", seed)
				var mu sync.Mutex
				var last time.Time
				r.answer = func(r *rig, c async.Call[int]) {
					mu.Lock()
					wait := time.Duration(rng.IntN(2000)) * time.Microsecond
					mu.Unlock()
					time.Sleep(wait)
					mu.Lock()
					defer mu.Unlock()
					if time.Since(last) < 100*time.Millisecond {
						r.refuse(c, away{})
						return
					}
					last = time.Now()
					r.accept(c)
				}
				all(t, r, n)
			})
		}
	})
	t.Run("one at a time, each longer than hold", func(t *testing.T) {
		waits(t, async.Config{Hold: hold, Timeout: time.Minute}, func(t *testing.T, r *rig, n int) {
			var mu sync.Mutex
			r.answer = func(r *rig, c async.Call[int]) {
				if !mu.TryLock() {
					r.refuse(c, away{})
					return
				}
				time.Sleep(3 * hold)
				mu.Unlock()
				r.accept(c)
			}
			all(t, r, min(n, 20))
		})
	})
	t.Run("away for less than hold, again and again", func(t *testing.T) {
		waits(t, async.Config{Hold: hold, Timeout: time.Second}, func(t *testing.T, r *rig, n int) {
			r.answer = func(r *rig, c async.Call[int]) {
				time.Sleep(5 * time.Millisecond)
				if r.now()%(hold-time.Second) < hold-2*time.Second {
					r.refuse(c, away{})
				} else {
					r.accept(c)
				}
			}
			all(t, r, 3*n)
		})
	})
}

// TestOneThatIsNeverTaken: a record that is refused while all others are taken fails after hold.
func TestOneThatIsNeverTaken(t *testing.T) {
	for _, order := range []async.Order{async.Ordered, async.Unordered} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, order, async.Config{Hold: hold, Capacity: 100}, nil)
			r.answer = func(r *rig, c async.Call[int]) {
				time.Sleep(10 * time.Millisecond)
				if c.Record.Value == 50 {
					r.refuse(c, away{time.Minute})
				} else {
					r.accept(c)
				}
			}
			// Others go on for as long as it takes.
			for v := 1; r.err == nil && v < 1e6; v++ {
				if order == async.Ordered && v > 100 {
					break
				}
				if !r.admit(v) {
					r.run(func() bool { return r.op.Room() > 0 })
				}
			}
			r.op.End()
			if r.err == nil {
				r.run(nil)
			}
			re, ok := errors.AsType[*async.RecordError](r.err)
			if !ok || re.Class != async.Overload || !errors.Is(r.err, async.ErrHold) || r.now() < hold || r.now() > 2*hold {
				t.Errorf("%v: %v after %v", order, r.err, r.now())
			}
		})
	}
}

// TestAloneAfterWhatIsAskedFor: a record that is called alone waits between its calls for as long
// as the server asks, within limits.
func TestAloneAfterWhatIsAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const asked = hold / 8
		r := newRig(t, async.Unordered, async.Config{Hold: hold, Capacity: 20}, nil)
		var calls []time.Duration
		r.answer = func(r *rig, c async.Call[int]) {
			time.Sleep(10 * time.Millisecond)
			if c.Record.Value == 5 {
				calls = append(calls, r.now())
				r.refuse(c, away{asked})
			} else {
				r.accept(c)
			}
		}
		for v := 1; r.err == nil && v < 1e6; v++ {
			if !r.admit(v) {
				r.run(func() bool { return r.op.Room() > 0 })
			}
		}
		if len(calls) < 6 || !errors.Is(r.err, async.ErrHold) {
			t.Fatalf("%d calls: %v", len(calls), r.err)
		}
		for i := 1; i < len(calls); i++ {
			if gap := calls[i] - calls[i-1]; gap < asked {
				t.Errorf("call %d of %d came after %v; the server asked for %v", i+1, len(calls), gap, asked)
			}
		}
	})
}

// TestOneThatLosesTheConnection: a record that makes the server end has the same bound, though
// others are taken between its calls (A41).
func TestOneThatLosesTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, async.Unordered, async.Config{Hold: hold, Capacity: 20, OnError: async.OnError{Transport: async.Drop}}, nil)
		r.answer = func(r *rig, c async.Call[int]) {
			time.Sleep(10 * time.Millisecond)
			if c.Record.Value != 5 {
				r.accept(c)
				return
			}
			r.done.Suspend(lost{})
			r.refuse(c, lost{})
			time.Sleep(100 * time.Millisecond)
			r.done.Resume()
		}
		v, dropped := 1, time.Duration(0)
		for ; r.err == nil && dropped == 0 && r.now() < time.Hour; v++ {
			if !r.admit(v) {
				r.run(func() bool { return r.op.Room() > 0 })
			}
			if r.op.Stats().Dropped > 0 {
				dropped = r.now()
			}
		}
		r.op.End()
		r.run(nil)
		if st := r.op.Stats(); r.err != nil || st.Dropped != 1 || dropped < hold || dropped > 2*hold {
			t.Errorf("%d failed, after %v; want one after %v to %v (%v)", st.Dropped, dropped, hold, 2*hold, r.err)
		}
	})
}
