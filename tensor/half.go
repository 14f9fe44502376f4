package tensor

import "math"

// Float32ToFP16 rounds f to the nearest half, ties to even. Values that are too large become an
// infinity; a NaN stays a NaN.
func Float32ToFP16(f float32) uint16 {
	b := math.Float32bits(f)
	sign := uint16(b >> 16 & 0x8000)
	abs := b & 0x7fffffff
	switch {
	case abs > 0x7f800000: // NaN: keep the upper payload bits, and make it quiet
		return sign | 0x7e00 | uint16(abs>>13&0x3ff)
	case abs >= 0x47800000: // 65536 and more, infinity included
		return sign | 0x7c00
	case abs >= 0x38800000:
		// normal; a carry out of the fraction raises the exponent, up to infinity
		abs += 0xfff + abs>>13&1
		return sign | uint16((abs-0x38000000)>>13)
	case abs >= 0x33000000: // subnormal: 2^-25 and more may round to 2^-24, the smallest
		shift := 126 - abs>>23
		frac := abs&0x7fffff | 0x800000
		half := uint32(1)<<(shift-1) - 1
		return sign | uint16((frac+half+frac>>shift&1)>>shift)
	}
	return sign
}

// FP16ToFloat32 returns the exact value of a half.
func FP16ToFloat32(h uint16) float32 {
	sign := uint32(h&0x8000) << 16
	exp := uint32(h >> 10 & 0x1f)
	frac := uint32(h & 0x3ff)
	switch exp {
	case 0: // zero and subnormals: frac x 2^-24
		f := float32(frac) * (1.0 / (1 << 24))
		return math.Float32frombits(sign | math.Float32bits(f))
	case 31:
		return math.Float32frombits(sign | 0x7f800000 | frac<<13)
	}
	return math.Float32frombits(sign | (exp+112)<<23 | frac<<13)
}

// Float32ToBF16 rounds f to the nearest bfloat16, ties to even. Values that are too large become an
// infinity; a NaN stays a NaN.
func Float32ToBF16(f float32) uint16 {
	b := math.Float32bits(f)
	if f != f {
		return uint16(b>>16) | 0x40
	}
	return uint16((b + 0x7fff + b>>16&1) >> 16)
}

// BF16ToFloat32 returns the exact value of a bfloat16.
func BF16ToFloat32(h uint16) float32 { return math.Float32frombits(uint32(h) << 16) }

// odd converts v to a float32 such that rounding that to FP16 or BF16 gives the same as rounding v
// directly. It cuts off the bits that do not fit, and marks that in the last bit.
func odd(v float64) float32 {
	f := float32(v)
	if float64(f) == v || v != v {
		return f
	}
	b := math.Float32bits(f)
	if math.Abs(float64(f)) > math.Abs(v) {
		b--
	}
	return math.Float32frombits(b | 1)
}
