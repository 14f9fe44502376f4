package tensor

import (
	"errors"
	"fmt"
	"slices"
)

// ErrRagged says that a row cannot stand in one request with the rows before it: its shape is
// another, or the model takes one row a request. The row is sound; it begins the next batch.
var ErrRagged = errors.New("the row does not fit the rows before it; it begins a new batch")

// Batch gathers rows for one request, one [Column] for each of the model's inputs. It keeps its
// buffers when it is reset, as [Batch.Reset] says. A batch belongs to one goroutine at a time.
type Batch struct {
	sig  *Signature
	cols []Column
	rows int
}

// NewBatch returns an empty batch for the inputs of sig, which it keeps.
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

// Bytes returns the number of bytes of the complete rows, over all columns.
func (b *Batch) Bytes() int {
	n := 0
	for i := range b.cols {
		n += b.cols[i].end()
	}
	return n
}

// Columns returns the number of columns: that of the model's inputs.
func (b *Batch) Columns() int { return len(b.cols) }

// Column returns the column of the model's input i, as [Signature.Input] finds it.
func (b *Batch) Column(i int) *Column { return &b.cols[i] }

// Reset empties the batch. It keeps its buffers, but for one that has been far too large for a
// while, as after a large record among small ones.
func (b *Batch) Reset() {
	b.truncate(0)
	for i := range b.cols {
		b.cols[i].shrink()
	}
}

// Use empties the batch and gives each of its columns memory to append to, in the order of the
// model's inputs; nil for memory of its own. What does not fit moves to memory of the batch's own,
// as with append; [Column.Within] tells.
func (b *Batch) Use(memory [][]byte) {
	b.truncate(0)
	for i := range b.cols {
		b.cols[i].raw, b.cols[i].lent = memory[i][:0:len(memory[i])], true
	}
}

// Mark is a place between two rows of a batch. It is void once the batch was reset or rolled back
// beyond it.
type Mark struct{ rows int }

// Mark returns the place after the last complete row.
func (b *Batch) Mark() Mark { return Mark{b.rows} }

// Rollback removes the open row and every complete row after m.
func (b *Batch) Rollback(m Mark) { b.truncate(min(m.rows, b.rows)) }

func (b *Batch) truncate(rows int) {
	b.rows = rows
	for i := range b.cols {
		b.cols[i].truncate(rows)
	}
}

// EndRow completes the open row: every column must have got exactly one row since the last call.
// After an error the row is gone and the batch is as before it was begun. If the error is
// [ErrRagged], as errors.Is tells, the row is to be encoded again into an empty batch. Every other
// error is the record's own, also one that an Append method returned for this row and that was not
// passed on.
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
