package sidecar

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/sidecar/oip"
	"github.com/tensorferry/tensorferry/tensor"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// peerServer is these tests' own model server, on an in-memory network. It doubles the numbers of
// input x, and does what its hooks say.
type peerServer struct {
	oip.UnimplementedGRPCInferenceServiceServer
	sig   tensor.Signature
	limit int // largest message that it receives, in bytes; 0: grpc's default

	// Hooks. They are set before the server is used.
	ready       func() (bool, error)
	meta        func() error
	untold      func(*oip.ModelMetadataResponse) // removes something from the metadata
	live        func() error                     // of ModelReady, before ready
	modelConfig *oip.ModelConfig                 // nil: not served
	infer       func(ctx context.Context, req *oip.ModelInferRequest, rows [][]float32) error
	answer      func(resp *oip.ModelInferResponse) // changes an answer
	shared      *sharedMemory                      // nil: not served

	mu       sync.Mutex
	listener *bufconn.Listener
	server   *grpc.Server
	serving  sync.WaitGroup
	conns    []net.Conn
	dials    []time.Time
	open     int
	peak     int
	accepted int
	log      [][][]float32 // the rows of each request
	asked    int           // how often the metadata were asked for
}

// replace replaces the model. The connection stays.
func (p *peerServer) replace(sig tensor.Signature) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sig = sig
}

func (p *peerServer) signature() *tensor.Signature {
	p.mu.Lock()
	defer p.mu.Unlock()
	sig := p.sig
	return &sig
}

// questions returns how often the metadata were asked for.
func (p *peerServer) questions() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked
}

func newPeer(t testing.TB, row ...int64) *peerServer {
	if row == nil {
		row = []int64{1}
	}
	p := &peerServer{sig: tensor.Signature{
		Model: "double", Batched: true,
		Inputs:  []tensor.Spec{{Name: "x", DType: tensor.FP32, Row: row}},
		Outputs: []tensor.Spec{{Name: "y", DType: tensor.FP32, Row: row}},
	}}
	p.start()
	t.Cleanup(p.kill)
	return p
}

// config returns a client's configuration for the server.
func (p *peerServer) config() Config {
	return Config{Endpoint: "memory", Model: "double", Dialer: p.dial}
}

func (p *peerServer) dial(ctx context.Context, _ string) (net.Conn, error) {
	p.mu.Lock()
	p.dials = append(p.dials, time.Now())
	l := p.listener
	p.mu.Unlock()
	if l == nil {
		return nil, errors.New("connection refused")
	}
	c, err := l.DialContext(ctx)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns = append(p.conns, c)
	return c, nil
}

func (p *peerServer) start() {
	opts := []grpc.ServerOption{grpc.StatsHandler(connCounter{p})}
	if p.limit > 0 {
		opts = append(opts, grpc.MaxRecvMsgSize(p.limit))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.listener, p.server = bufconn.Listen(1<<16), grpc.NewServer(opts...)
	oip.RegisterGRPCInferenceServiceServer(p.server, p)
	l, s := p.listener, p.server
	p.serving.Go(func() { s.Serve(l) })
}

// kill ends the server at once, as SIGKILL does.
func (p *peerServer) kill() {
	p.mu.Lock()
	s := p.server
	p.listener, p.server = nil, nil
	p.mu.Unlock()
	if s != nil {
		s.Stop()
		p.serving.Wait()
	}
}

// drop breaks every connection and leaves the server as it is.
func (p *peerServer) drop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		c.Close()
	}
	p.conns = nil
}

type connCounter struct{ p *peerServer }

func (c connCounter) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (c connCounter) HandleRPC(context.Context, stats.RPCStats)                         {}
func (c connCounter) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (c connCounter) HandleConn(_ context.Context, s stats.ConnStats) {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	switch s.(type) {
	case *stats.ConnBegin:
		c.p.open++
		c.p.accepted++
		c.p.peak = max(c.p.peak, c.p.open)
	case *stats.ConnEnd:
		c.p.open--
	}
}

func (p *peerServer) ModelReady(context.Context, *oip.ModelReadyRequest) (*oip.ModelReadyResponse, error) {
	if p.live != nil {
		if err := p.live(); err != nil {
			return nil, err
		}
	}
	if p.ready != nil {
		ok, err := p.ready()
		return &oip.ModelReadyResponse{Ready: ok}, err
	}
	return &oip.ModelReadyResponse{Ready: true}, nil
}

