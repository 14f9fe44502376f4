package async

import (
	"context"
	"errors"
	"iter"
	"time"
)

// Map calls fn for every value of in and yields the results in the order that cfg says. cfg also
// bounds the calls in progress. Keyed order is an error, since the values have no keys. A goroutine
// reads values ahead: at most 256 of them, no more than the capacity, and at most an eighth
// of cfg.MaxBytes in bytes. A larger value is read ahead alone.
//
// The first failure ends the sequence. A failure of the input is yielded after the results of the
// values before it. A failure of a record is yielded at once, as a *RecordError whose Position is
// the index of the value in the input. If ctx ends, its cause is yielded at once.
//
// Breaking out of the loop cancels the calls in flight. However the loop ends, no goroutine or
// connection of it is left then. The loop therefore waits for in to return, so an input that can
// block must end when its yield returns false or when ctx ends.
//
// The body of the loop runs between steps of the operator. Timeouts are not noticed while it runs,
// but an answer that comes in time counts as in time.
func Map[IN, OUT any](ctx context.Context, in iter.Seq2[IN, error], fn Function[IN, OUT], cfg Config) iter.Seq2[OUT, error] {
	if cfg.Barrier == DefaultBarrier {
		cfg.Barrier = Snapshot // there are no barriers, so nothing forbids calls without a timeout
	}
	return func(yield func(OUT, error) bool) {
		var zero OUT
		if cfg.Order == Keyed {
			yield(zero, errors.New("async: Map: the order is keyed, but values have no keys; want ordered or unordered"))
			return
		}
		woken := make(chan struct{}, 1)
		wake := func() {
			select {
			case woken <- struct{}{}:
			default:
			}
		}
		op, err := NewOperator(fn, cfg, Subtask{Operator: "map"}, wake)
		if err == nil {
			err = op.Open(ctx)
		}
		if err != nil {
			yield(zero, err)
			return
		}
		defer op.Close()
		feed := newFeed(op.Config(), op.bytes, wake)
		go feed.read(in)
		defer feed.stop()

		timer := time.NewTimer(time.Hour)
		defer timer.Stop()
		var out results[OUT]
		var recs []Record[IN] // taken, and not yet admitted: their bytes are too many for now
		more := true
		for {
			if len(recs) == 0 {
				recs, more = feed.take(op.Room())
			}
			if recs = recs[op.Admit(recs):]; len(recs) == 0 {
				feed.admitted()
				if !more {
					op.End()
				}
			}
			st, err := op.Step(time.Now(), emitTurn, &out)
			for i := range out.values {
				if err := context.Cause(ctx); err != nil {
					yield(zero, err)
					return
				}
				if !yield(out.values[i], nil) {
					return
				}
			}
			out.reset()
			switch {
			case err != nil:
				yield(zero, err)
				return
			case ctx.Err() != nil:
				yield(zero, context.Cause(ctx))
				return
			case st.Ended:
				if feed.err != nil {
					yield(zero, feed.err)
				}
				return
			case st.More || (op.Room() > 0 && (len(recs) > 0 || feed.ready())):
				continue
			}
			var due <-chan time.Time
			if !st.Next.IsZero() {
				timer.Reset(time.Until(st.Next))
				due = timer.C
			}
			select {
			case <-woken:
			case <-due:
			case <-ctx.Done():
			}
		}
	}
}

// Values makes an input for Map from a sequence that cannot fail.
func Values[T any](in iter.Seq[T]) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for v := range in {
			if !yield(v, nil) {
				return
			}
		}
	}
}

// results is the Emitter of Map.
type results[OUT any] struct{ values []OUT }

func (r *results[OUT]) Emit(recs []Record[OUT]) {
	for i := range recs {
		r.values = append(r.values, recs[i].Value)
	}
}

func (r *results[OUT]) Watermark(Watermark) {}

func (r *results[OUT]) reset() {
	clear(r.values)
	r.values = r.values[:0]
}
