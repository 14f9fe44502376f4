package tensor

import (
	"errors"
	"fmt"
	"slices"
)

// ErrRagged says that a row cannot share a request with the rows before it: its shape is different,
// or the model takes one row per request. The row itself is valid; it begins the next batch.
var ErrRagged = errors.New("the row does not fit the rows before it; it begins a new batch")

// Batch gathers rows for one request, in one Column for each of the model's inputs. Reset keeps the
// buffers for the next request, as Batch.Reset says. A batch is not safe for concurrent use.
type Batch struct {
	sig  *Signature
	cols []Column
	rows int
}

// NewBatch returns an empty batch for the inputs of sig. It keeps sig, which must not change.
func NewBatch(sig *Signature) *Batch {
	b := &Batch{sig: sig, cols: make([]Column, len(sig.Inputs))}
	for i := range b.cols {
		b.cols[i].init(sig.Inputs[i])
	}
	return b
}

// Signature returns the model's signature.
func (b *Batch) Signature() *Signature { return b.sig }

// Rows returns the number of complete rows.
func (b *Batch) Rows() int { return b.rows }

// Bytes returns the size of the complete rows in bytes, over all columns.
func (b *Batch) Bytes() int {
	n := 0
	for i := range b.cols {
		n += b.cols[i].end()
	}
	return n
}

// Columns returns the number of columns, which is the number of the model's inputs.
func (b *Batch) Columns() int { return len(b.cols) }

// Column returns the column of input i, which Signature.Input finds.
func (b *Batch) Column(i int) *Column { return &b.cols[i] }

// Reset empties the batch. It keeps its buffers, except a buffer that has been far too large for a
// while, for example after one large record among small ones.
func (b *Batch) Reset() {
	b.truncate(0)
	for i := range b.cols {
		b.cols[i].shrink()
	}
}

// Use empties the batch and sets the memory that each of its columns appends to, in the order of
// the model's inputs. A nil slice makes a column use its own memory. Rows that do not fit move to
// the column's own memory, as with append; Column.Within tells which did.
func (b *Batch) Use(memory [][]byte) {
	b.truncate(0)
	for i := range b.cols {
		b.cols[i].raw, b.cols[i].lent = memory[i][:0:len(memory[i])], true
	}
}

// Mark is a position between two rows of a batch. It becomes invalid when the batch is reset, or
// rolled back beyond it.
type Mark struct{ rows int }

// Mark returns the position behind the last complete row.
func (b *Batch) Mark() Mark { return Mark{b.rows} }

// Rollback removes the open row and every complete row behind m.
func (b *Batch) Rollback(m Mark) { b.truncate(min(m.rows, b.rows)) }

func (b *Batch) truncate(rows int) {
	b.rows = rows
	for i := range b.cols {
		b.cols[i].truncate(rows)
	}
}

// EndRow completes the open row. Every column must have received exactly one row since the last
// call. After an error the row is gone, and the batch is as it was before the row. If the error is
// ErrRagged, as errors.Is tells, encode the row again into an empty batch. Every other error is the
// record's own fault. EndRow also returns the error of an Append method for this row that the
// encoder did not pass on.
func (b *Batch) EndRow() error {
	for i := range b.cols {
		if err := b.cols[i].close(); err != nil {
			b.truncate(b.rows)
			if note := b.sig.FixedBatchNote(); note != "" {
				err = fmt.Errorf("%w%s", err, note)
			}
			return err
		}
	}
	if b.rows > 0 {
		if err := b.ragged(); err != nil {
			b.truncate(b.rows)
			return err
		}
	}
	b.rows++
	for i := range b.cols {
		b.cols[i].commit()
	}
	return nil
}

func (b *Batch) ragged() error {
	if !b.sig.Batched {
		return fmt.Errorf("%w: the model takes one row a request", ErrRagged)
	}
	for i := range b.cols {
		if c := &b.cols[i]; !slices.Equal(c.open.shape, c.shape) {
			return fmt.Errorf("%w: input %q has shape %v after rows of shape %v", ErrRagged, c.spec.Name, c.open.shape, c.shape)
		}
	}
	return nil
}
