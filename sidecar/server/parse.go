package server

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/tensorferry/tensorferry/sidecar/oip"
	"github.com/tensorferry/tensorferry/tensor"
)

// badInput is the failure of a request that does not suit the model. The record is at fault, or the
// caller's configuration.
type badInput struct {
	failure
	tensor string // the input at fault, empty: none in particular
}

// parse checks a message against the model's signature. The request that it returns has the inputs
// in the signature's order. Typed contents become raw ones, and are removed from the message.
func parse(msg *oip.ModelInferRequest, sig *tensor.Signature) (*request, *badInput) {
	refuse := func(code codes.Code, reason, input, format string, args ...any) *badInput {
		return &badInput{failure{code: code, reason: reason, message: fmt.Sprintf(format, args...)}, input}
	}
	if what := unserved(msg); what != "" {
		return nil, refuse(codes.Unimplemented, oip.ReasonUnsupportedFeature, "", "this server does not serve the parameter %q; leave it out", what)
	}
	for _, in := range msg.GetInputs() {
		if _, ok := sig.Input(in.GetName()); !ok {
			return nil, refuse(codes.InvalidArgument, oip.ReasonUnknownInput, in.GetName(),
				"the model has no input %q; its inputs are %s", in.GetName(), tensor.List(sig.Inputs))
		}
	}
	asked := make([]bool, len(sig.Outputs))
	for _, out := range msg.GetOutputs() {
		if i, ok := sig.Output(out.GetName()); ok && asked[i] {
			return nil, refuse(codes.InvalidArgument, oip.ReasonBadTensor, "", "output %q is asked for twice", out.GetName())
		} else if ok {
			asked[i] = true
		} else {
			return nil, refuse(codes.InvalidArgument, oip.ReasonBadTensor, "",
				"the model has no output %q; its outputs are %s", out.GetName(), tensor.List(sig.Outputs))
		}
	}
	if len(msg.GetInputs()) != len(sig.Inputs) {
		return nil, refuse(codes.InvalidArgument, oip.ReasonBadTensor, "",
			"%d inputs; the model needs each of %s once", len(msg.GetInputs()), tensor.List(sig.Inputs))
	}
	raws, err := oip.RawInputs(msg)
	if err != nil {
		return nil, refuse(codes.InvalidArgument, oip.ReasonBadTensor, "", "%v", err)
	}
	r := &request{rows: 1, inputs: make([]tensor.Tensor, len(sig.Inputs))}
	for k, in := range msg.GetInputs() {
		i, _ := sig.Input(in.GetName())
		want := sig.Inputs[i]
		if r.inputs[i].Name != "" {
			return nil, refuse(codes.InvalidArgument, oip.ReasonBadTensor, want.Name, "input %q comes twice", want.Name)
		}
		if in.GetDatatype() != want.DType.String() {
			return nil, refuse(codes.InvalidArgument, oip.ReasonBadTensor, want.Name,
				"input %q has datatype %s; the model takes %s", want.Name, in.GetDatatype(), want)
		}
		shape := tensor.Shape(in.GetShape())
		row := shape
		if sig.Batched && len(shape) > 0 {
			row = shape[1:]
		}
		if sig.Batched && len(shape) == 0 || !want.Row.Accepts(row) {
			return nil, refuse(codes.InvalidArgument, oip.ReasonShapeMismatch, want.Name,
				"input %q has shape %v; the model takes %v%s", want.Name, shape, want.Shape(sig.Batched), sig.FixedBatchNote())
		}
		t := tensor.Tensor{Name: want.Name, DType: want.DType, Shape: shape, Raw: raws[k]}
		if sig.Batched {
			rows := shape[0]
			switch {
			case rows < 1:
				return nil, refuse(codes.InvalidArgument, oip.ReasonShapeMismatch, want.Name,
					"input %q has shape %v; a request needs at least one row", want.Name, shape)
			case rows > maxRequestRows:
				return nil, refuse(codes.ResourceExhausted, "", want.Name, tooManyRows, rows, maxRequestRows)
			case k > 0 && int(rows) != r.rows:
				return nil, refuse(codes.InvalidArgument, oip.ReasonShapeMismatch, want.Name,
					"input %q has %d rows, input %q has %d", want.Name, rows, msg.GetInputs()[0].GetName(), r.rows)
			}
			r.rows = int(rows)
		}
		if err := t.Validate(); err != nil {
			return nil, refuse(codes.InvalidArgument, oip.ReasonBadTensor, want.Name, "%v", err)
		}
		if t.DType == tensor.Bool {
			// Backends take other bytes differently.
			if at := slices.IndexFunc(t.Raw, func(b byte) bool { return b > 1 }); at >= 0 {
				return nil, refuse(codes.InvalidArgument, oip.ReasonBadTensor, want.Name,
					"input %q has the byte %d as element %d; a BOOL is 0 or 1", want.Name, t.Raw[at], at)
			}
		}
		in.Contents = nil // they are in t now; the message would keep them in memory
		r.inputs[i] = t
		r.bytes += int64(cap(t.Raw))
	}
	r.key = key(msg, sig, r.inputs)
	r.bytes += held(msg) + int64(len(r.key))
	return r, nil
}

