package server

import (
	"context"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/tensorferry/tensorferry/sidecar/oip"
)

// registrar registers services. It guards their unary handlers outside of every interceptor, and
// passes their requests and answers through the server's doors.
type registrar struct {
	*grpc.Server
	s *Server
}

// RegisterService implements grpc.ServiceRegistrar.
func (r registrar) RegisterService(desc *grpc.ServiceDesc, impl any) {
	d := *desc
	d.Methods = slices.Clone(d.Methods)
	for i := range d.Methods {
		m := &d.Methods[i]
		name, handle := "/"+d.ServiceName+"/"+m.MethodName, m.Handler
		m.Handler = func(srv any, ctx context.Context, whole func(any) error, chain grpc.UnaryServerInterceptor) (resp any, err error) {
			err = r.s.guarded(name, func() (err error) {
				resp, err = r.s.unary(ctx, name, whole, func(decode func(any) error) (any, error) { return handle(srv, ctx, decode, chain) })
				return err
			})
			if err != nil {
				resp = nil
			}
			return resp, err
		}
	}
	r.Server.RegisterService(&d, impl)
}

// unary serves a call with one request and one answer, and encodes the answer. The call keeps its
// place until the answer was read.
func (s *Server) unary(ctx context.Context, method string, whole func(any) error, handle func(decode func(any) error) (any, error)) (any, error) {
	places := s.places(method)
	if !places.try(1) {
		return nil, s.noPlace(places).status("", "")
	}
	leave, stays := func() { places.give(1) }, false
	defer func() {
		if !stays {
			leave()
		}
	}()
	plainAnswers(ctx)
	c := callOf(ctx)
	defer c.finish()
	resp, err := handle(func(msg any) error { return s.receive(ctx, c, msg, nil, whole) })
	if err != nil {
		return nil, err
	}
	c.finish() // now, because the caller may read the answer late
	msg, ok := resp.(proto.Message)
	if !ok {
		return nil, status.Errorf(codes.Internal, "an interceptor returned %T in place of an answer", resp)
	}
	a, f := s.encode(ctx, s.answersOf(method), msg, leave)
	if f != nil {
		return nil, f.status("", "")
	}
	stays = true
	return a, nil
}

// plainAnswers keeps grpc from compressing the answers of a call whose requests are compressed.
// Grpc would hold compressed answers in buffers of its own, which are not counted.
func plainAnswers(ctx context.Context) {
	// An error means that ctx is not that of a grpc call.
	_ = grpc.SetSendCompressor(ctx, encoding.Identity)
}

// stream serves streams. It ends streams such as the health service's Watch when the server drains,
// because they would keep the server from stopping. A stream of inferences ends by itself, after
// its last answers.
func (s *Server) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	return s.guarded(info.FullMethod, func() error {
		ctx := ss.Context()
		leave, f := s.placeOfStream(ctx, info.FullMethod)
		if f != nil {
			return f.status("", "")
		}
		defer leave()
		plainAnswers(ctx)
		watched := &watchedStream{ServerStream: ss, s: s, ctx: ctx, answers: s.answersOf(info.FullMethod)}
		if info.IsClientStream {
			watched.idle = &idleness{most: s.cfg.StreamIdleTimeout}
			defer watched.idle.stop()
		}
		defer callOf(ctx).finish()
		if info.FullMethod != oip.GRPCInferenceService_ModelStreamInfer_FullMethodName {
			ends, cancel := context.WithCancel(ctx)
			defer cancel()
			defer context.AfterFunc(s.drainCtx, cancel)()
			watched.ctx = ends
		}
		return next(srv, watched)
	})
}

// watchedStream is a stream whose messages pass the doors.
type watchedStream struct {
	grpc.ServerStream
	s       *Server
	ctx     context.Context
	answers *answerRoom
	idle    *idleness // nil: its caller sends only one message
}

// Context implements grpc.ServerStream.
func (w *watchedStream) Context() context.Context { return w.ctx }

// RecvMsg implements grpc.ServerStream. The call holds the memory of the message until the next
// message is read, or until call.take.
func (w *watchedStream) RecvMsg(msg any) error {
	c := callOf(w.ctx)
	c.hold(nil)
	return w.s.receive(w.ServerStream.Context(), c, msg, w.idle, w.ServerStream.RecvMsg)
}

// SendMsg implements grpc.ServerStream.
func (w *watchedStream) SendMsg(msg any) error {
	defer w.idle.answered()
	m, ok := msg.(proto.Message)
	if !ok {
		return w.ServerStream.SendMsg(msg)
	}
	a, f := w.s.encode(w.ServerStream.Context(), w.answers, m, nil)
	if f != nil {
		return f.status("", "")
	}
	return w.ServerStream.SendMsg(a)
}
