package sidecartest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/tensorferry/tensorferry/sidecar/backend"
	"github.com/tensorferry/tensorferry/sidecar/backend/mock"
	"github.com/tensorferry/tensorferry/sidecar/endpoint"
	"github.com/tensorferry/tensorferry/sidecar/oip"
	"github.com/tensorferry/tensorferry/sidecar/server"
	"github.com/tensorferry/tensorferry/tensor"
)

// TB is the part of testing.TB that this package needs.
type TB interface {
	Helper()
	Cleanup(func())
	Fatalf(format string, args ...any)
}

// Server is a running sidecar. Its methods are safe for concurrent use.
type Server struct {
	script   Script
	record   *record
	faults   *mock.Schedule // faults of the backend, kept across restarts
	conns    sync.Map       // number to *conn
	silent   atomic.Bool    // whether new connections are silent
	crashing sync.WaitGroup

	// life lets only one start or stop run at a time. It is a channel and not a mutex because
	// they may wait for time to pass. Under testing/synctest time does not pass while a
	// goroutine waits for a mutex.
	life   chan struct{}
	closed bool // guarded by life

	mu       sync.Mutex          // held only briefly
	where    []endpoint.Endpoint // nil: in memory
	listener *bufconn.Listener   // nil while it is down
	running  *server.Server      // nil while it is down
}

// Start runs a sidecar in memory until the end of the test. A script that is wrong fails the test.
func Start(t TB, script Script) *Server {
	t.Helper()
	return start(t, script)
}

// StartAt runs a sidecar at real endpoints, such as unix:///path.sock or 127.0.0.1:0, until the end
// of the test.
func StartAt(t TB, script Script, endpoints ...string) *Server {
	t.Helper()
	if len(endpoints) == 0 {
		t.Fatalf("sidecartest: StartAt without an endpoint; name one, or use Start")
	}
	return start(t, script, endpoints...)
}

func start(t TB, script Script, endpoints ...string) *Server {
	t.Helper()
	s, err := New(script, endpoints...)
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(s.Close)
	return s
}

// New runs a sidecar until Close, at the endpoints, or in memory if none is given. It waits until
// the model is loaded, unless the script sets LoadTime or LoadError.
func New(script Script, endpoints ...string) (*Server, error) {
	script.Model = cmp.Or(script.Model, "model")
	script.MaxBatchDelay = cmp.Or(script.MaxBatchDelay, -1)
	s := &Server{script: script, life: make(chan struct{}, 1)}
	var err error
	if s.record, err = newRecord(&s.script); err != nil {
		return nil, fmt.Errorf("sidecartest: %w", err)
	}
	for _, f := range script.BackendFaults {
		if f.Kind == mock.Drop {
			return nil, fmt.Errorf("sidecartest: fault %q: a backend has no connection to drop; put it into Faults", f)
		}
	}
	if s.faults, err = mock.NewSchedule(script.BackendFaults); err != nil {
		return nil, fmt.Errorf("sidecartest: %w", err)
	}
	if _, err := mock.New(script.mock()); err != nil {
		return nil, fmt.Errorf("sidecartest: %w", err)
	}
	for _, text := range endpoints {
		e, err := endpoint.Parse(text)
		if err != nil {
			return nil, fmt.Errorf("sidecartest: %w", err)
		}
		s.where = append(s.where, e)
	}
	if err := s.Restart(); err != nil {
		return nil, err
	}
	return s, nil
}

