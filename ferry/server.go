package ferry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/internal/guard"
	"github.com/tensorferry/tensorferry/job"
	"github.com/tensorferry/tensorferry/job/inference"
	"github.com/tensorferry/tensorferry/sidecar"
	"github.com/tensorferry/tensorferry/sidecar/endpoint"
	"github.com/tensorferry/tensorferry/trace"
)

// Defaults of Config.
const (
	DefaultMaxConnections = 256
	DefaultMaxCalls       = 10_000
	DefaultMaxBytes       = 64 << 20
	DefaultMaxFrame       = 64 << 20
	DefaultHelloTimeout   = 10 * time.Second
	DefaultAnswerTimeout  = time.Minute
	DefaultSilence        = 30 * time.Second
	defaultLinger         = time.Second
)

// Target is a model on a server that clients may reach through the ferry.
type Target struct {
	// Model is the model's name, or "*" for every model of the server.
	Model string
	// Config is how the server is reached: its Endpoint, TLS, Dialer, Backoff, SharedMemory and
	// SharedMemoryMin are used. Everything else is the client's.
	Config sidecar.Config
}

// Config says what a Server allows. Zero fields take the documented defaults.
type Config struct {
	// Allow are the models that clients may name. There must be at least one.
	Allow []Target
	// MaxConnections is the largest number of connections at once. Default 256.
	MaxConnections int
	// MaxCalls and MaxBytes bound the calls of one connection that have no answer yet, and the
	// bytes of their frames. A client that asks for more gets these. Default 10,000 and 64 MiB. The
	// results that wait have the bound MaxBytes too.
	MaxCalls int
	MaxBytes int64
	// MaxFrame is the largest frame of a client, in bytes. Default 64 MiB.
	MaxFrame int
	// HelloTimeout is how long a client may take to say what it wants. Default 10 s.
	HelloTimeout time.Duration
	// AnswerTimeout is how long a client may take to read what was sent. Default 1 min.
	AnswerTimeout time.Duration
	// Silence is how long nothing may come from a client before it is asked for a sign of life, and
	// how long it has for that. Default 30 s.
	Silence time.Duration
	// Linger is how long a connection stays open for a client that has not read its end. Default
	// 1 s.
	Linger time.Duration
	// Tracer traces records; nil: none. Logger receives what happens to connections, never records;
	// nil: nothing is logged.
	Tracer trace.Tracer
	Logger *slog.Logger
}

// Server is a ferry. New makes it, Serve accepts connections, and Shutdown or Close ends it. Its
// methods are safe for concurrent use.
type Server struct {
	cfg      Config
	draining chan struct{} // closed when the server begins to drain
	ctx      context.Context
	cut      context.CancelCauseFunc

	mu        sync.Mutex
	drained   bool
	listeners map[*net.Listener]struct{} // by pointer, since not every listener can be compared
	open      map[*connection]struct{}
	past      map[model]counts // of the connections that are over
	refused   int64
	said      bool // that there are too many connections
	wait      sync.WaitGroup
}

// errClosed ends connections when the grace is over.
var errClosed = errors.New("the ferry stops")

