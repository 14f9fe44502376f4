package oip

import (
	"bytes"
	"encoding/binary"
	"math"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/tensorferry/tensorferry/tensor"
)

type (
	in       = ModelInferRequest_InferInputTensor
	out      = ModelInferResponse_InferOutputTensor
	contents = InferTensorContents
)

func le(values ...any) []byte {
	var b []byte
	for _, v := range values {
		b, _ = binary.Append(b, binary.LittleEndian, v)
	}
	return b
}

func wants(t *testing.T, err error, word string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), word) {
		t.Errorf("error %v, want %q", err, word)
	}
}

func TestTypedContents(t *testing.T) {
	for _, c := range []struct {
		datatype string
		c        *contents
		raw      []byte
		wrong    string
	}{
		{"BOOL", &contents{BoolContents: []bool{true, false}}, []byte{1, 0}, ""},
		{"INT8", &contents{IntContents: []int32{-128, 127}}, []byte{0x80, 0x7f}, ""},
		{"INT8", &contents{IntContents: []int32{0, 128}}, nil, "element 1 is 128, which is out of the range of INT8"},
		{"INT8", &contents{IntContents: []int32{-129}}, nil, "out of the range"},
		{"INT16", &contents{IntContents: []int32{-32768, 32767}}, le(int16(-32768), int16(32767)), ""},
		{"INT16", &contents{IntContents: []int32{32768}}, nil, "out of the range"},
		{"INT16", &contents{IntContents: []int32{-32769}}, nil, "out of the range"},
		{"INT32", &contents{IntContents: []int32{math.MinInt32}}, le(int32(math.MinInt32)), ""},
		{"INT64", &contents{Int64Contents: []int64{math.MinInt64}}, le(int64(math.MinInt64)), ""},
		{"UINT8", &contents{UintContents: []uint32{255}}, []byte{255}, ""},
		{"UINT8", &contents{UintContents: []uint32{256}}, nil, "out of the range"},
		{"UINT16", &contents{UintContents: []uint32{65535}}, le(uint16(65535)), ""},
		{"UINT16", &contents{UintContents: []uint32{65536}}, nil, "out of the range"},
		{"UINT32", &contents{UintContents: []uint32{math.MaxUint32}}, le(uint32(math.MaxUint32)), ""},
		{"UINT64", &contents{Uint64Contents: []uint64{math.MaxUint64}}, le(uint64(math.MaxUint64)), ""},
		{"FP32", &contents{Fp32Contents: []float32{0.1, -1}}, le(float32(0.1), float32(-1)), ""},
		{"FP64", &contents{Fp64Contents: []float64{0.1}}, le(0.1), ""},
		{"BYTES", &contents{BytesContents: [][]byte{[]byte("a"), nil}}, []byte("\x01\x00\x00\x00a\x00\x00\x00\x00"), ""},
		{"FP16", nil, nil, ""},
		{"FP16", &contents{Fp32Contents: []float32{1}}, nil, "FP16 has no typed contents, but fp32_contents holds 1"},
		{"BF16", &contents{UintContents: []uint32{1}}, nil, "send it as raw contents"},
		{"FP32", &contents{Fp64Contents: []float64{1}}, nil, "FP32 belongs in fp32_contents, but fp64_contents holds 1"},
		{"FP32", &contents{Fp32Contents: []float32{1}, BytesContents: [][]byte{nil}}, nil, "bytes_contents holds 1"},
		{"FP8", nil, nil, `unknown datatype "FP8"`},
	} {
		got, err := RawInputs(&ModelInferRequest{Inputs: []*in{{Name: "x", Datatype: c.datatype, Contents: c.c}}})
		if c.wrong != "" {
			wants(t, err, c.wrong)
			wants(t, err, `input "x"`)
		} else if err != nil || !bytes.Equal(got[0], c.raw) {
			t.Errorf("%s: % x, %v; want % x", c.datatype, got, err, c.raw)
		}
	}
}

