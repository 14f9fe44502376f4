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

// arriving is what grpc's streams can do: a message is read in parts, so that its size is known
// before it takes memory. Grpc's own way to receive asks for the whole message at once.
type arriving interface {
	ReadMessageHeader(header []byte) error
	Read(n int) (mem.BufferSlice, error)
	RecvCompress() string
	WriteStatus(*status.Status) error
}

const (
	// streamWindow is how much of a request may come before anybody reads it, and connWindow
	// how much of all those of a connection is on its way at once. The smallest that grpc knows
	// is the former; a larger one is memory that callers have for nothing.
	streamWindow = 64 << 10
	connWindow   = 4 << 20
	// pieceSize is how much of a request is asked for at a time.
	pieceSize = 1 << 20
	// maxControl is the largest request that is no inference, in bytes.
	maxControl = 1 << 20
	// controlGrowth is how many times as large such a request may become when it is decoded.
	controlGrowth = 64
	// freeUnzipped is what a compressed request may always grow to, in bytes, whatever the ratio.
	freeUnzipped = 1 << 20
	// maxHeaders is the largest list of headers of a call, in bytes.
	maxHeaders = 16 << 10
)

// receive reads the next message of a call into msg, within the bounds of the configuration. What
// it takes of the budget for requests is c's then. Of a stream whose caller has sent
// everything it returns io.EOF; patient says that a stream may wait for its next message. whole is
// grpc's own way.
func (s *Server) receive(ctx context.Context, c *call, msg any, patient bool, whole func(any) error) error {
	w, ok := grpc.ServerTransportStreamFromContext(ctx).(arriving)
	m, isProto := msg.(proto.Message)
	if !ok || !isProto {
		s.unbounded.Do(func() {
			s.cfg.Logger.Warn("requests cannot be read in parts with this version of grpc: of what arrives only the size of a message is bounded",
				"stream", fmt.Sprintf("%T", grpc.ServerTransportStreamFromContext(ctx)))
		})
		return whole(msg)
	}
	r := &receiver{Server: s, ctx: ctx, w: w}
	r.request, _ = m.(*oip.ModelInferRequest)
	fail, err := r.receive(m, patient)
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
	request *oip.ModelInferRequest // nil: of another kind
	share   *share
	door    int // that turned it away
}

