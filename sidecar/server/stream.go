package server

import (
	"context"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/tensorferry/tensorferry/sidecar/oip"
)

// streamDepth is how many requests of one stream are in flight. Further ones wait at the caller,
// because of the connection's flow control.
const streamDepth = 64

// The parameters of a stream's answers, and the one of its requests that asks for paramFinal.
// Triton has the last two.
const (
	paramErrorCode   = "error_code"   // of a failure: the code's name, as INVALID_ARGUMENT
	paramErrorReason = "error_reason" // and the reason, as BAD_TENSOR
	paramFinal       = "triton_final_response"
	paramWantFinal   = "triton_enable_empty_final_response"
)

// ModelStreamInfer runs the requests of a stream side by side and answers them in their order. A
// request that fails is answered with its failure, and the stream goes on. A stream that is idle
// for too long is ended (idleness). When the server drains, it answers the requests that it has and
// then ends the stream with DRAINING.
func (s *service) ModelStreamInfer(stream grpc.BidiStreamingServer[oip.ModelInferRequest, oip.ModelStreamInferResponse]) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	streamed := callOf(stream.Context())
	pending := make(chan chan *streamAnswer, streamDepth)
	var ended error // set before pending is closed
	// A Recv that waits ends when the handler has returned.
	s.goroutines.Go(func() {
		defer close(pending)
		for {
			msg, err := stream.Recv()
			if err != nil {
				ended = err
				return
			}
			// Each request is measured, and not the stream's own call.
			c := &call{began: time.Now(), received: streamed.take()}
			answer := make(chan *streamAnswer, 1)
			select {
			case pending <- answer:
			case <-ctx.Done():
				c.finish()
				ended = ctx.Err()
				return
			}
			s.goroutines.Go(func() { s.answerStreamed(ctx, c, msg, answer) })
		}
	})
	for {
		select {
		case answer, ok := <-pending:
			if !ok {
				if ended == io.EOF {
					return nil
				}
				return ended
			}
			if err := s.reply(ctx, stream, answer); err != nil {
				return err
			}
		case <-s.drainCtx.Done():
			return s.finish(ctx, stream, pending)
		}
	}
}

// streamAnswer is an answer that waits for those before it. Until take is called, its bytes count
// in the room for answers. From then on they count as those of an answer that is being sent.
type streamAnswer struct {
	msg  *oip.ModelStreamInferResponse
	take func()
	sent chan struct{}
}

// answerStreamed runs a request of a stream. The request keeps its place until its answer was sent
// or the stream is over.
func (s *service) answerStreamed(ctx context.Context, c *call, msg *oip.ModelInferRequest, answer chan<- *streamAnswer) {
	defer c.finish()
	a := &streamAnswer{take: func() {}, sent: make(chan struct{})}
	if !s.calls.try(1) {
		a.msg = failedAnswer(msg, s.noPlace(&s.calls).status(msg.GetModelName(), msg.GetId()))
		answer <- a
		return
	}
	defer s.calls.give(1)
	a.msg = s.streamed(ctx, c, msg)
	c.finish()
	// The answer may have to wait until the caller reads those before it.
	size := int64(proto.Size(a.msg))
	if s.answers.try(size) {
		a.take = sync.OnceFunc(func() { s.answers.give(size) })
		defer a.take()
	} else {
		a.msg = failedAnswer(msg, s.unread(&s.answers).status(msg.GetModelName(), msg.GetId()))
	}
	answer <- a
	select {
	case <-a.sent:
	case <-ctx.Done():
	}
}

// reply waits for an answer and sends it.
func (s *service) reply(ctx context.Context, stream grpc.BidiStreamingServer[oip.ModelInferRequest, oip.ModelStreamInferResponse],
	answer chan *streamAnswer) error {
	select {
	case a := <-answer:
		defer close(a.sent)
		a.take()
		return stream.Send(a.msg)
	case <-ctx.Done():
		return callerGone(ctx)
	}
}

