package oip

import (
	"fmt"

	"github.com/tensorferry/tensorferry/tensor"
)

// SignatureOf reads a model's metadata, by the rules of [tensor.NewSignature]. version is the
// requested version, which may be empty. The metadata do not hold the largest batch, so MaxBatch is
// 0; [Configure] may set it. The error says which tensor's datatype or shape is wrong.
func SignatureOf(meta *ModelMetadataResponse, version string) (tensor.Signature, error) {
	var sig tensor.Signature
	inputs, err := specs("input", meta.GetInputs())
	if err == nil {
		var outputs []tensor.Spec
		if outputs, err = specs("output", meta.GetOutputs()); err == nil {
			sig, err = tensor.NewSignature(meta.GetName(), version, inputs, outputs)
		}
	}
	if err != nil {
		return tensor.Signature{}, fmt.Errorf("the metadata of model %q is wrong: %w", meta.GetName(), err)
	}
	return sig, nil
}

func specs(kind string, list []*ModelMetadataResponse_TensorMetadata) ([]tensor.Spec, error) {
	out := make([]tensor.Spec, len(list))
	for i, t := range list {
		dt, err := tensor.ParseDType(t.GetDatatype())
		if err != nil {
			return nil, fmt.Errorf("%s %q: %w", kind, t.GetName(), err)
		}
		out[i] = tensor.Spec{Name: t.GetName(), DType: dt, Row: t.GetShape()}
	}
	return out, nil
}

// Configure completes a signature from [SignatureOf] with what the model's configuration says: the
// largest batch, or that the model does not take batches although its shapes begin with a dynamic
// dimension. It returns an error if unary calls cannot serve the model, because it is decoupled or
// keeps state for sequences, or if the configuration is wrong.
func Configure(sig *tensor.Signature, cfg *ModelConfig) error {
	switch {
	case cfg.GetModelTransactionPolicy().GetDecoupled():
		return fmt.Errorf("model %q is decoupled: a request may have any number of answers, but a unary call has only one", sig.Model)
	case cfg.GetMaxBatchSize() < 0:
		return fmt.Errorf("the configuration of model %q is wrong: its largest batch is %d rows", sig.Model, cfg.GetMaxBatchSize())
	case cfg.GetSequenceBatching() != nil:
		return fmt.Errorf("model %q keeps a state for each sequence of requests, but records are sent as independent requests", sig.Model)
	case cfg.GetMaxBatchSize() > 0:
		if sig.Batched {
			sig.MaxBatch = int(cfg.GetMaxBatchSize())
		}
	case sig.Batched:
		// The first dimension belongs to the row.
		sig.Batched = false
		for _, specs := range [][]tensor.Spec{sig.Inputs, sig.Outputs} {
			for i := range specs {
				specs[i].Row = append(tensor.Shape{tensor.Dynamic}, specs[i].Row...)
			}
		}
	}
	return nil
}

// Metadata returns the message that describes the model with the given signature, platform and
// versions.
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
