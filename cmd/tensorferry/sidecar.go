package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tensorferry/tensorferry/ferry"
	"github.com/tensorferry/tensorferry/internal/cli"
	"github.com/tensorferry/tensorferry/sidecar/backend"
	"github.com/tensorferry/tensorferry/sidecar/backend/ort"
	"github.com/tensorferry/tensorferry/sidecar/endpoint"
	"github.com/tensorferry/tensorferry/sidecar/server"
)

const sidecarHelp = `usage: tensorferry sidecar --listen ENDPOINT --model NAME=FILE [flags]
       tensorferry sidecar --listen ENDPOINT --repository DIR [flags]

Serves models over gRPC (Open Inference Protocol) until SIGTERM or SIGINT. Then it refuses
new requests, finishes those in progress, and exits with 0. When it is ready, it prints one
line per endpoint on standard output. The log goes to standard error.

ENDPOINT is unix:///absolute/path.sock, unix-abstract:name, host:port or [v6]:port.

FILE is a model file such as digits.onnx, with options after a question mark, such as
digits.onnx?fixed_batch=32, or it is mock:FUNCTION. ONNX models run in ONNX Runtime if its
library is found and can load them, and otherwise in pure Go. ort:FILE and onnx:FILE choose
for one model.

NAME@VERSION=FILE is one of several versions of a model. A request without a version gets
the greatest.

DIR contains models as NAME/VERSION/model.onnx, where VERSION is a number. All of them are
loaded at the start. With --model-control explicit, only those of --load are, and clients
may load and unload models while the server runs.

If a model fails to load, the server serves the others, and /health and /health/NAME report
the failure. With --strict the process ends instead.

`

// serverFlags are the flags that sidecar and mock-sidecar have in common.
type serverFlags struct {
	set           *flag.FlagSet
	listen        listFlag
	health        string
	maxBatch      int
	maxBatchDelay time.Duration
	queueRows     int
	queueBytes    int64
	queueTimeout  time.Duration
	grace         time.Duration
	maxMessage    int
	plaintext     bool
}

// listFlag is a flag that may come several times.
type listFlag []string

func (l *listFlag) String() string     { return strings.Join(*l, ",") }
func (l *listFlag) Set(s string) error { *l = append(*l, s); return nil }

func newServerFlags(name string) *serverFlags {
	f := &serverFlags{set: cli.Flags(name)}
	f.set.Var(&f.listen, "listen", "`ENDPOINT` to serve gRPC on; may be repeated")
	f.set.StringVar(&f.health, "health", "", "`HOST:PORT` to serve /health and /metrics on, over HTTP")
	decimalVar(f.set, &f.maxBatch, "max-batch", server.DefaultMaxBatch, "most `ROWS` in a batch")
	f.set.DurationVar(&f.maxBatchDelay, "max-batch-delay", server.DefaultMaxBatchDelay, "longest time that a batch waits for more rows while others run; 0 for no wait")
	f.set.DurationVar(&f.maxBatchDelay, "window", server.DefaultMaxBatchDelay, "the old name of --max-batch-delay")
	decimalVar(f.set, &f.queueRows, "queue-rows", server.DefaultQueueRows, "most `ROWS` that wait in the queue")
	decimalVar(f.set, &f.queueBytes, "queue-bytes", server.DefaultQueueBytes, "most `BYTES` of requests that wait in the queue")
	f.set.DurationVar(&f.queueTimeout, "queue-timeout", server.DefaultQueueTimeout, "longest wait in the queue")
	f.set.DurationVar(&f.grace, "grace", server.DefaultGrace, "longest time to finish requests when the server stops")
	decimalVar(f.set, &f.maxMessage, "max-message", server.DefaultMaxMessageSize, "largest request and answer, in `BYTES`")
	f.set.BoolVar(&f.plaintext, "plaintext", false, "listen without TLS on addresses that other machines may reach")
	return f
}

// parse reads the arguments. If ok is false, the command ends with code.
func (f *serverFlags) parse(args []string, help string, stdout, stderr io.Writer) (code int, ok bool) {
	name := f.set.Name()
	err := f.set.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		io.WriteString(stdout, help)
		f.describe(stdout)
		return exitOK, false
	case err != nil:
		err = cli.FlagError(err)
	case f.set.NArg() > 0:
		err = fmt.Errorf("unexpected argument %q", f.set.Arg(0))
	case len(f.listen) == 0:
		err = errors.New("--listen is missing; want an endpoint to serve on")
	case f.maxBatch < 1 || f.queueRows < 1 || f.queueBytes < 1 || f.queueTimeout <= 0 || f.maxMessage < 1:
		err = errors.New("--max-batch, --queue-rows, --queue-bytes, --queue-timeout and --max-message must be more than 0")
	case f.maxBatchDelay < 0 || f.grace < 0:
		err = errors.New("--max-batch-delay and --grace must not be negative")
	}
	if err != nil {
		fmt.Fprintf(stderr, "tensorferry %s: %v; see tensorferry help %s\n", name, err, name)
		return exitUsage, false
	}
	return 0, true
}