// finish answers what was read before the server began to drain.
func (s *service) finish(ctx context.Context, stream grpc.BidiStreamingServer[oip.ModelInferRequest, oip.ModelStreamInferResponse],
	pending chan chan *streamAnswer) error {
	for {
		select {
		case answer, ok := <-pending:
			if !ok {
				return nil
			}
			if err := s.reply(ctx, stream, answer); err != nil {
				return err
			}
		default:
			return s.draining().status("", "")
		}
	}
}

// streamed runs one request of a stream.
func (s *service) streamed(ctx context.Context, c *call, msg *oip.ModelInferRequest) (out *oip.ModelStreamInferResponse) {
	var resp *oip.ModelInferResponse
	err := s.guarded(oip.GRPCInferenceService_ModelStreamInfer_FullMethodName, func() (err error) {
		resp, err = s.ModelInfer(context.WithValue(ctx, callKey{}, c), msg)
		if c.span != nil {
			c.endSpan(time.Now(), err)
		}
		return err
	})
	if c.metrics != nil {
		c.metrics.total.Observe(time.Since(c.began).Seconds())
	}
	if err != nil {
		out = failedAnswer(msg, err)
	} else {
		out = &oip.ModelStreamInferResponse{InferResponse: resp}
	}
	if msg.GetParameters()[paramWantFinal].GetBoolParam() {
		setParameter(out.InferResponse, paramFinal, &oip.InferParameter{ParameterChoice: &oip.InferParameter_BoolParam{BoolParam: true}})
	}
	return out
}

// failedAnswer returns the answer to a request of a stream that failed: the error's text, the
// request's id, and as parameters what the status of an ordinary call would say.
func failedAnswer(msg *oip.ModelInferRequest, err error) *oip.ModelStreamInferResponse {
	d := oip.Parse(err)
	resp := &oip.ModelInferResponse{ModelName: msg.GetModelName(), ModelVersion: msg.GetModelVersion(), Id: msg.GetId()}
	text := func(v string) *oip.InferParameter {
		return &oip.InferParameter{ParameterChoice: &oip.InferParameter_StringParam{StringParam: v}}
	}
	setParameter(resp, paramErrorCode, text(codeName(d.Code)))
	if d.Reason != "" {
		setParameter(resp, paramErrorReason, text(d.Reason))
	}
	message := status.Convert(err).Message()
	if message == "" {
		message = codeName(d.Code) // an empty message would mean success
	}
	return &oip.ModelStreamInferResponse{ErrorMessage: message, InferResponse: resp}
}

func setParameter(resp *oip.ModelInferResponse, name string, v *oip.InferParameter) {
	if resp.Parameters == nil {
		resp.Parameters = map[string]*oip.InferParameter{}
	}
	resp.Parameters[name] = v
}

// codeName returns the protocol's name of a code.
func codeName(c codes.Code) string {
	for name, n := range codeNumbers {
		if n == c {
			return name
		}
	}
	return "UNKNOWN"
}

var codeNumbers = map[string]codes.Code{
	"CANCELLED": codes.Canceled, "UNKNOWN": codes.Unknown, "INVALID_ARGUMENT": codes.InvalidArgument,
	"DEADLINE_EXCEEDED": codes.DeadlineExceeded, "NOT_FOUND": codes.NotFound, "ALREADY_EXISTS": codes.AlreadyExists,
	"PERMISSION_DENIED": codes.PermissionDenied, "RESOURCE_EXHAUSTED": codes.ResourceExhausted,
	"FAILED_PRECONDITION": codes.FailedPrecondition, "ABORTED": codes.Aborted, "OUT_OF_RANGE": codes.OutOfRange,
	"UNIMPLEMENTED": codes.Unimplemented, "INTERNAL": codes.Internal, "UNAVAILABLE": codes.Unavailable,
	"DATA_LOSS": codes.DataLoss, "UNAUTHENTICATED": codes.Unauthenticated,
}
