package oteltrace

import (
	"errors"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	otel "go.opentelemetry.io/otel/trace"
	"go.uber.org/goleak"

	"github.com/tensorferry/tensorferry/trace"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// recording returns a provider, and the exporter that keeps its spans.
func recording() (otel.TracerProvider, *tracetest.InMemoryExporter) {
	spans := tracetest.NewInMemoryExporter()
	return sdk.NewTracerProvider(sdk.WithSyncer(spans), sdk.WithSampler(sdk.ParentBased(sdk.AlwaysSample()))), spans
}

const remote = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

// A span's data arrive in the OpenTelemetry span, with the times that were passed.
func TestSpan(t *testing.T) {
	provider, spans := recording()
	at := time.Unix(100, 0)
	parent := trace.Parse(remote, "vendor=1")
	other := trace.Parse(strings.Replace(remote, "00f067", "00f068", 1), "not a state")
	s := New(provider, 0).Start(parent, "name", trace.Client, at, other)
	s.Set(trace.Text("text", "a\xff"), trace.Int("number", -3), trace.Text("long", strings.Repeat("é", 1000)))
	s.Event(at.Add(time.Second), "happened", trace.Int("n", 1))
	s.End(at.Add(2*time.Second), errors.New("it \xfffailed"))

	c := s.Context()
	if again := trace.Parse(c.Parent(), c.State); !c.Sampled() || c.Remote || c.TraceID != parent.TraceID || c.SpanID == parent.SpanID || again.State != "vendor=1" {
		t.Errorf("the span's context is %+v", c)
	}
	all := spans.GetSpans()
	if len(all) != 1 {
		t.Fatalf("%d spans", len(all))
	}
	got := all[0]
	if got.Name != "name" || got.SpanKind != otel.SpanKindClient || !got.StartTime.Equal(at) || !got.EndTime.Equal(at.Add(2*time.Second)) {
		t.Errorf("%+v", got)
	}
	if got.Parent.SpanID() != otel.SpanID(parent.SpanID) || !got.Parent.IsRemote() || got.SpanContext.SpanID() != otel.SpanID(c.SpanID) {
		t.Errorf("the parent is %v, the span %v", got.Parent, got.SpanContext)
	}
	if len(got.Links) != 1 || got.Links[0].SpanContext.SpanID() != otel.SpanID(other.SpanID) {
		t.Errorf("links: %+v", got.Links)
	}
	if len(got.Events) != 1 || got.Events[0].Name != "happened" || !got.Events[0].Time.Equal(at.Add(time.Second)) || len(got.Events[0].Attributes) != 1 {
		t.Errorf("events: %+v", got.Events)
	}
	if got.Status.Code != codes.Error || got.Status.Description != "it \uFFFDfailed" {
		t.Errorf("status: %+v", got.Status)
	}
	want := []attribute.KeyValue{attribute.String("text", "a\uFFFD"), attribute.Int("number", -3), attribute.String("long", strings.Repeat("é", maxText/2))}
	for i, kv := range want {
		if got.Attributes[i] != kv {
			t.Errorf("attribute %d is %v, want %v", i, got.Attributes[i], kv)
		}
	}
}

// The configured share of spans without a parent is recorded. A span with a parent is recorded if
// the parent is.
func TestSample(t *testing.T) {
	provider, spans := recording()
	now := time.Now()
	half := New(provider, 0.5)
	const n = 4000
	began := 0
	for range n {
		if s := half.Start(nil, "root", trace.Internal, now); s != nil {
			began++
			s.End(now, nil)
		}
	}
	// Five standard deviations are 0.04.
	if began < 0.46*n || began > 0.54*n {
		t.Errorf("%d of %d began, want about half", began, n)
	}
	if got := len(spans.GetSpans()); got != began {
		t.Errorf("%d spans of %d", got, began)
	}
	spans.Reset()
	none, all := New(provider, 0), New(provider, 1)
	for range 100 {
		if none.Start(nil, "root", trace.Internal, now) != nil || all.Start(trace.Unsampled, "child", trace.Internal, now) != nil {
			t.Fatal("a span was begun for an unsampled parent")
		}
		all.Start(nil, "root", trace.Internal, now).End(now, nil)
		none.Start(trace.Parse(remote, ""), "child", trace.Internal, now).End(now, nil)
	}
	if got := len(spans.GetSpans()); got != 200 {
		t.Errorf("%d spans, want 200", got)
	}
	never := New(sdk.NewTracerProvider(sdk.WithSampler(sdk.NeverSample())), 1)
	if never.Start(nil, "root", trace.Internal, now) != nil {
		t.Error("the provider's own sampler was ignored")
	}
}

func TestUnsampledAllocatesNothing(t *testing.T) {
	provider, _ := recording()
	tracer, now := New(provider, 0), time.Now()
	if n := testing.AllocsPerRun(100, func() {
		if tracer.Start(nil, "name", trace.Internal, now) != nil || tracer.Start(trace.Unsampled, "name", trace.Internal, now) != nil {
			t.Fatal("a span was begun")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
