package server_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/codes"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	otel "go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/tensorferry/tensorferry/sidecar/backend/mock"
	"github.com/tensorferry/tensorferry/sidecar/server"
	"github.com/tensorferry/tensorferry/trace"
	"github.com/tensorferry/tensorferry/trace/oteltrace"
)

const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

// strict is a Tracer that requires a sampled parent. A server always has one.
type strict struct {
	t *testing.T
	trace.Tracer
}

func (s strict) Start(parent *trace.Context, name string, kind trace.Kind, at time.Time, links ...*trace.Context) trace.Span {
	if !parent.Sampled() {
		s.t.Errorf("%s begins with the parent %+v", name, parent)
	}
	return s.Tracer.Start(parent, name, kind, at, links...)
}

// traced is a configuration that keeps spans. Its tracer would begin a trace at every chance.
func traced(t *testing.T, cfg server.Config) (server.Config, *tracetest.InMemoryExporter) {
	spans := tracetest.NewInMemoryExporter()
	cfg.Tracer = strict{t, oteltrace.New(sdk.NewTracerProvider(sdk.WithSyncer(spans)), 1)}
	return cfg, spans
}

// carrying returns a context whose calls carry a trace context.
func carrying(t *testing.T, pairs ...string) context.Context {
	return metadata.AppendToOutgoingContext(t.Context(), pairs...)
}

func tree(spans tracetest.SpanStubs) (names []string) {
	for _, s := range spans {
		names = append(names, s.Name)
	}
	return names
}

// A server has spans for calls with a sampled context, and for no others.
func TestTracedCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, spans := traced(t, server.Config{})
		r := serve(t, cfg, mock.Config{Latency: time.Second})
		c := r.caller()
		for _, pairs := range [][]string{nil, {"traceparent", parent[:53] + "00"}, {"traceparent", "nonsense"}, {"tracestate", "a=1"}} {
			resp, err := c.ModelInfer(carrying(t, pairs...), ask(1))
			doubled(t, resp, err, 1)
		}
		synctest.Wait()
		if all := spans.GetSpans(); len(all) != 0 {
			t.Fatalf("untraced calls have spans: %v", tree(all))
		}
		resp, err := c.ModelInfer(carrying(t, "traceparent", parent, "tracestate", "a=1", "tracestate", "b=2"), ask(1, 2))
		doubled(t, resp, err, 1, 2)
		synctest.Wait() // the answer is there before the server's side of the call is over
		all := spans.GetSpans()
		if fmt.Sprint(tree(all)) != "[queue batch inference.GRPCInferenceService/ModelInfer]" {
			t.Fatalf("spans: %v", tree(all))
		}
		root := all[2]
		if root.Parent.SpanID().String() != "00f067aa0ba902b7" || root.Parent.TraceState().String() != "a=1,b=2" || root.SpanKind != otel.SpanKindServer || root.EndTime.Sub(root.StartTime) != time.Second {
			t.Errorf("%+v", root)
		}
		for _, s := range all[:2] {
			if s.Parent.SpanID() != root.SpanContext.SpanID() || s.SpanContext.TraceID() != root.SpanContext.TraceID() {
				t.Errorf("%s is not part of the call: %+v", s.Name, s)
			}
		}
	})
}

// Spans show how long a request waited, and how many rows its batch had.
func TestTracedQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, spans := traced(t, server.Config{QueueTimeout: 1500 * time.Millisecond, MaxBatch: 2})
		r := serve(t, cfg, mock.Config{Latency: time.Second})
		c := r.caller()
		errs := make(chan error, 5)
		for i := range 5 { // one runs at once, two together, and two wait for too long
			time.Sleep(time.Millisecond)
			go func() {
				_, err := c.ModelInfer(carrying(t, "traceparent", parent), ask(float32(i)))
				errs <- err
			}()
		}
		failed := 0
		for range 5 {
			if err := <-errs; err != nil {
				failed++
			}
		}
		synctest.Wait()
		waits := map[string]int{}
		for _, s := range spans.GetSpans() {
			switch s.Name {
			case "queue":
				waits[fmt.Sprint(s.EndTime.Sub(s.StartTime).Round(100*time.Millisecond), " ", s.Status.Code)]++
			case "batch":
				waits[fmt.Sprint(s.Name, s.Attributes[0].Value.AsInt64(), s.Attributes[1].Value.AsInt64())]++
			}
		}
		if got := fmt.Sprint(waits); failed != 2 || got != "map[0s Unset:1 1.5s Error:2 1s Unset:2 batch1 1:1 batch2 2:2]" {
			t.Errorf("%d failed; %s", failed, got)
		}
	})
}

// Each request of a stream is a part of the stream's trace.
func TestTracedStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, spans := traced(t, server.Config{})
		r := serve(t, cfg, mock.Config{})
		stream, err := r.caller().ModelStreamInfer(carrying(t, "traceparent", parent))
		if err != nil {
			t.Fatal(err)
		}
		bad := ask(2)
		bad.Inputs[0].Name = "z"
		for _, msg := range []any{ask(1), bad} {
			if err := sent(stream.SendMsg(msg)); err != nil {
				t.Fatal(err)
			}
			if _, err := stream.Recv(); err != nil {
				t.Fatal(err)
			}
		}
		if err := stream.CloseSend(); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		all := spans.GetSpans()
		if len(all) != 4 || all[2].Status.Code != codes.Unset || all[3].Status.Code != codes.Error || all[3].Name != all[2].Name || all[3].Parent.SpanID() != all[2].Parent.SpanID() {
			t.Errorf("%+v", all)
		}
	})
}

// A caller that goes away ends the span of its call.
func TestTracedCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, spans := traced(t, server.Config{})
		r := serve(t, cfg, mock.Config{Latency: time.Hour})
		ctx, cancel := context.WithTimeout(carrying(t, "traceparent", parent), time.Second)
		defer cancel()
		if _, err := r.caller().ModelInfer(ctx, ask(1)); status.Code(err).String() != "DeadlineExceeded" {
			t.Fatal(err)
		}
		synctest.Wait()
		all := spans.GetSpans()
		if last := len(all) - 1; last < 0 || all[last].Status.Code != codes.Error || all[last].EndTime.Sub(all[last].StartTime) != time.Second {
			t.Errorf("%+v", all)
		}
	})
}
