package server

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"slices"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/tensorferry/tensorferry/sidecar/oip"
	"github.com/tensorferry/tensorferry/tensor"
)

// large is about how many bytes of memory a request of weighed takes, at least.
const large = 1 << 18

// weighed returns requests for model m with input x, by what is large in them.
func weighed() map[string]*oip.ModelInferRequest {
	text := func(n int) *oip.InferParameter {
		return &oip.InferParameter{ParameterChoice: &oip.InferParameter_StringParam{StringParam: string(make([]byte, n))}}
	}
	many := map[string]*oip.InferParameter{}
	for i := range large / 128 {
		many[fmt.Sprint(i)] = &oip.InferParameter{ParameterChoice: &oip.InferParameter_BoolParam{}}
	}
	one := map[string]*oip.InferParameter{"p": text(large)}
	named := map[string]*oip.InferParameter{string(make([]byte, large)): {}}
	unknown := protowire.AppendBytes(protowire.AppendTag(nil, 1000, protowire.BytesType), make([]byte, large))
	with := func(change func(*oip.ModelInferRequest)) *oip.ModelInferRequest {
		msg := &oip.ModelInferRequest{ModelName: "m", Inputs: []*oip.ModelInferRequest_InferInputTensor{{Name: "x", Datatype: "FP32", Shape: []int64{1, 1}}},
			Outputs: []*oip.ModelInferRequest_InferRequestedOutputTensor{{Name: "y"}}, RawInputContents: [][]byte{make([]byte, 4)}}
		change(msg)
		return msg
	}
	typed := func(dt string, c *oip.InferTensorContents) *oip.ModelInferRequest {
		return with(func(m *oip.ModelInferRequest) {
			m.RawInputContents = nil
			m.Inputs[0].Datatype, m.Inputs[0].Contents = dt, c
			for _, n := range []int{len(c.BoolContents), len(c.Int64Contents), len(c.Fp32Contents), len(c.BytesContents)} {
				m.Inputs[0].Shape[0] += int64(n)
			}
			m.Inputs[0].Shape[0]--
		})
	}
	return map[string]*oip.ModelInferRequest{
		"raw contents": with(func(m *oip.ModelInferRequest) {
			m.Inputs[0].Shape[0], m.RawInputContents[0] = large/4, make([]byte, large)
		}),
		"the id":                        with(func(m *oip.ModelInferRequest) { m.Id = string(make([]byte, large)) }),
		"the version":                   with(func(m *oip.ModelInferRequest) { m.ModelVersion = string(make([]byte, large)) }),
		"a parameter":                   with(func(m *oip.ModelInferRequest) { m.Parameters = one }),
		"a parameter's name":            with(func(m *oip.ModelInferRequest) { m.Parameters = named }),
		"many parameters":               with(func(m *oip.ModelInferRequest) { m.Parameters = many }),
		"a parameter of an input":       with(func(m *oip.ModelInferRequest) { m.Inputs[0].Parameters = one }),
		"a parameter of an output":      with(func(m *oip.ModelInferRequest) { m.Outputs[0].Parameters = one }),
		"many parameters of an output":  with(func(m *oip.ModelInferRequest) { m.Outputs[0].Parameters = many }),
		"an unknown field":              with(func(m *oip.ModelInferRequest) { m.ProtoReflect().SetUnknown(unknown) }),
		"an unknown field of an input":  with(func(m *oip.ModelInferRequest) { m.Inputs[0].ProtoReflect().SetUnknown(unknown) }),
		"an unknown field of an output": with(func(m *oip.ModelInferRequest) { m.Outputs[0].ProtoReflect().SetUnknown(unknown) }),
		"an unknown field of its contents": with(func(m *oip.ModelInferRequest) {
			m.Inputs[0].Contents = &oip.InferTensorContents{}
			m.Inputs[0].Contents.ProtoReflect().SetUnknown(unknown)
		}),
		"an unknown field of a parameter": with(func(m *oip.ModelInferRequest) {
			m.Parameters = map[string]*oip.InferParameter{"p": {}}
			m.Parameters["p"].ProtoReflect().SetUnknown(unknown)
		}),
		"typed contents":                       typed("FP32", &oip.InferTensorContents{Fp32Contents: make([]float32, large/4)}),
		"typed contents of a byte on the wire": typed("INT64", &oip.InferTensorContents{Int64Contents: make([]int64, large/8)}),
		"typed contents of a byte anywhere":    typed("BOOL", &oip.InferTensorContents{BoolContents: make([]bool, large)}),
		"strings that are empty":               typed("BYTES", &oip.InferTensorContents{BytesContents: slices.Repeat([][]byte{{}}, large/8)}),
	}
}

