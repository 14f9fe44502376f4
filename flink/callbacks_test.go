package flink

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/internal/callbacks"
)

// TestEveryCallback: what users give to this module to be called, and what becomes of a mistake in
// it. Those of the operator are the other module's.
func TestEveryCallback(t *testing.T) {
	known, err := callbacks.List(".")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"flink.Maker.Function",       // TestMakerThatBreaks
		"flink/submit.Job.Wait(log)", // on the goroutine of whoever waits
		"flink/worker.New(log)",      // guarded, as every logger
		"flink/worker.Pool.Serve(l)", // on the goroutine of whoever serves
	}
	if !slices.Equal(known, want) {
		t.Errorf("the callbacks are %q; want %q, each with a test", known, want)
	}
}

// unusable is an error that cannot be used.
type unusable struct{ what string }

func (n *unusable) Error() string { return n.what }

// TestMakerThatBreaks: the bundle fails with the place.
func TestMakerThatBreaks(t *testing.T) {
	for name, f := range map[string]func() error{
		"panic":     func() error { panic("a mistake") },
		"Goexit":    func() error { runtime.Goexit(); return nil },
		"typed nil": func() error { var n *unusable; return n },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var b bundle[int, int]
				c, err := Config{}.resolve()
				if err != nil {
					t.Fatal(err)
				}
				maker := func() (async.Function[int, int], error) { return nil, f() }
				if err := b.setup(name, c, maker, taker[int, int]{}); err != nil {
					t.Fatal(err)
				}
				b.start()
				err = b.process(t.Context(), &async.Record[int]{Value: 1})
				failure, ok := errors.AsType[*Failure](err)
				if !ok || !strings.Contains(failure.Message, "the Maker's Function") {
					t.Errorf("%v", err)
				}
				time.Sleep(2 * IdleLimit) // the pool looks once a second whether it is needed
			})
		})
	}
}

// leaving ends the goroutine on which it is asked about a timeout.
type leaving struct{ *scripted }

func (leaving) OnTimeout(async.Call[int]) (async.Outputs[int], error) {
	runtime.Goexit()
	return async.Outputs[int]{}, nil
}

// TestLaneWhoseOwnGoroutineEnds: between two records of a bundle the lane steps by itself. The
// bundle's next record fails, and waits for nothing.
func TestLaneWhoseOwnGoroutineEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, err := Config{Async: async.Config{Timeout: time.Second}}.resolve()
		if err != nil {
			t.Fatal(err)
		}
		l, err := openLane[int, int](t.Context(), leaving{&scripted{}}, c, 0, nil)
		if err != nil {
			t.Fatal(err)
		}
		to := taker[int, int]{result: func(*async.Record[int]) {}, failed: func(*async.Failed[int]) {}}
		if err := l.process(t.Context(), &async.Record[int]{Value: 1}, to); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := l.process(ctx, &async.Record[int]{Value: 2}, to); !errors.Is(err, async.ErrGoexit) {
			t.Errorf("the next record ends with %v", err)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
}
