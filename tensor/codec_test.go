package tensor_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tensorferry/tensorferry/tensor"
)

func signature() tensor.Signature {
	return tensor.Signature{Model: "digits", Batched: true,
		Inputs:  []tensor.Spec{{Name: "pixels", DType: tensor.FP32, Row: tensor.Shape{64}}},
		Outputs: []tensor.Spec{{Name: "label", DType: tensor.Int64}, {Name: "probs", DType: tensor.FP32, Row: tensor.Shape{10}}}}
}

func TestValuesBind(t *testing.T) {
	sig := signature()
	bind := func(c tensor.Codec[[]float32, []float32], sig tensor.Signature) error {
		_, err := c.Bind(sig)
		return err
	}
	two := sig
	two.Inputs = append(slices.Clone(sig.Inputs), tensor.Spec{Name: "mask", DType: tensor.Bool})
	open := sig
	open.Inputs = []tensor.Spec{{Name: "pixels", DType: tensor.FP32, Row: tensor.Shape{-1, -1}}}
	_, asInt := tensor.Values[int32, float32]("", "probs").Bind(sig)
	for _, c := range []struct {
		err  error
		want string
	}{
		{bind(tensor.Values[float32, float32]("image", "probs"), sig), "no such input"},
		{bind(tensor.Values[float32, float32]("", ""), sig), "no such output"},
		{bind(tensor.Values[float32, float32]("", "label"), sig), `output "label" gives int64`},
		{bind(tensor.Values[float32, float32]("pixels", "probs"), two), "every input needs a value"},
		{bind(tensor.Values[float32, float32]("", "probs"), open), "does not determine the shape"},
		{asInt, `input "pixels" takes float32`},
	} {
		if c.err == nil || !strings.Contains(c.err.Error(), c.want) || !strings.Contains(c.err.Error(), "but the model is digits") {
			t.Errorf("%v; want %q", c.err, c.want)
		}
	}
	if err := bind(tensor.Values[float32, float32]("", "probs"), sig); err != nil {
		t.Error(err)
	}
}

// One row in and out again, the slice of the result apart.
func TestRowsAllocateNothing(t *testing.T) {
	sig := signature()
	codec, err := tensor.Values[float32, float32]("pixels", "probs").Bind(sig)
	if err != nil {
		t.Fatal(err)
	}
	b, rows := tensor.NewBatch(&sig), tensor.NewRows(&sig)
	in := make([]float32, 64)
	labels, probs := make([]byte, 64*8), make([]byte, 64*10*4)
	shapes := []tensor.Shape{{64}, {64, 10}}
	scores := make([]float32, 0, 10)
	run := func() {
		b.Reset()
		for range 64 {
			if err := codec.Encode(b, in); err != nil {
				t.Fatal(err)
			}
			if err := b.EndRow(); err != nil {
				t.Fatal(err)
			}
		}
		rows.Reset()
		if err := rows.Set(0, tensor.Int64, shapes[0], labels, 64); err != nil {
			t.Fatal(err)
		}
		if err := rows.Set(1, tensor.FP32, shapes[1], probs, 64); err != nil {
			t.Fatal(err)
		}
		for i := range 64 {
			scores, _ = tensor.RowValues(rows.Output(1), i, scores[:0])
			_ = rows.Output(0).Int(i, 0)
		}
	}
	run()
	if n := testing.AllocsPerRun(100, run); n != 0 {
		t.Errorf("%v allocations for 64 rows", n)
	}
}

func BenchmarkEncode(b *testing.B) {
	sig := signature()
	codec, err := tensor.Values[float32, float32]("pixels", "probs").Bind(sig)
	if err != nil {
		b.Fatal(err)
	}
	batch := tensor.NewBatch(&sig)
	in := make([]float32, 64)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if i%64 == 0 {
			batch.Reset()
		}
		if codec.Encode(batch, in) != nil || batch.EndRow() != nil {
			b.Fatal("a row was refused")
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	sig := signature()
	rows := tensor.NewRows(&sig)
	if err := rows.Set(1, tensor.FP32, tensor.Shape{64, 10}, make([]byte, 64*40), 64); err != nil {
		b.Fatal(err)
	}
	var scores []float32
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		scores, _ = tensor.RowValues(rows.Output(1), i%64, scores[:0])
	}
}

// Digit is a user's own record type, and DigitCodec its codec. Decode has the record, so a result
// can carry the record's id.
type Digit struct {
	ID     int
	Pixels []float32
}

type Label struct{ ID, Digit int }

type DigitCodec struct{}

func (DigitCodec) Bind(sig tensor.Signature) (tensor.RowCodec[Digit, Label], error) {
	in, okIn := sig.Input("pixels")
	out, okOut := sig.Output("label")
	if !okIn || !okOut || sig.Outputs[out].DType != tensor.Int64 {
		return nil, fmt.Errorf("want an input pixels and an INT64 output label; the model is %s", sig.String())
	}
	return digitRow{in, out}, nil
}

type digitRow struct{ in, out int }

func (c digitRow) Encode(dst *tensor.Batch, d Digit) error {
	return tensor.AppendValues(dst.Column(c.in), d.Pixels)
}

func (c digitRow) Decode(d Digit, src *tensor.Rows, i int) (Label, error) {
	return Label{ID: d.ID, Digit: int(src.Output(c.out).Int(i, 0))}, nil
}

func ExampleCodec() {
	sig := signature()
	codec, err := DigitCodec{}.Bind(sig)
	if err != nil {
		fmt.Println(err)
		return
	}
	batch := tensor.NewBatch(&sig)
	record := Digit{ID: 41, Pixels: make([]float32, 64)}
	fmt.Println(codec.Encode(batch, record), batch.EndRow(), batch.Rows(), batch.Bytes())

	rows := tensor.NewRows(&sig)
	fmt.Println(rows.Set(0, tensor.Int64, tensor.Shape{1}, []byte{3, 0, 0, 0, 0, 0, 0, 0}, 1))
	fmt.Println(codec.Decode(record, rows, 0))

	err = codec.Encode(batch, Digit{Pixels: make([]float32, 63)})
	fmt.Println(err, batch.EndRow(), batch.Rows())
	// Output:
	// <nil> <nil> 1 256
	// <nil>
	// {41 3} <nil>
	// <nil> input "pixels": a row of 63 elements; FP32[64] has 64 1
}
