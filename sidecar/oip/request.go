package oip

import (
	"fmt"
	"time"

	"github.com/tensorferry/tensorferry/tensor"
)

// Request is a request message for one model that is filled again and again. It is not safe for
// concurrent use.
type Request struct {
	msg ModelInferRequest
	sig *tensor.Signature
}

// NewRequest returns a request for the model that sig describes, with the model's name and version
// and all its inputs by name and datatype. It asks for every output.
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

// Message returns the message itself. The caller may set its id, version, parameters and requested
// outputs.
func (r *Request) Message() *ModelInferRequest { return &r.msg }

// Fill points the message at the rows of b, which must have the same signature and at least one
// row; otherwise Fill returns an error. Nothing is copied: the batch must not change until the
// message has been sent. The request then asks for every output, to be sent in the answer.
func (r *Request) Fill(b *tensor.Batch) error {
	if b.Columns() != len(r.msg.Inputs) {
		return fmt.Errorf("the batch has %d inputs, but model %q has %d", b.Columns(), r.sig.Model, len(r.msg.Inputs))
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

// SetTimeout says until when the request may wait in the server's queue, for calls whose own
// deadline does not say so. The zero time means no limit. It becomes the parameter "timeout", in
// microseconds, which Triton knows too. Clear removes it.
func (r *Request) SetTimeout(until time.Time) {
	if until.IsZero() {
		return
	}
	left := max(time.Until(until).Microseconds(), 1)
	r.msg.Parameters = map[string]*InferParameter{"timeout": {ParameterChoice: &InferParameter_Int64Param{Int64Param: left}}}
}

// Clear drops the references to the batch's bytes, the id, and the parameters including the
// timeout.
func (r *Request) Clear() {
	r.msg.Id, r.msg.Parameters = "", nil
	clear(r.msg.RawInputContents)
}
