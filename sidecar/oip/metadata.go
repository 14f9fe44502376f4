package oip

import (
	"fmt"

	"github.com/tensorferry/tensorferry/tensor"
)

// SignatureOf reads a model's metadata. The model is batched if it has inputs and the first dimension of
// every input and output is dynamic; that dimension is left out of the rows' shapes then. version is the
// one that was asked for, which may be empty. The protocol has no place for the largest batch: MaxBatch is 0.
func SignatureOf(meta *ModelMetadataResponse, version string) (tensor.Signature, error) {
	sig := tensor.Signature{Model: meta.GetName(), Version: version, Batched: len(meta.GetInputs()) > 0}
	for _, list := range [][]*ModelMetadataResponse_TensorMetadata{meta.GetInputs(), meta.GetOutputs()} {
		for _, t := range list {
			if len(t.GetShape()) == 0 || t.GetShape()[0] != tensor.Dynamic {
				sig.Batched = false
			}
		}
	}
	var err error
	if sig.Inputs, err = specs("input", meta.GetInputs(), sig.Batched); err == nil {
		if sig.Outputs, err = specs("output", meta.GetOutputs(), sig.Batched); err == nil {
			err = sig.Validate()
		}
	}
	if err != nil {
		return tensor.Signature{}, fmt.Errorf("the metadata of model %q is wrong: %w", meta.GetName(), err)
	}
	return sig, nil
}

func specs(kind string, list []*ModelMetadataResponse_TensorMetadata, batched bool) ([]tensor.Spec, error) {
	out := make([]tensor.Spec, len(list))
	for i, t := range list {
		dt, err := tensor.ParseDType(t.GetDatatype())
		if err != nil {
			return nil, fmt.Errorf("%s %q: %w", kind, t.GetName(), err)
		}
		row := t.GetShape()
		if batched {
			row = row[1:]
		}
		out[i] = tensor.Spec{Name: t.GetName(), DType: dt, Row: append(tensor.Shape{}, row...)}
	}
	return out, nil
}

// Metadata returns the message that describes the model.
func Metadata(sig *tensor.Signature, platform string, versions ...string) *ModelMetadataResponse {
	list := func(specs []tensor.Spec) []*ModelMetadataResponse_TensorMetadata {
		out := make([]*ModelMetadataResponse_TensorMetadata, len(specs))
		for i, s := range specs {
			out[i] = &ModelMetadataResponse_TensorMetadata{Name: s.Name, Datatype: s.DType.String(), Shape: s.Shape(sig.Batched)}
		}
		return out
	}
	return &ModelMetadataResponse{Name: sig.Model, Versions: versions, Platform: platform, Inputs: list(sig.Inputs), Outputs: list(sig.Outputs)}
}
