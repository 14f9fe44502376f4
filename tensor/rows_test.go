package tensor

import (
	"bytes"
	"errors"
	"math"
	"slices"
	"testing"
)

func TestRowsSet(t *testing.T) {
	sig := &Signature{Batched: true, Outputs: []Spec{{"y", FP32, Shape{-1}}, {"s", Bytes, Shape{2}}}}
	for _, c := range []struct {
		i     int
		dt    DType
		shape Shape
		raw   string
		rows  int
		wrong string
	}{
		{0, FP32, Shape{2, 1}, "aaaabbbb", 2, ""},
		{0, FP32, Shape{2, 0}, "", 2, ""},
		{0, FP32, Shape{0, 5}, "", 0, ""},
		{0, FP64, Shape{2, 1}, "aaaabbbb", 2, "datatype FP64; the model says FP32"},
		{0, FP32, Shape{2, 1}, "aaaabbb", 2, "7 bytes; FP32[2,1] has 8"},
		{0, FP32, Shape{1, 2}, "aaaabbbb", 2, "the 2 rows of the request"},
		{0, FP32, Shape{}, "aaaa", 1, "the 1 rows of the request"},
		{0, FP32, Shape{2, 1, 1}, "aaaabbbb", 2, "the model says [-1,-1]"},
		{0, FP32, Shape{2, -1}, "aaaabbbb", 2, "the model says"},
		{0, FP32, Shape{-1, 1}, "", -1, "-1 rows"},
		{0, FP32, Shape{4, 1 << 60}, "", 4, "more bytes than"},
		{0, FP32, Shape{4, 1 << 62}, "", 4, "more "},
		{2, FP32, Shape{}, "", 1, "output 2; the model has 2"},
		{-1, FP32, Shape{}, "", 1, "output -1"},
		{1, Bytes, Shape{1, 2}, "\x00\x00\x00\x00\x01\x00\x00\x00a", 1, ""},
		{1, Bytes, Shape{1, 2}, "\x00\x00\x00\x00\x02\x00\x00\x00a", 1, "element 1: a BYTES element of 2 bytes"},
		{1, Bytes, Shape{1, 2}, "\x00\x00\x00\x00\x00\x00\x00\x00a", 1, "1 bytes follow"},
		{1, Bytes, Shape{1, 2}, "\x06\x00\x00\x00aaaaaa", 1, "1 BYTES elements; shape [1,2] has 2"},
		{1, Bytes, Shape{1, 2}, "", 1, "0 bytes; 2 BYTES elements"},
		{1, Bytes, Shape{1 << 30, 2}, "", 1 << 30, "0 bytes; 2147483648 BYTES elements"},
		{0, FP32, Shape{1 << 30, 1 << 40}, "", 1 << 30, "more "},
	} {
		r := NewRows(sig)
		err := r.Set(c.i, c.dt, c.shape, []byte(c.raw), c.rows)
		if c.wrong == "" {
			if err != nil || r.Len() != c.rows {
				t.Errorf("%s%v: %v, %d rows", c.dt, c.shape, err, r.Len())
			}
			continue
		}
		contains(t, err, "output", c.wrong)
		if r.Len() != 0 || r.Complete() || c.i >= 0 && c.i < 2 && r.Output(c.i).RowElements() != 0 {
			t.Errorf("%s%v: something was kept", c.dt, c.shape)
		}
	}

	r := NewRows(sig)
	if err := r.Set(0, FP32, Shape{2, 1}, make([]byte, 8), 2); err != nil {
		t.Fatal(err)
	}
	contains(t, r.Set(1, Bytes, Shape{1, 2}, make([]byte, 8), 1), "1 rows; the other outputs have 2")
	if r.Complete() {
		t.Error("complete without its second output")
	}
	if err := r.Set(1, Bytes, Shape{2, 2}, make([]byte, 16), 2); err != nil || !r.Complete() {
		t.Error(err)
	}
	contains(t, r.Set(0, FP32, Shape{2, 1}, make([]byte, 8), 2), "set twice")
	r.Reset()
	if r.Len() != 0 || r.Complete() || r.Output(1).raw != nil {
		t.Error("Reset kept something")
	}

	single := NewRows(&Signature{Outputs: []Spec{{"y", Bool, Shape{2}}}})
	contains(t, single.Set(0, Bool, Shape{2}, []byte{1, 0}, 2), "takes one a request")
	if err := single.Set(0, Bool, Shape{2}, []byte{1, 0}, 1); err != nil || !single.Output(0).BoolAt(0, 0) || single.Output(0).BoolAt(0, 1) {
		t.Error(err)
	}
}

