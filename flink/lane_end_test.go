package flink

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/flink/internal/idle"
)

func TestContextEnds(t *testing.T) {
	cause := errors.New("the instruction is over")
	for _, while := range []string{"room", "drain"} {
		t.Run(while, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				fn := &scripted{}
				h := newHost(t, fn, Config{Async: async.Config{Capacity: 1}})
				ctx, cancel := context.WithCancelCause(t.Context())
				h.at = true
				rec := &async.Record[int]{Value: 1}
				if err := h.b.process(ctx, rec); err != nil {
					t.Fatal(err)
				}
				time.AfterFunc(time.Second, func() { cancel(cause) })
				var err error
				if while == "room" {
					err = h.b.process(ctx, rec)
				} else {
					err = h.b.finish(ctx)
				}
				if !errors.Is(err, cause) {
					t.Errorf("%v", err)
				}
				h.wantFailure(err, "backend", -1, -1, cause.Error())
				fn.mu.Lock()
				if len(fn.cancelled) != 1 || fn.closed != 1 {
					t.Errorf("%d calls were cancelled; closed %d times", len(fn.cancelled), fn.closed)
				}
				fn.mu.Unlock()
				h.over()
			})
		})
	}
}

// A bundle that does nothing for longer than the limit finds its lane closed.
func TestAbandonedLane(t *testing.T) {
	for _, next := range []string{"record", "end"} {
		t.Run(next, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				fn := &scripted{}
				h := newHost(t, fn, Config{})
				h.push(1)
				time.Sleep(IdleLimit - 1)
				h.push(2) // in time
				time.Sleep(IdleLimit - 1)
				if _, closed := fn.closes(); closed != 0 {
					t.Error("closed too early")
				}
				time.Sleep(IdleLimit)
				if _, closed := fn.closes(); closed != 1 {
					t.Errorf("closed %d times", closed)
				}
				err := h.finish
				if next == "record" {
					err = func() error { return h.try(3) }
				}
				got := err()
				if !errors.Is(got, idle.ErrAbandoned) {
					t.Errorf("%v", got)
				}
				h.wantFailure(got, "backend", -1, -1, "not used it for too long")

				h.b.start()
				h.push(4)
				go fn.end(4, nil)
				if err := h.finish(); err != nil {
					t.Error(err)
				}
				h.want("8@4")
				h.over()
				if opened, closed := fn.closes(); opened != 2 || closed != 2 {
					t.Errorf("opened %d times, closed %d times", opened, closed)
				}
			})
		})
	}
}

// A lane that is looked at just when its own goroutine wants it, and finds it taken, does what was
// due all the same.
func TestLookedAtWhenSomethingIsDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fn := &scripted{}
		h := newHost(t, fn, Config{Async: async.Config{Timeout: time.Second, OnError: async.OnError{Timeout: async.DeadLetter}}})
		h.push(1)
		l, began := h.b.lane, time.Now()
		time.Sleep(time.Second - 1)
		l.mu.Lock() // as Abandoned does, which is never so slow
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		l.mu.Unlock()
		if l.Abandoned(began) {
			t.Error("it was used since")
		}
		synctest.Wait()
		fn.mu.Lock()
		if at := fn.cancelled[fn.calls[1][0]].Sub(began); at != time.Second {
			t.Errorf("the call was cancelled after %v", at)
		}
		fn.mu.Unlock()
		if err := h.finish(); err != nil {
			t.Fatal(err)
		}
		h.over()
	})
}

// A bundle that waits for the model server is at work, however long that takes.
func TestWaitingIsNotAbandoned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fn := &scripted{slow: 3 * IdleLimit}
		h := newHost(t, fn, Config{Async: async.Config{Capacity: 1, Timeout: time.Hour}})
		h.push(1)
		go func() {
			time.Sleep(5 * IdleLimit)
			fn.end(1, nil)
			time.Sleep(5 * IdleLimit)
			fn.end(2, nil)
		}()
		h.push(2)
		if err := h.finish(); err != nil {
			t.Error(err)
		}
		h.want("2@1 4@2")
		h.over()
	})
}

