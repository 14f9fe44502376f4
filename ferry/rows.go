package ferry

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"

	"github.com/tensorferry/tensorferry/tensor"
)

// payload is a record as it is on the wire: a row of tensors, or a JSON object.
type payload = json.RawMessage

// rowCodec puts rows as they come from the wire into requests, and rows of answers into the form of
// the wire.
type rowCodec struct {
	// signature is set by Bind.
	signature atomic.Pointer[tensor.Signature]
	memory    slab
}

// Bind implements tensor.Codec.
func (c *rowCodec) Bind(sig tensor.Signature) (tensor.RowCodec[payload, payload], error) {
	if len(sig.Inputs) > math.MaxUint16 || len(sig.Outputs) > math.MaxUint16 {
		return nil, fmt.Errorf("the model has %d inputs and %d outputs; a ferry takes at most %d of each", len(sig.Inputs), len(sig.Outputs), math.MaxUint16)
	}
	c.signature.Store(&sig)
	return &boundRows{codec: c, sig: &sig, sizes: fixedSizes(sig.Inputs)}, nil
}

type boundRows struct {
	codec *rowCodec
	sig   *tensor.Signature
	sizes []int // of the inputs' rows in bytes, or -1
	dims  []int64
}

// fixedSizes returns the number of bytes of a row of each tensor, or -1 if rows differ.
func fixedSizes(specs []tensor.Spec) []int {
	sizes := make([]int, len(specs))
	for i := range specs {
		sizes[i] = -1
		if n, err := specs[i].Row.Elements(); err == nil && specs[i].DType.Size() > 0 && n <= int64(math.MaxInt/8) {
			sizes[i] = int(n) * specs[i].DType.Size()
		}
	}
	return sizes
}

var errShort = errors.New("the row ends too early")

// Encode implements tensor.RowCodec. One goroutine at a time calls it.
func (b *boundRows) Encode(dst *tensor.Batch, in payload) error {
	rest := []byte(in)
	for i := range b.sig.Inputs {
		spec := &b.sig.Inputs[i]
		size := b.sizes[i]
		if size < 0 {
			var err error
			if size, rest, err = b.measure(dst.Column(i), spec, rest); err != nil {
				return fmt.Errorf("input %s: %w", spec.Name, err)
			}
		}
		if size > len(rest) {
			return fmt.Errorf("input %s: %w: %d bytes are left, and its elements have %d", spec.Name, errShort, len(rest), size)
		}
		if err := dst.Column(i).AppendRaw(rest[:size]); err != nil {
			return err
		}
		rest = rest[size:]
	}
	if len(rest) > 0 {
		return fmt.Errorf("the row has %d bytes behind its last input", len(rest))
	}
	return nil
}

// measure reads the sizes of open dimensions, and returns how many bytes the elements have and what
// is left of the row.
func (b *boundRows) measure(c *tensor.Column, spec *tensor.Spec, rest []byte) (int, []byte, error) {
	b.dims = append(b.dims[:0], spec.Row...)
	open := false
	for i, d := range spec.Row {
		if d >= 0 {
			continue
		}
		if len(rest) < 4 {
			return 0, nil, errShort
		}
		b.dims[i], rest, open = int64(binary.LittleEndian.Uint32(rest)), rest[4:], true
	}
	n, err := tensor.Shape(b.dims).Elements()
	if err != nil {
		return 0, nil, err
	}
	if open {
		if err := c.SetRowShape(b.dims...); err != nil {
			return 0, nil, err
		}
	}
	if size := spec.DType.Size(); size > 0 {
		if n > int64(len(rest)/size) {
			return 0, nil, fmt.Errorf("%w: %d bytes are left, and its %d elements have %d each", errShort, len(rest), n, size)
		}
		return int(n) * size, rest, nil
	}
	at := rest
	for ; n > 0; n-- {
		if _, at, err = tensor.NextElement(at); err != nil {
			return 0, nil, err
		}
	}
	return len(rest) - len(at), rest, nil
}

// Decode implements tensor.RowCodec. Any number of goroutines may call it at once.
func (b *boundRows) Decode(_ payload, src *tensor.Rows, row int) (payload, error) {
	size := 0
	for i := range b.sig.Outputs {
		for _, d := range b.sig.Outputs[i].Row {
			if d < 0 {
				size += 4
			}
		}
		size += len(src.Output(i).RowRaw(row))
	}
	out := b.codec.memory.take(size)[:0]
	for i := range b.sig.Outputs {
		o := src.Output(i)
		shape := o.RowShape()
		for k, d := range b.sig.Outputs[i].Row {
			if d < 0 {
				out = binary.LittleEndian.AppendUint32(out, uint32(shape[k]))
			}
		}
		out = append(out, o.RowRaw(row)...)
	}
	return out, nil
}

// slabSize is the size of the pieces of memory that rows are cut from.
const slabSize = 8 << 10

// slab cuts rows from larger pieces of memory, so that a row costs no allocation of its own. A
// piece is collected when none of its rows is in use. It is safe for concurrent use.
type slab struct {
	mu   sync.Mutex
	rest []byte
}

// take returns n bytes of any content.
func (s *slab) take(n int) []byte {
	if n > slabSize/8 {
		return make([]byte, n)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if n > len(s.rest) {
		s.rest = make([]byte, slabSize)
	}
	b := s.rest[:n:n]
	s.rest = s.rest[n:]
	return b
}
