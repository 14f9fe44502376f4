package tensor

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

func one(dt DType, row ...int64) *Signature {
	return &Signature{Model: "m", Batched: true, Inputs: []Spec{{"x", dt, row}}, Outputs: []Spec{{"y", dt, row}}}
}

func TestAppendNumbers(t *testing.T) {
	le := binary.LittleEndian
	f32 := func(v float32) []byte { return le.AppendUint32(nil, math.Float32bits(v)) }
	f64 := func(v float64) []byte { return le.AppendUint64(nil, math.Float64bits(v)) }
	for _, c := range []struct {
		dt   DType
		v    any
		want []byte // nil: an error
	}{
		{Uint8, 255.0, []byte{255}},
		{Uint8, 256.0, nil},
		{Uint8, -1.0, nil},
		{Uint8, int64(-1), nil},
		{Uint8, int64(256), nil},
		{Uint8, 0.5, nil},
		{Uint8, math.NaN(), nil},
		{Uint8, math.Inf(1), nil},
		{Uint8, math.Copysign(0, -1), []byte{0}},
		{Int8, -128.0, []byte{0x80}},
		{Int8, int64(-128), []byte{0x80}},
		{Int8, int64(-129), nil},
		{Int8, -129.0, nil},
		{Int8, 128.0, nil},
		{Int8, int64(128), nil},
		{Int16, int64(-2), []byte{0xfe, 0xff}},
		{Uint16, 65535.0, []byte{0xff, 0xff}},
		{Int32, math.Inf(-1), nil},
		{Int32, -2147483648.0, []byte{0, 0, 0, 0x80}},
		{Int64, 9223372036854775807.0, nil}, // 2^63 as a float64
		{Int64, -9223372036854775808.0, le.AppendUint64(nil, 1<<63)},
		{Int64, int64(math.MinInt64), le.AppendUint64(nil, 1<<63)},
		{Int64, uint64(1 << 63), nil},
		{Uint64, uint64(math.MaxUint64), le.AppendUint64(nil, math.MaxUint64)},
		{Uint64, 9223372036854775808.0, le.AppendUint64(nil, 1<<63)},
		{Uint64, 18446744073709551616.0, nil},
		{FP32, 0.1, f32(0.1)},
		{FP32, math.Inf(-1), f32(float32(math.Inf(-1)))},
		{FP32, 1e39, nil},
		{FP32, int64(-16777217), f32(-16777216)},
		{FP32, int64(1<<62 + 1<<38 + 1), f32(1<<62 + 1<<39)}, // through a float64 it would be 1<<62
		{FP32, int64(-(1<<62 + 1<<38 + 1)), f32(-(1<<62 + 1<<39))},
		{FP32, int64(math.MinInt64), f32(-(1 << 63))},
		{FP64, uint64(math.MaxUint64), f64(1 << 64)},
		{FP64, math.Copysign(0, -1), f64(math.Copysign(0, -1))},
		{FP16, 65504.0, []byte{0xff, 0x7b}},
		{FP16, 65520.0, nil},
		{FP16, int64(100000), nil},
		{BF16, 1.0, []byte{0x80, 0x3f}},
		{BF16, 1e39, nil},
		{Bool, 1.0, nil},
		{Bool, int64(1), nil},
		{Bytes, 1.0, nil},
		{Bytes, uint64(1), nil},
	} {
		b := NewBatch(one(c.dt))
		var err error
		switch v := c.v.(type) {
		case float64:
			err = b.Column(0).AppendNumber(v)
		case int64:
			err = b.Column(0).AppendInt(v)
		case uint64:
			err = b.Column(0).AppendUint(v)
		}
		// EndRow returns the error again, for an Encode that ignored it.
		if end := b.EndRow(); (end == nil) != (err == nil) || !errors.Is(end, err) {
			t.Errorf("%s of %v: append gives %v, EndRow %v", c.dt, c.v, err, end)
		}
		if c.want == nil {
			contains(t, err, `input "x" is `+c.dt.String(), "cannot take")
		}
		if got := b.Column(0).Raw(); !bytes.Equal(got, c.want) {
			t.Errorf("%s of %v: % x, want % x (%v)", c.dt, c.v, got, c.want, err)
		}
	}
}