func panics(t *testing.T, what string, f func()) {
	t.Helper()
	defer func() {
		if recover() == nil {
			t.Errorf("%s does not panic", what)
		}
	}()
	f()
}

func TestOutputPanicsBeyondItsData(t *testing.T) {
	sig := &Signature{Batched: true, Outputs: []Spec{{"y", FP32, Shape{2}}, {"s", Bytes, Shape{1}}}}
	r := NewRows(sig)
	y, s := r.Output(0), r.Output(1)
	panics(t, "an output that is not set", func() { y.RowRaw(0) })
	if err := errors.Join(r.Set(0, FP32, Shape{1, 2}, make([]byte, 8), 1), r.Set(1, Bytes, Shape{1, 1}, make([]byte, 4), 1)); err != nil {
		t.Fatal(err)
	}
	panics(t, "row 1 of 1", func() { y.RowRaw(1) })
	panics(t, "row -1", func() { y.Number(-1, 0) })
	panics(t, "element 2 of 2", func() { y.Number(0, 2) })
	panics(t, "FP32 as bytes", func() { y.BytesAt(0, 0) })
	panics(t, "FP32 as bool", func() { y.BoolAt(0, 0) })
	panics(t, "FP32 as int", func() { y.Int(0, 0) })
	panics(t, "BYTES as number", func() { s.Number(0, 0) })
	_, err := RowValues[float64](y, 0, nil)
	contains(t, err, `output "y" is FP32[2]`, "float64")
}

