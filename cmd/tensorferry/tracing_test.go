package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	spans "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// receiver is a collector that keeps the spans that it receives.
type receiver struct {
	collector.UnimplementedTraceServiceServer
	address string

	mu      sync.Mutex
	spans   []received
	headers metadata.MD // of the last request
}

type received struct {
	*spans.Span
	resource map[string]string
}

// id writes the id of a span or a trace.
func id(b []byte) string { return hex.EncodeToString(b) }

func newReceiver(t *testing.T) *receiver {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &receiver{address: l.Addr().String()}
	s := grpc.NewServer()
	collector.RegisterTraceServiceServer(s, r)
	var serving sync.WaitGroup
	serving.Go(func() { s.Serve(l) })
	t.Cleanup(func() {
		s.Stop()
		serving.Wait()
	})
	return r
}

// Export implements the collector's service.
func (r *receiver) Export(ctx context.Context, req *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.headers, _ = metadata.FromIncomingContext(ctx)
	for _, rs := range req.ResourceSpans {
		resource := texts(rs.Resource.Attributes)
		for _, ss := range rs.ScopeSpans {
			for _, s := range ss.Spans {
				r.spans = append(r.spans, received{s, resource})
			}
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

func texts(attrs []*common.KeyValue) map[string]string {
	out := map[string]string{}
	for _, a := range attrs {
		out[a.Key] = a.Value.GetStringValue()
	}
	return out
}

// of returns the spans of a service by their names.
func (r *receiver) of(service string) map[string][]received {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := map[string][]received{}
	for _, s := range r.spans {
		if s.resource["service.name"] == service {
			out[s.Name] = append(out[s.Name], s)
		}
	}
	return out
}

const inferSpan = "inference.GRPCInferenceService/ModelInfer"

// TestTraces: a job with its own sidecar sends every span of every record to a collector before it
// ends.
func TestTraces(t *testing.T) {
	s, r := newShell(t), newReceiver(t)
	in, want := numbers(100)
	s.write("in.jsonl", in)
	s.write("job.yaml", doubles(quickSidecar+"trace: {endpoint: '"+r.address+"', sample: 1, headers: {x-key: secret}}\n"))
	s.contains("stderr", s.run(exitOK, "run", "job.yaml").errors, "msg=traces endpoint="+r.address+" sample=1")
	if s.output() != want {
		t.Error("the results are not those of a job without traces")
	}
	got := r.of("tensorferry")
	requests := len(got[inferSpan]) / 2 // the job's and its sidecar's
	if len(got["infer"]) != 100 || requests == 0 || len(got[inferSpan])%2 != 0 || len(got["queue"]) != requests || len(got["batch"]) < requests {
		t.Errorf("%d records, %d spans of requests, %d and %d of their stages", len(got["infer"]), len(got[inferSpan]), len(got["queue"]), len(got["batch"]))
	}
	first := got["infer"][0]
	if first.resource["tensorferry.job"] != "doubles" || first.resource["service.version"] == "" || texts(first.Attributes)["tensorferry.job"] != "doubles" {
		t.Errorf("the resource is %v, the span %v", first.resource, first.Attributes)
	}
	if key := r.headers.Get("x-key"); fmt.Sprint(key) != "[secret]" {
		t.Errorf("the header is %v", key)
	}
}

// TestTracesOfSidecar: a separate sidecar is another service in the same trace. It begins no trace.
func TestTracesOfSidecar(t *testing.T) {
	s, r := newShell(t), newReceiver(t)
	socket := "unix://" + filepath.Join(socketDir(t), "s.sock")
	server := serve(t, runSidecar, 1, "--listen", socket, "--model", "double=mock:double?input=x:INT64[1]", "--trace", r.address)
	in, _ := numbers(50)
	s.write("in.jsonl", in)
	plain := strings.Replace(doubles(""), "infer:\n", "infer:\n  endpoint: "+socket+"\n", 1)
	s.write("job.yaml", plain)
	s.run(exitOK, "run", "job.yaml")
	s.write("job.yaml", plain+"trace: {endpoint: '"+r.address+"', sample: 1}\n")
	s.run(exitOK, "run", "job.yaml")
	if code := server.stop(); code != exitOK {
		t.Errorf("exit code %d: %s", code, server.stderr.String())
	}
	ours, theirs := r.of("tensorferry")[inferSpan], r.of("tensorferry-sidecar")[inferSpan]
	clients := map[string]string{} // trace ids by span ids
	for _, c := range ours {
		clients[id(c.SpanId)] = id(c.TraceId)
	}
	for _, c := range theirs {
		if trace := clients[id(c.ParentSpanId)]; trace == "" || trace != id(c.TraceId) || c.Kind != spans.Span_SPAN_KIND_SERVER {
			t.Errorf("the sidecar's span is no child of a request: %v", c)
		}
	}
	if len(ours) == 0 || len(theirs) != len(ours) {
		t.Errorf("%d requests of the job, %d of the sidecar", len(ours), len(theirs))
	}
	code := runSidecar(t.Context(), []string{"--listen", socket, "--model", "double=mock:double", "--trace", "unix:///x.sock"}, &bytes.Buffer{}, &server.stderr)
	if code != exitUsage || !strings.Contains(server.stderr.String(), `--trace "unix:///x.sock": want host:port`) {
		t.Errorf("exit code %d: %s", code, server.stderr.String())
	}
}

// TestTracesOfKafka: the context of a record's headers is the parent of its span, and its result,
// or its dead letter, has the span's. With a sample of 0 nothing else is recorded.
func TestTracesOfKafka(t *testing.T) {
	s, r := newKafkaShell(t, 1, "in", "out", "failed"), newReceiver(t)
	s.write("job.yaml", fmt.Sprintf(toKafka, s.brokers)+"trace: {endpoint: '"+r.address+"', sample: 0}\n")
	const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	header := []kgo.RecordHeader{{Key: "traceparent", Value: []byte(parent)}}
	s.produce(&kgo.Record{Topic: "in", Value: []byte(`{"x":[1]}`), Headers: header}, &kgo.Record{Topic: "in", Value: []byte(`{"x":[2]}`)},
		&kgo.Record{Topic: "in", Value: []byte("not json"), Headers: header})
	var results, letters []*kgo.Record
	s.runWhile(func() { results, letters = s.consume("out", 2), s.consume("failed", 1) }, "run", "job.yaml")
	got := r.of("tensorferry")["infer"]
	own := map[string]string{}
	for _, g := range got {
		if id(g.ParentSpanId) != "00f067aa0ba902b7" {
			t.Errorf("%v", g)
		}
		own["00-"+id(g.TraceId)+"-"+id(g.SpanId)+"-01"] = texts(g.Attributes)["tensorferry.outcome"]
	}
	traced := func(k *kgo.Record) string {
		for _, h := range k.Headers {
			if h.Key == "traceparent" {
				return own[string(h.Value)]
			}
		}
		return ""
	}
	if len(own) != 2 || len(results) != 2 || len(letters) != 1 || traced(results[0]) != "completed" || traced(results[1]) != "" || traced(letters[0]) != "dead_letter" {
		t.Errorf("spans %v; results %v, dead letters %v", own, results, letters)
	}
}

// nobodyAt returns an address that refuses connections while the test runs. The port belongs to a
// connection of the test, so no other program can listen on it.
func nobodyAt(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.LocalAddr().String()
}

// TestAbsentCollector: a collector that is away, or that never answers, causes only a line in the
// log.
func TestAbsentCollector(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // connections wait to be accepted, for ever
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	for _, endpoint := range []string{nobodyAt(t), silent.Addr().String()} {
		s := newShell(t)
		in, want := numbers(6_000) // more than wait to be sent
		s.write("in.jsonl", in)
		s.write("job.yaml", doubles(quickSidecar+"trace: {endpoint: '"+endpoint+"', sample: 1}\n"))
		r := s.run(exitOK, "run", "job.yaml")
		if s.output() != want {
			t.Error("the results are not those of a job without traces")
		}
		// One line at the end, and one before if the job runs long enough for an attempt to
		// fail, but not one for each of the dozen batches.
		if n := strings.Count(r.errors, "traces were not sent"); n != 1 && n != 2 {
			t.Errorf("%d lines about it:\n%s", n, r.errors)
		}
	}
}