// maxRequestRows bounds requests whose rows take no bytes. No other bound covers these.
const maxRequestRows = 1 << 24

// tooManyRows has grpc's words for a message that is too large, so that callers split the request.
const tooManyRows = "a request of %d rows is larger than max (%d rows); send fewer at once"

// key returns what requests must have in common to share a batch, besides the model: the shapes of
// their rows, where the signature leaves them open, and their parameters.
func key(msg *oip.ModelInferRequest, sig *tensor.Signature, inputs []tensor.Tensor) string {
	var b strings.Builder
	for i, t := range inputs {
		if sig.Batched && slices.Contains(sig.Inputs[i].Row, tensor.Dynamic) {
			fmt.Fprintf(&b, "%d%v", i, t.Shape[1:])
		}
	}
	parameters(&b, "", msg.GetParameters())
	for _, in := range msg.GetInputs() {
		parameters(&b, in.GetName(), in.GetParameters())
	}
	return b.String()
}

func parameters(b *strings.Builder, of string, ps map[string]*oip.InferParameter) {
	for _, name := range slices.Sorted(maps.Keys(ps)) {
		if of == "" && handling[name] || of != "" && strings.HasPrefix(name, "shared_memory_") {
			continue
		}
		// The lengths keep neighbouring texts apart. Quoting would do that too, but could
		// make what a caller sends four times as long.
		fmt.Fprintf(b, ";%d:%s%d:%s", len(of), of, len(name), name)
		switch v := ps[name].GetParameterChoice().(type) {
		case *oip.InferParameter_BoolParam:
			fmt.Fprintf(b, "b%v", v.BoolParam)
		case *oip.InferParameter_Int64Param:
			fmt.Fprintf(b, "i%d", v.Int64Param)
		case *oip.InferParameter_Uint64Param:
			fmt.Fprintf(b, "u%d", v.Uint64Param)
		case *oip.InferParameter_DoubleParam:
			fmt.Fprintf(b, "d%v", v.DoubleParam)
		case *oip.InferParameter_StringParam:
			fmt.Fprintf(b, "s%d:%s", len(v.StringParam), v.StringParam)
		}
	}
}

// handling are parameters that say how a request is handled, and not what is computed. Requests
// that differ only in these share batches.
var handling = map[string]bool{
	paramTimeout: true, paramWantFinal: true, "priority": true, "sequence_id": true, "sequence_start": true, "sequence_end": true,
}

// paramTimeout is how long a request may wait in the queue, in microseconds.
const paramTimeout = "timeout"

// timeout returns the longest wait that a request asks for, 0 for none.
func timeout(msg *oip.ModelInferRequest) time.Duration {
	micros := int64(0)
	switch v := msg.GetParameters()[paramTimeout].GetParameterChoice().(type) {
	case *oip.InferParameter_Int64Param:
		micros = v.Int64Param
	case *oip.InferParameter_Uint64Param:
		micros = int64(min(v.Uint64Param, math.MaxInt64))
	}
	return time.Duration(max(0, min(micros, math.MaxInt64/1000))) * time.Microsecond
}

// unserved returns the name of a parameter that would change the answer and that this server does
// not serve, or "".
func unserved(msg *oip.ModelInferRequest) string {
	switch v := msg.GetParameters()["sequence_id"].GetParameterChoice().(type) {
	case *oip.InferParameter_Int64Param:
		if v.Int64Param != 0 {
			return "sequence_id"
		}
	case *oip.InferParameter_Uint64Param:
		if v.Uint64Param != 0 {
			return "sequence_id"
		}
	case *oip.InferParameter_StringParam:
		if v.StringParam != "" {
			return "sequence_id"
		}
	}
	for _, out := range msg.GetOutputs() {
		if out.GetParameters()["classification"] != nil {
			return "classification"
		}
	}
	return ""
}
