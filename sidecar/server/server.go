package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	grpcproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"github.com/tensorferry/tensorferry/internal/guard"
	"github.com/tensorferry/tensorferry/sidecar/oip"
)

// Server is a sidecar. New makes it, Start or Serve starts it once, and Shutdown or Close ends it.
// Its methods are safe for concurrent use.
type Server struct {
	cfg       Config
	repo      *repository
	admission *admission
	regions   regions

	// The doors. Each bounds what callers can make the server hold.
	connections budget
	calls       places     // inferences, those on streams too
	others      places     // other calls with one request and one answer
	loads       places     // calls that load and unload models
	streams     places     // open streams
	watches     watches    // of the server's health
	large       arrivals   // bytes of large inferences that arrive or are decoded
	small       arrivals   // bytes of small ones
	control     arrivals   // bytes of requests that are not inferences
	answers     answerRoom // of inferences
	told        answerRoom // of other calls
	tooMany     sync.Once  // for the warning about too many connections
	unbounded   sync.Once  // for the warning about a grpc that reads only whole messages
	turned      turnedAway

	metrics  *metrics
	watcher  *watcher
	healthMu sync.Mutex // held while health is set, so that the newest state is set last
	health   *health.Server
	grpc     *grpc.Server

	loadCtx     context.Context // ends when loading must stop
	stopLoading context.CancelFunc
	drainCtx    context.Context // ends when the server begins to drain
	drain       context.CancelFunc
	goroutines  sync.WaitGroup
	failed      chan error // a listener's failure, at most one is kept

	mu      sync.Mutex
	started bool
	ended   bool
	active  int           // admitted and unanswered
	idle    chan struct{} // closed when drained and active is 0
	http    []*http.Server
	stopped chan struct{} // closed when the shutdown is over
	outcome error         // of the shutdown
}

// New checks the configuration and makes a server. It loads and starts nothing. The error lists
// every field that is wrong.
func New(cfg Config) (*Server, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	repo, err := newRepository(&cfg)
	if err != nil {
		return nil, fmt.Errorf("sidecar server: %w", err)
	}
	if cfg.Repository != "" && !cfg.Explicit && len(repo.all()) == 0 {
		cfg.Logger.Warn("there is no model in the repository; want NAME/VERSION/model.onnx", "repository", cfg.Repository)
	}
	s := &Server{
		cfg:       cfg,
		repo:      repo,
		admission: &admission{maxRows: cfg.QueueRows, maxBytes: cfg.QueueBytes},
		watcher:   &watcher{log: cfg.Logger},
		health:    health.NewServer(),
		failed:    make(chan error, 1),
		idle:      make(chan struct{}),
		stopped:   make(chan struct{}),

		connections: budget{most: int64(cfg.MaxConnections)},
		calls:       newPlaces(cfg.MaxCalls, "inferences are in flight", "--max-calls"),
		others:      newPlaces(otherCalls(cfg.MaxCalls), "calls that are not inferences are in flight", quarter),
		loads:       newPlaces(mostLoads, "calls that load or unload models are in flight", "this bound is fixed"),
		streams:     newPlaces(otherCalls(cfg.MaxCalls), "streams are open", quarter),
		small:       arrivals{what: "requests of at most 1 MiB", flag: " (of --receive-bytes)"},
		large:       arrivals{what: "large requests", flag: " (of --receive-bytes)"},
		control:     arrivals{most: controlBytes, largest: claimOf(maxControl, controlGrowth), what: "requests that are not inferences"},
		answers:     answerRoom{budget: budget{most: cfg.AnswerBytes}, flag: ", --answer-bytes"},
		told:        answerRoom{budget: budget{most: controlBytes}, what: " of calls that are not inferences"},
	}
	s.small.most, s.small.largest, s.large.most, s.large.largest = cfg.receiveBytes()
	s.loadCtx, s.stopLoading = context.WithCancel(context.Background())
	s.drainCtx, s.drain = context.WithCancel(context.Background())
	s.metrics = newMetrics(s)
	s.setHealth()
	options := append([]grpc.ServerOption{
		grpc.MaxRecvMsgSize(cfg.MaxMessageSize),
		grpc.MaxSendMsgSize(cfg.MaxMessageSize),
		grpc.MaxConcurrentStreams(uint32(cfg.MaxStreams)),
		// Windows of a fixed size bound what a caller may send before the server reads it.
		grpc.InitialWindowSize(streamWindow),
		grpc.InitialConnWindowSize(connWindow),
		grpc.MaxHeaderListSize(maxHeaders),
		grpc.ConnectionTimeout(cfg.ReceiveTimeout),
		grpc.ForceServerCodecV2(codec{encoding.GetCodecV2(grpcproto.Name)}),
		grpc.StatsHandler(s.watcher),
		grpc.ChainStreamInterceptor(s.stream),
		// Clients ping every 30 s at most; half of that leaves room for clocks.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 15 * time.Second, PermitWithoutStream: true}),
		// These notice a caller that vanished without closing its connection. Its work is
		// then dropped.
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: time.Minute, Timeout: 20 * time.Second}),
		grpc.WaitForHandlers(true),
	}, cfg.Options...)
	if cfg.Divert != nil {
		options = append(options, grpc.Creds(newDivert(cfg.Divert)))
	}
	err = guard.Apart("grpc.NewServer, with the Options,", func() error {
		s.grpc = grpc.NewServer(options...)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("sidecar server: %w", err)
	}
	services := registrar{s.grpc, s}
	oip.RegisterGRPCInferenceServiceServer(services, &service{Server: s})
	grpc_health_v1.RegisterHealthServer(services, s.health)
	if !cfg.NoReflection {
		reflection.Register(services)
	}
	return s, nil
}