func (p *peerServer) ModelConfig(context.Context, *oip.ModelConfigRequest) (*oip.ModelConfigResponse, error) {
	if p.modelConfig == nil {
		return nil, status.Error(codes.Unimplemented, "Method not found!")
	}
	return &oip.ModelConfigResponse{Config: p.modelConfig}, nil
}

func (p *peerServer) ServerReady(context.Context, *oip.ServerReadyRequest) (*oip.ServerReadyResponse, error) {
	if p.ready != nil {
		ok, err := p.ready()
		return &oip.ServerReadyResponse{Ready: ok}, err
	}
	return &oip.ServerReadyResponse{Ready: true}, nil
}

func (p *peerServer) ModelMetadata(context.Context, *oip.ModelMetadataRequest) (*oip.ModelMetadataResponse, error) {
	if p.meta != nil {
		if err := p.meta(); err != nil {
			return nil, err
		}
	}
	p.mu.Lock()
	p.asked++
	p.mu.Unlock()
	meta := oip.Metadata(p.signature(), "test")
	if p.untold != nil {
		p.untold(meta)
	}
	return meta, nil
}

func (p *peerServer) ModelInfer(ctx context.Context, req *oip.ModelInferRequest) (*oip.ModelInferResponse, error) {
	if p.shared != nil {
		return p.shared.infer(ctx, p, req)
	}
	sig := p.signature()
	shape := req.Inputs[0].Shape
	n := int(shape[0])
	in, out := tensor.NewRows(&tensor.Signature{Batched: true, Outputs: sig.Inputs}), tensor.NewBatch(&tensor.Signature{Batched: true, Inputs: sig.Outputs})
	if err := in.Set(0, tensor.FP32, shape, req.RawInputContents[0], n); err != nil {
		return nil, err
	}
	rows := make([][]float32, n)
	for i := range rows {
		rows[i], _ = tensor.RowValues[float32](in.Output(0), i, nil)
		double := slices.Clone(rows[i])
		for k := range double {
			double[k] *= 2
		}
		tensor.AppendValues(out.Column(0), double)
		for k := 1; k < len(sig.Outputs); k++ { // a hook fills them
			tensor.AppendValues(out.Column(k), make([]float32, 1))
		}
		if err := out.EndRow(); err != nil {
			return nil, err
		}
	}
	p.mu.Lock()
	p.log = append(p.log, rows)
	p.mu.Unlock()
	if p.infer != nil {
		if err := p.infer(ctx, req, rows); err != nil {
			return nil, err
		}
	}
	resp := oip.NewResponse(req.ModelName, "1", req.Id, []tensor.Tensor{{Name: sig.Outputs[0].Name, DType: tensor.FP32, Shape: shape, Raw: out.Column(0).Raw()}})
	if p.answer != nil {
		p.answer(resp)
	}
	return resp, nil
}

// sizes returns the number of rows of each request so far.
func (p *peerServer) sizes() []int {
	p.mu.Lock()
	defer p.mu.Unlock()
	var n []int
	for _, rows := range p.log {
		n = append(n, len(rows))
	}
	return n
}

// dialled returns the times of the dials so far.
func (p *peerServer) dialled() []time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.dials)
}

// connections counts the connections that are open, were ever accepted, and were open at the same
// time at most.
func (p *peerServer) connections() (open, accepted, peak int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.open, p.accepted, p.peak
}

// forget empties the logs of dials and requests.
func (p *peerServer) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dials, p.log = nil, nil
}

// numbers is a record of these tests: the values of its row.
type numbers = []float32

var doubling = tensor.Values[float32, float32]("x", "y")

// recorder is a minimal operator. It makes held calls again, at once or when it is resumed, and
// keeps every other outcome.
type recorder struct {
	t        testing.TB
	sub      async.Subtask
	deadline time.Duration // of each record; 0: none

	mu        sync.Mutex
	caller    async.Caller[numbers, numbers]
	records   []numbers
	attempts  []uint32
	outcome   map[uint64]async.Completion[numbers]
	deadlines map[uint64]time.Time
	waiting   []uint64 // held
	suspended error
	events    []string
	held      int
	twice     int
	changed   chan struct{}
}