func TestTensors(t *testing.T) {
	two := []*in{{Name: "x", Datatype: "INT8", Shape: []int64{2}}, {Name: "y", Datatype: "BYTES", Shape: []int64{1}}}
	raw := [][]byte{{1, 2}, []byte("\x01\x00\x00\x00a")}
	got, err := Tensors(&ModelInferRequest{Inputs: two, RawInputContents: raw})
	if err != nil || len(got) != 2 || got[0].DType != tensor.Int8 || &got[0].Raw[0] != &raw[0][0] || got[1].Name != "y" {
		t.Errorf("%v, %v", got, err)
	}
	typed := &in{Name: "x", Datatype: "INT8", Shape: []int64{1}, Contents: &contents{IntContents: []int32{1}}}
	for _, c := range []struct {
		inputs []*in
		raw    [][]byte
		want   string
	}{
		{two, raw[:1], "1 raw contents for 2 inputs"},
		{nil, raw, "2 raw contents for 0 inputs"},
		{[]*in{two[0], typed}, raw, "typed contents in a message with raw contents"},
		{[]*in{{Name: "x", Datatype: "int8", Shape: []int64{2}}}, raw[:1], `input "x": unknown datatype "int8"`},
		{[]*in{{Name: "x", Datatype: "INT8", Shape: []int64{3}}}, raw[:1], "2 bytes; INT8[3] has 3"},
		{[]*in{{Name: "x", Datatype: "INT8", Shape: []int64{-1}}}, raw[:1], "no definite size"},
		{[]*in{{Name: "x", Datatype: "INT8", Shape: []int64{1 << 62, 1 << 62}}}, raw[:1], "more elements than"},
		{[]*in{two[0]}, nil, "0 bytes; INT8[2] has 2"},
	} {
		_, err := Tensors(&ModelInferRequest{Inputs: c.inputs, RawInputContents: c.raw})
		wants(t, err, c.want)
	}
	// A contents message without elements cannot contradict the raw contents.
	if _, err := Tensors(&ModelInferRequest{Inputs: []*in{{Datatype: "BOOL", Contents: &contents{}}}, RawInputContents: [][]byte{{1}}}); err != nil {
		t.Error(err)
	}
}

func digits(batched bool) tensor.Signature {
	return tensor.Signature{Model: "digits", Version: "3", Batched: batched,
		Inputs:  []tensor.Spec{{Name: "pixels", DType: tensor.FP32, Row: tensor.Shape{-1}}, {Name: "tag", DType: tensor.Bytes}},
		Outputs: []tensor.Spec{{Name: "label", DType: tensor.Int64}, {Name: "probs", DType: tensor.FP32, Row: tensor.Shape{2}}}}
}

// A batch goes over the wire and arrives unchanged.
func TestRequest(t *testing.T) {
	for _, batched := range []bool{true, false} {
		sig := digits(batched)
		b := tensor.NewBatch(&sig)
		req := NewRequest(&sig)
		wants(t, req.Fill(b), "empty batch")
		rows := 1
		if batched {
			rows = 2
		}
		for range rows {
			if tensor.AppendValues(b.Column(0), []float32{1, 2, 3}) != nil || b.Column(1).AppendString("t") != nil {
				t.Fatal("append")
			}
			if err := b.EndRow(); err != nil {
				t.Fatal(err)
			}
		}
		req.Message().Id = "id"
		if err := req.Fill(b); err != nil {
			t.Fatal(err)
		}
		if &req.Message().RawInputContents[0][0] != &b.Column(0).Raw()[0] {
			t.Error("the column was copied")
		}
		wire, err := proto.Marshal(req.Message())
		if err != nil {
			t.Fatal(err)
		}
		var got ModelInferRequest
		if err := proto.Unmarshal(wire, &got); err != nil {
			t.Fatal(err)
		}
		tensors, err := Tensors(&got)
		if err != nil {
			t.Fatal(err)
		}
		want := []string{"[3]", "[]"}
		if batched {
			want = []string{"[2,3]", "[2]"}
		}
		if got.ModelName != "digits" || got.ModelVersion != "3" || got.Id != "id" || tensors[0].Name != "pixels" ||
			tensors[0].Shape.String() != want[0] || tensors[1].Shape.String() != want[1] || !bytes.Equal(tensors[0].Raw, b.Column(0).Raw()) {
			t.Errorf("%v, %v", &got, tensors)
		}
		if n := testing.AllocsPerRun(100, func() { _ = req.Fill(b) }); n != 0 {
			t.Errorf("Fill allocates %v times", n)
		}
		req.Clear()
		if req.Message().Id != "" || req.Message().RawInputContents[0] != nil {
			t.Error("Clear left data in the request")
		}
	}
	sig, other := digits(true), tensor.Signature{}
	wants(t, NewRequest(&sig).Fill(tensor.NewBatch(&other)), "the batch has 0 inputs")
}