// signatureOf returns a model's signature that a request of weighed suits.
func signatureOf(t *testing.T, msg *oip.ModelInferRequest) *tensor.Signature {
	t.Helper()
	dt, err := tensor.ParseDType(msg.Inputs[0].Datatype)
	if err != nil {
		t.Fatal(err)
	}
	return &tensor.Signature{Model: "m", Batched: true, Inputs: []tensor.Spec{{Name: "x", DType: dt, Row: tensor.Shape{1}}},
		Outputs: []tensor.Spec{{Name: "y", DType: tensor.FP32, Row: tensor.Shape{1}}}}
}

// The admission counts about as many bytes of a request as the request holds in memory: more than
// half, and less than twice as many.
func TestRequestsAreCountedWhole(t *testing.T) {
	for name, msg := range weighed() {
		wire, err := proto.Marshal(msg)
		if err != nil {
			t.Fatal(err)
		}
		sig := signatureOf(t, msg)
		type waiting struct {
			msg *oip.ModelInferRequest
			req *request
		}
		const n = 4
		all := make([]waiting, 0, n)
		before := heap()
		counted := int64(0)
		for range n {
			w := waiting{msg: &oip.ModelInferRequest{}}
			if err := proto.Unmarshal(wire, w.msg); err != nil {
				t.Fatal(err)
			}
			var bad *badInput
			if w.req, bad = parse(w.msg, sig); bad != nil {
				t.Fatalf("%s: %v", name, bad.message)
			}
			counted += w.req.bytes
			all = append(all, w)
		}
		took := heap() - before
		runtime.KeepAlive(all)
		runtime.KeepAlive(wire)
		t.Logf("%s: %d KiB on the wire, %d KiB held, %d KiB counted", name, len(wire)>>10, took/n>>10, counted/n>>10)
		const other = n * large / 8 // other things in the heap come and go
		if 2*counted+other < took || counted > 2*took+other {
			t.Errorf("%s: %d KiB held, %d KiB counted", name, took/n>>10, counted/n>>10)
		}
	}
}

func heap() int64 {
	runtime.GC()
	runtime.GC() // collects what the first one released
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// The starts of the rows of strings are found once. If all rows are bad, a request is cut into
// twice as many pieces as it has rows. These are cut without reading a length again: lengths that
// the test overwrites meanwhile change nothing.
func TestRowsOfStringsAreFoundOnce(t *testing.T) {
	sig := &tensor.Signature{Batched: true, Inputs: []tensor.Spec{{Name: "a", DType: tensor.Int32, Row: tensor.Shape{2}}, {Name: "s", DType: tensor.Bytes, Row: tensor.Shape{2}}}}
	const rows = 64
	var ints, text []byte
	var wantInts, wantText [rows]string
	for row := range rows {
		from, begin := len(ints), len(text)
		ints = binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(ints, uint32(row)), uint32(2*row))
		for range 2 {
			text, _ = tensor.AppendElement(text, make([]byte, row))
		}
		wantInts[row] = string(ints[from:])
		wantText[row] = fmt.Sprint(begin, len(text))
	}
	req := &request{rows: rows, inputs: []tensor.Tensor{{Name: "a", DType: tensor.Int32, Shape: tensor.Shape{rows, 2}, Raw: ints},
		{Name: "s", DType: tensor.Bytes, Shape: tensor.Shape{rows, 2}, Raw: text}}}
	cut := func(from, to int) []tensor.Tensor { return gather([]piece{{req, from, to}}, sig) }
	if got := cut(0, rows); &got[1].Raw[0] != &text[0] || len(got[1].Raw) != len(text) {
		t.Error("the memory of a whole request was copied")
	}
	cut(0, 1)
	for i := range text {
		text[i] = 0xff
	}
	at := 0
	for row := range rows {
		got := cut(row, row+1)
		if string(got[0].Raw) != wantInts[row] || !slices.Equal(got[0].Shape, tensor.Shape{1, 2}) || !slices.Equal(got[1].Shape, tensor.Shape{1, 2}) {
			t.Errorf("row %d is %v", row, got)
		}
		if s := fmt.Sprint(at, at+len(got[1].Raw)); s != wantText[row] || len(got[1].Raw) > 0 && &got[1].Raw[0] != &text[at] {
			t.Errorf("row %d of the strings is at %s, want %s", row, s, wantText[row])
		}
		at += len(got[1].Raw)
	}
	if got := cut(3, 60); len(got[1].Raw) != 2*57*4+2*(60*59/2-3) {
		t.Errorf("57 rows have %d bytes", len(got[1].Raw))
	}
}
