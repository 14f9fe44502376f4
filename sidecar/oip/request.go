package oip

import (
	"fmt"
	"time"

	"github.com/tensorferry/tensorferry/tensor"
)

// Request is a request message that is filled again and again, for one model. It belongs to one
// goroutine at a time.
type Request struct {
	msg ModelInferRequest
	sig *tensor.Signature
}

// NewRequest returns a request for the model that sig describes, with its name and version and all
// its inputs by name and datatype. It asks for every output.
func NewRequest(sig *tensor.Signature) *Request {
	r := &Request{sig: sig}
	r.msg.ModelName, r.msg.ModelVersion = sig.Model, sig.Version
	for _, in := range sig.Inputs {
		r.msg.Inputs = append(r.msg.Inputs, &ModelInferRequest_InferInputTensor{
			Name:     in.Name,
			Datatype: in.DType.String(),
			Shape:    make([]int64, 0, len(in.Row)+1),
		})
	}
	r.msg.RawInputContents = make([][]byte, len(sig.Inputs))
	return r
}

// Message returns the message itself: its id, version, parameters and requested outputs may be set.
func (r *Request) Message() *ModelInferRequest { return &r.msg }

// Fill points the message at the rows of b, which must be for the same signature and hold at least
// one row. Nothing is copied: the batch must not change until the message has been sent. The
// request asks for every output, in the answer.
func (r *Request) Fill(b *tensor.Batch) error {
	if b.Columns() != len(r.msg.Inputs) {
		return fmt.Errorf("a batch of %d inputs for model %q, which has %d", b.Columns(), r.sig.Model, len(r.msg.Inputs))
	}
	if b.Rows() == 0 {
		return fmt.Errorf("an empty batch for model %q", r.sig.Model)
	}
	raw := r.msg.RawInputContents[:len(r.msg.Inputs)]
	for i, in := range r.msg.Inputs {
		c := b.Column(i)
		in.Shape = in.Shape[:0]
		if r.sig.Batched {
			in.Shape = append(in.Shape, int64(b.Rows()))
		}
		in.Shape = append(in.Shape, c.RowShape()...)
		in.Parameters = nil
		raw[i] = c.Raw()
	}
	r.msg.RawInputContents, r.msg.Outputs = raw, nil
	return nil
}

// SetTimeout says until when the request may wait in the server's queue, where the RPC has no
// deadline that says so; zero: for ever. It is the parameter "timeout", in microseconds, which
// Triton has too. Clear takes it back.
func (r *Request) SetTimeout(until time.Time) {
	if until.IsZero() {
		return
	}
	left := max(time.Until(until).Microseconds(), 1)
	r.msg.Parameters = map[string]*InferParameter{"timeout": {ParameterChoice: &InferParameter_Int64Param{Int64Param: left}}}
}

// Clear lets go of the batch's bytes, of the id and of the timeout.
func (r *Request) Clear() {
	r.msg.Id, r.msg.Parameters = "", nil
	clear(r.msg.RawInputContents)
}
