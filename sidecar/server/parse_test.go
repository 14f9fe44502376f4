package server

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/tensorferry/tensorferry/sidecar/oip"
	"github.com/tensorferry/tensorferry/tensor"
)

// Whatever comes over the network, parse returns a request that suits the model, or an error.
func FuzzParse(f *testing.F) {
	seed := func(m *oip.ModelInferRequest) {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, true)
		f.Add(b, false)
	}
	seed(&oip.ModelInferRequest{})
	seed(&oip.ModelInferRequest{ModelName: "m", RawInputContents: [][]byte{make([]byte, 8), {1, 0, 0, 0, 'x', 0, 0, 0, 0}},
		Inputs: []*oip.ModelInferRequest_InferInputTensor{{Name: "a", Datatype: "FP32", Shape: []int64{2, 1}}, {Name: "b", Datatype: "BYTES", Shape: []int64{2}}}})
	seed(&oip.ModelInferRequest{RawInputContents: [][]byte{nil, nil}, Inputs: []*oip.ModelInferRequest_InferInputTensor{
		{Name: "a", Datatype: "FP32", Shape: []int64{1 << 62, 0}}, {Name: "b", Datatype: "BYTES", Shape: []int64{1 << 62}}},
		Parameters: map[string]*oip.InferParameter{"p": {}, "q": nil}})
	f.Fuzz(func(t *testing.T, data []byte, batched bool) {
		msg := &oip.ModelInferRequest{}
		if proto.Unmarshal(data, msg) != nil {
			return
		}
		if seen, ok := scan(data); !ok || seen.bytes < int64(proto.Size(msg)-len(data)) || seen.inputs < len(msg.Inputs) || seen.raws < len(msg.RawInputContents) {
			t.Fatalf("on the wire it is seen as %+v, %v", seen, ok)
		}
		sig := &tensor.Signature{Model: "m", Batched: batched, Outputs: []tensor.Spec{{Name: "y", DType: tensor.FP32}},
			Inputs: []tensor.Spec{{Name: "a", DType: tensor.FP32, Row: tensor.Shape{-1}}, {Name: "b", DType: tensor.Bytes, Row: tensor.Shape{}}}}
		r, bad := parse(msg, sig)
		if bad != nil {
			return
		}
		if r.rows < 1 || r.rows > maxRequestRows || len(r.inputs) != 2 || !batched && r.rows != 1 {
			t.Fatalf("%d rows, %d inputs", r.rows, len(r.inputs))
		}
		for i := range r.inputs {
			if err := r.inputs[i].Validate(); err != nil || r.inputs[i].Name != sig.Inputs[i].Name {
				t.Fatalf("input %d is %s: %v", i, r.inputs[i].Name, err)
			}
		}
		if r.rows < 2 || r.rows > 1000 {
			return
		}
		// A request that is cut in two and joined again is the same.
		pieces := []piece{{r, 0, 1}, {r, 1, r.rows}}
		joined := gather(pieces, sig)
		for i := range joined {
			if string(joined[i].Raw) != string(r.inputs[i].Raw) {
				t.Fatalf("input %d is cut wrongly", i)
			}
		}
	})
}