func TestFillRows(t *testing.T) {
	sig := digits(true)
	label := &out{Name: "label", Datatype: "INT64", Shape: []int64{2}}
	probs := &out{Name: "probs", Datatype: "FP32", Shape: []int64{2, 2}}
	extra := &out{Name: "extra", Datatype: "FP8", Shape: []int64{-7}}
	labelRaw, probsRaw := le(int64(4), int64(5)), le([]float32{1, 2, 3, 4})
	typedLabel := &out{Name: "label", Datatype: "INT64", Shape: []int64{2}, Contents: &contents{Int64Contents: []int64{4, 5}}}
	typedProbs := &out{Name: "probs", Datatype: "FP32", Shape: []int64{2, 2}, Contents: &contents{Fp32Contents: []float32{1, 2, 3, 4}}}
	dst := tensor.NewRows(&sig)
	for _, c := range []struct {
		outs  []*out
		raw   [][]byte
		wrong string
	}{
		{[]*out{probs, label}, [][]byte{probsRaw, labelRaw}, ""},
		{[]*out{label, extra, probs}, [][]byte{labelRaw, nil, probsRaw}, ""},
		{[]*out{typedProbs, extra, typedLabel}, nil, ""},
		{[]*out{label}, [][]byte{labelRaw}, `it has outputs ["label"]; the model promises label INT64[], probs FP32[2]`},
		{nil, nil, "it has outputs []"},
		{[]*out{label, probs}, [][]byte{labelRaw}, "1 raw contents for 2 outputs"},
		{[]*out{typedLabel, probs}, [][]byte{labelRaw, probsRaw}, `output "label" has typed contents`},
		{[]*out{label, label, probs}, [][]byte{labelRaw, labelRaw, probsRaw}, `output "label": set twice`},
		{[]*out{{Name: "label", Datatype: "INT32", Shape: []int64{2}}, probs}, [][]byte{labelRaw, probsRaw}, "datatype INT32; the model says INT64"},
		{[]*out{{Name: "label", Datatype: "WHAT", Shape: []int64{2}}, probs}, [][]byte{labelRaw, probsRaw}, `unknown datatype "WHAT"`},
		{[]*out{{Name: "label", Datatype: "INT64", Shape: []int64{3}}, probs}, [][]byte{labelRaw, probsRaw}, "the 2 rows of the request"},
		{[]*out{label, probs}, [][]byte{labelRaw[:15], probsRaw}, "15 bytes; INT64[2] has 16"},
		{[]*out{{Name: "label", Datatype: "INT64", Shape: []int64{2}, Contents: &contents{IntContents: []int32{1, 2}}}, typedProbs}, nil, "int_contents holds 2"},
	} {
		resp := &ModelInferResponse{Outputs: c.outs, RawOutputContents: c.raw}
		err := FillRows(dst, resp, 2)
		if c.wrong != "" {
			wants(t, err, c.wrong)
			wants(t, err, `the answer of model "digits" is wrong`)
			if dst.Len() != 0 {
				t.Errorf("%s: %d rows were kept", c.wrong, dst.Len())
			}
			continue
		}
		if err != nil || dst.Len() != 2 || dst.Output(0).Int(1, 0) != 5 || dst.Output(1).Number(1, 0) != 3 {
			t.Errorf("%v: %v", c.outs, err)
		}
	}
	resp := &ModelInferResponse{Outputs: []*out{probs, label}, RawOutputContents: [][]byte{probsRaw, labelRaw}}
	if n := testing.AllocsPerRun(100, func() { _ = FillRows(dst, resp, 2) }); n != 0 {
		t.Errorf("FillRows allocates %v times", n)
	}
}

func TestNewResponse(t *testing.T) {
	sig := digits(true)
	resp := NewResponse("digits", "3", "id", []tensor.Tensor{
		{Name: "label", DType: tensor.Int64, Shape: tensor.Shape{1}, Raw: le(int64(9))},
		{Name: "probs", DType: tensor.FP32, Shape: tensor.Shape{1, 2}, Raw: le([]float32{0, 1})}})
	rows := tensor.NewRows(&sig)
	if err := FillRows(rows, resp, 1); err != nil || rows.Output(0).Int(0, 0) != 9 || resp.Id != "id" || resp.ModelVersion != "3" {
		t.Errorf("%v: %v", resp, err)
	}
}

