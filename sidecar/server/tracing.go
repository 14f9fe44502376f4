package server

import (
	"context"
	"strings"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/tensorferry/tensorferry/sidecar/oip"
	"github.com/tensorferry/tensorferry/trace"
)

// run is what metrics and spans show of the run of a batch.
type run struct {
	began, gathered, computed, ended time.Time
	rows, requests                   int // of the batch
	err                              error
}

// note adds the run of a batch to the batch's traced requests. It must be called with the runner's
// lock held. A request that is done is left alone: it belongs to its caller again.
func (x *batch) note() {
	for _, p := range x.pieces {
		if p.req.traced && !p.req.done {
			p.req.runs = append(p.req.runs, x.run)
		}
	}
}

// beginSpan begins the span of a request whose caller sends a sampled context. The span begins with
// the call, and ends when the answer was written.
func (s *Server) beginSpan(ctx context.Context, msg *oip.ModelInferRequest) {
	parents := metadata.ValueFromIncomingContext(ctx, trace.ParentHeader)
	if len(parents) == 0 {
		return
	}
	parent := trace.Parse(parents[0], strings.Join(metadata.ValueFromIncomingContext(ctx, trace.StateHeader), ","))
	if !parent.Sampled() {
		return
	}
	c := callOf(ctx)
	service, method, _ := strings.Cut(strings.TrimPrefix(oip.GRPCInferenceService_ModelInfer_FullMethodName, "/"), "/")
	span := s.cfg.Tracer.Start(parent, service+"/"+method, trace.Server, c.began)
	if span == nil {
		return
	}
	c.span = span
	span.Set(trace.Text("rpc.system", "grpc"), trace.Text("rpc.service", service), trace.Text("rpc.method", method),
		trace.Text("tensorferry.model", msg.GetModelName()), trace.Text("tensorferry.request", msg.GetId()))
}

// endSpan ends the span of a call. err is its status, or why the answer was not written.
func (c *call) endSpan(now time.Time, err error) {
	d := oip.Parse(err)
	c.span.Set(trace.Int("rpc.grpc.status_code", int64(d.Code)))
	if d.Reason != "" {
		c.span.Set(trace.Text("tensorferry.reason", d.Reason))
	}
	c.span.End(now, err)
	c.span = nil
}

// traceRequest makes the spans of a request that was admitted: for its wait, and for the runs of
// the batches that it was in.
func (s *Server) traceRequest(span trace.Span, m *model, req *request) {
	span.Set(trace.Text("tensorferry.version", m.version), trace.Int("tensorferry.rows", int64(req.rows)))
	left, err := req.started, error(nil)
	if left.IsZero() {
		left, err = req.ended, req.err
	}
	if queue := s.cfg.Tracer.Start(span.Context(), "queue", trace.Internal, req.arrived); queue != nil {
		queue.End(left, err)
	}
	for i := range req.runs {
		r := &req.runs[i]
		b := s.cfg.Tracer.Start(span.Context(), "batch", trace.Internal, r.began)
		if b == nil {
			continue
		}
		b.Set(trace.Int("tensorferry.batch.rows", int64(r.rows)), trace.Int("tensorferry.batch.requests", int64(r.requests)))
		if !r.gathered.IsZero() {
			b.Event(r.gathered, "gathered")
		}
		if !r.computed.IsZero() {
			b.Event(r.computed, "computed")
		}
		b.End(r.ended, r.err)
	}
	span.Event(req.ended, "answered")
}
