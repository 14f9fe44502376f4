package server

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/tensorferry/tensorferry/sidecar/oip"
)

// arriving are the methods of grpc's streams that read a message in parts, so that its size is
// known before it takes memory. Grpc's own way to receive asks for the whole message at once.
type arriving interface {
	ReadMessageHeader(header []byte) error
	Read(n int) (mem.BufferSlice, error)
	RecvCompress() string
	WriteStatus(*status.Status) error
}

const (
	// streamWindow is how much of a request may come before the server reads it. It is the
	// smallest window that grpc has; a larger one would be memory that no bound covers.
	// connWindow is how much may be on its way at once for all requests of a connection.
	streamWindow = 64 << 10
	connWindow   = 4 << 20
	// pieceSize is how much of a request is read at a time. firstPiece is how much must come
	// before the request gets room for more.
	pieceSize  = 1 << 20
	firstPiece = 4 << 10
	// pieceCost is how many bytes a byte of a piece takes while it is read: in its frame, and
	// where the frames are put together.
	pieceCost = 1 + frameCost/crumbBytes
	// freeRoom is the room that every call has, whatever others have taken. It is enough for a
	// first piece, and for all of a probe's request.
	freeRoom = (1 + pieceCost) * firstPiece
	// smallRequest is the size of the largest small inference. Small ones have a part of the
	// memory for themselves, so that they do not wait behind larger ones.
	smallRequest = 1 << 20
	// maxControl is the largest request that is not an inference, in bytes. It fits into one
	// window.
	maxControl = streamWindow
	// controlGrowth is how many times as large such a request may become when it is decoded.
	controlGrowth = 64
	// freeUnzipped is the size, in bytes, to which a compressed request may always grow,
	// whatever the ratio.
	freeUnzipped = 1 << 20
	// maxHeaders is the largest list of headers of a call, in bytes.
	maxHeaders = 16 << 10
)

// receive reads the next message of a call into msg, within the bounds of the configuration. c then
// holds the memory that the message takes. It returns io.EOF when a stream's caller has sent
// everything. idle, if it is not nil, bounds how long a stream may wait for its next message. whole
// is grpc's own way to receive.
func (s *Server) receive(ctx context.Context, c *call, msg any, idle *idleness, whole func(any) error) error {
	w, ok := grpc.ServerTransportStreamFromContext(ctx).(arriving)
	m, isProto := msg.(proto.Message)
	if !ok || !isProto {
		s.unbounded.Do(func() {
			s.cfg.Logger.Warn("requests cannot be read in parts with this version of grpc, so only the size of a message is bounded while requests arrive",
				"stream", fmt.Sprintf("%T", grpc.ServerTransportStreamFromContext(ctx)))
		})
		return whole(msg)
	}
	r := &receiver{Server: s, ctx: ctx, w: w, patience: s.cfg.QueueTimeout}
	r.request, _ = m.(*oip.ModelInferRequest)
	fail, err := r.receive(m, idle)
	if fail != nil {
		s.turnAway(r.door)
		err = fail.status(r.request.GetModelName(), "")
	}
	if err != nil {
		r.share.release()
		return err
	}
	c.hold(r.share)
	return nil
}

// receiver receives one message.
type receiver struct {
	*Server
	ctx     context.Context
	w       arriving
	request *oip.ModelInferRequest // nil: the message is not an inference
	share   *share
	door    int // the door that turned the message away

	left     time.Duration // how long the rest may take to arrive
	patience time.Duration // how long it may still wait for memory
}

func (r *receiver) receive(m proto.Message, idle *idleness) (*failure, error) {
	size, zipped, fail, err := r.readHeader(idle)
	if fail != nil || err != nil {
		return fail, err
	}
	most := r.cfg.MaxMessageSize
	if r.request == nil {
		most = min(most, maxControl)
	}
	if size > most {
		return r.tooLarge(size, most), nil
	}
	r.share = r.place(size).share(r.claim(size), freeRoom)
	data, fail, err := r.readBody(size)
	if fail != nil || err != nil {
		return fail, err
	}
	defer func() { data.Free() }()
	wire := data.ReadOnlyData()
	if zipped {
		r.share.settle()
		wire, fail = r.unzip(wire, most)
		data.Free()
		data = mem.SliceBuffer(nil)
		if fail != nil {
			return fail, nil
		}
	}
	decoded, fail := r.weigh(wire)
	if fail != nil {
		return fail, nil
	}
	total := int64(len(wire)) + decoded
	if total > r.large.most {
		r.door = doorMemory
		return &failure{code: codes.ResourceExhausted, message: fmt.Sprintf(
			"the request takes up to %d bytes when it is decoded, which is larger than max (%d, of --receive-bytes); send fewer rows at once, or raw contents",
			total, r.large.most)}, nil
	}
	if !zipped && total <= r.claim(size) {
		fail, err = r.room(total)
		r.share.settle()
		if fail != nil || err != nil {
			return fail, err
		}
	} else if r.share.settle(); !r.share.grow(total, r.overflow()) {
		return r.noRoom(), nil
	}
	r.share.keep(total)
	if err := proto.Unmarshal(wire, m); err != nil {
		return r.bad(doorShape, "the request is not a message of the protocol: %v", err), nil
	}
	r.share.keep(decoded)
	return nil, nil
}

func (r *receiver) bad(door int, format string, args ...any) *failure {
	r.door = door
	f := &failure{code: codes.InvalidArgument, message: fmt.Sprintf(format, args...)}
	if r.request != nil {
		f.reason = oip.ReasonBadTensor
	}
	return f
}