// Start begins to load the models and to serve on the listeners, and returns. The server owns the
// listeners from then on. A request for a model that is still being loaded is refused with
// MODEL_LOADING.
func (s *Server) Start(listeners ...net.Listener) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.started || s.ended {
		return errors.New("sidecar server: started already, or stopped")
	}
	if len(listeners) == 0 {
		return errors.New("sidecar server: no listener")
	}
	s.started = true
	models := s.repo.all()
	for _, f := range models {
		f.turn <- struct{}{} // before a caller can take it
	}
	for _, l := range listeners {
		s.goroutines.Go(func() {
			err := guard.Apart("serving", func() error { return s.grpc.Serve(door{guard.Listener(l, s.brokeListener), s}) })
			if err != nil && !errors.Is(err, grpc.ErrServerStopped) {
				s.report(fmt.Errorf("sidecar server: serving on %v: %w", l.Addr(), err))
			}
		})
	}
	for _, f := range models {
		s.goroutines.Go(func() {
			s.load(f, func(fail *failure) {
				if fail != nil {
					f.startErr = fail
				}
				close(f.first)
				s.setHealth()
			})
		})
	}
	return nil
}

// StartHTTP serves Handler on the listener, which the server owns from then on, and returns.
func (s *Server) StartHTTP(l net.Listener) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return errors.New("sidecar server: stopped")
	}
	h := &http.Server{
		Handler: http.MaxBytesHandler(s.Handler(), maxHTTPBody), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: maxHeaders,
	}
	l = &fewConnections{Listener: guard.Listener(l, s.brokeListener), open: budget{most: maxHTTPConnections}}
	s.http = append(s.http, h)
	s.goroutines.Go(func() {
		err := guard.Apart("serving HTTP", func() error { return h.Serve(l) })
		if err != nil && !errors.Is(err, http.ErrServerClosed) {
			s.report(fmt.Errorf("sidecar server: serving HTTP on %v: %w", l.Addr(), err))
		}
	})
	return nil
}

// brokeListener logs the panic of a listener or of a connection. The code that called it gets an
// error.
func (s *Server) brokeListener(err error) { s.cfg.Logger.Error("a listener failed", "error", err) }

func (s *Server) report(err error) {
	select {
	case s.failed <- err:
	default:
	}
}

// Serve calls Start, waits until ctx ends or a listener fails, and then calls Shutdown. It returns
// nil after a graceful stop because of ctx.
func (s *Server) Serve(ctx context.Context, listeners ...net.Listener) error {
	if err := s.Start(listeners...); err != nil {
		return err
	}
	return s.Wait(ctx)
}

// Wait waits until ctx ends or a listener of a started server fails, and then shuts the server
// down.
func (s *Server) Wait(ctx context.Context) error {
	var err error
	select {
	case <-ctx.Done():
	case err = <-s.failed:
	case <-s.stopped:
	}
	return errors.Join(err, s.Shutdown(context.WithoutCancel(ctx)))
}

