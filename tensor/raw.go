package tensor

import (
	"encoding/binary"
	"fmt"
	"math"
	"unsafe"
)

// littleEndian says that the machine has the wire's byte order, so slices of numbers can be copied
// as they are.
var littleEndian = binary.NativeEndian.Uint16([]byte{1, 0}) == 1

// memory returns the bytes of vs, without a copy.
func memory[T Numeric](vs []T) []byte {
	var zero T
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(vs))), len(vs)*int(unsafe.Sizeof(zero)))
}

// swap reverses the bytes of each element of the given size.
func swap(raw []byte, size int) {
	for ; len(raw) >= size; raw = raw[size:] {
		for i, j := 0, size-1; i < j; i, j = i+1, j-1 {
			raw[i], raw[j] = raw[j], raw[i]
		}
	}
}

// appendRaw appends vs in the wire's layout for dt. T is the Go type of dt.
func appendRaw[T Numeric](dst []byte, dt DType, vs []T) []byte {
	if dt == FP16 || dt == BF16 {
		for _, v := range vs {
			h := Float32ToFP16
			if dt == BF16 {
				h = Float32ToBF16
			}
			dst = binary.LittleEndian.AppendUint16(dst, h(float32(v)))
		}
		return dst
	}
	at := len(dst)
	dst = append(dst, memory(vs)...)
	if !littleEndian {
		swap(dst[at:], dt.Size())
	}
	return dst
}

// readRaw fills vs from raw, which is in the wire's layout for dt and holds exactly as many
// elements.
func readRaw[T Numeric](vs []T, dt DType, raw []byte) {
	switch dt {
	case FP16:
		for i := range vs {
			vs[i] = T(FP16ToFloat32(binary.LittleEndian.Uint16(raw[2*i:])))
		}
	case BF16:
		for i := range vs {
			vs[i] = T(BF16ToFloat32(binary.LittleEndian.Uint16(raw[2*i:])))
		}
	default:
		copy(memory(vs), raw)
		if !littleEndian {
			swap(memory(vs), dt.Size())
		}
	}
}

// number returns element j of raw as a float64. Integers over 2^53 are rounded; a BOOL is 0 or 1.
func number(dt DType, raw []byte, j int) float64 {
	switch dt {
	case FP16:
		return float64(FP16ToFloat32(binary.LittleEndian.Uint16(raw[2*j:])))
	case BF16:
		return float64(BF16ToFloat32(binary.LittleEndian.Uint16(raw[2*j:])))
	case FP32:
		return float64(math.Float32frombits(binary.LittleEndian.Uint32(raw[4*j:])))
	case FP64:
		return math.Float64frombits(binary.LittleEndian.Uint64(raw[8*j:]))
	case Uint64:
		return float64(binary.LittleEndian.Uint64(raw[8*j:]))
	}
	return float64(integer(dt, raw, j))
}

// integer returns element j of raw, which has an integer datatype or BOOL. A UINT64 beyond the
// range of an int64 wraps around.
func integer(dt DType, raw []byte, j int) int64 {
	switch dt {
	case Bool:
		if raw[j] != 0 {
			return 1
		}
		return 0
	case Uint8:
		return int64(raw[j])
	case Int8:
		return int64(int8(raw[j]))
	case Uint16:
		return int64(binary.LittleEndian.Uint16(raw[2*j:]))
	case Int16:
		return int64(int16(binary.LittleEndian.Uint16(raw[2*j:])))
	case Uint32:
		return int64(binary.LittleEndian.Uint32(raw[4*j:]))
	case Int32:
		return int64(int32(binary.LittleEndian.Uint32(raw[4*j:])))
	case Uint64, Int64:
		return int64(binary.LittleEndian.Uint64(raw[8*j:]))
	}
	panic("tensor: " + dt.String() + " elements are not integers")
}

// AppendElement appends one BYTES element in the raw layout: its length as a little-endian uint32,
// followed by its bytes. An element over 4 GiB is an error.
func AppendElement[B []byte | string](raw []byte, element B) ([]byte, error) {
	if uint64(len(element)) > math.MaxUint32 {
		return raw, fmt.Errorf("a BYTES element of %d bytes; the raw layout holds at most %d", len(element), uint32(math.MaxUint32))
	}
	raw = binary.LittleEndian.AppendUint32(raw, uint32(len(element)))
	return append(raw, element...), nil
}

// NextElement returns the first BYTES element of raw and the bytes behind it. Both are parts of
// raw.
func NextElement(raw []byte) (element, rest []byte, err error) {
	if len(raw) < 4 {
		return nil, nil, fmt.Errorf("%d bytes where the length of a BYTES element (4 bytes) is expected", len(raw))
	}
	n := binary.LittleEndian.Uint32(raw)
	if uint64(n) > uint64(len(raw)-4) {
		return nil, nil, fmt.Errorf("a BYTES element of %d bytes where only %d are left", n, len(raw)-4)
	}
	end := 4 + int(n)
	return raw[4:end:end], raw[end:], nil
}

// CountElements returns the number of BYTES elements in raw.
func CountElements(raw []byte) (int, error) {
	n := 0
	for at := raw; len(at) > 0; n++ {
		var err error
		if _, at, err = NextElement(at); err != nil {
			return n, fmt.Errorf("element %d: %w", n, err)
		}
	}
	return n, nil
}