// Nothing of a bundle that ended badly, or never ended, shows in the next.
func TestLeftoversStay(t *testing.T) {
	ways := map[string]func(t *testing.T, h *host, fn *scripted){
		"failure": func(t *testing.T, h *host, fn *scripted) {
			fn.end(3, errors.New("out of memory"))
			if h.finish() == nil {
				t.Error("no failure")
			}
		},
		"never ended": func(*testing.T, *host, *scripted) {},
		"emitter's panic": func(t *testing.T, h *host, fn *scripted) {
			h.then = func() { panic("downstream") }
			defer func() {
				if v := recover(); v != "downstream" {
					t.Errorf("the panic is %v", v)
				}
				h.out = nil // what was handed over before
			}()
			_ = h.finish()
		},
	}
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				fn := &scripted{}
				h := newHost(t, fn, Config{})
				h.push(1, 2, 3)
				fn.end(1, nil) // it could leave
				fn.end(2, nil)
				way(t, h, fn)
				h.want("")

				second := &scripted{answer: atRandom(1)}
				h.fn = second
				for range 3 {
					h.b.start()
					h.push(7, 8, 9)
					if err := h.finish(); err != nil {
						t.Fatal(err)
					}
				}
				h.want(doubled(7, 8, 9, 7, 8, 9, 7, 8, 9))
				h.over()
				for i, s := range []*scripted{fn, second} {
					if opened, closed := s.closes(); opened != 1 || closed != 1 {
						t.Errorf("function %d: opened %d times, closed %d times", i, opened, closed)
					}
				}
			})
		})
	}
}

func TestOpenFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fn := &scripted{broken: hopeless{}}
		h := newHost(t, fn, Config{})
		h.wantFailure(h.try(1), "permanent", -1, -1, "no such model")
		if err := h.finish(); err != nil {
			t.Errorf("the end of a bundle without a lane: %v", err)
		}
		fn.broken = nil
		h.b.start()
		h.push(1)
		go fn.end(1, nil)
		if err := h.finish(); err != nil {
			t.Error(err)
		}
		h.over()

		h.b.make = func() (async.Function[int, int], error) { return nil, errors.New("no such file") }
		h.b.start()
		h.wantFailure(h.try(1), "backend", -1, -1, "no such file")
		h.over()
	})
}

// immediate answers inside Call.
type immediate struct {
	done async.Completer[int]
	one  [1]async.Completion[int]
}

func (f *immediate) Open(_ context.Context, _ async.Subtask, done async.Completer[int]) (async.Caller[int, int], error) {
	f.done = done
	return f, nil
}

func (f *immediate) Call(batch []async.Call[int]) {
	for i := range batch {
		f.one[0] = async.Completion[int]{ID: batch[i].ID, Outputs: async.One(2 * batch[i].Record.Value)}
		f.done.Complete(f.one[:])
	}
}

func (*immediate) Cancel([]async.CallID) {}
func (*immediate) Close() error          { return nil }

func newLane(t testing.TB) *lane[int, int] {
	t.Helper()
	c, err := Config{}.resolve()
	if err != nil {
		t.Fatal(err)
	}
	l, err := openLane(t.Context(), &immediate{}, c, 0, quiet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// A record costs no memory.
func TestProcessAllocatesNothing(t *testing.T) {
	l := newLane(t)
	n := 0
	to := taker[int, int]{result: func(r *async.Record[int]) { n += r.Value }, failed: func(f *async.Failed[int]) { t.Error(f.Err) }}
	rec := &async.Record[int]{Value: 1}
	process := func() {
		if err := l.process(t.Context(), rec, to); err != nil {
			t.Fatal(err)
		}
	}
	for range 5000 {
		process()
	}
	if got := testing.AllocsPerRun(5000, process); got != 0 {
		t.Errorf("%v allocations a record", got)
	}
	if err := l.drain(t.Context(), to); err != nil || n != 2*10001 {
		t.Errorf("the results' sum is %d, error %v", n, err)
	}
}

func BenchmarkProcess(b *testing.B) {
	l := newLane(b)
	to := taker[int, int]{result: func(*async.Record[int]) {}, failed: func(f *async.Failed[int]) { b.Error(f.Err) }}
	rec := &async.Record[int]{Value: 1}
	b.ReportAllocs()
	for b.Loop() {
		if err := l.process(b.Context(), rec, to); err != nil {
			b.Fatal(err)
		}
	}
}
