package tensor

import (
	"math"
	"slices"
	"strings"
	"testing"
)

// contains fails unless the text of err contains all of the given words.
func contains(t *testing.T, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error; want one with %q", words)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not say %q", err, w)
		}
	}
}

func TestDTypeNames(t *testing.T) {
	sizes := map[string]int{"BOOL": 1, "UINT8": 1, "UINT16": 2, "UINT32": 4, "UINT64": 8, "INT8": 1, "INT16": 2,
		"INT32": 4, "INT64": 8, "FP16": 2, "BF16": 2, "FP32": 4, "FP64": 8, "BYTES": 0}
	for name, size := range sizes {
		d, err := ParseDType(name)
		if err != nil || d.String() != name || d.Size() != size || !d.Valid() {
			t.Errorf("%s: %v, %v of size %d", name, err, d, d.Size())
		}
	}
	if len(sizes) != int(numDTypes)-1 {
		t.Errorf("%d datatypes are tested of %d", len(sizes), numDTypes-1)
	}
	for _, name := range []string{"", "fp32", "INVALID", "STRING"} {
		_, err := ParseDType(name)
		contains(t, err, "unknown datatype", "BYTES")
	}
	if d := DType(200); d.Valid() || d.Size() != 0 || d.String() != "DType(200)" || d.GoType() != "none" {
		t.Errorf("%v is valid", d)
	}
}

func TestShapes(t *testing.T) {
	for _, c := range []struct {
		shape Shape
		want  int64 // -1: an error
	}{
		{nil, 1},
		{Shape{3, 4}, 12},
		{Shape{math.MaxInt64, math.MaxInt64, 0}, 0},
		{Shape{math.MaxInt64, 1}, math.MaxInt64},
		{Shape{1 << 32, 1 << 31}, -1},
		{Shape{math.MaxInt64, 2}, -1},
		{Shape{0, -1}, -1},
		{Shape{-5, -5}, -1},
	} {
		n, err := c.shape.Elements()
		if c.want < 0 && err == nil || c.want >= 0 && (err != nil || n != c.want) {
			t.Errorf("%v has %d elements, %v; want %d", c.shape, n, err, c.want)
		}
	}
	open := Shape{-1, 64}
	for _, s := range []Shape{{0, 64}, {7, 64}} {
		if !open.Accepts(s) {
			t.Errorf("%v does not accept %v", open, s)
		}
	}
	for _, s := range []Shape{nil, {64}, {7, 63}, {-1, 64}, {7, 64, 1}} {
		if open.Accepts(s) {
			t.Errorf("%v accepts %v", open, s)
		}
	}
	if s := open.String(); s != "[-1,64]" {
		t.Errorf("String: %s", s)
	}
	if s := make(Shape, 1e6).String(); len(s) > 300 {
		t.Errorf("a shape of many dimensions takes %d bytes in a message", len(s))
	}
}

func TestSignature(t *testing.T) {
	sig := digits()
	if got, want := sig.String(), "digits version 2 (batched, at most 64 rows a request): inputs pixels FP32[64]; outputs label INT64[], probs FP32[10]"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if err := sig.Validate(); err != nil {
		t.Error(err)
	}
	if s := sig.Inputs[0].Shape(true); s.String() != "[-1,64]" {
		t.Errorf("batched shape %v", s)
	}
	if sig.MaxRows() != 64 || (&Signature{}).MaxRows() != 1 || (&Signature{Batched: true}).MaxRows() != 0 {
		t.Error("MaxRows")
	}
	if i, ok := sig.Output("probs"); i != 1 || !ok {
		t.Errorf("Output: %d %v", i, ok)
	}
	if _, ok := sig.Input("probs"); ok {
		t.Error("an output was found among the inputs")
	}
	wrong := Signature{MaxBatch: -1, Inputs: []Spec{{"a", FP32, Shape{-2}}, {"a", Invalid, nil}, {"", Bool, make(Shape, 65)}}}
	contains(t, wrong.Validate(), "no outputs", "largest batch is -1", `input "a": shape [-2]`, `two inputs are named "a"`,
		`input "a" has no datatype`, "input 2 has no name", "at most 64")
}

