package jsoncodec

import (
	"bytes"
	"cmp"
	"fmt"
	"math"
	"strconv"
	"unsafe"

	"github.com/tensorferry/tensorferry/tensor"
)

func (in *input) number(s *scanner, n *node, c *tensor.Column) error {
	lit, err := s.number()
	if err != nil {
		return err
	}
	switch v, scale, ok := short(lit); {
	case !ok:
		err = in.long(n, c, lit)
	case scale == 0:
		err = c.AppendInt(v)
	case in.spec.DType == tensor.FP32 && max(v, -v)>>24 == 0 && scale <= 10:
		// Both are exact as float32, so only the quotient is rounded.
		err = c.AppendNumber(float64(float32(v) / float32(tens[scale])))
	case in.spec.DType == tensor.FP64 && max(v, -v)>>53 == 0:
		err = c.AppendNumber(float64(v) / tens[scale])
	default:
		err = in.long(n, c, lit)
	}
	if err != nil {
		return fmt.Errorf("field %q: %w", n.path, err)
	}
	return nil
}

// tens are the powers of ten; those up to 10^10 are exact as float32, all of these as float64.
var tens = [...]float64{1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18}

// short reads an integer or a decimal fraction of at most 18 digits, as v / 10^scale. ok is false
// for other numbers, and for -0, which is not 0 in floating point.
func short(lit []byte) (v int64, scale int, ok bool) {
	digits := lit
	if lit[0] == '-' {
		digits = lit[1:]
	}
	if len(digits) > 18 {
		return 0, 0, false
	}
	for i, c := range digits {
		if c == '.' && scale == 0 {
			scale = len(digits) - i - 1
			continue
		}
		if c -= '0'; c > 9 {
			return 0, 0, false
		}
		v = v*10 + int64(c)
	}
	if len(digits) < len(lit) {
		return -v, scale, v != 0
	}
	return v, scale, true
}

// long reads every other number.
func (in *input) long(n *node, c *tensor.Column, lit []byte) error {
	bits := 64
	switch in.spec.DType {
	case tensor.FP32:
		bits = 32
	case tensor.FP16, tensor.BF16, tensor.FP64:
	default:
		v, negative, ok := integer(lit)
		switch {
		case !ok:
			return fmt.Errorf("%s is not an integer in the range of %s", clip(lit), in.spec.DType)
		case negative && v <= 1<<63:
			return c.AppendInt(-int64(v))
		case !negative:
			return c.AppendUint(v)
		}
		return fmt.Errorf("%s is out of the range of %s", clip(lit), in.spec.DType)
	}
	v, err := strconv.ParseFloat(unsafe.String(&lit[0], len(lit)), bits)
	if err != nil {
		return fmt.Errorf("%s is out of the range of %s", clip(lit), in.spec.DType)
	}
	if in.spec.DType == tensor.FP16 || in.spec.DType == tensor.BF16 {
		v = unrounded(lit, v)
	}
	return c.AppendNumber(v)
}

// unrounded corrects for rounding twice. v is the number lit, rounded to a float64. If v may lie in
// the middle between two numbers of FP16 or BF16, unrounded returns a float64 on the same side of v
// as lit, so that the next rounding goes the right way.
func unrounded(lit []byte, v float64) float64 {
	const short = 1<<40 - 1
	if v == 0 || math.Float64bits(v)&short != 0 || len(lit) <= 17 {
		return v // a lit of so few digits that rounds to a middle is that middle
	}
	// v has a finite number of decimal places, and this prints all of them.
	digits, point := decimal(lit)
	middle, at := decimal(strconv.AppendFloat(nil, v, 'e', 800, 64))
	switch cmp.Or(cmp.Compare(point, at), bytes.Compare(digits, middle)) {
	case -1:
		return math.Nextafter(v, 0)
	case 1:
		return math.Nextafter(v, math.Copysign(math.Inf(1), v))
	}
	return v
}

// decimal returns the digits of a number, without its sign and without leading and trailing zeros,
// and the number of digits before the point, which may be negative.
func decimal(lit []byte) (digits []byte, point int64) {
	var exp int64
	if i := bytes.IndexAny(lit, "eE"); i >= 0 {
		lit, exp = lit[:i], exponent(lit[i+1:])
	}
	whole, fraction, _ := bytes.Cut(bytes.TrimPrefix(lit, []byte("-")), []byte("."))
	digits = append(append(digits, whole...), fraction...)
	stripped := bytes.TrimLeft(digits, "0")
	return bytes.TrimRight(stripped, "0"), int64(len(whole)-(len(digits)-len(stripped))) + exp
}

// clip shortens a number for a message.
func clip(lit []byte) string {
	if len(lit) > 40 {
		return string(lit[:40]) + "..."
	}
	return string(lit)
}

// integer reads a number that may have a fraction and an exponent, such as 1.50e3. ok is false if
// it is not an integer, or if its magnitude does not fit 64 bits.
func integer(lit []byte) (magnitude uint64, negative, ok bool) {
	if lit[0] == '-' {
		negative, lit = true, lit[1:]
	}
	// The number is the digits before the exponent, without the dot, x 10^exp.
	var exp int64
	end := len(lit)
	for i, c := range lit {
		if c == 'e' || c == 'E' {
			end, exp = i, exponent(lit[i+1:])
			break
		}
	}
	digits := lit[:end]
	dot := len(digits)
	for i, c := range digits {
		if c == '.' {
			dot = i
			exp -= int64(len(digits) - i - 1)
		}
	}
	// Zeros at the end belong to the exponent.
	for len(digits) > 0 && (digits[len(digits)-1] == '0' || digits[len(digits)-1] == '.') {
		if len(digits)-1 != dot {
			exp++
		}
		digits = digits[:len(digits)-1]
	}
	for i, c := range digits {
		if i == dot {
			continue
		}
		if magnitude > (math.MaxUint64-uint64(c-'0'))/10 {
			return 0, negative, false
		}
		magnitude = magnitude*10 + uint64(c-'0')
	}
	if magnitude == 0 {
		return 0, negative, true
	}
	for ; exp > 0; exp-- {
		if magnitude > math.MaxUint64/10 {
			return 0, negative, false
		}
		magnitude *= 10
	}
	return magnitude, negative, exp == 0
}

// exponent reads an exponent. It stops at a value far beyond what a record's digits can balance.
func exponent(lit []byte) int64 {
	sign := int64(1)
	switch lit[0] {
	case '-':
		sign, lit = -1, lit[1:]
	case '+':
		lit = lit[1:]
	}
	var e int64
	for _, c := range lit {
		if e = e*10 + int64(c-'0'); e > 1<<40 {
			return sign * 1 << 40
		}
	}
	return sign * e
}
