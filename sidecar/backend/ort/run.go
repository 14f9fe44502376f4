//go:build cgo && !windows

package ort

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"unsafe"

	rt "github.com/yalue/onnxruntime_go"

	"github.com/tensorferry/tensorferry/sidecar/backend"
	"github.com/tensorferry/tensorferry/tensor"
)

// model is a loaded model. Its one session is safe for concurrent use.
type model struct {
	sig     tensor.Signature
	opts    Options
	session *rt.DynamicAdvancedSession
}

// Signature implements backend.Model.
func (m *model) Signature() tensor.Signature { return m.sig }

// Instances implements backend.Model.
func (m *model) Instances() int { return m.opts.Instances }

// Close implements backend.Model.
func (m *model) Close() error {
	if m.session == nil {
		return nil
	}
	return m.session.Destroy()
}

// NoWarmUp implements backend.Unwarmed. A model with strings among its inputs is not warmed up: it
// may read numbers from them, and an empty string is not a number.
func (m *model) NoWarmUp() bool {
	return slices.ContainsFunc(m.sig.Inputs, func(in tensor.Spec) bool { return in.DType == tensor.Bytes })
}

// probe runs one row of zeros, if a row of zeros can be made.
func (m *model) probe(ctx context.Context) error {
	if m.NoWarmUp() {
		return nil
	}
	inputs := make([]tensor.Tensor, len(m.sig.Inputs))
	for i, spec := range m.sig.Inputs {
		n, err := spec.Row.Elements()
		if err != nil || n == 0 {
			return nil // the row has a dimension of any size
		}
		inputs[i] = tensor.Tensor{Name: spec.Name, DType: spec.DType, Shape: tensor.Shape{}, Raw: make([]byte, int(n)*spec.DType.Size())}
		if m.sig.Batched {
			inputs[i].Shape = tensor.Shape{1}
		}
		inputs[i].Shape = append(inputs[i].Shape, spec.Row...)
	}
	_, err := m.Run(ctx, inputs)
	return err
}

// batch is what one Run holds: the library's values and the memory that they point to.
type batch struct {
	pinner runtime.Pinner
	values []rt.Value
}

func (b *batch) release() {
	for _, v := range b.values {
		if v != nil {
			v.Destroy()
		}
	}
	b.pinner.Unpin()
}

// Run implements backend.Model. When ctx ends, the library is asked to stop. It stops after the
// operator that is running.
func (m *model) Run(ctx context.Context, inputs []tensor.Tensor) ([]tensor.Tensor, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if len(inputs) != len(m.sig.Inputs) {
		return nil, fmt.Errorf("ort: %d inputs; the model has %s", len(inputs), tensor.List(m.sig.Inputs))
	}
	rows, padded := int64(1), int64(1)
	if m.sig.Batched {
		rows = inputs[0].Shape[0]
		padded = max(rows, int64(m.opts.FixedBatch))
		if rows < 1 || m.opts.FixedBatch > 0 && rows > int64(m.opts.FixedBatch) {
			return nil, fmt.Errorf("ort: a batch of %d rows; fixed_batch is %d", rows, m.opts.FixedBatch)
		}
	}
	var b batch
	defer b.release()
	for i := range inputs {
		if err := m.upload(&b, &inputs[i], padded); err != nil {
			return nil, err
		}
	}
	args := b.values[:len(inputs):len(inputs)]
	outputs := make([]tensor.Tensor, len(m.sig.Outputs))
	results := make([]rt.Value, len(outputs))
	for i, spec := range m.sig.Outputs {
		out := &outputs[i]
		out.Name, out.DType = spec.Name, spec.DType
		n, err := spec.Row.Elements()
		if err != nil || n == 0 || spec.DType == tensor.Bytes {
			continue // the library allocates the output
		}
		if m.sig.Batched {
			out.Shape = tensor.Shape{padded}
		}
		out.Shape = append(out.Shape, spec.Row...)
		if n, err = out.Shape.Elements(); err != nil {
			return nil, fmt.Errorf("ort: output %q: %w", spec.Name, err)
		}
		out.Raw = make([]byte, int(n)*spec.DType.Size())
		b.pinner.Pin(&out.Raw[0])
		if results[i], err = rt.NewCustomDataTensor(rt.Shape(out.Shape), out.Raw, engineType[spec.DType]); err != nil {
			return nil, fmt.Errorf("ort: output %q: %w", spec.Name, err)
		}
		b.values = append(b.values, results[i])
	}
	made := make([]bool, len(results))
	for i := range results {
		made[i] = results[i] == nil
	}
	err := m.run(ctx, args, results)
	for i := range results {
		if made[i] && results[i] != nil {
			b.values = append(b.values, results[i])
		}
	}
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, fmt.Errorf("ort: %w", err)
	}
	for i := range results {
		out := &outputs[i]
		if made[i] {
			if err := download(out, results[i]); err != nil {
				return nil, fmt.Errorf("ort: output %q: %w", out.Name, err)
			}
		}
		if m.sig.Batched {
			if err := cut(out, rows, padded); err != nil {
				return nil, fmt.Errorf("ort: output %q: %w", out.Name, err)
			}
		}
	}
	return outputs, nil
}

