// Package otlptrace sends spans to an OpenTelemetry collector, over OTLP on gRPC: for the commands,
// which have no tracer provider of a host program.
//
// It owns the SDK's provider and exporter, their bounds and their end. It must never slow or fail
// what it traces: spans wait in a bounded queue and are dropped when that is full, and a collector
// that is away is a line in the log now and then.
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

// Bounds of what waits and how long.
const (
	queueSize     = 4096 // spans
	batchSize     = 512  // spans in a request
	batchDelay    = time.Second
	exportTimeout = 5 * time.Second // of a request, with its retries
	// flushTime is how long Close tries to send what is left.
	flushTime = 3 * time.Second
	// quiet is how long nothing more is said of a collector that is away.
	quiet = time.Minute
)

// Config says where spans go. Endpoint and Service must be set.
type Config struct {
	// Endpoint of the collector, as host:port.
	Endpoint string
	// TLS is nil for a plain connection.
	TLS *tls.Config
	// Headers go with every request. Nil: those of the environment variables of the SDK, if any.
	Headers map[string]string
	// Service and Version name the program in every span, and Attributes what else all of its spans
	// have in common.
	Service, Version string
	Attributes       map[string]string
	// Sample is the share, from 0 to 1, of what has no parent that begins a new trace.
	Sample float64
	// Logger hears of a collector that is away. Nil: nobody does.
	Logger *slog.Logger
}

// Exporter takes spans until it is closed. It is safe for concurrent use.
type Exporter struct {
	provider *sdk.TracerProvider
	tracer   trace.Tracer
	sender   *sender
	close    sync.Once
}

// New starts an exporter. Nothing is dialled before the first spans are sent.
func New(cfg Config) (*Exporter, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	opts := []otlptracegrpc.Option{
		otlptracegrpc.WithEndpoint(cfg.Endpoint), otlptracegrpc.WithTimeout(exportTimeout),
		otlptracegrpc.WithRetry(otlptracegrpc.RetryConfig{Enabled: true, InitialInterval: 200 * time.Millisecond, MaxInterval: time.Second, MaxElapsedTime: exportTimeout}),
		// A collector that comes back is found again soon.
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
		// What begins a trace is decided before a span is made.
		sdk.WithSampler(sdk.ParentBased(sdk.AlwaysSample())),
		sdk.WithBatcher(e.sender, sdk.WithMaxQueueSize(queueSize), sdk.WithMaxExportBatchSize(batchSize),
			sdk.WithBatchTimeout(batchDelay), sdk.WithExportTimeout(exportTimeout)),
	)
	e.tracer = oteltrace.New(e.provider, cfg.Sample)
	return e, nil
}

// Tracer returns what takes the spans. Nil of a nil Exporter.
func (e *Exporter) Tracer() trace.Tracer {
	if e == nil {
		return nil
	}
	return e.tracer
}

// Close sends what is left, until ctx ends or for at most 3 s, and gives everything back. When it
// returns no goroutine or connection is left. It is idempotent; of a nil Exporter it does nothing.
func (e *Exporter) Close(ctx context.Context) {
	if e == nil {
		return
	}
	e.close.Do(func() {
		ctx, cancel := context.WithTimeout(ctx, flushTime)
		defer cancel()
		err := e.provider.ForceFlush(ctx)
		if err != nil && ctx.Err() != nil {
			err = fmt.Errorf("the end came before the last spans were sent: %w", context.Cause(ctx))
		}
		// From here on sending fails at once, so the provider's goroutine ends however much is
		// left.
		e.sender.stop()
		err = cmp.Or(err, e.provider.Shutdown(context.Background()))
		e.sender.last(err)
	})
}

// sender is the exporter behind the provider's queue. It keeps failures to itself.
type sender struct {
	sdk.SpanExporter
	endpoint string
	log      *slog.Logger
	ctx      context.Context // ends when nothing more is to be sent
	stop     context.CancelFunc

	mu   sync.Mutex
	said time.Time
	lost int   // spans that were not sent since
	why  error // of the last of them
}

var errStopped = errors.New("it was told to stop")

// ExportSpans implements sdk.SpanExporter. It never fails: what the SDK would do about a failure is
// to write it to standard error.
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

// failed says, once in a while, that spans were lost.
func (s *sender) failed(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.why = err
	now := time.Now()
	if s.ctx.Err() != nil || !s.said.IsZero() && now.Sub(s.said) < quiet {
		return // what is lost at the end is said once, by last
	}
	s.log.Warn("traces were not sent", "endpoint", s.endpoint, "spans", s.lost, "error", err)
	s.said, s.lost = now, 0
}

// last says what is still to be said at the end. err is what went wrong with it, or nil.
func (s *sender) last(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lost > 0 || err != nil {
		s.log.Warn("traces were not sent", "endpoint", s.endpoint, "spans", s.lost, "error", cmp.Or(err, s.why))
	}
}
