package kafka

import (
	"context"
	"errors"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector"
)

// GroupSink returns a sink that writes in the transactions of a group. It uses Topic, Encode,
// MaxRecord and MaxHeld of its configuration; everything else is the group's.
func GroupSink[T any](g *Group, c SinkConfig[T]) connector.Sink[T] {
	s := &groupSink[T]{g: g, cfg: c}
	s.err = s.cfg.check()
	return s
}

type groupSink[T any] struct {
	g   *Group
	cfg SinkConfig[T]
	err error
}

// Open implements connector.Sink.
func (s *groupSink[T]) Open(ctx context.Context, _ async.Subtask) (connector.Writer[T], error) {
	if err := errors.Join(s.err, s.g.err); err != nil {
		return nil, err
	}
	return &groupWriter[T]{s: s, ctx: ctx}, nil
}

// Committer implements connector.Sink. The group's checkpoints publish results. Clean discards
// results that are not published.
func (s *groupSink[T]) Committer(ctx context.Context) (connector.Committer, error) {
	if err := errors.Join(s.err, s.g.err); err != nil {
		return nil, err
	}
	cl, err := s.g.cfg.client()
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	err = s.cfg.reach(ctx, &s.g.cfg.Config, cl)
	s.g.prod.limit(s.cfg.Topic, s.cfg.batchBytes())
	return groupCommitter{g: s.g}, err
}

type groupCommitter struct {
	nothing
	g *Group
}

// Clean implements connector.Committer.
func (c groupCommitter) Clean(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.g.cfg.Timeout)
	defer cancel()
	return c.g.prod.clean(ctx)
}

// Rewind implements connector.Rewinder. It always fails.
func (c groupCommitter) Rewind(_, _ []byte) ([]byte, error) {
	return nil, errors.New("kafka: a sink that writes in transactions cannot go back, because results of a committed transaction stay")
}

// groupWriter writes in the group's transaction. After a barrier it holds results back, since they
// belong to the next transaction.
type groupWriter[T any] struct {
	s       *groupSink[T]
	ctx     context.Context
	holding bool
	held    []heldRecord
	bytes   int
}

type heldRecord struct {
	rec      *Record
	split    int
	position int64
}

// Write implements connector.Writer.
func (w *groupWriter[T]) Write(recs []async.Record[T]) error {
	for i := range recs {
		k, err := w.s.cfg.encode(&recs[i])
		if err != nil {
			return err
		}
		if k.Topic == "" {
			k.Topic = w.s.cfg.Topic
		}
		h := heldRecord{k, recs[i].Split, recs[i].Position}
		if w.holding {
			w.held = append(w.held, h)
			w.bytes += len(k.Key) + len(k.Value)
			continue
		}
		if err := w.produce(h); err != nil {
			return err
		}
	}
	return nil
}

func (w *groupWriter[T]) produce(h heldRecord) error {
	return w.s.g.prod.produce(w.ctx, h.rec, h.split, h.position)
}

// release writes what was held back.
func (w *groupWriter[T]) release() error {
	held := w.held
	w.held, w.bytes, w.holding = nil, 0, false
	for _, h := range held {
		if err := w.produce(h); err != nil {
			return err
		}
	}
	return nil
}

// Prepare implements connector.Writer.
func (w *groupWriter[T]) Prepare(ctx context.Context, _ int64) ([]connector.Pending, error) {
	if err := w.release(); err != nil {
		return nil, err
	}
	w.holding = true
	return nil, w.s.g.prod.flush(ctx)
}

// Full implements connector.LimitedWriter.
func (w *groupWriter[T]) Full() bool { return w.bytes >= w.s.cfg.MaxHeld }

// CheckpointDone implements connector.LimitedWriter. If a checkpoint was abandoned, its transaction
// goes on.
func (w *groupWriter[T]) CheckpointDone(int64, bool) error { return w.release() }

// Close implements connector.Writer.
func (w *groupWriter[T]) Close() error { return nil }
