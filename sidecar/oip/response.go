package oip

import (
	"fmt"

	"github.com/tensorferry/tensorferry/tensor"
)

// FillRows resets dst and fills it from the answer to a request of the given number of rows. The
// answer must hold every output of the model by its name, in any order. Further outputs are
// ignored. Raw contents are not copied: dst is valid as long as resp is. The error says which
// output is wrong, and how; dst is then empty.
func FillRows(dst *tensor.Rows, resp *ModelInferResponse, rows int) error {
	return FillRowsFrom(dst, resp, rows, nil)
}

// FillRowsFrom is FillRows for a request that placed outputs in shared memory. shared holds the
// bytes of each such output, in the model's order, and nil for the other outputs. These bytes are
// not copied either. If the server nevertheless sent an output in the answer, FillRowsFrom reads it
// there.
func FillRowsFrom(dst *tensor.Rows, resp *ModelInferResponse, rows int, shared [][]byte) error {
	dst.Reset()
	if err := fillRows(dst, resp, rows, shared); err != nil {
		dst.Reset()
		return fmt.Errorf("the answer of model %q is wrong: %w", dst.Signature().Model, err)
	}
	return nil
}

func fillRows(dst *tensor.Rows, resp *ModelInferResponse, rows int, shared [][]byte) error {
	sig := dst.Signature()
	raw := resp.GetRawOutputContents()
	if err := checkForm("output", resp.GetOutputs(), raw); err != nil {
		return err
	}
	for i, out := range resp.GetOutputs() {
		o, ok := sig.Output(out.GetName())
		if !ok {
			continue
		}
		dt, err := tensor.ParseDType(out.GetDatatype())
		var data []byte
		switch {
		case err != nil:
		case len(raw) > 0:
			data = raw[i]
		default:
			data, err = appendContents(nil, dt, out.GetContents())
		}
		if err != nil {
			return fmt.Errorf("output %q: %w", out.GetName(), err)
		}
		if len(data) == 0 && shared != nil && shared[o] != nil {
			data = shared[o] // the entry in the answer is empty or missing
		}
		if err := dst.Set(o, dt, trimmed(out.GetShape(), &sig.Outputs[o], sig.Batched), data, rows); err != nil {
			return err
		}
	}
	if !dst.Complete() {
		return fmt.Errorf("it has outputs %s; the model promises %s", outputNames(resp), tensor.List(sig.Outputs))
	}
	return nil
}

// trimmed removes trailing dimensions of 1 that the model does not declare. MLServer's numpy codec
// adds one to a tensor of one dimension.
func trimmed(shape tensor.Shape, spec *tensor.Spec, batched bool) tensor.Shape {
	declared := len(spec.Row)
	if batched {
		declared++
	}
	for len(shape) > declared && shape[len(shape)-1] == 1 {
		shape = shape[:len(shape)-1]
	}
	return shape
}

func outputNames(resp *ModelInferResponse) string {
	var names []string
	for _, o := range resp.GetOutputs() {
		names = append(names, o.GetName())
	}
	return fmt.Sprintf("%q", names)
}

// NewResponse returns the answer that holds the tensors, raw and not copied. The tensors must be
// valid.
func NewResponse(model, version, id string, outputs []tensor.Tensor) *ModelInferResponse {
	resp := &ModelInferResponse{ModelName: model, ModelVersion: version, Id: id}
	for _, t := range outputs {
		resp.Outputs = append(resp.Outputs, &ModelInferResponse_InferOutputTensor{
			Name: t.Name, Datatype: t.DType.String(), Shape: t.Shape})
		resp.RawOutputContents = append(resp.RawOutputContents, t.Raw)
	}
	return resp
}
