package server

import (
	"context"
	"io"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
)

// place is where a request of so many bytes has its memory.
func (r *receiver) place(size int) *arrivals {
	switch {
	case r.request == nil:
		return &r.control
	case size <= smallRequest:
		return &r.small
	}
	return &r.large
}

// overflow is where an inference may have memory that its own place lacks.
func (r *receiver) overflow() *arrivals {
	if r.request == nil {
		return nil
	}
	return &r.large
}

// claim is what a request of so many bytes takes at most until it is decoded, as far as that is
// known from its size.
func (r *receiver) claim(size int) int64 {
	if r.request == nil {
		return claimOf(size, controlGrowth)
	}
	return claimOf(size, 1)
}

// claimOf is what a message takes that is decoded to growth times its size: while it is read,
// its bytes and a piece that comes in; then its bytes, and these again where they are decoded, or
// where they are copied to when there is no room behind them.
func claimOf(size, growth int) int64 {
	return int64(size) + int64(max(growth*size, pieceCost*min(size, pieceSize)))
}

// room waits until the request has room for so many bytes.
func (r *receiver) room(n int64) (*failure, error) {
	if r.share.try(n) {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(r.ctx, r.patience)
	defer cancel()
	began := time.Now()
	err := r.share.wait(ctx, n)
	r.patience = max(r.patience-time.Since(began), 0)
	switch {
	case err == nil:
		return nil, nil
	case r.ctx.Err() != nil:
		return nil, callerGone(r.ctx)
	}
	return r.noRoom(), nil
}

// readBody reads a message, a piece at a time. Where the pieces are put together there is room for
// at most twice what has come. If there is memory to spare it is for one whole piece, and for all
// once that has come, since a copy of a large request costs about as much as its arrival. If there
// is none, pieces are as small as a window, whose frames take less.
func (r *receiver) readBody(size int) (data mem.Buffer, fail *failure, err error) {
	if size == 0 {
		return mem.SliceBuffer(nil), nil, nil
	}
	if size <= firstPiece {
		fail, err = r.within(func() error {
			parts, err := r.w.Read(size)
			if err == nil {
				data = parts.MaterializeToBuffer(pool{})
				parts.Free()
			}
			return err
		})
		return data, fail, inMidst(err)
	}
	all, piece := pool{}.Get(firstPiece), firstPiece
	for at := 0; at < size && fail == nil && err == nil; {
		if at == len(*all) {
			more, most := min(at, size-at), size-at
			if at < pieceSize {
				most = min(pieceSize, size) - at
			}
			piece = streamWindow
			if r.share.spare(readRoom(at, most, pieceSize)) {
				more, piece = most, pieceSize
			}
			if fail, err = r.room(readRoom(at, more, piece)); fail != nil || err != nil {
				break
			}
			larger := pool{}.Get(at + more)
			copy(*larger, *all)
			pool{}.Put(all)
			all = larger
			r.share.keep(int64(len(*all) + pieceCost*min(piece, more)))
		}
		n := min(piece, len(*all)-at)
		if fail, err = r.room(int64(len(*all) + pieceCost*n)); fail != nil || err != nil {
			break
		}
		fail, err = r.within(func() error {
			parts, err := r.w.Read(n)
			if err == nil {
				parts.CopyTo((*all)[at:])
				parts.Free()
			}
			return err
		})
		at += n
	}
	if fail != nil || err != nil {
		pool{}.Put(all)
		return nil, fail, inMidst(err)
	}
	r.share.keep(int64(size))
	return mem.NewBuffer(all, pool{}), nil, nil
}

// readRoom is what is needed where size bytes have come and more are to, in pieces of at most so
// many: room for all of them, and beside it first for the old ones, and then for a piece.
func readRoom(size, more, piece int) int64 {
	return int64(size + more + max(size, pieceCost*min(more, piece)))
}

func inMidst(err error) error {
	if err == io.EOF {
		return status.Error(codes.Internal, "the request ended in its midst")
	}
	return err
}
