package sidecar

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/sidecar/oip"
	"github.com/tensorferry/tensorferry/tensor"
)

// A model is replaced while the connection stays. The first answer that does not fit shows it,
// whatever the server says, and the job fails permanently. No record is blamed (A63).
func TestReplacedInPlace(t *testing.T) {
	spec := func(name string, dt tensor.DType, row ...int64) tensor.Spec {
		return tensor.Spec{Name: name, DType: dt, Row: row}
	}
	in, out := spec("x", tensor.FP32, 1), spec("y", tensor.FP32, 1)
	fails := func(code codes.Code, text string) func() error {
		return func() error { return status.Error(code, text) }
	}
	for name, c := range map[string]struct {
		inputs, outputs []tensor.Spec
		fail            func() error                  // nil: the model answers
		answer          func(*oip.ModelInferResponse) // changes the answer
		changed         string
	}{
		"ours, other input": {[]tensor.Spec{spec("z", tensor.FP32, 1)}, []tensor.Spec{out},
			func() error {
				return oip.Error(codes.InvalidArgument, oip.ReasonUnknownInput, "no input x", oip.WithBadInput("x", "no input x"))
			}, nil, "input x FP32[1] is gone, input z FP32[1] is new"},
		"ours, one input more": {[]tensor.Spec{in, spec("z", tensor.FP32, 1)}, []tensor.Spec{out},
			func() error { return oip.Error(codes.InvalidArgument, oip.ReasonBadTensor, "1 inputs") }, nil, "input z FP32[1] is new"},
		"ours, other type": {[]tensor.Spec{spec("x", tensor.Int64, 1)}, []tensor.Spec{out},
			func() error {
				return oip.Error(codes.InvalidArgument, oip.ReasonBadTensor, "datatype FP32", oip.WithBadInput("x", "datatype FP32"))
			}, nil, "input x FP32[1] is x INT64[1]"},
		"ours, other shape": {[]tensor.Spec{spec("x", tensor.FP32, 2)}, []tensor.Spec{out},
			func() error { return oip.Error(codes.InvalidArgument, oip.ReasonShapeMismatch, "shape [4,1]") }, nil, "input x FP32[1] is x FP32[2]"},
		"rows are named": {[]tensor.Spec{spec("x", tensor.FP32, 2)}, []tensor.Spec{out},
			func() error {
				return oip.Error(codes.InvalidArgument, oip.ReasonBadTensor, "no", oip.WithBadRows("x", "no", 0))
			}, nil, "input x FP32[1] is x FP32[2]"},
		"Triton":       {[]tensor.Spec{spec("z", tensor.FP32, 1)}, []tensor.Spec{out}, fails(codes.InvalidArgument, "unexpected inference input 'x' for model 'double'"), nil, "input x"},
		"MLServer":     {[]tensor.Spec{spec("z", tensor.FP32, 1)}, []tensor.Spec{out}, fails(codes.Unknown, "KeyError: 'z'"), nil, "input x"},
		"KServe":       {[]tensor.Spec{in}, []tensor.Spec{spec("y", tensor.FP64, 1)}, fails(codes.InvalidArgument, "invalid literal"), nil, "output y FP32[1] is y FP64[1]"},
		"model fails":  {[]tensor.Spec{spec("z", tensor.FP32, 1)}, []tensor.Spec{out}, fails(codes.Internal, "onnx runtime error 2"), nil, "input x"},
		"other output": {[]tensor.Spec{in}, []tensor.Spec{spec("z", tensor.FP32, 1)}, nil, nil, "output y FP32[1] is gone, output z FP32[1] is new"},
		"output of another type": {[]tensor.Spec{in}, []tensor.Spec{spec("y", tensor.Int32, 1)}, nil,
			func(resp *oip.ModelInferResponse) { resp.Outputs[0].Datatype = "INT32" }, "output y FP32[1] is y INT32[1]"},
		"output of another shape": {[]tensor.Spec{in}, []tensor.Spec{spec("y", tensor.FP32, 2)}, nil,
			func(resp *oip.ModelInferResponse) {
				resp.Outputs[0].Shape = []int64{resp.Outputs[0].Shape[0], 2}
				resp.RawOutputContents[0] = append(resp.RawOutputContents[0], resp.RawOutputContents[0]...)
			}, "output y FP32[1] is y FP32[2]"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPeer(t)
				var replaced atomic.Bool
				p.infer = func(context.Context, *oip.ModelInferRequest, [][]float32) error {
					if replaced.Load() && c.fail != nil {
						return c.fail()
					}
					return nil
				}
				p.answer = func(resp *oip.ModelInferResponse) {
					if replaced.Load() && c.answer != nil {
						c.answer(resp)
					}
				}
				r := newRecorder(t)
				cfg := p.config()
				cfg.MaxBatch, cfg.Window = 4, 2
				r.open(cfg)
				r.call(ramp(10)...)
				r.await()
				asked := p.questions()
				sig := *p.signature()
				sig.Inputs, sig.Outputs = c.inputs, c.outputs
				replaced.Store(true)
				p.replace(sig)
				r.call(ramp(40)...)
				r.await()
				for i := range uint64(50) {
					err := r.outcome[i].Err
					if i < 10 {
						if err != nil {
							t.Errorf("record %d, from before: %v", i, err)
						}
						continue
					}
					if !errors.Is(err, ErrMismatch) || async.VerdictOf(err) != (async.Verdict{Class: async.Permanent}) ||
						!strings.Contains(errText(err), "another model by this name now") || !strings.Contains(errText(err), c.changed) {
						t.Fatalf("record %d: %v; want %q", i, err, c.changed)
					}
				}
				if n := p.questions() - asked; n > 4 {
					t.Errorf("the metadata were asked for %d times", n)
				}
				// That stays so, even if the old model comes back and the
				// connection is lost.
				n := len(p.sizes())
				sig.Inputs, sig.Outputs = []tensor.Spec{in}, []tensor.Spec{out}
				replaced.Store(false)
				p.replace(sig)
				p.drop()
				time.Sleep(time.Minute)
				r.call(numbers{1})
				r.await()
				if !errors.Is(r.outcome[50].Err, ErrMismatch) || len(p.sizes()) != n {
					t.Errorf("afterwards: %v, %d requests", r.outcome[50].Err, len(p.sizes())-n)
				}
			})
		})
	}
}

