package jsoncodec

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tensorferry/tensorferry/tensor"
)

func answer(t testing.TB, sig *tensor.Signature, raws ...[]byte) *tensor.Rows {
	t.Helper()
	rows := tensor.NewRows(sig)
	for i, raw := range raws {
		o := sig.Outputs[i]
		if err := rows.Set(i, o.DType, append(tensor.Shape{1}, o.Row...), raw, 1); err != nil {
			t.Fatal(err)
		}
	}
	return rows
}

func TestDecodeKeepsTheRecord(t *testing.T) {
	sig := digits()
	rows := answer(t, &sig, le(int64(3)), le(float32(0.1), float32(-2)))
	m := Mapping{Outputs: map[string]Output{"label": {Field: "digit"}, "probs": {Field: `sc"ores`}}}
	over := Mapping{Outputs: m.Outputs, Overwrite: true}
	const added = `"digit":3,"sc\"ores":[0.1,-2]}`
	for _, c := range []struct {
		m          Mapping
		record     string
		want       string
		wantFailed bool
	}{
		{m, `{}`, `{` + added, false},
		{m, " { } \n", `{` + added, false},
		{m, "\t{\"b\":1.50, \"a\":1e2,\"c\":\"\\u0041\" }\r\n", "{\"b\":1.50, \"a\":1e2,\"c\":\"\\u0041\"," + added, false},
		{m, `{"big":123456789012345678901234567890}`, `{"big":123456789012345678901234567890,` + added, false},
		{over, `{"a":1}`, `{"a":1,` + added, false},
		{over, `{"digit":{"x":[1]}, "a":1}`, `{"digit":3, "a":1,"sc\"ores":[0.1,-2]}`, false},
		{over, `{"sc\u0022ores" : null ,"a":1,"digit":"}" } `, `{"sc\u0022ores" : [0.1,-2] ,"a":1,"digit":3}`, false},
		{over, `{"\ud800":1}`, `{"\ud800":1,` + added, false},
		{m, ``, "", true},
		{m, `{`, "", true},
		{m, `[1]`, "", true},
		{over, `{"a" 1}`, "", true},
		{over, `{"a":}`, "", true},
		{over, `{"a":1 "b":2}`, "", true},
	} {
		got, err := bind(t, c.m, sig).Decode([]byte(c.record), rows, 0)
		if string(got) != c.want || (err != nil) != c.wantFailed {
			t.Errorf("%s\ngives %s, %v\nwant  %s", c.record, got, err, c.want)
		}
	}
}

func TestDecodeValues(t *testing.T) {
	shape := func(dims ...int64) tensor.Shape { return dims }
	for _, c := range []struct {
		dt   tensor.DType
		row  tensor.Shape
		raw  []byte
		want string // after y:, or an error's words if it does not begin with JSON
	}{
		{tensor.FP32, shape(), le(float32(0.1)), `0.1`},
		{tensor.FP32, shape(1), le(float32(16777216)), `16777216`},
		{tensor.FP32, shape(4), le(float32(1e-7), float32(1e21), float32(math.SmallestNonzeroFloat32), float32(math.Copysign(0, -1))), `[1e-07,1e+21,1e-45,-0]`},
		{tensor.FP64, shape(2), le(0.1, 1.0/3), `[0.1,0.3333333333333333]`},
		{tensor.FP16, shape(), le(uint16(0x3555)), `0.33325195`},
		{tensor.BF16, shape(), le(uint16(0xbfc0)), `-1.5`},
		{tensor.FP32, shape(0), nil, `[]`},
		{tensor.FP32, shape(2, 0), nil, `[[],[]]`},
		{tensor.FP32, shape(0, 2), nil, `[]`},
		{tensor.FP32, shape(1, 1), le(float32(2)), `[[2]]`},
		{tensor.Int8, shape(2, 3), []byte{1, 2, 3, 4, 5, 0xff}, `[[1,2,3],[4,5,-1]]`},
		{tensor.Int64, shape(), le(int64(math.MinInt64)), `-9223372036854775808`},
		{tensor.Uint64, shape(), le(uint64(math.MaxUint64)), `18446744073709551615`},
		{tensor.Uint32, shape(), le(uint32(math.MaxUint32)), `4294967295`},
		{tensor.Bool, shape(3), []byte{0, 1, 7}, `[false,true,true]`},
		{tensor.Bytes, shape(), []byte("\x08\x00\x00\x00é\"\\\n\r\t\x01"), `"é\"\\\n\r\t\u0001"`},
		{tensor.Bytes, shape(2), []byte("\x00\x00\x00\x00\x01\x00\x00\x00<"), `["","<"]`},
		{tensor.Bytes, shape(), []byte("\x01\x00\x00\x00\xff"), "element 0 is not UTF-8"},
		{tensor.FP32, shape(2), le(float32(1), float32(math.NaN())), `[1,null]`},
		{tensor.FP64, shape(), le(math.Inf(-1)), `null`},
		{tensor.FP16, shape(), le(uint16(0x7c00)), `null`},
		{tensor.FP32, shape(1<<40, 0), nil, "empty arrays"},
		{tensor.FP32, shape(1<<16, 2, 0), nil, "empty arrays"},
		{tensor.FP32, shape(0, 1<<40), nil, `[]`},
	} {
		sig := model(c.dt, c.row...)
		sig.Inputs[0].Row = nil
		got, err := bind(t, Mapping{}, sig).Decode([]byte(`{"x":0}`), answer(t, &sig, c.raw), 0)
		if err != nil {
			if !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), `output "y"`) || !errors.Is(err, tensor.ErrAnswer) {
				t.Errorf("%s%v: %v; want %s", c.dt, c.row, err, c.want)
			}
			continue
		}
		if string(got) != `{"x":0,"y":`+c.want+`}` || !json.Valid(got) {
			t.Errorf("%s%v: %s; want %s", c.dt, c.row, got, c.want)
		}
	}
}

