package tensor

import (
	"fmt"
	"math"
	"slices"
)

// Rows is the answer to a batch: the model's outputs, which are read row by row in place. It is
// reused from answer to answer. It is not safe for concurrent use.
type Rows struct {
	sig  *Signature
	outs []Output
	rows int
	set  int // outputs that are set
}

// NewRows returns an empty answer for the outputs of sig. It keeps sig, which must not change.
func NewRows(sig *Signature) *Rows {
	r := &Rows{sig: sig, outs: make([]Output, len(sig.Outputs))}
	for i := range r.outs {
		r.outs[i].spec = sig.Outputs[i]
	}
	return r
}

// Signature returns the model's signature.
func (r *Rows) Signature() *Signature { return r.sig }

// Reset drops the answer and the references to its bytes.
func (r *Rows) Reset() {
	r.rows, r.set = 0, 0
	for i := range r.outs {
		o := &r.outs[i]
		if o.reset(); o.used.tooLarge(cap(o.at)) {
			o.at = nil
		}
	}
}

// Len returns the number of rows; 0 before an output is set.
func (r *Rows) Len() int { return r.rows }

// Complete reports whether every output is set.
func (r *Rows) Complete() bool { return r.set == len(r.outs) }

// Output returns output i, which Signature.Output finds.
func (r *Rows) Output(i int) *Output { return &r.outs[i] }

// Set sets the data of output i of the model: its datatype, its shape, which for a batched model
// begins with the batch, and its bytes, for the given number of rows. raw is kept, not copied,
// until the next Reset. If anything differs from the signature, from rows or from the outputs that
// are already set, Set returns an error and the output stays unset.
func (r *Rows) Set(i int, dt DType, shape Shape, raw []byte, rows int) error {
	if i < 0 || i >= len(r.outs) {
		return fmt.Errorf("output %d; the model has %d", i, len(r.outs))
	}
	o := &r.outs[i]
	if err := r.fill(o, dt, shape, raw, rows); err != nil {
		o.reset()
		return fmt.Errorf("output %q: %w", o.spec.Name, err)
	}
	if !o.set {
		o.set = true
		r.set++
	}
	r.rows = rows
	return nil
}

func (r *Rows) fill(o *Output, dt DType, shape Shape, raw []byte, rows int) error {
	if o.set {
		return fmt.Errorf("set twice")
	}
	if dt != o.spec.DType {
		return fmt.Errorf("datatype %s; the model says %s", dt, o.spec.DType)
	}
	if rows < 0 || r.set > 0 && rows != r.rows {
		return fmt.Errorf("%d rows; the other outputs have %d", rows, r.rows)
	}
	row := shape
	if r.sig.Batched {
		if len(shape) == 0 || shape[0] != int64(rows) {
			return fmt.Errorf("shape %v; the first dimension should be the %d rows of the request", shape, rows)
		}
		row = shape[1:]
	} else if rows != 1 {
		return fmt.Errorf("%d rows; the model takes one a request", rows)
	}
	if !o.spec.Row.Accepts(row) {
		return fmt.Errorf("shape %v; the model says %v", shape, o.spec.Shape(r.sig.Batched))
	}
	each, err := row.Elements()
	if err != nil {
		return err
	}
	if each > math.MaxInt {
		return fmt.Errorf("shape %v: %w", shape, errTooLarge)
	}
	if dt == Bytes {
		if err := o.index(shape, raw); err != nil {
			return err
		}
	} else if err := checkRaw(dt, shape, raw); err != nil {
		return err
	}
	o.raw, o.rows, o.each = raw, rows, int(each)
	o.shape = append(o.shape[:0], row...)
	return nil
}

// index finds the elements of a BYTES output. Each takes at least 4 bytes, so the index is never
// larger than the data.
func (o *Output) index(shape Shape, raw []byte) error {
	n, err := shape.Elements()
	if err != nil {
		return err
	}
	if n > int64(len(raw)/4) {
		return fmt.Errorf("%d bytes; %d BYTES elements have at least %d each", len(raw), n, 4)
	}
	o.at = slices.Grow(o.at[:0], int(n))
	rest := raw
	for len(rest) > 0 {
		if int64(len(o.at)) == n {
			return fmt.Errorf("%d bytes follow the %d BYTES elements that shape %v has", len(rest), n, shape)
		}
		o.at = append(o.at, len(raw)-len(rest))
		if _, rest, err = NextElement(rest); err != nil {
			return fmt.Errorf("element %d: %w", len(o.at)-1, err)
		}
	}
	if int64(len(o.at)) != n {
		return fmt.Errorf("%d BYTES elements; shape %v has %d", len(o.at), shape, n)
	}
	return nil
}
