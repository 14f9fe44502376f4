package server_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/tensorferry/tensorferry/sidecar/backend/mock"
	"github.com/tensorferry/tensorferry/sidecar/oip"
	"github.com/tensorferry/tensorferry/sidecar/server"
)

func param(v any) *oip.InferParameter {
	switch v := v.(type) {
	case bool:
		return &oip.InferParameter{ParameterChoice: &oip.InferParameter_BoolParam{BoolParam: v}}
	case int:
		return &oip.InferParameter{ParameterChoice: &oip.InferParameter_Int64Param{Int64Param: int64(v)}}
	case string:
		return &oip.InferParameter{ParameterChoice: &oip.InferParameter_StringParam{StringParam: v}}
	}
	panic(v)
}

// A stream's answers come in the order of its requests. A request that fails is answered in its
// turn, with code and reason, and the stream goes on.
func TestStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := serve(t, server.Config{}, mock.Config{Latency: 10 * time.Millisecond, Jitter: 30 * time.Millisecond, Instances: 8})
		stream, err := r.caller().ModelStreamInfer(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		const n = 300 // more than are in flight at once
		go func() {
			for i := range n {
				req := ask(float32(i))
				req.Id = fmt.Sprint(i)
				if i%7 == 3 {
					req.Inputs[0].Name = "z"
				}
				if i%2 == 1 {
					req.Parameters = map[string]*oip.InferParameter{"triton_enable_empty_final_response": param(true)}
				}
				if err := sent(stream.Send(req)); err != nil {
					t.Error(err)
				}
			}
			stream.CloseSend()
		}()
		for i := range n {
			got, err := stream.Recv()
			if err != nil {
				t.Fatalf("answer %d: %v", i, err)
			}
			resp := got.InferResponse
			if resp.GetId() != fmt.Sprint(i) || resp.GetParameters()["triton_final_response"].GetBoolParam() != (i%2 == 1) {
				t.Fatalf("answer %d: %v", i, got)
			}
			if i%7 == 3 {
				if got.ErrorMessage == "" || resp.Parameters["error_code"].GetStringParam() != "INVALID_ARGUMENT" ||
					resp.Parameters["error_reason"].GetStringParam() != oip.ReasonUnknownInput {
					t.Errorf("answer %d: %v", i, got)
				}
				continue
			}
			if got.ErrorMessage != "" {
				t.Fatalf("answer %d: %v", i, got)
			}
			doubled(t, resp, nil, float32(i))
		}
		if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
			t.Errorf("at the end: %v", err)
		}
		if runs, _ := r.model.Runs(); runs >= n {
			t.Errorf("%d batches for %d requests of one stream: nothing was batched", runs, n)
		}
	})
}

// Every answer names its request, and the model and version that it comes from. That holds for
// calls and streams, for good and bad answers, whatever version was asked for.
func TestAnswersNameThemselves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := serve(t, server.Config{}, mock.Config{Jitter: 5 * time.Millisecond, Instances: 8})
		stream, err := r.caller().ModelStreamInfer(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		c := r.caller()
		named := func(how string, i int, resp *oip.ModelInferResponse, version string) {
			if resp.GetId() != fmt.Sprint("r/", i) || resp.GetModelName() != "m" || resp.GetModelVersion() != version {
				t.Errorf("%s, request %d: the answer is to %q, of %q version %q", how, i, resp.GetId(), resp.GetModelName(), resp.GetModelVersion())
			}
		}
		for i := range 20 {
			req := ask(float32(i))
			req.Id = fmt.Sprint("r/", i)
			if i%2 == 1 {
				req.ModelVersion = "1"
			}
			bad := i%5 == 4
			if bad {
				req.Inputs[0].Datatype = "FP64"
			}
			if err := sent(stream.Send(req)); err != nil {
				t.Fatal(err)
			}
			resp, err := c.ModelInfer(t.Context(), req)
			if bad {
				if d := oip.Parse(err); d.Metadata[oip.MetaModel] != "m" || d.Metadata[oip.MetaRequestID] != req.Id {
					t.Errorf("request %d: %v", i, err)
				}
				continue
			}
			doubled(t, resp, err, float32(i))
			named("by call", i, resp, "1")
		}
		for i := range 20 {
			got, err := stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			version := "1"
			if i%5 == 4 && i%2 == 0 {
				version = "" // the request was refused before a version was chosen
			}
			named("on the stream", i, got.InferResponse, version)
			if i%5 != 4 {
				doubled(t, got.InferResponse, nil, float32(i))
			}
		}
	})
}

