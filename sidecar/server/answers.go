package server

import (
	"context"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/proto"

	"github.com/tensorferry/tensorferry/sidecar/oip"
)

// answerRoom bounds the bytes of answers that callers have not read. Inferences have one and other
// calls have another, so that answers to inferences do not take the room of probes.
type answerRoom struct {
	budget
	what string // the kind of calls, for the error of a dropped answer
	flag string // the flag that sets the bound, for the same error
}

// answersOf returns the room for the answers of a method.
func (s *Server) answersOf(method string) *answerRoom {
	switch method {
	case oip.GRPCInferenceService_ModelInfer_FullMethodName, oip.GRPCInferenceService_ModelStreamInfer_FullMethodName:
		return &s.answers
	}
	return &s.told
}

// answered is an encoded answer that its caller has not read yet. Its bytes count until grpc has
// written them or the connection is gone. It is also the pool to which grpc returns the answer's
// one buffer; that is how it learns that the bytes were written.
type answered struct {
	s      *Server
	room   *answerRoom
	conn   *conn // nil: not known
	n      int64
	timer  *time.Timer
	once   sync.Once
	finish func() // nil: nothing ends with it
	buffer mem.Buffer
}

// encode encodes an answer, which grpc then sends with codec. If encode succeeds, finish is called
// when the answer was read or dropped.
func (s *Server) encode(ctx context.Context, room *answerRoom, msg proto.Message, finish func()) (*answered, *failure) {
	size := proto.Size(msg)
	if size > s.cfg.MaxMessageSize {
		return nil, &failure{code: codes.ResourceExhausted, message: fmt.Sprintf(
			"an answer of %d bytes is larger than max (%d bytes); send fewer rows at once, or raise --max-message", size, s.cfg.MaxMessageSize)}
	}
	if !room.try(int64(size)) {
		return nil, s.unread(room)
	}
	data := pool{}.Get(max(size, smallestCounted))
	out, err := proto.MarshalOptions{UseCachedSize: true}.MarshalAppend((*data)[:0], msg)
	if err != nil {
		pool{}.Put(data)
		room.give(int64(size))
		return nil, &failure{code: codes.Internal, message: "the answer cannot be encoded: " + err.Error()}
	}
	*data = out
	a := &answered{s: s, room: room, n: int64(size), finish: finish}
	a.buffer = mem.NewBuffer(data, a)
	if p, ok := peer.FromContext(ctx); ok {
		if l, ok := p.LocalAddr.(localAddr); ok {
			a.conn = l.conn
		}
	}
	a.timer = time.AfterFunc(s.cfg.AnswerTimeout, a.late)
	if a.conn == nil {
		return a, nil
	}
	a.conn.mu.Lock()
	gone := a.conn.gone
	if !gone {
		if a.conn.answers == nil {
			a.conn.answers = map[*answered]struct{}{}
		}
		a.conn.answers[a] = struct{}{}
	}
	a.conn.mu.Unlock()
	if gone {
		a.release()
	}
	return a, nil
}

// smallestCounted is the smallest size of an answer's buffer. Grpc returns a buffer of this size to
// its pool. It does not report when it is done with a small one.
const smallestCounted = 2048

// late closes the connection of a caller that did not read the answer in time. If the connection is
// not known, as under credentials that hide it, the answer merely no longer counts.
func (a *answered) late() {
	a.s.turnAway(doorUnread)
	if a.conn == nil {
		a.release()
		return
	}
	a.s.cfg.Logger.Warn("a connection was closed because its caller does not read its answers", "peer", fmt.Sprint(a.conn.RemoteAddr()), "answer_timeout", a.s.cfg.AnswerTimeout)
	a.conn.Close()
}

func (a *answered) release() {
	a.once.Do(func() {
		a.timer.Stop()
		if a.conn != nil {
			a.conn.mu.Lock()
			delete(a.conn.answers, a)
			a.conn.mu.Unlock()
		}
		a.room.give(a.n)
		if a.finish != nil {
			a.finish()
		}
	})
}

// Get implements mem.BufferPool.
func (a *answered) Get(n int) *[]byte { return pool{}.Get(n) }

// Put implements mem.BufferPool. Grpc calls it when the answer was written or its stream ended.
func (a *answered) Put(data *[]byte) {
	a.release()
	pool{}.Put(data)
}

// unread returns the failure of an answer that is dropped because there is no room for it. The
// model has run the request by then.
func (s *Server) unread(room *answerRoom) *failure {
	s.turnAway(doorUnread)
	return &failure{code: codes.Unavailable, reason: oip.ReasonInterrupted, retry: s.cfg.RetryDelay, message: fmt.Sprintf(
		"the answer was dropped: the answers%s that callers have not read leave no room for it (at most %d bytes%s); read answers sooner",
		room.what, room.most, room.flag)}
}

// codec is grpc's own codec for protocol buffers. In addition it takes answers that are encoded
// already.
type codec struct{ encoding.CodecV2 }

// Marshal implements encoding.CodecV2.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if a, ok := v.(*answered); ok {
		return mem.BufferSlice{a.buffer}, nil
	}
	return c.CodecV2.Marshal(v)
}
