package server_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/tensorferry/tensorferry/sidecar/backend"
	"github.com/tensorferry/tensorferry/sidecar/backend/mock"
	"github.com/tensorferry/tensorferry/sidecar/oip"
	"github.com/tensorferry/tensorferry/sidecar/server"
	"github.com/tensorferry/tensorferry/tensor"
)

// An output that is asked for many times would make a small request's answer as large as one likes.
func TestOutputAskedForTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		req := ask(1)
		req.Outputs = append(output("y", nil), output("y", nil)...)
		_, err := serve(t, server.Config{}, mock.Config{}).caller().ModelInfer(t.Context(), req)
		if d := oip.Parse(err); d.Code != codes.InvalidArgument || !strings.Contains(d.Message, `"y" is asked for twice`) {
			t.Error(err)
		}
	})
}

// The parameter timeout ends a request that waits, at its time, and makes room for another.
func TestTimeoutParameterWhileBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := serve(t, server.Config{QueueRows: 2}, mock.Config{Latency: 3 * time.Second})
		c := r.caller()
		var wg sync.WaitGroup
		call := func(req *oip.ModelInferRequest, after time.Duration, code codes.Code) {
			began := time.Now()
			wg.Go(func() {
				_, err := c.ModelInfer(t.Context(), req)
				if d := time.Since(began); oip.Parse(err).Code != code || d != after {
					t.Errorf("after %v: %v; want %v after %v", d, err, code, after)
				}
			})
			time.Sleep(time.Millisecond)
		}
		call(ask(1), 3*time.Second, codes.OK)
		req := ask(2, 3)
		req.Parameters = map[string]*oip.InferParameter{"timeout": param(100_000)}
		call(req, 100*time.Millisecond, codes.DeadlineExceeded)
		time.Sleep(98 * time.Millisecond) // 100 ms since the first
		call(ask(4), 0, codes.ResourceExhausted)
		call(ask(5), 6*time.Second-102*time.Millisecond+time.Millisecond, codes.OK)
		wg.Wait()
	})
}

// All that a caller can make large in a request counts towards the bytes that wait. A request that
// is too large for them passes alone.
func TestQueueBytesCountTheWholeRequest(t *testing.T) {
	const large = 64 << 10
	text := func(n int) map[string]*oip.InferParameter {
		return map[string]*oip.InferParameter{"p": {ParameterChoice: &oip.InferParameter_StringParam{StringParam: strings.Repeat("x", n)}}}
	}
	for name, change := range map[string]func(*oip.ModelInferRequest){
		"id":                     func(r *oip.ModelInferRequest) { r.Id = strings.Repeat("x", large) },
		"parameter":              func(r *oip.ModelInferRequest) { r.Parameters = text(large) },
		"parameter of an input":  func(r *oip.ModelInferRequest) { r.Inputs[0].Parameters = text(large) },
		"parameter of an output": func(r *oip.ModelInferRequest) { r.Outputs = output("y", text(large)) },
		"typed contents of a byte": func(r *oip.ModelInferRequest) {
			r.RawInputContents, r.Inputs[0].Contents, r.Inputs[0].Shape = nil, &oip.InferTensorContents{Fp32Contents: make([]float32, large/4)}, []int64{large / 4, 1}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := serve(t, server.Config{QueueBytes: 32 << 10, QueueTimeout: time.Minute, MaxBatch: 1 << 16}, mock.Config{Latency: time.Second, MaxBatch: 1 << 16}).caller()
				var wg sync.WaitGroup
				call := func(large bool, code codes.Code) {
					req := ask(1)
					if large {
						change(req)
					}
					wg.Go(func() {
						if _, err := c.ModelInfer(t.Context(), req); oip.Parse(err).Code != code {
							t.Errorf("large %v: %v, want %v", large, err, code)
						}
					})
					time.Sleep(time.Millisecond)
				}
				call(false, codes.OK) // runs
				call(false, codes.OK) // waits
				call(true, codes.ResourceExhausted)
				call(false, codes.OK)
				wg.Wait()
				call(false, codes.OK)                // runs
				call(true, codes.OK)                 // waits alone
				call(false, codes.ResourceExhausted) // has no room beside it
				wg.Wait()
			})
		})
	}
}

// refusing names every row as a bad one, with many words.
type refusing struct{ *mock.Model }

func (refusing) Run(_ context.Context, in []tensor.Tensor) ([]tensor.Tensor, error) {
	return nil, &backend.RowsError{Rows: sequenceOfInts(int(in[0].Shape[0])), Err: errors.New(strings.Repeat("out of the vocabulary, ", 1000))}
}

func sequenceOfInts(n int) (all []int) {
	for i := range n {
		all = append(all, i)
	}
	return all
}

// However many rows are bad, and however long the model's words, the status reaches clients that take 8 KiB of metadata,
// as gRPC in C does.
func TestManyBadRows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, err := mock.New(mock.Config{})
		if err != nil {
			t.Fatal(err)
		}
		r := serveModel(t, server.Config{}, refusing{m})
		conn, err := grpc.NewClient("passthrough:///m", grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithMaxHeaderListSize(8<<10),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return r.lis.DialContext(ctx) }))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, err = oip.NewGRPCInferenceServiceClient(conn).ModelInfer(t.Context(), ask(sequence(0, 256)...))
		d := oip.Parse(err)
		if d.Code != codes.InvalidArgument || len(d.BadRows) < 16 || !strings.HasPrefix(d.Message, "out of the vocabulary") || !strings.HasSuffix(d.Message, "more of 256)") {
			t.Errorf("%d bad rows: %v", len(d.BadRows), err)
		}
	})
}

// A BOOL that is neither 0 nor 1 is no value that backends agree on.
func TestBoolIsZeroOrOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := serve(t, server.Config{}, mock.Config{Function: "echo", Inputs: []tensor.Spec{{Name: "x", DType: tensor.Bool, Row: tensor.Shape{2}}}}).caller()
		for raw, code := range map[string]codes.Code{"\x00\x01\x01\x00": codes.OK, "\x00\x01\x02\x00": codes.InvalidArgument} {
			req := &oip.ModelInferRequest{ModelName: "m", Inputs: []*oip.ModelInferRequest_InferInputTensor{input("x", "BOOL", 2, 2)}, RawInputContents: [][]byte{[]byte(raw)}}
			_, err := c.ModelInfer(t.Context(), req)
			if d := oip.Parse(err); d.Code != code || code != codes.OK && !strings.Contains(d.Message, `input "x" has the byte 2 as element 2`) {
				t.Errorf("%q: %v", raw, err)
			}
		}
	})
}
