package jsoncodec

import (
	"encoding/binary"
	"strings"
	"testing"

	"github.com/tensorferry/tensorferry/tensor"
)

// A number becomes FP16 and BF16 with one rounding, however many digits it has.
func TestHalvesAreRoundedOnce(t *testing.T) {
	for _, c := range []struct {
		number string
		of     tensor.DType
		want   uint16
	}{
		{"1.00048828125", tensor.FP16, 0x3c00},              // in the middle: to even
		{"1.000488281250000000000000", tensor.FP16, 0x3c00}, // the same with more digits
		// above it by less than a float64 tells
		{"1.00048828125000000000001", tensor.FP16, 0x3c01},
		// below the next, which is to even above
		{"1.00146484374999999999999", tensor.FP16, 0x3c01},
		{"-1.00048828125000000000001", tensor.FP16, 0xbc01}, // and the same on the other side
		{"1.00048828125" + strings.Repeat("0", 300), tensor.FP16, 0x3c00},
		{"1.00048828125" + strings.Repeat("0", 300) + "1", tensor.FP16, 0x3c01},
		{"1.00146484375" + strings.Repeat("0", 60), tensor.FP16, 0x3c02},
		{"0.100048828125" + strings.Repeat("0", 300) + "1e1", tensor.FP16, 0x3c01},
		{"1000488281250000000000001e-24", tensor.FP16, 0x3c01},
		{"1000488281250000000000000E-24", tensor.FP16, 0x3c00},
		{"1." + strings.Repeat("0", 1<<20), tensor.FP16, 0x3c00}, // at once
		// the greatest, and not out of range
		{"65519.999999999999999999999", tensor.FP16, 0x7bff},
		{"1.00390625000000000000000001", tensor.BF16, 0x3f81},
		{"1.00390625", tensor.BF16, 0x3f80},
		{"0.00000000000000000000000000000", tensor.FP16, 0},
		// half of the least that there is, and more
		{"0.00000002980232238769531250000001", tensor.FP16, 1},
	} {
		sig := tensor.Signature{Model: "m", Batched: true, Inputs: []tensor.Spec{{Name: "x", DType: c.of, Row: tensor.Shape{}}},
			Outputs: []tensor.Spec{{Name: "y", DType: tensor.FP32, Row: tensor.Shape{}}}}
		codec, err := New(Mapping{}).Bind(sig)
		if err != nil {
			t.Fatal(err)
		}
		b := tensor.NewBatch(&sig)
		if err := codec.Encode(b, []byte(`{"x":`+c.number+`}`)); err != nil {
			t.Errorf("%s: %v", c.number, err)
			continue
		}
		if err := b.EndRow(); err != nil {
			t.Fatal(err)
		}
		if got := binary.LittleEndian.Uint16(b.Column(0).Raw()); got != c.want {
			t.Errorf("%s as %s is %#x; want %#x", c.number, c.of, got, c.want)
		}
	}
}
