package server_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/stats"

	"github.com/tensorferry/tensorferry/sidecar/backend"
	"github.com/tensorferry/tensorferry/sidecar/backend/mock"
	"github.com/tensorferry/tensorferry/sidecar/oip"
	"github.com/tensorferry/tensorferry/sidecar/server"
	"github.com/tensorferry/tensorferry/tensor"
)

// If a request could ask for an output many times, the answer to a small request could be of any
// size.
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

// The parameter timeout ends a request that waits, on time, and so makes room for another.
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
		time.Sleep(time.Millisecond) // its time is over by now
		call(ask(5), 6*time.Second-102*time.Millisecond, codes.OK)
		wg.Wait()
	})
}

// Everything that a caller can make large in a request counts towards the bytes that wait. A
// request that exceeds their bound passes alone.
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
				call(false, codes.ResourceExhausted) // finds no room
				wg.Wait()
			})
		})
	}
}

// refusing refuses every row by name, with a long error.
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

// However many rows are bad, and however long the model's error is, the status reaches clients that
// take 8 KiB of metadata, as gRPC in C does.
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

// A BOOL must be 0 or 1: backends do not agree on other values.
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

// lengths counts the answers, and those that came compressed.
type lengths struct{ answers, compressed atomic.Int64 }

func (l *lengths) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (l *lengths) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (l *lengths) HandleConn(context.Context, stats.ConnStats)                       {}
func (l *lengths) HandleRPC(_ context.Context, s stats.RPCStats) {
	if in, ok := s.(*stats.InPayload); ok {
		l.answers.Add(1)
		if in.CompressedLength != in.Length {
			l.compressed.Add(1)
		}
	}
}

// Requests may be compressed as clients do it; answers are plain.
func TestCompressedRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen lengths
		r := serve(t, server.Config{}, mock.Config{Inputs: []tensor.Spec{{Name: "x", DType: tensor.FP32, Row: tensor.Shape{-1}}}})
		c := oip.NewGRPCInferenceServiceClient(r.conn(grpc.WithStatsHandler(&seen)))
		defer func() {
			if seen.answers.Load() == 0 || seen.compressed.Load() > 0 {
				t.Errorf("%d of %d answers are compressed", seen.compressed.Load(), seen.answers.Load())
			}
		}()
		row := func(vs []float32) *oip.ModelInferRequest {
			q := ask(vs...)
			q.Inputs[0].Shape = []int64{1, int64(len(vs))}
			return q
		}
		for _, how := range []string{"gzip", "deflate", "identity"} {
			for _, n := range []int{1, 5000, 3 << 18} { // the last is read in pieces
				vs := sequence(0, n)
				resp, err := c.ModelInfer(t.Context(), row(vs), grpc.UseCompressor(how))
				if err != nil {
					t.Fatalf("%s, %d numbers: %v", how, n, err)
				}
				for i := range vs {
					vs[i] *= 2
				}
				if got := resp.RawOutputContents[0]; !bytes.Equal(got, floats(vs...)) {
					t.Errorf("%s, %d numbers: another answer of %d bytes", how, n, len(got))
				}
			}
			stream, err := c.ModelStreamInfer(t.Context(), grpc.UseCompressor(how))
			if err != nil {
				t.Fatal(err)
			}
			for i := range 3 {
				if err := stream.Send(ask(float32(i))); err != nil {
					t.Fatal(err)
				}
				resp, err := stream.Recv()
				doubled(t, resp.GetInferResponse(), err, float32(i))
			}
			if err := stream.CloseSend(); err != nil {
				t.Error(err)
			}
			if _, err := stream.Recv(); err != io.EOF {
				t.Error(err)
			}
		}
		_, err := c.ModelInfer(t.Context(), row(make([]float32, 1<<19)), grpc.UseCompressor("gzip"))
		if d := oip.Parse(err); d.Code != codes.InvalidArgument || !strings.Contains(d.Message, "unzips to more than 100 times its size") {
			t.Errorf("2 MiB of zeros: %v", err)
		}
	})
}

