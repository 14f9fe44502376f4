package flink

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tensorferry/tensorferry/async"
)

// atRandom answers after up to a second.
func atRandom(seed uint64) func(*scripted, async.Call[int]) {
	return func(s *scripted, c async.Call[int]) {
		time.Sleep(time.Duration(rand.New(rand.NewPCG(seed, uint64(c.Record.Value))).IntN(1000)) * time.Millisecond)
		s.end(c.Record.Value, nil)
	}
}

func TestBundles(t *testing.T) {
	for _, order := range []async.Order{async.Ordered, async.Unordered} {
		for _, capacity := range []int{1, 2, 7, 1000} {
			t.Run(fmt.Sprintf("%v/%d", order, capacity), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					fn := &scripted{answer: atRandom(uint64(capacity))}
					h := newHost(t, fn, Config{Async: async.Config{Order: order, Capacity: capacity}})
					for i, n := range []int{1, 50, 0, 300, 2} {
						h.b.start()
						vs := upTo(n)
						h.push(vs...)
						if err := h.finish(); err != nil {
							t.Fatal(err)
						}
						got := h.out
						h.out = nil
						if order == async.Unordered {
							got = sorted(got)
							slices.SortStableFunc(got, func(a, b string) int { return len(a) - len(b) })
						}
						if want := doubled(vs...); strings.Join(got, " ") != want {
							t.Fatalf("bundle %d:\ngot  %v\nwant %s", i, got, want)
						}
						time.Sleep(time.Duration(i) * time.Second)
					}
					if fn.most > capacity {
						t.Errorf("%d calls at once", fn.most)
					}
					if opened, closed := fn.closes(); opened != 1 || closed != 0 {
						t.Errorf("opened %d times, closed %d times", opened, closed)
					}
					h.over()
					if _, closed := fn.closes(); closed != 1 {
						t.Errorf("closed %d times", closed)
					}
				})
			})
		}
	}
}

func TestUnorderedLeavesInTheOrderOfCompletion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fn := &scripted{}
		h := newHost(t, fn, Config{Async: async.Config{Order: async.Unordered}})
		h.push(1, 2, 3, 4)
		for _, v := range []int{3, 1} {
			fn.end(v, nil)
		}
		time.Sleep(time.Second)
		h.want("") // until Beam comes again
		h.push(5)
		h.want("6@3 2@1")
		go func() {
			for _, v := range []int{5, 2, 4} {
				time.Sleep(time.Second)
				fn.end(v, nil)
			}
		}()
		if err := h.finish(); err != nil {
			t.Fatal(err)
		}
		h.want("6@3 2@1 10@5 4@2 8@4")
		h.over()
	})
}

func TestProcessWaitsForRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fn := &scripted{}
		h := newHost(t, fn, Config{Async: async.Config{Capacity: 2}})
		h.push(1, 2)
		third := make(chan error)
		go func() { third <- h.try(3) }()
		for range 3 {
			time.Sleep(time.Second)
			synctest.Wait()
			select {
			case err := <-third:
				t.Fatalf("a third record was taken, with error %v", err)
			default:
			}
		}
		fn.end(2, nil) // out of turn: no room yet
		synctest.Wait()
		if fn.count(3) != 0 {
			t.Fatal("a third record was called")
		}
		fn.end(1, nil)
		if err := <-third; err != nil {
			t.Fatal(err)
		}
		h.want("2@1 4@2")
		go fn.end(3, nil)
		if err := h.finish(); err != nil {
			t.Fatal(err)
		}
		h.want("2@1 4@2 6@3")
		h.over()
	})
}

// While the bundle waits for more records all goes on but what leaves.
func TestTimeGoesOnBetweenRecords(t *testing.T) {
	letters := async.OnError{Backend: async.DeadLetter, Timeout: async.DeadLetter}
	t.Run("timeout", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			fn := &scripted{}
			h := newHost(t, fn, Config{Async: async.Config{Timeout: time.Second, OnError: letters}})
			h.push(0)
			fn.end(0, nil)
			if err := h.finish(); err != nil {
				t.Fatal(err)
			}
			synctest.Wait() // the lane's own goroutine knows of no timer
			delete(fn.calls, 0)
			h.out = nil

			began := time.Now()
			h.push(1)
			time.Sleep(time.Second / 2)
			h.push(2)
			time.Sleep(4 * time.Second)
			fn.mu.Lock()
			for v, ids := range fn.calls {
				if at := fn.cancelled[ids[0]].Sub(began); at != time.Second*time.Duration(v+1)/2 {
					t.Errorf("the call for %d was cancelled after %v", v, at)
				}
			}
			fn.mu.Unlock()
			if len(h.letters) > 0 {
				t.Error("a dead letter has left by itself")
			}
			if err := h.finish(); err != nil {
				t.Fatal(err)
			}
			for i, l := range h.letters {
				if l.Record.Value != i+1 || l.Class != async.Timeout || l.At.Sub(began) != time.Second*time.Duration(i+2)/2 {
					t.Errorf("%+v", l)
				}
			}
			if len(h.letters) != 2 {
				t.Errorf("%d dead letters", len(h.letters))
			}
			h.over()
		})
	})
	t.Run("retry", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			fn := &scripted{}
			h := newHost(t, fn, Config{Async: async.Config{Retry: async.Retry{Max: 3, Delay: time.Second, Jitter: async.Off}}})
			h.push(1)
			for n := 1; n <= 3; n++ {
				if fn.count(1) != n {
					t.Fatalf("%d calls, want %d", fn.count(1), n)
				}
				fn.end(1, flaky{})
				time.Sleep(time.Second)
				synctest.Wait()
			}
			fn.end(1, nil)
			if err := h.finish(); err != nil {
				t.Fatal(err)
			}
			h.want("2@1")
			h.over()
		})
	})
	t.Run("calls", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			fn := &scripted{answer: func(s *scripted, c async.Call[int]) {
				time.Sleep(time.Second)
				s.end(c.Record.Value, nil)
			}}
			h := newHost(t, fn, Config{Async: async.Config{MaxCalls: 2}})
			h.push(upTo(9)...)
			time.Sleep(4500 * time.Millisecond)
			synctest.Wait()
			if fn.count(8) != 1 || fn.most != 2 {
				t.Errorf("%d calls of the last, at most %d at once", fn.count(8), fn.most)
			}
			h.want("")
			h.push(9)
			h.want(doubled(upTo(8)...))
			if err := h.finish(); err != nil {
				t.Fatal(err)
			}
			h.want(doubled(upTo(10)...))
			h.over()
		})
	})
	t.Run("failure", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			fn := &scripted{}
			h := newHost(t, fn, Config{})
			h.push(1, 2)
			fn.end(2, errors.New("out of memory"))
			time.Sleep(time.Second) // the lane sees it
			h.wantFailure(h.try(3), "backend", 3, 1, "out of memory")
			if fn.count(3) != 0 {
				t.Error("a record was called after the failure")
			}
			h.want("")
			h.over()
		})
	})
}

