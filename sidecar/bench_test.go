package sidecar

import (
	"context"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/sidecar/endpoint"
	"github.com/tensorferry/tensorferry/sidecar/oip"
	"github.com/tensorferry/tensorferry/tensor"
)

// echoServer answers each request with its own bytes, as fast as it can.
type echoServer struct {
	oip.UnimplementedGRPCInferenceServiceServer
	sig tensor.Signature
}

func (s *echoServer) ServerReady(context.Context, *oip.ServerReadyRequest) (*oip.ServerReadyResponse, error) {
	return &oip.ServerReadyResponse{Ready: true}, nil
}

func (s *echoServer) ModelMetadata(context.Context, *oip.ModelMetadataRequest) (*oip.ModelMetadataResponse, error) {
	return oip.Metadata(&s.sig, "bench"), nil
}

func (s *echoServer) ModelInfer(_ context.Context, req *oip.ModelInferRequest) (*oip.ModelInferResponse, error) {
	return &oip.ModelInferResponse{ModelName: req.ModelName, Id: req.Id, RawOutputContents: req.RawInputContents,
		Outputs: []*oip.ModelInferResponse_InferOutputTensor{{Name: "y", Datatype: "FP32", Shape: req.Inputs[0].Shape}}}, nil
}

const benchWidth = 64

// startEcho starts an echoServer on a real Unix socket.
func startEcho(tb testing.TB) (cfg Config, sig *tensor.Signature) {
	s := &echoServer{sig: tensor.Signature{Model: "echo", Batched: true,
		Inputs:  []tensor.Spec{{Name: "x", DType: tensor.FP32, Row: tensor.Shape{benchWidth}}},
		Outputs: []tensor.Spec{{Name: "y", DType: tensor.FP32, Row: tensor.Shape{benchWidth}}}}}
	where := "unix://" + filepath.Join(tb.TempDir(), "s")
	ep, err := endpoint.Parse(where)
	if err != nil {
		tb.Fatal(err)
	}
	l, err := ep.Listen()
	if err != nil {
		tb.Fatal(err)
	}
	server := grpc.NewServer(grpc.MaxRecvMsgSize(DefaultMaxMessageSize))
	oip.RegisterGRPCInferenceServiceServer(server, s)
	var serving sync.WaitGroup
	serving.Go(func() { server.Serve(l) })
	tb.Cleanup(func() {
		server.Stop()
		serving.Wait()
	})
	return Config{Endpoint: where, Model: "echo"}, &s.sig
}

// sumCodec sends a record's 64 values and makes one number of the answer, so that the benchmark
// measures the channel and not the memory of the results.
type sumCodec struct{}

func (sumCodec) Bind(tensor.Signature) (tensor.RowCodec[numbers, float32], error) {
	return sumCodec{}, nil
}
func (sumCodec) Encode(dst *tensor.Batch, in numbers) error {
	return tensor.AppendValues(dst.Column(0), in)
}
func (sumCodec) Decode(_ numbers, src *tensor.Rows, i int) (float32, error) {
	return float32(src.Output(0).Number(i, 0)), nil
}

// loader keeps a channel supplied: as many calls in progress as fit, refilled as they end.
type loader struct {
	freed  chan int
	failed atomic.Pointer[error]
}

func (l *loader) Complete(cs []async.Completion[float32]) {
	for i := range cs {
		if cs[i].Err != nil {
			err := cs[i].Err
			l.failed.Store(&err)
		}
	}
	l.freed <- len(cs)
}
func (l *loader) Suspend(error)     {}
func (l *loader) Resume()           {}
func (l *loader) Fail(error)        {}
func (l *loader) ResultsFull() bool { return false }

// load is an open channel under load.
type load struct {
	l       *loader
	caller  async.Caller[numbers, float32]
	calls   []async.Call[numbers]
	most    int
	records []numbers
	entry   uint64
}

func newLoad(tb testing.TB, cfg Config, rows, window int) *load {
	cfg.MaxBatch, cfg.Window = rows, window
	l := &load{l: &loader{freed: make(chan int, 1<<12)}, most: rows * window}
	caller, err := NewAsyncFunction(cfg, sumCodec{}).Open(context.Background(),
		async.Subtask{Operator: "bench", Config: async.Config{Capacity: l.most}}, l.l)
	if err != nil {
		tb.Fatal(err)
	}
	l.caller = caller
	l.calls, l.records = make([]async.Call[numbers], l.most), make([]numbers, l.most)
	for i := range l.records {
		l.records[i] = make(numbers, benchWidth)
	}
	return l
}

