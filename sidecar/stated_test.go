package sidecar

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/sidecar/oip"
	"github.com/tensorferry/tensorferry/tensor"
)

// stating returns what a user knows about newPeer's model.
func stating(change func(*tensor.Signature)) *tensor.Signature {
	s := &tensor.Signature{
		Batched: true,
		Inputs:  []tensor.Spec{{Name: "x", DType: tensor.FP32, Row: tensor.Shape{1}}},
		Outputs: []tensor.Spec{{Name: "y", DType: tensor.FP32, Row: tensor.Shape{1}}},
	}
	if change != nil {
		change(s)
	}
	return s
}

var silences = map[string]func(p *peerServer){
	"no call for it": func(p *peerServer) {
		p.meta = func() error { return status.Error(codes.Unimplemented, "unknown method ModelMetadata") }
	},
	"neither inputs nor outputs": func(p *peerServer) {
		p.untold = func(m *oip.ModelMetadataResponse) { m.Inputs, m.Outputs = nil, nil }
	},
	"no outputs": func(p *peerServer) { p.untold = func(m *oip.ModelMetadataResponse) { m.Outputs = nil } },
}

// What a server does not say about a model is stated in the configuration, and holds for the next
// connection too.
func TestStatedSignature(t *testing.T) {
	for name, silence := range silences {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPeer(t)
				silence(p)
				r := newRecorder(t)
				cfg := p.config()
				cfg.Signature = stating(func(s *tensor.Signature) { s.MaxBatch = 3 })
				r.open(cfg)
				r.call(ramp(12)...)
				r.await()
				r.check()
				for _, n := range p.sizes() {
					if n > 3 {
						t.Errorf("a request of %d rows; 3 are stated", n)
					}
				}
				p.kill()
				synctest.Wait()
				p.start()
				r.call(ramp(4)...)
				r.await()
				r.check()
			})
		})
	}
}

// Without the statement, the error says what is missing and where to state it.
func TestServerThatDoesNotTell(t *testing.T) {
	for name, want := range map[string]string{
		"neither inputs nor outputs": "does not describe the inputs and outputs of the model",
		"no outputs":                 "does not describe the outputs of the model",
		"no call for it":             "unknown method ModelMetadata",
	} {
		synctest.Test(t, func(t *testing.T) {
			p := newPeer(t)
			silences[name](p)
			err := openErr(t, t.Context(), p.config())
			if text := err.Error(); !errors.Is(err, ErrModelUnusable) && name != "no call for it" || !errors.Is(err, ErrPermanent) || !strings.Contains(text, want) || !strings.Contains(text, "infer.tensors") || !strings.Contains(text, "Config.Signature") {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
}

// What the server does say counts: if the statement differs, nothing is called.
func TestStatedOtherwise(t *testing.T) {
	for want, change := range map[string]func(*tensor.Signature){
		"states input z FP32[-1 1], and the server has no such input": func(s *tensor.Signature) { s.Inputs[0].Name = "z" },
		"states output y FP64[-1 1], and the server has y FP32[-1 1]": func(s *tensor.Signature) { s.Outputs[0].DType = tensor.FP64 },
		"states input x FP32[-1 2], and the server has x FP32[-1 1]":  func(s *tensor.Signature) { s.Inputs[0].Row = tensor.Shape{2} },
		"states input x FP32[1], and the server has x FP32[-1 1]":     func(s *tensor.Signature) { s.Batched = false },
		"the stated signature: input \"x\" has no datatype":           func(s *tensor.Signature) { s.Inputs[0].DType = 0 },
		"the stated signature: the model has no outputs":              func(s *tensor.Signature) { s.Outputs = nil },
	} {
		synctest.Test(t, func(t *testing.T) {
			p := newPeer(t)
			cfg := p.config()
			cfg.Signature = stating(change)
			err := openErr(t, t.Context(), cfg)
			if !strings.Contains(err.Error(), want) || strings.Contains(want, "server") && (!errors.Is(err, ErrMismatch) || !errors.Is(err, ErrPermanent)) {
				t.Errorf("%v; want %q", err, want)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t)
		cfg := p.config()
		cfg.Signature = stating(nil)
		r := newRecorder(t)
		r.open(cfg)
		r.call(ramp(4)...)
		r.await()
		r.check()
	})
}

// If the server has only ModelReady, its answer about a missing model counts.
func TestStatedModelThatIsNotThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t)
		silences["no call for it"](p)
		p.live = func() error { return status.Error(codes.NotFound, "no such model") }
		cfg := p.config()
		cfg.Signature = stating(nil)
		if err := openErr(t, t.Context(), cfg); !errors.Is(err, ErrModelNotFound) || !errors.Is(err, ErrPermanent) {
			t.Error(err)
		}
	})
}

// Rows that must not be repeated are not repeated if their answer is too large to be accepted.
func TestLargeAnswerNotIdempotent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t)
		p.answer = func(resp *oip.ModelInferResponse) {
			resp.Parameters = map[string]*oip.InferParameter{"pad": {ParameterChoice: &oip.InferParameter_StringParam{
				StringParam: strings.Repeat("x", int(resp.Outputs[0].Shape[0])*4096)}}}
		}
		r := newRecorder(t)
		cfg := p.config()
		cfg.NonIdempotent, cfg.MaxMessageSize, cfg.MaxBytes, cfg.MaxBatch, cfg.Window = true, 16<<10, 8<<10, 8, 1
		r.open(cfg)
		r.call(ramp(16)...)
		r.await()
		ran := map[float32]int{}
		for _, rows := range p.log {
			for _, row := range rows {
				if ran[row[0]]++; ran[row[0]] > 1 {
					t.Errorf("row %v ran %d times", row, ran[row[0]])
				}
			}
		}
		failed := 0
		for e, o := range r.outcome {
			if o.Err == nil {
				continue
			}
			if failed++; async.VerdictOf(o.Err) != (async.Verdict{Class: async.Backend}) || !errors.Is(o.Err, ErrTooLarge) {
				t.Errorf("record %d: %v", e, o.Err)
			}
		}
		if failed == 0 {
			t.Error("no answer was too large, so nothing was tested")
		}
	})
}