func TestTensorValidate(t *testing.T) {
	for _, c := range []struct {
		dt    DType
		shape Shape
		raw   string
		wrong string
	}{
		{FP32, Shape{2}, "12345678", ""},
		{FP32, Shape{2}, "1234567", "7 bytes; FP32[2] has 8"},
		{FP32, nil, "1234", ""},
		{FP32, Shape{1 << 40, 0}, "", ""},
		{FP64, Shape{1 << 60}, "", "more bytes than"},
		{FP64, Shape{1 << 60, 1 << 60}, "", "more elements than"},
		{FP32, Shape{-1}, "", "no definite size"},
		{FP32, make(Shape, 65), "", "at most 64"},
		{Invalid, nil, "", "not a datatype"},
		{DType(77), nil, "", "not a datatype"},
		{Bytes, Shape{2}, "\x01\x00\x00\x00a\x00\x00\x00\x00", ""},
		{Bytes, Shape{1}, "\x01\x00\x00\x00a\x00\x00\x00\x00", "2 BYTES elements"},
		{Bytes, Shape{2}, "\x01\x00\x00\x00a\x00\x00\x00", "element 1: 3 bytes where the length"},
		{Bytes, Shape{1}, "\xff\xff\xff\xffa", "4294967295 bytes where only 1"},
	} {
		x := Tensor{Name: "x", DType: c.dt, Shape: c.shape, Raw: []byte(c.raw)}
		err := x.Validate()
		if c.wrong == "" && err != nil {
			t.Errorf("%s%v: %v", c.dt, c.shape, err)
		}
		if c.wrong != "" {
			contains(t, err, `tensor "x"`, c.wrong)
		}
	}
}

func TestTensorSlice(t *testing.T) {
	x := Tensor{DType: Uint16, Shape: Shape{3, 2}, Raw: []byte("aabbccddeeff")}
	if s, err := x.Slice(1, 3); err != nil || string(s.Raw) != "ccddeeff" || !slices.Equal(s.Shape, Shape{2, 2}) {
		t.Errorf("%q %v %v", s.Raw, s.Shape, err)
	}
	b := Tensor{DType: Bytes, Shape: Shape{3, 1}, Raw: []byte("\x01\x00\x00\x00a\x00\x00\x00\x00\x02\x00\x00\x00cc")}
	for _, c := range []struct {
		from, to int64
		want     string
	}{{0, 1, "\x01\x00\x00\x00a"}, {1, 2, "\x00\x00\x00\x00"}, {1, 3, "\x00\x00\x00\x00\x02\x00\x00\x00cc"}, {3, 3, ""}} {
		s, err := b.Slice(c.from, c.to)
		if err != nil || string(s.Raw) != c.want || s.Validate() != nil {
			t.Errorf("%d to %d: %q %v", c.from, c.to, s.Raw, err)
		}
	}
	for _, r := range [][2]int64{{-1, 1}, {2, 1}, {0, 4}} {
		if _, err := x.Slice(r[0], r[1]); err == nil {
			t.Errorf("rows %v of 3", r)
		}
	}
	if _, err := (&Tensor{DType: Bool, Raw: []byte{1}}).Slice(0, 1); err == nil {
		t.Error("a scalar has rows")
	}
	huge := Tensor{DType: Bytes, Shape: Shape{1 << 62, 0}}
	if s, err := huge.Slice(5, 1<<61); err != nil || len(s.Raw) != 0 {
		t.Errorf("rows without elements: %v", err)
	}
}

func TestSwap(t *testing.T) {
	b := []byte("abcdefgh")
	if swap(b, 4); string(b) != "dcbahgfe" {
		t.Errorf("%s", b)
	}
	if swap(b, 1); string(b) != "dcbahgfe" {
		t.Errorf("%s", b)
	}
}

func digits() *Signature {
	return &Signature{Model: "digits", Version: "2", Batched: true, MaxBatch: 64,
		Inputs:  []Spec{{"pixels", FP32, Shape{64}}},
		Outputs: []Spec{{"label", Int64, nil}, {"probs", FP32, Shape{10}}}}
}