// The mapping says for each output what NaN and infinities become. They are counted.
func TestNumbersThatAreNone(t *testing.T) {
	sig := digits()
	odd := le(float32(math.NaN()), float32(math.Inf(-1)))
	rows := answer(t, &sig, le(int64(3)), odd)
	for nan, want := range map[NaN]string{
		NaNNull:   `{"label":3,"probs":[null,null]}`,
		NaNString: `{"label":3,"probs":["NaN","-Infinity"]}`,
		NaNFail:   `output "probs": ` + tensor.ErrAnswer.Error() + `: element 0 is NaN, which is not a number in JSON`,
	} {
		var n atomic.Int64
		m := Mapping{Outputs: map[string]Output{"label": {}, "probs": {NaN: nan}}, NotNumbers: &n}
		r := bind(t, m, sig)
		got, err := r.Decode([]byte(`{}`), rows, 0)
		count := int64(2)
		if nan == NaNFail {
			got, count = []byte(fmt.Sprint(err)), 1
		}
		if !strings.HasPrefix(string(got), want) || n.Load() != count || errors.Is(err, tensor.ErrAnswer) != (nan == NaNFail) {
			t.Errorf("%v: %s, %v; %d are counted; want %s", nan, got, err, n.Load(), want)
		}
		if (m.String() == Mapping{Outputs: map[string]Output{"label": {}, "probs": {}}}.String()) != (nan == NaNNull) {
			t.Errorf("%v: %s", nan, m)
		}
	}
	// Others are not counted, and without a counter nothing is.
	var n atomic.Int64
	r := bind(t, Mapping{NotNumbers: &n}, sig)
	if _, err := r.Decode([]byte(`{}`), answer(t, &sig, le(int64(3)), le(float32(1), float32(math.MaxFloat32))), 0); err != nil || n.Load() != 0 {
		t.Error(err, n.Load())
	}
	if got, err := bind(t, Mapping{}, sig).Decode([]byte(`{}`), rows, 0); err != nil {
		t.Error(string(got), err)
	}
}

// The hot path: a record of 64 numbers in, its own bytes and 11 numbers out.
func TestAllocations(t *testing.T) {
	sig, record, rows := hotPath(t)
	r := bind(t, Mapping{}, sig)
	b := tensor.NewBatch(&sig)
	encode := func() {
		b.Reset()
		if err := r.Encode(b, record); err != nil || b.EndRow() != nil {
			t.Fatal(err)
		}
	}
	encode()
	if n := testing.AllocsPerRun(100, encode); n != 0 {
		t.Errorf("Encode allocates %v times", n)
	}
	decode := func() {
		if _, err := r.Decode(record, rows, 0); err != nil {
			t.Fatal(err)
		}
	}
	if n := testing.AllocsPerRun(100, decode); n > 1 && !raceEnabled {
		t.Errorf("Decode allocates %v times; want the result alone", n)
	}
}

func hotPath(t testing.TB) (tensor.Signature, []byte, *tensor.Rows) {
	sig := digits()
	sig.Inputs[0].Row = tensor.Shape{64}
	var pixels [64]float32
	for i := range pixels {
		pixels[i] = float32(i%17) / 16
	}
	record, err := json.Marshal(map[string]any{"id": 17, "pixels": pixels})
	if err != nil {
		t.Fatal(err)
	}
	return sig, record, answer(t, &sig, le(int64(3)), le(float32(0.123456), float32(0.876544)))
}

func BenchmarkEncode(b *testing.B) {
	sig, record, _ := hotPath(b)
	r := bind(b, Mapping{}, sig)
	batch := tensor.NewBatch(&sig)
	b.ReportAllocs()
	b.SetBytes(int64(len(record)))
	for b.Loop() {
		batch.Reset()
		if r.Encode(batch, record) != nil || batch.EndRow() != nil {
			b.Fatal("refused")
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	sig, record, rows := hotPath(b)
	r := bind(b, Mapping{}, sig)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Decode(record, rows, 0); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEncodingJSON(b *testing.B) {
	_, record, _ := hotPath(b)
	b.ReportAllocs()
	b.SetBytes(int64(len(record)))
	for b.Loop() {
		var v struct{ Pixels []float32 }
		if err := json.Unmarshal(record, &v); err != nil {
			b.Fatal(err)
		}
	}
}