// New checks the configuration and makes a server. It starts nothing.
func New(cfg Config) (*Server, error) {
	if len(cfg.Allow) == 0 {
		return nil, errors.New("ferry: no model is allowed; name at least one server and model")
	}
	for i, t := range cfg.Allow {
		if t.Model == "" {
			return nil, fmt.Errorf("ferry: target %d: no model; want its name, or * for all", i)
		}
		c := t.Config
		c.Model = t.Model
		if err := c.Validate(); err != nil {
			return nil, fmt.Errorf("ferry: %s/%s: %w", t.Config.Endpoint, t.Model, err)
		}
	}
	for _, f := range []struct {
		name  string
		v     *int
		usual int
	}{
		{"MaxConnections", &cfg.MaxConnections, DefaultMaxConnections},
		{"MaxCalls", &cfg.MaxCalls, DefaultMaxCalls},
		{"MaxFrame", &cfg.MaxFrame, DefaultMaxFrame},
	} {
		if *f.v < 0 || *f.v > 1<<30 {
			return nil, fmt.Errorf("ferry: %s is %d; want 1 to %d, or 0 for %d", f.name, *f.v, 1<<30, f.usual)
		}
		if *f.v == 0 {
			*f.v = f.usual
		}
	}
	if cfg.MaxBytes < 0 || cfg.MaxBytes > 1<<40 {
		return nil, fmt.Errorf("ferry: MaxBytes is %d; want 1 to %d, or 0 for %d", cfg.MaxBytes, int64(1)<<40, DefaultMaxBytes)
	}
	if cfg.MaxBytes == 0 {
		cfg.MaxBytes = DefaultMaxBytes
	}
	for _, f := range []struct {
		name  string
		v     *time.Duration
		usual time.Duration
	}{
		{"HelloTimeout", &cfg.HelloTimeout, DefaultHelloTimeout},
		{"AnswerTimeout", &cfg.AnswerTimeout, DefaultAnswerTimeout},
		{"Silence", &cfg.Silence, DefaultSilence},
		{"Linger", &cfg.Linger, defaultLinger},
	} {
		if *f.v < 0 {
			return nil, fmt.Errorf("ferry: %s is %v; want more than 0, or 0 for %v", f.name, *f.v, f.usual)
		}
		if *f.v == 0 {
			*f.v = f.usual
		}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	cfg.Logger = guard.Logger(cfg.Logger)
	s := &Server{
		cfg: cfg, draining: make(chan struct{}),
		listeners: map[*net.Listener]struct{}{}, open: map[*connection]struct{}{}, past: map[model]counts{},
	}
	s.ctx, s.cut = context.WithCancelCause(context.Background())
	return s, nil
}

// acceptDelay is how long Serve waits for a file to be closed when too many are open.
const acceptDelay = time.Second

// Serve accepts connections until Shutdown or Close, which close the listener. It returns nil then,
// and the listener's failure otherwise. While too many files are open, Serve waits.
func (s *Server) Serve(l net.Listener) error {
	l = guard.Listener(l, func(error) {})
	s.mu.Lock()
	if s.drained {
		s.mu.Unlock()
		l.Close()
		return nil
	}
	s.listeners[&l] = struct{}{}
	s.mu.Unlock()
	for {
		c, err := l.Accept()
		if err != nil {
			if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
				s.cfg.Logger.Warn("connections wait until others end", "error", err)
				select {
				case <-s.draining:
				case <-time.After(acceptDelay):
				}
				continue
			}
			s.mu.Lock()
			drained := s.drained
			delete(s.listeners, &l)
			s.mu.Unlock()
			if drained {
				return nil
			}
			l.Close()
			return fmt.Errorf("ferry: serving on %v: %w", l.Addr(), err)
		}
		s.Handle(c)
	}
}

// peerUser is a variable for the tests, which have one user.
var peerUser = endpoint.PeerUser

// stranger reports whether c came over an abstract socket, which has no mode, and its user is
// neither the server's own nor root.
func stranger(c net.Conn) bool {
	a := c.LocalAddr()
	if a == nil || a.Network() != "unix" || !strings.HasPrefix(a.String(), "@") {
		return false
	}
	user, known := peerUser(c)
	return !known || user != os.Geteuid() && user != 0
}

// Handle serves a connection that was accepted elsewhere, in goroutines of its own, and returns at
// once. The server owns the connection from then on. A connection of another user over an abstract
// Unix socket is closed.
func (s *Server) Handle(c net.Conn) {
	c = guard.Conn("the client", c, func(error) {})
	conn := s.newConnection(c)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.drained {
		c.Close()
		return
	}
	if stranger(c) {
		s.cfg.Logger.Warn("a connection was refused: it came over an abstract socket, from another user")
		s.refused++
		c.Close()
		return
	}
	if len(s.open) >= s.cfg.MaxConnections {
		if s.refused++; !s.said {
			s.said = true
			s.cfg.Logger.Warn("a connection was refused: there are as many as are allowed; this is said once", "max_connections", s.cfg.MaxConnections)
		}
		c.Close()
		return
	}
	s.open[conn] = struct{}{}
	s.wait.Go(func() {
		err := guard.Call("a connection of the ferry", func() error { return conn.serve(s.ctx) })
		s.mu.Lock()
		delete(s.open, conn)
		s.over(conn)
		s.mu.Unlock()
		switch {
		case err == nil:
			conn.log.Info("a client is gone")
		case errors.Is(err, errClosed):
			conn.log.Warn("a client was still connected when the ferry stopped; it sends its unanswered records again elsewhere")
		default:
			// The error may quote the client.
			conn.log.Warn("a connection was ended", "error", valid(err.Error()))
		}
	})
}