// Restart starts the sidecar again after Kill or Stop, at the same endpoints. The log and the
// counts continue. It is an error if the sidecar is running or was closed.
func (s *Server) Restart() error {
	s.life <- struct{}{}
	defer func() { <-s.life }()
	if s.Serving() != nil || s.closed {
		return errors.New("sidecartest: Restart of a sidecar that is running or was closed; call Kill or Stop first")
	}
	srv, err := server.New(server.Config{
		Models:   []server.Model{{Name: s.script.Model, Version: s.script.Version, Location: "mock:" + s.script.Function, Load: s.load}},
		WarmUp:   []int{}, // warm-up runs would count as calls of the script
		MaxBatch: s.script.MaxBatch, MaxBatchDelay: s.script.MaxBatchDelay,
		QueueRows: s.script.QueueRows, QueueBytes: s.script.QueueBytes, QueueTimeout: s.script.QueueTimeout,
		RetryDelay: s.script.RetryDelay, MaxMessageSize: s.script.MaxMessageSize, Grace: s.script.Grace, Tracer: s.script.Tracer,
		Options: append([]grpc.ServerOption{grpc.ChainUnaryInterceptor(s.intercept)}, s.script.Options...),
	})
	if err != nil {
		return err
	}
	var listeners []net.Listener
	if s.where == nil {
		l := bufconn.Listen(256 << 10)
		s.mu.Lock()
		s.listener = l
		s.mu.Unlock()
		listeners = append(listeners, &tracker{l, s})
	}
	for i, e := range s.where {
		l, err := e.Listen()
		if err == nil {
			// Keep a port that the system chose across restarts.
			s.mu.Lock()
			s.where[i], err = endpoint.FromAddr(l.Addr())
			s.mu.Unlock()
			listeners = append(listeners, &tracker{l, s})
		}
		if err != nil {
			for _, l := range listeners {
				l.Close()
			}
			return fmt.Errorf("sidecartest: %w", err)
		}
	}
	if err := srv.Start(listeners...); err != nil {
		return err
	}
	if s.script.LoadTime == 0 && s.script.LoadError == "" {
		// Otherwise a caller might or might not find the model loading.
		_ = srv.WaitReady(context.Background())
	}
	s.mu.Lock()
	s.running = srv
	s.mu.Unlock()
	return nil
}

func (s *Server) load(ctx context.Context) (backend.Model, error) {
	cfg := s.script.mock()
	cfg.Schedule = s.faults
	cfg.OnCrash = s.crash
	return mock.Load(ctx, cfg)
}

// crash does what a fault of kind Crash asks for. It runs Kill on a goroutine of its own, because
// Kill waits for the caller.
func (s *Server) crash() {
	if s.script.OnCrash != nil {
		s.script.OnCrash()
		return
	}
	s.crashing.Go(s.Kill)
}

// Kill ends the sidecar like a killed process: listeners and connections close at once, and open
// calls have no answer. When it returns, nothing of the sidecar is left.
func (s *Server) Kill() { s.stop(true) }

// Stop ends the sidecar like SIGTERM: it refuses new requests with DRAINING and finishes the others
// within the grace period.
func (s *Server) Stop() { s.stop(false) }

func (s *Server) stop(kill bool) {
	s.life <- struct{}{}
	defer func() { <-s.life }()
	s.end(kill)
}

// end is stop for a caller that holds s.life.
func (s *Server) end(kill bool) {
	srv := s.Serving()
	if srv == nil {
		return
	}
	if kill {
		s.mu.Lock()
		if s.listener != nil {
			s.listener.Close()
		}
		s.mu.Unlock()
		s.DropConnections()
		srv.Close()
	} else {
		_ = srv.Shutdown(context.Background())
	}
	s.mu.Lock()
	s.running, s.listener = nil, nil
	s.mu.Unlock()
}

// Close is Kill, and the sidecar cannot be restarted. Further calls do nothing.
func (s *Server) Close() {
	s.Kill()
	s.life <- struct{}{}
	s.closed = true
	s.end(true) // a Restart may have run in between
	<-s.life
	s.crashing.Wait()
}

// WaitReady waits until the model is loaded, and returns its error if it failed.
func (s *Server) WaitReady(ctx context.Context) error {
	srv := s.Serving()
	if srv == nil {
		return errors.New("sidecartest: the sidecar is not running")
	}
	return srv.WaitReady(ctx)
}

