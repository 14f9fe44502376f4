package sidecar

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tensorferry/tensorferry/sidecar/oip"
	"github.com/tensorferry/tensorferry/tensor"
)

// A server that does not tell a model's tensors is taken at the configuration's word, also after a
// loss; without one the error says what to do (A79).
func TestTensorsThatAreStated(t *testing.T) {
	row := func(name string, dt tensor.DType) []tensor.Spec {
		return []tensor.Spec{{Name: name, DType: dt, Row: tensor.Shape{1}}}
	}
	stated := &tensor.Signature{Inputs: row("x", tensor.FP32), Outputs: row("y", tensor.FP32), Batched: true}
	for name, c := range map[string]struct {
		tells  func(p *peerServer) // how
		stated *tensor.Signature
		says   string // nil: it works
		is     error
	}{
		"nothing, and stated":       {mumbles, stated, "", nil},
		"no such call, and stated":  {denies, stated, "", nil},
		"the same as stated":        {func(*peerServer) {}, stated, "", nil},
		"nothing, and not stated":   {mumbles, nil, "infer.tensors", ErrModelUnusable},
		"no such call, not stated":  {denies, nil, "infer.tensors", ErrModelUnusable},
		"another type than stated":  {func(*peerServer) {}, &tensor.Signature{Inputs: row("x", tensor.FP64), Outputs: stated.Outputs, Batched: true}, "input x FP64[1] is x FP32[1]", ErrMismatch},
		"another name than stated":  {func(*peerServer) {}, &tensor.Signature{Inputs: stated.Inputs, Outputs: row("z", tensor.FP32), Batched: true}, "output z FP32[1] is gone", ErrMismatch},
		"no batches, and stated so": {mumbles, &tensor.Signature{Inputs: stated.Inputs, Outputs: stated.Outputs}, "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPeer(t)
				c.tells(p)
				cfg := p.config()
				cfg.Tensors = c.stated
				if c.is != nil {
					err := openErr(t, t.Context(), cfg)
					if !errors.Is(err, c.is) || !errors.Is(err, ErrPermanent) || !strings.Contains(err.Error(), c.says) {
						t.Errorf("%v; want %v, with %q", err, c.is, c.says)
					}
					return
				}
				if !c.stated.Batched {
					p.infer = nil
				}
				r := newRecorder(t)
				ch := r.open(cfg)
				if got := ch.sig; got.Model != "double" || got.Batched != c.stated.Batched {
					t.Errorf("%+v", got)
				}
				if !c.stated.Batched {
					return // the peer takes batches alone
				}
				r.call(ramp(10)...)
				r.await()
				p.drop()
				time.Sleep(time.Second)
				r.call(ramp(10)...)
				r.await()
				r.check()
			})
		})
	}
	for _, bad := range []*tensor.Signature{{}, {Inputs: stated.Inputs}, {Outputs: stated.Outputs}, {Inputs: []tensor.Spec{{Name: "x"}}, Outputs: stated.Outputs}} {
		if err := (Config{Endpoint: "h:1", Model: "m", Tensors: bad}).Validate(); err == nil || !strings.Contains(err.Error(), "tensors") {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

// mumbles makes a peer tell of no tensors, and denies of nothing at all.
func mumbles(p *peerServer) {
	p.describes = func() *oip.ModelMetadataResponse { return &oip.ModelMetadataResponse{Name: "double"} }
}

func denies(p *peerServer) {
	p.meta = func() error { return status.Error(codes.Unimplemented, "Method not found!") }
}
