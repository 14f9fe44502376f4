//go:build integration

package servers

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/status"

	"github.com/tensorferry/tensorferry/sidecar/oip"
)

// odd returns a request to the model that does what values ask for, a row for each.
func odd(model string, values ...int32) *oip.ModelInferRequest {
	var raw []byte
	for _, v := range values {
		raw = binary.LittleEndian.AppendUint32(raw, uint32(v))
	}
	return &oip.ModelInferRequest{
		ModelName: model, Id: "probe",
		Inputs:           []*oip.ModelInferRequest_InferInputTensor{{Name: "x", Datatype: "INT32", Shape: []int64{int64(len(values)), 1}}},
		RawInputContents: [][]byte{raw},
	}
}

// provoke makes one failure happen and returns what the server said of it.
type provoke func(s *server, c oip.GRPCInferenceServiceClient) error

func infer(c oip.GRPCInferenceServiceClient, req *oip.ModelInferRequest) error {
	ctx, cancel := ask(30 * time.Second)
	defer cancel()
	_, err := c.ModelInfer(ctx, req)
	return err
}

func changed(change func(*oip.ModelInferRequest)) provoke {
	return func(_ *server, c oip.GRPCInferenceServiceClient) error {
		req := odd("odd", 1)
		change(req)
		return infer(c, req)
	}
}

// crowd sends as many requests at once, each a row of its value, and returns the failures.
func crowd(c oip.GRPCInferenceServiceClient, model string, n int, value int32) []error {
	var mu sync.Mutex
	var errs []error
	var all sync.WaitGroup
	for range n {
		all.Go(func() {
			if err := infer(c, odd(model, value)); err != nil {
				mu.Lock()
				errs = append(errs, err)
				mu.Unlock()
			}
		})
	}
	all.Wait()
	return errs
}