// run sends n records.
func (l *load) run(tb testing.TB, n int) {
	sent, done, free := 0, 0, l.most
	deadline := time.Now().Add(time.Hour) // no operator here ends late calls
	for done < n {
		if k := min(free, n-sent); k > 0 {
			for i := range l.calls[:k] {
				l.entry++
				l.calls[i] = async.Call[numbers]{ID: async.CallID{Entry: l.entry}, Deadline: deadline,
					Record: async.Record[numbers]{Value: l.records[i]}}
			}
			l.caller.Call(l.calls[:k])
			sent, free = sent+k, free-k
		}
		k := <-l.l.freed
		done, free = done+k, free+k
	}
	if err := l.l.failed.Load(); err != nil {
		tb.Fatal(*err)
	}
}

// bareLoop is the baseline for the channel: one goroutine for each place in the window. Each
// encodes rows of the same records into a request, sends it over a plain connection, and decodes
// the answer.
func bareLoop(tb testing.TB, conn *grpc.ClientConn, sig *tensor.Signature, rows, window, n int) {
	var next atomic.Int64
	var wg sync.WaitGroup
	record := make(numbers, benchWidth)
	for range window {
		wg.Go(func() {
			batch, answer, req := tensor.NewBatch(sig), tensor.NewRows(sig), oip.NewRequest(sig)
			var resp oip.ModelInferResponse
			var sum float64
			for {
				k := min(rows, n-int(next.Add(int64(rows)))+rows)
				if k <= 0 {
					break
				}
				batch.Reset()
				for range k {
					tensor.AppendValues(batch.Column(0), record)
					batch.EndRow()
				}
				req.Fill(batch)
				ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
				if err := conn.Invoke(ctx, oip.GRPCInferenceService_ModelInfer_FullMethodName, req.Message(), &resp); err != nil {
					tb.Error(err)
				}
				cancel()
				if err := oip.FillRows(answer, &resp, k); err != nil {
					tb.Error(err)
				}
				for i := range k {
					sum += answer.Output(0).Number(i, 0)
				}
			}
		})
	}
	wg.Wait()
}

// BenchmarkChannel measures a channel against a bare gRPC loop, in interleaved pairs. Both have
// requests of the same size, equally many in flight, over the same kind of socket. It reports the
// medians, and the median and spread of the pairs' ratios: 1 means no cost, below 1 means slower.
func BenchmarkChannel(b *testing.B) {
	for _, rows := range []int{1, 32, 250} {
		b.Run(fmt.Sprintf("rows=%d", rows), func(b *testing.B) {
			const window, pairs = 4, 9
			cfg, sig := startEcho(b)
			conn, err := grpc.NewClient(cfg.Endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableServiceConfig())
			if err != nil {
				b.Fatal(err)
			}
			defer conn.Close()
			l := newLoad(b, cfg, rows, window)
			defer l.caller.Close()
			n := max(b.N/pairs, 4*rows*window)
			l.run(b, n)
			bareLoop(b, conn, sig, rows, window, n)
			b.ResetTimer()
			var ours, bare, ratio []float64
			for range pairs {
				start := time.Now()
				l.run(b, n)
				mid := time.Now()
				bareLoop(b, conn, sig, rows, window, n)
				o, r := float64(mid.Sub(start)), float64(time.Since(mid))
				ours, bare, ratio = append(ours, o/float64(n)), append(bare, r/float64(n)), append(ratio, r/o)
			}
			for _, s := range [][]float64{ours, bare, ratio} {
				slices.Sort(s)
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(ours[pairs/2], "ns/record")
			b.ReportMetric(bare[pairs/2], "bare-ns/record")
			b.ReportMetric(ratio[pairs/2], "ratio")
			b.ReportMetric(ratio[1], "ratio-low")
			b.ReportMetric(ratio[pairs-2], "ratio-high")
		})
	}
}

// In the steady state a record costs no allocation: requests with ten times the rows cost what
// small ones do.
func TestAllocations(t *testing.T) {
	cfg, _ := startEcho(t)
	perRequest := func(rows int) float64 {
		l := newLoad(t, cfg, rows, 2)
		defer l.caller.Close()
		const requests = 200
		l.run(t, 4*rows*requests) // until every buffer has grown to its size
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		l.run(t, rows*requests)
		runtime.ReadMemStats(&after)
		return float64(after.Mallocs-before.Mallocs) / requests
	}
	// 10 and 100 rows: the messages differ in grpc's buffer sizes, hence the tolerance per request.
	small, large := perRequest(10), perRequest(100)
	if perRecord := (large - small) / 90; perRecord > 0.25 {
		t.Errorf("%.2f allocations a record (%.0f a request of 10 rows, %.0f of 100)", perRecord, small, large)
	}
}
