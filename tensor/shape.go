package tensor

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
)

// Shape lists the sizes of a tensor's dimensions, outermost first. The empty shape is a scalar.
// Dynamic stands for a dimension of any size.
type Shape []int64

// Dynamic stands for a dimension whose size only the data show.
const Dynamic = -1

// String returns the shape as in "[-1,64]".
func (s Shape) String() string {
	var buf [64]byte
	b := append(buf[:0], '[')
	for i, d := range s {
		if i > 0 {
			b = append(b, ',')
		}
		if len(b) > 200 {
			b = fmt.Appendf(b, "... %d dimensions", len(s))
			break
		}
		b = strconv.AppendInt(b, d, 10)
	}
	return string(append(b, ']'))
}

// Elements returns the number of elements: 1 for a scalar, and 0 if a dimension is 0. It returns an
// error if a dimension is negative (Dynamic included), or if the number exceeds an int64.
func (s Shape) Elements() (int64, error) {
	for _, d := range s {
		if d < 0 {
			return 0, fmt.Errorf("shape %v has a dimension of no definite size", s)
		}
	}
	if slices.Contains(s, 0) {
		return 0, nil
	}
	n := int64(1)
	for _, d := range s {
		if n > math.MaxInt64/d {
			return 0, fmt.Errorf("shape %v has more elements than fit an int64", s)
		}
		n *= d
	}
	return n, nil
}

// Accepts reports whether a tensor of the given shape fits s: it has as many dimensions, and each
// has the size that s demands, if s demands one. A dimension of concrete is never negative.
func (s Shape) Accepts(concrete Shape) bool {
	if len(s) != len(concrete) {
		return false
	}
	for i, d := range concrete {
		if d < 0 || s[i] != Dynamic && s[i] != d {
			return false
		}
	}
	return true
}

// dynamic returns how many dimensions are Dynamic.
func (s Shape) dynamic() int {
	n := 0
	for _, d := range s {
		if d == Dynamic {
			n++
		}
	}
	return n
}

// MaxDims is the largest number of dimensions that a tensor may have.
const MaxDims = 64

// check reports whether s can describe a tensor: each dimension 0 or more, or Dynamic.
func (s Shape) check() error {
	if len(s) > MaxDims {
		return fmt.Errorf("shape %v: at most %d are possible", s, MaxDims)
	}
	for _, d := range s {
		if d < Dynamic {
			return fmt.Errorf("shape %v has a dimension of %d; want 0 or more, or %d for any size", s, d, Dynamic)
		}
	}
	return nil
}

var errTooLarge = errors.New("more bytes than an int can count")

// size returns the bytes of a tensor of fixed-size elements.
func (s Shape) size(dt DType) (int, error) {
	n, err := s.Elements()
	if err != nil {
		return 0, err
	}
	if each := int64(dt.Size()); each == 0 || n > math.MaxInt/each {
		return 0, fmt.Errorf("%s%v: %w", dt, s, errTooLarge)
	}
	return int(n) * dt.Size(), nil
}
