package kafka

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector"
	"github.com/tensorferry/tensorferry/stream"
	"github.com/tensorferry/tensorferry/trace"
	"github.com/tensorferry/tensorferry/trace/oteltrace"
)

const traceID = "4bf92f3577b34da6a3ce929d0e0e4736"

// fillTraced writes n records: every fourth is part of a sampled trace, every fourth of one that is
// not, and one in four has no context, or a malformed one.
func (b *broker) fillTraced(topic string, n int) {
	b.t.Helper()
	cl := b.client()
	defer cl.Close()
	for i := range n {
		k := &Record{Topic: topic, Value: fmt.Appendf(nil, "0/%d", i)}
		parent := map[int]string{0: fmt.Sprintf("00-%s-%016x-01", traceID, i+1), 1: fmt.Sprintf("00-%s-%016x-00", traceID, i+1), 3: "nonsense"}[i%4]
		if parent != "" {
			k.Headers = []kgo.RecordHeader{{Key: "other", Value: []byte("x")}, {Key: "traceparent", Value: []byte(parent)}, {Key: "tracestate", Value: []byte("v=1")}}
		}
		cl.Produce(context.Background(), k, nil)
	}
	if err := cl.Flush(context.Background()); err != nil {
		b.t.Fatal(err)
	}
}

// headers are the trace headers of the committed records of a topic, by the records' values.
func (b *broker) headers(topic string, n int) map[string]string {
	b.t.Helper()
	cl := b.client(kgo.ConsumeTopics(topic), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	defer cl.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out := map[string]string{}
	for len(out) < n && ctx.Err() == nil {
		cl.PollFetches(ctx).EachRecord(func(r *Record) {
			var all []string
			for _, h := range r.Headers {
				all = append(all, h.Key+"="+string(h.Value))
			}
			out[string(r.Value)] = strings.Join(all, " ")
		})
	}
	if len(out) != n {
		b.t.Fatalf("%s has %d records, want %d", topic, len(out), n)
	}
	return out
}

// From the header of a record to the parent of its span, and from that span to the headers of its
// result or dead letter; from Kafka to Kafka, and with a sink that writes at least once.
func TestTraces(t *testing.T) {
	for _, grouped := range []bool{true, false} {
		for _, on := range []bool{true, false} {
			synctest.Test(t, func(t *testing.T) {
				const n = 40
				b := newBroker(t, 1, "in", "out", "failed")
				b.fillTraced("in", n)
				spans := tracetest.NewInMemoryExporter()
				cfg := stream.Config{Checkpoint: stream.CheckpointConfig{Interval: 100 * time.Millisecond}}
				if on {
					cfg.Tracer = oteltrace.New(sdk.NewTracerProvider(sdk.WithSyncer(spans)), 0)
				}
				topics := Topics{Names: []string{"in"}, Traces: on}
				value := func(r *async.Record[[]byte]) (*Record, error) { return &Record{Value: r.Value}, nil }
				letter := func(r *async.Record[async.Failed[[]byte]]) (*Record, error) {
					return &Record{Value: r.Value.Record.Value}, nil
				}
				var source connector.Source[[]byte]
				var sink connector.Sink[[]byte]
				var letters connector.Sink[async.Failed[[]byte]]
				if grouped {
					group := b.group("g")
					group.Topics, group.Partitioner = topics, nil
					g := NewGroup(group)
					defer g.Close()
					cfg.Checkpoint.Store = g
					source, sink, letters = GroupSource(g, Raw[[]byte]), GroupSink(g, SinkConfig[[]byte]{Topic: "out", Encode: value}), GroupSink(g, SinkConfig[async.Failed[[]byte]]{Topic: "failed", Encode: letter})
				} else {
					source, sink = b.source(topics), NewSink(SinkConfig[[]byte]{Config: b.config(), Topic: "out", Encode: value})
					letters = NewSink(SinkConfig[async.Failed[[]byte]]{Config: b.config(), Topic: "failed", Encode: letter})
				}
				fn := async.Func(func(_ context.Context, v []byte) ([]byte, error) {
					if bytes.HasSuffix(v, []byte("8")) {
						return nil, errors.New("it ends with an 8")
					}
					return v, nil
				}, 4)
				j := stream.New("j", cfg)
				good, bad := stream.AsyncWithDeadLetters(stream.From(j, source), fn, async.Config{})
				stream.To(good, sink)
				stream.To(bad, letters)
				run := j.Start(t.Context())
				b.await(run, n-4)
				run.Stop()
				if err := run.Wait(); err != stream.ErrStopped {
					t.Fatal(err)
				}
				own := map[string]string{} // the span of each parent
				for _, s := range spans.GetSpans() {
					if s.SpanContext.TraceID().String() != traceID || !s.Parent.IsRemote() {
						t.Errorf("%+v", s)
					}
					own[s.Parent.SpanID().String()] = s.SpanContext.SpanID().String()
				}
				if want := n / 4; on && len(own) != want || !on && len(own) != 0 {
					t.Errorf("grouped %v, on %v: %d spans", grouped, on, len(own))
				}
				results, dead := b.headers("out", n-4), b.headers("failed", 4)
				for i := range n {
					name := fmt.Sprintf("0/%d", i)
					got, want := results[name]+dead[name], ""
					if id := own[fmt.Sprintf("%016x", i+1)]; id != "" {
						want = fmt.Sprintf("traceparent=00-%s-%s-01 tracestate=v=1", traceID, id)
					}
					if got != want {
						t.Errorf("grouped %v, on %v: the result of record %d has %q, want %q", grouped, on, i, got, want)
					}
				}
			})
		}
	}
}

// Headers that Encode sets are its own, and not written into by others.
func TestHeadersOfEncode(t *testing.T) {
	c := trace.Parse("00-"+traceID+"-00f067aa0ba902b7-01", "")
	shared := make([]kgo.RecordHeader, 1, 8)
	shared[0].Key = "k"
	one, two := withContext(shared, c), withContext(shared, c)
	if len(one) != 2 || len(two) != 2 || &one[1] == &two[1] || shared[:2][1].Key != "" {
		t.Errorf("%v, %v, %v", one, two, shared[:2])
	}
	mine := []kgo.RecordHeader{{Key: "traceparent", Value: []byte("mine")}}
	if got := withContext(mine, c); len(got) != 1 || string(got[0].Value) != "mine" {
		t.Errorf("%v", got)
	}
}

// Looking for a context costs nothing for a record without a sampled one.
func TestUnsampledHeadersAllocateNothing(t *testing.T) {
	headers := []kgo.RecordHeader{{Key: "a"}, {Key: "traceparent", Value: []byte("00-" + traceID + "-00f067aa0ba902b7-00")}, {Key: "tracestate", Value: []byte("v=1")}}
	if n := testing.AllocsPerRun(100, func() {
		if contextIn(headers) != trace.Unsampled || contextIn(headers[:1]) != nil {
			t.Fatal("it is not what it is")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
