package oip

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// protocol lists the Open Inference Protocol: every field's number and type, and every method's
// name.
const protocol = `
CudaSharedMemoryRegisterRequest: name 1 string, raw_handle 2 bytes, device_id 3 int64, byte_size 4 uint64
CudaSharedMemoryRegisterResponse:
CudaSharedMemoryStatusRequest: name 1 string
CudaSharedMemoryStatusResponse.RegionStatus: name 1 string, device_id 2 uint64, byte_size 3 uint64
CudaSharedMemoryStatusResponse: regions 1 map[RegionStatus]
CudaSharedMemoryUnregisterRequest: name 1 string
CudaSharedMemoryUnregisterResponse:
InferBatchStatistics: batch_size 1 uint64, compute_input 2 StatisticDuration, compute_infer 3 StatisticDuration, compute_output 4 StatisticDuration
InferParameter: bool_param 1 bool, int64_param 2 int64, string_param 3 string, double_param 4 double, uint64_param 5 uint64
InferStatistics: success 1 StatisticDuration, fail 2 StatisticDuration, queue 3 StatisticDuration, compute_input 4 StatisticDuration, compute_infer 5 StatisticDuration, compute_output 6 StatisticDuration, cache_hit 7 StatisticDuration, cache_miss 8 StatisticDuration
InferTensorContents: bool_contents 1 []bool, int_contents 2 []int32, int64_contents 3 []int64, uint_contents 4 []uint32, uint64_contents 5 []uint64, fp32_contents 6 []float, fp64_contents 7 []double, bytes_contents 8 []bytes
LogSettingsRequest.SettingValue: bool_param 1 bool, uint32_param 2 uint32, string_param 3 string
LogSettingsRequest: settings 1 map[SettingValue]
LogSettingsResponse.SettingValue: bool_param 1 bool, uint32_param 2 uint32, string_param 3 string
LogSettingsResponse: settings 1 map[SettingValue]
ModelConfig: name 1 string, platform 2 string, version_policy 3 ModelVersionPolicy, max_batch_size 4 int32, input 5 []ModelInput, output 6 []ModelOutput, instance_group 7 []ModelInstanceGroup, default_model_filename 8 string, dynamic_batching 11 ModelDynamicBatching, sequence_batching 13 ModelSequenceBatching, ensemble_scheduling 15 ModelEnsembling, backend 17 string, model_transaction_policy 19 ModelTransactionPolicy
ModelConfigRequest: name 1 string, version 2 string
ModelConfigResponse: config 1 ModelConfig
ModelDynamicBatching: preferred_batch_size 1 []int32, max_queue_delay_microseconds 2 uint64, preserve_ordering 3 bool, default_queue_policy 6 ModelQueuePolicy
ModelEnsembling:
ModelInferRequest.InferInputTensor: name 1 string, datatype 2 string, shape 3 []int64, parameters 4 map[InferParameter], contents 5 InferTensorContents
ModelInferRequest.InferRequestedOutputTensor: name 1 string, parameters 2 map[InferParameter]
ModelInferRequest: model_name 1 string, model_version 2 string, id 3 string, parameters 4 map[InferParameter], inputs 5 []InferInputTensor, outputs 6 []InferRequestedOutputTensor, raw_input_contents 7 []bytes
ModelInferResponse.InferOutputTensor: name 1 string, datatype 2 string, shape 3 []int64, parameters 4 map[InferParameter], contents 5 InferTensorContents
ModelInferResponse: model_name 1 string, model_version 2 string, id 3 string, parameters 4 map[InferParameter], outputs 5 []InferOutputTensor, raw_output_contents 6 []bytes
ModelInput: name 1 string, data_type 2 enum, dims 4 []int64, optional 8 bool
ModelInstanceGroup: name 1 string, count 2 int32, gpus 3 []int32, kind 4 enum
ModelMetadataRequest: name 1 string, version 2 string
ModelMetadataResponse.TensorMetadata: name 1 string, datatype 2 string, shape 3 []int64
ModelMetadataResponse: name 1 string, versions 2 []string, platform 3 string, inputs 4 []TensorMetadata, outputs 5 []TensorMetadata
ModelOutput: name 1 string, data_type 2 enum, dims 3 []int64
ModelQueuePolicy: timeout_action 1 enum, default_timeout_microseconds 2 uint64, allow_timeout_override 3 bool, max_queue_size 4 uint32
ModelReadyRequest: name 1 string, version 2 string
ModelReadyResponse: ready 1 bool
ModelRepositoryParameter: bool_param 1 bool, int64_param 2 int64, string_param 3 string, bytes_param 4 bytes
ModelSequenceBatching: max_sequence_idle_microseconds 1 uint64
ModelStatistics: name 1 string, version 2 string, last_inference 3 uint64, inference_count 4 uint64, execution_count 5 uint64, inference_stats 6 InferStatistics, batch_stats 7 []InferBatchStatistics
ModelStatisticsRequest: name 1 string, version 2 string
ModelStatisticsResponse: model_stats 1 []ModelStatistics
ModelStreamInferResponse: error_message 1 string, infer_response 2 ModelInferResponse
ModelTransactionPolicy: decoupled 1 bool
ModelVersionPolicy.All:
ModelVersionPolicy.Latest: num_versions 1 uint32
ModelVersionPolicy.Specific: versions 1 []int64
ModelVersionPolicy: latest 1 Latest, all 2 All, specific 3 Specific
RepositoryIndexRequest: repository_name 1 string, ready 2 bool
RepositoryIndexResponse.ModelIndex: name 1 string, version 2 string, state 3 string, reason 4 string
RepositoryIndexResponse: models 1 []ModelIndex
RepositoryModelLoadRequest: repository_name 1 string, model_name 2 string, parameters 3 map[ModelRepositoryParameter]
RepositoryModelLoadResponse:
RepositoryModelUnloadRequest: repository_name 1 string, model_name 2 string, parameters 3 map[ModelRepositoryParameter]
RepositoryModelUnloadResponse:
ServerLiveRequest:
ServerLiveResponse: live 1 bool
ServerMetadataRequest:
ServerMetadataResponse: name 1 string, version 2 string, extensions 3 []string
ServerReadyRequest:
ServerReadyResponse: ready 1 bool
StatisticDuration: count 1 uint64, ns 2 uint64
SystemSharedMemoryRegisterRequest: name 1 string, key 2 string, offset 3 uint64, byte_size 4 uint64
SystemSharedMemoryRegisterResponse:
SystemSharedMemoryStatusRequest: name 1 string
SystemSharedMemoryStatusResponse.RegionStatus: name 1 string, key 2 string, offset 3 uint64, byte_size 4 uint64
SystemSharedMemoryStatusResponse: regions 1 map[RegionStatus]
SystemSharedMemoryUnregisterRequest: name 1 string
SystemSharedMemoryUnregisterResponse:
TraceSettingRequest.SettingValue: value 1 []string
TraceSettingRequest: settings 1 map[SettingValue], model_name 2 string
TraceSettingResponse.SettingValue: value 1 []string
TraceSettingResponse: settings 1 map[SettingValue]
`

