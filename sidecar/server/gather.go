package server

import (
	"fmt"
	"slices"

	"google.golang.org/grpc/codes"

	"github.com/tensorferry/tensorferry/sidecar/oip"
	"github.com/tensorferry/tensorferry/tensor"
)

// gather returns the inputs of a batch: the rows of its pieces, one after the other. If the batch
// is one whole request, they are the request's own memory.
func gather(pieces []piece, sig *tensor.Signature) []tensor.Tensor {
	if p := pieces[0]; len(pieces) == 1 && p.from == 0 && p.to == p.req.rows {
		return p.req.inputs
	}
	out := make([]tensor.Tensor, len(sig.Inputs))
	parts := make([]tensor.Tensor, len(pieces))
	for i := range out {
		for k, p := range pieces {
			parts[k] = p.input(i)
		}
		out[i] = join(parts)
	}
	return out
}

// input returns the piece's rows of the i-th input. parse has checked the input. Memory is shared.
func (p piece) input(i int) tensor.Tensor {
	t := p.req.inputs[i]
	if p.from == 0 && p.to == p.req.rows {
		return t
	}
	each := len(t.Raw) / p.req.rows
	from, to := p.from*each, p.to*each
	if t.DType == tensor.Bytes {
		starts := p.req.rowStarts()[i]
		from, to = starts[p.from], starts[p.to]
	}
	t.Raw = t.Raw[from:to:to]
	t.Shape = append(tensor.Shape{int64(p.to - p.from)}, t.Shape[1:]...)
	return t
}

// rowStarts returns, for each input of BYTES, where its rows start and the last one ends. They are
// found once, by the first piece that needs them. A request may be cut into as many pieces as it
// has rows, and walking all of it for each piece would take the square of its size.
func (r *request) rowStarts() [][]int {
	r.walk.Do(func() {
		r.starts = make([][]int, len(r.inputs))
		for i, t := range r.inputs {
			if t.DType != tensor.Bytes {
				continue
			}
			each, _ := t.Shape[1:].Elements() // parse has checked it
			starts := make([]int, r.rows+1)
			for row := range r.rows {
				starts[row+1] = starts[row] + elementsSize(t.Raw[starts[row]:], int(each))
			}
			r.starts[i] = starts
		}
	})
	return r.starts
}

// join concatenates tensors with the same row shape. A single tensor is returned as it is.
func join(parts []tensor.Tensor) tensor.Tensor {
	if len(parts) == 1 {
		return parts[0]
	}
	size, rows := 0, int64(0)
	for _, t := range parts {
		size += len(t.Raw)
		rows += t.Shape[0]
	}
	out := tensor.Tensor{Name: parts[0].Name, DType: parts[0].DType, Raw: make([]byte, 0, size)}
	out.Shape = append(tensor.Shape{rows}, parts[0].Shape[1:]...)
	for _, t := range parts {
		out.Raw = append(out.Raw, t.Raw...)
	}
	return out
}

// scatter checks a backend's answer to a batch and cuts it into the answers to the pieces. Memory
// is shared.
func scatter(pieces []piece, rows int, sig *tensor.Signature, outputs []tensor.Tensor) ([][]tensor.Tensor, error) {
	if err := checkOutputs(sig, outputs, rows); err != nil {
		return nil, &failure{code: codes.DataLoss, reason: oip.ReasonBadOutput, message: "the model's answer is wrong: " + err.Error()}
	}
	if len(pieces) == 1 {
		return [][]tensor.Tensor{outputs}, nil
	}
	out := make([][]tensor.Tensor, len(pieces))
	flat := make([]tensor.Tensor, len(pieces)*len(outputs))
	for k := range out {
		out[k], flat = flat[:len(outputs):len(outputs)], flat[len(outputs):]
	}
	for i, t := range outputs {
		each, err := t.Shape[1:].Elements()
		if err != nil {
			return nil, err
		}
		rest := t.Raw
		for k, p := range pieces {
			n := p.to - p.from
			size := n * int(each) * t.DType.Size()
			if t.DType == tensor.Bytes {
				size = elementsSize(rest, n*int(each))
			}
			out[k][i] = tensor.Tensor{Name: t.Name, DType: t.DType, Shape: append(tensor.Shape{int64(n)}, t.Shape[1:]...), Raw: rest[:size:size]}
			rest = rest[size:]
		}
	}
	return out, nil
}

// elementsSize returns how many bytes the first n BYTES elements of raw take. raw was checked.
func elementsSize(raw []byte, n int) int {
	rest := raw
	for range n {
		_, rest, _ = tensor.NextElement(rest)
	}
	return len(raw) - len(rest)
}

func checkOutputs(sig *tensor.Signature, outputs []tensor.Tensor, rows int) error {
	if len(outputs) != len(sig.Outputs) {
		return fmt.Errorf("%d outputs; its signature has %s", len(outputs), tensor.List(sig.Outputs))
	}
	for i := range outputs {
		t, want := &outputs[i], sig.Outputs[i]
		if t.Name != want.Name || t.DType != want.DType {
			return fmt.Errorf("output %d is %s %s; its signature says %s", i, t.Name, t.DType, want)
		}
		row := t.Shape
		if sig.Batched {
			if len(t.Shape) == 0 || t.Shape[0] != int64(rows) {
				return fmt.Errorf("output %q has shape %v for a batch of %d rows", t.Name, t.Shape, rows)
			}
			row = t.Shape[1:]
		}
		if !want.Row.Accepts(row) {
			return fmt.Errorf("output %q has shape %v; its signature says %v", t.Name, t.Shape, want.Shape(sig.Batched))
		}
		if err := t.Validate(); err != nil {
			return err
		}
	}
	return nil
}

// assemble joins the answers to the pieces of a request.
func assemble(r *request) ([]tensor.Tensor, error) {
	if len(r.answered) == 1 {
		return r.answered[0].outputs, nil
	}
	slices.SortFunc(r.answered, func(a, b answer) int { return a.from - b.from })
	first := r.answered[0].outputs
	out := make([]tensor.Tensor, len(first))
	parts := make([]tensor.Tensor, len(r.answered))
	for i := range out {
		for k, a := range r.answered {
			parts[k] = a.outputs[i]
			if !slices.Equal(parts[k].Shape[1:], first[i].Shape[1:]) {
				return nil, &failure{code: codes.DataLoss, reason: oip.ReasonBadOutput, message: fmt.Sprintf(
					"the request was run in pieces, and the model answered rows of shape %v and of shape %v for output %q; send fewer rows at once",
					first[i].Shape[1:], parts[k].Shape[1:], parts[k].Name)}
			}
		}
		out[i] = join(parts)
	}
	return out, nil
}