// roundTrip sends values through a batch and back.
func roundTrip[T Numeric](t *testing.T, dt DType, vs ...T) {
	t.Helper()
	sig := one(dt, int64(len(vs)))
	b, r := NewBatch(sig), NewRows(sig)
	for range 2 {
		if err := AppendValues(b.Column(0), vs); err != nil {
			t.Fatal(err)
		}
		if err := b.EndRow(); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Set(0, dt, Shape{2, int64(len(vs))}, b.Column(0).Raw(), 2); err != nil {
		t.Fatal(err)
	}
	got, err := RowValues(r.Output(0), 1, []T{7})
	if err != nil || !slices.Equal(got, append([]T{7}, vs...)) {
		t.Errorf("%s: %v, %v; want %v", dt, got, err, vs)
	}
	for j, v := range vs {
		if n := r.Output(0).Number(1, j); n != float64(v) {
			t.Errorf("%s: Number gives %v for %v", dt, n, v)
		}
		if !dt.float() {
			if n := T(r.Output(0).Int(1, j)); n != v {
				t.Errorf("%s: Int gives %v for %v", dt, n, v)
			}
		}
	}
}

func TestRoundTrip(t *testing.T) {
	roundTrip[uint8](t, Uint8, 0, 1, math.MaxUint8)
	roundTrip[uint16](t, Uint16, 0, 1, math.MaxUint16)
	roundTrip[uint32](t, Uint32, 0, 1, math.MaxUint32)
	roundTrip[uint64](t, Uint64, 0, 1, math.MaxUint64)
	roundTrip[int8](t, Int8, math.MinInt8, -1, math.MaxInt8)
	roundTrip[int16](t, Int16, math.MinInt16, -1, math.MaxInt16)
	roundTrip[int32](t, Int32, math.MinInt32, -1, math.MaxInt32)
	roundTrip[int64](t, Int64, math.MinInt64, -1, math.MaxInt64)
	roundTrip[float32](t, FP16, -65504, 0.5, 1.0/(1<<24))
	roundTrip[float32](t, BF16, -1<<127, 0.5, 3)
	roundTrip[float32](t, FP32, -math.MaxFloat32, 0.1, math.SmallestNonzeroFloat32)
	roundTrip[float64](t, FP64, -math.MaxFloat64, 0.1, math.SmallestNonzeroFloat64)
	roundTrip[float64](t, FP64)
}

// Data that Set accepts can be read back completely. Data that it refuses leaves nothing.
func FuzzRowsSet(f *testing.F) {
	f.Add(uint8(FP32), 2, int64(2), int64(1), []byte("aaaabbbb"))
	f.Add(uint8(Bytes), 1, int64(1), int64(2), []byte("\x00\x00\x00\x00\x01\x00\x00\x00a"))
	f.Add(uint8(Bytes), 1<<30, int64(1<<30), int64(0), []byte{})
	f.Add(uint8(Int64), 1, int64(-1), int64(math.MaxInt64), []byte("x"))
	f.Fuzz(func(t *testing.T, dt uint8, rows int, d0, d1 int64, raw []byte) {
		d := DType(dt)
		r := NewRows(&Signature{Batched: true, Outputs: []Spec{{"y", d, Shape{-1}}}})
		o := r.Output(0)
		if err := r.Set(0, d, Shape{d0, d1}, raw, rows); err != nil {
			if r.Len() != 0 || o.RowElements() != 0 {
				t.Fatalf("%v, but %d rows", err, r.Len())
			}
			return
		}
		if r.Len() != rows || int64(rows) != d0 || int64(o.RowElements()) != d1 {
			t.Fatalf("%d rows of %d, want %d of %d", r.Len(), o.RowElements(), d0, d1)
		}
		if rows == 0 || d1 == 0 {
			if len(raw) != 0 {
				t.Fatalf("%d bytes for no elements", len(raw))
			}
			return
		}
		var again []byte
		for i := range rows {
			if d != Bytes {
				again = append(again, o.RowRaw(i)...)
				continue
			}
			var elements []byte
			for j := range o.RowElements() {
				elements, _ = AppendElement(elements, o.BytesAt(i, j))
			}
			if !bytes.Equal(elements, o.RowRaw(i)) {
				t.Fatalf("row %d: % x, want % x", i, elements, o.RowRaw(i))
			}
			again = append(again, elements...)
		}
		if !bytes.Equal(again, raw) {
			t.Fatalf("the rows are % x, the data % x", again, raw)
		}
	})
}

// Rows of any bytes come back from a batch as they went in.
func FuzzBatchRoundTrip(f *testing.F) {
	f.Add(uint8(Bytes), []byte("\x01\x00\x00\x00a"), []byte("\x00\x00\x00\x00"))
	f.Add(uint8(FP16), []byte("ab"), []byte("cd"))
	f.Fuzz(func(t *testing.T, dt uint8, first, second []byte) {
		d := DType(dt)
		sig := one(d, -1)
		b := NewBatch(sig)
		var kept [][]byte
		for _, raw := range [][]byte{first, second, first} {
			if b.Column(0).AppendRaw(raw) != nil {
				if b.EndRow() == nil {
					t.Fatal("a bad row ended well")
				}
				continue
			}
			if err := b.EndRow(); err == nil {
				kept = append(kept, raw)
			} else if !errors.Is(err, ErrRagged) {
				t.Fatal(err)
			}
		}
		if b.Rows() != len(kept) {
			t.Fatalf("%d rows, want %d", b.Rows(), len(kept))
		}
		if len(kept) == 0 {
			return
		}
		r := NewRows(sig)
		c := b.Column(0)
		if err := r.Set(0, d, append(Shape{int64(b.Rows())}, c.RowShape()...), c.Raw(), b.Rows()); err != nil {
			t.Fatal(err)
		}
		for i, raw := range kept {
			if !bytes.Equal(r.Output(0).RowRaw(i), raw) {
				t.Fatalf("row %d: % x, want % x", i, r.Output(0).RowRaw(i), raw)
			}
		}
	})
}
