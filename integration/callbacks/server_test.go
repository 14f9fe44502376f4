package callbacks

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/tensorferry/tensorferry/sidecar/backend"
	"github.com/tensorferry/tensorferry/sidecar/oip"
	"github.com/tensorferry/tensorferry/sidecar/server"
	"github.com/tensorferry/tensorferry/tensor"
	"github.com/tensorferry/tensorferry/trace"
)

// model doubles.
type model struct{ *trap }

func (m model) Signature() tensor.Signature {
	m.spring("sidecar/backend.Model.Signature")
	return tensor.Signature{Model: "m", Version: "1", Batched: true,
		Inputs:  []tensor.Spec{{Name: "x", DType: tensor.FP32, Row: tensor.Shape{1}}},
		Outputs: []tensor.Spec{{Name: "y", DType: tensor.FP32, Row: tensor.Shape{1}}}}
}

func (m model) Instances() int {
	m.spring("sidecar/backend.Model.Instances")
	return 1
}

func (m model) Run(_ context.Context, in []tensor.Tensor) ([]tensor.Tensor, error) {
	return []tensor.Tensor{{Name: "y", DType: tensor.FP32, Shape: in[0].Shape, Raw: in[0].Raw}}, m.spring("sidecar/backend.Model.Run")
}

func (m model) Close() error { return m.spring("sidecar/backend.Model.Close") }

func (m model) NoWarmUp() bool {
	m.spring("sidecar/backend.Unwarmed.NoWarmUp")
	return true
}

// memory is a listener whose connections are pipes.
type memory struct {
	*trap
	conns chan net.Conn
	once  sync.Once
	over  chan struct{}
}

func (tr *trap) listen() *memory {
	return &memory{trap: tr, conns: make(chan net.Conn), over: make(chan struct{})}
}

func (m *memory) Accept() (net.Conn, error) {
	if err := m.spring("sidecar/server.Server.Start(listeners)"); err != nil {
		return nil, err
	}
	select {
	case c := <-m.conns:
		return c, nil
	case <-m.over:
		return nil, net.ErrClosed
	}
}

func (m *memory) Close() error {
	m.once.Do(func() { close(m.over) })
	return nil
}

func (m *memory) Addr() net.Addr { return &net.UnixAddr{Net: "memory", Name: "memory"} }

func (m *memory) dial(ctx context.Context, _ string) (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case m.conns <- there:
		return here, nil
	case <-m.over:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// serve starts a server with the model, and asks it once with the trap and once without. The error
// is the first of: the load's, that of the first answer, and that of the server's end.
func serve(set func(cfg *server.Config, tr *trap)) func(*testing.T, *trap) error {
	return serveAfter(nil, set)
}

// serveAfter is serve with something that is done before the server is asked.
func serveAfter(before func(l *memory) error, set func(cfg *server.Config, tr *trap)) func(*testing.T, *trap) error {
	return virtual(func(t *testing.T, tr *trap) error {
		cfg := server.Config{Models: []server.Model{{Name: "m", Location: "test", Load: func(context.Context) (backend.Model, error) {
			return model{tr}, tr.spring("sidecar/server.Model.Load")
		}}}}
		if set != nil {
			set(&cfg, tr)
		}
		srv, err := server.New(cfg)
		if err != nil {
			return err
		}
		l := tr.listen()
		if err := srv.Start(l); err != nil {
			return err
		}
		err = srv.WaitReady(t.Context())
		if before != nil {
			err = errors.Join(err, before(l))
		}
		err = errors.Join(err, ask(t, l, tr))
		return errors.Join(err, srv.Close())
	})
}

// ask returns the first answer's error. The second one must be right.
func ask(t *testing.T, l *memory, tr *trap) error {
	conn, err := grpc.NewClient("passthrough:///m", grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(l.dial))
	if err != nil {
		return err
	}
	defer conn.Close()
	call := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := oip.NewGRPCInferenceServiceClient(conn).ModelInfer(withTrace(ctx), &oip.ModelInferRequest{ModelName: "m",
			Inputs:           []*oip.ModelInferRequest_InferInputTensor{{Name: "x", Datatype: "FP32", Shape: []int64{1, 1}}},
			RawInputContents: [][]byte{make([]byte, 4)}})
		return err
	}
	first := call()
	if code := status.Code(first); code == codes.DeadlineExceeded {
		t.Error("nobody answered")
	}
	if tr.sprung.Load() == 0 || status.Code(first) != codes.Internal {
		return first
	}
	tr.disarmed.Store(true)
	if err := call(); err != nil {
		t.Errorf("the next request: %v", err)
	}
	tr.disarmed.Store(false)
	return first
}

func withTrace(ctx context.Context) context.Context {
	c := trace.Context{TraceID: [16]byte{1}, SpanID: [8]byte{1}, Flags: 1}
	return metadata.AppendToOutgoingContext(ctx, trace.ParentHeader, c.Parent())
}