// A request with too much of something is refused. The error says what that is and what to do. The
// next request is served.
func TestRefusedAtTheDoor(t *testing.T) {
	many := func(n int) map[string]*oip.InferParameter {
		out := map[string]*oip.InferParameter{}
		for i := range n {
			out[strconv.Itoa(i)] = param(1)
		}
		return out
	}
	synctest.Test(t, func(t *testing.T) {
		c := serve(t, server.Config{MaxMessageSize: 100 << 10, ReceiveBytes: 200 << 10, MaxTensors: 3, MaxParameters: 10, MaxDimensions: 4}, mock.Config{}).caller()
		for name, k := range map[string]struct {
			change func(*oip.ModelInferRequest)
			code   codes.Code
			reason string
			says   string
		}{
			"inputs": {func(q *oip.ModelInferRequest) { q.Inputs = slices.Repeat(q.Inputs, 4) }, codes.InvalidArgument, oip.ReasonBadTensor, "4 inputs; the server takes 3 (--max-tensors)"},
			"outputs": {func(q *oip.ModelInferRequest) { q.Outputs = slices.Repeat(output("y", nil), 4) }, codes.InvalidArgument, oip.ReasonBadTensor,
				"4 outputs that are asked for; the server takes 3"},
			"raw contents": {func(q *oip.ModelInferRequest) { q.RawInputContents = make([][]byte, 4) }, codes.InvalidArgument, oip.ReasonBadTensor, "4 raw contents"},
			"parameters": {func(q *oip.ModelInferRequest) { q.Parameters, q.Inputs[0].Parameters = many(6), many(5) }, codes.InvalidArgument, oip.ReasonBadTensor,
				"11 parameters; the server takes 10 (--max-parameters)"},
			"dimensions": {func(q *oip.ModelInferRequest) { q.Inputs[0].Shape = make([]int64, 5) }, codes.InvalidArgument, oip.ReasonBadTensor,
				"5 dimensions of one tensor; the server takes 4 (--max-dimensions)"},
			"size": {func(q *oip.ModelInferRequest) { q.RawInputContents[0] = make([]byte, 100<<10) }, codes.ResourceExhausted, "", "larger than max"},
			"size when decoded": {func(q *oip.ModelInferRequest) {
				q.RawInputContents, q.Inputs[0].Contents = nil, &oip.InferTensorContents{BytesContents: make([][]byte, 40<<10)}
			}, codes.ResourceExhausted, "", "larger than max"},
		} {
			q := ask(1)
			k.change(q)
			_, err := c.ModelInfer(t.Context(), q)
			if d := oip.Parse(err); d.Code != k.code || d.Reason != k.reason || !strings.Contains(d.Message, k.says) {
				t.Errorf("%s: %v", name, err)
			}
		}
		_, err := c.RepositoryModelLoad(t.Context(), &oip.RepositoryModelLoadRequest{ModelName: strings.Repeat("x", 100<<10)})
		if oip.Parse(err).Code != codes.ResourceExhausted {
			t.Errorf("a large name: %v", err)
		}
		resp, err := c.ModelInfer(t.Context(), ask(1))
		doubled(t, resp, err, 1)
	})
}

// A request waits for room to arrive, at most for QueueTimeout. A server that has as many calls as
// it allows still answers probes.
func TestNoRoomToArrive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most = 60 << 10 // one of this size could be finished, and then another
		r := serve(t, server.Config{MaxMessageSize: most, ReceiveBytes: 1, QueueTimeout: 4 * time.Second, MaxCalls: 3},
			mock.Config{Inputs: []tensor.Spec{{Name: "x", DType: tensor.FP32, Row: tensor.Shape{-1}}}})
		c := r.caller()
		a := r.attack(65535)
		// The first one is the older one: it has memory, and the other one waits.
		for i := range uint32(2) {
			a.open(2*i+1, "ModelInfer")
			a.send(2*i+1, message(0, make([]byte, most))[:most], 10<<10)
			synctest.Wait()
		}
		began := time.Now()
		_, err := c.ModelInfer(t.Context(), wide(14<<10))
		if d := oip.Parse(err); d.Code != codes.ResourceExhausted || d.Reason != oip.ReasonMemoryPressure || d.RetryAfter == 0 || time.Since(began) != 4*time.Second ||
			!strings.Contains(d.Message, "requests of at most 1 MiB that arrive share 491520 bytes (of --receive-bytes)") {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		time.AfterFunc(3*time.Second, func() { a.frame(frameReset, 0, 1, []byte{0, 0, 0, 8}) })
		began = time.Now()
		if _, err := c.ModelInfer(t.Context(), wide(14<<10)); err != nil || time.Since(began) != 3*time.Second {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		for i := range uint32(3) { // the two are gone
			a.open(2*i+5, "ModelInfer")
		}
		synctest.Wait()
		_, err = c.ModelInfer(t.Context(), ask(1))
		if d := oip.Parse(err); d.Code != codes.ResourceExhausted || d.Reason != oip.ReasonQueueFull || d.RetryAfter == 0 ||
			!strings.Contains(d.Message, "3 inferences are in flight, the most that the server allows (--max-calls)") {
			t.Error(err)
		}
		if ready, err := c.ServerReady(t.Context(), &oip.ServerReadyRequest{}); err != nil || !ready.Ready {
			t.Error(ready, err)
		}
		stream, err := c.ModelStreamInfer(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for range 2 { // the stream goes on
			if err := stream.Send(ask(1)); err != nil {
				t.Fatal(err)
			}
			resp, err := stream.Recv()
			if err != nil || resp.InferResponse.Parameters["error_reason"].GetStringParam() != oip.ReasonQueueFull {
				t.Error(resp, err)
			}
		}
	})
}

// A request that comes in parts has no more time to arrive than one that comes at once.
func TestLateInParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := serve(t, server.Config{}, mock.Config{})
		a := r.attack(65535)
		a.open(1, "ModelInfer")
		b := message(0, make([]byte, 40<<10))
		a.send(1, b[:5], 5)
		for at := 5; at < 20<<10; at += 4 << 10 {
			time.Sleep(server.DefaultReceiveTimeout/5 - time.Nanosecond)
			a.send(1, b[at:at+4<<10], 4<<10)
		}
		if synctest.Wait(); a.over(1) {
			t.Error("it has ended too early")
		}
		time.Sleep(5 * time.Nanosecond)
		if synctest.Wait(); !a.over(1) {
			t.Error("it has not ended")
		}
	})
}
