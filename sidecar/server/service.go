package server

import (
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tensorferry/tensorferry/sidecar/oip"
	"github.com/tensorferry/tensorferry/tensor"
)

// ServerName is the server's name in the answer to ServerMetadata.
const ServerName = "tensorferry"

// service implements the protocol's service.
type service struct {
	oip.UnimplementedGRPCInferenceServiceServer
	*Server
}

// ServerLive says that the process answers.
func (s *service) ServerLive(context.Context, *oip.ServerLiveRequest) (*oip.ServerLiveResponse, error) {
	return &oip.ServerLiveResponse{Live: true}, nil
}

// ServerReady says whether every model can be called.
func (s *service) ServerReady(context.Context, *oip.ServerReadyRequest) (*oip.ServerReadyResponse, error) {
	return &oip.ServerReadyResponse{Ready: s.Ready()}, nil
}

// ModelReady says whether one model can be called. An unknown model cannot.
func (s *service) ModelReady(_ context.Context, req *oip.ModelReadyRequest) (*oip.ModelReadyResponse, error) {
	_, _, f := s.describe(req.GetName(), req.GetVersion())
	return &oip.ModelReadyResponse{Ready: f == nil && !s.isDraining()}, nil
}

// ServerMetadata names the server.
func (s *service) ServerMetadata(context.Context, *oip.ServerMetadataRequest) (*oip.ServerMetadataResponse, error) {
	return &oip.ServerMetadataResponse{Name: ServerName, Version: "2",
		Extensions: []string{"model_configuration", "statistics", "system_shared_memory", "model_repository", "model_repository(unload_dependents)"}}, nil
}

// ModelMetadata describes a model's tensors.
func (s *service) ModelMetadata(_ context.Context, req *oip.ModelMetadataRequest) (*oip.ModelMetadataResponse, error) {
	m, versions, f := s.describe(req.GetName(), req.GetVersion())
	if f != nil {
		return nil, f.status(req.GetName(), "")
	}
	return oip.Metadata(&m.runner.sig, ServerName, versions...), nil
}

// ModelInfer runs a request.
func (s *service) ModelInfer(ctx context.Context, msg *oip.ModelInferRequest) (*oip.ModelInferResponse, error) {
	s.metrics.inFlight.Inc()
	defer s.metrics.inFlight.Dec()
	if s.cfg.Tracer != nil {
		s.beginSpan(ctx, msg)
	}
	resp, model, f, err := s.infer(ctx, msg)
	s.metrics.requests.WithLabelValues(model, status.Code(err).String()).Inc()
	if f != nil && f.reason != "" {
		s.metrics.refused.WithLabelValues(f.reason).Inc()
	} else if err != nil {
		s.metrics.refused.WithLabelValues(status.Code(err).String()).Inc()
	}
	return resp, err
}

// infer returns the answer, or an error and the failure that it was made of, if there is one. model
// is the model's name, or empty if there is no such model.
func (s *service) infer(ctx context.Context, msg *oip.ModelInferRequest) (resp *oip.ModelInferResponse, model string, _ *failure, err error) {
	name, id := msg.GetModelName(), msg.GetId()
	fail := func(f *failure, opts ...oip.Option) (*oip.ModelInferResponse, string, *failure, error) {
		return nil, model, f, f.status(name, id, opts...)
	}
	if !s.enter() {
		return fail(s.draining())
	}
	defer s.exit()
	m, known, f := s.acquire(name, msg.GetModelVersion())
	if known {
		model = name
	}
	if f != nil {
		return fail(f)
	}
	defer m.release()
	r, call, began := m.runner, callOf(ctx), time.Now()
	call.metrics = m.metrics
	var queued time.Duration
	rows := 0
	defer func() { r.statistics.request(resp != nil, rows, time.Since(began), queued) }()
	shared, bad := s.fetch(ctx, msg)
	if shared != nil {
		defer shared.release()
	}
	var req *request
	if bad == nil {
		req, bad = parse(msg, &r.sig)
	}
	if bad != nil {
		if bad.tensor != "" {
			return fail(&bad.failure, oip.WithBadInput(bad.tensor, bad.message))
		}
		return fail(&bad.failure)
	}
	if req.rows > s.cfg.QueueRows {
		return fail(&failure{code: codes.ResourceExhausted, message: fmt.Sprintf(tooManyRows, req.rows, s.cfg.QueueRows)})
	}
	if !s.admission.enter(req.rows, req.bytes) {
		return fail(s.full(), oip.WithMetadata("queue_rows", fmt.Sprint(s.cfg.QueueRows)), oip.WithMetadata("queue_bytes", fmt.Sprint(s.cfg.QueueBytes)))
	}
	call.hold(nil) // from here on the request counts as waiting
	req.caller, rows = connection(ctx), req.rows
	req.due, _ = ctx.Deadline()
	req.traced = call.span != nil
	if d := timeout(msg); d > 0 {
		if due := time.Now().Add(d); req.due.IsZero() || due.Before(req.due) {
			req.due = due
		}
	}
	r.do(ctx, req)
	call.ended = req.ended
	if call.span != nil {
		s.traceRequest(call.span, m, req)
	}
	if !req.started.IsZero() {
		queued = req.started.Sub(req.arrived)
		m.metrics.queue.Observe(queued.Seconds())
	}
	if req.err != nil {
		if _, ok := status.FromError(req.err); ok {
			return nil, model, nil, req.err // the caller has gone
		}
		f, _ := failureOf(req.err)
		return fail(f)
	}
	if len(req.bad) > 0 {
		f, err := badRowsStatus(req, name, id, firstInput(&r.sig))
		return nil, model, f, err
	}
	outputs, err := assemble(req)
	if err != nil {
		f, _ := failureOf(err)
		return fail(f)
	}
	if asked := msg.GetOutputs(); len(asked) > 0 {
		chosen := make([]tensor.Tensor, len(asked))
		for k, o := range asked {
			i, _ := r.sig.Output(o.GetName())
			chosen[k] = outputs[i]
		}
		outputs = chosen
	}
	if shared != nil && len(shared.outputs) > 0 {
		outputs = slices.Clone(outputs) // store must not change the batch's own slice
		if f := shared.store(outputs); f != nil {
			return fail(f)
		}
	}
	return oip.NewResponse(name, m.version, id, outputs), model, nil, nil
}

func firstInput(sig *tensor.Signature) string {
	if len(sig.Inputs) == 0 {
		return ""
	}
	return sig.Inputs[0].Name
}

func (s *Server) full() *failure {
	return &failure{code: codes.ResourceExhausted, reason: oip.ReasonQueueFull, retry: s.cfg.RetryDelay,
		message: fmt.Sprintf("the queue is full (%d rows, %d bytes); wait and send less", s.cfg.QueueRows, s.cfg.QueueBytes)}
}
