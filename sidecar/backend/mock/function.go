package mock

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"math"

	"github.com/tensorferry/tensorferry/tensor"
)

// outputsOf returns the outputs of cfg's function for its inputs.
func outputsOf(cfg Config) ([]tensor.Spec, error) {
	if len(cfg.Inputs) == 0 {
		return nil, fmt.Errorf("mock: no inputs")
	}
	switch cfg.Function {
	case "double", "echo":
		var outs []tensor.Spec
		for _, in := range cfg.Inputs {
			if cfg.Function == "double" && in.DType == tensor.Bool {
				return nil, fmt.Errorf("mock: function double has no meaning for the BOOL input %q; use echo", in.Name)
			}
			name := cfg.Output
			if len(cfg.Inputs) > 1 {
				name += "_" + in.Name
			}
			outs = append(outs, tensor.Spec{Name: name, DType: in.DType, Row: in.Row})
		}
		return outs, nil
	case "sum":
		dt := tensor.Int64
		for _, in := range cfg.Inputs {
			switch in.DType {
			case tensor.FP16, tensor.BF16, tensor.FP32, tensor.FP64:
				dt = tensor.FP64
			}
		}
		return []tensor.Spec{{Name: cfg.Output, DType: dt, Row: tensor.Shape{}}}, nil
	case "hash":
		return []tensor.Spec{{Name: cfg.Output, DType: tensor.Int64, Row: tensor.Shape{}}}, nil
	}
	return nil, fmt.Errorf("mock: unknown function %q; want double, echo, sum or hash", cfg.Function)
}

// answer computes the outputs. A short answer lacks the last row.
func (m *Model) answer(rows *tensor.Rows, n int, short bool) ([]tensor.Tensor, error) {
	if short {
		n--
	}
	outs := make([]tensor.Tensor, len(m.sig.Outputs))
	for i, spec := range m.sig.Outputs {
		outs[i] = tensor.Tensor{Name: spec.Name, DType: spec.DType}
		if m.sig.Batched {
			outs[i].Shape = append(outs[i].Shape, int64(n))
		}
	}
	switch m.cfg.Function {
	case "double", "echo":
		for i := range outs {
			o := rows.Output(i)
			outs[i].Shape = append(outs[i].Shape, o.RowShape()...)
			for row := range n {
				if m.cfg.Function == "echo" {
					outs[i].Raw = append(outs[i].Raw, o.RowRaw(row)...)
					continue
				}
				var err error
				if outs[i].Raw, err = appendDouble(outs[i].Raw, o, row); err != nil {
					return nil, err
				}
			}
		}
	case "sum":
		for row := range n {
			var whole int64
			var sum float64
			for i := range m.sig.Inputs {
				w, f := sumOf(rows.Output(i), row)
				whole += w
				sum += f
			}
			if outs[0].DType == tensor.Int64 {
				outs[0].Raw = binary.LittleEndian.AppendUint64(outs[0].Raw, uint64(whole))
			} else {
				outs[0].Raw = binary.LittleEndian.AppendUint64(outs[0].Raw, math.Float64bits(sum))
			}
		}
	case "hash":
		for row := range n {
			h := fnv.New64a()
			for i := range m.sig.Inputs {
				h.Write(rows.Output(i).RowRaw(row))
			}
			outs[0].Raw = binary.LittleEndian.AppendUint64(outs[0].Raw, h.Sum64())
		}
	}
	return outs, nil
}

// sumOf returns the sum of a row twice. whole is exact, but leaves out floating-point elements. sum
// has all elements, in float64.
func sumOf(o *tensor.Output, row int) (whole int64, sum float64) {
	for j := range o.RowElements() {
		switch o.Spec().DType {
		case tensor.Bytes:
			whole += int64(len(o.BytesAt(row, j)))
			sum += float64(len(o.BytesAt(row, j)))
		case tensor.FP16, tensor.BF16, tensor.FP32, tensor.FP64:
			sum += o.Number(row, j)
		case tensor.Bool:
			if o.BoolAt(row, j) {
				whole++
				sum++
			}
		default:
			whole += o.Int(row, j)
			sum += o.Number(row, j)
		}
	}
	return whole, sum
}

// appendDouble appends the row with every element doubled.
func appendDouble(dst []byte, o *tensor.Output, row int) ([]byte, error) {
	raw := o.RowRaw(row)
	le := binary.LittleEndian
	switch dt := o.Spec().DType; dt {
	case tensor.Bytes:
		for j := range o.RowElements() {
			b := o.BytesAt(row, j)
			var err error
			if dst, err = tensor.AppendElement(dst, append(append([]byte{}, b...), b...)); err != nil {
				return nil, err
			}
		}
	case tensor.FP64:
		for ; len(raw) > 0; raw = raw[8:] {
			dst = le.AppendUint64(dst, math.Float64bits(2*math.Float64frombits(le.Uint64(raw))))
		}
	case tensor.FP32:
		for ; len(raw) > 0; raw = raw[4:] {
			dst = le.AppendUint32(dst, math.Float32bits(2*math.Float32frombits(le.Uint32(raw))))
		}
	case tensor.FP16:
		for ; len(raw) > 0; raw = raw[2:] {
			dst = le.AppendUint16(dst, tensor.Float32ToFP16(2*tensor.FP16ToFloat32(le.Uint16(raw))))
		}
	case tensor.BF16:
		for ; len(raw) > 0; raw = raw[2:] {
			dst = le.AppendUint16(dst, tensor.Float32ToBF16(2*tensor.BF16ToFloat32(le.Uint16(raw))))
		}
	default: // integers: doubling shifts the bits, whatever the sign
		size := dt.Size()
		for ; len(raw) > 0; raw = raw[size:] {
			carry := byte(0)
			for _, b := range raw[:size] {
				dst = append(dst, b<<1|carry)
				carry = b >> 7
			}
		}
	}
	return dst, nil
}
