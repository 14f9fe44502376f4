package tensor

import "fmt"

// Tensor is a whole tensor with its name, for servers and backends.
type Tensor struct {
	Name  string
	DType DType
	Shape Shape
	// Raw are the elements, row-major and little-endian. Each BYTES element follows its length as a
	// uint32.
	Raw []byte
}

// Validate checks that Raw holds exactly the elements that DType and Shape ask for.
func (t *Tensor) Validate() error {
	if err := checkRaw(t.DType, t.Shape, t.Raw); err != nil {
		return fmt.Errorf("tensor %q: %w", t.Name, err)
	}
	return nil
}

// Slice returns the rows from (included) to (excluded) along the first dimension, which must exist.
// The bytes are shared; the shape is not. BYTES elements are counted from the start.
func (t *Tensor) Slice(from, to int64) (Tensor, error) {
	if err := t.Validate(); err != nil {
		return Tensor{}, err
	}
	if len(t.Shape) == 0 || from < 0 || to < from || to > t.Shape[0] {
		return Tensor{}, fmt.Errorf("tensor %q of shape %v has no rows %d to %d", t.Name, t.Shape, from, to)
	}
	out := Tensor{Name: t.Name, DType: t.DType, Shape: append(Shape{to - from}, t.Shape[1:]...)}
	each, err := t.Shape[1:].Elements()
	if err != nil {
		return Tensor{}, fmt.Errorf("tensor %q: %w", t.Name, err)
	}
	if t.DType == Bytes {
		rest := skip(t.Raw, from*each)
		end := len(rest) - len(skip(rest, (to-from)*each))
		out.Raw = rest[:end:end]
		return out, nil
	}
	// The whole tensor's size was checked, so these products are smaller.
	size := each * int64(t.DType.Size())
	out.Raw = t.Raw[from*size : to*size : to*size]
	return out, nil
}

// skip returns raw, which was validated, after its first n elements.
func skip(raw []byte, n int64) []byte {
	for ; n > 0; n-- {
		_, raw, _ = NextElement(raw)
	}
	return raw
}

func checkRaw(dt DType, shape Shape, raw []byte) error {
	if !dt.Valid() {
		return fmt.Errorf("%s is not a datatype", dt)
	}
	if err := shape.check(); err != nil {
		return err
	}
	if dt == Bytes {
		want, err := shape.Elements()
		if err != nil {
			return err
		}
		n, err := CountElements(raw)
		if err != nil {
			return err
		}
		if int64(n) != want {
			return fmt.Errorf("%d BYTES elements; shape %v has %d", n, shape, want)
		}
		return nil
	}
	want, err := shape.size(dt)
	if err != nil {
		return err
	}
	if len(raw) != want {
		return fmt.Errorf("%d bytes; %s%v has %d", len(raw), dt, shape, want)
	}
	return nil
}
