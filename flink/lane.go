package flink

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/flink/internal/idle"
	"github.com/tensorferry/tensorferry/internal/guard"
)

// lane is an operator that bundles are run on, one after another. While a bundle is being processed
// the operator is driven by the bundle's goroutine; while it waits for more records, by one of the
// lane's own, which lets timers, retries and calls go on but emits nothing, since Beam takes
// results from the bundle's goroutine alone.
//
// The lane's own goroutine never waits for mu: a bundle that has it steps the operator anyway.
// Whoever has had it rings if the other one would not wake by itself in time, or found mu taken.
type lane[IN, OUT any] struct {
	op    *async.Operator[IN, OUT]
	woken chan struct{} // for the bundle
	bored chan struct{} // for the lane's own goroutine
	alarm atomic.Int64  // when that one wakes by itself, as a tick; 0: never, or it found mu taken
	quit  context.CancelFunc
	gone  sync.WaitGroup

	mu     sync.Mutex
	closed bool
	made   time.Time
	used   time.Time // when a bundle last did something
	next   time.Time // when the operator must be stepped, by the newest step of a bundle
	drains int64
	timer  *time.Timer
	one    [1]async.Record[IN]
	out    results[OUT]
	failed []async.Failed[IN]
	broken error // the lane's own goroutine was ended by a function of the user's
}

// results is the Emitter of a lane. There are no watermarks: Beam keeps those.
type results[OUT any] struct{ recs []async.Record[OUT] }

func (r *results[OUT]) Emit(recs []async.Record[OUT]) { r.recs = append(r.recs, recs...) }
func (r *results[OUT]) Watermark(async.Watermark)     {}

func ring(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// openLane makes a lane and opens its channel, which takes as long as the function's Open.
func openLane[IN, OUT any](ctx context.Context, fn async.Function[IN, OUT], c Config, index int, log *slog.Logger) (*lane[IN, OUT], error) {
	l := &lane[IN, OUT]{woken: make(chan struct{}, 1), bored: make(chan struct{}, 1), made: time.Now(), timer: time.NewTimer(time.Hour)}
	l.used = l.made
	op, err := async.NewOperator(fn, c.Async, async.Subtask{Operator: c.Name, Index: index, Parallelism: index + 1, Logger: log},
		func() { ring(l.woken); ring(l.bored) })
	if err != nil {
		return nil, err
	}
	op.DeadLetters(func(f []async.Failed[IN]) { l.failed = append(l.failed, f...) })
	if err := op.Open(ctx); err != nil {
		return nil, errors.Join(err, op.Close())
	}
	l.op = op
	var own context.Context
	own, l.quit = context.WithCancel(context.Background())
	l.gone.Go(func() { l.keep(own) })
	return l, nil
}

// keep steps the operator while no bundle does.
func (l *lane[IN, OUT]) keep(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		// Before TryLock: a bundle because of which that fails reads it afterwards.
		l.alarm.Store(0)
		var due <-chan time.Time
		if l.mu.TryLock() {
			if l.closed {
				l.mu.Unlock()
				return
			}
			if next := l.alone(); !next.IsZero() {
				timer.Reset(time.Until(next))
				due = timer.C
			}
		}
		select {
		case <-l.bored:
		case <-due:
		case <-ctx.Done():
			return
		}
	}
}

// alone steps the operator without a bundle, and says when it must step again. It unlocks mu, also
// if a function of the user's ends the goroutine.
func (l *lane[IN, OUT]) alone() time.Time {
	returned := false
	defer func() {
		if !returned {
			l.broken = guard.Exited("a function of the operator")
		}
		l.mu.Unlock()
	}()
	// A failure is the next bundle step's to report.
	st, _ := l.op.Step(time.Now(), 0, &l.out)
	if !st.Next.IsZero() {
		l.alarm.Store(l.tick(st.Next))
	}
	returned = true
	return st.Next
}

