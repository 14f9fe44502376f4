package oteltrace

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	otel "go.opentelemetry.io/otel/trace"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/sidecar"
	"github.com/tensorferry/tensorferry/sidecar/backend/mock"
	"github.com/tensorferry/tensorferry/sidecar/sidecartest"
	"github.com/tensorferry/tensorferry/stream"
	"github.com/tensorferry/tensorferry/tensor"
	"github.com/tensorferry/tensorferry/trace"
)

const request = "inference.GRPCInferenceService/ModelInfer"

// run sends n records through a job against a scripted sidecar. It returns the spans of the job and
// of the sidecar, which are two services, and the results and the dead letters.
func run(t *testing.T, n int, sample float64, script sidecartest.Script, cfg sidecar.Config, op async.Config) (job, server tracetest.SpanStubs, results []stream.Record[[]float32], failed []stream.Record[async.Failed[[]float32]]) {
	t.Helper()
	theirs, serverSpans := recording()
	script.Tracer = New(theirs, 0)
	s := sidecartest.Start(t, script)
	ours, jobSpans := recording()
	values := make([][]float32, n)
	for i := range values {
		values[i] = []float32{float32(i)}
	}
	cfg.Endpoint, cfg.Dialer, cfg.Model = s.Endpoint(), s.Dialer(), s.Model()
	j := stream.New("job", stream.Config{Tracer: New(ours, sample)})
	records := stream.From(j, stream.FromSlice(values))
	good, bad := stream.AsyncWithDeadLetters(records, sidecar.NewAsyncFunction(cfg, tensor.Values[float32, float32]("x", "y")), op, stream.Name("infer"))
	// A second operator gets the context from the first.
	again := stream.OrderedWait(good, async.Func(func(_ context.Context, v []float32) ([]float32, error) { return v, nil }, 4), async.Config{}, stream.Name("again"))
	out, letters := stream.Collect(again), stream.Collect(bad)
	if err := j.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.Close()
	return jobSpans.GetSpans(), serverSpans.GetSpans(), out.Records(), letters.Records()
}

// named returns the spans with a name.
func named(spans tracetest.SpanStubs, name string) (out tracetest.SpanStubs) {
	for _, s := range spans {
		if s.Name == name {
			out = append(out, s)
		}
	}
	return out
}

func attr(t *testing.T, s *tracetest.SpanStub, key string) attribute.Value {
	t.Helper()
	for _, a := range s.Attributes {
		if string(a.Key) == key {
			return a.Value
		}
	}
	t.Errorf("%s has no attribute %s: %v", s.Name, key, s.Attributes)
	return attribute.Value{}
}

func events(s *tracetest.SpanStub) (names []string) {
	for _, e := range s.Events {
		names = append(names, e.Name)
	}
	return names
}