// Really bad records are still bad records, and the question costs little: while one is in
// progress, other rows gather for the next.
func TestBadRecordsOfTheSameModel(t *testing.T) {
	for name, named := range map[string]bool{"named": true, "unnamed": false} {
		t.Run(name, func(t *testing.T) {
			p := newPeer(t)
			p.infer = func(_ context.Context, _ *oip.ModelInferRequest, rows [][]float32) error {
				var bad []int
				for i := range rows {
					if int(rows[i][0])%5 == 0 {
						bad = append(bad, i)
					}
				}
				switch {
				case bad == nil:
					return nil
				case named:
					return oip.Error(codes.InvalidArgument, oip.ReasonBadTensor, "NaN", oip.WithBadRows("x", "NaN", bad...))
				}
				return status.Error(codes.InvalidArgument, "NaN")
			}
			r := newRecorder(t)
			r.open(p.config())
			asked := p.questions()
			var want []uint64
			for i := range uint64(1000) {
				if i%5 == 0 {
					want = append(want, i)
				}
			}
			r.call(ramp(1000)...)
			r.await()
			r.check(want...)
			for _, i := range want {
				if err := r.outcome[i].Err; !errors.Is(err, ErrBadRecord) || async.VerdictOf(err) != (async.Verdict{Class: async.BadRecord}) {
					t.Fatalf("record %d: %v", i, err)
				}
			}
			requests := len(p.sizes())
			if n := p.questions() - asked; n < 1 || n > len(want) || n > requests/2 {
				t.Errorf("%d questions, for %d bad records in %d requests", n, len(want), requests)
			}
		})
	}
}

// Without an answer to the question, no record is blamed. The records wait as for a lost
// connection, and are judged when the server is back.
func TestAccusedWhileTheServerGoes(t *testing.T) {
	for name, once := range map[string]bool{"idempotent": false, "not": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPeer(t)
				var away atomic.Bool
				p.meta = func() error {
					if away.Load() {
						return status.Error(codes.Unavailable, "going away")
					}
					return nil
				}
				p.infer = func(_ context.Context, _ *oip.ModelInferRequest, rows [][]float32) error {
					if rows[0][0] == 1 {
						return status.Error(codes.InvalidArgument, "NaN")
					}
					return nil
				}
				r := newRecorder(t)
				cfg := p.config()
				cfg.MaxBatch, cfg.NonIdempotent = 1, once
				r.open(cfg)
				away.Store(true)
				go func() {
					time.Sleep(10 * time.Second)
					away.Store(false)
				}()
				r.call(ramp(4)...)
				began := time.Now()
				r.await()
				r.check(1)
				if err := r.outcome[1].Err; !errors.Is(err, ErrBadRecord) || time.Since(began) < 10*time.Second {
					t.Errorf("after %v: %v", time.Since(began), err)
				}
				times := 0
				for _, rows := range p.log {
					if rows[0][0] == 1 {
						times++
					}
				}
				if once && times != 1 {
					t.Errorf("the record was sent %d times", times)
				}
			})
		})
	}
}