func newRecorder(t testing.TB) *recorder {
	return &recorder{
		t: t, sub: async.Subtask{Operator: "op", Parallelism: 1, Config: async.Config{Capacity: 1000, Hold: time.Minute}},
		outcome: map[uint64]async.Completion[numbers]{}, deadlines: map[uint64]time.Time{}, changed: make(chan struct{}, 1),
	}
}

// open opens a caller and closes it with the test.
func (r *recorder) open(cfg Config) *channel[numbers, numbers] {
	r.t.Helper()
	c, err := NewAsyncFunction(cfg, doubling).Open(r.t.Context(), r.sub, r)
	if err != nil {
		r.t.Fatal(err)
	}
	r.caller = c
	r.t.Cleanup(func() { c.Close() })
	return c.(*channel[numbers, numbers])
}

func (r *recorder) Complete(cs []async.Completion[numbers]) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range cs {
		e := c.ID.Entry
		if c.ID.Attempt != r.attempts[e] {
			continue // late
		}
		if c.Err != nil && async.VerdictOf(c.Err).Hold {
			r.held++
			r.attempts[e]++
			r.waiting = append(r.waiting, e)
			continue
		}
		if _, ok := r.outcome[e]; ok {
			r.twice++
		}
		r.outcome[e] = c
	}
	r.wake()
}

func (r *recorder) Suspend(why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.suspended == nil {
		r.events = append(r.events, "suspend")
	}
	r.suspended = why
	r.wake()
}

func (r *recorder) Fail(error) {}

func (r *recorder) ResultsFull() bool { return false }

func (r *recorder) Resume() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, "resume")
	r.suspended = nil
	r.wake()
}

func (r *recorder) wake() {
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

// call makes calls for new records, in one slice.
func (r *recorder) call(records ...numbers) {
	r.mu.Lock()
	var calls []async.Call[numbers]
	for _, v := range records {
		e := uint64(len(r.records))
		r.records, r.attempts = append(r.records, v), append(r.attempts, 0)
		calls = append(calls, r.makeCall(e))
	}
	r.mu.Unlock()
	r.caller.Call(calls)
}

func (r *recorder) makeCall(e uint64) async.Call[numbers] {
	c := async.Call[numbers]{ID: async.CallID{Entry: e, Attempt: r.attempts[e]}, Record: async.Record[numbers]{Value: r.records[e]}}
	if r.deadline > 0 {
		c.Deadline = time.Now().Add(r.deadline)
		r.deadlines[e] = c.Deadline
	}
	return c
}

// await makes held calls again until every record has its outcome, in virtual time.
func (r *recorder) await() {
	r.t.Helper()
	limit := time.After(10 * time.Minute)
	for {
		r.mu.Lock()
		if len(r.outcome) == len(r.records) {
			r.mu.Unlock()
			return
		}
		var calls []async.Call[numbers]
		if r.suspended == nil {
			for _, e := range r.waiting {
				calls = append(calls, r.makeCall(e))
			}
			r.waiting = nil
		}
		r.mu.Unlock()
		if calls != nil {
			r.caller.Call(calls)
		}
		select {
		case <-r.changed:
		case <-limit:
			r.t.Fatalf("%d of %d records have no outcome; suspended: %v", len(r.records)-len(r.outcome), len(r.records), r.suspended)
		}
	}
}

// check checks that every record was doubled once, except these, which failed.
func (r *recorder) check(failed ...uint64) {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.outcome) != len(r.records) || r.twice > 0 {
		r.t.Errorf("%d records, %d outcomes, %d of them more than once", len(r.records), len(r.outcome), r.twice)
	}
	for e, v := range r.records {
		c := r.outcome[uint64(e)]
		switch {
		case slices.Contains(failed, uint64(e)):
			if c.Err == nil {
				r.t.Errorf("record %d has a result; want a failure", e)
			}
		case c.Err != nil:
			r.t.Errorf("record %d failed: %v", e, c.Err)
		case c.Outputs.Len() != 1 || len(c.Outputs.At(0)) != len(v) || c.Outputs.At(0)[0] != 2*v[0]:
			r.t.Errorf("record %d: %v gave %+v", e, v, c.Outputs)
		}
	}
}

func ramp(n int) []numbers {
	out := make([]numbers, n)
	for i := range out {
		out[i] = numbers{float32(i)}
	}
	return out
}

func errText(err error) string { return fmt.Sprint(err) }