func TestProtocol(t *testing.T) {
	files := map[string]protoreflect.FileDescriptor{
		"tensorferry/oip/v2/inference.proto":    File_tensorferry_oip_v2_inference_proto,
		"tensorferry/oip/v2/model_config.proto": File_tensorferry_oip_v2_model_config_proto,
	}
	var lines []string
	var walk func(protoreflect.MessageDescriptors)
	walk = func(ms protoreflect.MessageDescriptors) {
		for i := range ms.Len() {
			m := ms.Get(i)
			if m.IsMapEntry() {
				continue
			}
			var fields []string
			for j := range m.Fields().Len() {
				f := m.Fields().Get(j)
				kind, value := f.Kind().String(), f
				if f.IsMap() {
					value = f.MapValue()
				}
				if value.Message() != nil {
					kind = string(value.Message().Name())
				}
				switch {
				case f.IsMap():
					if f.MapKey().Kind() != protoreflect.StringKind {
						t.Errorf("%s has keys of kind %s", f.FullName(), f.MapKey().Kind())
					}
					kind = "map[" + kind + "]"
				case f.IsList():
					kind = "[]" + kind
				}
				fields = append(fields, fmt.Sprintf("%s %d %s", f.Name(), f.Number(), kind))
			}
			name := strings.TrimPrefix(string(m.FullName()), "inference.")
			lines = append(lines, strings.TrimSpace(name+": "+strings.Join(fields, ", ")))
			walk(m.Messages())
		}
	}
	for path, file := range files {
		if file.Package() != "inference" || file.Path() != path {
			t.Errorf("package %s in %s", file.Package(), file.Path())
		}
		walk(file.Messages())
	}
	slices.Sort(lines)
	want := strings.Split(strings.TrimSpace(protocol), "\n")
	for _, l := range lines {
		if !slices.Contains(want, l) {
			t.Errorf("not in the protocol: %s", l)
		}
	}
	for _, l := range want {
		if !slices.Contains(lines, l) {
			t.Errorf("missing: %s", l)
		}
	}
	methods := File_tensorferry_oip_v2_inference_proto.Services().ByName("GRPCInferenceService").Methods()
	var names []string
	for i := range methods.Len() {
		m := methods.Get(i)
		name := string(m.Name())
		if m.Input().Name() == "ModelInferRequest" && m.IsStreamingClient() && m.IsStreamingServer() {
			name = "stream " + name
		}
		names = append(names, name)
	}
	if got := strings.Join(names, ", "); got != "ServerLive, ServerReady, ModelReady, ServerMetadata, ModelMetadata, ModelInfer, "+
		"stream ModelStreamInfer, ModelConfig, ModelStatistics, RepositoryIndex, RepositoryModelLoad, RepositoryModelUnload, "+
		"SystemSharedMemoryStatus, SystemSharedMemoryRegister, SystemSharedMemoryUnregister, "+
		"CudaSharedMemoryStatus, CudaSharedMemoryRegister, CudaSharedMemoryUnregister, TraceSetting, LogSettings" {
		t.Errorf("methods %s", got)
	}
	if GRPCInferenceService_ServiceDesc.ServiceName != "inference.GRPCInferenceService" || GRPCInferenceService_ModelInfer_FullMethodName != "/"+GRPCInferenceService_ServiceDesc.ServiceName+"/ModelInfer" {
		t.Errorf("the service is %s, ModelInfer %s", GRPCInferenceService_ServiceDesc.ServiceName, GRPCInferenceService_ModelInfer_FullMethodName)
	}
}
