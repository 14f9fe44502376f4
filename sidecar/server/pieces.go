package server

import (
	"context"
	"io"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
)

// place returns the arrivals from which a request of this size takes its memory.
func (r *receiver) place(size int) *arrivals {
	switch {
	case r.request == nil:
		return &r.control
	case size <= smallRequest:
		return &r.small
	}
	return &r.large
}

// overflow returns the arrivals from which an inference may take memory that its own place does not
// have.
func (r *receiver) overflow() *arrivals {
	if r.request == nil {
		return nil
	}
	return &r.large
}

// claim returns how much memory a request of this size takes at most until it is decoded, as far as
// its size tells.
func (r *receiver) claim(size int) int64 {
	if r.request == nil {
		return claimOf(size, controlGrowth)
	}
	return claimOf(size, 1)
}

// claimOf returns how much memory a message takes at most if decoding makes it growth times as
// large. While it is read, that is its bytes and the piece that comes in. Afterwards it is its
// bytes and either the decoded message or a copy into a larger buffer.
func claimOf(size, growth int) int64 {
	return int64(size) + int64(max(growth*size, pieceCost*min(size, pieceSize)))
}

// room waits until the request has room for n bytes.
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

// readBody reads a message piece by piece. The buffer that puts the pieces together is at most
// twice as large as what has come. If memory is plentiful, it has room for one whole piece, and for
// all of the message once that piece has come, because copying a large request costs about as much
// as its arrival. If memory is scarce, pieces are as small as a window: their frames take less.
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

// readRoom returns the room that is needed if size bytes have come, and more bytes are to come in
// pieces of at most piece bytes. That is a buffer for all of them, and besides it first the old
// buffer and then a piece.
func readRoom(size, more, piece int) int64 {
	return int64(size + more + max(size, pieceCost*min(more, piece)))
}

func inMidst(err error) error {
	if err == io.EOF {
		return status.Error(codes.Internal, "the request ended before it was complete")
	}
	return err
}