// run calls the library, and stops it when ctx ends.
func (m *model) run(ctx context.Context, args, results []rt.Value) error {
	if ctx.Done() == nil {
		return m.session.Run(args, results)
	}
	o, err := rt.NewRunOptions()
	if err != nil {
		return err
	}
	defer o.Destroy()
	told := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(told)
		_ = o.Terminate()
	})
	defer func() {
		if !stop() {
			<-told // Terminate may still be using o
		}
	}()
	return m.session.RunWithOptions(args, results, o)
}

// upload makes the library's value of an input. It uses the caller's own memory if that has the
// right size and alignment.
func (m *model) upload(b *batch, in *tensor.Tensor, padded int64) error {
	shape := slices.Clone(in.Shape)
	n, err := shape.Elements()
	if err != nil || n == 0 || len(shape) == 0 {
		return &backend.TensorError{Input: in.Name, Err: fmt.Errorf("shape %v has no elements, which this backend does not take", shape)}
	}
	perRow := n / shape[0]
	if m.sig.Batched {
		shape[0] = padded
		n = perRow * padded
	}
	if in.DType == tensor.Bytes {
		return m.uploadStrings(b, in, rt.Shape(shape), int(n), int(perRow))
	}
	size := in.DType.Size()
	raw := in.Raw
	if want := int(n) * size; len(raw) > want || len(raw) < want && !m.sig.Batched {
		return fmt.Errorf("ort: input %q: %d bytes for shape %v", in.Name, len(raw), in.Shape)
	} else if len(raw) < want || uintptr(unsafe.Pointer(unsafe.SliceData(raw)))%uintptr(size) != 0 {
		raw = make([]byte, want) // a copy that is padded, or aligned for its elements
		copy(raw, in.Raw)
	}
	b.pinner.Pin(&raw[0])
	v, err := rt.NewCustomDataTensor(rt.Shape(shape), raw, engineType[in.DType])
	if err != nil {
		return fmt.Errorf("ort: input %q: %w", in.Name, err)
	}
	b.values = append(b.values, v)
	return nil
}

// uploadStrings makes the library's value of an input of strings. The library takes C strings, so
// it would cut a string at a zero byte. Rows with such strings are refused.
func (m *model) uploadStrings(b *batch, in *tensor.Tensor, shape rt.Shape, n, perRow int) error {
	texts := make([]string, 0, n)
	var bad []int
	for raw := in.Raw; len(raw) > 0; {
		if len(raw) < 4 || uint64(len(raw)-4) < uint64(binary.LittleEndian.Uint32(raw)) || len(texts) == n {
			return fmt.Errorf("ort: input %q: its bytes do not make up shape %v", in.Name, in.Shape)
		}
		end := 4 + int(binary.LittleEndian.Uint32(raw))
		text := raw[4:end]
		if row := len(texts) / perRow; bytes.IndexByte(text, 0) >= 0 && (len(bad) == 0 || bad[len(bad)-1] != row) {
			bad = append(bad, row)
		}
		texts = append(texts, string(text))
		raw = raw[end:]
	}
	if len(bad) > 0 {
		err := errors.New("a string with a zero byte, which ONNX Runtime does not take")
		if m.sig.Batched {
			return &backend.RowsError{Rows: bad, Input: in.Name, Err: err}
		}
		return &backend.TensorError{Input: in.Name, Err: err}
	}
	for len(texts) < n {
		texts = append(texts, "")
	}
	v, err := rt.NewStringTensor(shape)
	if err != nil {
		return fmt.Errorf("ort: input %q: %w", in.Name, err)
	}
	b.values = append(b.values, v)
	if err := v.SetContents(texts); err != nil {
		return fmt.Errorf("ort: input %q: %w", in.Name, err)
	}
	return nil
}