// Serving returns the server itself, for its health and metrics, or nil while it is down.
func (s *Server) Serving() *server.Server {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.running
}

// Model returns the name of the model.
func (s *Server) Model() string { return s.script.Model }

// Endpoint returns the first endpoint, with its real port. In memory it is a name that only Dialer
// finds.
func (s *Server) Endpoint() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.where == nil {
		return "unix-abstract:sidecartest"
	}
	return s.where[0].String()
}

// Endpoints returns all endpoints.
func (s *Server) Endpoints() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, e := range s.where {
		out = append(out, e.String())
	}
	return out
}

// Dialer returns a function that connects to the sidecar, whatever address it is called with, for
// grpc.WithContextDialer. The connection is refused while the sidecar is down.
func (s *Server) Dialer() func(ctx context.Context, address string) (net.Conn, error) {
	return func(ctx context.Context, _ string) (net.Conn, error) {
		s.record.update(func() {
			s.record.status.Dials++
			s.record.dials = append(s.record.dials, time.Now())
		})
		s.mu.Lock()
		where, l := slices.Clone(s.where), s.listener
		s.mu.Unlock()
		if where != nil {
			var d net.Dialer
			return d.DialContext(ctx, where[0].Network, where[0].Address)
		}
		if l != nil {
			if c, err := l.DialContext(ctx); err == nil || ctx.Err() != nil {
				return c, err
			}
		}
		return nil, &net.OpError{Op: "dial", Net: "memory", Err: syscall.ECONNREFUSED}
	}
}

// Dial returns a plain gRPC connection to the sidecar. The caller closes it.
func (s *Server) Dial(opts ...grpc.DialOption) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///sidecartest", append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(s.Dialer()),
		grpc.WithDisableServiceConfig(),
		grpc.WithIdleTimeout(0),
	}, opts...)...)
}

// DropConnections closes every connection at once, as a network failure does. The sidecar keeps
// running and accepts new ones.
func (s *Server) DropConnections() {
	s.conns.Range(func(_, c any) bool { c.(*conn).Close(); return true })
}

// Silence makes every connection, in both directions, lose what is sent from now on without an
// error. A firewall that has forgotten the connections behaves like this, and so does a machine
// that has lost its power. Connections that arrive later are accepted, and are silent too, until
// Speak.
func (s *Server) Silence() {
	s.silent.Store(true)
	s.conns.Range(func(_, c any) bool { c.(*conn).silent.Store(true); return true })
}

// SilenceConnection is Silence for one connection only. Its number is that of Call.Connection.
func (s *Server) SilenceConnection(number uint64) {
	if c, ok := s.conns.Load(number); ok {
		c.(*conn).silent.Store(true)
	}
}

// Speak ends Silence for connections that arrive from now on. Silent connections stay silent.
func (s *Server) Speak() { s.silent.Store(false) }

// Block keeps calls that arrive from now on waiting, until Release or until their caller gives up.
func (s *Server) Block() {
	s.record.update(func() {
		select {
		case <-s.record.gate:
			s.record.gate = make(chan struct{})
		default: // already blocked
		}
	})
}

// Release lets blocked calls continue.
func (s *Server) Release() {
	s.record.update(func() {
		select {
		case <-s.record.gate:
		default:
			close(s.record.gate)
		}
	})
}

// Fail adds a fault to the script's Faults. Call numbers in it count all calls, from the first.
func (s *Server) Fail(f mock.Fault) error { return s.record.schedule.Add(f) }

// FailNext makes the next n calls fail with the code and reason. With an empty reason the status
// has no details, like that of a foreign server.
func (s *Server) FailNext(code codes.Code, reason string, n int) error {
	return s.Fail(mock.Fault{Error: backend.Error{Code: code, Reason: reason, Message: "scripted failure"}, Times: n})
}

