package oip

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/tensorferry/tensorferry/tensor"
)

// RawInputs returns the elements of each of the request's inputs in the raw layout, in the order of
// the inputs. Raw contents are returned as they are; typed contents are converted. The error is
// about the form: typed and raw contents in one request, another number of raw contents than of
// inputs, contents of an unknown datatype or in a field that belongs to another datatype, elements
// out of range. [tensor.Tensor.Validate] checks whether the bytes fit the datatype and shape.
func RawInputs(req *ModelInferRequest) ([][]byte, error) {
	return rawTensors("input", req.GetInputs(), req.GetRawInputContents())
}

// Tensors returns the request's inputs in their order, with raw elements. It checks that each has a
// datatype, a definite shape, and exactly the bytes that these ask for. Shapes, and contents that
// came raw, are shared with the request.
func Tensors(req *ModelInferRequest) ([]tensor.Tensor, error) {
	raws, err := RawInputs(req)
	if err != nil {
		return nil, err
	}
	out := make([]tensor.Tensor, len(raws))
	for i, in := range req.Inputs {
		dt, err := tensor.ParseDType(in.GetDatatype())
		if err != nil {
			return nil, fmt.Errorf("input %q: %w", in.GetName(), err)
		}
		out[i] = tensor.Tensor{Name: in.GetName(), DType: dt, Shape: in.GetShape(), Raw: raws[i]}
		if err := out[i].Validate(); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// wireTensor is what a request's inputs and an answer's outputs have in common.
type wireTensor interface {
	GetName() string
	GetDatatype() string
	GetShape() []int64
	GetContents() *InferTensorContents
}

func rawTensors[T wireTensor](kind string, tensors []T, raw [][]byte) ([][]byte, error) {
	if err := checkForm(kind, tensors, raw); err != nil || len(raw) > 0 {
		return raw, err
	}
	out := make([][]byte, len(tensors))
	for i, t := range tensors {
		dt, err := tensor.ParseDType(t.GetDatatype())
		if err == nil {
			out[i], err = appendContents(nil, dt, t.GetContents())
		}
		if err != nil {
			return nil, fmt.Errorf("%s %q: %w", kind, t.GetName(), err)
		}
	}
	return out, nil
}

// checkForm checks that raw contents, if any, come without typed contents, and that there is one
// for each tensor.
func checkForm[T wireTensor](kind string, tensors []T, raw [][]byte) error {
	if len(raw) == 0 {
		return nil
	}
	for _, t := range tensors {
		if hasElements(t.GetContents()) {
			return fmt.Errorf("%s %q has typed contents in a message with raw contents; use one or the other", kind, t.GetName())
		}
	}
	if len(raw) != len(tensors) {
		return fmt.Errorf("%d raw contents for %d %ss; there must be one for each", len(raw), len(tensors), kind)
	}
	return nil
}

// field is one field of typed contents: its name and how many elements it holds.
type field struct {
	name string
	n    int
}

func fields(c *InferTensorContents) [8]field {
	return [...]field{
		{"bool_contents", len(c.GetBoolContents())},
		{"int_contents", len(c.GetIntContents())},
		{"int64_contents", len(c.GetInt64Contents())},
		{"uint_contents", len(c.GetUintContents())},
		{"uint64_contents", len(c.GetUint64Contents())},
		{"fp32_contents", len(c.GetFp32Contents())},
		{"fp64_contents", len(c.GetFp64Contents())},
		{"bytes_contents", len(c.GetBytesContents())},
	}
}

func hasElements(c *InferTensorContents) bool {
	for _, f := range fields(c) {
		if f.n > 0 {
			return true
		}
	}
	return false
}

// appendContents appends typed contents in the raw layout of dt. Without contents the tensor is
// empty.
func appendContents(dst []byte, dt tensor.DType, c *InferTensorContents) ([]byte, error) {
	own := contentsField(dt)
	for _, f := range fields(c) {
		switch {
		case f.n == 0 || f.name == own:
		case own == "":
			return nil, fmt.Errorf("%s has no typed contents, but %s holds %d elements; send it as raw contents", dt, f.name, f.n)
		default:
			return nil, fmt.Errorf("%s belongs in %s, but %s holds %d elements", dt, own, f.name, f.n)
		}
	}
	outOfRange := func(i int, v any) error {
		return fmt.Errorf("element %d is %v, which is out of the range of %s", i, v, dt)
	}
	switch dt {
	case tensor.Bool:
		for _, v := range c.GetBoolContents() {
			var b byte
			if v {
				b = 1
			}
			dst = append(dst, b)
		}
	case tensor.Int8:
		for i, v := range c.GetIntContents() {
			if v < math.MinInt8 || v > math.MaxInt8 {
				return nil, outOfRange(i, v)
			}
			dst = append(dst, byte(v))
		}
	case tensor.Int16:
		for i, v := range c.GetIntContents() {
			if v < math.MinInt16 || v > math.MaxInt16 {
				return nil, outOfRange(i, v)
			}
			dst = binary.LittleEndian.AppendUint16(dst, uint16(v))
		}
	case tensor.Int32:
		for _, v := range c.GetIntContents() {
			dst = binary.LittleEndian.AppendUint32(dst, uint32(v))
		}
	case tensor.Int64:
		for _, v := range c.GetInt64Contents() {
			dst = binary.LittleEndian.AppendUint64(dst, uint64(v))
		}
	case tensor.Uint8:
		for i, v := range c.GetUintContents() {
			if v > math.MaxUint8 {
				return nil, outOfRange(i, v)
			}
			dst = append(dst, byte(v))
		}
	case tensor.Uint16:
		for i, v := range c.GetUintContents() {
			if v > math.MaxUint16 {
				return nil, outOfRange(i, v)
			}
			dst = binary.LittleEndian.AppendUint16(dst, uint16(v))
		}
	case tensor.Uint32:
		for _, v := range c.GetUintContents() {
			dst = binary.LittleEndian.AppendUint32(dst, v)
		}
	case tensor.Uint64:
		for _, v := range c.GetUint64Contents() {
			dst = binary.LittleEndian.AppendUint64(dst, v)
		}
	case tensor.FP32:
		for _, v := range c.GetFp32Contents() {
			dst = binary.LittleEndian.AppendUint32(dst, math.Float32bits(v))
		}
	case tensor.FP64:
		for _, v := range c.GetFp64Contents() {
			dst = binary.LittleEndian.AppendUint64(dst, math.Float64bits(v))
		}
	case tensor.Bytes:
		for i, v := range c.GetBytesContents() {
			var err error
			if dst, err = tensor.AppendElement(dst, v); err != nil {
				return nil, fmt.Errorf("element %d: %w", i, err)
			}
		}
	}
	return dst, nil
}

// contentsField returns the field of typed contents that belongs to dt; FP16 and BF16 have none.
func contentsField(dt tensor.DType) string {
	switch dt {
	case tensor.Bool:
		return "bool_contents"
	case tensor.Int8, tensor.Int16, tensor.Int32:
		return "int_contents"
	case tensor.Int64:
		return "int64_contents"
	case tensor.Uint8, tensor.Uint16, tensor.Uint32:
		return "uint_contents"
	case tensor.Uint64:
		return "uint64_contents"
	case tensor.FP32:
		return "fp32_contents"
	case tensor.FP64:
		return "fp64_contents"
	case tensor.Bytes:
		return "bytes_contents"
	}
	return ""
}
