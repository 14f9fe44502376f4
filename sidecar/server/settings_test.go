package server_test

import (
	"io"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc/codes"

	"github.com/tensorferry/tensorferry/sidecar/backend/mock"
	"github.com/tensorferry/tensorferry/sidecar/oip"
	"github.com/tensorferry/tensorferry/sidecar/server"
)

// TestWhatExamplesAskFirst: the calls that NVIDIA's examples make before they infer are answered
// like those of a Triton without a GPU.
func TestWhatExamplesAskFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := serve(t, server.Config{Logger: slog.New(slog.NewTextHandler(io.Discard, &slog.HandlerOptions{Level: slog.LevelWarn}))}, mock.Config{}).caller()
		ctx := t.Context()
		if st, err := c.CudaSharedMemoryStatus(ctx, &oip.CudaSharedMemoryStatusRequest{}); err != nil || len(st.Regions) != 0 {
			t.Error(st, err)
		}
		for range 2 {
			for _, name := range []string{"", "r"} {
				if _, err := c.CudaSharedMemoryUnregister(ctx, &oip.CudaSharedMemoryUnregisterRequest{Name: name}); err != nil {
					t.Error(err)
				}
			}
		}
		trace, err := c.TraceSetting(ctx, &oip.TraceSettingRequest{ModelName: "m"})
		if err != nil || len(trace.Settings) != 6 || trace.Settings["trace_level"].GetValue()[0] != "OFF" {
			t.Error(trace, err)
		}
		log, err := c.LogSettings(ctx, &oip.LogSettingsRequest{})
		if err != nil || len(log.Settings) != 6 || log.Settings["log_info"].GetBoolParam() || !log.Settings["log_warnings"].GetBoolParam() || log.Settings["log_verbose_level"].GetUint32Param() != 0 {
			t.Error(log, err)
		}
		for name, version := range map[string]string{"n": "", "m": "2"} {
			if ready, err := c.ModelReady(ctx, &oip.ModelReadyRequest{Name: name, Version: version}); err != nil || ready.Ready {
				t.Errorf("model %s, version %q: ready %v, %v", name, version, ready, err)
			}
		}
		wants := func(what string, err error, code codes.Code, reason, says string) {
			t.Helper()
			if d := oip.Parse(err); d.Code != code || d.Reason != reason || !strings.Contains(d.Message, says) {
				t.Errorf("%s: %v", what, err)
			}
		}
		_, err = c.CudaSharedMemoryStatus(ctx, &oip.CudaSharedMemoryStatusRequest{Name: "r"})
		wants("status", err, codes.NotFound, "", "Unable to find cuda shared memory region: 'r'")
		_, err = c.CudaSharedMemoryRegister(ctx, &oip.CudaSharedMemoryRegisterRequest{Name: "r", RawHandle: make([]byte, 64)})
		wants("register", err, codes.InvalidArgument, "", "failed to register CUDA shared memory region: 'r', GPUs not supported")
		_, err = c.TraceSetting(ctx, &oip.TraceSettingRequest{ModelName: "n"})
		wants("of an unknown model", err, codes.NotFound, oip.ReasonModelNotFound, `no model "n"`)
		_, err = c.TraceSetting(ctx, &oip.TraceSettingRequest{Settings: map[string]*oip.TraceSettingRequest_SettingValue{"trace_rate": {Value: []string{"1"}}}})
		wants("change traces", err, codes.Unimplemented, oip.ReasonUnsupportedFeature, "not changed")
		_, err = c.LogSettings(ctx, &oip.LogSettingsRequest{Settings: map[string]*oip.LogSettingsRequest_SettingValue{"log_info": {}}})
		wants("change the log", err, codes.Unimplemented, oip.ReasonUnsupportedFeature, "not changed")
		for what, f := range map[string]func() error{
			"metadata": func() error {
				_, err := c.ModelMetadata(ctx, &oip.ModelMetadataRequest{Name: "m", Version: "2"})
				return err
			},
			"configuration": func() error {
				_, err := c.ModelConfig(ctx, &oip.ModelConfigRequest{Name: "m", Version: "2"})
				return err
			},
			"inference": func() error {
				req := ask(1)
				req.ModelVersion = "2"
				_, err := c.ModelInfer(ctx, req)
				return err
			},
		} {
			wants(what, f(), codes.NotFound, oip.ReasonVersionMismatch, `has version "1", not "2"`)
		}
	})
}