// intercept handles every ModelInfer call.
func (s *Server) intercept(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (resp any, err error) {
	msg, ok := req.(*oip.ModelInferRequest)
	if !ok {
		return next(ctx, req)
	}
	var number uint64
	if p, ok := peer.FromContext(ctx); ok {
		if a, ok := p.Addr.(connAddr); ok {
			number = a.number
		}
	}
	call := s.record.start(msg, number)
	ended := false
	defer func() {
		if !ended {
			s.record.end(call, status.Error(codes.Internal, "panicked"))
		}
	}()
	resp, err = s.handle(ctx, msg, call, next)
	ended = true
	s.record.end(call, err)
	return resp, err
}

func (s *Server) handle(ctx context.Context, msg *oip.ModelInferRequest, call *Call, next grpc.UnaryHandler) (any, error) {
	if err := s.record.pass(ctx); err != nil {
		return nil, status.FromContextError(err).Err()
	}
	if s.script.Refuse != nil {
		if err := s.script.Refuse(*call); err != nil {
			return nil, err
		}
	}
	f, rows, ok := s.record.schedule.Match(call.Number, call.First)
	if !ok {
		return next(ctx, msg)
	}
	switch f.Kind {
	case mock.Fail:
		return nil, statusOf(&f.Error, msg)
	case mock.BadRow:
		input := ""
		if len(msg.GetInputs()) > 0 {
			input = msg.GetInputs()[0].GetName()
		}
		return nil, oip.Error(codes.InvalidArgument, oip.ReasonBadTensor, "scripted to be refused", oip.WithBadRows(input, "scripted to be refused", rows...))
	case mock.Panic:
		panic(fmt.Sprintf("sidecartest: scripted panic in call %d", call.Number))
	case mock.Crash:
		s.crash()
	case mock.Drop:
		if c, ok := s.conns.Load(call.Connection); ok {
			c.(*conn).Close()
		}
	case mock.Short:
		resp, err := next(ctx, msg)
		if answer, ok := resp.(*oip.ModelInferResponse); ok && err == nil {
			err = shorten(answer)
		}
		return resp, err
	}
	// Hang, and the kinds that lose the connection, give no answer.
	<-ctx.Done()
	return nil, status.FromContextError(ctx.Err()).Err()
}

// statusOf returns the scripted status. For RESOURCE_EXHAUSTED without a reason, the message is
// that of grpc's size limit, because that is where such a status comes from.
func statusOf(e *backend.Error, msg *oip.ModelInferRequest) error {
	message := cmp.Or(e.Message, "scripted failure")
	if e.Reason == "" {
		if e.Code == codes.ResourceExhausted && !strings.Contains(message, "larger than max") {
			message += ": grpc: received message larger than max (2 vs. 1)"
		}
		return status.Error(e.Code, message)
	}
	opts := []oip.Option{oip.WithMetadata(oip.MetaModel, msg.GetModelName())}
	if msg.GetId() != "" {
		opts = append(opts, oip.WithMetadata(oip.MetaRequestID, msg.GetId()))
	}
	if e.RetryAfter > 0 {
		opts = append(opts, oip.WithRetryAfter(e.RetryAfter))
	}
	return oip.Error(e.Code, e.Reason, message, opts...)
}

// shorten removes the last row from an answer.
func shorten(answer *oip.ModelInferResponse) error {
	for i, o := range answer.GetOutputs() {
		dt, err := tensor.ParseDType(o.GetDatatype())
		if err != nil {
			return err
		}
		t := tensor.Tensor{Name: o.GetName(), DType: dt, Shape: o.GetShape(), Raw: answer.GetRawOutputContents()[i]}
		if len(t.Shape) == 0 || t.Shape[0] == 0 {
			continue
		}
		if t, err = t.Slice(0, t.Shape[0]-1); err != nil {
			return err
		}
		o.Shape, answer.RawOutputContents[i] = t.Shape, t.Raw
	}
	return nil
}
