package tensor

import (
	"encoding/binary"
	"fmt"
	"math"
)

// AppendValues appends vs to the open row of c. T must be the Go type of the input's datatype. For
// FP16 and BF16 that is float32, whose values are rounded to nearest, ties to even.
func AppendValues[T Numeric](c *Column, vs []T) error {
	if !holds[T](c.spec.DType) {
		var zero T
		return c.refuse(fmt.Sprintf("values of Go type %T; its Go type is %s", zero, c.spec.DType.GoType()))
	}
	c.raw = appendRaw(c.raw, c.spec.DType, vs)
	c.open.elements += int64(len(vs))
	return nil
}

// AppendBool appends elements to an input of datatype BOOL.
func (c *Column) AppendBool(vs ...bool) error {
	if c.spec.DType != Bool {
		return c.refuse("a boolean")
	}
	for _, v := range vs {
		var b byte
		if v {
			b = 1
		}
		c.raw = append(c.raw, b)
	}
	c.open.elements += int64(len(vs))
	return nil
}

// AppendBytes appends one element to an input of datatype BYTES.
func (c *Column) AppendBytes(v []byte) error { return appendElement(c, v) }

// AppendString appends one element to an input of datatype BYTES.
func (c *Column) AppendString(v string) error { return appendElement(c, v) }

func appendElement[B []byte | string](c *Column, v B) error {
	if c.spec.DType != Bytes {
		return c.refuse("a byte string")
	}
	raw, err := AppendElement(c.raw, v)
	if err != nil {
		return c.fail(fmt.Errorf("input %q: %w", c.spec.Name, err))
	}
	c.raw = raw
	c.open.elements++
	return nil
}

// AppendRaw appends elements that already have the wire's raw layout: row-major, little-endian,
// each BYTES element behind its length as a uint32.
func (c *Column) AppendRaw(raw []byte) error {
	var n int
	if c.spec.DType == Bytes {
		var err error
		if n, err = CountElements(raw); err != nil {
			return c.fail(fmt.Errorf("input %q: %w", c.spec.Name, err))
		}
	} else {
		size := c.spec.DType.Size()
		if size == 0 || len(raw)%size != 0 {
			return c.refuse(fmt.Sprintf("%d raw bytes, which are not a whole number of elements", len(raw)))
		}
		n = len(raw) / size
	}
	c.raw = append(c.raw, raw...)
	c.open.elements += int64(n)
	return nil
}

// AppendNumber appends one element to a numeric input. An integer datatype takes only numbers that
// it holds exactly. A floating-point datatype rounds to nearest, and refuses a finite number beyond
// its range.
func (c *Column) AppendNumber(v float64) error {
	if f, ok := c.spec.DType.round(v); ok {
		if math.IsInf(f, 0) && !math.IsInf(v, 0) {
			return c.refuse(fmt.Sprintf("%v: it is out of range", v))
		}
		c.put(math.Float64bits(v))
		return nil
	}
	lo, hi, ok := c.spec.DType.limits()
	switch {
	case !ok:
		return c.refuse("a number")
	case v != math.Trunc(v) || math.IsInf(v, 0): // NaN too
		return c.refuse(fmt.Sprintf("%v: it is not an integer", v))
	// 2^63 and 2^64 are exact as float64. They are the least numbers beyond int64 and uint64.
	case v < float64(lo) || v >= 1<<63 && (c.spec.DType != Uint64 || v >= 1<<64) || v < 1<<63 && v >= 0 && uint64(v) > hi:
		return c.refuse(fmt.Sprintf("%v: it is out of range", v))
	case v < 0:
		c.put(uint64(int64(v)))
	default:
		c.put(uint64(v))
	}
	return nil
}

// AppendInt appends one element to a numeric input, as [Column.AppendNumber] does.
func (c *Column) AppendInt(v int64) error {
	if v >= 0 {
		return c.AppendUint(uint64(v))
	}
	if c.spec.DType.float() {
		return c.AppendNumber(-c.exact(-uint64(v)))
	}
	lo, _, ok := c.spec.DType.limits()
	if !ok {
		return c.refuse("a number")
	}
	if v < lo {
		return c.refuse(fmt.Sprintf("%d: it is out of range", v))
	}
	c.put(uint64(v))
	return nil
}

// AppendUint appends one element to a numeric input, as [Column.AppendNumber] does.
func (c *Column) AppendUint(v uint64) error {
	if c.spec.DType.float() {
		return c.AppendNumber(c.exact(v))
	}
	_, hi, ok := c.spec.DType.limits()
	if !ok {
		return c.refuse("a number")
	}
	if v > hi {
		return c.refuse(fmt.Sprintf("%d: it is out of range", v))
	}
	c.put(v)
	return nil
}

// exact returns v as a float64. For a datatype with fewer digits, it cuts off the bits that a
// float64 cannot hold, and marks that in the last bit, so that v is rounded only once.
func (c *Column) exact(v uint64) float64 {
	if c.spec.DType != FP64 && v>>53 != 0 {
		cut := v & (1<<11 - 1)
		v -= cut
		if cut != 0 {
			v |= 1 << 11
		}
	}
	return float64(v)
}

// put appends one element: the bits of an integer, or the bits of a float64, which it rounds to the
// datatype.
func (c *Column) put(bits uint64) {
	switch c.spec.DType {
	case FP16:
		bits = uint64(Float32ToFP16(odd(math.Float64frombits(bits))))
	case BF16:
		bits = uint64(Float32ToBF16(odd(math.Float64frombits(bits))))
	case FP32:
		bits = uint64(math.Float32bits(float32(math.Float64frombits(bits))))
	}
	switch c.spec.DType.Size() {
	case 1:
		c.raw = append(c.raw, byte(bits))
	case 2:
		c.raw = binary.LittleEndian.AppendUint16(c.raw, uint16(bits))
	case 4:
		c.raw = binary.LittleEndian.AppendUint32(c.raw, uint32(bits))
	case 8:
		c.raw = binary.LittleEndian.AppendUint64(c.raw, bits)
	}
	c.open.elements++
}

func (c *Column) refuse(what string) error {
	return c.fail(fmt.Errorf("input %q is %s%v; it cannot take %s", c.spec.Name, c.spec.DType, c.spec.Row, what))
}

func (d DType) float() bool { return d >= FP16 && d <= FP64 }

// round returns v rounded to a floating-point datatype, or false for other datatypes.
func (d DType) round(v float64) (float64, bool) {
	switch d {
	case FP16:
		return float64(FP16ToFloat32(Float32ToFP16(odd(v)))), true
	case BF16:
		return float64(BF16ToFloat32(Float32ToBF16(odd(v)))), true
	case FP32:
		return float64(float32(v)), true
	}
	return v, d == FP64
}

// limits returns the range of an integer datatype, or false for other datatypes.
func (d DType) limits() (lo int64, hi uint64, ok bool) {
	switch d {
	case Uint8, Uint16, Uint32, Uint64:
		return 0, math.MaxUint64 >> (64 - 8*d.Size()), true
	case Int8, Int16, Int32, Int64:
		return math.MinInt64 >> (64 - 8*d.Size()), math.MaxInt64 >> (64 - 8*d.Size()), true
	}
	return 0, 0, false
}
