package tensor

import (
	"fmt"
	"slices"
)

// Output is one output of the model within Rows. What its methods return lies in the answer's bytes
// and is valid until the rows are reset. Rows and elements are numbered from 0. Like an index into
// a slice, a number that is too large panics, and so do an output that is not set and a method for
// another datatype.
type Output struct {
	spec  Spec
	shape Shape
	raw   []byte
	at    []int // of each BYTES element, in raw
	used  usage // of at
	rows  int
	each  int // elements a row
	set   bool
}

func (o *Output) reset() {
	o.used.note(len(o.at))
	o.raw, o.shape, o.at, o.rows, o.each, o.set = nil, o.shape[:0], o.at[:0], 0, 0, false
}

// Spec returns the model's description of the output.
func (o *Output) Spec() Spec { return o.spec }

// RowShape returns the shape of a row. It has no dynamic dimensions.
func (o *Output) RowShape() Shape { return o.shape }

// RowElements returns the number of elements of a row.
func (o *Output) RowElements() int { return o.each }

// RowRaw returns the raw bytes of a row. BYTES elements keep their lengths.
func (o *Output) RowRaw(row int) []byte {
	o.check(row)
	if o.spec.DType == Bytes {
		from, to := o.offset(row*o.each), o.offset((row+1)*o.each)
		return o.raw[from:to:to]
	}
	size := o.each * o.spec.DType.Size()
	return o.raw[row*size : (row+1)*size : (row+1)*size]
}

// RowValues appends the elements of a row to dst, which may be nil, and returns it. T must be the
// Go type of the output's datatype (float32 for FP16 and BF16); other types are an error.
func RowValues[T Numeric](o *Output, row int, dst []T) ([]T, error) {
	if !holds[T](o.spec.DType) {
		var zero T
		return dst, fmt.Errorf("output %q is %s%v, whose Go type is %s; it was asked for as %T", o.spec.Name, o.spec.DType, o.spec.Row, o.spec.DType.GoType(), zero)
	}
	raw := o.RowRaw(row)
	at := len(dst)
	dst = slices.Grow(dst, o.each)[:at+o.each]
	readRaw(dst[at:], o.spec.DType, raw)
	return dst, nil
}

// BytesAt returns element j of a row of a BYTES output.
func (o *Output) BytesAt(row, j int) []byte {
	o.element(row, j)
	if o.spec.DType != Bytes {
		panic(o.wrong("byte strings"))
	}
	i := row*o.each + j
	from, to := o.offset(i)+4, o.offset(i+1)
	return o.raw[from:to:to]
}

// BoolAt returns element j of a row of a BOOL output. Every byte except 0 is true.
func (o *Output) BoolAt(row, j int) bool {
	o.element(row, j)
	if o.spec.DType != Bool {
		panic(o.wrong("booleans"))
	}
	return o.raw[row*o.each+j] != 0
}

// Number returns element j of a row of a numeric output. Integers above 2^53 are rounded.
func (o *Output) Number(row, j int) float64 {
	o.element(row, j)
	if o.spec.DType <= Bool || o.spec.DType == Bytes {
		panic(o.wrong("numbers"))
	}
	return number(o.spec.DType, o.raw, row*o.each+j)
}

// Int returns element j of a row of an output with an integer datatype. A UINT64 beyond the range
// of int64 wraps around; uint64(o.Int(row, j)) is then its value.
func (o *Output) Int(row, j int) int64 {
	o.element(row, j)
	if _, _, ok := o.spec.DType.limits(); !ok {
		panic(o.wrong("integers"))
	}
	return integer(o.spec.DType, o.raw, row*o.each+j)
}

// offset returns where BYTES element i begins. For the index after the last it is the data's end.
func (o *Output) offset(i int) int {
	if i == len(o.at) {
		return len(o.raw)
	}
	return o.at[i]
}

func (o *Output) check(row int) {
	if uint(row) >= uint(o.rows) {
		panic(fmt.Sprintf("tensor: row %d of output %q, which has %d", row, o.spec.Name, o.rows))
	}
}

func (o *Output) element(row, j int) {
	o.check(row)
	if uint(j) >= uint(o.each) {
		panic(fmt.Sprintf("tensor: element %d of a row of output %q, which has %d", j, o.spec.Name, o.each))
	}
}

func (o *Output) wrong(asked string) string {
	return fmt.Sprintf("tensor: output %q is %s%v; its elements are not %s", o.spec.Name, o.spec.DType, o.spec.Row, asked)
}