// WaitReady waits until every model of the start has been loaded or has failed. It returns the
// errors of those that failed, or that of ctx.
func (s *Server) WaitReady(ctx context.Context) error {
	var errs []error
	for _, f := range s.repo.all() {
		select {
		case <-f.first:
			errs = append(errs, f.startErr)
		case <-ctx.Done():
			return fmt.Errorf("sidecar server: model %q is still loading: %w", f.name, context.Cause(ctx))
		}
	}
	return errors.Join(errs...)
}

// Ready reports whether the server takes requests: every model that it was asked for at its start
// was loaded, or, unless Config.Strict is set, some of them failed and at least one was loaded.
// Models that are loaded or unloaded later change nothing.
func (s *Server) Ready() bool {
	if s.isDraining() {
		return false
	}
	missing, loaded := false, false
	for _, f := range s.repo.all() {
		failed, loading := f.missing()
		if loading || failed && s.cfg.Strict {
			return false
		}
		missing = missing || failed
		loaded = loaded || f.wasLoaded()
	}
	return loaded || !missing
}

// Connections returns the number of open gRPC connections.
func (s *Server) Connections() int { return int(s.watcher.open.Load()) }

// setHealth tells the health service what Ready says.
func (s *Server) setHealth() {
	s.healthMu.Lock()
	defer s.healthMu.Unlock()
	st := grpc_health_v1.HealthCheckResponse_NOT_SERVING
	if s.Ready() {
		st = grpc_health_v1.HealthCheckResponse_SERVING
	}
	s.health.SetServingStatus("", st)
	s.health.SetServingStatus(oip.GRPCInferenceService_ServiceDesc.ServiceName, st)
}

func (s *Server) isDraining() bool { return s.drainCtx.Err() != nil }

// enter counts a request in, unless the server drains.
func (s *Server) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isDraining() {
		return false
	}
	s.active++
	return true
}

func (s *Server) exit() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active--
	s.checkIdle()
}

// checkIdle must be called with the lock held.
func (s *Server) checkIdle() {
	if s.active == 0 && s.isDraining() {
		select {
		case <-s.idle:
		default:
			close(s.idle)
		}
	}
}

// Shutdown stops the server. The server reports that it is not ready, refuses new requests with
// DRAINING, and finishes the admitted requests for as long as the grace period and ctx allow. The
// rest fail with INTERRUPTED, or with DRAINING if the model has seen nothing of them. Then
// connections, listeners and models are closed. A second call waits for the first. The error names
// a model whose backend did not return.
func (s *Server) Shutdown(ctx context.Context) error { return s.shutdown(ctx, s.cfg.Grace) }

// Close is Shutdown without a grace period: requests and connections end at once. It hastens a
// Shutdown that is in progress.
func (s *Server) Close() error { return s.shutdown(context.Background(), 0) }

func (s *Server) shutdown(ctx context.Context, grace time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		if grace == 0 {
			s.end() // a Close hurries a Shutdown that is in progress
		}
		<-s.stopped
		return s.outcome
	}
	s.ended = true
	s.drain()
	s.checkIdle()
	s.mu.Unlock()
	defer close(s.stopped)

	s.cfg.Logger.Info("stopping", "grace", grace)
	s.health.Shutdown()
	s.stopLoading()
	select {
	case <-s.idle:
	case <-ctx.Done():
	}
	if grace > 0 {
		// Connections close when their answers are written. A peer that does not read has
		// lingerTime for that.
		if ctx.Err() != nil {
			s.abort()
		}
		hurry := time.AfterFunc(lingerTime, s.end)
		s.grpc.GracefulStop()
		hurry.Stop()
	}
	s.end()

	// What remains are backends whose batches were cancelled.
	const patience = 5 * time.Second
	ctx, cancel = context.WithTimeout(context.Background(), patience)
	defer cancel()
	var closing error
	if s.started {
		closing = s.closeModels(ctx)
	}
	s.regions.forget("")
	for _, h := range s.http {
		h.Close()
	}
	s.outcome = closing
	if s.outcome == nil {
		s.goroutines.Wait()
	}
	return s.outcome
}

// lingerTime is how long closing connections may take to write their last answers.
const lingerTime = time.Second

// end fails what is left and closes every connection.
func (s *Server) end() {
	s.abort()
	s.grpc.Stop()
}

// abort fails every request that waits or runs.
func (s *Server) abort() {
	for _, f := range s.repo.all() {
		for _, m := range f.live() {
			m.runner.abort(s.draining())
		}
	}
}
