package sidecar_test

import (
	"path/filepath"
	"testing"
	"time"

	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/sidecar"
	"github.com/tensorferry/tensorferry/sidecar/sidecartest"
	"github.com/tensorferry/tensorferry/trace/oteltrace"
)

// Over a real socket, with tensors in requests and in shared memory, the sidecar is killed in
// mid-run. Every record's span ends without an error, the spans of records in flight at the kill
// show it, and each span of the sidecar belongs to a request of the job.
func TestTracesOverAKill(t *testing.T) {
	for _, shared := range []int{0, 1 << 20} {
		const n = 2000
		ours, theirs := tracetest.NewInMemoryExporter(), tracetest.NewInMemoryExporter()
		s := sidecartest.StartAt(t, sidecartest.Script{Latency: time.Millisecond, Tracer: oteltrace.New(sdk.NewTracerProvider(sdk.WithSyncer(theirs)), 0)},
			"unix://"+filepath.Join(t.TempDir(), "s"))
		// At the kill, calls wait for their answers, since the server is blocked.
		in := func(yield func([]float32, error) bool) {
			for i := range n {
				if i == n/2 {
					s.Block()
				}
				if i == n-1 {
					if _, err := s.Wait(t.Context(), func(st sidecartest.Status) bool { return st.Blocked > 0 }); err != nil {
						t.Error(err)
					}
					s.Kill()
					s.Release()
					if err := s.Restart(); err != nil {
						t.Error(err)
					}
				}
				if !yield([]float32{float32(i)}, nil) {
					return
				}
			}
		}
		cfg := sidecar.Config{Endpoint: s.Endpoint(), Model: s.Model(), MaxBatch: 50, SharedMemory: shared, SharedMemoryMin: 1}
		op := async.Config{Capacity: 2 * n, Tracer: oteltrace.New(sdk.NewTracerProvider(sdk.WithSyncer(ours)), 1)}
		k := 0
		for y, err := range async.Map(t.Context(), in, sidecar.NewAsyncFunction(cfg, doubling), op) {
			if err != nil || y[0] != float32(2*k) {
				t.Fatalf("result %d is %v, %v", k, y, err)
			}
			k++
		}
		gone(t, s)
		records, held, clients := 0, 0, map[trace.SpanID]bool{}
		for _, span := range ours.GetSpans() {
			if span.SpanKind == trace.SpanKindClient {
				clients[span.SpanContext.SpanID()] = true
				continue
			}
			records++
			for _, e := range span.Events {
				if e.Name == "held" && e.Attributes[0].Value.AsString() == "transport" {
					held++
				}
			}
		}
		if k != n || records != n || held == 0 {
			t.Errorf("%d results, %d spans of records, %d of them held", k, records, held)
		}
		served := 0
		for _, span := range theirs.GetSpans() {
			if span.SpanKind == trace.SpanKindServer {
				served++
				if !clients[span.Parent.SpanID()] {
					t.Errorf("a span of the sidecar belongs to no request: %+v", span)
				}
			}
		}
		if served == 0 || served > len(clients) {
			t.Errorf("%d requests, %d at the sidecar", len(clients), served)
		}
	}
}
