package jsoncodec

import (
	"strings"
	"testing"

	"github.com/tensorferry/tensorferry/tensor"
)

func digits() tensor.Signature {
	return tensor.Signature{Model: "digits", Batched: true,
		Inputs:  []tensor.Spec{{Name: "pixels", DType: tensor.FP32, Row: tensor.Shape{4}}},
		Outputs: []tensor.Spec{{Name: "label", DType: tensor.Int64}, {Name: "probs", DType: tensor.FP32, Row: tensor.Shape{2}}}}
}

func TestBind(t *testing.T) {
	in := func(pairs ...string) map[string]Input {
		m := map[string]Input{}
		for i := 0; i < len(pairs); i += 2 {
			m[pairs[i]] = Input{pairs[i+1]}
		}
		return m
	}
	out := func(pairs ...string) map[string]Output {
		m := map[string]Output{}
		for i := 0; i < len(pairs); i += 2 {
			m[pairs[i]] = Output{Field: pairs[i+1]}
		}
		return m
	}
	two := digits()
	two.Inputs = append(two.Inputs, tensor.Spec{Name: "mask", DType: tensor.Bool})
	for _, c := range []struct {
		m    Mapping
		sig  tensor.Signature
		want []string // of the error; none: it binds
	}{
		{Mapping{}, digits(), nil},
		{Mapping{Inputs: in("pixels", "image.data"), Outputs: out("label", "digit", "probs", "scores")}, digits(), nil},
		{Mapping{Inputs: in("pixels", ""), Outputs: out("label", "")}, digits(), nil},
		{Mapping{Inputs: in("pixels", "a.b", "mask", "a.c")}, two, nil},
		{Mapping{Inputs: in("pixels", "a", "mask", "a")}, two, nil},
		{Mapping{Inputs: in("image", "x")}, digits(), []string{
			`the mapping (image from "x"; label to "label", probs to "probs") does not fit the model digits (batched): inputs pixels FP32[4]; outputs label INT64[], probs FP32[2]`,
			`the model has no input "image"`, "no field feeds the input pixels FP32[4]"}},
		{Mapping{Outputs: out("class", "c")}, digits(), []string{`the model has no output "class"`}},
		{Mapping{Inputs: in("pixels", "a", "mask", "a.b")}, two, []string{`input "mask" comes from field "a.b", which lies inside that of input "pixels"`}},
		{Mapping{Inputs: in("pixels", "a..b")}, digits(), []string{`input "pixels" comes from field "a..b"; want names with single dots`}},
		{Mapping{Inputs: in("pixels", ".")}, digits(), []string{`field "."`}},
		{Mapping{Outputs: out("label", "a.b")}, digits(), []string{`output "label" goes to field "a.b"; want a field of the record itself`}},
		{Mapping{Outputs: out("label", "\xff")}, digits(), []string{"not UTF-8"}},
		{Mapping{Outputs: out("label", "y", "probs", "y")}, digits(), []string{`outputs "label" and "probs" both go to field "y"`}},
		{Mapping{Inputs: in("pixels", "y.z"), Outputs: out("label", "y")}, digits(), []string{`output "label" goes to field "y", which input "pixels" comes from`}},
		{Mapping{Inputs: in("pixels", "y.z"), Outputs: out("label", "y"), Overwrite: true}, digits(), nil},
	} {
		_, err := New(c.m).Bind(c.sig)
		if c.want == nil {
			if err != nil {
				t.Errorf("%v: %v", c.m, err)
			}
			continue
		}
		for _, w := range c.want {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("%v: %v\nwant %q", c.m, err, w)
			}
		}
	}
}

// A tensor's own name may have dots; as the default it is one field.
func TestDottedTensorNames(t *testing.T) {
	sig := tensor.Signature{Model: "m", Batched: true,
		Inputs:  []tensor.Spec{{Name: "input.1", DType: tensor.Int8}},
		Outputs: []tensor.Spec{{Name: "out.2", DType: tensor.Int8}}}
	codec, err := New(Mapping{}).Bind(sig)
	if err != nil {
		t.Fatal(err)
	}
	b := tensor.NewBatch(&sig)
	record := []byte(`{"input.1":5}`)
	if err := codec.Encode(b, record); err != nil || b.EndRow() != nil {
		t.Fatal(err)
	}
	rows := tensor.NewRows(&sig)
	if err := rows.Set(0, tensor.Int8, tensor.Shape{1}, b.Column(0).Raw(), 1); err != nil {
		t.Fatal(err)
	}
	if got, err := codec.Decode(record, rows, 0); err != nil || string(got) != `{"input.1":5,"out.2":5}` {
		t.Errorf("%s %v", got, err)
	}
}
