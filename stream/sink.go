package stream

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector"
	guards "github.com/tensorferry/tensorferry/internal/guard"
)

// sinkWriter is the end of a chain in a sink. It keeps pending results until a checkpoint that
// holds them is complete, so those of an aborted checkpoint join the next (A45).
type sinkWriter[T any] struct {
	env     *taskEnv
	counts  *counts
	sink    connector.Sink[T]
	writer  connector.Writer[T]
	holder  connector.LimitedWriter // nil: there is always room
	failed  error
	ctx     context.Context
	pending []connector.Pending
	// The newest checkpoint that was acknowledged, ackedID, holds the first acked of pending.
	ackedID int64
	acked   int
}

func newSinkWriter[T any](env *taskEnv, name string, sink connector.Sink[T]) any {
	w := &sinkWriter[T]{env: env, sink: sink}
	w.counts = env.count(name)
	env.add(w, name)
	env.task.ends++
	return input[T](w)
}

func (w *sinkWriter[T]) open(ctx context.Context) (err error) {
	w.ctx = ctx
	defer func() { err = guards.Error("Open of "+w.counts.operator, err) }()
	w.writer, err = w.sink.Open(ctx, async.Subtask{
		Job: w.env.job, Operator: w.counts.operator, Index: w.env.index, Parallelism: w.env.parallelism,
		Run: w.env.run, Attempt: w.env.attempt, Logger: w.env.logger,
	})
	if err == nil && w.writer == nil {
		err = errors.New("the sink's Open returned neither a writer nor an error")
	}
	w.holder, _ = w.writer.(connector.LimitedWriter)
	return err
}

func (w *sinkWriter[T]) room() int {
	if w.holder != nil && w.holder.Full() {
		return 0
	}
	return sliceSize
}

func (w *sinkWriter[T]) over(id int64, complete bool) {
	if w.holder == nil || w.failed != nil {
		return
	}
	if err := w.env.guard("CheckpointDone of "+w.counts.operator, func() error { return w.holder.CheckpointDone(id, complete) }); err != nil {
		w.failed = fmt.Errorf("%s: cannot go on after checkpoint %d: %w", w.counts.operator, id, err)
	}
}

func (w *sinkWriter[T]) abort(id int64) { w.over(id, false) }

func (w *sinkWriter[T]) turn(time.Time) (bool, time.Time, error) { return false, time.Time{}, w.failed }

func (w *sinkWriter[T]) records(recs []Record[T]) (err error) {
	w.counts.in.Add(int64(len(recs)))
	returned := false
	defer func() {
		where := "Write of "
		if v := recover(); v != nil {
			err = guards.Caught(where+w.counts.operator, v)
		} else if !returned {
			err = guards.Exited(where + w.counts.operator)
			defer func() { w.env.task.lost = err }()
		} else if err != nil {
			err = guards.Error(where+w.counts.operator, err)
		}
		if err != nil {
			err = fmt.Errorf("%s: cannot write records from split %d, position %d on: %w", w.counts.operator, recs[0].Split, recs[0].Position, err)
		}
	}()
	err = w.writer.Write(recs)
	if returned = true; err != nil {
		return err
	}
	w.counts.done.Add(int64(len(recs)))
	w.counts.out.Add(int64(len(recs)))
	return nil
}

func (w *sinkWriter[T]) watermark(m async.Watermark) error {
	w.counts.reached(m)
	return nil
}

func (w *sinkWriter[T]) barrier(b *barrier) error {
	var more []connector.Pending
	err := w.env.guard("Prepare of "+w.counts.operator, func() (err error) {
		more, err = w.writer.Prepare(w.ctx, b.id)
		return err
	})
	if err != nil {
		return fmt.Errorf("%s: cannot prepare results for checkpoint %d: %w", w.counts.operator, b.id, err)
	}
	w.pending = append(w.pending, more...)
	w.ackedID, w.acked = b.id, len(w.pending)
	b.ack.sinks = append(b.ack.sinks, sinkAck{w.counts.operator, append([]connector.Pending(nil), w.pending...)})
	b.ack.counts = append(b.ack.counts, w.counts.now())
	w.env.passed(b)
	return nil
}

func (w *sinkWriter[T]) complete(id int64) {
	if id == w.ackedID {
		w.pending = append([]connector.Pending(nil), w.pending[w.acked:]...)
		w.acked = 0
	}
	w.over(id, true)
}

func (w *sinkWriter[T]) end() error {
	w.env.ended()
	return nil
}

func (w *sinkWriter[T]) close() error {
	if w.writer == nil {
		return nil
	}
	return w.writer.Close()
}
