package jsoncodec

import (
	"bytes"
	"encoding/json"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/tensorferry/tensorferry/tensor"
)

var seeds = []string{
	`{}`, ` { "x" : [ 1 , -2.5e+3 ] , "b":[{},[],null,true,false,"\u00e9\n"] } `, `{"x":[]}`, `{"x":[0.1]}x`, `{"x":[01]}`,
	`{"\u0078":[1]}`, `{"x":[1],"x":[2]}`, `{"x":[1,]}`, `{"a":"\ud800","x":[1e-5]}`, `{"y":{"y":1},"x":[3]}`, "{\"a\":\"\xff\"}", `[1]`, `{"x":null}`,
	strings.Repeat(`{"a":`, 100) + `1` + strings.Repeat(`}`, 100), `{"x":[1e999]}`, `{"x":[[1]]}`,
}

// A codec that wants nothing of a record accepts exactly the valid JSON objects.
func FuzzGrammar(f *testing.F) {
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	deep := strings.Repeat("[", maxDepth-1) + strings.Repeat("]", maxDepth-1)
	f.Add([]byte(`{"a":` + deep + `}`))
	f.Add([]byte(`{"a":[` + deep + `]}`))
	sig := tensor.Signature{Model: "m", Outputs: []tensor.Spec{{Name: "\x00", DType: tensor.Bool}}}
	b := tensor.NewBatch(&sig)
	f.Fuzz(func(t *testing.T, record []byte) {
		r := bind(t, Mapping{Overwrite: true}, sig)
		err := r.Encode(b, record)
		b.Reset()
		want := json.Valid(record) && bytes.TrimLeft(record, " \t\r\n")[0] == '{'
		if want != (err == nil) && (err == nil || !strings.Contains(err.Error(), "there twice")) {
			t.Fatalf("%q: %v; encoding/json says %v", record, err, want)
		}
	})
}

// Numbers are read as encoding/json reads them, and a result is the record and the output.
func FuzzCodec(f *testing.F) {
	for _, s := range seeds {
		f.Add([]byte(s), 0.1)
	}
	sig := tensor.Signature{Model: "m", Batched: true, Inputs: []tensor.Spec{{Name: "x", DType: tensor.FP64, Row: tensor.Shape{-1}}},
		Outputs: []tensor.Spec{{Name: "y", DType: tensor.FP64}}}
	b := tensor.NewBatch(&sig)
	f.Fuzz(func(t *testing.T, record []byte, y float64) {
		if math.IsNaN(y) || math.IsInf(y, 0) {
			y = 0
		}
		rows := answer(t, &sig, le(y))
		for _, overwrite := range []bool{false, true} {
			r := bind(t, Mapping{Overwrite: overwrite}, sig)
			b.Reset()
			err := r.Encode(b, record)
			if err == nil {
				err = b.EndRow()
			}
			var in map[string]json.RawMessage
			if err != nil {
				again(t, r, b, record)
				// Whatever Encode thinks, Decode must not panic.
				_, _ = r.Decode(record, rows, 0)
				continue
			}
			if err := json.Unmarshal(record, &in); err != nil {
				t.Fatalf("%q was accepted: %v", record, err)
			}
			var x []float64
			if err := json.Unmarshal(in["x"], &x); err != nil || !bytes.Equal(le(x), b.Column(0).Raw()) {
				t.Fatalf("%q gives % x, want % x (%v)", record, b.Column(0).Raw(), le(x), err)
			}
			result, err := r.Decode(record, rows, 0)
			if err != nil {
				t.Fatalf("%q: %v", record, err)
			}
			var out map[string]json.RawMessage
			if err := json.Unmarshal(result, &out); err != nil {
				t.Fatalf("%q became %q: %v", record, result, err)
			}
			var got float64
			if err := json.Unmarshal(out["y"], &got); err != nil || math.Float64bits(got) != math.Float64bits(y) {
				t.Fatalf("y is %s, want %v", out["y"], y)
			}
			delete(in, "y")
			delete(out, "y")
			if len(in) != len(out) {
				t.Fatalf("%q became %q", record, result)
			}
			for k, v := range in {
				if !bytes.Equal(out[k], v) {
					t.Fatalf("field %q of %q became %q", k, v, out[k])
				}
			}
		}
	})
}

// again checks a record that was refused: if it is valid and its x is an array of numbers, that
// field alone must be accepted.
func again(t *testing.T, r *row, b *tensor.Batch, record []byte) {
	var in map[string]json.RawMessage
	var x []any
	if json.Unmarshal(record, &in) != nil || json.Unmarshal(in["x"], &x) != nil || x == nil {
		return
	}
	if slices.ContainsFunc(x, func(v any) bool { _, ok := v.(float64); return !ok }) {
		return
	}
	alone := slices.Concat([]byte(`{"x":`), in["x"], []byte(`}`))
	b.Reset()
	if err := r.Encode(b, alone); err != nil || b.EndRow() != nil {
		t.Fatalf("%q was refused: %v", alone, err)
	}
}