func TestAppendWrongType(t *testing.T) {
	b := NewBatch(one(FP32, 1))
	c := b.Column(0)
	for _, err := range []error{c.AppendBool(true), c.AppendBytes(nil), c.AppendString("a"), c.AppendRaw([]byte("abc")), AppendValues(c, []float64{1})} {
		contains(t, err, `input "x" is FP32[1]`)
	}
	contains(t, NewBatch(one(Bytes, 1)).Column(0).AppendRaw([]byte("abc")), "the length of a BYTES element")
	if err := NewBatch(one(Bool, 1)).Column(0).AppendNumber(1); err == nil {
		t.Error("a number for BOOL")
	}
}

func TestRowShapes(t *testing.T) {
	for _, c := range []struct {
		row   Shape
		set   []int64
		n     int
		want  Shape
		wrong string
	}{
		{Shape{3}, nil, 3, Shape{3}, ""},
		{Shape{3}, nil, 2, nil, "a row of 2 elements; FP32[3] has 3"},
		{Shape{3}, []int64{3}, 3, Shape{3}, ""},
		{Shape{3}, []int64{4}, 4, nil, "a row of shape [4]; the model wants [3]"},
		{Shape{3}, []int64{}, 3, nil, "a row of shape []"},
		{Shape{}, []int64{}, 1, Shape{}, ""},
		{Shape{}, nil, 0, nil, "a row of 0 elements"},
		{Shape{-1}, nil, 0, Shape{0}, ""},
		{Shape{-1}, nil, 5, Shape{5}, ""},
		{Shape{2, -1}, nil, 6, Shape{2, 3}, ""},
		{Shape{2, -1}, nil, 5, nil, "a multiple of 2"},
		{Shape{0, -1}, nil, 0, Shape{0, 0}, ""},
		{Shape{0, -1}, nil, 1, nil, "a row of 1 elements"},
		{Shape{0, -1}, []int64{0, 9}, 0, Shape{0, 9}, ""},
		{Shape{-1, -1}, nil, 4, nil, "the row's shape was not set"},
		{Shape{-1, -1}, []int64{2, 2}, 4, Shape{2, 2}, ""},
		{Shape{-1, -1}, []int64{2, 3}, 4, nil, "a row of 4 elements"},
		{Shape{-1, -1}, []int64{1 << 40, 1 << 40}, 0, nil, "more elements than"},
		{Shape{-1}, []int64{-1}, 0, nil, "a row of shape [-1]"},
	} {
		b := NewBatch(one(FP32, c.row...))
		err := AppendValues(b.Column(0), make([]float32, c.n))
		if c.set != nil {
			err = b.Column(0).SetRowShape(c.set...)
		}
		if end := b.EndRow(); err == nil {
			err = end
		}
		if c.wrong != "" {
			contains(t, err, `input "x"`, c.wrong)
			if b.Rows() != 0 || b.Column(0).RowShape() != nil {
				t.Errorf("%v: a row was kept", c.row)
			}
		} else if err != nil || !slices.Equal(b.Column(0).RowShape(), c.want) {
			t.Errorf("%v: %v, %v", c.row, b.Column(0).RowShape(), err)
		}
	}
}

func TestRaggedRows(t *testing.T) {
	b := NewBatch(one(Int32, -1))
	add := func(n int) error {
		if err := AppendValues(b.Column(0), make([]int32, n)); err != nil {
			t.Fatal(err)
		}
		return b.EndRow()
	}
	for _, n := range []int{2, 2} {
		if err := add(n); err != nil {
			t.Fatal(err)
		}
	}
	if err := add(3); !errors.Is(err, ErrRagged) || b.Rows() != 2 || b.Bytes() != 16 {
		t.Fatalf("%v, %d rows", err, b.Rows())
	}
	b.Reset()
	if err := add(3); err != nil || b.Rows() != 1 {
		t.Fatalf("after the reset: %v", err)
	}
	// A bad row is the record's fault even if it is ragged too.
	if err := b.Column(0).AppendNumber(0.5); err == nil {
		t.Fatal("0.5 as INT32")
	}
	if err := b.EndRow(); err == nil || errors.Is(err, ErrRagged) {
		t.Errorf("bad and ragged: %v", err)
	}

	single := NewBatch(&Signature{Inputs: []Spec{{"x", Bool, nil}}})
	if err := errors.Join(single.Column(0).AppendBool(true), single.EndRow()); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(single.Column(0).AppendBool(true), single.EndRow()); !errors.Is(err, ErrRagged) {
		t.Errorf("a second row for a model that takes one: %v", err)
	}
}