// Shutdown closes the listeners, asks the clients to go elsewhere, and waits until they have. When
// ctx ends it closes the connections that are left, and returns the cause.
func (s *Server) Shutdown(ctx context.Context) error {
	s.drain()
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.wait.Wait()
	}()
	select {
	case <-done:
		s.cut(errClosed)
		return nil
	case <-ctx.Done():
		s.cut(errClosed)
		<-done
		return context.Cause(ctx)
	}
}

// Close closes the listeners and all connections, and waits until nothing is left of them.
func (s *Server) Close() error {
	s.drain()
	s.cut(errClosed)
	s.wait.Wait()
	return nil
}

func (s *Server) drain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.drained {
		return
	}
	s.drained = true
	close(s.draining)
	for l := range s.listeners {
		(*l).Close()
	}
}

// refusedError is a failure of what a client asked for.
type refusedError struct{ error }

func (refusedError) Verdict() async.Verdict { return async.Verdict{Class: async.Permanent} }

// clientConfig finds the server that a client asks for.
func (s *Server) clientConfig(p *plan) (cfg sidecar.Config, err error) {
	i := &p.spec.Infer
	var found []Target
	if i.Model == "" {
		if len(s.cfg.Allow) > 1 || s.cfg.Allow[0].Model == "*" {
			return cfg, p.spec.Fault("infer.model", "missing; the ferry may reach more than one model")
		}
		i.Model = s.cfg.Allow[0].Model
	}
	for _, t := range s.cfg.Allow {
		if (t.Model == i.Model || t.Model == "*") && (i.Endpoint == "" || i.Endpoint == t.Config.Endpoint) {
			found = append(found, t)
		}
	}
	switch {
	case len(found) == 0 && i.Endpoint == "":
		return cfg, refusedError{fmt.Errorf("the ferry may not reach a model %q; it allows what --allow says", i.Model)}
	case len(found) == 0:
		return cfg, refusedError{fmt.Errorf("the ferry may not reach the model %q at %s; it allows what --allow says", i.Model, i.Endpoint)}
	case i.Endpoint == "" && found[0].Config.Endpoint != found[len(found)-1].Config.Endpoint:
		return cfg, p.spec.Fault("infer.endpoint", "missing; the ferry may reach the model %q on more than one server", i.Model)
	}
	to := found[0].Config
	if cfg, err = inference.ClientConfig(p.spec, to.Endpoint); err != nil {
		return cfg, err
	}
	cfg.TLS, cfg.Dialer = to.TLS, to.Dialer
	if to.Backoff != (sidecar.Backoff{}) {
		cfg.Backoff = to.Backoff
	}
	cfg.SharedMemory, cfg.SharedMemoryMin = to.SharedMemory, to.SharedMemoryMin
	return cfg, nil
}

// jsonFunction makes the function for the form JSON.
func jsonFunction(p *plan, cfg sidecar.Config) (async.Function[payload, payload], error) {
	fn, err := inference.FunctionOf(p.spec, cfg)
	if err != nil {
		return nil, err
	}
	return fn, nil
}

// failureOf describes an error to a client.
func (s *Server) failureOf(err error, endpoint string) *failure {
	f := &failure{class: async.VerdictOf(err).Class, text: err.Error(), endpoint: endpoint}
	var broken ruleError
	var fault job.Fault
	var faults job.Faults
	switch e, ok := errors.AsType[*sidecar.Error](err); {
	case ok:
		f.code, f.reason, f.request = string(e.Code), e.Reason, e.RequestID
	case errors.As(err, new(refusedError)):
		f.code = "PERMISSION_DENIED"
	case errors.As(err, &broken), errors.As(err, &fault), errors.As(err, &faults):
		f.class, f.code = async.Permanent, "INVALID_ARGUMENT"
	case errors.Is(err, errClosed):
		f.class, f.code = async.Transport, "UNAVAILABLE"
	}
	return f
}
