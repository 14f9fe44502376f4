// Package otlptrace sends spans to an OpenTelemetry collector, over OTLP on gRPC. It is for the
// commands, which have no host program with a tracer provider.
//
// It owns the SDK's provider and exporter, their bounds and their shutdown. It must never slow or
// fail what it traces: spans wait in a bounded queue and are dropped when it is full. If the
// collector is unreachable, a line in the log says so now and then.
package otlptrace

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"

	"github.com/tensorferry/tensorferry/trace"
	"github.com/tensorferry/tensorferry/trace/oteltrace"
)

// Bounds for the queue and its timing.
const (
	queueSize     = 4096 // spans
	batchSize     = 512  // spans in a request
	batchDelay    = time.Second
	exportTimeout = 5 * time.Second // for a request, including its retries
	// flushTime is how long Close tries to send the remaining spans.
	flushTime = 3 * time.Second
	// quiet is the shortest time between log lines about an unreachable collector.
	quiet = time.Minute
)

// Config says where spans go. Endpoint and Service must be set.
type Config struct {
	// Endpoint of the collector, as host:port.
	Endpoint string
	// TLS is nil for a plain connection.
	TLS *tls.Config
	// Headers are sent with every request. Nil: the headers from the SDK's environment
	// variables, if any.
	Headers map[string]string
	// Service and Version name the program in every span. Attributes are further attributes of
	// all its spans.
	Service, Version string
	Attributes       map[string]string
	// Sample is the share, from 0 to 1, of spans without a parent that begin a new trace.
	Sample float64
	// Logger gets a line when the collector is unreachable. Nil: nothing is logged.
	Logger *slog.Logger
}

// Exporter takes spans until it is closed. It is safe for concurrent use.
type Exporter struct {
	provider *sdk.TracerProvider
	tracer   trace.Tracer
	sender   *sender
	close    sync.Once
}

// New starts an exporter. It connects when the first spans are sent.
func New(cfg Config) (*Exporter, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	opts := []otlptracegrpc.Option{
		otlptracegrpc.WithEndpoint(cfg.Endpoint), otlptracegrpc.WithTimeout(exportTimeout),
		otlptracegrpc.WithRetry(otlptracegrpc.RetryConfig{Enabled: true, InitialInterval: 200 * time.Millisecond, MaxInterval: time.Second, MaxElapsedTime: exportTimeout}),
		// Reconnect soon after the collector comes back.
		otlptracegrpc.WithDialOption(grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{BaseDelay: 200 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 5 * time.Second}, MinConnectTimeout: exportTimeout,
		})),
	}
	if cfg.TLS == nil {
		opts = append(opts, otlptracegrpc.WithInsecure())
	} else {
		opts = append(opts, otlptracegrpc.WithTLSCredentials(credentials.NewTLS(cfg.TLS)))
	}
	if cfg.Headers != nil {
		opts = append(opts, otlptracegrpc.WithHeaders(cfg.Headers))
	}
	inner, err := otlptracegrpc.New(context.Background(), opts...)
	if err != nil {
		return nil, fmt.Errorf("traces to %s: %w", cfg.Endpoint, err)
	}
	attrs := []attribute.KeyValue{attribute.String("service.name", cfg.Service), attribute.String("service.version", cfg.Version)}
	for _, key := range slices.Sorted(maps.Keys(cfg.Attributes)) {
		attrs = append(attrs, attribute.String(key, cfg.Attributes[key]))
	}
	e := &Exporter{sender: &sender{SpanExporter: inner, endpoint: cfg.Endpoint, log: cfg.Logger}}
	e.sender.ctx, e.sender.stop = context.WithCancel(context.Background())
	e.provider = sdk.NewTracerProvider(
		sdk.WithResource(resource.NewSchemaless(attrs...)),
		// The Tracer decides which spans begin a trace, before they are made.
		sdk.WithSampler(sdk.ParentBased(sdk.AlwaysSample())),
		sdk.WithBatcher(e.sender, sdk.WithMaxQueueSize(queueSize), sdk.WithMaxExportBatchSize(batchSize),
			sdk.WithBatchTimeout(batchDelay), sdk.WithExportTimeout(exportTimeout)),
	)
	e.tracer = oteltrace.New(e.provider, cfg.Sample)
	return e, nil
}

// Tracer returns the tracer that sends spans here. It returns nil for a nil Exporter.
func (e *Exporter) Tracer() trace.Tracer {
	if e == nil {
		return nil
	}
	return e.tracer
}

// Close sends the remaining spans, until ctx ends or for at most 3 s, and releases everything. When
// it returns, no goroutine or connection is left. It is idempotent, and does nothing for a nil
// Exporter.
func (e *Exporter) Close(ctx context.Context) {
	if e == nil {
		return
	}
	e.close.Do(func() {
		ctx, cancel := context.WithTimeout(ctx, flushTime)
		defer cancel()
		err := e.provider.ForceFlush(ctx)
		if err != nil && ctx.Err() != nil {
			err = fmt.Errorf("the exporter was closed before the last spans were sent: %w", context.Cause(ctx))
		}
		// From here on sending fails at once, so the provider's goroutine ends, however
		// many spans remain.
		e.sender.stop()
		err = cmp.Or(err, e.provider.Shutdown(context.Background()))
		e.sender.last(err)
	})
}

// sender is the exporter behind the provider's queue. It logs failures instead of returning them.
type sender struct {
	sdk.SpanExporter
	endpoint string
	log      *slog.Logger
	ctx      context.Context // ends when no more spans may be sent
	stop     context.CancelFunc

	mu   sync.Mutex
	said time.Time
	lost int   // spans lost since said
	why  error // the newest failure
}

var errStopped = errors.New("the exporter was stopped")

// ExportSpans implements sdk.SpanExporter. It never fails, since the SDK would write a failure to
// standard error.
func (s *sender) ExportSpans(ctx context.Context, spans []sdk.ReadOnlySpan) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(s.ctx, func() { cancel(errStopped) })()
	err := s.ctx.Err()
	if err == nil {
		err = s.SpanExporter.ExportSpans(ctx, spans)
	}
	if err != nil {
		s.mu.Lock()
		s.lost += len(spans)
		s.mu.Unlock()
		s.failed(err)
	}
	return nil
}

// failed logs now and then that spans were lost.
func (s *sender) failed(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.why = err
	now := time.Now()
	if s.ctx.Err() != nil || !s.said.IsZero() && now.Sub(s.said) < quiet {
		return // last logs the spans that are lost at the end
	}
	s.log.Warn("traces were not sent", "endpoint", s.endpoint, "spans", s.lost, "error", err)
	s.said, s.lost = now, 0
}

// last logs at the end what is not yet logged. err is the failure of the shutdown, or nil.
func (s *sender) last(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lost > 0 || err != nil {
		s.log.Warn("traces were not sent", "endpoint", s.endpoint, "spans", s.lost, "error", cmp.Or(err, s.why))
	}
}