func TestSignatureOf(t *testing.T) {
	for _, batched := range []bool{true, false} {
		want := digits(batched)
		got, err := SignatureOf(Metadata(&want, "onnx", "3"), "3")
		if err != nil || got.String() != want.String() {
			t.Errorf("%v: %v\nwant %v", got.String(), err, want.String())
		}
	}
	type meta = ModelMetadataResponse_TensorMetadata
	good := []*meta{{Name: "y", Datatype: "FP32", Shape: []int64{-1}}}
	for _, c := range []struct {
		inputs, outputs []*meta
		batched         bool
		wrong           string
	}{
		{good, good, true, ""},
		{[]*meta{{Name: "x", Datatype: "FP32", Shape: []int64{1, -1}}}, good, false, ""},
		{good, []*meta{{Name: "y", Datatype: "FP32"}}, false, ""},
		{nil, good, false, ""},
		{good, nil, false, "the model has no outputs"},
		{[]*meta{{Name: "x", Datatype: "FP8", Shape: []int64{-1}}}, good, false, `input "x": unknown datatype "FP8"`},
		{good, []*meta{{Name: "y", Datatype: "", Shape: []int64{-1}}}, false, `output "y": unknown datatype ""`},
		{good, []*meta{{Name: "y", Datatype: "BOOL", Shape: []int64{-1, -9}}}, false, "dimension of -9"},
		{good, []*meta{{Name: "y", Datatype: "BOOL", Shape: make([]int64, 1000)}}, false, "at most 64"},
		{good, append(good, good...), false, `two outputs are named "y"`},
	} {
		got, err := SignatureOf(&ModelMetadataResponse{Name: "m", Inputs: c.inputs, Outputs: c.outputs}, "")
		if c.wrong != "" {
			wants(t, err, c.wrong)
			wants(t, err, `the metadata of model "m" is wrong`)
		} else if err != nil || got.Batched != c.batched || got.Model != "m" {
			t.Errorf("%v %v: %v, %v", c.inputs, c.outputs, got.String(), err)
		}
	}
}

// Any bytes may arrive as a request. The result is an error or valid tensors.
func FuzzTensors(f *testing.F) {
	for _, r := range []*ModelInferRequest{
		{ModelName: "m", Inputs: []*in{{Name: "x", Datatype: "INT8", Shape: []int64{2}}}, RawInputContents: [][]byte{{1, 2}}},
		{Inputs: []*in{{Name: "x", Datatype: "BYTES", Shape: []int64{1}, Contents: &contents{BytesContents: [][]byte{[]byte("a")}}}}},
		{Inputs: []*in{{Name: "x", Datatype: "FP64", Shape: []int64{1 << 62, 1 << 62, 0}}}},
	} {
		b, err := proto.Marshal(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, wire []byte) {
		var req ModelInferRequest
		if proto.Unmarshal(wire, &req) != nil {
			return
		}
		tensors, err := Tensors(&req)
		if err != nil {
			return
		}
		if len(tensors) != len(req.Inputs) {
			t.Fatalf("%d tensors of %d inputs", len(tensors), len(req.Inputs))
		}
		size := 0
		for i := range tensors {
			if err := tensors[i].Validate(); err != nil {
				t.Fatal(err)
			}
			size += len(tensors[i].Raw)
		}
		if size > 8*len(wire) {
			t.Fatalf("%d bytes of tensors from a request of %d", size, len(wire))
		}
	})
}

// Any bytes may arrive as an answer, or as a model's metadata.
func FuzzAnswers(f *testing.F) {
	sig := digits(true)
	good, err := proto.Marshal(NewResponse("digits", "", "", []tensor.Tensor{
		{Name: "label", DType: tensor.Int64, Shape: tensor.Shape{1}, Raw: le(int64(9))},
		{Name: "probs", DType: tensor.FP32, Shape: tensor.Shape{1, 2}, Raw: le([]float32{0, 1})}}))
	if err != nil {
		f.Fatal(err)
	}
	meta, err := proto.Marshal(Metadata(&sig, "p"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(meta)
	rows := tensor.NewRows(&sig)
	f.Fuzz(func(t *testing.T, wire []byte) {
		var resp ModelInferResponse
		if proto.Unmarshal(wire, &resp) == nil {
			if err := FillRows(rows, &resp, 1); err == nil {
				_ = rows.Output(0).Int(0, 0)
				if len(rows.Output(1).RowRaw(0)) != 8 {
					t.Fatal("probs of another size were accepted")
				}
			}
		}
		var m ModelMetadataResponse
		if proto.Unmarshal(wire, &m) == nil {
			if got, err := SignatureOf(&m, ""); err == nil {
				if again, err := SignatureOf(Metadata(&got, ""), ""); err != nil || again.String() != got.String() {
					t.Fatalf("%v became %v: %v", got.String(), again.String(), err)
				}
			}
		}
	})
}