// failures are what is provoked, by name. Those that end the server come last.
var failures = map[string]provoke{
	"metadata of an unknown model": func(_ *server, c oip.GRPCInferenceServiceClient) error {
		ctx, cancel := ask(10 * time.Second)
		defer cancel()
		_, err := c.ModelMetadata(ctx, &oip.ModelMetadataRequest{Name: "nosuch"})
		return err
	},
	"metadata of an unknown version": func(_ *server, c oip.GRPCInferenceServiceClient) error {
		ctx, cancel := ask(10 * time.Second)
		defer cancel()
		_, err := c.ModelMetadata(ctx, &oip.ModelMetadataRequest{Name: "odd", Version: "7"})
		return err
	},
	"readiness of an unknown model": func(_ *server, c oip.GRPCInferenceServiceClient) error {
		ctx, cancel := ask(10 * time.Second)
		defer cancel()
		_, err := c.ModelReady(ctx, &oip.ModelReadyRequest{Name: "nosuch"})
		return err
	},
	"configuration of a model": func(_ *server, c oip.GRPCInferenceServiceClient) error {
		ctx, cancel := ask(10 * time.Second)
		defer cancel()
		_, err := c.ModelConfig(ctx, &oip.ModelConfigRequest{Name: "odd"})
		return err
	},
	"unknown model":           changed(func(r *oip.ModelInferRequest) { r.ModelName = "nosuch" }),
	"model that is not ready": changed(func(r *oip.ModelInferRequest) { r.ModelName = "unready" }),
	"unknown version":         changed(func(r *oip.ModelInferRequest) { r.ModelVersion = "7" }),
	"unknown input":           changed(func(r *oip.ModelInferRequest) { r.Inputs[0].Name = "z" }),
	"no input":                changed(func(r *oip.ModelInferRequest) { r.Inputs, r.RawInputContents = nil, nil }),
	"unknown output": changed(func(r *oip.ModelInferRequest) {
		r.Outputs = []*oip.ModelInferRequest_InferRequestedOutputTensor{{Name: "z"}}
	}),
	"wrong datatype":   changed(func(r *oip.ModelInferRequest) { r.Inputs[0].Datatype = "FP32" }),
	"unknown datatype": changed(func(r *oip.ModelInferRequest) { r.Inputs[0].Datatype = "FP7" }),
	"wrong shape": changed(func(r *oip.ModelInferRequest) {
		r.Inputs[0].Shape = []int64{1, 2}
		r.RawInputContents[0] = make([]byte, 8)
	}),
	"missing bytes": changed(func(r *oip.ModelInferRequest) { r.RawInputContents[0] = r.RawInputContents[0][:3] }),
	"too many rows": func(_ *server, c oip.GRPCInferenceServiceClient) error {
		return infer(c, odd("odd", make([]int32, 9)...))
	},
	"the model raises":   func(_ *server, c oip.GRPCInferenceServiceClient) error { return infer(c, odd("odd", 666)) },
	"one row too little": func(_ *server, c oip.GRPCInferenceServiceClient) error { return infer(c, odd("odd", 1, 667)) },
	"unknown shared memory": changed(func(r *oip.ModelInferRequest) {
		r.RawInputContents = nil
		r.Inputs[0].Parameters = map[string]*oip.InferParameter{
			"shared_memory_region":    {ParameterChoice: &oip.InferParameter_StringParam{StringParam: "nosuch"}},
			"shared_memory_byte_size": {ParameterChoice: &oip.InferParameter_Int64Param{Int64Param: 4}},
		}
	}),
	"registering shared memory that is not there": func(_ *server, c oip.GRPCInferenceServiceClient) error {
		ctx, cancel := ask(10 * time.Second)
		defer cancel()
		_, err := c.SystemSharedMemoryRegister(ctx, &oip.SystemSharedMemoryRegisterRequest{Name: "r", Key: "/tensorferry-nosuch", ByteSize: 4})
		return err
	},
	"message too large": func(s *server, c oip.GRPCInferenceServiceClient) error {
		n := 65 << 20
		return infer(c, &oip.ModelInferRequest{ModelName: "large",
			Inputs:           []*oip.ModelInferRequest_InferInputTensor{{Name: "x", Datatype: "UINT8", Shape: []int64{1, int64(n)}}},
			RawInputContents: [][]byte{make([]byte, n)}})
	},
	"queue full": func(_ *server, c oip.GRPCInferenceServiceClient) error {
		if errs := crowd(c, "tiny", 12, 1300); len(errs) > 0 {
			return errs[0]
		}
		return nil
	},
	"queue timeout": func(_ *server, c oip.GRPCInferenceServiceClient) error {
		if errs := crowd(c, "hasty", 4, 1300); len(errs) > 0 {
			return errs[0]
		}
		return nil
	},
	"deadline": func(_ *server, c oip.GRPCInferenceServiceClient) error {
		ctx, cancel := ask(200 * time.Millisecond)
		defer cancel()
		_, err := c.ModelInfer(ctx, odd("odd", 1800))
		return err
	},
	"unloaded model": func(_ *server, c oip.GRPCInferenceServiceClient) error {
		ctx, cancel := ask(30 * time.Second)
		defer cancel()
		if _, err := c.RepositoryModelUnload(ctx, &oip.RepositoryModelUnloadRequest{ModelName: "large"}); err != nil {
			return fmt.Errorf("unload: %w", err)
		}
		_, err := c.ModelInfer(ctx, &oip.ModelInferRequest{ModelName: "large",
			Inputs:           []*oip.ModelInferRequest_InferInputTensor{{Name: "x", Datatype: "UINT8", Shape: []int64{1, 1}}},
			RawInputContents: [][]byte{{1}}})
		return err
	},
	"the model's process ends": func(_ *server, c oip.GRPCInferenceServiceClient) error {
		ctx, cancel := ask(5 * time.Second)
		defer cancel()
		_, err := c.ModelInfer(ctx, odd("odd", 668))
		return err
	},
}

// observed is one row of what servers were seen to answer.
type observed struct {
	Server, Failure string
	Code            string
	// Text is what the message holds that does not change from one time to another.
	Text string
}

// What each server answers to each failure is what the client's table of errors was
// made from; sidecar/testdata/servers.json has it.
func TestErrors(t *testing.T) {
	text, err := os.ReadFile("../../sidecar/testdata/servers.json")
	if err != nil {
		t.Fatal(err)
	}
	var rows []observed
	if err := json.Unmarshal(text, &rows); err != nil {
		t.Fatal(err)
	}
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			s := serve(t, k, "UNREADY=1")
			last := []string{"unloaded model", "the model's process ends"}
			names := slices.DeleteFunc(slices.Sorted(maps.Keys(failures)), func(n string) bool { return slices.Contains(last, n) })
			seen := 0
			for _, name := range append(names, last...) {
				i := slices.IndexFunc(rows, func(r observed) bool { return r.Server == k.name && r.Failure == name })
				if i < 0 {
					continue // the server has no such failure
				}
				err := failures[name](s, s.dial(t))
				t.Logf("%s: %v %.200q", name, status.Code(err), status.Convert(err).Message())
				seen++
				want := rows[i]
				got := strings.ToUpper(status.Code(err).String())
				if !sameCode(got, want.Code) || !strings.Contains(status.Convert(err).Message(), want.Text) {
					t.Errorf("%s: %v; the table was made from %s %q", name, err, want.Code, want.Text)
				}
			}
			if seen < 15 {
				t.Errorf("%d failures were provoked", seen)
			}
		})
	}
}

// sameCode compares grpc's spelling of a code with the protocol's.
func sameCode(got, want string) bool { return got == strings.ReplaceAll(want, "_", "") }
