package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/tensorferry/tensorferry/ferry"
	"github.com/tensorferry/tensorferry/internal/cli"
	"github.com/tensorferry/tensorferry/sidecar"
	"github.com/tensorferry/tensorferry/sidecar/endpoint"
)

const ferryHelp = `usage: tensorferry ferry --listen ENDPOINT --allow SERVER/MODEL [flags]

serves the asynchronous operator on a socket, for stream processors that are not
written in Go, such as Apache Flink with the Java client. It batches, retries and
holds records on their behalf, in front of any model server that speaks the Open
Inference Protocol over gRPC. docs/ferry.md describes the protocol. A line for
each endpoint on standard output says when it is ready; the log is on standard
error. On SIGTERM or SIGINT it asks its clients to go elsewhere, answers what it
has, and exits with 0.

ENDPOINT is unix:///absolute/path.sock, unix-abstract:name, host:port or [v6]:port.
SERVER is such an endpoint of a model server, and MODEL a name or * for all of its
models: 127.0.0.1:8001/digits. Clients may name only what --allow allows.

`

// ferryGrace is how long clients have to go elsewhere.
const ferryGrace = 30 * time.Second

// runFerry serves the operator until ctx ends.
func runFerry(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	f := &serverFlags{set: cli.Flags("ferry")}
	var allow listFlag
	var cert, key, clientCA string
	var to reach
	cfg := ferry.Config{}
	f.set.Var(&f.listen, "listen", "`ENDPOINT` to serve clients on; may be repeated")
	f.set.Var(&allow, "allow", "`SERVER/MODEL` that clients may name; may be repeated")
	f.set.StringVar(&f.health, "health", "", "`HOST:PORT` to serve /health and /metrics on, over HTTP")
	f.set.DurationVar(&f.grace, "grace", ferryGrace, "how long clients have to go elsewhere when stopping")
	decimalVar(f.set, &cfg.MaxConnections, "max-connections", ferry.DefaultMaxConnections, "most `CONNECTIONS` at once")
	decimalVar(f.set, &cfg.MaxCalls, "max-calls", ferry.DefaultMaxCalls, "most `CALLS` without an answer, of a connection")
	decimalVar(f.set, &cfg.MaxBytes, "max-bytes", ferry.DefaultMaxBytes, "most `BYTES` of these calls, of a connection")
	decimalVar(f.set, &cfg.MaxFrame, "max-frame", ferry.DefaultMaxFrame, "largest frame of a client, in `BYTES`")
	f.set.DurationVar(&cfg.AnswerTimeout, "answer-timeout", ferry.DefaultAnswerTimeout, "longest time in which a client reads what it was sent; then its connection is closed")
	f.set.BoolVar(&f.plaintext, "plaintext", false, "listen without TLS on addresses that others than this machine may reach")
	f.set.StringVar(&cert, "tls-cert", "", "`FILE` with the certificate to show on TCP endpoints")
	f.set.StringVar(&key, "tls-key", "", "`FILE` with its private key")
	f.set.StringVar(&clientCA, "tls-client-ca", "", "`FILE` with the authorities of the certificates that clients must show")
	f.set.BoolVar(&to.tls, "server-tls", false, "reach the model servers over TLS, with the system's authorities")
	f.set.StringVar(&to.ca, "server-ca", "", "`FILE` with the authorities of the model servers' certificates; means --server-tls")
	f.set.StringVar(&to.cert, "server-cert", "", "`FILE` with the certificate to show to model servers")
	f.set.StringVar(&to.key, "server-key", "", "`FILE` with its private key")
	f.set.StringVar(&to.name, "server-name", "", "`NAME` that the model servers' certificates must have, in place of their host")
	decimalVar(f.set, &to.sharedMemory, "shared-memory", 0, "`BYTES` of shared memory for tensors, of a connection; 0 for none")
	traces := f.set.String("trace", "", "`HOST:PORT` of an OpenTelemetry collector, to send it the spans of records (OTLP over gRPC)")
	wrong := func(code int, err error) int {
		fmt.Fprintf(stderr, "tensorferry ferry: %v\n", err)
		return code
	}
	// The bounds of the other servers are not among these flags.
	f.maxBatch, f.queueRows, f.queueBytes, f.queueTimeout, f.maxMessage = 1, 1, 1, 1, 1
	if code, ok := f.parse(args, ferryHelp, stdout, stderr); !ok {
		return code
	}
	if min(cfg.MaxConnections, cfg.MaxCalls, cfg.MaxFrame) < 1 || cfg.MaxBytes < 1 || cfg.AnswerTimeout <= 0 {
		return wrong(exitUsage, errors.New("--max-connections, --max-calls, --max-bytes, --max-frame and --answer-timeout must be more than 0"))
	}
	endpoints, err := f.endpoints()
	if err != nil {
		return wrong(exitUsage, err)
	}
	if len(allow) == 0 {
		return wrong(exitUsage, errors.New("no --allow; which model may clients reach? Give SERVER/MODEL, such as 127.0.0.1:8001/digits"))
	}
	for _, text := range allow {
		t, err := to.target(text)
		if err != nil {
			return wrong(exitUsage, fmt.Errorf("--allow %s: %w", text, err))
		}
		cfg.Allow = append(cfg.Allow, t)
	}
	secure, err := tlsConfig(cert, key, clientCA)
	if err != nil {
		return wrong(exitUsage, err)
	}
	if secure == nil {
		if err := checkPlain(endpoints, f.plaintext); err != nil {
			return wrong(exitUsage, err)
		}
	} else {
		secure.NextProtos = nil // the ferry's clients name none
	}
	cfg.Logger = slog.New(slog.NewTextHandler(stderr, nil))
	if *traces != "" {
		e, err := sidecarTraces(*traces, cfg.Logger)
		if err != nil {
			return wrong(exitUsage, err)
		}
		defer e.Close(context.Background()) // ctx is over by then
		cfg.Tracer = e.Tracer()
	}
	srv, err := ferry.New(cfg)
	if err != nil {
		return wrong(exitUsage, err)
	}
	defer srv.Close()
	return f.serveFerry(ctx, srv, endpoints, secure, stdout, wrong)
}