// The trace goes from each record to the sidecar and back. The request's span is a child of its
// first record's operator span, and links to the others. The server's span is a child of the
// request's, and its stages are children of that. Times are exact.
func TestWholeJob(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n, latency = 40, 5 * time.Millisecond
		job, server, results, _ := run(t, n, 1, sidecartest.Script{Latency: latency}, sidecar.Config{Window: 2, MaxBatch: 8}, async.Config{})
		ops, requests := named(job, "infer"), named(job, request)
		byID := map[otel.SpanID]*tracetest.SpanStub{}
		traces := map[otel.TraceID]bool{}
		for i := range ops {
			s := &ops[i]
			byID[s.SpanContext.SpanID()] = s
			traces[s.SpanContext.TraceID()] = true
			if s.Parent.IsValid() || attr(t, s, "tensorferry.outcome").AsString() != "completed" || attr(t, s, "tensorferry.attempts").AsInt64() != 1 ||
				attr(t, s, "tensorferry.job").AsString() != "job" || attr(t, s, "tensorferry.operator").AsString() != "infer" || attr(t, s, "tensorferry.subtask").AsInt64() != 0 ||
				attr(t, s, "tensorferry.split").AsInt64() != 0 || s.Status.Code != codes.Unset || fmt.Sprint(events(s)) != "[called answered]" {
				t.Errorf("%+v", s)
			}
		}
		if len(ops) != n || len(traces) != n {
			t.Fatalf("%d records have %d spans in %d traces", n, len(ops), len(traces))
		}
		told := map[otel.SpanID]bool{}
		clients := map[otel.SpanID]*tracetest.SpanStub{}
		rows := int64(0)
		for i := range requests {
			s := &requests[i]
			clients[s.SpanContext.SpanID()] = s
			told[s.Parent.SpanID()] = true
			for _, l := range s.Links {
				told[l.SpanContext.SpanID()] = true
			}
			if parent := byID[s.Parent.SpanID()]; parent == nil || parent.SpanContext.TraceID() != s.SpanContext.TraceID() {
				t.Errorf("the request's parent is not a record: %+v", s)
			}
			size := attr(t, s, "tensorferry.rows").AsInt64()
			if rows += size; size != int64(1+len(s.Links)) || s.SpanKind != otel.SpanKindClient {
				t.Errorf("a request of %d rows: %+v", size, s)
			}
			if attr(t, s, "rpc.system").AsString() != "grpc" || attr(t, s, "rpc.service").AsString() != "inference.GRPCInferenceService" || attr(t, s, "rpc.method").AsString() != "ModelInfer" ||
				attr(t, s, "rpc.grpc.status_code").AsInt64() != 0 || attr(t, s, "server.address").AsString() == "" || attr(t, s, "tensorferry.model").AsString() != "model" {
				t.Errorf("%+v", s)
			}
		}
		if rows != n || len(told) != n {
			t.Errorf("%d rows and %d records in %d requests, want %d", rows, len(told), len(requests), n)
		}
		served := named(server, request)
		if len(served) != len(requests) || len(named(server, "queue")) != len(requests) || len(named(server, "batch")) != len(requests) || len(server) != 3*len(requests) {
			t.Errorf("%d requests have %d spans in the server: %d, %d, %d", len(requests), len(server), len(served), len(named(server, "queue")), len(named(server, "batch")))
		}
		for i := range served {
			s := &served[i]
			client := clients[s.Parent.SpanID()]
			if client == nil || !s.Parent.IsRemote() || client.SpanContext.TraceID() != s.SpanContext.TraceID() || s.SpanKind != otel.SpanKindServer {
				t.Fatalf("the server's span is not a child of a request: %+v", s)
			}
			if attr(t, s, "tensorferry.request") != attr(t, client, "tensorferry.request") || attr(t, s, "tensorferry.rows") != attr(t, client, "tensorferry.rows") {
				t.Errorf("%v is of %v", s.Attributes, client.Attributes)
			}
			if s.StartTime.Before(client.StartTime) || s.EndTime.After(client.EndTime) || fmt.Sprint(events(s)) != "[answered]" {
				t.Errorf("%+v in %+v", s, client)
			}
			for _, stage := range []string{"queue", "batch"} {
				i := slices.IndexFunc(server, func(c tracetest.SpanStub) bool { return c.Name == stage && c.Parent.SpanID() == s.SpanContext.SpanID() })
				if i < 0 {
					t.Fatalf("no %s of %+v", stage, s)
				}
				if took := server[i].EndTime.Sub(server[i].StartTime); stage == "batch" && took != latency || stage == "queue" && took != 0 {
					t.Errorf("%s took %v", stage, took)
				}
			}
		}
		// The result carries the context of the span of the operator before it.
		second := named(job, "again")
		if len(second) != n || len(results) != n {
			t.Fatalf("%d spans of the second operator, %d results", len(second), len(results))
		}
		for _, r := range results {
			i := slices.IndexFunc(second, func(s tracetest.SpanStub) bool { return s.SpanContext.SpanID() == otel.SpanID(r.Trace.SpanID) })
			if i < 0 || byID[second[i].Parent.SpanID()] == nil {
				t.Errorf("the result at %d has the context %+v", r.Position, r.Trace)
			}
		}
	})
}

// The span of a record that is held, then retried, then answered shows that, with the times.
func TestHoldsAndRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		job, server, _, _ := run(t, 1, 1, sidecartest.Script{
			Latency: time.Millisecond,
			Faults:  []mock.Fault{fault(t, "RESOURCE_EXHAUSTED/QUEUE_FULL@1,retry=70ms")},
			// The model fails once, at the second request.
			BackendFaults: []mock.Fault{fault(t, "INTERNAL/BACKEND_ERROR@1")},
		}, sidecar.Config{}, async.Config{Retry: async.Retry{Max: 1, Delay: 30 * time.Millisecond, Jitter: async.Off}})
		op := named(job, "infer")[0]
		if got := fmt.Sprint(events(&op)); got != "[called held called retrying called answered]" {
			t.Fatalf("events: %s", got)
		}
		if held := op.Events[2].Time.Sub(op.Events[1].Time); held < 70*time.Millisecond {
			t.Errorf("it was held for %v", held)
		}
		if waited := op.Events[4].Time.Sub(op.Events[3].Time); waited != 30*time.Millisecond {
			t.Errorf("it was tried again after %v", waited)
		}
		if class := op.Events[1].Attributes[0]; class.Value.AsString() != "overload" {
			t.Errorf("it was held for %v", class)
		}
		if attr(t, &op, "tensorferry.attempts").AsInt64() != 2 || attr(t, &op, "tensorferry.outcome").AsString() != "completed" || op.Status.Code != codes.Unset {
			t.Errorf("%+v", op)
		}
		var statuses []int64
		for _, r := range named(job, request) {
			statuses = append(statuses, attr(t, &r, "rpc.grpc.status_code").AsInt64())
			if failed := r.Status.Code == codes.Error; failed != (statuses[len(statuses)-1] != 0) {
				t.Errorf("%+v", r)
			}
		}
		if fmt.Sprint(statuses) != "[8 13 0]" {
			t.Errorf("the requests' statuses are %v", statuses)
		}
		served := named(server, request)
		if len(served) != 2 || served[0].Status.Code != codes.Error || attr(t, &served[0], "tensorferry.reason").AsString() != "BACKEND_ERROR" || served[1].Status.Code != codes.Unset {
			t.Errorf("the server's spans: %+v", served)
		}
		if b := named(server, "batch"); len(b) != 2 || b[0].Status.Code != codes.Error || b[1].Status.Code != codes.Unset {
			t.Errorf("the batches: %+v", b)
		}
	})
}

