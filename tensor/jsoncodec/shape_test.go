package jsoncodec

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/tensorferry/tensorferry/tensor"
)

// The model's own shapes decide what is an array, and how deep, and never the data. Written values
// can be read again.
func TestShapesFollowTheSignature(t *testing.T) {
	shape := func(dims ...int64) tensor.Shape { return dims }
	for _, c := range []struct {
		declared, data tensor.Shape
		want           string
	}{
		{shape(), shape(), `7`},
		{shape(1), shape(1), `7`},
		{shape(-1), shape(1), `[7]`},
		{shape(-1), shape(0), `[]`},
		{shape(-1), shape(2), `[7,8]`},
		{shape(1, 1), shape(1, 1), `[[7]]`},
		{shape(1, 4), shape(1, 4), `[[7,8,9,10]]`},
		{shape(-1, 1), shape(1, 1), `[[7]]`},
		{shape(1, -1), shape(1, 1), `[[7]]`},
		{shape(-1, -1), shape(2, 1), `[[7],[8]]`},
		{shape(-1, 2), shape(1, 2), `[[7,8]]`},
	} {
		n, _ := c.data.Elements()
		var raw []byte
		for i := range n {
			raw = append(raw, byte(7+i))
		}
		for _, batched := range []bool{true, false} {
			name := fmt.Sprintf("%v with %v, batched %v", c.declared, c.data, batched)
			sig := model(tensor.Int8, c.declared...)
			sig.Batched = batched
			r := bind(t, Mapping{Overwrite: true}, sig)
			rows := tensor.NewRows(&sig)
			whole := c.data
			if batched {
				whole = append(tensor.Shape{1}, c.data...)
			}
			if err := rows.Set(0, tensor.Int8, whole, raw, 1); err != nil {
				t.Fatal(err)
			}
			got, err := r.Decode([]byte(`{"x":0}`), rows, 0)
			if err != nil || string(got) != `{"x":0,"y":`+c.want+`}` {
				t.Errorf("%s: %s, %v; want %s", name, got, err, c.want)
			}
			b := tensor.NewBatch(&sig)
			if err := r.Encode(b, []byte(`{"x":`+c.want+`}`)); err != nil || b.EndRow() != nil || !bytes.Equal(b.Column(0).Raw(), raw) {
				t.Errorf("%s: %s is read as %v: %v", name, c.want, b.Column(0).Raw(), err)
			}
		}
	}
}

// A bare value feeds exactly those inputs that are one element by the model's shape.
func TestNumberForOneElement(t *testing.T) {
	for _, c := range []struct {
		row  tensor.Shape
		ok   bool
		flat bool
	}{
		{nil, true, false}, {tensor.Shape{1}, true, true}, {tensor.Shape{1, 1}, true, true}, {tensor.Shape{1, 1, 1}, true, true},
		{tensor.Shape{-1}, false, true}, {tensor.Shape{1, -1}, false, false}, {tensor.Shape{1, 2}, false, false}, {tensor.Shape{0}, false, false},
	} {
		sig := model(tensor.Int8, c.row...)
		r := bind(t, Mapping{}, sig)
		for record, want := range map[string]bool{`{"x":3}`: c.ok, `{"x":[3]}`: c.flat} {
			b := tensor.NewBatch(&sig)
			err := r.Encode(b, []byte(record))
			if err == nil {
				err = b.EndRow()
			}
			if (err == nil) != want {
				t.Errorf("%s for %v: %v", record, c.row, err)
			}
		}
	}
}

// An error about a model with a fixed batch says that its batch is fixed.
func TestFixedBatchIsNamed(t *testing.T) {
	const note = "the model has a fixed batch of "
	for _, c := range []struct {
		in, out tensor.Shape
		batched bool
		record  string
		note    string
	}{
		{tensor.Shape{1, 4}, tensor.Shape{1, 2}, false, `{"x":[1,2,3]}`, note + "1, its first dimension"},
		{tensor.Shape{1, 4}, tensor.Shape{1, 2}, false, `{"x":3}`, note + "1"},
		{tensor.Shape{1, 1}, tensor.Shape{1}, false, `{"x":[[1],[2]]}`, note + "1"},
		{tensor.Shape{8, 4}, tensor.Shape{8}, false, `{"x":[1,2,3,4]}`, note + "8"},
		{tensor.Shape{1, 4}, tensor.Shape{1}, false, `{}`, note + "1"},
		{tensor.Shape{1, 4}, tensor.Shape{1, 2}, true, `{"x":[1,2,3]}`, ""},
		{tensor.Shape{1, 4}, tensor.Shape{2}, false, `{"x":[1,2,3]}`, ""},
		{tensor.Shape{4}, tensor.Shape{4}, false, `{"x":[1,2,3]}`, ""},
		{tensor.Shape{-1, 4}, tensor.Shape{-1, 4}, false, `{"x":[1,2,3]}`, ""},
	} {
		sig := model(tensor.FP32, c.in...)
		sig.Outputs[0].Row, sig.Batched = c.out, c.batched
		err := bind(t, Mapping{}, sig).Encode(tensor.NewBatch(&sig), []byte(c.record))
		if err == nil || !strings.Contains(err.Error(), c.note) || c.note == "" && strings.Contains(err.Error(), note) {
			t.Errorf("%s for %s: %v; want %q", c.record, sig.String(), err, c.note)
		}
		if named := strings.Contains(sig.String(), "a fixed batch of"); named != (c.note != "") {
			t.Errorf("%s", sig.String())
		}
	}
}
