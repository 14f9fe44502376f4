package worker

import (
	"context"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"

	_ "github.com/apache/beam/sdks/v2/go/pkg/beam/core/runtime/harness/init"
	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/tensorferry/tensorferry/flink/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m, nil, leaktest.WorkerLog) }

// runner plays the TaskManager: it takes workers that register, and gives them nothing to do.
type runner struct {
	fnpb.UnimplementedBeamFnControlServer
	fnpb.UnimplementedBeamFnLoggingServer
	fnpb.UnimplementedProvisionServiceServer
	address string
	came    chan string   // ids of workers that have registered
	left    chan string   // and of those that have left by themselves
	end     chan struct{} // closed: workers are sent away
	over    chan struct{}
}

func newRunner(t *testing.T) *runner {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &runner{address: l.Addr().String(), came: make(chan string, 10), left: make(chan string, 10), end: make(chan struct{}), over: make(chan struct{})}
	s := grpc.NewServer()
	fnpb.RegisterBeamFnControlServer(s, r)
	fnpb.RegisterBeamFnLoggingServer(s, r)
	fnpb.RegisterProvisionServiceServer(s, r)
	var served sync.WaitGroup
	served.Go(func() { _ = s.Serve(l) }) // it ends with Stop
	t.Cleanup(func() {
		close(r.over)
		s.Stop()
		served.Wait()
	})
	return r
}

func (r *runner) Control(stream fnpb.BeamFnControl_ControlServer) error {
	md, _ := metadata.FromIncomingContext(stream.Context())
	id := strings.Join(md.Get("worker_id"), ",")
	r.came <- id
	select {
	case <-stream.Context().Done():
		r.left <- id
	case <-r.end:
	case <-r.over:
	}
	return nil
}

func (r *runner) Logging(stream fnpb.BeamFnLogging_LoggingServer) error {
	select {
	case <-stream.Context().Done():
	case <-r.over:
	}
	return nil
}

func (r *runner) GetProvisionInfo(context.Context, *fnpb.GetProvisionInfoRequest) (*fnpb.GetProvisionInfoResponse, error) {
	return &fnpb.GetProvisionInfoResponse{Info: &fnpb.ProvisionInfo{}}, nil
}

func (r *runner) request(id string) *fnpb.StartWorkerRequest {
	at := func() *pipepb.ApiServiceDescriptor { return &pipepb.ApiServiceDescriptor{Url: r.address} }
	return &fnpb.StartWorkerRequest{WorkerId: id, ControlEndpoint: at(), LoggingEndpoint: at(), ProvisionEndpoint: at()}
}

// serving is a pool that serves, and its client.
type serving struct {
	*Pool
	client fnpb.BeamFnExternalWorkerPoolClient
	served chan error
}

func newPool(t *testing.T) *serving {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &serving{Pool: New(slog.New(slog.DiscardHandler)), served: make(chan error, 1)}
	go func() { s.served <- s.Serve(l) }()
	conn, err := grpc.NewClient("passthrough:///"+l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	s.client = fnpb.NewBeamFnExternalWorkerPoolClient(conn)
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
		s.Close()
		if err := <-s.served; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if n := s.count(); n != 0 {
			t.Errorf("%d workers are left", n)
		}
	})
	return s
}

func (s *serving) start(t *testing.T, r *fnpb.StartWorkerRequest) string {
	t.Helper()
	resp, err := s.client.StartWorker(t.Context(), r, grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetError()
}

func (p *Pool) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.workers)
}

func want(t *testing.T, from chan string, id string) {
	t.Helper()
	if got := <-from; got != id {
		t.Errorf("it is %q, want %q", got, id)
	}
}

func TestRefused(t *testing.T) {
	r := newRunner(t)
	p := newPool(t)
	auth := &pipepb.AuthenticationSpec{Urn: "beam:authentication:oauth2_client_credentials_grant:v1"}
	for name, c := range map[string]struct {
		change func(*fnpb.StartWorkerRequest)
		want   string
	}{
		"no control": {func(r *fnpb.StartWorkerRequest) { r.ControlEndpoint = nil }, "the worker w has no control endpoint or no logging endpoint"},
		"no logging": {func(r *fnpb.StartWorkerRequest) { r.LoggingEndpoint = nil }, "the worker w has no control endpoint or no logging endpoint"},
		"control":    {func(r *fnpb.StartWorkerRequest) { r.ControlEndpoint.Authentication = auth }, "the runner wants the worker w to authenticate itself"},
		"logging":    {func(r *fnpb.StartWorkerRequest) { r.LoggingEndpoint.Authentication = auth }, "the runner wants the worker w to authenticate itself"},
	} {
		req := r.request("w")
		c.change(req)
		if got := p.start(t, req); !strings.Contains(got, c.want) {
			t.Errorf("%s: %q; want %q", name, got, c.want)
		}
	}
	if n := p.count(); n != 0 {
		t.Errorf("%d workers", n)
	}
	p.Close()
	if resp, err := p.StartWorker(t.Context(), r.request("w")); err != nil || !strings.Contains(resp.GetError(), "closing") {
		t.Errorf("after Close: %v, error %v", resp, err)
	}
	p.Close() // again
}

