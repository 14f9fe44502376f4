package server

import (
	"context"
	"fmt"
	"log/slog"

	"google.golang.org/grpc/codes"

	"github.com/tensorferry/tensorferry/sidecar/oip"
)

// NVIDIA's examples make these calls before anything else. The answers are those of a Triton
// without a GPU.

// CudaSharedMemoryStatus says that no region is registered.
func (s *service) CudaSharedMemoryStatus(_ context.Context, req *oip.CudaSharedMemoryStatusRequest) (*oip.CudaSharedMemoryStatusResponse, error) {
	if req.GetName() != "" {
		f := &failure{code: codes.NotFound, message: fmt.Sprintf("Unable to find cuda shared memory region: '%.300s'", req.GetName())}
		return nil, f.status("", "")
	}
	return &oip.CudaSharedMemoryStatusResponse{}, nil
}

// CudaSharedMemoryRegister refuses.
func (s *service) CudaSharedMemoryRegister(_ context.Context, req *oip.CudaSharedMemoryRegisterRequest) (*oip.CudaSharedMemoryRegisterResponse, error) {
	f := &failure{code: codes.InvalidArgument, message: fmt.Sprintf(
		"failed to register CUDA shared memory region: '%.300s', GPUs not supported; send tensors in the request, or in system shared memory", req.GetName())}
	return nil, f.status("", "")
}

// CudaSharedMemoryUnregister does nothing. To unregister an unknown region is not an error.
func (s *service) CudaSharedMemoryUnregister(context.Context, *oip.CudaSharedMemoryUnregisterRequest) (*oip.CudaSharedMemoryUnregisterResponse, error) {
	return &oip.CudaSharedMemoryUnregisterResponse{}, nil
}

// TraceSetting returns the settings of Triton's own tracing, which is always off. The spans of
// Config.Tracer follow from the callers' trace contexts. No setting can be changed.
func (s *service) TraceSetting(_ context.Context, req *oip.TraceSettingRequest) (*oip.TraceSettingResponse, error) {
	if name := req.GetModelName(); name != "" && s.repo.family(name) == nil {
		return nil, s.notFound(name).status(name, "")
	}
	if len(req.GetSettings()) > 0 {
		return nil, unchangeable("what is traced follows from the callers' trace contexts and from --trace").status("", "")
	}
	out := &oip.TraceSettingResponse{Settings: map[string]*oip.TraceSettingResponse_SettingValue{}}
	for name, value := range map[string]string{
		"trace_file": "", "trace_level": "OFF", "trace_rate": "1000", "trace_count": "-1", "log_frequency": "0", "trace_mode": "triton",
	} {
		out.Settings[name] = &oip.TraceSettingResponse_SettingValue{Value: []string{value}}
	}
	return out, nil
}

// LogSettings returns what is logged. No setting can be changed.
func (s *service) LogSettings(ctx context.Context, req *oip.LogSettingsRequest) (*oip.LogSettingsResponse, error) {
	if len(req.GetSettings()) > 0 {
		return nil, unchangeable("what is logged is set when the server starts").status("", "")
	}
	is := func(level slog.Level) *oip.LogSettingsResponse_SettingValue {
		return &oip.LogSettingsResponse_SettingValue{ParameterChoice: &oip.LogSettingsResponse_SettingValue_BoolParam{BoolParam: s.cfg.Logger.Enabled(ctx, level)}}
	}
	text := func(v string) *oip.LogSettingsResponse_SettingValue {
		return &oip.LogSettingsResponse_SettingValue{ParameterChoice: &oip.LogSettingsResponse_SettingValue_StringParam{StringParam: v}}
	}
	verbose := uint32(0)
	if s.cfg.Logger.Enabled(ctx, slog.LevelDebug) {
		verbose = 1
	}
	return &oip.LogSettingsResponse{Settings: map[string]*oip.LogSettingsResponse_SettingValue{
		"log_file": text(""), "log_format": text("default"),
		"log_info": is(slog.LevelInfo), "log_warnings": is(slog.LevelWarn), "log_errors": is(slog.LevelError),
		"log_verbose_level": {ParameterChoice: &oip.LogSettingsResponse_SettingValue_Uint32Param{Uint32Param: verbose}},
	}}, nil
}

func unchangeable(how string) *failure {
	return &failure{code: codes.Unimplemented, reason: oip.ReasonUnsupportedFeature, message: "settings can be read here but not changed: " + how}
}