// answered is the answer INTERNAL, and the server answered the next request.
func answered(t *testing.T, _ row, _ *trap, err error) {
	t.Helper()
	if s, ok := errors.AsType[interface {
		error
		GRPCStatus() *status.Status
	}](err); !ok || s.GRPCStatus().Code() != codes.Internal {
		t.Errorf("the answer is %v; want INTERNAL", err)
	}
}

func intercepted(option func(grpc.UnaryServerInterceptor) grpc.ServerOption) func(*testing.T, *trap) error {
	return serve(func(cfg *server.Config, tr *trap) {
		cfg.Options = []grpc.ServerOption{option(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			if err := tr.spring(tr.at); err != nil {
				return nil, err
			}
			return next(ctx, req)
		})}
	})
}

var serverRows = map[string]row{
	"sidecar/backend.Checker.Check":             {why: nobody},
	"sidecar/backend.LoaderFunc":                {why: nested},
	"sidecar/backend.Model.Close":               {run: serve(nil), where: "the backend, when it was closed,", check: told},
	"sidecar/backend.Model.Instances":           {run: serve(nil), where: "Instances of the backend", check: told},
	"sidecar/backend.Model.Run":                 {run: serve(nil), returns: true, check: answered},
	"sidecar/backend.Model.Signature":           {run: serve(nil), where: "Signature of the backend", check: told},
	"sidecar/backend.Registry.Extensions":       {why: nested},
	"sidecar/backend.Registry.Schemes":          {why: nested},
	"sidecar/backend.Unwarmed.NoWarmUp":         {run: serve(nil), where: "NoWarmUp of the backend", check: told},
	"sidecar/server.Model.Load":                 {run: serve(nil), where: "the backend panicked while loading", returns: true, check: told},
	"sidecar/server.Server.Serve(listeners)":    {why: nested},
	"sidecar/server.Config.Tracer":              {why: nested},
	"sidecar/server.Config.Options":             {run: intercepted(func(i grpc.UnaryServerInterceptor) grpc.ServerOption { return grpc.ChainUnaryInterceptor(i) }), returns: true, check: answered},
	"+sidecar/server.Config.Options, unchained": {run: intercepted(grpc.UnaryInterceptor), returns: true, check: answered},
	"sidecar/backend.Loader.Load": {where: "the backend panicked while loading", returns: true, check: told, run: serve(func(cfg *server.Config, tr *trap) {
		cfg.Models[0] = server.Model{Name: "m", Location: "it:m"}
		cfg.Backends.Schemes = map[string]backend.Loader{"it": backend.LoaderFunc(func(context.Context, backend.Location) (backend.Model, error) {
			return model{tr}, tr.spring(tr.at)
		})}
	})},
	"+sidecar/server.Config.Tracer, Start": {check: answered, run: serve(func(cfg *server.Config, tr *trap) { cfg.Tracer = traced{tracer{tr}, tr.at} })},
	// it has its answer
	"+sidecar/server.Config.Tracer, End": {check: harmless, run: serve(func(cfg *server.Config, tr *trap) {
		cfg.Tracer = traced{tracer{tr}, ""}
	})},
	"sidecar/server.Config.Logger": {returns: true, check: harmless, run: func(t *testing.T, tr *trap) error {
		own := &trap{at: "log", mistake: tr.mistake}
		err := serve(func(cfg *server.Config, _ *trap) { cfg.Logger = own.logger() })(t, tr)
		tr.sprung.Store(own.sprung.Load())
		return err
	}},
	"sidecar/server.Server.Start(listeners)": {where: "Accept of the listener", returns: true, run: listening(func(srv *server.Server, l net.Listener) error {
		return srv.Start(l)
	})},
	"sidecar/server.Server.StartHTTP(l)": {where: "Accept of the listener", returns: true, run: listening(func(srv *server.Server, l net.Listener) error {
		return srv.StartHTTP(l)
	})},
}

// listening returns what a server ended with because of its listener.
func listening(start func(*server.Server, net.Listener) error) func(*testing.T, *trap) error {
	return virtual(func(t *testing.T, tr *trap) error {
		own := &trap{at: "sidecar/server.Server.Start(listeners)", mistake: tr.mistake}
		srv, err := server.New(server.Config{Models: []server.Model{{Name: "m", Location: "test", Load: func(context.Context) (backend.Model, error) {
			return model{own}, nil
		}}}})
		if err == nil {
			err = start(srv, own.listen())
		}
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		err = srv.Wait(ctx)
		tr.sprung.Store(own.sprung.Load())
		return err
	})
}

// traced is a tracer whose Start, or the End of its spans, is the trap.
type traced struct {
	tracer
	start string
}

func (r traced) Start(_ *trace.Context, _ string, kind trace.Kind, _ time.Time, _ ...*trace.Context) trace.Span {
	if r.start != "" {
		r.spring(r.start)
	}
	return &served{span{r.trap, trace.Context{TraceID: [16]byte{1}, SpanID: [8]byte{1}, Flags: 1}}, kind == trace.Server && r.start == ""}
}

type served struct {
	span
	ends bool
}

func (s *served) End(time.Time, error) {
	if s.ends {
		s.spring("sidecar/server.Config.Tracer, End")
	}
}
