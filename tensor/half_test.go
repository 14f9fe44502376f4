package tensor

import (
	"math"
	"testing"
)

// Every half of either kind is compared with its neighbour: itself, the exact middle, and the
// numbers next to the middle on both sides, as a float32 and as a float64.
func TestHalvesRoundToNearestEven(t *testing.T) {
	for _, k := range []struct {
		dt   DType
		to   func(float32) uint16
		from func(uint16) float32
		inf  uint16
		next float64 // the number after the largest, were there one
	}{
		{FP16, Float32ToFP16, FP16ToFloat32, 0x7c00, 65536},
		{BF16, Float32ToBF16, BF16ToFloat32, 0x7f80, math.Ldexp(1, 128)},
	} {
		check := func(v float64, want uint16) {
			t.Helper()
			for _, sign := range []float64{1, -1} {
				w := want
				if sign < 0 {
					w |= 0x8000
				}
				if got := k.to(odd(sign * v)); got != w {
					t.Fatalf("%s of %v is %#04x, want %#04x", k.dt, sign*v, got, w)
				}
				if f := float32(sign * v); float64(f) == sign*v {
					if got := k.to(f); got != w {
						t.Fatalf("%s of float32 %v is %#04x, want %#04x", k.dt, f, got, w)
					}
				}
			}
		}
		for h := range k.inf {
			v := float64(k.from(h))
			above := float64(k.from(h + 1))
			if h+1 == k.inf {
				above = k.next
			}
			middle := v + (above-v)/2 // exact in a float64
			even := h + h&1
			check(v, h)
			check(middle, even)
			check(math.Nextafter(middle, 0), h)
			check(math.Nextafter(middle, math.Inf(1)), h+1)
			check(float64(math.Nextafter32(float32(middle), 0)), h)
			if f := math.Nextafter32(float32(middle), float32(math.Inf(1))); !math.IsInf(float64(f), 0) {
				check(float64(f), h+1)
			}
		}
		check(math.Inf(1), k.inf)
		check(math.MaxFloat64, k.inf)
		for h := k.inf + 1; h < 0x8000; h++ {
			if f := k.from(h); f == f {
				t.Fatalf("%s %#04x is %v, want NaN", k.dt, h, f)
			}
		}
		for _, bits := range []uint32{0x7f800001, 0x7fc00000, 0x7fffffff, 0xff800001, 0xffffffff} {
			if f := k.from(k.to(math.Float32frombits(bits))); f == f {
				t.Errorf("%s makes %v of NaN %#x", k.dt, f, bits)
			}
		}
	}
}
