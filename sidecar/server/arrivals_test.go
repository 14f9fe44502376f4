package server

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestArrivals: requests never hold more than is allowed. An older request is served before a
// younger one. A request that holds memory passes one that does not. A request that stops waiting
// leaves nothing behind.
func TestArrivals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &arrivals{most: 100, largest: 60}
		var served []string
		wait := func(h *share, n int64, name string) {
			go func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				if err := h.wait(ctx, n); err == nil {
					served = append(served, name)
				} else if !errors.Is(err, context.DeadlineExceeded) {
					t.Error(err)
				}
			}()
			synctest.Wait()
		}
		first, second := a.share(60, 0), a.share(80, 10)
		if !first.try(40) || !first.try(30) || !second.try(10) || a.taken() != 40 {
			t.Errorf("%d are taken", a.taken())
		}
		if second.spare(11) || !first.spare(40) {
			t.Error("spare reports the wrong room")
		}
		// With 60 for the second, the first would never get its 60.
		if !second.try(50) || second.try(60) || a.taken() != 80 {
			t.Errorf("%d are taken", a.taken())
		}
		third, fourth := a.share(15, 0), a.share(5, 0)
		wait(second, 60, "second")
		wait(third, 15, "third")
		if fourth.try(5) {
			t.Error("a request that holds nothing passes one that waits")
		}
		wait(fourth, 5, "fourth")
		if !first.try(60) || first.spare(60) {
			t.Error("the first cannot be finished")
		}
		first.settle()
		first.keep(50)
		synctest.Wait()
		if !slices.Equal(served, []string{"second"}) || a.taken() != 100 {
			t.Errorf("served %v, %d are taken", served, a.taken())
		}
		time.Sleep(time.Second) // the third and fourth give up
		synctest.Wait()
		first.release()
		first.release()
		second.keep(20)
		if (*share)(nil).release(); len(a.waiting) > 0 || a.taken() != 10 || len(served) > 1 {
			t.Errorf("%d wait, %d are taken, served %v", len(a.waiting), a.taken(), served)
		}
		small := &arrivals{most: 20}
		h := small.share(10, 0)
		if h.try(10); !h.grow(20, a) || h.of != small || !h.grow(90, a) || h.of != a || small.taken() != 0 || a.taken() != 100 || h.grow(91, a) || h.grow(91, nil) {
			t.Errorf("%d of the small are taken, %d of the large", small.taken(), a.taken())
		}
		h.release()
		second.release()
		if a.taken() != 0 || a.partial != 0 || len(a.partly) > 0 {
			t.Errorf("%d are taken", a.taken())
		}
	})
}

// TestArrivalsFinish: however many requests of whatever sizes have come in by half, all of them
// finish. No request waits for ever behind later ones, and the bound is kept. Some callers stop
// half-way; what they hold is returned when their time is over.
func TestArrivalsFinish(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for round := range uint64(200) {
		synctest.Test(t, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, round))
			a := &arrivals{most: 100}
			stall := rng.IntN(2) == 0
			var finished, stalled atomic.Int64
			for range 40 {
				claim, step, pace := 1+rng.Int64N(100), 1+rng.Int64N(20), time.Duration(1+rng.IntN(5))*time.Millisecond
				begins, stops := time.Duration(rng.IntN(200))*time.Millisecond, stall && rng.IntN(8) == 0
				go func() {
					time.Sleep(begins)
					h := a.share(claim, 0)
					defer h.release()
					for n := int64(0); n < claim; {
						if stops && n > claim/2 {
							stalled.Add(1)
							time.Sleep(time.Second)
							return
						}
						n = min(n+step, claim)
						if !h.try(n) {
							if err := h.wait(t.Context(), n); err != nil {
								t.Error(err)
								return
							}
						}
						if used := a.taken(); used > a.most || h.n != n {
							t.Errorf("%d are taken; a request holds %d and should hold %d", used, h.n, n)
						}
						time.Sleep(pace)
					}
					h.settle()
					time.Sleep(pace)
					finished.Add(1)
				}()
			}
			time.Sleep(time.Hour)
			synctest.Wait()
			if finished.Load()+stalled.Load() != 40 || a.taken() != 0 || len(a.partly) > 0 || len(a.waiting) > 0 || a.partial != 0 {
				t.Fatalf("round %d: %d of 40 are finished, %d stopped, %d wait, %d are taken", round, finished.Load(), stalled.Load(), len(a.waiting), a.taken())
			}
		})
	}
}

// TestArrivalsAreServedInTurn: small requests that keep coming do not pass for ever a request that
// wants everything.
func TestArrivalsAreServedInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &arrivals{most: 100}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for range 60 {
			wg.Go(func() {
				for ctx.Err() == nil {
					h := a.share(3, 0)
					if h.try(3) || h.wait(ctx, 3) == nil {
						time.Sleep(time.Millisecond)
					}
					h.release()
				}
			})
		}
		time.Sleep(10*time.Millisecond + time.Microsecond)
		began := time.Now()
		h := a.share(100, 0)
		for n := int64(10); n <= 100; n += 10 {
			if !h.try(n) {
				if err := h.wait(ctx, n); err != nil {
					t.Fatal(err)
				}
			}
		}
		if d := time.Since(began); d > 10*time.Millisecond {
			t.Errorf("it had everything after %v", d)
		}
		h.release()
		cancel()
		wg.Wait()
	})
}
