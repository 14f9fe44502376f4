// Package oteltrace makes a trace.Tracer from an OpenTelemetry tracer provider, with [New].
//
// It translates spans, and decides which records begin a trace. A sampled span costs what the
// provider's spans cost; a record that is not sampled costs a random number. The package uses the
// API of OpenTelemetry and not its SDK. So the program makes the provider and its exporter, and
// flushes them at its end. A program that records spans in another way implements trace.Tracer
// itself.
package oteltrace

import (
	"context"
	"math/rand/v2"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	otel "go.opentelemetry.io/otel/trace"

	"github.com/tensorferry/tensorferry/trace"
)

// Scope is the name of the instrumentation scope of all spans.
const Scope = "github.com/tensorferry/tensorferry"

// maxText bounds the text of an error, in bytes. The error of a panic includes a stack.
const maxText = 1024

// New returns a Tracer that records with the provider. Of the records without a parent, the share
// sample, from 0 to 1, begins a new trace. The others cost a random number each, and no allocation.
// A span with a parent is recorded if, and only if, the parent is sampled.
//
// Together that is ParentBased(TraceIDRatioBased(sample)). So the provider's own sampler should be
// ParentBased(AlwaysSample). If it drops more spans, these are not recorded. The Tracer is safe for
// concurrent use.
func New(provider otel.TracerProvider, sample float64) trace.Tracer {
	return &tracer{otel: provider.Tracer(Scope), sample: sample}
}

type tracer struct {
	otel   otel.Tracer
	sample float64
}

// Start implements trace.Tracer.
func (t *tracer) Start(parent *trace.Context, name string, kind trace.Kind, at time.Time, links ...*trace.Context) trace.Span {
	ctx := context.Background()
	switch {
	case parent == nil:
		if rand.Float64() >= t.sample {
			return nil
		}
	case !parent.Sampled():
		return nil
	default:
		ctx = otel.ContextWithSpanContext(ctx, translate(parent))
	}
	opts := []otel.SpanStartOption{otel.WithSpanKind(kinds[kind]), otel.WithTimestamp(at)}
	if len(links) > 0 {
		all := make([]otel.Link, len(links))
		for i, l := range links {
			all[i].SpanContext = translate(l)
		}
		opts = append(opts, otel.WithLinks(all...))
	}
	_, s := t.otel.Start(ctx, name, opts...)
	c := s.SpanContext()
	if !s.IsRecording() || !c.IsSampled() {
		return nil
	}
	return &span{otel: s, ctx: trace.Context{TraceID: c.TraceID(), SpanID: c.SpanID(), Flags: byte(c.TraceFlags()), State: c.TraceState().String()}}
}

var kinds = map[trace.Kind]otel.SpanKind{
	trace.Internal: otel.SpanKindInternal, trace.Client: otel.SpanKindClient, trace.Server: otel.SpanKindServer,
}

func translate(c *trace.Context) otel.SpanContext {
	state, _ := otel.ParseTraceState(c.State) // a malformed state is left out
	return otel.NewSpanContext(otel.SpanContextConfig{
		TraceID: c.TraceID, SpanID: c.SpanID, TraceFlags: otel.TraceFlags(c.Flags), TraceState: state, Remote: c.Remote,
	})
}

type span struct {
	otel otel.Span
	ctx  trace.Context
}

// Context implements trace.Span.
func (s *span) Context() *trace.Context { return &s.ctx }

// Set implements trace.Span.
func (s *span) Set(attrs ...trace.Attr) { s.otel.SetAttributes(attributes(attrs)...) }

// Event implements trace.Span.
func (s *span) Event(at time.Time, name string, attrs ...trace.Attr) {
	s.otel.AddEvent(name, otel.WithTimestamp(at), otel.WithAttributes(attributes(attrs)...))
}

// End implements trace.Span.
func (s *span) End(at time.Time, err error) {
	if err != nil {
		s.otel.SetStatus(codes.Error, clean(err.Error()))
	}
	s.otel.End(otel.WithTimestamp(at))
}

func attributes(attrs []trace.Attr) []attribute.KeyValue {
	out := make([]attribute.KeyValue, len(attrs))
	for i, a := range attrs {
		if text, ok := a.Text(); ok {
			out[i] = attribute.String(a.Key, clean(text))
		} else {
			out[i] = attribute.Int64(a.Key, a.Int())
		}
	}
	return out
}

// clean returns a text that can be exported. A single byte that is not UTF-8 would lose all spans
// that are sent with it.
func clean(text string) string {
	if len(text) > maxText {
		text = text[:maxText]
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}
