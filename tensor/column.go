package tensor

import (
	"fmt"
	"slices"
)

// Column is one input of a Batch. It holds the raw elements of the complete rows, and those of the
// open row. The Append methods add elements to the open row, row-major. If one of them returns an
// error, the row cannot be completed, and Batch.EndRow returns the error again.
type Column struct {
	spec    Spec
	dynamic int // dynamic dimensions of spec.Row
	raw     []byte
	ends    []int // of each complete row, in raw
	shape   Shape // of the complete rows
	lent    bool  // raw is or was memory of Batch.Use
	bytes   usage // of raw
	rows    usage // of ends
	open    struct {
		elements int64
		shape    Shape
		set      bool // shape was given by SetRowShape
		err      error
	}
}

func (c *Column) init(spec Spec) {
	c.spec = spec
	c.dynamic = spec.Row.dynamic()
	c.shape = make(Shape, 0, len(spec.Row))
	c.open.shape = make(Shape, 0, len(spec.Row))
}

// Spec returns the model's description of the input.
func (c *Column) Spec() Spec { return c.spec }

// Raw returns the bytes of the complete rows, which a request carries. They are valid until the
// batch changes.
func (c *Column) Raw() []byte { return c.raw[:c.end()] }

// Within reports whether the complete rows lie in memory, which was passed to Batch.Use, from its
// beginning.
func (c *Column) Within(memory []byte) bool {
	return c.end() > 0 && c.end() <= len(memory) && &c.raw[0] == &memory[0]
}

// RowShape returns the shape that the complete rows have in common, or nil if there are none. It is
// valid until the batch changes.
func (c *Column) RowShape() Shape {
	if len(c.ends) == 0 {
		return nil
	}
	return c.shape
}

// SetRowShape sets the shape of the open row, before or after its elements. It is needed if the
// model leaves more than one dimension open; a single open dimension follows from the number of
// elements.
func (c *Column) SetRowShape(dims ...int64) error {
	if len(dims) != len(c.spec.Row) || !c.spec.Row.Accepts(dims) {
		return c.fail(fmt.Errorf("input %q: a row of shape %v; the model wants %v", c.spec.Name, slices.Clone(dims), c.spec.Row))
	}
	c.open.shape = append(c.open.shape[:0], dims...)
	c.open.set = true
	return nil
}

func (c *Column) end() int {
	if len(c.ends) == 0 {
		return 0
	}
	return c.ends[len(c.ends)-1]
}

// truncate keeps the first rows and removes the open one.
func (c *Column) truncate(rows int) {
	c.bytes.note(len(c.raw))
	c.rows.note(len(c.ends))
	c.ends = c.ends[:rows]
	c.raw = c.raw[:c.end()]
	c.reopen()
}

// shrink drops buffers that are far too large. The column must be empty.
func (c *Column) shrink() {
	if c.bytes.tooLarge(cap(c.raw)) && !c.lent {
		c.raw = nil
	}
	if c.rows.tooLarge(cap(c.ends)) {
		c.ends = nil
	}
}

func (c *Column) reopen() {
	c.open.elements, c.open.shape, c.open.set, c.open.err = 0, c.open.shape[:0], false, nil
}

// close settles the open row's shape and checks its elements against it.
func (c *Column) close() error {
	o := &c.open
	if o.err != nil {
		return o.err
	}
	if !o.set {
		if err := c.infer(); err != nil {
			return err
		}
	}
	want, err := o.shape.Elements()
	if err != nil {
		return fmt.Errorf("input %q: %w", c.spec.Name, err)
	}
	if o.elements != want {
		return fmt.Errorf("input %q: a row of %d elements; %s%v has %d", c.spec.Name, o.elements, c.spec.DType, o.shape, want)
	}
	return nil
}

// infer derives the open row's shape from the number of its elements.
func (c *Column) infer() error {
	o := &c.open
	o.shape = append(o.shape[:0], c.spec.Row...)
	if c.dynamic == 0 {
		return nil
	}
	if c.dynamic > 1 {
		return fmt.Errorf("input %q: the row's shape was not set; the model leaves %d dimensions of %v open", c.spec.Name, c.dynamic, c.spec.Row)
	}
	at := slices.Index(o.shape, Dynamic)
	o.shape[at] = 1
	each, err := o.shape.Elements()
	if err != nil {
		return fmt.Errorf("input %q: %w", c.spec.Name, err)
	}
	if each == 0 || o.elements%each != 0 {
		o.shape[at] = 0
		if o.elements != 0 {
			return fmt.Errorf("input %q: a row of %d elements; the model wants %s%v, so a multiple of %d", c.spec.Name, o.elements, c.spec.DType, c.spec.Row, each)
		}
		return nil
	}
	o.shape[at] = o.elements / each
	return nil
}

// commit makes the open row, which close has accepted, a complete one.
func (c *Column) commit() {
	if len(c.ends) == 0 {
		c.shape = append(c.shape[:0], c.open.shape...)
	}
	c.ends = append(c.ends, len(c.raw))
	c.reopen()
}

// fail keeps the row's first error.
func (c *Column) fail(err error) error {
	if c.open.err == nil {
		c.open.err = err
	}
	return err
}