// taker takes what leaves a lane: from the bundle's goroutine, in order.
type taker[IN, OUT any] struct {
	result func(*async.Record[OUT])
	failed func(*async.Failed[IN])
}

// process admits a record, waiting until there is room, and hands over what leaves meanwhile. An
// error is the end of the lane.
func (l *lane[IN, OUT]) process(ctx context.Context, rec *async.Record[IN], to taker[IN, OUT]) error {
	l.mu.Lock()
	defer l.release()
	l.one[0] = *rec
	for {
		switch {
		case l.closed:
			return idle.ErrAbandoned
		case l.broken != nil: // in the midst of a step, so the operator takes no other
			return l.broken
		}
		admitted := l.op.Admit(l.one[:]) == 1
		st, err := l.step(to)
		if err != nil || admitted {
			return err
		}
		if st.More || l.op.Room() > 0 {
			continue
		}
		if err := l.wait(ctx, st.Next); err != nil {
			return err
		}
	}
}

// drain waits until everything has its outcome, and hands it over. An error is the end of the lane.
func (l *lane[IN, OUT]) drain(ctx context.Context, to taker[IN, OUT]) error {
	l.mu.Lock()
	defer l.release()
	if l.closed {
		return idle.ErrAbandoned
	}
	l.drains++
	l.op.Barrier(l.drains)
	for {
		st, err := l.step(to)
		if err != nil || st.Barrier == l.drains {
			return err
		}
		if st.More {
			continue
		}
		if err := l.wait(ctx, st.Next); err != nil {
			return err
		}
	}
}

// release ends what a bundle does on the lane, and leaves the rest to the lane's own goroutine.
func (l *lane[IN, OUT]) release() {
	l.used = time.Now()
	next := l.next
	l.mu.Unlock()
	// After Unlock, so that from here on the other one does not find mu taken. Without a next time
	// nothing is in flight.
	if alarm := l.alarm.Load(); !next.IsZero() && (alarm == 0 || l.tick(next) < alarm) {
		ring(l.bored)
	}
}

// tick is a time as a number that no change of the clock moves, and never 0.
func (l *lane[IN, OUT]) tick(t time.Time) int64 { return int64(t.Sub(l.made)) | 1 }

// turn is how many results leave in one step.
const turn = 1024

// step does what is due and passes on what has left.
func (l *lane[IN, OUT]) step(to taker[IN, OUT]) (async.Status[IN], error) {
	if l.broken != nil {
		return async.Status[IN]{}, l.broken
	}
	st, err := l.op.Step(time.Now(), turn, &l.out)
	if err == nil {
		err = l.broken
	}
	l.next = st.Next
	if err != nil {
		return st, err
	}
	for i := range l.out.recs {
		to.result(&l.out.recs[i])
	}
	clear(l.out.recs)
	l.out.recs = l.out.recs[:0]
	for i := range l.failed {
		to.failed(&l.failed[i])
	}
	clear(l.failed)
	l.failed = l.failed[:0]
	return st, nil
}

// wait waits until the operator has something to do.
func (l *lane[IN, OUT]) wait(ctx context.Context, next time.Time) error {
	var due <-chan time.Time
	if !next.IsZero() {
		l.timer.Reset(time.Until(next))
		due = l.timer.C
	}
	select {
	case <-l.woken:
	case <-due:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}

// Close implements idle.Thing: it closes the channel. A bundle that comes back to it is told. It
// waits for the bundle that is at work.
func (l *lane[IN, OUT]) Close() error {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.quit()
	l.gone.Wait()
	l.timer.Stop()
	return l.op.Close()
}

// Abandoned implements idle.Thing.
func (l *lane[IN, OUT]) Abandoned(since time.Time) bool {
	if !l.mu.TryLock() {
		return false // one does
	}
	used := l.used
	l.mu.Unlock()
	// As in release: the lane's own goroutine may have found mu taken.
	if l.alarm.Load() == 0 {
		ring(l.bored)
	}
	return used.Before(since)
}
