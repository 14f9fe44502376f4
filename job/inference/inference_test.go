package inference_test

import (
	"context"
	"strings"
	"testing"

	"google.golang.org/grpc"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/job"
	"github.com/tensorferry/tensorferry/job/inference"
	"github.com/tensorferry/tensorferry/sidecar/oip"
	"github.com/tensorferry/tensorferry/sidecar/sidecartest"
)

// Tensors that a job file states make up for a server that does not tell them; without them the error
// names the key.
func TestTensorsOfTheFile(t *testing.T) {
	s := sidecartest.StartAt(t, sidecartest.Script{Options: []grpc.ServerOption{grpc.ChainUnaryInterceptor(
		func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			if info.FullMethod == oip.GRPCInferenceService_ModelMetadata_FullMethodName {
				return &oip.ModelMetadataResponse{Name: "model"}, nil
			}
			return next(ctx, req)
		})}}, "127.0.0.1:0")
	run := func(tensors string) (out string, err error) {
		t.Helper()
		spec, err := job.Parse("j.yaml", t.TempDir(), []byte(`
name: j
source: {stdin: {}}
sink: {stdout: {}}
infer:
  endpoint: `+s.Endpoint()+`
  model: model
`+tensors))
		if err != nil {
			t.Fatal(err)
		}
		fn, err := inference.NewFunction(spec, spec.Infer.Endpoint, nil)
		if err != nil {
			return "", err
		}
		one := func(yield func(inference.Record, error) bool) { yield(inference.Record(`{"x":21}`), nil) }
		for result, e := range async.Map(t.Context(), one, fn, async.Config{}) {
			out, err = string(result), e
		}
		return out, err
	}
	const stated = `  tensors: {inputs: {x: {datatype: FP32, shape: [1]}}, outputs: {y: {datatype: FP32, shape: [1]}}}` + "\n"
	if out, err := run(stated); err != nil || out != `{"x":21,"y":42}` {
		t.Errorf("stated: %q, %v", out, err)
	}
	if _, err := run(""); err == nil || !strings.Contains(err.Error(), "infer.tensors") {
		t.Errorf("not stated: %v", err)
	}
}