// What comes while the bundle's goroutine has the operator, behind its last step, is for the lane's
// own.
func TestNothingIsMissedWhenABundlePauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fn := &scripted{}
		h := newHost(t, fn, Config{Async: async.Config{Retry: async.Retry{Max: 3, Delay: time.Second, Jitter: async.Off}}})
		h.push(1, 2)
		fn.end(1, nil)
		h.then = func() {
			fn.end(2, flaky{})
			synctest.Wait() // the lane's own goroutine has been woken, and is at rest
		}
		h.push(3)
		h.want("2@1")
		time.Sleep(time.Second)
		synctest.Wait()
		if n := fn.count(2); n != 2 {
			t.Fatalf("%d calls", n)
		}

		// A timer that falls due meanwhile.
		fn.end(2, flaky{})
		synctest.Wait()
		fn.end(3, flaky{})
		synctest.Wait()
		due := time.Now().Add(time.Second)
		go func() {
			time.Sleep(2 * time.Second)
			fn.end(2, nil)
		}()
		time.Sleep(time.Second / 2)
		for time.Now().Before(due) {
			h.push(100 + int(time.Until(due)/time.Millisecond))
			time.Sleep(time.Second / 16)
		}
		synctest.Wait()
		if n := fn.count(3); n != 2 {
			t.Errorf("%d calls", n)
		}
		h.b.start() // it is given up
		h.over()
	})
}

func TestFailures(t *testing.T) {
	for _, c := range []struct {
		err   error
		class string
	}{{hopeless{}, "permanent"}, {errors.New("bad\n\"day\""), "backend"}} {
		for _, while := range []string{"room", "drain", "next"} {
			t.Run(c.class+"/"+while, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					fn := &scripted{}
					h := newHost(t, fn, Config{Async: async.Config{Capacity: 3}})
					h.push(7, 8, 9)
					fail := func() {
						time.Sleep(time.Second)
						fn.end(8, c.err)
					}
					var err error
					switch while {
					case "room":
						go fail()
						err = h.try(10)
					case "drain":
						go fail()
						err = h.finish()
					default:
						fn.end(7, nil)
						fn.end(8, c.err)
						err = h.try(10)
					}
					h.wantFailure(err, c.class, 3, 1, c.err.Error())
					h.want("")
					if _, closed := fn.closes(); closed != 1 {
						t.Errorf("closed %d times", closed)
					}
					h.over()
				})
			})
		}
	}
}

func TestDeadLettersInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fn := &scripted{answer: func(s *scripted, c async.Call[int]) {
			v := c.Record.Value
			time.Sleep(time.Duration(v*37%100) * time.Millisecond)
			if v%3 == 0 {
				s.end(v, hopeless{})
			} else {
				s.end(v, nil)
			}
		}}
		h := newHost(t, fn, Config{Async: async.Config{Capacity: 9, OnError: async.OnError{Permanent: async.DeadLetter}}})
		h.push(upTo(100)...)
		if err := h.finish(); err != nil {
			t.Fatal(err)
		}
		var good []int
		for i, l := range h.letters {
			var re *async.RecordError
			if l.Record.Value != 3*i || l.Class != async.Permanent || l.Attempts != 1 || !errors.As(l.Err, &re) || re.Position != int64(3*i) {
				t.Fatalf("dead letter %d is %+v", i, l)
			}
		}
		for v := range 100 {
			if v%3 != 0 {
				good = append(good, v)
			}
		}
		h.want(doubled(good...))
		if len(h.letters) != 34 {
			t.Errorf("%d dead letters", len(h.letters))
		}
		h.over()
	})
}
