package oteltrace

import (
	"testing"
	"time"

	sdk "go.opentelemetry.io/otel/sdk/trace"

	"github.com/tensorferry/tensorferry/trace"
)

// BenchmarkRecord measures what a record's span adds to a record's cost: its start, two events and
// its end. Nothing is exported.
func BenchmarkRecord(b *testing.B) {
	for name, share := range map[string]float64{"unsampled": 0, "sampled": 1} {
		b.Run(name, func(b *testing.B) {
			t := New(sdk.NewTracerProvider(sdk.WithSampler(sdk.ParentBased(sdk.AlwaysSample()))), share)
			now := time.Now()
			b.ReportAllocs()
			for b.Loop() {
				s := t.Start(nil, "infer", trace.Internal, now)
				if s == nil {
					continue
				}
				s.Set(trace.Text("tensorferry.job", "j"), trace.Text("tensorferry.operator", "infer"), trace.Int("tensorferry.subtask", 0),
					trace.Int("tensorferry.split", 0), trace.Int("tensorferry.position", 1))
				s.Event(now, "called", trace.Int("tensorferry.call", 1))
				s.Event(now, "answered")
				s.Set(trace.Text("tensorferry.outcome", "completed"), trace.Int("tensorferry.attempts", 1))
				s.End(now, nil)
			}
		})
	}
}