// serveFerry listens, and serves until ctx ends.
func (f *serverFlags) serveFerry(ctx context.Context, srv *ferry.Server, endpoints []endpoint.Endpoint, secure *tls.Config, stdout io.Writer, wrong func(int, error) int) int {
	listeners, ready, err := listen(endpoints, secure, "ferry")
	if err != nil {
		return wrong(exitFailed, err)
	}
	defer closeListeners(listeners)
	failed := make(chan error, len(listeners)+1)
	health, err := f.listenHealth()
	if err != nil {
		return wrong(exitFailed, fmt.Errorf("--health: %w", err))
	}
	if health != nil {
		h := &http.Server{
			Handler: http.MaxBytesHandler(srv.Handler(), 4<<10), ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second,
			IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
		}
		defer h.Close()
		go func() {
			if err := h.Serve(health); !errors.Is(err, http.ErrServerClosed) {
				failed <- fmt.Errorf("--health: %w", err)
			}
		}()
		ready = append(ready, "ready: health on "+health.Addr().String())
	}
	for _, l := range listeners {
		go func() {
			if err := srv.Serve(l); err != nil {
				failed <- err
			}
		}()
	}
	for _, line := range ready {
		fmt.Fprintln(stdout, line)
	}
	_ = notify("READY=1") // a supervisor that hears nothing says so itself
	select {
	case err := <-failed:
		return wrong(exitFailed, err)
	case <-ctx.Done():
	}
	_ = notify("STOPPING=1")
	grace, cancel := context.WithTimeoutCause(context.Background(), f.grace, errors.New("the grace is over"))
	defer cancel()
	_ = srv.Shutdown(grace) // what was cut off is in the log
	return exitOK
}

// reach is how the model servers are reached.
type reach struct {
	tls                 bool
	ca, cert, key, name string
	sharedMemory        int
}

// target reads SERVER/MODEL.
func (r *reach) target(text string) (t ferry.Target, err error) {
	at := strings.LastIndexByte(text, '/')
	if at < 1 || at == len(text)-1 {
		return t, errors.New("want SERVER/MODEL, such as 127.0.0.1:8001/digits or unix:///run/triton.sock/*")
	}
	e, err := endpoint.Parse(text[:at])
	if err != nil {
		return t, err
	}
	t = ferry.Target{Model: text[at+1:], Config: sidecar.Config{Endpoint: e.String(), SharedMemory: r.sharedMemory}}
	if !e.IsUnix() {
		t.Config.TLS, err = r.config()
	}
	return t, err
}

// config returns the TLS configuration for model servers, or nil for none.
func (r *reach) config() (*tls.Config, error) {
	if !r.tls && r.ca == "" && r.cert == "" && r.key == "" && r.name == "" {
		return nil, nil
	}
	out := &tls.Config{ServerName: r.name, MinVersion: tls.VersionTLS12}
	if r.ca != "" {
		pem, err := os.ReadFile(r.ca)
		if err != nil {
			return nil, fmt.Errorf("--server-ca: %w", err)
		}
		if out.RootCAs = x509.NewCertPool(); !out.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("--server-ca: %s holds no certificate in PEM", r.ca)
		}
	}
	if r.cert != "" || r.key != "" {
		pair, err := tls.LoadX509KeyPair(r.cert, r.key)
		if err != nil {
			return nil, fmt.Errorf("--server-cert, --server-key: %w", err)
		}
		out.Certificates = []tls.Certificate{pair}
	}
	return out, nil
}
