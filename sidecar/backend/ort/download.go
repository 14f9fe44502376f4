//go:build cgo && !windows

package ort

import (
	"encoding/binary"
	"fmt"
	"unsafe"

	rt "github.com/yalue/onnxruntime_go"

	"github.com/tensorferry/tensorferry/tensor"
)

// download fills out from a result that the library allocated. The Go bindings have copied numbers
// into Go's memory already; strings are copied here.
func download(out *tensor.Tensor, v rt.Value) error {
	out.Shape = tensor.Shape(v.GetShape().Clone())
	var dt tensor.DType
	switch t := v.(type) {
	case *rt.StringTensor:
		texts, err := t.GetContents()
		if err != nil {
			return err
		}
		dt = tensor.Bytes
		for _, s := range texts {
			out.Raw = binary.LittleEndian.AppendUint32(out.Raw, uint32(len(s)))
			out.Raw = append(out.Raw, s...)
		}
	case *rt.Tensor[bool]:
		dt, out.Raw = tensor.Bool, raw(t.GetData())
	case *rt.Tensor[uint8]:
		dt, out.Raw = tensor.Uint8, raw(t.GetData())
	case *rt.Tensor[uint16]:
		dt, out.Raw = tensor.Uint16, raw(t.GetData())
	case *rt.Tensor[uint32]:
		dt, out.Raw = tensor.Uint32, raw(t.GetData())
	case *rt.Tensor[uint64]:
		dt, out.Raw = tensor.Uint64, raw(t.GetData())
	case *rt.Tensor[int8]:
		dt, out.Raw = tensor.Int8, raw(t.GetData())
	case *rt.Tensor[int16]:
		dt, out.Raw = tensor.Int16, raw(t.GetData())
	case *rt.Tensor[int32]:
		dt, out.Raw = tensor.Int32, raw(t.GetData())
	case *rt.Tensor[int64]:
		dt, out.Raw = tensor.Int64, raw(t.GetData())
	case *rt.Tensor[float32]:
		dt, out.Raw = tensor.FP32, raw(t.GetData())
	case *rt.Tensor[float64]:
		dt, out.Raw = tensor.FP64, raw(t.GetData())
	}
	if dt != out.DType {
		return fmt.Errorf("the model answered with a %T", v)
	}
	return nil
}

// raw returns the memory of numbers as bytes. Every system that ONNX Runtime is built for is
// little-endian, as the tensors are.
func raw[T rt.TensorData](s []T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(s))), uintptr(len(s))*unsafe.Sizeof(*new(T)))
}

// cut drops the rows that padded the batch.
func cut(out *tensor.Tensor, rows, padded int64) error {
	if len(out.Shape) == 0 || out.Shape[0] != padded {
		return fmt.Errorf("the model answered shape %v for a batch of %d rows", out.Shape, padded)
	}
	if rows == padded {
		return nil
	}
	out.Shape[0] = rows
	n, err := out.Shape.Elements()
	if err != nil {
		return err
	}
	if out.DType != tensor.Bytes {
		out.Raw = out.Raw[:int(n)*out.DType.Size()]
		return nil
	}
	end := 0
	for range n {
		end += 4 + int(binary.LittleEndian.Uint32(out.Raw[end:]))
	}
	out.Raw = out.Raw[:end]
	return nil
}
