package async_test

import (
	"testing"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/trace"
)

// refuser is a tracer that samples nothing, and counts how often it was asked.
type refuser struct{ asked int }

func (r *refuser) Start(*trace.Context, string, trace.Kind, time.Time, ...*trace.Context) trace.Span {
	r.asked++
	return nil
}

// keeper is an emitter that keeps the contexts of what is emitted.
type keeper struct{ contexts []*trace.Context }

func (k *keeper) Emit(recs []async.Record[int]) {
	for i := range recs {
		k.contexts = append(k.contexts, recs[i].Trace)
	}
}
func (k *keeper) Watermark(async.Watermark) {}

func traced(t *testing.T, tracer trace.Tracer) *async.Operator[int, int] {
	t.Helper()
	op, err := async.NewOperator(&instant{}, async.Config{Tracer: tracer}, async.Subtask{}, func() {})
	if err != nil {
		t.Fatal(err)
	}
	if err := op.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { op.Close() })
	return op
}

// Records that are not sampled allocate nothing, with a tracer or without one. The tracer is asked
// once for each record without a context or with a sampled one. It is never asked about a record
// that is known not to be sampled.
func TestUnsampledAllocatesNothing(t *testing.T) {
	asked := &refuser{}
	for name, tracer := range map[string]trace.Tracer{"without a tracer": nil, "with one": asked} {
		op := traced(t, tracer)
		recs := make([]async.Record[int], 64)
		sink := &instant{}
		turn := func() {
			op.Admit(recs)
			for range 2 {
				if _, err := op.Step(time.Now(), 1000, sink); err != nil {
					t.Fatal(err)
				}
			}
		}
		turn() // fills the buffers
		if n := testing.AllocsPerRun(100, turn); n != 0 {
			t.Errorf("%s: %v allocations for %d records", name, n, len(recs))
		}
	}
	if asked.asked == 0 {
		t.Error("the tracer was not asked")
	}
}

func TestContextsOfResults(t *testing.T) {
	tracer := &refuser{}
	op := traced(t, tracer)
	parent := &trace.Context{TraceID: [16]byte{1}, SpanID: [8]byte{2}, Flags: 1}
	out := &keeper{}
	op.Admit([]async.Record[int]{{}, {Trace: trace.Unsampled}, {Trace: parent}})
	for range 2 {
		if _, err := op.Step(time.Now(), 10, out); err != nil {
			t.Fatal(err)
		}
	}
	// The tracer made no span, so the record's context goes on unchanged.
	if len(out.contexts) != 3 || out.contexts[0] != trace.Unsampled || out.contexts[1] != trace.Unsampled || out.contexts[2] != parent {
		t.Errorf("the results' contexts are %v", out.contexts)
	}
	if tracer.asked != 2 {
		t.Errorf("the tracer was asked %d times, want 2", tracer.asked)
	}
}
