package tensor

import "fmt"

// DType is the datatype of a tensor's elements, as the Open Inference Protocol names them.
type DType uint8

// The datatypes. The zero value is Invalid.
const (
	Invalid DType = iota
	Bool
	Uint8
	Uint16
	Uint32
	Uint64
	Int8
	Int16
	Int32
	Int64
	// FP16 is the IEEE 754 half: 1 sign, 5 exponent and 10 fraction bits.
	FP16
	// BF16 is the upper half of an FP32.
	BF16
	FP32
	FP64
	// Bytes are byte strings of any length; raw, each after its length as a uint32.
	Bytes

	numDTypes
)

var dtypes = [numDTypes]struct {
	name string
	size int
	goes string // the Go type of an element
}{
	Invalid: {"INVALID", 0, "none"},
	Bool:    {"BOOL", 1, "bool"},
	Uint8:   {"UINT8", 1, "uint8"},
	Uint16:  {"UINT16", 2, "uint16"},
	Uint32:  {"UINT32", 4, "uint32"},
	Uint64:  {"UINT64", 8, "uint64"},
	Int8:    {"INT8", 1, "int8"},
	Int16:   {"INT16", 2, "int16"},
	Int32:   {"INT32", 4, "int32"},
	Int64:   {"INT64", 8, "int64"},
	FP16:    {"FP16", 2, "float32"},
	BF16:    {"BF16", 2, "float32"},
	FP32:    {"FP32", 4, "float32"},
	FP64:    {"FP64", 8, "float64"},
	Bytes:   {"BYTES", 0, "[]byte"},
}

// ParseDType returns the datatype with the given name, such as "FP32". The error lists the names
// that exist.
func ParseDType(name string) (DType, error) {
	for d := Bool; d < numDTypes; d++ {
		if dtypes[d].name == name {
			return d, nil
		}
	}
	return Invalid, fmt.Errorf("unknown datatype %q; want BOOL, UINT8, UINT16, UINT32, UINT64, INT8, INT16, INT32, INT64, FP16, BF16, FP32, FP64 or BYTES", name)
}

// Valid reports whether d is one of the datatypes. Invalid is not.
func (d DType) Valid() bool { return d > Invalid && d < numDTypes }

// String returns the protocol's name, such as "FP32".
func (d DType) String() string {
	if d >= numDTypes {
		return fmt.Sprintf("DType(%d)", uint8(d))
	}
	return dtypes[d].name
}

// Size returns the number of bytes of one element: 1, 2, 4 or 8. It is 0 for Bytes, whose elements
// have their own length.
func (d DType) Size() int {
	if d >= numDTypes {
		return 0
	}
	return dtypes[d].size
}

// GoType returns the name of the Go type that Append and read methods use for elements of d:
// float32 for FP16 and BF16.
func (d DType) GoType() string {
	if d >= numDTypes {
		return "none"
	}
	return dtypes[d].goes
}

// Numeric lists the Go types of the numeric datatypes. FP16 and BF16 use float32.
type Numeric interface {
	uint8 | uint16 | uint32 | uint64 | int8 | int16 | int32 | int64 | float32 | float64
}

// holds reports whether T is the Go type of elements of d.
func holds[T Numeric](d DType) bool {
	var zero T
	switch any(zero).(type) {
	case uint8:
		return d == Uint8
	case uint16:
		return d == Uint16
	case uint32:
		return d == Uint32
	case uint64:
		return d == Uint64
	case int8:
		return d == Int8
	case int16:
		return d == Int16
	case int32:
		return d == Int32
	case int64:
		return d == Int64
	case float32:
		return d == FP32 || d == FP16 || d == BF16
	case float64:
		return d == FP64
	}
	return false
}