// A server that drains answers what a stream has sent, and ends it.
func TestStreamDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := serve(t, server.Config{}, mock.Config{Latency: time.Second, Instances: 4})
		stream, err := r.caller().ModelStreamInfer(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for i := range 3 {
			if err := sent(stream.Send(ask(float32(i)))); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(100 * time.Millisecond)
		began := time.Now()
		go r.srv.Shutdown(t.Context())
		for i := range 3 {
			got, err := stream.Recv()
			if err != nil || got.ErrorMessage != "" {
				t.Fatalf("answer %d: %v, %v", i, got, err)
			}
			doubled(t, got.InferResponse, nil, float32(i))
		}
		_, err = stream.Recv()
		if d := oip.Parse(err); d.Code != codes.Unavailable || d.Reason != oip.ReasonDraining {
			t.Errorf("at the end: %v", err)
		}
		// The first runs alone for a second, the others after it.
		if d := time.Since(began); d > 2*time.Second {
			t.Errorf("it took %v; the grace period is not for idle streams", d)
		}
	})
}

// If the caller of a stream goes away, its requests end too.
func TestStreamCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := serve(t, server.Config{MaxBatch: 1}, mock.Config{Latency: time.Second})
		ctx, cancel := context.WithCancel(t.Context())
		stream, err := r.caller().ModelStreamInfer(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 10 {
			if err := sent(stream.Send(ask(float32(i)))); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(100 * time.Millisecond)
		cancel()
		time.Sleep(20 * time.Second)
		// A batch that begins while the others are being dropped is stopped at once.
		got, err := r.caller().ModelStatistics(t.Context(), &oip.ModelStatisticsRequest{Name: "m"})
		if err != nil || got.ModelStats[0].ExecutionCount != 0 || got.ModelStats[0].InferenceStats.Fail.Count != 10 {
			t.Errorf("ten requests whose caller went before the first had an answer: %v, %v", got, err)
		}
	})
}

// The parameter for how long a request may wait does not keep requests apart, and is obeyed.
func TestTimeoutParameter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := serve(t, server.Config{MaxBatch: 4}, mock.Config{Latency: time.Second})
		c := r.caller()
		results := make(chan error, 10)
		send := func(v float32, micros int) {
			req := ask(v)
			req.Parameters = map[string]*oip.InferParameter{"timeout": param(micros), "priority": param(micros)}
			go func() {
				_, err := c.ModelInfer(t.Context(), req)
				results <- err
			}()
			synctest.Wait()
		}
		send(0, 10_000_000)
		for i := range 4 { // wait behind it, and share a batch
			send(float32(i), 10_000_000+i)
		}
		for range 5 {
			if err := <-results; err != nil {
				t.Error(err)
			}
		}
		if runs, _ := r.model.Runs(); runs != 2 {
			t.Errorf("%d batches; the timeout kept requests apart", runs)
		}
		send(0, 0)
		send(1, 300_000)
		if err := errors.Join(<-results, <-results); status.Code(err) != codes.DeadlineExceeded && oip.Parse(err).Code != codes.DeadlineExceeded {
			t.Errorf("a request that may wait 300ms, behind one that runs for a second: %v", err)
		}
		if runs, _ := r.model.Runs(); runs != 3 {
			t.Errorf("%d batches; the late request was run", runs)
		}
	})
}

// A parameter that would change the answer, and that the server does not serve, is refused by name.
func TestUnservedParameters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := serve(t, server.Config{}, mock.Config{})
		c := r.caller()
		for name, change := range map[string]func(*oip.ModelInferRequest){
			"sequence_id": func(m *oip.ModelInferRequest) { m.Parameters = map[string]*oip.InferParameter{"sequence_id": param(7)} },
			"classification": func(m *oip.ModelInferRequest) {
				m.Outputs = []*oip.ModelInferRequest_InferRequestedOutputTensor{{Name: "y", Parameters: map[string]*oip.InferParameter{"classification": param(3)}}}
			},
		} {
			req := ask(1)
			change(req)
			_, err := c.ModelInfer(t.Context(), req)
			if d := oip.Parse(err); d.Code != codes.Unimplemented || d.Reason != oip.ReasonUnsupportedFeature {
				t.Errorf("%s: %v", name, err)
			}
		}
		req := ask(1)
		req.Parameters = map[string]*oip.InferParameter{"sequence_id": param(0), "sequence_start": param(false)}
		resp, err := c.ModelInfer(t.Context(), req)
		doubled(t, resp, err, 1)
	})
}