// Random rows, good and bad, marks and rollbacks, against slices of rows.
func TestBatchAgainstModel(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	defer func() {
		if t.Failed() {
			t.Logf("seed %d", seed)
		}
	}()
	sig := &Signature{Batched: true, Inputs: []Spec{{"n", Uint16, Shape{2}}, {"s", Bytes, Shape{-1}}}}
	b := NewBatch(sig)
	type row struct {
		nums []uint16
		text []byte // raw
		n    int
	}
	var rows []row
	type mark struct {
		m Mark
		n int
	}
	var marks []mark
	for step := range 20000 {
		switch op := rng.IntN(20); {
		case op == 0:
			b.Reset()
			rows, marks = nil, nil
		case op == 1:
			marks = append(marks, mark{b.Mark(), len(rows)})
		case op == 2 && len(marks) > 0:
			i := rng.IntN(len(marks))
			b.Rollback(marks[i].m)
			rows, marks = rows[:marks[i].n], marks[:i+1]
		default:
			r := row{nums: make([]uint16, 2), n: rng.IntN(3)}
			if rng.IntN(10) == 0 {
				r.nums = r.nums[:1]
			}
			for i := range r.nums {
				r.nums[i] = uint16(rng.Uint32())
			}
			if err := AppendValues(b.Column(0), r.nums); err != nil {
				t.Fatal(err)
			}
			for range r.n {
				text := fmt.Appendf(nil, "%d", rng.IntN(1000))
				if e := b.Column(1).AppendBytes(text); e != nil {
					t.Fatal(e)
				}
				r.text, _ = AppendElement(r.text, text)
			}
			if err := b.EndRow(); err == nil {
				if len(r.nums) != 2 || len(rows) > 0 && rows[0].n != r.n {
					t.Fatalf("step %d: a row of %d numbers and %d texts was taken", step, len(r.nums), r.n)
				}
				rows = append(rows, r)
			} else if ragged := errors.Is(err, ErrRagged); ragged != (len(r.nums) == 2) {
				t.Fatalf("step %d: a row of %d numbers and %d texts: %v", step, len(r.nums), r.n, err)
			}
		}
		var nums, text []byte
		for _, r := range rows {
			for _, v := range r.nums {
				nums = binary.LittleEndian.AppendUint16(nums, v)
			}
			text = append(text, r.text...)
		}
		if b.Rows() != len(rows) || !bytes.Equal(b.Column(0).Raw(), nums) || !bytes.Equal(b.Column(1).Raw(), text) || b.Bytes() != len(nums)+len(text) {
			t.Fatalf("step %d: %d rows, want %d:\n% x\n% x\n% x\n% x", step, b.Rows(), len(rows), b.Column(0).Raw(), nums, b.Column(1).Raw(), text)
		}
		if len(rows) > 0 && b.Column(1).RowShape()[0] != int64(rows[0].n) {
			t.Fatalf("step %d: row shape %v", step, b.Column(1).RowShape())
		}
	}
}

// The error for a row that is too short names the model's fixed batch.
func TestFixedBatchInErrors(t *testing.T) {
	sig := Signature{Inputs: []Spec{{Name: "x", DType: FP32, Row: Shape{1, 4}}}, Outputs: []Spec{{Name: "y", DType: FP32, Row: Shape{1}}}}
	b := NewBatch(&sig)
	if err := AppendValues(b.Column(0), []float32{1, 2}); err != nil {
		t.Fatal(err)
	}
	if err := b.EndRow(); err == nil || !strings.Contains(err.Error(), "a row of 2 elements; FP32[1,4] has 4; the model has a fixed batch of 1") {
		t.Error(err)
	}
}
