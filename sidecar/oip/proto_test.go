package oip

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// protocol is what makes the messages those of the Open Inference Protocol: every field's number and
// type, and every method's name.
const protocol = `
InferParameter: bool_param 1 bool, int64_param 2 int64, string_param 3 string, double_param 4 double, uint64_param 5 uint64
InferTensorContents: bool_contents 1 []bool, int_contents 2 []int32, int64_contents 3 []int64, uint_contents 4 []uint32, uint64_contents 5 []uint64, fp32_contents 6 []float, fp64_contents 7 []double, bytes_contents 8 []bytes
ModelInferRequest: model_name 1 string, model_version 2 string, id 3 string, parameters 4 map[InferParameter], inputs 5 []InferInputTensor, outputs 6 []InferRequestedOutputTensor, raw_input_contents 7 []bytes
ModelInferRequest.InferInputTensor: name 1 string, datatype 2 string, shape 3 []int64, parameters 4 map[InferParameter], contents 5 InferTensorContents
ModelInferRequest.InferRequestedOutputTensor: name 1 string, parameters 2 map[InferParameter]
ModelInferResponse: model_name 1 string, model_version 2 string, id 3 string, parameters 4 map[InferParameter], outputs 5 []InferOutputTensor, raw_output_contents 6 []bytes
ModelInferResponse.InferOutputTensor: name 1 string, datatype 2 string, shape 3 []int64, parameters 4 map[InferParameter], contents 5 InferTensorContents
ModelMetadataRequest: name 1 string, version 2 string
ModelMetadataResponse: name 1 string, versions 2 []string, platform 3 string, inputs 4 []TensorMetadata, outputs 5 []TensorMetadata
ModelMetadataResponse.TensorMetadata: name 1 string, datatype 2 string, shape 3 []int64
ModelReadyRequest: name 1 string, version 2 string
ModelReadyResponse: ready 1 bool
ServerLiveRequest:
ServerLiveResponse: live 1 bool
ServerMetadataRequest:
ServerMetadataResponse: name 1 string, version 2 string, extensions 3 []string
ServerReadyRequest:
ServerReadyResponse: ready 1 bool
`

func TestProtocol(t *testing.T) {
	file := File_tensorferry_oip_v2_inference_proto
	if file.Package() != "inference" || file.Path() != "tensorferry/oip/v2/inference.proto" {
		t.Errorf("package %s in %s", file.Package(), file.Path())
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
	walk(file.Messages())
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
	for method, name := range map[string]string{
		GRPCInferenceService_ServerLive_FullMethodName:     "ServerLive",
		GRPCInferenceService_ServerReady_FullMethodName:    "ServerReady",
		GRPCInferenceService_ModelReady_FullMethodName:     "ModelReady",
		GRPCInferenceService_ServerMetadata_FullMethodName: "ServerMetadata",
		GRPCInferenceService_ModelMetadata_FullMethodName:  "ModelMetadata",
		GRPCInferenceService_ModelInfer_FullMethodName:     "ModelInfer",
	} {
		if method != "/inference.GRPCInferenceService/"+name {
			t.Errorf("method %s", method)
		}
	}
}
