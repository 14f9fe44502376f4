package integration

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector"
	"github.com/tensorferry/tensorferry/sidecar"
	"github.com/tensorferry/tensorferry/sidecar/oip"
	"github.com/tensorferry/tensorferry/sidecar/sidecartest"
	"github.com/tensorferry/tensorferry/stream"
	"github.com/tensorferry/tensorferry/tensor"
)

const (
	benchRecords = 100_000
	benchRow     = 64  // FP32 values in a record
	benchBatch   = 250 // rows in a request: capacity 1,000 in a window of 4
	benchWindow  = 4
)

// nowhere is a sink that keeps nothing, so that the job's own cost is measured.
type nowhere struct{}

func (nowhere) Open(context.Context, async.Subtask) (connector.Writer[[]float64], error) {
	return nowhere{}, nil
}
func (nowhere) Committer(context.Context) (connector.Committer, error)      { return nothing{}, nil }
func (nowhere) Write([]stream.Record[[]float64]) error                      { return nil }
func (nowhere) Prepare(context.Context, int64) ([]connector.Pending, error) { return nil, nil }
func (nowhere) Close() error                                                { return nil }

type nothing struct{}

func (nothing) Begin(context.Context, []byte) ([]byte, error) { return nil, nil }
func (nothing) Plan(s []byte, _ []connector.Pending) (next, plan []byte, err error) {
	return s, nil, nil
}
func (nothing) Commit(context.Context, []byte) error { return nil }
func (nothing) Clean(context.Context) error          { return nil }
func (nothing) Close() error                         { return nil }

// BenchmarkJobAgainstBareLoop compares a whole job (source, ordered function with
// codec, sink, checkpoints) with a loop that sends ready-made requests of the same size with
// the same number in flight and looks at nothing: what grpc and the sidecar cost by themselves.
// It prints the median ratio of interleaved pairs and their spread.
func BenchmarkJobAgainstBareLoop(b *testing.B) {
	for _, parallelism := range []int{1, 2} {
		b.Run(fmt.Sprintf("parallelism=%d", parallelism), func(b *testing.B) {
			s := sidecartest.StartAt(b, sidecartest.Script{
				Function: "sum", Inputs: []tensor.Spec{{Name: "x", DType: tensor.FP32, Row: tensor.Shape{benchRow}}},
			}, "unix://"+filepath.Join(b.TempDir(), "s.sock"))
			if err := s.WaitReady(b.Context()); err != nil {
				b.Fatal(err)
			}
			values := make([][]float32, benchRecords)
			for i := range values {
				values[i] = make([]float32, benchRow)
			}
			var ratios []float64
			var jobs, loops time.Duration
			const pairs = 7
			for b.Loop() {
				ratios = ratios[:0]
				jobs, loops = 0, 0
				for n := range pairs {
					var job, loop time.Duration
					if n%2 == 0 {
						job, loop = runJob(b, s, values, parallelism), runLoop(b, s, parallelism)
					} else {
						loop, job = runLoop(b, s, parallelism), runJob(b, s, values, parallelism)
					}
					ratios = append(ratios, float64(job)/float64(loop))
					jobs, loops = jobs+job, loops+loop
				}
			}
			slices.Sort(ratios)
			b.ReportMetric(ratios[pairs/2], "job/loop")
			b.ReportMetric(ratios[0], "least")
			b.ReportMetric(ratios[pairs-1], "most")
			b.ReportMetric(pairs*benchRecords/jobs.Seconds(), "job-records/s")
			b.ReportMetric(pairs*benchRecords/loops.Seconds(), "loop-records/s")
		})
	}
}

func runJob(b *testing.B, s *sidecartest.Server, values [][]float32, parallelism int) time.Duration {
	start := time.Now()
	j := stream.New("bench", stream.Config{Parallelism: parallelism, Checkpoint: stream.CheckpointConfig{Interval: 100 * time.Millisecond}})
	fn := sidecar.NewAsyncFunction(sidecar.Config{Endpoint: s.Endpoint(), Model: s.Model()}, tensor.Values[float32, float64]("", ""))
	stream.To(stream.OrderedWait(stream.From(j, stream.FromSlice(values)), fn, async.Config{}), nowhere{})
	run := j.Start(b.Context())
	if err := run.Wait(); err != nil {
		b.Fatal(err)
	}
	if p := run.Progress(); p.Emitted != benchRecords {
		b.Fatalf("%d records", p.Emitted)
	}
	return time.Since(start)
}

func runLoop(b *testing.B, s *sidecartest.Server, parallelism int) time.Duration {
	start := time.Now()
	var wg sync.WaitGroup
	for range parallelism {
		conn, err := s.Dial(grpc.WithDisableRetry())
		if err != nil {
			b.Fatal(err)
		}
		defer conn.Close()
		requests := make(chan int)
		for range benchWindow {
			wg.Go(func() {
				req := &oip.ModelInferRequest{
					ModelName:        s.Model(),
					Inputs:           []*oip.ModelInferRequest_InferInputTensor{{Name: "x", Datatype: "FP32", Shape: []int64{benchBatch, benchRow}}},
					RawInputContents: [][]byte{make([]byte, 4*benchBatch*benchRow)},
				}
				var resp oip.ModelInferResponse
				for range requests {
					if err := conn.Invoke(b.Context(), oip.GRPCInferenceService_ModelInfer_FullMethodName, req, &resp); err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		wg.Go(func() {
			defer close(requests)
			for i := range benchRecords / benchBatch / parallelism {
				requests <- i
			}
		})
	}
	wg.Wait()
	return time.Since(start)
}
