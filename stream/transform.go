package stream

import (
	"github.com/tensorferry/tensorferry/async"
	guards "github.com/tensorferry/tensorferry/internal/guard"
)

// each appends what becomes of one record to out.
type each[IN, OUT any] func(r *Record[IN], out []Record[OUT]) ([]Record[OUT], error)

// transform is the operator behind Map, FlatMap, Filter and KeyBy.
type transform[IN, OUT any] struct {
	idle
	env    *taskEnv
	counts *counts
	each   each[IN, OUT]
	next   input[OUT]
	out    []Record[OUT]
}

func newTransform[IN, OUT any](env *taskEnv, name string, next input[OUT], make func(*transform[IN, OUT]) each[IN, OUT]) any {
	t := &transform[IN, OUT]{env: env, next: next}
	t.each = make(t)
	t.counts = env.count(name)
	env.add(t, name)
	return input[IN](t)
}

func (t *transform[IN, OUT]) room() int { return t.next.room() }

func (t *transform[IN, OUT]) records(recs []Record[IN]) error {
	t.counts.in.Add(int64(len(recs)))
	if err := t.apply(recs); err != nil {
		return err
	}
	t.counts.done.Add(int64(len(recs)))
	if len(t.out) == 0 {
		return nil
	}
	t.counts.out.Add(int64(len(t.out)))
	err := t.next.records(t.out)
	clear(t.out)
	t.out = t.out[:0]
	return err
}

// apply fills out. One recover serves a whole slice.
func (t *transform[IN, OUT]) apply(recs []Record[IN]) (err error) {
	i, returned := 0, false
	defer func() {
		if v := recover(); v != nil {
			err = failed(t.env, t.counts.operator, &recs[i], guards.Caught(t.counts.operator, v))
		} else if !returned {
			t.env.task.lost = failed(t.env, t.counts.operator, &recs[i], guards.Exited(t.counts.operator))
		}
	}()
	for i = range recs {
		if t.out, err = t.each(&recs[i], t.out); err != nil {
			err = failed(t.env, t.counts.operator, &recs[i], guards.Error(t.counts.operator, err))
			break
		}
	}
	returned = true
	return err
}

func (t *transform[IN, OUT]) watermark(w async.Watermark) error {
	t.counts.reached(w)
	return t.next.watermark(w)
}

func (t *transform[IN, OUT]) barrier(b *barrier) error {
	b.ack.counts = append(b.ack.counts, t.counts.now())
	return t.next.barrier(b)
}

func (t *transform[IN, OUT]) end() error { return t.next.end() }

// failed is the failure of one record at an operator without calls.
func failed[T any](env *taskEnv, operator string, r *Record[T], err error) error {
	return &async.RecordError{
		Operator: operator, Subtask: env.index, Split: r.Split, Position: r.Position,
		Attempts: 1, Class: async.VerdictOf(err).Class, Err: err,
	}
}
