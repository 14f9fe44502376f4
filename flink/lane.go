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

// lane is an operator on which bundles run, one after another. While a bundle processes a record,
// the bundle's goroutine steps the operator. Between records a goroutine of the lane's own steps
// it, so that timers, retries and calls continue. That one emits nothing, because Beam takes
// results from the bundle's goroutine only.
//
// The lane's own goroutine never waits for mu: a bundle that holds mu steps the operator anyway.
// When the bundle releases mu, it rings for the lane's goroutine if that would not wake in time by
// itself, or has found mu locked.
type lane[IN, OUT any] struct {
	op    *async.Operator[IN, OUT]
	woken chan struct{} // for the bundle
	bored chan struct{} // for the lane's own goroutine
	alarm atomic.Int64  // the tick at which that one wakes; 0: never, or it found mu locked
	quit  context.CancelFunc
	gone  sync.WaitGroup

	mu     sync.Mutex
	closed bool
	made   time.Time
	used   time.Time // when a bundle last used the lane
	next   time.Time // when the operator must be stepped next, as a bundle's last step said
	drains int64
	timer  *time.Timer
	one    [1]async.Record[IN]
	out    results[OUT]
	failed []async.Failed[IN]
	broken error // set if a user's function ended the lane's own goroutine
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

// openLane makes a lane and opens its channel. It takes as long as the function's Open.
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
		// Store before TryLock: a bundle that makes TryLock fail reads alarm after it
		// unlocks mu.
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

// alone steps the operator without a bundle, and returns when it must step again. It unlocks mu,
// even if a user's function ends the goroutine.
func (l *lane[IN, OUT]) alone() time.Time {
	returned := false
	defer func() {
		if !returned {
			l.broken = guard.Exited("a function of the operator")
		}
		l.mu.Unlock()
	}()
	// The bundle's next step reports a failure.
	st, _ := l.op.Step(time.Now(), 0, &l.out)
	if !st.Next.IsZero() {
		l.alarm.Store(l.tick(st.Next))
	}
	returned = true
	return st.Next
}

// taker takes results and failures from a lane, in order, on the bundle's goroutine.
type taker[IN, OUT any] struct {
	result func(*async.Record[OUT])
	failed func(*async.Failed[IN])
}

// process waits for room, admits a record, and passes on what leaves meanwhile. After an error the
// lane cannot be used.
func (l *lane[IN, OUT]) process(ctx context.Context, rec *async.Record[IN], to taker[IN, OUT]) error {
	l.mu.Lock()
	defer l.release()
	l.one[0] = *rec
	for {
		switch {
		case l.closed:
			return idle.ErrAbandoned
		case l.broken != nil: // it broke within a step, so the operator cannot be stepped again
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

// drain waits until every record has its outcome, and passes all on. After an error the lane cannot
// be used.
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

// release unlocks the lane and leaves the operator to the lane's own goroutine.
func (l *lane[IN, OUT]) release() {
	l.used = time.Now()
	next := l.next
	l.mu.Unlock()
	// Load after Unlock: from here on the other goroutine can lock mu. Without a next time
	// nothing is in flight.
	if alarm := l.alarm.Load(); !next.IsZero() && (alarm == 0 || l.tick(next) < alarm) {
		ring(l.bored)
	}
}

// tick returns a time as a number that is never 0 and that changes of the wall clock do not affect.
func (l *lane[IN, OUT]) tick(t time.Time) int64 { return int64(t.Sub(l.made)) | 1 }

// turn is the most results that leave in one step.
const turn = 1024

// step steps the operator and passes on its results and failures.
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

// Close implements idle.Thing: it closes the channel. It waits for a bundle that uses the lane. A
// bundle that uses it later gets ErrAbandoned.
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
		return false // a goroutine uses it
	}
	used := l.used
	l.mu.Unlock()
	// As in release: the lane's own goroutine may have found mu locked.
	if l.alarm.Load() == 0 {
		ring(l.bored)
	}
	return used.Before(since)
}