// describe lists the flags.
func (f *serverFlags) describe(out io.Writer) {
	f.set.VisitAll(func(fl *flag.Flag) {
		value, text := flag.UnquoteUsage(fl)
		if !slices.Contains([]string{"", "0", "0s", "false"}, fl.DefValue) {
			text += " (default " + fl.DefValue + ")"
		}
		fmt.Fprintf(out, "  %s\n        %s\n", strings.TrimSpace("--"+fl.Name+" "+value), text)
	})
}

// endpoints parses the values of --listen.
func (f *serverFlags) endpoints() ([]endpoint.Endpoint, error) {
	var out []endpoint.Endpoint
	for _, text := range f.listen {
		e, err := endpoint.Parse(text)
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, nil
}

// orNone turns 0 into -1, since 0 means the default in the server's configuration.
func orNone(d time.Duration) time.Duration { return cmp.Or(d, -1) }

// listen opens the endpoints' listeners, with TLS on TCP if secure is not nil. ready has a line for
// each, which says what is served there.
func listen(endpoints []endpoint.Endpoint, secure *tls.Config, what string) (listeners []net.Listener, ready []string, err error) {
	for _, e := range endpoints {
		l, err := e.Listen()
		if err != nil {
			closeListeners(listeners)
			return nil, nil, err
		}
		if bound, err := endpoint.FromAddr(l.Addr()); err == nil {
			e = bound // has the port that the system chose
		}
		if secure != nil && !e.IsUnix() {
			l = tls.NewListener(l, secure)
		}
		listeners = append(listeners, l)
		ready = append(ready, "ready: "+what+" on "+e.String())
	}
	return listeners, ready, nil
}

func closeListeners(listeners []net.Listener) {
	for _, l := range listeners {
		l.Close()
	}
}

// listenHealth opens the listener of --health, or returns nil if there is none.
func (f *serverFlags) listenHealth() (net.Listener, error) {
	if f.health == "" {
		return nil, nil
	}
	e, err := endpoint.Parse(f.health)
	if err == nil && e.IsUnix() {
		err = fmt.Errorf("endpoint %q: health is served over TCP; write host:port", f.health)
	}
	if err != nil {
		return nil, err
	}
	return e.Listen()
}

// runSidecar serves models until ctx ends.
func runSidecar(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	f := newServerFlags("sidecar")
	var models listFlag
	var cert, key, clientCA string
	var repository, control, warmUp string
	var preload listFlag
	var noReflection, noSharedMemory, strict bool
	var warmUpTimeout time.Duration
	var cfg server.Config
	doorFlags(f.set, &cfg)
	f.set.Var(&models, "model", "`NAME=FILE` or NAME@VERSION=FILE of a model; may be repeated")
	f.set.StringVar(&repository, "repository", "", "`DIR` with models, as NAME/VERSION/model.onnx")
	f.set.StringVar(&control, "model-control", "none", "`MODE`: none, or explicit to let clients load and unload models")
	f.set.Var(&preload, "load", "`NAME` of a model in the repository to load at the start, with --model-control explicit; may be repeated")
	f.set.StringVar(&warmUp, "warm-up", "1,max", "`ROWS,...` of the batches of zeros that each model runs before it is ready; max stands for --max-batch; off for no warm-up")
	f.set.DurationVar(&warmUpTimeout, "warm-up-timeout", server.DefaultWarmUpTimeout, "longest time for the warm-up of a model")
	f.set.BoolVar(&strict, "strict", false, "exit with 1 if a model fails to load at the start, and do not serve the others")
	ferries := ferryConnections
	decimalVar(f.set, &ferries, "ferry-connections", ferryConnections, "most `CONNECTIONS` of ferry clients, such as Flink's, on the same endpoints; 0 for none")
	f.set.BoolVar(&noReflection, "no-reflection", false, "do not offer gRPC server reflection")
	f.set.BoolVar(&noSharedMemory, "no-shared-memory", false, "do not accept tensors in shared memory from callers on this machine")
	f.set.StringVar(&cert, "tls-cert", "", "`FILE` with the certificate for TCP endpoints")
	f.set.StringVar(&key, "tls-key", "", "`FILE` with the private key of --tls-cert")
	f.set.StringVar(&clientCA, "tls-client-ca", "", "`FILE` with the authorities for client certificates, which clients must then show")
	traces := f.set.String("trace", "", "`HOST:PORT` of an OpenTelemetry collector (OTLP over gRPC) that gets the spans of requests whose callers are traced")
	var chosen choice
	f.set.StringVar(&chosen.backend, "backend", "auto", "`BACKEND` that runs ONNX models: auto, ort (ONNX Runtime) or onnx (pure Go)")
	f.set.StringVar(&chosen.ortLib, "ort-lib", "", "`FILE` of the ONNX Runtime library (default: $"+ort.LibraryVariable+", or the known places)")
	if code, ok := f.parse(args, sidecarHelp, stdout, stderr); !ok {
		return code
	}
	wrong := func(code int, err error) int {
		fmt.Fprintf(stderr, "tensorferry sidecar: %v\n", err)
		return code
	}
	endpoints, err := f.endpoints()
	if err != nil {
		return wrong(exitUsage, err)
	}
	logger := slog.New(slog.NewTextHandler(stderr, nil))
	registry, err := chosen.registry(logger)
	if err != nil {
		return wrong(exitUsage, err)
	}
	if err := checkDoors(&cfg); err != nil {
		return wrong(exitUsage, err)
	}
	if len(cfg.Controllers) > 0 && control != "explicit" {
		return wrong(exitUsage, errors.New("--model-control-from needs --model-control explicit, which lets callers load and unload models"))
	}
	if noSharedMemory && cfg.SharedMemoryTCP {
		return wrong(exitUsage, errors.New("--no-shared-memory and --shared-memory-over-tcp exclude each other"))
	}
	cfg.Backends, cfg.MaxBatch, cfg.MaxBatchDelay, cfg.QueueRows, cfg.QueueBytes = registry, f.maxBatch, orNone(f.maxBatchDelay), f.queueRows, f.queueBytes
	cfg.QueueTimeout, cfg.Grace, cfg.MaxMessageSize, cfg.Logger = f.queueTimeout, orNone(f.grace), f.maxMessage, logger
	cfg.Repository, cfg.Preload, cfg.Explicit = repository, preload, control == "explicit"
	cfg.NoReflection, cfg.NoSharedMemory, cfg.WarmUpTimeout, cfg.Strict = noReflection, noSharedMemory, warmUpTimeout, strict
	if cfg.WarmUp, err = parseWarmUp(warmUp); err != nil {
		return wrong(exitUsage, err)
	}
	if warmUpTimeout <= 0 {
		return wrong(exitUsage, errors.New("--warm-up-timeout must be more than 0"))
	}
	if control != "none" && control != "explicit" {
		return wrong(exitUsage, fmt.Errorf("--model-control %q: want none or explicit", control))
	}
	if len(preload) > 0 && (repository == "" || !cfg.Explicit) {
		return wrong(exitUsage, errors.New("--load needs --repository and --model-control explicit; without them all models are loaded"))
	}
	for _, m := range models {
		name, location, ok := strings.Cut(m, "=")
		if !ok || name == "" || location == "" {
			return wrong(exitUsage, fmt.Errorf("--model %q: want NAME=FILE, such as digits=digits.onnx", m))
		}
		loc, err := backend.ParseLocation(location)
		if err == nil {
			_, err = cfg.Backends.Loader(loc)
		}
		if err != nil {
			return wrong(exitUsage, fmt.Errorf("--model %s: %w", name, err))
		}
		base, version, versioned := strings.Cut(name, "@")
		if base == "" || versioned && version == "" {
			return wrong(exitUsage, fmt.Errorf("--model %q: want NAME@VERSION=FILE, such as digits@2=digits.onnx", m))
		}
		cfg.Models = append(cfg.Models, server.Model{Name: base, Version: version, Location: location})
	}
	if len(models) == 0 && repository == "" {
		return wrong(exitUsage, errors.New("--model and --repository are missing; want a model to serve; see tensorferry help sidecar"))
	}
	secure, err := tlsConfig(cert, key, clientCA)
	if err != nil {
		return wrong(exitUsage, err)
	}
	if secure == nil {
		if err := checkPlain(endpoints, f.plaintext); err != nil {
			return wrong(exitUsage, err)
		}
	}
	if *traces != "" {
		e, err := sidecarTraces(*traces, logger)
		if err != nil {
			return wrong(exitUsage, err)
		}
		// By then the requests have ended, and so has ctx: its end stops the server.
		defer e.Close(context.Background())
		cfg.Tracer = e.Tracer()
	}
	if ferries < 0 {
		return wrong(exitUsage, errors.New("--ferry-connections must not be negative"))
	}
	inside := newPipes()
	var boat *ferry.Server
	if ferries > 0 {
		only := "*"
		if len(cfg.Models) == 1 && repository == "" {
			only = cfg.Models[0].Name // which clients need not say
		}
		if boat, err = sidecarFerry(only, ferries, inside, logger); err != nil {
			return wrong(exitUsage, err)
		}
		defer boat.Close()
		cfg.Divert = boat.Handle
	}
	srv, err := server.New(cfg)
	if err != nil {
		return wrong(exitUsage, err)
	}
	defer srv.Close()

	listeners, ready, err := listen(endpoints, secure, "gRPC")
	if err != nil {
		return wrong(exitFailed, err)
	}
	closeAll := func() { closeListeners(listeners) }
	health, err := f.listenHealth()
	if err != nil {
		closeAll()
		return wrong(exitFailed, fmt.Errorf("--health: %w", err))
	}
	if health != nil {
		if err := srv.StartHTTP(health); err != nil {
			closeAll()
			health.Close()
			return wrong(exitFailed, err)
		}
		ready = append(ready, "ready: health on "+health.Addr().String())
	}
	if boat != nil {
		listeners = append(listeners, inside)
	}
	if err := srv.Start(listeners...); err != nil {
		closeAll()
		return wrong(exitFailed, err)
	}
	if err := srv.WaitReady(ctx); err != nil {
		switch {
		case ctx.Err() != nil:
			return exitOK // stopped while it was loading
		case !srv.Ready():
			return wrong(exitFailed, err) // with --strict, or without another model
		}
		logger.Warn("serving without the models that failed to load; with --strict the process would have ended", "error", err)
	}
	logger.Info("bound on the memory that requests can take", "request_memory_bytes", srv.RequestMemory())
	for _, line := range ready {
		fmt.Fprintln(stdout, line)
	}
	if err := notify("READY=1"); err != nil {
		logger.Warn("systemd does not know that the server is ready", "error", err)
	}
	defer context.AfterFunc(ctx, func() { _ = notify("STOPPING=1") })()
	if boat != nil {
		// The ferry's clients go first: what they have sent still needs the server.
		serving, cancel := context.WithCancel(context.Background())
		defer cancel()
		defer context.AfterFunc(ctx, func() {
			grace, end := context.WithTimeout(context.Background(), f.grace)
			defer end()
			_ = boat.Shutdown(grace) // what was cut off is in the log
			cancel()
		})()
		ctx = serving
	}
	if err := srv.Wait(ctx); err != nil {
		return wrong(exitFailed, err)
	}
	return exitOK
}

// parseWarmUp reads --warm-up.
func parseWarmUp(text string) ([]int, error) {
	out := []int{}
	if text == "off" {
		return out, nil
	}
	for part := range strings.SplitSeq(text, ",") {
		if part == "max" {
			out = append(out, 0)
			continue
		}
		n, err := strconv.Atoi(part)
		if err != nil || n < 1 {
			return nil, fmt.Errorf("--warm-up %q: want numbers of rows (1 or more, or max), separated by commas; or off", text)
		}
		out = append(out, n)
	}
	return out, nil
}

// tlsConfig reads the files of the TLS flags. It returns nil without a certificate.
func tlsConfig(cert, key, clientCA string) (*tls.Config, error) {
	if cert == "" && key == "" && clientCA == "" {
		return nil, nil
	}
	if cert == "" || key == "" {
		return nil, errors.New("TLS needs both --tls-cert and --tls-key")
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("--tls-cert, --tls-key: %w", err)
	}
	out := &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS12}
	if clientCA != "" {
		pem, err := os.ReadFile(clientCA)
		if err != nil {
			return nil, fmt.Errorf("--tls-client-ca: %w", err)
		}
		out.ClientCAs = x509.NewCertPool()
		if !out.ClientCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("--tls-client-ca: %s has no certificate in PEM form", clientCA)
		}
		out.ClientAuth = tls.RequireAndVerifyClientCert
	}
	return out, nil
}
