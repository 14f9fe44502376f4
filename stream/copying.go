package stream

import (
	"context"
	"errors"
)

// Copying makes a source's values safe to keep. The operators own a record until its
// outcome, and call and encode it again long after it was read (A6), so a reader that
// reuses its objects must be wrapped: copy returns a value that shares nothing with the
// one it is given that the reader may change. It is called once for each record, from the
// goroutine that reads the split, and so from several at a time where splits are read in
// parallel; a panic in it fails the read. Splits, positions and times stay as they are.
//
// The reader is asked for one record at a time, so it may use one object for all of them. A
// source that gives its values away costs less, and should. What wraps a Live, an Elastic
// or an Apart source is one too, and so it is with a reader that is a Describer.
func Copying[T any](source Source[T], copy func(T) T) Source[T] {
	if source == nil {
		return nil // which From refuses
	}
	s := copyingSource[T]{source, copy}
	live, isLive := source.(Live[T])
	elastic, isElastic := source.(Elastic)
	switch {
	case isLive && isElastic:
		return struct {
			copyingLive[T]
			Elastic
		}{copyingLive[T]{s, live}, elastic}
	case isLive:
		return copyingLive[T]{s, live}
	case isElastic:
		return struct {
			copyingSource[T]
			Elastic
		}{s, elastic}
	}
	return s
}

type copyingSource[T any] struct {
	Source[T]
	copy func(T) T
}

func (s copyingSource[T]) Splits(ctx context.Context) ([]Split, error) {
	if s.copy == nil {
		return nil, errors.New("stream.Copying: the function that copies is nil")
	}
	return s.Source.Splits(ctx)
}

func (s copyingSource[T]) Open(ctx context.Context, split Split, position int64) (Reader[T], error) {
	r, err := s.Source.Open(ctx, split, position)
	if err != nil || r == nil {
		return nil, err // From's reader says what a nil reader means
	}
	c := copyingReader[T]{r, s.copy}
	if d, ok := r.(Describer); ok {
		return struct {
			copyingReader[T]
			Describer
		}{c, d}, nil
	}
	return c, nil
}

func (s copyingSource[T]) wrapped() any { return s.Source }

type copyingReader[T any] struct {
	Reader[T]
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

type copyingLive[T any] struct {
	copyingSource[T]
	live Live[T]
}

func (s copyingLive[T]) OpenAll(ctx context.Context, splits []LiveSplit) (LiveReader[T], error) {
	r, err := s.live.OpenAll(ctx, splits)
	if err != nil || r == nil {
		return nil, err
	}
	return copyingLiveReader[T]{r, s.copy}, nil
}

type copyingLiveReader[T any] struct {
	LiveReader[T]
	copy func(T) T
}

func (r copyingLiveReader[T]) Read(ctx context.Context, dst []Record[T], _ int) (int, []Record[T], int64, error) {
	before := len(dst)
	split, dst, next, err := r.LiveReader.Read(ctx, dst, 1)
	for i := range dst[before:] {
		dst[before+i].Value = r.copy(dst[before+i].Value)
	}
	return split, dst, next, err
}
