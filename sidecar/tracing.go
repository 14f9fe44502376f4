package sidecar

import (
	"context"
	"net"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/sidecar/oip"
	"github.com/tensorferry/tensorferry/trace"
)

// gatherTraced collects the trace contexts of the request's sampled rows. It must run before
// launch: from then on the worker may lose its group.
func (w *worker[IN, OUT]) gatherTraced(calls []async.Call[IN]) {
	for i := range calls {
		if w.fates[i] == wanted && calls[i].Record.Trace.Sampled() {
			w.traced = append(w.traced, calls[i].Record.Trace)
		}
	}
}

// sendTraced is send with a span for the request: a child of the first sampled record's span, with
// links to the spans of the others. The request carries the span's context.
func (w *worker[IN, OUT]) sendTraced(ctx context.Context, id string, rows int) (written bool, err error) {
	service, method, _ := strings.Cut(strings.TrimPrefix(oip.GRPCInferenceService_ModelInfer_FullMethodName, "/"), "/")
	span := w.c.sub.Config.Tracer.Start(w.traced[0], service+"/"+method, trace.Client, time.Now(), w.traced[1:]...)
	if span == nil {
		return w.send(ctx, id)
	}
	span.Set(trace.Text("rpc.system", "grpc"), trace.Text("rpc.service", service), trace.Text("rpc.method", method),
		trace.Text("tensorferry.model", w.c.cfg.Model), trace.Text("tensorferry.request", id), trace.Int("tensorferry.rows", int64(rows)))
	span.Set(w.c.serverAddress()...)
	own := span.Context()
	ctx = metadata.AppendToOutgoingContext(ctx, trace.ParentHeader, own.Parent())
	if own.State != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, trace.StateHeader, own.State)
	}
	written, err = w.send(ctx, id)
	span.Set(trace.Int("rpc.grpc.status_code", int64(oip.Parse(err).Code)))
	span.End(time.Now(), err)
	return written, err
}

// serverAddress says where requests go: a host and port, a path, or the name that the endpoint has.
func (c *channel[IN, OUT]) serverAddress() []trace.Attr {
	if host, port, err := net.SplitHostPort(c.ep.Address); c.ep.Network == "tcp" && err == nil {
		if n, err := strconv.Atoi(port); err == nil {
			return []trace.Attr{trace.Text("server.address", host), trace.Int("server.port", int64(n))}
		}
	}
	return []trace.Attr{trace.Text("server.address", c.ep.Address)}
}