// The span of a record that fails says why, and the dead letter is part of the trace.
func TestDeadLetter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		job, _, _, failed := run(t, 3, 1, sidecartest.Script{Faults: []mock.Fault{fault(t, "bad@row=1")}}, sidecar.Config{},
			async.Config{OnError: async.OnError{BadRecord: async.DeadLetter}})
		if len(failed) != 1 {
			t.Fatalf("%d dead letters", len(failed))
		}
		ops := named(job, "infer")
		i := slices.IndexFunc(ops, func(s tracetest.SpanStub) bool { return s.SpanContext.SpanID() == otel.SpanID(failed[0].Trace.SpanID) })
		if len(ops) != 3 || i < 0 {
			t.Fatalf("the dead letter has the context %+v", failed[0].Trace)
		}
		if s := &ops[i]; attr(t, s, "tensorferry.outcome").AsString() != "dead_letter" || attr(t, s, "tensorferry.class").AsString() != "record" || s.Status.Code != codes.Error ||
			fmt.Sprint(events(s)) != "[called failed]" || attr(t, s, "tensorferry.position").AsInt64() != 1 {
			t.Errorf("%+v", s)
		}
	})
}

// A record that is not sampled leaves no span on either side, and is marked so that sampling is not
// decided again.
func TestUnsampledJob(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		job, server, results, _ := run(t, 100, 0, sidecartest.Script{}, sidecar.Config{}, async.Config{})
		if len(job) != 0 || len(server) != 0 {
			t.Errorf("%d and %d spans", len(job), len(server))
		}
		for _, r := range results {
			if r.Trace != trace.Unsampled {
				t.Fatalf("the result at %d has the context %+v", r.Position, r.Trace)
			}
		}
	})
}

// With a share of the records sampled, those have all of their spans, and requests link only to
// them.
func TestSomeRecords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 400
		job, server, _, _ := run(t, n, 0.2, sidecartest.Script{Latency: time.Millisecond}, sidecar.Config{}, async.Config{})
		ops, requests := named(job, "infer"), named(job, request)
		if len(ops) < 20 || len(ops) > n/2 {
			t.Fatalf("%d of %d are sampled", len(ops), n)
		}
		linked := len(requests)
		for _, r := range requests {
			linked += len(r.Links)
			if rows := attr(t, &r, "tensorferry.rows").AsInt64(); rows < int64(1+len(r.Links)) {
				t.Errorf("%d links of %d rows", len(r.Links), rows)
			}
		}
		if linked != len(ops) || len(named(server, request)) != len(requests) || len(named(job, "again")) != len(ops) {
			t.Errorf("%d records, %d of them in %d requests, %d at the server, %d at the second operator", len(ops), linked, len(requests), len(named(server, request)), len(named(job, "again")))
		}
	})
}

// A job that is cancelled ends the spans of records in progress.
func TestCancelledJob(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		provider, spans := recording()
		never := async.Func(func(ctx context.Context, v int) (int, error) { <-ctx.Done(); return v, ctx.Err() }, 4)
		j := stream.New("job", stream.Config{})
		stream.Collect(stream.OrderedWait(stream.From(j, stream.FromSlice([]int{1, 2, 3})), never, async.Config{Tracer: New(provider, 1)}))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := j.Run(ctx); err == nil {
			t.Fatal("the job ended without an error")
		}
		all := spans.GetSpans()
		for i := range all {
			if s := &all[i]; attr(t, s, "tensorferry.outcome").AsString() != "unfinished" || s.EndTime.Sub(s.StartTime) != time.Second {
				t.Errorf("%+v", s)
			}
		}
		if len(all) != 3 {
			t.Errorf("%d spans, want 3", len(all))
		}
	})
}

func fault(t *testing.T, text string) mock.Fault {
	t.Helper()
	f, err := mock.ParseFault(text)
	if err != nil {
		t.Fatal(err)
	}
	return f
}