func TestModelConfig(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := serve(t, server.Config{MaxBatch: 32, MaxBatchDelay: 2 * time.Millisecond, QueueTimeout: 3 * time.Second}, mock.Config{Instances: 3})
		got, err := r.caller().ModelConfig(t.Context(), &oip.ModelConfigRequest{Name: "m"})
		want := &oip.ModelConfig{
			Name: "m", Platform: "tensorferry", Backend: "tensorferry", MaxBatchSize: 32,
			VersionPolicy:          &oip.ModelVersionPolicy{PolicyChoice: &oip.ModelVersionPolicy_All_{All: &oip.ModelVersionPolicy_All{}}},
			InstanceGroup:          []*oip.ModelInstanceGroup{{Name: "m", Count: 3}},
			Input:                  []*oip.ModelInput{{Name: "x", DataType: oip.DataType_TYPE_FP32, Dims: []int64{1}}},
			Output:                 []*oip.ModelOutput{{Name: "y", DataType: oip.DataType_TYPE_FP32, Dims: []int64{1}}},
			ModelTransactionPolicy: &oip.ModelTransactionPolicy{},
			SchedulingChoice: &oip.ModelConfig_DynamicBatching{DynamicBatching: &oip.ModelDynamicBatching{
				MaxQueueDelayMicroseconds: 2000,
				DefaultQueuePolicy:        &oip.ModelQueuePolicy{DefaultTimeoutMicroseconds: 3_000_000, AllowTimeoutOverride: true}}},
		}
		if err != nil || !proto.Equal(got.Config, want) {
			t.Errorf("got %v, %v\nwant %v", got.GetConfig(), err, want)
		}
		if _, err := r.caller().ModelConfig(t.Context(), &oip.ModelConfigRequest{Name: "n"}); status.Code(err) != codes.NotFound {
			t.Error(err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		r := serve(t, server.Config{}, mock.Config{Unbatched: true})
		got, err := r.caller().ModelConfig(t.Context(), &oip.ModelConfigRequest{Name: "m"})
		if err != nil || got.Config.MaxBatchSize != 0 || got.Config.SchedulingChoice != nil {
			t.Errorf("a model that does not batch: %v, %v", got, err)
		}
	})
}

// The sums, in virtual time: three requests, two of which share a batch after waiting for the
// first.
func TestModelStatistics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := serve(t, server.Config{}, mock.Config{Latency: time.Second})
		c := r.caller()
		done := make(chan error, 3)
		for _, rows := range []int{1, 2, 3} {
			go func() {
				_, err := c.ModelInfer(t.Context(), ask(sequence(0, rows)...))
				done <- err
			}()
			synctest.Wait()
		}
		if err := errors.Join(<-done, <-done, <-done); err != nil {
			t.Fatal(err)
		}
		bad := ask(1)
		bad.Inputs[0].Name = "z"
		c.ModelInfer(t.Context(), bad)
		synctest.Wait()
		for _, name := range []string{"m", ""} {
			got, err := c.ModelStatistics(t.Context(), &oip.ModelStatisticsRequest{Name: name})
			if err != nil || len(got.ModelStats) != 1 {
				t.Fatal(got, err)
			}
			second := uint64(time.Second)
			d := func(count, seconds uint64) *oip.StatisticDuration {
				return &oip.StatisticDuration{Count: count, Ns: seconds * second}
			}
			want := &oip.ModelStatistics{
				Name: "m", Version: "1", LastInference: uint64(time.Now().UnixMilli()), InferenceCount: 6, ExecutionCount: 2,
				InferenceStats: &oip.InferStatistics{Success: d(3, 5), Fail: d(1, 0), Queue: d(3, 2),
					ComputeInput: d(3, 0), ComputeInfer: d(3, 3), ComputeOutput: d(3, 0), CacheHit: d(0, 0), CacheMiss: d(0, 0)},
				BatchStats: []*oip.InferBatchStatistics{
					{BatchSize: 1, ComputeInput: d(1, 0), ComputeInfer: d(1, 1), ComputeOutput: d(1, 0)},
					{BatchSize: 5, ComputeInput: d(1, 0), ComputeInfer: d(1, 1), ComputeOutput: d(1, 0)},
				},
			}
			if !proto.Equal(got.ModelStats[0], want) {
				t.Errorf("got %v\nwant %v", got.ModelStats[0], want)
			}
		}
		if _, err := c.ModelStatistics(t.Context(), &oip.ModelStatisticsRequest{Name: "n"}); status.Code(err) != codes.NotFound {
			t.Error(err)
		}
	})
}
