package otlptrace

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/tensorferry/tensorferry/trace"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// receiver is a collector that counts spans.
type receiver struct {
	collector.UnimplementedTraceServiceServer
	spans atomic.Int64
}

func (r *receiver) Export(_ context.Context, req *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	for _, rs := range req.ResourceSpans {
		for _, ss := range rs.ScopeSpans {
			r.spans.Add(int64(len(ss.Spans)))
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

func certificate(t *testing.T) (tls.Certificate, *x509.CertPool) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	form := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, form, form, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(parsed)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

func record(tracer trace.Tracer, n int) {
	for range n {
		s := tracer.Start(nil, "name", trace.Internal, time.Now())
		s.End(time.Now(), nil)
	}
}

// Close sends the remaining spans, over TLS.
func TestCloseFlushes(t *testing.T) {
	cert, pool := certificate(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &receiver{}
	s := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{cert}})))
	collector.RegisterTraceServiceServer(s, r)
	var serving sync.WaitGroup
	serving.Go(func() { s.Serve(l) })
	defer func() {
		s.Stop()
		serving.Wait()
	}()
	e, err := New(Config{Endpoint: l.Addr().String(), TLS: &tls.Config{RootCAs: pool}, Service: "test", Sample: 1})
	if err != nil {
		t.Fatal(err)
	}
	record(e.Tracer(), 1000)
	e.Close(t.Context())
	e.Close(t.Context())
	if n := r.spans.Load(); n != 1000 {
		t.Errorf("%d spans arrived, want 1000", n)
	}
}

// A collector that never answers blocks nothing: spans that do not fit into the queue are dropped,
// and Close ends when its context does.
func TestCollectorThatNeverAnswers(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // connections wait to be accepted
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var text bytes.Buffer
	e, err := New(Config{Endpoint: l.Addr().String(), Service: "test", Sample: 1, Logger: slog.New(slog.NewTextHandler(&text, nil))})
	if err != nil {
		t.Fatal(err)
	}
	record(e.Tracer(), 4*queueSize) // would block here for ever if it waited
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	began := time.Now()
	e.Close(ctx)
	if took := time.Since(began); took >= flushTime {
		t.Errorf("closing took %v; it must return at once", took)
	}
	if n := strings.Count(text.String(), "traces were not sent"); n != 1 || strings.Contains(text.String(), "spans=0") {
		t.Errorf("logged %d times, or without the number of spans: %s", n, text.String())
	}
}

// failing is an exporter that always fails.
type failing struct{ sdk.SpanExporter }

func (failing) ExportSpans(context.Context, []sdk.ReadOnlySpan) error {
	return errors.New("nobody is there")
}

// A failure is logged once a minute, with how many spans were lost since.
func TestFailuresAreSaidRarely(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var text bytes.Buffer
		s := &sender{SpanExporter: failing{}, endpoint: "c:1", log: slog.New(slog.NewTextHandler(&text, nil)), ctx: t.Context()}
		two := tracetest.SpanStubs{{}, {}}.Snapshots()
		for range 25 { // at 0, 5, ... 120 s
			if err := s.ExportSpans(t.Context(), two); err != nil {
				t.Errorf("the provider got the error: %v", err)
			}
			time.Sleep(5 * time.Second)
		}
		var spans []string
		for line := range strings.Lines(text.String()) {
			_, rest, _ := strings.Cut(line, "endpoint=c:1 ")
			spans = append(spans, strings.TrimSpace(rest))
		}
		if got := strings.Join(spans, "; "); got != `spans=2 error="nobody is there"; spans=24 error="nobody is there"; spans=24 error="nobody is there"` {
			t.Errorf("the log says %s", got)
		}
	})
}

func TestNone(t *testing.T) {
	var e *Exporter
	if e.Tracer() != nil {
		t.Error("a nil exporter has a tracer")
	}
	e.Close(t.Context())
}
