package server_test

import (
	"context"
	"encoding/binary"
	"io"
	"math"
	"net"
	"slices"
	"sync"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/tensorferry/tensorferry/sidecar/backend"
	"github.com/tensorferry/tensorferry/sidecar/backend/mock"
	"github.com/tensorferry/tensorferry/sidecar/oip"
	"github.com/tensorferry/tensorferry/sidecar/server"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a server in memory with one model, m.
type rig struct {
	t     *testing.T
	srv   *server.Server
	lis   *bufconn.Listener
	model *mock.Model

	path      string   // of a socket that the server serves too; empty: none
	attackers sync.Map // *attacker
}

// serve starts the server with the mock model.
func serve(t *testing.T, cfg server.Config, mc mock.Config) *rig {
	t.Helper()
	m, err := mock.New(mc)
	if err != nil {
		t.Fatal(err)
	}
	r := serveModel(t, cfg, m)
	r.model = m
	return r
}

func serveModel(t *testing.T, cfg server.Config, m backend.Model) *rig {
	t.Helper()
	cfg.Models = []server.Model{{Name: "m", Location: "test", Load: func(context.Context) (backend.Model, error) { return m, nil }}}
	return begin(t, cfg)
}

// begin starts a server with the models of its configuration.
func begin(t *testing.T, cfg server.Config) *rig {
	t.Helper()
	if cfg.WarmUp == nil {
		cfg.WarmUp = []int{} // tests count runs
	}
	srv, err := server.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, srv: srv, lis: bufconn.Listen(1 << 20)}
	if err := srv.Start(r.lis); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { srv.Close() })
	if err := srv.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	return r
}

// caller opens a connection of its own.
func (r *rig) conn(opts ...grpc.DialOption) *grpc.ClientConn {
	r.t.Helper()
	conn, err := grpc.NewClient("passthrough:///m", append(opts, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return r.lis.DialContext(ctx) }))...)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { conn.Close() })
	return conn
}

// dial opens a raw connection.
func (r *rig) dial() (net.Conn, error) {
	if r.path != "" {
		return net.Dial("unix", r.path)
	}
	return r.lis.DialContext(r.t.Context())
}

func (r *rig) caller() oip.GRPCInferenceServiceClient {
	return oip.NewGRPCInferenceServiceClient(r.conn())
}

// sent checks what Send of a client's stream returned. io.EOF says only that the server has ended
// the stream. Recv, which the caller calls next, says why.
func sent(err error) error {
	if err == io.EOF {
		return nil
	}
	return err
}

func floats(vs ...float32) []byte {
	var raw []byte
	for _, v := range vs {
		raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(v))
	}
	return raw
}

func readFloats(raw []byte) []float32 {
	var out []float32
	for ; len(raw) > 0; raw = raw[4:] {
		out = append(out, math.Float32frombits(binary.LittleEndian.Uint32(raw)))
	}
	return out
}

func input(name, dtype string, shape ...int64) *oip.ModelInferRequest_InferInputTensor {
	return &oip.ModelInferRequest_InferInputTensor{Name: name, Datatype: dtype, Shape: shape}
}

func output(name string, ps map[string]*oip.InferParameter) []*oip.ModelInferRequest_InferRequestedOutputTensor {
	return []*oip.ModelInferRequest_InferRequestedOutputTensor{{Name: name, Parameters: ps}}
}

// ask is a request for x FP32[1] of model m.
func ask(vs ...float32) *oip.ModelInferRequest {
	return &oip.ModelInferRequest{ModelName: "m", Inputs: []*oip.ModelInferRequest_InferInputTensor{input("x", "FP32", int64(len(vs)), 1)},
		RawInputContents: [][]byte{floats(vs...)}}
}

func doubled(t *testing.T, resp *oip.ModelInferResponse, err error, vs ...float32) {
	t.Helper()
	if err != nil {
		t.Errorf("%v: %v", vs, err)
		return
	}
	want := slices.Clone(vs)
	for i := range want {
		want[i] *= 2
	}
	if got := readFloats(resp.GetRawOutputContents()[0]); !slices.Equal(got, want) || resp.Outputs[0].Shape[0] != int64(len(vs)) {
		t.Errorf("answer %v (%v), want %v", got, resp.Outputs, want)
	}
}

func sequence(from, n int) []float32 {
	out := make([]float32, n)
	for i := range out {
		out[i] = float32(from + i)
	}
	return out
}
