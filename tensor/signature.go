package tensor

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Spec describes one input or output of a model.
type Spec struct {
	Name  string
	DType DType
	// Row is the shape of one row, without the batch dimension.
	Row Shape
}

// String returns the name, datatype and row shape, such as "pixels FP32[64]".
func (s Spec) String() string { return s.Name + " " + s.DType.String() + s.Row.String() }

// Shape returns the shape as a model's metadata have it: for a batched model the row's shape behind
// a dynamic batch dimension. It is a new slice.
func (s Spec) Shape(batched bool) Shape {
	if !batched {
		return append(Shape{}, s.Row...)
	}
	return append(Shape{Dynamic}, s.Row...)
}

// Signature describes the inputs and outputs of a model. It must not change once it is in use, and
// goroutines may share it.
type Signature struct {
	Model, Version  string
	Inputs, Outputs []Spec
	// Batched says that the first dimension of every tensor is the batch, so one request may hold
	// many rows. Other models take one row per request.
	Batched bool
	// MaxBatch is the largest number of rows that the model takes in a request. 0: no bound is
	// known.
	MaxBatch int
}

// NewSignature makes a signature of tensors whose shapes include the batch, as a server describes
// them. The model is batched if it has inputs and the first dimension of every input and output is
// dynamic. The shapes of rows are then without that dimension.
func NewSignature(model, version string, inputs, outputs []Spec) (Signature, error) {
	s := Signature{Model: model, Version: version, Inputs: slices.Clone(inputs), Outputs: slices.Clone(outputs), Batched: len(inputs) > 0}
	for _, list := range [][]Spec{inputs, outputs} {
		for _, t := range list {
			s.Batched = s.Batched && len(t.Row) > 0 && t.Row[0] == Dynamic
		}
	}
	for _, list := range [][]Spec{s.Inputs, s.Outputs} {
		for i := range list {
			if s.Batched {
				list[i].Row = list[i].Row[1:]
			}
			list[i].Row = append(Shape{}, list[i].Row...)
		}
	}
	if err := s.Validate(); err != nil {
		return Signature{}, err
	}
	return s, nil
}

// Input returns the position of the named input, from 0.
func (s *Signature) Input(name string) (int, bool) { return find(s.Inputs, name) }

// Output returns the position of the named output, from 0.
func (s *Signature) Output(name string) (int, bool) { return find(s.Outputs, name) }

func find(specs []Spec, name string) (int, bool) {
	for i := range specs {
		if specs[i].Name == name {
			return i, true
		}
	}
	return 0, false
}

// MaxRows returns the largest number of rows of one request: 1 for a model that is not batched, and
// 0 if no bound is known.
func (s *Signature) MaxRows() int {
	if !s.Batched {
		return 1
	}
	return s.MaxBatch
}

// FixedBatch returns the batch size that the model was made for, if its shapes show one: the model
// is not batched, and the first dimension of all its tensors has one size. 0: there is none. Such a
// model takes exactly that many rows. To the rest of this package its whole batch is one row, and
// the first dimension belongs to the row's shape.
func (s *Signature) FixedBatch() int64 {
	if s.Batched || len(s.Inputs) == 0 || len(s.Inputs[0].Row) == 0 {
		return 0
	}
	n, deep := s.Inputs[0].Row[0], false
	for _, specs := range [][]Spec{s.Inputs, s.Outputs} {
		for _, t := range specs {
			if len(t.Row) == 0 || t.Row[0] != n {
				return 0
			}
		}
	}
	for _, t := range s.Inputs {
		deep = deep || len(t.Row) > 1
	}
	if n < 1 || n > 1 && !deep { // vectors of one length are no batch
		return 0
	}
	return n
}

// FixedBatchNote returns text about FixedBatch to put behind a message about a shape. It is empty
// if there is no fixed batch.
func (s *Signature) FixedBatchNote() string {
	if n := s.FixedBatch(); n > 0 {
		return fmt.Sprintf("; the model has a fixed batch of %d, its first dimension", n)
	}
	return ""
}

// Validate checks that the model has outputs, that every input and output has a unique name, a
// datatype and a possible shape, and that MaxBatch is not negative. The error lists every fault.
func (s *Signature) Validate() error {
	var errs []error
	if len(s.Outputs) == 0 {
		errs = append(errs, errors.New("the model has no outputs"))
	}
	if s.MaxBatch < 0 {
		errs = append(errs, fmt.Errorf("the model's largest batch is %d; want 1 or more, or 0 for no bound", s.MaxBatch))
	}
	check := func(kind string, specs []Spec) {
		for i, t := range specs {
			if t.Name == "" {
				errs = append(errs, fmt.Errorf("%s %d has no name", kind, i))
			}
			if j, _ := find(specs, t.Name); j != i {
				errs = append(errs, fmt.Errorf("two %ss are named %q", kind, t.Name))
			}
			if !t.DType.Valid() {
				errs = append(errs, fmt.Errorf("%s %q has no datatype", kind, t.Name))
			}
			if err := t.Row.check(); err != nil {
				errs = append(errs, fmt.Errorf("%s %q: %w", kind, t.Name, err))
			}
		}
	}
	check("input", s.Inputs)
	check("output", s.Outputs)
	return errors.Join(errs...)
}

// String describes the model in one line, for messages that show both sides:
//
//	digits (batched): inputs pixels FP32[64]; outputs label INT64[], probs FP32[10]
func (s *Signature) String() string {
	var b strings.Builder
	b.WriteString(s.Model)
	if s.Version != "" {
		b.WriteString(" version " + s.Version)
	}
	switch {
	case s.FixedBatch() > 0:
		fmt.Fprintf(&b, " (a fixed batch of %d, as one row a request)", s.FixedBatch())
	case !s.Batched:
		b.WriteString(" (one row a request)")
	case s.MaxBatch > 0:
		fmt.Fprintf(&b, " (batched, at most %d rows a request)", s.MaxBatch)
	default:
		b.WriteString(" (batched)")
	}
	b.WriteString(": inputs " + List(s.Inputs) + "; outputs " + List(s.Outputs))
	return b.String()
}

// List returns the specs' own strings, separated by commas, or "none".
func List(specs []Spec) string {
	if len(specs) == 0 {
		return "none"
	}
	var b strings.Builder
	for i, t := range specs {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(t.String())
	}
	return b.String()
}