func (r *receiver) receive(m proto.Message, patient bool) (*failure, error) {
	size, zipped, fail, err := r.readHeader(patient)
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
	if fail, err = r.makeRoom(size); fail != nil || err != nil {
		return fail, err
	}
	data, fail, err := r.readBody(size)
	if fail != nil || err != nil {
		return fail, err
	}
	defer func() { data.Free() }()
	wire := data.ReadOnlyData()
	if zipped {
		r.share.keep(int64(size))
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
	if total > r.receiving.most {
		r.door = doorMemory
		return &failure{code: codes.ResourceExhausted, message: fmt.Sprintf(
			"the request takes up to %d bytes when it is decoded, which is larger than max (%d, --receive-bytes); send fewer rows at once, or raw contents",
			total, r.receiving.most)}, nil
	}
	if total > r.share.n && !r.share.grow(total-r.share.n) {
		return r.noRoom(), nil
	}
	r.share.keep(total)
	if err := proto.Unmarshal(wire, m); err != nil {
		return r.bad(doorShape, "the request is no message of the protocol: %v", err), nil
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

// tooLarge says it as grpc does, so that callers split.
func (r *receiver) tooLarge(size, most int) *failure {
	r.door = doorSize
	return &failure{code: codes.ResourceExhausted, message: fmt.Sprintf(
		"received message larger than max (%d vs. %d); send fewer rows at once, or raise --max-message", size, most)}
}

func (r *receiver) noRoom() *failure {
	r.door = doorMemory
	return &failure{code: codes.ResourceExhausted, reason: oip.ReasonMemoryPressure, retry: r.cfg.RetryDelay, message: fmt.Sprintf(
		"requests that arrive take the memory that there is for them (%d bytes, --receive-bytes); wait and send less", r.cfg.ReceiveBytes)}
}

// within calls read, and ends the call if it takes longer than a request may take to arrive.
func (r *receiver) within(read func() error) (*failure, error) {
	late := &failure{code: codes.DeadlineExceeded, message: fmt.Sprintf(
		"the request did not arrive within %v (--receive-timeout)", r.cfg.ReceiveTimeout)}
	t := time.AfterFunc(r.cfg.ReceiveTimeout, func() {
		_ = r.w.WriteStatus(status.Convert(late.status("", ""))) // which ends the reading
	})
	err := read()
	if !t.Stop() && err != nil {
		r.door = doorLate
		return late, nil
	}
	return nil, wireError(r.ctx, err)
}

// wireError is an error of reading as a handler returns it.
func wireError(ctx context.Context, err error) error {
	switch {
	case err == nil, err == io.EOF:
		return err
	case ctx.Err() != nil:
		return callerGone(ctx)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return status.Error(codes.Internal, "the request ended in its midst")
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	return status.Error(codes.Unavailable, err.Error())
}

// readHeader reads what stands before a message: how long it is, and whether it is compressed.
func (r *receiver) readHeader(patient bool) (size int, zipped bool, _ *failure, err error) {
	var header [5]byte
	read := func() error { return r.w.ReadMessageHeader(header[:]) }
	var fail *failure
	if patient {
		err = wireError(r.ctx, read())
	} else {
		fail, err = r.within(read)
	}
	switch {
	case fail != nil:
		return 0, false, fail, nil
	case err == io.EOF && !patient:
		return 0, false, nil, status.Error(codes.Internal, "the call ended without a request")
	case err != nil:
		return 0, false, nil, err
	}
	n := binary.BigEndian.Uint32(header[1:])
	switch encoded := r.w.RecvCompress(); {
	case header[0] > 1:
		return 0, false, r.bad(doorShape, "the request has the format %d; there are 0, plain, and 1, compressed", header[0]), nil
	case header[0] == 1 && (encoded == "" || encoded == encoding.Identity):
		return 0, false, r.bad(doorShape, "the request is compressed, and does not say how (grpc-encoding)"), nil
	}
	return int(n), header[0] == 1, nil, nil
}

// arrivalRoom is what a message of so many bytes needs while it arrives: its bytes twice, since
// decoding copies them, and the frames that a piece of it comes in.
func arrivalRoom(size int) int64 {
	return 2*int64(size) + int64(min(size, pieceSize))/crumbBytes*frameCost
}

// makeRoom takes what a message needs while it arrives.
func (r *receiver) makeRoom(size int) (*failure, error) {
	need := arrivalRoom(size)
	if !r.receiving.try(need) {
		ctx, cancel := context.WithTimeout(r.ctx, r.cfg.QueueTimeout)
		defer cancel()
		if err := r.receiving.take(ctx, need); err != nil {
			if r.ctx.Err() != nil {
				return nil, callerGone(r.ctx)
			}
			return r.noRoom(), nil
		}
	}
	r.share = &share{&r.receiving, need}
	return nil, nil
}

// readBody reads a message, a piece at a time.
func (r *receiver) readBody(size int) (data mem.Buffer, fail *failure, err error) {
	if size == 0 {
		return mem.SliceBuffer(nil), nil, nil
	}
	fail, err = r.within(func() error {
		if size <= pieceSize {
			parts, err := r.w.Read(size)
			if err == nil {
				data = parts.MaterializeToBuffer(pool{})
				parts.Free()
			}
			return err
		}
		all := pool{}.Get(size)
		for at := 0; at < size; {
			parts, err := r.w.Read(min(pieceSize, size-at))
			if err != nil {
				pool{}.Put(all)
				return err
			}
			at += parts.CopyTo((*all)[at:])
			parts.Free()
		}
		data = mem.NewBuffer(all, pool{})
		return nil
	})
	if err == io.EOF {
		err = status.Error(codes.Internal, "the request ended in its midst")
	}
	return data, fail, err
}

// unzip returns what a compressed message holds, if that is at most most bytes, and not too many
// times its own size. It takes memory as it goes.
func (r *receiver) unzip(wire []byte, most int) ([]byte, *failure) {
	name := r.w.RecvCompress()
	zipper := encoding.GetCompressor(name)
	if zipper == nil {
		r.door = doorShape
		return nil, &failure{code: codes.Unimplemented, message: fmt.Sprintf("requests compressed as %q are not served; there are gzip, deflate and none", name)}
	}
	limit := min(most, max(freeUnzipped, len(wire)*r.cfg.MaxRatio))
	from, err := zipper.Decompress(mem.BufferSlice{mem.SliceBuffer(wire)}.Reader())
	if err != nil {
		return nil, r.bad(doorShape, "the request is not compressed as it says, %s: %v", name, err)
	}
	if c, ok := from.(io.Closer); ok {
		defer c.Close()
	}
	size := min(4*len(wire)+512, limit+1)
	if !r.share.grow(int64(size)) {
		return nil, r.noRoom()
	}
	out := make([]byte, 0, size)
	for {
		if len(out) == cap(out) {
			more := min(2*cap(out), limit+1)
			if !r.share.grow(int64(more)) {
				return nil, r.noRoom()
			}
			larger := append(make([]byte, 0, more), out...)
			r.share.keep(r.share.n - int64(cap(out)))
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
			return nil, r.bad(doorShape, "the request is not compressed as it says, %s: %v", name, err)
		}
	}
}

// weigh returns how many bytes a message takes when it is decoded, or why it is not.
func (r *receiver) weigh(wire []byte) (int64, *failure) {
	if r.request == nil {
		return controlGrowth * int64(len(wire)), nil
	}
	seen, ok := scan(wire)
	if !ok {
		return 0, r.bad(doorShape, "the request is no message of the protocol")
	}
	if why := seen.tooLarge(&r.cfg); why != "" {
		return 0, r.bad(doorShape, "%s", why)
	}
	return seen.bytes, nil
}