func TestCloseEndsAll(t *testing.T) {
	r := newRunner(t)
	p := newPool(t)
	for _, id := range []string{"a", "b"} {
		if e := p.start(t, r.request(id)); e != "" {
			t.Fatal(e)
		}
		want(t, r.came, id)
	}
	p.Close()
	if n := p.count(); n != 0 {
		t.Errorf("%d workers are left", n)
	}
	if a, b := <-r.left, <-r.left; a+b != "ab" && a+b != "ba" {
		t.Errorf("%q and %q have left", a, b)
	}
}

// To stop a worker by its id alone could end another TaskManager's.
func TestStopWorker(t *testing.T) {
	r := newRunner(t)
	p := newPool(t)
	if e := p.start(t, r.request("a")); e != "" {
		t.Fatal(e)
	}
	want(t, r.came, "a")
	for _, id := range []string{"nobody", "a"} {
		if _, err := p.client.StopWorker(t.Context(), &fnpb.StopWorkerRequest{WorkerId: id}); err != nil {
			t.Error(err)
		}
	}
	if n := p.count(); n != 1 {
		t.Errorf("%d workers", n)
	}
	select {
	case id := <-r.left:
		t.Errorf("%s has left", id)
	default:
	}
}

// A TaskManager that was started anew asks for the same names.
func TestSameNameAgain(t *testing.T) {
	r := newRunner(t)
	p := newPool(t)
	for range 3 {
		if e := p.start(t, r.request("a")); e != "" {
			t.Fatal(e)
		}
		want(t, r.came, "a")
	}
	want(t, r.left, "a")
	want(t, r.left, "a")
	if n := p.count(); n != 1 {
		t.Errorf("%d workers", n)
	}
}

// A worker whose TaskManager ends it, in order or not, is forgotten.
func TestEndedByItsRunner(t *testing.T) {
	for _, provision := range []bool{true, false} {
		r := newRunner(t)
		p := newPool(t)
		req := r.request("a")
		if !provision {
			req.ProvisionEndpoint = nil
		}
		if e := p.start(t, req); e != "" {
			t.Fatal(e)
		}
		want(t, r.came, "a")
		close(r.end)
		p.all.Wait()
		if n := p.count(); n != 0 {
			t.Errorf("%d workers are left", n)
		}
	}
}

// nobodyAt is an address that refuses connections for as long as the test runs: its port is that
// of a connection of the test's own, so that nobody else comes to listen on it.
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

// A TaskManager that is not there is waited for, which Close ends.
func TestRunnerThatIsAbsent(t *testing.T) {
	absent := nobodyAt(t)
	p := newPool(t)
	for _, provision := range []bool{true, false} {
		req := (&runner{address: absent}).request("w")
		if !provision {
			req.WorkerId, req.ProvisionEndpoint = "v", nil
		}
		if e := p.start(t, req); e != "" {
			t.Fatal(e)
		}
	}
	if n := p.count(); n != 2 {
		t.Errorf("%d workers", n)
	}
	p.Close()
}

// TaskManagers that share a pool ask for the same names; neither takes the other's worker away.
func TestSameNameElsewhere(t *testing.T) {
	first, second := newRunner(t), newRunner(t)
	p := newPool(t)
	for _, r := range []*runner{first, second} {
		if e := p.start(t, r.request("1-1")); e != "" {
			t.Fatal(e)
		}
		want(t, r.came, "1-1")
	}
	// Which of the two is meant nobody knows.
	if _, err := p.client.StopWorker(t.Context(), &fnpb.StopWorkerRequest{WorkerId: "1-1"}); err != nil {
		t.Error(err)
	}
	if n := p.count(); n != 2 {
		t.Errorf("%d workers", n)
	}
	select {
	case <-first.left:
		t.Error("the first has left")
	case <-second.left:
		t.Error("the second has left")
	default:
	}
}