// tooLarge has grpc's words, so that callers split the request.
func (r *receiver) tooLarge(size, most int) *failure {
	r.door = doorSize
	return &failure{code: codes.ResourceExhausted, message: fmt.Sprintf(
		"received message larger than max (%d vs. %d); send fewer rows at once, or raise --max-message", size, most)}
}

func (r *receiver) noRoom() *failure {
	r.door = doorMemory
	of := r.share.of
	return &failure{code: codes.ResourceExhausted, reason: oip.ReasonMemoryPressure, retry: r.cfg.RetryDelay, message: fmt.Sprintf(
		"there is no room for the request: %s that arrive share %d bytes%s; wait, or send less", of.what, of.most, of.flag)}
}

// within calls read, and ends the call if read takes longer than the rest of the request may take
// to arrive.
func (r *receiver) within(read func() error) (*failure, error) {
	began := time.Now()
	defer func() { r.left -= time.Since(began) }()
	late := &failure{code: codes.DeadlineExceeded, message: fmt.Sprintf(
		"the request did not arrive within %v (--receive-timeout)", r.cfg.ReceiveTimeout)}
	t := time.AfterFunc(max(r.left, 0), func() {
		_ = r.w.WriteStatus(status.Convert(late.status("", ""))) // this ends the read
	})
	err := read()
	if !t.Stop() && err != nil {
		r.door = doorLate
		return late, nil
	}
	return nil, wireError(r.ctx, err)
}

// wireError makes of an error of reading the error that a handler returns.
func wireError(ctx context.Context, err error) error {
	switch {
	case err == nil, err == io.EOF:
		return err
	case ctx.Err() != nil:
		return callerGone(ctx)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return status.Error(codes.Internal, "the request ended before it was complete")
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	return status.Error(codes.Unavailable, err.Error())
}

// readHeader reads the header of a message: the message's size, and whether it is compressed.
func (r *receiver) readHeader(idle *idleness) (size int, zipped bool, _ *failure, err error) {
	var header [5]byte
	read := func() error { return r.w.ReadMessageHeader(header[:]) }
	var fail *failure
	r.left = r.cfg.ReceiveTimeout
	if idle != nil {
		fail, err = idle.within(r, read)
	} else {
		fail, err = r.within(read)
	}
	r.left = r.cfg.ReceiveTimeout
	switch {
	case fail != nil:
		return 0, false, fail, nil
	case err == io.EOF && idle == nil:
		return 0, false, nil, status.Error(codes.Internal, "the call ended without a request")
	case err != nil:
		return 0, false, nil, err
	}
	n := binary.BigEndian.Uint32(header[1:])
	switch encoded := r.w.RecvCompress(); {
	case header[0] > 1:
		return 0, false, r.bad(doorShape, "the request has the format %d; want 0 (plain) or 1 (compressed)", header[0]), nil
	case header[0] == 1 && (encoded == "" || encoded == encoding.Identity):
		return 0, false, r.bad(doorShape, "the request is compressed, but it does not name the compression (grpc-encoding)"), nil
	}
	return int(n), header[0] == 1, nil, nil
}

// unzip decompresses a message. The result may have at most most bytes, and only so many times the
// message's own size. unzip takes memory as it goes.
func (r *receiver) unzip(wire []byte, most int) ([]byte, *failure) {
	name := r.w.RecvCompress()
	zipper := encoding.GetCompressor(name)
	if zipper == nil {
		r.door = doorShape
		return nil, &failure{code: codes.Unimplemented, message: fmt.Sprintf("the compression %q is not known; send requests with gzip, deflate or none", name)}
	}
	limit := min(most, max(freeUnzipped, len(wire)*r.cfg.MaxRatio))
	from, err := zipper.Decompress(mem.BufferSlice{mem.SliceBuffer(wire)}.Reader())
	if err != nil {
		return nil, r.bad(doorShape, "the request cannot be decompressed as %s: %v", name, err)
	}
	if c, ok := from.(io.Closer); ok {
		defer c.Close()
	}
	size := min(4*len(wire)+512, limit+1)
	if !r.share.grow(int64(len(wire)+size), r.overflow()) {
		return nil, r.noRoom()
	}
	out := make([]byte, 0, size)
	for {
		if len(out) == cap(out) {
			more := min(2*cap(out), limit+1)
			if !r.share.grow(int64(len(wire)+cap(out)+more), r.overflow()) {
				return nil, r.noRoom()
			}
			larger := append(make([]byte, 0, more), out...)
			r.share.keep(int64(len(wire) + more))
			out = larger
		}
		n, err := from.Read(out[len(out):cap(out)])
		out = out[:len(out)+n]
		switch {
		case len(out) > limit && limit == most:
			return nil, r.tooLarge(len(out), most)
		case len(out) > limit:
			return nil, r.bad(doorRatio, "the request unzips to more than %d times its size (%d bytes); send it plain, or raise --max-ratio", r.cfg.MaxRatio, len(wire))
		case err == io.EOF:
			return out, nil
		case err != nil:
			return nil, r.bad(doorShape, "the request cannot be decompressed as %s: %v", name, err)
		}
	}
}

// weigh returns how many bytes a message takes at most when it is decoded, or the failure of a
// message that must not be decoded.
func (r *receiver) weigh(wire []byte) (int64, *failure) {
	if r.request == nil {
		return controlGrowth * int64(len(wire)), nil
	}
	seen, ok := scan(wire)
	if !ok {
		return 0, r.bad(doorShape, "the request is not a message of the protocol")
	}
	if why := seen.tooLarge(&r.cfg); why != "" {
		return 0, r.bad(doorShape, "%s", why)
	}
	return seen.bytes, nil
}
