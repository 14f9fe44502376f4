package async

import (
	"context"
	"errors"
	"iter"
	"time"
)

// Map calls fn for every value of in and yields the results in the order that cfg says, with as
// many calls in progress as cfg allows. Keyed order is an error, since the values have no keys.
// Values are read ahead on a goroutine of their own, by at most the capacity, 256, and an eighth of
// cfg.MaxBytes; one larger value alone.
//
// The first failure ends the sequence: of the input, after the results of what
// came before it; of a record, at once, as a *RecordError whose Position is the
// index in the input; of ctx, at once, with its cause. Breaking out of the loop
// cancels the calls in flight. When the loop has ended, however it did, no goroutine or
// connection of it is left; it therefore waits for in to return, so an
// input that can block must end when its consumer stops or ctx does.
//
// The loop's body runs between steps of the operator: while it runs, timeouts
// are not noticed, but an answer that came in time counts as in time.
func Map[IN, OUT any](ctx context.Context, in iter.Seq2[IN, error], fn Function[IN, OUT], cfg Config) iter.Seq2[OUT, error] {
	if cfg.Barrier == DefaultBarrier {
		cfg.Barrier = Snapshot // there are no barriers, so nothing forbids calls without a timeout
	}
	return func(yield func(OUT, error) bool) {
		var zero OUT
		if cfg.Order == Keyed {
			yield(zero, errors.New("async: Map: the order is keyed, and values have no keys; want ordered or unordered"))
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

// Values makes an input for Map of a sequence that cannot fail.
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
