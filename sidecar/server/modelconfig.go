package server

import (
	"context"

	"github.com/tensorferry/tensorferry/sidecar/oip"
	"github.com/tensorferry/tensorferry/tensor"
)

// ModelConfig returns what Triton's clients ask about a model besides its metadata.
func (s *service) ModelConfig(_ context.Context, req *oip.ModelConfigRequest) (*oip.ModelConfigResponse, error) {
	m, _, f := s.describe(req.GetName(), req.GetVersion())
	if f != nil {
		return nil, f.status(req.GetName(), "")
	}
	sig := &m.runner.sig
	cfg := &oip.ModelConfig{
		Name: m.name, Platform: ServerName, Backend: ServerName,
		VersionPolicy:          &oip.ModelVersionPolicy{PolicyChoice: &oip.ModelVersionPolicy_All_{All: &oip.ModelVersionPolicy_All{}}},
		InstanceGroup:          []*oip.ModelInstanceGroup{{Name: m.name, Count: int32(m.runner.batcher.instances)}},
		ModelTransactionPolicy: &oip.ModelTransactionPolicy{},
	}
	for _, in := range sig.Inputs {
		cfg.Input = append(cfg.Input, &oip.ModelInput{Name: in.Name, DataType: dataType(in.DType), Dims: in.Row})
	}
	for _, out := range sig.Outputs {
		cfg.Output = append(cfg.Output, &oip.ModelOutput{Name: out.Name, DataType: dataType(out.DType), Dims: out.Row})
	}
	if sig.Batched {
		cfg.MaxBatchSize = int32(m.runner.batcher.maxRows)
		cfg.SchedulingChoice = &oip.ModelConfig_DynamicBatching{DynamicBatching: &oip.ModelDynamicBatching{
			MaxQueueDelayMicroseconds: uint64(s.cfg.MaxBatchDelay.Microseconds()),
			DefaultQueuePolicy: &oip.ModelQueuePolicy{
				DefaultTimeoutMicroseconds: uint64(s.cfg.QueueTimeout.Microseconds()), AllowTimeoutOverride: true,
			},
		}}
	}
	return &oip.ModelConfigResponse{Config: cfg}, nil
}

// dataType is the configuration's name for a datatype.
func dataType(d tensor.DType) oip.DataType {
	if d == tensor.Bytes {
		return oip.DataType_TYPE_STRING
	}
	return oip.DataType(oip.DataType_value["TYPE_"+d.String()])
}
