package stream

import (
	"context"
	"errors"

	"github.com/tensorferry/tensorferry/connector"
)

// Copying makes the values of a source safe to keep, if its reader reuses objects. The operators
// own a record until its outcome: they call the function with it again, and encode it, long after
// it was read (A6). A source whose reader reuses objects must therefore be wrapped.
//
// copy returns a value that shares no memory with its argument that the reader may change. It is
// called once for each record, from the goroutine that reads the split. So it must be safe for
// concurrent use if splits are read in parallel. If it panics, the read fails. Splits, positions
// and times stay as they are.
//
// The reader is asked for one record at a time, so it may use one object for all of them. That
// costs a call of Read and a copy for each record; a source that gives its values away costs less.
// If the source is Unbounded, Rebalancing or LoopChecker, or its reader is a Describer, the wrapper
// is so too.
func Copying[T any](source connector.Source[T], copy func(T) T) connector.Source[T] {
	if source == nil {
		return nil // which From refuses
	}
	s := copyingSource[T]{source, copy}
	live, isUnbounded := source.(connector.Unbounded[T])
	rebalancing, isRebalancing := source.(connector.Rebalancing)
	switch {
	case isUnbounded && isRebalancing:
		return struct {
			copyingUnbounded[T]
			connector.Rebalancing
		}{copyingUnbounded[T]{s, live}, rebalancing}
	case isUnbounded:
		return copyingUnbounded[T]{s, live}
	case isRebalancing:
		return struct {
			copyingSource[T]
			connector.Rebalancing
		}{s, rebalancing}
	}
	return s
}

type copyingSource[T any] struct {
	connector.Source[T]
	copy func(T) T
}

func (s copyingSource[T]) Splits(ctx context.Context) ([]connector.Split, error) {
	if s.copy == nil {
		return nil, errors.New("stream.Copying: the function that copies is nil")
	}
	return s.Source.Splits(ctx)
}

func (s copyingSource[T]) Open(ctx context.Context, split connector.Split, position int64) (connector.Reader[T], error) {
	r, err := s.Source.Open(ctx, split, position)
	if err != nil || r == nil {
		return nil, err // the reader of From reports a nil reader
	}
	c := copyingReader[T]{r, s.copy}
	if d, ok := r.(connector.Describer); ok {
		return struct {
			copyingReader[T]
			connector.Describer
		}{c, d}, nil
	}
	return c, nil
}

func (s copyingSource[T]) wrapped() any { return s.Source }

type copyingReader[T any] struct {
	connector.Reader[T]
	copy func(T) T
}

func (r copyingReader[T]) Read(ctx context.Context, dst []Record[T], _ int) ([]Record[T], int64, error) {
	before := len(dst)
	dst, next, err := r.Reader.Read(ctx, dst, 1)
	for i := range dst[before:] {
		dst[before+i].Value = r.copy(dst[before+i].Value)
	}
	return dst, next, err
}

type copyingUnbounded[T any] struct {
	copyingSource[T]
	live connector.Unbounded[T]
}

func (s copyingUnbounded[T]) OpenAll(ctx context.Context, splits []connector.AssignedSplit) (connector.UnboundedReader[T], error) {
	r, err := s.live.OpenAll(ctx, splits)
	if err != nil || r == nil {
		return nil, err
	}
	return copyingUnboundedReader[T]{r, s.copy}, nil
}

type copyingUnboundedReader[T any] struct {
	connector.UnboundedReader[T]
	copy func(T) T
}

func (r copyingUnboundedReader[T]) Read(ctx context.Context, dst []Record[T], _ int) (int, []Record[T], int64, error) {
	before := len(dst)
	split, dst, next, err := r.UnboundedReader.Read(ctx, dst, 1)
	for i := range dst[before:] {
		dst[before+i].Value = r.copy(dst[before+i].Value)
	}
	return split, dst, next, err
}
